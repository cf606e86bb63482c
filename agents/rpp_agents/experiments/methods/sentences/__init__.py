"""Methods for prompts of sentences; only this folder uses the names of their parts.

===============  ==================================================================
module           holds
===============  ==================================================================
here             the prompt that one would write by hand, and the method ``manual``
`llmrank`        the three prompts of LLMRank
`grips`          GrIPS: edits of the manual prompt's words
`gepa`           GEPA: other words for its sentences, by a model that sees scores
`promptolution`  CAPO, EvoPrompt and OPRO: instructions written from others
`alone`          one agent chooses, and the others stay on the manual prompt
`page`           sentences and prompts as a report's page shows them
===============  ==================================================================

All of them refuse other prompt spaces.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Problem, Users
from rpp_env.errors import InvalidOption
from rpp_env.sentences.space import SentencePrompts

__all__ = ["MANUAL", "asking", "cell_of", "items", "manual", "manual_cell", "space_of"]

MANUAL = {"shown": 5, "role": 0, "reasoning": 3, "output": 0}
"""The prompt that one would write by hand: no role, five items, the next item and step by step,
one title a line. It is what the paper's other agents stand on where one pattern is ablated."""


def space_of(env: Any, what: str) -> SentencePrompts:
    """The prompt space of sentences that is played.

    Raises
    ------
    InvalidOption
        For any other space, with `what` it is that needs sentences.
    """
    if not isinstance(env.space, SentencePrompts):
        raise InvalidOption(
            f"{what} is for prompts of sentences, and those of {type(env.space).__name__} have "
            "none: leave it out here"
        )
    return env.space


def items(space: SentencePrompts) -> tuple[int, ...]:
    """History items that each level shows to a user who has as many."""
    return space.history.shown()


def cell_of(space: SentencePrompts, *, shown: int, role: int, reasoning: int, output: int) -> int:
    """The cell that shows so many items, with these sentences."""
    where = items(space).index(shown), role, reasoning, output
    return int(np.ravel_multi_index(where, space.shape))


def manual_cell(users: Users, what: str = "the manual prompt") -> int:
    """The cell of `MANUAL`, for `what` builds on it.

    Raises
    ------
    InvalidOption
        Where the rules or the book have no such prompt, and for prompts of anything but sentences.
    """
    space = space_of(users.env, what)
    _, *sizes = space.shape
    told = [MANUAL[part] for part in ("role", "reasoning", "output")]
    if MANUAL["shown"] not in items(space) or any(i >= n for i, n in zip(told, sizes, strict=True)):
        raise InvalidOption(
            f"the manual prompt is {MANUAL}; these rules show "
            f"{', '.join(map(str, items(space)))} items, and the book has {sizes} roles, "
            "reasonings and outputs"
        )
    return cell_of(space, **MANUAL)


def asking(cell: int, rewrite: Any = None) -> Asking:
    """Asks one cell about everybody, with its sentences rewritten."""

    def choose(users: Users, _: np.random.Generator) -> NDArray[np.int64]:
        return np.full((len(users), 1), cell)

    return Asking(choose, rewrite=rewrite, own_words=rewrite is not None)


def manual(problem: Problem, *, seed: int, budget: int, watch: Watch) -> Asking:
    """Manual: no call of training."""
    return asking(manual_cell(problem.train, "the method manual"))
