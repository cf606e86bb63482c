"""How a fitted method answers for users, and what comes of it.

==================  =============================================================================
player              answers
==================  =============================================================================
`Asking`            with prompts that it names: one, or several whose orders are merged
`Playing`           with an episode of the environment, played by a policy
==================  =============================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.problem import Users
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Policy
from rpp_env.evaluation.evaluate import episodes
from rpp_env.metrics import ndcg
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
    """Answers for T tasks, S calls each.

    Attributes
    ----------
    orders : (T, S, K) uint8 array
        Positions of the candidates, best first.
    ranks, named, tokens : (T, S) int64 arrays
        Rank of the target from 1 (0: not named), candidates named, tokens of prompt and reply.
    prompts : (T, S, 4) int64 array
        Role, history items shown, reasoning and output; -1 where the sentences are no book's.
    merge : bool
        The calls are one answer, merged by Borda count; else each is an answer.
    """

    orders: NDArray[np.uint8]
    ranks: Ints
    named: Ints
    tokens: Ints
    prompts: Ints
    merge: bool = False

    @property
    def merged(self) -> Ints:
        """(T,) rank of the target where the orders are merged."""
        return borda(self.orders, self.named, self.ranks)

    @property
    def scores(self) -> dict[str, Floats]:
        """(T,) NDCG@10: ``score`` is what a method is compared by.

        That is the mean over the calls, never the best of them, or the one merged answer. ``first``
        is what one call gives, ``last`` the last one, ``merged`` all of them merged.
        """
        each, merged = ndcg(self.ranks), ndcg(self.merged)
        return {
            "score": merged if self.merge else each.mean(axis=1),
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
    """(..., K) what each candidate earns from orders (..., K), of which `named` (...) count."""
    place = np.argsort(orders, axis=-1)  # of each candidate, from 0
    return np.where(place < named[..., None], orders.shape[-1] - place, 0)


class Unasked:
    """Chooses prompts that a user was not asked yet; any for one who was asked all of them.

    Cells that differ in a level that shows a short history whole are one prompt.
    """

    def __init__(self, users: Users) -> None:
        levels, *_ = users.shape
        level = np.arange(users.cells).reshape(levels, -1)[:, 0]
        self._shown = np.stack([users.shown(np.arange(len(users)), c) for c in level[:, None]], 1)
        self._asked = np.zeros((len(users), levels, users.cells // levels), bool)

    def best(self, rows: Ints, values: NDArray[Any]) -> Ints:
        """(B,) the cell of highest value (B, cells) for each of `rows`, which then is asked."""
        asked = self._asked[rows].reshape(len(rows), -1)
        cells: Ints = np.where(asked, -np.inf, values).argmax(1)
        level, sentences = np.divmod(cells, self._asked.shape[2])
        same = self._shown[rows] == self._shown[rows, level][:, None]
        self._asked[rows, :, sentences] |= same
        return cells


def asking_best(values: Callable[[Users], NDArray[Any]], calls: int = 1) -> Asking:
    """Asks the `calls` prompts of highest value (T, cells), best first, and merges the answers."""
    if calls < 1:
        raise InvalidOption(f"calls={calls}: give 1 or more")

    def choose(users: Users, _: np.random.Generator) -> Ints:
        found, unasked, rows = values(users), Unasked(users), np.arange(len(users))
        return np.stack([unasked.best(rows, found) for _ in range(calls)], axis=1)

    return Asking(choose, merge=calls > 1)


class Player(Protocol):
    """A fitted method."""

    def play(self, users: Users, seed: int) -> Played:
        """Answer for every task; what is drawn follows from `seed`."""
        ...


@dataclass(frozen=True)
class Asking:
    """Names cells and asks.

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
        The sentences are not those of the book: no indices are told.
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
        count, calls = cells.shape
        rows = np.arange(count)
        K = users.env.tasks.num_candidates
        found = []
        for call in range(calls):
            orders = None
            if self.reorder and call:
                orders = rng.permuted(np.tile(np.arange(K), (count, 1)), axis=1)
            found.append(users.ask(rows, cells[:, call], rewrite=self.rewrite, orders=orders))
        flat = cells.T.ravel()
        _, role, reasoning, output = np.unravel_index(flat, users.shape)
        shown = users.shown(np.tile(rows, calls), flat)
        told = np.stack([role, shown, reasoning, output], axis=1)
        told = told.reshape(calls, count, 4).transpose(1, 0, 2)
        return Played(
            np.stack([a.orders for a in found], axis=1),
            np.stack([a.ranks for a in found], axis=1),
            np.stack([a.named for a in found], axis=1),
            np.stack([a.tokens for a in found], axis=1),
            np.full_like(told, -1) if self.own_words else told,
            self.merge,
        )


@dataclass(frozen=True)
class Playing:
    """Plays an episode with a policy, greedily.

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
        tasks, steps, K = len(users), env.max_cycles, users.env.tasks.num_candidates
        orders = np.empty((tasks, steps, K), np.uint8)
        ranks, named, tokens, shown = np.empty((4, tasks, steps), np.int64)
        prompts = np.empty((tasks, steps, 4), np.int64)
        played = episodes(self.policy, env, size=_BATCH, greedy=True, seed=seed)
        for rows, t, step in played:
            infos = step.infos
            ranks[rows, t], named[rows, t] = infos["rank"], infos["named"]
            tokens[rows, t] = infos["prompt_tokens"] + infos["completion_tokens"]
            shown[rows, t] = infos["shown"]
            prompts[rows, t] = step.actions
            orders[rows, t] = step.orders
        prompts[..., 1] = shown
        return Played(orders, ranks, named, tokens, prompts)
