"""What the agents see: encoders of sentences, and the observer that writes the vectors.

An observation is one vector of named slices (`Observer.layout`), float32 in [-1, 1]:

==================  =============  ==============================================================
slice               width          holds
==================  =============  ==============================================================
``user``            d (32)         the user, folded in from the history
``recency``         20             in the collaborative space: norms of the mean vectors of the
                                   last 1, 3, 5, 10, 20 items (5), their cosines (10: 1-3, 1-5,
                                   1-10, 1-20, 3-5, ...), mean similarity of items that stand 1,
                                   2, 4, 8, 16 places apart (5: who returns, and who moves on)
``content``         20             the same in the space of genres and title words
``popularity``      2              mean popularity of the last 20 items, and of the last 3
``length``          1              items of the history / 50
``sentences``       e (32)         the role, reasoning and output sentences of the last prompt
``ranking``         d (32)         items of the last ranking: their mean, weighted by the DCG
                                   discount (``ranking="mean"``), or
                    K x d          their vectors, best first (``ranking="sequence"``); what was
                                   not named is left out, or zero
``named``           1              share of the candidates that the last ranking named
``shown``           1              history items that the last prompt showed / 50
``level``           1              where the history agent stands / the highest level
``step``            1              steps taken / steps of an episode
``own_action``      most options   the agent's own last action, one-hot
==================  =============  ==============================================================

All but ``own_action`` is the *shared part*; `Observer.state` is the shared part and the last
actions of all agents, one-hot. What a last prompt or ranking would fill is zero before the first
step. Nothing here is a function of rewards, targets, or the other users of the batch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import MAX_HISTORY, TaskSet
from rpp_env.errors import BrokenContract, InvalidOption, MissingExtra
from rpp_env.rules import Rules

if TYPE_CHECKING:
    from rpp_env.embeddings import Embeddings

__all__ = ["Encoder", "HashedNGrams", "Observer", "SentenceTransformerEncoder", "encode"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_WORDS = re.compile(r"[^\W_]+")

WINDOWS = (1, 3, 5, 10, 20)
"""Lengths of recent history that the recency slices compare."""
LAGS = (1, 2, 4, 8, 16)
"""Distances in the sequence whose similarity they hold."""

# What each agent sees under observe="private", besides ``step`` and its own last action.
PRIVATE = (
    ("user",),
    ("recency", "content", "popularity", "length", "shown", "level"),
    ("ranking",),
    ("named", "sentences"),
)


@runtime_checkable
class Encoder(Protocol):
    """Texts to vectors. The vector of a text does not depend on the other texts of the call."""

    @property
    def width(self) -> int:
        """Length of a vector."""
        ...

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32, finite, in [-1, 1]."""
        ...


class HashedNGrams:
    """Words and pairs of words, hashed to random signs and added up; needs no download.

    Every n-gram has a vector of random signs that hangs on its letters and the seed (a random
    projection of the bag of n-grams); a text is the sum of its n-grams', scaled to length 1.

    Parameters
    ----------
    width : int
        Length of the vectors, a multiple of 8, from 8 to 512.
    seed : int
        Of the signs.
    """

    def __init__(self, width: int = 32, seed: int = 0) -> None:
        if not (8 <= width <= 512 and width % 8 == 0):
            raise InvalidOption(f"width must be a multiple of 8 from 8 to 512, not {width}")
        self._width = width
        self.seed = seed
        self._signs: dict[str, bytes] = {}

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32 rows of length 1; an empty text is all zeros."""
        rows = np.zeros((len(texts), self._width), dtype=np.int64)
        for i, text in enumerate(texts):
            words = _WORDS.findall(text.lower())
            grams = (*words, *(f"{a} {b}" for a, b in pairwise(words)))
            signs = b"".join([self._signs.get(gram) or self._hash(gram) for gram in grams])
            table = np.frombuffer(signs, dtype=np.int8).reshape(-1, self._width)
            table.sum(axis=0, dtype=np.int64, out=rows[i])
        # Integers up to here: the sums, and so the vectors, are the same on every machine.
        lengths = np.sqrt((rows * rows).sum(axis=1, keepdims=True))
        scaled: Floats = (rows / np.maximum(lengths, 1)).astype(np.float32)
        return scaled

    def _hash(self, gram: str) -> bytes:
        digest = hashlib.blake2b(f"{self.seed}|{gram}".encode(), digest_size=self._width // 8)
        bits = np.unpackbits(np.frombuffer(digest.digest(), dtype=np.uint8))
        signs = (bits.astype(np.int8) * np.int8(2) - np.int8(1)).tobytes()
        return self._signs.setdefault(gram, signs)


class SentenceTransformerEncoder:
    """A sentence-transformers model under a seeded random projection.

    Parameters
    ----------
    name : str
        A model's name or path, as ``sentence_transformers.SentenceTransformer`` takes it.
    width : int
        Length of the vectors; the projection has orthonormal columns.
    seed : int
        Of the projection.

    Raises
    ------
    MissingExtra
        Where sentence-transformers is not installed.
    """

    def __init__(
        self, name: str = "sentence-transformers/all-MiniLM-L6-v2", width: int = 32, seed: int = 0
    ) -> None:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise MissingExtra("sentence-transformers", "sentence-transformers") from error
        self._model: Any = SentenceTransformer(name)
        full = len(self._embed(["width"])[0])
        if not 1 <= width <= full:
            raise InvalidOption(f"width must lie in 1..{full}, the model's own, not {width}")
        normal = np.random.default_rng(seed).standard_normal((full, width))
        self._projection = np.linalg.qr(normal)[0]
        self._width = width

    @property
    def width(self) -> int:
        """Length of a vector."""
        return self._width

    def encode(self, texts: Sequence[str]) -> Floats:
        """(n, width) float32, rows at most 1 long."""
        projected: Floats = (self._embed(texts) @ self._projection).astype(np.float32)
        return projected

    def _embed(self, texts: Sequence[str]) -> NDArray[np.float64]:
        vectors = self._model.encode(
            list(texts), normalize_embeddings=True, show_progress_bar=False
        )
        return np.asarray(vectors, dtype=np.float64)


def encode(encoder: Encoder, texts: Sequence[str]) -> Floats:
    """`encoder.encode(texts)`, or BrokenContract where it is not what an encoder promises."""
    vectors = encoder.encode(texts)
    expected = (len(texts), encoder.width)
    if getattr(vectors, "shape", None) != expected:
        raise BrokenContract(
            f"{type(encoder).__name__}.encode gave {getattr(vectors, 'shape', type(vectors))} for "
            f"{len(texts)} texts; it must give an array of shape {expected}"
        )
    if vectors.dtype != np.float32 or not (np.abs(vectors) <= 1).all():
        raise BrokenContract(
            f"{type(encoder).__name__}.encode must give float32 numbers in [-1, 1]; scale its "
            f"vectors to length 1 (got {vectors.dtype})"
        )
    return vectors


class Observer:
    """Writes observations for a set of tasks; the layout is the table of this module.

    What only depends on the task is computed once, here. The vector of a task does not depend on
    which other tasks there are, to the bit.

    Parameters
    ----------
    tasks : TaskSet
    embeddings : Embeddings
        Of the tasks' dataset.
    rules : Rules
        For the scales of level and step.
    sizes : sequence of int
        Options per agent.
    sentence_width : int
        Width of the sentences' vectors.
    ranking : {"mean", "sequence"}
        How the last ranking is shown.
    observe : {"shared", "private"}
        Whether all agents see the whole shared part, or each its own slices of it (`PRIVATE`): role
        sees the user; history the history block, shown and level; reasoning the last ranking;
        output the share named and the sentences. What an agent does not see is zero, so that all
        observations are of one width.
    """

    def __init__(
        self,
        tasks: TaskSet,
        embeddings: Embeddings,
        rules: Rules,
        sizes: Sequence[int],
        sentence_width: int,
        ranking: Literal["mean", "sequence"] = "mean",
        observe: Literal["shared", "private"] = "shared",
    ) -> None:
        # Imported here: scipy.sparse would double the time of `import rpp_env`.
        from scipy.sparse import csr_array

        if ranking not in ("mean", "sequence"):
            raise InvalidOption(f"ranking must be 'mean' or 'sequence', not {ranking!r}")
        if observe not in ("shared", "private"):
            raise InvalidOption(f"observe must be 'shared' or 'private', not {observe!r}")
        K, dim = tasks.num_candidates, embeddings.items.shape[1]
        widths = {
            "user": dim,
            "recency": 20,
            "content": 20,
            "popularity": 2,
            "length": 1,
            "sentences": sentence_width,
            "ranking": dim if ranking == "mean" else K * dim,
            "named": 1,
            "shown": 1,
            "level": 1,
            "step": 1,
            "own_action": max(sizes),
        }
        ends = np.cumsum(list(widths.values())).tolist()
        self.layout: dict[str, slice] = {
            name: slice(end - width, end)
            for (name, width), end in zip(widths.items(), ends, strict=True)
        }
        """Where each named slice lies in an observation."""
        self.width: int = ends[-1]
        """Width of an observation."""
        self.shared_width: int = self.layout["own_action"].start
        """Width of the part that all agents share."""
        self.state_width: int = self.shared_width + sum(sizes)
        """Width of `state`."""
        self.ranking_shape: tuple[int, ...] = (dim,) if ranking == "mean" else (K, dim)
        """Shape of the slice ``ranking``: one mean vector, or the places' vectors."""
        self._static = _static(tasks, embeddings)
        self._scales = K, MAX_HISTORY, max(rules.max_level, 1), rules.max_cycles
        self._start = rules.start
        # A last row of zeros: -1, an item that was not named or an action not yet taken, finds it.
        self._items = np.vstack([embeddings.items, np.zeros((1, dim), np.float32)])
        self._one_hot = _one_hot(max(sizes))
        self._one_hots = [_one_hot(size) for size in sizes]
        self._sequence = ranking == "sequence"
        places = np.arange(K)
        discounts = np.where(places < np.arange(K + 1)[:, None], 1 / np.log2(places + 2), 0)
        totals = np.maximum(discounts.sum(axis=1, keepdims=True), 1e-9)
        self._discounts = (discounts / totals).astype(np.float32)
        self._matrix = csr_array((0, len(self._items)), dtype=np.float32)
        self._seen: Floats | None = None
        if observe == "private":
            self._seen = np.zeros((len(sizes), self.shared_width), np.float32)
            for row, names in zip(self._seen, PRIVATE, strict=True):
                for name in (*names, "step"):
                    row[self.layout[name]] = 1

    def readers(self, name: str) -> tuple[int, ...]:
        """The agents, by number, that see the slice `name` of the shared part."""
        agents = range(len(self._one_hots))
        place = self.layout[name].start
        return tuple(i for i in agents if self._seen is None or self._seen[i, place])

    def begin(self, rows: Ints) -> Floats:
        """(B, shared_width): the shared part before the first step, for tasks `rows`."""
        shared = np.zeros((len(rows), self.shared_width), dtype=np.float32)
        shared[:, : self._static.shape[1]] = self._static.take(rows, axis=0)
        shared[:, self.layout["level"].start] = self._start / self._scales[2]
        return shared

    def after(
        self,
        rows: Ints,
        sentences: Floats,
        ranked: NDArray[np.integer[Any]],
        named: NDArray[np.integer[Any]],
        shown: Ints,
        level: Ints,
        step: Ints,
    ) -> Floats:
        """(B, shared_width): the shared part after a step.

        Parameters
        ----------
        rows : (B,) int array
            Tasks.
        sentences : (B, e) float32 array
        ranked : (B, K) int array
            Item rows, best first.
        named, shown, level, step : (B,) int arrays
        """
        shared = np.empty((len(rows), self.shared_width), dtype=np.float32)
        shared[:, : self._static.shape[1]] = self._static.take(rows, axis=0)
        shared[:, self.layout["sentences"]] = sentences
        shared[:, self.layout["ranking"]] = self._ranking(ranked, named)
        for column, number, scale in zip(
            range(-4, 0), (named, shown, level, step), self._scales, strict=True
        ):
            shared[:, column] = number / scale
        return shared

    def observations(self, shared: Floats, actions: Ints) -> Floats:
        """(B, n, width), fresh; `actions` (B, n) are the last ones, -1 where there are none."""
        made = np.empty((*actions.shape, self.width), dtype=np.float32)
        made[:, :, : self.shared_width] = shared[:, None]
        if self._seen is not None:
            made[:, :, : self.shared_width] *= self._seen
        made[:, :, self.shared_width :] = self._one_hot.take(actions, axis=0)
        return made

    def state(self, shared: Floats, actions: Ints) -> Floats:
        """(B, state_width): the shared part and all last actions; a fresh array."""
        hot = [table.take(actions[:, i], axis=0) for i, table in enumerate(self._one_hots)]
        return np.concatenate([shared, *hot], axis=1)

    def _ranking(self, ranked: NDArray[np.integer[Any]], named: NDArray[np.integer[Any]]) -> Floats:
        B, K = ranked.shape
        if self._sequence:
            said = np.where(np.arange(K) < np.reshape(named, (-1, 1)), ranked, -1)
            return self._items[said].reshape(B, -1)
        # A sparse product adds up row by row, from the first place to the last: the same bits in
        # every batch, and the fastest way of those tried (a dense one gathers (B, K, d) first).
        if self._matrix.shape[0] != B:
            self._matrix = type(self._matrix)(
                (
                    np.zeros(B * K, np.float32),
                    np.zeros(B * K, np.int32),
                    np.arange(0, B * K + 1, K, dtype=np.int32),
                ),
                shape=(B, len(self._items)),
            )
        self._matrix.data = self._discounts.take(named, axis=0).ravel()
        self._matrix.indices = ranked.ravel().astype(self._matrix.indptr.dtype, copy=False)
        product: Floats = self._matrix @ self._items
        return product


def _one_hot(size: int) -> Floats:
    return np.vstack([np.eye(size), np.zeros((1, size))]).astype(np.float32)


@lru_cache(maxsize=8)  # a second environment over the same tasks costs nothing
def _static(tasks: TaskSet, embeddings: Embeddings) -> Floats:
    """(T, s): the slices from ``user`` to ``length``; read-only."""
    recent = tasks.padded_history(max(WINDOWS))
    whole = tasks.padded_history(MAX_HISTORY)
    lengths = tasks.history_lengths
    block = 2048  # bounds the memory of (tasks, 20, d) arrays
    made = []
    for start in range(0, len(tasks), block):
        part = slice(start, start + block)
        items = recent[part]
        count = np.minimum(lengths[part], max(WINDOWS))
        popularity = _latest_sums(embeddings.popularity[:, None], items)[:, [2, -1], 0]
        made.append(
            np.concatenate(
                [
                    embeddings.fold_in(whole[part]),
                    _recency(embeddings.items, items, count),
                    _similarities(embeddings.items, whole[part], lengths[part]),
                    _recency(embeddings.content, items, count),
                    _similarities(embeddings.content, whole[part], lengths[part]),
                    popularity[:, ::-1] / np.minimum(count[:, None], [max(WINDOWS), 3]),
                    lengths[part, None] / MAX_HISTORY,
                ],
                axis=1,
            )
        )
    # Rounding may carry a mean of unit vectors past 1 by the last bit.
    static: Floats = np.clip(np.concatenate(made), -1, 1).astype(np.float32)
    static.setflags(write=False)
    return static


def _latest_sums(vectors: Floats, items: NDArray[np.int32]) -> NDArray[np.float64]:
    """(T, L, d): sums over the latest 1, 2, ... L items; -1 adds nothing."""
    padded = np.vstack([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])
    return np.cumsum(padded[items[:, ::-1]], axis=1, dtype=np.float64)


def _recency(vectors: Floats, items: NDArray[np.int32], count: Ints) -> NDArray[np.float64]:
    """(T, 15): norms and cosines of the windows' means."""
    sums = _latest_sums(vectors, items)[:, [window - 1 for window in WINDOWS]]
    means = sums / np.minimum(count[:, None], WINDOWS)[:, :, None]
    norms = np.sqrt((means * means).sum(axis=-1))
    left, right = (list(side) for side in zip(*combinations(range(len(WINDOWS)), 2), strict=True))
    products = (means[:, left] * means[:, right]).sum(axis=-1)
    cosines = products / np.maximum(norms[:, left] * norms[:, right], 1e-12)
    return np.concatenate([norms, cosines], axis=1)


def _similarities(vectors: Floats, items: NDArray[np.int32], count: Ints) -> NDArray[np.float64]:
    """(T, 5): mean similarity of items that stand `LAGS` places apart; 0 in shorter histories."""
    padded = np.vstack([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])[items]
    found = np.empty((len(items), len(LAGS)))
    for column, lag in enumerate(LAGS):
        pairs = (padded[:, lag:] * padded[:, :-lag]).sum(axis=-1, dtype=np.float64).sum(axis=-1)
        found[:, column] = pairs / np.maximum(count - lag, 1)
    return found
