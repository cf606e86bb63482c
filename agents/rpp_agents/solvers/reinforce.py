"""REINFORCE: policy gradients with the batch's mean reward as the baseline.

Williams 1992, with the mean return of the batch as baseline and no critic; for actions that are
chosen (`Actor`) and for vectors (`GaussianActor`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_agents.actors import TeamActor, independent, make_actor
from rpp_agents.observing import ObservationConfig
from rpp_agents.policy import NetworkPolicy
from rpp_agents.rollout import BatchedEnv, env_actions, episode
from rpp_agents.solvers.linear import columns_of
from rpp_agents.training import check_numbers, kept_tensors, restore_tensors, trainer

__all__ = ["Config", "Reinforce", "train"]


@dataclass(frozen=True)
class Config(ObservationConfig):
    """Options of REINFORCE."""

    learning_rate: float = 3e-3
    """Adam's learning rate."""
    entropy: float = 0.0
    """Weight of an entropy bonus."""
    hidden: tuple[int, ...] = (64,)
    """Widths of the hidden layers."""
    spread: float = 0.3
    """Initial standard deviation for vectors, in units of half the distance of the bounds."""
    blocks: tuple[str, ...] = ()
    """Blocks of the observation that are used; by default the profile's, or all without one."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 0, "learning_rate", "spread", above=True)
        check_numbers(self, 0, "entropy")


class Reinforce:
    """REINFORCE in an environment; see `rpp_agents.training.Learner`."""

    def __init__(self, env: BatchedEnv, config: Config) -> None:
        self.env, self.config = env, config
        actions = env_actions(env)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            self.actor: TeamActor = make_actor(
                independent(actions),
                int(env.observation_width),
                actions,
                hidden=config.hidden,
                layer_norm=False,
                shared=False,
                visible=columns_of(env, config.blocks),
            )
        if (log_std := getattr(self.actor, "log_std", None)) is not None:
            log_std.data.fill_(float(np.log(config.spread)))
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.learning_rate)
        self.policy = NetworkPolicy(self.actor, seed=config.seed)
        self.rng = np.random.default_rng(config.seed)
        self.steps = env.num_envs * int(env.max_cycles)

    def reset(self, seed: int) -> None:
        """Begin a segment."""
        self.env.reset(seed=seed)

    def iterate(self, progress: float) -> dict[str, float]:  # noqa: ARG002 - nothing is scheduled
        """Play an episode of every user, and take one step."""
        seen, chosen = [], []
        masks = torch.from_numpy(np.asarray(self.env.action_masks()) != 0)

        def act(observations: NDArray[np.float32]) -> NDArray[Any]:
            features = torch.from_numpy(np.ascontiguousarray(observations, np.float32))
            with torch.inference_mode():
                picked, _ = self.actor.choose(self.actor.features(features), masks, self.rng)
            seen.append(features)
            chosen.append(picked.clone())
            playable: NDArray[Any] = self.actor.playable(picked).numpy()
            return playable

        rewards = np.stack([paid for _, _, paid in episode(self.env, act)])  # (T, B, 1 or n)
        returns = np.zeros_like(rewards)
        following = np.zeros_like(rewards[0])
        for t in reversed(range(len(rewards))):
            returns[t] = following = rewards[t] + self.config.discount * following
        advantages = returns - returns.mean(axis=1, keepdims=True)
        advantages /= max(float(advantages.std()), 1e-8)
        loss = torch.zeros(())
        for features, picked, worth in zip(seen, chosen, advantages, strict=True):
            log_probs, entropy = self.actor.evaluate(self.actor.features(features), masks, picked)
            loss = loss - (log_probs * torch.from_numpy(worth.astype(np.float32))).mean()
            loss = loss - self.config.entropy * entropy.mean()
        loss = loss / len(seen)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        return {"reward": float(rewards.mean()), "policy_loss": loss.item()}

    def tensors(self) -> dict[str, Tensor]:
        """See `rpp_agents.training.Learner`."""
        return kept_tensors({"actor": self.actor}, {"actor": self.optimizer})

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """See `rpp_agents.training.Learner`."""
        restore_tensors({"actor": self.actor}, {"actor": self.optimizer}, tensors)


train = trainer("REINFORCE", Reinforce, Config())
