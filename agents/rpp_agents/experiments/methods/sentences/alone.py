"""One agent chooses, and the other three stay on the manual prompt (Mao et al. 2025, Figure 3)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods.sentences import MANUAL, items, manual_cell, space_of
from rpp_agents.experiments.problem import Counted, Users
from rpp_env import RPPEnv, Step
from rpp_env.options import check_choice
from rpp_env.sentences import AGENTS

__all__ = ["OnlyAgent", "check_alone"]

Ints = NDArray[np.int64]


def check_alone(users: Users, only: str) -> None:
    """Refuse another agent, and problems without the prompt on which the others would stay."""
    check_choice("agent", only, AGENTS)
    manual_cell(users, f"only={only!r}")


@dataclass(frozen=True)
class _Seen:
    """One agent's view of a step of all agents."""

    step: Step
    agent: int

    def __getattr__(self, name: str) -> Any:
        return getattr(self.step, name)

    @property
    def observations(self) -> NDArray[np.float32]:
        """(B, 1, d)."""
        return self.step.observations[:, [self.agent]]


class OnlyAgent:
    """An environment in which one agent chooses and the others stay on the manual prompt.

    Parameters
    ----------
    env : RPPEnv
        Or what behaves like one.
    agent : str
        Who chooses.
    """

    def __init__(self, env: RPPEnv | Counted, agent: str) -> None:
        self._env, self._agent = env, AGENTS.index(agent)
        space = space_of(env, f"only={agent!r}")
        self.agents = (agent,)
        self.nvec = np.asarray(env.nvec)[[self._agent]]
        self.action_spaces = (env.action_spaces[self._agent],)
        # How the history agent gets to the manual prompt's items, by the clock.
        self._route = space.history.route(items(space).index(MANUAL["shown"]))[0]
        self._clock = np.zeros(0, np.int64)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    def reset(
        self, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], Mapping[str, NDArray[Any]]]:
        """See `RPPEnv.reset`."""
        observations, infos = self._env.reset(seed, options)
        begun = (options or {}).get("reset_mask")
        if begun is None:
            self._clock = np.zeros(len(observations), np.int64)
        else:
            self._clock[begun] = 0
        return observations[:, [self._agent]], infos

    def step(self, actions: Ints) -> _Seen:
        """See `RPPEnv.step`; actions are (B, 1)."""
        joint = np.empty((len(actions), len(AGENTS)), np.int64)
        joint[:, 0], joint[:, 2], joint[:, 3] = (
            MANUAL[part] for part in ("role", "reasoning", "output")
        )
        joint[:, 1] = self._route[self._clock]
        joint[:, self._agent] = actions[:, 0]
        step = self._env.step(joint)
        self._clock += 1
        return _Seen(step, self._agent)

    def action_masks(self) -> NDArray[np.int8]:
        """(1, n)."""
        return np.ones((1, int(self.nvec[0])), np.int8)
