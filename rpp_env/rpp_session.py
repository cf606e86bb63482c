"""RPPSession-v0: the user's next five items, one after another, with prompts of sentences.

=============  ======================================================================
agents         ``role_playing``, ``history_records``, ``reasoning_guidance``, ``output_format``
actions        ``Discrete``, as under ``RPP-v0``
observations   the blocks of `rpp_env.observation`, with the user's response to the last list
recommender    a language model, ``"embedded"`` by default
tasks          the last five items of a user: at each step the next one is the target, and the
               items before it, those of earlier steps included, are the history
reward         NDCG@10 of the item that the user chose next
episode        five steps, or ``max_cycles``
=============  ======================================================================

After a step the observation shows the history of the next one, which ends in the item that was just
asked for: the user has chosen it by then. Nothing is fitted on the five items of any user. Version
history: v0, the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env import factory
from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.episode import Stream
from rpp_env.observation import HashedNGrams
from rpp_env.prompting import Rankings
from rpp_env.rules import RULES, episode_of
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.prompt import Prompts
from rpp_env.sentences.space import SentencePrompts, Sentences

__all__ = ["Options", "SessionPrompts", "assemble"]

Ints = NDArray[np.int64]

_EPISODE = episode_of("RPPSession-v0")


@dataclass(frozen=True, kw_only=True)
class Options(factory.Options):
    """Options of ``RPPSession-v0``: those of the ids of sentences, with one draw of candidates."""


@dataclass(frozen=True, slots=True)
class _Asked(Sentences):
    """State of the agents, with the row of each user's next task among the tasks of all steps."""

    task: Ints


class SessionPrompts(SentencePrompts):
    """Prompt space of sentences for sessions, whose histories grow from step to step.

    Parameters
    ----------
    first : TaskSet
        The first task of each session: those that an environment plays.
    book, history
        As `SentencePrompts` takes them.
    whole : TaskSet
        The tasks of all steps, grouped by session.
    """

    def __init__(
        self, first: TaskSet, *, book: SentenceCatalog, history: HistoryLengths, whole: TaskSet
    ) -> None:
        super().__init__(book, history, whole, HashedNGrams())
        self._steps = len(whole) // len(first)

    def start(self, rows: Ints) -> _Asked:
        """See `PromptSpace`."""
        return _asked(super().start(rows * self._steps), rows * self._steps)

    def apply(self, state: _Asked, actions: NDArray[Any]) -> _Asked:  # type: ignore[override]
        """See `PromptSpace`."""
        return _asked(super().apply(state, actions), state.task)

    def answered(  # type: ignore[override]
        self, state: _Asked, prompts: Prompts | None, rankings: Rankings
    ) -> _Asked:
        """Return the state after the answer, with the length of the next task's history."""
        last = state.task % self._steps == self._steps - 1
        task = state.task + ~last
        after = super().answered(state, prompts, rankings)
        return replace(_asked(after, task), length=self._lengths.take(task))

    def at(self, cells: Ints, rows: Ints) -> _Asked:
        """See `PromptSpace`; at the first step."""
        return _asked(super().at(cells, rows * self._steps), rows * self._steps)

    def alike(self, cells: Ints, rows: Ints) -> Ints:
        """See `PromptSpace`; at the first step."""
        return super().alike(cells, rows * self._steps)


def _asked(state: Sentences, task: Ints) -> _Asked:
    return _Asked(**{one.name: getattr(state, one.name) for one in fields(Sentences)}, task=task)


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> factory.Parts:
    """Make the arguments of `RPPEnv` for the id ``RPPSession-v0``.

    Parameters
    ----------
    dataset : str or Dataset, optional
        By default ``"movieworld-drift"``.
    model : str, LanguageModel or Recommender, optional
        ``"embedded"`` by default. There are no tables.
    split : str
        The split whose users are played.
    max_users : int, optional
        As `RPPEnv.make` takes it. Users with too few items for a session are left out afterwards.
    max_cycles : int, optional
        Number of items of a session, 5 by default.
    options : mapping
        Fields of `Options`.

    Raises
    ------
    InvalidOption
        For unknown or contradictory options, and where no user has enough items.
    """
    if factory.is_table(model):
        _EPISODE.check_table("leave model out, or name a model")
    steps = _EPISODE.max_cycles if max_cycles is None else max_cycles
    rules = replace(
        RULES["RPP-v0"],
        id=_EPISODE.id,
        max_cycles=steps,
        feedback=_EPISODE.feedback,
        discount=_EPISODE.discount,
    )
    parts = factory.assemble(
        "movieworld-drift" if dataset is None else dataset,
        model,
        split,
        rules,
        max_users,
        None,
        options,
        kind=Options,
        targets=steps,
    )
    whole, book = parts.tasks, parts.book
    assert book is not None
    feedback = options.get("feedback") or rules.feedback
    stream = Stream(_EPISODE.id, steps, whole=whole, feedback=feedback, discount=rules.discount)
    space = partial(SessionPrompts, book=book, history=rules.lengths, whole=whole)
    return replace(parts, tasks=stream.first, rules=stream, book=None, space=space)
