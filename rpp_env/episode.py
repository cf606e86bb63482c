"""Time: what is asked at each step of an episode, and what comes of the answer.

An `Episode` gives the tasks of a batch of users at a step (`TaskBatch`), and turns the rankings of
a recommender into a `Response`: what the users are shown, and what it is worth.
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
    """What came of a step.

    Attributes
    ----------
    rankings : Rankings
        In the tasks' own positions.
    rank : (B,) int array
        Of the item that the user really chose next, from 1; 0 where it was not named.
    rewards : (B,) float64 array
    """

    rankings: Rankings
    rank: NDArray[np.integer[Any]]
    rewards: NDArray[np.float64]


@dataclass(frozen=True)
class Episode:
    """How long an episode is, what is asked at each step, and what an answer is worth."""

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
        """One step: the episode ends by termination; longer ones are truncated."""
        return self.max_cycles == 1

    def tasks(
        self, tasks: TaskSet, rows: Ints, t: Ints, *, visit: Ints | None = None, seed: int = 0
    ) -> TaskBatch:
        """The histories, candidates and targets of the tasks at `rows` (B,) at step `t` (B,).

        `visit` (B,), how often each task was begun before, and `seed` decide how candidates are
        reordered.
        """
        if self.order == "task":
            return TaskBatch(tasks, rows)
        # Each order depends on nothing but these, so that it is the same in every batch.
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
        """What `rankings` of the candidates of `tasks`, as they are shown, come to.

        `rank` (B,) are the targets' ranks, where they are known already, as from a table.
        """
        if tasks.shown is not None:
            rankings = rankings.reordered(tasks.shown)
        if rank is None:
            rank = rankings.ranks(tasks.tasks.position.take(tasks.rows))
        worth = reward_by_rank(rankings.order.shape[1])
        return Response(rankings, rank, worth.take(rank))


@lru_cache(maxsize=16)
def reward_by_rank(candidates: int) -> NDArray[np.float64]:
    """(K + 1,) float64, read-only: NDCG@10 of a target by its rank; 0 for rank 0, not named."""
    worth: NDArray[np.float64] = ndcg(np.arange(candidates + 1), 10)
    worth.setflags(write=False)
    return worth
