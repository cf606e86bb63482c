"""Batches of environments, and what a trainer takes from them.

`BatchedEnv` is what `rpp_env.RPPEnv` offers; `PettingZooBatch` gives the same face to any
PettingZoo parallel environment. Neither resets by itself: the observations and the state after an
episode's last step are the true final ones, and whoever steps calls
``reset(options={"reset_mask": ended})``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from rpp_agents.policy import Policy
from rpp_env.errors import BrokenContract, InvalidOption, ResetNeeded

__all__ = [
    "BatchedEnv",
    "Collector",
    "CriticInput",
    "PettingZooBatch",
    "Rollout",
    "Transition",
    "clock_columns",
    "info_means",
    "play",
    "reset_ended",
    "stop_the_clock",
]

CriticInput = Literal["state", "observations"]
"""What a critic looks at: the team's state (MAPPO) or each agent's own observation (IPPO)."""


class Transition(Protocol):
    """What a step gives back; ``rpp_env.Step`` is one."""

    @property
    def observations(self) -> NDArray[np.float32]:
        """(B, n, d), after the step and before any reset."""
        ...

    @property
    def rewards(self) -> NDArray[np.float64]:
        """(B,) for the team, or (B, n)."""
        ...

    @property
    def terminated(self) -> NDArray[np.bool_]:
        """(B,): the episode is over and nothing would have followed."""
        ...

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,): the episode was cut off by the clock."""
        ...

    @property
    def infos(self) -> Mapping[str, NDArray[Any]]:
        """Numbers per environment, (B,) each."""
        ...


class BatchedEnv(Protocol):
    """B copies of an environment with n agents, stepped together.

    ``reset(seed=..., options={"reset_mask": (B,) bool})`` begins a new episode where the mask is
    True and leaves the others where they are; both `reset` and `step` give all B rows back. Resets
    with the same `seed` are followed by the same episodes.

    An environment may have an attribute ``clock``, a slice: the columns of an observation that tell
    the time and nothing else. They are all that a state-blind policy sees. ``state_clock`` are
    those of the state. Infos named in an attribute ``identifiers`` say who or what is played; they
    are not averaged.
    """

    @property
    def num_envs(self) -> int: ...
    @property
    def agents(self) -> Sequence[str]: ...
    @property
    def nvec(self) -> Sequence[int] | NDArray[np.int64]: ...
    @property
    def observation_width(self) -> int: ...
    @property
    def state_width(self) -> int: ...
    @property
    def max_cycles(self) -> int: ...

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Mapping[str, NDArray[Any]]]: ...
    def step(self, actions: NDArray[np.int64]) -> Transition: ...
    def state(self) -> NDArray[np.float32]: ...
    def action_masks(self) -> NDArray[np.int8]: ...


def info_means(env: BatchedEnv, infos: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """The mean of each info over the batch, without those that identify something."""
    identifiers = getattr(env, "identifiers", ())
    return {key: float(np.mean(x)) for key, x in infos.items() if key not in identifiers}


def clock_columns(env: BatchedEnv) -> list[int]:
    """Columns of an observation that tell the time and nothing else; none without ``env.clock``."""
    clock = getattr(env, "clock", None)
    return [] if clock is None else list(range(env.observation_width))[clock]


def stop_the_clock(
    after: NDArray[np.float32], before: NDArray[np.float32], cut: NDArray[np.bool_], clock: slice
) -> NDArray[np.float32]:
    """What followed a step, at the time before it wherever the clock cut the episode off.

    No step ever begins at the time after the last one, so that no value there is ever learnt. The
    best of the values that a network makes up instead would be what the next ones are learnt from,
    and so on without end.

    Parameters
    ----------
    after, before : (B, ..., d)
        Observations or states after and before the step.
    cut : bool (B,)
        Where the episode was cut off, and not terminated.
    clock : slice
        The columns that tell the time.
    """
    if not cut.any():
        return after
    stopped = after.copy()
    stopped[cut, ..., clock] = before[cut, ..., clock]
    return stopped


def reset_ended(
    env: BatchedEnv, observations: NDArray[np.float32], ended: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Begin new episodes where `ended`; the observations to go on with."""
    if not ended.any():
        return observations
    # Without a mask where all ended, so that an environment may take its fast path.
    options = None if ended.all() else {"reset_mask": ended}
    return env.reset(options=options)[0]


# Taking rollouts


@dataclass(frozen=True, eq=False)
class Rollout:
    """`T` steps of `B` environments with `n` agents."""

    observations: NDArray[np.float32]
    """(T, B, n, d): what the agents saw before each step."""
    masks: NDArray[np.bool_]
    """(T, B, n, A): what they were allowed to do."""
    actions: NDArray[np.int64]
    """(T, B, n)."""
    log_probs: NDArray[np.float32]
    """Of those actions, when they were chosen: (T, B, n), or (T, B, 1) of a joint choice."""
    inputs: NDArray[np.float32]
    """(T, B, s) or (T, B, n, d): what the critic sees before each step."""
    next_inputs: NDArray[np.float32]
    """The same after each step, before any reset: at an episode's end the true last one."""
    rewards: NDArray[np.float32]
    """(T, B, n); a team's reward is every agent's."""
    terminated: NDArray[np.bool_]
    """(T, B): nothing follows, so the value of what follows is 0."""
    ended: NDArray[np.bool_]
    """(T, B): terminated or truncated; advantages do not flow back over it."""
    infos: dict[str, float]
    """Mean of each info over the rollout."""


class Collector:
    """Plays an environment and keeps what happened.

    Parameters
    ----------
    env : BatchedEnv
    critic_input : "state" or "observations"
        What to keep for the critic.
    team_reward : bool
        Pay every agent the mean of all agents' rewards.
    """

    def __init__(
        self, env: BatchedEnv, critic_input: CriticInput, *, team_reward: bool = False
    ) -> None:
        self.env = env
        self.critic_input = critic_input
        self.team_reward = team_reward
        self._observations: NDArray[np.float32] | None = None

    def reset(self, seed: int) -> None:
        """Begin anew; what follows depends on `seed` alone, not on what was played before."""
        self._observations = self.env.reset(seed=seed)[0]

    def collect(
        self,
        choose: Callable[
            [NDArray[np.float32], NDArray[np.bool_]],
            tuple[NDArray[np.int64], NDArray[np.float32]],
        ],
        steps: int,
    ) -> Rollout:
        """Play `steps` steps; `choose` gives actions and log-probabilities for what is seen."""
        env = self.env
        if self._observations is None:
            raise ResetNeeded("call reset(seed) before the first collect")
        observations = self._observations
        batch, agents, most = env.num_envs, len(env.agents), int(max(env.nvec))
        seen = np.empty((steps, batch, agents, env.observation_width), np.float32)
        masks = np.empty((steps, batch, agents, most), np.bool_)
        actions = np.empty((steps, batch, agents), np.int64)
        log_probs: list[NDArray[np.float32]] = []
        central = self.critic_input == "state"
        inputs = np.empty((steps, batch, env.state_width), np.float32) if central else seen
        next_inputs = np.empty_like(inputs)
        rewards = np.empty((steps, batch, agents), np.float32)
        terminated = np.empty((steps, batch), np.bool_)
        ended = np.empty((steps, batch), np.bool_)
        infos: dict[str, list[float]] = {}

        state = env.state() if central else None
        for t in range(steps):
            seen[t] = observations
            masks[t] = env.action_masks() != 0
            if central:
                inputs[t] = state
            actions[t], chosen = choose(seen[t], masks[t])
            log_probs.append(chosen)
            step = env.step(actions[t])
            state = env.state() if central else None
            next_inputs[t] = state if central else step.observations
            rewards[t] = self._paid(step.rewards)
            terminated[t] = step.terminated
            ended[t] = step.terminated | step.truncated
            for key, mean in info_means(env, step.infos).items():
                infos.setdefault(key, []).append(mean)
            observations = reset_ended(env, step.observations, ended[t])
            if central and ended[t].any():
                state = env.state()
        self._observations = observations
        return Rollout(
            seen,
            masks,
            actions,
            np.stack(log_probs),
            inputs,
            next_inputs,
            rewards,
            terminated,
            ended,
            {key: float(np.mean(values)) for key, values in infos.items()},
        )

    def _paid(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        if rewards.ndim == 1:
            return rewards[:, None]
        return rewards.mean(axis=1, keepdims=True) if self.team_reward else rewards


def play(
    policy: Policy, env: BatchedEnv, *, episodes: int, seed: int = 0, greedy: bool = True
) -> NDArray[np.float64]:
    """Mean reward per step of at least `episodes` episodes, whole batches of them.

    Parameters
    ----------
    policy, env
        Who plays and where; rewards of several agents are averaged.
    episodes : int
        How many episodes to play; rounded up to a multiple of ``env.num_envs``.
    seed : int
        The first reset's seed: the same seed, the same episodes.
    greedy : bool
        Handed to the policy.

    Returns
    -------
    float64 (episodes,)
    """
    scores: list[NDArray[np.float64]] = []
    observations, _ = env.reset(seed=seed)
    while len(scores) * env.num_envs < episodes:
        if scores:
            observations, _ = env.reset()
        total, length = np.zeros(env.num_envs), np.zeros(env.num_envs)
        running = np.ones(env.num_envs, np.bool_)
        memory = None
        while running.any():
            actions, memory = policy.act(
                observations, env.action_masks(), greedy=greedy, memory=memory
            )
            step = env.step(actions)
            rewards = np.asarray(step.rewards, np.float64).reshape(env.num_envs, -1).mean(axis=1)
            total[running] += rewards[running]
            length[running] += 1
            ended = step.terminated | step.truncated
            running &= ~ended
            observations = step.observations
            if running.any():
                # Those that are through play on uncounted until the longest episode is.
                observations = reset_ended(env, observations, ended)
                if isinstance(memory, np.ndarray):
                    memory[ended] = 0
        scores.append(total / length)
    return np.concatenate(scores)


# PettingZoo


@dataclass(frozen=True, eq=False)
class _Step:
    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: dict[str, NDArray[Any]]


class PettingZooBatch:
    """Several copies of a PettingZoo parallel environment as one `BatchedEnv`.

    Observations are flattened and padded with zeros to the widest agent's, action counts to the
    largest; masks hide the padding and whatever the environment forbids (``action_mask`` in a
    dictionary observation or in the agent's info). Rewards stay per agent, (B, n). An agent that
    has left while others go on sees zeros, is paid 0 and may only choose action 0: its choices
    teach nobody anything, but its rows still count where losses and advantages are averaged.
    An episode ends when no agent is left, as a truncation if any of the last to leave was
    truncated. The state is the environment's own ``state()``, or the observations side by side.

    Parameters
    ----------
    make_env : callable
        Makes one parallel environment.
    num_envs : int
        Copies.
    seed : int
        Seeds the first reset; copy i gets the i-th number drawn from it.
    max_cycles : int, optional
        Longest episode, for rollouts of one episode; by default the environment's ``max_cycles``,
        or 128 where it has none.

    Raises
    ------
    InvalidOption
        For fewer than one copy, an environment that is not a parallel one, or actions other than
        ``Discrete``.
    """

    def __init__(
        self,
        make_env: Callable[[], Any],
        num_envs: int,
        seed: int = 0,
        *,
        max_cycles: int | None = None,
    ) -> None:
        from gymnasium.spaces import Dict, Discrete
        from gymnasium.spaces.utils import flatdim
        from pettingzoo import ParallelEnv

        if num_envs < 1:
            raise InvalidOption(f"num_envs must be at least 1, not {num_envs}")
        self._envs = [make_env() for _ in range(num_envs)]
        env = self._envs[0]
        if not isinstance(env, ParallelEnv):
            raise InvalidOption(
                f"make_env made a {type(env).__name__}, not a pettingzoo.ParallelEnv; AEC "
                "environments become one by pettingzoo.utils.conversions.aec_to_parallel"
            )
        self.num_envs = num_envs
        self.agents: tuple[str, ...] = tuple(env.possible_agents)
        self._spaces = []
        for agent in self.agents:
            space = env.observation_space(agent)
            self._spaces.append(
                space["observation"]
                if isinstance(space, Dict) and "action_mask" in space.spaces
                else space
            )
        self._actions: list[Discrete] = []
        for agent in self.agents:
            space = env.action_space(agent)
            if not isinstance(space, Discrete):
                raise InvalidOption(
                    f"agent {agent!r} acts in {space}; only Discrete can be trained"
                )
            self._actions.append(space)
        self.nvec = np.array([space.n for space in self._actions], dtype=np.int64)
        self._widths = [flatdim(space) for space in self._spaces]
        self.observation_width = max(self._widths)
        self.max_cycles = int(max_cycles or getattr(env.unwrapped, "max_cycles", None) or 128)
        self._padding = np.arange(self.nvec.max()) < self.nvec[:, None]
        self._first_seed: int | None = seed
        self._over = np.ones(num_envs, np.bool_)
        self._observations = np.zeros(
            (num_envs, len(self.agents), self.observation_width), np.float32
        )
        self._masks = np.zeros((num_envs, *self._padding.shape), np.bool_)
        env.reset(seed=seed)
        try:
            self.state_width = int(np.size(env.state()))
            self._has_state = True
        except (AttributeError, NotImplementedError):
            self.state_width = sum(self._widths)
            self._has_state = False

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Begin episodes everywhere, or where ``options["reset_mask"]`` is True."""
        options = dict(options or {})
        chosen = np.asarray(options.pop("reset_mask", np.ones(self.num_envs)), np.bool_)
        seed = self._first_seed if seed is None else seed
        self._first_seed = None
        seeds = (
            [None] * self.num_envs
            if seed is None
            else np.random.SeedSequence(seed).generate_state(self.num_envs).tolist()
        )
        for i in np.flatnonzero(chosen).tolist():
            observations, infos = self._envs[i].reset(seed=seeds[i], options=options or None)
            self._take(i, observations, infos)
            self._over[i] = False
        return self._observations.copy(), {}

    def step(self, actions: NDArray[np.int64]) -> _Step:
        """Step every copy with actions (B, n), counted from 0."""
        if self._over.any():
            raise ResetNeeded(
                f"environment {int(np.argmax(self._over))} has ended: call "
                'reset(options={"reset_mask": ended}) before the next step'
            )
        rewards = np.zeros((self.num_envs, len(self.agents)))
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        for i, env in enumerate(self._envs):
            alive = set(env.agents)
            chosen = {
                agent: int(space.start + action)
                for agent, space, action in zip(self.agents, self._actions, actions[i], strict=True)
                if agent in alive
            }
            observations, paid, terminations, truncations, infos = env.step(chosen)
            self._take(i, observations, infos)
            rewards[i] = [paid.get(agent, 0.0) for agent in self.agents]
            if not env.agents:
                truncated[i] = any(
                    truncations.get(agent, False) and not terminations.get(agent, False)
                    for agent in alive
                )
                terminated[i] = not truncated[i]
                self._over[i] = True
        return _Step(self._observations.copy(), rewards, terminated, truncated, {})

    def state(self) -> NDArray[np.float32]:
        """(B, s) float32."""
        if self._has_state:
            return np.stack([np.asarray(env.state(), np.float32).ravel() for env in self._envs])
        return np.concatenate(
            [self._observations[:, j, :width] for j, width in enumerate(self._widths)], axis=1
        )

    def action_masks(self) -> NDArray[np.int8]:
        """(B, n, A) int8."""
        return self._masks.astype(np.int8)

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _take(self, i: int, observations: dict[str, Any], infos: dict[str, Any]) -> None:
        from gymnasium.spaces.utils import flatten

        self._observations[i] = 0
        self._masks[i] = False
        for j, agent in enumerate(self.agents):
            if agent not in observations:
                self._masks[i, j, 0] = True
                continue
            seen, mask = observations[agent], infos.get(agent, {}).get("action_mask")
            if isinstance(seen, Mapping) and "action_mask" in seen:
                seen, mask = seen["observation"], seen["action_mask"]
            flat = np.asarray(flatten(self._spaces[j], seen), np.float32)
            self._observations[i, j, : self._widths[j]] = flat
            self._masks[i, j] = self._padding[j]
            if mask is not None:
                self._masks[i, j, : len(mask)] &= np.asarray(mask) != 0
                if not self._masks[i, j].any():
                    if agent in self._envs[i].agents:
                        raise BrokenContract(
                            f"agent {agent!r} was given a mask that allows no action"
                        )
                    self._masks[i, j] = self._padding[j]  # it has played its last step
            if self._envs[i].agents and agent not in self._envs[i].agents:
                # It has left, and the others go on.
                self._masks[i, j] = np.arange(self._masks.shape[-1]) == 0
