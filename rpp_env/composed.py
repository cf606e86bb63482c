"""Prompts of vectors that are composed from similar users (PeaPOD).

From the own vector u and n neighbours' vectors s_i, H heads of attention make P vectors that a
recommender reads before the history (Ramos, Wu and Lipani, arXiv 2407.05033)::

    q  = W_Q u + b_Q,   k_i = W_K s_i + b_K,   v_i = W_V s_i + b_V        each cut into H parts
    a  = softmax over i of  q . k_i / sqrt(width of a part)               one for each head
    p  = W_P concat over heads of (sum over i of a_i v_i) + b_P           P vectors

In an environment the values and the projection (W_V, W_P) are fixed, and the agents are the heads:
each gives its attention (`AttentionPrompts`), or one neighbour (`NeighbourPrompts`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskBatch
from rpp_env.errors import InvalidOption
from rpp_env.vectors import CodebookPrompts, Codes, Places, PrefixPrompts, VectorPrompts

__all__ = ["AttentionPrompts", "Composer", "NeighbourPrompts", "Neighbourhood"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_PARTS = ("query", "key", "value", "project")


@dataclass(frozen=True, eq=False)
class Composer:
    """Weights of the attention that makes a prefix of users' vectors.

    Attributes
    ----------
    heads : int
        Number of heads (H).
    length : int
        Number of vectors of the prefix (P).
    weights : mapping of str to float32 array
        ``query.weight``, ``key.weight`` and ``value.weight`` (C, u) for users' vectors of length u,
        ``project.weight`` (P x d, C), and a ``bias`` of each, as torch's ``Linear`` has them.

    Raises
    ------
    InvalidOption
        For weights of other names or shapes, or that are not finite.
    """

    heads: int
    length: int
    weights: Mapping[str, Floats]

    def __post_init__(self) -> None:
        given = {name: np.array(w, np.float32) for name, w in self.weights.items()}
        object.__setattr__(self, "weights", given)
        shapes = {name: weight.shape for name, weight in given.items()}
        inner, width = shapes.get("query.weight", (0,))[:2] or (0, 0)
        out = shapes.get("project.weight", (0,))[0]
        wanted: dict[str, tuple[int, ...]] = {}
        for part in _PARTS:
            shape = (out, inner) if part == "project" else (inner, width)
            wanted |= {f"{part}.weight": shape, f"{part}.bias": shape[:1]}
        if (
            shapes != wanted
            or min(self.heads, self.length, inner, width, out) < 1
            or inner % self.heads
            or out % self.length
            or not all(np.isfinite(weight).all() for weight in given.values())
        ):
            raise InvalidOption(
                f"a composer of {self.heads} heads and {self.length} vectors takes finite weights "
                f"of {', '.join(_PARTS)}, whose shapes belong together; got {shapes}"
            )

    @classmethod
    def seeded(
        cls, width: int, dim: int, *, heads: int, length: int, size: float = 1.0, seed: int = 0
    ) -> Composer:
        """Draw random weights, so that a prefix of vectors of length 1 has this root mean square.

        Parameters
        ----------
        width, dim : int
            Lengths of the users' vectors, and of the prefix's.
        heads, length : int
            See the class; `heads` must divide `dim`.
        size : float
        seed : int
        """
        rng = np.random.default_rng(seed)
        inner = max(dim // heads, 1) * heads
        weights = {}
        for part in _PARTS:
            rows, columns = (length * dim, inner) if part == "project" else (inner, width)
            scale = size / inner**0.5 if part == "project" else 1.0
            weights[f"{part}.weight"] = rng.normal(0, scale, (rows, columns)).astype(np.float32)
            weights[f"{part}.bias"] = np.zeros(rows, np.float32)
        return cls(heads, length, weights)

    @property
    def width(self) -> int:
        """Length of the users' vectors."""
        return int(self.weights["query.weight"].shape[1])

    @property
    def inner(self) -> int:
        """Length of the values of all heads together (C)."""
        return len(self.weights["value.weight"])

    @property
    def dim(self) -> int:
        """Length of each vector of the prefix."""
        return len(self.weights["project.weight"]) // self.length

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the weights."""
        sha = hashlib.sha256(repr((self.heads, self.length)).encode())
        for name in sorted(self.weights):
            sha.update(f"{name} {self.weights[name].shape}".encode())
            sha.update(np.ascontiguousarray(self.weights[name], "<f4").tobytes())
        return sha.hexdigest()

    def part(self, name: str, vectors: Floats) -> Floats:
        """(..., H, C / H): queries, keys or values of users' vectors (..., u)."""
        found: Floats = vectors @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return found.reshape(*vectors.shape[:-1], self.heads, self.inner // self.heads)

    def prefix(self, attention: Floats, values: Floats) -> Floats:
        """(B, P, d) prefixes of attention (B, H, n) to values (B, n, H, C / H)."""
        shares = attention.transpose(0, 2, 1)[..., None]
        mixed = (shares * values).sum(axis=1).reshape(len(values), self.inner)
        # One product per user: the bits of a product of the whole batch would depend on its size.
        matrix = self.weights["project.weight"].T
        flat = (mixed[..., None] * matrix).sum(axis=1, dtype=np.float32)
        prefix: Floats = flat + self.weights["project.bias"]
        return prefix.reshape(len(values), self.length, self.dim)


@dataclass(frozen=True, eq=False)
class Neighbourhood:
    """The neighbours of each user, and the composer that makes prefixes of them.

    Attributes
    ----------
    composer : Composer
    pool : (N, u) float32 array
        Vectors of users.
    near : (T, n) int64 array
        Each task's neighbours, as rows of `pool`, the most similar first.

    Raises
    ------
    InvalidOption
        For vectors of another length than the composer reads, and neighbours out of range.
    """

    composer: Composer
    pool: Floats
    near: Ints

    def __post_init__(self) -> None:
        if self.pool.ndim != 2 or self.pool.shape[1] != self.composer.width:
            raise InvalidOption(
                f"users' vectors of shape {self.pool.shape} came; this composer reads vectors of "
                f"{self.composer.width} numbers"
            )
        near = self.near
        if (
            near.ndim != 2
            or not near.shape[1]
            or (near.size and not 0 <= near.min() <= near.max() < len(self.pool))
        ):
            raise InvalidOption(
                f"neighbours are rows of {len(self.pool)} users, n for each task; got shape "
                f"{near.shape}"
            )

    @cached_property
    def values(self) -> Floats:
        """(N, H, C / H): the value of each user in each head."""
        return self.composer.part("value", self.pool)

    def prompts(self, attention: Floats, tasks: TaskBatch, rows: Ints) -> PrefixPrompts:
        """Make the prompts of attention (B, H, n) for the tasks at `rows` (B,)."""
        prefix = self.composer.prefix(attention, self.values[self.near[rows]])
        return PrefixPrompts(prefix, tasks.as_set())

    @cached_property
    def about(self) -> Mapping[str, Any]:
        """JSON of all inputs that determine prompts, besides a user's history."""
        users = hashlib.sha256(np.ascontiguousarray(self.pool, "<f4").tobytes()).hexdigest()
        return {
            "composer": self.composer.digest,
            "users": users,
            "neighbours": self.near.shape[1],
        }


class AttentionPrompts(VectorPrompts):
    """Attention as action: each head's logits over the neighbours, n numbers in [-1, 1].

    A head's shares are ``softmax(sharpness x action)``; equal numbers give the mean neighbour.

    Parameters
    ----------
    around : Neighbourhood
    sharpness : float
        The largest logit, in (0, 40]. A share is at most ``exp(2 x sharpness)`` times another.

    Raises
    ------
    InvalidOption
        For a sharpness out of range.
    """

    def __init__(self, around: Neighbourhood, *, sharpness: float = 5.0) -> None:
        if not 0 < sharpness <= 40:
            raise InvalidOption(f"sharpness must lie in (0, 40], not {sharpness}")
        super().__init__(sharpness * np.eye(around.near.shape[1]), _heads(around))
        self.around, self.places = around, Places.row(around.composer.length)

    def attention(self, codes: Floats) -> Floats:
        """(B, H, n): each neighbour's share in each head, of codes (B, H, n)."""
        logits = self.decode(codes)
        shares = np.exp(logits - logits.max(axis=2, keepdims=True))
        found: Floats = shares / shares.sum(axis=2, keepdims=True)
        return found

    def prompts(self, state: Codes, tasks: TaskBatch, rows: Ints) -> PrefixPrompts:
        """See `PromptSpace`."""
        return self.around.prompts(self.attention(state.codes), tasks, rows)

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        return {**super().about, **self.around.about}


class NeighbourPrompts(CodebookPrompts):
    """Whom to listen to: each head chooses one of n neighbours, the most similar first.

    Observations show the choices, one-hot. Prompts are countable, so there are tables.

    Parameters
    ----------
    around : Neighbourhood
    """

    def __init__(self, around: Neighbourhood) -> None:
        super().__init__(np.eye(around.near.shape[1]), _heads(around))
        self.around, self.places = around, Places.row(around.composer.length)

    def prompts(self, state: Codes, tasks: TaskBatch, rows: Ints) -> PrefixPrompts:
        """See `PromptSpace`."""
        return self.around.prompts(self.codebook[state.codes], tasks, rows)

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        return {**super().about, **self.around.about}


def _heads(around: Neighbourhood) -> list[str]:
    return [f"head_{head}" for head in range(around.composer.heads)]
