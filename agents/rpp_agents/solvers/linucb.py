"""LinUCB: linear bandits with upper confidence bounds, one per agent.

The disjoint model of Li et al. 2010 ("A Contextual-Bandit Approach to Personalized News Article
Recommendation"): one ridge regression for each agent and action, on columns of the observation.
Several agents learn in parallel, each as if the others were part of its environment. It is meant
for episodes of one step: the reward of a step is the value of an action.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rpp_agents.observing import ObservationConfig
from rpp_agents.rollout import BatchedEnv, env_actions, episode
from rpp_agents.solvers.linear import LinearPolicy, columns_of
from rpp_agents.training import check_numbers, trainer
from rpp_env.errors import InvalidOption
from rpp_env.spaces import DiscreteSpaces

__all__ = ["Config", "LinUCB", "train"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Options of LinUCB."""

    total_steps: int = 100_000
    """Number of answers to learn from."""
    optimism: float = 0.5
    """Width of the confidence bounds, in standard deviations of a reward of variance 1."""
    ridge: float = 10.0
    """Weight of the penalty on large coefficients."""
    blocks: tuple[str, ...] = ()
    """Blocks of the observation that are used; by default the profile's, or all without one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 0, "optimism")
        check_numbers(self, 0, "ridge", above=True)


class LinUCB:
    """LinUCB in an environment; see `rpp_agents.training.Learner`."""

    def __init__(self, env: BatchedEnv, config: Config) -> None:
        actions = env_actions(env)
        if not isinstance(actions, DiscreteSpaces):
            raise InvalidOption(
                "LinUCB chooses among actions, but these agents give vectors: use PPR-v0 with "
                "codebook=K, or another solver"
            )
        self.env, self.config = env, config
        columns = columns_of(env, config.blocks)
        agents, most = actions.legal.shape
        width = len(columns) + 1
        self.policy = LinearPolicy(np.zeros((agents, width, most)), columns)
        ridge = config.ridge * np.eye(width)
        self.squares = np.tile(ridge, (agents, most, 1, 1))
        self.sums = np.zeros((agents, most, width))
        self.rng = np.random.default_rng(config.seed)
        self.steps = env.num_envs * int(env.max_cycles)

    def reset(self, seed: int) -> None:
        """Begin a segment."""
        self.env.reset(seed=seed)

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - nothing is scheduled
        """Play an episode of every user, and update the model."""
        paid = []
        for observations, actions, rewards in episode(self.env, self._choose):
            seen = self._features(observations)
            own = np.broadcast_to(rewards, actions.shape)
            for agent in range(actions.shape[1]):
                x = seen[:, agent]
                for action in np.unique(actions[:, agent]):
                    there = actions[:, agent] == action
                    self.squares[agent, action] += x[there].T @ x[there]
                    self.sums[agent, action] += own[there, agent] @ x[there]
            self._fit()
            paid.append(rewards.mean())
        return {"reward": float(np.mean(paid))}

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`; the optimizer's moments are the whole model."""
        return {
            "optimizer.squares": torch.from_numpy(self.squares),
            "optimizer.sums": torch.from_numpy(self.sums),
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        for name, array in (("squares", self.squares), ("sums", self.sums)):
            kept = tensors[f"optimizer.{name}"].numpy()
            if kept.shape != array.shape:
                raise ValueError(f"{name} are of shape {kept.shape}")
            array[:] = kept
        self._fit()

    def _fit(self) -> None:
        found = np.linalg.solve(self.squares, self.sums[..., None])[..., 0]
        self.policy.weights = found.transpose(0, 2, 1).astype(np.float32)

    def _features(self, observations: Any) -> Any:
        return self.policy.features(observations).astype(np.float64)

    def _choose(self, observations: Any) -> Any:
        """(B, n) actions with the highest upper bounds; ties are broken at random."""
        seen = self._features(observations)
        means = np.einsum("bnc,nca->bna", seen, self.policy.weights.astype(np.float64))
        inverse = np.linalg.inv(self.squares)
        spread = np.einsum("bnc,nacd,bnd->bna", seen, inverse, seen, optimize=True)
        bounds = means + self.config.optimism * np.sqrt(np.maximum(spread, 0))
        bounds += 1e-9 * self.rng.random(bounds.shape)
        legal = np.asarray(self.env.action_masks()) != 0
        return np.where(legal, bounds, -np.inf).argmax(axis=2)


train = trainer("LinUCB", LinUCB, Config())
