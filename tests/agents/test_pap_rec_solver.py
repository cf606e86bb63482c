"""PAP-REC's search: its turns, the defects of the published code, and the command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from rpp_agents import load_policy  # noqa: E402
from rpp_agents.solvers.pap_rec import (  # noqa: E402
    Config,
    Judge,
    SharedSolver,
    Solver,
    UserPolicy,
    _Search,
    search,
    shuffled,
    surrogate,
    train,
)
from rpp_agents.testing import check_rules  # noqa: E402
from rpp_env import RPPEnv, load_dataset  # noqa: E402
from rpp_env.data import Dataset  # noqa: E402
from rpp_env.data.clicks import click_tasks, task_users, training_clicks  # noqa: E402
from rpp_env.errors import InvalidData, InvalidOption  # noqa: E402
from rpp_env.metrics import ndcg  # noqa: E402
from rpp_env.pap_rec import MANUAL, best_words, click_gradients  # noqa: E402
from rpp_env.recommenders import t5  # noqa: E402
from rpp_env.recommenders.t5 import T5, WORDINGS  # noqa: E402
from rpp_env.tokens import SlotPrompts  # noqa: E402

WORLD: dict[str, Any] = {"num_users": 120, "num_items": 200}
SHORT = Config(
    total_steps=3_000, clicks=1, evaluations=1, eval_episodes=16, tensorboard=False, tried=3
)


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("movieworld", **WORLD)


@pytest.fixture(scope="module")
def model(data: Dataset) -> T5:
    config = t5.Config(
        dim=16, layers=1, heads=2, feed_forward=32, negatives=9, batch=32, rate=1e-2, epochs=2
    )
    return t5.train(data, training_clicks(data), config)


@pytest.fixture(scope="module")
def tasks(data: Dataset) -> Any:
    return click_tasks(data, task_users(data), "validation", num_candidates=20)


def at_work(model: T5, tasks: Any, slots: int = 1, **options: Any) -> _Search:
    made = _Search(model, tasks, replace(SHORT, **options), slots)
    made.begin(np.array(model.vocabulary.encode(MANUAL)))
    return made


# ------------------------------------------------------------------------------------ the turns


def test_the_surrogate_is_ndcg_and_hit_at_five() -> None:
    found = surrogate(np.array([1, 2, 5, 6, 100, 0]))
    assert found.tolist() == pytest.approx([2, 1 + 1 / np.log2(3), 1 + 1 / np.log2(6), 0, 0, 0])


def test_the_surrogate_can_be_that_of_the_five_best_beams(data: Dataset, tasks: Any) -> None:
    """By hand: beams are the likeliest beginnings of candidates, and what they reach is sorted."""
    config = t5.Config(
        dim=16,
        layers=1,
        heads=2,
        feed_forward=32,
        ids="sequential",
        tasks=("sequential",),
        epochs=1,
    )
    model = t5.train(data, training_clicks(data), config)
    every = tasks.subset(np.arange(32))
    made = at_work(model, every, beams=3)
    prompts = made.prompts()
    found, ids = made.judge(prompts), model.vocabulary.ids
    exact = Judge(model, every)(prompts)
    scores = model.scores(SlotPrompts(prompts, every)).double().numpy()
    with torch.inference_mode():
        text = model._text(every.padded_history(20).astype(np.int64), prompts)
        hidden, mask = model._encoded(text, None, None)
        starts = torch.from_numpy(text.starts)
        none = torch.zeros((len(every), 1, 0), dtype=torch.int64)
        logs = model._continued(hidden, mask, starts, none)[:, 0, 0].numpy()
    for i, target in enumerate(every.targets.tolist()):
        firsts = np.unique(ids[every.candidates[i], 0])
        beams = firsts[np.argsort(-logs[i, firsts])[:3]]
        items = np.flatnonzero(np.isin(ids[every.candidates[i], 0], beams))
        best = items[np.argsort(-scores[i, items])[:5]]  # the five that are kept
        place = np.flatnonzero(every.candidates[i][best] == target)
        assert found[i] == (1 / np.log2(place[0] + 2) + 1 if len(place) else 0)
    assert not np.array_equal(found, exact)  # three beams lose some
    assert np.array_equal(at_work(model, every, beams=20).judge(prompts), exact)
    with pytest.raises(InvalidOption, match="leave out beams"):
        replace(SHORT, criterion="likelihood", beams=20)


def test_a_users_turn_keeps_the_best_of_the_first_words(model: T5, tasks: Any) -> None:
    """By hand: each of the k words for all users, and the earliest of the best is kept."""
    made = at_work(model, tasks)
    before, words = made.own.copy(), model.vocabulary.tokens
    gradients, _ = click_gradients(
        model, made.histories, made.users, made.prompts(), samples=1, seed=1
    )
    tried = words[best_words(model, gradients[:, 5], 3)]
    values = [made.judge(made.prompts())]
    values += [made.judge(made.prompts(own=tried[:, [k]])) for k in range(3)]
    best = np.argmax(values, axis=0)
    wanted = np.concatenate([before, tried], axis=1)[np.arange(len(best)), best]
    assert made.users_turn() == bool(best.any())
    assert np.array_equal(made.own[:, 0], wanted)


def test_a_shared_turn_exchanges_one_word_at_most(model: T5, tasks: Any) -> None:
    made = at_work(model, tasks, slots=0)
    before = made.shared.copy()
    value = float(made.judge(made.prompts()).mean())
    better = made.shared_turn(value)
    assert (made.shared != before).sum() == (better is not None)
    if better is not None:
        assert better > value
        assert float(made.judge(made.prompts()).mean()) == better
    assert made.shared_turn(10.0) is None  # nothing is better than that


def test_search_takes_turns_and_never_loses(model: T5, tasks: Any) -> None:
    reported: list[Any] = []
    found = search(model, tasks, SHORT, rounds=6, progress=lambda *row: reported.append(row))
    assert [turn for turn, _ in reported] == ["shared", "users"] * (len(reported) // 2) + [
        "shared"
    ] * (len(reported) % 2)
    assert found.turns == reported
    values = [value for _, value in reported]
    assert values == sorted(values)
    assert found.prompts().shape == (len(tasks), 6)
    assert found.answers <= SHORT.total_steps
    judge = Judge(model, tasks)
    assert judge(found.prompts()).mean() == pytest.approx(found.value)
    again = search(model, tasks, SHORT, rounds=6)
    assert np.array_equal(again.prompts(), found.prompts())
    # Of equal length, and nothing personal.
    same = search(model, tasks, SHORT, length=6, slots=0, rounds=2)
    assert same.prompts().shape == (len(tasks), 6)
    assert len(np.unique(same.prompts(), axis=0)) == 1
    assert same.changed == 0


def test_several_clicks_of_a_user_accept_by_their_mean(model: T5, data: Dataset) -> None:
    users = task_users(data)[:30]
    clicks = [click_tasks(data, users, part, num_candidates=20) for part in ("train", "validation")]
    found = search(
        model, clicks, replace(SHORT, total_steps=800), length=2, first="random", rounds=3
    )
    each = [Judge(model, some)(found.prompts()) for some in clicks]
    assert found.value == pytest.approx(np.mean(each))
    assert found.answers % 60 == 0
    made = _Search(model, clicks, replace(SHORT, criterion="likelihood"), 1)  # a graded one
    made.begin(2, True)
    assert len(np.unique(made.own)) > 10  # a word for each user
    assert np.array_equal(made.own, made.first)
    before = np.mean([Judge(model, some, "likelihood")(made.prompts()) for some in clicks], axis=0)
    made.users_turn()
    after = np.mean([Judge(model, some, "likelihood")(made.prompts()) for some in clicks], axis=0)
    assert (after >= before).all()
    assert (after > before).any()
    for wrong in ([], [clicks[0], clicks[1].subset(np.arange(29))]):
        with pytest.raises(InvalidOption, match="same users"):
            search(model, wrong, SHORT)
    with pytest.raises(InvalidOption, match="first"):
        search(model, clicks, SHORT, first="best")  # type: ignore[arg-type]


@pytest.mark.parametrize("criterion", ["surrogate", "reward", "likelihood"])
def test_criteria_are_those_of_the_answers(model: T5, tasks: Any, criterion: Any) -> None:
    prompts = np.tile(model.vocabulary.encode(MANUAL), (len(tasks), 1))
    found = Judge(model, tasks, criterion)(prompts)
    asked = t5.SlotPrompts(prompts, tasks)
    ranks = model.rank(asked).ranks(tasks.position)
    own = model.scores(asked).numpy()[np.arange(len(tasks)), tasks.position]
    wanted = {"surrogate": surrogate(ranks), "reward": ndcg(ranks, 10), "likelihood": own}
    assert np.allclose(found, wanted[criterion])


# ------------------------------------------------- defects of the published code, as tests (1 to 7)


def test_1_the_manual_prompt_is_a_wording_of_training() -> None:
    assert any(MANUAL in wording for wording in WORDINGS["sequential"])


def test_2_no_argument_disappears_from_the_text(model: T5, tasks: Any) -> None:
    histories = tasks.padded_history(20).astype(np.int64)
    bare = model._text(histories, np.zeros((len(tasks), 0), np.int64))
    full = model._text(histories, np.tile(model.vocabulary.encode(MANUAL), (len(tasks), 1)))
    for i, length in enumerate(bare.lengths):
        assert np.array_equal(full.tokens[i, : length - 1], bare.tokens[i, : length - 1])
        assert full.lengths[i] == length + 5


def test_3_words_that_are_chosen_on_noise_gain_nothing_elsewhere(model: T5, tasks: Any) -> None:
    """A recommender of noise: the clicks that choose seem to gain, other clicks do not."""

    class Noise(T5):
        def rank(self, prompts: Any) -> Any:
            seeds = prompts.ids.sum(axis=1) * 7919 + prompts.tasks.targets
            order = np.stack([np.random.default_rng(s).permutation(20) for s in seeds.tolist()])
            return t5.Rankings(order, np.full(len(order), 20))

    noise = Noise(model.config, model.vocabulary, model.module, model.catalog)
    made = at_work(noise, tasks)
    before = made.judge(made.prompts()).mean()
    for _ in range(4):
        made.users_turn()
    chosen = made.judge(made.prompts()).mean()
    other = Judge(noise, click_tasks(tasks.dataset, tasks.users, "test", num_candidates=20))
    elsewhere = other(made.prompts())
    assert chosen > before + 0.2
    error = elsewhere.std() / len(elsewhere) ** 0.5
    chance = surrogate(np.arange(1, 21)).mean()
    assert abs(elsewhere.mean() - chance) < 4 * error


def test_4_the_same_prompt_has_the_same_value(model: T5, tasks: Any) -> None:
    judge, prompts = Judge(model, tasks), at_work(model, tasks).prompts()
    assert np.array_equal(judge(prompts), judge(prompts))
    assert judge.answers == 2 * len(tasks)


def test_5_only_the_slot_of_the_turn_changes(model: T5, tasks: Any) -> None:
    made = at_work(model, tasks, slots=3, criterion="likelihood")
    before = made.own.copy()
    assert made.users_turn()
    assert ((made.own != before).sum(axis=1) <= 1).all()
    assert len(np.unique(np.nonzero(made.own != before)[1])) == 1


def test_6_users_without_a_gradient_are_skipped(model: T5, tasks: Any) -> None:
    made = at_work(model, tasks, criterion="likelihood")
    there = np.ones(len(tasks), bool)
    there[::2] = False
    before = made.own.copy()
    tried = made.rng.choice(made.words, (len(tasks), 12))
    assert made.keep_better(tried, 0, there)
    assert np.array_equal(made.own[::2], before[::2])


def test_7_gradients_are_of_the_model_that_answers(model: T5, tasks: Any) -> None:
    prompts = at_work(model, tasks).prompts()
    histories = tasks.padded_history(20).astype(np.int64)
    vectors = model.embed(torch.from_numpy(prompts))
    differentiated = model.likelihoods(histories, prompts, vectors)
    shown = torch.from_numpy(tasks.candidates.astype(np.int64))
    answered = model.scores(t5.SlotPrompts(prompts, tasks))
    assert torch.allclose(differentiated.gather(1, shown), answered, atol=1e-5)


def test_shuffled_words_are_another_users(model: T5, tasks: Any) -> None:
    found = search(model, tasks, SHORT, rounds=2)
    own = np.arange(len(tasks))[:, None] + 2
    other = shuffled(replace(found, own=own), seed=1)
    assert (other.own != own).all()
    assert np.array_equal(np.sort(other.own, axis=0), own)


def test_search_judges_rankings_and_refuses_texts(data: Dataset, tasks: Any) -> None:
    config = t5.Config(dim=16, layers=1, heads=2, tasks=("sequential", "explanation"))
    known = t5.Vocabulary.of(data, training_clicks(data), config.ids, config.tasks)
    untrained = T5.initial(config, known, data.catalog_digest)
    with pytest.raises(InvalidOption, match="judges rankings"):
        search(untrained.ask("explanation"), tasks, SHORT)


def test_a_user_has_one_task(model: T5, tasks: Any) -> None:
    with pytest.raises(InvalidOption, match="some users have more"):
        search(model, tasks.subset([0, 0]))


# ------------------------------------------------------------------------------------ a trainer


def made(model: T5, split: str = "train", **options: Any) -> RPPEnv:
    given: dict[str, Any] = {"num_envs": 32, "seed": 0, "gradient_clicks": 1, "num_candidates": 20}
    return RPPEnv.make(rules="PAPRec-v0", model=model, split=split, **given | WORLD | options)


@pytest.mark.parametrize("actions", ["gradient", "vocabulary"])
def test_the_policy_plays_the_words_of_the_search(model: T5, tmp_path: Path, actions: Any) -> None:
    env = made(model, actions=actions)
    policy = train(env, SHORT, run_dir=tmp_path / "run", progress=False)
    solver = Solver(env, SHORT)
    while solver.search.judge.answers + solver.steps <= SHORT.total_steps:
        row = solver.iterate(0.0)
    rows = np.arange(len(env.tasks))
    observations, _ = env.reset(options={"users": rows})
    chosen, _ = solver.policy.act(observations)
    step = env.step(chosen)
    assert np.array_equal(step.prompts.ids, solver.search.prompts())
    assert step.rewards.mean() == pytest.approx(row["reward"])
    # No user is worse off than with the first action, on the clicks that chose, by the surrogate.
    env.reset(options={"users": rows})
    first = env.step(np.zeros_like(chosen))
    places = env.tasks.position
    assert (surrogate(step.rankings.ranks(places)) >= surrogate(first.rankings.ranks(places))).all()
    policy.save(tmp_path / "p.safetensors")
    again = load_policy(tmp_path / "p.safetensors")
    assert np.array_equal(again.act(observations)[0], policy.act(observations)[0])
    other = made(model, "test", actions=actions)
    shown, _ = other.reset(options={"users": rows})
    assert np.array_equal(policy.act(shown)[0], policy.act(observations)[0])


def test_training_resumes_to_the_same_words(model: T5, tmp_path: Path) -> None:
    env = made(model, actions="vocabulary")
    whole, part = Solver(env, SHORT), Solver(env, SHORT)
    for _ in range(3):
        whole.iterate(0.0)
    part.iterate(0.0)
    state = part.rng.bit_generator.state
    resumed = Solver(env, SHORT)
    resumed.restore(part.tensors())
    resumed.rng.bit_generator.state = state
    for _ in range(2):
        resumed.iterate(0.0)
    assert np.array_equal(resumed.search.own, whole.search.own)
    assert np.array_equal(resumed.policy.actions, whole.policy.actions)


def test_other_environments_and_files_are_refused(model: T5, tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match=r"environment of PAPRec-v0 with model='t5'"):
        Solver(RPPEnv.make(num_users=60, num_items=100), SHORT)
    policy = UserPolicy(np.zeros((4, 1), np.int64), (3, 5))
    with pytest.raises(InvalidOption, match="columns 3 to 5"):
        policy.act(np.zeros((2, 1, 4), np.float32))
    from rpp_agents.policy import write_tensors

    write_tensors(tmp_path / "a", {"actions": torch.zeros(4, 1)}, {"kind": "pap_rec"})
    with pytest.raises(InvalidData, match="another version"):
        UserPolicy.load(tmp_path / "a")
    write_tensors(
        tmp_path / "b", {"actions": torch.zeros(4)}, {"kind": "pap_rec", "columns": [0, 2]}
    )
    with pytest.raises(InvalidData, match="damaged"):
        UserPolicy.load(tmp_path / "b")


# --------------------------------------------------------------------------------- shared words


def grouped(model: T5, split: str = "train", **options: Any) -> RPPEnv:
    given: dict[str, Any] = {"num_envs": 8, "seed": 0, "gradient_clicks": 1, "num_candidates": 20}
    given |= {"shared_words": "drama comedy", "top": 3, "group": 5}
    return RPPEnv.make(rules="PAPRecShared-v0", model=model, split=split, **given | WORLD | options)


@pytest.mark.parametrize("actions", ["gradient", "vocabulary"])
def test_shared_turns_find_words_that_are_better_for_all(
    model: T5, tmp_path: Path, actions: Any
) -> None:
    env = grouped(model, actions=actions)
    found = SharedSolver(env, SHORT)
    manual = np.tile(found.search.shared, (len(env.tasks), 1))
    values = [Judge(model, env.tasks)(manual).mean()]
    for _ in range(6):
        row = found.iterate(0.0)
        values.append(found.value)
    assert values == sorted(values)
    assert values[-1] > values[0]
    rows = np.arange(len(env.tasks))
    observations, _ = env.reset(options={"users": rows})
    chosen, _ = found.policy.act(observations)
    assert len(np.unique(chosen, axis=0)) == 1
    step = env.step(chosen)
    assert (step.prompts.ids == found.search.shared).all()
    ranks = step.infos["rank"]
    assert surrogate(ranks).mean() == pytest.approx(found.value)
    assert ndcg(ranks, 10).mean() == pytest.approx(row["reward"])
    found.policy.save(tmp_path / "p.safetensors")
    again = load_policy(tmp_path / "p.safetensors")
    assert np.array_equal(again.act(observations)[0], chosen)


def test_a_turn_tries_every_word_of_its_slot(model: T5) -> None:
    """By hand: the words of one slot, the others as they are, and the first of the best."""
    env = grouped(model)
    found = SharedSolver(env, SHORT)
    slot = int(np.random.default_rng(SHORT.seed).integers(2))
    words = env.space.vocabulary[env.space.candidates[0, slot]]
    judge, prompts = Judge(model, env.tasks), np.tile(found.search.shared, (len(words), 1))
    prompts[:, slot] = words
    values = [judge(np.tile(one, (len(env.tasks), 1))).mean() for one in prompts]
    found.iterate(0.0)
    assert found.value == max(values) >= values[0]  # that of the word that was there
    assert np.array_equal(found.search.shared, prompts[int(np.argmax(values))])
    assert found.search.judge.answers == len(words) * len(env.tasks)
    assert found.steps == found.search.judge.answers // 5


def test_training_shared_words_resumes(model: T5, tmp_path: Path) -> None:
    env = grouped(model)
    whole = train(env, SHORT, run_dir=tmp_path / "run", progress=False)
    assert whole.columns == (0, 0)
    one, part, resumed = (SharedSolver(env, SHORT) for _ in range(3))
    for _ in range(4):
        one.iterate(0.0)
    part.iterate(0.0)
    resumed.restore(part.tensors())
    resumed.rng.bit_generator.state = part.rng.bit_generator.state
    for _ in range(3):
        resumed.iterate(0.0)
    assert np.array_equal(resumed.policy.actions, one.policy.actions)
    assert resumed.value == one.value
    assert resumed.search.judge.answers == one.search.judge.answers


def test_shared_turns_need_a_t5(model: T5) -> None:
    env = grouped(model)

    class Still:
        def rank(self, prompts: Any) -> Any:
            raise AssertionError(prompts)

    with pytest.raises(InvalidOption, match="PAPRecShared-v0 with model='t5', not Still"):
        SharedSolver(env.remade(recommender=Still()), SHORT)


@pytest.mark.slow
def test_the_command_plays_shared_words(model: T5, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpp_env.later_clicks._pretrained", lambda *_: model)
    world = "--num-users 120 --num-items 200 --candidates 20".split()
    words = [*"--gradient-clicks 1 --top 1 --shared-words".split(), "drama comedy"]
    check_rules("PAPRecShared-v0", *world, *words, "--group", "4")
