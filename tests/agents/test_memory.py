"""Trainers with a memory recall a cue, in training, from files and in evaluation."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Discrete
from safetensors.numpy import load_file

import rpp_env
from rpp_agents import a2c, ippo, load_policy, mappo, play, qmix
from rpp_agents.networks import Memory
from rpp_agents.trainers import autoregressive, central
from rpp_agents.trainers.a2c import A2C
from rpp_agents.trainers.ppo import PPO
from rpp_env.errors import InvalidOption

pytestmark = pytest.mark.usefixtures("one_torch_thread")


class Recall:
    """Two agents see a cue at the first of three steps, and are paid for naming it at the last."""

    agents = ("left", "right")
    action_spaces = (Discrete(2), Discrete(2))
    observation_width = state_width = 3
    max_cycles = 3
    clock = state_clock = slice(2, 3)

    def __init__(self, num_envs: int = 64) -> None:
        self.num_envs = num_envs
        self.rng = np.random.default_rng(0)
        self.cue = self.time = np.zeros(num_envs, np.int64)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[Any, Any]:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        mask = np.ones(self.num_envs, bool) if options is None else options["reset_mask"]
        self.cue = np.where(mask, self.rng.integers(0, 2, self.num_envs), self.cue)
        self.time = np.where(mask, 0, self.time)
        return self.seen(), {}

    def seen(self) -> Any:
        seen = np.zeros((self.num_envs, 2, 3), np.float32)
        seen[..., 0] = np.where(self.time == 0, 2 * self.cue - 1, 0)[:, None]
        seen[..., 2] = self.time[:, None] / 3
        return seen

    def state(self) -> Any:
        return self.seen()[:, 0]

    def action_masks(self) -> Any:
        return np.ones((2, 2), np.int8)

    def step(self, actions: Any) -> Any:
        right = (actions == self.cue[:, None]).mean(axis=1)
        rewards = np.where(self.time == 2, right, 0.0)
        self.time = self.time + 1
        return SimpleNamespace(
            observations=self.seen(),
            rewards=rewards,
            terminated=np.zeros(self.num_envs, bool),
            truncated=self.time == 3,
            infos={},
        )


def config(module: Any, memory: int = 16, **changes: Any) -> Any:
    given = {"total_steps": 9600, "hidden": (32,), "evaluations": 0, "gamma": 0.9, "seed": 1}
    if module is qmix:
        given |= {"capacity": 6000, "batch": 192, "updates": 3}
    return module.Config(memory=memory, **given | changes)


def score(policy: Any) -> float:
    return 3 * float(play(policy, Recall(), episodes=640).mean())


@pytest.mark.parametrize(
    ("module", "changes"),
    [(mappo, {}), (ippo, {"shared": True}), (a2c, {}), (a2c, {"critic": "central"}), (qmix, {})],
    ids=["mappo", "ippo-shared", "a2c", "a2c-central", "qmix"],
)
def test_a_cue_is_recalled(module: Any, changes: Any) -> None:
    policy = module.train(Recall(), config(module, **changes), progress=False)
    assert score(policy) > 0.98


def test_without_memory_it_cannot_be() -> None:
    """At the last step both cues look alike: any such policy is right half the time."""
    env = Recall(2)
    env.reset()
    env.cue = np.array([0, 1])
    for _ in range(2):
        last = env.step(np.zeros((2, 2), np.int64)).observations
    assert (last[0] == last[1]).all()
    policy = mappo.train(Recall(), config(mappo, 0), progress=False)
    assert score(policy) == pytest.approx(0.5, abs=0.08)


def test_the_memory_is_a_gru() -> None:
    torch.manual_seed(0)
    memory, gru = Memory(5, 4, 1, shared=True), torch.nn.GRU(5, 4)
    with torch.no_grad():
        for ours, name in ((memory.read, "ih"), (memory.recur, "hh")):
            ours.weight.copy_(getattr(gru, f"weight_{name}_l0").T[None])
            ours.bias.copy_(getattr(gru, f"bias_{name}_l0")[None, None])
    inputs, start = torch.randn(6, 3, 5), torch.randn(3, 4)
    expected, _ = gru(inputs, start[None])
    found = memory(inputs[:, :, None], torch.zeros(6, 3, dtype=torch.bool), start[:, None])
    assert torch.allclose(found[:, :, 0, 5:], expected, atol=1e-6)
    assert torch.equal(found[:, :, 0, :5], inputs)


@pytest.mark.parametrize("shared", [False, True])
def test_memory_is_reset_between_episodes(shared: bool) -> None:
    torch.manual_seed(0)
    memory = Memory(5, 4, 2, shared=shared)
    inputs, start = torch.randn(6, 3, 2, 5), memory.start(3)
    begins = torch.zeros(6, 3, dtype=torch.bool)
    begins[4, 1] = True
    whole = memory(inputs, begins, start)
    first, second = memory(inputs[:4], begins[:4], start), memory(inputs[4:], begins[4:], start)
    assert torch.allclose(whole[4:, 1], second[:, 1], atol=1e-6)
    assert torch.allclose(whole[:4], first, atol=1e-6)
    assert not torch.allclose(whole[4, 0], second[0, 0])
    # Agents do not read each other's memory.
    other = inputs.clone()
    other[:, :, 1] += 1
    assert torch.allclose(memory(other, begins, start)[:, :, 0], whole[:, :, 0], atol=1e-6)


@pytest.mark.parametrize("steps", [2, 3, 7])
@pytest.mark.parametrize("kind", ["ppo", "ippo", "a2c"])
def test_an_update_recomputes_the_log_probabilities_of_the_rollout(kind: str, steps: int) -> None:
    """Over whole sequences, also those that begin or end within an episode."""
    options: dict[str, Any] = {"rollout_steps": steps, "schedule": "constant"}
    learner: Any
    if kind == "a2c":
        learner = A2C(Recall(8), config(a2c, gradient_steps=1, **options))
    else:
        ppo = config(mappo, epochs=1, minibatches=1, **options)
        learner = PPO(Recall(8), ppo, "state" if kind == "ppo" else "observations")
    learner.reset(0)
    for _ in range(4):
        start = learner._going_on()
        rollout = learner.collector.collect(learner.choose, steps)
        rollout = replace(rollout, memory=start)
        sequences = learner._sequences(rollout)
        features = learner.policy.actor.features(torch.from_numpy(rollout.observations))
        read = learner.policy.actor.memory(features, sequences["begins"], sequences["start"])
        log_probs, _ = learner.policy.actor.evaluate(
            read.flatten(0, 1),
            torch.from_numpy(rollout.masks).flatten(0, 1),
            torch.from_numpy(rollout.actions).flatten(0, 1),
        )
        played = torch.from_numpy(rollout.log_probs).flatten(0, 1)
        assert torch.allclose(log_probs, played, atol=1e-5)
        learner.update(rollout)
    assert learner._critic_memory is not None


@pytest.mark.parametrize("module", [mappo, a2c, qmix])
def test_a_killed_run_resumes_bit_for_bit_and_its_file_acts_alike(
    module: Any, tmp_path: Path
) -> None:
    options = config(module, total_steps=192 * 6, checkpoint_every=2)

    class Killed(Exception):
        pass

    def kill(row: Any, policy: Any) -> None:
        if row["iteration"] == 5:
            raise Killed

    whole = module.train(Recall(), options, run_dir=tmp_path / "a", progress=False)
    with pytest.raises(Killed):
        module.train(Recall(), options, run_dir=tmp_path / "b", progress=False, callbacks=[kill])
    module.train(Recall(), options, run_dir=tmp_path / "b", progress=False, resume=True)
    first, second = (tmp_path / run / "policy.safetensors" for run in "ab")
    weights, again = load_file(first), load_file(second)
    assert all(again[name].tobytes() == x.tobytes() for name, x in weights.items())
    loaded = load_policy(first)
    env, memories = Recall(), [None, None]
    observations, _ = env.reset(seed=3)
    for _ in range(3):
        acted = [
            policy.act(observations, env.action_masks(), greedy=True, memory=memory)
            for policy, memory in zip((whole, loaded), memories, strict=True)
        ]
        assert (acted[0][0] == acted[1][0]).all()
        memories = [memory for _, memory in acted]
        assert np.array_equal(*memories)
        observations = env.step(acted[0][0]).observations
    with pytest.raises(InvalidOption, match="this policy's memory of 64 users has shape"):
        loaded.act(observations, None, memory=np.zeros((3, 2, 16), np.float32))


def test_evaluate_passes_the_memory_on() -> None:
    """The same users in other batches: the same actions, so each keeps their own memory."""
    small: dict[str, Any] = {"rules": "RPPFeedback-v0", "num_users": 300, "num_items": 120}
    env = rpp_env.RPPEnv.make(num_envs=32, seed=0, **small)
    policy = mappo.train(
        env, mappo.Config(total_steps=1000, memory=8, evaluations=0), progress=False
    )
    ranks = []
    for size in (7, 20):
        test = rpp_env.RPPEnv.make(split="test", num_envs=size, max_users=20, **small)
        report = rpp_env.evaluate(policy, test, baselines=("random",))
        ranks.append(report.scores["policy"].ranks)
    assert (ranks[0] == ranks[1]).all()


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("module", [mappo, ippo, a2c, qmix])
def test_episodes_of_one_step_are_trained_with_a_memory(module: Any, shared: bool) -> None:
    """Nothing follows their step, so that no state is read after it."""
    env = rpp_env.RPPEnv.make(
        rules="RPPBandit-v0", num_users=200, num_items=100, num_envs=8, seed=0
    )
    options = {"total_steps": 16, "hidden": (8,), "memory": 4, "shared": shared}
    policy = module.train(env, module.Config(**options), progress=False)
    observations, _ = env.reset()
    actions, memory = policy.act(observations, env.action_masks(), greedy=True)
    assert actions.shape == (8, 4)
    assert memory is not None


def test_agents_that_choose_together_have_no_memory_yet() -> None:
    for module in (central, autoregressive):
        with pytest.raises(InvalidOption, match="memory is for agents that choose separately"):
            module.train(Recall(), config(module), progress=False)
    with pytest.raises(InvalidOption, match="blind agents see only the time"):
        mappo.train(Recall(), config(mappo, blind=True), progress=False)
