"""What differs between RPP-v0, RPPBandit-v0 and RPPPaper-v0: one frozen dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidOption
from rpp_env.models.base import Generation
from rpp_env.options import check_fields, check_numbers

__all__ = ["RULES", "Rules"]


@dataclass(frozen=True)
class Rules:
    """The rules of an episode (design: three ids, one core).

    How many history items are shown is a function of the *level*, an integer that the history agent
    moves (``history="rungs"``), sets (``"choose"``) or raises (``"grow"``).
    """

    id: str
    """Environment id, e.g. ``"RPP-v0"``."""
    max_cycles: int
    """Steps of an episode."""
    history: Literal["rungs", "choose", "grow"]
    """How the history agent's action changes the level."""
    history_options: tuple[int, ...]
    """What each of its actions means: moves, items, or items to add."""
    num_candidates: int
    """Candidates of a task (K)."""
    generation: Generation = Generation()
    """How the model is asked."""
    rungs: tuple[int, ...] = (1, 2, 3, 5, 8, 13, 20)
    """Items shown on each rung (``"rungs"`` only)."""
    start: int = 2
    """The level before the first step (``"rungs"``: a rung; ``"grow"``: items)."""
    order: Literal["task", "step"] = "task"
    """Candidates keep one order per task, or are reordered for every user and step."""
    discount: float = 0.95
    """Discount that trainers use by default."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "max_cycles")
        check_numbers(self, 2, "num_candidates")
        check_numbers(self, 0, "start")
        check_numbers(self, 0, "discount", highest=1)
        if not self.history_options or not self.rungs or min(self.rungs) < 1:
            raise InvalidOption(
                "history_options and rungs hold one number or more, and a rung shows 1 item or "
                f"more; got {self.history_options} and {self.rungs}"
            )

    @property
    def bandit(self) -> bool:
        """One step: the episode ends by termination; longer ones are truncated."""
        return self.max_cycles == 1

    @property
    def max_level(self) -> int:
        """The highest level that can be reached; levels run from 0 to this."""
        if self.history == "rungs":
            return len(self.rungs) - 1
        if self.history == "choose":
            return len(self.history_options) - 1
        return min(50, self.start + max(self.history_options) * self.max_cycles)

    def next_level(self, level: NDArray[np.int64], action: NDArray[np.int64]) -> NDArray[np.int64]:
        """The level after each of the history agent's `action` indices; clipped at the ends."""
        if self.history == "choose":
            return np.asarray(action, dtype=np.int64)
        moved = level + np.asarray(self.history_options, dtype=np.int64)[action]
        clipped: NDArray[np.int64] = np.clip(moved, 0, self.max_level)
        return clipped

    def route(self, level: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """How a fixed prompt gets to `level` as fast as the rules allow, and stays.

        Returns
        -------
        (actions, levels)
            (max_cycles,) int64 each: the history agent's actions, and the levels that they lead to.

        Raises
        ------
        InvalidOption
            For a level that cannot be reached.
        """
        lowest = self.start if self.history == "grow" else 0
        if not lowest <= level <= self.max_level:
            raise InvalidOption(
                f"level {level} cannot be reached under {self.id}: "
                f"levels run from {lowest} to {self.max_level}"
            )
        # Of several actions that lead to the same level (clipping), the one that asks for least.
        options = np.array(
            sorted(range(len(self.history_options)), key=lambda i: abs(self.history_options[i]))
        )
        actions, levels = [], []
        at = np.int64(self.start)
        for _ in range(self.max_cycles):
            after = self.next_level(np.full(len(options), at), options)
            best = int(np.abs(after - level).argmin())
            at = after[best]
            actions.append(options[best])
            levels.append(at)
        return np.array(actions, dtype=np.int64), np.array(levels, dtype=np.int64)

    def items_shown(self, level: NDArray[np.int64], length: NDArray[np.int64]) -> NDArray[np.int64]:
        """History items that the prompt shows on `level` to a user with `length` items."""
        if self.history == "rungs":
            shown = np.asarray(self.rungs, dtype=np.int64)[level]
        elif self.history == "choose":
            shown = np.asarray(self.history_options, dtype=np.int64)[level]
        else:
            shown = np.maximum(level, 1)
        return np.minimum(shown, length)


def _paper() -> Rules:
    return Rules(
        id="RPPPaper-v0",
        max_cycles=15,
        history="grow",
        history_options=(0, 1, 2),
        num_candidates=10,
        generation=Generation.paper(),
        start=1,
        order="step",
    )


RULES: dict[str, Rules] = {
    "RPP-v0": Rules(
        id="RPP-v0",
        max_cycles=5,
        history="rungs",
        history_options=(-2, -1, 0, 1, 2),
        num_candidates=20,
    ),
    "RPPBandit-v0": Rules(
        id="RPPBandit-v0",
        max_cycles=1,
        history="choose",
        history_options=(1, 3, 5, 10, 20),
        num_candidates=20,
    ),
    "RPPPaper-v0": _paper(),
}
"""The three ids. Under `RPPPaper-v0` games start on 5 items instead of 1."""
