"""A language model as a recommender: send prompts, parse the replies, count the costs.

There are three ways to get a ranking from a model that is shown the candidates (and a fourth
without showing them: `rpp_env.recommenders.likelihood`):

``generate``
    The model writes a list in words, and `sentences.parsing` parses it: the paper's way. Candidates
    that cannot be read are not named, and earn nothing.
``logprobs``
    The candidates have letters, the model is asked for the first one, and the log-probabilities of
    all letters order the candidates (FIRST, Reddy et al., EMNLP 2024). One forward pass and one
    token instead of a list. The question and the reward differ from ``generate``. Small models
    prefer some letters, most of all the first, whatever they stand for; `Calibrate` corrects this.
``structured``
    The model writes the letters of all candidates, and may only write those that are left: greedy
    decoding under the constraint that the answer is a permutation, so that it always parses. A
    grammar of the permutations of K candidates has 2^K states, too many for any engine at K = 20.
    So the answer is requested one place at a time, for all users at once; the prompt and the
    answer so far are in the server's prefix cache.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidOption
from rpp_env.models.asking import Room, ask, release
from rpp_env.models.base import Generation, LanguageModel, Message, Reply, Request
from rpp_env.options import check_choice
from rpp_env.prompting import Rankings
from rpp_env.sentences.parsing import as_pairs, parse_order
from rpp_env.sentences.prompt import LETTERS, Prompts, as_messages
from rpp_env.task import Ranking

if TYPE_CHECKING:
    from rpp_env.sentences.prompt import Prompt

__all__ = ["Calibrate", "LLMRecommender", "RankBy"]

RankBy = Literal["generate", "logprobs", "structured", "likelihood"]
"""Ways to get a ranking from a language model; the last one is `LikelihoodRecommender`'s."""
Calibrate = Literal["none", "prior", "permutations"]
"""Corrections of a model's preference for letters: none; subtract the letters' log-probabilities
under the same prompt without candidates (a second pass, of a shorter prompt); or average over
`ORDERS` orders of the candidates (that many passes)."""
ORDERS = 4
"""Number of orders of the candidates that are averaged; the first is the task's own."""


class LLMRecommender:
    """Ranks candidates by prompting a language model and parsing its reply.

    The whole batch is one call of the model (K - 1 calls if `rank_by` is ``"structured"``). With
    greedy decoding, equal prompts are sent once; with sampling, each prompt gets its own answer. A
    prompt that would leave less room than ``generation.max_tokens`` for the reply loses its oldest
    history items first; `Ranking.trimmed` is their number.

    Parameters
    ----------
    model : LanguageModel
        The language model. `Room` describes how the length of prompts is measured.
    rank_by : str
        ``"generate"``, ``"logprobs"`` or ``"structured"``; the module's docstring describes them.
        The last two need a model with the capability ``"choices"``, and 52 candidates at most.
    generation : Generation
        Sampling options of replies; ignored by ``"logprobs"`` and ``"structured"``, which decode
        greedily.
    calibrate : str
        For ``"logprobs"`` only: ``"none"``, ``"prior"`` or ``"permutations"``; see `Calibrate`. The
        ranking's tokens are those of all passes.
    thinking : sequence of pairs of str
        Marks that open and close the model's reasoning, besides the known ones:
        `sentences.parsing.THINKING` and tags such as ``<think>``. Reasoning is not parsed as the
        answer, and if it was cut off, nothing is named.

    Raises
    ------
    InvalidOption
        For another `rank_by`, one that the model does not support, invalid marks of reasoning, or a
        prompt that does not fit even with one history item.
    BrokenContract
        If the model returns another number of replies than requests, or an invalid reply:
        `rpp_env.models.asking.flaw` lists what is checked.
    """

    reads = Prompts

    def __init__(
        self,
        model: LanguageModel,
        rank_by: RankBy = "generate",
        generation: Generation | None = None,
        thinking: Sequence[tuple[str, str]] = (),
        calibrate: Calibrate = "none",
    ) -> None:
        if rank_by == "likelihood":
            raise InvalidOption("LLMRecommender shows candidates: use LikelihoodRecommender")
        check_choice("rank_by", rank_by, get_args(RankBy))
        check_choice("calibrate", calibrate, get_args(Calibrate))
        if calibrate != "none" and rank_by != "logprobs":
            raise InvalidOption(
                f"calibrate={calibrate!r} is for rank_by='logprobs', not for {rank_by!r}"
            )
        if rank_by != "generate" and "choices" not in model.capabilities:
            raise InvalidOption(
                f"rank_by={rank_by!r} needs log-probabilities of letters, which model "
                f"{model.id!r} does not provide: use rank_by='generate'"
            )
        if rank_by == "structured" and not getattr(model, "continues", True):
            raise InvalidOption(
                f"rank_by='structured' needs a model that continues an answer; of all servers "
                f"only vLLM does, but {model.id!r} is on another: use rank_by='logprobs'"
            )
        generation = Generation() if generation is None else generation
        if rank_by == "logprobs":
            generation = Generation(max_tokens=1)
        elif rank_by == "structured":
            generation = Generation(max_tokens=2 * len(LETTERS))
        self.model = model
        self.calibrate = calibrate
        self._way = rank_by
        self.rank_by = rank_by if calibrate == "none" else f"{rank_by} ({calibrate})"
        """Name of the ranking method, saved in tables."""
        self.generation = generation
        self.thinking = as_pairs(thinking)

    def rank(self, prompts: Sequence[Prompt]) -> Rankings:
        """Rank the candidates of every prompt."""
        room = Room(self.model, self.generation)
        fitted = [self._fit(prompt, room) for prompt in prompts]
        found: dict[int, Ranking] = {}
        while todo := [i for i in range(len(prompts)) if i not in found]:
            asked = [_showing(prompts[i], fitted[i][0]) for i in todo]
            answers = self._answers([fitted[i][1] for i in todo], asked)
            for i, ranking in zip(todo, answers, strict=True):
                if ranking is None:
                    fitted[i] = self._shorter(prompts[i], fitted[i][0])
                else:
                    trimmed = prompts[i].shown - fitted[i][0]
                    found[i] = replace(ranking, trimmed=trimmed) if trimmed else ranking
        return Rankings.of(found[i] for i in range(len(prompts)))

    def _answers(self, texts: list[str], prompts: list[Prompt]) -> list[Ranking | None]:
        """Return a ranking per text; None if the model refuses it as longer than its context."""
        sampled = self.generation.temperature > 0
        keys = [i if sampled else text for i, text in enumerate(texts)]
        questions = dict(zip(keys, zip(texts, prompts, strict=True), strict=True))
        ways = {
            "generate": self._generate,
            "logprobs": self._by_logprobs,
            "structured": self._structured,
        }
        asked = [text for text, _ in questions.values()]
        answering = [prompt for _, prompt in questions.values()]
        answers = dict(zip(questions, ways[self._way](asked, answering), strict=True))
        return [answers[key] for key in keys]

    def release(self) -> None:
        """Close the model's files and connections; the next call opens them again."""
        release(self.model)

    # Three ways to rank

    def _generate(self, texts: list[str], prompts: list[Prompt]) -> list[Ranking | None]:
        requests = [Request(as_messages(text), self.generation) for text in texts]
        replies = ask(self.model, requests)
        rankings: list[Ranking | None] = []
        for reply, prompt in zip(replies, prompts, strict=True):
            if reply.finish_reason == "too_long":
                rankings.append(None)
                continue
            order, named = parse_order(reply.text, prompt.task.candidates, self.thinking)
            rankings.append(_ranking(order, named, [reply], reply.text))
        return rankings

    def _by_logprobs(self, texts: list[str], prompts: list[Prompt]) -> list[Ranking | None]:
        letters = [LETTERS[: len(prompt.task.candidates)] for prompt in prompts]
        # The variants of each prompt: itself, and those for the calibration.
        asked = [[text, *self._others(prompt)] for text, prompt in zip(texts, prompts, strict=True)]
        flat = self._choose(
            [as_messages(text) for each in asked for text in each],
            [said for each, said in zip(asked, letters, strict=True) for _ in each],
        )
        rankings: list[Ranking | None] = []
        for prompt, each in zip(prompts, asked, strict=True):
            replies, flat = flat[: len(each)], flat[len(each) :]
            failed = next((reply for reply in replies if reply.choice_logprobs is None), None)
            if failed is not None:
                rankings.append(_unranked(failed, prompt, replies))
                continue
            scores = self._calibrated(np.array([reply.choice_logprobs for reply in replies]))
            # A stable sort: ties stay in the order in which the candidates were shown.
            order = np.argsort(-scores, kind="stable")
            rankings.append(_ranking(tuple(order.tolist()), len(order), replies, replies[0].text))
        return rankings

    def _others(self, prompt: Prompt) -> list[str]:
        """Return the additional texts that calibrate the model's preference for letters."""
        if self.calibrate == "prior":
            return [prompt.lettered(candidates=False)]
        if self.calibrate == "none":
            return []
        task = prompt.task
        return [
            replace(
                prompt, task=replace(task, candidates=tuple(task.candidates[i] for i in order))
            ).lettered()
            for order in _orders(len(task.candidates))[1:]
        ]

    def _calibrated(self, logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
        """(K,) scores of the candidates, from the letters' log-probabilities in each variant."""
        if self.calibrate == "prior":
            return np.asarray(logprobs[0] - logprobs[1])
        orders = _orders(logprobs.shape[1])[: len(logprobs)]
        return np.asarray(np.take_along_axis(logprobs, np.argsort(orders, axis=1), 1).mean(axis=0))

    def _structured(self, texts: list[str], prompts: list[Prompt]) -> list[Ranking | None]:
        left = [list(LETTERS[: len(prompt.task.candidates)]) for prompt in prompts]
        said: list[list[str]] = [[] for _ in prompts]
        cost: list[list[Reply]] = [[] for _ in prompts]
        ended: dict[int, Reply] = {}
        while todo := [i for i, letters in enumerate(left) if len(letters) > 1 and i not in ended]:
            conversations = []
            for i in todo:
                begun = "".join(f"{letter}\n" for letter in said[i])
                answer: tuple[Message, ...] = ({"role": "assistant", "content": begun},)
                conversations.append(as_messages(texts[i]) + (answer if begun else ()))
            replies = self._choose(conversations, ["".join(left[i]) for i in todo])
            for i, reply in zip(todo, replies, strict=True):
                cost[i].append(reply)
                if reply.choice_logprobs is None:
                    ended[i] = reply
                else:
                    best = int(np.argmax(reply.choice_logprobs))
                    said[i].append(left[i].pop(best))
        rankings: list[Ranking | None] = []
        for i, (letters, rest, replies) in enumerate(zip(said, left, cost, strict=True)):
            if i in ended:
                rankings.append(_unranked(ended[i], prompts[i], replies))
                continue
            order = tuple(LETTERS.index(letter) for letter in [*letters, *rest])
            rankings.append(_ranking(order, len(order), replies, "\n".join([*letters, *rest])))
        return rankings

    # The model

    def _choose(
        self, conversations: list[tuple[Message, ...]], letters: Sequence[str]
    ) -> list[Reply]:
        """Return one letter per conversation, with the log-probabilities of all its letters."""
        one = replace(self.generation, max_tokens=1)
        requests = [
            Request(messages, one, choices=tuple(choices))
            for messages, choices in zip(conversations, letters, strict=True)
        ]
        return ask(self.model, requests)

    # What fits

    def _text(self, prompt: Prompt) -> str:
        if self._way == "generate":
            return prompt.text
        return prompt.lettered(whole=self._way == "structured")

    def _fit(self, prompt: Prompt, room: Room) -> tuple[int, str]:
        """Return how many history items of `prompt` fit, and the text with these."""
        text = self._text(prompt)
        if room.holds(text):
            return prompt.shown, text
        for shown in range(prompt.shown - 1, 0, -1):
            shorter = self._text(replace(prompt, shown=shown))
            if room.holds(shorter):
                return shown, shorter
        raise InvalidOption(
            f"the prompt of user {prompt.task.user!r} has {room.count(text)} tokens, and "
            f"even with one history item it does not fit into the {room.tokens} that "
            f"{self.model.id!r} has besides {self.generation.max_tokens} for the reply: use a "
            "model with a longer context, fewer candidates or a smaller max_tokens"
        )

    def _shorter(self, prompt: Prompt, shown: int) -> tuple[int, str]:
        """Shorten a prompt that the model itself has just refused as too long, as in `_fit`.

        By how much it is too long is unknown, and refusals cost nothing: drop a third of the items.
        """
        if shown <= 1:
            raise InvalidOption(
                f"{self.model.id!r} refuses the prompt of user {prompt.task.user!r} as longer than "
                f"its context, even with one history item and {self.generation.max_tokens} tokens "
                "for the reply: use a model with a longer context, fewer candidates or a smaller "
                "max_tokens"
            )
        shown = max(1, 2 * shown // 3)
        return shown, self._text(replace(prompt, shown=shown))


@lru_cache(maxsize=64)
def _orders(count: int) -> NDArray[np.int64]:
    """(ORDERS, count) orders of the candidates, the same for all users; the first as shown."""
    rng = np.random.default_rng(count)
    return np.stack([np.arange(count), *(rng.permutation(count) for _ in range(ORDERS - 1))])


def _showing(prompt: Prompt, shown: int) -> Prompt:
    return prompt if shown == prompt.shown else replace(prompt, shown=shown)


def _unranked(reply: Reply, prompt: Prompt, replies: list[Reply]) -> Ranking | None:
    """Return the ranking if the model could not choose letters; None if the prompt is too long."""
    if reply.finish_reason == "too_long":
        return None
    return _ranking(tuple(range(len(prompt.task.candidates))), 0, replies, "")


def _ranking(order: tuple[int, ...], named: int, replies: list[Reply], text: str) -> Ranking:
    return Ranking(
        order=order,
        named=named,
        text=text,
        prompt_tokens=sum(reply.prompt_tokens for reply in replies),
        completion_tokens=sum(reply.completion_tokens for reply in replies),
    )
