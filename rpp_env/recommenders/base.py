"""How a recommender is called: ask, and check what comes back."""

from __future__ import annotations

from typing import Any

import numpy as np

from rpp_env.errors import BrokenContract
from rpp_env.prompting import Rankings, Recommender

__all__ = ["Recommender", "rank_all"]


def rank_all(
    recommender: Recommender[Any], prompts: Any, candidates: int, count: int | None = None
) -> Rankings:
    """Rank the candidates of `count` prompts (as many as they are long), and check what comes back.

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
            f"{name}.rank gave {len(given)} rankings for {count} "
            f"prompts of {candidates} candidates; it must give one per prompt, over all "
            "candidates, in order"
        )
    if not isinstance(given, Rankings):  # single rankings have checked themselves
        return Rankings.of(given)
    _check(name, given)
    return given


def _check(name: str, rankings: Rankings) -> None:
    """Refuse arrays that are no rankings."""
    count, K = rankings.order.shape
    if (np.sort(rankings.order, axis=1) != np.arange(K)).any():
        raise BrokenContract(f"{name}.rank gave orders that are no permutations of 0..{K - 1}")
    named = rankings.named
    if named.shape != (count,) or (count and not 0 <= named.min() <= named.max() <= K):
        raise BrokenContract(f"{name}.rank must say for each prompt how many of {K} it named")
    for cost, values in rankings.cost.items():
        if values.shape != (count,) or (values < 0).any():
            raise BrokenContract(f"{name}.rank gave {cost} that are not {count} counts")
    if rankings.texts is not None and len(rankings.texts) != count:
        raise BrokenContract(f"{name}.rank gave {len(rankings.texts)} texts for {count} prompts")
