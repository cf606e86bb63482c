"""History lengths: how many items a prompt shows, and how the history agent changes that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidOption
from rpp_env.prompting import Axis

__all__ = ["HistoryLengths"]

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class HistoryLengths:
    """History lengths by *level*, an integer that the history agent's actions change."""

    kind: Literal["rungs", "choose", "grow"]
    """How an action changes the level: it moves it, sets it, or raises it."""
    options: tuple[int, ...]
    """Value of each action: levels to move by, items to show, or items to add."""
    rungs: tuple[int, ...]
    """Items shown at each level (``"rungs"`` only)."""
    first: int
    """The level before the first step (``"rungs"``: an index into `rungs`; ``"grow"``: items)."""
    steps: int
    """Steps of an episode, which limit the highest level of ``"grow"``."""

    @property
    def start(self) -> int:
        """The level before the first step; the first one where actions set the level."""
        return 0 if self.kind == "choose" else self.first

    @property
    def max_level(self) -> int:
        """The highest level that can be reached; levels run from 0 to this."""
        if self.kind == "rungs":
            return len(self.rungs) - 1
        if self.kind == "choose":
            return len(self.options) - 1
        return min(50, self.first + max(self.options) * self.steps)

    @cached_property
    def axis(self) -> Axis:
        """Levels as an axis of a prompt space, along which the history agent's actions move."""
        levels, actions = np.arange(self.max_level + 1), np.arange(len(self.options))
        moves = np.stack([self.next_level(np.full_like(actions, at), actions) for at in levels])
        # Among actions that lead to the same level (by clipping), prefer the smallest move.
        least = sorted(actions.tolist(), key=lambda i: abs(self.options[i]))
        lowest = self.first if self.kind == "grow" else 0
        return Axis(1, moves, self.start, np.array(least), lowest)

    def next_level(self, level: Ints, action: Ints) -> Ints:
        """Return the level after each of the history agent's `action` indices; clipped."""
        if self.kind == "choose":
            return np.asarray(action, dtype=np.int64)
        moved = level + np.asarray(self.options, dtype=np.int64)[action]
        clipped: Ints = np.clip(moved, 0, self.max_level)
        return clipped

    def route(self, level: int) -> tuple[Ints, Ints]:
        """Return the actions that reach `level` as fast as possible and stay there.

        Returns
        -------
        (actions, levels)
            (steps,) int64 each: the history agent's actions, and the levels that they lead to.

        Raises
        ------
        InvalidOption
            For a level that cannot be reached.
        """
        lowest = self.axis.lowest
        if not lowest <= level <= self.max_level:
            raise InvalidOption(
                f"level {level} cannot be reached: levels run from {lowest} to {self.max_level}"
            )
        return self.axis.route(level, self.steps)

    def items_shown(self, level: Ints, length: Ints) -> Ints:
        """Return the number of history items shown at `level` to a user with `length` items."""
        if self.kind == "rungs":
            shown = np.asarray(self.rungs, dtype=np.int64)[level]
        elif self.kind == "choose":
            shown = np.asarray(self.options, dtype=np.int64)[level]
        else:
            shown = np.maximum(level, 1)
        return np.minimum(shown, length)

    def shown(self) -> tuple[int, ...]:
        """Number of items at each level, for a user with a long history."""
        levels = np.arange(self.max_level + 1)
        return tuple(self.items_shown(levels, np.full(len(levels), 1 << 30)).tolist())
