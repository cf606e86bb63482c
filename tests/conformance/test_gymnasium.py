"""Gymnasium's checker, alone and through `make`, and its vector forms in all autoreset modes."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers.vector import NormalizeObservation, RecordEpisodeStatistics

import rpp_env
from rpp_env import JointEnv, JointVectorEnv

RULES = pytest.mark.parametrize("rules", rpp_env.RULES)
MODES = pytest.mark.parametrize("mode", AutoresetMode, ids=lambda mode: mode.value)


@RULES
def test_checker(options: dict[str, Any], rules: str) -> None:
    # Its warning on agents that were not made by `make`; below they are.
    with pytest.warns(UserWarning, match="not having a spec"):
        check_env(JointEnv(**options, rules=rules))


@RULES
def test_checker_through_make(
    options: dict[str, Any], rules: str, capsys: pytest.CaptureFixture[str]
) -> None:
    check_env(gymnasium.make(f"rpp_env:{rules}", **options).unwrapped)
    assert "before the first step" in capsys.readouterr().out  # of the human mode


@MODES
@RULES
def test_vectors(options: dict[str, Any], rules: str, mode: AutoresetMode) -> None:
    """As Gymnasium's own synchronous vector of single environments behaves."""
    env = gymnasium.make_vec(f"rpp_env:{rules}", num_envs=3, autoreset_mode=mode, **options)
    assert isinstance(env, JointVectorEnv)
    assert env.metadata["autoreset_mode"] is mode
    # Before 1.4 its statistics lost the first step of an episode in this mode (issue 1624).
    counts_same_step = tuple(map(int, gymnasium.__version__.split(".")[:2])) >= (1, 4)
    env = RecordEpisodeStatistics(env)
    observations, infos = env.reset(seed=0)
    env.action_space.seed(0)
    begun, finished = observations, 0
    for _ in range(2 * env.unwrapped.core.max_cycles + 3):
        observations, rewards, terminated, truncated, infos = env.step(env.action_space.sample())
        assert env.observation_space.contains(observations)
        assert observations.dtype == np.float32
        assert rewards.shape == terminated.shape == truncated.shape == (3,)
        assert rewards.dtype == np.float64
        assert terminated.dtype == truncated.dtype == bool
        over = terminated | truncated
        assert over.all() == over.any()
        finished += int(over.any())
        if over.any():
            if mode is not AutoresetMode.SAME_STEP or counts_same_step:
                assert infos["episode"]["l"].tolist() == [env.unwrapped.core.max_cycles] * 3
            assert ("final_obs" in infos) == (mode is AutoresetMode.SAME_STEP)
            if mode is AutoresetMode.DISABLED:
                observations, infos = env.reset(options={"reset_mask": over})
        assert not np.shares_memory(observations, begun)
        begun = observations
    assert finished >= 2
    env.close()


def test_vector_wrappers_of_observations_take_the_next_step() -> None:
    """They refuse SAME_STEP, where they would miss the last observations."""
    small: dict[str, Any] = {"num_users": 60, "num_items": 100}
    with pytest.raises((AssertionError, ValueError)):  # asserted before Gymnasium 1.2
        NormalizeObservation(gymnasium.make_vec("rpp_env:RPP-v0", 4, **small))
    env = NormalizeObservation(
        gymnasium.make_vec("rpp_env:RPP-v0", 4, autoreset_mode="NextStep", **small)
    )
    env.reset(seed=0)
    ends = [env.step(env.action_space.sample())[3].all() for _ in range(12)]
    assert ends == ([False] * 4 + [True, False]) * 2


@pytest.mark.parametrize("mode", [AutoresetMode.SAME_STEP, AutoresetMode.NEXT_STEP])
def test_the_keys_are_those_of_gymnasiums_own_vector(
    options: dict[str, Any], mode: AutoresetMode
) -> None:
    own = gymnasium.make_vec("rpp_env:RPP-v0", 2, autoreset_mode=mode, **options)
    theirs = gymnasium.make_vec(
        "rpp_env:RPP-v0", 2, "sync", vector_kwargs={"autoreset_mode": mode}, **options
    )
    assert own.observation_space == theirs.observation_space
    assert own.action_space == theirs.action_space
    actions = own.action_space.sample()
    assert own.reset(seed=0)[1].keys() == theirs.reset(seed=0)[1].keys()
    for _ in range(7):
        mine, other = own.step(actions), theirs.step(actions)
        assert mine[4].keys() == other[4].keys()
        for a, b in zip(mine[:4], other[:4], strict=True):
            assert (a.shape, a.dtype) == (b.shape, b.dtype)
        assert np.array_equal(mine[3], other[3])
        if "final_obs" in mine[4]:
            assert mine[4]["final_obs"].dtype == other[4]["final_obs"].dtype == object
            assert mine[4]["final_info"].keys() == other[4]["final_info"].keys()
