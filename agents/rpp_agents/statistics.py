"""How sure a comparison of trained policies is: aggregates over tasks, and bootstrap intervals.

With x the scores of runs (normalised, where several tasks stand together):

==============================  ===============================================================
inter-quartile mean (IQM)       the mean of the middle half of all runs of all tasks
optimality gap                  mean of max(0, 1 - x)
probability of improvement      mean over tasks of P(x > y) + P(x = y) / 2, x a run of one
                                algorithm and y a run of the other on the same task
==============================  ===============================================================

after Agarwal et al. 2021, "Deep Reinforcement Learning at the Edge of the Statistical Precipice"
(https://arxiv.org/abs/2108.13264), whose library ``rliable`` gives the same numbers (a test).
`stratified_bootstrap` is theirs too: runs are resampled within each task.

It asks what other training seeds would have given in the same worlds with the same users.
`hierarchical` (one task) and `Draws` (several) ask about other worlds and other users as well: they
draw worlds, in every drawn world runs and users, all with replacement. All lines of a resample
share its worlds and users, so that what is common to them cancels in a difference. Runs are drawn
for each line on its own: they are independent.

All intervals are 95% percentile intervals, and all draws follow from `seed`.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidOption
from rpp_env.intervals import Estimate

__all__ = [
    "Draws",
    "Resampled",
    "hierarchical",
    "holm",
    "improvement",
    "interval",
    "iqm",
    "optimality_gap",
    "probability_of_improvement",
    "stratified_bootstrap",
]

Floats = NDArray[np.float64]
World = TypeVar("World", bound=Hashable)
Line = TypeVar("Line", bound=Hashable)


# Aggregates


def iqm(scores: ArrayLike) -> Floats:
    """Mean of the middle half along the last axis: a quarter is cut off at each end."""
    from scipy.stats import trim_mean

    return np.asarray(trim_mean(np.asarray(scores, np.float64), 0.25, axis=-1))


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Floats:
    """How far the scores stay below `target` in the mean of the last axis; no credit above it."""
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
    """(..., X, Y) of (..., X) and (..., Y): 1 where x is larger, 1/2 where they are equal."""
    left, right = x[..., :, None], y[..., None, :]
    return np.asarray((left > right) + 0.5 * (left == right))


# Intervals


def stratified_bootstrap(
    statistic: Callable[[Floats], Floats],
    tasks: Sequence[ArrayLike],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Estimate:
    """A statistic of all runs of all tasks, with runs resampled within each task.

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


class Draws(Generic[World]):
    """One draw of worlds and of users for all tasks that are looked at together.

    Every resample draws as many worlds as there are, with replacement, and the tasks share them; so
    do those that have the same users with these. Otherwise five worlds in nine forms would count as
    45. Runs are drawn for each line on its own.

    Parameters
    ----------
    worlds : sequence
        All of them have a run of every line that will be asked for.
    resamples, seed : int
    """

    def __init__(self, worlds: Sequence[World], *, resamples: int = 2000, seed: int = 0) -> None:
        if not worlds:
            raise InvalidOption("lines can only be compared where each has a run in the same world")
        self.worlds = list(worlds)
        self.resamples, self._seed = resamples, seed
        self._rng = np.random.default_rng(seed)
        self._chosen = self._rng.integers(len(worlds), size=(resamples, len(worlds)))
        self._shares: dict[Hashable, Floats] = {}

    def scores(
        self, runs: Mapping[World, Any], whose: Mapping[World, Hashable] | None = None
    ) -> Floats:
        """Scores (N, W, R) of the runs of one line that each resample draws in its W worlds.

        Parameters
        ----------
        runs : mapping of (R, U) arrays
            Per world, the users' scores in each run; where worlds differ in R, the most are drawn.
        whose : mapping, optional
            Per world, what names its users: one draw for all that have the same. None: scores are
            means already (U = 1), and their users are not drawn.
        """
        most = max(len(runs[world]) for world in self.worlds)
        found = np.empty((*self._chosen.shape, most))
        for index, world in enumerate(self.worlds):
            scores = np.asarray(runs[world], np.float64)
            rows, places = np.nonzero(self._chosen == index)
            picked = self._rng.integers(len(scores), size=(len(rows), most))
            if whose is None:
                found[rows, places] = scores[picked, 0]
            else:
                means = scores @ self._users(whose[world], scores.shape[1]).T
                found[rows, places] = means[picked, rows[:, None]]
        return found

    def _users(self, whose: Hashable, count: int) -> Floats:
        if whose not in self._shares:
            # From their name alone: not from who was asked for before.
            rng = np.random.default_rng([self._seed, zlib.crc32(repr(whose).encode())])
            self._shares[whose] = _weights(rng, count, self.resamples)
        return self._shares[whose]


def improvement(ours: Sequence[Floats], theirs: Sequence[Floats]) -> Floats:
    """Probability of improvement in every resample (N,).

    Runs are compared within a world only; worlds count alike within a task, and tasks alike.

    Parameters
    ----------
    ours, theirs : sequences of (N, W, R) arrays
        Per task, what `Draws.scores` drew; W worlds in common, the numbers of runs may differ.
    """
    pairs = zip(ours, theirs, strict=True)
    return np.asarray(np.mean([_beats(x, y).mean((-3, -2, -1)) for x, y in pairs], axis=0))


def interval(value: float, found: Floats) -> Estimate:
    """A value with the 95% percentile interval of its resamples; those that are NaN say nothing."""
    found = found[~np.isnan(found)]
    low, high = np.percentile(found, [2.5, 97.5]) if len(found) else (np.nan, np.nan)
    return Estimate(float(value), float(low), float(high))


def holm(estimates: Sequence[Estimate]) -> list[bool]:
    """Which differences are not 0 when so many are looked at, at 5% by Holm's step-down rule.

    Each p-value is that of a normal distribution as wide as the bootstrap interval. A difference
    that is NaN was not looked at.
    """
    from scipy.stats import norm

    spread = [(e.high - e.low) / (2 * norm.ppf(0.975)) for e in estimates]
    p = {
        # Sums of the same numbers in another order differ by less, and mean nothing.
        i: 2 * norm.sf(abs(e.value) / s) if s > 1e-9 else float(abs(e.value) < 1e-9)
        for i, (e, s) in enumerate(zip(estimates, spread, strict=True))
        if not np.isnan(e.value)
    }
    clear = [False] * len(estimates)
    for rank, i in enumerate(sorted(p, key=p.__getitem__)):
        if not p[i] <= 0.05 / (len(p) - rank):
            break
        clear[i] = True
    return clear


def _weights(rng: np.random.Generator, count: int, size: int) -> Floats:
    """(size, count): how often each of `count` is drawn in a resample, as a share."""
    return np.asarray(rng.multinomial(count, np.full(count, 1 / count), size=size) / count)


@dataclass(frozen=True, eq=False)
class Resampled(Generic[Line]):
    """What `hierarchical` drew.

    Attributes
    ----------
    whole : dict of (1, W) arrays
        Per line, its mean in each world; NaN where it has no run.
    drawn : dict of (N, W) arrays
        The same for the W worlds of each resample.
    """

    whole: dict[Line, Floats]
    drawn: dict[Line, Floats]

    def estimate(self, statistic: Callable[[Mapping[Line, Floats]], Floats]) -> Estimate:
        """The mean over worlds of a statistic of the lines' means in each world.

        Worlds where a line is missing are left out, and so are resamples of such worlds alone.
        """
        value = _mean(statistic(self.whole))[0]
        return interval(float(value), _mean(statistic(self.drawn)))


def _mean(values: Floats) -> Floats:
    """Mean of each row over what is not NaN; NaN where nothing is."""
    there = ~np.isnan(values)
    total = np.where(there, values, 0).sum(axis=1)
    count = there.sum(axis=1)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def hierarchical(
    lines: Mapping[Line, Mapping[World, Any]],
    *,
    shared_users: bool = False,
    resamples: int = 2000,
    seed: int = 0,
) -> Resampled[Line]:
    """Resample worlds, runs within them, and users; users and worlds alike for all lines.

    Parameters
    ----------
    lines : mapping of mappings of (R, U) arrays
        Per line (an algorithm, a baseline) and world, the users' scores in each of its R runs. A
        baseline is a line with one run. The U users of a world are the same for all lines.
    shared_users : bool
        The users of all worlds are the same, as where a world is a draw of candidates: then one
        draw of users serves all worlds of a resample.

    Raises
    ------
    InvalidOption
        Where lines differ in their users.
    """
    worlds = list(dict.fromkeys(world for line in lines.values() for world in line))
    sizes: dict[World, int] = {}
    for line in lines.values():
        for world, scores in line.items():
            users = np.shape(scores)[-1]
            if sizes.setdefault(world, users) != users:
                raise InvalidOption(
                    f"world {world!r} has {sizes[world]} users in one line and {users} in another: "
                    "they cannot be paired"
                )
    if shared_users and len(set(sizes.values())) > 1:
        raise InvalidOption(f"worlds with {sizes} users have no users in common")
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(worlds), size=(resamples, len(worlds)))
    whole = {name: np.full((1, len(worlds)), np.nan) for name in lines}
    drawn = {name: np.full(chosen.shape, np.nan) for name in lines}
    common = np.random.SeedSequence(seed).spawn(1)[0]
    for index, world in enumerate(worlds):
        runs = {n: np.asarray(s[world], np.float64) for n, s in lines.items() if world in s}
        at = np.nonzero(chosen == index)
        stacked = np.concatenate(list(runs.values()))
        if shared_users:
            users_rng = np.random.default_rng(common)  # the same draws in every world
            means = _user_means(users_rng, stacked, resamples)[:, at[0]]
        else:
            means = _user_means(rng, stacked, len(at[0]))
        start = 0
        for name, scores in runs.items():
            whole[name][0, index] = scores.mean()
            part = means[start : start + len(scores)]
            drawn[name][at] = (_weights(rng, len(scores), part.shape[1]).T * part).sum(axis=0)
            start += len(scores)
    return Resampled(whole, drawn)


def _user_means(rng: np.random.Generator, scores: Floats, resamples: int) -> Floats:
    """(R, resamples): means of every row of (R, U) scores over resampled users."""
    means = np.empty((len(scores), resamples))
    for start in range(0, resamples, 256):  # bounds the memory of the draws
        size = min(256, resamples - start)
        means[:, start : start + size] = scores @ _weights(rng, scores.shape[1], size).T
    return means
