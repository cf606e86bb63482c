"""PeaPOD-v0: defaults, interfaces, no leaks, and independence of the batch."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

import rpp_env  # noqa: E402
from rpp_env import Rankings, RPPEnv  # noqa: E402
from rpp_env.composed import AttentionPrompts, NeighbourPrompts  # noqa: E402
from rpp_env.data import load_dataset  # noqa: E402
from rpp_env.data.clicks import training_clicks  # noqa: E402
from rpp_env.errors import InvalidAction, InvalidData, InvalidOption, TableMismatch  # noqa: E402
from rpp_env.metrics import chance_ndcg, ndcg  # noqa: E402
from rpp_env.recommenders import composer as composers  # noqa: E402
from rpp_env.recommenders.t5 import T5, Config, train  # noqa: E402
from rpp_env.vectors import PrefixPrompts  # noqa: E402

SIZE: dict[str, Any] = {"num_users": 240, "num_items": 180}
OWN: dict[str, Any] = {"heads": 2, "vectors": 6, "neighbours": 4}


@pytest.fixture(autouse=True, scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RPP_ENV_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def model() -> T5:
    data = load_dataset("movieworld", **SIZE)
    config = Config(dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, epochs=1)
    return train(data, training_clicks(data), config)


@pytest.fixture
def make(model: T5) -> Any:
    def made(**options: Any) -> RPPEnv:
        given = {"num_envs": 16, "seed": 0, "model": model, **SIZE, **OWN} | options
        return RPPEnv.make(rules="PeaPOD-v0", **given)

    return made


def played(env: RPPEnv, seed: int = 0) -> Any:
    """Rewards of random actions for all tasks, in the order of the tasks."""
    env.reset(options={"users": np.arange(len(env.tasks))})
    shape = (len(env.tasks), len(env.agents))
    return env.step(env.actions.drawn(np.random.default_rng(seed), shape)).rewards


# --------------------------------------------------------------------------------- what is made


def test_the_parts_are_the_reference_s(make: Any) -> None:
    env = make()
    assert env.episode.id == "PeaPOD-v0"
    assert env.agents == ("head_0", "head_1")
    assert env.action_spaces == (gymnasium.spaces.Box(-1.0, 1.0, (4,), np.float32),) * 2
    assert isinstance(env.space, AttentionPrompts)
    rows = np.arange(len(env.tasks))
    observations, _ = env.reset(options={"users": rows})
    layout = env.observer.layout
    own, near, alike = (
        observations[:, 0, layout[name]] for name in ("vector", "neighbours", "similarity")
    )
    near = near.reshape(len(rows), 4, 6)
    assert np.allclose(np.einsum("bd,bnd->bn", own, near), alike, atol=1e-5)
    assert (np.diff(alike, axis=1) <= 0).all()  # the most similar first
    step = env.step(env.actions.drawn(np.random.default_rng(0), (len(rows), 2)))
    assert step.terminated.all()
    prefix = env.last_step.prompts.prefix
    assert prefix.shape == (len(rows), 3, 16)
    assert np.array_equal(observations[:, 0], observations[:, 1])


@pytest.mark.parametrize(
    ("options", "agents", "shape"),
    [
        ({"heads": 1, "length": 2}, 1, (4,)),
        ({"neighbours": 7, "sharpness": 1.0}, 2, (7,)),
        ({"num_candidates": None}, 2, (4,)),
        ({"actions": "neighbour"}, 2, ()),
    ],
)
def test_options_of_prompts_and_candidates(
    make: Any, options: Any, agents: int, shape: Any
) -> None:
    env = make(**options)
    assert len(env.agents) == agents
    assert {space.shape for space in env.action_spaces} == {shape}
    assert 0 < played(env).mean() < 1


def test_each_split_asks_for_a_later_click_of_the_same_users(make: Any) -> None:
    parts = [make(split=split, repeats="keep").tasks for split in ("train", "validation", "test")]
    for place, tasks in enumerate(parts):
        assert np.array_equal(tasks.users, parts[0].users)
        data = tasks.dataset
        assert np.array_equal(tasks.targets, data.items[data.indptr[tasks.users + 1] - 3 + place])


@pytest.mark.filterwarnings("ignore:.*chose their target before")
def test_only_the_reward_depends_on_the_target(make: Any) -> None:
    """With other test clicks, prompts and observations before the answer stay, bit for bit."""
    data = load_dataset("movieworld", **SIZE)
    items, last = data.items.copy(), data.indptr[1:] - 1
    items[last] = np.random.default_rng(1).permutation(items[last])
    seen = []
    for world in (data, replace(data, items=items)):
        given = dict.fromkeys(SIZE)
        env = make(dataset=world, split="test", repeats="keep", **given)
        observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
        env.step(env.actions.drawn(np.random.default_rng(0), (len(env.tasks), 2)))
        layout = env.observer.layout
        history = [layout[name] for name in ("user", "vector", "neighbours", "similarity")]
        shown = np.concatenate([observations[:, 0, at] for at in history], axis=1)
        seen.append((shown.tobytes(), env.last_step.prompts.prefix.tobytes(), env.tasks.targets))
    assert seen[0][:2] == seen[1][:2]
    assert not np.array_equal(seen[0][2], seen[1][2])


def test_an_answer_does_not_depend_on_the_batch(make: Any) -> None:
    env = make(split="test")
    rng = np.random.default_rng(0)
    actions = env.actions.drawn(rng, (len(env.tasks), 2))

    def answers(env: RPPEnv, rows: Any) -> Any:
        env.reset(options={"users": rows})
        step = env.step(actions[rows])
        return step.orders, step.observations

    orders, observations = answers(env, np.arange(len(env.tasks)))
    for size in (1, 9, 50):
        rows = rng.permutation(len(env.tasks))[:size]
        alone = answers(env, rows)
        assert np.array_equal(alone[0], orders[rows])
        assert np.array_equal(alone[1], observations[rows])
    # Nor on which users are played at all.
    few = make(split="test", max_users=11)
    rows = np.searchsorted(env.tasks.users, few.tasks.users)
    few.reset(options={"users": np.arange(11)})
    assert np.array_equal(few.step(actions[rows]).orders, orders[rows])


def test_the_recommender_is_frozen(make: Any, model: T5) -> None:
    before = model.digest
    played(make())
    assert model.digest == before


def test_controls_listen_to_others_or_to_the_user_alone(make: Any) -> None:
    envs = {who: make(whose=who, split="test") for who in ("similar", "another", "self")}
    near = {who: env.space.around.near for who, env in envs.items()}
    users = envs["self"].tasks.users
    assert np.array_equal(near["self"], np.repeat(np.arange(len(users))[:, None], 4, axis=1))
    assert (near["another"] != near["similar"]).any(axis=1).mean() > 0.9
    taught = make(split="train").space.around.near  # whose histories are the training clicks
    assert np.array_equal(near["another"][:-1], taught[1:])
    # They do not depend on who else is played, and one's own vector leaves no choice.
    few = make(whose="another", split="test", max_users=7)
    assert np.array_equal(few.space.around.near, near["another"][np.isin(users, few.tasks.users)])
    assert np.array_equal(played(envs["self"], seed=0), played(envs["self"], seed=1))
    assert not np.array_equal(played(envs["similar"], seed=0), played(envs["similar"], seed=1))


class Fixed:
    """Ranks the target first ("oracle"), by position ("echo"), or names nothing ("silent")."""

    reads = PrefixPrompts

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def rank(self, prompts: PrefixPrompts) -> Rankings:
        tasks = prompts.tasks
        order = np.tile(np.arange(tasks.num_candidates), (len(tasks), 1))
        if self.kind == "oracle":
            order = np.argsort(order != tasks.position[:, None], axis=1, kind="stable")
        named = 0 if self.kind == "silent" else tasks.num_candidates
        return Rankings(order, np.full(len(tasks), named))


@pytest.mark.parametrize("actions", ["attention", "neighbour"])
def test_oracle_echo_and_silence(make: Any, actions: str) -> None:
    found = {k: played(make(model=Fixed(k), actions=actions)) for k in ("oracle", "echo", "silent")}
    assert (found["oracle"] == 1).all()
    assert not found["silent"].any()
    error = found["echo"].std() / len(found["echo"]) ** 0.5
    assert abs(found["echo"].mean() - chance_ndcg(100)) < 4 * error
    env = make(model=Fixed("echo"))
    assert np.array_equal(found["echo"], ndcg(env.tasks.position + 1, 10))


def test_choosing_a_neighbour_has_tables(make: Any, tmp_path: Path) -> None:
    options = {"actions": "neighbour", "max_users": 6, "neighbours": 3}
    env = make(**options)
    assert isinstance(env.space, NeighbourPrompts)
    assert env.space.shape == (3, 3)
    rpp_env.tabulate(env, tmp_path / "t.rpptable")
    table = rpp_env.RewardTable.load(tmp_path / "t.rpptable")
    again = RPPEnv(
        env.tasks, embeddings=table.embeddings, table=table, space=env.space, rules=env.episode
    )
    assert np.array_equal(played(again), played(env))
    with pytest.raises(TableMismatch, match="the table was made with"):
        table.for_space(make(**options | {"neighbours": 4}).space)


# ------------------------------------------------------------------------------ every interface


@pytest.mark.filterwarnings("ignore:.*render:UserWarning")
@pytest.mark.parametrize("actions", ["attention", "neighbour"])
def test_interfaces(model: T5, actions: str) -> None:
    from gymnasium.utils.env_checker import check_env
    from pettingzoo.test import api_test, parallel_api_test

    options = {"rules": "PeaPOD-v0", "model": model, "actions": actions, **SIZE, **OWN}
    parallel_api_test(rpp_env.parallel_env(**options), num_cycles=10)
    api_test(rpp_env.env(**options), num_cycles=10)
    options.pop("rules")
    joint = gymnasium.make("rpp_env:PeaPOD-v0", **options)
    check_env(joint.unwrapped, skip_render_check=True)
    many = gymnasium.make_vec("rpp_env:PeaPOD-v0", num_envs=4, **options)
    many.reset(seed=0)
    assert many.step(many.action_space.sample())[1].shape == (4,)


def test_nothing_else_needs_to_be_given() -> None:
    """The recommender and the composer of the default world come with the package."""
    env = rpp_env.parallel_env(rules="PeaPOD-v0", max_users=4)
    env.reset(seed=0)
    rewards = env.step({agent: env.action_space(agent).sample() for agent in env.agents})[1]
    assert set(rewards) == {f"head_{head}" for head in range(4)}
    joint = gymnasium.make("rpp_env:PeaPOD-v0", max_users=4)
    joint.reset(seed=0)
    assert 0 <= joint.step(joint.action_space.sample())[1] <= 1


# ------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"head": 2}, "did you mean 'heads'"),
        ({"heads": 0}, "heads must"),
        ({"heads": 3}, "heads=3 must divide"),
        ({"neighbours": 240}, "neighbours must lie in 1..239"),
        ({"sharpness": 0.0}, "sharpness"),
        ({"actions": "neighbour", "sharpness": 2.0}, "leave out sharpness"),
        ({"actions": "tokens"}, "actions"),
        ({"max_cycles": 2}, "one step"),
        ({"split": "warm"}, "split"),
        ({"model": "sasrec"}, "'checkpoint:PATH'"),
        ({"composer": "c"}, "a composer has its own sizes: leave out heads, vectors"),
        ({"num_candidates": 1}, "num_candidates"),
    ],
)
def test_impossible_options_are_refused(make: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make(**options)


def test_actions_out_of_bounds_are_refused(make: Any) -> None:
    env = make()
    env.reset()
    for wrong in (np.full((16, 2, 4), 1.5), np.full((16, 2, 4), np.nan), np.zeros((16, 2, 3))):
        with pytest.raises(InvalidAction):
            env.step(wrong)


def test_files_bring_a_recommender_and_a_composer(make: Any, model: T5, tmp_path: Path) -> None:
    model.save(tmp_path / "t5")
    env = make(model=f"checkpoint:{tmp_path / 't5'}")
    assert np.array_equal(played(env), played(make()))
    data = env.tasks.dataset
    composer, factors = composers.pretrained(
        model, data, composers.Config(dim=6, heads=2, neighbours=4)
    )
    composers.save(tmp_path / "c", composer, factors)
    given = {"composer": tmp_path / "c", "heads": 4, "vectors": 32}
    assert np.array_equal(played(make(**given)), played(env))
    with pytest.raises(InvalidData, match="pre-train one for these"):
        make(num_items=190, model=Fixed("echo"), **given)
    (tmp_path / "c").write_bytes(b"{}")
    with pytest.raises(InvalidData):
        make(**given)
