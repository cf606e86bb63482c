"""What a recommender is: one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rpp_env.errors import BrokenContract
from rpp_env.task import Ranking

if TYPE_CHECKING:
    from rpp_env.prompts import Prompt

__all__ = ["Recommender", "rank_all"]


@runtime_checkable
class Recommender(Protocol):
    """Anything that ranks the candidates of a batch of prompts.

    A recommender may read the prompts' texts, as a language model does, or only their tasks, as a
    classical model would. Rankings come back in the order of the prompts, one each, and the ranking
    of a prompt does not depend on the other prompts. `testing.check_recommender` proves it.
    """

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        """Rank the candidates of every prompt, as ``prompt.task.candidates`` numbers them."""
        ...


def rank_all(recommender: Recommender, prompts: Sequence[Prompt], candidates: int) -> list[Ranking]:
    """Rank the candidates of every prompt, and check how many rankings come back.

    Raises
    ------
    BrokenContract
        If there is not one ranking for each prompt, over all `candidates`.
    """
    rankings = list(recommender.rank(prompts))
    if len(rankings) != len(prompts) or any(len(r.order) != candidates for r in rankings):
        raise BrokenContract(
            f"{type(recommender).__name__}.rank gave {len(rankings)} rankings for {len(prompts)} "
            f"prompts of {candidates} candidates; it must give one per prompt, over all "
            "candidates, in order"
        )
    return rankings
