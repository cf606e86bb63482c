"""Compact observations and the options against overfitting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import rpp_env
from rpp_agents import a2c, ippo, load_policy, mappo, qmix
from rpp_agents.observing import CompactPolicy, Components, Observed, first_observations
from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.runs import read_progress
from rpp_agents.solvers import linucb
from rpp_agents.trainers import central
from rpp_agents.trainers.ppo import PPO
from rpp_env.data import load_dataset, split_users
from rpp_env.errors import InvalidData, InvalidOption

pytestmark = pytest.mark.usefixtures("one_torch_thread")

SMALL: dict[str, Any] = {"num_users": 300, "num_items": 120, "num_envs": 32, "seed": 0}
SHORT: dict[str, Any] = {"total_steps": 500, "tensorboard": False}


@pytest.fixture(scope="module")
def env() -> rpp_env.RPPEnv:
    return rpp_env.RPPEnv.make(**SMALL)


def first(env: Any) -> Any:
    return first_observations(env, np.arange(len(env.tasks)))


def test_components_are_those_of_scikit_learn() -> None:
    """To the bit with the newest; the oldest centres before it projects, which rounds otherwise."""
    rng = np.random.default_rng(0)
    seen = (rng.standard_normal((200, 30)) @ rng.standard_normal((30, 30))).astype(np.float32)
    seen[:, 3] = 0.5
    own = make_pipeline(StandardScaler(), PCA(8, whiten=True, svd_solver="full")).fit(seen)
    np.testing.assert_allclose(Components.fit(seen)(seen), own.transform(seen), atol=1e-5)


def test_components_know_no_target_and_no_held_out_user() -> None:
    """With all targets and all histories of held-out users exchanged, no bit changes."""
    data = load_dataset("movieworld", num_users=300, num_items=120)
    train = set(split_users(data).part("train").tolist())

    def other(*, everybody: bool) -> Any:
        items = data.items.copy()
        for user in range(data.num_users):
            start, stop = data.indptr[user : user + 2]
            if user not in train or everybody:
                items[start:stop] = (items[start:stop] + 1) % data.num_items
            else:
                unseen = np.setdiff1d(np.arange(data.num_items), data.sequence(user))
                items[stop - 1] = unseen[user % 7]
        return replace(data, items=items)

    fitted, exchanged, changed = (
        Observed(rpp_env.RPPEnv.make(made, num_envs=4), True, 0.0).components
        for made in (data, other(everybody=False), other(everybody=True))
    )
    assert fitted is not None
    for name, values in vars(fitted).items():
        assert values.tobytes() == getattr(exchanged, name).tobytes()
    assert fitted.mean.tobytes() != changed.mean.tobytes()  # type: ignore[union-attr]


def test_a_compact_environment_shows_eight_components_and_all_else(env: rpp_env.RPPEnv) -> None:
    compact = Observed(env, True, 0.0)
    cut = env.observer.layout["sentences"].start
    seen = first(env)
    whitened = compact.seen(np.repeat(seen[:, None], 4, 1))[..., :8]
    assert whitened.std(axis=(0, 1)) == pytest.approx(1, abs=0.02)
    assert whitened[:, 0] == pytest.approx(Components.fit(seen[:, :cut])(seen[:, :cut]), abs=1e-5)
    observations, _ = compact.reset(seed=3)
    whole, _ = env.reset(seed=3)
    assert observations.shape == (32, 4, compact.observation_width)
    assert np.array_equal(observations[..., 8:], whole[..., cut:])
    step = compact.step(np.zeros((32, 4), np.int64))
    assert np.array_equal(step.observations[..., 8:], env.last_step.observations[..., cut:])  # type: ignore[union-attr]
    assert (step.observations[..., compact.clock] == 0.2).all()
    assert (compact.state()[..., compact.state_clock] == 0.2).all()
    assert compact.state().shape == (32, compact.state_width)
    layout = compact.observer.layout
    assert layout["step"] == compact.clock
    assert layout["own_action"].stop == compact.observation_width


@pytest.mark.parametrize("module", [mappo, ippo, a2c, qmix, central, linucb])
def test_every_learner_gets_it_and_its_file_plays_full_observations(
    module: Any, env: rpp_env.RPPEnv, tmp_path: Path
) -> None:
    policy = module.train(env, module.Config(observation="compact", **SHORT), progress=False)
    policy.save(tmp_path / "policy.safetensors")
    loaded = load_policy(tmp_path / "policy.safetensors")
    assert isinstance(loaded, CompactPolicy)
    test = rpp_env.RPPEnv.make(split="test", **SMALL)
    observations, _ = test.reset(seed=0)
    masks = test.action_masks()
    expected, _ = policy.act(observations, masks, greedy=True)
    assert np.array_equal(loaded.act(observations, masks, greedy=True)[0], expected)
    # What it does not see cannot move it: here, all of the user beyond the components.
    components = loaded.components
    axis = np.random.default_rng(0).standard_normal(len(components.mean))
    basis = np.linalg.qr(components.axes.T.astype(np.float64))[0]
    axis -= basis @ (basis.T @ axis)
    moved = observations.copy()
    moved[..., : len(axis)] += (axis * components.scale).astype(np.float32)
    # Rounding moves components by a bit, which may decide a tie.
    assert (loaded.act(moved, masks, greedy=True)[0] == expected).mean() > 0.98
    with pytest.raises(InvalidOption, match="this policy reads observations of"):
        loaded.act(observations[..., 1:], masks)


def test_a_damaged_compact_policy_is_refused(env: rpp_env.RPPEnv, tmp_path: Path) -> None:
    path = tmp_path / "policy.safetensors"
    mappo.train(env, mappo.Config(observation="compact", **SHORT), progress=False).save(path)
    tensors, about = read_tensors(path)
    weight = next(name for name in tensors if name.startswith("policy.net"))
    damages: list[tuple[dict[str, Any], dict[str, Any]]] = [
        ({"axes": tensors["axes"][:, 1:]}, {}),
        ({"scale": 0 * tensors["scale"]}, {}),
        ({"offset": tensors["offset"] * float("nan")}, {}),
        ({weight: tensors[weight][:-1].clone()}, {}),
        ({"more": tensors["axes"].clone()}, {}),
        ({}, {"width": "9"}),
        ({}, {"policy": None}),
        ({}, {"policy": {"kind": "os:system"}}),
        ({}, {"policy": about}),  # one inside another: loading might never end
    ]
    for change, said in damages:
        write_tensors(path, tensors | change, about | said)
        with pytest.raises(InvalidData):
            load_policy(path)


def test_who_sees_only_a_part_of_the_user_has_no_components() -> None:
    private = rpp_env.RPPEnv.make(observe="private", **SMALL)
    with pytest.raises(InvalidOption, match='need observe="shared"'):
        mappo.train(private, mappo.Config(observation="compact", **SHORT), progress=False)
    with pytest.raises(InvalidOption, match="reads the user's vector"):
        a2c.Config.paper(released=True, observation="compact")


def test_dropout_hides_the_users_numbers_from_agents_in_training(env: rpp_env.RPPEnv) -> None:
    seen = Observed(env, False, 0.25)
    cut = env.observer.layout["sentences"].start
    mean = first(env)[:, :cut].mean(axis=0)
    observations, _ = seen.reset(seed=1)
    whole, _ = env.reset(seed=1)
    hidden = observations[..., :cut] == mean
    assert 0.2 < hidden.mean() < 0.3
    assert (hidden == hidden[:, :1]).all()  # the same for all agents of a user
    assert len(np.unique(hidden[:, 0], axis=0)) == 32  # but not for all users
    kept = np.where(hidden, mean, mean + (whole[..., :cut] - mean) / 0.75)
    assert observations[..., :cut] == pytest.approx(kept, abs=1e-6)
    assert np.array_equal(observations[..., cut:], whole[..., cut:])
    step = seen.step(np.zeros((32, 4), np.int64))
    later = step.observations[..., :cut] == mean
    assert (later != hidden).any()
    again, _ = seen.reset(seed=1)
    assert np.array_equal(again, observations)
    assert seen.policy("a policy") == "a policy"  # type: ignore[arg-type]


def test_dropout_resumes_bit_for_bit(env: rpp_env.RPPEnv, tmp_path: Path) -> None:
    config = mappo.Config(
        total_steps=32 * 5 * 6,
        observation_dropout=0.3,
        observation="compact",
        checkpoint_every=2,
        tensorboard=False,
    )

    def kill(row: Any, policy: Any) -> None:
        if row["iteration"] == 5:
            raise ValueError("killed")

    keywords: dict[str, Any] = {"progress": False, "resume": True}
    mappo.train(env, config, run_dir=tmp_path / "a", **keywords)
    with pytest.raises(ValueError, match="killed"):
        mappo.train(env, config, run_dir=tmp_path / "b", callbacks=[kill], **keywords)
    mappo.train(env, config, run_dir=tmp_path / "b", **keywords)
    whole, parts = (read_tensors(tmp_path / run / "policy.safetensors")[0] for run in "ab")
    assert all(torch.equal(x, parts[name]) for name, x in whole.items())


@pytest.mark.parametrize("module", [mappo, a2c, qmix])
def test_weight_decay_shrinks_weights_and_zero_is_adam(module: Any, env: rpp_env.RPPEnv) -> None:
    def size(decay: float) -> float:
        config = module.Config(weight_decay=decay, evaluations=0, **SHORT)
        actor = module.train(env, config, progress=False)
        net = getattr(actor, "actor", getattr(actor, "network", None))
        return float(sum(p.detach().square().sum() for p in net.parameters()))

    assert size(20.0) < 0.9 * size(0.0)


def test_without_weight_decay_steps_are_adams(env: rpp_env.RPPEnv) -> None:
    weights = []
    for plain in (False, True):
        learner = PPO(env, mappo.Config(**SHORT), "state")
        if plain:
            parameters = learner.optimizer.param_groups[0]["params"]
            learner.optimizer = torch.optim.Adam(parameters, lr=3e-3, eps=1e-5, fused=True)
        learner.reset(0)
        for _ in range(2):
            learner.iterate(0.0)
        weights.append([p.detach().clone() for p in learner.actor.parameters()])
    assert all(map(torch.equal, *weights))


# Early stopping


class Judged:
    """A `BatchedEnv` of validation users whose scores are given: one for each evaluation."""

    def __init__(self, env: Any, scores: list[float]) -> None:
        self._env, self.scores, self.at = env, scores, -1

    def __getattr__(self, name: str) -> Any:
        return getattr(self._env, name)

    calls = 0  # evaluated greedily only

    def reset(self, seed: int | None = None, options: Any = None) -> Any:
        self.at += seed is not None
        return self._env.reset(seed=seed, options=options)

    def step(self, actions: Any) -> Any:
        step = self._env.step(actions)
        made = {name: getattr(step, name) for name in ("observations", "terminated", "truncated")}
        return SimpleNamespace(rewards=np.full(len(step.rewards), self.scores[self.at]), **made)


def stopped(tmp_path: Path, scores: list[float], *, kill: int = 0) -> tuple[Any, list[Any]]:
    env, held_out = (rpp_env.RPPEnv.make(split=x, **SMALL) for x in ("train", "validation"))
    seen: list[Any] = []

    def note(row: Any, policy: Any) -> None:
        seen.append([p.detach().clone() for p in policy.actor.parameters()])
        if kill and row["iteration"] == kill:
            raise ValueError("killed")

    config = mappo.Config(
        total_steps=32 * 5 * 6,
        evaluations=6,
        eval_episodes=32,
        patience=2,
        checkpoint_every=1,
        tensorboard=False,
    )
    done = read_progress(tmp_path)["iteration"] if (tmp_path / "progress.csv").exists() else []
    policy = mappo.train(
        env,
        config,
        run_dir=tmp_path,
        eval_env=Judged(held_out, scores[len(done) :]),
        callbacks=[note],
        progress=False,
        resume=True,
    )
    return policy, seen


def equal(policy: Any, weights: Any) -> bool:
    return all(map(torch.equal, policy.actor.parameters(), weights))


def test_patience_stops_and_keeps_the_best_policy(tmp_path: Path) -> None:
    policy, seen = stopped(tmp_path / "a", [0.1, 0.5, 0.4, 0.5, 0.9, 0.9])
    assert len(seen) == 4  # two evaluations without a better one: the tie is none
    assert equal(policy, seen[1])
    assert equal(load_policy(tmp_path / "a" / "policy.safetensors"), seen[1])
    # Stopped is stopped, also for the same command once more.
    again, more = stopped(tmp_path / "a", [0.1, 0.5, 0.4, 0.5, 0.9, 0.9])
    assert not more
    assert equal(again, seen[1])
    # To the end, the best policy is kept as well.
    policy, seen = stopped(tmp_path / "b", [0.1, 0.2, 0.5, 0.4, 0.6, 0.3])
    assert len(seen) == 6
    assert equal(policy, seen[4])


def test_a_killed_run_with_patience_ends_in_the_same_policy(tmp_path: Path) -> None:
    scores = [0.1, 0.5, 0.4, 0.5, 0.9, 0.9]
    _, seen = stopped(tmp_path / "a", scores)
    with pytest.raises(ValueError, match="killed"):
        stopped(tmp_path / "b", scores, kill=3)
    policy, _ = stopped(tmp_path / "b", scores)
    assert equal(policy, seen[1])


def test_patience_needs_validation_users(env: rpp_env.RPPEnv) -> None:
    with pytest.raises(InvalidOption, match="needs evaluations on validation users"):
        mappo.train(env, mappo.Config(patience=1, **SHORT), progress=False)


def test_components_need_users_who_differ() -> None:
    same = np.tile(np.arange(5, dtype=np.float32), (4, 1))
    with pytest.raises(InvalidOption, match="the observations of all are the same"):
        Components.fit(same)
