"""Call a recommender, and check its rankings."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.errors import BrokenContract, InvalidData
from rpp_env.prompting import Rankings, Recommender

__all__ = ["Recommender", "by_score", "check_catalog", "rank_all"]


def by_score(scores: NDArray[np.floating[Any]]) -> Rankings:
    """Rank every prompt's candidates by their scores (B, K); of equals, the one shown first."""
    order = _descending(scores)
    return Rankings(order, np.full(len(order), order.shape[1], dtype=np.int64))


def _descending(scores: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
    """Return ``argsort(-scores, axis=1, kind="stable")``, several times as fast for float32."""
    if scores.dtype != np.float32 or np.isnan(scores).any():
        return np.argsort(-scores, axis=1, kind="stable")
    # Distinct integers, in the order of value and place, so that any sort is a stable one: floats
    # compare like their bits, but for the sign. 0 - x, unlike -x, has one zero.
    bits = (np.float32(0) - scores).view(np.int32)
    keys = (bits ^ (bits >> 31 & 0x7FFFFFFF)).astype(np.int64) << 32
    keys |= np.arange(scores.shape[1])
    keys.sort(axis=1)
    keys &= 0xFFFFFFFF
    return keys


def check_catalog(name: str, num_items: int, catalog: str, dataset: Dataset) -> None:
    """Check that a dataset's items are those that a recommender was trained on.

    Parameters
    ----------
    name : str
        What the recommender is called, such as ``"SASRec"``.
    num_items : int
        Number of its items.
    catalog : str
        The digest of their catalog (`Dataset.catalog_digest`); empty where it is not known.
    dataset : Dataset

    Raises
    ------
    InvalidData
    """
    if num_items != dataset.num_items or (catalog and catalog != dataset.catalog_digest):
        raise InvalidData(
            f"this {name} knows {num_items} items, {dataset.name} has {dataset.num_items}"
            + (", and they are others" if num_items == dataset.num_items else "")
            + ": train one on this dataset"
        )


def rank_all(
    recommender: Recommender[Any], prompts: Any, candidates: int, count: int | None = None
) -> Rankings:
    """Rank the candidates of `count` prompts (the length of `prompts`), and check the result.

    Raises
    ------
    BrokenContract
        If there is not one ranking for each prompt, over all `candidates`.
    """
    count = len(prompts) if count is None else count
    given = recommender.rank(prompts)
    name = type(recommender).__name__
    if not isinstance(given, Rankings):
        given = list(given)
    lengths = (
        {given.order.shape[1]} if isinstance(given, Rankings) else {len(r.order) for r in given}
    )
    if len(given) != count or not lengths <= {candidates}:
        raise BrokenContract(
            f"{name}.rank returned {len(given)} rankings for {count} "
            f"prompts of {candidates} candidates; it must return one per prompt, over all "
            "candidates, in order"
        )
    if not isinstance(given, Rankings):  # a `Ranking` checks itself when it is made
        return Rankings.of(given)
    _check(name, given)
    return given


def _check(name: str, rankings: Rankings) -> None:
    """Raise BrokenContract for arrays that are not valid rankings."""
    count, K = rankings.order.shape
    if (np.sort(rankings.order, axis=1) != np.arange(K)).any():
        raise BrokenContract(f"{name}.rank returned orders that are not permutations of 0..{K - 1}")
    named = rankings.named
    if named.shape != (count,) or (count and not 0 <= named.min() <= named.max() <= K):
        raise BrokenContract(f"{name}.rank must state for each prompt how many of {K} it named")
    for cost, values in rankings.cost.items():
        if values.shape != (count,) or (values < 0).any():
            raise BrokenContract(f"{name}.rank returned {cost} that are not {count} counts")
    if rankings.texts is not None and len(rankings.texts) != count:
        texts = len(rankings.texts)
        raise BrokenContract(f"{name}.rank returned {texts} texts for {count} prompts")
