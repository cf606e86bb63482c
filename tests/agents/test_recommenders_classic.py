"""Recommenders without a language model: they learn, repeat, and never see a target."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from rpp_agents.recommenders import (
    CONFIGS,
    NAMES,
    BM25Config,
    SASRec,
    SASRecConfig,
    SASRecScorer,
    Scorer,
    ScoringRecommender,
    fit,
    target_ranks,
)
from rpp_agents.recommenders.base import earlier, keep_best, known, ranks_by, validation_tasks
from rpp_env import RPPEnv
from rpp_env.data import Dataset, TaskSet, load_dataset, make_tasks
from rpp_env.errors import InvalidData, InvalidOption, InvalidTask
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.recommenders.patience import Patience
from rpp_env.recommenders.sasrec import last_items, windows
from rpp_env.sentences.prompt import Prompt
from rpp_env.testing import check_recommender

LIBRARIES = {
    "itemknn": "implicit",
    "bpr": "implicit",
    "bm25": "bm25s",
    "lightgcn": "torch_geometric",
}

QUICK: dict[str, Any] = {
    **CONFIGS,
    "bpr": replace(CONFIGS["bpr"], dim=16, epochs=40, patience=10),
    "lightgcn": replace(CONFIGS["lightgcn"], dim=16, epochs=8, batch=1 << 12),
    "sasrec": SASRecConfig(
        dim=32, blocks=1, max_length=20, negatives=64, epochs=8, rate=1e-2, batch=64
    ),
}


def needs(name: str) -> None:
    if name in LIBRARIES:
        pytest.importorskip(LIBRARIES[name], reason="needs the extra 'study'")


@pytest.fixture(scope="module")
def data() -> Dataset:
    return load_dataset("movieworld", num_users=400, num_items=120)


@pytest.fixture(scope="module")
def tasks(data: Dataset) -> TaskSet:
    return make_tasks(data, np.arange(data.num_users), num_candidates=20)


@pytest.fixture(scope="module")
def fitted(data: Dataset) -> Any:
    """Each recommender, fitted once for all tests."""
    kept: dict[str, Scorer] = {}

    def get(name: str) -> Scorer:
        needs(name)
        if name not in kept:
            kept[name] = fit(name, data, QUICK[name])
        return kept[name]

    return get


def toy(sequences: list[list[int]], num_items: int) -> Dataset:
    lengths = [len(sequence) for sequence in sequences]
    return Dataset(
        name="toy",
        domain="movies",
        titles=tuple(f"Title {chr(65 + i // 26)}{chr(65 + i % 26)}" for i in range(num_items)),
        item_tokens=tuple(f"i{i}" for i in range(num_items)),
        genres=((),) * num_items,
        user_tokens=tuple(f"u{i}" for i in range(len(sequences))),
        indptr=np.concatenate([[0], np.cumsum(lengths)]),
        items=np.array([item for sequence in sequences for item in sequence]),
    )


def score(scorer: Scorer, tasks: TaskSet) -> float:
    return float(ndcg(target_ranks(scorer, tasks), 10).mean())


def other_targets(data: Dataset) -> Dataset:
    items = data.items.copy()
    last = data.indptr[1:] - 1
    for user, place in enumerate(last):
        # No other item of the user: an earlier choice of a target is taken out with it.
        items[place] = np.setdiff1d(np.arange(data.num_items), data.sequence(user))[user % 7]
    return replace(data, items=items)


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_learning(fitted: Any, tasks: TaskSet, name: str) -> None:
    scorer = fitted(name)
    scores = scorer.scores(tasks)
    assert scores.shape == (len(tasks), 20)
    assert scores.dtype == np.float32
    assert np.isfinite(scores).all()
    assert 0 < scorer.validation < 1
    if name != "bm25":  # movieworld's titles say nothing of who likes them
        assert score(scorer, tasks) > chance_ndcg(20) + 0.04


@pytest.mark.parametrize("name", NAMES)
def test_rows_do_not_depend_on_one_another(fitted: Any, tasks: TaskSet, name: str) -> None:
    whole = fitted(name).scores(tasks)
    some = np.array([5, 3, 260])
    assert np.array_equal(fitted(name).scores(tasks.subset(some)), whole[some])


@pytest.mark.parametrize("name", NAMES)
def test_targets_are_never_seen(fitted: Any, data: Dataset, tasks: TaskSet, name: str) -> None:
    changed = other_targets(data)
    assert not np.array_equal(changed.items, data.items)
    again = fit(name, changed, QUICK[name])
    # A second fit with the same seed: this says too that seeds repeat results to the bit.
    assert np.array_equal(again.scores(replace_dataset(tasks, changed)), fitted(name).scores(tasks))
    assert again.validation == fitted(name).validation


def replace_dataset(tasks: TaskSet, data: Dataset) -> TaskSet:
    return replace(tasks, dataset=data)


@pytest.mark.parametrize("name", ["bpr", "lightgcn", "sasrec"])
def test_another_seed_is_another_model(
    fitted: Any, data: Dataset, tasks: TaskSet, name: str
) -> None:
    needs(name)
    other = fit(name, data, replace(QUICK[name], epochs=1), seed=1)
    assert not np.array_equal(other.scores(tasks), fitted(name).scores(tasks))


@pytest.mark.parametrize("name", NAMES)
def test_it_is_a_recommender(fitted: Any, data: Dataset, name: str) -> None:
    env = RPPEnv.make(data, model=ScoringRecommender(fitted(name)), split="test", num_envs=6)
    env.reset(seed=0)
    step = env.step(np.zeros((6, 4), dtype=int))
    check_recommender(ScoringRecommender(fitted(name)), step.prompts)
    assert all(ranking.named == 20 for ranking in step.rankings)
    assert np.isfinite(step.rewards).all()


def test_unknown_users_and_titles_are_named(fitted: Any, data: Dataset, tasks: TaskSet) -> None:
    recommender = ScoringRecommender(fitted("pop"))
    env = RPPEnv.make(data, model=recommender, split="test", num_envs=1)
    env.reset(seed=0)
    prompt: Prompt = env.step(np.zeros((1, 4), dtype=int)).prompts[0]
    task = prompt.task
    with pytest.raises(InvalidTask, match="no user 'nobody' in movieworld"):
        recommender.rank([replace(prompt, task=replace(task, user="nobody"))])
    shown = (*task.candidates[:-1], "Never Made")
    unknown = replace(task, candidates=shown, target="Never Made")
    with pytest.raises(InvalidTask, match="no title 'Never Made' in movieworld"):
        recommender.rank([replace(prompt, task=unknown)])
    elsewhere = replace(tasks, dataset=replace(data, item_tokens=tuple(reversed(data.item_tokens))))
    with pytest.raises(InvalidData, match="fit on the dataset of the tasks"):
        fitted("pop").scores(elsewhere)


def test_wrong_options_are_refused(data: Dataset) -> None:
    with pytest.raises(InvalidOption, match="there are pop, itemknn"):
        fit("svd", data)
    with pytest.raises(InvalidOption, match="pop takes a PopConfig, not BM25Config"):
        fit("pop", data, BM25Config())
    with pytest.raises(InvalidOption, match="seed must be at least 0"):
        fit("pop", data, seed=-1)
    for name, wrong in (
        ("itemknn", {"neighbours": 0}),
        ("bm25", {"history": 0}),
        ("bpr", {"rate": 0}),
        ("lightgcn", {"layers": 0}),
        ("sasrec", {"heads": 3}),
        ("sasrec", {"loss": "hinge"}),
        ("sasrec", {"patience": 0}),
    ):
        with pytest.raises(InvalidOption, match=r"got|not|may be"):
            replace(CONFIGS[name], **wrong)
    with pytest.raises(InvalidOption, match="too small to choose epochs on"):
        fit("pop", toy([[0, 1], [1, 0]], 5))


# ------------------------------------------------------------------------- a world with an order


@pytest.fixture(scope="module")
def chain() -> Dataset:
    """The next item follows from the last one, and all are equally popular."""
    rng = np.random.default_rng(0)
    follower = rng.permutation(40)
    # One cycle through all items.
    following = np.empty(40, dtype=int)
    following[follower] = np.roll(follower, -1)
    sequences = []
    for _ in range(300):
        sequence = [int(rng.integers(40))]
        while len(sequence) < 9:
            sequence.append(int(following[sequence[-1]]))
        sequences.append(sequence)
    return toy(sequences, 40)


@pytest.mark.parametrize("loss", ["softmax", "bce"])
def test_sasrec_reads_the_order_and_popularity_does_not(chain: Dataset, loss: Any) -> None:
    tasks = make_tasks(chain, np.arange(300), num_candidates=20)
    config = SASRecConfig(
        dim=32, blocks=1, max_length=8, dropout=0.0, loss=loss, negatives=64, rate=0.02, epochs=15
    )
    rows: list[Any] = []
    sasrec = fit("sasrec", chain, config, progress=rows.append)
    assert score(sasrec, tasks) > 0.9
    assert score(fit("pop", chain), tasks) < 0.4
    assert [row["epoch"] for row in rows] == list(range(1, len(rows) + 1))
    assert max(row["validation"] for row in rows) == sasrec.validation


# ---------------------------------------------------------------------------------------- parts


def tiny() -> SASRec:
    torch.manual_seed(0)
    return SASRec.initial(30, SASRecConfig(dim=16, heads=2, max_length=10))


def test_later_items_do_not_change_earlier_states() -> None:
    module = tiny()
    sequences = torch.randint(30, (4, 10))
    changed = sequences.clone()
    changed[:, 6:] = (changed[:, 6:] + 1) % 30
    with torch.inference_mode():
        before, after = module.states(sequences), module.states(changed)
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.isclose(before[:, 6:], after[:, 6:]).all(dim=-1).any()


def test_empty_places_in_front_make_no_difference() -> None:
    module = tiny()
    short = torch.randint(30, (3, 4))
    padded = torch.cat([torch.full((3, 6), -1), short], dim=1)
    with torch.inference_mode():
        assert torch.allclose(module.encode(short), module.encode(padded), atol=1e-6)
        assert torch.isfinite(module.encode(torch.full((1, 5), -1))).all()
        with pytest.raises(InvalidOption, match="sees the latest 10"):
            module.encode(torch.zeros(1, 11, dtype=torch.long))


def test_a_saved_sasrec_loads_unchanged(fitted: Any, tasks: TaskSet, tmp_path: Path) -> None:
    scorer = fitted("sasrec")
    scorer.module.save(tmp_path / "sasrec.safetensors")
    loaded = SASRec.load(tmp_path / "sasrec.safetensors")
    assert loaded.config == scorer.module.config
    again = SASRecScorer(tasks.dataset, loaded)
    assert np.array_equal(again.scores(tasks), scorer.scores(tasks))
    with pytest.raises(InvalidData, match="knows 120 items, toy has 5"):
        SASRecScorer(toy([[0, 1, 2]], 5), loaded)
    (tmp_path / "other").write_bytes(b"nothing")
    with pytest.raises(InvalidData):
        SASRec.load(tmp_path / "other")


@pytest.mark.parametrize("name", NAMES)
def test_short_histories(name: str) -> None:
    needs(name)
    rng = np.random.default_rng(0)
    long = [rng.choice(30, size=6, replace=False).tolist() for _ in range(40)]
    dataset = toy([[3, 4], [5], *long], 30)  # one item before the target; none at all
    config = CONFIGS[name]
    if isinstance(config, Patience):
        config = replace(config, epochs=1)
    scorer = fit(name, dataset, config)
    scores = scorer.scores(make_tasks(dataset, [0, 1, 2], num_candidates=10))
    assert scores.shape == (2, 10)
    assert np.isfinite(scores).all()


def test_windows_teach_every_item_but_the_first_once() -> None:
    dataset = toy([list(range(12)), [3, 1], [4], list(range(8))], 12)
    histories = known(dataset)  # 11, 1, 0 and 7 items
    users, ends = windows(histories, 4)
    shown = last_items(histories, users, ends, 5)
    taught = [
        (user, item)
        for user, window in zip(users.tolist(), shown.tolist(), strict=True)
        for before, item in pairwise(window)
        if before >= 0
    ]
    assert sorted(taught) == [(0, i) for i in range(1, 11)] + [(3, i) for i in range(1, 7)]


def test_the_history_for_early_stopping_lacks_two_items() -> None:
    dataset = toy([[0, 1, 2, 3], [4, 5], [6]], 9)
    before = earlier(dataset)
    assert [before.sequence(u).tolist() for u in range(3)] == [[0, 1, 2], [4], []]
    assert known(before).items.tolist() == [0, 1]
    chosen = validation_tasks(before)
    assert chosen.targets.tolist() == [2]
    assert chosen.num_candidates == 7  # all that the longest history leaves


def test_the_best_epoch_is_kept() -> None:
    values: NDArray[np.float64] = np.array([0.1, 0.4, 0.3, 0.2, 0.9])
    stop = Patience(epochs=9, patience=2)
    state, best = keep_best(iter(range(5)), lambda i: values[i], stop, None)
    assert (state, best) == (1, 0.4)  # the last one was never reached
    state, best = keep_best(iter(range(5)), lambda i: values[i], replace(stop, patience=3), None)
    assert (state, best) == (4, 0.9)


def test_bm25_finds_words_of_the_latest_titles() -> None:
    pytest.importorskip("bm25s", reason="needs the extra 'study'")
    titles = ("Dragon Keep", "Dragon Lake", "Silent Harbour", "Golden Mirror", "Paper Moon")
    sequences = [[2, 0, 1], [3, 2, 4], [4, 3, 2]]
    dataset = replace(toy(sequences, 5), titles=titles)
    scorer = fit("bm25", dataset, BM25Config(history=1))
    tasks = make_tasks(dataset, [0], num_candidates=3)
    assert tasks.targets.tolist() == [1]
    scores = scorer.scores(tasks)[0]
    assert scores.argmax() == tasks.position[0]
    assert np.sort(scores)[:2].tolist() == [0.0, 0.0]


def test_ranks_that_are_counted_are_those_of_a_stable_sort() -> None:
    rng = np.random.default_rng(0)
    scores = rng.integers(-2, 3, (400, 9)).astype(np.float32)  # many ties
    for odd in (np.nan, -np.inf, np.inf):
        scores[rng.random(scores.shape) < 0.1] = odd
    tasks: Any = SimpleNamespace(position=rng.integers(9, size=len(scores)))
    order = np.argsort(-scores, axis=1, kind="stable")
    places = (order == tasks.position[:, None]).argmax(axis=1) + 1
    assert (ranks_by(scores, tasks) == places).all()
