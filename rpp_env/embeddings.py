"""Item vectors, fitted on training interactions only; user vectors are means over histories.

``"svd"`` (default): truncated SVD of the train users x items matrix with the entries
``1 / (n_u^0.25 n_i^0.5)``, n being the interactions of the user and the item; an item is
``V S^0.5``, scaled to length 1.
``"lightgcn"``: LightGCN (He et al., SIGIR 2020) of PyTorch Geometric with the BPR loss on the same
interactions, scaled likewise.

A user's vector is the mean of the vectors of the items in a history: one formula for train and test
users, and no user has a trained vector, which could memorise a target.
"""

from __future__ import annotations

import hashlib
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.arrays import read_arrays, write_arrays
from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.splits import Interactions
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra, RPPWarning, WriteFailed
from rpp_env.options import check_choice

__all__ = ["Embeddings", "fit_embeddings", "normalised_graph"]

_VERSION = 1
"""Part of every cache key: raise it with each change here that changes the numbers."""

_LAYERS, _STEPS, _BATCH, _RATE = 2, 300, 1 << 14, 0.05
"""LightGCN's number of layers; Adam's steps, pairs per step and learning rate."""

Array = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Embeddings:
    """Fitted vectors and popularity of the items.

    Attributes
    ----------
    items : (I, d) float32 array
        Collaborative space. Rows have length 1; 0 for items without training interactions.
    content : (I, c) float32 array
        Content space: hashed genres and title words. Rows have length 1, or 0 where there are none.
    popularity : (I,) float32 array
        ``log(1 + n) / log(1 + max n)`` of the item's training interactions n; in [0, 1].
    """

    items: Array
    content: Array
    popularity: Array

    def fold_in(self, histories: NDArray[np.integer[Any]]) -> Array:
        """User vectors: the means of the items' collaborative vectors.

        Parameters
        ----------
        histories : (B, L) array of int
            Item rows; -1 where there is none.

        Returns
        -------
        (B, d) float32 array
            Vectors of length at most 1; 0 for an empty history.
        """
        # Index -1 selects the added row of zeros.
        padded = np.vstack([self.items, np.zeros_like(self.items[:1])])
        count = np.maximum((histories >= 0).sum(axis=1, keepdims=True), 1)
        means: Array = padded[histories].sum(axis=1) / count.astype(np.float32)
        return means

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all arrays."""
        return _digest(self.items, self.content, self.popularity)


def fit_embeddings(
    dataset: Dataset,
    interactions: Interactions,
    *,
    method: Literal["svd", "lightgcn"] = "svd",
    dim: int = 32,
    content_dim: int = 64,
    seed: int = 0,
    cache: str | Path | Literal[False] | None = None,
) -> Embeddings:
    """Fit item vectors; the same arguments give the same bits on the same machine.

    Parameters
    ----------
    dataset : Dataset
        Its titles and genres make the content space; its sequences are not read.
    interactions : Interactions
        `training_interactions`: the only input of the collaborative space and popularity.
    method : {"svd", "lightgcn"}
    dim, content_dim : int
        Widths of the two spaces; at least 1. If the matrix has a lower rank than `dim`, the other
        columns are 0.
    seed : int
        Seed of SVD's start vector, and of LightGCN's first weights and samples; at least 0.
    cache : str, Path or False, optional
        Folder for the fitted collaborative vectors (``.npz``); False: no cache. By default
        ``embeddings`` in the cache folder. The file's name is a digest of the interactions and of
        all options.
        all options.

    Returns
    -------
    Embeddings

    Raises
    ------
    InvalidOption
        For an unknown method or a width below 1.
    MissingExtra
        For LightGCN without PyTorch Geometric: ``pip install 'rpp-env[agents]'``.
    """
    check_choice("embedding method", method, ("svd", "lightgcn"))
    if min(dim, content_dim) < 1 or seed < 0:
        raise InvalidOption(
            "dim and content_dim must be at least 1 and seed at least 0; got "
            f"dim={dim}, content_dim={content_dim}, seed={seed}"
        )
    counts = interactions.counts
    popularity = np.log1p(counts) / max(np.log1p(counts.max(initial=0)), 1e-9)
    return Embeddings(
        _collaborative(interactions, method, dim, seed, cache),
        _content(dataset, content_dim),
        popularity.astype(np.float32),
    )


def _collaborative(
    interactions: Interactions,
    method: str,
    dim: int,
    seed: int,
    cache: str | Path | Literal[False] | None,
) -> Array:
    path = None
    if cache is not False:
        key = _digest(
            interactions.indptr,
            interactions.items,
            np.array([interactions.num_items, dim, seed, _VERSION]),
        )
        folder = cache_dir() / "embeddings" if cache is None else Path(cache)
        path = folder / f"{method}-{key[:32]}.npz"
        if (kept := _cached(path, (interactions.num_items, dim))) is not None:
            return kept
    vectors = (
        _svd(interactions, dim, seed) if method == "svd" else _lightgcn(interactions, dim, seed)
    )
    # Items without training interactions have no direction, only rounding errors or first weights.
    vectors[interactions.counts == 0] = 0.0
    items = _unit(vectors)
    if path is not None:
        try:
            write_arrays(path, {"items": items})
        except WriteFailed as error:
            message = f"{error}; the next environment fits its embeddings again"
            warnings.warn(message, RPPWarning, stacklevel=3)
    return items


def _cached(path: Path, shape: tuple[int, int]) -> Array | None:
    """Return the vectors that an earlier call saved; None if there are none, or unusable ones."""
    if not path.is_file():
        return None
    try:
        kept, proven = read_arrays(path)
    except InvalidData as error:
        warnings.warn(f"{error}; the embeddings are fitted again", RPPWarning, stacklevel=4)
        return None
    items: Array | None = kept.get("items")
    usable = proven and items is not None and items.shape == shape and items.dtype == np.float32
    return items if usable else None


def _svd(interactions: Interactions, dim: int, seed: int) -> NDArray[np.float64]:
    from scipy.sparse.linalg import svds

    matrix = _matrix(interactions)
    vectors = np.zeros((interactions.num_items, dim))
    rank = min(dim, min(matrix.shape) - 1)
    if rank < 1 or not matrix.nnz:
        return vectors
    start = np.random.default_rng(seed).uniform(-1.0, 1.0, min(matrix.shape))
    _, values, rows = svds(matrix, k=rank, v0=start, return_singular_vectors="vh")
    order = np.argsort(-values, kind="stable")
    order = order[values[order] > 1e-9 * values.max()]
    found = rows[order].T * np.sqrt(values[order])
    # The sign of a singular vector is arbitrary: make its largest entry positive.
    found *= np.sign(found[np.abs(found).argmax(axis=0), np.arange(len(order))])
    vectors[:, : len(order)] = found
    return vectors


def _matrix(interactions: Interactions) -> Any:
    """Train users x items, each entry divided by n_u^0.25 n_i^0.5; repeats add up."""
    from scipy import sparse

    lengths = np.diff(interactions.indptr)
    weights = np.repeat(np.maximum(lengths, 1) ** -0.25, lengths)
    weights *= np.maximum(interactions.counts, 1)[interactions.items] ** -0.5
    return sparse.csr_matrix(
        (weights, interactions.items, interactions.indptr),
        shape=(len(lengths), interactions.num_items),
    )


def _lightgcn(interactions: Interactions, dim: int, seed: int) -> NDArray[np.float64]:
    def batches(rng: np.random.Generator, pairs: int) -> Iterator[Ints]:
        for _ in range(_STEPS if pairs else 0):
            yield rng.integers(pairs, size=_BATCH)

    trained = train_lightgcn(
        interactions, dim, batches, layers=_LAYERS, rate=_RATE, decay=1e-4, seed=seed
    )
    return next(trained)[1].astype(np.float64)


def train_lightgcn(
    histories: Interactions,
    dim: int,
    batches: Callable[[np.random.Generator, int], Iterable[Ints]],
    *,
    layers: int,
    rate: float,
    decay: float,
    decay_items: bool = False,
    seed: int = 0,
) -> Iterator[tuple[Array, Array]]:
    """Train LightGCN (He et al., SIGIR 2020) with the BPR loss; yields after each round, endlessly.

    Parameters
    ----------
    histories : Interactions
        The pairs of user and item to learn.
    dim : int
        Width of the vectors.
    batches : callable
        Takes a random generator and the number of pairs, and returns a round's batches: arrays of
        indices of pairs.
    layers : int
        Number of graph convolution layers.
    rate : float
        Adam's learning rate.
    decay : float
        Weight of the squared lengths of the batch's users in the loss.
    decay_items : bool
        Whether to add the squared lengths of its items too.
    seed : int
        Seed of first weights, batches and negative items.

    Yields
    ------
    (users, items) : float32 arrays (U, dim) and (I, dim)
        After each round.

    Raises
    ------
    MissingExtra
        Without PyTorch Geometric: ``pip install 'rpp-env[agents]'``.
    """
    try:
        import torch
        from torch_geometric.nn import LightGCN
    except ImportError:
        raise MissingExtra("PyTorch Geometric", "agents") from None

    count, width = len(histories.indptr) - 1, histories.num_items
    users = np.repeat(np.arange(count), np.diff(histories.indptr))
    items = histories.items.astype(np.int64)
    touched = np.unique(users * width + items)
    graph = normalised_graph(users, items + count, count + width)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LightGCN(count + width, dim, layers, normalize=False)
    shares = model.alpha.numpy()

    def spread(leaf: torch.Tensor) -> torch.Tensor:
        """Apply the network: the weighted sum of the vectors after 0, 1, 2, ... layers."""
        vectors = leaf.numpy()
        total = vectors * shares[0]
        for share in shares[1:]:
            vectors = graph @ vectors
            total += vectors * share
        return torch.from_numpy(total)

    weights = model.embedding.weight
    optimizer = torch.optim.Adam([weights], lr=rate)
    while True:
        for pairs in batches(rng, len(users)):
            others = rng.integers(width, size=len(pairs))
            codes = users[pairs] * width + others
            new = touched[np.minimum(np.searchsorted(touched, codes), len(touched) - 1)] != codes
            if not new.any():
                continue  # these users interacted with every item
            user = torch.from_numpy(users[pairs[new]])
            liked = torch.from_numpy(items[pairs[new]]) + count
            other = torch.from_numpy(others[new]) + count
            vectors = spread(weights.detach()).requires_grad_()
            # index_select, because the gradients of vectors[user] add up in no fixed order.
            mine, chosen, rest = (vectors.index_select(0, at) for at in (user, liked, other))
            scores = [(mine * item).sum(dim=1) for item in (chosen, rest)]
            nodes = torch.unique(torch.cat([user, liked, other]) if decay_items else user)
            optimizer.zero_grad()
            model.recommendation_loss(*scores, node_id=nodes, lambda_reg=decay).backward()
            assert weights.grad is not None
            assert vectors.grad is not None
            # The graph is symmetric and the network linear, so the backward pass is `spread` too.
            # Sparse products of torch, above all backward, take ten times as long on a CPU.
            weights.grad += spread(vectors.grad)
            optimizer.step()
        fitted: Array = spread(weights.detach()).numpy()
        yield fitted[:count], fitted[count:]


def normalised_graph(users: NDArray[np.int64], items: NDArray[np.int64], nodes: int) -> Any:
    """Return the symmetric, degree-normalised adjacency of users and items, as a sparse matrix."""
    from scipy import sparse

    ones = np.ones(len(users), dtype=np.float32)
    half = sparse.coo_matrix((ones, (users, items)), shape=(nodes, nodes)).tocsr()
    whole = (half + half.T).tocoo()
    scale = np.maximum(np.asarray(whole.sum(axis=1)).ravel(), 1.0) ** -0.5
    whole.data *= scale[whole.row] * scale[whole.col]
    return whole.tocsr()


_WORD = re.compile(r"\w+")


def _content(dataset: Dataset, dim: int) -> Array:
    """Return hashed genres and title words, with rarer ones weighted higher.

    A word that occurs in only one title relates it to no other, so it is left out.
    """
    from scipy import sparse

    marks = [
        {f"genre:{genre}" for genre in genres} | {f"word:{word}" for word in _words(title)}
        for title, genres in zip(dataset.titles, dataset.genres, strict=True)
    ]
    frequency = Counter(mark for own in marks for mark in own)
    kept = sorted(mark for mark, count in frequency.items() if count > 1)
    column = {mark: number for number, mark in enumerate(kept)}
    weights = np.log(dataset.num_items / np.array([frequency[mark] for mark in kept], dtype=float))
    cells = [
        (row, column[mark])
        for row, own in enumerate(marks)
        for mark in sorted(own)
        if mark in column
    ]
    rows, columns = np.array(cells, dtype=np.int64).reshape(-1, 2).T
    matrix = sparse.csr_matrix(
        (weights[columns], (rows, columns)), shape=(dataset.num_items, len(kept))
    )
    vectors: NDArray[np.float64] = matrix @ _hashed(kept, dim)
    return _unit(vectors)


def _words(title: str) -> set[str]:
    return {word for word in _WORD.findall(title.casefold()) if len(word) > 1}


def _hashed(marks: list[str], dim: int) -> NDArray[np.float64]:
    """(n, dim): +1 or -1 in four columns for each word, chosen by its hash."""
    digests = b"".join(hashlib.blake2b(mark.encode(), digest_size=16).digest() for mark in marks)
    numbers = np.frombuffer(digests, dtype="<u4").reshape(-1, 4)
    table = np.zeros((len(marks), dim))
    rows = np.repeat(np.arange(len(marks)), 4)
    signs = np.where(numbers & 1, 1.0, -1.0).ravel()
    np.add.at(table, (rows, ((numbers >> 1) % dim).ravel().astype(np.int64)), signs)
    return table


def _unit(vectors: NDArray[np.float64]) -> Array:
    """Scale rows to length 1 (slightly less, so that rounding stays in [-1, 1]); zeros stay."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    scale = np.where(lengths > 1e-9, (1.0 - 1e-6) / np.maximum(lengths, 1e-9), 0.0)
    return (vectors * scale).astype(np.float32)


def _digest(*arrays: NDArray[Any]) -> str:
    sha = hashlib.sha256()
    for array in arrays:
        sha.update(f"{array.dtype.str}{array.shape}".encode())
        sha.update(np.ascontiguousarray(array).tobytes())
    return sha.hexdigest()
