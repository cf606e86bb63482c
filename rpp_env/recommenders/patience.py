"""Early stopping of a recommender's training, and its progress reports."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from rpp_env.errors import InvalidOption
from rpp_env.options import check_fields

__all__ = ["Patience", "Progress"]

Progress = Callable[[Mapping[str, float]], None]
"""Called after every epoch with ``epoch``, ``validation`` (NDCG@10) and ``seconds`` since the
start."""


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Options of early stopping."""

    epochs: int = 100
    """Maximum number of epochs."""
    patience: int = 5
    """Number of epochs without a better validation score after which training stops."""

    def __post_init__(self) -> None:
        check_fields(self)
        if min(self.epochs, self.patience) < 1:
            raise InvalidOption(
                f"epochs and patience must be at least 1, not {self.epochs} and {self.patience}"
            )
