from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from gymnasium.spaces import Box

from rpp_agents import mappo, rollout
from rpp_agents.baselines import Fixed, Random
from rpp_agents.rollout import Collector, PettingZooBatch, play
from rpp_env.errors import BrokenContract, InvalidOption, ResetNeeded


def first_action(observations: Any, masks: Any) -> Any:
    return masks.argmax(-1), np.zeros(masks.shape[:2], np.float32)


def test_the_last_next_observation_is_the_true_end_not_the_next_start(
    toys: SimpleNamespace,
) -> None:
    env = toys.Clock(3, horizon=3, ends="truncated")
    for critic_input in ("state", "observations"):
        collector = Collector(env, critic_input)
        collector.reset(0)
        rollout = collector.collect(first_action, 5)
        clock = rollout.inputs.reshape(5, 3, -1)[..., 1]
        after = rollout.next_inputs.reshape(5, 3, -1)[..., 1]
        np.testing.assert_array_equal(after, clock + 1)
        np.testing.assert_array_equal(rollout.ended, after == 3)
        np.testing.assert_array_equal(clock[1:][rollout.ended[:-1]], 0)
        assert not rollout.terminated.any()


def test_a_collector_resumes_where_it_stopped(toys: SimpleNamespace) -> None:
    env = toys.Clock(3, horizon=3, ends="truncated")
    collector = Collector(env, "state")
    with pytest.raises(ResetNeeded):
        collector.collect(first_action, 1)
    collector.reset(0)
    once = collector.collect(first_action, 6).inputs
    collector.reset(0)
    parts = [collector.collect(first_action, 3).inputs for _ in range(2)]
    np.testing.assert_array_equal(once, np.concatenate(parts))


def test_team_reward_is_the_mean(toys: SimpleNamespace) -> None:
    batch = PettingZooBatch(lambda: toys.Uneven(3), 2)
    for team, expected in ((False, [1.0, 2.0, 3.0]), (True, [2.0, 2.0, 2.0])):
        collector = Collector(batch, "state", team_reward=team)
        collector.reset(0)
        assert collector.collect(first_action, 1).rewards[0, 0].tolist() == expected


@pytest.mark.parametrize("agents", [2, 3, 5])
@pytest.mark.parametrize("mask_in", ["info", "observation"])
def test_pettingzoo_of_any_shape(toys: SimpleNamespace, agents: int, mask_in: str) -> None:
    batch = PettingZooBatch(lambda: toys.Uneven(agents, mask_in=mask_in), 4, seed=3)
    observations, infos = batch.reset()
    assert observations.shape == (4, agents, agents)
    assert [space.n for space in batch.action_spaces] == [i + 2 for i in range(agents)]
    assert batch.state_width == sum(range(1, agents + 1))
    assert batch.state().shape == (4, batch.state_width)
    for i in range(agents):
        assert (observations[:, i, i + 1 :] == 0).all()
        assert (observations[:, i, : i + 1] != 0).all()
    expected = np.arange(agents + 1) < np.arange(1, agents + 1)[:, None]
    np.testing.assert_array_equal(batch.action_masks()[0], expected)
    side_by_side = np.concatenate([observations[0, i, : i + 1] for i in range(agents)])
    np.testing.assert_array_equal(batch.state()[0], side_by_side)
    # The world itself asserts that nothing forbidden is chosen, over agents that leave one by one.
    assert 0 < play(Random(batch.action_spaces, seed=0), batch, episodes=20, seed=1).mean() < agents
    assert infos == {}


@pytest.mark.parametrize("truncate", [True, False])
def test_agents_that_left_see_nothing_earn_nothing_and_have_one_action(
    toys: SimpleNamespace, truncate: bool
) -> None:
    batch = PettingZooBatch(lambda: toys.Uneven(3, truncate=truncate), 1)
    batch.reset(seed=0)
    none = np.zeros((1, 3), int)
    for t in range(1, 5):
        step = batch.step(none)
        gone = t > np.arange(3) + 2
        assert step.rewards[0].tolist() == np.where(gone, 0, [1, 2, 3]).tolist() or t == 1
        # In the step in which it leaves, an agent still sees its last observation.
        assert (step.observations[0] == 0).all(axis=1).tolist() == gone.tolist()
        over = t == 4
        assert step.truncated[0] == (over and truncate)
        assert step.terminated[0] == (over and not truncate)
    np.testing.assert_array_equal(batch.action_masks()[0, 0], [1, 0, 0, 0])
    with pytest.raises(ResetNeeded, match="environment 0 has ended"):
        batch.step(none)


def test_only_the_masked_copies_are_reset(toys: SimpleNamespace) -> None:
    batch = PettingZooBatch(lambda: toys.MatrixGame([[1, 2], [3, 4]]), 3)
    batch.reset(seed=0)
    batch.step(np.zeros((3, 2), int))
    batch.reset(options={"reset_mask": np.array([False, True, False])})
    assert [env._clock for env in batch._envs] == [1, 0, 1]


def test_seeds_repeat_and_copies_differ(toys: SimpleNamespace) -> None:
    batch = PettingZooBatch(lambda: toys.Uneven(2), 3)
    first, again, other = (batch.reset(seed=seed)[0] for seed in (5, 5, 6))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    assert not np.array_equal(first[0], first[1])
    assert first is not batch.reset()[0]


def test_the_environments_state_is_used_if_there_is_one(toys: SimpleNamespace) -> None:
    class WithState(toys.MatrixGame):  # type: ignore[misc]
        def state(self) -> Any:
            return np.arange(6.0).reshape(2, 3)

    batch = PettingZooBatch(lambda: WithState([[0, 1], [1, 0]]), 2)
    assert batch.state_width == 6
    batch.reset()
    np.testing.assert_array_equal(batch.state(), np.tile(np.arange(6.0), (2, 1)))


def test_untrainable_environments_are_refused(toys: SimpleNamespace) -> None:
    class Mixed(toys.MatrixGame):  # type: ignore[misc]
        def action_space(self, agent: str) -> Any:
            return Box(0, 1) if agent == "column" else super().action_space(agent)

    class Stuck(toys.Uneven):  # type: ignore[misc]
        def _look(self, agents: Any) -> Any:
            observations, infos = super()._look(agents)
            return observations, {
                a: {"action_mask": 0 * i["action_mask"]} for a, i in infos.items()
            }

    with pytest.raises(InvalidOption, match=r"'row' acts in Discrete\(2\) and .* in Box"):
        PettingZooBatch(lambda: Mixed([[0, 1], [1, 0]]), 1)
    with pytest.raises(InvalidOption, match="ParallelEnv"):
        PettingZooBatch(object, 1)
    with pytest.raises(InvalidOption, match="num_envs"):
        PettingZooBatch(lambda: toys.Uneven(2), 0)
    with pytest.raises(BrokenContract, match="allows no action"):
        PettingZooBatch(lambda: Stuck(2), 1).reset()


def test_play_counts_each_episode_once(toys: SimpleNamespace) -> None:
    env = toys.Clock(4, horizon=3, ends="terminated")
    scores = play(Fixed([[0, 0]]), env, episodes=6)
    assert scores.tolist() == [1.0] * 8


def test_a_mask_that_allows_nothing_is_no_mistake_once_the_last_step_is_played(
    toys: SimpleNamespace,
) -> None:
    class Done(toys.Uneven):  # type: ignore[misc, name-defined]
        def step(self, actions: Any) -> Any:
            seen, paid, terminated, truncated, infos = super().step(actions)
            for agent in set(seen) - set(self.agents):
                infos[agent]["action_mask"] = np.zeros_like(infos[agent]["action_mask"])
            return seen, paid, terminated, truncated, infos

    env = PettingZooBatch(lambda: Done(2), 3)
    policy = mappo.train(env, mappo.Config(total_steps=60), progress=False)
    assert policy.act(env.reset(seed=0)[0], env.action_masks())[0].shape == (3, 2)


def test_the_old_name_of_mask_truncation_time_warns() -> None:
    with pytest.warns(DeprecationWarning, match="is now mask_truncation_time"):
        old = rollout.stop_the_clock
    assert old is rollout.mask_truncation_time
    with pytest.raises(AttributeError, match="no attribute 'stop_the_watch'"):
        rollout.stop_the_watch  # noqa: B018
