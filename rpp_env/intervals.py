"""Estimates with intervals: paired bootstraps over users; gain over the best fixed prompt."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidOption

__all__ = ["SMALLEST_GAP", "Estimate", "estimate", "gain", "has_gap"]

Means = dict[str, NDArray[np.float64]]

_DRAWN = 1 << 22
"""Maximum count of drawn numbers held in memory at once, whatever the number of users."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return format(self)

    def __format__(self, spec: str) -> str:
        """Format each number with `spec` (default ``".3f"``); no interval where it is NaN."""
        value, low, high = (format(x, spec or ".3f") for x in (self.value, self.low, self.high))
        return value if math.isnan(self.low) else f"{value} [{low}, {high}]"


SMALLEST_GAP = 0.005
"""Smallest gap in NDCG@10 for which a gain is reported."""


def gain(score: ArrayLike, fixed: ArrayLike, reference: ArrayLike) -> NDArray[np.float64]:
    """Return (score - fixed) / (reference - fixed), for means over the same users.

    Parameters
    ----------
    score, fixed, reference : arrays of one shape
        Means of a policy, of the best fixed prompt, and of the observable reference.

    Returns
    -------
    Array of that shape
        NaN where the reference is not above the fixed prompt.
    """
    mine, low, top = (np.asarray(x, np.float64) for x in (score, fixed, reference))
    return np.asarray((mine - low) / np.where(top > low, top - low, np.nan))


def has_gap(gap: Estimate | None) -> bool:
    """Return whether reference minus fixed prompt is large and certain enough to report a gain.

    That is, its interval lies above 0 and its value above `SMALLEST_GAP`.
    """
    return gap is not None and gap.low > 0 and gap.value > SMALLEST_GAP


def estimate(
    columns: Mapping[str, ArrayLike],
    statistics: Mapping[str, Callable[[Means], NDArray[np.float64]]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Return functions of means over users, each with its percentile bootstrap interval.

    Every column is resampled with the same users, so that differences are paired. Resamples in
    which a statistic is NaN are left out of its interval.

    Parameters
    ----------
    columns : dict of (U,) arrays
        One value per user, in the same order of users.
    statistics : dict of callables
        Each takes the means of the columns (arrays: one number per resample) and returns an array.
    resamples : int
        Bootstrap samples of the users.
    seed : int

    Raises
    ------
    InvalidOption
        If the columns differ in length or are empty.
    """
    table = {name: np.asarray(column, dtype=np.float64) for name, column in columns.items()}
    sizes = {column.shape for column in table.values()}
    if len(sizes) != 1 or not next(iter(sizes))[0]:
        raise InvalidOption(f"columns must be of the same users, at least one; got shapes {sizes}")
    values = np.stack(list(table.values()))
    users = values.shape[1]
    rng = np.random.default_rng(seed)
    # How often each user is drawn: the means of all columns are then one product.
    means = np.empty((len(values), resamples))
    block = min(256, max(1, _DRAWN // users))
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.multinomial(users, np.full(users, 1 / users), size=size)
        means[:, start : start + size] = values @ drawn.T / users
    resampled = dict(zip(table, means, strict=True))
    whole = {name: column.mean(keepdims=True) for name, column in table.items()}
    estimates = {}
    for name, statistic in statistics.items():
        low, high = np.nanpercentile(statistic(resampled), [2.5, 97.5])
        estimates[name] = Estimate(float(statistic(whole)[0]), float(low), float(high))
    return estimates
