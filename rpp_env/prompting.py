"""What a recommender gives back for a batch of prompts: `Rankings`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from rpp_env.task import Ranking

__all__ = ["COSTS", "Rankings"]

Ints = NDArray[np.int64]

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
