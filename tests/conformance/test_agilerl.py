"""AgileRL: its vector of PettingZoo environments, its groups by name, and masks from the infos."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.sentences import AGENTS

pytest.importorskip("agilerl", reason="AgileRL is not installed")

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from agilerl.algorithms import IPPO, MADDPG
    from agilerl.vector import AsyncPettingZooVecEnv

pytestmark = pytest.mark.filterwarnings("ignore")

WORLD: dict[str, Any] = {"num_users": 3000, "num_items": 100}


@pytest.fixture(params=[{}, {"padded_actions": True}], ids=["native", "padded"])
def copies(request: pytest.FixtureRequest) -> Iterator[Any]:
    made = AsyncPettingZooVecEnv([partial(rpp_env.parallel_env, **WORLD, **request.param)] * 4)
    yield made
    made.close()


def learner(kind: Any, env: Any) -> Any:
    return kind(
        observation_spaces=[env.single_observation_space(agent) for agent in env.agents],
        action_spaces=[env.single_action_space(agent) for agent in env.agents],
        agent_ids=list(env.agents),
    )


def test_copies_play_other_users(copies: Any) -> None:
    seen = copies.reset()[0][AGENTS[0]]
    assert len(np.unique(seen, axis=0)) >= 3  # two may meet by chance
    again = [copies.reset(seed=3)[0][AGENTS[0]].copy() for _ in range(2)]
    assert len(np.unique(again[0], axis=0)) == 4
    np.testing.assert_array_equal(*again)


def test_masks_come_from_the_infos(copies: Any) -> None:
    observations, infos = copies.reset(seed=0)
    agent = learner(MADDPG, copies)
    for _ in range(20):
        actions = agent.get_action(observations, infos=infos)[0]
        for name, size in zip(AGENTS, (5, 5, 9, 5), strict=True):
            assert np.asarray(actions[name]).max() < size


def test_roles_are_four_groups_and_indices_one() -> None:
    roles = rpp_env.parallel_env(**WORLD)
    assert learner(IPPO, _single(roles)).shared_agent_ids == sorted(
        name.rsplit("_", 1)[0] for name in AGENTS
    )
    index = rpp_env.parallel_env(**WORLD, agent_names="index")
    with pytest.raises(AssertionError, match="must have the same action space"):
        learner(IPPO, _single(index))
    padded = rpp_env.parallel_env(**WORLD, agent_names="index", padded_actions=True)
    assert learner(IPPO, _single(padded)).shared_agent_ids == ["agent"]


def _single(env: Any) -> Any:
    """An environment with the names that AgileRL's vectors have."""
    env.reset(seed=0)
    env.single_observation_space, env.single_action_space = (
        env.observation_space,
        env.action_space,
    )
    return env
