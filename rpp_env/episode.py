"""Episodes: which tasks are played at each step, and the reward of an answer.

An `Episode` returns the tasks of a batch of users at a step (`TaskBatch`), and turns a
recommender's rankings into a `Response`: the rankings that users see, the ranks and the rewards.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.metrics import ndcg
from rpp_env.options import check_fields, check_numbers
from rpp_env.prompting import Rankings

__all__ = ["Episode", "Response"]

Ints = NDArray[np.int64]


class Response(NamedTuple):
    """Result of a step.

    Attributes
    ----------
    rankings : Rankings
        Rankings in the tasks' own positions.
    rank : (B,) int array
        Rank of the item that the user chose next, from 1; 0 where it was not named.
    rewards : (B,) float64 array
    """

    rankings: Rankings
    rank: NDArray[np.integer[Any]]
    rewards: NDArray[np.float64]


@dataclass(frozen=True)
class Episode:
    """Length of an episode, the tasks of its steps and the reward of an answer."""

    id: str
    """Environment id, e.g. ``"RPP-v0"``."""
    max_cycles: int
    """Steps of an episode."""
    order: Literal["task", "step"] = "task"
    """Candidates keep one order per task, or are reordered for every user and step."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "max_cycles")

    @property
    def bandit(self) -> bool:
        """Whether an episode has one step and ends by termination; longer ones are truncated."""
        return self.max_cycles == 1

    def tasks(
        self, tasks: TaskSet, rows: Ints, t: Ints, *, visit: Ints | None = None, seed: int = 0
    ) -> TaskBatch:
        """Return the histories, candidates and targets of the tasks at `rows` (B,), step `t` (B,).

        The order of the candidates depends on `visit` (B,), the number of episodes of the task that
        were begun before, and on `seed`.
        """
        if self.order == "task":
            return TaskBatch(tasks, rows)
        # Each order depends on these numbers alone, so it is the same in every batch.
        shown = np.empty((len(rows), tasks.num_candidates), np.int64)
        tokens = tasks.dataset.user_tokens
        times = np.zeros_like(rows) if visit is None else visit
        for i, row in enumerate(rows.tolist()):
            user = int.from_bytes(tokens[tasks.users[row]].encode(), "little")
            key = [seed, user, tasks.draw[row], times[i], t[i]]
            shown[i] = np.random.default_rng(key).permutation(shown.shape[1])
        return TaskBatch(tasks, rows, shown)

    def respond(
        self, rankings: Rankings, tasks: TaskBatch, rank: NDArray[np.integer[Any]] | None = None
    ) -> Response:
        """Return the `Response` to `rankings` of the candidates of `tasks` as they are shown.

        `rank` (B,) holds the targets' ranks where they are known already, as from a table.
        """
        if tasks.shown is not None:
            rankings = rankings.reordered(tasks.shown)
        if rank is None:
            rank = rankings.ranks(tasks.tasks.position.take(tasks.rows))
        worth = reward_by_rank(rankings.order.shape[1])
        return Response(rankings, rank, worth.take(rank))


@lru_cache(maxsize=16)
def reward_by_rank(candidates: int) -> NDArray[np.float64]:
    """(K + 1,) float64, read-only: NDCG@10 by the target's rank; 0 for rank 0 (not named)."""
    worth: NDArray[np.float64] = ndcg(np.arange(candidates + 1), 10)
    worth.setflags(write=False)
    return worth
