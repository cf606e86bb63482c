"""Prompts of sentences: four agents choose a role, a history length, a reasoning and an output."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rpp_env.data.candidates import MAX_HISTORY, TaskBatch, TaskSet
from rpp_env.errors import InvalidOption, TableMismatch
from rpp_env.prompting import Axis, PromptSpace, Rankings, Words, check_choices
from rpp_env.sentences import AGENTS, Choice, SentenceCatalog
from rpp_env.sentences.encoders import Encoder, encode
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.prompt import Prompt, Prompts
from rpp_env.task import RankingTask

__all__ = ["SentencePrompts", "Sentences"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Sentences:
    """State of the four agents of B users.

    Attributes
    ----------
    length : (B,) int64 array
        Items in each user's history.
    choices : (B, 4) int64 array
        The last actions; -1 before the first step.
    said : (B,) int64 array
        The index of the combination of sentences that they chose; -1 before the first step.
    level : (B,) int64 array
        The history agent's level.
    shown : (B,) int64 array
        History items in the last prompt.
    vectors : (B, e) float32 array or None
        Encoded sentences after rewriting (RPP+); None if nothing is rewritten.
    edited : (B, 2) int64 array or None
        Numbers of sentences that were rewritten, and of those whose rewrites were refused.
    """

    length: Ints
    choices: Ints
    said: Ints
    level: Ints
    shown: Ints
    vectors: Floats | None
    edited: Ints | None


class SentencePrompts(PromptSpace[Sentences, Prompts]):
    """Prompt space of the sentences of a catalog and the history length.

    Its axes are history level, role, reasoning and output.

    Parameters
    ----------
    book : SentenceCatalog
        The catalog; it needs as many history labels as `history` has options.
    history : HistoryLengths
    tasks : TaskSet
        The tasks that are played; they define the histories and the number of candidates.
    encoder : Encoder
        Encodes the sentences for the observations.
    rewritten : bool
        Whether the sentences are rewritten for each user before they are sent (RPP+).
    agents : sequence of str
        The agents' names.

    Raises
    ------
    InvalidOption
        If catalog and `history` differ in the number of history options, and for a task without
        a history.
    """

    makes: type | None = Prompts
    private = (
        ("user",),
        ("recency", "content", "popularity", "length", "shown", "level"),
        ("ranking",),
        ("named", "sentences"),
    )

    def __init__(
        self,
        book: SentenceCatalog,
        history: HistoryLengths,
        tasks: TaskSet,
        encoder: Encoder,
        rewritten: bool = False,
        agents: Sequence[str] = AGENTS,
    ) -> None:
        if book.sizes[1] != len(history.options):
            raise InvalidOption(
                f"the catalog has {book.sizes[1]} history records, but there are "
                f"{len(history.options)} history options; give one label per option"
            )
        if not tasks.history_lengths.all():
            user = tasks.dataset.user_tokens[tasks.users[tasks.history_lengths.argmin()]]
            raise InvalidOption(
                f"user {user!r} has an empty history: prompts of sentences need one item at least "
                "before the target; leave such tasks out, or give a recommender of vectors"
            )
        self.book = book
        self.history = history
        self.encoder = encoder
        self.rewritten = rewritten
        self.agents = tuple(agents)
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(map(Discrete, book.sizes))
        roles, _, *others = book.sizes
        self._sentences = (roles, *others)
        self.shape: tuple[int, ...] = (history.max_level + 1, *self._sentences)
        self.width = encoder.width + 2
        self._lengths = tasks.history_lengths
        self._limits = np.array(book.sizes)
        self._moves = history.axis.moves
        self._items = np.minimum(history.shown(), MAX_HISTORY)
        self._scale = max(history.max_level, 1)
        # A history level has as many prompt indices as there are combinations of sentences.
        self._count = math.prod(self._sentences)
        self._strides = np.array([math.prod(others), 0, others[1], 1])
        said: list[str] = []
        if not rewritten:
            every = self._choices(np.arange(self._count))
            task = tasks.task(0)
            said = [self._prompt(task, choice, 1).instructions for choice in book.choose(every)]
        # Features of all sentences, with two columns for the rest. A last row of zeros, so that
        # index -1 (no sentence yet) selects zeros.
        self._vectors = np.zeros((len(said) + 1, self.width), np.float32)
        if said:
            self._vectors[:-1, :-2] = encode(encoder, said)

    def start(self, rows: Ints) -> Sentences:
        """See `PromptSpace`."""
        count = len(rows)
        zeros = np.zeros(count, np.int64)
        return Sentences(
            self._lengths.take(rows),
            np.full((count, len(AGENTS)), -1),
            zeros - 1,
            zeros + self.history.first,
            zeros,
            np.zeros((count, self.encoder.width), np.float32) if self.rewritten else None,
            np.zeros((count, 2), np.int64) if self.rewritten else None,
        )

    def apply(self, state: Sentences, actions: NDArray[Any]) -> Sentences:
        """See `PromptSpace`."""
        choices = check_choices(actions, len(state.level), self._limits, self.agents)
        level = self._moves[state.level, choices[:, 1]]
        shown = np.minimum(self._items.take(level), state.length)
        said = choices @ self._strides
        return Sentences(state.length, choices, said, level, shown, state.vectors, state.edited)

    def prompts(
        self,
        state: Sentences,
        tasks: TaskBatch,
        rows: Ints,  # noqa: ARG002 - a task names its user
    ) -> Prompts:
        """See `PromptSpace`."""
        choices, shown = self.book.choose(state.choices), state.shown.tolist()
        return Prompts(map(self._prompt, tasks, choices, shown))

    def _prompt(self, task: RankingTask, choice: Choice, shown: int) -> Prompt:
        return Prompt(task, choice, shown)

    def answered(
        self, state: Sentences, prompts: Sequence[Prompt] | None, rankings: Rankings
    ) -> Sentences:
        """Return the state after the answer: items that did not fit, rewritten sentences.

        Parameters
        ----------
        state : Sentences
        prompts : sequence of Prompt or None
            The prompts that were sent.
        rankings : Rankings
        """
        trimmed = rankings.cost.get("trimmed")
        if trimmed is None and not self.rewritten:
            return state
        shown = state.shown if trimmed is None else state.shown - trimmed
        vectors, edited = state.vectors, state.edited
        if self.rewritten and prompts is not None:
            said = [prompt.instructions for prompt in prompts]
            row = {text: i for i, text in enumerate(dict.fromkeys(said))}
            vectors = encode(self.encoder, list(row))[[row[text] for text in said]]
            edited = np.array(list(map(_edited, prompts, self.book.choose(state.choices))))
        return replace(state, shown=shown, vectors=vectors, edited=edited)

    def features(self, state: Sentences) -> Floats:
        """See `PromptSpace`: the sentences' vector, the items shown / 50, the level / the last."""
        if state.vectors is None:
            made = self._vectors.take(state.said, axis=0)
        else:
            made = np.pad(state.vectors, ((0, 0), (0, 2)))
        made[:, -2] = state.shown / MAX_HISTORY
        made[:, -1] = state.level / self._scale
        return made

    def cell(self, state: Sentences) -> Ints:
        """See `PromptSpace`."""
        return state.level * self._count + state.said

    @property
    def about(self) -> Mapping[str, Any]:
        """The sentences' digest, and the number of items at each level.

        The history agent's moves are left out: a level shows the same items however it is reached.
        """
        return {"book_digest": self.book.digest, "shown": list(self.history.shown())}

    @property
    def blocks(self) -> Mapping[str, int]:
        """See `PromptSpace`."""
        return {"sentences": self.encoder.width, "shown": 1, "level": 1}

    @property
    def axes(self) -> tuple[Axis, ...]:
        """See `PromptSpace`."""
        role, _, reasoning, output = self.book.sizes
        return self.history.axis, Axis.of(0, role), Axis.of(2, reasoning), Axis.of(3, output)

    def at(self, cells: Ints, rows: Ints) -> Sentences:
        """See `PromptSpace`."""
        level, said = np.divmod(cells, self._count)
        length = self._lengths.take(rows)
        shown = np.minimum(self._items.take(level), length)
        return Sentences(length, self._choices(said), said, level, shown, None, None)

    def alike(self, cells: Ints, rows: Ints) -> Ints:
        """See `PromptSpace`: levels that show a user the same items have equal prompts."""
        level, said = np.divmod(cells, self._count)
        shown = np.minimum(self._items, self._lengths.take(rows)[:, None])
        own = np.take_along_axis(shown, level[:, None], axis=1)
        first: Ints = (shown == own).argmax(axis=1) * self._count + said
        return first

    def counts(self, state: Sentences) -> Mapping[str, Ints]:
        """See `PromptSpace`."""
        counts = {"shown": state.shown}
        if state.edited is not None:
            counts |= {"rewritten": state.edited[:, 0], "rewrite_fallbacks": state.edited[:, 1]}
        return counts

    def keys(self, state: Sentences) -> Ints:
        """See `PromptSpace`: role, items shown, reasoning, output."""
        keys = state.choices.copy()
        keys[:, 1] = state.shown
        return keys

    def words(
        self,
        actions: NDArray[Any],
        prompts: Sequence[Prompt] | None,
        user: int,
        task: RankingTask,
        counts: Mapping[str, Any],
    ) -> Words:
        """See `PromptSpace`: the sentences, and the whole prompt."""
        (choice,) = self.book.choose(actions[None])
        prompt = Prompt(task, choice, int(counts["shown"])) if prompts is None else prompts[user]
        label = self.book.history_records[int(actions[1])]
        shown = f"{label}: {counts['shown']} of {len(task.history)} shown"
        options = (choice.role or "(no role)", shown, choice.reasoning, choice.output)
        said = prompt.choice
        sent = (said.role, shown, said.reasoning, said.output)
        heads = (said.role, said.history_lead, said.reasoning, said.output)

        def filled(sentence: str) -> str:
            return sentence.replace("{k}", str(len(task.candidates)))

        choices = [
            # An empty sentence is the absent role.
            (i, str(action), filled(old), filled(new) if new and new != old else None)
            for i, (action, old, new) in enumerate(zip(actions, options, sent, strict=True))
        ]
        return Words(choices, prompt.text, {filled(head): i for i, head in enumerate(heads)})

    @property
    def meanings(self) -> Sequence[Sequence[str]]:
        """See `PromptSpace`: the sentences themselves."""
        book = self.book
        outputs = [output.text for output in book.output_format]
        roles = [text or "(no role)" for text in book.role_playing]
        return roles, book.history_records, book.reasoning_guidance, outputs

    def described(self, cell: int) -> str:
        """See `PromptSpace`: actions from 0, and the history length."""
        level, role, reasoning, output = np.unravel_index(cell, self.shape)
        shown = self.history.shown()[level]
        return f"role {role}, history of {shown}, reasoning {reasoning}, output {output}"

    def within(self, made: Mapping[str, Any]) -> Ints | None:
        """See `PromptSpace`: levels are matched by the number of items that they show."""
        wanted, shown = self.history.shown(), tuple(made.get("shown", ()))
        if missing := sorted(set(wanted) - set(shown)):
            numbers = " ".join(map(str, sorted({*shown, *wanted})))
            raise TableMismatch(
                f"{', '.join(map(str, missing))} history items can be shown here, and the table "
                f"was made with {', '.join(map(str, shown))}: make one that has them all with "
                f"`rpp-env tabulate --shown {numbers}`"
            )
        if made.get("book_digest") != self.book.digest:
            raise TableMismatch(
                f"the table was made with book_digest={made.get('book_digest')!r}, and the "
                f"environment has {self.book.digest!r}: make a table of this environment with "
                "`rpp-env tabulate`, or give the table's own sentences"
            )
        if wanted == shown:
            return None
        levels = np.array([shown.index(number) for number in wanted])
        cells: Ints = (levels[:, None] * self._count + np.arange(self._count)).ravel()
        return cells

    def showing(self, numbers: Sequence[int], tasks: TaskSet) -> SentencePrompts:
        """Return a space of the same sentences with these history lengths, for tables.

        Raises
        ------
        InvalidOption
            If a history length of this space is not among them.
        """
        wanted = sorted(set(self.history.shown()))
        given = np.unique(np.asarray(numbers))
        fits = given.dtype.kind in "iu" and given.min() >= 1
        if not fits or not set(wanted) <= set(given.tolist()):
            raise InvalidOption(
                f"shown must be history lengths from 1 that include {', '.join(map(str, wanted))}, "
                f"the lengths of this environment; got {list(numbers)}"
            )
        options = tuple(given.tolist())
        book = replace(self.book, history_records=tuple(map(str, options)))
        return self._with(book, HistoryLengths("choose", options, (1,), 0, 1), tasks)

    def _with(
        self, book: SentenceCatalog, history: HistoryLengths, tasks: TaskSet
    ) -> SentencePrompts:
        return SentencePrompts(book, history, tasks, self.encoder)

    def _choices(self, said: Ints) -> Ints:
        """(B, 4) actions that choose the combinations with these indices."""
        role, reasoning, output = np.unravel_index(said, self._sentences)
        return np.stack([role, np.zeros_like(role), reasoning, output], axis=1)


def _edited(prompt: Prompt, chosen: Choice) -> tuple[int, int]:
    """Count the sentences that differ from the chosen ones, and the refused rewrites."""
    said = prompt.choice
    changed = (
        said.role != chosen.role,
        said.reasoning != chosen.reasoning,
        said.output != chosen.output,
    )
    return sum(changed), prompt.fallbacks
