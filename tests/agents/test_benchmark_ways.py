"""benchmarks/ways.py: what it counts, and its page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_agents.experiments.problem import Users
from rpp_env.prompting import COSTS, Rankings

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
USERS = 9


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import ways

    return ways


@pytest.fixture(scope="module")
def env() -> rpp_env.RPPEnv:
    return rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=USERS)


def reading(benchmark: Any, order: list[list[int]], named: list[int]) -> Any:
    zeros = np.zeros(len(order), np.int64)
    rankings = Rankings(np.array(order), np.array(named), dict.fromkeys(COSTS, zeros))
    return benchmark.Reading(rankings, np.zeros(len(order)), 0.0, 1.0, 0.5)


def test_a_way_earns_what_the_environment_pays(benchmark: Any, env: rpp_env.RPPEnv) -> None:
    cells = np.random.default_rng(0).integers(1575, size=USERS)
    found = benchmark.read(benchmark.Way("as it is", {}), env, cells, lambda: 0)
    paid = Users(env, env).ask(np.arange(USERS), cells)
    np.testing.assert_array_equal(found.scores, paid.rewards)
    np.testing.assert_array_equal(found.rankings.order, paid.rankings.order)
    assert found.first == (paid.rankings.order[:, 0] == 0).mean()
    assert np.isnan(found.seconds)  # the model was not asked


def test_ways_are_compared_over_the_candidates_that_both_named(benchmark: Any) -> None:
    one = reading(benchmark, [[0, 1, 2, 3], [0, 1, 2, 3]], [4, 4])
    reversed_ = reading(benchmark, [[3, 2, 1, 0], [3, 2, 1, 0]], [4, 4])
    partly = reading(benchmark, [[2, 1, 0, 3], [3, 0, 1, 2]], [3, 2])
    assert benchmark.agreement(one, one) == (pytest.approx(1.0), 2)
    assert benchmark.agreement(one, reversed_) == (pytest.approx(-1.0), 2)
    assert benchmark.agreement(one, partly) == (pytest.approx(-1.0), 1)
    assert benchmark.agreement(one, reading(benchmark, [[0, 1, 2, 3]] * 2, [0, 2]))[1] == 0


def test_the_page_says_what_was_not_asked_and_what_cannot_be_compared(benchmark: Any) -> None:
    found = {
        "likelihood": reading(benchmark, [[0, 1, 2, 3]] * 3, [4, 4, 4]),
        "generate": reading(benchmark, [[0, 1, 2, 3]] * 3, [1, 1, 0]),
    }
    found["generate"].seconds = float("nan")
    facts = {"model": "m", "dataset": "d", "negatives": "uniform", "users": 3}
    text, numbers = benchmark.report(facts, found, None, 4)
    assert "recorded" in text
    assert numbers["ways"]["generate"]["named"] == pytest.approx(2 / 12)
    assert numbers["ways"]["generate"]["cpu seconds"] is None
    assert numbers["agreement"][0]["correlation"] is None
    assert "file of items" not in text
