"""Simulated coverage of intervals and false findings of Holm's rule, at the published shapes.

Each test simulates many experiments with known true values. With N of them, a share p is found
with a standard error of sqrt(p (1 - p) / N): the bounds below are three of them away from 95% and
5%.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from rpp_agents.experiments.statistics import Contrast, Lines, holm, iqm, jackknife
from rpp_env.intervals import estimate, gain

Floats = NDArray[np.float64]
Experiment = Callable[[np.random.Generator, Floats], tuple[dict[str, dict[int, Floats]], bool]]
"""Functions that simulate scores of methods and a baseline, and whether users are shared."""

EXPERIMENTS = 600
MARGIN = 3 * np.sqrt(0.05 * 0.95 / EXPERIMENTS)  # 0.027
METHODS = 35


def worlds(rng: np.random.Generator, effects: Floats) -> tuple[dict[str, dict[int, Floats]], bool]:
    """The study on made worlds: five worlds with users of their own, one run of each method.

    Spreads as published for movieworld: worlds 0.02, method by world 0.015, runs 0.01, users 0.35.
    """
    lines: dict[str, dict[int, Floats]] = {}
    level = rng.normal(0.5, 0.02, 5)
    base = rng.normal(0, 0.35 / np.sqrt(800), 5)
    for method, effect in (("baseline", 0.0), *((str(i), e) for i, e in enumerate(effects))):
        own = rng.normal(0, 0.015, 5) + rng.normal(0, 0.01, 5) + rng.normal(0, 0.006, 5)
        lines[method] = {w: np.full((1, 1), level[w] + base[w] + effect + own[w]) for w in range(5)}
    return lines, False


def draws(rng: np.random.Generator, effects: Floats) -> tuple[dict[str, dict[int, Floats]], bool]:
    """The study on real data: five draws of candidates and train users, the same test users."""
    users = 80  # fewer than the study's 800, with as much less spread: quick to draw
    lines: dict[str, dict[int, Floats]] = {}
    level = rng.normal(0.5, 0.35, users)
    for method, effect in (("baseline", 0.0), *((str(i), e) for i, e in enumerate(effects))):
        habit = rng.normal(0, 0.05, users)
        lines[method] = {
            w: (level + effect + habit + rng.normal(0, 0.01) + rng.normal(0, 0.1, users))[None]
            for w in range(5)
        }
    return lines, True


def seeds(rng: np.random.Generator, effects: Floats) -> tuple[dict[str, dict[int, Floats]], bool]:
    """The bench: ten seeds over five worlds, two runs of every algorithm in each; skewed runs."""
    lines: dict[str, dict[int, Floats]] = {}
    level = rng.normal(0.5, 0.02, 5)
    for method, effect in (("baseline", 0.0), *((str(i), e) for i, e in enumerate(effects))):
        own = rng.normal(0, 0.01, 5)
        runs = effect + level[:, None] + own[:, None] - rng.exponential(0.02, (5, 2)) + 0.02
        lines[method] = {w: runs[w][:, None] for w in range(5)}
    return lines, False


def experiments(experiment: Experiment, effects: Floats) -> list[list[Contrast]]:
    """Per experiment, each method minus the baseline."""
    rng = np.random.default_rng(20_26)
    found = []
    for _ in range(EXPERIMENTS):
        scores, shared = experiment(rng, effects)
        lines = Lines(scores, shared_users=shared)
        found.append([lines.minus(str(i), "baseline") for i in range(len(effects))])
    return found


@pytest.mark.parametrize("experiment", [worlds, draws, seeds])
@pytest.mark.parametrize("effect", [0.0, 0.05])
def test_a_95_percent_interval_holds_the_truth_95_times_in_100(
    experiment: Experiment, effect: float
) -> None:
    found = experiments(experiment, np.array([effect]))
    held = np.mean([one.low <= effect <= one.high for (one,) in found])
    # Crossed draws are on the careful side: their residual may be counted up to twice.
    assert 0.95 - MARGIN <= held <= (0.99 if experiment is draws else 0.95 + MARGIN)


@pytest.mark.parametrize("experiment", [worlds, draws, seeds])
def test_equal_methods_are_seldom_called_different(experiment: Experiment) -> None:
    # The chance that at least one of 35 equal methods is significant is at most 5%.
    found = experiments(experiment, np.zeros(METHODS))
    assert np.mean([any(holm(contrasts)) for contrasts in found]) <= 0.05 + MARGIN


@pytest.mark.parametrize("experiment", [worlds, draws, seeds])
def test_methods_that_differ_do_not_make_equal_ones_significant(experiment: Experiment) -> None:
    effects = np.zeros(METHODS)
    effects[:10] = 0.2
    found = [holm(contrasts) for contrasts in experiments(experiment, effects)]
    assert np.mean([any(significant[10:]) for significant in found]) <= 0.05 + MARGIN
    # And what is large is found.
    assert np.mean([np.mean(significant[:10]) for significant in found]) > 0.8


def test_the_interval_of_a_gain_holds_the_true_ratio() -> None:
    rng = np.random.default_rng(7)
    held = []
    for _ in range(EXPERIMENTS):
        base = rng.normal(0.46, 0.02, 5)
        lines = {
            line: {w: np.full((1, 1), base[w] + value + rng.normal(0, 0.015)) for w in range(5)}
            for line, value in (("fixed", 0.0), ("reference", 0.15), ("a", 0.12))
        }
        found = Lines(lines).gain("a", "fixed", "reference")
        held.append(found.low <= 0.8 <= found.high)
    assert 0.95 - MARGIN <= np.mean(held) <= 0.95 + MARGIN


def test_the_jackknife_of_an_inter_quartile_mean_holds_the_truth() -> None:
    rng = np.random.default_rng(8)
    held = []
    for _ in range(EXPERIMENTS):
        # Six tasks in five worlds, two runs each; worlds are in common to the tasks.
        runs = 0.6 + rng.normal(0, 0.1, (1, 5, 1)) + rng.normal(0, 0.15, (6, 5, 2))
        found = jackknife(lambda some: float(iqm(runs[:, list(some)].ravel())), range(5))  # noqa: B023 - used at once
        held.append(found.low <= 0.6 <= found.high)
    assert 0.95 - MARGIN <= np.mean(held) <= 0.99


@pytest.mark.slow
@pytest.mark.parametrize("users", [100, 500])
def test_the_bootstrap_over_users_holds_the_truth(users: int) -> None:
    # `rpp_env.evaluate`: NDCG@10 of single users is 0 or lies on a few steps.
    rng = np.random.default_rng(9)
    steps = np.array([0.0, 0.3, 0.39, 0.5, 0.63, 1.0])
    chances = {
        "policy": [0.3, 0.15, 0.15, 0.1, 0.1, 0.2],
        "fixed": [0.4, 0.15, 0.15, 0.1, 0.1, 0.1],
        "reference": [0.2, 0.15, 0.15, 0.1, 0.1, 0.3],
    }
    truth = {line: float(steps @ np.array(p)) for line, p in chances.items()}
    wanted = {
        "mean": truth["policy"],
        "difference": truth["policy"] - truth["fixed"],
        "gain": 0.5,
    }
    held: dict[str, list[bool]] = {name: [] for name in wanted}
    for seed in range(EXPERIMENTS):
        # The same draw for all lines: users are paired.
        at = rng.random(users)
        columns = {line: steps[np.searchsorted(np.cumsum(p), at)] for line, p in chances.items()}
        found = estimate(
            columns,
            {
                "mean": lambda means: means["policy"],
                "difference": lambda means: means["policy"] - means["fixed"],
                "gain": lambda means: gain(means["policy"], means["fixed"], means["reference"]),
            },
            resamples=400,
            seed=seed,
        )
        for name, value in wanted.items():
            held[name].append(found[name].low - 1e-9 <= value <= found[name].high + 1e-9)
    for name, hits in held.items():
        assert 0.95 - MARGIN - 0.01 <= np.mean(hits) <= 0.95 + MARGIN, name
