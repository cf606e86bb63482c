"""Aggregates and intervals against numbers worked by hand, and against rliable."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import norm

from rpp_agents.statistics import (
    Draws,
    hierarchical,
    holm,
    improvement,
    interval,
    iqm,
    optimality_gap,
    probability_of_improvement,
    stratified_bootstrap,
)
from rpp_env.errors import InvalidOption
from rpp_env.intervals import Estimate

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
    value, low, high = RLIABLE["improvement"]
    assert probability_of_improvement(list(OURS.T), list(THEIRS.T)) == pytest.approx(value)
    draws = Draws(["w"], resamples=20_000)
    ours, theirs = ([draws.scores({"w": x[:, None]}) for x in side.T] for side in (OURS, THEIRS))
    found = interval(value, improvement(ours, theirs))
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.01)


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


def test_one_world_of_single_runs_leaves_users_alone() -> None:
    users = np.random.default_rng(0).random(400)
    found = hierarchical({"a": {7: users[None]}}).estimate(lambda means: means["a"])
    assert found.value == pytest.approx(users.mean())
    half = 1.96 * users.std() / np.sqrt(len(users))
    assert (found.low, found.high) == pytest.approx(
        (users.mean() - half, users.mean() + half), abs=0.15 * half
    )


def test_worlds_and_runs_are_resampled_too() -> None:
    # Users agree, so that all the spread is between two worlds: means are 0, 1/2 or 1.
    worlds = {0: np.zeros((1, 5)), 1: np.ones((1, 5))}
    resampled = hierarchical({"a": worlds}, resamples=4000)
    means = resampled.drawn["a"].mean(axis=1)
    shares = [float((means == x).mean()) for x in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    # And between two runs of one world.
    runs = hierarchical({"a": {0: np.array([[0.0] * 5, [1.0] * 5])}}, resamples=4000)
    shares = [float((runs.drawn["a"][:, 0] == x).mean()) for x in (0, 0.5, 1)]
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.03)


def test_what_users_and_worlds_share_cancels_in_differences() -> None:
    rng = np.random.default_rng(1)
    base = {world: rng.random(50) + 3 * world for world in range(4)}
    lines = {
        "a": {world: base[world] + np.array([[0.1], [0.1]]) for world in base},
        "b": {world: base[world][None] for world in base},
    }
    resampled = hierarchical(lines)
    alone = resampled.estimate(lambda means: means["a"])
    assert alone.high - alone.low > 2
    difference = resampled.estimate(lambda means: means["a"] - means["b"])
    assert (difference.low, difference.value, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    # Training seeds are not common to two lines: their spread stays.
    lines["a"] = {world: base[world] + np.array([[0.0], [0.2]]) for world in base}
    spread = hierarchical(lines).estimate(lambda means: means["a"] - means["b"])
    assert spread.low < 0.09
    assert spread.high > 0.11


def test_users_in_common_are_drawn_once_for_all_worlds() -> None:
    users = np.random.default_rng(2).random(30)
    lines = {"a": dict.fromkeys(range(5), users[None])}
    for shared, equal in ((True, True), (False, False)):
        drawn = hierarchical(lines, shared_users=shared, resamples=50).drawn["a"]
        assert bool(np.allclose(drawn, drawn[:, :1])) is equal
    # Five times the users would be five times as sure; these are the same users five times.
    width = [
        (found := hierarchical(lines, shared_users=shared).estimate(lambda m: m["a"])).high
        - found.low
        for shared in (True, False)
    ]
    assert width[0] / width[1] == pytest.approx(np.sqrt(5), rel=0.15)


def test_missing_worlds_are_left_out_of_a_comparison() -> None:
    lines = {
        "a": {0: np.full((1, 4), 1.0), 1: np.full((1, 4), 5.0)},
        "b": {0: np.full((2, 4), 0.5)},
    }
    resampled = hierarchical(lines)
    assert resampled.estimate(lambda means: means["a"]).value == 3
    difference = resampled.estimate(lambda means: means["a"] - means["b"])
    assert (difference.low, difference.value, difference.high) == (0.5, 0.5, 0.5)


def test_runs_are_compared_within_their_world() -> None:
    # World 1 is easier for both: across worlds half of the comparisons would go the wrong way.
    draws = Draws([0, 1])
    ours = draws.scores({0: [[0.2], [0.3]], 1: [[0.8], [0.9]]})
    theirs = draws.scores({0: [[0.1]], 1: [[0.7]], 2: [[9.0]]})
    assert set(improvement([ours], [theirs])) == {1.0}
    # Worlds that disagree make it unsure, though each has one run only.
    split = improvement(
        [draws.scores({0: [[1]], 1: [[0]]})], [draws.scores({0: [[0.5]], 1: [[0.5]]})]
    )
    assert interval(0.5, split) == Estimate(0.5, 0.0, 1.0)


def test_tasks_share_the_worlds_that_are_drawn_and_runs_are_drawn_for_each() -> None:
    draws = Draws(range(4), resamples=300)
    line = {world: [[float(world)]] for world in range(4)}
    one, two = draws.scores(line), draws.scores(line)
    assert (one == two).all()
    shares = [float((one == world).mean()) for world in range(4)]
    assert shares == pytest.approx([0.25] * 4, abs=0.05)
    runs = {world: [[0.0], [1.0], [2.0]] for world in range(4)}
    one, two = draws.scores(runs), draws.scores(runs)
    assert one.shape == (300, 4, 3)
    assert not (one == two).all()
    assert one.mean() == pytest.approx(1, abs=0.05)


def test_who_has_the_same_users_gets_the_same_draw_of_them() -> None:
    rng = np.random.default_rng(0)
    users = rng.random((1, 40))
    draws = Draws(["w"], resamples=4000)
    one, shifted, others = (
        draws.scores({"w": x}, {"w": whose})[:, 0, 0]
        for x, whose in ((users, "a"), (users + 0.25, "a"), (users, "b"))
    )
    np.testing.assert_allclose(shifted - one, 0.25)
    assert abs(np.corrcoef(one, others)[0, 1]) < 0.1
    # And it is the bootstrap's: the standard error of a mean.
    assert one.std() == pytest.approx(users.std() / np.sqrt(40), rel=0.05)
    again = Draws(["w"], resamples=4000).scores({"w": users}, {"w": "b"})[:, 0, 0]
    assert (again == others).all()  # whoever was drawn before


def test_holms_correction_by_hand() -> None:
    def sure(p: float) -> Estimate:
        z = float(norm.isf(p / 2))
        return Estimate(z, z - 1.959964, z + 1.959964)

    # 0.01 against 0.05 / 3, then 0.02 against 0.05 / 2, then 0.04 against 0.05.
    assert holm([sure(0.04), sure(0.01), sure(0.02)]) == [True, True, True]
    # 0.03 fails against 0.05 / 2, and whatever is above it falls with it.
    assert holm([sure(0.04), sure(0.01), sure(0.03)]) == [False, True, False]
    assert holm([Estimate(0.1, 0.1, 0.1), Estimate(0.0, 0.0, 0.0)]) == [True, False]
    # What was not compared is not clear, and is not counted.
    nothing = Estimate(float("nan"), float("nan"), float("nan"))
    assert holm([sure(0.02), nothing, sure(0.03)]) == [True, False, True]
    assert holm([sure(0.02), sure(0.9), sure(0.03)]) == [False, False, False]
    assert holm([]) == []
    # Rounding, not a difference.
    assert holm([Estimate(1e-17, 0.9e-17, 1.1e-17)]) == [False]


def test_the_seed_decides() -> None:
    scores = [np.random.default_rng(0).random(10)]
    assert stratified_bootstrap(iqm, scores, seed=1) == stratified_bootstrap(iqm, scores, seed=1)
    assert stratified_bootstrap(iqm, scores, seed=1) != stratified_bootstrap(iqm, scores, seed=2)
    lines = {"a": {0: np.random.default_rng(0).random((3, 9))}}

    def low(seed: int) -> float:
        return hierarchical(lines, seed=seed).estimate(lambda means: means["a"]).low

    assert low(1) == low(1) != low(2)


def test_what_cannot_be_compared_says_so() -> None:
    with pytest.raises(InvalidOption, match="at least one task"):
        stratified_bootstrap(iqm, [[1.0], []])
    with pytest.raises(InvalidOption, match="a run in the same world"):
        Draws([])
    with pytest.raises(InvalidOption, match="cannot be paired"):
        hierarchical({"a": {0: np.ones((1, 3))}, "b": {0: np.ones((1, 4))}})
    with pytest.raises(InvalidOption, match="no users in common"):
        hierarchical({"a": {0: np.ones((1, 3)), 1: np.ones((1, 4))}}, shared_users=True)
