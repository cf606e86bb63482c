"""RPP, RPP+ and what is left of them when three of the four agents are held fixed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.fixed import MANUAL, manual_cell
from rpp_agents.experiments.players import Playing
from rpp_agents.experiments.problem import Counted, Problem, Users
from rpp_agents.policy import Policy
from rpp_agents.trainers import find_trainer, trainer_config
from rpp_env import RPPEnv, Step
from rpp_env.options import check_choice
from rpp_env.rewriting import open_rewriter
from rpp_env.sentences import AGENTS

__all__ = ["SET_BY_THE_STUDY", "OnlyAgent", "rpp"]

Ints = NDArray[np.int64]

SET_BY_THE_STUDY: dict[str, Any] = {"evaluations": 0, "threads": 1, "tensorboard": False}
"""Fields of a trainer's Config that are the same for all runs, beside budget and seed."""


def rpp(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    trainer: str = "mappo",
    options: Mapping[str, Any] | None = None,
    num_envs: int = 256,
    ranking: Literal["mean", "sequence"] = "mean",
    rewrite: str | None = None,
    only: str | None = None,
) -> Playing:
    """Train the four agents; a call of the model is a step.

    Parameters
    ----------
    trainer : str
        As `rpp_agents.trainers.find_trainer` takes it.
    options : mapping, optional
        Fields of its Config.
    num_envs : int
        Users who play at once.
    ranking : {"mean", "sequence"}
        How the last ranking is observed; A2C's recurrent network reads a sequence.
    rewrite : str, optional
        RPP+: who rewrites the chosen sentences, in training and afterwards.
    only : str, optional
        The one agent of `AGENTS` that chooses; the others stay on the manual prompt
        (RPP-Ro, -Hi, -Re, -Ou; Mao et al. 2025, Figure 3).

    Raises
    ------
    InvalidOption
        For an unknown trainer or agent.
    """
    config = trainer_config(
        trainer, options or {}, "rpp", total_steps=budget, seed=seed, **SET_BY_THE_STUDY
    )
    if only is not None:
        check_choice("agent", only, AGENTS)
    if only is not None:
        manual_cell(problem.train)  # the others' prompt is there
    rewriter = open_rewriter(rewrite)

    def environment(users: Users, **more: Any) -> Any:
        env = users.environment(rewrite=rewriter, ranking=ranking, num_envs=num_envs, **more)
        counted = Counted(env, users)
        return counted if only is None else OnlyAgent(counted, only)

    def told(row: Mapping[str, float], policy: Policy) -> None:
        watch(int(row["steps"]), Playing(policy, environment))

    policy = find_trainer(trainer).train(
        environment(problem.train, seed=seed), config, callbacks=[told], progress=False
    )
    return Playing(policy, environment)


@dataclass(frozen=True)
class _Seen:
    """What one agent sees of a step of all."""

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
        rules = env.rules
        self.agents = (agent,)
        self.nvec = np.asarray(env.nvec)[[self._agent]]
        self.action_spaces = (env.action_spaces[self._agent],)
        # How the history agent gets to the manual prompt's items, by the clock.
        self._route = rules.lengths.route(rules.lengths.shown().index(MANUAL["shown"]))[0]
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
