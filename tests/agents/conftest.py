"""Small problems with known optima: a contextual bandit, a clock, matrix games."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv

from rpp_env.evaluation.diagnose import fit_reference


@pytest.fixture
def one_torch_thread() -> Iterator[None]:
    """Train with one thread of torch; afterwards there are as many as before."""
    import torch  # the other tests of this folder run without it

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def one_network() -> Iterator[None]:
    """Observable references of one network, not eight, where how good they are is no claim."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(inspect.unwrap(fit_reference).__kwdefaults__, "members", 1)
        yield


class Contextual:
    """Users whose best actions follow from their vector; what all users like best is weaker.

    Reward of a step: the mean over agents of how much the user likes each choice, where a like is 1
    for the user's own best option and `common` for option 0. An episode has `horizon` steps with
    the same user.
    """

    def __init__(
        self,
        num_envs: int = 64,
        *,
        users: int = 2000,
        nvec: Sequence[int] = (5, 5, 9, 5),
        context: int = 8,
        padding: int = 0,
        horizon: int = 5,
        common: float = 0.4,
        noise: float = 0.0,
        seed: int = 0,
        per_agent: bool = False,
    ) -> None:
        rng = np.random.default_rng(seed)
        self.num_envs, self.nvec, self.max_cycles = num_envs, np.array(nvec), horizon
        self.action_spaces = tuple(map(Discrete, nvec))
        self.agents = tuple(f"agent_{i}" for i in range(len(nvec)))
        self.users = rng.standard_normal((users, context + padding)).astype(np.float32)
        # The tastes are the world's, the users are this environment's.
        world = np.random.default_rng(12345)
        self.best = np.stack(
            [
                (self.users[:, :context] @ world.standard_normal((context, size))).argmax(1)
                for size in nvec
            ],
            axis=1,
        )
        self.observation_width = context + padding + 1
        self.state_width = context + padding + 1
        self.common, self.noise, self.per_agent = common, noise, per_agent

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        if seed is not None:
            self._rng = np.random.default_rng(seed)
            self._who = np.zeros(self.num_envs, np.int64)
            self._clock = np.zeros(self.num_envs, np.int64)
        self._who[mask] = self._rng.integers(len(self.users), size=int(mask.sum()))
        self._clock[mask] = 0
        return self._observations(), {}

    def _shared(self) -> Any:
        clock = self._clock[:, None] / self.max_cycles
        return np.concatenate([self.users[self._who], clock], axis=1).astype(np.float32)

    def _observations(self) -> Any:
        return np.repeat(self._shared()[:, None], len(self.agents), axis=1)

    def step(self, actions: Any) -> Any:
        assert (actions >= 0).all()
        assert (actions < self.nvec).all()
        likes = np.where(
            actions == self.best[self._who], 1.0, np.where(actions == 0, self.common, 0.0)
        )
        if self.noise:
            likes = likes + self.noise * self._rng.standard_normal(likes.shape)
        self._clock += 1
        over = self._clock >= self.max_cycles
        ends = np.zeros_like(over)
        return SimpleNamespace(
            observations=self._observations(),
            rewards=likes if self.per_agent else likes.mean(axis=1),
            terminated=over if self.max_cycles == 1 else ends,
            truncated=ends if self.max_cycles == 1 else over,
            infos={"likes": likes.mean(axis=1)},
        )

    def state(self) -> Any:
        return self._shared()

    def action_masks(self) -> Any:
        return (np.arange(self.nvec.max()) < self.nvec[:, None]).astype(np.int8)


class Clock:
    """Pays 1 a step in two states that alternate; ends after `horizon` steps, one way or other."""

    def __init__(self, num_envs: int, *, horizon: int, ends: str) -> None:
        self.num_envs, self.max_cycles, self.ends = num_envs, horizon, ends
        self.agents, self.action_spaces = ("a", "b"), (Discrete(2), Discrete(3))
        self.observation_width = self.state_width = 2

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if not options:
            # Staggered, so that episodes do not end together.
            self._clock = np.arange(self.num_envs) % self.max_cycles
        else:
            self._clock[options["reset_mask"]] = 0
        return self._observations(), {}

    def _observations(self) -> Any:
        return np.repeat(self.state()[:, None], 2, axis=1)

    def state(self) -> Any:
        # The second number is the clock, for a critic that must know when termination comes.
        return np.stack([self._clock % 2, self._clock], axis=1).astype(np.float32)

    def step(self, actions: Any) -> Any:
        self._clock += 1
        over = self._clock >= self.max_cycles
        none = np.zeros_like(over)
        return SimpleNamespace(
            observations=self._observations(),
            rewards=np.ones(self.num_envs),
            terminated=over if self.ends == "terminated" else none,
            truncated=over if self.ends == "truncated" else none,
            infos={},
        )

    def action_masks(self) -> Any:
        return np.array([[1, 1, 0], [1, 1, 1]], np.int8)


class MatrixGame(ParallelEnv):  # type: ignore[misc]
    """Two agents choose a row and a column, both are paid the entry; 25 times, then truncated."""

    metadata: ClassVar[dict[str, Any]] = {"name": "matrix"}
    max_cycles = 25

    def __init__(self, payoff: Sequence[Sequence[float]]) -> None:
        self.payoff = np.array(payoff, dtype=float)
        self.possible_agents = ["row", "column"]
        self.agents: list[str] = []
        self._see = {agent: Box(0, 1, (1,), np.float32) for agent in self.possible_agents}
        self._do = dict(zip(self.possible_agents, map(Discrete, self.payoff.shape), strict=True))

    def observation_space(self, agent: str) -> Any:
        return self._see[agent]

    def action_space(self, agent: str) -> Any:
        return self._do[agent]

    def _all(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.possible_agents, value)

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self._clock = list(self.possible_agents), 0
        return self._all(np.ones(1, np.float32)), {agent: {} for agent in self.agents}

    def step(self, actions: dict[str, int]) -> Any:
        paid = self.payoff[actions["row"], actions["column"]]
        self._clock += 1
        over = self._clock >= self.max_cycles
        self.agents = [] if over else self.agents
        return (
            self._all(np.ones(1, np.float32)),
            self._all(float(paid)),
            self._all(False),
            self._all(over),
            {agent: {} for agent in self.possible_agents},
        )


class Uneven(ParallelEnv):  # type: ignore[misc]
    """Agents that see and do different things, are paid differently, and leave at different times.

    Agent i sees i + 1 numbers, has i + 2 actions counted from i, and leaves after i + 2 steps; it
    may never choose its last action, and is paid i + 1 for its first one.
    """

    metadata: ClassVar[dict[str, Any]] = {"name": "uneven"}

    def __init__(self, agents: int = 3, *, mask_in: str = "info", truncate: bool = False) -> None:
        self.possible_agents = [f"agent_{i}" for i in range(agents)]
        self.agents: list[str] = []
        self.mask_in, self.truncate = mask_in, truncate
        self._see = {
            agent: Box(-1, 1, (i + 1,), np.float32) for i, agent in enumerate(self.possible_agents)
        }
        if mask_in == "observation":
            from gymnasium.spaces import Dict

            self._see = {
                agent: Dict({"observation": space, "action_mask": Box(0, 1, (i + 2,), np.int8)})
                for i, (agent, space) in enumerate(self._see.items())
            }
        self._do = {agent: Discrete(i + 2, start=i) for i, agent in enumerate(self.possible_agents)}

    def observation_space(self, agent: str) -> Any:
        return self._see[agent]

    def action_space(self, agent: str) -> Any:
        return self._do[agent]

    def _look(self, agents: list[str]) -> Any:
        observations, infos = {}, {}
        for agent in agents:
            i = self.possible_agents.index(agent)
            seen = self._rng.uniform(-1, 1, i + 1).astype(np.float32)
            mask = np.ones(i + 2, np.int8)
            mask[-1] = 0
            observations[agent] = (
                {"observation": seen, "action_mask": mask}
                if self.mask_in == "observation"
                else seen
            )
            infos[agent] = {"action_mask": mask} if self.mask_in == "info" else {}
        return observations, infos

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self.agents, self._clock = list(self.possible_agents), 0
        return self._look(self.agents)

    def step(self, actions: dict[str, int]) -> Any:
        assert set(actions) == set(self.agents)
        self._clock += 1
        playing = self.agents
        rewards, ended = {}, {}
        for agent in playing:
            i = self.possible_agents.index(agent)
            assert i <= actions[agent] < 2 * i + 1, "forbidden action"
            rewards[agent] = (i + 1.0) * (actions[agent] == i)
            ended[agent] = self._clock >= i + 2
        self.agents = [agent for agent in playing if not ended[agent]]
        observations, infos = self._look(playing)
        never = dict.fromkeys(playing, False)
        terminations, truncations = (never, ended) if self.truncate else (ended, never)
        return observations, rewards, terminations, truncations, infos


@pytest.fixture(scope="session")
def toys() -> SimpleNamespace:
    """The classes, for tests that make their own."""
    return SimpleNamespace(Contextual=Contextual, Clock=Clock, MatrixGame=MatrixGame, Uneven=Uneven)
