"""Ranking metrics for one relevant item, over arrays of its rank.

Ranks count from 1; rank 0 means that the item was not named, and scores 0. All functions take a
number or an array and return float64 of the same shape.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["chance_ndcg", "hit", "mrr", "ndcg"]


def _ranks(ranks: ArrayLike) -> NDArray[np.int64]:
    array = np.asarray(ranks)
    if array.dtype.kind not in "iu":
        raise ValueError(f"ranks are integers (1 is best, 0 is not named), not {array.dtype}")
    if array.size and array.min() < 0:
        raise ValueError(f"a rank is 0 (not named), 1, 2, ...; got {array.min()}")
    return array.astype(np.int64)


def ndcg(ranks: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """NDCG@k with one relevant item: ``1 / log2(rank + 1)`` up to rank k, else 0."""
    r = _ranks(ranks)
    gain = 1.0 / np.log2(np.maximum(r, 1) + 1.0)
    return np.where((r >= 1) & (r <= k), gain, 0.0)


def hit(ranks: ArrayLike, k: int = 10) -> NDArray[np.float64]:
    """1 where the item is among the first k, else 0."""
    r = _ranks(ranks)
    return ((r >= 1) & (r <= k)).astype(np.float64)


def mrr(ranks: ArrayLike) -> NDArray[np.float64]:
    """Reciprocal rank; 0 where the item was not named."""
    r = _ranks(ranks)
    return np.where(r >= 1, 1.0 / np.maximum(r, 1), 0.0)


def chance_ndcg(num_candidates: int, k: int = 10) -> float:
    """Expected NDCG@k of a uniformly random complete ranking of `num_candidates` items."""
    ranks: NDArray[Any] = np.arange(1, num_candidates + 1)
    return float(ndcg(ranks, k).mean())
