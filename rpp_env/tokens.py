"""Prompts of tokens of an allowed vocabulary: shared ones, and slots that agents fill."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.prompting import PromptSpace, Words, check_choices
from rpp_env.task import RankingTask

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
        Their actions; -1 before the first step.
    tokens : (B, m) int64 array
        Indices of the chosen tokens in the vocabulary; -1 before the first step.
    shared : (B, l) int64 array
        Indices of the tokens before them, which no agent chooses.
    rows : (B,) int64 array
        The users' tasks.
    """

    choices: Ints
    tokens: Ints
    shared: Ints
    rows: Ints


class TokenPrompts(PromptSpace[Slots, SlotPrompts]):
    """l shared tokens and m slots per user, with one agent for each slot.

    A prompt is the shared tokens and then the slots. Agents choose among the whole vocabulary, or
    among k candidates of their own for each task. The shared tokens change only by
    ``reset(options={"shared": ...})``: (l,) tokens in the recommender's numbering, or their words.

    Parameters
    ----------
    vocabulary : (V,) array of int
        The tokens that a prompt may hold, in the recommender's numbering.
    vectors : (V, e) array
        One vector per token for the observations, scaled by the largest number.
    agents : sequence of str
        Distinct names, one for each slot.
    shared : sequence of int
        The shared tokens of a reset without the option, in the recommender's numbering.
    candidates : (T, m, k) array of int, optional
        For each task and slot, the tokens that its agent chooses among, as indices into the
        vocabulary.
    source : str
        What the candidates come from, for tables.
    names : sequence of str
        The words of the vocabulary, for people.

    Raises
    ------
    InvalidOption
        For an empty vocabulary or one with repeated tokens, for another number of vectors or names
        than tokens, for tokens outside the vocabulary, and without an agent.
    """

    makes = SlotPrompts

    def __init__(
        self,
        vocabulary: ArrayLike,
        vectors: ArrayLike,
        agents: Sequence[str] = ("slot_0",),
        *,
        shared: ArrayLike = (),
        candidates: ArrayLike | None = None,
        source: str = "",
        names: Sequence[str] = (),
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
        if names and len(names) != len(tokens):
            raise InvalidOption(f"{len(names)} names came for {len(tokens)} tokens")
        self.vocabulary = tokens.astype(np.int64)
        self.names = tuple(names)
        self._places = {int(token): i for i, token in enumerate(self.vocabulary)}
        self._words = {name: i for i, name in enumerate(self.names)}
        self.shared: Ints = np.zeros(0, np.int64)
        self.shared = self.indices(shared, len(np.atleast_1d(np.asarray(shared))))
        """(l,) indices into the vocabulary."""
        self.candidates = None if candidates is None else self._candidates(candidates)
        self._source = source
        size = len(tokens) if self.candidates is None else self.candidates.shape[2]
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(Discrete(size) for _ in self.agents)
        self.shape: tuple[int, ...] | None = (size,) * len(self.agents)
        self.width = (len(self.agents) + len(self.shared)) * shown.shape[1]
        self._sizes = np.full(len(self.agents), size)
        # A last row of zeros, so that index -1 (nothing chosen yet) selects zeros.
        scaled = shown / max(float(np.abs(shown).max()), 1e-12)
        self.shown: Floats = np.vstack([scaled, np.zeros((1, shown.shape[1]))]).astype(np.float32)
        """(V + 1, e) float32: the vectors as observations show them, and zeros."""

    def indices(self, given: Any, count: int) -> Ints:
        """(`count`,) indices into the vocabulary of tokens, or of words separated by blanks.

        Raises
        ------
        InvalidOption
            For another number of tokens, and for some that are not in the vocabulary.
        """
        known: Mapping[Any, int] = self._words if isinstance(given, str) else self._places
        parts = given.split() if isinstance(given, str) else np.asarray(given).reshape(-1).tolist()
        if wrong := [part for part in parts if isinstance(part, float) or part not in known]:
            raise InvalidOption(
                f"shared: {wrong[0]!r} is not one of the {len(self.vocabulary):,} tokens that a "
                f"prompt may hold, such as {', '.join(map(str, list(known)[:8]))}"
            )
        if len(parts) != count:
            raise InvalidOption(f"shared must be {count} tokens, not {len(parts)}")
        return np.array([known[part] for part in parts], np.int64)

    def _candidates(self, given: ArrayLike) -> Ints:
        found = np.array(given)
        if (
            found.ndim != 3
            or found.dtype.kind not in "iu"
            or not found.size
            or found.shape[1] != len(self.agents)
            or not 0 <= found.min() <= found.max() < len(self.vocabulary)
        ):
            raise InvalidOption(
                f"candidates are integers of shape (tasks, {len(self.agents)}, k) in "
                f"0..{len(self.vocabulary) - 1}; got {found.dtype} of shape {found.shape}"
            )
        return found.astype(np.int64)

    @property
    def options(self) -> Sequence[str]:
        """See `PromptSpace`: the shared tokens, if there are some."""
        return ("shared",) if len(self.shared) else ()

    def start(self, rows: Ints) -> Slots:
        """See `PromptSpace`."""
        return self.begin(rows, {})

    def begin(self, rows: Ints, options: Mapping[str, Any]) -> Slots:
        """See `PromptSpace`; ``"shared"`` holds the shared tokens, or their words."""
        shared = self.shared
        if "shared" in options:
            shared = self.indices(options["shared"], len(shared))
        none = np.full((len(rows), len(self.agents)), -1)
        return Slots(none, none, np.tile(shared, (len(rows), 1)), np.asarray(rows, np.int64))

    def apply(self, state: Slots, actions: NDArray[Any]) -> Slots:
        """See `PromptSpace`."""
        choices = check_choices(actions, len(state.choices), self._sizes, self.agents)
        tokens = choices
        if self.candidates is not None:
            slots = np.arange(len(self.agents))
            tokens = self.candidates[state.rows[:, None], slots, choices]
        return replace(state, choices=choices, tokens=tokens)

    def prompts(
        self,
        state: Slots,
        tasks: TaskBatch,
        rows: Ints,  # noqa: ARG002 - the state knows them
    ) -> SlotPrompts:
        """See `PromptSpace`; where there are more tasks than users, the prompts are repeated."""
        ids = self.keys(state)
        if len(tasks) > len(ids):
            ids = np.resize(ids, (len(tasks), ids.shape[1]))
        return SlotPrompts(ids, tasks.as_set())

    def features(self, state: Slots) -> Floats:
        """See `PromptSpace`: the embeddings of the tokens, the agents' first."""
        both = np.concatenate([state.tokens, state.shared], axis=1)
        shown: Floats = self.shown[both].reshape(len(both), self.width)
        return shown

    @property
    def blocks(self) -> Mapping[str, int]:
        """See `PromptSpace`."""
        chosen = len(self.agents) * self.shown.shape[1]
        shared = self.width - chosen
        return {"prompt": chosen, "shared": shared} if shared else {"prompt": chosen}

    def keys(self, state: Slots) -> Ints:
        """See `PromptSpace`: the tokens, shared ones first, in the recommender's numbering."""
        both = np.concatenate([state.shared, state.tokens], axis=1)
        ids: Ints = self.vocabulary[both]
        return ids

    def cell(self, state: Slots) -> Ints:
        """See `PromptSpace`."""
        assert self.shape is not None
        cell: Ints = np.ravel_multi_index(tuple(state.choices.T), self.shape).astype(np.int64)
        return cell

    def words(
        self,
        actions: NDArray[Any],
        prompts: Any,
        user: int,
        task: RankingTask,
        counts: Mapping[str, Any],
    ) -> Words:
        """See `PromptSpace`: the history and the prompt's words."""
        found = super().words(actions, prompts, user, task, counts)
        if not self.names or prompts is None:
            return found
        ids = [self.names[self._places[int(token)]] for token in prompts.ids[user]]
        own = ids[len(self.shared) :]
        choices = [
            (i, action, f"the word {word}", None)
            for (i, action, _, _), word in zip(found.choices, own, strict=True)
        ]
        lines = [f"{len(task.candidates)} candidates, and the prompt", " ".join(ids), ""]
        lines += ["after the history, oldest first:"]
        lines += [f"{i}. {title}" for i, title in enumerate(task.history, 1)]
        return Words(choices, "\n".join(lines))

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`."""
        sha = hashlib.sha256(np.ascontiguousarray(self.vocabulary, dtype="<i8").tobytes())
        about: dict[str, Any] = {"space": type(self).__name__, "vocabulary": sha.hexdigest()}
        if len(self.shared):
            about["shared"] = self.vocabulary[self.shared].tolist()
        return about | ({"candidates": self._source} if self._source else {})
