"""Prompts that a title continues, as a prompt space: opening, history length, form and closing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.errors import InvalidOption
from rpp_env.options import unknown
from rpp_env.prompting import Words
from rpp_env.sentences.catalog import history_labels
from rpp_env.sentences.encoders import Encoder, HashedNGrams
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.leads import (
    CATALOGS,
    ContinuedPrompt,
    ContinuedPrompts,
    LeadCatalog,
    LeadChoice,
)
from rpp_env.sentences.space import SentencePrompts, Sentences
from rpp_env.task import RankingTask

__all__ = ["LENGTHS", "LeadPrompts"]

LENGTHS = HistoryLengths("rungs", (-2, -1, 0, 1, 2), (1, 2, 3, 5, 8, 13, 20), 2, 5)
"""History lengths, as under RPP-v0."""


class LeadPrompts(SentencePrompts):
    """Prompt space whose prompts a language model continues with the next title.

    The role agent chooses an opening, the history agent the number of items shown, the reasoning
    agent the form in which the items and the request for the next title are written, and the output
    agent the words before the title. It is the prompt space of ``RPPLikelihood-v0``
    (`rpp_env.rpp_likelihood`). Under other rules, give it with ``rank_by="likelihood"``::

        RPPEnv.make("ml-1m", "smollm2", space=LeadPrompts, rank_by="likelihood")

    Parameters
    ----------
    tasks : TaskSet
        The tasks that are played.
    catalog : LeadCatalog, optional
        The options of the agents; by default `OPENINGS`, `FORMS` and `CLOSINGS`, for films.
    history : HistoryLengths
        `LENGTHS` by default.
    encoder : Encoder, optional
        Encodes the sentences for the observations; `HashedNGrams` by default.

    Raises
    ------
    InvalidOption
        For tasks of another domain than films without a catalog of their own, and for the reasons
        of `SentencePrompts`.
    """

    makes = ContinuedPrompts

    def __init__(
        self,
        tasks: TaskSet,
        catalog: LeadCatalog | str = "films",
        history: HistoryLengths = LENGTHS,
        encoder: Encoder | None = None,
    ) -> None:
        if isinstance(catalog, str):
            if catalog not in CATALOGS:
                raise InvalidOption(unknown("catalog", catalog, CATALOGS))
            domain = tasks.dataset.domain
            if domain != "movies":
                raise InvalidOption(
                    f"the forms that come with the package are for films, and {tasks.dataset.name} "
                    f"is of the domain {domain!r}: give a LeadCatalog of your own"
                )
            openings, closings = CATALOGS[catalog]
            labels = history_labels(history.kind, history.options)
            catalog = LeadCatalog(labels, openings, closings=closings)
        given = HashedNGrams() if encoder is None else encoder
        super().__init__(cast("Any", catalog), history, tasks, given)

    def prompts(self, state: Sentences, tasks: TaskBatch, rows: Any) -> Any:  # noqa: ARG002
        """See `PromptSpace`."""
        choices, shown = self.book.choose(state.choices), state.shown.tolist()
        return ContinuedPrompts(map(self._prompt, tasks, choices, shown))

    def _prompt(self, task: RankingTask, choice: Any, shown: int) -> Any:
        said: LeadChoice = choice
        return ContinuedPrompt(task, said.form, shown, said.opening, said.closing)

    def words(
        self,
        actions: NDArray[Any],
        prompts: Sequence[Any] | None,
        user: int,
        task: RankingTask,
        counts: Mapping[str, Any],
    ) -> Words:
        """See `PromptSpace`: opening, history, form and closing, and the whole prompt."""
        said: Any = self.book.choose(actions[None])[0]
        shown = int(counts["shown"])
        prompt = self._prompt(task, said, shown) if prompts is None else prompts[user]
        closing = said.closing.line or said.closing.phrase
        meant = (
            said.opening.strip() or "(no opening)",
            f"{self.book.history_records[int(actions[1])]}: {shown} of {len(task.history)} shown",
            f"form {said.form.name}",
            closing.strip() or "(no closing)",
        )
        pairs = enumerate(zip(actions, meant, strict=True))
        return Words([(i, str(at), what, None) for i, (at, what) in pairs], prompt.text)

    @property
    def meanings(self) -> Sequence[Sequence[str]]:
        """See `PromptSpace`: openings, history lengths, names of the forms, closings."""
        catalog: LeadCatalog = cast("Any", self.book)
        openings = [text.strip() or "(no opening)" for text in catalog.openings]
        closings = [(one.line or one.phrase).strip() or "(no closing)" for one in catalog.closings]
        forms = [form.name for form in catalog.forms]
        return openings, catalog.history_records, forms, closings

    def described(self, cell: int) -> str:
        """See `PromptSpace`: actions from 0, and the items of history."""
        assert self.shape is not None
        level, opening, form, closing = np.unravel_index(cell, self.shape)
        shown = self.history.shown()[level]
        return f"opening {opening}, history of {shown}, form {form}, closing {closing}"

    def _with(self, book: Any, history: HistoryLengths, tasks: TaskSet) -> LeadPrompts:
        return LeadPrompts(tasks, book, history, self.encoder)
