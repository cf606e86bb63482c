"""Stable-Baselines3's checker, and a few steps of its PPO; SuperSuit for the four agents."""

from __future__ import annotations

from typing import Any

import pytest

import rpp_env
from rpp_env import JointEnv

pytest.importorskip("stable_baselines3", reason="Stable-Baselines3 is not installed")

from stable_baselines3 import PPO
from stable_baselines3.common.env_checker import check_env

RULES = pytest.mark.parametrize("rules", rpp_env.RULES)


@RULES
def test_checker(options: dict[str, Any], rules: str) -> None:
    check_env(JointEnv(**options, rules=rules))


def test_ppo_learns_on_the_joint_environment(options: dict[str, Any]) -> None:
    PPO("MlpPolicy", JointEnv(**options), n_steps=16, batch_size=16, n_epochs=1).learn(32)


def test_ppo_learns_on_four_agents_through_supersuit(world: dict[str, Any]) -> None:
    supersuit = pytest.importorskip("supersuit", reason="SuperSuit is not installed")
    env = rpp_env.parallel_env(**world, padded_actions=True)
    vector = supersuit.concat_vec_envs_v1(
        supersuit.pettingzoo_env_to_vec_env_v1(env), 2, base_class="stable_baselines3"
    )
    PPO("MlpPolicy", vector, n_steps=16, batch_size=16, n_epochs=1).learn(128)
