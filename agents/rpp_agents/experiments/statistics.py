"""Intervals and significance of comparisons over worlds, training runs and users.

Published comparisons rest on few worlds (five, say), and percentile bootstraps of five draws are
too narrow: `Lines` uses Student's t instead. What is averaged, and over what the variance is taken:

===========================  =================================================================
several worlds               the mean over worlds; runs and users belong to one world each, so
                             that the spread of the worlds' means holds theirs (W - 1 degrees
                             of freedom)
several draws of the same    the mean over draws and users, which are crossed: the variances of
users                        both, less what they share; degrees of freedom by Satterthwaite
one world                    the mean over users; the variances of users and of training runs,
                             and nothing about other worlds
===========================  =================================================================

A comparison subtracts user by user within a world, so that what two lines have in common cancels.
`holm` corrects for the number of comparisons. How often such intervals hold the truth, and how
often one of many comparisons of equal methods is called significant, is simulated in
``tests/agents/test_statistics_coverage.py``.

Aggregates of the runs x of several tasks, after Agarwal et al. 2021, "Deep Reinforcement Learning
at the Edge of the Statistical Precipice" (https://arxiv.org/abs/2108.13264), whose library
``rliable`` gives the same numbers (a test):

==============================  ===============================================================
inter-quartile mean (IQM)       the mean of the middle half of all runs of all tasks
optimality gap                  mean of max(0, 1 - x)
probability of improvement      mean over tasks of P(x > y) + P(x = y) / 2, x a run of one
                                algorithm and y a run of the other on the same task
==============================  ===============================================================

`stratified_bootstrap` is theirs too: it resamples runs within each task, and says what other
training seeds would have given in the same worlds. `jackknife` says what other worlds would have.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidOption
from rpp_env.intervals import Estimate, gain

__all__ = [
    "Contrast",
    "Lines",
    "holm",
    "iqm",
    "jackknife",
    "optimality_gap",
    "probability_of_improvement",
    "stratified_bootstrap",
]

Floats = NDArray[np.float64]
World = TypeVar("World", bound=Hashable)
Line = TypeVar("Line", bound=Hashable)
Spread = tuple[float, float]
"""A variance of an estimate, and its degrees of freedom."""

NAN = float("nan")
ROUNDING = 1e-9
"""Smaller differences are rounding errors of equal sums in different orders."""


# Aggregates


def iqm(scores: ArrayLike) -> Floats:
    """Compute the inter-quartile mean along the last axis: a quarter is cut off at each end."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.asarray(scores, np.float64), 0.25, axis=-1))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Floats:
    """Compute the optimality gap: mean shortfall below `target` over the last axis."""
    return np.asarray(target - np.minimum(np.asarray(scores, np.float64), target).mean(axis=-1))


def probability_of_improvement(ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike]) -> float:
    """Mean over tasks of P(x > y), ties half.

    Parameters
    ----------
    ours, theirs : sequences of (R,) arrays
        Per task, the scores of the runs; the numbers of runs may differ.
    """
    pairs = zip(ours, theirs, strict=True)
    return float(np.mean([_beats(np.asarray(x), np.asarray(y)).mean() for x, y in pairs]))


def _beats(x: Floats, y: Floats) -> Floats:
    """(X, Y) comparisons of (X,) and (Y,): 1 where x is larger, 1/2 where they are equal."""
    return np.asarray((x[:, None] > y) + 0.5 * (x[:, None] == y))


# Intervals


@dataclass(frozen=True, slots=True)
class Contrast(Estimate):
    """A number, its 95% interval, and its p-value under the hypothesis that the truth is 0.

    Attributes
    ----------
    p : float
        Two-sided p-value of the value being 0; NaN where nothing could be compared.
    """

    p: float


def stratified_bootstrap(
    statistic: Callable[[Floats], Floats],
    tasks: Sequence[ArrayLike],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Compute a statistic of all runs of all tasks, with runs resampled within each task.

    Parameters
    ----------
    statistic : callable
        From (..., N) scores to (...), such as `iqm`.
    tasks : sequence of (R,) arrays
        Per task, the scores of its runs; N is their number over all tasks.
    """
    scores = [np.asarray(task, np.float64) for task in tasks]
    if not scores or not all(len(task) for task in scores):
        raise InvalidOption("a bootstrap over runs needs at least one task, each with a run")
    rng = np.random.default_rng(seed)
    drawn = [task[rng.integers(len(task), size=(resamples, len(task)))] for task in scores]
    low, high = np.percentile(statistic(np.concatenate(drawn, axis=1)), [2.5, 97.5])
    return Estimate(float(statistic(np.concatenate(scores))), float(low), float(high))


def jackknife(statistic: Callable[[tuple[World, ...]], float], worlds: Sequence[World]) -> Contrast:
    """Compute a statistic of several worlds, with a leave-one-out (jackknife) interval.

    Parameters
    ----------
    statistic : callable
        From some of the worlds to a number, such as the IQM of all runs in them.
    worlds : sequence
        All of them; at least two, or the interval is NaN.
    """
    every = tuple(worlds)
    value = float(statistic(every))
    count = len(every)
    if count < 2:
        return _student(value, [])
    without = [float(statistic((*every[:i], *every[i + 1 :]))) for i in range(count)]
    pseudo = count * value - (count - 1) * np.array(without)
    return _student(value, [_spread(pseudo)])


def holm(contrasts: Sequence[Contrast]) -> list[bool]:
    """Test which of several differences are significantly not 0, by Holm's rule at 5%.

    A difference whose p-value is NaN was not looked at.
    """
    p = {i: contrast.p for i, contrast in enumerate(contrasts) if not np.isnan(contrast.p)}
    significant = [False] * len(contrasts)
    for rank, i in enumerate(sorted(p, key=p.__getitem__)):
        if not p[i] <= 0.05 / (len(p) - rank):
            break
        significant[i] = True
    return significant


class Lines(Generic[Line]):
    """Scores of several lines (algorithms, methods, baselines) in the same worlds.

    Parameters
    ----------
    lines : mapping of mappings of (R, U) arrays
        Per line and world, the users' scores in each of its R training runs. A baseline has one
        run. The U users of a world are the same for all lines.
    shared_users : bool
        The users of all worlds are the same, as where a world is a draw of candidates.

    Raises
    ------
    InvalidOption
        Where lines differ in their users.
    """

    def __init__(
        self, lines: Mapping[Line, Mapping[World, Any]], *, shared_users: bool = False
    ) -> None:
        self._runs: dict[Line, dict[Any, Floats]] = {
            line: {world: np.asarray(runs, np.float64) for world, runs in by_world.items()}
            for line, by_world in lines.items()
        }
        self._shared = shared_users
        sizes: dict[Any, int] = {}
        for by_world in self._runs.values():
            for world, runs in by_world.items():
                if sizes.setdefault(world, runs.shape[1]) != runs.shape[1]:
                    raise InvalidOption(
                        f"world {world!r} has {sizes[world]} users in one line and "
                        f"{runs.shape[1]} in another: they cannot be paired"
                    )
        if shared_users and len(set(sizes.values())) > 1:
            raise InvalidOption(f"worlds with {sizes} users have no users in common")

    def __contains__(self, line: object) -> bool:
        return line in self._runs

    def mean(self, line: Line) -> Contrast:
        """Return the mean score of a line over its worlds; NaN without any."""
        return self.contrast({line: 1.0})

    def minus(self, left: Line, right: Line) -> Contrast:
        """Return the mean of `left` minus that of `right`, in the worlds where both have a run."""
        return self.contrast({left: 1.0, right: -1.0} if left != right else {left: 0.0})

    def contrast(self, weights: Mapping[Line, float]) -> Contrast:
        """Return the weighted sum of the lines' means, in worlds where all of them have a run."""
        worlds = self._common(weights)
        if not worlds:
            return Contrast(NAN, NAN, NAN, NAN)
        value = sum(weight * self._mean(line, worlds) for line, weight in weights.items())
        return _student(value, self._spreads(weights, worlds))

    def gain(self, score: Line, fixed: Line, reference: Line) -> Contrast:
        """`rpp_env.intervals.gain` of the three lines' means, a ratio of means over all worlds.

        NaN where the reference is not above the fixed prompt. The interval is by linearisation.
        """
        worlds = self._common((score, fixed, reference))
        if not worlds:
            return Contrast(NAN, NAN, NAN, NAN)
        top, low, mine = (self._mean(line, worlds) for line in (reference, fixed, score))
        share = float(gain(mine, low, top))
        if np.isnan(share):
            return Contrast(NAN, NAN, NAN, NAN)
        weights = dict.fromkeys((score, fixed, reference), 0.0)
        for line, slope in ((score, 1.0), (fixed, share - 1), (reference, -share)):
            weights[line] += slope / (top - low)
        return _student(share, self._spreads(weights, worlds))

    def _common(self, lines: Sequence[Line] | Mapping[Line, float]) -> list[Any]:
        first, *others = (self._runs[line] for line in lines)
        return [world for world in first if all(world in other for other in others)]

    def _mean(self, line: Line, worlds: Sequence[Any]) -> float:
        return float(np.mean([self._runs[line][world].mean() for world in worlds]))

    def _spreads(self, weights: Mapping[Line, float], worlds: Sequence[Any]) -> list[Spread]:
        """Return the variances of the weighted sum, each with its degrees of freedom."""

        def of_users(world: Any) -> Floats:
            return np.asarray(
                sum(w * self._runs[line][world].mean(axis=0) for line, w in weights.items())
            )

        if len(worlds) == 1:
            users = of_users(worlds[0])
            runs = [w * self._runs[line][worlds[0]].mean(axis=1) for line, w in weights.items()]
            return [_spread(values) for values in (users, *runs) if len(values) > 1]
        if not self._shared:
            return [_spread(np.array([of_users(world).mean() for world in worlds]))]
        return _crossed(np.stack([of_users(world) for world in worlds]))


def _spread(values: Floats) -> Spread:
    return float(values.var(ddof=1)) / len(values), len(values) - 1


def _crossed(scores: Floats) -> list[Spread]:
    """Return variances of the mean of (W, U) scores over crossed draws and users.

    The residual is part of both; it is taken out once, as far as the larger one is kept.
    """
    draws, users = scores.shape
    by_draw, by_user = scores.mean(axis=1), scores.mean(axis=0)
    of_draws, _ = _spread(by_draw)
    if users == 1:
        return [(of_draws, draws - 1)]
    of_users, _ = _spread(by_user)
    rest = scores - by_draw[:, None] - by_user + scores.mean()
    residual = (rest**2).sum() / ((draws - 1) * (users - 1)) / scores.size
    total = of_draws + of_users
    kept = max(total - residual, of_draws, of_users) / total if total > 0 else 1.0
    return [(of_draws * kept, draws - 1), (of_users * kept, users - 1)]


def _student(value: float, spreads: Sequence[Spread]) -> Contrast:
    """Student's t interval; degrees of freedom of a sum of variances by Satterthwaite."""
    from scipy.special import stdtr, stdtrit  # Student's t, many times faster than scipy.stats

    if not spreads:
        return Contrast(value, NAN, NAN, NAN)
    variance = sum(of for of, _ in spreads)
    error = float(np.sqrt(variance))
    if error < ROUNDING:
        return Contrast(value, value, value, float(abs(value) < ROUNDING))
    freedom = variance**2 / sum(of**2 / degrees for of, degrees in spreads)
    half = float(stdtrit(freedom, 0.975)) * error
    p = 2 * float(stdtr(freedom, -abs(value) / error))
    return Contrast(value, value - half, value + half, p)
