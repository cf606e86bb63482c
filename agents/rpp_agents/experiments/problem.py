"""A study's problem: the users whose prompts are chosen, the model, and the cost of answers.

A prompt method need not walk: it names a *cell*, the number of a prompt in its user's prompt space
(`rpp_env.prompting.PromptSpace`), and asks. `Users.ask` answers from a table where there is one,
and counts in the currency that all methods share: calls of the model, those among them that were
new, and tokens. What no table can hold (rewritten sentences, candidates in another order) is put to
the model itself.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.observing import first_observations
from rpp_env import RPPEnv, Step
from rpp_env.data.candidates import TaskBatch
from rpp_env.episode import Response
from rpp_env.errors import InvalidOption
from rpp_env.prompting import COSTS, Rankings
from rpp_env.recommenders.base import rank_all
from rpp_env.rewriting import Rewrite, check_rewritten

__all__ = ["MOST_CELLS", "Counted", "Ledger", "Problem", "Users", "joined", "remade", "tokens_of"]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BATCH = 512
MOST_CELLS = 1_000_000
"""Maximum prompts of a user that methods enumerate."""


@dataclass
class Ledger:
    """Counts of the prompts asked so far.

    Attributes
    ----------
    calls : int
        Prompts.
    unique : int
        Prompts that had not been asked before: what a cache leaves to pay for.
    tokens : int
        Of prompts and replies, the repeated ones too.
    proposals : int
        Calls of a model that writes prompts and ranks nothing; they are none of `calls`.
    """

    calls: int = 0
    unique: int = 0
    tokens: int = 0
    proposals: int = 0
    _cells: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool), repr=False)
    _others: set[int] = field(default_factory=set, repr=False)

    def count(self, keys: Ints, tokens: Ints) -> None:
        """Count questions that are identified by a number from 0."""
        self._pay(tokens)
        if len(keys) and keys.max() >= len(self._cells):
            grown = np.zeros(max(2 * len(self._cells), int(keys.max()) + 1), bool)
            grown[: len(self._cells)] = self._cells
            self._cells = grown
        new = np.unique(keys)
        self.unique += int((~self._cells[new]).sum())
        self._cells[new] = True

    def count_others(self, keys: Iterable[Hashable], tokens: Ints) -> None:
        """Count questions that are identified by a text, or by any other key."""
        self._pay(tokens)
        before = len(self._others)
        self._others.update(map(hash, keys))
        self.unique += len(self._others) - before

    def _pay(self, tokens: Ints) -> None:
        self.calls += len(tokens)
        self.tokens += int(tokens.sum())


@dataclass(frozen=True)
class Users:
    """Tasks of some users, and the model that answers.

    Attributes
    ----------
    env : RPPEnv
        That replays a table, or asks the model. It is what policies play.
    live : RPPEnv
        The same tasks and the model itself; the same object where there is no table.
    ledger : Ledger
        What `ask` and `Counted` environments over these users have asked.
    count : int, optional
        How many of the tasks are meant, from the first one; by default all.
    """

    env: RPPEnv
    live: RPPEnv
    ledger: Ledger = field(default_factory=Ledger)
    count: int | None = None

    def __post_init__(self) -> None:
        if self.env.tasks.digest != self.live.tasks.digest:
            raise InvalidOption("env and live must be about the same tasks")

    def __len__(self) -> int:
        return len(self.env.tasks) if self.count is None else self.count

    def uncounted(self) -> Users:
        """Return the same users with a new ledger."""
        return replace(self, ledger=Ledger())

    def first(self, count: int) -> Users:
        """Return the first tasks alone, with a new ledger."""
        return replace(self, ledger=Ledger(), count=min(count, len(self)))

    @property
    def rows(self) -> Ints:
        """(T,) the tasks."""
        return np.arange(len(self))

    def environment(self, *, rewrite: Rewrite | None = None, **options: Any) -> RPPEnv:
        """Make an environment of these users; `options` are those of `RPPEnv`'s constructor.

        With `rewrite` it asks the model itself, since no table holds rewritten prompts.
        """
        return remade(self.env if rewrite is None else self.live, rewrite=rewrite, **options)

    @property
    def shape(self) -> tuple[int, ...]:
        """Axes of a user's distinct prompts; a cell is a flat index.

        Raises
        ------
        InvalidOption
            Where there are infinitely many, or episodes are more than repeated questions.
        """
        return self.finite("this method")

    def finite(self, method: str, *, episodes: bool = False) -> tuple[int, ...]:
        """`shape`, or InvalidOption with the `method` that needs it.

        A method that plays whole `episodes` may be one of streams.
        """
        space, episode = self.env.space, self.env.episode
        if episode.changes and not episodes:
            raise InvalidOption(
                f"{method} asks for one answer at a time, and {episode.id} {episode.changes}: take "
                "a method that plays whole episodes (random, enumerate, or a trainer: method = "
                "'rpp')"
            )
        if space.shape is None:
            raise InvalidOption(
                f"{method} chooses one of a finite number of prompts, and {type(space).__name__} "
                "has infinitely many: give it a prompt space with a shape, such as a codebook, or "
                "take a trainer (method = 'rpp')"
            )
        if (count := math.prod(space.shape)) > MOST_CELLS:
            raise InvalidOption(
                f"{method} looks at every prompt of a user, and {type(space).__name__} has "
                f"{count:,}, which is more than {MOST_CELLS:,}: give fewer options or agents, or "
                "take a trainer (method = 'rpp')"
            )
        return space.shape

    @property
    def cells(self) -> int:
        """Number of distinct prompts of a user."""
        return math.prod(self.shape)

    def cell(self, *choices: int) -> int:
        """The index of a cell, from one choice for each axis of `shape`."""
        return int(np.ravel_multi_index(choices, self.shape))

    @cached_property
    def observations(self) -> NDArray[np.float32]:
        """(T, d): the first observations, before any prompt is asked."""
        return first_observations(self.env, self.rows)

    @cached_property
    def rewards(self) -> Floats:
        """(T, cells) NDCG@10 of every cell: full information, from a table only; not counted."""
        if self.env.table is None:
            raise InvalidOption("every cell's reward is known from a complete table only")
        rewards = self.env.table.rewards()[: len(self)]
        return np.asarray(rewards.reshape(len(self), -1), np.float64)

    def ask(
        self,
        rows: Ints,
        cells: Ints,
        *,
        rewrite: Rewrite | None = None,
        orders: Ints | None = None,
    ) -> Response:
        """Ask about tasks `rows`, with one cell each.

        Parameters
        ----------
        rows, cells : (N,) int64 arrays
        rewrite : callable, optional
            Changes the sentences before they are asked.
        orders : (N, K) int64 array, optional
            Another order of the candidates for each question. A recommender that states that it
            does not read their order gives the same answers again.

        Returns
        -------
        Response
            Of N questions, in the tasks' own order of candidates.
        """
        rows, cells = np.asarray(rows, np.int64), np.asarray(cells, np.int64)
        table = self.env.table
        answers = self.live.recommender or self.live.table
        orders = orders if getattr(answers, "reads_order", True) else None
        if table is not None and rewrite is None and orders is None:
            rankings, rank = table.lookup(rows, cells)
            found = self.env.episode.respond(rankings, TaskBatch(self.env.tasks, rows), rank)
            self.ledger.count(self.keys(rows, cells), tokens_of(found))
            return found
        parts = [slice(i, i + _BATCH) for i in range(0, len(rows), _BATCH)]
        return joined(
            [
                self._put(rows[i], cells[i], rewrite, None if orders is None else orders[i])
                for i in parts
            ]
        )

    def prompts(self, rows: Ints, cells: Ints, orders: Ints | None = None) -> Any:
        """Return the prompts, as the space makes them."""
        space = self.live.space
        tasks = TaskBatch(self.live.tasks, rows, orders)
        return space.prompts(space.at(cells, rows), tasks, rows)

    def keys(self, rows: Ints, cells: Ints) -> Ints:
        """(N,) keys of the prompts: equal if two cells are the same prompt for a user."""
        return rows * self.cells + self.env.space.alike(cells, rows)

    def _put(
        self, rows: Ints, cells: Ints, rewrite: Rewrite | None, orders: Ints | None
    ) -> Response:
        prompts = self.prompts(rows, cells, orders)
        if rewrite is not None:
            rewritten = list(rewrite(prompts))
            check_rewritten(rewritten, prompts)
            prompts = type(prompts)(rewritten)
        recommender, tasks = self.live.recommender, self.live.tasks
        if recommender is None:
            raise InvalidOption(
                "the setting's model is a table, which holds no answers to prompts that are "
                "rewritten or show the candidates in another order: leave out methods of these "
                "kinds, or name the model itself"
            )
        answer = rank_all(recommender, prompts, tasks.num_candidates, len(rows))
        found = self.live.episode.respond(answer, TaskBatch(tasks, rows, orders))
        keys = self.keys(rows, cells)
        if rewrite is not None:
            self.ledger.count_others([prompt.text for prompt in prompts], tokens_of(found))
        elif orders is not None:
            orders_of = map(bytes, orders.astype(np.uint16))
            self.ledger.count_others(zip(keys.tolist(), orders_of, strict=True), tokens_of(found))
        else:
            self.ledger.count(keys, tokens_of(found))
        return found


def tokens_of(found: Response) -> Ints:
    """(N,) tokens of prompts and replies."""
    return found.rankings.spent("prompt_tokens") + found.rankings.spent("completion_tokens")


def joined(parts: Sequence[Response]) -> Response:
    """Concatenate responses, without the texts."""
    rankings = [part.rankings for part in parts]
    return Response(
        Rankings(
            np.concatenate([one.order for one in rankings]),
            np.concatenate([one.named for one in rankings]),
            {name: np.concatenate([one.spent(name) for one in rankings]) for name in COSTS},
        ),
        np.concatenate([part.rank for part in parts]),
        np.concatenate([part.rewards for part in parts]),
    )


def remade(env: RPPEnv, **changes: Any) -> RPPEnv:
    """Make an environment with some of the constructor's arguments changed."""
    names = ["tasks", "rules", "book", "embeddings", "recommender", "table"]
    parts = {name: getattr(env, name) for name in names}
    if parts["book"] is None:  # the space is not made of one
        parts |= {"space": env.space, "contexts": env.contexts}
    return RPPEnv(**parts | changes)


class Counted:
    """An environment for trainers whose prompts are counted in the ledger of its users.

    Everything else is the environment's own.
    """

    def __init__(self, env: RPPEnv, users: Users) -> None:
        self._env, self._users = env, users

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    @property
    def recommender(self) -> Any:
        """The recommender that answers, for solvers that read it; also where a table replays it."""
        return self._users.live.recommender

    def step(self, actions: NDArray[Any]) -> Step:
        """See `RPPEnv.step`."""
        step, space = self._env.step(actions), self._env.space
        infos, ledger = step.infos, self._users.ledger
        tokens = infos["prompt_tokens"] + infos["completion_tokens"]
        if not self._env.tabulable:
            prompts = (key.tobytes() for key in np.ascontiguousarray(space.keys(step.state)))
            asked = _asked(step.tasks, len(step.rows))
            ledger.count_others(zip(*asked, prompts, strict=True), tokens)
        else:
            rows, cells = step.rows, space.cell(step.state)
            if len(step.tasks) > len(rows):  # an action is for a group (`Episode.answers`)
                rows = step.tasks.rows
                cells, tokens = (np.resize(one, len(rows)) for one in (cells, tokens))
            ledger.count(self._users.keys(rows, cells), tokens)
        return step


def _asked(tasks: TaskBatch, count: int) -> list[Iterable[Hashable]]:
    """Return what identifies the first tasks: rows, and the candidates' order if it changes."""
    rows, shown = tasks.rows[:count].tolist(), tasks.shown
    return [rows] if shown is None else [rows, map(bytes, shown[:count].astype(np.uint16))]


@dataclass(frozen=True)
class Problem:
    """The users that a method is fitted on, and those that it is scored on.

    Attributes
    ----------
    train, validation, test : Users
        Methods see rewards of `train` alone; of the others nothing but observations, and those
        only when they are played.
    """

    train: Users
    validation: Users
    test: Users
