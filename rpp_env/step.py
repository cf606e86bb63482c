"""What a step gives back, made when somebody asks for it.

A `Moment` is where a batch of users stands. No array of a moment is ever changed: a step makes the
next moment. So the observations and infos of a step can wait until they are asked for, and those
who only want rewards do not pay for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.metrics import hit, mrr, ndcg
from rpp_env.observation import Observer
from rpp_env.prompting import COSTS, Rankings
from rpp_env.rules import Rules
from rpp_env.sentences.prompt import Prompt

__all__ = [
    "COUNTS",
    "IDENTIFIERS",
    "METRICS",
    "Moment",
    "Scene",
    "Step",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

METRICS = ("ndcg@1", "ndcg@5", "ndcg@10", "hit@10", "mrr")
COUNTS = (
    "rank",
    "named",
    "shown",
    "prompt_tokens",
    "completion_tokens",
    "trimmed",
    "masked_actions",
    "rewritten",
    "rewrite_fallbacks",
)
IDENTIFIERS = ("user",)
"""Infos that name something: their numbers have no order, and their mean has no meaning."""
_KEYS = (*METRICS, *COUNTS, *IDENTIFIERS)
_REWARD = METRICS.index("ndcg@10")


@dataclass(frozen=True)
class Scene:
    """What all moments of an environment share.

    Attributes
    ----------
    observer : Observer
    rules : Rules
    candidates : (T, K) int32 array
        Item rows of the tasks' candidates.
    users : (T,) int64 array
        Each task's user, as a row of the dataset's `user_tokens`.
    """

    observer: Observer
    rules: Rules
    candidates: NDArray[np.int32]
    users: Ints

    @cached_property
    def metrics(self) -> NDArray[np.float64]:
        """(METRICS, K + 1) by rank."""
        ranks = np.arange(self.candidates.shape[1] + 1)
        found: NDArray[np.float64] = np.stack(
            [ndcg(ranks, 1), ndcg(ranks, 5), ndcg(ranks, 10), hit(ranks, 10), mrr(ranks)]
        )
        return found

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """(K + 1,) by rank: NDCG@10."""
        rewards: NDArray[np.float64] = self.metrics[_REWARD].copy()
        return rewards

    def items(self, rows: Ints, order: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """(B, K) item rows of candidates in this order."""
        first = rows[:, None] * self.candidates.shape[1]
        items: NDArray[np.int32] = self.candidates.ravel().take(first + order)
        return items


@dataclass(slots=True)
class Moment:
    """Where a batch stands; B users, n agents. Its arrays are never changed.

    Attributes
    ----------
    scene : Scene
    rows, visit, level, clock : (B,) int64 arrays
        Who plays, how often each task was begun before, where the history agent stands, steps
        taken.
    actions : (B, n) int64 array
        The last ones; -1 before the first step.
    wanted : (B,) int64 array
        History items that the last prompt was to show.
    answer : Rankings or None
        What they came to, in the tasks' own positions; None where nobody took a step.
    rank : (B,) int array or None
        Rank of the target from 1; 0 where it is not named. None where nobody took a step.
    vectors : (V, e) float32 array
        Of sentences; the last row is zeros.
    sentence : (B,) int64 array
        Which of them were last said; -1 before the first step.
    masked : (B,) int64 array or None
        How many of the last actions were mapped; None for none of them.
    edited : (B, 2) int64 array or None
        Sentences that were rewritten, and those whose rewrites were of no use; None for none.
    rankings : Rankings or None
        What was said, over the candidates as the prompts showed them; see `Step`.
    prompts : list or None
        See `Step`.
    """

    scene: Scene
    rows: Ints
    visit: Ints
    level: Ints
    clock: Ints
    actions: Ints
    wanted: Ints
    answer: Rankings | None
    rank: Ints | None
    vectors: Floats
    sentence: Ints
    masked: Ints | None = None
    edited: Ints | None = None
    rankings: Rankings | None = None
    prompts: list[Prompt] | None = None
    _shared: Floats | None = None

    @property
    def shared(self) -> Floats:
        """(B, shared_width): what all agents see."""
        if self._shared is None:
            scene, answer = self.scene, self.answer
            if answer is None:
                self._shared = scene.observer.begin(self.rows)
            else:
                self._shared = scene.observer.after(
                    self.rows,
                    self.vectors.take(self.sentence, axis=0),
                    scene.items(self.rows, answer.order),
                    answer.named,
                    self.wanted - answer.cost.get("trimmed", 0),
                    self.level,
                    self.clock,
                )
        return self._shared

    def observations(self) -> Floats:
        """(B, n, d), fresh."""
        return self.scene.observer.observations(self.shared, self.actions)

    def state(self) -> Floats:
        """(B, s), fresh."""
        return self.scene.observer.state(self.shared, self.actions)

    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) arrays, fresh: `METRICS`, `COUNTS` (zeros before a user's first step), the user."""
        count, answer = len(self.rows), self.answer
        users = self.scene.users.take(self.rows)
        if answer is None or self.rank is None:
            return {
                **{name: np.zeros(count) for name in METRICS},
                **{name: np.zeros(count, np.int64) for name in COUNTS},
                "user": users,
            }
        trimmed, asked, said = map(answer.spent, COSTS)
        rank, named = self.rank.astype(np.int64), answer.named.astype(np.int64)
        masked = np.zeros(count, np.int64) if self.masked is None else self.masked.copy()
        edited = np.zeros((count, 2), np.int64) if self.edited is None else self.edited
        counts = (rank, named, self.wanted - trimmed, asked, said, trimmed, masked)
        values = (*self.scene.metrics.take(rank, axis=1), *counts, *edited.T.copy(), users)
        return dict(zip(_KEYS, values, strict=True))

    def begun(self, mask: NDArray[np.bool_], rows: Ints, visit: Ints, start: int) -> Moment:
        """The moment at which the users of `mask` begin anew, with these tasks."""

        def changed(array: Ints, values: Ints | int) -> Ints:
            array = array.copy()
            array[mask] = values
            return array

        return Moment(
            scene=self.scene,
            rows=changed(self.rows, rows),
            visit=changed(self.visit, visit),
            level=changed(self.level, start),
            clock=changed(self.clock, 0),
            actions=changed(self.actions, -1),
            wanted=changed(self.wanted, 0),
            answer=None if self.answer is None else self.answer.without(mask),
            rank=None if self.rank is None else changed(self.rank, 0),
            vectors=self.vectors,
            sentence=changed(self.sentence, -1),
            masked=None if self.masked is None else changed(self.masked, 0),
            edited=None if self.edited is None else changed(self.edited, 0),
        )


@dataclass(frozen=True)
class Step:
    """What a step of B users gives back; every array is fresh.

    What is no attribute here is made when it is first asked for; later steps do not change it.

    Attributes
    ----------
    rewards : (B,) float64 array
        Each user's NDCG@10, in [0, 1]; all agents of a user are paid the same.
    terminated, truncated : (B,) bool arrays
        Episodes of one step end by termination, longer ones by truncation.
    """

    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    _moment: Moment

    @classmethod
    def to(cls, moment: Moment) -> Step:
        """The step that led to `moment`."""
        rules, rank = moment.scene.rules, moment.rank
        assert rank is not None
        over = moment.clock >= rules.max_cycles
        never = np.zeros(len(over), dtype=bool)
        terminated, truncated = (over, never) if rules.bandit else (never, over)
        rewards = moment.scene.rewards.take(rank)
        return cls(rewards, terminated, truncated, moment)

    @cached_property
    def observations(self) -> Floats:
        """(B, n, d) float32, as `rpp_env.observation` lays them out."""
        return self._moment.observations()

    @cached_property
    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) arrays by name.

        Metrics of the ranking (labels: no policy should read them), ``rank`` of the target (0: not
        named), candidates ``named``, history items ``shown``, tokens, history items ``trimmed`` to
        fit the model's context, ``masked_actions`` (choices that ``a % n`` had to map), sentences
        that were ``rewritten``, ``rewrite_fallbacks`` (whose rewrites were of no use), and the
        ``user``, a row of ``env.tasks.dataset.user_tokens``.
        """
        return self._moment.infos()

    @cached_property
    def rows(self) -> Ints:
        """(B,) int64: who played, as task rows."""
        return self._moment.rows.copy()

    @cached_property
    def clock(self) -> Ints:
        """(B,) int64: which step of their episode this was, from 1."""
        return self._moment.clock.copy()

    @cached_property
    def actions(self) -> Ints:
        """(B, n) int64: what was chosen (after ``a % n``)."""
        return self._moment.actions.copy()

    @cached_property
    def orders(self) -> NDArray[np.integer[Any]]:
        """(B, K): positions of the candidates as the task has them, best first."""
        answer = self._moment.answer
        assert answer is not None
        return answer.order.copy()

    @property
    def rankings(self) -> Rankings | None:
        """What the recommender said, over the candidates as prompts showed them; None by table."""
        return self._moment.rankings

    @property
    def prompts(self) -> list[Prompt] | None:
        """What it was asked; None from a table."""
        return self._moment.prompts
