"""Observations: encoders of sentences, and the observer that writes the vectors.

An observation is one vector of named slices (`Observer.layout`), float32 in [-1, 1]:

==================  =============  ==============================================================
slice               width          holds
==================  =============  ==============================================================
``user``            d (32)         the user, folded in from the history
``recency``         20             in the collaborative space: norms of the mean vectors of the
                                   last 1, 3, 5, 10, 20 items (5), their cosines (10: 1-3, 1-5,
                                   1-10, 1-20, 3-5, ...), mean similarity of items that stand 1,
                                   2, 4, 8, 16 places apart (5: repeated or changing taste)
``content``         20             the same in the space of genres and title words
``popularity``      2              mean popularity of the last 20 items, and of the last 3
``length``          1              items of the history / 50
``sentences``       e (32)         the role, reasoning and output sentences of the last prompt
``ranking``         d (32)         items of the last ranking: their mean, weighted by the DCG
                                   discount (``ranking="mean"``), or
                    K x d          their vectors, best first (``ranking="sequence"``); what was
                                   not named is left out, or zero
``named``           1              share of the candidates that the last ranking named
``shown``           1              history items that the last prompt showed / 50
``level``           1              the history agent's level / the highest level
``response``        1              the user's response to the last list, in [0, 1]; this block and
                                   the next ones only where an id shows it (`Episode.feedback`)
``best_response``   1              the best response of this episode so far
``best_...``        as there       the blocks of the prompt (``best_sentences``, ``best_shown``,
                                   ``best_level``) that first had the best response; 0 before a
                                   response above 0
``step``            1              steps taken / steps of an episode
``own_action``      most options   the agent's own last action, one-hot; 0 wide where an agent
                                   has more than 256 options
==================  =============  ==============================================================

All but ``own_action`` is the *shared part*; `Observer.state` is the shared part and the last
actions of all agents, one-hot. Slices that describe the last prompt or ranking are zero before the
first step. No slice depends on rewards, targets, or the other users of the batch, but for those of
the response.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.actions import actions_of
from rpp_env.data.candidates import MAX_HISTORY, TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.models.encoder import SentenceTransformerEncoder
from rpp_env.models.pretrained import ENCODERS, missing, place
from rpp_env.options import check_choice, unknown
from rpp_env.prompting import PromptSpace
from rpp_env.sentences.encoders import Encoder, HashedNGrams, encode

if TYPE_CHECKING:
    from rpp_env.embeddings import Embeddings

__all__ = [
    "Context",
    "Encoder",
    "HashedNGrams",
    "Observer",
    "SentenceTransformerEncoder",
    "encode",
    "history_context",
    "open_encoder",
]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

WINDOWS = (1, 3, 5, 10, 20)
"""Lengths of recent history that the recency slices compare."""
HASHED = "hashed"
"""Name of the default encoder of sentences."""
LAGS = (1, 2, 4, 8, 16)
"""Distances in the sequence at which similarities are computed."""


@dataclass(frozen=True, eq=False)
class Context:
    """Observed features of the tasks that do not depend on the agents' choices.

    Attributes
    ----------
    blocks : mapping of str to int
        Names and widths of its parts, in order.
    values : (T, sum of the widths) float32 array
        Numbers in [-1, 1], by task; they depend on no target and on no other task.

    Raises
    ------
    InvalidOption
        For values of another shape or out of range.
    """

    blocks: Mapping[str, int]
    values: Floats

    def __post_init__(self) -> None:
        width = sum(self.blocks.values())
        fits = self.values.ndim == 2 and self.values.shape[1] == width
        if not fits or self.values.dtype != np.float32 or not (np.abs(self.values) <= 1).all():
            raise InvalidOption(
                f"the blocks of a context, {', '.join(self.blocks)}, take float32 values of shape "
                f"(tasks, {width}) in [-1, 1]; got {self.values.dtype} of {self.values.shape}"
            )


def open_encoder(encoder: Encoder | str | None) -> Encoder | None:
    """Return an encoder by its name, or the given one.

    Parameters
    ----------
    encoder : Encoder or str, optional
        ``"hashed"`` (None, the default: `HashedNGrams`), ``"minilm"``, or a folder that
        sentence-transformers wrote.

    Raises
    ------
    InvalidOption
        For an unknown name, and for an encoder that has not been fetched.
    InvalidData, MissingExtra
        See `SentenceTransformerEncoder`.
    """
    if not isinstance(encoder, str):
        return encoder
    if encoder == HASHED:
        return None
    if encoder not in ENCODERS and not Path(encoder).is_dir():
        raise InvalidOption(
            f"{unknown('encoder', encoder, [HASHED, *ENCODERS])}. A folder that "
            "sentence-transformers wrote will do, too"
        )
    folder = place(encoder) if encoder in ENCODERS else Path(encoder)
    if folder is None:
        raise missing(encoder)
    return _loaded(str(folder))


@lru_cache(maxsize=2)
def _loaded(folder: str) -> Encoder:
    return SentenceTransformerEncoder(folder)


class Observer:
    """Writes observations for a set of tasks; the layout is the table of this module.

    Features that depend only on the task are computed once, here. The vector of a task is the same
    to the bit whatever the other tasks are.

    Parameters
    ----------
    tasks : TaskSet
    embeddings : Embeddings
        Embeddings of the tasks' dataset.
    space : PromptSpace
        Its `PromptSpace.features` are the middle blocks.
    steps : int
        Steps of an episode.
    ranking : {"mean", "sequence"}
        How the last ranking is shown.
    observe : {"shared", "private"}
        Whether all agents see the whole shared part, or each only its own blocks of it
        (`PromptSpace.private`). Under RPP's rules role sees the user; history the history blocks,
        shown and level; reasoning the last ranking; output the share named and the sentences.
        Hidden blocks are zero, so that all observations have one width.
    contexts : sequence of Context
        Further blocks, after those of the history.
    feedback : bool
        Add the blocks of the user's responses (`responses`). All agents see the last and the best
        response, and those see a block of the best prompt who see that of the last one.
    seen : callable, optional
        Changes what is shown of the tasks, (T, w): the blocks of histories and of `contexts`. See
        `Episode.seen`.
    """

    def __init__(
        self,
        tasks: TaskSet,
        embeddings: Embeddings,
        space: PromptSpace[Any, Any],
        steps: int,
        ranking: Literal["mean", "sequence"] = "mean",
        observe: Literal["shared", "private"] = "shared",
        contexts: Sequence[Context] = (),
        feedback: bool = False,
        seen: Callable[[Floats], Floats] | None = None,
    ) -> None:
        # Imported here: scipy.sparse would double the import time of `rpp_env`.
        from scipy.sparse import csr_array

        check_choice("ranking", ranking, ("mean", "sequence"))
        check_choice("observe", observe, ("shared", "private"))
        self.actions = actions_of(space.action_spaces)
        K, dim = tasks.num_candidates, embeddings.items.shape[1]
        histories = history_context(tasks, embeddings)
        (first, width), *others = space.blocks.items()
        responses = {"response": 1, "best_response": 1}
        responses |= {f"best_{name}": size for name, size in space.blocks.items()}
        responses = responses if feedback else {}
        # The ranking's blocks follow the prompt's first block, as in the first version, so that
        # policies trained then can still be used.
        blocks = [
            *(block for context in (histories, *contexts) for block in context.blocks.items()),
            (first, width),
            ("ranking", dim if ranking == "mean" else K * dim),
            ("named", 1),
            *others,
            *responses.items(),
            ("step", 1),
            ("own_action", self.actions.width),
        ]
        ends = np.cumsum([size for _, size in blocks]).tolist()
        self.layout: dict[str, slice] = {
            name: slice(end - size, end) for (name, size), end in zip(blocks, ends, strict=True)
        }
        """Position of each named block in an observation."""
        if len(self.layout) < len(blocks):
            raise InvalidOption(f"two blocks of an observation have one name: {dict(blocks)}")
        self.width: int = ends[-1]
        """Width of an observation."""
        self.shared_width: int = self.layout["own_action"].start
        """Width of the part that all agents share."""
        self.state_width: int = self.shared_width + self.actions.state_width
        """Width of `state`."""
        self.ranking_shape: tuple[int, ...] = (dim,) if ranking == "mean" else (K, dim)
        """Shape of the block ``ranking``: one mean vector, or the places' vectors."""
        self._static = histories.values
        if contexts:
            values = [histories.values, *(context.values for context in contexts)]
            self._static = np.concatenate(values, axis=1)
        if seen is not None:
            self._static = seen(self._static)
        self._before = self.layout[first]
        self._responses = slice(
            self.layout["step"].start - sum(responses.values()), self.layout["step"].start
        )
        self._after = slice(self.layout["named"].stop, self._responses.start)
        self._named, self._step = self.layout["named"].start, self.layout["step"].start
        self._split = width
        self._candidates, self._steps = K, steps
        # A last row of zeros, so that index -1 (an item that was not named) selects zeros.
        self._items = np.vstack([embeddings.items, np.zeros((1, dim), np.float32)])
        self._sequence = ranking == "sequence"
        places = np.arange(K)
        discounts = np.where(places < np.arange(K + 1)[:, None], 1 / np.log2(places + 2), 0)
        totals = np.maximum(discounts.sum(axis=1, keepdims=True), 1e-9)
        self._discounts = (discounts / totals).astype(np.float32)
        self._matrix = csr_array((0, len(self._items)), dtype=np.float32)
        self._seen: Floats | None = None
        if observe == "private":
            if space.private is None:
                raise InvalidOption(
                    "observe='private' needs a prompt space that assigns blocks to agents "
                    f"(`private`); {type(space).__name__} does not: use observe='shared'"
                )
            self._seen = np.zeros((len(space.agents), self.shared_width), np.float32)
            for row, names in zip(self._seen, space.private, strict=True):
                best = [f"best_{name}" for name in names]
                for name in (
                    *names,
                    *(set(responses) & {"response", "best_response", *best}),
                    "step",
                ):
                    row[self.layout[name]] = 1

    def readers(self, name: str) -> tuple[int, ...]:
        """Return the indices of the agents that see the block `name` of the shared part."""
        agents = range(len(self.actions.spaces))
        place = self.layout[name].start
        return tuple(i for i in agents if self._seen is None or self._seen[i, place])

    def begin(self, rows: Ints, features: Floats) -> Floats:
        """(B, shared_width): the shared part before the first step, for tasks `rows`."""
        shared = np.zeros((len(rows), self.shared_width), dtype=np.float32)
        self._write(shared, rows, features)
        return shared

    def after(
        self,
        rows: Ints,
        features: Floats,
        ranked: NDArray[np.integer[Any]],
        named: NDArray[np.integer[Any]],
        step: Ints,
        responses: Floats | None = None,
    ) -> Floats:
        """(B, shared_width): the shared part after a step.

        Parameters
        ----------
        rows : (B,) int array
            Tasks.
        features : (B, w) float32 array
            Features of the prompt space.
        ranked : (B, K) int array
            Item rows, best first.
        named, step : (B,) int arrays
        responses : (B, 2 + w) float32 array, optional
            From `responses`; needed with feedback.
        """
        shared = np.empty((len(rows), self.shared_width), dtype=np.float32)
        self._write(shared, rows, features)
        if responses is not None:
            shared[:, self._responses] = responses
        shared[:, self.layout["ranking"]] = self._ranking(ranked, named)
        shared[:, self._named] = named / self._candidates
        shared[:, self._step] = step / self._steps
        return shared

    @staticmethod
    def responses(before: Floats | None, shown: Floats, features: Floats) -> Floats:
        """(B, 2 + w), a new array: last response, best response, features of its prompt.

        Parameters
        ----------
        before : (B, 2 + w) float32 array or None
            The result of the step before; None before the first step.
        shown : (B,) float32 array
            The users' responses to this step's list.
        features : (B, w) float32 array
            Features of this step's prompt.
        """
        if before is None:
            made = np.zeros((len(shown), 2 + features.shape[1]), np.float32)
        else:
            made = before.copy()
        made[:, 0] = shown
        better = shown > made[:, 1]
        np.copyto(made[:, 1], shown, where=better)
        np.copyto(made[:, 2:], features, where=better[:, None])
        return made

    def _write(self, shared: Floats, rows: Ints, features: Floats) -> None:
        """Write the blocks that are known before the answer."""
        shared[:, : self._static.shape[1]] = self._static.take(rows, axis=0)
        shared[:, self._before] = features[:, : self._split]
        shared[:, self._after] = features[:, self._split :]

    def observations(self, shared: Floats, actions: NDArray[Any]) -> Floats:
        """(B, n, width), a new array; `actions` (B, n, ...) are the last ones."""
        made = np.empty((*actions.shape[:2], self.width), dtype=np.float32)
        made[:, :, : self.shared_width] = shared[:, None]
        if self._seen is not None:
            made[:, :, : self.shared_width] *= self._seen
        made[:, :, self.shared_width :] = self.actions.own(actions)
        return made

    def state(self, shared: Floats, actions: NDArray[Any]) -> Floats:
        """(B, state_width), a new array: the shared part and all last actions."""
        return np.concatenate([shared, *self.actions.all(actions)], axis=1)

    def _ranking(self, ranked: NDArray[np.integer[Any]], named: NDArray[np.integer[Any]]) -> Floats:
        B, K = ranked.shape
        if self._sequence:
            said = np.where(np.arange(K) < np.reshape(named, (-1, 1)), ranked, -1)
            return self._items[said].reshape(B, -1)
        # A sparse product adds up row by row, from the first place to the last: the same bits in
        # every batch, and faster than a dense product, which gathers (B, K, d) first.
        if self._matrix.shape[0] != B:
            self._matrix = type(self._matrix)(
                (
                    np.zeros(B * K, np.float32),
                    np.zeros(B * K, np.int32),
                    np.arange(0, B * K + 1, K, dtype=np.int32),
                ),
                shape=(B, len(self._items)),
            )
        self._matrix.data = self._discounts.take(named, axis=0).ravel()
        self._matrix.indices = ranked.ravel().astype(self._matrix.indptr.dtype, copy=False)
        product: Floats = self._matrix @ self._items
        return product


@lru_cache(maxsize=8)  # shared by environments over the same tasks
def history_context(tasks: TaskSet, embeddings: Embeddings) -> Context:
    """Return the blocks of the histories, from ``user`` to ``length``; read-only."""
    recent = tasks.padded_history(max(WINDOWS))
    whole = tasks.padded_history(MAX_HISTORY)
    lengths = tasks.history_lengths
    block = 2048  # bounds the memory of (tasks, 20, d) arrays
    made = []
    for start in range(0, len(tasks), block):
        part = slice(start, start + block)
        items = recent[part]
        # The means of an empty history are 0: divide by one.
        count = np.clip(lengths[part], 1, max(WINDOWS))
        popularity = _latest_sums(embeddings.popularity[:, None], items)[:, [2, -1], 0]
        made.append(
            np.concatenate(
                [
                    embeddings.fold_in(whole[part]),
                    _recency(embeddings.items, items, count),
                    _similarities(embeddings.items, whole[part], lengths[part]),
                    _recency(embeddings.content, items, count),
                    _similarities(embeddings.content, whole[part], lengths[part]),
                    popularity[:, ::-1] / np.minimum(count[:, None], [max(WINDOWS), 3]),
                    lengths[part, None] / MAX_HISTORY,
                ],
                axis=1,
            )
        )
    # Rounding may carry a mean of unit vectors past 1 by the last bit.
    static: Floats = np.clip(np.concatenate(made), -1, 1).astype(np.float32)
    static.setflags(write=False)
    width = embeddings.items.shape[1]
    blocks = {"user": width, "recency": 20, "content": 20, "popularity": 2, "length": 1}
    return Context(blocks, static)


def _latest_sums(vectors: Floats, items: NDArray[np.int32]) -> NDArray[np.float64]:
    """(T, L, d): sums over the latest 1, 2, ... L items; -1 adds nothing."""
    padded = np.vstack([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])
    return np.cumsum(padded[items[:, ::-1]], axis=1, dtype=np.float64)


def _recency(vectors: Floats, items: NDArray[np.int32], count: Ints) -> NDArray[np.float64]:
    """(T, 15): norms and cosines of the windows' means."""
    sums = _latest_sums(vectors, items)[:, [window - 1 for window in WINDOWS]]
    means = sums / np.minimum(count[:, None], WINDOWS)[:, :, None]
    norms = np.sqrt((means * means).sum(axis=-1))
    left, right = (list(side) for side in zip(*combinations(range(len(WINDOWS)), 2), strict=True))
    products = (means[:, left] * means[:, right]).sum(axis=-1)
    cosines = products / np.maximum(norms[:, left] * norms[:, right], 1e-12)
    return np.concatenate([norms, cosines], axis=1)


def _similarities(vectors: Floats, items: NDArray[np.int32], count: Ints) -> NDArray[np.float64]:
    """(T, 5): mean similarity of items that stand `LAGS` places apart; 0 in shorter histories."""
    padded = np.vstack([vectors, np.zeros((1, vectors.shape[1]), vectors.dtype)])[items]
    found = np.empty((len(items), len(LAGS)))
    for column, lag in enumerate(LAGS):
        pairs = (padded[:, lag:] * padded[:, :-lag]).sum(axis=-1, dtype=np.float64).sum(axis=-1)
        found[:, column] = pairs / np.maximum(count - lag, 1)
    return found
