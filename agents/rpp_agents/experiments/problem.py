"""One problem of a study: whose prompts are chosen, who answers, and what the answers cost.

A prompt method need not walk: it names a *cell* (level of the history, role, reasoning, output) for
a user and asks. `Users.ask` answers from a table where there is one, and counts in the currency
that all methods share: calls of the model, those among them that were new, and tokens. What no
table can hold (rewritten sentences, candidates in another order) is put to the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env import RPPEnv, Step
from rpp_env.data.candidates import MAX_HISTORY
from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.prompting import Rankings
from rpp_env.recommenders.base import rank_all
from rpp_env.rewriting import Rewrite, check_rewritten
from rpp_env.sentences import AGENTS
from rpp_env.sentences.prompt import Prompt

__all__ = ["Asked", "Counted", "Ledger", "Problem", "Users", "remade"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BATCH = 512
_HISTORY = AGENTS.index("history_records")


@dataclass
class Ledger:
    """What was asked so far.

    Attributes
    ----------
    calls : int
        Prompts.
    unique : int
        Prompts that had not been asked before: what a cache leaves to pay for.
    tokens : int
        Of prompts and replies, the repeated ones too.
    """

    calls: int = 0
    unique: int = 0
    tokens: int = 0
    _cells: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool), repr=False)
    _texts: set[int] = field(default_factory=set, repr=False)

    def count(self, keys: Ints, tokens: Ints) -> None:
        """Count questions that are told apart by a number."""
        self._pay(tokens)
        if len(keys) and keys.max() >= len(self._cells):
            grown = np.zeros(max(2 * len(self._cells), int(keys.max()) + 1), bool)
            grown[: len(self._cells)] = self._cells
            self._cells = grown
        new = np.unique(keys)
        self.unique += int((~self._cells[new]).sum())
        self._cells[new] = True

    def count_texts(self, texts: Sequence[str], tokens: Ints) -> None:
        """Count questions that are told apart by their text."""
        self._pay(tokens)
        before = len(self._texts)
        self._texts.update(map(hash, texts))
        self.unique += len(self._texts) - before

    def _pay(self, tokens: Ints) -> None:
        self.calls += len(tokens)
        self.tokens += int(tokens.sum())


@dataclass(frozen=True)
class Asked:
    """Answers to N questions.

    Attributes
    ----------
    orders : (N, K) uint8 array
        Positions of the candidates as the task has them, best first.
    ranks, named, tokens : (N,) int64 arrays
        Rank of the target from 1 (0: not named), candidates named, tokens of prompt and reply.
    """

    orders: NDArray[np.uint8]
    ranks: Ints
    named: Ints
    tokens: Ints

    @property
    def rewards(self) -> Floats:
        """(N,) NDCG@10."""
        return np.asarray(ndcg(self.ranks), np.float64)


@dataclass(frozen=True)
class Users:
    """Tasks of some users, and who answers.

    Attributes
    ----------
    env : RPPEnv
        That replays a table, or asks the model. It is what policies play.
    live : RPPEnv
        The same tasks and the model itself; the same object where there is no table.
    ledger : Ledger
        What `ask` and `Counted` environments over these users have asked.
    """

    env: RPPEnv
    live: RPPEnv
    ledger: Ledger = field(default_factory=Ledger)

    def __post_init__(self) -> None:
        if self.env.tasks.digest != self.live.tasks.digest:
            raise InvalidOption("env and live must be about the same tasks")

    def __len__(self) -> int:
        return len(self.env.tasks)

    def uncounted(self) -> Users:
        """The same users with a ledger of their own."""
        return replace(self, ledger=Ledger())

    def environment(self, *, rewrite: Rewrite | None = None, **options: Any) -> RPPEnv:
        """A fresh environment of these users; `options` as the constructor of `RPPEnv` takes them.

        With `rewrite` it asks the model itself, since no table holds rewritten prompts.
        """
        return remade(self.env if rewrite is None else self.live, rewrite=rewrite, **options)

    @cached_property
    def items(self) -> tuple[int, ...]:
        """History items that each level shows to a user who has as many."""
        return self.env.rules.lengths.shown()

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of a user's distinct prompts, of which a cell is one; the first are the levels."""
        shape = self.env.space.shape
        assert shape is not None
        return shape

    @property
    def cells(self) -> int:
        """How many there are."""
        return int(np.prod(self.shape))

    def cell(self, *choices: int) -> int:
        """The index of a cell, from one choice for each axis of `shape`."""
        return int(np.ravel_multi_index(choices, self.shape))

    @cached_property
    def observations(self) -> NDArray[np.float32]:
        """(T, d): what is seen of each user before anything is asked."""
        seen, _ = self.env.reset(seed=0, options={"users": np.arange(len(self))})
        return np.ascontiguousarray(seen[:, 0])

    @cached_property
    def rewards(self) -> Floats:
        """(T, cells) NDCG@10 of every cell: full information, from a table only; not counted."""
        if self.env.table is None:
            raise InvalidOption("every cell's reward is known from a complete table only")
        return np.asarray(self.env.table.rewards().reshape(len(self), -1), np.float64)

    def shown(self, rows: Ints, cells: Ints) -> Ints:
        """(N,) history items that these cells show to these users."""
        level = np.unravel_index(cells, self.shape)[0]
        return np.asarray(
            self.env.rules.lengths.items_shown(level, self.env.tasks.history_lengths[rows]),
            np.int64,
        )

    def ask(
        self,
        rows: Ints,
        cells: Ints,
        *,
        rewrite: Rewrite | None = None,
        orders: Ints | None = None,
    ) -> Asked:
        """Ask about tasks `rows`, with one cell each.

        Parameters
        ----------
        rows, cells : (N,) int64 arrays
        rewrite : callable, optional
            Changes the sentences before they are asked.
        orders : (N, K) int64 array, optional
            Another order of the candidates for each question. Answers are told in the tasks' own.
        """
        rows, cells = np.asarray(rows, np.int64), np.asarray(cells, np.int64)
        table = self.env.table
        if table is not None and rewrite is None and orders is None:
            answer, rank = table.lookup(rows, cells)
            found = _asked(answer, rank)
            self.ledger.count(self._keys(rows, cells), found.tokens)
            return found
        parts = [
            self._put(
                rows[i : i + _BATCH],
                cells[i : i + _BATCH],
                rewrite,
                None if orders is None else orders[i : i + _BATCH],
            )
            for i in range(0, len(rows), _BATCH)
        ]
        return Asked(
            *(
                np.concatenate([getattr(part, name) for part in parts])
                for name in ("orders", "ranks", "named", "tokens")
            )
        )

    def prompts(self, rows: Ints, cells: Ints) -> list[Prompt]:
        """The questions themselves."""
        level, role, reasoning, output = np.unravel_index(cells, self.shape)
        actions = np.stack([role, np.zeros_like(level), reasoning, output], axis=1)
        choices = self.live.book.choose(actions)
        tasks = [self.live.tasks.task(row) for row in rows.tolist()]
        shown = self.shown(rows, cells).tolist()
        return [Prompt(t, c, n) for t, c, n in zip(tasks, choices, shown, strict=True)]

    def _put(self, rows: Ints, cells: Ints, rewrite: Rewrite | None, orders: Ints | None) -> Asked:
        prompts = self.prompts(rows, cells)
        if orders is not None:
            prompts = [
                replace(p, task=replace(p.task, candidates=_taken(p.task.candidates, order)))
                for p, order in zip(prompts, orders, strict=True)
            ]
        if rewrite is not None:
            rewritten = list(rewrite(prompts))
            check_rewritten(rewritten, prompts)
            prompts = rewritten
        recommender = self.live.recommender
        assert recommender is not None
        answer = rank_all(recommender, prompts, self.live.tasks.num_candidates)
        if orders is not None:
            answer = answer.reordered(orders)
        found = _asked(answer, answer.ranks(self.live.tasks.position[rows].astype(np.int64)))
        if rewrite is None and orders is None:
            self.ledger.count(self._keys(rows, cells), found.tokens)
        else:
            self.ledger.count_texts([prompt.text for prompt in prompts], found.tokens)
        return found

    def _keys(self, rows: Ints, cells: Ints) -> Ints:
        # Levels that show a short history whole are one prompt.
        _, *sentences = np.unravel_index(cells, self.shape)
        return _key(rows, self.shown(rows, cells), sentences, self.shape)


def _asked(answer: Rankings, rank: NDArray[np.integer[Any]]) -> Asked:
    tokens = answer.spent("prompt_tokens") + answer.spent("completion_tokens")
    order, named = answer.order.astype(np.uint8), answer.named.astype(np.int64)
    return Asked(order, rank.astype(np.int64), named, tokens)


def remade(env: RPPEnv, **changes: Any) -> RPPEnv:
    """A fresh environment of the same parts but for some, named as the constructor names them."""
    names = ("tasks", "rules", "book", "embeddings", "recommender", "table")
    return RPPEnv(**{name: getattr(env, name) for name in names} | changes)


def _key(rows: Ints, shown: Ints, sentences: Sequence[Any], shape: tuple[int, ...]) -> Ints:
    key = rows * (MAX_HISTORY + 1) + shown
    for chosen, size in zip(sentences, shape[1:], strict=True):
        key = key * size + chosen
    return np.asarray(key, np.int64)


def _taken(candidates: tuple[str, ...], order: Ints) -> tuple[str, ...]:
    return tuple(candidates[i] for i in order)


class Counted:
    """An environment as trainers take it, whose questions are counted in the ledger of its users.

    Everything else is the environment's own.
    """

    def __init__(self, env: RPPEnv, users: Users) -> None:
        self._env, self._users = env, users

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def step(self, actions: Ints) -> Step:
        """See `RPPEnv.step`."""
        step = self._env.step(actions)
        infos = step.infos
        tokens = infos["prompt_tokens"] + infos["completion_tokens"]
        said = np.delete(step.actions, _HISTORY, axis=1).T
        keys = _key(step.rows, infos["shown"], list(said), self._users.shape)
        self._users.ledger.count(keys, tokens)
        return step


@dataclass(frozen=True)
class Problem:
    """What a method is fitted on, and whom it is scored on.

    Attributes
    ----------
    train, validation, test : Users
        Methods see rewards of `train` alone; of the others nothing but observations, and those
        only when they are played.
    """

    train: Users
    validation: Users
    test: Users
