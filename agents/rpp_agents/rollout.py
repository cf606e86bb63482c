"""Batched environments, and rollouts collected from them.

`BatchedEnv` is the interface of `rpp_env.RPPEnv`; `PettingZooBatch` implements it for PettingZoo
parallel environments with `Discrete` or `Box` actions and vector observations. Neither resets by
itself: the observations and the state after an episode's last step are the true final ones, and the
caller of `step` calls ``reset(options={"reset_mask": ended})``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rpp_agents.pettingzoo_batch import PettingZooBatch
from rpp_agents.policy import Policy
from rpp_env.errors import BrokenContract, InvalidOption, ResetNeeded
from rpp_env.spaces import ActionSpaces, spaces_of

__all__ = [
    "BatchedEnv",
    "Collector",
    "CriticInput",
    "PettingZooBatch",
    "Rollout",
    "Transition",
    "Truncation",
    "check_alike",
    "check_batched",
    "check_rewards",
    "clock_columns",
    "env_actions",
    "info_means",
    "mask_truncation_time",
    "play",
    "reset_ended",
    "what_follows",
]


def __getattr__(name: str) -> Any:
    if name == "stop_the_clock":  # for one version
        text = "rpp_agents.rollout.stop_the_clock is now mask_truncation_time"
        warnings.warn(text, DeprecationWarning, stacklevel=2)
        return mask_truncation_time
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


_ENDLESS = 100
"""An episode longer than this many times `max_cycles` is considered endless."""

CriticInput = Literal["state", "observations"]
"""Input of a critic: the team's state (MAPPO) or each agent's own observation (IPPO)."""

Truncation = Literal["bootstrap", "stop", "terminate"]
"""What follows the last step of a truncated episode: the value of its last observation, the value
of that observation at the time before (`mask_truncation_time`), or nothing."""


class Transition(Protocol):
    """Result of a step; for example an ``rpp_env.Step``."""

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
        """(B,): the episode ended by itself, so its value after the step is 0."""
        ...

    @property
    def truncated(self) -> NDArray[np.bool_]:
        """(B,): the episode was cut off by the time limit."""
        ...

    @property
    def infos(self) -> Mapping[str, NDArray[Any]]:
        """Numbers per environment, (B,) each."""
        ...


class BatchedEnv(Protocol):
    """B copies of an environment with n agents, stepped together.

    All agents act in ``Discrete`` spaces, and `step` takes integers (B, n) from 0; or all in
    ``Box`` spaces, and it takes floats (B, n, d) within the bounds, d being the longest agent's
    length. `action_masks` is (n, A) or (B, n, A), with a column for each of the A actions of the
    agent that has most; of ``Box`` spaces one column, 0 for an agent that has left.

    ``reset(seed=..., options={"reset_mask": (B,) bool})`` begins a new episode where the mask is
    True and leaves the others unchanged; both `reset` and `step` return all B rows. Resets with the
    same `seed` are followed by the same episodes.

    Optional attributes: ``clock``, a slice with the columns of an observation that hold only the
    time, which are all that a state-blind policy sees; ``state_clock``, those of the state;
    ``identifiers``, names of infos that identify something and are not averaged; ``unit``, what is
    played, in the plural (RPPEnv's is "users"). An environment with an attribute ``calls`` counts
    the requests to a model, and is evaluated with greedy actions only; others, which cost nothing,
    with sampled actions too.
    """

    @property
    def num_envs(self) -> int: ...
    @property
    def agents(self) -> Sequence[str]: ...
    @property
    def action_spaces(self) -> Sequence[Discrete | Box]: ...
    @property
    def observation_width(self) -> int: ...
    @property
    def state_width(self) -> int: ...
    @property
    def max_cycles(self) -> int: ...

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Mapping[str, NDArray[Any]]]: ...
    def step(self, actions: NDArray[Any]) -> Transition: ...
    def state(self) -> NDArray[np.float32]: ...
    def action_masks(self) -> NDArray[np.int8]: ...


def check_batched(env: object, name: str) -> None:
    """Check that an object is a `BatchedEnv`, before any of it is used."""
    parts = (
        *("num_envs", "agents", "action_spaces", "observation_width", "state_width", "max_cycles"),
        *("reset", "step", "state", "action_masks"),
    )
    missing = [part for part in parts if not hasattr(env, part)]
    if missing == ["action_spaces"] and hasattr(env, "nvec"):
        raise InvalidOption(
            f"{name} is a {type(env).__name__} with nvec, which earlier versions read: name the "
            "agents' spaces instead, as in action_spaces = tuple(gymnasium.spaces.Discrete(n) for "
            "n in nvec)"
        )
    if missing:
        raise InvalidOption(
            f"{name} is a {type(env).__name__} without {missing[0]!r}: give a batch of "
            "environments, such as an rpp_env.RPPEnv, or PettingZooBatch(make_env, num_envs=16) "
            "for a PettingZoo parallel environment"
        )
    env_actions(env)  # type: ignore[arg-type]  # it has all parts


def env_actions(env: BatchedEnv) -> ActionSpaces:
    """Return the action spaces of `env`; `InvalidOption` for unsupported spaces."""
    return spaces_of(env.agents, env.action_spaces)


def check_alike(env: BatchedEnv, eval_env: BatchedEnv) -> None:
    """Check that a policy trained in `env` can play `eval_env`."""
    for what, shape in (
        ("agents", lambda batch: len(batch.agents)),
        ("actions", lambda batch: env_actions(batch).description),
        ("numbers in an observation", lambda batch: int(batch.observation_width)),
    ):
        trained, played = shape(env), shape(eval_env)
        if trained != played:
            raise InvalidOption(
                f"eval_env has {played} {what}, and env has {trained}: a policy only plays "
                "environments of the shape that it was trained in"
            )


def check_rewards(rewards: NDArray[Any]) -> None:
    """Check that rewards, (B,) or (B, n), are finite."""
    wrong = ~(np.abs(rewards) <= np.finfo(np.float32).max)
    if wrong.any():
        row = int(np.argwhere(wrong)[0][0])
        raise BrokenContract(
            f"environment {row} paid {rewards[row].tolist()}: rewards must be finite numbers"
        )


def info_means(env: BatchedEnv, infos: Mapping[str, NDArray[Any]]) -> dict[str, float]:
    """Average each info over the batch, except those that identify something."""
    identifiers = getattr(env, "identifiers", ())
    return {key: float(np.mean(x)) for key, x in infos.items() if key not in identifiers}


def clock_columns(env: BatchedEnv) -> list[int]:
    """Return the columns of an observation that hold the time; none without ``env.clock``."""
    clock = getattr(env, "clock", None)
    return [] if clock is None else list(range(env.observation_width))[clock]


def mask_truncation_time(
    after: NDArray[np.float32], before: NDArray[np.float32], cut: NDArray[np.bool_], clock: slice
) -> NDArray[np.float32]:
    """Set the time of next observations back by one step where the episode was truncated.

    No step ever begins at the time after the last one, so that no value there is ever learned.
    Earlier values would be learned from arbitrary values there, without end.

    Parameters
    ----------
    after, before : (B, ..., d)
        Observations or states after and before the step.
    cut : bool (B,)
        Where the episode was truncated, and not terminated.
    clock : slice
        The columns that hold the time.
    """
    if not cut.any():
        return after
    stopped = after.copy()
    stopped[cut, ..., clock] = before[cut, ..., clock]
    return stopped


def what_follows(
    truncation: Truncation,
    step: Transition,
    after: NDArray[np.float32],
    before: NDArray[np.float32],
    clock: slice | None,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Return what values after a step are computed from, and where they count as 0 (B,).

    Parameters
    ----------
    truncation : {"bootstrap", "stop", "terminate"}
        What follows a truncated episode; see `Truncation`.
    step : Transition
    after, before : (B, ..., d)
        Observations or states after and before the step.
    clock : slice or None
        Their columns with the time, if the environment names them.
    """
    cut = step.truncated & ~step.terminated
    if truncation == "terminate":
        return after, step.terminated | cut
    if truncation == "stop" and clock is not None:
        return mask_truncation_time(after, before, cut, clock), step.terminated
    return after, step.terminated


def reset_ended(
    env: BatchedEnv, observations: NDArray[np.float32], ended: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Begin new episodes where `ended`; return the observations to continue with."""
    if not ended.any():
        return observations
    # Without a mask if all ended, so that an environment may take its fast path.
    options = None if ended.all() else {"reset_mask": ended}
    return env.reset(options=options)[0]


# Taking rollouts


@dataclass(frozen=True, eq=False)
class Rollout:
    """`T` steps of `B` environments with `n` agents."""

    observations: NDArray[np.float32]
    """(T, B, n, d): observations before each step."""
    masks: NDArray[np.bool_]
    """(T, B, n, A): action masks; see `BatchedEnv`."""
    actions: NDArray[Any]
    """(T, B, n) integers, or (T, B, n, d) floats as sampled, before clipping."""
    log_probs: NDArray[np.float32]
    """Log-probabilities of the actions when chosen: (T, B, n), or (T, B, 1) of a joint choice."""
    inputs: NDArray[np.float32]
    """(T, B, s) or (T, B, n, d): the critic's input before each step."""
    next_inputs: NDArray[np.float32]
    """The critic's input after each step, before any reset: at an episode's end the final one."""
    rewards: NDArray[np.float32]
    """(T, B, n); a team's reward is every agent's."""
    terminated: NDArray[np.bool_]
    """(T, B): the next value is 0: the episode ended by itself, or truncation counts as that."""
    ended: NDArray[np.bool_]
    """(T, B): terminated or truncated; advantages are not propagated across."""
    infos: dict[str, float]
    """Mean of each info over the rollout."""
    memory: NDArray[np.float32] | None = None
    """(B, n, h): the actors' memory before the first step; None without one."""

    @property
    def begins(self) -> NDArray[np.bool_]:
        """(T, B): True where an episode begins after another one of the rollout."""
        none = np.zeros_like(self.ended[:1])
        return np.concatenate([none, self.ended[:-1]])


class Collector:
    """Collects rollouts from an environment.

    Parameters
    ----------
    env : BatchedEnv
    critic_input : "state" or "observations"
        The critic's input.
    team_reward : bool
        Give every agent the mean of all agents' rewards.
    truncation : {"bootstrap", "stop", "terminate"}
        What follows a truncated episode; see `Truncation`.
    """

    def __init__(
        self,
        env: BatchedEnv,
        critic_input: CriticInput,
        *,
        team_reward: bool = False,
        truncation: Truncation = "bootstrap",
    ) -> None:
        self.env = env
        self.critic_input = critic_input
        self.team_reward = team_reward
        self.truncation = truncation
        name = "state_clock" if critic_input == "state" else "clock"
        self._clock: slice | None = getattr(env, name, None)
        self._actions = env_actions(env)
        self._observations: NDArray[np.float32] | None = None
        self.begun = np.ones(env.num_envs, np.bool_)
        """(B,): where the next step is an episode's first."""

    def reset(self, seed: int) -> None:
        """Restart; what follows depends on `seed` alone, not on earlier steps."""
        self._observations = self.env.reset(seed=seed)[0]
        self.begun = np.ones(self.env.num_envs, np.bool_)

    def collect(
        self,
        choose: Callable[
            [NDArray[np.float32], NDArray[np.bool_]],
            tuple[NDArray[Any], NDArray[np.float32]],
        ],
        steps: int,
    ) -> Rollout:
        """Collect `steps` steps; `choose` maps observations to actions and log-probabilities.

        The environment gets the actions clipped to the bounds of their spaces.
        """
        env = self.env
        if self._observations is None:
            raise ResetNeeded("call reset(seed) before the first collect")
        observations = self._observations
        batch, agents = env.num_envs, len(env.agents)
        seen = np.empty((steps, batch, agents, env.observation_width), np.float32)
        masks = np.empty((steps, batch, agents, self._actions.legal.shape[1]), np.bool_)
        actions: list[NDArray[Any]] = []
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
            chosen, chances = choose(seen[t], masks[t])
            actions.append(chosen)
            log_probs.append(chances)
            step = env.step(self._actions.playable(chosen))
            state = env.state() if central else None
            after = step.observations if state is None else state
            next_inputs[t], terminated[t] = what_follows(
                self.truncation, step, after, inputs[t], self._clock
            )
            rewards[t] = self._paid(step.rewards)
            ended[t] = step.terminated | step.truncated
            for key, mean in info_means(env, step.infos).items():
                infos.setdefault(key, []).append(mean)
            observations = reset_ended(env, step.observations, ended[t])
            self.begun = ended[t]
            if central and ended[t].any():
                state = env.state()
        self._observations = observations
        return Rollout(
            seen,
            masks,
            np.stack(actions),
            np.stack(log_probs),
            inputs,
            next_inputs,
            rewards,
            terminated,
            ended,
            {key: float(np.mean(values)) for key, values in infos.items()},
        )

    def _paid(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        check_rewards(rewards)
        if rewards.ndim == 1:
            return rewards[:, None]
        return rewards.mean(axis=1, keepdims=True) if self.team_reward else rewards


def episode(
    env: BatchedEnv, act: Callable[[NDArray[np.float32]], NDArray[Any]]
) -> Iterator[tuple[NDArray[np.float32], NDArray[Any], NDArray[np.float64]]]:
    """Play one episode of `max_cycles` steps in every copy of an environment.

    Parameters
    ----------
    env : BatchedEnv
    act : callable
        Maps observations (B, n, d) to the actions that the environment gets.

    Yields
    ------
    (observations, actions, rewards)
        Of each step; rewards are float64 of shape (B, 1), or (B, n) where agents have their own.

    Raises
    ------
    BrokenContract
        For rewards that are not finite.
    """
    observations, _ = env.reset()
    for _ in range(int(env.max_cycles)):
        actions = act(observations)
        step = env.step(actions)
        rewards = np.asarray(step.rewards, np.float64)
        check_rewards(rewards)
        yield observations, actions, rewards.reshape(len(rewards), -1)
        observations = step.observations


def play(
    policy: Policy, env: BatchedEnv, *, episodes: int, seed: int = 0, greedy: bool = True
) -> NDArray[np.float64]:
    """Play at least `episodes` episodes, in whole batches; return mean rewards per step.

    Parameters
    ----------
    policy, env
        Policy and environment; rewards of several agents are averaged.
    episodes : int
        Number of episodes; rounded up to a multiple of ``env.num_envs``.
    seed : int
        The first reset's seed: equal seeds play equal episodes.
    greedy : bool
        Passed to the policy.

    Returns
    -------
    float64 (episodes,)

    Raises
    ------
    BrokenContract
        For rewards that are not finite, and for an endless episode.
    """
    longest = _ENDLESS * int(env.max_cycles)
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
            check_rewards(rewards)
            total[running] += rewards[running]
            length[running] += 1
            if length.max() > longest:
                raise BrokenContract(
                    f"an episode has not ended after {longest:,} steps, {_ENDLESS} times "
                    "max_cycles: give PettingZooBatch the longest episode as max_cycles"
                )
            ended = step.terminated | step.truncated
            running &= ~ended
            observations = step.observations
            if running.any():
                # Finished copies play on, uncounted, until the longest episode is over.
                observations = reset_ended(env, observations, ended)
                if isinstance(memory, np.ndarray):
                    memory[ended] = 0
        scores.append(total / length)
    return np.concatenate(scores)
