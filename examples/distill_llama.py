"""Train a small LLaMA to rank movieworld as the embedded model does: a checkpoint for vLLM's tests.

    pip install 'rpp-env[agents,transformers]'
    python examples/distill_llama.py --out runs/distill --hours 1.5
    python examples/distill_llama.py --out runs/distill --evaluate 300    # the table of its card

A stand-in's pupil: it proves transport (a real LLaMA architecture in a real server), and nothing
about LLMs. It learns from prompts of train users in stages: what the films are (facts), how each of
the teacher's habits likes the candidates (read off inside the network, where it is needed), the one
letter that is asked for by `rank_by="logprobs"` (the teacher's soft scores), and whole lists, in
the five formats and in letters. No target is ever told: the film that came next is among the
candidates, as in tasks, and nothing says which one it is. Stopped at any moment, the same command
goes on.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

import rpp_env
from rpp_env.metrics import ndcg
from rpp_env.models import Request
from rpp_env.recommenders import LLMRecommender
from rpp_env.sentences import Choice, PatternBook
from rpp_env.sentences.parsing import write_ranking
from rpp_env.sentences.prompt import LETTERS, Prompt, as_messages
from rpp_env.sim.embedded import CERTAINTY, DISTRACTION, HABITS, MEMORY, EmbeddedModel
from rpp_env.task import RankingTask

BOS, EOS, PAD, USER, ASSISTANT = "<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>"
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['role'] == 'assistant' %}<|assistant|>{{ message['content'] }}</s>"
    "{% else %}<|user|>{{ message['content'] }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
STAGES = {"facts": 0.01, "habits": 0.37, "letters": 0.36, "lists": 0.13, "repeats": 0.13}
"""Shares of the time."""
_LISTS = ("list", "list", "letter", "list", "list", "letters")
KINDS = {"letters": ("letter",), "lists": _LISTS, "repeats": _LISTS}
"""Which questions are asked in turn; the first letter stays among them, not to be forgotten."""
SHARPER = 3.0
"""How much more certain lists are than a first letter: what copies a title must look at one."""
SUFFIXES = 3
"""Questions about the same two lists, packed into one sequence: each sees the lists and itself."""
RATE = 1.5e-3
RATES = {
    "facts": (RATE, 0.3 * RATE),
    "habits": (RATE, 0.3 * RATE),
    "letters": (0.7 * RATE, 0.2 * RATE),
    "lists": (0.7 * RATE, 0.14 * RATE),
    "repeats": (0.45 * RATE, 0.014 * RATE),
}
"""Learning rates at a stage's beginning and end."""
NAMES = {"scale": 32.0, "code": 3.5, "match": 1.6, "write": 20.0, "say": 0.6}
"""How large words, codes, and what the two heads are given become; see `prepare_lists`."""
GONE = {"look": 12.0, "write": 2.0}
"""How sharply a head looks at what was named, and how loudly it says so; see `prepare_repeats`."""
SLOW = 8
"""Pairs of a head's dimensions that turn by less than half a radian over a prompt."""
CONTEXT = 4096
PROFILE_WEIGHT, PLACE_WEIGHT = 0.3, 0.2
SHOWN = (1, 2, 3, 5, 8, 13, 20)


# The tokeniser: words and bytes, a title one token, and so is what stands before it in a list


def make_tokenizer(titles: Sequence[str], book: PatternBook) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE(unk_token=None))
    words = Regex(r"\n(?:\d{1,3}|[A-Za-z])\. |\n+| ?\p{L}+| ?\d{1,3}| ?[^\s\p{L}\d]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=4096,
        min_frequency=2,
        special_tokens=[PAD, BOS, EOS, USER, ASSISTANT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    sentences = [*book.role_playing, *book.reasoning_guidance, book.history_lead]
    sentences += [book.candidates_lead, *(f"{o.text}\n{o.contract}" for o in book.output_format)]
    # Lines that no rewrite changes are one token, too: shorter prompts train faster.
    fixed = [book.history_lead, *(o.contract for o in book.output_format)]
    lists = ["x" + "".join(f"\n{name}. " for name in [*map(str, range(1, 53)), *LETTERS])]
    task = RankingTask("u", ("a", "b"), ("c", "d"), "c")
    prompt = Prompt(task, book.choose([[0, 0, 0, 0]])[0], 1)
    letters = [prompt.lettered(), prompt.lettered(whole=True)]
    fixed += [text.rsplit("\n", 1)[1] for text in letters]
    numbers = [f' {i}\n{i}\n"{i}' for i in range(1, 101)]
    genres = sorted({f"genre: {g}" for g in rpp_env.sim.filmtitles.GENRES})
    corpus = [s.replace("{k}", "20") for s in sentences] + lists + letters + numbers + genres
    tokenizer.train_from_iterator(corpus * 2, trainer)
    # Longest match first, anywhere in the text; not special: they are text like any other.
    tokenizer.add_tokens([AddedToken(title, normalized=False) for title in [*titles, *fixed]])
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD,
        clean_up_tokenization_spaces=False, model_max_length=CONTEXT,
    )  # fmt: skip
    fast.chat_template = TEMPLATE
    return fast


# What is asked, and what the teacher answers


@dataclass(frozen=True)
class World:
    """Everything of movieworld that the pupil may learn from."""

    dataset: rpp_env.Dataset
    book: PatternBook
    teacher: EmbeddedModel
    knowledge: np.ndarray
    """(items, width): what is known of each film: genres, who watched it, popularity."""
    histories: list[np.ndarray]
    """Item rows of train users, without their targets."""

    @classmethod
    def load(cls) -> World:
        env = rpp_env.RPPEnv.make(dataset="movieworld", model="embedded", split="train")
        dataset = env.tasks.dataset
        starts = dataset.indptr
        rows = [env.tasks.users[i] for i in range(len(env.tasks))]
        histories = [dataset.items[starts[u] : starts[u + 1] - 1] for u in rows]
        known = env.embeddings
        knowledge = np.column_stack([known.items, known.content, known.popularity])
        knowledge = (knowledge - knowledge.mean(axis=0)) / (knowledge.std(axis=0) + 1e-9)
        return cls(dataset, env.book, env.recommender.model, knowledge, histories)

    def task(
        self, rng: np.random.Generator, most: int = 20
    ) -> tuple[RankingTask, np.ndarray, np.ndarray]:
        """Some user at some time, and `most` films at most; also the items' rows."""
        history = self.histories[rng.integers(len(self.histories))]
        shown = int(rng.choice(SHOWN))
        at = int(rng.integers(min(shown + 1, len(history) - 1), len(history)))
        count = most if rng.random() < 0.7 else int(rng.integers(4, most + 1))
        others = np.setdiff1d(np.arange(len(self.dataset.titles)), history)
        drawn = rng.choice(others, count - 1, replace=False)
        candidates = rng.permutation([history[at], *drawn])
        titles = self.dataset.titles
        history, target = history[max(0, at - shown) : at], titles[history[at]]
        shown_titles = tuple(titles[i] for i in history)
        task = RankingTask("u", shown_titles, tuple(titles[i] for i in candidates), target)
        return task, history, candidates

    def profile(self, history: np.ndarray) -> np.ndarray:
        """(3 * width,) what is known of a history: of all of it, its end, and the last film."""
        vectors = self.knowledge[history]
        recency = np.exp(-np.arange(len(history))[::-1] / MEMORY) + DISTRACTION
        parts = [vectors.mean(axis=0), recency @ vectors / recency.sum(), vectors[-1]]
        return np.concatenate(parts).astype(np.float32)

    def choice(self, rng: np.random.Generator, role: int | None = None) -> Choice:
        sizes = self.book.sizes
        actions = [int(rng.integers(size)) for size in sizes]
        if role is not None:
            actions[0] = role
        return self.book.choose([actions])[0]


@dataclass
class Packed:
    """A sequence: a beginning, and several continuations of it that do not see each other."""

    tokens: list[int]
    positions: list[int]
    segments: list[int]
    targets: list[tuple[int, list[int], list[float]]]
    """Where, which tokens may come next, and how probable each of them is."""
    hints: list[tuple[int, np.ndarray]]
    """At the candidates of the beginning: how much each of the teacher's habits likes them, and
    the profile of the history."""
    weights: list[tuple[int, np.ndarray]]
    """Where a question ends: how much it makes each habit count."""
    listed: list[tuple[int, int]]
    """Where an answer names a candidate, and which."""


class Packer:
    """Makes packed sequences of questions and the teacher's answers."""

    def __init__(self, world: World, tokenizer: PreTrainedTokenizerFast) -> None:
        self.world, self.tokenizer = world, tokenizer
        self.rng = np.random.default_rng(0)
        self.title_ids = dict(
            zip(world.dataset.titles, self.ids_of(world.dataset.titles), strict=True)
        )
        self.letter_ids = self.ids_of(LETTERS)
        self.number_ids = self.ids_of([str(i) for i in range(1, 53)])
        self.ends = {
            name: tokenizer.convert_tokens_to_ids(name) for name in (BOS, EOS, USER, ASSISTANT)
        }

    def encode(self, text: str) -> list[int]:
        return list(self.tokenizer.encode(text, add_special_tokens=False))

    def ids_of(self, texts: Sequence[str]) -> list[int]:
        ids = [self.encode(text) for text in texts]
        if any(len(i) != 1 for i in ids):
            wrong = next(t for t, i in zip(texts, ids, strict=True) if len(i) != 1)
            raise ValueError(f"{wrong!r} is not one token")
        return [i[0] for i in ids]

    def hints(self, history: np.ndarray, candidates: np.ndarray) -> np.ndarray:
        """(K, 6 + profile) what the places of the candidates shall know."""
        habits = self.world.teacher.habits([tuple(history.tolist())], candidates[None])[0]
        profile = np.tile(self.world.profile(history), (len(candidates), 1))
        return np.concatenate([habits, profile], axis=1)

    def weights(self, habits: np.ndarray, score: np.ndarray) -> np.ndarray:
        """(6,) the weights by which the habits make the score, up to a constant."""
        columns = np.column_stack([habits, np.ones(len(habits))])
        # A little towards zero: few candidates do not tell all weights.
        pull = 0.1 * np.eye(columns.shape[1])
        solved = np.linalg.solve(columns.T @ columns + pull, columns.T @ (score / CERTAINTY))
        return solved[: len(HABITS)].astype(np.float32)

    def beginnings(self, count: int) -> list[Packed]:
        """Lists alone, for the hints."""
        packed = []
        for _ in range(count):
            task, history, candidates = self.world.task(self.rng)
            hints = self.hints(history, candidates)
            kind = "list" if self.rng.random() < 0.5 else "letter"
            packed.append(
                self.pack(
                    [Prompt(task, self.world.choice(self.rng), len(history))], [], hints, kind
                )
            )
        return packed

    def questions(self, count: int, kind: str) -> list[Packed]:
        """`count` sequences of `SUFFIXES` questions each, with the answers; one of `KINDS`."""
        asked: list[tuple[list[Prompt], np.ndarray]] = []
        for _ in range(count):
            task, history, candidates = self.world.task(self.rng)
            role = int(self.rng.integers(self.world.book.sizes[0]))
            prompts = [
                Prompt(task, self.world.choice(self.rng, role), len(history))
                for _ in range(SUFFIXES)
            ]
            hints = self.hints(history, candidates)
            asked.append((prompts, hints))
        requests = [
            Request(as_messages(p.lettered()), choices=tuple(LETTERS[: len(p.task.candidates)]))
            for prompts, _ in asked
            for p in prompts
        ]
        replies = iter(self.world.teacher.complete(requests))
        packed = []
        for prompts, hints in asked:
            scores = [np.array(next(replies).choice_logprobs) for _ in prompts]
            packed.append(self.pack(prompts, scores, hints, kind))
        return packed

    def pack(
        self, prompts: list[Prompt], scores: list[np.ndarray], hints: np.ndarray, kind: str
    ) -> Packed:
        text = [p.text if kind == "list" else p.lettered(kind == "letters") for p in prompts]
        # Behind the lists stand two paragraphs.
        shared = text[0].rsplit("\n\n", 2)[0]
        start = [self.ends[BOS], self.ends[USER], *self.encode(shared)]
        # Titles and their markers alternate, and the beginning ends with the last candidate.
        places = range(len(start) - 2 * len(hints) + 1, len(start), 2)
        hinted = list(zip(places, hints, strict=True))
        packed = Packed(start[:], list(range(len(start))), [0] * len(start), [], hinted, [], [])
        for segment, (prompt, said, score) in enumerate(
            zip(prompts, text, scores, strict=False), 1
        ):
            asked = [*self.encode(said[len(shared) :]), self.ends[ASSISTANT]]
            if kind != "letter":
                answer, targets, listed = self.answer(prompt, SHARPER * score, kind)
            else:
                answer, listed = [], []
                targets = [(-1, self.letter_ids[: len(score)], np.exp(score).tolist())]
            first = len(packed.tokens) + len(asked)
            packed.weights.append((first - 1, self.weights(hints[:, : len(HABITS)], score)))
            packed.targets += [(first + at, ids, chances) for at, ids, chances in targets]
            packed.listed += [(first + at, place) for at, place in listed]
            packed.tokens += asked + answer
            length = len(asked) + len(answer)
            packed.positions += range(len(start), len(start) + length)
            packed.segments += [segment] * length
        return packed

    def answer(
        self, prompt: Prompt, score: np.ndarray, kind: str
    ) -> tuple[list[int], list[tuple[int, list[int], list[float]]], list[tuple[int, int]]]:
        """The tokens of the list; what comes next after each; where candidates are named."""
        form, titles = prompt.choice.format, prompt.task.candidates
        order = np.argsort(-score, kind="stable")
        if kind == "letters":
            said, names = "\n".join(LETTERS[i] for i in order), self.letter_ids
        else:
            said = write_ranking(order.tolist(), titles, form)
            names = self.number_ids if form == "numbers" else [self.title_ids[t] for t in titles]
        names = names[: len(titles)]
        tokens = [*self.encode(said), self.ends[EOS]]
        left = np.ones(len(titles), dtype=bool)
        places = {name: i for i, name in enumerate(names)}
        targets, listed = [], []
        for at, token in enumerate(tokens):
            place = places.get(token)
            if place is None:
                targets.append((at - 1, [token], [1.0]))
            else:
                chances = np.where(left, np.exp(score - score[left].max()), 0.0)
                targets.append((at - 1, names, (chances / chances.sum()).tolist()))
                left[place] = False
                listed.append((at, place))
        return tokens[:-1], targets, listed

    def facts(self, count: int) -> list[Packed]:
        """Genres, what is watched after what, and how popular films are."""
        rng, world = self.rng, self.world
        titles, genres = world.dataset.titles, world.dataset.genres
        packed = []
        for _ in range(count):
            history = world.histories[rng.integers(len(world.histories))]
            told = "\n".join(f"{i}. {titles[j]}" for i, j in enumerate(history[:20], 1))
            told += "".join(
                f"\n{titles[i]}, genre: {', genre: '.join(genres[i])}"
                for i in rng.choice(len(titles), 24)
            )
            tokens = [self.ends[BOS], *self.encode(told)]
            targets = [(i - 1, [tokens[i]], [1.0]) for i in range(1, len(tokens))]
            packed.append(
                Packed(tokens, list(range(len(tokens))), [0] * len(tokens), targets, [], [], [])
            )
        return packed


# Training


def make_model(
    tokenizer: PreTrainedTokenizerFast, world: World, packer: Packer
) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=8 * math.ceil(len(tokenizer) / 8),
        hidden_size=256,
        intermediate_size=432,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=CONTEXT,
        rope_theta=10_000.0,
        tie_word_embeddings=False,
        bos_token_id=packer.ends[BOS],
        eos_token_id=packer.ends[EOS],
        pad_token_id=tokenizer.pad_token_id,
    )
    model = LlamaForCausalLM(config)
    # A title's vector starts from what is known of the film, all of it alike, and turned at random:
    # with weaker or mixed-up beginnings the habits were not learned in the time.
    knowledge = world.knowledge
    turn = torch.linalg.qr(torch.randn(config.hidden_size, config.hidden_size))[0].numpy()
    vectors = knowledge @ turn[: knowledge.shape[1]]
    with torch.no_grad():
        model.model.embed_tokens.weight[[packer.title_ids[t] for t in world.dataset.titles]] = (
            torch.from_numpy(0.06 * vectors / vectors.std()).float()
        )
    return model


def prepare_lists(model: LlamaForCausalLM, packer: Packer) -> None:
    """Before lists: names that survive the layers, a head that finds them, one that copies them.

    The layers write vectors a hundred times as large as a word's own, so that at a candidate's
    place nothing tells what it is called, and no list was learned. So words become as large as what
    is written upon them, and each title gets a code besides what is known of the film. Then what
    the layers have made of the codes is read off (by regression) and put where `lookups` and
    `looks` want it: a head of the third layer matches names, and the last layer's first copies one.
    """
    head, heads = model.config.head_dim, model.config.num_attention_heads
    shared = heads // model.config.num_key_value_heads
    titles = torch.tensor(list(packer.title_ids.values()))
    words = model.model.embed_tokens.weight
    with torch.no_grad():
        words *= NAMES["scale"]
        words[titles] += NAMES["code"] * torch.randn(words[titles].shape)
        # Turned by the position, only a head's slow dimensions still match far away.
        slow = torch.arange(head // 2 - SLOW, head // 2)
        slow = torch.cat([slow, slow + head // 2])
        reading, _ = read_names(model, packer, 2, ("hinted", "listed"), len(slow))
        attention = model.model.layers[2].self_attn
        query = (heads - 1) * head
        key = (heads - 1) // shared * head
        attention.q_proj.weight[query : query + head] *= 0.2
        attention.q_proj.weight[query + slow] = NAMES["match"] * reading
        attention.k_proj.weight[key + slow] = NAMES["match"] * reading
        # What copies takes the dimensions of the first two heads that matter least.
        last = model.config.num_hidden_layers - 1
        reading, codes = read_names(model, packer, last, ("hinted",), head // 2)
        attention = model.model.layers[last].self_attn
        values, written = attention.v_proj.weight, attention.o_proj.weight
        both = torch.stack([written[:, i * head : (i + 1) * head] for i in range(shared)])
        matters = values[:head].norm(dim=1) * both.square().sum((0, 1)).sqrt()
        given = matters.argsort()[: head // 2]
        # And writes where the answers' vectors have nothing.
        said = last_vectors(model, packer) / model.model.norm.weight
        quiet = torch.linalg.eigh(said.T @ said)[1][:, : head // 2]
        values[given] = reading
        written[:, given] = NAMES["write"] * quiet
        for i in range(1, shared):
            written[:, i * head + given] = 0.0
        model.lm_head.weight[titles] += (
            NAMES["say"] * codes @ (quiet / model.model.norm.weight[:, None]).T
        )


def prepare_repeats(model: LlamaForCausalLM, packer: Packer) -> None:
    """When names are found: a head of the fourth layer that adds up what was named.

    That a title was named is known from the third layer on. One layer and the last one were too few
    to learn what is gone. So two heads of the fourth look at all that an answer has named, and
    write its places where lists of letters, which learn this sooner, have them already.
    """
    layer, last = model.model.layers[3], model.config.num_hidden_layers - 1
    head, places = model.config.head_dim, 20
    shared = model.config.num_attention_heads // model.config.num_key_value_heads
    found: dict[str, list[torch.Tensor]] = {
        name: [] for name in ("all", "is", "at", "place", "asks")
    }
    known: dict[str, list[torch.Tensor]] = {"gone": [], "vector": []}
    with torch.no_grad():
        for kind in ("letters", "list"):
            for batch, hidden in samples(model, packer, 0, kind):
                seen = layer.input_layernorm(hidden[3]).flatten(0, 1)
                named = torch.zeros(len(seen))
                named[batch["listed"]] = 1.0
                words = batch["tokens"].flatten() > 0
                rows = torch.arange(len(batch["tokens"]))[:, None] * batch["tokens"].shape[1]
                asked = batch["liked"].sum(-1) > 0
                asks = (rows + batch["from"])[asked]
                found["all"].append(seen[words])
                found["is"].append(named[words])
                found["at"].append(seen[batch["listed"]])
                found["place"].append(F.one_hot(batch["listed place"], places).float())
                found["asks"].append(seen[asks])
                if kind == "letters":
                    known["gone"].append((batch["liked"][asked] == 0).float())
                    known["vector"].append(hidden[last].flatten(0, 1)[asks])
        at = {name: torch.cat(parts) for name, parts in (found | known).items()}
        place = solve(at["at"], at["place"])
        is_named = solve(at["all"], at["is"][:, None])[:, 0]
        always = solve(at["asks"], torch.ones(len(at["asks"]), 1))[:, 0]
        constant = torch.ones(len(at["gone"]), 1)
        written = torch.linalg.lstsq(torch.cat([at["gone"], constant], 1), at["vector"]).solution
        attention, slow = layer.self_attn, [head // 2 - 2, head // 2 - 1]
        size = math.sqrt(GONE["look"] * math.sqrt(head) / len(slow))
        for i in range(shared):
            attention.q_proj.weight[i * head : (i + 1) * head] *= 0.3
            attention.q_proj.weight[[i * head + pair for pair in slow]] = size * always
            attention.o_proj.weight[:, i * head : i * head + places] = 0.0
        attention.k_proj.weight[slow] = size * is_named
        attention.v_proj.weight[:places] = place.T
        attention.o_proj.weight[:, :places] = GONE["write"] * written[:places].T


PREPARED = {"lists": prepare_lists, "repeats": prepare_repeats}
"""What is done to the weights before a stage."""


def solve(seen: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """(hidden, width) weights of a regression without an intercept."""
    ridge = 1e-3 * len(seen) * torch.eye(seen.shape[1])
    return torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)


def samples(model: LlamaForCausalLM, packer: Packer, seed: int, kind: str = "list") -> Any:
    """Batches of lists, and what the model makes of them."""
    for k in range(1 if "RPP_ENV_FAST" in os.environ else 6):
        packer.rng = np.random.default_rng([3, seed, k])
        batch = batch_of(packer.questions(24, kind), 0)
        yield batch, read_by(model, batch, torch.float32)[0].hidden_states


def read_names(
    model: LlamaForCausalLM, packer: Packer, index: int, places: Sequence[str], width: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """How to read, before a layer, what `places` are called; and what is read of each title.

    The `width` directions of the titles' vectors that are told best: (width, hidden) weights, and
    the titles' own coordinates, each with deviation 1.
    """
    titles = torch.tensor(list(packer.title_ids.values()))
    words = model.model.embed_tokens.weight
    middle = words[titles].mean(0)
    vectors = words[titles] - middle
    layer = model.model.layers[index]
    sets = []
    for seed in range(2):
        seen, names = [], []
        for batch, hidden in samples(model, packer, seed):
            at = torch.cat([batch[place] for place in places])
            token = batch["tokens"].flatten()[at]
            at, token = (x[torch.isin(token, titles)] for x in (at, token))
            seen.append(layer.input_layernorm(hidden[index]).flatten(0, 1)[at])
            names.append(words[token] - middle)
        sets.append((torch.cat(seen), torch.cat(names)))
    (seen, names), (others, theirs) = sets
    solved = solve(seen, names)
    # Where titles differ most, beside how much the regression misses.
    lower = torch.linalg.cholesky(
        torch.cov((theirs - others @ solved).T) + 0.01 * torch.eye(len(solved))
    )
    whiten = torch.linalg.inv(lower)
    best = torch.linalg.eigh(whiten @ torch.cov(vectors.T) @ whiten.T)[1][:, -width:]
    directions = whiten.T @ best
    directions /= (vectors @ directions).std(0)
    return (solved @ directions).T, vectors @ directions


def last_vectors(model: LlamaForCausalLM, packer: Packer) -> torch.Tensor:
    """(N, hidden) what the last layer makes of places where something comes next."""
    return torch.cat(
        [hidden[-1].flatten(0, 1)[batch["at"]] for batch, hidden in samples(model, packer, 0)]
    )


def batch_of(packed: list[Packed], pad: int) -> dict[str, torch.Tensor]:
    """Padded to a rectangle, with the mask that keeps continuations apart."""
    length = max(len(p.tokens) for p in packed)
    tokens, positions = np.full((2, len(packed), length), pad)
    segments = np.full((len(packed), length), -1)
    for row, p in enumerate(packed):
        tokens[row, : len(p.tokens)] = p.tokens
        positions[row, : len(p.tokens)] = p.positions
        segments[row, : len(p.tokens)] = p.segments
    own = segments[:, :, None] == segments[:, None, :]
    seen = (own | (segments[:, None, :] == 0)) & np.tri(length, dtype=bool)
    flat = [
        (row * length + at, ids, ps) for row, p in enumerate(packed) for at, ids, ps in p.targets
    ]
    widest = max((len(ids) for _, ids, _ in flat), default=1)
    ids, chances = (
        np.zeros((len(flat), widest), np.int64),
        np.zeros((len(flat), widest), np.float32),
    )
    for row, (_, names, ps) in enumerate(flat):
        ids[row, : len(names)], chances[row, : len(ps)] = names, ps
    # Where a candidate comes next: where the candidates are, and how the teacher likes them.
    looks = [[(at, ps) for at, ids, ps in p.targets if len(ids) > 1] for p in packed]
    most = max(map(len, looks), default=0)
    from_ = np.zeros((len(packed), most), np.int64)
    to = np.zeros((len(packed), most, 20), np.int64)
    liked = np.zeros((len(packed), most, 20), np.float32)
    for row, p in enumerate(packed):
        for i, (at, ps) in enumerate(looks[row] if p.hints else ()):
            from_[row, i] = at
            to[row, i, : len(ps)] = [place for place, _ in p.hints]
            liked[row, i, : len(ps)] = ps
    # Where a candidate is named: where it stands among the candidates.
    most = max((len(p.listed) for p in packed), default=0)
    lookups = np.full((2, len(packed), most), -1)
    for row, p in enumerate(packed):
        for i, (at, place) in enumerate(p.listed):
            lookups[:, row, i] = at, p.hints[place][0]
    return {
        "tokens": torch.from_numpy(tokens),
        "positions": torch.from_numpy(positions),
        "seen": torch.from_numpy(seen[:, None]),
        "at": torch.tensor([at for at, _, _ in flat], dtype=torch.long),
        "hinted": torch.tensor(
            [row * length + at for row, p in enumerate(packed) for at, _ in p.hints],
            dtype=torch.long,
        ),
        "hints": torch.from_numpy(np.array([h for p in packed for _, h in p.hints], np.float32)),
        "listed": torch.tensor(
            [row * length + at for row, p in enumerate(packed) for at, _ in p.listed],
            dtype=torch.long,
        ),
        "listed place": torch.tensor([i for p in packed for _, i in p.listed], dtype=torch.long),
        "title": torch.tensor([p.tokens[at] for p in packed for at, _ in p.hints]),
        "lookups": torch.from_numpy(lookups),
        "place": torch.tensor([i for p in packed for i in range(len(p.hints))], dtype=torch.long),
        "from": torch.from_numpy(from_),
        "to": torch.from_numpy(to),
        "liked": torch.from_numpy(liked),
        "ended": torch.tensor(
            [row * length + at for row, p in enumerate(packed) for at, _ in p.weights],
            dtype=torch.long,
        ),
        "weights": torch.from_numpy(
            np.array([w for p in packed for _, w in p.weights], np.float32).reshape(-1, len(HABITS))
        ),
        "ids": torch.from_numpy(ids),
        "chances": torch.from_numpy(chances),
    }


def read_by(
    model: LlamaForCausalLM, batch: dict[str, torch.Tensor], dtype: torch.dtype
) -> tuple[Any, torch.Tensor]:
    """The model's layers, and its logits where a next token is wanted."""
    # The mask is added to the attention's scores.
    mask = torch.zeros(batch["seen"].shape).masked_fill(~batch["seen"], -1e9)
    said = model.model(
        input_ids=batch["tokens"],
        position_ids=batch["positions"],
        attention_mask=mask.to(dtype),
        use_cache=False,
        output_hidden_states=True,
    )
    return said, model.lm_head(said.last_hidden_state.flatten(0, 1)[batch["at"]])


def loss_of(
    model: LlamaForCausalLM, hint: torch.nn.ModuleList, batch: dict[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Divergence from the teacher's next tokens; and what the heads of `hint` do not find.

    The heads read off the layers within what is needed on the way: the habits' opinions and the
    place of every candidate, a profile of the history, the weights that a question asks for, which
    candidate an answer has just named, which it has named so far, and what a candidate is called.
    They are thrown away in the end. And where a candidate comes next, one head of the last layer
    shall look at them as the teacher likes them; where one was named, a head of the third layer
    shall look at it above. Without all this nothing was learned for long.
    """
    with torch.autocast("cpu", torch.bfloat16):
        said, logits = read_by(model, batch, torch.bfloat16)

        def read(head: int, layer: int, at: torch.Tensor) -> torch.Tensor:
            hidden = said.hidden_states[layer].flatten(0, 1)[at]
            return hint[head](F.layer_norm(hidden, hidden.shape[-1:])).float()

        habits = read(0, 3, batch["hinted"])
        profile = read(1, 2, batch["hinted"])
        place = read(2, 3, batch["hinted"])
        weights = read(3, 5, batch["ended"])
        named = read(4, 3, batch["listed"])
        rows = torch.arange(len(batch["tokens"]))[:, None] * batch["tokens"].shape[1]
        gone = read(5, 4, rows + batch["from"])
        looked = looks(model, said.hidden_states[5], batch)
        title = read(6, 5, batch["hinted"])
        found = lookups(model, said.hidden_states[2], batch)
    logs = logits.float().log_softmax(-1).gather(1, batch["ids"])
    chances = batch["chances"]
    divergence = (chances * (torch.log(chances.clamp_min(1e-9)) - logs)).sum(1)
    if not len(batch["hinted"]):
        return divergence.mean(), torch.zeros(())
    wanted = batch["hints"].split([len(HABITS), batch["hints"].shape[1] - len(HABITS)], dim=1)
    # Each as a share of what there is to know.
    missed = share_missed(habits, wanted[0]) + PROFILE_WEIGHT * share_missed(profile, wanted[1])
    missed += PLACE_WEIGHT * F.cross_entropy(place, batch["place"])
    liked = batch["liked"]
    if liked.numel():
        apart = (liked * (torch.log(liked.clamp_min(1e-9)) - looked)).sum()
        asked = liked.sum(-1) > 0
        missed += apart / asked.sum().clamp_min(1)
        out = (liked[asked] == 0).float()
        missed += F.binary_cross_entropy_with_logits(gone[asked], out)
    missed += PLACE_WEIGHT * F.cross_entropy(title, batch["title"])
    if len(batch["listed"]):
        missed += F.cross_entropy(named, batch["listed place"]) - found
    if len(divergence):
        missed += share_missed(weights, batch["weights"])
    return divergence.mean() if len(divergence) else torch.zeros(()), missed


def looks(
    model: LlamaForCausalLM, hidden: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Log of how much the last layer's first head looks at each candidate where one comes next."""
    return attention(model, -1, 0, hidden, batch, batch["from"]).gather(2, batch["to"])


def lookups(
    model: LlamaForCausalLM, hidden: torch.Tensor, batch: dict[str, torch.Tensor]
) -> torch.Tensor:
    """Mean log of how much the third layer's last head looks from a name to its candidate."""
    at, to = batch["lookups"]
    there = at >= 0
    logs = attention(model, 2, 3, hidden, batch, at.clamp_min(0))
    return logs.gather(2, to.clamp_min(0)[..., None])[..., 0][there].mean()


def attention(
    model: LlamaForCausalLM,
    index: int,
    head: int,
    hidden: torch.Tensor,
    batch: dict[str, torch.Tensor],
    at: torch.Tensor,
) -> torch.Tensor:
    """(B, N, length) log of how much a head of a layer looks where, from positions `at`."""
    layer, size = model.model.layers[index], model.config.head_dim
    normed = layer.input_layernorm(hidden)
    cos, sin = model.model.rotary_emb(normed, batch["positions"])
    group = head * model.config.num_key_value_heads // model.config.num_attention_heads
    queries = layer.self_attn.q_proj(normed)[..., head * size : (head + 1) * size]
    keys = layer.self_attn.k_proj(normed)[..., group * size : (group + 1) * size]
    queries, keys = (
        x * cos + torch.cat((-x[..., size // 2 :], x[..., : size // 2]), dim=-1) * sin
        for x in (queries, keys)
    )
    at = at[:, :, None]
    asked = queries.float().gather(1, at.expand(-1, -1, size))
    scores = asked @ keys.float().transpose(1, 2) / math.sqrt(size)
    seen = batch["seen"][:, 0].gather(1, at.expand(-1, -1, hidden.shape[1]))
    return scores.masked_fill(~seen, -1e9).log_softmax(-1)


def share_missed(said: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    return (said - wanted).square().mean() / wanted.square().mean()


class Training:
    """Everything that a run goes on from."""

    def __init__(self, out: Path, hours: float, batch: int) -> None:
        self.out, self.seconds, self.batch = out, 3600 * hours, batch
        self.file = out / "state.pt"
        world = World.load()
        kept = out / "tokenizer"
        if kept.is_dir():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(kept)
        else:
            tokenizer = make_tokenizer(world.dataset.titles, world.book)
            tokenizer.save_pretrained(kept)
        self.tokenizer = tokenizer
        self.packer = Packer(world, tokenizer)
        self.model = make_model(tokenizer, world, self.packer)
        widths = (len(HABITS), 3 * world.knowledge.shape[1], 20, len(HABITS), 20, 20)
        widths = (*widths, self.model.config.vocab_size)
        self.hint = torch.nn.ModuleList(
            torch.nn.Linear(self.model.config.hidden_size, width) for width in widths
        )
        self.weights = [*self.model.parameters(), *self.hint.parameters()]
        self.optimizer = torch.optim.AdamW(
            self.weights, lr=RATE, betas=(0.9, 0.98), weight_decay=0.01
        )
        self.done = dict.fromkeys(STAGES, 0.0)
        """Seconds, by stage."""
        self.step = 0
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            for name in ("model", "hint", "optimizer"):
                getattr(self, name).load_state_dict(state[name])
            self.done, self.step = state["done"], state["step"]

    def save(self) -> None:
        state = {name: getattr(self, name).state_dict() for name in ("model", "hint", "optimizer")}
        torch.save({**state, "done": self.done, "step": self.step}, self.file.with_suffix(".new"))
        self.file.with_suffix(".new").replace(self.file)

    def run(self) -> None:
        """Stage after stage, each for its share of the time."""
        count = sum(p.numel() for p in self.model.parameters())
        print(f"{count:,} weights, {len(self.tokenizer)} tokens")
        for stage, share in STAGES.items():
            if stage in PREPARED and not self.done[stage]:
                PREPARED[stage](self.model, self.packer)
            began, losses = time.monotonic(), []
            before = self.done[stage]
            while self.done[stage] < share * self.seconds:
                losses.append(self.update(stage, self.done[stage] / (share * self.seconds)))
                self.step += 1
                self.done[stage] = before + time.monotonic() - began
                if self.step % 50 == 0:
                    self.tell(stage, np.mean(losses, axis=0).round(4).tolist())
                    losses.clear()
            self.save()
        export(self.model, self.tokenizer, self.out / "checkpoint")

    def update(self, stage: str, passed: float) -> list[float]:
        """One step of the optimiser; the two losses."""
        self.packer.rng = np.random.default_rng([1, self.step])
        if stage == "facts":
            packed = self.packer.facts(self.batch // 2)
        elif stage == "habits":
            packed = self.packer.beginnings(self.batch)
        else:
            packed = self.packer.questions(self.batch, KINDS[stage][self.step % len(KINDS[stage])])
        first, last = RATES[stage]
        rate = last + (first - last) * 0.5 * (1 + math.cos(math.pi * passed))
        for group in self.optimizer.param_groups:
            group["lr"] = rate * min(1.0, (self.step + 1) / 200)
        batch = batch_of(packed, self.tokenizer.pad_token_id)
        loss, missed = loss_of(self.model, self.hint, batch)
        self.optimizer.zero_grad(set_to_none=True)
        (loss + missed).backward()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        self.optimizer.step()
        return [loss.item(), missed.item()]

    def tell(self, stage: str, losses: list[float]) -> None:
        row: dict[str, Any] = {"step": self.step, "stage": stage, "loss": losses[0]}
        row |= {"hint": losses[1], "seconds": round(sum(self.done.values()))}
        if self.step % 400 == 0:
            self.save()
            row |= {} if stage in ("facts", "habits") else evaluate(self.model, self.packer, 64)
        print(json.dumps(row), flush=True)
        with (self.out / "log.jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")


def export(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write what servers read, in half precision."""
    half = LlamaForCausalLM(model.config).half()
    half.load_state_dict(model.state_dict())
    half.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = folder / "tokenizer.json"
    short = json.dumps(json.loads(words.read_text()), ensure_ascii=False, separators=(",", ":"))
    words.write_text(short)  # half as large without its blanks


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, packer: Packer, count: int) -> dict[str, float]:
    """Rank correlation of the letters with the teacher's, and how often both put the same first."""
    rng, packer.rng = packer.rng, np.random.default_rng([2, 0])
    packed = packer.questions(count, "letter")
    packer.rng = rng
    same, correlations = [], []
    for start in range(0, count, 16):
        batch = batch_of(packed[start : start + 16], 0)
        _, logits = read_by(model, batch, torch.float32)
        said = logits.gather(1, batch["ids"]).numpy()
        for a, b in zip(said, batch["chances"].numpy(), strict=True):
            k = int((b > 0).sum())
            ranks = [np.argsort(np.argsort(x[:k])) for x in (a, b)]
            correlations.append(np.corrcoef(ranks)[0, 1])
            same.append(a[:k].argmax() == b[:k].argmax())
    return {
        "rank correlation": round(float(np.mean(correlations)), 3),
        "same first": round(float(np.mean(same)), 3),
    }


def table(folder: Path, users: int, shown: int = 8) -> str:
    """How the checkpoint ranks for test users, beside its teacher: by reasoning, and by format."""
    from rpp_env.models.transformers import TransformersModel

    env = rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=users)
    pupil, teacher = TransformersModel(str(folder), batch_size=32), env.recommender.model
    tasks = [env.tasks.task(i) for i in range(users)]
    _, _, reasonings, formats = env.book.sizes
    lines = []
    orders: dict[str, list[np.ndarray]] = {"logprobs": [], "generate": []}
    for part, count in (("reasoning", reasonings), ("format", formats)):
        lines.append(
            f"\n| {part} | way | NDCG@10 | teacher's | named | rank correlation | same first |"
        )
        lines.append("|---" * 7 + "|")
        for option in range(count):
            # The other part in turn.
            actions = [
                [1, 0, option, user % formats]
                if part == "reasoning"
                else [1, 0, user % reasonings, option]
                for user in range(users)
            ]
            choices = env.book.choose(actions)
            prompts = [Prompt(t, c, shown) for t, c in zip(tasks, choices, strict=True)]
            # What the teacher means; its own replies may be cut short.
            meant = LLMRecommender(teacher, "logprobs").rank(prompts)
            for way, kept in orders.items():
                ranked = LLMRecommender(pupil, way).rank(prompts)
                mine, others = (
                    [float(ndcg(r.rank(t.position))) for r, t in zip(rankings, tasks, strict=True)]
                    for rankings in (ranked, meant)
                )
                places = np.array([np.argsort(r.order) for r in ranked])
                same = [a.order[0] == b.order[0] for a, b in zip(ranked, meant, strict=True)]
                close = alike(places, [np.argsort(r.order) for r in meant])
                half = 1.96 * np.std(mine) / math.sqrt(users)
                named = np.mean([r.named for r in ranked]) / env.tasks.num_candidates
                lines.append(
                    f"| {option} | {way} | {np.mean(mine):.3f} ± {half:.3f} "
                    f"| {np.mean(others):.3f} | {named:.1%} | {close:.2f} | {np.mean(same):.2f} |"
                )
                if part == "reasoning":
                    kept.append(places)
    for way, kept in orders.items():
        lines.append(f"\n{way}: rank correlation of reasoning 0 with 1 to 8, of the same user: ")
        lines[-1] += ", ".join(f"{alike(kept[0], other):.2f}" for other in kept[1:])
    agree = alike(np.concatenate(orders["logprobs"]), np.concatenate(orders["generate"]))
    lines.append(f"\nThe two ways, of the same prompt: rank correlation {agree:.2f}")
    return "\n".join(lines)


def alike(some: Sequence[np.ndarray], others: Sequence[np.ndarray]) -> float:
    """Mean correlation of places with others."""
    return float(np.mean([np.corrcoef(a, b)[0, 1] for a, b in zip(some, others, strict=True)]))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/distill"))
    parser.add_argument(
        "--hours",
        type=float,
        default=0.005 if "RPP_ENV_FAST" in os.environ else 1.5,
        help="of training, all stages together",
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16, help="packed sequences per step")
    parser.add_argument(
        "--evaluate", type=int, metavar="USERS", help="train nothing; score so many test users"
    )
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    if chosen.evaluate:
        print(table(chosen.out / "checkpoint", chosen.evaluate))
    else:
        Training(chosen.out, chosen.hours, chosen.batch).run()
