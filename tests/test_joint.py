"""The Gymnasium wrappers: one agent that makes all choices, for one user and for many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box, MultiDiscrete
from gymnasium.vector import AutoresetMode

from rpp_env import InvalidAction, InvalidOption, JointEnv, JointVectorEnv, ResetNeeded, RPPEnv
from rpp_env.core import IDENTIFIERS
from rpp_env.models import Reply, Request, ScriptedModel, echo

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100, "seed": 0}
SIZES = [5, 5, 9, 5]


class Counting(ScriptedModel):
    """Echoes and counts how often it is asked."""

    def __init__(self) -> None:
        super().__init__(echo()._answer)
        self.batches: list[int] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append(len(requests))
        return super().complete(requests)


def vector(num_envs: int = 3, model: Any = None, **options: Any) -> JointVectorEnv:
    return JointVectorEnv(num_envs, model=model or echo(), **{**SMALL, **options})


def test_one_agent_sees_the_state_and_makes_four_choices() -> None:
    env = JointEnv(model=echo(), **SMALL)
    assert env.action_space == MultiDiscrete(SIZES)
    assert env.observation_space == Box(-1, 1, (167,), np.float32)
    observation, info = env.reset(seed=0)
    for number in range(1, 6):
        assert np.array_equal(observation, env.core.state()[0])
        observation, reward, terminated, truncated, step_info = env.step(np.array([1, 2, 3, 4]))
        assert list(info) == list(step_info)
        assert type(reward) is float
        assert (terminated, truncated) == (False, number == 5)
    with pytest.raises(ResetNeeded, match="reset"):
        env.step(np.array([1, 2, 3, 4]))


def test_the_bandit_terminates() -> None:
    env = JointEnv(model=echo(), rules="RPPBandit-v0", **SMALL)
    env.reset()
    assert env.step(np.array([1, 2, 3, 4]))[2:4] == (True, False)


def test_action_masks_lie_side_by_side() -> None:
    env = JointEnv(model=echo(), padded_actions=True, **SMALL)
    assert env.action_space == MultiDiscrete([9] * 4)
    masks = env.action_masks()
    assert masks.dtype == bool
    assert masks.reshape(4, 9).sum(axis=1).tolist() == SIZES
    assert JointEnv(model=echo(), **SMALL).action_masks().tolist() == [True] * 24
    assert vector(3).action_masks().shape == (3, 24)


def test_pictures() -> None:
    env = JointEnv(model=echo(), render_mode="ansi", **SMALL)
    env.reset()
    env.step(np.array([1, 2, 3, 4]))
    assert "NDCG@10" in (env.render() or "")
    many = vector(3, render_mode="ansi")
    many.reset()
    many.step(np.array([[1, 2, 3, 4]] * 3))
    pictures = many.render()
    assert pictures is not None
    assert len(set(pictures)) == 3
    silent = vector()
    silent.reset()
    assert silent.render() is None
    with pytest.raises(InvalidOption, match="'human' is not known; there are ansi, rgb_array"):
        vector(render_mode="human")


def test_wrong_numbers_of_users_are_refused() -> None:
    with pytest.raises(InvalidOption, match="make_vec"):
        JointEnv(model=echo(), num_envs=2, **SMALL)
    env = JointEnv(model=echo(), **SMALL)
    with pytest.raises(InvalidOption, match="one user; options name 2"):
        env.reset(options={"users": [1, 2]})
    with pytest.raises(InvalidOption, match="2 users are named for num_envs=3"):
        vector(3).reset(options={"users": [1, 2]})


def test_a_step_of_many_users_is_one_call_of_the_model() -> None:
    env = vector(4, model := Counting())
    env.reset(seed=0)
    assert model.batches == []
    for _ in range(7):
        env.step(env.action_space.sample())
    assert model.batches == [4] * 7


def test_spaces_and_shapes_of_many() -> None:
    env = vector(3)
    observations, infos = env.reset(seed=0)
    assert env.single_action_space == MultiDiscrete(SIZES)
    assert env.action_space.contains(env.action_space.sample())
    assert env.observation_space.contains(observations)
    observations, rewards, terminated, truncated, step_infos = env.step(env.action_space.sample())
    assert env.observation_space.contains(observations)
    assert rewards.shape == terminated.shape == truncated.shape == (3,)
    assert list(infos) == list(step_infos)
    assert all(infos[f"_{name}"].all() for name in infos if not name.startswith("_"))


def test_same_step() -> None:
    env, core = vector(3), RPPEnv.make(model=echo(), num_envs=3, **SMALL)
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    env.reset(seed=0)
    core.reset(seed=0)
    rng = np.random.default_rng(0)
    for number in range(1, 13):
        actions = rng.integers(0, SIZES, (3, 4))
        observations, rewards, _, truncated, infos = env.step(actions)
        step = core.step(actions)
        assert np.array_equal(rewards, step.rewards)
        assert truncated.all() == step.truncated.all() == (number % 5 == 0)
        assert ("final_obs" in infos) == truncated.all()
        if truncated.all():
            assert np.array_equal(np.stack(infos["final_obs"]), core.state())
            assert infos["_final_obs"].all()
            assert infos["_final_info"].all()
            for name, values in step.infos.items():
                assert np.array_equal(infos["final_info"][name], values)
                assert name in IDENTIFIERS or not infos[name].any()
            core.reset()
            assert np.array_equal(infos["user"], core.tasks.users[core.playing])
        assert np.array_equal(observations, core.state())


def test_next_step() -> None:
    env, core = vector(3, autoreset_mode="NextStep"), RPPEnv.make(model=echo(), num_envs=3, **SMALL)
    env.reset(seed=0)
    core.reset(seed=0)
    for number in range(1, 13):
        actions = env.action_space.sample()
        observations, rewards, _, truncated, _ = env.step(actions)
        if number % 6 == 0:
            core.reset()
            assert not rewards.any()
            assert not truncated.any()
        else:
            assert np.array_equal(rewards, core.step(actions).rewards)
            assert truncated.all() == (number % 6 == 5)
        assert np.array_equal(observations, core.state())


def test_next_step_asks_nothing_for_the_step_it_ignores() -> None:
    env = vector(2, model := Counting(), autoreset_mode="NextStep", rules="RPPBandit-v0")
    env.reset(seed=0)
    for _ in range(6):
        env.step(env.action_space.sample())
    assert model.batches == [2] * 3


def test_disabled() -> None:
    env = vector(3, autoreset_mode=AutoresetMode.DISABLED)
    env.reset(seed=0)
    for _ in range(5):
        *_, truncated, _ = env.step(env.action_space.sample())
    assert truncated.all()
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.step(env.action_space.sample())
    mask = np.array([True, False, True])
    observations, _ = env.reset(options={"reset_mask": mask})
    assert env.observation_space.contains(observations)
    with pytest.raises(ResetNeeded, match=r"1 of 3 users are over \(the first is user 1\)"):
        env.step(env.action_space.sample())
    env.reset(options={"reset_mask": ~mask})
    env.step(env.action_space.sample())


def test_a_mask_can_put_users_out_of_step_under_same_step() -> None:
    env = vector(2)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    env.reset(options={"reset_mask": np.array([True, False])})
    for _ in range(4):
        *_, truncated, infos = env.step(env.action_space.sample())
    assert truncated.tolist() == infos["_final_obs"].tolist() == [False, True]
    assert infos["final_obs"][0] is None
    assert infos["final_obs"][1].shape == (167,)
    assert infos["rank"][0] > 0 == infos["rank"][1]


def test_options_that_contradict_a_mode_are_refused() -> None:
    with pytest.raises(
        InvalidOption, match="'later' is not known; there are NextStep, SameStep, Disabled"
    ):
        vector(autoreset_mode="later")
    env = vector(2, autoreset_mode="NextStep")
    env.reset()
    with pytest.raises(InvalidOption, match="reset_mask needs"):
        env.reset(options={"reset_mask": np.array([True, False])})


def test_environments_that_failed_to_build_are_closed_silently() -> None:
    made = JointVectorEnv.__new__(JointVectorEnv)
    with pytest.raises(InvalidOption):
        made.__init__(model=echo(), autoreset_mode="later")  # type: ignore[misc]
    made.close()


def test_wrong_actions_are_refused() -> None:
    env = vector(2)
    env.reset()
    with pytest.raises(InvalidAction, match="agent 'role_playing' chose 5 for user 1"):
        env.step(np.array([[0, 0, 0, 0], [5, 0, 0, 0]]))
