"""User vectors from clicks (PMF), and each user's nearest neighbours.

`fit_factors` fits vectors of items on training histories only; a user's vector is folded in from a
history by the formula by which it would have been fitted, so that users who were not there to be
fitted on have one too. `nearest` finds neighbours by cosine, a few rows at a time.

PMF (Salakhutdinov and Mnih, NeurIPS 2007) is a Gaussian likelihood of observed ratings. Clicks are
all 1, and a product that is 1 everywhere would be perfect. So pairs without a click are observed as
0 with a lower precision (Hu, Koren and Volinsky, ICDM 2008)::

    sum over u, i of c_ui (x_ui - u . v_i)^2 + decay (sum |u|^2 + sum |v|^2)
    c_ui = 1 + weight x_ui

It is minimised by alternating least squares. Repeated clicks count once.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.splits import Interactions
from rpp_env.errors import InvalidOption
from rpp_env.options import check_seed

__all__ = ["Factors", "fit_factors", "nearest", "unit"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_CELLS = 1 << 22
"""Maximum number of similarities in memory at once (16 MiB)."""
_ROWS = 256
"""Maximum number of users whose similarities are computed at once."""


@dataclass(frozen=True, eq=False)
class Factors:
    """Fitted vectors of the items, and the formula of users' vectors.

    Attributes
    ----------
    items : (num_items, d) float32 array
    decay, weight : float
        Options of `fit_factors`.
    """

    items: Floats
    decay: float
    weight: float

    def fold_in(self, indptr: Ints, items: NDArray[np.integer[Any]]) -> Floats:
        """(B, d) float32: vectors of users, each from the own history alone.

        Parameters
        ----------
        indptr : (B + 1,) int64 array
            User i's history is ``items[indptr[i]:indptr[i + 1]]``.
        items : (N,) array of int
            Item rows. An empty history gives 0.
        """
        return _solved(self.items.astype(np.float64), indptr, items, self.decay, self.weight)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the vectors and the formula."""
        sha = hashlib.sha256(repr((self.items.shape, self.decay, self.weight)).encode())
        sha.update(np.ascontiguousarray(self.items, "<f4").tobytes())
        return sha.hexdigest()


def fit_factors(
    interactions: Interactions,
    dim: int = 32,
    *,
    decay: float = 1.0,
    weight: float = 10.0,
    rounds: int = 10,
    seed: int = 0,
) -> Factors:
    """Fit vectors of items by alternating least squares; see the module's docstring.

    Parameters
    ----------
    interactions : Interactions
        Histories without any target, such as `rpp_env.data.clicks.training_clicks`: all that is
        read.
    dim : int
        Width of the vectors.
    decay : float
        Weight of the squared lengths (lambda); above 0.
    weight : float
        Further weight of a click, besides the 1 of any pair (alpha); at least 0.
    rounds : int
        Number of rounds, each of users and then items.
    seed : int
        Seed of the first vectors.

    Raises
    ------
    InvalidOption
        For numbers out of range.
    """
    check_seed(seed)
    if min(dim, rounds) < 1 or not decay > 0 or not weight >= 0:
        raise InvalidOption(
            "dim and rounds must be at least 1, decay above 0 and weight at least 0; got "
            f"dim={dim}, rounds={rounds}, decay={decay}, weight={weight}"
        )
    users = np.repeat(np.arange(len(interactions.indptr) - 1), np.diff(interactions.indptr))
    by_item = np.argsort(interactions.items, kind="stable")
    starts = np.concatenate([[0], np.cumsum(interactions.counts)])
    rng = np.random.default_rng(seed)
    vectors = rng.normal(0, 0.1, (interactions.num_items, dim)).astype(np.float32)
    for _ in range(rounds):
        found = Factors(vectors, decay, weight).fold_in(interactions.indptr, interactions.items)
        vectors = _solved(found.astype(np.float64), starts, users[by_item], decay, weight)
    return Factors(vectors, decay, weight)


def _solved(
    others: NDArray[np.float64],
    indptr: Ints,
    rows: NDArray[np.integer[Any]],
    decay: float,
    weight: float,
) -> Floats:
    """(B, d): the best vectors, given those of the other side that each is linked to."""
    every = others.T @ others + decay * np.eye(others.shape[1])
    found = np.zeros((len(indptr) - 1, others.shape[1]), np.float32)
    # One system for each: the bits of a batched product would depend on the batch.
    for i in np.flatnonzero(np.diff(indptr)):
        linked = others[np.unique(rows[indptr[i] : indptr[i + 1]])]
        system = every + weight * linked.T @ linked
        found[i] = np.linalg.solve(system, (1 + weight) * linked.sum(axis=0))
    return found


def nearest(
    vectors: Floats, pool: Floats, count: int, own: Ints | None = None
) -> tuple[Ints, Floats]:
    """Find the nearest rows of `pool` by cosine, most similar first.

    Memory is bounded whatever the number of vectors: at most 4,194,304 similarities are held at a
    time. A row's neighbours do not depend on the other rows.

    Parameters
    ----------
    vectors : (B, d) float array
        A vector of zeros is equally far from all.
    pool : (N, d) float array
    count : int
        Number of neighbours (n).
    own : (B,) int64 array, optional
        Each vector's own row in `pool`, which is never its neighbour; -1: it has none there.

    Returns
    -------
    rows : (B, n) int64 array
    similarities : (B, n) float32 array
        In [-1, 1].

    Raises
    ------
    InvalidOption
        If the pool has too few rows.
    """
    most = len(pool) - (own is not None)
    if not 1 <= count <= most:
        raise InvalidOption(
            f"neighbours must lie in 1..{most}, the number of other users; got {count}"
        )
    queries, keys = unit(vectors), unit(pool)
    rows = np.empty((len(queries), count), np.int64)
    # Always of one shape, because the bits of a product depend on it.
    size = _chunk(len(keys))
    for start in range(0, len(queries), size):
        part = np.arange(start, min(start + size, len(queries)))
        alike = queries[part[np.arange(size) % len(part)]] @ keys.T
        alike = alike[: len(part)]
        if own is not None:
            there = own[part] >= 0
            alike[there, own[part][there]] = -np.inf
        rows[part] = np.argpartition(-alike, count - 1, axis=1)[:, :count]
    rows.sort(axis=1)
    alike = np.stack([(queries * keys[column]).sum(axis=1) for column in rows.T], axis=1)
    order = np.argsort(-alike, axis=1, kind="stable")
    similarities = np.clip(np.take_along_axis(alike, order, axis=1), -1, 1)
    return np.take_along_axis(rows, order, axis=1), similarities


def _chunk(size: int) -> int:
    """Return the number of rows whose similarities to `size` others are held at a time."""
    return max(1, min(_ROWS, _CELLS // size))


def unit(vectors: Floats) -> Floats:
    """(B, d) float32: vectors scaled to length 1; zeros stay zeros."""
    given = np.asarray(vectors, np.float32)
    lengths = np.sqrt((given**2).sum(axis=1, keepdims=True))
    scaled: Floats = np.clip(given / np.maximum(lengths, np.float32(1e-12)), -1, 1)
    return scaled
