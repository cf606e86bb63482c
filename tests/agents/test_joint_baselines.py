"""Joint and state-blind baselines, on tasks where the best of them is known."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from rpp_agents import (
    Fixed,
    PettingZooBatch,
    autoregressive,
    central,
    load_policy,
    mappo,
    play,
)
from rpp_agents.actors import Actor, AutoregressiveActor, CentralActor
from rpp_agents.policy import NetworkPolicy
from rpp_agents.rollout import Collector
from rpp_agents.trainers.ppo import PPO, Config
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption

pytestmark = pytest.mark.usefixtures("one_torch_thread")


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


def test_a_blind_policy_observes_the_environments_step() -> None:
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


@pytest.mark.slow
def test_a_blind_policy_learns_actions_by_step(toys: SimpleNamespace) -> None:
    class Alternating(toys.Clock):  # type: ignore[misc]
        clock = slice(1, 2)

        def step(self, actions: Any) -> Any:
            right = actions == (self._clock % 2)[:, None]
            step = super().step(actions)
            step.rewards = right.mean(axis=1)
            return step

    env = Alternating(64, horizon=4, ends="truncated")
    for clock in (slice(1, 2), None):
        env.clock = clock
        config = mappo.Config(total_steps=20_000, blind=True, gamma=0.0)
        policy = mappo.train(env, config, progress=False)
        score = play(policy, env, episodes=64).mean()
        # Episodes begin everywhere in the cycle: one choice for ever is right in 2 of 3 at most.
        assert score == 1 if clock else score < 0.7


# Joint policies

JOINT = (CentralActor, AutoregressiveActor)
NVEC = (2, 3, 4)
EVERY = np.stack(np.unravel_index(np.arange(24), NVEC), axis=1)
"""All 24 joint actions."""


def joint_actor(made: Any, **options: Any) -> Any:
    """A policy whose choices are far from uniform."""
    torch.manual_seed(0)
    actor = made(5, NVEC, hidden=(16, 8), normalize=True, **options)
    actor.observe(torch.randn(50, 3, 5) * 3 + 1)
    with torch.no_grad():
        for name, parameter in actor.named_parameters():
            parameter.mul_(200 if "out" in name or "layers.2" in name else 1)
    return actor


def probabilities(actor: Any, observations: Any, masks: Any) -> Any:
    """(B, 24): of every joint action."""
    users = len(observations)
    seen = actor.features(observations).repeat_interleave(24, dim=0)
    masks = masks.repeat_interleave(24, dim=0) if masks.dim() == 3 else masks
    log_probs, _ = actor.evaluate(seen, masks, torch.from_numpy(EVERY).repeat(users, 1))
    assert log_probs.shape == (users * 24, 1)
    return log_probs.reshape(users, 24).exp().detach()


@pytest.mark.parametrize("made", JOINT)
def test_the_probabilities_of_all_legal_joint_actions_sum_to_one(made: Any) -> None:
    actor, observations = joint_actor(made), torch.randn(6, 3, 5)
    p = probabilities(actor, observations, actor.legal)
    torch.testing.assert_close(p.sum(1), torch.ones(6))
    assert p.max() > 0.2
    masks = actor.legal.repeat(6, 1, 1)
    masks[:3, 2, 1] = masks[3:, 1, :2] = False
    p = probabilities(actor, observations, masks)
    torch.testing.assert_close(p.sum(1), torch.ones(6))
    forbidden = torch.from_numpy(~masks.numpy()[:, np.arange(3), EVERY].all(-1))
    assert forbidden.any()
    assert (p[forbidden] == 0).all()


@pytest.mark.parametrize("made", JOINT)
def test_samples_occur_with_their_stated_probabilities(made: Any) -> None:
    actor, rng = joint_actor(made), np.random.default_rng(0)
    one = torch.randn(1, 3, 5)
    masks = actor.legal.clone()
    masks[2, 3] = False
    seen = actor.features(one).expand(20_000, -1)
    with torch.no_grad():
        actions, log_probs = actor.choose(seen, masks, rng)
        again, entropies = actor.evaluate(seen, masks, actions)
    torch.testing.assert_close(log_probs, again)
    joint = np.ravel_multi_index(actions.numpy().T, NVEC)
    p = probabilities(actor, one, masks)[0]
    counts = np.bincount(joint, minlength=24)
    assert (counts[p.numpy() == 0] == 0).all()
    np.testing.assert_allclose(counts / 20_000, p, atol=0.015)
    # The mean of the entropies after what was chosen is the joint one.
    assert entropies.mean().item() == pytest.approx(-torch.xlogy(p, p).sum().item(), rel=0.02)


def test_the_central_greedy_choice_is_the_most_probable_of_all() -> None:
    actor, observations = joint_actor(CentralActor), torch.randn(9, 3, 5)
    best = probabilities(actor, observations, actor.legal).argmax(1)
    greedy, _ = NetworkPolicy(actor).act(observations.numpy(), greedy=True)
    np.testing.assert_array_equal(greedy, EVERY[best])


def test_later_agents_see_earlier_choices_and_earlier_ones_no_later() -> None:
    actor = joint_actor(AutoregressiveActor)
    with torch.no_grad():
        read = actor.read(actor.features(torch.randn(7, 3, 5)))
        actions = torch.zeros(7, 3, dtype=torch.int64)
        before = actor.log_probs(read, actions, actor.legal)
        for i in range(3):
            changed = actions.clone()
            changed[:, i] = 1
            moved = actor.log_probs(read, changed, actor.legal) != before
            assert moved.any(-1).all(0).tolist() == [j > i for j in range(3)]
    # Greedy: each in its turn.
    greedy, _ = NetworkPolicy(actor).act(np.zeros((1, 3, 5), np.float32), greedy=True)
    chosen = torch.zeros(1, 3, dtype=torch.int64)
    read = actor.read(actor.features(torch.zeros(1, 3, 5)))
    for i in range(3):
        chosen[:, i] = actor.log_probs(read, chosen, actor.legal)[:, i].argmax(-1)
    np.testing.assert_array_equal(greedy, chosen)


@pytest.mark.parametrize("made", JOINT)
@pytest.mark.parametrize("visible", [None, [], [1, 4]])
def test_a_joint_policy_is_saved_with_its_observed_columns(
    tmp_path: Any, made: Any, visible: Any
) -> None:
    policy = NetworkPolicy(joint_actor(made, visible=visible))
    policy.save(tmp_path / "policy")
    again: Any = load_policy(tmp_path / "policy")
    assert type(again.actor) is made
    seen = np.random.default_rng(0).normal(1, 3, (40, 3, 5)).astype(np.float32)
    for one, other in zip(
        policy.choose(seen, None, None), again.choose(seen, None, None), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    for column in range(5):
        changed = seen.copy()
        changed[:, 2, column] += 2
        same = np.array_equal(
            again.choose(changed, None, None)[1], again.choose(seen, None, None)[1]
        )
        assert same == (visible is not None and column not in visible), column
    masks = np.ones((40, 3, 4), np.int8)
    masks[:, 1, [0, 2]] = 0
    assert (again.act(seen, masks)[0][:, 1] == 1).all()
    with pytest.raises(InvalidOption, match="without a probability for each action of each"):
        again.log_probs(seen)


@pytest.mark.parametrize("made", JOINT)
def test_joint_choices_are_learnt_from_the_mean_of_the_agents_rewards(
    toys: SimpleNamespace, made: Any
) -> None:
    env = toys.Contextual(32, per_agent=True, nvec=(3, 3, 3, 3))
    config = Config(epochs=1, minibatches=1, clip=1e-4, value_norm=False)
    weights = []
    for order in ([0, 1, 2, 3], [2, 0, 3, 1]):
        learner, collector = PPO(env, config, "state", made), Collector(env, "state")
        # All agents' values are the same, so that only rewards are exchanged.
        with torch.no_grad():
            for parameter in learner.critic.net[-1].parameters():
                parameter.zero_()
        collector.reset(0)
        rollout = collector.collect(learner.choose, 5)
        assert rollout.log_probs.shape == (5, 32, 1)
        rollout.rewards[:] = rollout.rewards[..., order]
        row = learner.update(rollout)
        # The first epoch's ratio is 1.
        assert row["clipped"] == 0
        assert row["kl"] == pytest.approx(0, abs=1e-6)
        assert row["policy_loss"] == pytest.approx(0, abs=1e-5)
        weights.append(torch.cat([p.detach().flatten() for p in learner.actor.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)
    assert learner.update(rollout)["clipped"] > 0


GAMES = {
    "linear": ([[1, 4, 2], [0, 3, 1], [2, 5, 3]], 5),
    "nonlinear": ([[0, 3, 1], [0, 0, 0], [0, 6, 2]], 6),
    "penalty-0": ([[0, 0, 10], [0, 2, 0], [10, 0, 0]], 10),
    "penalty-100": ([[-100, 0, 10], [0, 2, 0], [10, 0, -100]], 10),
    "climbing": ([[11, -30, 0], [-30, 7, 0], [0, 6, 5]], 11),
}


@pytest.mark.parametrize(
    ("trainer", "name"),
    # The autoregressive first agent still judges its choices by what the second one does while it
    # learns: in climbing it found the best in three of four seeds.
    [(central, name) for name in GAMES]
    + [(autoregressive, name) for name in GAMES if name != "climbing"],
)
def test_joint_policies_find_the_best_joint_action_that_independent_agents_miss(
    toys: SimpleNamespace, trainer: Any, name: str
) -> None:
    payoff, best = GAMES[name]
    batch = PettingZooBatch(lambda: toys.MatrixGame(payoff), 16)
    config = Config(
        total_steps=30_000, hidden=(32,), gamma=0.99, minibatches=1, epochs=4, layer_norm=False
    )
    policy = trainer.train(batch, config, progress=False)
    assert play(policy, batch, episodes=16).mean() == best


@pytest.mark.parametrize("trainer", [central, autoregressive])
def test_joint_learners_distinguish_users(toys: SimpleNamespace, trainer: Any) -> None:
    world = {"nvec": (3, 2, 4), "context": 6}
    env, held_out = toys.Contextual(256, **world), toys.Contextual(500, seed=1, **world)
    policy = trainer.train(env, Config(total_steps=60_000), progress=False)
    fixed = max(
        play(Fixed([joint]), held_out, episodes=500).mean() for joint in EVERY[:, [1, 0, 2]]
    )
    assert play(policy, held_out, episodes=500).mean() > fixed + 0.1


def test_joint_policies_refuse_unsupported_options(toys: SimpleNamespace) -> None:
    with pytest.raises(InvalidOption, match="1,000,000 of them; at most 100,000"):
        central.train(toys.Contextual(2, nvec=(100, 100, 100)), progress=False)
    for trainer in (central, autoregressive):
        with pytest.raises(InvalidOption, match="choose together"):
            trainer.train(toys.Contextual(2), Config(shared=True), progress=False)
