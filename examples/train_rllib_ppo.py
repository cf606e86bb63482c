"""Train RLlib's PPO on the four agents, each with its own policy.

Separate policies may have different spaces: no padding, no masks, and the agents' names are the
keys of the policies.
"""

from __future__ import annotations

import os
from typing import Any

import ray
from ray.rllib.algorithms.ppo import PPOConfig
from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.tune import register_env

import rpp_env

FAST = "RPP_ENV_FAST" in os.environ
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}


def make(options: dict[str, Any]) -> ParallelPettingZooEnv:
    # Each copy draws its own seed at its first reset. The check is left out (see below): it
    # resets every copy with the seed 42, and all would then play the same users.
    env = rpp_env.parallel_env(split="train", **options)
    return ParallelPettingZooEnv(env)


ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
register_env("RPP-v0", make)
config = (
    PPOConfig()
    .environment("RPP-v0", env_config=WORLD, disable_env_checking=True)
    .env_runners(num_env_runners=0, num_envs_per_env_runner=4 if FAST else 32)
    .multi_agent(policies=rpp_env.AGENTS, policy_mapping_fn=lambda agent, *_, **__: agent)
    .training(
        gamma=0.95,
        lr=1e-3,
        entropy_coeff=0.01,
        num_epochs=4,
        train_batch_size_per_learner=80 if FAST else 1_600,  # steps of a user
        minibatch_size=40 if FAST else 400,
    )
)
algorithm = config.build_algo()
for _ in range(1 if FAST else 40):
    found = algorithm.train()["env_runners"]
    # A return is the sum over four agents and five steps.
    print(
        f"{found['num_env_steps_sampled_lifetime']:7,.0f} user-steps: "
        f"NDCG@10 {found['episode_return_mean'] / 20:.3f}"
    )
algorithm.stop()
ray.shutdown()
