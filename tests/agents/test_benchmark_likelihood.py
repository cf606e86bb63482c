"""benchmarks/likelihood.py, with a model of a few lines: its controls, and its page."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.data.candidates import TaskSet
from rpp_env.task import RankingTask

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import likelihood

    return likelihood


@pytest.fixture
def tasks() -> TaskSet:
    env = rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=9)
    return env.tasks


def test_each_derangement_gives_every_user_anothers_history(benchmark: Any, tasks: TaskSet) -> None:
    own = [tasks.task(i).history for i in range(len(tasks))]
    dealt = []
    for number in range(4):
        made = benchmark.of_others(tasks, "list", 10, number)
        for i, prompt in enumerate(made):
            assert prompt.task.candidates == tasks.task(i).candidates
            assert not set(prompt.task.history) & set(prompt.task.candidates)
            (whose,) = [j for j, one in enumerate(own) if set(prompt.task.history) <= set(one)]
            assert whose != i
        dealt.append(tuple(prompt.task.history for prompt in made))
    assert len(set(dealt)) == 4


def test_another_order_shows_the_same_titles(benchmark: Any, tasks: TaskSet) -> None:
    usual = benchmark.prompts(tasks, "list", 10)
    moved = benchmark.in_another_order(tasks, "list", 10, 0)
    same = [one.lead() == other.lead() for one, other in zip(usual, moved, strict=True)]
    assert not all(same)
    for one, other in zip(usual, moved, strict=True):
        shown = one.task.history[-one.shown :]
        assert sorted(shown) == sorted(other.task.history[-other.shown :])


def test_shared_words_are_those_of_the_titles_that_are_shown(benchmark: Any) -> None:
    titles = ("The Red Owl", "Blue Owl", "The Green", "Cold", "Red Owl II", "The End")

    class Few:
        num_candidates = 3

        def __len__(self) -> int:
            return 1

        def task(self, _: int) -> RankingTask:
            return RankingTask(
                "u", ("Cold", "The Red Owl"), ("Blue Owl", "Red Owl II", "Cold"), "Cold"
            )

    few: Any = Few()
    few.dataset = SimpleNamespace(titles=titles)
    one, two = np.log(6 / 3), np.log(6 / 2)  # "owl" is in three titles, "red" in two
    np.testing.assert_allclose(benchmark.shared_words(few, 1), [[one, one + two, 0.0]])
    np.testing.assert_allclose(benchmark.shared_words(few, 2), [[one, one + two, np.log(6)]])


def test_the_page_has_every_line(
    benchmark: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = "likelihood --model letters:Letters --dataset movieworld --users 8 --train-users 4"
    words += " --negatives uniform popularity --lengths 10 3 --derangements 2 --out"
    monkeypatch.setattr(sys, "argv", [*words.split(), str(tmp_path)])
    benchmark.main()
    page = (tmp_path / "likelihood.md").read_text()
    found = json.loads((tmp_path / "likelihood.json").read_text())
    assert [one["negatives"] for one in found["results"]] == ["uniform", "popularity"]
    assert page.count("the primary contrast is list, 10 titles; sum - no history") == 1
    for one in found["results"]:
        assert one["users"] == 8
        for name in ("list, no history", "list, 10 titles of another user", "list, 3 titles"):
            assert 0 <= one["means"][f"{name}; sum"]["value"] <= 1
        assert "list, 10 titles; sum - in another order" in one["differences"]
        assert "list, 10 titles; pmi - of another user" in one["differences"]
        assert "list, 3 titles; sum - popularity" in one["differences"]
        assert "list, 10 titles; mean - shared words" in one["differences"]
    titles = rpp_env.load_dataset("movieworld").titles
    assert not any(title in page for title in titles)
