"""Action spaces of several agents as arrays: choices (`Discrete`) or numbers within bounds (`Box`).

Trainers, policies and their files see the spaces of any batch of environments only through
`DiscreteSpaces` and `BoxSpaces`; to support a further kind of space, add a class here and an actor
in `rpp_agents.actors`. (`rpp_env.actions` describes how RPPEnv reads and shows its own actions.)
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.spaces import Box, Discrete, Space
from numpy.typing import NDArray

from rpp_env.errors import BrokenContract, InvalidOption

__all__ = ["ActionSpaces", "BoxSpaces", "DiscreteSpaces", "bounds_of", "spaces_of"]


class DiscreteSpaces:
    """Action spaces of agents that choose among a number of options: (B, n) integers from 0.

    Parameters
    ----------
    agents : sequence of str
    sizes : sequence of int
        Number of actions of each agent.
    """

    space: ClassVar[type[Space[Any]]] = Discrete
    key: ClassVar[str] = "nvec"
    """Name of this class in a file."""

    spaces: tuple[Discrete, ...]

    def __init__(self, agents: Sequence[str], sizes: Sequence[int]) -> None:
        self.agents = agents
        self.description: list[Any] = list(map(int, sizes))
        """Numbers of actions; saved in a policy's file."""
        self.legal = np.arange(max(self.description)) < np.array(self.description)[:, None]
        """Bool (n, A): the actions that each agent has, in the shape of a mask."""
        self.left = np.arange(self.legal.shape[1]) == 0
        """Bool (A,): the mask of an agent that has left, whose action must be 0."""

    @classmethod
    def of(cls, agents: Sequence[str], spaces: Sequence[Discrete]) -> DiscreteSpaces:
        """Make the description of these spaces."""
        made = cls(agents, [int(space.n) for space in spaces])
        made.spaces = tuple(spaces)
        return made

    def playable(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return sampled actions in the form that the environment takes: unchanged."""
        return actions

    def random(
        self, rng: np.random.Generator, count: int, legal: NDArray[np.bool_]
    ) -> NDArray[Any]:
        """Draw (count, n) actions uniformly among the legal ones, (n, A) or (count, n, A)."""
        draws = rng.random((count, *self.legal.shape))
        drawn: NDArray[Any] = np.where(legal, draws, -1.0).argmax(-1)
        return drawn

    def own(self, agent: int, action: Any) -> int:
        """Return one agent's action in the form of its own space."""
        return int(self.spaces[agent].start + action)

    def allowed(self, agent: int, mask: Any) -> NDArray[np.bool_]:
        """Pad a mask over one agent's actions to bool (A,); BrokenContract for another length."""
        given, count = np.asarray(mask), self.description[agent]
        if given.shape != (count,):
            raise BrokenContract(
                f"agent {self.agents[agent]!r} has {count} actions, but its action_mask has the "
                f"shape {given.shape}: it needs one number for each action"
            )
        allowed = np.zeros(self.legal.shape[1], np.bool_)
        allowed[:count] = given != 0
        return allowed


class BoxSpaces:
    """Action spaces of agents that act in vectors: (B, n, d) float32, padded with zeros.

    Parameters
    ----------
    agents : sequence of str
    spaces : sequence of Box

    Raises
    ------
    InvalidOption
        For spaces of integers, and for empty spaces.
    """

    space: ClassVar[type[Space[Any]]] = Box
    key: ClassVar[str] = "boxes"
    """Name of this class in a file."""

    def __init__(self, agents: Sequence[str], spaces: Sequence[Box]) -> None:
        self.agents, self.spaces = agents, tuple(spaces)
        for agent, space in zip(agents, spaces, strict=True):
            if space.low.dtype.kind != "f" or not space.low.size:
                raise InvalidOption(
                    f"agent {agent!r} acts in {space}: a Box of actions must hold one float or more"
                )
        self.description: list[Any] = [
            {"low": _finite(space.low), "high": _finite(space.high)} for space in spaces
        ]
        """Bounds of the agents' numbers, flattened; saved in a policy's file."""
        self.legal = np.ones((len(spaces), 1), np.bool_)
        """Bool (n, 1), all true: every agent acts; in the shape of a mask."""
        self.left = np.zeros(1, np.bool_)
        """Bool (1,): the mask of an agent that has left, whose action is 0."""
        most = max(space.low.size for space in spaces)
        self.low, self.high = np.zeros((2, len(spaces), most), np.float32)
        """(n, d) bounds of the agents' numbers; 0 where an agent has no such number."""
        for row, space in enumerate(spaces):
            self.low[row, : space.low.size] = space.low.ravel()
            self.high[row, : space.high.size] = space.high.ravel()

    @classmethod
    def of(cls, agents: Sequence[str], spaces: Sequence[Box]) -> BoxSpaces:
        """Make the description of these spaces."""
        return cls(agents, spaces)

    def playable(self, actions: NDArray[Any]) -> NDArray[Any]:
        """Return sampled actions in the form that the environment takes: clipped to the bounds."""
        return np.asarray(np.clip(actions, self.low, self.high))

    def random(
        self, rng: np.random.Generator, count: int, legal: NDArray[np.bool_]
    ) -> NDArray[Any]:
        """Draw (count, n, d): uniform between two bounds, else standard normal and clipped."""
        shape = (count, *self.low.shape)
        bounded = np.isfinite(self.low) & np.isfinite(self.high)
        low, high = np.where(bounded, (self.low, self.high), 0.0).astype(np.float64)
        even = low + (high - low) * rng.random(shape)
        drawn = np.where(bounded, even, rng.standard_normal(shape))
        return np.where(legal, self.playable(drawn), 0.0).astype(np.float32)

    def own(self, agent: int, action: NDArray[Any]) -> NDArray[Any]:
        """Return one agent's action in the length, shape and dtype of its own space."""
        space = self.spaces[agent]
        shaped = action[: space.low.size].reshape(space.shape).astype(space.dtype)
        # Bounds in double precision may lie slightly inside their rounded float32 values.
        return np.asarray(np.clip(shaped, space.low, space.high))

    def allowed(self, agent: int, mask: Any) -> NDArray[np.bool_]:
        """Raise BrokenContract: actions of a Box cannot be masked."""
        raise BrokenContract(
            f"agent {self.agents[agent]!r} acts in {self.spaces[agent]} and got the "
            f"action_mask {np.asarray(mask).tolist()!s:.60}: only Discrete actions can be masked"
        )


ActionSpaces = DiscreteSpaces | BoxSpaces

_KINDS: tuple[type[DiscreteSpaces | BoxSpaces], ...] = (DiscreteSpaces, BoxSpaces)


def spaces_of(agents: Iterable[object], spaces: Iterable[object]) -> ActionSpaces:
    """Return the agents' action spaces as arrays.

    Parameters
    ----------
    agents : iterable of str
    spaces : iterable of Space
        One for each agent, all ``Discrete`` or all ``Box``.

    Raises
    ------
    InvalidOption
        For other kinds of spaces, a mix of both kinds, or another number of spaces than agents.
    """
    names, given = tuple(map(str, agents)), tuple(spaces)
    if len(names) != len(given) or not names:
        raise InvalidOption(
            f"there are {len(given)} action spaces for {len(names)} agents "
            f"({', '.join(names)}): give one for each"
        )
    found: list[type[Any]] = []
    for agent, space in zip(names, given, strict=True):
        kind = next((kind for kind in _KINDS if isinstance(space, kind.space)), None)
        if kind is None:
            raise InvalidOption(
                f"agent {agent!r} acts in {space}; only Discrete and Box can be trained"
            )
        if found and kind is not found[0]:
            raise InvalidOption(
                f"agent {names[0]!r} acts in {given[0]} and agent {agent!r} in {space}: all agents "
                "must act in Discrete spaces, or all in Box spaces"
            )
        found.append(kind)
    made: ActionSpaces = found[0].of(names, given)
    return made


def bounds_of(box: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Return the bounds of one agent's numbers from a description read from a file.

    Raises
    ------
    KeyError, OverflowError, TypeError, ValueError
        If it is not a description that `BoxSpaces` wrote.
    """
    low = [-math.inf if bound is None else float(bound) for bound in box["low"]]
    high = [math.inf if bound is None else float(bound) for bound in box["high"]]
    if not low or not all(below <= above for below, above in zip(low, high, strict=True)):
        raise ValueError(f"low and high bound no number: {str(box)[:80]}")
    return low, high


def _finite(bounds: NDArray[Any]) -> list[float | None]:
    """Convert bounds to values that JSON can hold."""
    return [float(bound) if np.isfinite(bound) else None for bound in bounds.ravel()]
