"""Vectors as actions: the Gaussian actor, and the trainers that play it."""

from __future__ import annotations

import json
import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete
from pettingzoo import ParallelEnv
from torch.distributions import Independent, Normal

import rpp_agents
from rpp_agents import PettingZooBatch, Random, a2c, load_policy, mappo, play
from rpp_agents.actors import ACTORS, Actor, GaussianActor, independent, make_actor
from rpp_agents.policy import NetworkPolicy, read_tensors, write_tensors
from rpp_agents.rollout import Collector
from rpp_agents.trainers.ppo import PPO, Config
from rpp_env.errors import BrokenContract, InvalidData, InvalidOption
from rpp_env.evaluation.baselines import search_fixed
from rpp_env.spaces import spaces_of

SPACES = (
    Box(-1.0, 1.0, (3,), np.float32),
    Box(np.array([0.0, -5.0]), np.array([10.0, np.inf]), dtype=np.float64),
)
BOXES = spaces_of("ab", SPACES)
CONTINUOUS = ("mappo", "ippo", "a2c")


pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Targets:
    """Each agent should name a linear function of what it sees; the closer, the better.

    Reward of a step: 1 minus the mean squared distance of the actions from ``pull @ context``, all
    of which lie in the bounds. Episodes have one step.
    """

    max_cycles = 1

    def __init__(
        self, num_envs: int = 64, *, lengths: Sequence[int] = (2, 2), seed: int = 0
    ) -> None:
        self.num_envs, self.lengths = num_envs, tuple(lengths)
        self.agents = tuple(f"agent_{i}" for i in range(len(lengths)))
        self.action_spaces = tuple(Box(-1.0, 1.0, (length,), np.float32) for length in lengths)
        self.observation_width = self.state_width = 3
        world = np.random.default_rng(7)
        pull = world.uniform(-1.0, 1.0, (len(lengths), max(lengths), 3))
        self.pull = pull / abs(pull).sum(axis=-1, keepdims=True)
        self.has = np.arange(max(lengths)) < np.array(lengths)[:, None]
        self._rng = np.random.default_rng(seed)

    def reset(self, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if seed is not None:
            self._rng = np.random.default_rng(seed)
        self._context = self._rng.uniform(-1.0, 1.0, (self.num_envs, 3)).astype(np.float32)
        return self._seen(), {}

    def _seen(self) -> Any:
        return np.repeat(self._context[:, None], len(self.agents), axis=1)

    def step(self, actions: Any) -> Any:
        assert actions.dtype == np.float32
        assert actions.shape == (self.num_envs, *self.has.shape)
        assert (abs(actions) <= 1).all()
        assert (actions[:, ~self.has] == 0).all()
        wanted = np.einsum("akc,bc->bak", self.pull, self._context)
        errors = ((actions - wanted) ** 2)[:, self.has].mean(axis=1)
        over = np.ones(self.num_envs, np.bool_)
        return SimpleNamespace(
            observations=self._seen(),
            rewards=1 - errors,
            terminated=over,
            truncated=~over,
            infos={},
        )

    def state(self) -> Any:
        return self._context

    def action_masks(self) -> Any:
        return np.ones((len(self.agents), 1), np.int8)


class Tied(ParallelEnv):  # type: ignore[misc]
    """Agents that act in vectors of different lengths and leave one after the other."""

    metadata = {"name": "tied"}  # noqa: RUF012
    max_cycles = 4

    def __init__(self) -> None:
        self.possible_agents = ["short", "long"]
        self.agents: list[str] = []
        self.given: list[Any] = []
        self.spaces = {
            "short": Box(-1.0, 1.0, (), np.float32),
            "long": Box(0.0, 0.1, (2, 2), np.float64),
        }

    def observation_space(self, agent: str) -> Any:
        return Box(-1, 1, (2,), np.float32)

    def action_space(self, agent: str) -> Any:
        return self.spaces[agent]

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.agents, self.clock = list(self.possible_agents), 0
        return self._each(np.ones(2, np.float32)), self._each({})

    def _each(self, value: Any) -> dict[str, Any]:
        return dict.fromkeys(self.agents, value)

    def step(self, actions: Any) -> Any:
        assert set(actions) == set(self.agents)
        for agent, action in actions.items():
            assert self.spaces[agent].contains(action), (agent, action)
        self.given.append(actions)
        self.clock += 1
        paid = {agent: float(np.sum(action)) for agent, action in actions.items()}
        ended = {a: self.clock >= (2 if a == "short" else 4) for a in self.agents}
        seen, infos = self._each(np.ones(2, np.float32)), self._each({})
        never = self._each(False)
        self.agents = [agent for agent in self.agents if not ended[agent]]
        return seen, paid, ended, never, infos


def gaussian(**options: Any) -> GaussianActor:
    """An actor whose means and deviations are far from where they begin."""
    torch.manual_seed(0)
    actor = make_actor(GaussianActor, 5, BOXES, hidden=(16,), normalize=True, **options)
    actor.observe(torch.randn(50, 2, 5) * 3 + 1)
    with torch.no_grad():
        actor.net.layers[-1].weight.mul_(50)
        actor.log_std.copy_(torch.randn_like(actor.log_std) * 0.3 - 0.5)
    return actor


def reference(actor: GaussianActor, observations: Any, agent: int) -> Any:
    """The distribution of one agent's action by torch.distributions, from the definition."""
    space: Any = SPACES[agent]
    count = space.shape[0]
    low, high = torch.from_numpy(space.low), torch.from_numpy(space.high)
    bounded = torch.isfinite(low) & torch.isfinite(high)
    unit = torch.where(bounded, (high - low) / 2, 1.0).float()
    middle = torch.where(bounded, (high + low) / 2, 0.0).float()
    outputs = actor.net(actor.norm(observations))[:, agent, :count]
    log_std = actor.log_std[agent if len(actor.log_std) > 1 else 0, :count]
    return Independent(Normal(middle + unit * outputs, unit * log_std.exp()), 1)


# The distribution


@pytest.mark.parametrize("shared", [True, False])
def test_log_probabilities_entropy_and_gradients_equal_those_of_torch(shared: bool) -> None:
    actor = gaussian(shared=shared)
    observations = torch.randn(40, 2, 5)
    masks = torch.ones(2, 1, dtype=torch.bool)
    features = actor.features(observations)
    with torch.no_grad():
        actions, chosen = actor.choose(features, masks, np.random.default_rng(0))
    assert actions.shape == (40, 2, 3)
    assert (actions[:, 1, 2] == 0).all(), "the second agent has two numbers"
    log_probs, spread = actor.evaluate(features, masks, actions)
    assert torch.equal(log_probs, chosen)
    ours = log_probs.sum() + 0.3 * spread.sum()
    ours.backward()  # type: ignore[no-untyped-call]
    got = [parameter.grad.clone() for parameter in actor.parameters()]  # type: ignore[union-attr]
    actor.zero_grad()
    expected = [reference(actor, observations, agent) for agent in range(2)]
    for agent, normal in enumerate(expected):
        own = actions[:, agent, : 3 - agent]
        torch.testing.assert_close(log_probs[:, agent], normal.log_prob(own), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(spread[:, agent], normal.entropy(), rtol=1e-5, atol=1e-5)
    total = sum(
        normal.log_prob(actions[:, agent, : 3 - agent]).sum() + 0.3 * normal.entropy().sum()
        for agent, normal in enumerate(expected)
    )
    total.backward()
    for parameter, gradient in zip(actor.parameters(), got, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4)


def test_samples_have_the_mean_and_the_deviation_of_the_distribution() -> None:
    actor = gaussian(shared=False)
    observations = torch.randn(1, 2, 5).expand(20_000, -1, -1)
    with torch.no_grad():
        features = actor.features(observations)
        drawn, _ = actor.choose(features, None, np.random.default_rng(1))
        greedy, _ = actor.choose(features, None, None)
    for agent in range(2):
        normal = reference(actor, observations[:1], agent)
        mean, deviation = normal.mean[0], normal.stddev[0]
        own = drawn[:, agent, : 3 - agent]
        torch.testing.assert_close(greedy[0, agent, : 3 - agent], mean, rtol=1e-5, atol=1e-5)
        assert (abs(own.mean(0) - mean) < 5 * deviation / math.sqrt(20_000)).all()
        torch.testing.assert_close(own.std(0), deviation, rtol=0.03, atol=0)


def test_an_agent_that_has_left_acts_0_with_certainty_and_no_gradient() -> None:
    actor = gaussian(shared=False)
    features = actor.features(torch.randn(6, 2, 5))
    masks = torch.ones(6, 2, 1, dtype=torch.bool)
    masks[:, 0] = False
    actions, log_probs = actor.choose(features, masks, np.random.default_rng(0))
    assert (actions[:, 0] == 0).all()
    assert (log_probs[:, 0] == 0).all()
    log_probs, spread = actor.evaluate(features, masks, actions)
    (log_probs.sum() + spread.sum()).backward()  # type: ignore[no-untyped-call]
    assert (spread[:, 0] == 0).all()
    assert actor.log_std.grad is not None
    assert (actor.log_std.grad[0] == 0).all()
    assert (actor.log_std.grad[1, :2] != 0).all()


@pytest.mark.parametrize("largest", [1.0, 255.0, 3.4e38, np.inf])
def test_an_actor_begins_in_the_middle_of_any_bounds(largest: float) -> None:
    box = Box(-largest, largest, (2,), np.float32)
    actor = make_actor(GaussianActor, 4, spaces_of(["a"], [box]), shared=False)
    policy = NetworkPolicy(actor, seed=0)
    seen = np.random.default_rng(0).normal(size=(3000, 1, 4)).astype(np.float32)
    unit = largest if largest < 1e6 else 1.0
    raw, log_probs = policy.choose(seen, None, np.random.default_rng(0))
    assert np.isfinite(log_probs).all()
    np.testing.assert_allclose(raw.std(axis=(0, 1)) / unit, 1, rtol=0.1)
    assert abs(policy.act(seen, greedy=True)[0]).max() < 0.2 * unit
    played = policy.act(seen)[0]
    assert box.contains(played.max(axis=(0, 1)))
    assert (raw > largest).any() == (largest < 1e6)


def test_samples_are_stored_unclipped_and_played_clipped() -> None:
    """PPO's ratio is of the sampled action, as in CleanRL and Stable-Baselines3."""
    env = Targets(256)
    learner = PPO(env, Config(epochs=1, minibatches=1, clip=1e-4), "state")
    learner.reset(0)
    rollout = learner.collector.collect(learner.choose, 2)
    assert rollout.actions.shape == (2, 256, 2, 2)
    assert rollout.actions.dtype == np.float32
    assert (abs(rollout.actions) > 1).mean() > 0.2
    row = learner.update(rollout)
    assert row["clipped"] == 0
    assert row["kl"] == pytest.approx(0, abs=1e-6)


# Which actor


def test_the_actor_follows_from_the_spaces() -> None:
    assert independent(spaces_of("ab", (Discrete(2), Discrete(3)))) is Actor
    assert independent(BOXES) is GaussianActor
    assert len(ACTORS) == len({kind.choice for kind in ACTORS.values()}) == 4


def test_a_further_kind_of_actor_is_one_entry(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    class Square(GaussianActor):
        choice = "square"

    monkeypatch.setattr("rpp_agents.actors.ACTORS", {"square": Square} | {"independent": Actor})
    monkeypatch.setitem(ACTORS, "square", Square)
    policy = mappo.train(Targets(8), mappo.Config(total_steps=16), progress=False)
    assert isinstance(policy, NetworkPolicy)
    assert isinstance(policy.actor, Square)
    policy.save(tmp_path / "policy")
    assert isinstance(load_policy(tmp_path / "policy").actor, Square)  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", rpp_agents.TRAINERS)
def test_each_trainer_supports_vectors_or_names_those_that_do(name: str) -> None:
    trainer = getattr(rpp_agents, name)
    env, config = Targets(8), trainer.Config(total_steps=16, tensorboard=False)
    if name in CONTINUOUS:
        trainer.train(env, config, progress=False)
        return
    with pytest.raises(InvalidOption) as found:
        trainer.train(env, config, progress=False)
    said = str(found.value)
    assert said.startswith("agent 'agent_0' acts in Box(-1.0, 1.0, (2,), float32)")
    assert all(other in said for other in CONTINUOUS)
    assert "Discrete" in said


def test_a_fixed_choice_is_not_searched_among_vectors() -> None:
    with pytest.raises(InvalidOption, match=r"'agent_0' acts in Box.*only among Discrete actions"):
        search_fixed(Targets(4))


def test_spaces_that_do_not_fit_the_agents_are_refused() -> None:
    env: Any = Targets(4)
    env.action_spaces = env.action_spaces[:1]
    with pytest.raises(InvalidOption, match=r"1 action spaces for 2 agents \(agent_0, agent_1\)"):
        mappo.train(env, mappo.Config(total_steps=8), progress=False)
    env.action_spaces = (Discrete(2), Targets().action_spaces[0])
    with pytest.raises(InvalidOption, match="all agents must act in Discrete spaces, or all in"):
        mappo.train(env, mappo.Config(total_steps=8), progress=False)


def test_a_batch_with_sizes_only_names_the_replacement(toys: SimpleNamespace) -> None:
    env = toys.Contextual(4)
    del env.action_spaces
    with pytest.raises(InvalidOption, match=r"a Contextual with nvec.*Discrete\(n\) for n in nvec"):
        mappo.train(env, mappo.Config(total_steps=8), progress=False)


def test_probabilities_of_single_actions_are_refused() -> None:
    policy = NetworkPolicy(gaussian())
    with pytest.raises(InvalidOption, match="gaussian, without a probability for each action"):
        policy.log_probs(np.zeros((1, 2, 5), np.float32))


# Learning


def best_fixed(env: Targets) -> float:
    """What the best constant action is worth: 0, as contexts are drawn around 0."""
    contexts = np.random.default_rng(5).uniform(-1.0, 1.0, (20_000, 3))
    wanted = np.einsum("akc,bc->bak", env.pull, contexts)[:, env.has]
    return float(1 - (wanted**2).mean())


@pytest.mark.slow
@pytest.mark.parametrize("name", CONTINUOUS)
def test_each_trainer_finds_a_known_optimum(name: str) -> None:
    """1 is the optimum; the best constant action is far from it, and a random one farther."""
    trainer = getattr(rpp_agents, name)
    env, held_out = Targets(256), Targets(500, seed=1)
    config = trainer.Config(total_steps=60_000, seed=1, evaluations=0, layer_norm=False)
    policy = trainer.train(env, config, progress=False)
    score = play(policy, held_out, episodes=500, seed=3)
    random = play(Random(env.action_spaces), held_out, episodes=500, seed=3)
    fixed = best_fixed(env)
    assert random.mean() < fixed - 0.2
    assert score.mean() > 1 - 0.02 * (1 - fixed), (score.mean(), fixed)
    sampled = play(policy, held_out, episodes=500, seed=3, greedy=False)
    assert sampled.mean() < score.mean(), "greedy is the mean action"


def test_greedy_play_is_the_mean_within_the_bounds() -> None:
    env = Targets(16)
    policy = mappo.train(env, mappo.Config(total_steps=32), progress=False)
    assert isinstance(policy, NetworkPolicy)
    actor = policy.actor
    assert isinstance(actor, GaussianActor)
    with torch.no_grad():
        actor.net.layers[-1].bias.fill_(3.0)
        actor.net.layers[-1].bias[0, 0, 0] = 0.25
    seen = env.reset(seed=0)[0]
    means = actor.distribution(actor.features(torch.from_numpy(seen)))[0]
    expected = means.clamp(-1, 1).detach().numpy()
    np.testing.assert_array_equal(policy.act(seen, greedy=True)[0], expected)
    assert (expected[:, 1] == 1).all()
    assert (abs(expected[:, 0, 0]) < 1).all()
    assert not np.array_equal(policy.act(seen)[0], expected)


# Agents of others


@pytest.mark.parametrize("name", CONTINUOUS)
def test_vectors_of_any_shape_reach_the_environment_as_its_spaces_have_them(name: str) -> None:
    trainer = getattr(rpp_agents, name)
    made: list[Tied] = []

    def make() -> Tied:
        made.append(Tied())
        return made[-1]

    env = PettingZooBatch(make, 8)
    assert env.action_spaces == tuple(Tied().spaces.values())
    assert env.action_masks().tolist() == [[[0], [0]]] * 8  # nobody plays yet
    env.reset()
    assert env.action_masks().tolist() == [[[1], [1]]] * 8
    config = trainer.Config(total_steps=3000, evaluations=0, gamma=0.0)
    policy = trainer.train(env, config, progress=False)
    assert made[0].given[0]["long"].shape == (2, 2)
    assert made[0].given[0]["long"].dtype == np.float64
    assert made[0].given[0]["short"].shape == ()
    score, random = (
        play(player, env, episodes=40).mean() for player in (policy, Random(env.action_spaces))
    )
    assert score > random + 0.1


def test_masks_say_which_agents_still_act() -> None:
    env = PettingZooBatch(Tied, 2)
    env.reset()
    for expected in (True, False, False):
        env.step(np.zeros((2, 2, 4), np.float32))
        assert env.action_masks()[:, 0].any() == expected
        assert env.action_masks()[:, 1].all()
    collector = Collector(env, "observations")
    learner = PPO(env, Config(), "observations")
    collector.reset(0)
    rollout = collector.collect(learner.choose, 4)
    left = ~rollout.masks[:, :, 0, 0]
    assert left.any(axis=1).tolist() == [False, False, True, True]
    assert (rollout.actions[left][:, 0] == 0).all()
    assert (rollout.log_probs[left][:, 0] == 0).all()


# Files


def test_a_policy_of_vectors_is_saved_and_acts_the_same_bit_for_bit(tmp_path: Any) -> None:
    policy = NetworkPolicy(gaussian(shared=False), seed=3)
    policy.save(tmp_path / "policy")
    again = load_policy(tmp_path / "policy")
    seen = np.random.default_rng(0).normal(size=(50, 2, 5)).astype(np.float32)
    for greedy in (True, False):
        policy.reseed(9)
        again.reseed(9)  # type: ignore[attr-defined]
        np.testing.assert_array_equal(
            policy.act(seen, greedy=greedy)[0], again.act(seen, greedy=greedy)[0]
        )
    json.loads(json.dumps(policy.actor.description), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    "boxes",
    [
        [{"low": [0.0], "high": [1.0, 2.0]}] * 2,
        [{"low": [2.0], "high": [1.0]}] * 2,
        [{"low": [float("nan")], "high": [None]}] * 2,
        [{"low": [], "high": []}] * 2,
        [{"low": [10**400], "high": [None]}] * 2,
        [{"low": ["x"], "high": [None]}] * 2,
        [{"low": [0.0]}] * 2,
        [[0, 1], [0, 1]],
        [],
        5,
        None,
        [{"low": [0.0] * 200_000, "high": [1.0] * 200_000}] * 2,
        [{"low": [0.0], "high": [1.0]}] * 10_000
        + [{"low": [0.0] * 10_000, "high": [1.0] * 10_000}],
    ],
    ids=range(13),
)
def test_a_file_with_impossible_bounds_is_refused(tmp_path: Any, boxes: Any) -> None:
    policy = NetworkPolicy(gaussian(shared=False))
    policy.save(tmp_path / "policy")
    tensors, about = read_tensors(tmp_path / "policy")
    about["actor"]["boxes"] = boxes
    write_tensors(tmp_path / "policy", tensors, about)
    with pytest.raises(InvalidData, match="another version"):
        load_policy(tmp_path / "policy")


def test_random_vectors_are_saved_too(tmp_path: Any) -> None:
    policy = Random(SPACES, seed=0)
    actions = policy.act(np.zeros((4000, 2, 1), np.float32))[0]
    assert actions.shape == (4000, 2, 3)
    assert actions.dtype == np.float32
    np.testing.assert_allclose(actions[:, 0].mean(axis=0), 0, atol=0.05)
    assert 9.9 < actions[:, 1, 0].max() <= 10
    assert 0 <= actions[:, 1, 0].min() < 0.1
    np.testing.assert_allclose(actions[:, 1, 1].std(), 1, atol=0.1)
    assert (actions[:, 1, 2] == 0).all()
    policy.save(tmp_path / "random.json")
    again = load_policy(tmp_path / "random.json")
    assert isinstance(again, Random)
    assert again.act(np.zeros((4000, 2, 1), np.float32))[0].shape == (4000, 2, 3)
    (tmp_path / "random.json").write_text(
        '{"kind": "random", "boxes": [{"low": [1], "high": [0]}]}'
    )
    with pytest.raises(InvalidData, match="holds no policy that can be used"):
        load_policy(tmp_path / "random.json")


SMALL: dict[str, Any] = {
    "total_steps": 64 * 8,
    "checkpoint_every": 2,
    "evaluations": 2,
    "eval_episodes": 64,
    "hidden": (16,),
    "tensorboard": False,
    "threads": 1,
}


class Stop:
    """Interrupts a run as Ctrl-C would, after some iterations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, row: Any, policy: Any) -> None:
        if row["iteration"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Any, name: str) -> None:
    trainer = getattr(rpp_agents, name)

    def train(folder: str, **options: Any) -> Any:
        return trainer.train(
            Targets(64),
            trainer.Config(**SMALL),
            run_dir=tmp_path / folder,
            eval_env=Targets(64, seed=1),
            progress=False,
            **options,
        )

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", callbacks=[Stop(5)])
    train("parts", resume=True)
    for file in ("checkpoint.safetensors", "policy.safetensors"):
        whole, parts = (read_tensors(tmp_path / f / file)[0] for f in ("whole", "parts"))
        assert whole.keys() == parts.keys()
        assert all(torch.equal(whole[key], parts[key]) for key in whole)
    other = Targets(64)
    other.action_spaces = (Box(-2.0, 2.0, (2,), np.float32),) * 2
    with pytest.raises(InvalidOption, match="another environment: actions was"):
        trainer.train(
            other, trainer.Config(**SMALL), run_dir=tmp_path / "whole", resume=True, progress=False
        )


KILLED = """
import sys, time, torch
sys.path.insert(0, sys.argv[1])
import test_actors as here
from rpp_agents import mappo

torch.set_num_threads(1)

def wait(row, policy):
    if row["iteration"] == 5:
        print("now", flush=True)
        time.sleep(60)

mappo.train(
    here.Targets(64), mappo.Config(**here.SMALL), run_dir=sys.argv[2], callbacks=[wait],
    progress=False,
)
"""


def test_a_killed_run_ends_in_the_weights_of_one_that_was_not(tmp_path: Any) -> None:
    folder = tmp_path / "killed"
    command = [sys.executable, "-c", KILLED, str(Path(__file__).parent), str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "now\n"
        child.send_signal(signal.SIGKILL)
    assert read_tensors(folder / "checkpoint.safetensors")[1]["iteration"] == 4
    again, whole = (
        mappo.train(
            Targets(64), mappo.Config(**SMALL), run_dir=where, resume=resume, progress=False
        )
        for where, resume in ((folder, True), (None, False))
    )
    for policy in (again, whole):
        assert isinstance(policy, NetworkPolicy)
    for name, tensor in whole.actor.state_dict().items():  # type: ignore[attr-defined]
        assert torch.equal(again.actor.state_dict()[name], tensor), name  # type: ignore[attr-defined]


def test_a_checkpoint_of_an_earlier_version_is_resumed(
    toys: SimpleNamespace, tmp_path: Any
) -> None:
    """It calls the numbers of actions nvec, and lacks the options that came later."""
    config = mappo.Config(**SMALL | {"total_steps": 64 * 5 * 4})

    def train(folder: str, **options: Any) -> Any:
        return mappo.train(
            toys.Contextual(64), config, run_dir=tmp_path / folder, progress=False, **options
        )

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("old", callbacks=[Stop(3)])
    path = tmp_path / "old" / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    about["environment"]["nvec"] = about["environment"].pop("actions")
    assert about["environment"]["nvec"] == [5, 5, 9, 5]
    assert (about["config"].pop("memory"), about["config"].pop("truncation")) == (0, "bootstrap")
    write_tensors(path, tensors, about)
    train("old", resume=True)
    whole, old = (
        read_tensors(tmp_path / name / "policy.safetensors")[0] for name in ("whole", "old")
    )
    assert all(torch.equal(whole[key], old[key]) for key in whole)


def test_a_policy_refuses_other_action_bounds(tmp_path: Any) -> None:
    other = Targets(4)
    other.action_spaces = (Box(-2.0, 2.0, (2,), np.float32),) * 2
    with pytest.raises(InvalidOption, match=r"eval_env has \[\{'low': \[-2.0, -2.0\]"):
        mappo.train(Targets(4), mappo.Config(**SMALL), eval_env=other, progress=False)


def test_rewards_that_are_not_finite_are_refused() -> None:
    class Broken(Targets):
        def step(self, actions: Any) -> Any:
            step = super().step(actions)
            step.rewards[1] = np.nan
            return step

    with pytest.raises(BrokenContract, match=r"environment 1 paid nan"):
        a2c.train(Broken(4), a2c.Config(total_steps=8), progress=False)
