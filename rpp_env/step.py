"""Results of a step; observations and infos are computed lazily.

A `Moment` is the situation of a batch of users. Its arrays are never changed: a step makes a new
moment. Observations and infos can therefore be computed when they are first read, and reading only
the rewards is cheap.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskBatch
from rpp_env.episode import Episode, Response
from rpp_env.metrics import hit, mrr, ndcg
from rpp_env.observation import Observer
from rpp_env.prompting import COSTS, PromptSpace, Rankings

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
"""Infos that are identifiers: they have no order, and their mean has no meaning."""


@dataclass(frozen=True)
class Scene:
    """Constants shared by all moments of an environment.

    Attributes
    ----------
    observer : Observer
    space : PromptSpace
    episode : Episode
    candidates : (T, K) int32 array
        Item rows of the candidates of all tasks that are asked (`Episode.every`).
    users : (T,) int64 array
        Each task's user, as a row of the dataset's `user_tokens`.
    """

    observer: Observer
    space: PromptSpace[Any, Any]
    episode: Episode
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

    def items(self, rows: Ints, order: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
        """(B, K) item rows of the candidates in this order."""
        first = rows[:, None] * self.candidates.shape[1]
        items: NDArray[np.int32] = self.candidates.ravel().take(first + order)
        return items


@dataclass(slots=True)
class Moment:
    """The situation of a batch of B users and n agents; its arrays are never changed.

    Attributes
    ----------
    scene : Scene
    rows, visit, clock : (B,) int64 arrays
        Task rows, the number of earlier episodes of each task, steps taken.
    state : dataclass of arrays
        The prompt space's state.
    actions : (B, n) int64 or (B, n, d) float32 array
        The last actions; -1, or the middle of their bounds, before the first step.
    response : Response or None
        The result of these actions; None before the first step.
    masked : (B,) int64 array or None
        How many of the last actions were mapped by ``a % n``; None: none of them.
    rankings : Rankings or None
        The recommender's rankings of the candidates in the order of the prompts; see `Step`.
    prompts : prompts of the space or None
        See `Step`.
    tasks : TaskBatch or None
        See `Step`.
    before : Moment or None
        The moment before, where the episode shows the users' responses and they were not read yet.
    known : (B, 2 + w) float32 array or None
        `responses`, once they were read.
    """

    scene: Scene
    rows: Ints
    visit: Ints
    clock: Ints
    state: Any
    actions: NDArray[Any]
    response: Response | None = None
    masked: Ints | None = None
    rankings: Rankings | None = None
    prompts: Any = None
    tasks: TaskBatch | None = None
    before: Moment | None = None
    known: Floats | None = None
    _features: Floats | None = None
    _shared: Floats | None = None

    @property
    def features(self) -> Floats:
        """(B, w): features of the prompt space's state."""
        if self._features is None:
            self._features = self.scene.space.features(self.state)
        return self._features

    @property
    def responses(self) -> Floats | None:
        """(B, 2 + w) float32: the users' responses (`Observer.responses`); None before any.

        Like observations they are computed when they are first read; until then a moment keeps the
        one before.
        """
        unread, moment = [], self
        while moment.known is None and moment.before is not None:
            unread.append(moment)
            moment = moment.before
        made = moment.known
        for moment in reversed(unread):
            assert moment.response is not None
            assert moment.response.shown is not None
            made = moment.scene.observer.responses(made, moment.response.shown, moment.features)
            moment.known, moment.before = made, None
        return made

    @property
    def shared(self) -> Floats:
        """(B, shared_width): the part of the observations that all agents see."""
        if self._shared is None:
            scene, features = self.scene, self.features
            shown = scene.episode.at(self.rows, self.clock)
            if self.response is None:
                self._shared = scene.observer.begin(shown, features)
            else:
                rankings = self.response.rankings
                asked = scene.episode.at(self.rows, np.maximum(self.clock - 1, 0))
                self._shared = scene.observer.after(
                    shown,
                    features,
                    scene.items(asked, rankings.order),
                    rankings.named,
                    self.clock,
                    self.responses,
                )
        return self._shared

    def observations(self) -> Floats:
        """(B, n, d), a new array."""
        return self.scene.observer.observations(self.shared, self.actions)

    def team_state(self) -> Floats:
        """(B, s), a new array."""
        return self.scene.observer.state(self.shared, self.actions)

    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) new arrays: `METRICS`, `COUNTS` (zeros before a user's first step), the user."""
        count, response = len(self.rows), self.response
        users = self.scene.users.take(self.rows)
        if response is None:
            return {
                **dict(zip(METRICS, np.zeros((len(METRICS), count)), strict=True)),
                **dict(zip(COUNTS, np.zeros((len(COUNTS), count), np.int64), strict=True)),
                "user": users,
            }
        rank, rankings = response.rank.astype(np.int64), response.rankings
        infos: dict[str, NDArray[Any]] = dict(
            zip(METRICS, self.scene.metrics.take(rank, axis=1), strict=True)
        )
        infos["rank"] = rank
        infos["named"] = rankings.named.astype(np.int64)
        counted = self.scene.space.counts(self.state)
        for name in COUNTS[2:]:
            if name in COSTS:
                infos[name] = rankings.spent(name)
            else:
                values = self.masked if name == "masked_actions" else counted.get(name)
                infos[name] = np.zeros(count, np.int64) if values is None else values.copy()
        infos["user"] = users
        return infos

    def begun(
        self, mask: NDArray[np.bool_], rows: Ints, visit: Ints, state: Any, none: NDArray[Any]
    ) -> Moment:
        """Return the moment at which the users of `mask` begin new episodes, with these tasks.

        `state` is that of the prompt space before their first step; `none` holds the placeholder
        actions.
        """
        response = self.response
        if response is not None:
            rank, rewards = _changed(response.rank, mask, 0), _changed(response.rewards, mask, 0)
            response = response._replace(
                rankings=response.rankings.without(mask), rank=rank, rewards=rewards
            )
        return Moment(
            scene=self.scene,
            rows=_changed(self.rows, mask, rows),
            visit=_changed(self.visit, mask, visit),
            clock=_changed(self.clock, mask, 0),
            state=_merged(self.state, mask, state),
            actions=_changed(self.actions, mask, none),
            response=response,
            masked=None if self.masked is None else _changed(self.masked, mask, 0),
            known=None if self.responses is None else _changed(self.responses, mask, 0),
        )


def _changed(array: NDArray[Any], mask: NDArray[np.bool_], values: Any) -> NDArray[Any]:
    array = array.copy()
    array[mask] = values
    return array


def _merged(state: Any, mask: NDArray[np.bool_], begun: Any) -> Any:
    """Replace the rows of `mask` in a state by those of `begun`."""
    return type(state)(
        *(
            None if old is None else _changed(old, mask, getattr(begun, field.name))
            for field, old in ((field, getattr(state, field.name)) for field in fields(state))
        )
    )


@dataclass(frozen=True)
class Step:
    """Result of a step of B users; every array is a new one.

    Properties are computed when they are first read; later steps do not change them.

    Attributes
    ----------
    rewards : (B,) float64 array
        Each user's NDCG@10, in [0, 1]; all agents of a user get the same reward.
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
        episode, response = moment.scene.episode, moment.response
        assert response is not None
        over = moment.clock >= episode.max_cycles
        never = np.zeros(len(over), dtype=bool)
        terminated, truncated = (over, never) if episode.bandit else (never, over)
        return cls(response.rewards, terminated, truncated, moment)

    @cached_property
    def observations(self) -> Floats:
        """(B, n, d) float32: the blocks of `rpp_env.observation`."""
        return self._moment.observations()

    @cached_property
    def infos(self) -> dict[str, NDArray[Any]]:
        """(B,) arrays by name.

        Metrics of the ranking (labels: no policy should read them), ``rank`` of the target (0: not
        named), candidates ``named``, history items ``shown``, tokens, history items ``trimmed`` to
        fit the model's context, ``masked_actions`` (choices mapped by ``a % n``), sentences
        ``rewritten``, ``rewrite_fallbacks`` (sentences whose rewrites were refused), and the
        ``user``, a row of ``env.tasks.dataset.user_tokens``.
        """
        return self._moment.infos()

    @cached_property
    def rows(self) -> Ints:
        """(B,) int64: task rows."""
        return self._moment.rows.copy()

    @cached_property
    def clock(self) -> Ints:
        """(B,) int64: index of this step in its episode, from 1."""
        return self._moment.clock.copy()

    @cached_property
    def actions(self) -> NDArray[Any]:
        """Actions (after ``a % n``): (B, n) int64, or (B, n, d) float32."""
        return self._moment.actions.copy()

    @property
    def state(self) -> Any:
        """State of the prompt space; its arrays are never changed."""
        return self._moment.state

    @cached_property
    def orders(self) -> NDArray[np.integer[Any]]:
        """(B, K): positions of the candidates in the task's own order, best first."""
        response = self._moment.response
        assert response is not None
        return response.rankings.order.copy()

    @property
    def rankings(self) -> Rankings | None:
        """Rankings of the candidates as the prompts showed them; None when replaying a table."""
        return self._moment.rankings

    @property
    def tasks(self) -> TaskBatch:
        """The users' tasks, with candidates in the order in which they were shown."""
        tasks = self._moment.tasks
        assert tasks is not None
        return tasks

    @property
    def prompts(self) -> Any:
        """The prompts of this step, as the prompt space makes them; None when replaying a table."""
        return self._moment.prompts
