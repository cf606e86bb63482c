"""A2C: the mathematics, the GRU over the ranking, and the errors of the released learner."""

from __future__ import annotations

import math
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete

from rpp_agents import Fixed, PettingZooBatch, Random, a2c, load_policy, play
from rpp_agents.encoders import make_encoder, ranking_encoder
from rpp_agents.networks import Critic
from rpp_agents.rollout import Rollout
from rpp_agents.trainers.a2c import A2C, Config, Released
from rpp_agents.trainers.ppo import gae
from rpp_env import RPPEnv, evaluate
from rpp_env.errors import InvalidData, InvalidOption

PLAIN = Config.paper(hidden=(16,))
"""One gradient step of bare TD errors."""


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def rollout_of(observations: Any, following: Any, rewards: Any, **changed: Any) -> Rollout:
    """Steps (T, B) of one agent with two actions, which always did what `actions` says."""
    observations, following = (
        np.asarray(x, np.float32)[:, :, None, :] for x in (observations, following)
    )
    shape = observations.shape[:2]
    ends = {
        name: np.broadcast_to(np.asarray(changed.get(name, False)), shape).copy()
        for name in ("terminated", "ended")
    }
    ends["ended"] |= ends["terminated"]
    return Rollout(
        observations=observations,
        masks=np.ones((*shape, 1, 2), np.bool_),
        actions=np.broadcast_to(changed.get("actions", 0), (*shape, 1)).astype(np.int64),
        log_probs=np.zeros((*shape, 1), np.float32),
        inputs=observations,
        next_inputs=following,
        rewards=np.asarray(rewards, np.float32)[:, :, None],
        infos={},
        **ends,
    )


def one_agent(width: int, num_envs: int = 2) -> Any:
    return SimpleNamespace(
        agents=("only",),
        action_spaces=(Discrete(2),),
        num_envs=num_envs,
        max_cycles=1,
        observation_width=width,
        state_width=width,
    )


class Tells(torch.nn.Module):
    """A critic that reads the value out of the observation."""

    def forward(self, inputs: Any) -> Any:
        return inputs[..., 0]


def probability(learner: A2C, observation: Any) -> float:
    with torch.no_grad():
        log_probs = learner.actor(torch.tensor(observation, dtype=torch.float32)[None, None])
    return float(log_probs[0, 0, 0].exp())


# The mathematics


@pytest.mark.parametrize(
    ("ends", "errors"),
    [
        # Of A, worth 3, comes 1 and B, worth 4; of B comes 2 and A. With gamma a half:
        #   d(A) = 1 + 4 / 2 - 3 = 0, d(B) = 2 + 3 / 2 - 4 = -1/2.
        ({}, [0.0, -0.5]),
        # Cut off after B in a last state that is worth 8: 2 + 8 / 2 - 4 = 2.
        ({"ended": [[False], [True]]}, [0.0, 2.0]),
        # Nothing comes after a termination: 2 - 4 = -2.
        ({"terminated": [[False], [True]]}, [0.0, -2.0]),
        # Cut off after A, whatever is played next: 1 + 8 / 2 - 3 = 2.
        ({"ended": [[True], [False]]}, [2.0, -0.5]),
    ],
)
@pytest.mark.parametrize("lam", [0.0, 0.5])
def test_td_errors_of_two_states(ends: Any, errors: list[float], lam: float) -> None:
    learner = A2C(one_agent(1), replace(PLAIN, gamma=0.5, gae_lambda=lam))
    learner.critic = Critic(torch.nn.Identity(), Tells())
    over = np.array(ends.get("ended", ends.get("terminated", [[False], [False]])))
    following = np.where(over, 8.0, [[4.0], [3.0]])
    rollout = rollout_of([[[3.0]], [[4.0]]], following[..., None], [[1.0], [2.0]], **ends)
    found, targets = learner.td_errors(rollout)
    if not over[0]:
        errors = [errors[0] + 0.5 * lam * errors[1], errors[1]]
    np.testing.assert_allclose(found[:, 0, 0], errors, atol=1e-6)
    np.testing.assert_allclose(targets[:, 0, 0], np.add(errors, [3.0, 4.0]), atol=1e-6)


@pytest.mark.parametrize("critic", ["own", "central"])
@pytest.mark.parametrize("ends", ["truncated", "terminated"])
def test_bootstrap_values_equal_those_of_each_next_state(
    toys: SimpleNamespace, critic: Any, ends: str
) -> None:
    learner = A2C(toys.Clock(5, horizon=3, ends=ends), replace(PLAIN, critic=critic))
    learner.reset(0)
    rollout = learner.collector.collect(learner.choose, 7)
    assert 0 < rollout.ended.mean() < 1
    with torch.no_grad():
        values, after = (
            learner.values(torch.from_numpy(x)) for x in (rollout.inputs, rollout.next_inputs)
        )
    rewards, terminated, ended = (
        torch.from_numpy(x) for x in (rollout.rewards, rollout.terminated, rollout.ended)
    )
    expected = gae(rewards, values, after, terminated, ended, 0.95, 0.0)
    torch.testing.assert_close(learner.td_errors(rollout)[0], expected)


@pytest.mark.parametrize(("critic", "lam"), [("own", 0.0), ("central", 0.9)])
def test_the_critic_learns_the_values_of_endless_and_of_ending_episodes(
    toys: SimpleNamespace, critic: Any, lam: float
) -> None:
    class Endless(toys.Clock):  # type: ignore[misc, name-defined]
        """Does not show the clock: the state where it cuts an episode off is seen before too."""

        def state(self) -> Any:
            shown: Any = super().state() * np.array([1, 0], np.float32)
            return shown

    config = Config.paper(
        gamma=0.8,
        rollout_steps=4,
        gradient_steps=4,
        gae_lambda=lam,
        critic_learning_rate=1e-2,
        critic=critic,
        value_norm=lam > 0,
    )
    for env, expected in (
        (Endless(32, horizon=3, ends="truncated"), [5.0, 5.0, 5.0]),
        (toys.Clock(32, horizon=3, ends="terminated"), [2.44, 1.8, 1.0]),
    ):
        learner = A2C(env, config)
        learner.reset(0)
        for _ in range(80):
            learner.iterate(0.0)
        clock = np.arange(3)
        states = np.stack([clock % 2, clock * (expected[0] != 5)], axis=1).astype(np.float32)
        inputs = torch.from_numpy(states)
        with torch.no_grad():
            values = learner.values(
                inputs if critic == "central" else inputs[:, None].expand(3, 2, 2)
            )
        np.testing.assert_allclose(values, np.stack([expected] * 2, axis=1), rtol=0.06)


@pytest.mark.parametrize(("reward", "more"), [(6.0, True), (4.0, False), (5.0, None)])
@pytest.mark.parametrize("action", [0, 1])
def test_actions_better_than_expected_become_more_probable(
    reward: float, more: bool | None, action: int
) -> None:
    learner = A2C(one_agent(1), PLAIN)
    learner.critic = Critic(torch.nn.Identity(), Tells())  # expects 5
    seen = [5.0]
    before = probability(learner, seen)
    learner.update(rollout_of([[seen]], [[seen]], [[reward]], terminated=True, actions=action))
    change = (probability(learner, seen) - before) * (1 if action == 0 else -1)
    assert abs(change) < 1e-7 if more is None else (change > 0) == more


def test_both_gradients_take_the_td_error_for_a_constant() -> None:
    learner = A2C(one_agent(1), replace(PLAIN, gamma=0.5))
    rollout = rollout_of([[[1.0], [3.0]]], [[[2.0], [-2.0]]], [[1.0, 0.5]])
    errors, targets = learner.td_errors(rollout)
    values = learner.values(torch.from_numpy(rollout.inputs))
    chosen = learner.actor(torch.from_numpy(rollout.observations))[..., 0]
    expected = {
        "critic": ((targets - values) ** 2).mean(),
        "actor": -(chosen * errors).mean(),
    }
    modules = {name: list(learner.modules[name].parameters()) for name in expected}
    gradients = {n: torch.autograd.grad(loss, modules[n]) for n, loss in expected.items()}
    learner.update(rollout)
    for name, parameters in modules.items():
        for parameter, gradient in zip(parameters, gradients[name], strict=True):
            assert gradient.abs().max() > 0
            torch.testing.assert_close(parameter.grad, gradient)


def test_each_user_is_rewarded_for_its_own_actions() -> None:
    """Two users, one paid and one not: each keeps to its own; as a team's mean both learn alike."""
    seen = [[[1.0, 0.0, 1.0], [1.0, 1.0, 0.0]]]
    learner = A2C(one_agent(3), replace(PLAIN, learning_rate=1e-2))
    learner.critic = Critic(torch.nn.Identity(), Tells())
    rollout = rollout_of(seen, seen, [[2.0, 0.0]], terminated=True)
    before = [probability(learner, x) for x in seen[0]]
    for _ in range(20):
        learner.update(rollout)
    after = [probability(learner, x) for x in seen[0]]
    assert after[0] > before[0] + 0.1
    assert after[1] < before[1] - 0.1


def test_schedules_and_normalisation() -> None:
    config = Config(learning_rate=1e-2, critic_learning_rate=1e-3, entropy=0.1, entropy_end=0.02)
    learner = A2C(one_agent(1), config)
    rng = np.random.default_rng(0)
    seen, after = rng.normal(size=(2, 3, 8, 1))
    row = learner.update(rollout_of(seen, after, rng.normal(size=(3, 8)) * 9 + 5), progress=0.75)
    assert row["entropy_bonus"] == pytest.approx(0.04)
    rates = {name: o.param_groups[0]["lr"] for name, o in learner.optimizers.items()}
    assert rates == {"actor": pytest.approx(0.25e-2), "critic": pytest.approx(0.25e-3)}
    # Normalised targets have a mean square of about 1, whatever the rewards.
    assert row["value_loss"] < 4
    assert row["td_error"] > 4


def test_the_entropy_bonus_keeps_a_policy_from_narrowing() -> None:
    seen = [[[5.0], [5.0]]]
    spread = []
    for bonus in (0.0, 0.5):
        config = replace(PLAIN, learning_rate=1e-2, entropy=bonus, entropy_end=bonus)
        learner = A2C(one_agent(1), config)
        learner.critic = Critic(torch.nn.Identity(), Tells())
        for _ in range(50):
            learner.update(rollout_of(seen, seen, [[5.3, 5.3]], terminated=True))
        spread.append(probability(learner, seen[0][0]))
    assert spread[0] > 0.99
    assert 0.5 < spread[1] < 0.9


# Learning


GAMES = {
    "linear": ([[1, 4, 2], [0, 3, 1], [2, 5, 3]], 5),
    "nonlinear": ([[0, 3, 1], [0, 0, 0], [0, 6, 2]], 6),
    "penalty-0": ([[0, 0, 10], [0, 2, 0], [10, 0, 0]], 10),
    # What independent exploration cannot reach, see test_mappo.py.
    "penalty-100": ([[-100, 0, 10], [0, 2, 0], [10, 0, -100]], 2),
    "climbing": ([[11, -30, 0], [-30, 7, 0], [0, 6, 5]], (5, 6, 7)),
}


@pytest.mark.parametrize("name", GAMES)
def test_matrix_games_end_where_they_are_known_to_end(toys: SimpleNamespace, name: str) -> None:
    payoff, expected = GAMES[name]
    batch = PettingZooBatch(lambda: toys.MatrixGame(payoff), 16)
    config = Config(total_steps=15_000, hidden=(32,), gamma=0.99, layer_norm=False)
    policy = a2c.train(batch, config, progress=False)
    score = play(policy, batch, episodes=16).mean()
    assert score in (expected if isinstance(expected, tuple) else (expected,))


@pytest.mark.parametrize(("horizon", "critic"), [(1, "own"), (5, "central")])
def test_users_are_distinguished(toys: SimpleNamespace, horizon: int, critic: Any) -> None:
    world: dict[str, Any] = {"horizon": horizon, "nvec": (3, 2, 4), "noise": 0.2, "context": 6}
    env = toys.Contextual(512 // horizon, **world)
    held_out = toys.Contextual(500, seed=1, **world)
    config = Config(total_steps=50_000, critic=critic, shared=critic == "central")
    score = play(a2c.train(env, config, progress=False), held_out, episodes=1000).mean()
    joints: Any = np.stack(np.meshgrid(*map(range, world["nvec"])), -1).reshape(-1, 3)
    fixed = max(play(Fixed([joint]), held_out, episodes=500).mean() for joint in joints)
    assert play(Random(held_out.action_spaces), held_out, episodes=500).mean() < fixed
    assert score > fixed + 0.1


def test_agents_that_see_and_do_different_things(toys: SimpleNamespace) -> None:
    batch = PettingZooBatch(lambda: toys.Uneven(3), 8)
    config = Config(total_steps=4000, rollout_steps=16)
    policy = a2c.train(batch, config, progress=False)
    best = play(Fixed([[0] * 3]), batch, episodes=8).mean()
    assert play(policy, batch, episodes=8).mean() == pytest.approx(best)


# The ranking


def ranking_toy(toys: SimpleNamespace, num_envs: int, *, readers: tuple[int, ...] = (0, 1)) -> Any:
    """The best action is the place of a marked item among three: only the order tells it."""

    class Ranked(toys.Contextual):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            shape: dict[str, Any] = {"nvec": (3, 3), "context": 1, "horizon": 1, "common": 0.0}
            super().__init__(num_envs, users=900, **shape)
            rng = np.random.default_rng(0)
            self.best = np.repeat(rng.integers(3, size=900)[:, None], 2, axis=1)
            places = np.arange(3) == self.best[:, :1]
            items = np.stack([places, ~places], axis=-1).reshape(900, 6)
            self.users = np.concatenate([np.ones((900, 1)), items], 1).astype(np.float32)
            self.observation_width = self.state_width = 8
            self.observer = SimpleNamespace(
                layout={"ranking": slice(1, 7)},
                ranking_shape=(3, 2),
                readers=lambda name: readers,
            )

        def _observations(self) -> Any:
            seen = super()._observations()
            for agent in {0, 1} - set(readers):
                seen[:, agent, 1:7] = 0
            return seen

    return Ranked()


@pytest.mark.slow
def test_the_gru_learns_from_the_order_of_the_ranking(toys: SimpleNamespace) -> None:
    env = ranking_toy(toys, 128)
    config = Config(total_steps=15_000, gru=8, hidden=(16,), gradient_steps=8)
    policy = a2c.train(env, config, progress=False)
    assert play(policy, env, episodes=256).mean() > 0.95


def test_agents_that_do_not_see_the_ranking_get_zeros(toys: SimpleNamespace) -> None:
    env = ranking_toy(toys, 8, readers=(1,))
    learner = A2C(env, Config(gru=4))
    observations = torch.from_numpy(env.reset(seed=0)[0])
    features = learner.actor.features(observations)
    changed = observations.clone()
    changed[:, 1, 1:7] += 1
    again = learner.actor.features(changed)
    assert torch.equal(features[:, 0], again[:, 0])
    assert not torch.equal(features[:, 1], again[:, 1])
    assert (features[:, 0, -4:] == 0).all()


@pytest.fixture(scope="module")
def worlds() -> Any:
    """Training and validation users of movieworld; `ranking` as it is asked for."""

    def make(num_envs: int = 16, split: str = "train", **options: Any) -> RPPEnv:
        options = {"ranking": "sequence", "max_users": 40, **options}
        return RPPEnv.make("movieworld", split=split, num_envs=num_envs, **options)

    return make


def after_a_step(env: RPPEnv) -> torch.Tensor:
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    return torch.from_numpy(env.step(rng.integers(env.nvec, size=(env.num_envs, 4))).observations)


def test_the_gru_exists_only_for_sequence_observations(worlds: Any, toys: SimpleNamespace) -> None:
    sequence, mean, private = worlds(), worlds(ranking="mean"), worlds(observe="private")
    found = ranking_encoder(sequence, 32)
    assert found is not None
    assert (found["places"], found["item"]) == (20, 32)
    assert found["readers"] == [0, 1, 2, 3]
    assert ranking_encoder(private, 32)["readers"] == [2]  # type: ignore[index]
    for env, width in ((mean, 32), (toys.Contextual(4), 32), (sequence, 0)):
        assert ranking_encoder(env, width) is None
    rankings = make_encoder(found).ranking(after_a_step(sequence))
    torch.testing.assert_close(rankings[:, 0], rankings[:, 3])
    # A state holds the sequence in the same place as an observation does.
    states = torch.from_numpy(sequence.state())
    torch.testing.assert_close(make_encoder(found).rest(states).shape[-1], 167 - 32)


def test_a_users_encoding_does_not_depend_on_the_others(worlds: Any) -> None:
    env = worlds()
    observations = after_a_step(env)
    encoder = make_encoder(ranking_encoder(env, 8) or {})
    rest, encoded = encoder(observations)
    assert encoded.std(dim=0).min() > 0, "users differ"
    order = torch.randperm(16, generator=torch.manual_seed(0))
    torch.testing.assert_close(encoder(observations[order])[1], encoded[order])
    torch.testing.assert_close(encoder(observations[order])[0], rest[order])
    replaced = observations.clone()
    replaced[1:] = torch.randn_like(replaced[1:])
    torch.testing.assert_close(encoder(replaced)[1][0], encoded[0])
    torch.testing.assert_close(encoder(observations[:1])[1][0], encoded[0])
    # It is the GRU over that user's own 20 vectors, one after the other.
    start = env.observer.layout["ranking"].start
    items = observations[3, 0, start : start + 640].reshape(20, 1, 32)
    state = torch.zeros(1, 8)
    cell = torch.nn.GRUCell(32, 8)
    cell.load_state_dict({k.removesuffix("_l0"): v for k, v in encoder.gru.state_dict().items()})
    for item in items:
        state = cell(item, state)
    torch.testing.assert_close(encoded[3, 0], state[0])


@pytest.mark.parametrize("critic", ["own", "central"])
def test_the_ranking_is_read_once_for_all_agents(worlds: Any, critic: Any) -> None:
    learner = A2C(worlds(), Config(critic=critic, gru=8, gradient_steps=1))
    assert learner.actor.encoder is not None
    learner.reset(0)
    read: list[int] = []
    learner.actor.encoder.gru.register_forward_hook(
        lambda module, inputs, output: read.append(len(inputs[0]))
    )
    rollout = learner.collector.collect(learner.choose, 5)
    assert read == [16] * 5
    read.clear()
    learner.update(rollout)
    # For the values before the update, for those of the last states, and to learn.
    assert sorted(read) == [16, *[80] * (2 if critic == "own" else 3)]


@pytest.mark.parametrize("options", [{}, {"critic": "central"}, {"released": True}])
def test_the_gru_is_trained_unless_released(
    worlds: Any, tmp_path: Any, options: dict[str, Any]
) -> None:
    env = worlds()
    config = Config(total_steps=640, evaluations=0, tensorboard=False, hidden=(16,), **options)
    learner: Any = a2c._learner(env, config)
    policy: Any = a2c.train(env, config, run_dir=tmp_path, progress=False)
    before, after = (
        torch.cat([p.flatten() for p in part.gru.parameters()])
        for part in (learner.actor.encoder, policy.actor.encoder)
    )
    assert torch.equal(before, after) == bool(options.get("released"))
    assert policy.actor.encoder.gru.weight_hh_l0.requires_grad != bool(options.get("released"))
    # What is kept is the whole policy, and can be evaluated.
    again = load_policy(tmp_path / "policy.safetensors")
    held_out = worlds(split="validation")
    observations, _ = held_out.reset(seed=1)
    masks = held_out.action_masks()
    for greedy in (True, False):
        expected, _ = policy.act(observations, masks, greedy=greedy)
        np.testing.assert_array_equal(again.act(observations, masks, greedy=greedy)[0], expected)
        assert (expected < held_out.nvec).all()
    report = evaluate(again, held_out, baselines=("random",))
    assert set(report.differences) == {"random"}


# As released


def released(env: Any, **options: Any) -> Released:
    learner = a2c._learner(env, Config(released=True, **options))
    assert isinstance(learner, Released)
    return learner


def test_the_released_critics_do_not_see_the_rewards() -> None:
    rng = np.random.default_rng(0)
    seen, after = rng.normal(size=(2, 1, 64, 3))
    learners = [released(one_agent(3, 64)) for _ in range(2)]
    for learner, reward in zip(learners, (0.0, 5.0), strict=True):
        learner.update(rollout_of(seen, after, np.full((1, 64), reward)))
    critics, actors = (
        [
            torch.cat([p.flatten() for p in getattr(learner, part).parameters()])
            for learner in learners
        ]
        for part in ("critic", "actor")
    )
    assert torch.equal(*critics)
    assert not torch.equal(*actors)


def test_the_released_critics_collapse_and_the_error_becomes_the_reward() -> None:
    learner = released(one_agent(8, 32))
    rng = np.random.default_rng(0)
    found = []
    for _ in range(400):
        seen, after = rng.normal(size=(2, 1, 32, 8))
        row = learner.update(rollout_of(seen, after, np.full((1, 32), 0.4)))
        with torch.no_grad():
            values = learner._value(torch.from_numpy(seen[0, :, None]).float())
        found.append((float(values.abs().mean()), row["td_error"]))
    assert found[0][0] > 0.2
    assert found[-1][0] < 0.1
    assert found[-1][1] == pytest.approx(0.4, abs=0.05)


@pytest.mark.parametrize("action", [0, 1])
def test_the_released_actors_do_more_often_whatever_they_did(action: int) -> None:
    """0.3 is paid, where 0.5 has been usual: still what was done is reinforced."""
    learner = released(one_agent(3, 32))
    rng = np.random.default_rng(0)

    def play(reward: float, actions: Any, updates: int) -> float:
        for _ in range(updates):
            seen, after = rng.normal(size=(2, 1, 32, 3))
            rewards = np.full((1, 32), reward)
            learner.update(rollout_of(seen, after, rewards, actions=actions))
        return probability(learner, np.zeros(3))

    before = play(0.5, rng.integers(2, size=(1, 32, 1)), 300)
    after = play(0.3, action, 100)
    assert after > before + 0.05 if action == 0 else after < before - 0.05


def test_the_released_reward_is_one_number_for_all_users() -> None:
    rng = np.random.default_rng(0)
    seen, after = rng.normal(size=(2, 1, 64, 3))
    actions = rng.integers(2, size=(1, 64, 1))
    kept = []
    for rewards in (np.linspace(0, 1, 64), np.linspace(1, 0, 64), np.full(64, 0.5)):
        learner = released(one_agent(3, 64))
        learner.update(rollout_of(seen, after, rewards[None], actions=actions))
        kept.append(torch.cat([p.flatten() for p in learner.actor.parameters()]))
    torch.testing.assert_close(kept[0], kept[1], atol=1e-6, rtol=0)
    torch.testing.assert_close(kept[0], kept[2], atol=1e-6, rtol=0)


def test_the_released_state_mixes_users_and_forgets_them(worlds: Any) -> None:
    env = worlds()
    learner = released(env)
    first = torch.from_numpy(env.reset(seed=0)[0])
    user = env.observer.layout["user"]
    torch.testing.assert_close(learner.actor.features(first), first[..., user])
    # At first the critics see the same of everybody.
    assert learner._value(first).std(dim=0).max() < 1e-6
    later = after_a_step(env)
    features = learner.actor.features(later)
    forgotten = later.clone()
    forgotten[..., user] = 0
    assert torch.equal(learner.actor.features(forgotten), features)
    # Another user's ranking changes what this user is given.
    others = later.clone()
    others[1:, :, env.observer.layout["ranking"]] *= 2
    assert not torch.allclose(learner.actor.features(others)[0], features[0])


def test_the_released_learner_ignores_episode_ends(toys: SimpleNamespace) -> None:
    rng = np.random.default_rng(0)
    seen, after = rng.normal(size=(2, 1, 16, 3))
    kept = []
    for terminated in (False, True):
        learner = released(one_agent(3, 16))
        learner.update(rollout_of(seen, after, np.ones((1, 16)), terminated=terminated))
        kept.append(torch.cat([p.flatten() for p in learner.actor.parameters()]))
    assert torch.equal(*kept)


def test_the_released_learner_has_the_papers_numbers_and_keeps_the_runs(
    toys: SimpleNamespace,
) -> None:
    learner = released(toys.Contextual(64), seed=3, gamma=0.5, learning_rate=1.0, entropy=9.0)
    assert learner.config == Config.paper(released=True, seed=3, gamma=0.5)
    assert learner.steps == 64
    assert learner.rates == {"actor": 3e-4, "critic": 5e-4}


# Options, checkpoints


def test_the_papers_hyperparameters() -> None:
    config = Config.paper(seed=4, gru=16)
    assert (config.learning_rate, config.critic_learning_rate) == (3e-4, 5e-4)
    assert (config.gamma, config.gae_lambda, config.entropy, config.seed) == (0.95, 0.0, 0.0, 4)
    assert (config.gru, config.hidden, config.max_grad_norm) == (16, (64,), math.inf)
    assert (config.rollout_steps, config.gradient_steps) == (1, 1)


@pytest.mark.parametrize(
    "options",
    [
        {"critic": "each"},
        {"gru": -1},
        {"gradient_steps": 0},
        {"gae_lambda": 1.5},
        {"critic_learning_rate": 0},
        {"hidden": ()},
    ],
)
def test_impossible_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption, match=next(iter(options))):
        Config(**options)


def test_unsupported_options_of_the_released_learner_are_refused(worlds: Any) -> None:
    with pytest.raises(InvalidOption, match="2 or more, not 1"):
        released(worlds(1))
    from rpp_env import HashedNGrams

    with pytest.raises(InvalidOption, match="32, 64 and 32"):
        released(worlds(encoder=HashedNGrams(64)))


class Stop:
    """Interrupts a run as Ctrl-C would, after some iterations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, row: Any, policy: Any) -> None:
        if row["iteration"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("options", [{"critic": "central"}, {"critic": "own"}, {"released": True}])
def test_a_resumed_run_equals_an_uninterrupted_one(
    worlds: Any, tmp_path: Any, options: dict[str, Any]
) -> None:
    steps = 16 if options.get("released") else 80
    config = Config(
        total_steps=steps * 5, checkpoint_every=2, gru=8, hidden=(16,), evaluations=0, **options
    )
    config = replace(config, tensorboard=False)

    def train(name: str, **more: Any) -> Any:
        return a2c.train(worlds(), config, run_dir=tmp_path / name, progress=False, **more)

    whole = train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", callbacks=[Stop(3)])
    parts = train("parts", resume=True)
    for name, tensor in whole.actor.state_dict().items():
        assert torch.equal(tensor, parts.actor.state_dict()[name]), name
    # A checkpoint that was cut short, or that is something else, is refused.
    path = tmp_path / "parts" / "checkpoint.safetensors"
    content = path.read_bytes()
    for wrong in (content[: len(content) // 2], b"", b"not a checkpoint"):
        path.write_bytes(wrong)
        with pytest.raises(InvalidData, match="not written by rpp_agents"):
            train("parts", resume=True)
    path.write_bytes((tmp_path / "whole" / "policy.safetensors").read_bytes())
    with pytest.raises(InvalidData, match="not a checkpoint"):
        train("parts", resume=True)
