"""RPPTeam: the prompts of RPPBandit-v0, chosen by 2, 4, 8 or 16 agents.

The prompts, the users, the recommender and therefore the best prompt of each user are the same for
every size of the team; only who chooses what differs:

======  ============================================================================
agents  each chooses
======  ============================================================================
2       two parts of the prompt together: role and history, reasoning and output format
4       one part, as in ``RPPBandit-v0``
8, 16   a digit of one part's option, of two or four digits; numbers beyond the last
        option begin again at the first one
======  ============================================================================

It is no id of its own: give ``rules="rpp_env.rpp_team:RPP_TEAM"``, with the option ``agents``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import Any, Literal

import numpy as np
from gymnasium.spaces import Box, Discrete
from numpy.typing import NDArray

from rpp_env import factory
from rpp_env.data.candidates import TaskBatch, TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption
from rpp_env.observation import HashedNGrams
from rpp_env.prompting import PromptSpace, Rankings, Words, check_choices
from rpp_env.rules import RULES, System
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences.history import HistoryLengths
from rpp_env.sentences.prompt import Prompts
from rpp_env.sentences.space import SentencePrompts, Sentences
from rpp_env.task import RankingTask

__all__ = ["RPP_TEAM", "Options", "TeamPrompts", "assemble"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

_RULES = replace(RULES["RPPBandit-v0"], id="RPPTeam-v0")


@dataclass(frozen=True, kw_only=True)
class Options(factory.Options):
    """Options of RPPTeam: those of the ids of sentences, and the size of the team."""

    agents: Literal[2, 4, 8, 16] = 4
    """Number of agents."""


@dataclass(frozen=True, slots=True)
class _Taken(Sentences):
    """State of the parts, with the index of what the team chose; -1 before the first step."""

    taken: Ints


class TeamPrompts(PromptSpace[_Taken, Prompts]):
    """Prompt space of sentences whose parts are chosen by more or fewer agents than there are.

    Parameters
    ----------
    space : SentencePrompts
        The prompts. Each action of an agent must lead to the same prompt from everywhere.
    agents : int
        Number of agents: a multiple of the number of parts, or a divisor of it.

    Raises
    ------
    InvalidOption
        For another number, and for rules under which an action moves along the history lengths.
    """

    makes: type | None = Prompts

    def __init__(self, space: SentencePrompts, agents: int) -> None:
        parts = len(space.agents)
        if agents < 1 or (agents % parts and parts % agents):
            raise InvalidOption(f"{parts} parts are not shared out evenly among {agents} agents")
        if not all((axis.moves == axis.moves[:1]).all() for axis in space.axes):
            raise InvalidOption(
                "a team chooses prompts and does not move between them: take rules under which the "
                "history length is chosen, such as RPPBandit-v0"
            )
        self._space, self._blocks = space, min(agents, parts)
        many, self._parts = agents // self._blocks, parts // self._blocks
        sizes = [int(size) for size in space.book.sizes]
        self._tables: list[Ints] = []
        """Per block, the (codes, parts) options of its parts."""
        digits: list[tuple[int, ...]] = []
        names: list[str] = []
        for begin in range(0, parts, self._parts):
            own = sizes[begin : begin + self._parts]
            digits.append(_digits(math.prod(own), many))
            codes = np.arange(math.prod(digits[-1])) % math.prod(own)
            self._tables.append(np.stack(np.unravel_index(codes, own), axis=1))
            name = "_and_".join(space.agents[begin : begin + self._parts])
            names += [f"{name}_{i}" for i in range(many)] if many > 1 else [name]
        self._digits = digits
        self.agents = tuple(names)
        self.shape: tuple[int, ...] = tuple(size for block in digits for size in block)
        self._sizes = np.array(self.shape)
        self.action_spaces: tuple[Discrete | Box, ...] = tuple(map(Discrete, self.shape))
        self.width = space.width
        every = self._own_cells(np.arange(math.prod(self.shape)))
        self._first = np.unique(every, return_index=True)[1]
        """(prompts,) the first index that chooses each prompt."""

    def start(self, rows: Ints) -> _Taken:
        """See `PromptSpace`."""
        return _taken(self._space.start(rows), np.full(len(rows), -1))

    def apply(self, state: _Taken, actions: NDArray[Any]) -> _Taken:
        """See `PromptSpace`."""
        choices = check_choices(actions, len(state.level), self._sizes, self.agents)
        after = self._space.apply(state, self._options(choices))
        return _taken(after, np.asarray(np.ravel_multi_index(tuple(choices.T), self.shape)))

    def _options(self, choices: Ints) -> Ints:
        """(B, parts) options of the parts, from the actions (B, n) of the team."""
        ends = np.cumsum([len(block) for block in self._digits])
        blocks = zip(np.split(choices, ends[:-1], axis=1), self._digits, self._tables, strict=True)
        found = [table[np.ravel_multi_index(tuple(own.T), size)] for own, size, table in blocks]
        return np.concatenate(found, axis=1)

    def _own_cells(self, cells: Ints) -> Ints:
        """(B,) indices of the prompts in the space of the parts."""
        options = self._options(np.stack(np.unravel_index(cells, self.shape), axis=1))
        own = self._space
        where = [axis.moves[0].take(options[:, axis.agent]) for axis in own.axes]
        return np.asarray(np.ravel_multi_index(tuple(where), own.shape))

    def prompts(self, state: _Taken, tasks: TaskBatch, rows: Ints) -> Prompts:
        """See `PromptSpace`."""
        return self._space.prompts(state, tasks, rows)

    def features(self, state: _Taken) -> Floats:
        """See `PromptSpace`."""
        return self._space.features(state)

    def cell(self, state: _Taken) -> Ints:
        """See `PromptSpace`."""
        return state.taken

    def at(self, cells: Ints, rows: Ints) -> _Taken:
        """See `PromptSpace`."""
        return _taken(self._space.at(self._own_cells(cells), rows), cells)

    def alike(self, cells: Ints, rows: Ints) -> Ints:
        """See `PromptSpace`."""
        # Fewer items have a lower option, and that a lower index: the first prompt's is the first.
        found: Ints = self._first[self._space.alike(self._own_cells(cells), rows)]
        return found

    def answered(self, state: _Taken, prompts: Prompts | None, rankings: Rankings) -> _Taken:
        """See `PromptSpace`."""
        return _taken(self._space.answered(state, prompts, rankings), state.taken)

    def counts(self, state: _Taken) -> Mapping[str, Ints]:
        """See `PromptSpace`."""
        return self._space.counts(state)

    def keys(self, state: _Taken) -> NDArray[Any]:
        """See `PromptSpace`."""
        return self._space.keys(state)

    @property
    def about(self) -> Mapping[str, Any]:
        """See `PromptSpace`: the sentences' digest, the items at each level, and the team."""
        own = self._space.about
        return {"book_digest": own["book_digest"], "items": own["shown"], "team": len(self.agents)}

    @property
    def blocks(self) -> Mapping[str, int]:
        """See `PromptSpace`."""
        return self._space.blocks

    @property
    def private(self) -> Sequence[Sequence[str]]:
        """See `PromptSpace`: an agent sees what the agents of its parts see."""
        seen: list[tuple[str, ...]] = []
        for i, digits in enumerate(self._digits):
            own = self._space.private[i * self._parts : (i + 1) * self._parts]
            seen += [tuple(name for names in own for name in names)] * len(digits)
        return seen

    def words(
        self,
        actions: NDArray[Any],
        prompts: Sequence[Any] | None,
        user: int,
        task: RankingTask,
        counts: Mapping[str, Any],
    ) -> Words:
        """See `PromptSpace`: the sentences, each beside the first agent that chose it."""
        options = self._options(np.asarray(actions)[None])[0]
        found = self._space.words(options, prompts, user, task, counts)
        first = np.cumsum([0, *(len(block) for block in self._digits)])

        def agent(part: int) -> int:
            return int(first[part // self._parts])

        choices = [(agent(part), act, was, new) for part, act, was, new in found.choices]
        parts = {head: agent(part) for head, part in found.parts.items()}
        return Words(choices, found.text, parts)

    def described(self, cell: int) -> str:
        """See `PromptSpace`."""
        return self._space.described(int(self._own_cells(np.array([cell]))[0]))


def _digits(options: int, count: int) -> tuple[int, ...]:
    """Return the sizes of `count` digits, each at least 2, that number `options` or more."""
    found = []
    for left in range(count, 0, -1):
        size = 2 if left > 1 else max(2, options)
        while size**left < options:
            size += 1
        found.append(size)
        options = -(-options // size)
    return tuple(found)


def _taken(state: Sentences, taken: Ints) -> _Taken:
    return _Taken(**{one.name: getattr(state, one.name) for one in fields(Sentences)}, taken=taken)


def _space(
    tasks: TaskSet, *, book: SentenceCatalog, history: HistoryLengths, agents: int
) -> TeamPrompts:
    return TeamPrompts(SentencePrompts(book, history, tasks, HashedNGrams()), agents)


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> factory.Parts:
    """Make the arguments of `RPPEnv`; as those of ``RPPBandit-v0``, with the option `agents`.

    Raises
    ------
    InvalidOption
        For unknown or contradictory options.
    """
    parts = factory.assemble(
        dataset, model, split, _RULES, max_users, max_cycles, options, kind=Options
    )
    book, rules = parts.book, parts.rules
    assert book is not None
    assert not isinstance(rules, Episode)
    agents = options.get("agents", Options.agents)
    space = partial(_space, book=book, history=rules.lengths, agents=agents)
    return replace(parts, rules=rules.episode, book=None, space=space)


RPP_TEAM = System(
    "rpp_env.rpp_team:assemble",
    "rpp_env.rpp_team:Options",
    "movieworld",
    "embedded",
    _RULES.episode,
)
"""The system, as the argument ``rules`` names it."""
