"""RPPSession-v0: a user's next items one after another, none shown before its step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

import rpp_env
from rpp_env import RPPEnv, load_dataset
from rpp_env.data import Dataset
from rpp_env.data.splits import split_users, training_interactions
from rpp_env.errors import InvalidOption
from rpp_env.metrics import chance_ndcg
from rpp_env.models import echo, oracle, silent
from rpp_env.rpp_session import SessionPrompts
from rpp_env.sentences import AGENTS

RULES = "RPPSession-v0"
SMALL: dict[str, Any] = {"num_users": 300, "num_items": 200}


def make(model: Any = "embedded", **options: Any) -> RPPEnv:
    return RPPEnv.make(
        model=model, **{"rules": RULES, "num_envs": 12, "seed": 0, **SMALL, **options}
    )


def played(env: RPPEnv, seed: int = 1) -> list[rpp_env.Step]:
    """An episode of random actions for every user."""
    env.reset(seed=seed, options={"users": np.arange(len(env.tasks))})
    rng = np.random.default_rng(seed)
    shape = (len(env.tasks), len(env.nvec))
    return [env.step(rng.integers(0, env.nvec, shape)) for _ in range(env.max_cycles)]


def test_the_last_five_items_are_the_targets_in_order() -> None:
    env = make(echo())
    data = env.tasks.dataset
    assert (data.name, env.max_cycles, env.episode.feedback) == ("movieworld-drift", 5, "reward")
    for t, step in enumerate(played(env)):
        asked = step.tasks.as_set()
        for i, user in enumerate(env.tasks.users.tolist()):
            items = data.sequence(user)
            before = len(items) - 5 + t
            assert asked.targets[i] == items[before]
            assert asked.history(i).tolist() == items[:before][-50:].tolist()
            assert len(set(asked.candidates[i].tolist())) == 20
            assert set(asked.candidates[i].tolist()) & set(items.tolist()) == {items[before]}


def test_the_history_of_a_prompt_grows_with_the_session() -> None:
    env = make(echo())
    for step in played(env):
        for prompt, shown in zip(step.prompts, step.infos["shown"].tolist(), strict=True):
            assert prompt.shown == shown <= len(prompt.task.history)
    # The longest level and a short history: one item more at each step.
    data = env.tasks.dataset
    keep = [data.sequence(user)[-8:] for user in range(data.num_users)]
    short = replace(
        data, items=np.concatenate(keep), indptr=np.concatenate([[0], np.cumsum([*map(len, keep)])])
    )
    env = make(echo(), dataset=short, num_users=None, num_items=None)
    env.reset(options={"users": np.arange(9)})
    up = np.tile([0, 4, 0, 0], (9, 1))
    assert [set(env.step(up).infos["shown"].tolist()) for _ in range(5)] == [
        {3},
        {4},
        {5},
        {6},
        {7},
    ]


def test_oracle_echo_and_silent() -> None:
    env = make(echo())
    for step in played(make(oracle(env.episode.every(env.tasks)))):
        assert (step.rewards == 1).all()
    means = [step.rewards.mean() for step in played(env)]
    assert np.mean(means) == pytest.approx(chance_ndcg(20), abs=0.03)
    assert not any(step.rewards.any() for step in played(make(silent())))


def changed(dataset: Dataset, *backs: int) -> Dataset:
    """The same users, with other items than theirs at these places from the end."""
    items = dataset.items.copy()
    rng = np.random.default_rng(0)
    for user in range(dataset.num_users):
        free = np.setdiff1d(np.arange(dataset.num_items), dataset.sequence(user))
        items[dataset.indptr[user + 1] - np.array(backs)] = rng.permutation(free)[: len(backs)]
    return replace(dataset, items=items)


@pytest.mark.parametrize("asked", [0, 2, 4])
def test_no_target_is_shown_before_its_step(asked: int) -> None:
    """With another item at step `asked`, what is seen up to that step is the same to the byte."""
    data = load_dataset("movieworld-drift", **SMALL)
    given: dict[str, Any] = {"num_users": None, "num_items": None}
    mine, other = (make(echo(), dataset=d, **given) for d in (data, changed(data, 5 - asked)))
    assert mine.embeddings.digest == other.embeddings.digest
    whole, theirs = mine.episode.every(mine.tasks), other.episode.every(other.tasks)
    # Candidates are drawn among what a user never chose: the new item may be one of the old ones.
    same = (whole.candidates == theirs.candidates).all(axis=1).reshape(-1, 5)
    rows = np.flatnonzero(same[:, :asked].all(axis=1))
    assert len(rows) > 20
    seen: list[list[Any]] = []
    for one in (mine, other):
        seen.append([one.reset(seed=1, options={"users": rows})[0]])
        actions = np.random.default_rng(0).integers(0, one.nvec, (5, len(rows), 4))
        seen[-1] += [one.step(action).observations for action in actions]
    equal = [a.tobytes() == b.tobytes() for a, b in zip(*seen, strict=True)]
    assert equal == [t <= asked for t in range(6)]


def test_nothing_is_fitted_on_any_target_of_a_session() -> None:
    """With other items in the users' last five places, all that was fitted is the same."""
    data = load_dataset("movieworld-drift", **SMALL)
    given: dict[str, Any] = {"num_users": None, "num_items": None}
    one, two = (make(dataset=d, **given) for d in (data, changed(data, 1, 2, 3, 4, 5)))
    assert (one.tasks.targets != two.tasks.targets).all()
    assert one.embeddings.digest == two.embeddings.digest
    assert one.reset(seed=0)[0].tobytes() == two.reset(seed=0)[0].tobytes()
    # Of users that chose an item twice, that item is left out where it is a target.
    again = data.items.copy()
    users = np.arange(data.num_users)
    again[data.indptr[:-1]] = again[data.indptr[1:] - 1 - users % 5]
    twice = replace(data, items=again)
    split = split_users(twice)
    found = training_interactions(twice, split, targets=5)
    for i, user in enumerate(split.train.tolist()):
        history = twice.sequence(user)[:-5]
        left_in = found.items[found.indptr[i] : found.indptr[i + 1]]
        assert left_in.tolist() == history[~np.isin(history, twice.sequence(user)[-5:])].tolist()


def test_sessions_of_other_lengths() -> None:
    env = make(echo(), max_cycles=3)
    assert len(played(env)) == 3
    # A session of one item asks for the item of RPP-v0, and pays what it pays.
    one, plain = make(max_cycles=1), make(rules="RPP-v0", dataset="movieworld-drift")
    assert one.tasks.digest == plain.tasks.digest
    actions = np.random.default_rng(0).integers(0, one.nvec, (len(one.tasks), 4))
    for env in (one, plain):
        env.reset(options={"users": np.arange(len(env.tasks))})
    assert one.step(actions).rewards.tobytes() == plain.step(actions).rewards.tobytes()
    with pytest.raises(InvalidOption, match="no user of movieworld-drift has 1001 items"):
        make(max_cycles=1000)


def test_impossible_options_are_refused() -> None:
    for options, says in (
        ({"model": "table:t.rpptable"}, "RPPSession-v0 asks for another item at every step"),
        ({"draws": 2}, "draw each target's candidates once"),
        ({"feedback": "rewards"}, "did you mean 'reward'"),
        ({"codebook": 8}, "option 'codebook' is not known"),
    ):
        with pytest.raises(InvalidOption, match=says):
            make(**options)
    with pytest.raises(InvalidOption, match="asks for another item at every step"):
        rpp_env.tabulate(make(echo(), max_users=2))


def test_feedback_is_an_option() -> None:
    assert "response" not in make(feedback="none").observer.layout
    env = make(feedback="accepted")
    for step in played(env):
        accepted = (step.infos["rank"] > 0) & (step.infos["rank"] <= 3)
        shown = step.observations[:, 0, env.observer.layout["response"]][:, 0]
        assert (shown == accepted).all()


def test_masked_resets_begin_new_sessions() -> None:
    env = make()
    env.reset(seed=0)
    zeros = np.zeros((12, 4), np.int64)
    for _ in range(3):
        env.step(zeros)
    mask = np.arange(12) < 4
    env.reset(options={"reset_mask": mask})
    step = env.step(zeros)
    assert step.clock.tolist() == [1] * 4 + [4] * 8
    lengths = [len(prompt.task.history) for prompt in step.prompts]
    space = env.space
    assert isinstance(space, SessionPrompts)
    whole = env.episode.every(env.tasks)
    rows = step.rows * 5 + np.where(mask, 0, 3)
    assert lengths == whole.history_lengths[rows].tolist()


@pytest.mark.filterwarnings("ignore:Agents have different action space sizes")
@pytest.mark.filterwarnings("ignore:We recommend agents to be named in the format")
def test_interfaces() -> None:
    from gymnasium.utils.env_checker import check_env
    from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test

    options: dict[str, Any] = {"rules": RULES, "max_users": 12, **SMALL}
    parallel_api_test(rpp_env.parallel_env(**options), num_cycles=20)
    api_test(rpp_env.env(**options), num_cycles=20)
    parallel_seed_test(lambda: rpp_env.parallel_env(**options), num_cycles=10)
    joint = gymnasium.make(f"rpp_env:{RULES}", max_users=12, **SMALL)
    check_env(joint.unwrapped, skip_render_check=True)
    core = make(num_envs=1, max_users=12)
    parallel = rpp_env.parallel_env(**options)
    rng = np.random.default_rng(3)
    for seed in range(3):
        for one in (core, joint, parallel):
            one.reset(seed=seed)
        for _ in range(5):
            action = rng.integers(0, core.nvec)
            rewards = (
                float(core.step(action[None]).rewards[0]),
                joint.step(action)[1],
                parallel.step(dict(zip(AGENTS, action.tolist(), strict=True)))[1][AGENTS[2]],
            )
            assert len(set(rewards)) == 1


def test_real_data_have_true_orders(real_data: Path) -> None:
    """Items of a session follow one another in time; users with few items are left out."""
    env = RPPEnv.make("ml-100k", echo(), rules=RULES, num_envs=4, max_users=30, seed=0)
    data = env.tasks.dataset
    (step,) = played(env)[-1:]
    last = data.items[data.indptr[env.tasks.users + 1] - 1]
    assert (step.tasks.as_set().targets == last).all()
