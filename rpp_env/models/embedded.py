"""A stand-in for a language model: reads a prompt's text, ranks by a few habits, writes a reply.

`EmbeddedModel` gets what an LLM gets, a prompt in words, and gives what an LLM gives, a reply in
words. In between it is a small recommender whose habits are called by the words of the sentences
(`LEXICON`; the table is in ``docs/movieworld.md``). It knows the catalogue (titles, genres, which
title continues which) and what the train users' histories say without any target: how popular each
item is, and what like-minded people choose. No claim about real LLMs rests on it.

How it answers
--------------
1. **Read.** Numbered lines are lists: the last list holds the candidates, the one before it the
   history, oldest first. All other sentences are instructions; a list's own lead-in is not.
2. **Weigh.** Each word of the lexicon votes, and votes add up. The words of *knowledge* share the
   weight between content and like-minded people, those of *method* between long-standing tastes,
   recent ones, what comes next and priority; each by a softmax. Words of popularity add or take.
3. **Think.** A sentence that asks for thought acts fully only where thinking is written down, which
   words of brevity prevent: then its method fades by as much.
4. **Rank.** Six habits order the candidates each; the orders are merged by a weighted Borda count.
5. **Write.** In the format that was asked for, after a preamble and the thoughts (unless told to be
   brief). It keeps `span` words in mind, what it read and what it writes together, and stops when
   they are used up: long histories, long thoughts and wordy formats come back cut off.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.data.movieworld import LEVELS
from rpp_env.data.splits import Interactions
from rpp_env.embeddings import Embeddings, fit_embeddings
from rpp_env.models.base import Reply, Request

__all__ = ["LEXICON", "EmbeddedModel", "Word"]

VOTES = (
    "content", "people", "crowd", "long", "recent", "next", "priority", "alone", "think", "brief",
)  # fmt: skip
"""What a word can vote for: knowledge (3), method (4), "nothing but the preferences", thought, brevity."""

HABITS = ("content, long", "content, recent", "people, long", "people, recent", "next", "crowd")
"""The six orders that are merged."""


@dataclass(frozen=True)
class Word:
    """A word (a regular expression over lower-case text) and what it votes for."""

    pattern: str
    votes: dict[str, float]


LEXICON: tuple[Word, ...] = (
    # whose knowledge
    Word(r"experts?|connoisseurs?|scholars?", {"content": 0.6, "crowd": -0.5}),
    Word(r"genres?|styles?|categor(?:y|ies)|mechanics", {"content": 0.2}),
    Word(r"stor(?:y|ies)|craft|made|sound|built", {"content": 0.2}),
    Word(r"people(?:'s)?|others|audiences?", {"people": 0.4, "crowd": 0.1}),
    Word(r"tastes?", {"people": 0.3}),
    Word(r"like-minded|similar (?:people|users|viewers)", {"people": 0.5, "crowd": 0.1}),
    Word(r"recommender|recommend", {"crowd": 0.3}),
    Word(r"popular|popularity|famous|hits?|best-known", {"crowd": 0.5}),
    Word(r"widely|everybody|everyone|crowd", {"crowd": 0.2}),
    Word(r"interests?|personal", {"content": 0.3, "people": 0.3, "crowd": -0.05}),
    # how to use it
    Word(r"history", {"long": 0.15, "recent": 0.15}),
    Word(r"preferences?|likes|liking", {"long": 0.25, "recent": 0.05}),
    Word(r"infer|deduce|work out", {"long": 0.3, "think": 0.5}),
    Word(r"long-standing|lasting|always|enduring", {"long": 0.5}),
    Word(r"whole|entire|complete|overall", {"long": 0.45}),
    Word(r"similarity|similar|resembles?", {"long": 0.25}),
    Word(r"visible|seen|shown", {"recent": 0.2}),
    Word(r"update|revise|refresh", {"recent": 0.45, "think": 0.5}),
    Word(r"latest|newest|last few", {"recent": 0.4}),
    Word(r"recent|recently|lately|just now", {"recent": 0.4}),
    Word(r"next|continues?|sequels?|follow(?:s|ing)? on", {"next": 0.6}),
    Word(r"likelihood|likely|probable|probability", {"next": 0.4}),
    Word(r"priority|priorities|importance", {"priority": 0.9}),
    Word(r"only the preferences|nothing but|solely", {"alone": 0.8}),
    # how to go about it
    Word(r"first|begin by", {"think": 0.5}),
    Word(r"step by step|step-by-step|think|reason carefully", {"think": 1.0}),
    Word(r"compute|calculate|score", {"think": 0.25}),
    Word(r"check|verify|look again", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    Word(r"refine|improve|correct", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    # how to answer
    Word(r"unnecessary|leave out|skip|omit", {"brief": 0.8}),
    Word(r"little text|few words|short|briefly", {"brief": 0.9}),
    Word(r"no explanations?|without explaining|do not explain", {"brief": 0.5}),
    Word(r"no other words|nothing else", {"brief": 0.5}),
)
"""Which word calls which habit. Votes of all sentences add up; a word counts once per sentence."""

_LEXICON = tuple(
    (
        re.compile(rf"(?<![\w-])(?:{w.pattern})(?![\w-])"),
        np.array([w.votes.get(v, 0.0) for v in VOTES]),
    )
    for w in LEXICON
)
_ITEM = re.compile(r"\s*(?:\d+\s*[.):]|[-*•])\s+(.+?)\s*$")
_CONTRACT = re.compile(r"<(rank|title|candidate number)>")


class _Paragraph(NamedTuple):
    """What a paragraph says: lists of item rows, instructions, and its length in words."""

    lists: tuple[tuple[int, ...], ...]
    votes: NDArray[np.float64]
    line: str | None  # how a line of the reply shall look
    tokens: int


class _Plan(NamedTuple):
    """What all the sentences of a prompt make the model do."""

    weights: NDArray[np.float64]  # (6,) of the habits
    thought: float  # 0 to 1: how much of the thinking is written down
    brief: float
    line: str


class EmbeddedModel:
    """The embedded stand-in for an LLM; deterministic.

    Use `EmbeddedModel.fit`. It satisfies `LanguageModel`: ``complete(requests) -> replies``.

    Attributes
    ----------
    span : int
        Words that a prompt and its reply may have together before the reply breaks off.
    """

    capabilities: frozenset[str] = frozenset({"deterministic"})
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
        digest: str = "",
    ) -> None:
        self.span = span
        self._titles = tuple(titles)
        self._row = {title.casefold(): row for row, title in enumerate(titles)}
        self._row.update((title, row) for row, title in enumerate(titles))
        self._kind = tuple(g[0] if g else "one of a kind" for g in genres)
        self._knowledge = np.concatenate([content, people], axis=1)
        self._split = content.shape[1]
        self._order = order
        self._log_counts = log_counts
        self._sequel = _sequels(self._titles)
        self._digest = digest
        self._forget()

    def _forget(self) -> None:
        # Reading is memory: paragraphs recur, a user's history block in every prompt about them.
        self._read = lru_cache(maxsize=1 << 16)(self._read_paragraph)
        self._plan = lru_cache(maxsize=1 << 14)(self._make_plan)
        self._habits: dict[tuple[tuple[int, ...], tuple[int, ...]], NDArray[np.float32]] = {}

    def __getstate__(self) -> dict[str, Any]:
        # Environments are sent to other processes; what was read so far stays, and cannot be sent.
        return {k: v for k, v in vars(self).items() if k not in ("_read", "_plan", "_habits")}

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
        """Learn the catalogue, and from the train users' histories without targets the rest.

        Parameters
        ----------
        dataset : Dataset
            Titles and genres; its sequences are not read.
        interactions : Interactions
            From `training_interactions`: the only thing that statistics are fitted on.
        span : int, optional
            By default what the level of movieworld says, else 4,096.
        embeddings : Embeddings, optional
            Collaborative and content vectors; fitted here by default.
        seed : int
            Of the default embeddings.
        """
        if embeddings is None:
            embeddings = fit_embeddings(dataset, interactions, seed=seed)
        names = sorted({g for genres in dataset.genres for g in genres})
        if names:
            column = {name: j for j, name in enumerate(names)}
            content = np.zeros((dataset.num_items, len(names)))
            for row, genres in enumerate(dataset.genres):
                content[row, [column[g] for g in genres]] = 1.0
        else:
            content = embeddings.content.astype(np.float64)
        content = _unit(content)
        # What like-minded people choose, beyond what content and popularity explain.
        explained = np.column_stack([content, np.ones(len(content)), embeddings.popularity])
        people = embeddings.items.astype(np.float64)
        people = people - explained @ np.linalg.lstsq(explained, people, rcond=None)[0]
        if span is None:
            span = LEVELS[dataset.name].span if dataset.name in LEVELS else 4096
        sha = hashlib.sha256(
            f"{dataset.digest} {embeddings.digest} {interactions.counts.tobytes().hex()}".encode()
        )
        return cls(
            dataset.titles,
            content=content,
            people=_unit(people),
            order=_order(embeddings.items.astype(np.float64), interactions),
            log_counts=np.log1p(interactions.counts),
            genres=dataset.genres,
            span=span,
            digest=sha.hexdigest(),
        )

    @property
    def id(self) -> str:
        """Names the model, its knowledge and its span."""
        return f"embedded-v0/{self._digest[:16]}/{self.span}"

    def count_tokens(self, text: str) -> int:
        """Words: this model's tokens."""
        return len(text.split())

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        asked = [self._ask(r) for r in requests]
        orders = self._orders(asked)
        return [
            self._write(
                question, order, min(self.span - question.tokens, request.generation.max_tokens)
            )
            for question, order, request in zip(asked, orders, requests, strict=True)
        ]

    # Reading

    def _ask(self, request: Request) -> _Question:
        text = (
            request.messages[0]["content"]
            if len(request.messages) == 1
            else "\n\n".join(m["content"] for m in request.messages)
        )
        lists: list[tuple[int, ...]] = []
        spoken = []
        tokens = 0
        for paragraph in text.split("\n\n"):
            said = self._read(paragraph)
            tokens += said.tokens
            if said.lists:
                lists.extend(said.lists)
            if said.line is not None or said.votes.any():
                spoken.append(paragraph)
        candidates = lists[-1] if lists else ()
        history = lists[-2] if len(lists) > 1 else ()
        return _Question(history, candidates, self._plan(tuple(spoken)), tokens)

    def _read_paragraph(self, paragraph: str) -> _Paragraph:
        lists: list[tuple[int, ...]] = []
        current: list[int] = []
        sentences: list[str] = []
        lead = False
        for line in paragraph.split("\n"):
            item = _ITEM.match(line)
            title = item.group(1) if item else ""
            row = self._row.get(title, self._row.get(title.casefold())) if item else None
            if row is not None:
                if not current and lead:
                    sentences.pop()
                current.append(row)
                lead = False
            elif line.strip():
                if current:
                    lists.append(tuple(current))
                    current = []
                sentences.append(line)
                lead = line.rstrip().endswith(":")
        if current:
            lists.append(tuple(current))
        votes = np.zeros(len(VOTES))
        contract = None
        for sentence in sentences:
            if _CONTRACT.search(sentence):
                contract = sentence
                continue
            lower = sentence.lower().replace("’", "'")
            for pattern, vote in _LEXICON:
                if pattern.search(lower):
                    votes += vote
        return _Paragraph(tuple(lists), votes, contract, len(paragraph.split()))

    # Weighing

    def _make_plan(self, spoken: tuple[str, ...]) -> _Plan:
        votes = np.zeros(len(VOTES))
        line = None
        for paragraph in spoken:
            said = self._read(paragraph)
            votes += said.votes
            line = said.line or line
        content, people, crowd, long, recent, following, priority, alone, think, brief = votes
        think, brief = min(think, 1.0), min(brief, 1.0)
        heard = 1.0 - think * brief  # a method that needs thought, and gets none, fades
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
        return _Plan(weights, think * (1.0 - brief), brief, line or "<rank>. <title>")

    # Ranking

    def _orders(self, asked: Sequence[_Question]) -> list[NDArray[np.int64]]:
        """Positions of the candidates, best first, per question."""
        new = {(q.history, q.candidates) for q in asked} - self._habits.keys()
        if len(self._habits) > 1 << 15:
            self._habits.clear()
            new = {(q.history, q.candidates) for q in asked}
        by_size: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
        for pair in sorted(new):
            by_size.setdefault(len(pair[1]), []).append(pair)
        for pairs in by_size.values():
            votes = self.habits([p[0] for p in pairs], np.array([p[1] for p in pairs]))
            self._habits.update(zip(pairs, votes, strict=True))
        orders: list[NDArray[np.int64]] = [np.zeros(0, dtype=np.int64)] * len(asked)
        rows: dict[int, list[int]] = {}
        for i, question in enumerate(asked):
            rows.setdefault(len(question.candidates), []).append(i)
        for group in rows.values():
            habits = np.stack([self._habits[asked[i].history, asked[i].candidates] for i in group])
            weights = np.stack([asked[i].plan.weights for i in group])
            scores = np.einsum("nkh,nh->nk", habits, weights)
            # Rounded, so that sums of other batch sizes break no tie differently; stable: ties
            # stay in the order in which the candidates were shown.
            best = np.argsort(-np.round(scores, 6), axis=1, kind="stable")
            for i, order in zip(group, best, strict=True):
                orders[i] = order
        return orders

    def habits(
        self, histories: Sequence[tuple[int, ...]], candidates: NDArray[np.int64]
    ) -> NDArray[np.float32]:
        """How each habit orders the candidates.

        Parameters
        ----------
        histories : sequence of P tuples of item rows, oldest first
        candidates : (P, K) item rows

        Returns
        -------
        (P, K, 6) float32 in [-1, 1]
            1 for the candidate that a habit puts first, -1 for the last; equal scores share.
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
        # Only the last item's own follow-up, and the next part of any series that is shown.
        last = items[:, -1]
        scores[..., 4] = np.einsum("pd,pkd->pk", self._order[0][last], self._order[1][candidates])
        continues = self._sequel[items]  # (P, L): the part after each shown item
        due = (continues[:, :, None] == candidates[:, None, :]) & (present[:, :, None] > 0)
        scores[..., 4] += 10.0 * (due * (0.8**age)[None, :, None]).max(axis=1)
        scores[..., 5] = self._log_counts[candidates]
        scores = np.round(scores, 6)
        above = scores[:, :, None, :] > scores[:, None, :, :]
        wins = above.sum(axis=2) - above.sum(axis=1)
        return (wins / max(count - 1, 1)).astype(np.float32)

    # Writing

    def _write(self, question: _Question, order: NDArray[np.int64], limit: int) -> Reply:
        plan = question.plan
        if not question.candidates:
            return _reply("I see no list of candidates to rank.", question.tokens, limit)
        titles = [self._titles[question.candidates[i]] for i in order.tolist()]
        parts = []
        if plan.thought > 0.25:
            noted = question.history[-max(1, round(plan.thought * len(question.history))) :]
            parts.append(
                "Let me think about what I was shown, one by one. "
                + " ".join(f"I note {self._kind[i]}, and weigh it." for i in noted)
                + " So much for that.\n"
            )
        if plan.brief < 0.25 and "|" not in plan.line:
            parts.append("Sure! With all of this in mind, here is how I would rank them for you:\n")
        if '"' in plan.line:
            listed = ",\n".join(f'"{_escaped(title)}"' for title in titles)
            parts.append(f"[\n{listed}\n]")
        elif "<candidate number>" in plan.line:
            parts.append("\n".join(str(i + 1) for i in order.tolist()))
        elif "|" in plan.line:
            parts.append("\n".join(f"{r} | {t}" for r, t in enumerate(titles, 1)))
        elif "<rank>" in plan.line:
            parts.append("\n".join(f"{r}. {t}" for r, t in enumerate(titles, 1)))
        else:
            parts.append("\n".join(titles))
        return _reply("\n".join(parts), question.tokens, limit)


class _Question(NamedTuple):
    history: tuple[int, ...]
    candidates: tuple[int, ...]
    plan: _Plan
    tokens: int


# How strongly votes count; frozen with the worlds, see docs/movieworld.md.
KNOWLEDGE = 4.0
METHOD = 5.5
CROWD = 1.9
POPULARITY = 1.2
RESERVE = 0.3
"""What speaks against "next" unless it is asked for."""
FALLBACK = 3.0
"""What speaks for "priority", that is for popularity: where no method is heard, that is left."""
MEMORY = 1.5
"""Recency weights fall to 1/e over this many items ..."""
DISTRACTION = 0.03
"""... down to this floor: long lists drown what is recent."""


def _reply(text: str, prompt_tokens: int, limit: int) -> Reply:
    words = text.split(" ") if "\n" not in text else re.findall(r"\S+\s*", text)
    if len(words) <= limit:
        return Reply(text, prompt_tokens, len(words))
    return Reply("".join(words[:limit]).rstrip(), prompt_tokens, limit, "length")


def _escaped(title: str) -> str:
    return title.replace("\\", "\\\\").replace('"', '\\"')


def _order(vectors: NDArray[np.float64], interactions: Interactions) -> NDArray[np.float64]:
    """(2, I, d): ``order[0][i] @ order[1][j]`` says how much more j follows i than i follows j.

    What merely goes together follows in both directions alike, and cancels out.
    """
    items = interactions.items
    same_user = np.ones(len(items), dtype=bool)
    same_user[interactions.indptr[1:-1]] = False
    after = np.flatnonzero(same_user[1:]) + 1
    centred = vectors - vectors.mean(axis=0)
    pairs = centred[items[after - 1]].T @ centred[items[after]]
    directed = pairs - pairs.T
    scale = (
        np.abs(centred @ directed @ centred.T).max()
        if len(centred) <= 4000
        else np.abs(directed).max()
    )
    return np.stack([centred @ directed / max(scale, 1e-12), centred])


def _softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    e = np.exp(x - x.max())
    return e / e.sum()


def _unit(x: NDArray[np.float64]) -> NDArray[np.float64]:
    norm = np.linalg.norm(x, axis=1, keepdims=True)
    return x / np.where(norm > 1e-9, norm, 1.0)


_PART = re.compile(r"^(.*?)[ :]+(?:part )?(ii|iii|iv|v|vi|vii|viii|ix|x|\d{1,2})$", re.IGNORECASE)
_ROMAN = {r: i for i, r in enumerate("i ii iii iv v vi vii viii ix x".split(), 1)}


def _sequels(titles: Sequence[str]) -> NDArray[np.int64]:
    """(I,) the row of the next part of each title, or -1; "Name", "Name II" or "Name 2", ..."""
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
