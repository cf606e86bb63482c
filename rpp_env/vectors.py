"""Prompts of vectors: a prefix in front of a user's history.

Each agent gives one vector of the prefix: a bounded code that a matrix decodes (`VectorPrompts`),
or an entry of a codebook (`CodebookPrompts`), which has finitely many prompts and therefore allows
tables.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.prompting import PromptSpace, Words, check_choices, check_vectors
from rpp_env.task import RankingTask

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["CodebookPrompts", "Codes", "Places", "PrefixPrompts", "VectorPrompts"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class PrefixPrompts:
    """Prompts of B users: a prefix for each, and its task.

    Attributes
    ----------
    prefix : (B, n, d) or (B, blocks, n, d) float array or torch.Tensor, optional
        n vectors that are read before the history; with an axis of blocks, separate vectors for
        each block of the recommender (deep prompts). None: no prefix, as with n = 0.
    tasks : TaskSet
        B tasks, in the order of the prefixes.
    shift : (B, d) float array or torch.Tensor, optional
        A vector that is added to the user's before it is compared with the items'.
    """

    prefix: NDArray[Any] | Tensor | None
    tasks: TaskSet
    shift: NDArray[Any] | Tensor | None = None

    def __len__(self) -> int:
        return len(self.tasks)


@dataclass(frozen=True, slots=True)
class Codes:
    """The agents' last choices for B users.

    Attributes
    ----------
    codes : (B, n, k) float32 or (B, n) int64 array
        Codes (0 before the first step), or indices into a codebook (-1 before it).
    """

    codes: NDArray[Any]


@dataclass(frozen=True)
class Places:
    """Places of the agents' vectors in the prompt; vectors of one place are added.

    Attributes
    ----------
    places : tuple of int
        Place in the prefix, from 0; -1: the vector is added to the user's (`PrefixPrompts.shift`).
    blocks : tuple of int
        Block of the recommender that reads it; all 0 for a single prefix that is read at the input.
    """

    places: tuple[int, ...]
    blocks: tuple[int, ...]

    @classmethod
    def row(cls, agents: int) -> Places:
        """Make one place for each agent, in order."""
        return cls(tuple(range(agents)), (0,) * agents)

    def __post_init__(self) -> None:
        inside = [place for place in self.places if place >= 0]
        if (
            len(self.places) != len(self.blocks)
            or min(self.places, default=0) < -1
            or min(self.blocks, default=0) < 0
            or set(inside) != set(range(len(set(inside))))
        ):
            raise InvalidOption(
                "places are 0, 1, ... without a gap, or -1 for the user's vector, with a block for "
                f"each; got {self}"
            )

    @property
    def plain(self) -> bool:
        """Return whether the agents' vectors are the prefix, unchanged."""
        return self == Places.row(len(self.places))

    def prompts(self, vectors: Floats, tasks: TaskSet) -> PrefixPrompts:
        """Make the prompts of vectors (B, n, d), one for each agent."""
        if self.plain:
            return PrefixPrompts(vectors, tasks)
        count, _, d = vectors.shape
        shape = (count, max(self.blocks) + 1, max(self.places) + 1, d)
        prefix, shift = np.zeros(shape, np.float32), np.zeros((count, d), np.float32)
        # Added one after the other, so that sums have one order.
        for i, (place, block) in enumerate(zip(self.places, self.blocks, strict=True)):
            if place < 0:
                shift += vectors[:, i]
            else:
                prefix[:, block, place] += vectors[:, i]
        return PrefixPrompts(
            prefix if shape[2] else None, tasks, shift if min(self.places) < 0 else None
        )


class _Vectors(PromptSpace[Codes, PrefixPrompts]):
    """What prompts of vectors have in common, however agents choose them."""

    makes = PrefixPrompts
    places: Places

    def words(
        self,
        actions: NDArray[Any],
        prompts: Any,
        user: int,
        task: RankingTask,
        counts: Mapping[str, Any],
    ) -> Words:
        """See `PromptSpace`: where the vectors go, and the history that they are read with."""
        choices = super().words(actions, prompts, user, task, counts).choices
        # Vectors of several agents at one place are added, and are one vector of the prompt.
        held = set(zip(self.places.places, self.places.blocks, strict=True))
        read = sum(place >= 0 for place, _ in held)
        added = int(min(self.places.places) < 0)
        parts = [
            f"{number} vector{'s' * (number > 1)} {where}"
            for number, where in ((read, "before the history"), (added, "added to the user's"))
            if number
        ]
        lines = [f"{' and '.join(parts)}, {len(task.candidates)} candidates", ""]
        if task.history:
            lines.append("history, oldest first:")
            lines += [f"{i}. {title}" for i, title in enumerate(task.history, 1)]
        else:
            lines.append("no history: a new user")
        return Words(choices, "\n".join(lines))


class VectorPrompts(_Vectors):
    """A prefix of n vectors of length d, decoded from codes: ``vector = code @ decoder``.

    A code is a vector of k numbers in [-1, 1]. Observations show the codes.

    Parameters
    ----------
    decoder : (k, d) array
        For example principal components of item vectors, scaled to their norms. With the identity
        the code is the vector itself.
    agents : sequence of str
        Distinct names.
    places : Places, optional
        Place of each agent's vector; by default the agents are the places of the prefix.
    scales : sequence of float, optional
        Factor of each agent's vector; by default 1.
    private : sequence of sequences of str, optional
        See `PromptSpace.private`.

    Raises
    ------
    InvalidOption
        If the decoder is not a matrix of finite numbers, and without an agent.
    """

    shape = None

    def __init__(
        self,
        decoder: ArrayLike,
        agents: Sequence[str] = ("prefix_0",),
        *,
        places: Places | None = None,
        scales: Sequence[float] | None = None,
        private: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.decoder = _matrix(decoder, "decoder")
        self.agents = _named(agents)
        self.places = _placed(places, self.agents)
        self._private = private
        scale = np.ones(len(self.agents)) if scales is None else np.asarray(scales, np.float64)
        if scale.shape != (len(self.agents),) or not np.isfinite(scale).all():
            raise InvalidOption(
                f"scales are {len(self.agents)} finite numbers, one for each agent; got {scales!r}"
            )
        self.decoders = (scale[:, None, None] * self.decoder).astype(np.float32)
        """(n, k, d) float32: each agent's decoder."""
        diagonal = np.diagonal(self.decoders, axis1=1, axis2=2)
        # Most decoders are diagonal: then an elementwise product suffices, with the same bits.
        self._diagonal: Floats | None = (
            diagonal.copy()
            if self.decoder.shape[0] == self.decoder.shape[1]
            and np.array_equal(self.decoder, np.diag(np.diagonal(self.decoder)))
            else None
        )
        box = Box(-1.0, 1.0, (len(self.decoder),), np.float32)
        self._bounds: Floats = np.stack([[x] * len(self.agents) for x in (box.low, box.high)])
        self.action_spaces: tuple[Discrete | Box, ...] = (box,) * len(self.agents)
        self.width = len(self.agents) * len(self.decoder)

    def start(self, rows: Ints) -> Codes:
        """See `PromptSpace`."""
        return Codes(np.zeros((len(rows), len(self.agents), len(self.decoder)), np.float32))

    def apply(self, state: Codes, actions: NDArray[Any]) -> Codes:
        """See `PromptSpace`."""
        return Codes(check_vectors(actions, len(state.codes), self._bounds, self.agents))

    def prompts(
        self,
        state: Codes,
        tasks: TaskBatch,
        rows: Ints,  # noqa: ARG002 - a code is the same for every user
    ) -> PrefixPrompts:
        """See `PromptSpace`."""
        return self.places.prompts(self.decode(state.codes), tasks.as_set())

    def decode(self, codes: Floats) -> Floats:
        """(B, n, d) vectors of codes (B, n, k)."""
        if self._diagonal is not None:
            # As in the sum below, where adding zeros turns -0 into 0.
            return codes * self._diagonal + np.float32(0)
        # One product per user: the bits of a product of the whole batch would depend on its size.
        decoded: Floats = (codes[..., None] * self.decoders).sum(axis=2, dtype=np.float32)
        return decoded

    def features(self, state: Codes) -> Floats:
        """See `PromptSpace`: the codes."""
        return state.codes.reshape(len(state.codes), -1)

    def cell(self, state: Codes) -> Ints:  # noqa: ARG002
        """Raise: codes have no index."""
        raise InvalidOption(
            "codes are not countable, so there are no tables of them: see CodebookPrompts"
        )

    @property
    def private(self) -> Sequence[Sequence[str]] | None:
        """See `PromptSpace`."""
        return self._private

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        return {"space": type(self).__name__, "decoder": _digest(self.decoder)}


class CodebookPrompts(_Vectors):
    """A prefix of n vectors, each an entry of a codebook.

    Observations show the entries, scaled by the codebook's largest number.

    Parameters
    ----------
    codebook : (V, d) array
        The vectors that each agent chooses from.
    agents : sequence of str
        Distinct names.
    places, private
        See `VectorPrompts`.

    Raises
    ------
    InvalidOption
        If the codebook is not a matrix of finite numbers, and without an agent.
    """

    def __init__(
        self,
        codebook: ArrayLike,
        agents: Sequence[str] = ("prefix_0",),
        *,
        places: Places | None = None,
        private: Sequence[Sequence[str]] | None = None,
    ) -> None:
        self.codebook = _matrix(codebook, "codebook")
        self.agents = _named(agents)
        self.places = _placed(places, self.agents)
        self._private = private
        size, length = self.codebook.shape
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(Discrete(size) for _ in self.agents)
        self.shape: tuple[int, ...] | None = (size,) * len(self.agents)
        self.width = len(self.agents) * length
        self._sizes = np.full(len(self.agents), size)
        # A last row of zeros, so that index -1 (nothing chosen yet) selects zeros.
        scaled = self.codebook / max(float(np.abs(self.codebook).max()), 1e-12)
        self._shown = np.vstack([scaled, np.zeros((1, length))]).astype(np.float32)

    def start(self, rows: Ints) -> Codes:
        """See `PromptSpace`."""
        return Codes(np.full((len(rows), len(self.agents)), -1))

    def apply(self, state: Codes, actions: NDArray[Any]) -> Codes:
        """See `PromptSpace`."""
        return Codes(check_choices(actions, len(state.codes), self._sizes, self.agents))

    def prompts(
        self,
        state: Codes,
        tasks: TaskBatch,
        rows: Ints,  # noqa: ARG002 - an entry is the same for every user
    ) -> PrefixPrompts:
        """See `PromptSpace`."""
        return self.places.prompts(self.codebook[state.codes], tasks.as_set())

    def features(self, state: Codes) -> Floats:
        """See `PromptSpace`: the entries, scaled."""
        shown: Floats = self._shown[state.codes].reshape(len(state.codes), -1)
        return shown

    def cell(self, state: Codes) -> Ints:
        """See `PromptSpace`."""
        assert self.shape is not None
        cell: Ints = np.ravel_multi_index(tuple(state.codes.T), self.shape).astype(np.int64)
        return cell

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        about = {"space": type(self).__name__, "codebook": _digest(self.codebook)}
        where = {"places": [list(self.places.places), list(self.places.blocks)]}
        return about if self.places.plain else {**about, **where}

    @property
    def private(self) -> Sequence[Sequence[str]] | None:
        """See `PromptSpace`."""
        return self._private


def _matrix(given: ArrayLike, name: str) -> Floats:
    """Return a float32 copy of a matrix of finite numbers."""
    matrix = np.array(given, dtype=np.float32)
    if matrix.ndim != 2 or not matrix.size or not np.isfinite(matrix).all():
        raise InvalidOption(
            f"{name} must be a matrix of finite numbers; got {matrix.dtype} of shape {matrix.shape}"
        )
    return matrix


def _named(agents: Sequence[str]) -> tuple[str, ...]:
    """Return the names of agents, at least one and all different."""
    names = tuple(agents)
    if isinstance(agents, str) or not names or len(set(names)) < len(names):
        raise InvalidOption(
            f"agents must be different names, one for each place of the prompt; got {agents!r}"
        )
    return names


def _placed(places: Places | None, agents: tuple[str, ...]) -> Places:
    """Return the places of the agents, checking their number."""
    found = Places.row(len(agents)) if places is None else places
    if len(found.places) != len(agents):
        raise InvalidOption(
            f"there are {len(found.places)} places for {len(agents)} agents: give one for each"
        )
    return found


def _digest(matrix: Floats) -> str:
    """SHA-256 (hex) of a matrix."""
    sha = hashlib.sha256(str(matrix.shape).encode())
    sha.update(np.ascontiguousarray(matrix, dtype="<f4").tobytes())
    return sha.hexdigest()
