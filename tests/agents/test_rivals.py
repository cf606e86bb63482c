"""Rivals that tell whether a problem needs many agents that see something."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import Fixed, PettingZooBatch, load_policy, mappo, play
from rpp_agents.networks import Actor
from rpp_agents.policy import NetworkPolicy
from rpp_agents.ppo import PPO, Config
from rpp_env import RPPEnv


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# The state-blind policy


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("visible", [[], [2], [1, 4]])
def test_a_blind_policy_sees_its_columns_and_nothing_else_even_from_a_file(
    tmp_path: Any, visible: list[int], shared: bool
) -> None:
    torch.manual_seed(0)
    actor = Actor(5, (3, 4), shared=shared, normalize=True, visible=visible)
    actor.norm.update(torch.randn(50, 2, 5))  # type: ignore[operator]
    NetworkPolicy(actor).save(tmp_path / "policy")
    policy: Any = load_policy(tmp_path / "policy")
    seen = np.random.default_rng(0).normal(size=(9, 2, 5)).astype(np.float32)
    before = policy.log_probs(seen)[0]
    for column in range(5):
        changed = seen.copy()
        changed[..., column] += 1
        same = np.array_equal(policy.log_probs(changed)[0], before)
        assert same == (column not in visible), column


def test_the_clock_of_the_environment_is_what_a_blind_policy_sees() -> None:
    env = RPPEnv.make(split="validation", num_envs=8, max_users=8)
    learner = PPO(env, Config(blind=True), "state")
    assert learner.actor.description["visible"] == [env.observer.layout["step"].start]
    seen = env.reset(seed=0)[0]
    first, _ = learner.policy.act(seen, greedy=True)
    assert (first == first[0]).all()
    assert len(np.unique(learner.policy.log_probs(seen)[0][:, 0], axis=0)) == 1
    after = env.step(first).observations
    assert not np.array_equal(learner.policy.log_probs(after)[0], learner.policy.log_probs(seen)[0])


def test_without_a_clock_it_learns_the_best_fixed_choice(toys: SimpleNamespace) -> None:
    env = toys.Contextual(256)
    blind = mappo.train(env, mappo.Config(total_steps=40_000, blind=True), progress=False)
    fixed = play(Fixed([[0, 0, 0, 0]]), env, episodes=256)
    assert play(blind, env, episodes=256).tolist() == fixed.tolist()


def test_with_a_clock_it_learns_what_to_do_when(toys: SimpleNamespace) -> None:
    class Alternating(toys.Clock):  # type: ignore[misc]
        clock = slice(1, 2)

        def step(self, actions: Any) -> Any:
            right = actions == (self._clock % 2)[:, None]
            step = super().step(actions)
            step.rewards = right.mean(axis=1)
            return step

    env = Alternating(64, horizon=4, ends="truncated")
    for clock, expected in ((slice(1, 2), 1.0), (None, 0.5)):
        env.clock = clock
        config = mappo.Config(total_steps=20_000, blind=True, gamma=0.0)
        policy = mappo.train(env, config, progress=False)
        env.reset(seed=0)
        env._clock[:] = 0
        assert play(policy, env, episodes=64).mean() == pytest.approx(expected)
