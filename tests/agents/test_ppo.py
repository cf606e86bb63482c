from __future__ import annotations

import dataclasses
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents.rollout import Collector
from rpp_agents.trainers import central, mappo
from rpp_agents.trainers.ppo import PPO, Config, gae
from rpp_env.errors import InvalidOption


def loop_gae(
    rewards: Any, values: Any, following: Any, terminated: Any, ended: Any, gamma: float, lam: float
) -> Any:
    """Every advantage from its definition: a discounted sum of TD errors up to the end."""
    steps, batch, agents = rewards.shape
    out = np.zeros_like(rewards)
    for t in range(steps):
        for b in range(batch):
            for i in range(agents):
                weight = 1.0
                for k in range(t, steps):
                    after = 0.0 if terminated[k, b] else following[k, b, i]
                    out[t, b, i] += weight * (rewards[k, b, i] + gamma * after - values[k, b, i])
                    if ended[k, b]:
                        break
                    weight *= gamma * lam
    return out


def test_gae_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    rewards, values, following = rng.normal(size=(3, 9, 6, 3))
    ended = rng.random((9, 6)) < 0.3
    terminated = ended & (rng.random((9, 6)) < 0.5)
    tensors = [torch.from_numpy(x) for x in (rewards, values, following, terminated, ended)]
    for gamma, lam in ((0.9, 0.8), (1.0, 1.0), (0.95, 0.0)):
        expected = loop_gae(rewards, values, following, terminated, ended, gamma, lam)
        np.testing.assert_allclose(gae(*tensors, gamma, lam), expected, atol=1e-12)


def test_one_step_episodes_are_a_bandit() -> None:
    rewards, values, following = torch.randn(3, 4, 5, 2)
    over = torch.ones(4, 5, dtype=torch.bool)
    advantages = gae(rewards, values, following, over, over, 0.95, 0.95)
    torch.testing.assert_close(advantages, rewards - values)
    torch.testing.assert_close(advantages + values, rewards)


class Known(torch.nn.Module):
    """A critic that knows the clock's values."""

    def __init__(self, ends: str, horizon: int, gamma: float) -> None:
        super().__init__()
        self.ends, self.horizon, self.gamma = ends, horizon, gamma

    def forward(self, state: Any) -> Any:
        if self.ends == "truncated":
            value = torch.full_like(state[..., 1], 1 / (1 - self.gamma))
        else:
            value = (1 - self.gamma ** (self.horizon - state[..., 1])) / (1 - self.gamma)
            # What a critic says of a state after termination is not trained and must not count.
            value = torch.where(state[..., 1] == self.horizon, 7.0, value)
        return value[..., None].expand(*value.shape, 2)


@pytest.mark.parametrize("ends", ["truncated", "terminated"])
def test_truncation_bootstraps_and_termination_does_not(toys: SimpleNamespace, ends: str) -> None:
    env = toys.Clock(4, horizon=3, ends=ends)
    collector = Collector(env, "state")
    learner = PPO(env, Config(), "state")
    collector.reset(0)
    rollout = collector.collect(learner.choose, 7)

    assert rollout.terminated.any() == (ends == "terminated")
    critic = Known(ends, 3, 0.9)
    values = [critic(torch.from_numpy(x)) for x in (rollout.inputs, rollout.next_inputs)]
    rewards, ended = torch.from_numpy(rollout.rewards), torch.from_numpy(rollout.ended)

    def advantages(terminated: Any) -> Any:
        return gae(rewards, *values, torch.from_numpy(terminated), ended, 0.9, 0.95)

    right = advantages(rollout.terminated)
    torch.testing.assert_close(right, torch.zeros(7, 4, 2), atol=1e-5, rtol=0)
    wrong = advantages(rollout.ended & ~rollout.terminated)
    assert wrong.abs().max() > 0.5


@pytest.mark.parametrize("critic_input", ["state", "observations"])
@pytest.mark.parametrize("ends", ["truncated", "terminated"])
def test_next_values_are_those_of_the_true_next_inputs(
    toys: SimpleNamespace, ends: str, critic_input: Any
) -> None:
    """Most are read off the next row; episodes end at different times here, and in mid-rollout."""
    learner = PPO(toys.Clock(4, horizon=3, ends=ends), Config(), critic_input)
    learner.reset(0)
    rollout = learner.collector.collect(learner.choose, 7)
    with torch.no_grad():
        learner.norm.update(torch.randn(50, 2) * 3 + 5)
        values, expected = (
            learner.norm.denormalize(learner.critic(torch.from_numpy(seen)))
            for seen in (rollout.inputs, rollout.next_inputs)
        )
        got = learner._next_values(values, rollout)
    counts = torch.from_numpy(~rollout.terminated)
    assert 0 < rollout.ended[:-1].sum() < 24
    torch.testing.assert_close(got[counts], expected[counts])


@pytest.mark.slow
def test_the_critic_learns_the_values_of_endless_and_of_ending_episodes(
    toys: SimpleNamespace,
) -> None:
    config = Config(gamma=0.8, learning_rate=1e-2, schedule="constant", epochs=5, layer_norm=False)
    for ends, expected in (("truncated", [5.0] * 3), ("terminated", [2.44, 1.8, 1.0])):
        env = toys.Clock(32, horizon=3, ends=ends)
        collector, learner = Collector(env, "state"), PPO(env, config, "state")
        collector.reset(0)
        for _ in range(60):
            learner.update(collector.collect(learner.choose, 4))
        with torch.no_grad():
            states = torch.tensor([[0.0, 0.0], [1.0, 1.0], [0.0, 2.0]])
            values = learner.norm.denormalize(learner.critic(states))[:, 0]
        np.testing.assert_allclose(values, expected, rtol=0.06)


@pytest.mark.parametrize("critic_input", ["state", "observations"])
def test_the_first_epoch_has_ratio_one_and_nothing_clipped(
    toys: SimpleNamespace, critic_input: Any
) -> None:
    env = toys.Contextual(32)
    learner = PPO(env, Config(epochs=1, minibatches=1, clip=1e-4), critic_input)
    collector = Collector(env, critic_input)
    collector.reset(0)
    rollout = collector.collect(learner.choose, 5)
    row = learner.update(rollout)
    assert row["clipped"] == 0
    assert row["kl"] == pytest.approx(0, abs=1e-6)
    # Advantages are normalised and every ratio is 1.
    assert row["policy_loss"] == pytest.approx(0, abs=1e-5)
    assert learner.update(rollout)["clipped"] > 0, "the policy has moved by now"


def test_an_agents_reward_teaches_that_agent(toys: SimpleNamespace) -> None:
    """With the agents' rewards exchanged, the exchanged agents' actions become more probable."""
    env = toys.Contextual(1024, per_agent=True, nvec=(3, 3))
    learner = PPO(env, Config(epochs=1, minibatches=1, entropy=0.0), "state")
    collector = Collector(env, "state")
    collector.reset(0)
    rollout = collector.collect(learner.choose, 1)
    seen = rollout.observations[0]
    for paid, other in ((0, 1), (1, 0)):
        learner = PPO(env, Config(epochs=1, minibatches=1, entropy=0.0), "state")
        before, _ = learner.policy.log_probs(seen)
        rewards = np.zeros_like(rollout.rewards)
        rewards[..., paid] = rollout.actions[..., paid] == 1
        learner.update(dataclasses.replace(rollout, rewards=rewards))
        after, _ = learner.policy.log_probs(seen)
        moved = (after - before)[..., 1].mean(axis=0)
        # Adam's first step is as long for the other, but leads nowhere.
        assert moved[paid] > 0.04 > moved[other]


def test_a_rollout_may_be_smaller_than_its_parts(toys: SimpleNamespace) -> None:
    for trainer, options in ((mappo, {}), (central, {"minibatches": 1})):
        env = toys.Contextual(1 if trainer is central else 2, horizon=1)
        config = trainer.Config(total_steps=8, **options)
        policy = trainer.train(env, config, progress=False)
        assert all(torch.isfinite(x).all() for x in policy.actor.state_dict().values())


def minibatch(learner: PPO, env: Any, **changed: Any) -> dict[str, Any]:
    """Six users' data for one gradient step; the value is where it was."""
    collector = Collector(env, "state")
    collector.reset(0)
    rollout = collector.collect(learner.choose, 1)
    names = ("masks", "actions", "inputs")
    data = {name: torch.from_numpy(getattr(rollout, name)[0]) for name in names}
    values = learner.critic(data["inputs"]).detach()
    return data | {
        "features": learner.actor.features(torch.from_numpy(rollout.observations[0])),
        "old_log_probs": torch.from_numpy(rollout.log_probs[0]) + changed.get("moved", 0.0),
        "advantages": torch.full((6, 4), changed.get("advantage", 0.0)),
        "old_values": values + changed.get("old", 0.0),
        "targets": values + changed.get("target", 0.0),
    }


@pytest.mark.parametrize(
    ("moved", "advantage", "learns"),
    # A ratio of e is clipped where it would be raised further, 1/e where it would be lowered.
    [(-1.0, 1.0, False), (-1.0, -1.0, True), (1.0, 1.0, True), (1.0, -1.0, False)],
)
def test_a_ratio_that_has_moved_far_enough_is_not_pushed_further(
    toys: SimpleNamespace, moved: float, advantage: float, learns: bool
) -> None:
    env = toys.Contextual(6)
    learner = PPO(env, Config(), "state")
    row = learner._descend(minibatch(learner, env, moved=moved, advantage=advantage), 0.0)
    assert row["clipped"] == 1
    assert (row["actor_gradient"] > 0) == learns


@pytest.mark.parametrize(
    ("target", "error"),
    # The value has moved up by 0.5 and counts as 0.2 higher: whichever is worse is the loss.
    [(-0.2, 0.2), (0.6, 0.9), (-3.0, 3.0)],
)
def test_the_value_loss_is_the_worse_of_the_moved_and_the_clipped_value(
    toys: SimpleNamespace, target: float, error: float
) -> None:
    env = toys.Contextual(6)
    learner = PPO(env, Config(clip=0.2, huber=1.0), "state")
    row = learner._descend(minibatch(learner, env, old=-0.5, target=target), 0.0)
    expected = error**2 / 2 if error < 1 else error - 0.5
    assert row["value_loss"].item() == pytest.approx(expected, rel=1e-3)


def test_schedules(toys: SimpleNamespace) -> None:
    env = toys.Contextual(8)
    collector = Collector(env, "state")
    config = Config(learning_rate=1e-3, entropy=0.1, entropy_end=0.02)
    learner = PPO(env, config, "state")
    collector.reset(0)
    rollout = collector.collect(learner.choose, 2)
    row = learner.update(rollout, progress=0.75)
    assert row["learning_rate"] == pytest.approx(0.25e-3)
    assert row["entropy_bonus"] == pytest.approx(0.04)
    assert learner.optimizer.param_groups[0]["lr"] == row["learning_rate"]


@pytest.mark.parametrize(
    "options",
    [
        {"total_steps": 0},
        {"gamma": 1.5},
        {"hidden": ()},
        {"clip": 0.0},
        {"entropy": -1.0},
        {"minibatches": 0},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Config(**options)
