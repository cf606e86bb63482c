"""Policies that are linear in some columns of an observation, and the choice of these columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from rpp_agents.policy import read_tensors, write_tensors
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import unknown

__all__ = ["LinearPolicy", "columns_of", "profile_blocks"]


class LinearPolicy:
    """One number per agent and action: the largest wins, or the numbers are the agent's vector.

    Parameters
    ----------
    weights : (n, C + 1, A) float array
        Per agent, for C columns of its observation and a constant 1.
    columns : sequence of int
        Indices of these columns.
    bounds : (2, n, A) float array, optional
        Bounds to which vectors are clipped; None for agents that choose among A actions.
    """

    def __init__(
        self,
        weights: NDArray[Any],
        columns: Sequence[int],
        bounds: NDArray[Any] | None = None,
    ) -> None:
        self.weights = np.asarray(weights, np.float32)
        self.columns = [int(column) for column in columns]
        self.bounds = None if bounds is None else np.asarray(bounds, np.float32)

    def features(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """(B, n, C + 1): the columns and the constant.

        Raises
        ------
        InvalidOption
            For observations of another shape than in training.
        """
        agents = len(self.weights)
        if observations.shape[1] != agents or observations.shape[2] <= max(self.columns, default=0):
            raise InvalidOption(
                f"this policy reads {agents} agents' observations up to column "
                f"{max(self.columns, default=0)}, but got an array of shape {observations.shape}: "
                "it was trained in an environment of another shape"
            )
        ones = np.ones((*observations.shape[:2], 1), np.float32)
        return np.concatenate([observations[:, :, self.columns], ones], axis=2)

    def act(
        self,
        observations: NDArray[np.float32],
        masks: NDArray[Any] | None = None,
        greedy: bool = False,  # noqa: ARG002 - there is nothing to sample
        memory: Any = None,
    ) -> tuple[NDArray[Any], Any]:
        """See `rpp_agents.policy.Policy.act`."""
        # One product per user: the bits of a product of the whole batch would depend on its size.
        values = (self.features(observations)[..., None] * self.weights).sum(axis=2)
        if self.bounds is not None:
            return np.clip(values, *self.bounds), memory
        legal = True if masks is None else np.asarray(masks) != 0
        return np.where(legal, values, -np.inf).argmax(axis=2), memory

    def save(self, path: str | Path) -> None:
        """Write the weights to one safetensors file, atomically."""
        tensors = {"weights": torch.from_numpy(self.weights)}
        if self.bounds is not None:
            tensors["bounds"] = torch.from_numpy(self.bounds)
        write_tensors(path, tensors, {"kind": "linear", "columns": self.columns})

    @classmethod
    def load(cls, path: str | Path) -> LinearPolicy:
        """Read a file that `save` wrote; `InvalidData` for another kind of file."""
        tensors, about = read_tensors(path)
        weights, bounds = tensors.get("weights"), tensors.get("bounds")
        columns = about.get("columns")
        fits = (
            about.get("kind") == "linear"
            and weights is not None
            and weights.ndim == 3
            and isinstance(columns, list)
            and all(isinstance(column, int) and column >= 0 for column in columns)
            and weights.shape[1] == len(columns) + 1
            and (bounds is None or bounds.shape == (2, len(weights), weights.shape[2]))
        )
        if not fits or weights is None or not isinstance(columns, list):
            raise InvalidData(f"{path} holds no linear policy of this version of rpp_agents")
        return cls(weights.numpy(), columns, None if bounds is None else bounds.numpy())


def columns_of(env: Any, blocks: Sequence[str]) -> list[int]:
    """Return the columns of an observation's blocks; by default the profile's, or all.

    Raises
    ------
    InvalidOption
        For an unknown block, and if the environment does not name its blocks.
    """
    observer = getattr(env, "observer", None)
    if observer is None:
        if blocks:
            raise InvalidOption(
                f"{type(env).__name__} does not name the blocks of its observations: leave out "
                f"blocks={tuple(blocks)}"
            )
        return list(range(int(env.observation_width)))
    layout = observer.layout
    for name in blocks:
        if name not in layout:
            raise InvalidOption(unknown("block of observations", name, list(layout)))
    chosen = blocks or profile_blocks(layout)
    chosen = chosen or [name for name in layout if name != "own_action"]
    return [column for name in chosen for column in range(layout[name].start, layout[name].stop)]


def profile_blocks(layout: Iterable[str]) -> list[str]:
    """Return the blocks of an observation that show the user's profile, whole or by field."""
    return [name for name in layout if name.partition("_")[0] == "profile"]
