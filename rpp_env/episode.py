"""Episodes: which tasks are played at each step, and the reward of an answer.

An `Episode` returns the tasks of a batch of users at a step (`TaskBatch`), and turns a
recommender's rankings into a `Response`: the rankings that users see, the ranks and the rewards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.options import check_fields, check_numbers
from rpp_env.prompting import Rankings

__all__ = ["ACCEPTED", "Episode", "Feedback", "Grouped", "Response", "Stream"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]
Feedback = Literal["none", "reward", "rank", "accepted"]
"""What agents see of a user's response to the last list: nothing, its reward, the rank of the item
that the user chose, or only whether that item was among the first three."""

ACCEPTED = 3
"""Lowest rank of the chosen item at which a user accepts a list (feedback ``"accepted"``)."""


class Response(NamedTuple):
    """Result of a step.

    Attributes
    ----------
    rankings : Rankings
        Rankings in the tasks' own positions.
    rank : (B,) int array
        Rank of the item that the user chose next, from 1; 0 where it was not named.
    rewards : (B,) float64 array
    shown : (B,) float32 array or None
        What the agents see of the user's response, 0 to 1, more being better; None: nothing.
    """

    rankings: Rankings
    rank: NDArray[np.integer[Any]]
    rewards: NDArray[np.float64]
    shown: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class Episode:
    """Length of an episode, the tasks of its steps and the reward of an answer."""

    id: str
    """Environment id, e.g. ``"RPP-v0"``."""
    max_cycles: int
    """Steps of an episode."""
    order: Literal["task", "step"] = "task"
    """Candidates keep one order per task, or are reordered for every user and step."""
    feedback: Feedback = field(default="none", kw_only=True)
    """What the observations show of the user's response to the last list: nothing, its reward, the
    rank of the chosen item (1 at the top, falling linearly to 0 where it was not named), or 1 where
    that item was among the first three."""
    one_task: bool = field(default=True, kw_only=True)
    """Whether all steps of an episode ask for one item, as tables of answers need it."""
    discount: float = field(default=0.95, kw_only=True)
    """Discount factor (gamma) of trainers whose options give none."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "max_cycles")
        check_numbers(self, 0, "discount", highest=1)

    @property
    def answers(self) -> int:
        """Number of the recommender's answers that a step of one user takes."""
        return 1

    @property
    def bandit(self) -> bool:
        """Return whether episodes have one step, and end by termination, not by truncation."""
        return self.max_cycles == 1

    @property
    def changes(self) -> str:
        """Return what changes at every step so that no table holds the answers; empty: nothing."""
        if self.order == "step":
            return "reorders the candidates at every step"
        return "" if self.one_task else "asks for another item at every step"

    def check_table(self, hint: str) -> None:
        """Check that a table can hold the answers of such episodes.

        Raises
        ------
        InvalidOption
            With the reason, and `hint`, what to do instead.
        """
        if self.changes:
            raise InvalidOption(f"{self.id} {self.changes}, which no table can hold: {hint}")

    def every(self, tasks: TaskSet) -> TaskSet:
        """Return all tasks of the episodes that begin with `tasks`; `at` selects among them."""
        return tasks

    def at(self, rows: Ints, t: Ints) -> Ints:  # noqa: ARG002 - by default an episode has one task
        """(B,) row of `every` at step `t` (B,) of the episodes at `rows` (B,)."""
        return rows

    def seen(self, known: Floats) -> Floats:
        """Return the (T, w) block that observations show, given what is `known` of `every`."""
        return known

    def tasks(
        self, tasks: TaskSet, rows: Ints, t: Ints, *, visit: Ints | None = None, seed: int = 0
    ) -> TaskBatch:
        """Return the histories, candidates and targets of the tasks at `rows` (B,), step `t` (B,).

        The order of the candidates depends on `visit` (B,), the number of episodes of the task that
        were begun before, and on `seed`. There may be a multiple of B tasks: then each prompt is
        for several of them, and the first B are those at `rows`.
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
        candidates = tasks.tasks.num_candidates
        shown = shown_by_rank(self.feedback, candidates)
        return Response(
            rankings,
            rank,
            reward_by_rank(candidates).take(rank),
            None if shown is None else shown.take(rank),
        )


@dataclass(frozen=True, kw_only=True, eq=False)
class Stream(Episode):
    """Episodes of several tasks: each step asks for the user's next item.

    After a step the observation shows the next task, whose history includes the item of the last
    one; after the last step it shows the last task.
    """

    whole: TaskSet
    """The tasks of all steps, grouped by episode, `max_cycles` of them each."""
    one_task: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        users, steps = self.whole.users, self.max_cycles
        if (
            self.order != "task"
            or len(users) % steps
            or (len(users) and (users.reshape(-1, steps) != users[::steps, None]).any())
        ):
            raise InvalidOption(
                f"a stream of {steps} steps takes {steps} tasks per user, grouped by user and in "
                f"their own order; got {len(users)} tasks, order={self.order!r}"
            )

    @property
    def first(self) -> TaskSet:
        """The first task of every episode: the tasks of an `RPPEnv`."""
        return self.whole.subset(np.arange(0, len(self.whole), self.max_cycles))

    def every(self, tasks: TaskSet) -> TaskSet:
        """See `Episode.every`; InvalidOption for tasks that are not `first`."""
        if len(tasks) * self.max_cycles != len(self.whole) or not np.array_equal(
            tasks.users, self.whole.users[:: self.max_cycles]
        ):
            raise InvalidOption(
                f"{self.id} plays {len(self.whole) // self.max_cycles} users in an order of its "
                f"own, but {len(tasks)} tasks of others are given: use episode.first"
            )
        return self.whole

    def at(self, rows: Ints, t: Ints) -> Ints:
        """See `Episode.at`."""
        return rows * self.max_cycles + np.minimum(t, self.max_cycles - 1)

    def tasks(
        self,
        tasks: TaskSet,  # noqa: ARG002 - compared by `every`
        rows: Ints,
        t: Ints,
        *,
        visit: Ints | None = None,
        seed: int = 0,
    ) -> TaskBatch:
        """See `Episode.tasks`."""
        return super().tasks(self.whole, self.at(rows, t), t, visit=visit, seed=seed)


@dataclass(eq=False, slots=True)
class _Together(TaskBatch):
    """Tasks of which those of the first `acting` users have prompts, and the rest shares them."""

    acting: int = 0


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped(Episode):
    """Episodes in which an action is for a group of users, and is paid the mean of their rewards.

    Every task can be played, and the others of its group are asked with it under the same prompt.
    Rankings and ranks are those of the task's own user; costs are sums over the group.
    """

    members: Ints
    """(T, G) rows of each task's group, its own first."""

    @classmethod
    def of(cls, episode: Episode, count: int, size: int, seed: int = 0) -> Grouped:
        """Draw groups of `size` among `count` tasks; a single one where `size` is more.

        Where `size` does not divide `count`, users of the first group are asked with the last one,
        too, so that all groups have the same size.
        """
        size = min(size, count)
        order = np.random.default_rng(seed).permutation(count)
        place = np.arange(count)
        within = (place[:, None] + np.arange(size)) % size
        members = np.empty((count, size), np.int64)
        members[order] = order[((place // size * size)[:, None] + within) % count]
        return cls(
            episode.id,
            episode.max_cycles,
            members=members,
            feedback=episode.feedback,
            discount=episode.discount,
        )

    @property
    def answers(self) -> int:
        """See `Episode.answers`: one for each of the group."""
        return int(self.members.shape[1])

    def seen(self, known: Floats) -> Floats:
        """See `Episode.seen`: the mean of the group, equal to the bit for all of it."""
        members = np.sort(self.members, axis=1).T
        total = sum(known[rows].astype(np.float64) for rows in members)
        return np.asarray(total / len(members), np.float32)

    def tasks(
        self,
        tasks: TaskSet,
        rows: Ints,
        t: Ints,  # noqa: ARG002 - all steps ask for one item
        *,
        visit: Ints | None = None,  # noqa: ARG002 - candidates keep their order
        seed: int = 0,  # noqa: ARG002
    ) -> TaskBatch:
        """See `Episode.tasks`: the tasks at `rows`, then the others of their groups."""
        return _Together(tasks, self.members[rows].T.ravel(), acting=len(rows))

    def respond(
        self, rankings: Rankings, tasks: TaskBatch, rank: NDArray[np.integer[Any]] | None = None
    ) -> Response:
        """See `Episode.respond`; tasks that do not come from `tasks` are answered one by one."""
        each = super().respond(rankings, tasks, rank)
        if not isinstance(tasks, _Together):
            return each
        count, every = tasks.acting, each.rankings
        own = Rankings(
            every.order[:count],
            every.named[:count],
            {name: x.reshape(-1, count).sum(axis=0) for name, x in every.cost.items()},
            None if every.texts is None else every.texts[:count],
        )
        # Sorted first: the mean of a group does not depend on whose row it is, to the bit.
        rewards = np.sort(each.rewards.reshape(-1, count), axis=0).mean(axis=0)
        shown = None if each.shown is None else each.shown.reshape(-1, count).mean(axis=0)
        return Response(own, each.rank[:count], rewards, shown)


@lru_cache(maxsize=16)
def reward_by_rank(candidates: int) -> NDArray[np.float64]:
    """(K + 1,) float64, read-only: NDCG@10 by the target's rank; 0 for rank 0 (not named)."""
    worth: NDArray[np.float64] = ndcg(np.arange(candidates + 1), 10)
    worth.setflags(write=False)
    return worth


_SHOWN: dict[str, Callable[[Ints], NDArray[Any]]] = {
    "reward": lambda ranks: reward_by_rank(len(ranks) - 1),
    "rank": lambda ranks: np.where(ranks > 0, (len(ranks) - ranks) / (len(ranks) - 1), 0),
    "accepted": lambda ranks: (ranks > 0) & (ranks <= ACCEPTED),
}


@lru_cache(maxsize=16)
def shown_by_rank(feedback: Feedback, candidates: int) -> NDArray[np.float32] | None:
    """(K + 1,) float32, read-only: what a user shows by the target's rank; None for nothing."""
    if feedback == "none":
        return None
    shown = np.asarray(_SHOWN[feedback](np.arange(candidates + 1)), np.float32)
    shown.setflags(write=False)
    return shown
