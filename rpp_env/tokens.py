"""Prompts of tokens: a number of slots, each filled with a token of an allowed vocabulary."""

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
from rpp_env.prompting import PromptSpace, check_choices

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SlotPrompts", "Slots", "TokenPrompts"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class SlotPrompts:
    """The prompts of B users: the tokens in their slots, and the task that they are for.

    Attributes
    ----------
    ids : (B, m) int64 array
        Token ids, in the recommender's numbering.
    tasks : TaskSet
        B tasks, in the order of `ids`.
    vectors : (B, m, d) torch.Tensor, optional
        Vectors that a recommender reads in the tokens' place: their embeddings, of which a solver
        takes the gradient.
    """

    ids: Ints
    tasks: TaskSet
    vectors: Tensor | None = None

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, slots=True)
class Slots:
    """The agents' last choices for B users.

    Attributes
    ----------
    choices : (B, m) int64 array
        Indices into the vocabulary; -1 before the first step.
    """

    choices: Ints


class TokenPrompts(PromptSpace[Slots, SlotPrompts]):
    """m token slots per user, with one agent each, over an allowed vocabulary.

    Parameters
    ----------
    vocabulary : (V,) array of int
        The tokens that may be chosen, in the recommender's numbering.
    vectors : (V, e) array
        One vector per token for the observations, scaled by the largest number.
    agents : sequence of str
        Distinct names, one for each slot.

    Raises
    ------
    InvalidOption
        For an empty vocabulary or one with repeated tokens, for another number of vectors than
        tokens, and without an agent.
    """

    makes = SlotPrompts

    def __init__(
        self, vocabulary: ArrayLike, vectors: ArrayLike, agents: Sequence[str] = ("slot_0",)
    ) -> None:
        tokens, shown = np.array(vocabulary), np.array(vectors, dtype=np.float64)
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or len(set(tokens.tolist())) < 1:
            raise InvalidOption("a vocabulary must hold one token or more, as integers")
        if len(np.unique(tokens)) < len(tokens):
            raise InvalidOption("a vocabulary must not hold a token twice")
        if shown.ndim != 2 or len(shown) != len(tokens) or not np.isfinite(shown).all():
            raise InvalidOption(
                f"vectors must be finite, one for each of {len(tokens)} tokens; got shape "
                f"{shown.shape}"
            )
        self.agents = tuple(agents)
        if isinstance(agents, str) or not agents or len(set(agents)) < len(self.agents):
            raise InvalidOption(f"agents must be different names, one a slot; got {agents!r}")
        self.vocabulary = tokens.astype(np.int64)
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(
            Discrete(len(tokens)) for _ in self.agents
        )
        self.shape: tuple[int, ...] | None = (len(tokens),) * len(self.agents)
        self.width = len(self.agents) * shown.shape[1]
        self._sizes = np.full(len(self.agents), len(tokens))
        # A last row of zeros, so that index -1 (nothing chosen yet) selects zeros.
        scaled = shown / max(float(np.abs(shown).max()), 1e-12)
        self._shown = np.vstack([scaled, np.zeros((1, shown.shape[1]))]).astype(np.float32)

    def start(self, rows: Ints) -> Slots:
        """See `PromptSpace`."""
        return Slots(np.full((len(rows), len(self.agents)), -1))

    def apply(self, state: Slots, actions: NDArray[Any]) -> Slots:
        """See `PromptSpace`."""
        return Slots(check_choices(actions, len(state.choices), self._sizes, self.agents))

    def prompts(
        self,
        state: Slots,
        tasks: TaskBatch,
        rows: Ints,  # noqa: ARG002 - a token is the same for every user
    ) -> SlotPrompts:
        """See `PromptSpace`."""
        return SlotPrompts(self.vocabulary[state.choices], tasks.as_set())

    def features(self, state: Slots) -> Floats:
        """See `PromptSpace`: the embeddings of the tokens."""
        return self._shown[state.choices].reshape(len(state.choices), -1)

    def cell(self, state: Slots) -> Ints:
        """See `PromptSpace`."""
        assert self.shape is not None
        cell: Ints = np.ravel_multi_index(tuple(state.choices.T), self.shape).astype(np.int64)
        return cell

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        sha = hashlib.sha256(np.ascontiguousarray(self.vocabulary, dtype="<i8").tobytes())
        return {"space": type(self).__name__, "vocabulary": sha.hexdigest()}
