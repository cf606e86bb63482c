"""PPR-v0: made from nothing, played through every interface, honest, and worth a prefix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("torch")

import torch

import rpp_env
from rpp_env import RPPEnv
from rpp_env.data import Dataset, load_dataset, split_arrivals
from rpp_env.errors import InvalidAction, InvalidData, InvalidOption, TableMismatch
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.prompting import Rankings
from rpp_env.recommenders.sasrec import Config, SASRec, train
from rpp_env.sim.movieworld import first_choice
from rpp_env.vectors import PrefixPrompts

SMALL: dict[str, Any] = {"num_users": 600, "num_items": 200}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPP_ENV_CACHE", str(cache))


def make(**options: Any) -> RPPEnv:
    return RPPEnv.make(rules="PPR-v0", **{"num_envs": 64, "seed": 0, **SMALL} | options)


def played(env: RPPEnv, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rewards of random actions for all tasks, in the order of the tasks."""
    env.reset(options={"users": np.arange(len(env.tasks))})
    shape = (len(env.tasks), len(env.agents))
    return env.step(env.actions.drawn(np.random.default_rng(seed), shape)).rewards


# --------------------------------------------------------------------------------- what is made


def test_it_is_made_of_nothing_but_its_id() -> None:
    env = make()
    assert env.episode.id == "PPR-v0"
    assert env.max_cycles == 1
    assert env.agents == ("prefix_0",)
    assert env.action_spaces == (gymnasium.spaces.Box(-1.0, 1.0, (64,), np.float32),)
    assert env.tasks.num_candidates == 100
    assert env.tasks.dataset.name == "arrivals"
    assert isinstance(env.recommender, SASRec)
    users = {name: set(make(split=name).tasks.users.tolist()) for name in ("train", "test")}
    assert not users["train"] & users["test"]
    split = split_arrivals(env.tasks.dataset)
    assert users["train"] == set(split.cold.train.tolist())
    observations, _ = env.reset()
    step = env.step(env.actions.drawn(np.random.default_rng(0), (64, 1)))
    assert step.terminated.all()
    assert not step.truncated.any()
    assert np.abs(observations).max() <= 1
    hot = env.tasks.dataset.profiles.one_hot(env.tasks.users[env.playing])
    assert np.array_equal(observations[:, 0, env.observer.layout["profile"]], hot)


@pytest.mark.parametrize(
    ("options", "agents", "shape"),
    [
        ({"prefix": 3}, 3, (64,)),
        ({"codes": 4}, 1, (4,)),
        ({"codes": 4, "prefix": 2}, 2, (4,)),
        ({"encoder_state": True, "profile": ("age",)}, 1, (64,)),
        ({"shots": "zero", "num_candidates": None}, 1, (64,)),
        ({"shots": 9, "crop": 1}, 1, (64,)),
    ],
)
def test_options_of_the_prefix_and_the_users(options: Any, agents: int, shape: Any) -> None:
    env = make(**options)
    assert len(env.agents) == agents
    assert {space.shape for space in env.action_spaces} == {shape}
    rewards = played(env)
    assert 0 < rewards.mean() < 1
    if "crop" in options:
        assert set(env.tasks.history_lengths) == {1}
    if "encoder_state" in options:
        observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
        states = observations[:, 0, env.observer.layout["state"]]
        lengths = np.linalg.norm(states, axis=1)
        assert np.allclose(lengths, env.tasks.history_lengths > 0, atol=1e-5)
        assert env.observer.layout["profile"].stop - env.observer.layout["profile"].start == 6


def test_a_codebook_has_tables(tmp_path: Path) -> None:
    env = make(codebook=5, max_users=8)
    assert env.space.shape == (5,)
    rpp_env.tabulate(env, tmp_path / "t.rpptable")
    table = make(model=f"table:{tmp_path / 't.rpptable'}", codebook=5, max_users=8)
    assert table.recommender is None
    assert np.array_equal(played(table), played(env))
    with pytest.raises(TableMismatch, match="codebook"):
        make(model=f"table:{tmp_path / 't.rpptable'}", codebook=6, max_users=8)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"prefx": 2}, "did you mean 'prefix'"),
        ({"prefix": 0}, "prefix must"),
        ({"codes": 65}, "items have 64 numbers"),
        ({"codebook": 201}, "there are 200 items"),
        ({"codes": 2, "codebook": 2}, "give one of them"),
        ({"scale": 0.0}, "scale"),
        ({"shots": "some"}, "shots"),
        ({"profile": ("height",)}, "profile field 'height'"),
        ({"model": "embedded"}, "checkpoint:PATH"),
        ({"max_cycles": 5}, "one step"),
        ({"split": "warm"}, "split"),
        ({"max_users": 0}, "max_users"),
        ({"dataset": "movieworld"}, "movieworld has no profiles.*profile=()"),
        ({"rewrite": "embedded"}, "sentences of a book"),
    ],
)
def test_what_cannot_be_is_refused(options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make(**options)


def test_ids_are_suggested_and_named() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'PPR-v0'"):
        RPPEnv.make(rules="PPR-v1")
    env = make()
    with pytest.raises(InvalidOption, match=r"made by RPPEnv\.make"):
        RPPEnv(env.tasks, rules="PPR-v0", embeddings=env.embeddings, space=env.space)


def test_a_world_without_profiles_is_played_without_them() -> None:
    env = make(dataset="movieworld", profile=())
    assert "profile" not in env.observer.layout
    assert played(env).mean() > 0


def test_a_checkpoint_is_a_recommender(tmp_path: Path) -> None:
    env = make()
    env.recommender.save(tmp_path / "s.safetensors")
    again = make(model=f"checkpoint:{tmp_path / 's.safetensors'}")
    assert np.array_equal(played(again), played(env))
    with pytest.raises(InvalidData, match="knows 200 items, arrivals has 150"):
        make(model=f"checkpoint:{tmp_path / 's.safetensors'}", num_items=150)
    with pytest.raises(InvalidData, match="there is no file"):
        make(model=f"checkpoint:{tmp_path / 'none'}")


def test_actions_out_of_bounds_are_refused() -> None:
    env = make()
    env.reset()
    for wrong in (np.full((64, 1, 64), 1.5), np.full((64, 1, 64), np.nan), np.zeros((64, 1, 63))):
        with pytest.raises(InvalidAction):
            env.step(wrong)


# ------------------------------------------------------------------------------ every interface


def test_pettingzoo() -> None:
    from pettingzoo.test import api_test, parallel_api_test

    options = {"rules": "PPR-v0", **SMALL}
    parallel_api_test(rpp_env.parallel_env(**options), num_cycles=20)
    api_test(rpp_env.env(**options), num_cycles=20)


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
def test_gymnasium_and_stable_baselines3() -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make("rpp_env:PPR-v0", **SMALL)
    check_env(env.unwrapped, skip_render_check=True)
    many = gymnasium.make_vec("rpp_env:PPR-v0", num_envs=8, **SMALL)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[1].shape == (8,)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env.unwrapped, warn=False)


def test_interfaces_pay_the_same() -> None:
    core = make(num_envs=1)
    joint = gymnasium.make("rpp_env:PPR-v0", **SMALL)
    parallel = rpp_env.parallel_env(rules="PPR-v0", **SMALL)
    rng = np.random.default_rng(3)
    for seed in range(4):
        action = rng.uniform(-1, 1, 64).astype(np.float32)
        core.reset(seed=seed)
        joint.reset(seed=seed)
        parallel.reset(seed=seed)
        rewards = (
            core.step(action[None, None]).rewards[0],
            joint.step(action)[1],
            parallel.step({"prefix_0": action})[1]["prefix_0"],
        )
        assert rewards[0] == rewards[1] == rewards[2]


def test_a_step_can_be_looked_at() -> None:
    env = gymnasium.make("rpp_env:PPR-v0", render_mode="ansi", shots="zero", **SMALL)
    env.reset(seed=0)
    env.step(env.action_space.sample())
    assert "prefix_0" in env.render()


# --------------------------------------------------------------------------------- is it honest?


class Oracle:
    """Puts the target first, last, or nowhere."""

    reads = PrefixPrompts

    def __init__(self, place: str) -> None:
        self.place = place

    def rank(self, prompts: PrefixPrompts) -> Rankings:
        tasks = prompts.tasks
        count, K = len(tasks), tasks.num_candidates
        order = np.tile(np.arange(K), (count, 1))
        if self.place == "first":
            hits = order == tasks.position[:, None]
            order = np.argsort(~hits, axis=1, kind="stable")
        named = np.zeros(count, np.int64) if self.place == "nowhere" else np.full(count, K)
        return Rankings(order, named)


@pytest.mark.parametrize(
    ("place", "reward"), [("first", 1.0), ("nowhere", 0.0), ("as shown", chance_ndcg(100))]
)
def test_an_oracle_an_echo_and_silence(place: str, reward: float) -> None:
    rewards = played(make(model=Oracle(place), shots="joint"))
    if place == "as shown":
        assert abs(rewards.mean() - reward) < 4 * rewards.std() / len(rewards) ** 0.5
    else:
        assert (rewards == reward).all()


def test_an_answer_does_not_depend_on_the_batch() -> None:
    env = make()
    whole = played(env)
    actions = env.actions.drawn(np.random.default_rng(0), (len(env.tasks), 1))
    rng = np.random.default_rng(1)
    for size in (1, 7, 90):
        rows = rng.permutation(len(env.tasks))[:size]
        env.reset(options={"users": rows})
        assert np.array_equal(env.step(actions[rows]).rewards, whole[rows])


def changed(data: Dataset, users: np.ndarray[Any, Any]) -> Dataset:
    items = data.items.copy()
    for user in users:
        row = items[data.indptr[user] : data.indptr[user + 1]]
        row[:] = np.setdiff1d(np.arange(data.num_items), row)[: len(row)]
    return replace(data, items=items)


def test_clicks_of_test_users_change_nothing_that_is_trained_or_seen() -> None:
    data = load_dataset("arrivals", **SMALL)
    split = split_arrivals(data)
    other = changed(data, split.cold.test)
    one, two = (
        RPPEnv.make(rules="PPR-v0", dataset=d, num_envs=64, seed=0, encoder_state=True)
        for d in (data, other)
    )
    assert one.recommender.digest == two.recommender.digest
    assert one.embeddings.digest == two.embeddings.digest
    assert one.observer._static.tobytes() == two.observer._static.tobytes()
    assert np.array_equal(played(one), played(two))
    tests = [
        RPPEnv.make(rules="PPR-v0", dataset=d, split="test", num_envs=64, seed=0)
        for d in (data, other)
    ]
    assert not np.array_equal(played(tests[0]), played(tests[1]))


def test_observations_know_no_target() -> None:
    env = make(shots=3)
    tasks = env.tasks
    position = (tasks.position + 1) % tasks.num_candidates
    other = replace(tasks, position=position)
    made = [
        RPPEnv(
            given,
            rules=env.episode,
            space=env.space,
            embeddings=env.embeddings,
            recommender=env.recommender,
            num_envs=len(tasks),
            seed=0,
        )
        for given in (tasks, other)
    ]
    seen = []
    for one in made:
        first, _ = one.reset(options={"users": np.arange(len(tasks))})
        step = one.step(np.zeros((len(tasks), 1, 64), np.float32))
        seen.append((first.tobytes(), step.observations.tobytes()))
    assert seen[0] == seen[1]


# --------------------------------------------------------------------------- is a prefix worth it?


@pytest.fixture(scope="module")
def newcomers() -> tuple[Dataset, SASRec]:
    """A world of few warm users and many cold ones: what a prefix says can be learned."""
    data = load_dataset("arrivals", num_users=4000, num_items=200)
    split = split_arrivals(data, cold=0.6)
    config = Config(blocks=1, max_length=50, loss="cross_entropy", batch=32, rate=3e-3, epochs=4)
    return data, train(split.interactions(data), config, catalog=data.catalog_digest)


def test_a_prefix_of_the_profile_is_worth_more_than_one_for_all(
    newcomers: tuple[Dataset, SASRec],
) -> None:
    data, model = newcomers
    digest = model.digest
    options: dict[str, Any] = {"dataset": data, "model": model, "cold": 0.6, "shots": "zero"}
    told, judged = (
        RPPEnv.make(rules="PPR-v0", split=split, num_envs=256, seed=0, **options)
        for split in ("train", "test")
    )
    profiles = data.profiles
    decoder = torch.from_numpy(told.space.decoder)
    tasks = told.tasks

    def fitted(inputs: Any) -> Any:
        torch.manual_seed(0)
        policy = torch.nn.Linear(profiles.width, 64)
        optimizer = torch.optim.Adam(policy.parameters(), lr=3e-3)
        rng = np.random.default_rng(0)
        for _ in range(12):
            for rows in np.array_split(rng.permutation(len(tasks)), len(tasks) // 128):
                some = tasks.subset(rows)
                prefix = torch.tanh(policy(inputs[some.users])) @ decoder
                scores = model.scores(PrefixPrompts(prefix[:, None], some))
                target = torch.from_numpy(some.position)
                loss = torch.nn.functional.cross_entropy(scores, target)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        return policy

    def score(policy: Any, inputs: Any) -> np.ndarray[Any, Any]:
        users = judged.tasks.users
        judged.reset(options={"users": np.arange(len(users))})
        with torch.inference_mode():
            actions = torch.tanh(policy(inputs[users])).numpy()
        return judged.step(actions[:, None]).rewards

    own = torch.from_numpy(profiles.one_hot())
    others = torch.from_numpy(profiles.shuffled(judged.tasks.users).one_hot())
    policy = fitted(own)
    personal, shuffled = score(policy, own), score(policy, others)
    constant = score(fitted(torch.zeros_like(own)), torch.zeros_like(own))
    chances = first_choice(profiles, num_items=200)
    best = chances[judged.tasks.users[:, None], judged.tasks.candidates]
    order = np.argsort(-best, axis=1, kind="stable")
    optimum = ndcg((order == judged.tasks.position[:, None]).argmax(axis=1) + 1, 10)

    def low(values: np.ndarray[Any, Any]) -> float:
        return float(values.mean() - 2 * values.std() / len(values) ** 0.5)

    assert low(personal - constant) > 0
    assert low(personal - shuffled) > 0
    assert low(optimum - constant) > 0
    gain = (personal - constant).mean() / (optimum - constant).mean()
    assert 0.3 < gain < 1.2
    assert model.digest == digest  # frozen
