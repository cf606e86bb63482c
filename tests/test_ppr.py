"""PPR-v0 and PPRStream-v0: defaults, interfaces, no leaks, and the gain of a prefix."""

from __future__ import annotations

from dataclasses import fields, replace
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
from rpp_env.data.candidates import TaskBatch
from rpp_env.episode import Episode, Stream
from rpp_env.errors import InvalidAction, InvalidData, InvalidOption, TableMismatch
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.ppr import write_codebook
from rpp_env.prompting import Rankings
from rpp_env.recommenders.sasrec import Config, SASRec, train
from rpp_env.rules import episode_of
from rpp_env.sim.movieworld import first_choice
from rpp_env.vectors import CodebookPrompts, Places, PrefixPrompts, VectorPrompts

SMALL: dict[str, Any] = {"num_users": 600, "num_items": 200}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def kept(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RPP_ENV_CACHE", str(cache))


def make(**options: Any) -> RPPEnv:
    return RPPEnv.make(rules="PPR-v0", **{"num_envs": 64, "seed": 0, **SMALL} | options)


def streamed(**options: Any) -> RPPEnv:
    return RPPEnv.make(rules="PPRStream-v0", **{"num_envs": 64, "seed": 0, **SMALL} | options)


def played(env: RPPEnv, seed: int = 0) -> np.ndarray[Any, Any]:
    """Rewards of random actions for all tasks, in the order of the tasks."""
    env.reset(options={"users": np.arange(len(env.tasks))})
    shape = (len(env.tasks), len(env.agents))
    return env.step(env.actions.drawn(np.random.default_rng(seed), shape)).rewards


# --------------------------------------------------------------------------------- what is made


def test_the_id_alone_makes_the_environment() -> None:
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
        ({"codes": 2, "codebook": 2}, "give one of the two"),
        ({"scale": 0.0}, "scale"),
        ({"shots": "some"}, "shots"),
        ({"profile": ("height",)}, "profile field 'height'"),
        ({"model": "embedded"}, "checkpoint:PATH"),
        ({"max_cycles": 5}, "one step"),
        ({"split": "warm"}, "split"),
        ({"max_users": 0}, "max_users"),
        ({"dataset": "movieworld"}, "movieworld has no profiles.*profile=()"),
        ({"rewrite": "embedded"}, "catalog of sentences"),
    ],
)
def test_impossible_options_are_refused(options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make(**options)


def test_ids_are_suggested_and_named() -> None:
    with pytest.raises(InvalidOption, match="did you mean 'PPR-v0'"):
        RPPEnv.make(rules="PPR-v1")
    env = make()
    with pytest.raises(InvalidOption, match=r"make it with RPPEnv\.make"):
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


@pytest.mark.parametrize(
    ("options", "agents"),
    [
        ({"agents": "fields"}, ("gender", "age", "occupation", "region")),
        ({"agents": "fields", "profile": ("age",), "shift": True}, ("age", "shift")),
        ({"shift": True, "prefix": 2}, ("prefix_0", "prefix_1", "shift")),
        ({"deep": True}, ("prefix_0_block_0",)),
        ({"agents": "fields", "profile": ("age",), "prefix": 2}, ("age_0", "age_1")),
    ],
)
def test_each_vector_comes_from_its_agent(options: Any, agents: Any) -> None:
    env = make(**options)
    assert env.agents == agents
    assert 0 < played(env).mean() < 1


def test_vectors_of_fields_add_up() -> None:
    """The agents of the fields together play what one agent with the sum of their vectors plays."""
    one, fields = make(), make(agents="fields")
    rng = np.random.default_rng(0)
    parts = rng.uniform(-0.25, 0.25, (len(one.tasks), 4, 64)).astype(np.float32)
    for env in (one, fields):
        env.reset(options={"users": np.arange(len(env.tasks))})
    total = np.zeros((len(parts), 1, 64), np.float32)
    for i in range(4):
        total[:, 0] += parts[:, i]
    paid = fields.step(parts).rewards
    assert np.mean(one.step(total).rewards == paid) > 0.99  # sums differ in the last bit
    fields.reset(options={"users": np.arange(len(fields.tasks))})
    assert not np.array_equal(fields.step(parts * [[[0], [1], [1], [1]]]).rewards, paid)


def test_agents_of_fields_see_their_own_field() -> None:
    env = make(agents="fields", observe="private")
    observations, _ = env.reset()
    for i, field in enumerate(("gender", "age", "occupation", "region")):
        seen = observations[:, i] != 0
        others = np.ones(env.observation_width, bool)
        for block in (f"profile_{field}", "length", "step", "own_action"):
            others[env.observer.layout[block]] = False
        assert not seen[:, others].any()
        assert seen[:, env.observer.layout[f"profile_{field}"]].any()


def test_each_block_reads_its_own_prefix() -> None:
    data = load_dataset("arrivals", **SMALL)
    model = SASRec.initial(200, Config(blocks=2, max_length=50), data.catalog_digest)
    env = make(model=model, deep=True)
    assert env.agents == ("prefix_0_block_0", "prefix_0_block_1")
    rows = np.arange(len(env.tasks))
    actions = np.random.default_rng(0).uniform(-1, 1, (len(rows), 2, 64)).astype(np.float32)
    env.reset(options={"users": rows})
    env.step(actions)
    prompts = env.last_step.prompts
    assert prompts.prefix.shape == (len(rows), 2, 1, 64)
    assert np.array_equal(prompts.prefix[:, :, 0], env.space.decode(actions))


def test_a_shift_is_added_to_the_users_vector() -> None:
    env = make(shift=True, shots="zero")
    rows = np.arange(len(env.tasks))
    actions = np.random.default_rng(0).uniform(-1, 1, (len(rows), 2, 64)).astype(np.float32)
    env.reset(options={"users": rows})
    step = env.step(actions)
    prefix, shift = env.space.decode(actions).transpose(1, 0, 2)
    model, tasks = env.recommender, env.tasks
    user = model.encode(
        torch.from_numpy(tasks.padded_history(50).astype(np.int64)),
        torch.from_numpy(prefix[:, None]),
    )
    scores = (user + torch.from_numpy(shift)) @ model.weights["items.weight"].T
    wanted = scores.gather(1, torch.from_numpy(tasks.candidates.astype(np.int64))).numpy()
    order = np.argsort(-wanted, axis=1, kind="stable")
    assert np.mean(order == step.orders) > 0.99
    for width in (63, 65):
        with pytest.raises(InvalidOption, match="shift of shape"):
            model.scores(PrefixPrompts(None, tasks, np.zeros((len(tasks), width), np.float32)))


def test_a_codebook_belongs_to_one_recommender(tmp_path: Path) -> None:
    env, path = make(), tmp_path / "codes.safetensors"
    vectors = np.random.default_rng(0).normal(size=(4, 64)).astype(np.float32)
    write_codebook(path, vectors, env.recommender)
    chosen = make(codebook=path)
    assert chosen.space.shape == (4,)
    assert np.array_equal(chosen.space.codebook, vectors)
    with pytest.raises(InvalidData, match="codebook of another recommender"):
        make(codebook=path, num_items=150)
    write_codebook(path, vectors[:, :63], env.recommender)
    with pytest.raises(InvalidData, match=r"shape \(4, 63\)"):
        make(codebook=path)
    env.recommender.save(path)
    with pytest.raises(InvalidData, match="holds no codebook"):
        make(codebook=str(path))


def test_a_user_of_another_dataset_is_refused() -> None:
    env = make()
    with pytest.raises(InvalidOption, match="no task here"):
        env.reset(options={"users": ["a user of another dataset"]})


# -------------------------------------------------------------------------- clicks as they arrive


def test_a_stream_asks_for_one_click_after_another() -> None:
    env = streamed(max_cycles=4)
    assert env.episode.id == "PPRStream-v0"
    assert env.max_cycles == 4
    rows = np.arange(len(env.tasks))
    observations, _ = env.reset(options={"users": rows})
    length = env.observer.layout["length"]
    data = env.tasks.dataset
    for t in range(4):
        assert np.allclose(observations[:, 0, length] * 50, t)
        step = env.step(env.actions.drawn(np.random.default_rng(t), (len(rows), 1)))
        users = env.tasks.users
        assert np.array_equal(
            step.tasks.tasks.targets[step.tasks.rows], data.items[data.indptr[users] + t]
        )
        assert np.array_equal(step.tasks.histories(50)[:, 50 - t :], clicks(data, users, t))
        observations = step.observations
        assert step.truncated.all() == (t == 3)
    assert np.allclose(observations[:, 0, length] * 50, 3)  # the last task, after the end


def clicks(data: Dataset, users: Any, count: int) -> Any:
    return data.items[data.indptr[users][:, None] + np.arange(count)]


def test_a_stream_gives_the_rewards_of_its_single_clicks() -> None:
    stream, single = streamed(), make()
    rows = np.arange(len(stream.tasks))
    stream.reset(options={"users": rows})
    assert np.array_equal(stream.episode.whole.users, single.tasks.users)
    for t in range(10):
        actions = stream.actions.drawn(np.random.default_rng(t), (len(rows), 1))
        paid = stream.step(actions).rewards
        single.reset(options={"users": rows * 10 + t})
        assert np.array_equal(single.step(actions).rewards, paid)


def test_a_streams_answer_does_not_depend_on_the_batch() -> None:
    env = streamed(max_cycles=3)
    actions = [env.actions.drawn(np.random.default_rng(t), (len(env.tasks), 1)) for t in range(3)]

    def paid(rows: Any) -> Any:
        env.reset(options={"users": rows})
        return np.stack([env.step(chosen[rows]).rewards for chosen in actions])

    whole = paid(np.arange(len(env.tasks)))
    for size in (1, 7, 40):
        rows = np.random.default_rng(size).permutation(len(env.tasks))[:size]
        assert np.array_equal(paid(rows), whole[:, rows])
    # Users at different steps: those who begin anew do not disturb the others.
    env.reset(options={"users": np.arange(40)})
    env.step(actions[0][:40])
    mask = np.arange(40) < 10
    env.reset(options={"reset_mask": mask, "users": np.arange(10)})
    rewards = env.step(np.where(mask[:, None, None], actions[0][:40], actions[1][:40])).rewards
    assert np.array_equal(rewards, np.where(mask, whole[0, :40], whole[1, :40]))


def test_a_stream_shows_no_later_click() -> None:
    """With another later click, all observations up to its step stay as they were."""
    data = load_dataset("arrivals", **SMALL)
    split = split_arrivals(data)
    items = data.items.copy()
    for user in split.cold.train:
        at = data.indptr[user] + 5
        unclicked = np.setdiff1d(np.arange(200), items[data.indptr[user] : data.indptr[user + 1]])
        items[at] = unclicked[0]
    seen = []
    for given in (data, replace(data, items=items)):
        env = RPPEnv.make(rules="PPRStream-v0", dataset=given, num_envs=64, seed=0)
        observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
        rows = []
        for t in range(7):
            rows.append(observations[:, :, : env.observer.layout["ranking"].start].copy())
            step = env.step(env.actions.drawn(np.random.default_rng(t), (len(env.tasks), 1)))
            observations = step.observations
        seen.append(rows)
    for t in range(6):
        assert np.array_equal(seen[0][t], seen[1][t]), t
    assert not np.array_equal(seen[0][6], seen[1][6])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"shots": "zero"}, "option of PPRStream-v0 'shots'|has no option 'shots'|shots"),
        ({"max_cycles": 11}, "1 to 10"),
        ({"max_cycles": 0}, "1 to 10"),
        ({"model": "table:none"}, "no table can hold"),
        ({"dataset": "movieworld"}, "no profiles"),
    ],
)
def test_impossible_options_of_a_stream_are_refused(options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        streamed(**options)


def test_a_stream_has_its_own_tasks() -> None:
    env = streamed(max_cycles=3)
    whole = env.episode.whole
    with pytest.raises(InvalidOption, match="takes 3 tasks per user"):
        Stream("mine", 3, whole=whole.subset(np.arange(1, len(whole) - 2)))
    with pytest.raises(InvalidOption, match=r"episode\.first"):
        RPPEnv(
            env.tasks.subset(np.arange(5)),
            rules=env.episode,
            space=env.space,
            embeddings=env.embeddings,
            recommender=env.recommender,
        )
    given = {"rules": env.episode, "space": env.space, "embeddings": env.embeddings}
    mine = RPPEnv(env.episode.first, recommender=env.recommender, num_envs=64, seed=0, **given)
    actions = env.actions.drawn(np.random.default_rng(0), (64, 1))
    mine.reset(seed=0)
    env.reset(seed=0)
    assert np.array_equal(mine.step(actions).rewards, env.step(actions).rewards)


def test_an_id_names_the_episodes_that_it_plays() -> None:
    for env in (make(codebook=3), streamed(codebook=3)):
        named = episode_of(env.episode.id)
        for field in fields(Episode):
            assert getattr(env.episode, field.name) == getattr(named, field.name)


def test_a_stream_has_no_table() -> None:
    with pytest.raises(InvalidOption, match="another item at every step"):
        rpp_env.tabulate(streamed(codebook=3))


# ------------------------------------------------------------------------------ every interface

IDS = ("PPR-v0", "PPRStream-v0")


@pytest.mark.parametrize("rules", IDS)
def test_pettingzoo(rules: str) -> None:
    from pettingzoo.test import api_test, parallel_api_test

    options = {"rules": rules, **SMALL}
    parallel_api_test(rpp_env.parallel_env(**options), num_cycles=20)
    api_test(rpp_env.env(**options), num_cycles=20)


@pytest.mark.parametrize("rules", IDS)
@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
def test_gymnasium_and_stable_baselines3(rules: str) -> None:
    from gymnasium.utils.env_checker import check_env

    env = gymnasium.make(f"rpp_env:{rules}", **SMALL)
    check_env(env.unwrapped, skip_render_check=True)
    many = gymnasium.make_vec(f"rpp_env:{rules}", num_envs=8, **SMALL)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[1].shape == (8,)
    checker = pytest.importorskip("stable_baselines3.common.env_checker")
    checker.check_env(env.unwrapped, warn=False)


@pytest.mark.parametrize("rules", IDS)
def test_interfaces_return_equal_rewards(rules: str) -> None:
    core = RPPEnv.make(rules=rules, num_envs=1, **SMALL)
    joint = gymnasium.make(f"rpp_env:{rules}", **SMALL)
    parallel = rpp_env.parallel_env(rules=rules, **SMALL)
    rng = np.random.default_rng(3)
    for seed in range(4):
        core.reset(seed=seed)
        joint.reset(seed=seed)
        parallel.reset(seed=seed)
        for _ in range(core.max_cycles):
            action = rng.uniform(-1, 1, 64).astype(np.float32)
            one = core.step(action[None, None])
            two = joint.step(action)
            three = parallel.step({"prefix_0": action})
            assert one.rewards[0] == two[1] == three[1]["prefix_0"]
            assert one.observations[0, 0].tobytes() == three[0]["prefix_0"].tobytes()


def test_a_step_can_be_looked_at() -> None:
    env = gymnasium.make("rpp_env:PPR-v0", render_mode="ansi", shots="zero", **SMALL)
    env.reset(seed=0)
    assert "0 items of history\n" in env.render() + "\n"
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
@pytest.mark.parametrize("rules", IDS)
def test_an_oracle_an_echo_and_silence(place: str, reward: float, rules: str) -> None:
    env = make(model=Oracle(place), shots="joint") if rules == "PPR-v0" else None
    if env is None:
        env = streamed(model=Oracle(place))
        env.reset(options={"users": np.arange(len(env.tasks))})
        rng, shape = np.random.default_rng(0), (len(env.tasks), 1)
        rewards = np.concatenate(
            [env.step(env.actions.drawn(rng, shape)).rewards for _ in range(10)]
        )
    else:
        rewards = played(env)
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


@pytest.mark.slow
def test_a_prefix_of_the_profile_is_worth_more_than_one_for_all(
    newcomers: tuple[Dataset, SASRec],
) -> None:
    data, model = newcomers
    digest = model.digest
    options: dict[str, Any] = {"dataset": data, "model": model, "cold": 0.6, "shots": "zero"}
    training, judged = (
        RPPEnv.make(rules="PPR-v0", split=split, num_envs=256, seed=0, **options)
        for split in ("train", "test")
    )
    profiles = data.profiles
    decoder = torch.from_numpy(training.space.decoder)
    tasks = training.tasks

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


# ------------------------------------------------------------------------------- where vectors go


@pytest.mark.parametrize(
    ("places", "blocks"),
    [((1,), (0,)), ((0, 2), (0, 0)), ((-2,), (0,)), ((0,), (0, 0)), ((0,), (-1,))],
)
def test_places_have_no_gap(places: Any, blocks: Any) -> None:
    with pytest.raises(InvalidOption, match="without a gap"):
        Places(places, blocks)


def test_each_agent_has_a_place_and_a_scale() -> None:
    with pytest.raises(InvalidOption, match="2 places for 1 agents"):
        VectorPrompts(np.eye(4), places=Places.row(2))
    for scales in ([1.0], [1.0, np.nan]):
        with pytest.raises(InvalidOption, match="scales"):
            VectorPrompts(np.eye(4), ("a", "b"), scales=scales)


def test_a_diagonal_is_decoded_to_the_bits_of_the_sum() -> None:
    rng = np.random.default_rng(0)
    space = VectorPrompts(np.diag(rng.normal(size=64)), ("a", "b"), scales=[1.0, -0.3])
    codes = rng.uniform(-1, 1, (50, 2, 64)).astype(np.float32)
    codes[rng.random(codes.shape) < 0.1] = 0
    summed = (codes[..., None] * space.decoders).sum(axis=2, dtype=np.float32)
    assert space.decode(codes).tobytes() == summed.tobytes()


def test_codes_and_codebooks_put_vectors_in_the_same_places() -> None:
    env = make(num_envs=4)
    where = Places((0, 0, 1, -1), (0, 1, 0, 0))
    names = ("a", "b", "c", "d")
    vectors = np.random.default_rng(0).normal(size=(4, 8)).astype(np.float32)
    tasks = env.tasks.subset([0])
    made = where.prompts(vectors[None], tasks)
    assert made.prefix.shape == (1, 2, 2, 8)
    assert np.array_equal(made.prefix[0, 0], vectors[[0, 2]])
    assert np.array_equal(made.prefix[0, 1], np.stack([vectors[1], np.zeros(8)]))
    assert np.array_equal(made.shift[0], vectors[3])
    book = CodebookPrompts(vectors, names, places=where)
    state = book.apply(book.start(np.zeros(1, np.int64)), np.array([[0, 1, 2, 3]]))
    chosen = book.prompts(state, TaskBatch(env.tasks, np.zeros(1, np.int64)), np.zeros(1, np.int64))
    assert np.array_equal(chosen.prefix, made.prefix)
    assert np.array_equal(chosen.shift, made.shift)
    assert book.about != CodebookPrompts(vectors, names).about
