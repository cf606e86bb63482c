"""Joint actions of all agents, integers or vectors, in the forms that other code needs."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, Protocol, cast

import numpy as np
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Space
from numpy.typing import ArrayLike, NDArray

from rpp_env.errors import InvalidOption
from rpp_env.prompting import check_choices

__all__ = ["Actions", "Choices", "Vectors", "actions_of"]

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

MOST_ONE_HOT = 256
"""Options of an agent up to which observations show its last action one-hot."""


class Actions(Protocol):
    """The actions of n agents.

    Attributes
    ----------
    spaces : tuple of Discrete or Box
        One for each agent.
    joint : Space
        The space of a single agent that chooses for all of them.
    one : str
        One agent's action in words, for errors.
    width : int
        Width of the block of an observation that holds an agent's own last action.
    state_width : int
        Width of the block of a state that holds the last actions of all agents.
    """

    spaces: tuple[Discrete | Box, ...]
    joint: Space[Any]
    one: str
    width: int
    state_width: int

    @property
    def nvec(self) -> Ints:
        """(n,) number of actions of each agent."""
        ...

    def none(self, count: int) -> NDArray[Any]:
        """(count, n, ...) placeholder for the last actions before the first step."""
        ...

    def read(
        self, given: ArrayLike, count: int, agents: Sequence[str]
    ) -> tuple[NDArray[Any], Ints | None]:
        """Return a copy in the prompt space's form, and per user how many actions were mapped."""
        ...

    def each(self, action: Any) -> Any:
        """Convert one agent's action to an item of `given`; TypeError or ValueError if invalid."""
        ...

    def split(self, action: NDArray[Any]) -> NDArray[Any]:
        """Convert (B, ...) actions of the `joint` space to (B, n, ...)."""
        ...

    def own(self, actions: NDArray[Any]) -> Floats:
        """(B, n, width): each agent's last action, in [-1, 1]."""
        ...

    def all(self, actions: NDArray[Any]) -> list[Floats]:
        """Return the last actions of all agents: arrays with B rows, `state_width` columns."""
        ...

    def masks(self) -> NDArray[np.int8]:
        """(n, most actions) int8, a new array: 1 where an agent has that action."""
        ...

    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[Any]:
        """Draw (*shape, ...) uniform actions; the last number of `shape` is n."""
        ...


class Choices:
    """Integer actions: each agent chooses one of its options.

    Parameters
    ----------
    sizes : sequence of int
        Each agent's number of options.
    padded : bool
        Whether all agents get as many actions as the one with most. An agent with n options maps
        an action `a` that it does not have to ``a % n``.
    """

    one = "an integer"

    def __init__(self, sizes: Sequence[int], padded: bool = False) -> None:
        self.sizes: Ints = np.array(sizes, dtype=np.int64)
        self.nvec: Ints = np.full_like(self.sizes, self.sizes.max()) if padded else self.sizes
        self.padded = padded
        self.spaces: tuple[Discrete | Box, ...] = tuple(map(Discrete, self.nvec.tolist()))
        self.joint: Space[Any] = MultiDiscrete(self.nvec)
        # Tokens of a vocabulary would make observations tens of thousands of numbers wide: what
        # such agents chose is shown by the features of their prompt space alone.
        shown = self.sizes if self.sizes.max() <= MOST_ONE_HOT else np.zeros_like(self.sizes)
        self.width = int(shown.max())
        self.state_width = int(shown.sum())
        self._one_hot = _one_hot(int(self.sizes.max()), self.width)
        self._one_hots = [
            _one_hot(*pair) for pair in zip(self.sizes.tolist(), shown.tolist(), strict=True)
        ]

    def none(self, count: int) -> Ints:
        """See `Actions`: -1."""
        return np.full((count, len(self.sizes)), -1)

    def read(
        self, given: ArrayLike, count: int, agents: Sequence[str]
    ) -> tuple[NDArray[Any], Ints | None]:
        """See `Actions`."""
        actions = np.array(given)
        if actions.dtype.kind in "iu":
            actions = actions.astype(np.int64, copy=False)
        if not self.padded:
            return actions, None
        choices = check_choices(actions, count, self.nvec, agents)
        return choices % self.sizes, (choices >= self.sizes).sum(axis=1)

    def each(self, action: Any) -> int:
        """See `Actions`."""
        return operator.index(action)

    def split(self, action: NDArray[Any]) -> NDArray[Any]:
        """See `Actions`."""
        return action

    def own(self, actions: Ints) -> Floats:
        """See `Actions`: one-hot; nothing above `MOST_ONE_HOT` options."""
        return self._one_hot.take(actions, axis=0)

    def all(self, actions: Ints) -> list[Floats]:
        """See `Actions`: one-hot; nothing above `MOST_ONE_HOT`."""
        return [hot.take(actions[:, i], axis=0) for i, hot in enumerate(self._one_hots)]

    def masks(self) -> NDArray[np.int8]:
        """See `Actions`."""
        return (np.arange(self.sizes.max()) < self.sizes[:, None]).astype(np.int8)

    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Ints:
        """See `Actions`."""
        return rng.integers(self.sizes, size=shape)


class Vectors:
    """Vector actions: each agent gives d numbers within its bounds."""

    def __init__(self, spaces: Sequence[Box], padded: bool = False) -> None:
        if padded:
            raise InvalidOption(
                "padded_actions pads discrete actions; these choose vectors: leave it out"
            )
        widths = {space.shape for space in spaces}
        low = np.stack([space.low for space in spaces]) if len(widths) == 1 else np.zeros(0)
        high = np.stack([space.high for space in spaces]) if len(widths) == 1 else np.zeros(0)
        if low.ndim != 2 or not np.isfinite([low, high]).all() or not (low < high).all():
            raise InvalidOption(
                "agents that choose vectors must have Box spaces of one length with finite bounds; "
                f"these have {', '.join(map(str, spaces))}"
            )
        self.spaces: tuple[Discrete | Box, ...] = tuple(spaces)
        self.width = low.shape[1]
        self.one = f"{self.width} numbers"
        self.state_width = low.size
        self._shape = low.shape
        self._middle, self._half = (low + high) / 2, (high - low) / 2
        self.joint: Space[Any] = Box(low.ravel(), high.ravel(), dtype=np.float32)

    @property
    def nvec(self) -> Ints:
        """Raise: vectors have no number of actions."""
        raise InvalidOption(
            "these agents choose vectors (Box), which cannot be counted: see action_spaces"
        )

    def none(self, count: int) -> Floats:
        """See `Actions`: the middle of the bounds."""
        return np.tile(self._middle, (count, 1, 1))

    def read(
        self,
        given: ArrayLike,
        count: int,  # noqa: ARG002 - a prompt space checks its actions
        agents: Sequence[str],  # noqa: ARG002
    ) -> tuple[NDArray[Any], None]:
        """See `Actions`."""
        actions = np.array(given)
        if actions.dtype.kind in "fiu":
            with np.errstate(over="ignore"):  # infinities are refused later, as out of bounds
                actions = actions.astype(np.float32, copy=False)
        return actions, None

    def each(self, action: Any) -> Floats:
        """See `Actions`."""
        vector = np.asarray(action, np.float32)
        if vector.shape != self._shape[1:]:
            raise ValueError(f"shape {vector.shape}")
        return vector

    def split(self, action: NDArray[Any]) -> NDArray[Any]:
        """See `Actions`."""
        return action.reshape(*action.shape[:-1], *self._shape)

    def own(self, actions: Floats) -> Floats:
        """See `Actions`: the numbers, scaled by the bounds."""
        scaled: Floats = np.clip((actions - self._middle) / self._half, -1, 1).astype(np.float32)
        return scaled

    def all(self, actions: Floats) -> list[Floats]:
        """See `Actions`: the numbers of all agents, scaled by the bounds."""
        return [self.own(actions).reshape(len(actions), -1)]

    def masks(self) -> NDArray[np.int8]:
        """See `Actions`: a 1 for each agent, as vectors cannot be masked."""
        return np.ones((len(self.spaces), 1), np.int8)

    def drawn(self, rng: np.random.Generator, shape: tuple[int, ...]) -> Floats:
        """See `Actions`."""
        low, high = self._middle - self._half, self._middle + self._half
        drawn = rng.uniform(low, high, size=(*shape, self.width))
        return np.clip(drawn.astype(np.float32), low, high)


def actions_of(spaces: Sequence[Discrete | Box], padded: bool = False) -> Actions:
    """Make the `Actions` of agents that choose from `spaces`.

    Raises
    ------
    InvalidOption
        For spaces of both kinds, and for vectors of several lengths or without bounds.
    """
    if all(isinstance(space, Discrete) and space.start == 0 for space in spaces):
        return Choices([int(cast("Discrete", space).n) for space in spaces], padded)
    if all(isinstance(space, Box) for space in spaces):
        return Vectors(cast("Sequence[Box]", spaces), padded)
    raise InvalidOption(
        "all agents must choose from Discrete spaces that begin with 0, or all from Box spaces; "
        f"these have {', '.join(map(str, spaces))}"
    )


def _one_hot(size: int, width: int) -> Floats:
    """(size + 1, width): a last row of zeros, which -1, no action yet, finds."""
    return np.eye(size + 1, width, dtype=np.float32)
