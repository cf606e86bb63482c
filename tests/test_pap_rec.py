"""PAPRec-v0: defaults, interfaces, no leaks, and candidates from training clicks only."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from pettingzoo.test import parallel_api_test, parallel_seed_test  # noqa: E402

import rpp_env  # noqa: E402
from rpp_env import RPPEnv  # noqa: E402
from rpp_env.data.clicks import task_users, training_clicks  # noqa: E402
from rpp_env.data.explanations import Explainer, surrogate  # noqa: E402
from rpp_env.errors import InvalidAction, InvalidData, InvalidOption, TableMismatch  # noqa: E402
from rpp_env.metrics import chance_ndcg, ndcg  # noqa: E402
from rpp_env.pap_rec import (  # noqa: E402
    MANUAL,
    SharedOptions,
    best_words,
    click_gradients,
    first_order,
)
from rpp_env.prompting import Rankings  # noqa: E402
from rpp_env.recommenders.t5 import T5, Config, train  # noqa: E402
from rpp_env.testing import check_recommender, check_space  # noqa: E402
from rpp_env.tokens import SlotPrompts, TokenPrompts  # noqa: E402

WORLD: dict[str, Any] = {"num_users": 150, "num_items": 200}
TINY = Config(
    dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, rate=1e-2, epochs=2, ahead=8
)


@pytest.fixture(scope="module")
def model() -> T5:
    data = rpp_env.load_dataset("movieworld", **WORLD)
    return train(data, training_clicks(data), TINY)


@pytest.fixture
def make(model: T5) -> Any:
    def made(**options: Any) -> RPPEnv:
        given = {"model": model, "num_envs": 32, "seed": 0, "gradient_clicks": 2, **WORLD}
        return RPPEnv.make(rules="PAPRec-v0", **given | options)

    return made


def played(env: RPPEnv, seed: int = 0, **options: Any) -> Any:
    """Rewards of random actions for all tasks, in the order of the tasks."""
    env.reset(options={"users": np.arange(len(env.tasks)), **options})
    shape = (len(env.tasks), len(env.agents))
    return env.step(env.actions.drawn(np.random.default_rng(seed), shape)).rewards


# --------------------------------------------------------------------------------- what is made


def test_the_id_alone_makes_the_environment() -> None:
    """With the recommender that is in the package: nothing is trained."""
    env = rpp_env.parallel_env(rules="PAPRec-v0", max_users=20)
    core = env.core
    assert isinstance(core.recommender, T5)
    assert core.agents == ("slot_0",)
    assert core.action_spaces == (gymnasium.spaces.Discrete(5),)
    assert (core.tasks.dataset.num_users, core.tasks.num_candidates) == (3000, 100)
    assert core.recommender.validation != core.recommender.validation  # loaded, not trained
    one = gymnasium.make("rpp_env:PAPRec-v0", max_users=20)
    one.reset(seed=0)
    _, reward, over, _, _ = one.step(one.action_space.sample())
    assert 0 <= reward <= 1
    assert over


def test_the_same_users_play_disjoint_clicks(make: Any) -> None:
    parts = {split: make(split=split).tasks for split in ("train", "validation", "test")}
    data = parts["train"].dataset
    for back, tasks in zip((3, 2, 1), parts.values(), strict=True):
        assert np.array_equal(tasks.users, task_users(data))
        assert np.array_equal(tasks.targets, data.items[data.indptr[tasks.users + 1] - back])


def test_a_prompt_is_the_shared_words_and_the_agents(make: Any) -> None:
    env = make(slots=2)
    env.reset(options={"users": [3, 1, 3]})
    actions = np.array([[0, 4], [2, 2], [1, 0]])
    step = env.step(actions)
    words = env.recommender.vocabulary
    shared = words.encode(MANUAL)
    for i, row in enumerate([3, 1, 3]):
        own = [env.space.vocabulary[env.space.candidates[row, j, actions[i, j]]] for j in (0, 1)]
        assert step.prompts.ids[i].tolist() == [*shared, *own]
    every = make(actions="vocabulary")
    assert every.action_spaces[0].n == len(words.words)
    every.reset(options={"users": [0]})
    assert every.step([[7]]).prompts.ids[0].tolist() == [*shared, words.tokens[7]]


def test_shared_words_change_by_a_reset_and_not_for_ever(make: Any) -> None:
    env = make()
    before = played(env)
    observations, _ = env.reset(options={"users": [0, 1]})
    other = "drama comedy drama comedy drama"
    shown, _ = env.reset(options={"users": [0, 1], "shared": other})
    block = env.observer.layout["shared"]
    assert not np.array_equal(shown[:, 0, block], observations[:, 0, block])
    ids = env.recommender.vocabulary.encode(other)
    assert env.step([[0], [0]]).prompts.ids[:, :5].tolist() == [ids, ids]
    env.reset(options={"users": [0, 1], "shared": np.array(ids)})
    # One of the two begins anew, under the usual words.
    env.reset(options={"reset_mask": np.array([True, False]), "users": [2]})
    both = env.step([[0], [0]]).prompts.ids[:, :5].tolist()
    assert both == [env.recommender.vocabulary.encode(MANUAL), ids]
    assert not np.array_equal(played(env, shared=other), before)
    assert np.array_equal(played(env), before)
    assert np.array_equal(played(make(shared_words=MANUAL)), before)


@pytest.mark.parametrize(
    ("shared", "said"),
    [
        ("drama quantum", "'quantum' is not one of the"),
        ("drama comedy", "shared must be 5 tokens, not 2"),
        ([0, 0, 0, 0, 0], "0 is not one of the"),
        ([2.5] * 5, "2.5 is not one of the"),
    ],
)
def test_other_shared_tokens_are_refused(make: Any, shared: Any, said: str) -> None:
    env = make()
    with pytest.raises(InvalidOption, match=said):
        env.reset(options={"shared": shared})
    with pytest.raises(InvalidOption, match=said):
        rpp_env.parallel_env(rules="PAPRec-v0", model=env.recommender, **WORLD).reset(
            options={"shared": shared}
        )
    with pytest.raises(InvalidOption, match="reset option"):
        RPPEnv.make(num_users=60, num_items=100).reset(options={"shared": shared})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"slot": 2}, "did you mean 'slots'"),
        ({"slots": 0}, "slots must"),
        ({"top": 10_000}, "top=10000"),
        ({"shared_words": "quantum"}, "'quantum' is not one of"),
        ({"actions": "any"}, "actions"),
        ({"asked": "explanation"}, "asked"),
        ({"asked": "top-n"}, "100 candidates|negatives|trained with"),
        ({"model": "sasrec"}, "checkpoint:PATH"),
        ({"max_cycles": 5}, "one step"),
        ({"split": "warm"}, "split"),
    ],
)
def test_impossible_options_are_refused(make: Any, options: Any, said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        played(make(**options))


def test_actions_out_of_range_are_refused(make: Any) -> None:
    env = make()
    env.reset()
    for wrong in (np.full((32, 1), 5), np.full((32, 1), -1), np.zeros((32, 2), int)):
        with pytest.raises(InvalidAction):
            env.step(wrong)


def test_a_checkpoint_is_a_recommender(make: Any, model: T5, tmp_path: Path) -> None:
    model.save(tmp_path / "t.safetensors")
    again = make(model=f"checkpoint:{tmp_path / 't.safetensors'}")
    assert np.array_equal(played(again), played(make()))
    with pytest.raises(InvalidData, match="knows 200 items"):
        make(model=model, num_items=150)


def test_candidates_can_be_listed_in_the_text(make: Any) -> None:
    env = make(asked="top-n", num_candidates=10)
    assert env.recommender.asked == "top-n"
    assert 0 < played(env).mean() < 1


# --------------------------------------------------------------------------------- candidates


def test_candidates_come_from_the_gradient_of_training_clicks(make: Any, model: T5) -> None:
    """By hand for one user; and no held-out click matters."""
    env = make()
    data, row = env.tasks.dataset, 11
    clicks = training_clicks(data)
    shared = model.vocabulary.encode(MANUAL)
    prompt = np.array([*shared, shared[-1]])
    own = clicks.items[clicks.indptr[row] : clicks.indptr[row + 1]]
    total = torch.zeros(16)
    for end in np.random.default_rng([0, row]).integers(1, len(own), 2):
        shown = np.full((1, 20), -1)
        shown[0, 20 - min(20, end) :] = own[max(0, end - 20) : end]
        vectors = model.embed(torch.from_numpy(prompt[None])).requires_grad_()
        model.likelihoods(shown, prompt[None], vectors)[0, own[end]].backward()
        total += vectors.grad[0, -1]
    scores = (model.embed(torch.from_numpy(model.vocabulary.tokens)) @ total).numpy()
    assert env.space.candidates[row, 0].tolist() == np.argsort(-scores)[:5].tolist()
    last = np.concatenate([data.indptr[1:] - back for back in (1, 2, 3)])
    moved = data.items.copy()
    moved[last] = np.random.default_rng(0).permutation(moved[last])
    other = make(dataset=replace(data, items=moved), num_users=None, num_items=None, repeats="keep")
    same = make(repeats="keep")
    assert np.array_equal(other.space.candidates, same.space.candidates)


def test_users_without_training_clicks_have_no_gradient(model: T5, make: Any) -> None:
    clicks = training_clicks(make().tasks.dataset)
    short = replace(clicks, indptr=np.array([0, 5, 6, 12]), items=clicks.items[:12])
    prompts = np.tile(model.vocabulary.encode("drama"), (3, 1))
    gradients, there = click_gradients(model, short, np.arange(3), prompts, samples=2)
    assert there.tolist() == [True, False, True]
    assert not gradients[1].any()
    found = first_order(model, short, np.arange(3), prompts[0], samples=2)
    mean = gradients[there]
    assert found.shape == (3, 1, 5)
    assert best_words(model, mean, 5).shape == (2, 1, 5)


def test_a_word_of_the_gradient_raises_the_likelihood(make: Any, model: T5) -> None:
    """Moving the slot's embedding along the gradient makes training clicks more likely."""
    clicks = training_clicks(make().tasks.dataset)
    users, n = np.arange(40), model.config.max_history
    prompts = np.tile(model.vocabulary.encode(MANUAL + " them"), (40, 1))
    gradients, _ = click_gradients(model, clicks, users, prompts, samples=1)
    ends = [
        clicks.indptr[u]
        + int(
            np.random.default_rng([0, u]).integers(1, clicks.indptr[u + 1] - clicks.indptr[u], 1)[0]
        )
        for u in users
    ]
    shown = np.full((40, n), -1)
    for i, (u, end) in enumerate(zip(users, ends, strict=True)):
        past = clicks.items[clicks.indptr[u] : end][-n:]
        shown[i, n - len(past) :] = past
    target = torch.from_numpy(clicks.items[ends].astype(np.int64))[:, None]
    vectors = model.embed(torch.from_numpy(prompts))
    step = torch.zeros_like(vectors)
    step[:, -1] = torch.from_numpy(gradients[:, -1]).float()
    step /= step.norm(dim=(1, 2), keepdim=True) + 1e-9
    up, down = (
        model.likelihoods(shown, prompts, vectors + 1e-2 * way * step).gather(1, target)
        for way in (1, -1)
    )
    assert (up > down).float().mean() > 0.9


# --------------------------------------------------------------------------------- honest


class Known:
    """Answers with the target at a place (oracle), as a fixed order (echo), or nothing (silent)."""

    reads = SlotPrompts

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def rank(self, prompts: SlotPrompts) -> Rankings:
        tasks = prompts.tasks
        K = tasks.num_candidates
        shift = tasks.position[:, None] if self.kind == "oracle" else 0
        order = (np.arange(K) + shift + np.zeros((len(tasks), 1), np.int64)) % K
        return Rankings(order, np.full(len(tasks), 0 if self.kind == "silent" else K))


def test_oracle_echo_and_silent(make: Any) -> None:
    env = make()
    paid = {
        kind: played(env.remade(recommender=Known(kind))) for kind in ("oracle", "echo", "silent")
    }
    assert (paid["oracle"] == 1).all()
    assert (paid["silent"] == 0).all()
    error = paid["echo"].std() / len(paid["echo"]) ** 0.5
    assert abs(paid["echo"].mean() - chance_ndcg(100)) < 4 * error


def test_rewards_are_the_ndcg_of_the_recommenders_ranking(make: Any, model: T5) -> None:
    env = make()
    rewards = played(env)
    prompts = env.last_step.prompts
    ranks = model.rank(SlotPrompts(prompts.ids, env.tasks)).ranks(env.tasks.position)
    assert np.array_equal(rewards, ndcg(ranks, 10))


def test_an_answer_does_not_depend_on_the_batch(make: Any) -> None:
    env = make()
    whole = played(env)
    actions = env.actions.drawn(np.random.default_rng(0), (len(whole), 1))
    for rows in ([5], [60, 2, 2], list(range(30, 77))):
        env.reset(options={"users": rows})
        assert np.array_equal(env.step(actions[rows]).rewards, whole[rows])
    few = make(max_users=9)
    rows = np.searchsorted(env.tasks.users, few.tasks.users)
    assert np.array_equal(few.space.candidates, env.space.candidates[rows])


def test_playing_changes_no_weight(make: Any, model: T5) -> None:
    before = model.digest
    played(make(slots=2, top=3))
    assert model.digest == before
    assert all(not w.requires_grad and w.grad is None for w in model.weights.values())


def test_observations_show_the_user_and_the_candidate_words(make: Any) -> None:
    env = make()
    rows = np.arange(len(env.tasks))
    shown, _ = env.reset(options={"users": rows})
    assert np.abs(shown).max() <= 1
    bits = shown[:, 0, env.observer.layout["who"]]
    assert np.array_equal(bits @ 2 ** np.arange(bits.shape[1]), env.tasks.users)
    seen = shown[:, 0, env.observer.layout["candidates"]].reshape(len(rows), 5, -1)
    step = env.step(np.full((len(rows), 1), 2))
    chosen = step.observations[:, 0, env.observer.layout["prompt"]]
    assert np.array_equal(chosen, seen[:, 2])


def test_a_table_holds_the_answers(
    make: Any, model: T5, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpp_env.later_clicks._pretrained", lambda *_: model)
    env, path = make(max_users=8), tmp_path / "t.rpptable"
    rpp_env.tabulate(env, path)
    table = make(model=f"table:{path}", max_users=8)
    assert table.recommender is None
    assert np.array_equal(played(table), played(env))
    with pytest.raises(InvalidOption, match="a table holds answers under one value of shared"):
        played(table, shared=MANUAL)
    with pytest.raises(TableMismatch, match="shared"):
        make(model=f"table:{path}", max_users=8, shared_words="drama comedy")


def test_the_contracts_hold(make: Any, model: T5) -> None:
    env = make(max_users=24)
    rows = np.arange(12)
    check_recommender(
        model,
        lambda numbers: SlotPrompts(
            np.tile(model.vocabulary.encode("drama"), (len(numbers), 1)),
            env.tasks.subset(rows[numbers]),
        ),
    )
    tokens = model.vocabulary.tokens[:6]
    shown = np.eye(6)
    check_space(
        TokenPrompts(tokens, shown, shared=tokens[:2], names=list("abcdef")),
        model,
        env.tasks.dataset,
    )
    one = rpp_env.parallel_env(
        rules="PAPRec-v0", model=model, gradient_clicks=1, max_users=8, **WORLD
    )
    parallel_api_test(one, num_cycles=20)
    parallel_seed_test(
        lambda: rpp_env.parallel_env(
            rules="PAPRec-v0", model=model, gradient_clicks=1, max_users=8, **WORLD
        )
    )


def test_a_step_renders_its_words(make: Any) -> None:
    env = make()
    env.reset(options={"users": [0]})
    step = env.step([[1]])
    words = env.space.words(np.array([1]), step.prompts, 0, env.tasks.task(0), {})
    assert MANUAL in words.text
    own = env.recommender.vocabulary.decode(step.prompts.ids[0, -1:])
    assert words.choices[0][2] == f"the word {own}"


@pytest.mark.parametrize(
    "wrong",
    [
        {"candidates": np.zeros((3, 2, 2), int)},
        {"candidates": np.full((3, 1, 2), 9)},
        {"candidates": np.zeros((3, 1, 2))},
        {"names": ["a"]},
        {"shared": [99]},
    ],
)
def test_spaces_of_other_shapes_are_refused(wrong: Any) -> None:
    with pytest.raises(InvalidOption):
        TokenPrompts(np.arange(4), np.eye(4), **wrong)


# ---------------------------------------------------------------------------------- explanations


@pytest.fixture(scope="module")
def explaining(model: T5) -> T5:
    data = rpp_env.load_dataset("movieworld", **WORLD)
    tasks = ("sequential", "explanation")
    return train(data, training_clicks(data), replace(TINY, tasks=tasks, epochs=1))


def test_an_explanation_is_paid_by_its_likeness_to_the_reference(
    explaining: T5, make: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle 1, silence 0, the copied template between them, and the T5's own texts by hand."""
    pytest.importorskip("torchmetrics")
    env = make(model=explaining, asked="explanation", actions="vocabulary", max_users=32)
    explainer, tasks = Explainer.of(env.tasks.dataset), env.tasks
    shown = [tasks.history(i)[-20:].tolist() for i in range(len(tasks))]
    items = tasks.targets.tolist()
    wanted = list(map(explainer.reference, shown, items))
    everybody = {"users": np.arange(len(tasks))}
    own = None
    for texts in (None, wanted, [""] * len(tasks), list(map(explainer.copied, shown, items))):
        if texts is not None:
            monkeypatch.setattr(T5, "explain", lambda self, prompts, texts=texts: texts)
        env.reset(options=everybody)
        step = env.step(np.zeros((len(tasks), 1), np.int64))
        if texts is None:
            own = step.rankings.texts
        paid = surrogate(own if texts is None else texts, wanted) / 110
        assert step.rewards == pytest.approx(paid)
        if texts is wanted:
            assert step.rewards == pytest.approx(1)
        elif texts is not None and not texts[0]:
            assert not step.rewards.any()
    assert 0.1 < step.rewards.mean() < 0.9


def test_explanations_that_cannot_be_played_are_refused(explaining: T5, make: Any) -> None:
    with pytest.raises(InvalidOption, match="train one with tasks="):
        make(asked="explanation", actions="vocabulary")  # this T5 has not learned it
    with pytest.raises(InvalidOption, match="takes actions='vocabulary'"):
        make(model=explaining, asked="explanation")
    with pytest.raises(InvalidOption, match="not of shared words"):
        SharedOptions(asked="explanation", actions="vocabulary")
    env = make(model=explaining, asked="explanation", actions="vocabulary", max_users=32)
    with pytest.raises(InvalidOption, match="pays for texts"):
        rpp_env.tabulate(env)
