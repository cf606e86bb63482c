"""benchmarks/retrieved.py, with a model of a few lines: its lists, its lines, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from letters import Letters

import rpp_env
from rpp_env.data.splits import split_users, training_interactions
from rpp_env.metrics import ndcg
from rpp_env.recommenders import LikelihoodRecommender
from rpp_env.sentences.leads import FORMS, ContinuedPrompt

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import retrieved

    return retrieved


@pytest.fixture
def made(benchmark: Any) -> Any:
    """Lists of ten users of movieworld; every other one holds the next film, at place 3."""
    data = rpp_env.load_dataset("movieworld")
    found = {}
    for i, user in enumerate(range(10, 20)):
        others = np.setdiff1d(np.arange(data.num_items), data.sequence(user))
        items = np.random.default_rng(user).choice(others, benchmark.LISTED, replace=False)
        if i % 2:
            items[2] = data.sequence(user)[-1]
        found[user] = items.astype(np.int32)
    interactions = training_interactions(data, split_users(data))
    return found, benchmark.lists(data, found, interactions)


def test_only_users_whose_next_item_was_retrieved_are_asked(benchmark: Any, made: Any) -> None:
    found, lists = made
    assert lists.users == 10
    assert lists.tasks.users.tolist() == [11, 13, 15, 17, 19]
    np.testing.assert_array_equal(lists.own, ndcg(np.full(5, 3)))
    for row, user in enumerate(lists.tasks.users.tolist()):
        # What was retrieved, and nothing else, in an order that does not give it away.
        assert sorted(lists.tasks.candidates[row]) == sorted(found[user])
    assert (lists.tasks.position != 2).any()


def test_the_prompt_is_chosen_on_train_users(benchmark: Any, made: Any) -> None:
    tasks = made[1].tasks
    means, best, columns = benchmark.measure(LikelihoodRecommender(Letters()), tasks, tasks, 2)
    assert len(means) == 6
    assert means[best] == max(means.values()) == columns["best fixed prompt"].mean()
    form, _, length = best.rpartition(", ")
    for shown, line in (
        (int(length.split()[0]), "best fixed prompt"),
        (0, "the same, no history"),
    ):
        asked = [
            ContinuedPrompt(task, FORMS[form], min(shown, len(task.history)))
            for task in map(tasks.task, range(len(tasks)))
        ]
        ranks = LikelihoodRecommender(Letters()).rank(asked).ranks(tasks.position)
        np.testing.assert_allclose(columns[line], ndcg(ranks))


def test_the_page_counts_users_whose_next_item_was_not_retrieved(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def retrieve(_: Any, data: Any, users: Any, count: int) -> Any:
        """The next film is first for about half of the users."""
        return {
            int(u): np.append(
                data.sequence(u)[-1] if u % 2 else np.int32([]),
                np.setdiff1d(np.arange(data.num_items, dtype=np.int32), data.sequence(u)),
            )[:count].astype(np.int32)
            for u in users
        }

    monkeypatch.setattr(benchmark, "pretrained", lambda *_: None)
    monkeypatch.setattr(benchmark, "retrieve", retrieve)
    words = "retrieved --model letters:Letters --model-options {} --dataset movieworld --users 20"
    words += " --train-users 10 --shuffles 1 --out"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path)])
    benchmark.main()
    found = json.loads((tmp_path / "retrieved.json").read_text())
    share = found["retrieved"] / found["users"]
    assert 0 < share < 1
    for name, one in found["means"].items():
        assert found["all users"][name]["value"] == pytest.approx(share * one["value"])
        gap = found["means"]["best fixed prompt"]["value"] - one["value"]
        assert found["best minus"][name]["value"] == pytest.approx(gap)
    assert found["means"]["SASRec's own order"]["value"] == 1
    page = (tmp_path / "retrieved.md").read_text()
    assert not any(title in page for title in rpp_env.load_dataset("movieworld").titles)
