"""PettingZoo parallel environments as a batch for the trainers.

Observations, rewards and masks of a foreign environment are checked here, once: anything that a
network could not learn from raises an error that names the agent, what came and what is needed.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import BrokenContract, InvalidOption, ResetNeeded
from rpp_env.spaces import spaces_of

__all__ = ["MAX_WIDTH", "PettingZooBatch"]


@dataclass(frozen=True, eq=False)
class _Step:
    observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    infos: dict[str, NDArray[Any]]


MAX_WIDTH = 4096
"""Maximum numbers in an observation that `PettingZooBatch` flattens by default."""


class PettingZooBatch:
    """Several copies of a PettingZoo parallel environment as one `BatchedEnv`.

    For environments with vector observations and any number of agents, which act either all in
    ``Discrete`` or all in ``Box`` spaces. Observations are flattened and padded with zeros to the
    widest agent's, action counts to the largest, and ``Box`` actions to the longest; masks hide
    the padding and everything that the environment forbids (``action_mask`` in a dictionary
    observation or in the agent's info; for ``Discrete`` actions only). Rewards stay per agent,
    (B, n). An agent that has left while others continue sees zeros, gets the reward 0 and may only
    choose action 0: its choices have no gradient, but its rows count in means of losses and
    advantages. An agent has left once it was terminated or truncated, even if the environment still
    lists it. An episode ends when no agent is left, as a truncation if any of the last to leave was
    truncated. The state is the environment's own ``state()`` if that is a method that returns
    numbers, or else the concatenated observations.

    Parameters
    ----------
    make_env : callable
        Makes one parallel environment, a new one at each call.
    num_envs : int
        Number of copies.
    seed : int
        Seeds the first reset; copy i gets the i-th number drawn from it.
    max_cycles : int, optional
        Maximum episode length, for rollouts of one episode; longer episodes are truncated. By
        default the environment's ``max_cycles``, or 128 if it has none, and only the environment
        ends episodes.
    max_width : int
        Maximum numbers in an observation. Images have more: the networks here would read them as
        vectors, without neighbourhoods, and need much memory.

    Raises
    ------
    InvalidOption
        For fewer than one copy, an environment that is not a parallel one, actions that are
        neither all ``Discrete`` nor all ``Box``, and observations that are too wide or cannot be
        flattened.
    """

    def __init__(
        self,
        make_env: Callable[[], Any],
        num_envs: int,
        seed: int = 0,
        *,
        max_cycles: int | None = None,
        max_width: int = MAX_WIDTH,
    ) -> None:
        from gymnasium.spaces import Dict
        from pettingzoo import ParallelEnv

        if num_envs < 1:
            raise InvalidOption(f"num_envs must be at least 1, not {num_envs}")
        if max_cycles is not None and max_cycles < 1:
            raise InvalidOption(f"max_cycles must be at least 1, not {max_cycles}")
        env = make_env()
        if not isinstance(env, ParallelEnv):
            raise InvalidOption(
                f"make_env made a {type(env).__name__}, not a pettingzoo.ParallelEnv; AEC "
                "environments become one by pettingzoo.utils.conversions.aec_to_parallel"
            )
        self.num_envs = num_envs
        possible = getattr(env, "possible_agents", None)
        if not possible:
            raise InvalidOption(
                f"{env} names no possible_agents: a trainer must know all agents that can appear"
            )
        self.agents: tuple[str, ...] = tuple(possible)
        self._known = frozenset(self.agents)
        self._spaces = []
        for agent in self.agents:
            space = env.observation_space(agent)
            if isinstance(space, Dict) and "action_mask" in space.spaces:
                space = space["observation"]
            self._spaces.append(space)
        self._actions = spaces_of(self.agents, map(env.action_space, self.agents))
        self.action_spaces: tuple[Any, ...] = self._actions.spaces
        self._widths = [
            _width(agent, space, max_width)
            for agent, space in zip(self.agents, self._spaces, strict=True)
        ]
        self.observation_width = max(self._widths)
        self._limit = max_cycles
        self.max_cycles = int(max_cycles or getattr(env.unwrapped, "max_cycles", None) or 128)
        self._padding = self._actions.legal
        self._first_seed: int | None = seed
        self._over = np.ones(num_envs, np.bool_)
        self._clock = np.zeros(num_envs, np.int64)
        self._gone: list[set[str]] = [set() for _ in range(num_envs)]
        # Nothing large is allocated before the widths are known.
        self._envs = [env, *(make_env() for _ in range(num_envs - 1))]
        if len(set(map(id, self._envs))) < num_envs:
            raise InvalidOption(
                "make_env returned the same environment twice: it must make a new one at each call"
            )
        self._observations = np.zeros(
            (num_envs, len(self.agents), self.observation_width), np.float32
        )
        self._masks = np.zeros((num_envs, *self._padding.shape), np.bool_)
        env.reset(seed=seed)
        own = _own_state(env, max_width * len(self.agents))
        self._has_state = own is not None
        self.state_width = sum(self._widths) if own is None else len(own)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, NDArray[Any]]]:
        """Begin episodes of all copies, or of those where ``options["reset_mask"]`` is True."""
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
            given = self._envs[i].reset(seed=seeds[i], options=options or None)
            observations, infos = _dictionaries("reset()", given, 2)
            self._gone[i] = set()
            self._take(i, observations, infos, set(self._envs[i].agents), absent=set())
            self._over[i] = False
            self._clock[i] = 0
        self._check_shown()
        return self._observations.copy(), {}

    def step(self, actions: NDArray[Any]) -> _Step:
        """Step every copy with actions: (B, n) integers from 0, or (B, n, d) floats."""
        if self._over.any():
            raise ResetNeeded(
                f"environment {int(np.argmax(self._over))} has ended: call "
                'reset(options={"reset_mask": ended}) before the next step'
            )
        rewards = np.zeros((self.num_envs, len(self.agents)))
        terminated = np.zeros(self.num_envs, np.bool_)
        truncated = np.zeros(self.num_envs, np.bool_)
        self._clock += 1
        for i, env in enumerate(self._envs):
            alive, absent = set(env.agents), self._gone[i]
            chosen = {
                agent: self._actions.own(j, actions[i][j])
                for j, agent in enumerate(self.agents)
                if agent in alive
            }
            given = _dictionaries("step()", env.step(chosen), 5)
            observations, paid, terminations, truncations, infos = given
            self._gone[i] = absent | {
                agent
                for agent in alive
                if terminations.get(agent, False) or truncations.get(agent, False)
            }
            live = set(env.agents) - self._gone[i]
            self._take(i, observations, infos, live, absent)
            self._pay(rewards[i], paid)
            if not live:
                truncated[i] = any(
                    truncations.get(agent, False) and not terminations.get(agent, False)
                    for agent in alive - absent
                )
                terminated[i] = not truncated[i]
            elif self._clock[i] == self._limit:
                truncated[i] = True
        self._check_shown()
        self._over = terminated | truncated
        return _Step(self._observations.copy(), rewards, terminated, truncated, {})

    def state(self) -> NDArray[np.float32]:
        """(B, s) float32."""
        if not self._has_state:
            return np.concatenate(
                [self._observations[:, j, :width] for j, width in enumerate(self._widths)], axis=1
            )
        states = [np.asarray(env.state(), np.float32).ravel() for env in self._envs]
        for state in states:
            if len(state) != self.state_width or not np.isfinite(state).all():
                raise BrokenContract(
                    f"state() returned {_described(state)}; it must return {self.state_width} "
                    "finite numbers, as after the first reset"
                )
        return np.stack(states)

    def action_masks(self) -> NDArray[np.int8]:
        """(B, n, A) int8."""
        return self._masks.astype(np.int8)

    def close(self) -> None:
        """Close every copy."""
        for env in self._envs:
            env.close()

    def _pay(self, row: NDArray[np.float64], paid: dict[str, Any]) -> None:
        """Write each agent's reward into a row (n,)."""
        given = [paid.get(agent, 0.0) for agent in self.agents]
        try:
            row[:] = np.asarray(given, np.float64).reshape(len(given))
        except (TypeError, ValueError):
            row[0] = np.nan
        if not all(map(math.isfinite, row.tolist())):
            raise BrokenContract(
                f"rewards must be one finite number for each agent; the environment returned {paid}"
            )

    def _take(
        self,
        i: int,
        observations: dict[str, Any],
        infos: dict[str, Any] | None,
        live: set[str],
        absent: set[str],
    ) -> None:
        """Store observations and masks of the agents of copy `i`.

        `live` are the agents that play on, `absent` those that had left before.
        """
        if unknown := live - self._known:
            raise BrokenContract(
                f"agent {min(unknown, key=str)!r} is at play, but is not in possible_agents: "
                f"{', '.join(map(str, self.agents))}"
            )
        self._observations[i] = 0
        self._masks[i] = False
        for j, agent in enumerate(self.agents):
            if agent not in observations or agent in absent:
                if agent in live:
                    raise BrokenContract(f"agent {agent!r} is at play, but got no observation")
                self._masks[i, j] = self._actions.left
                continue
            seen = observations[agent]
            mask = ((infos or {}).get(agent) or {}).get("action_mask")
            if isinstance(seen, Mapping) and "action_mask" in seen:
                seen, mask = seen["observation"], seen["action_mask"]
            self._observations[i, j, : self._widths[j]] = self._flat(j, seen)
            self._masks[i, j] = self._padding[j]
            if mask is not None:
                self._masks[i, j] &= self._actions.allowed(j, mask)
                if not self._masks[i, j].any():
                    if agent in live:
                        raise BrokenContract(f"agent {agent!r} got a mask that allows no action")
                    self._masks[i, j] = self._padding[j]  # it has played its last step
            if live and agent not in live:
                # It has left, while the others continue.
                self._masks[i, j] = self._actions.left

    def _flat(self, j: int, seen: Any) -> NDArray[np.float32]:
        """Flatten an observation of agent `j`."""
        from gymnasium.spaces.utils import flatten

        try:
            flat = np.asarray(flatten(self._spaces[j], seen), np.float32)
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            raise BrokenContract(
                f"agent {self.agents[j]!r} got the observation {seen!r:.200}, which is not in its "
                f"observation space {self._spaces[j]}: {error}"
            ) from error
        if flat.shape != (self._widths[j],):
            raise BrokenContract(
                f"agent {self.agents[j]!r} got an observation of {flat.size:,} instead of "
                f"{self._widths[j]:,} numbers, unlike its space {self._spaces[j]}: {seen!r:.80}"
            )
        return flat

    def _check_shown(self) -> None:
        """Check that observations are finite."""
        finite = np.isfinite(self._observations)
        if not finite.all():
            i, j, _ = np.argwhere(~finite)[0]
            raise BrokenContract(
                f"agent {self.agents[j]!r} got {_described(self._observations[i, j])}; all "
                "must be finite"
            )


_UNNOTICED = 256
"""Maximum size of arrays with several axes, such as boards, that cause no warning."""


def _width(agent: str, space: Any, most: int) -> int:
    """Count the numbers of a flattened observation; raise if there are too many."""
    from gymnasium.spaces.utils import flatdim

    try:
        width = int(flatdim(space))
    except (NotImplementedError, ValueError) as error:
        raise InvalidOption(
            f"agent {agent!r} observes {space}, which is not a vector of fixed width; wrap the "
            "environment so that it shows one"
        ) from error
    shape = getattr(space, "shape", None) or (width,)
    if width > most:
        raise InvalidOption(
            f"agent {agent!r} observes {width:,} numbers (shape {shape}), and the networks here "
            f"are for vectors of at most {most:,}: make the observations smaller (for images "
            "supersuit.color_reduction_v0 and supersuit.resize_v1, or features of your own), or "
            f"give max_width={width} if you have the memory"
        )
    if len(shape) > 1 and width > _UNNOTICED:
        warnings.warn(
            f"agent {agent!r} observes arrays of shape {shape}: they are flattened to {width:,} "
            "numbers, and the networks here do not see neighbourhoods in them",
            stacklevel=4,
        )
    return width


def _own_state(env: Any, most: int) -> NDArray[np.float32] | None:
    """Return the environment's ``state()``, flattened; None if it has none that can be used."""
    # Many environments store their internal state in an attribute of that name.
    if not (callable(getattr(env, "state", None)) and callable(getattr(env.unwrapped, "state", 0))):
        return None
    try:
        state = env.state()
    except (AttributeError, NotImplementedError):
        return None
    try:
        flat = np.asarray(state, np.float32).ravel()
        why = f"it has {flat.size:,} numbers" if flat.size > most else ""
    except (TypeError, ValueError):
        why = f"it is a {type(state).__name__} and not an array of numbers"
    if why:
        warnings.warn(
            f"the environment's state() is not used, because {why}: the concatenated observations "
            "take its place",
            stacklevel=3,
        )
        return None
    return flat


def _dictionaries(call: str, given: Any, count: int) -> Any:
    """Check that a PettingZoo environment returned the right number of dictionaries."""
    if not isinstance(given, tuple) or len(given) != count:
        came = f"{len(given)} values" if isinstance(given, tuple) else f"a {type(given).__name__}"
        raise BrokenContract(
            f"{call} of the environment returned {came}; a PettingZoo parallel environment returns "
            f"a tuple of {count} dictionaries by agent"
        )
    return given


def _described(numbers: NDArray[np.float32]) -> str:
    """Describe an array: its size, and the first number that is not finite."""
    wrong = numbers[~np.isfinite(numbers)]
    return f"{numbers.size:,} numbers" + (f" with {wrong[0]} among them" if len(wrong) else "")
