"""A simulated language model: parses a prompt's text, ranks by a few habits, writes a reply.

Like an LLM, `EmbeddedModel` gets a prompt in words and returns a reply in words. In between it is a
small recommender whose habits are activated by the words of the sentences (`rpp_env.sim.lexicon`).
It knows the catalog (titles, genres, sequels) and statistics of the train users' histories without
any target: how popular each item is, and what like-minded people choose. ``docs/embedded.md`` shows
it at work. It supports no claim about real LLMs.

How it answers
--------------
1. **Read.** Numbered or bulleted lines are a list if at least half of them are known titles. The
   last list (or the last one that is introduced as candidates) holds the candidates, the last other
   one the history, oldest first. All other lines are instructions, wherever they are; so is the
   line above the candidates, but not the one above the history.
2. **Weigh.** Each word of the lexicon votes, and votes add up. The words of *knowledge* share the
   weight between content and like-minded people, those of *method* between long-standing tastes,
   recent ones, what comes next and priority; each by a softmax. Words of popularity add or take.
3. **Think.** A sentence that asks for thought has its full effect only if thinking is written down,
   which words of brevity prevent: then the effect of its method shrinks accordingly.
4. **Rank.** Six habits order the candidates each; the orders are merged by a weighted Borda count.
5. **Write.** In the requested format, after a preamble and the thoughts (unless asked to be brief).
   Prompt and reply together are limited to `span` words, after which the reply breaks off: long
   histories, long thoughts and wordy formats are cut off.

Paragraphs recur, such as a user's history in hundreds of prompts, so parsed ones are cached: up to
about 50 MB, which are not pickled.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions
from rpp_env.embeddings import Embeddings, fit_embeddings
from rpp_env.models.base import Reply, Request
from rpp_env.sentences.parsing import write_ranking
from rpp_env.sim.lexicon import LEXICON, TOPICS, votes_of
from rpp_env.sim.movieworld import LEVELS

__all__ = ["HABITS", "EmbeddedModel"]

HABITS = ("content, long", "content, recent", "people, long", "people, recent", "next", "crowd")
"""The six orders that are merged."""

# Strengths of the votes; frozen with the levels of movieworld.
KNOWLEDGE = 4.0
"""Steepness of the choice between content and people ..."""
METHOD = 5.5
"""... and of that between long, recent, next and priority."""
CROWD = 1.9
"""Steepness of the votes for popularity."""
POPULARITY = 1.2
"""Most weight that popularity gets; the other habits share 1."""
RESERVE = 0.3
"""Votes against "next" unless the prompt asks for it."""
FALLBACK = 3.0
"""Votes for "priority", that is for popularity, which wins if no method is asked for."""
MEMORY = 1.5
"""Recency weights fall to 1/e over this many items ..."""
DISTRACTION = 0.03
"""... down to this floor, so that in long lists recent items count little."""
CONTINUATION = 10.0
"""Score of the next part of a series that is shown; less for parts longer ago."""
CERTAINTY = 6.0
"""Factor from a candidate's score to the log-odds of its letter."""

_CONSTANTS = (
    KNOWLEDGE,
    METHOD,
    CROWD,
    POPULARITY,
    RESERVE,
    FALLBACK,
    MEMORY,
    DISTRACTION,
    CONTINUATION,
)

_ITEM = re.compile(r"\s*(?:(\d+|[A-Za-z])\s*[.):]|[-*•])\s+(.+?)\s*$")
_CONTRACT = re.compile(r"<(?:rank|title|name|candidate number|letter)>")
_EMPHASIS = "\"'“”*_` "
_PART = re.compile(r"^(.*?)[ :]+(?:part )?(ii|iii|iv|v|vi|vii|viii|ix|x|\d{1,2})$", re.IGNORECASE)
_ROMAN = {r: i for i, r in enumerate("i ii iii iv v vi vii viii ix x".split(), 1)}
_THOUGHT = "Let me think about what I was shown, one by one. "
_THOUGHT_END = " So much for that.\n\n"
_PREAMBLE = "Sure! With all of this in mind, here is how I would rank them for you:\n\n"
_NO_LIST = "I see no list of candidates to rank."

# Limits on memory, however large the batch: candidates and pairs of them processed together, and
# pairs of lists whose six orders are cached.
_CANDIDATES = 1 << 19
_COMPARISONS = 1 << 20
_PAIRS_KEPT = 1 << 14

_Pair = tuple[tuple[int, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class _Items:
    """A parsed list of a prompt."""

    rows: tuple[int, ...]
    """Item rows; one past the end stands for every unknown title."""
    titles: tuple[str, ...]
    """Titles as in the catalog; unknown ones as in the prompt."""
    lead: str
    """The line above the list, if it ends in a colon."""
    names: tuple[str, ...] = ()
    """Numbers or letters before the titles; empty for bullets."""

    @cached_property
    def words(self) -> int:
        """Number of words of all titles together."""
        return sum(len(title.split()) for title in self.titles)

    @cached_property
    def offered(self) -> bool:
        """Whether the list is introduced as candidates."""
        return "candidate" in self.lead.lower()


_NO_ITEMS = _Items((), (), "")


@dataclass(frozen=True, eq=False, slots=True)
class _Paragraph:
    """Parsed content of a paragraph."""

    lists: tuple[_Items, ...]
    votes: NDArray[np.float64]
    contract: str
    """Format of a line of the reply; empty if not stated."""
    words: int
    instructs: bool
    """Whether it contains a vote or a contract."""


@dataclass(frozen=True, eq=False, slots=True)
class _Plan:
    """Behaviour that all the sentences of a prompt ask for."""

    weights: NDArray[np.float64]
    """(6,) weights of the habits."""
    thought: float
    """How much of the thinking is written down; 0 to 1."""
    preamble: bool
    format: str
    """One of `FORMATS`."""


@dataclass(frozen=True, eq=False, slots=True)
class _Question:
    """A parsed request."""

    history: _Items
    candidates: _Items
    plan: _Plan
    words: int


class EmbeddedModel:
    """A simulated language model; deterministic.

    Use `EmbeddedModel.fit`. It satisfies `LanguageModel`: ``complete(requests) -> replies``. Its
    tokens are words. Of `Generation` it uses only `max_tokens`. `Request.choices` are taken as the
    numbers or letters of the candidates: log-probabilities are ``log_softmax`` of `CERTAINTY` times
    the merged scores.

    Attributes
    ----------
    span : int
        Maximum words of a prompt and its reply together; then the reply breaks off.
    """

    capabilities: frozenset[str] = frozenset({"choices", "deterministic"})
    context_length = 4096

    def __init__(
        self,
        titles: Sequence[str],
        *,
        content: NDArray[np.float64],
        people: NDArray[np.float64],
        order: NDArray[np.float64],
        log_counts: NDArray[np.float64],
        genres: Sequence[Sequence[str]],
        span: int = 4096,
    ) -> None:
        self.span = span
        self._titles = tuple(titles)
        self._row = {title.casefold(): row for row, title in enumerate(titles)}
        self._row.update((title, row) for row, title in enumerate(titles))
        # The row past the end is the unknown title, without any properties.
        self._kind = (*(g[0] if g else "one of a kind" for g in genres), "something new to me")
        self._split = content.shape[1]
        self._knowledge = np.pad(np.concatenate([content, people], axis=1), ((0, 1), (0, 0)))
        self._order = np.pad(order, ((0, 0), (0, 1), (0, 0)))
        self._log_counts = np.pad(log_counts, (0, 1))
        self._sequel = np.pad(sequels(self._titles), (0, 1), constant_values=-1)
        self._forget()

    def _forget(self) -> None:
        self._read = lru_cache(maxsize=1 << 15)(self._read_paragraph)
        self._plan = lru_cache(maxsize=1 << 12)(self._make_plan)
        self._open = lru_cache(maxsize=1 << 12)(self._write_opening)
        self._habits: dict[tuple[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]] = {}

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_read", "_plan", "_open", "_habits")
        return {name: value for name, value in vars(self).items() if name not in kept}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._forget()

    @classmethod
    def fit(
        cls,
        dataset: Dataset,
        interactions: Interactions,
        *,
        span: int | None = None,
        embeddings: Embeddings | None = None,
        seed: int = 0,
    ) -> EmbeddedModel:
        """Fit the model on the catalog and on the train users' histories without targets.

        Parameters
        ----------
        dataset : Dataset
            Titles and genres; its sequences are not read.
        interactions : Interactions
            From `training_interactions`: the only data that statistics are fitted on.
        span : int, optional
            By default that of movieworld's level, else 4,096.
        embeddings : Embeddings, optional
            Collaborative and content vectors; fitted here by default.
        seed : int
            Seed of the default embeddings.
        """
        if embeddings is None:
            embeddings = fit_embeddings(dataset, interactions, seed=seed)
        content = _unit(_genre_columns(dataset.genres, embeddings.content))
        # What like-minded people choose, beyond the effects of content and popularity.
        explained = np.column_stack([content, np.ones(len(content)), embeddings.popularity])
        people = embeddings.items.astype(np.float64)
        people = people - explained @ np.linalg.lstsq(explained, people, rcond=None)[0]
        if span is None:
            span = LEVELS[dataset.name].span if dataset.name in LEVELS else 4096
        return cls(
            dataset.titles,
            content=content,
            people=_unit(people),
            order=_order(embeddings.items.astype(np.float64), interactions),
            log_counts=np.log1p(interactions.counts),
            genres=dataset.genres,
            span=span,
        )

    @cached_property
    def id(self) -> str:
        """Name of the model, with a digest of all that its replies depend on, and its span."""
        sha = hashlib.sha256(repr((LEXICON, _CONSTANTS, self._split, self._kind)).encode())
        sha.update("\x1e".join(self._titles).encode())
        for array in (self._knowledge, self._order, self._log_counts):
            # Rounded like the scores, because the last bits depend on the number of threads of the
            # fit. And + 0.0, because -0.0 has other bytes.
            sha.update((np.round(array, 5) + 0.0).astype("<f8").tobytes())
        return f"embedded-v0/{sha.hexdigest()[:16]}/{self.span}"

    def count_tokens(self, text: str) -> int:
        """Return the number of words: this model's tokens."""
        return len(text.split())

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        asked = [self._ask(request) for request in requests]
        return [
            self._write(question, order, request.generation.max_tokens)
            if request.choices is None
            else _choose(question, scores, request.choices)
            for question, (order, scores), request in zip(
                asked, self._ranked(asked), requests, strict=True
            )
        ]

    # Reading

    def _ask(self, request: Request) -> _Question:
        text = "\n\n".join([message["content"] for message in request.messages])
        if "\r" in text:
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        lists: list[_Items] = []
        instructions = []
        words = 0
        for paragraph in text.split("\n\n"):
            said = self._read(paragraph)
            words += said.words
            if said.lists:
                lists += said.lists
            if said.instructs:
                instructions.append(paragraph)
        history, candidates = _history_and_candidates(lists)
        if candidates.lead and self._read(candidates.lead).instructs:
            instructions.append(candidates.lead)
        return _Question(history, candidates, self._plan(tuple(instructions)), words)

    def _read_paragraph(self, paragraph: str) -> _Paragraph:
        lists: list[_Items] = []
        sentences: list[str] = []
        lines = [(line, _ITEM.match(line)) for line in paragraph.split("\n") if line.strip()]
        for _, group in groupby(lines, key=lambda line: line[1] is None):
            block = list(group)
            lead = sentences[-1] if sentences and sentences[-1].rstrip().endswith(":") else ""
            items = self._items([(item[1], item[2]) for _, item in block if item], lead)
            if items:
                lists.append(items)
                if lead:
                    sentences.pop()
            else:
                sentences += [line for line, _ in block]
        votes = np.zeros(len(TOPICS))
        contract = ""
        for sentence in sentences:
            if _CONTRACT.search(sentence):
                contract = sentence
            else:
                votes += votes_of(sentence)
        instructs = bool(contract) or bool(votes.any())
        return _Paragraph(tuple(lists), votes, contract, len(paragraph.split()), instructs)

    def _items(self, lines: Sequence[tuple[str | None, str]], lead: str) -> _Items | None:
        """Return the list of these names and titles; None if most titles are unknown."""
        found = [title for _, title in lines]
        rows = list(map(self._row.get, found))
        if None in rows:
            rows = [self._find(title) for title in found]
        if not rows or 2 * rows.count(None) > len(rows):
            return None
        return _Items(
            tuple(len(self._titles) if row is None else row for row in rows),
            tuple(
                title if row is None else self._titles[row]
                for title, row in zip(found, rows, strict=True)
            ),
            lead,
            tuple(name or "" for name, _ in lines),
        )

    def _find(self, title: str) -> int | None:
        bare = title.strip(_EMPHASIS)
        spellings = (title, title.casefold(), bare, bare.casefold())
        return next((self._row[s] for s in spellings if s in self._row), None)

    # Weighing

    def _make_plan(self, instructions: tuple[str, ...]) -> _Plan:
        votes = np.zeros(len(TOPICS))
        contract = ""
        for paragraph in instructions:
            said = self._read(paragraph)
            votes += said.votes
            contract = said.contract or contract
        content, people, crowd, long, recent, following, priority, alone, think, brief = (
            votes.tolist()
        )
        think, brief = min(think, 1.0), min(brief, 1.0)
        heard = 1.0 - think * brief  # a method that needs thought fades without it
        knowledge = _softmax(KNOWLEDGE * np.array([content, people]))
        method = _softmax(
            METHOD * heard * np.array([long, recent, following, priority])
            + np.array([0.0, 0.0, -RESERVE, FALLBACK])
        )
        liked = np.tanh(CROWD * crowd) * (1.0 - min(alone, 1.0)) * (1.0 - 0.5 * method[2])
        weights = np.array(
            [
                knowledge[0] * method[0],
                knowledge[0] * method[1],
                knowledge[1] * method[0],
                knowledge[1] * method[1],
                method[2],
                POPULARITY * (liked + method[3]),
            ]
        )
        form = _format(contract)
        preamble = brief < 0.25 and form != "template"
        return _Plan(weights, think * (1.0 - brief), preamble, form)

    # Ranking

    def _ranked(self, asked: Sequence[_Question]) -> list[tuple[list[int], NDArray[np.float64]]]:
        """Return per question the candidates' positions, best first, and their scores."""
        ranked: list[tuple[list[int], NDArray[np.float64]]] = [([], np.empty(0))] * len(asked)
        by_size: dict[int, list[int]] = {}
        for i, question in enumerate(asked):
            if question.candidates.rows:
                by_size.setdefault(len(question.candidates.rows), []).append(i)
        for size, group in by_size.items():
            # Few pairs of lists and few plans make many questions.
            pairs: dict[_Pair, int] = {}
            plans: dict[_Plan, int] = {}
            pair = [
                pairs.setdefault((asked[i].history.rows, asked[i].candidates.rows), len(pairs))
                for i in group
            ]
            plan = [plans.setdefault(asked[i].plan, len(plans)) for i in group]
            habits = self._recall(list(pairs))
            weights = np.stack([p.weights for p in plans])
            at_once = max(1, _CANDIDATES // size)
            for start in range(0, len(group), at_once):
                part = slice(start, start + at_once)
                scores = np.einsum("nkh,nh->nk", habits[pair[part]], weights[plan[part]])
                # Rounded, so that other batch sizes do not break ties differently; stable, so that
                # ties stay in the order in which the candidates were shown.
                scores = np.round(scores, 6)
                best = np.argsort(-scores, axis=1, kind="stable").tolist()
                for i, *order_and_scores in zip(group[part], best, scores, strict=True):
                    ranked[i] = tuple(order_and_scores)
        return ranked

    def _recall(self, pairs: list[_Pair]) -> NDArray[np.float32]:
        """(P, K, 6) `habits` of pairs with K candidates each; computed for new pairs only."""
        new = [pair for pair in pairs if pair not in self._habits]
        if len(self._habits) + len(new) > _PAIRS_KEPT:
            self._habits.clear()
            new = pairs
        known = self._habits
        at_once = max(1, _COMPARISONS // len(pairs[0][1]) ** 2)
        for start in range(0, len(new), at_once):
            part = new[start : start + at_once]
            votes = self.habits([h for h, _ in part], np.array([c for _, c in part]))
            known.update(zip(part, votes, strict=True))
        return np.stack([known[pair] for pair in pairs])

    def habits(
        self, histories: Sequence[tuple[int, ...]], candidates: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """Return how each habit orders the candidates.

        Parameters
        ----------
        histories : sequence of P tuples of item rows, oldest first
        candidates : (P, K) item rows

        Returns
        -------
        (P, K, 6) float32 in [-1, 1]
            1 for the habit's first candidate, -1 for its last; ties share.
        """
        pairs, count = candidates.shape
        longest = max(1, max((len(h) for h in histories), default=1))
        items = np.zeros((pairs, longest), dtype=np.int64)
        present = np.zeros((pairs, longest))
        for row, history in enumerate(histories):
            if history:
                items[row, -len(history) :] = history
                present[row, -len(history) :] = 1.0
        age = np.arange(longest)[::-1]
        recency = present * (np.exp(-age / MEMORY) + DISTRACTION)
        profiles = np.stack([present, recency], axis=1)  # (P, 2, L)
        profiles /= np.maximum(profiles.sum(-1, keepdims=True), 1e-12)
        vectors = self._knowledge[items]  # (P, L, d)
        wanted = np.einsum("pml,pld->pmd", profiles, vectors)
        offered = self._knowledge[candidates]
        scores = np.empty((pairs, count, len(HABITS)))
        s = self._split
        scores[..., 0:2] = np.einsum("pkd,pmd->pkm", offered[..., :s], wanted[..., :s])
        scores[..., 2:4] = np.einsum("pkd,pmd->pkm", offered[..., s:], wanted[..., s:])
        # Only the successor of the last item, and the next part of any series that is shown.
        last = items[:, -1]
        scores[..., 4] = np.einsum("pd,pkd->pk", self._order[0][last], self._order[1][candidates])
        continues = self._sequel[items]  # (P, L): the part after each shown item
        due = (continues[:, :, None] == candidates[:, None, :]) & (present[:, :, None] > 0)
        scores[..., 4] += CONTINUATION * (due * (0.8**age)[None, :, None]).max(axis=1)
        scores[..., 5] = self._log_counts[candidates]
        scores = np.round(scores, 6)
        above = scores[:, :, None, :] > scores[:, None, :, :]
        wins = above.sum(axis=2) - above.sum(axis=1)
        shares: NDArray[np.float32] = (wins / max(count - 1, 1)).astype(np.float32)
        return shares

    # Writing

    def _write(self, question: _Question, order: list[int], most: int) -> Reply:
        plan, candidates = question.plan, question.candidates
        if order:
            opening, words = self._open(question.history.rows, plan.thought, plan.preamble)
            text = opening + write_ranking(order, candidates.titles, plan.format)
            words += _words_written(candidates, plan.format)
        else:
            text, words = _NO_LIST, len(_NO_LIST.split())
        limit = max(0, min(self.span - question.words, most))
        if words <= limit:
            return Reply(text, question.words, words)
        return Reply(_first_words(text, limit), question.words, limit, "length")

    def _write_opening(
        self, history: tuple[int, ...], thought: float, preamble: bool
    ) -> tuple[str, int]:
        """Return the text before the list, and its number of words."""
        text = ""
        if thought > 0.25:
            noted = history[-max(1, round(thought * len(history))) :]
            notes = " ".join(f"I note {self._kind[row]}, and weigh it." for row in noted)
            text = f"{_THOUGHT}{notes}{_THOUGHT_END}"
        if preamble:
            text += _PREAMBLE
        return text, len(text.split())


def _choose(question: _Question, scores: NDArray[np.float64], choices: tuple[str, ...]) -> Reply:
    """Return the first candidate's identifier, and the probability of each identifier."""
    score = dict(zip(question.candidates.names, scores.tolist(), strict=True))
    # Identifiers of no candidate get a log-probability that is very low, but finite.
    chances = CERTAINTY * np.array([score.get(choice, -10.0) for choice in choices])
    chances -= chances.max() + np.log(np.exp(chances - chances.max()).sum())
    return Reply.choosing(choices, chances.tolist(), question.words)


def _history_and_candidates(lists: list[_Items]) -> tuple[_Items, _Items]:
    if not lists:
        return _NO_ITEMS, _NO_ITEMS
    introduced = (i for i in reversed(range(len(lists))) if lists[i].offered)
    candidates = lists.pop(next(introduced, -1))
    return lists[-1] if lists else _NO_ITEMS, candidates


def _format(contract: str) -> str:
    """Return the format that a contract line asks for; numbered if there is none."""
    if '"' in contract:
        return "json"
    if "<candidate number>" in contract:
        return "numbers"
    if "|" in contract:
        return "template"
    return "numbered" if "<rank>" in contract or not contract else "bare"


def _words_written(candidates: _Items, form: str) -> int:
    """Return the number of words that `write_ranking` needs for a list."""
    count = len(candidates.rows)
    if form == "numbers":
        return count
    return candidates.words + {"numbered": count, "template": 2 * count, "json": 2}.get(form, 0)


def _first_words(text: str, count: int) -> str:
    """Return the first words of a text that is longer."""
    cut = re.match(rf"(?:\S+\s*){{{count}}}", text)
    return cut[0].rstrip() if cut else ""


def _genre_columns(
    genres: Sequence[Sequence[str]], content: NDArray[np.float32]
) -> NDArray[np.float64]:
    """(I, genres) one column per genre; `content` if there are no genres."""
    column = {name: j for j, name in enumerate(sorted({g for of_item in genres for g in of_item}))}
    if not column:
        return content.astype(np.float64)
    columns = np.zeros((len(genres), len(column)))
    for row, of_item in enumerate(genres):
        columns[row, [column[name] for name in of_item]] = 1.0
    return columns


def _order(vectors: NDArray[np.float64], interactions: Interactions) -> NDArray[np.float64]:
    """(2, I, d): ``order[0][i] @ order[1][j]`` is how much more j follows i than i follows j.

    Items that merely occur together follow in both directions equally, and cancel out.
    """
    items = interactions.items
    same_user = np.ones(len(items), dtype=bool)
    same_user[interactions.indptr[1:-1]] = False
    after = np.flatnonzero(same_user[1:]) + 1
    centred = vectors - vectors.mean(axis=0)
    followed = sparse.coo_array(
        (np.ones(len(after)), (items[after - 1], items[after])), shape=(len(centred),) * 2
    )
    pairs = centred.T @ (followed.tocsr() @ centred)
    directed = pairs - pairs.T
    scale = (
        np.abs(centred @ directed @ centred.T).max()
        if len(centred) <= 4000
        else np.abs(directed).max()
    )
    return np.stack([centred @ directed / max(scale, 1e-12), centred])


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    powers: NDArray[np.float64] = np.exp(x - x.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    unit: NDArray[np.float64] = x / np.where(norm > 1e-9, norm, 1.0)
    return unit


def sequels(titles: Sequence[str]) -> NDArray[np.int64]:
    """(I,) row of the next part of each title, or -1; "Name", "Name II" or "Name 2", ..."""
    part: dict[tuple[str, int], int] = {}
    for row, title in enumerate(titles):
        match = _PART.match(title)
        if match:
            number = match.group(2).lower()
            part[match.group(1).casefold(), _ROMAN.get(number) or int(number)] = row
        else:
            part.setdefault((title.casefold(), 1), row)
    sequel = np.full(len(titles), -1)
    for (name, number), row in part.items():
        sequel[row] = part.get((name, number + 1), -1)
    return sequel
