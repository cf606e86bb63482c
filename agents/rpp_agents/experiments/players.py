"""Run a fitted method on users and record its rankings.

==================  =============================================================================
player              answers
==================  =============================================================================
`Asking`            with prompts that it names: one, or several whose orders are merged
`Playing`           with an episode of the environment, played by a policy
==================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.problem import Users, joined, tokens_of
from rpp_env.episode import Response
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Policy
from rpp_env.evaluation.evaluate import episodes
from rpp_env.metrics import ndcg
from rpp_env.prompting import COSTS, Rankings
from rpp_env.rewriting import Rewrite

__all__ = [
    "Asking",
    "Played",
    "Player",
    "Playing",
    "Unasked",
    "asking_best",
    "borda",
    "borda_points",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

_BATCH = 512


@dataclass(frozen=True)
class Played:
    """Rankings of S calls for each of T tasks.

    Attributes
    ----------
    calls : sequence of Response
        One for each call, of all tasks.
    cells : (T, S) int64 array or None
        The prompts by their number; None where they are none of the space's.
    merge : bool
        The calls are one answer, merged by Borda count; else each is an answer.
    one_task : bool
        All calls ask for one item; what asks for several cannot be merged.
    """

    calls: Sequence[Response]
    cells: Ints | None
    merge: bool = False
    one_task: bool = True

    @cached_property
    def orders(self) -> NDArray[np.integer[Any]]:
        """(T, S, K) positions of the candidates, best first."""
        return np.stack([call.rankings.order for call in self.calls], axis=1)

    @cached_property
    def named(self) -> Ints:
        """(T, S) number of candidates that were named."""
        return np.stack([call.rankings.named for call in self.calls], axis=1).astype(np.int64)

    @cached_property
    def ranks(self) -> Ints:
        """(T, S) rank of the target from 1; 0 where it was not named."""
        return np.stack([call.rank for call in self.calls], axis=1).astype(np.int64)

    @cached_property
    def tokens(self) -> Ints:
        """(T, S) tokens of prompt and reply."""
        return np.stack([tokens_of(call) for call in self.calls], axis=1)

    @property
    def merged(self) -> Ints:
        """(T,) rank of the target where the orders are merged."""
        return borda(self.orders, self.named, self.ranks)

    @property
    def scores(self) -> dict[str, Floats]:
        """(T,) NDCG@10: ``score`` is what a method is compared by.

        That is the mean over the calls, never the best of them, or the one merged answer. ``first``
        is what one call gives, ``last`` the last one, ``merged`` all of them merged, or, where they
        cannot be, their mean.
        """
        each = ndcg(self.ranks)
        mean = each.mean(axis=1)
        merged = ndcg(self.merged) if self.one_task else mean
        return {
            "score": merged if self.merge else mean,
            "first": each[:, 0],
            "last": each[:, -1],
            "merged": merged,
        }


def borda(orders: NDArray[Any], named: Ints, ranks: Ints) -> Ints:
    """(T,) rank of the target when S orders of the same candidates are merged by Borda count.

    A candidate in place p of K earns K - p from each order that names it, and nothing from the
    others. Ties are broken by the place in the first order. A candidate that no order names is not
    named by the merged one.

    Parameters
    ----------
    orders : (T, S, K) array of int
        Positions of the candidates, best first.
    named : (T, S) int64 array
        How many of each order count.
    ranks : (T, S) int64 array
        Of the target, from 1; 0 where it is not named.
    """
    count, _, K = orders.shape
    points = borda_points(orders, named).sum(axis=1)  # (T, K)
    total = points * K + (K - 1 - np.argsort(orders[:, 0]))  # the first order breaks ties
    found = ranks > 0
    call = found.argmax(axis=1)  # some call that names the target
    rows = np.arange(count)
    target = orders[rows, call, np.maximum(ranks[rows, call] - 1, 0)]
    better = (total > total[rows, target][:, None]).sum(axis=1)
    return np.where(found.any(axis=1), better + 1, 0)


def borda_points(orders: NDArray[Any], named: Ints) -> Ints:
    """(..., K) Borda points of the candidates from orders (..., K), whose first `named` count."""
    place = np.argsort(orders, axis=-1)  # of each candidate, from 0
    return np.where(place < named[..., None], orders.shape[-1] - place, 0)


class Unasked:
    """Chooses prompts that were not asked for a user yet; any prompt once all were asked.

    Cells that ask a user the same (`PromptSpace.alike`) are one prompt.
    """

    def __init__(self, users: Users) -> None:
        every = np.arange(users.cells)
        self._first = np.empty((len(users), users.cells), np.int32)
        for row in range(len(users)):
            self._first[row] = users.env.space.alike(every, np.full(users.cells, row))
        self._asked = np.zeros(self._first.shape, bool)

    def best(self, rows: Ints, values: NDArray[Any]) -> Ints:
        """(B,) the cell of highest value (B, cells) for each of `rows`, which then is asked."""
        first = self._first[rows]
        asked = np.take_along_axis(self._asked[rows], first, axis=1)
        cells: Ints = np.where(asked, -np.inf, values).argmax(1)
        self._asked[rows, first[np.arange(len(rows)), cells]] = True
        return cells


def asking_best(values: Callable[[Users], NDArray[Any]], calls: int = 1) -> Asking:
    """Ask the `calls` prompts with the highest values (T, cells), and merge the answers."""
    if calls < 1:
        raise InvalidOption(f"calls={calls}: give 1 or more")

    def choose(users: Users, _: np.random.Generator) -> Ints:
        found = values(users)
        if calls == 1:
            return np.asarray(found.argmax(axis=1)[:, None], np.int64)
        unasked = Unasked(users)
        return np.stack([unasked.best(users.rows, found) for _ in range(calls)], axis=1)

    return Asking(choose, merge=calls > 1)


class Player(Protocol):
    """A fitted method."""

    def play(self, users: Users, seed: int) -> Played:
        """Run on every task; random choices follow from `seed`."""
        ...


@dataclass(frozen=True)
class Asking:
    """Player that chooses prompts by their indices and asks the model.

    Attributes
    ----------
    choose : callable
        From users and a random generator to (T, S) cells.
    rewrite : callable, optional
        Changes the sentences before they are asked.
    reorder : bool
        Show the candidates in a fresh random order at every call after the first.
    merge : bool
        See `Played`.
    own_words : bool
        The prompts are none of the space's: no cells are reported.
    """

    choose: Callable[[Users, np.random.Generator], Ints]
    rewrite: Rewrite | None = None
    reorder: bool = False
    merge: bool = False
    own_words: bool = False

    def play(self, users: Users, seed: int) -> Played:
        """See `Player`."""
        rng = np.random.default_rng(seed)
        cells = np.asarray(self.choose(users, rng), np.int64)
        K = users.env.tasks.num_candidates
        found = []
        for call in range(cells.shape[1]):
            orders = None
            if self.reorder and call:
                orders = rng.permuted(np.tile(np.arange(K), (len(cells), 1)), axis=1)
            asked = users.ask(users.rows, cells[:, call], rewrite=self.rewrite, orders=orders)
            found.append(asked)
        return Played(found, None if self.own_words else cells, self.merge)


@dataclass(frozen=True)
class Playing:
    """Player that runs an episode with a policy, greedily.

    Attributes
    ----------
    policy : Policy
    env : callable, optional
        From users to the environment that is played (with rewriting, or with other agents held
        fixed); theirs by default.
    """

    policy: Policy
    env: Callable[[Users], Any] | None = None

    def play(self, users: Users, seed: int) -> Played:
        """See `Player`."""
        env = users.env if self.env is None else self.env(users)
        finite = env.tabulable
        cells = np.empty((len(users), env.max_cycles), np.int64)
        parts: list[list[Response]] = [[] for _ in range(env.max_cycles)]
        played = episodes(self.policy, env, size=_BATCH, seed=seed, tasks=len(users))
        for rows, t, step in played:
            infos = step.infos
            cost = {name: infos[name] for name in COSTS}
            rankings = Rankings(step.orders, infos["named"], cost)
            parts[t].append(Response(rankings, infos["rank"], step.rewards))
            if finite:
                cells[rows, t] = env.space.cell(step.state)
        found = [joined(part) for part in parts]
        return Played(found, cells if finite else None, one_task=env.episode.one_task)
