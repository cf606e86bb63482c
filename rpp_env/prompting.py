"""Protocols for any kind of prompt (`PromptSpace`) and its `Recommender`, and `Rankings`.

A `PromptSpace` defines what a prompt consists of, which agents choose it and among which options:
sentences, vectors or tokens. A `Recommender` reads the prompts of one space and ranks candidates.
The rest of this package uses only these two protocols, whatever a prompt is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidAction, TableMismatch
from rpp_env.task import Ranking, RankingTask

if TYPE_CHECKING:
    from gymnasium.spaces import Box, Discrete
    from torch import Tensor

    from rpp_env.data.candidates import TaskBatch

__all__ = [
    "COSTS",
    "Axis",
    "PromptSpace",
    "Rankings",
    "Recommender",
    "WhiteBox",
    "Words",
    "check_choices",
    "check_vectors",
    "walk",
]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

S = TypeVar("S")
"""A space's state: a frozen dataclass of arrays with one entry (row) for each user."""
P_co = TypeVar("P_co", covariant=True)
P_contra = TypeVar("P_contra", contravariant=True)
"""The prompts of a batch of users, as a space makes them and a recommender reads them."""

COSTS = ("trimmed", "prompt_tokens", "completion_tokens")
"""Costs of a language model's answer: history items that did not fit, and tokens."""


@dataclass(frozen=True, eq=False)
class Rankings(Sequence[Ranking]):
    """Rankings of B users' candidates as arrays; also a sequence with one `Ranking` per user.

    Attributes
    ----------
    order : (B, K) array of int
        Positions of the candidates, best first: each row is a permutation of 0 to K - 1.
    named : (B,) array of int
        How many candidates the recommender placed itself, 0 to K: the first ones of each row.
    cost : mapping of str to (B,) arrays of int
        Those of `COSTS` that apply: none for a recommender that reads no text.
    texts : sequence of str, optional
        The replies; None if there are none, as when a table is replayed.
    """

    order: NDArray[np.integer[Any]]
    named: NDArray[np.integer[Any]]
    cost: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    texts: Sequence[str] | None = None

    @classmethod
    def of(cls, rankings: Iterable[Ranking]) -> Rankings:
        """Convert rankings to arrays; all must have the same number of candidates."""
        given = list(rankings)
        return cls(
            np.array([one.order for one in given], np.int64).reshape(len(given), -1)
            if given
            else np.zeros((0, 0), np.int64),
            np.array([one.named for one in given], np.int64),
            {name: np.array([getattr(one, name) for one in given], np.int64) for name in COSTS},
            [one.text for one in given],
        )

    def __len__(self) -> int:
        return len(self.order)

    @overload
    def __getitem__(self, index: int) -> Ranking: ...
    @overload
    def __getitem__(self, index: slice) -> list[Ranking]: ...
    def __getitem__(self, index: int | slice) -> Ranking | list[Ranking]:
        """Return one user's ranking, or a list of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Ranking(
            tuple(self.order[index].tolist()),
            int(self.named[index]),
            "" if self.texts is None else self.texts[index],
            **{name: int(values[index]) for name, values in self.cost.items() if name in COSTS},
        )

    def spent(self, name: str) -> Ints:
        """(B,) int64, a new array: one of the costs; zeros if it does not apply."""
        values = self.cost.get(name)
        return np.zeros(len(self), np.int64) if values is None else values.astype(np.int64)

    def ranks(self, position: Ints) -> Ints:
        """(B,) int64: rank from 1 of the candidates at `position` (B,); 0 where not named."""
        place = (self.order == position[:, None]).argmax(axis=1)
        return np.where(place < self.named, place + 1, 0)

    def reordered(self, shown: Ints) -> Rankings:
        """Return the rankings in the tasks' own positions, for candidates shown in order `shown`.

        Parameters
        ----------
        shown : (B, K) array of int
            Per user, the task's candidate at each position shown.
        """
        order = np.take_along_axis(shown, self.order.astype(np.int64), axis=1)
        return Rankings(order, self.named, self.cost, self.texts)

    def without(self, mask: NDArray[np.bool_]) -> Rankings:
        """Return a copy with nothing named and no cost for the users of `mask`."""
        cost = {name: np.where(mask, 0, values) for name, values in self.cost.items()}
        return Rankings(self.order, np.where(mask, 0, self.named), cost)


@dataclass(frozen=True, eq=False)
class Axis:
    """An axis of a space's `shape`: its positions, and how one agent's actions move between them.

    Attributes
    ----------
    agent : int
        Index of the agent that moves along it.
    moves : (positions, actions) int64 array
        The position after each action.
    start : int
        The position before the first step.
    order : (actions,) int64 array
        Order of preference among actions that are equally good.
    lowest : int
        The lowest position that can be reached from `start`.
    free : bool
        Whether each action leads to the position of its own index, from everywhere.
    """

    agent: int
    moves: Ints
    start: int
    order: Ints
    lowest: int = 0
    free: bool = False

    @classmethod
    def of(cls, agent: int, options: int) -> Axis:
        """Make an axis on which each action leads to the position of its own index."""
        every = np.arange(options)
        return cls(agent, np.tile(every, (options, 1)), 0, every, free=True)

    def __len__(self) -> int:
        return len(self.moves)

    def route(self, position: int, steps: int) -> tuple[Ints, Ints]:
        """Return the (steps,) actions that reach `position` soonest, and their positions."""
        actions, positions, at = [], [], self.start
        for _ in range(steps):
            after = self.moves[at, self.order]
            best = int(np.abs(after - position).argmin())
            at = int(after[best])
            actions.append(self.order[best])
            positions.append(at)
        return np.array(actions, np.int64), np.array(positions, np.int64)


@dataclass(frozen=True)
class Words:
    """A prompt in a form for people.

    Attributes
    ----------
    choices : list of (int, str, str, str or None)
        Per line an agent's index, its action, the meaning, and its rewritten form.
    text : str
        The prompt.
    parts : dict of str to int
        First lines of the paragraphs that an agent chose, with that agent's index.
    """

    choices: Sequence[tuple[int, str, str, str | None]]
    text: str
    parts: Mapping[str, int] = field(default_factory=dict)


class PromptSpace(Protocol[S, P_co]):
    """Definition of a prompt and of the agents that choose it: all that differs between systems.

    A space calls no model and keeps no state: its methods are functions of their arguments, and the
    arrays that they return are never changed. Write yours as a subclass; methods with a body below
    are optional. `rpp_env.testing.check_space` checks it.

    Attributes
    ----------
    agents : tuple of str
        Names of the agents; a step takes one action of each.
    action_spaces : tuple of Discrete or Box
        The action space of each agent: all ``Discrete``, or all ``Box`` of one length d, with
        finite bounds.
    shape : tuple of int or None
        Axes of the distinct prompts of a user; None for infinitely many, which allow no table.
    width : int
        Length of `features`.
    makes : type, optional
        Type of the prompts. An environment refuses a recommender that reads another type.
    """

    agents: tuple[str, ...]
    action_spaces: tuple[Discrete | Box, ...]
    shape: tuple[int, ...] | None
    width: int
    makes: type | None = None

    def start(self, rows: Ints) -> S:
        """Return the state before the first step, for the tasks at `rows` (B,)."""
        ...

    def apply(self, state: S, actions: NDArray[Any]) -> S:
        """Return the state after `actions`: (B, n) integers or (B, n, d) floats, one per agent.

        The state may keep `actions` itself: the caller must not change the array later.

        Raises
        ------
        InvalidAction
            For an action that an agent does not have; the message names the agent.
        """
        ...

    def prompts(self, state: S, tasks: TaskBatch, rows: Ints) -> P_co:
        """Return the prompts of this state for the B `tasks`, at `rows` of the task set."""
        ...

    def features(self, state: S) -> Floats:
        """(B, width) float32 in [-1, 1]: the state as observations show it."""
        ...

    def cell(self, state: S) -> Ints:
        """(B,) index of each prompt, flat in `shape`, for tables and bandits."""
        ...

    # Methods that only some spaces override

    @property
    def options(self) -> Sequence[str]:
        """Names of further options of a reset, which `begin` takes."""
        return ()

    def begin(self, rows: Ints, options: Mapping[str, Any]) -> S:  # noqa: ARG002 - has none
        """Return the state before the first step, as `start`, with some of `options`."""
        return self.start(rows)

    @property
    def about(self) -> Mapping[str, Any]:
        """Return what determines the prompts of the indices, as JSON; saved in a table."""
        return {"space": type(self).__name__}

    def within(self, made: Mapping[str, Any]) -> Ints | None:
        """Return which prompts of a table are this space's, in order; None if all are.

        `made` is the `about` of the space that the table was made with.

        Raises
        ------
        TableMismatch
            If the table lacks some of the prompts; by default for any other space.
        """
        for name, value in self.about.items():
            if made.get(name) != value:
                raise TableMismatch(
                    f"the table was made with {name}={made.get(name)!r}, and the environment has "
                    f"{value!r}: make a table of this environment"
                )
        return None

    @property
    def blocks(self) -> Mapping[str, int]:
        """Names and widths of the blocks of `features`, in order."""
        return {"prompt": self.width}

    @property
    def private(self) -> Sequence[Sequence[str]] | None:
        """Per agent, the blocks of an observation that only it sees; None if there are none."""
        return None

    @property
    def axes(self) -> tuple[Axis, ...]:
        """Moves of the agents along `shape`; by default an agent's action is its position."""
        return tuple(Axis.of(i, size) for i, size in enumerate(self.shape or ()))

    def at(self, cells: Ints, rows: Ints) -> S:
        """Return the state with the prompt indices `cells` (B,) for `rows`; inverse of `cell`.

        By default the state after taking the indices' positions as actions.
        """
        assert self.shape is not None
        positions = np.stack(np.unravel_index(cells, self.shape), axis=1)
        return self.apply(self.start(rows), positions)

    def alike(self, cells: Ints, rows: Ints) -> Ints:  # noqa: ARG002 - by default all differ
        """(B,) the first index whose prompt for the task at `rows` equals that of `cells` (B,)."""
        return cells

    def answered(
        self,
        state: S,
        prompts: Any,  # noqa: ARG002 - not needed by most states
        rankings: Rankings,  # noqa: ARG002
    ) -> S:
        """Return the state after the answer; `prompts` as they were sent, None from a table."""
        return state

    def counts(self, state: S) -> Mapping[str, Ints]:  # noqa: ARG002 - by default there are none
        """(B,) counts of the last prompts for the infos: some of `rpp_env.step.COUNTS`."""
        return {}

    def keys(self, state: S) -> NDArray[Any]:
        """(B, w) numbers that are equal for equal prompts of a user; by default `features`."""
        return self.features(state)

    def words(
        self,
        actions: NDArray[Any],
        prompts: Any,  # noqa: ARG002 - by default there is no text
        user: int,  # noqa: ARG002
        task: RankingTask,
        counts: Mapping[str, Any],  # noqa: ARG002
    ) -> Words:
        """Describe one user's last `actions` (n, ...) and prompt for people.

        `prompts` are those of the whole batch, and `user` is an index into them; None from a table.
        `counts` are the user's infos.
        """
        choices = [(i, _short(action), "", None) for i, action in enumerate(actions)]
        candidates = "\n".join(f"{i}. {title}" for i, title in enumerate(task.candidates, 1))
        return Words(choices, f"a prompt of {type(self).__name__}\n\n{candidates}")

    @property
    def meanings(self) -> Sequence[Sequence[str]] | None:
        """Per agent, what each of its actions means, for a person; None where they have no words.

        A text may hold ``{k}``, which stands for the number of candidates.
        """
        return None

    def described(self, cell: int) -> str:
        """Describe the prompt with index `cell`, for reports."""
        assert self.shape is not None
        where = np.unravel_index(cell, self.shape)
        return ", ".join(f"{agent} {at}" for agent, at in zip(self.agents, where, strict=True))


def _short(action: NDArray[Any]) -> str:
    """Format an action in a few characters."""
    if action.ndim == 0:
        return str(action)
    numbers = " ".join(f"{number:+.2f}" for number in action[:8])
    return f"({numbers}{' ...' if len(action) > 8 else ''})"


def walk(axes: Sequence[Axis], plans: Ints) -> Ints:
    """Follow actions: the position on each axis per plan and step.

    Parameters
    ----------
    axes : sequence of Axis
    plans : (N, S, n) int64 array
        Actions of n agents.

    Returns
    -------
    (len(axes), N, S) int64 array
    """
    found = np.empty((len(axes), *plans.shape[:2]), np.int64)
    for i, axis in enumerate(axes):
        at = np.full(len(plans), axis.start)
        for step in range(plans.shape[1]):
            found[i, :, step] = at = axis.moves[at, plans[:, step, axis.agent]]
    return found


def check_choices(actions: NDArray[Any], count: int, sizes: Ints, agents: Sequence[str]) -> Ints:
    """Check `count` users' choices against each agent's number of options; (B, n) int64.

    The array is copied only if it has another integer type.

    Raises
    ------
    InvalidAction
        For another shape or dtype, and for an action that an agent does not have.
    """
    if actions.shape != (count, len(agents)) or actions.dtype.kind not in "iu":
        raise InvalidAction(
            f"actions must be integers of shape {(count, len(agents))} (users, agents); got "
            f"{actions.dtype} of shape {actions.shape}"
        )
    choices = actions.astype(np.int64, copy=False)
    # As unsigned integers, negative actions are the largest ones.
    wrong = choices.view(np.uint64) >= _repeated(sizes.tobytes(), count)
    if np.count_nonzero(wrong):
        user, agent = np.argwhere(wrong)[0]
        raise InvalidAction(
            f"agent {agents[agent]!r} chose {actions[user, agent]} for user {user}; its actions "
            f"are 0..{int(sizes[agent]) - 1}"
        )
    return choices


@lru_cache(maxsize=8)
def _repeated(sizes: bytes, count: int) -> NDArray[np.uint64]:
    """(count, n): the sizes in every row; NumPy compares short rows with one row slowly."""
    return np.tile(np.frombuffer(sizes, np.uint64), (count, 1))


def check_vectors(
    actions: NDArray[Any], count: int, bounds: Floats, agents: Sequence[str]
) -> Floats:
    """Check `count` users' vectors against `bounds` (2, n, d), low and high; (B, n, d) float32.

    The array is copied only if it has another type.

    Raises
    ------
    InvalidAction
        For another shape or dtype, and for a number out of bounds.
    """
    low, high = bounds
    if actions.shape != (count, *low.shape) or actions.dtype.kind not in "fiu":
        raise InvalidAction(
            f"actions must be numbers of shape {(count, *low.shape)} (users, agents, numbers); got "
            f"{actions.dtype} of shape {actions.shape}"
        )
    with np.errstate(over="ignore"):  # a number too large for float32 is out of bounds
        vectors = actions.astype(np.float32, copy=False)
    right = (vectors >= low) & (vectors <= high)  # false for NaN
    if not right.all():
        user, agent, place = np.argwhere(~right)[0]
        raise InvalidAction(
            f"agent {agents[agent]!r} chose {actions[user, agent, place]} as number {place} for "
            f"user {user}; its bounds are {low[agent, place]} to {high[agent, place]}"
        )
    return vectors


@runtime_checkable
class Recommender(Protocol[P_contra]):
    """Ranks the candidates of a batch of prompts.

    A recommender may read the prompts, as a language model does, or only their tasks, as a
    classical model would. It returns one ranking per prompt, in order, and the ranking of a prompt
    does not depend on the other prompts. `rpp_env.testing.check_recommender` checks this.

    An optional attribute ``reads`` is the type of the prompts that it reads. An environment then
    refuses, when it is made, a prompt space whose prompts are of another type. An optional
    ``reads_order = False`` states that a prompt does not show the order of the candidates, so that
    they are ranked the same in any order, ties and rounding aside; it need not be asked again then,
    and a table of its answers (`RewardTable.reads_order`) has those for every order.
    """

    def rank(self, prompts: P_contra) -> Sequence[Ranking]:
        """Rank the candidates of every prompt, by their positions as the prompt shows them.

        Returns `Rankings`, which are arrays; a list of `Ranking` is accepted too, and slower.
        """
        ...


class WhiteBox(Recommender[P_contra], Protocol[P_contra]):
    """A recommender with differentiable scores, for native solvers; RL agents never use them."""

    def scores(self, prompts: P_contra) -> Tensor:
        """(B, K) scores of the candidates, differentiable in the prompts' values."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Return the embeddings of tokens, for prompts of tokens."""
        ...
