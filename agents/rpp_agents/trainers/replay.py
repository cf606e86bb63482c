"""Replay buffer of recent transitions, in arrays of a fixed size."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rpp_env.errors import InvalidOption

__all__ = ["Replay"]

Field = tuple[tuple[int, ...], torch.dtype]


class Replay:
    """A ring buffer of transitions: when it is full, the oldest are overwritten.

    Parameters
    ----------
    capacity : int
        Maximum number of transitions. Memory is allocated as it fills.
    fields : mapping of str to (shape, dtype)
        Fields of a transition, with the shape of one.
    """

    def __init__(self, capacity: int, fields: Mapping[str, Field]) -> None:
        self.capacity = capacity
        self.data = {
            name: torch.empty((capacity, *shape), dtype=dtype)
            for name, (shape, dtype) in fields.items()
        }
        self.filled = 0
        self.position = 0

    def __len__(self) -> int:
        return self.filled

    def add(self, **batch: NDArray[Any]) -> None:
        """Add transitions, at most `capacity` at once: every field as (B, *shape).

        Raises
        ------
        InvalidOption
            If there are more than `capacity`.
        """
        size = len(next(iter(batch.values())))
        if size > self.capacity:
            raise InvalidOption(
                f"{size} environments do not fit into a replay of {self.capacity} transitions: "
                "raise capacity, or play fewer of them"
            )
        fits = min(size, self.capacity - self.position)
        for name, kept in self.data.items():
            array = kept.numpy()
            array[self.position : self.position + fits] = batch[name][:fits]
            array[: size - fits] = batch[name][fits:]
        self.position = (self.position + size) % self.capacity
        self.filled = min(self.filled + size, self.capacity)

    def sample(self, rng: np.random.Generator, size: int) -> dict[str, Tensor]:
        """Draw transitions uniformly, with replacement."""
        rows = torch.from_numpy(rng.integers(self.filled, size=size))
        return {name: kept.index_select(0, rows) for name, kept in self.data.items()}

    # Content of a checkpoint

    def tensors(self) -> dict[str, Tensor]:
        """Return the filled part, and the next index."""
        return {
            "replay.place": torch.tensor([self.position, self.filled]),
            **{f"replay.{name}": kept[: self.filled] for name, kept in self.data.items()},
        }

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Load the state that `tensors` returned; ValueError for tensors of another buffer."""
        position, filled = tensors["replay.place"].tolist()
        for name, kept in self.data.items():
            given = tensors[f"replay.{name}"]
            if not 0 <= filled <= len(kept) or given.shape != kept[:filled].shape:
                raise ValueError(f"replay.{name} is of shape {tuple(given.shape)}")
            kept[:filled] = given
        if not 0 <= position < self.capacity:
            raise ValueError(f"the replay buffer continues at {position} of {self.capacity}")
        self.position, self.filled = position, filled
