"""PAPRecShared-v0: one choice of words for a group of users, which is paid their mean."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pettingzoo.test import api_test, parallel_api_test, parallel_seed_test  # noqa: E402

import rpp_env  # noqa: E402
from rpp_env import RPPEnv  # noqa: E402
from rpp_env.data.clicks import training_clicks  # noqa: E402
from rpp_env.episode import Episode, Grouped  # noqa: E402
from rpp_env.errors import InvalidAction, InvalidOption  # noqa: E402
from rpp_env.joint import JointEnv  # noqa: E402
from rpp_env.metrics import chance_ndcg, ndcg  # noqa: E402
from rpp_env.pap_rec import MANUAL, click_gradients, first_order_shared  # noqa: E402
from rpp_env.recommenders.t5 import T5, train  # noqa: E402
from rpp_env.tokens import SlotPrompts  # noqa: E402
from tests.test_pap_rec import TINY, WORLD, Known  # noqa: E402


@pytest.fixture(scope="module")
def model() -> T5:
    data = rpp_env.load_dataset("movieworld", **WORLD)
    return train(data, training_clicks(data), TINY)


@pytest.fixture
def make(model: T5) -> Any:
    def made(**options: Any) -> RPPEnv:
        given = {
            "model": model,
            "num_envs": 32,
            "seed": 0,
            "gradient_clicks": 1,
            "group": 4,
            **WORLD,
        }
        return RPPEnv.make(rules="PAPRecShared-v0", **given | options)

    return made


def played(env: RPPEnv, actions: Any = None) -> Any:
    """Rewards of actions, random ones by default, for all tasks in their order."""
    env.reset(options={"users": np.arange(len(env.tasks))})
    shape = (len(env.tasks), len(env.agents))
    drawn = env.actions.drawn(np.random.default_rng(0), shape)
    return env.step(drawn if actions is None else np.full(shape, actions)).rewards


def test_the_id_alone_makes_the_environment() -> None:
    one = gymnasium.make("rpp_env:PAPRecShared-v0", max_users=20)
    core = one.unwrapped.core
    assert core.agents == tuple(f"slot_{i}" for i in range(5))
    assert core.action_spaces == (gymnasium.spaces.Discrete(6),) * 5
    assert core.episode.members.shape == (20, 16)
    one.reset(seed=0)
    _, reward, over, _, _ = one.step(one.action_space.sample())
    assert 0 <= reward <= 1
    assert over


# -------------------------------------------------------------------------------------- groups


@pytest.mark.parametrize(("count", "size"), [(12, 4), (11, 4), (5, 5), (3, 16), (6, 1)])
def test_groups_are_of_one_size_and_hold_everyone(count: int, size: int) -> None:
    members = Grouped.of(Episode("e", 1), count, size, seed=3).members
    assert members.shape == (count, min(size, count))
    assert np.array_equal(members[:, 0], np.arange(count))
    groups = {frozenset(row) for row in members.tolist()}
    assert all(len(group) == members.shape[1] for group in groups)
    assert len(groups) == -(-count // members.shape[1])
    if count % members.shape[1] == 0:  # they are disjoint, and a member's group is the same one
        assert all(set(members[i]) == set(row) for row in members.tolist() for i in row)
    assert np.array_equal(members, Grouped.of(Episode("e", 1), count, size, seed=3).members)


def test_a_group_is_played_with_the_words_of_its_action(make: Any, model: T5) -> None:
    env = make()
    env.reset(options={"users": [3, 1, 3]})
    actions = np.array([[0, 4, 1, 2, 3], [2, 2, 0, 0, 0], [1, 0, 0, 5, 5]])
    before = env.calls["prompts"]
    step = env.step(actions)
    members = env.episode.members[[3, 1, 3]]
    assert env.calls["prompts"] - before == 12 == len(step.prompts) == len(step.tasks)
    for i, group in enumerate(members):
        words = [env.space.vocabulary[env.space.candidates[0, j, actions[i, j]]] for j in range(5)]
        answers = model.rank(SlotPrompts(np.tile(words, (4, 1)), env.tasks.subset(group)))
        ranks = answers.ranks(env.tasks.position[group])
        assert step.rewards[i] == pytest.approx(ndcg(ranks, 10).mean(), abs=1e-12)
        # What is told of single users is told of the user whose task it is.
        assert step.infos["rank"][i] == ranks[0]
        assert np.array_equal(step.orders[i], answers.order[0])
        assert (step.prompts.ids[i::3] == words).all()
        assert np.array_equal(step.prompts.tasks.users[i::3], env.tasks.users[group])
    assert step.infos["user"].tolist() == env.tasks.users[[3, 1, 3]].tolist()


def test_all_of_a_group_see_and_earn_the_same_to_the_bit(make: Any) -> None:
    env, alone = make(), make(group=1)
    rows = np.arange(len(env.tasks))
    shown, _ = env.reset(options={"users": rows})
    own, _ = alone.reset(options={"users": rows})
    members = env.episode.members
    width = env.observer.layout["length"].stop
    assert np.allclose(shown[:, 0, :width], own[members][:, :, 0, :width].mean(axis=1), atol=1e-6)
    whole = len(rows) // 4 * 4  # the last group borrows
    rewards = env.step(np.full((len(rows), 5), 1)).rewards
    shared = [i for i in rows if all(set(members[j]) == set(members[i]) for j in members[i])]
    assert len(shared) >= whole - 4
    for i in shared[:40]:
        assert all(np.array_equal(shown[j], shown[i]) for j in members[i])
        assert len(set(rewards[members[i]].tolist())) == 1
    assert len(np.unique(shown[:, 0], axis=0)) == -(-len(rows) // 4)
    own_rewards = played(alone, 1)
    assert np.allclose(rewards, own_rewards[members].mean(axis=1), atol=1e-12)


def test_zeros_are_the_manual_words(make: Any, model: T5) -> None:
    env = make(group=1)
    rewards = played(env, 0)
    prompts = np.tile(model.vocabulary.encode(MANUAL), (len(env.tasks), 1))
    ranks = model.rank(SlotPrompts(prompts, env.tasks)).ranks(env.tasks.position)
    assert np.array_equal(rewards, ndcg(ranks, 10))
    every = make(actions="vocabulary", shared_words="drama comedy")
    assert every.action_spaces == (gymnasium.spaces.Discrete(len(model.vocabulary.words)),) * 2


def test_an_answer_does_not_depend_on_the_batch(make: Any) -> None:
    env = make()
    whole = played(env)
    actions = env.actions.drawn(np.random.default_rng(0), (len(whole), 5))
    for rows in ([5], [60, 2, 2], list(range(30, 77))):
        env.reset(options={"users": rows})
        assert np.array_equal(env.step(actions[rows]).rewards, whole[rows])


def test_words_are_those_of_the_mean_gradient(make: Any, model: T5) -> None:
    clicks = training_clicks(make().tasks.dataset)
    shared = np.array(model.vocabulary.encode(MANUAL))
    found = first_order_shared(model, clicks, shared, top=7, samples=1)
    users = np.arange(len(clicks.indptr) - 1)
    gradients, there = click_gradients(
        model, clicks, users, np.tile(shared, (len(users), 1)), samples=1
    )
    table = model.weights["t5.shared.weight"].numpy()[model.vocabulary.tokens].astype(np.float64)
    for slot, words in enumerate(found):
        own = int(np.flatnonzero(model.vocabulary.tokens == shared[slot])[0])
        gains = table @ gradients[there].mean(axis=0)[slot]
        best = [int(word) for word in np.argsort(-gains, kind="stable") if word != own][:7]
        assert words.tolist() == [own, *best]
    few, all_of_them = make(max_users=9, top=7), make(top=7, split="test")
    assert np.array_equal(few.space.candidates[0], found)
    assert (all_of_them.space.candidates == found).all()
    assert dict(few.space.about) == dict(all_of_them.space.about)


# -------------------------------------------------------------------------------------- honest


def test_oracle_echo_and_silent(make: Any) -> None:
    env = make(group=1)
    grouped = make()
    for kind, paid in (("oracle", 1), ("silent", 0)):
        assert (played(grouped.remade(recommender=Known(kind))) == paid).all()
    paid = played(env.remade(recommender=Known("echo")))
    error = paid.std() / len(paid) ** 0.5
    assert abs(paid.mean() - chance_ndcg(100)) < 4 * error
    mean = played(grouped.remade(recommender=Known("echo")))
    assert np.allclose(mean, paid[grouped.episode.members].mean(axis=1), atol=1e-12)


def test_a_table_replays_the_groups(
    make: Any, model: T5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpp_env.later_clicks._pretrained", lambda *_: model)
    given = {"max_users": 30, "shared_words": "drama comedy", "top": 2}
    env, path = make(**given), tmp_path / "t.rpptable"
    rpp_env.tabulate(env, path)
    table = make(model=f"table:{path}", **given)
    assert table.recommender is None
    assert np.array_equal(played(table), played(env))
    assert len(np.unique(played(env))) > 2


def test_playing_changes_no_weight(make: Any, model: T5) -> None:
    before = model.digest
    played(make())
    assert model.digest == before
    assert all(not w.requires_grad and w.grad is None for w in model.weights.values())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"group": 0}, "group must"),
        ({"slots": 2}, "slots"),
        ({"shared_words": " "}, "give one word or more"),
        ({"shared_words": "quantum"}, "'quantum' is not one of"),
        ({"top": 10_000}, "top=10000, but there are"),
        ({"max_cycles": 2}, "one step"),
    ],
)
def test_impossible_options_are_refused(make: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        make(**options)


def test_actions_and_resets_that_cannot_be_are_refused(make: Any) -> None:
    env = make()
    with pytest.raises(InvalidOption, match="reset option"):
        env.reset(options={"shared": MANUAL})
    env.reset(options={"users": [0]})
    with pytest.raises(InvalidAction, match="'slot_4' chose 6"):
        env.step([[0, 0, 0, 0, 6]])


def test_the_apis_conform(model: T5) -> None:
    given: dict[str, Any] = {"rules": "PAPRecShared-v0", "model": model, "gradient_clicks": 1}
    given |= {"max_users": 8, "group": 3, **WORLD}
    parallel_api_test(rpp_env.parallel_env(**given), num_cycles=20)
    parallel_seed_test(lambda: rpp_env.parallel_env(**given))
    api_test(rpp_env.env(**given), num_cycles=20)
    check_env(JointEnv(**given), skip_render_check=True)
    many = gymnasium.make_vec(
        "rpp_env:PAPRecShared-v0", num_envs=3, **{k: v for k, v in given.items() if k != "rules"}
    )
    many.reset(seed=0)
    _, rewards, over, _, _ = many.step(many.action_space.sample())
    assert rewards.shape == (3,)
    assert over.all()


def test_a_step_is_shown_in_words(make: Any) -> None:
    env = make()
    env.reset(options={"users": [0, 5]})
    step = env.step(np.zeros((2, 5), np.int64))
    words = env.space.words(step.actions[1], step.prompts, 1, step.tasks[1], {})
    assert MANUAL in words.text
    assert step.tasks[1].user == env.tasks.dataset.user_tokens[env.tasks.users[5]]
