"""RLlib's checker on its PettingZoo adapter."""

from __future__ import annotations

from typing import Any

import pytest

import rpp_env
from rpp_env import ActionMaskInObservation

pytest.importorskip("ray.rllib", reason="RLlib is not installed")

from ray.rllib.env.wrappers.pettingzoo_env import ParallelPettingZooEnv
from ray.rllib.utils.pre_checks.env import check_multiagent_environments


@pytest.mark.parametrize("rules", rpp_env.RULES)
def test_checker(options: dict[str, Any], rules: str) -> None:
    check_multiagent_environments(
        ParallelPettingZooEnv(rpp_env.parallel_env(**options, rules=rules))
    )


def test_checker_with_masks_in_the_observation(par_env: Any) -> None:
    check_multiagent_environments(ParallelPettingZooEnv(ActionMaskInObservation(par_env)))


def test_the_checker_gives_all_copies_the_same_users(world: dict[str, Any]) -> None:
    """Whatever their seeds: so the examples leave it out."""
    copies = [rpp_env.parallel_env(**world, seed=seed) for seed in range(4)]
    for env in copies:
        check_multiagent_environments(ParallelPettingZooEnv(env))
    assert len({env.reset()[0]["role_playing"].tobytes() for env in copies}) == 1
    fresh = [rpp_env.parallel_env(**world, seed=seed) for seed in range(4)]
    assert len({env.reset()[0]["role_playing"].tobytes() for env in fresh}) > 2
