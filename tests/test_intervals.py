"""Bootstrap intervals agree with SciPy's, pair users, and cover."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rpp_env import InvalidOption
from rpp_env.intervals import estimate


def test_a_mean_agrees_with_scipy() -> None:
    x = np.random.default_rng(0).random(300)
    found = estimate({"x": x}, {"x": lambda m: m["x"]}, resamples=6000)["x"]
    theirs = stats.bootstrap(
        (x,), np.mean, n_resamples=6000, method="percentile", random_state=1
    ).confidence_interval
    assert found.value == pytest.approx(x.mean())
    assert found.low == pytest.approx(theirs.low, abs=3e-3)
    assert found.high == pytest.approx(theirs.high, abs=3e-3)


def test_columns_are_resampled_together() -> None:
    x = np.random.default_rng(0).random(200)
    columns = {"x": x, "y": x + 0.25}
    gap = estimate(columns, {"gap": lambda m: m["y"] - m["x"]})["gap"]
    assert gap.low == pytest.approx(0.25)
    assert gap.high == pytest.approx(0.25)


def test_intervals_cover_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(200):
        found = estimate(
            {"x": rng.normal(1.0, 1.0, 80)}, {"x": lambda m: m["x"]}, resamples=400, seed=seed
        )["x"]
        hits += found.low <= 1.0 <= found.high
    assert 0.88 <= hits / 200 <= 0.985


def test_columns_of_different_users_are_refused() -> None:
    with pytest.raises(InvalidOption, match="same users"):
        estimate({"x": [1.0, 2.0], "y": [1.0]}, {})
