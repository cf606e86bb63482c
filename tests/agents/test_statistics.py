"""Aggregates and intervals against numbers worked by hand, and against rliable."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from rpp_agents.experiments.statistics import (
    Contrast,
    Lines,
    holm,
    iqm,
    jackknife,
    optimality_gap,
    probability_of_improvement,
    stratified_bootstrap,
)
from rpp_env.errors import InvalidOption

# Five and four runs of two algorithms on three tasks, and what rliable 1.2.0 says of them
# (numpy 2.4.6, 20,000 resamples; it needs pandas below 3).
OURS = np.array(
    [
        [0.51, 0.95, 0.14],
        [0.95, 0.31, 0.42],
        [0.83, 0.41, 0.55],
        [0.03, 0.75, 0.54],
        [0.33, 0.79, 0.30],
    ]
)
THEIRS = np.array([[0.45, 0.13, 0.4], [0.2, 0.26, 0.75], [0.28, 0.49, 0.98], [0.96, 0.72, 0.54]])
RLIABLE = {
    "iqm": (0.5122222222222221, 0.36111111, 0.67111111),
    "optimality gap": (0.4793333333333334, 0.35466667, 0.61),
    "improvement": (0.525, 0.325, 0.73333333),
}


def test_aggregates_by_hand() -> None:
    # Of eight numbers two are cut off at each end.
    assert iqm([100, 1, 2, 3, 4, 5, -50, 0]) == pytest.approx((1 + 2 + 3 + 4) / 4)
    np.testing.assert_allclose(iqm([[0, 1, 2, 9], [4, 4, 6, 8]]), [1.5, 5])
    assert optimality_gap([0.5, 1.0, 3.0, -0.5]) == pytest.approx((0.5 + 0 + 0 + 1.5) / 4)
    # First task: 2 beats both, 1 ties with one and loses to none: (2 + 1.5) / 4. Second: never.
    assert probability_of_improvement([[2, 1], [0]], [[1, 0], [5, 6]]) == pytest.approx(
        ((1 + 1 + 0.5 + 1) / 4 + 0) / 2
    )


@pytest.mark.parametrize(("name", "statistic"), [("iqm", iqm), ("optimality gap", optimality_gap)])
def test_the_stratified_bootstrap_is_rliables(name: str, statistic: object) -> None:
    found = stratified_bootstrap(statistic, list(OURS.T), resamples=20_000)  # type: ignore[arg-type]
    value, low, high = RLIABLE[name]
    assert found.value == pytest.approx(value, abs=1e-12)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


def test_the_probability_of_improvement_is_rliables() -> None:
    value, _, _ = RLIABLE["improvement"]
    assert probability_of_improvement(list(OURS.T), list(THEIRS.T)) == pytest.approx(value)


def test_rliable_itself_where_it_is_installed() -> None:
    metrics = pytest.importorskip("rliable.metrics")
    library = pytest.importorskip("rliable.library")
    rng = np.random.default_rng(3)
    ours, theirs = rng.normal(0.5, 0.2, (10, 6)), rng.normal(0.4, 0.3, (8, 6))
    assert iqm(ours.ravel()) == pytest.approx(metrics.aggregate_iqm(ours))
    assert optimality_gap(ours.ravel()) == pytest.approx(metrics.aggregate_optimality_gap(ours))
    assert probability_of_improvement(list(ours.T), list(theirs.T)) == pytest.approx(
        metrics.probability_of_improvement(ours, theirs)
    )
    _, intervals = library.get_interval_estimates(
        {"ours": ours}, lambda x: np.array([metrics.aggregate_iqm(x)]), reps=5000
    )
    found = stratified_bootstrap(iqm, list(ours.T), resamples=5000)
    assert (found.low, found.high) == pytest.approx(intervals["ours"][:, 0], abs=0.01)


def test_several_worlds_are_a_t_test_over_their_means() -> None:
    rng = np.random.default_rng(0)
    a = {world: rng.random((2, 30)) + 0.1 * world for world in range(5)}
    b = {world: rng.random((3, 30)) for world in range(5)}
    found = Lines({"a": a, "b": b}).minus("a", "b")
    differences = [a[world].mean() - b[world].mean() for world in range(5)]
    test = stats.ttest_1samp(differences, 0)
    low, high = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        (np.mean(differences), low, high, test.pvalue)
    )


def test_one_world_of_single_runs_is_a_t_test_over_users() -> None:
    users = np.random.default_rng(0).normal(0.1, 1, 400)
    found = Lines({"a": {7: users[None]}}).mean("a")
    test = stats.ttest_1samp(users, 0)
    low, high = test.confidence_interval(0.95)
    assert (found.low, found.high, found.p) == pytest.approx((low, high, test.pvalue))


def test_runs_of_one_world_count_for_each_line() -> None:
    # All users agree, so that only the runs differ: Welch's t test, one line's runs being equal.
    runs = np.array([0.0, 0.1, 0.3])
    lines = {"a": {0: np.repeat(runs[:, None], 5, axis=1)}, "b": {0: np.zeros((3, 5))}}
    found = Lines(lines).minus("a", "b")
    test = stats.ttest_ind(runs, np.zeros(3), equal_var=False)
    low, high = test.confidence_interval(0.95)
    assert (found.value, found.low, found.high, found.p) == pytest.approx(
        (runs.mean(), low, high, test.pvalue)
    )


def test_users_in_common_are_not_new_users_in_every_draw() -> None:
    users = np.random.default_rng(2).random(30)
    lines = {"a": dict.fromkeys(range(5), users[None])}
    shared = Lines(lines, shared_users=True).mean("a")
    alone = Lines({"a": {0: users[None]}}).mean("a")
    assert (shared.low, shared.high) == pytest.approx((alone.low, alone.high))
    # Worlds with users of their own that agree would say that the mean is certain.
    apart = Lines(lines).mean("a")
    assert (apart.low, apart.high) == (apart.value, apart.value)


def test_draws_and_users_that_are_crossed_by_hand() -> None:
    # Two draws, three users; no interaction: the variances of draws and users add up.
    scores = np.array([[0.0], [0.2]]) + np.array([0.0, 0.3, 0.6])
    found = Lines({"a": {0: scores[:1], 1: scores[1:]}}, shared_users=True).mean("a")
    draws, users = np.var([0.3, 0.5], ddof=1) / 2, np.var([0.1, 0.4, 0.7], ddof=1) / 3
    freedom = (draws + users) ** 2 / (draws**2 / 1 + users**2 / 2)
    half = stats.t.ppf(0.975, freedom) * np.sqrt(draws + users)
    assert (found.value, found.high - found.value) == pytest.approx((0.4, half))


def test_effects_shared_by_users_and_worlds_cancel_in_differences() -> None:
    rng = np.random.default_rng(1)
    base = {world: rng.random(50) + 3 * world for world in range(4)}
    lines = {
        "a": {world: base[world] + np.array([[0.1], [0.1]]) for world in base},
        "b": {world: base[world][None] for world in base},
    }
    alone = Lines(lines).mean("a")
    assert alone.high - alone.low > 2
    difference = Lines(lines).minus("a", "b")
    assert (difference.low, difference.value, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference.p == 0
    same = Lines(lines).minus("a", "a")
    assert (same.low, same.value, same.high, same.p) == (0, 0, 0, 1)


def test_missing_worlds_are_left_out_of_a_comparison() -> None:
    lines = {
        "a": {0: np.full((1, 4), 1.0), 1: np.full((1, 4), 5.0)},
        "b": {0: np.full((2, 4), 0.5)},
        "c": {2: np.full((1, 4), 0.5)},
    }
    found = Lines(lines)
    assert found.mean("a").value == 3
    difference = found.minus("a", "b")
    assert (difference.low, difference.value, difference.high) == (0.5, 0.5, 0.5)
    assert np.isnan(found.minus("a", "c").value)
    assert np.isnan(found.minus("a", "c").p)


def test_the_gain_is_a_ratio_of_means_over_worlds() -> None:
    lines = {
        "fixed": {0: np.full((1, 4), 0.4), 1: np.full((1, 4), 0.5)},
        "reference": {0: np.full((1, 4), 0.7), 1: np.full((1, 4), 0.6)},
        "a": {0: np.full((1, 4), 0.5), 1: np.full((1, 4), 0.6)},
    }
    found = Lines(lines)
    # (0.1 + 0.1) / (0.3 + 0.1), where a mean of the worlds' ratios would be (1/3 + 1) / 2.
    assert found.gain("a", "fixed", "reference").value == pytest.approx(0.5)
    one = found.gain("reference", "fixed", "reference")
    assert (one.low, one.value, one.high) == pytest.approx((1, 1, 1))
    none = found.gain("fixed", "fixed", "reference")
    assert (none.low, none.value, none.high) == pytest.approx((0, 0, 0))
    assert np.isnan(found.gain("a", "reference", "fixed").value)


def test_the_interval_of_a_gain_is_the_jackknifes() -> None:
    # Linearised by hand in one, by leaving worlds out in the other: alike where the gap is sure.
    rng = np.random.default_rng(5)
    means = {
        line: {world: rng.normal(value, 0.004, (1, 1)) for world in range(8)}
        for line, value in (("fixed", 0.4), ("reference", 0.6), ("a", 0.5))
    }
    found = Lines(means).gain("a", "fixed", "reference")

    def share(worlds: tuple[int, ...]) -> float:
        fixed, reference, a = (
            np.mean([means[line][world] for world in worlds])
            for line in ("fixed", "reference", "a")
        )
        return float((a - fixed) / (reference - fixed))

    left_out = jackknife(share, range(8))
    assert found.value == pytest.approx(left_out.value)
    assert found.high - found.low == pytest.approx(left_out.high - left_out.low, rel=0.05)


def test_the_jackknife_of_a_mean_is_a_t_test() -> None:
    values = {0: 0.1, 1: 0.4, 2: 0.35, 3: 0.2}
    found = jackknife(lambda worlds: float(np.mean([values[w] for w in worlds])), list(values))
    low, high = stats.ttest_1samp(list(values.values()), 0).confidence_interval(0.95)
    assert (found.low, found.high) == pytest.approx((low, high))
    alone = jackknife(lambda worlds: 0.5, [3])
    assert alone.value == 0.5
    assert str(alone) == "0.500"  # one world says nothing of others


def test_holms_correction_by_hand() -> None:
    def sure(p: float) -> Contrast:
        return Contrast(1.0, 0.5, 1.5, p)

    # 0.01 against 0.05 / 3, then 0.02 against 0.05 / 2, then 0.04 against 0.05.
    assert holm([sure(0.04), sure(0.01), sure(0.02)]) == [True, True, True]
    # 0.03 fails against 0.05 / 2, and whatever is above it falls with it.
    assert holm([sure(0.04), sure(0.01), sure(0.03)]) == [False, True, False]
    # What was not compared is not significant, and is not counted.
    assert holm([sure(0.02), sure(float("nan")), sure(0.03)]) == [True, False, True]
    assert holm([sure(0.02), sure(0.9), sure(0.03)]) == [False, False, False]
    assert holm([]) == []
    # Rounding is no difference.
    same = Lines({"a": {0: [[0.1 + 0.2]], 1: [[0.3]]}, "b": {0: [[0.3]], 1: [[0.3]]}})
    assert holm([same.minus("a", "b")]) == [False]


def test_the_seed_decides() -> None:
    scores = [np.random.default_rng(0).random(10)]
    assert stratified_bootstrap(iqm, scores, seed=1) == stratified_bootstrap(iqm, scores, seed=1)
    assert stratified_bootstrap(iqm, scores, seed=1) != stratified_bootstrap(iqm, scores, seed=2)


def test_incomparable_results_are_refused() -> None:
    with pytest.raises(InvalidOption, match="at least one task"):
        stratified_bootstrap(iqm, [[1.0], []])
    with pytest.raises(InvalidOption, match="cannot be paired"):
        Lines({"a": {0: np.ones((1, 3))}, "b": {0: np.ones((1, 4))}})
    with pytest.raises(InvalidOption, match="no users in common"):
        Lines({"a": {0: np.ones((1, 3)), 1: np.ones((1, 4))}}, shared_users=True)
