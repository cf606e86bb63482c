"""Evolution strategy: linear policies, moved towards better perturbations.

After Salimans et al. 2017 ("Evolution Strategies as a Scalable Alternative to Reinforcement
Learning"): mirrored perturbations, utilities by rank, Adam. Every perturbation plays a share of the
users at play; only the rewards of episodes are used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.observing import ObservationConfig
from rpp_agents.rollout import BatchedEnv, env_actions, episode
from rpp_agents.solvers.linear import LinearPolicy, columns_of
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors, trainer
from rpp_env.errors import InvalidOption
from rpp_env.spaces import BoxSpaces

__all__ = ["Config", "Evolution", "train"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Options of the evolution strategy."""

    pairs: int = 16
    """Number of mirrored pairs of perturbations per update, among which the users are divided."""
    spread: float = 0.1
    """Standard deviation of a perturbation of a weight."""
    learning_rate: float = 0.02
    """Adam's learning rate."""
    blocks: tuple[str, ...] = ()
    """Blocks of the observation that are used; by default the profile's, or all without one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "pairs")
        check_numbers(self, 0, "spread", "learning_rate", above=True)


class Evolution:
    """An evolution strategy in an environment; see `rpp_agents.training.Learner`."""

    def __init__(self, env: BatchedEnv, config: Config) -> None:
        actions = env_actions(env)
        if not isinstance(actions, BoxSpaces):
            raise InvalidOption(
                "the evolution strategy gives vectors, but these agents choose among actions: use "
                "PPR-v0 without a codebook, or another solver"
            )
        if env.num_envs < 2 * config.pairs:
            raise InvalidOption(
                f"{2 * config.pairs} perturbations need as many users at play, but num_envs is "
                f"{env.num_envs}: give fewer pairs or more users"
            )
        self.env, self.config = env, config
        columns = columns_of(env, config.blocks)
        agents, length = actions.low.shape
        bounds = np.stack([actions.low, actions.high])
        shape = (agents, len(columns) + 1, length)
        self.policy = LinearPolicy(np.zeros(shape), columns, bounds)
        self.weights = torch.nn.Parameter(torch.zeros(shape))
        self.optimizer = torch.optim.Adam([self.weights], lr=config.learning_rate)
        self.rng = np.random.default_rng(config.seed)
        self.steps = env.num_envs * int(env.max_cycles)
        # The perturbation that plays each user; remaining users play the policy itself.
        self.player = np.arange(env.num_envs) % (2 * config.pairs)

    def reset(self, seed: int) -> None:
        """Begin a segment."""
        self.env.reset(seed=seed)

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - nothing is scheduled
        """Play an episode of every user, and take one step."""
        config, shape = self.config, tuple(self.weights.shape)
        drawn = self.rng.standard_normal((config.pairs, *shape)).astype(np.float32)
        noise = np.concatenate([drawn, -drawn])
        tried = self.weights.detach().numpy() + config.spread * noise

        def act(observations: NDArray[np.float32]) -> NDArray[Any]:
            assert self.policy.bounds is not None
            seen = self.policy.features(observations)
            values = np.einsum("bnc,bnca->bna", seen, tried[self.player], optimize=True)
            clipped: NDArray[Any] = np.clip(values, *self.policy.bounds)
            return clipped

        paid = np.zeros(self.env.num_envs)
        for _, _, rewards in episode(self.env, act):
            paid += rewards.mean(axis=1)
        means = np.bincount(self.player, paid) / np.bincount(self.player)
        ranks = np.empty(len(means))
        ranks[np.argsort(means, kind="stable")] = np.arange(len(means))
        utility = ranks / (len(means) - 1) - 0.5
        ascent = np.tensordot(utility, noise, axes=1) / (len(means) * config.spread)
        self.weights.grad = torch.from_numpy(-ascent.astype(np.float32))
        self.optimizer.step()
        self.policy.weights = self.weights.detach().numpy().copy()
        return {"reward": float(paid.mean() / int(self.env.max_cycles))}

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`."""
        return {"weights": self.weights.detach(), **kept_tensors({}, {"weights": self.optimizer})}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        if tensors["weights"].shape != self.weights.shape:
            raise ValueError(f"weights are of shape {tuple(tensors['weights'].shape)}")
        self.weights.data.copy_(tensors["weights"])
        restore_tensors({}, {"weights": self.optimizer}, tensors)
        self.policy.weights = self.weights.detach().numpy().copy()


train = trainer("Evolution", Evolution, Config())
