"""REINFORCE, the evolution strategy and LinUCB learn from rewards only."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from rpp_agents import SOLVERS, load_policy
from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.solvers.controls import Shuffled, own_history, zero
from rpp_agents.solvers.linear import LinearPolicy, columns_of
from rpp_agents.trainers import find_trainer
from rpp_env import RPPEnv
from rpp_env.errors import BrokenContract, InvalidData, InvalidOption

BLACK_BOX = [name for name in SOLVERS if name not in ("ppr", "pap_rec", "peapod")]


@dataclass
class Taken:
    observations: Any
    rewards: Any
    terminated: Any
    truncated: Any
    infos: Any


class Guess:
    """Two agents see a bit each, and are paid for it: as a choice, or as the sign of a vector."""

    agents = ("left", "right")
    max_cycles = 1

    def __init__(self, vectors: bool, num_envs: int = 64, worth: float = 0.0) -> None:
        box, choice = Box(-1.0, 1.0, (2,)), Discrete(2)
        self.vectors, self.num_envs, self.worth = vectors, num_envs, worth
        self.action_spaces = (box, box) if vectors else (choice, choice)
        self.observation_width = 2
        self.state_width = 4
        self.rng = np.random.default_rng(0)

    def action_masks(self) -> Any:
        return np.ones((2, 1 if self.vectors else 2), np.int8)

    def reset(self, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.bits = self.rng.integers(2, size=(self.num_envs, 2))
        return self.shown(), {}

    def shown(self) -> Any:
        return np.eye(2, dtype=np.float32)[self.bits]

    def state(self) -> Any:
        return self.shown().reshape(self.num_envs, -1)

    def step(self, actions: Any) -> Any:
        if self.vectors:
            found = 1 - np.abs(actions[..., 0] - (2 * self.bits - 1)) / 2
        else:
            found = (actions == self.bits).astype(float)
        over = np.ones(self.num_envs, bool)
        return Taken(self.shown(), found.mean(1) + self.worth, over, ~over, {})


def options(name: str, **changed: Any) -> Any:
    kind = find_trainer(name).config
    return kind(
        **{"total_steps": 64 * 150, "evaluations": 0, "tensorboard": False, "seed": 1, **changed}
    )


def fitting(name: str) -> list[bool]:
    return {"reinforce": [True, False], "evolution": [True], "linucb": [False]}[name]


@pytest.mark.parametrize("name", BLACK_BOX)
def test_solvers_learn_the_rewarded_actions(name: str) -> None:
    faster = {"reinforce": {"learning_rate": 0.03}, "evolution": {"learning_rate": 0.1}}
    for vectors in fitting(name):
        env = Guess(vectors)
        policy = find_trainer(name).train(
            env, options(name, **faster.get(name, {})), progress=False
        )
        observations, _ = env.reset(seed=5)
        actions, _ = policy.act(observations, env.action_masks(), greedy=True)
        assert env.step(actions).rewards.mean() > 0.85, (name, vectors)


def same(one: Path, two: Path) -> bool:
    """Whether two policies have the same weights; the order of a file's header is not fixed."""
    first, second = (read_tensors(path)[0] for path in (one, two))
    return all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("name", BLACK_BOX)
def test_a_stopped_run_ends_with_the_same_bits(name: str, tmp_path: Path) -> None:
    config = options(name, total_steps=64 * 12, checkpoint_every=3)
    trainer = find_trainer(name)
    vectors = fitting(name)[0]
    whole = trainer.train(Guess(vectors), config, progress=False, run_dir=tmp_path / "whole")

    def stop(row: Any, policy: Any) -> None:
        if row["steps"] >= 64 * 7:
            raise KeyboardInterrupt

    given = {"run_dir": tmp_path / "stopped", "progress": False}
    with pytest.raises(KeyboardInterrupt):
        trainer.train(Guess(vectors), config, callbacks=[stop], **given)
    trainer.train(Guess(vectors), config, resume=True, **given)
    one, two = (tmp_path / run / "policy.safetensors" for run in ("whole", "stopped"))
    assert same(one, two)
    observations, _ = Guess(vectors).reset(seed=0)
    kept = load_policy(two).act(observations, None, greedy=True)[0]
    assert np.array_equal(kept, whole.act(observations, None, greedy=True)[0])
    other = trainer.train(Guess(vectors), replace(config, seed=2), progress=False)
    other.save(tmp_path / "other")
    assert not same(tmp_path / "other", one)


@pytest.mark.parametrize("name", BLACK_BOX)
def test_rewards_that_are_not_finite_are_refused(name: str) -> None:
    env = Guess(fitting(name)[0], worth=np.inf)
    with pytest.raises(BrokenContract, match="finite"):
        find_trainer(name).train(env, options(name), progress=False)


@pytest.mark.parametrize("name", BLACK_BOX)
def test_it_plays_ppr(name: str) -> None:
    for vectors in fitting(name):
        given: dict[str, Any] = {"num_users": 600, "num_items": 200, "shots": "zero", "seed": 0}
        given |= {"codes": 4} if vectors else {"codebook": 4}
        env = RPPEnv.make(rules="PPR-v0", num_envs=64, prefix=2, **given)
        policy = find_trainer(name).train(env, options(name, total_steps=256), progress=False)
        observations, _ = env.reset(seed=0)
        env.step(policy.act(observations, env.action_masks(), greedy=True)[0])
        stream = RPPEnv.make(
            rules="PPRStream-v0", num_envs=64, **{k: v for k, v in given.items() if k != "shots"}
        )
        find_trainer(name).train(stream, options(name, total_steps=640), progress=False)


def test_columns_are_those_of_named_blocks() -> None:
    env = RPPEnv.make(rules="PPR-v0", num_envs=4, num_users=600, num_items=200, prefix=2)
    layout = env.observer.layout
    profile = list(range(layout["profile"].start, layout["profile"].stop))
    assert columns_of(env, ()) == profile
    assert columns_of(env, ("length", "profile")) == [layout["length"].start, *profile]
    with pytest.raises(InvalidOption, match="did you mean 'profile'"):
        columns_of(env, ("profil",))
    assert columns_of(Guess(True), ()) == [0, 1]
    with pytest.raises(InvalidOption, match="does not name the blocks"):
        columns_of(Guess(True), ("profile",))


@pytest.mark.parametrize(
    ("name", "vectors", "changed", "said"),
    [
        ("linucb", True, {}, "codebook=K"),
        ("evolution", False, {}, "without a codebook"),
        ("evolution", True, {"pairs": 40}, "fewer pairs or more users"),
        ("linucb", False, {"ridge": 0.0}, "ridge"),
        ("evolution", True, {"spread": -1.0}, "spread"),
        ("reinforce", True, {"entropy": -1.0}, "entropy"),
    ],
)
def test_mismatched_arguments_are_refused(
    name: str, vectors: bool, changed: Any, said: str
) -> None:
    with pytest.raises(InvalidOption, match=said):
        find_trainer(name).train(Guess(vectors), options(name, **changed), progress=False)


def test_files_of_linear_policies(tmp_path: Path) -> None:
    policy = LinearPolicy(np.ones((2, 3, 4)), [0, 1])
    policy.save(tmp_path / "p")
    with pytest.raises(InvalidOption, match="another shape"):
        load_policy(tmp_path / "p").act(np.zeros((5, 1, 2), np.float32))
    for about, weights in (
        ({"kind": "linear", "columns": [0]}, torch.zeros(2, 3, 4)),
        ({"kind": "linear", "columns": ["a", 1]}, torch.zeros(2, 3, 4)),
        ({"kind": "linear", "columns": [0, -1]}, torch.zeros(2, 3, 4)),
        ({"kind": "linear"}, torch.zeros(2, 3, 4)),
        ({"kind": "linear", "columns": [0, 1]}, torch.zeros(2, 3)),
    ):
        write_tensors(tmp_path / "q", {"weights": weights}, about)
        with pytest.raises(InvalidData, match="no linear policy"):
            load_policy(tmp_path / "q")


def test_controls_of_a_prefix() -> None:
    given: dict[str, Any] = {"num_users": 600, "num_items": 200, "seed": 0, "num_envs": 64}
    env = RPPEnv.make(rules="PPR-v0", encoder_state=True, shots=3, **given)
    observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
    nothing, _ = zero(env).act(observations)
    assert nothing.shape == (len(env.tasks), 1, 64)
    assert not nothing.any()
    own, _ = own_history(env).act(observations)
    prefix = env.space.decode(own)[:, 0]
    states = env.recommender.read(env.tasks)
    cosine = (
        (prefix * states).sum(1) / np.linalg.norm(prefix, axis=1) / np.linalg.norm(states, axis=1)
    )
    assert (cosine > 0.99).mean() > 0.9  # a number beyond the bounds is clipped
    inputs = env.recommender.embed(torch.arange(200)).numpy()
    size = np.sqrt((prefix**2).mean()) / np.sqrt((inputs**2).mean())
    assert 0.9 < size < 1.1
    seen = []

    class Watch:
        def act(self, observations: Any, masks: Any = None, **rest: Any) -> Any:
            seen.append(observations)
            return nothing, None

    Shuffled(Watch(), env).act(observations)  # type: ignore[arg-type]
    profile = env.observer.layout["profile"]
    assert np.array_equal(seen[0][:, :, profile], np.roll(observations[:, :, profile], -1, axis=0))
    seen[0][:, :, profile] = observations[:, :, profile]
    assert np.array_equal(seen[0], observations)
    with pytest.raises(InvalidOption, match="encoder_state=True"):
        own_history(RPPEnv.make(rules="PPR-v0", **given))
    with pytest.raises(InvalidOption, match="leave out codebook"):
        zero(RPPEnv.make(rules="PPR-v0", codebook=3, **given))
    with pytest.raises(InvalidOption, match="no profile to shuffle"):
        Shuffled(zero(env), RPPEnv.make(rules="PPR-v0", profile=(), **given))
