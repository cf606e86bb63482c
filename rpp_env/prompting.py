"""The protocols that carry every kind of prompt, and the rankings that come back.

A `PromptSpace` says what a prompt is made of, who chooses it and among what: sentences, vectors or
tokens. A `Recommender` reads the prompts of one space and ranks candidates. Everything else in this
package works with these two alone, whatever a prompt is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, overload, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rpp_env.task import Ranking

if TYPE_CHECKING:
    from gymnasium.spaces import Box, Discrete
    from torch import Tensor

__all__ = ["COSTS", "PromptSpace", "Rankings", "Recommender", "WhiteBox"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float32]

S = TypeVar("S")
"""A space's state: a frozen dataclass of arrays with one entry (row) for each user."""
P_co = TypeVar("P_co", covariant=True)
P_contra = TypeVar("P_contra", contravariant=True)
"""The prompts of a batch of users, as a space makes them and a recommender reads them."""

COSTS = ("trimmed", "prompt_tokens", "completion_tokens")
"""What a language model's answer costs: history items that did not fit, and tokens."""


@dataclass(frozen=True, eq=False)
class Rankings(Sequence[Ranking]):
    """Rankings of B users' candidates, as arrays; as a sequence, one `Ranking` for each user.

    Attributes
    ----------
    order : (B, K) array of int
        Positions of the candidates, best first: each row is a permutation of 0 to K - 1.
    named : (B,) array of int
        How many candidates the recommender placed itself, 0 to K: the first ones of each row.
    cost : mapping of str to (B,) arrays of int
        `COSTS`, as far as they arise: empty for a recommender that reads no text.
    texts : sequence of str, optional
        The replies; None where there are none, as from a table.
    """

    order: NDArray[np.integer[Any]]
    named: NDArray[np.integer[Any]]
    cost: Mapping[str, NDArray[np.integer[Any]]] = field(default_factory=dict)
    texts: Sequence[str] | None = None

    @classmethod
    def of(cls, rankings: Iterable[Ranking]) -> Rankings:
        """The same rankings as arrays; all of them over as many candidates."""
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
        """One user's ranking, or a list of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        return Ranking(
            tuple(self.order[index].tolist()),
            int(self.named[index]),
            "" if self.texts is None else self.texts[index],
            **{name: int(values[index]) for name, values in self.cost.items() if name in COSTS},
        )

    def spent(self, name: str) -> Ints:
        """(B,) int64, fresh: one of the costs; zeros where it does not arise."""
        values = self.cost.get(name)
        return np.zeros(len(self), np.int64) if values is None else values.astype(np.int64)

    def ranks(self, position: Ints) -> Ints:
        """(B,) int64: rank from 1 of the candidates at `position` (B,); 0 where not named."""
        place = (self.order == position[:, None]).argmax(axis=1)
        return np.where(place < self.named, place + 1, 0)

    def reordered(self, shown: Ints) -> Rankings:
        """The same rankings in the tasks' own positions, of candidates shown in the order `shown`.

        Parameters
        ----------
        shown : (B, K) array of int
            Per user, which of the task's candidates stood in each place.
        """
        return replace(self, order=np.take_along_axis(shown, self.order.astype(np.int64), axis=1))

    def without(self, mask: NDArray[np.bool_]) -> Rankings:
        """The same, but nothing named and no cost for the users of `mask`."""
        return replace(
            self,
            named=np.where(mask, 0, self.named),
            cost={name: np.where(mask, 0, values) for name, values in self.cost.items()},
            texts=None,
        )


class PromptSpace(Protocol[S, P_co]):
    """What a prompt is made of, and who chooses it: all that differs between the systems.

    A space is asked nothing and asks nobody: its methods are functions of their arguments, and no
    array that it gave back is ever changed.

    Attributes
    ----------
    agents : tuple of str
        Names of the agents, one for each action of a step.
    action_spaces : tuple of Discrete or Box
        What each agent chooses from; all ``Discrete``, or all ``Box`` of one length d.
    shape : tuple of int or None
        Axes of the distinct prompts of a user; None for infinitely many, for which there is no
        table.
    width : int
        Length of `features`.
    """

    agents: tuple[str, ...]
    action_spaces: tuple[Discrete | Box, ...]
    shape: tuple[int, ...] | None
    width: int

    def start(self, rows: Ints) -> S:
        """The state of users who have not chosen yet, for the tasks at `rows` (B,)."""
        ...

    def apply(self, state: S, actions: NDArray[Any]) -> S:
        """The state after `actions`: (B, n) integers or (B, n, d) floats, one for each agent.

        Raises
        ------
        InvalidAction
            For an action that an agent does not have, with the agent's name.
        """
        ...

    def prompts(self, state: S, tasks: Any, rows: Ints) -> P_co:
        """The prompts of this state for the B `tasks`, which stand at `rows` of the task set."""
        ...

    def features(self, state: S) -> Floats:
        """(B, width) in [-1, 1]: what observations show of the state."""
        ...

    def cell(self, state: S) -> Ints:
        """(B,) the prompts' number: a flat index into `shape`, for tables and bandits."""
        ...


@runtime_checkable
class Recommender(Protocol[P_contra]):
    """Anything that ranks the candidates of a batch of prompts.

    A recommender may read the prompts, as a language model does, or only their tasks, as a
    classical model would. Rankings come back in the order of the prompts, one each, and the ranking
    of a prompt does not depend on the other prompts. `rpp_env.testing.check_recommender` proves it.

    A recommender may say what it reads in an attribute ``reads``, the type of the prompts. An
    environment then refuses, when it is made, a prompt space whose prompts are of another type.
    """

    def rank(self, prompts: P_contra) -> Sequence[Ranking]:
        """Rank the candidates of every prompt, by their positions as the prompt shows them.

        `Rankings`, which are arrays; a list of `Ranking` is as good, and slower.
        """
        ...


class WhiteBox(Recommender[P_contra], Protocol[P_contra]):
    """A recommender whose scores are differentiable: for native solvers, never for an RL agent."""

    def scores(self, prompts: P_contra) -> Tensor:
        """(B, K) scores of the candidates, differentiable in the prompts' values."""
        ...

    def embed(self, ids: Tensor) -> Tensor:
        """Vectors of tokens, for prompts that are made of tokens."""
        ...
