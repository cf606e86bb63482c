"""Recommenders without training: popularity, co-occurrence of items, common words in titles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.recommenders.base import Array, Scorer, chosen_matrix, known
from rpp_env.data import Dataset
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.options import check_fields

__all__ = ["BM25", "BM25Config", "ItemKNN", "ItemKNNConfig", "PopConfig", "Popularity"]

_BLOCK = 512
"""Number of users whose scores of the whole catalog are held in memory at once."""


@dataclass(frozen=True, kw_only=True)
class PopConfig:
    """Options of `Popularity`: none."""


@dataclass(frozen=True, kw_only=True)
class ItemKNNConfig:
    """Options of `ItemKNN`."""

    neighbours: int = 50
    """Number of most similar items kept for each item."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.neighbours < 1:
            raise InvalidOption(f"neighbours must be at least 1, not {self.neighbours}")


@dataclass(frozen=True, kw_only=True)
class BM25Config:
    """Options of `BM25`."""

    history: int = 50
    """Number of latest titles of a history in the query."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.history < 1:
            raise InvalidOption(f"history must be at least 1, not {self.history}")


class Popularity(Scorer):
    """Number of times that an item occurs in the histories; the same for all users."""

    def __init__(self, dataset: Dataset, config: PopConfig) -> None:  # noqa: ARG002 (as the others)
        super().__init__(dataset)
        self.counts = known(dataset).counts.astype(np.float32)

    def score(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> Array:  # noqa: ARG002
        scores: Array = self.counts[items]
        return scores


class ItemKNN(Scorer):
    """Sums of cosines between a candidate and the history's items, by the users who chose them.

    The neighbours are computed by implicit.
    """

    def __init__(self, dataset: Dataset, config: ItemKNNConfig) -> None:
        super().__init__(dataset)
        try:
            from implicit.nearest_neighbours import ItemItemRecommender
        except ImportError:
            raise MissingExtra("implicit", "study") from None
        self._chosen = chosen_matrix(known(dataset)).astype(np.float64)
        # Columns of length 1, so that their products are cosines.
        lengths = np.sqrt(np.maximum(self._chosen.sum(axis=0), 1.0))
        # One thread: sums do not depend on the machine.
        model = ItemItemRecommender(K=config.neighbours, num_threads=1)
        model.fit(self._chosen.multiply(1.0 / lengths).tocsr(), show_progress=False)
        self._similar: Any = model.similarity

    def score(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> Array:
        scores = np.empty(items.shape, dtype=np.float32)
        for start in range(0, len(users), _BLOCK):
            block = slice(start, start + _BLOCK)
            everything = (self._chosen[users[block]] @ self._similar).toarray()
            scores[block] = np.take_along_axis(everything, items[block], axis=1)
        return scores


class BM25(Scorer):
    """Okapi BM25 (bm25s, Lucene's variant) of the candidates' titles; the query: latest titles.

    A word that occurs in several titles of the query counts as often.
    """

    def __init__(self, dataset: Dataset, config: BM25Config) -> None:
        super().__init__(dataset)
        try:
            import bm25s
        except ImportError:
            raise MissingExtra("bm25s", "study") from None

        words = bm25s.tokenize(list(dataset.titles), show_progress=False)
        self._index = bm25s.BM25()
        self._index.index(words, show_progress=False)
        self._words: list[list[int]] = words.ids
        self._histories, self._length = known(dataset), config.history

    def score(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> Array:
        scores = np.empty(items.shape, dtype=np.float32)
        indptr = self._histories.indptr
        for row, user in enumerate(users.tolist()):
            start = max(indptr[user], indptr[user + 1] - self._length)
            titles = self._histories.items[start : indptr[user + 1]].tolist()
            query = [word for title in titles for word in self._words[title]]
            scores[row] = self._index.get_scores_from_ids(query)[items[row]]
        return scores
