"""TorchRL's checker on its PettingZoo wrapper, and BenchMARL's grouping by name."""

from __future__ import annotations

from typing import Any

import pytest

import rpp_env
from rpp_env import ActionMaskInObservation
from rpp_env.sentences import AGENTS

pytest.importorskip("torchrl", reason="TorchRL is not installed")

from torchrl.envs import SerialEnv, check_env_specs
from torchrl.envs.libs.pettingzoo import PettingZooWrapper

ONE_GROUP = {"agents": [f"agent_{i}" for i in range(4)]}


@pytest.mark.parametrize("return_state", [False, True], ids=["no state", "state"])
@pytest.mark.parametrize("use_mask", [False, True], ids=["no mask", "mask"])
def test_one_group_with_padded_actions(
    world: dict[str, Any], return_state: bool, use_mask: bool
) -> None:
    made = rpp_env.parallel_env(**world, padded_actions=True, agent_names="index")
    env = PettingZooWrapper(made, return_state=return_state, use_mask=use_mask)
    assert dict(env.group_map) == {"agent": ONE_GROUP["agents"]}
    check_env_specs(env)
    data = env.rollout(8, break_when_any_done=True)
    assert data["next", "agent", "reward"].shape == (5, 4, 1)
    assert ("state" in set(data.keys())) == return_state
    if use_mask:
        assert data["agent", "action_mask"].sum(-1)[0].tolist() == [5, 5, 9, 5]


def test_one_group_with_masks_in_the_observation(world: dict[str, Any]) -> None:
    made = rpp_env.parallel_env(**world, padded_actions=True, agent_names="index")
    env = PettingZooWrapper(ActionMaskInObservation(made), use_mask=True)
    check_env_specs(env)
    data = env.rollout(3)
    assert data["agent", "action_mask"].sum(-1)[0].tolist() == [5, 5, 9, 5]


def test_native_spaces_with_one_group_per_agent(world: dict[str, Any]) -> None:
    env = PettingZooWrapper(rpp_env.parallel_env(**world), return_state=True)
    assert sorted(env.group_map) == sorted(AGENTS)
    check_env_specs(env)


def test_native_spaces_in_one_group(world: dict[str, Any]) -> None:
    env = PettingZooWrapper(rpp_env.parallel_env(**world, agent_names="index"))
    check_env_specs(env)


@pytest.mark.parametrize("rules", ["PPR-v0", "PPRStream-v0"])
def test_vectors(rules: str) -> None:
    made = rpp_env.parallel_env(rules=rules, num_users=600, num_items=200, prefix=2)
    check_env_specs(PettingZooWrapper(made))


@pytest.mark.parametrize("rules", rpp_env.RULES)
def test_every_id(world: dict[str, Any], rules: str) -> None:
    made = rpp_env.parallel_env(**world, rules=rules, padded_actions=True, agent_names="index")
    check_env_specs(PettingZooWrapper(made, use_mask=True))


def test_copies_play_other_users() -> None:
    def make(**seed: int) -> PettingZooWrapper:
        made = rpp_env.parallel_env(
            num_users=3000, num_items=100, padded_actions=True, agent_names="index", **seed
        )
        return PettingZooWrapper(made, return_state=True)

    def different(env: SerialEnv) -> int:
        return len(env.reset()["state"].unique(dim=0))

    assert different(SerialEnv(4, make)) >= 3  # two may meet by chance
    env = SerialEnv(4, lambda: make(seed=0))  # a seed of the constructor is every copy's
    assert different(env) == 1
    env.set_seed(0)
    assert different(env) == 4


def test_the_end_of_the_clock_is_truncated(world: dict[str, Any]) -> None:
    """So the advantages of `train_torchrl_mappo.py` are bootstrapped there."""
    made = rpp_env.parallel_env(**world, padded_actions=True, agent_names="index")
    last = PettingZooWrapper(made).rollout(9)[-1]["next", "agent"]
    assert last["truncated"].all()
    assert last["done"].all()
    assert not last["terminated"].any()
    assert last["observation"].abs().sum() > 0
