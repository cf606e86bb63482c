"""Train Stable-Baselines3's SAC to choose a prefix of eight numbers for users without a history."""

from __future__ import annotations

import os

import gymnasium
import numpy as np
from stable_baselines3 import SAC

FAST = "RPP_ENV_FAST" in os.environ  # the tests only see whether it runs
OPTIONS = {"shots": "zero", "codes": 8}


def score(model):
    """Mean NDCG@10 of 200 validation users, by the mean of the policy."""
    users = gymnasium.make_vec("rpp_env:PPR-v0", num_envs=200, split="validation", **OPTIONS)
    observations, _ = users.reset(seed=0)
    actions, _ = model.predict(observations, deterministic=True)
    return np.mean(users.step(actions)[1])


env = gymnasium.make("rpp_env:PPR-v0", split="train", **OPTIONS)
model = SAC("MlpPolicy", env, gamma=0.0, learning_starts=100, batch_size=256, seed=0)
print(f"validation NDCG@10 before training: {score(model):.3f}")
model.learn(200 if FAST else 20_000)
print(f"validation NDCG@10 after training:  {score(model):.3f}")
