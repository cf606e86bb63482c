"""What a step gives back, made when somebody asks for it.

A `Moment` is where a batch of users stands. No array of a moment is ever changed: a step makes the
next moment. So the observations and infos of a step can wait until they are asked for, and those
who only want rewards do not pay for them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rpp_env.metrics import hit, mrr, ndcg
from rpp_env.observation import Observer
from rpp_env.prompts import Prompt
from rpp_env.rules import Rules
from rpp_env.task import Ranking

__all__ = ["COUNTS", "METRICS", "Answer", "Answers", "Moment", "Scene", "Step"]

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
)
_NOTHING: dict[str, float] = {**dict.fromkeys(METRICS, 0.0), **dict.fromkeys(COUNTS, 0)}


NUMBERS = ("rank", "named", "trimmed", "prompt_tokens", "completion_tokens")
"""What is known of an answer, besides the order: the columns of `Answer.numbers`."""


class Answer(Protocol):
    """What came back for a batch, from a recommender or a table."""

    @property
    def order(self) -> NDArray[np.integer[Any]]:
        """(B, K) positions of the candidates as the task has them, best first."""
        ...

    @property
    def numbers(self) -> NDArray[np.integer[Any]]:
        """(B, 5) `NUMBERS`: rank of the target from 1 (0: not named), candidates named, ..."""
        ...


@dataclass(frozen=True, slots=True)
class Answers:
    """An `Answer` that is all there."""

    order: NDArray[np.integer[Any]]
    numbers: NDArray[np.integer[Any]]


@dataclass(frozen=True)
class Scene:
    """What all moments of an environment share.

    Attributes
    ----------
    observer : Observer
    rules : Rules
    candidates : (T, K) int32 array
        Item rows of the tasks' candidates.
    """

    observer: Observer
    rules: Rules
    candidates: NDArray[np.int32]

    @cached_property
    def metrics(self) -> NDArray[np.float64]:
        """(METRICS, K + 1) by rank."""
        ranks = np.arange(self.candidates.shape[1] + 1)
        found: NDArray[np.float64] = np.stack(
            [ndcg(ranks, 1), ndcg(ranks, 5), ndcg(ranks, 10), hit(ranks, 10), mrr(ranks)]
        )
        return found

    @cached_property
    def metrics_by_rank(self) -> list[list[float]]:
        """The same by rank, in Python's own numbers."""
        by_rank: list[list[float]] = self.metrics.T.tolist()
        return by_rank

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """(K + 1,) by rank: NDCG@10."""
        rewards: NDArray[np.float64] = self.metrics[METRICS.index("ndcg@10")].copy()
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
    answer : Answer or None
        What they came to; None where nobody took a step.
    vectors : (V, e) float32 array
        Of sentences; the last row is zeros.
    sentence : (B,) int64 array
        Which of them were last said; -1 before the first step.
    masked : (B,) int64 array or None
        How many of the last actions were mapped; None for none of them.
    rankings, prompts : list or None
        See `Step`.
    """

    scene: Scene
    rows: Ints
    visit: Ints
    level: Ints
    clock: Ints
    actions: Ints
    wanted: Ints
    answer: Answer | None
    vectors: Floats
    sentence: Ints
    masked: Ints | None = None
    rankings: list[Ranking] | None = None
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
                _, named, trimmed, _, _ = answer.numbers.T
                self._shared = scene.observer.after(
                    self.rows,
                    self.vectors.take(self.sentence, axis=0),
                    scene.items(self.rows, answer.order),
                    named,
                    self.wanted - trimmed,
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

    def rewards(self) -> NDArray[np.float64]:
        """(B,), fresh."""
        assert self.answer is not None
        paid: NDArray[np.float64] = self.scene.rewards.take(self.answer.numbers[:, 0])
        return paid

    def over(self, by_termination: bool) -> NDArray[np.bool_]:
        """(B,) whose episode ended, by termination or by truncation; fresh."""
        rules = self.scene.rules
        if by_termination != rules.bandit:
            return np.zeros(len(self.clock), dtype=bool)
        return self.clock >= rules.max_cycles

    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) arrays, fresh: `METRICS` and `COUNTS`; zeros before a user's first step."""
        count, answer = len(self.rows), self.answer
        if answer is None:
            return {
                **{name: np.zeros(count) for name in METRICS},
                **{name: np.zeros(count, np.int64) for name in COUNTS},
            }
        rank, named, trimmed, asked, said = np.ascontiguousarray(answer.numbers.T, np.int64)
        masked = np.zeros(count, np.int64) if self.masked is None else self.masked.copy()
        counts = (rank, named, self.wanted - trimmed, asked, said, trimmed, masked)
        values = (*self.scene.metrics.take(rank, axis=1), *counts)
        return dict(zip((*METRICS, *COUNTS), values, strict=True))

    def info(self, user: int) -> dict[str, Any]:
        """What `infos` says of one user, in Python's own numbers."""
        if self.answer is None:
            return dict(_NOTHING)
        rank, named, trimmed, asked, said = self.answer.numbers[user].tolist()
        shown = self.wanted.item(user) - trimmed
        masked = 0 if self.masked is None else self.masked.item(user)
        counts = (rank, named, shown, asked, said, trimmed, masked)
        return dict(zip(_NOTHING, (*self.scene.metrics_by_rank[rank], *counts), strict=True))

    def begun(self, mask: NDArray[np.bool_], rows: Ints, visit: Ints, start: int) -> Moment:
        """The moment at which the users of `mask` begin anew, with these tasks."""

        def changed(array: Ints, values: Ints | int) -> Ints:
            array = array.copy()
            array[mask] = values
            return array

        answer = self.answer
        if answer is not None:
            numbers = answer.numbers.copy()
            numbers[mask] = 0
            answer = Answers(answer.order, numbers)
        return Moment(
            scene=self.scene,
            rows=changed(self.rows, rows),
            visit=changed(self.visit, visit),
            level=changed(self.level, start),
            clock=changed(self.clock, 0),
            actions=changed(self.actions, -1),
            wanted=changed(self.wanted, 0),
            answer=answer,
            vectors=self.vectors,
            sentence=changed(self.sentence, -1),
            masked=None if self.masked is None else changed(self.masked, 0),
        )


@dataclass(frozen=True)
class Step:
    """What a step of B users gives back; every array is fresh.

    Each is made when it is first asked for; later steps do not change it.
    """

    _moment: Moment

    @cached_property
    def rewards(self) -> NDArray[np.float64]:
        """(B,) float64: each user's NDCG@10, in [0, 1]; all agents of a user are paid the same."""
        return self._moment.rewards()

    @cached_property
    def terminated(self) -> NDArray[np.bool_]:
        """(B,) bool: episodes of one step end by termination."""
        return self._moment.over(by_termination=True)

    @cached_property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,) bool: longer ones end by truncation."""
        return self._moment.over(by_termination=False)

    @cached_property
    def observations(self) -> Floats:
        """(B, n, d) float32, as `rpp_env.observation` lays them out."""
        return self._moment.observations()

    @cached_property
    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) arrays by name.

        Metrics of the ranking (labels: no policy should read them), ``rank`` of the target (0: not
        named), candidates ``named``, history items ``shown``, tokens, history items ``trimmed`` to
        fit the model's context, and ``masked_actions`` (choices that ``a % n`` had to map).
        """
        return self._moment.infos()

    def info(self, user: int) -> dict[str, Any]:
        """The infos of one user of the batch, in Python's own numbers; a fresh dictionary."""
        return self._moment.info(user)

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

    @property
    def rankings(self) -> list[Ranking] | None:
        """What the recommender said, over the candidates as prompts showed them; None by table."""
        return self._moment.rankings

    @property
    def prompts(self) -> list[Prompt] | None:
        """What it was asked; None from a table."""
        return self._moment.prompts
