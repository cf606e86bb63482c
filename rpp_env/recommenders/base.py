"""What a recommender is: one method."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from rpp_env.task import Ranking

if TYPE_CHECKING:
    from rpp_env.prompts import Prompt

__all__ = ["Recommender"]


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
