"""Stable-Baselines3's checker, and a few steps of its PPO; SuperSuit for the four agents."""

from __future__ import annotations

from typing import Any

import numpy as np
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


@pytest.fixture
def slots(world: dict[str, Any]) -> Any:
    """Two copies of four agents each, as the example makes them."""
    supersuit = pytest.importorskip("supersuit", reason="SuperSuit is not installed")
    env = supersuit.agent_indicator_v0(rpp_env.parallel_env(**world, padded_actions=True))
    vector = supersuit.pettingzoo_env_to_vec_env_v1(env)
    return supersuit.concat_vec_envs_v1(vector, 2, base_class="stable_baselines3")


def test_ppo_learns_on_four_agents_through_supersuit(slots: Any) -> None:
    PPO("MlpPolicy", slots, n_steps=16, batch_size=16, n_epochs=1).learn(128)


def test_supersuit_distinguishes_the_agents(slots: Any) -> None:
    seen = slots.reset()
    assert seen.shape == (8, 156)
    assert np.array_equal(seen[:4, 152:], np.eye(4))
    assert np.ptp(seen[:4, :152], axis=0).max() == 0  # by nothing else, before the first action


@pytest.mark.parametrize("begun", [False, True])
def test_supersuit_copies_an_environment_as_it_is(begun: bool) -> None:
    """An environment that was not reset draws a seed in each copy; else all copies go on alike."""
    supersuit = pytest.importorskip("supersuit", reason="SuperSuit is not installed")
    env = rpp_env.parallel_env(num_users=3000, num_items=100, padded_actions=True)
    if begun:
        env.reset(seed=0)
    vector = supersuit.pettingzoo_env_to_vec_env_v1(env)
    slots = supersuit.concat_vec_envs_v1(vector, 4, base_class="stable_baselines3")
    assert len(np.unique(slots.reset()[::4], axis=0)) == (1 if begun else 4)
    first = [slots.venv.reset(seed=0)[0][::4] for _ in range(2)]
    np.testing.assert_array_equal(*first)
    assert len(np.unique(first[0], axis=0)) == 4


def test_black_death_ends_with_the_episode() -> None:
    supersuit = pytest.importorskip("supersuit", reason="SuperSuit is not installed")
    env = supersuit.black_death_v3(rpp_env.parallel_env(num_users=60, num_items=100))
    env.reset(seed=0)
    steps = 0
    while env.agents:
        env.step(dict.fromkeys(env.agents, 0))
        steps += 1
    assert steps == 6  # it asks once more after the end


def test_supersuit_hides_that_the_clock_ended_the_episode(slots: Any) -> None:
    """So SB3, which looks for this key, bootstraps nothing (PettingZoo issue 1126)."""
    slots.reset()
    for _ in range(5):
        *_, done, infos = slots.step(np.zeros(8, dtype=int))
    assert done.all()
    assert all("terminal_observation" in info for info in infos)
    assert not any("TimeLimit.truncated" in info for info in infos)
