"""Train Stable-Baselines3's PPO as one agent that chooses all four sentences.

`gymnasium.make_vec` plays many users with one call of the model per step; `Users` adapts that batch
to the interface of Stable-Baselines3. (For a single user, the environment of ``gymnasium.make`` can
be used directly.)
"""

from __future__ import annotations

import os
from typing import Any

import gymnasium
import numpy as np
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv

FAST = "RPP_ENV_FAST" in os.environ


class Users(VecEnv):
    """Adapter from a Gymnasium vector environment to Stable-Baselines3's `VecEnv`."""

    def __init__(self, env: Any) -> None:
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> Any:
        return self.env.reset(seed=self._seeds[0])[0]

    def step_async(self, actions: Any) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        observations, rewards, terminated, truncated, infos = self.env.step(self.actions)
        reports: list[dict[str, Any]] = [{} for _ in rewards]
        for i in np.flatnonzero(terminated | truncated):
            reports[i] = {
                "terminal_observation": infos["final_obs"][i],
                "TimeLimit.truncated": bool(truncated[i]),
            }
        return observations, rewards, terminated | truncated, reports

    def close(self) -> None:
        self.env.close()

    def env_is_wrapped(self, *_: Any) -> list[bool]:
        return [False] * self.num_envs

    def get_attr(self, name: str, *_: Any) -> list[Any]:
        return [getattr(self.env, name, None)] * self.num_envs

    set_attr = env_method = get_attr  # not called here


def score(model: PPO, users: int) -> float:
    """Return the mean NDCG@10 over the steps of one episode of this many validation users."""
    env = gymnasium.make_vec("rpp_env:RPP-v0", num_envs=users, split="validation")
    observations, _ = env.reset(seed=0)
    rewards = []
    for _ in range(5):
        actions, _ = model.predict(observations, deterministic=True)
        observations, reward, *_ = env.step(actions)
        rewards.append(reward.mean())
    return float(np.mean(rewards))


users = Users(gymnasium.make_vec("rpp_env:RPP-v0", num_envs=64 if FAST else 256, split="train"))
model = PPO("MlpPolicy", users, n_steps=5, batch_size=320, ent_coef=0.01, gamma=0.95, seed=0)
held_out = 20 if FAST else 2000
print(f"validation NDCG@10 before training: {score(model, held_out):.3f}")
model.learn(640 if FAST else 300_000)
print(f"validation NDCG@10 after training:  {score(model, held_out):.3f}")
