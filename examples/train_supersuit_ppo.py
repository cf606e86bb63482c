"""Train Stable-Baselines3's PPO on the four agents through SuperSuit: one network plays them all.

SuperSuit turns every agent of every copy into a slot of one vector environment. Notes:

- The agents share the network. Their observations differ only in their own last action, so without
  `agent_indicator_v0` all four would choose alike; with it the network also gets the agent's index.
- All spaces must be equal, hence `padded_actions`. PPO ignores masks: an action that an agent does
  not have means ``a % n``.
- The time limit counts as termination: SuperSuit merges truncated into done, so nothing is
  bootstrapped there (PettingZoo issue 1126). With five steps and rewards at each one it costs
  little; `train_sb3_ppo.py` avoids that loss.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import supersuit
from stable_baselines3 import PPO
from stable_baselines3.common.utils import set_random_seed

import rpp_env

FAST = "RPP_ENV_FAST" in os.environ
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100} if FAST else {}


class OneForAll:
    """The trained network as a policy for `rpp_env.evaluate`, for a batch of users."""

    def act(self, observations: Any, masks: Any = None, greedy: bool = False, memory: Any = None):
        users, agents, _ = observations.shape
        who = np.broadcast_to(np.eye(agents, dtype=np.float32), (users, agents, agents))
        labelled = np.concatenate([observations, who], axis=-1).reshape(users * agents, -1)
        actions, _ = model.predict(labelled, deterministic=greedy)
        return actions.reshape(users, agents), memory


def score() -> str:
    report = rpp_env.evaluate(OneForAll(), validation, baselines=("random",), name="PPO")
    return f"{report.lines['PPO']['ndcg@10']} (random prompts: {report.lines['random']['ndcg@10']})"


env = rpp_env.parallel_env(split="train", padded_actions=True, **WORLD)
validation = rpp_env.RPPEnv.make(split="validation", padded_actions=True, num_envs=500, **WORLD)
slots = supersuit.pettingzoo_env_to_vec_env_v1(supersuit.agent_indicator_v0(env))
slots = supersuit.concat_vec_envs_v1(slots, 4 if FAST else 32, base_class="stable_baselines3")
# Each copy would draw its own seed; so copy i gets seed i, and the run can be repeated.
slots.venv.reset(seed=0)

set_random_seed(0)  # PPO(seed=...) would seed the slots, for which SuperSuit has no method
model = PPO("MlpPolicy", slots, n_steps=20, batch_size=320, ent_coef=0.01, gamma=0.95)
print(f"validation NDCG@10 before training: {score()}")
model.learn(1_000 if FAST else 600_000)  # of the slots: four to a user-step
print(f"validation NDCG@10 after training:  {score()}")
