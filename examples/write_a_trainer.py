"""Write your own algorithm: REINFORCE, with checkpoints, resuming and a learning curve.

A trainer is a class that collects and updates once per `iterate` call; `trainer` makes the rest.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import torch

import rpp_env
from rpp_agents.actors import Actor
from rpp_agents.policy import NetworkPolicy
from rpp_agents.training import RunConfig, kept_tensors, restore_tensors, trainer


@dataclass(frozen=True)
class Config(RunConfig):
    learning_rate: float = 3e-3


class Reinforce:
    """Raises the probability of actions whose reward was above the batch's mean at that step."""

    def __init__(self, env, config):
        self.env, self.config = env, config
        torch.manual_seed(config.seed)
        sizes = [space.n for space in env.action_spaces]
        self.actor = Actor(env.observation_width, sizes, shared=False)
        self.optimizer = torch.optim.Adam(self.actor.parameters(), lr=config.learning_rate)
        self.policy = NetworkPolicy(self.actor, seed=config.seed)
        self.rng = np.random.default_rng(config.seed)  # all randomness; saved in checkpoints
        self.steps = env.num_envs * env.max_cycles  # number of steps in one iteration

    def reset(self, seed):
        self.env.reset(seed=seed)

    def iterate(self, progress):
        observations, _ = self.env.reset()
        chosen, rewards = [], []
        for _ in range(self.env.max_cycles):
            log_probs = self.actor(torch.from_numpy(observations))  # (B, agents, actions)
            race = torch.from_numpy(self.rng.standard_exponential(log_probs.shape, np.float32))
            actions = (log_probs.detach().exp() / race).argmax(-1)  # a draw from the probabilities
            step = self.env.step(actions.numpy())
            chosen.append(log_probs.gather(-1, actions[..., None]).squeeze(-1))
            rewards.append(step.rewards)
            observations = step.observations
        paid = torch.tensor(np.array(rewards), dtype=torch.float32)  # (T, B)
        returns = torch.zeros_like(paid)
        for t in reversed(range(len(paid))):
            following = returns[t + 1] if t + 1 < len(paid) else 0.0
            returns[t] = paid[t] + self.config.discount * following
        advantages = returns - returns.mean(dim=1, keepdim=True)
        loss = -(torch.stack(chosen) * advantages[..., None]).mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return {"reward": float(paid.mean()), "policy_loss": loss.item()}

    def tensors(self):
        return kept_tensors({"actor": self.actor}, {"actor": self.optimizer})

    def restore(self, tensors):
        restore_tensors({"actor": self.actor}, {"actor": self.optimizer}, tensors)


train = trainer("REINFORCE", Reinforce, Config())

if __name__ == "__main__":
    fast = "RPP_ENV_FAST" in os.environ  # for the tests, which only check that it runs
    env = rpp_env.RPPEnv.make(split="train", num_envs=64 if fast else 512)
    held_out = rpp_env.RPPEnv.make(split="validation", max_users=50 if fast else 500)
    config = Config(total_steps=1_000 if fast else 300_000, threads=1)
    policy = train(env, config, run_dir="runs/reinforce", eval_env=held_out, resume=True)
    print(rpp_env.evaluate(policy, held_out, baselines=("random",), name="REINFORCE").verdict)
