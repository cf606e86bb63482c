"""Tianshou: its PettingZoo wrapper runs the four agents, and rewards only one of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pettingzoo.utils.conversions import parallel_to_aec

import rpp_env
from rpp_env import ActionMaskInObservation
from rpp_env.models import echo
from rpp_env.sentences import AGENTS

pytest.importorskip("tianshou", reason="Tianshou is not installed")

from tianshou.env import DummyVectorEnv, PettingZooEnv

WORLD: dict[str, Any] = {"num_users": 3000, "num_items": 100}


def make() -> PettingZooEnv:
    return PettingZooEnv(rpp_env.env(padded_actions=True, **WORLD))


def test_only_the_last_agents_rows_get_rewards() -> None:
    """Each row belongs to the agent that acted; the reward comes when all four have."""
    made = rpp_env.env(model=echo(), padded_actions=True, **WORLD)
    first = int(np.flatnonzero(made.unwrapped.core.tasks.position == 0)[0])
    env = PettingZooEnv(made)
    observation, _ = env.reset(options={"users": [first]})  # the echo is right about this one
    paid: dict[str, list[float]] = {agent: [] for agent in AGENTS}
    truncated = False
    while not truncated:
        agent = observation["agent_id"]
        observation, rewards, _, truncated, _ = env.step(0)
        paid[agent].append(rewards[AGENTS.index(agent)])
    assert {agent: len(row) for agent, row in paid.items()} == dict.fromkeys(AGENTS, 5)
    assert not any(reward for agent in AGENTS[:-1] for reward in paid[agent])
    assert paid[AGENTS[-1]] == [1.0] * 5


def test_it_reads_masks_where_they_stand_in_the_observation() -> None:
    native = rpp_env.parallel_env(padded_actions=True, **WORLD)
    for made, legal in (
        (rpp_env.env(padded_actions=True, **WORLD), 9),
        (parallel_to_aec(ActionMaskInObservation(native)), 5),
    ):
        observation, _ = PettingZooEnv(made).reset(seed=0)
        assert observation["agent_id"] == "role_playing"
        assert sum(observation["mask"]) == legal


def test_native_actions_are_refused_by_it() -> None:
    with pytest.raises(AssertionError, match="Action spaces for all agents must be identical"):
        PettingZooEnv(rpp_env.env(**WORLD))


def test_copies_play_other_users() -> None:
    observations, _ = DummyVectorEnv([make] * 4).reset()
    assert (
        len(np.unique([seen["obs"] for seen in observations], axis=0)) >= 3
    )  # two may meet by chance
