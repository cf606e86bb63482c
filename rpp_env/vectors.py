"""Prompts that are vectors: a prefix that stands before a user's history."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from rpp_env.data.candidates import TaskSet

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["PrefixPrompts"]


@dataclass(frozen=True, eq=False)
class PrefixPrompts:
    """The prompts of B users: a prefix for each, and the task that it is for.

    Attributes
    ----------
    prefix : (B, n, d) or (B, blocks, n, d) float array or torch.Tensor, optional
        n vectors that are read before the history; with an axis of blocks, other ones for every
        block of the recommender (deep prompts). None, as n = 0: no prefix.
    tasks : TaskSet
        B tasks, in the order of the prefixes.
    """

    prefix: NDArray[Any] | Tensor | None
    tasks: TaskSet

    def __len__(self) -> int:
        return len(self.tasks)
