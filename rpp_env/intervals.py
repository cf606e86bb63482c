"""Bootstrap intervals over users, paired: every column is resampled with the same users."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidOption

__all__ = ["Estimate", "estimate"]

Means = dict[str, NDArray[np.float64]]

_DRAWN = 1 << 22
"""Numbers of draws that are held at once: bounds the memory, whatever the number of users."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number and its 95% interval (percentile bootstrap)."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.3f} [{self.low:.3f}, {self.high:.3f}]"


def estimate(
    columns: Mapping[str, ArrayLike],
    statistics: Mapping[str, Callable[[Means], NDArray[np.float64]]],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Functions of means over users, each with its interval.

    Parameters
    ----------
    columns : dict of (U,) arrays
        Numbers of the same users, in the same order.
    statistics : dict of callables
        Each takes the means of the columns (arrays: one number per resample) and gives an array.
    resamples : int
        Bootstrap samples of the users.
    seed : int

    Raises
    ------
    InvalidOption
        Where the columns differ in length or are empty.
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
        low, high = np.percentile(statistic(resampled), [2.5, 97.5])
        estimates[name] = Estimate(float(statistic(whole)[0]), float(low), float(high))
    return estimates
