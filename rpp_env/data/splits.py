"""Splits of users, and the only interactions that anything may be fitted on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_choice

__all__ = [
    "Interactions",
    "Repeats",
    "UserSplit",
    "histories",
    "split_users",
    "training_interactions",
]

Repeats = Literal["drop", "keep", "refuse"]
"""How a target in its user's own history is treated; see `histories`."""


@dataclass(frozen=True, eq=False)
class UserSplit:
    """Disjoint sets of users.

    Attributes
    ----------
    train, validation, test : (n,) int64 arrays
        User rows, sorted, read-only.

    Raises
    ------
    InvalidData
        If a user is in two parts, or twice in one.
    """

    train: NDArray[np.int64]
    validation: NDArray[np.int64]
    test: NDArray[np.int64]

    def __post_init__(self) -> None:
        parts = {name: _rows(getattr(self, name)) for name in ("train", "validation", "test")}
        for name, rows in parts.items():
            object.__setattr__(self, name, rows)
        users, counts = np.unique(np.concatenate(list(parts.values())), return_counts=True)
        shared = users[counts > 1]
        if len(shared):
            where = [name for name, rows in parts.items() if shared[0] in rows]
            raise InvalidData(
                f"{len(shared)} users are in more than one place, the first is user row "
                f"{shared[0]} (in {' and '.join(where)}); the parts of a split must be disjoint"
            )

    def part(self, name: str) -> NDArray[np.int64]:
        """Return the user rows of ``"train"``, ``"validation"`` or ``"test"``.

        Raises
        ------
        InvalidOption
            For any other name.
        """
        check_choice("split", name, ("train", "validation", "test"))
        rows: NDArray[np.int64] = getattr(self, name)
        return rows


@dataclass(frozen=True, eq=False)
class Interactions:
    """The train users' histories without any target; see `training_interactions`.

    Attributes
    ----------
    indptr : (n + 1,) int64 array
        The i-th train user's history is ``items[indptr[i]:indptr[i + 1]]``.
    items : (N,) int32 array
        Item rows, each history oldest first.
    Size of the catalog, including items without train users.
        Size of the catalogue; items that no train user touched are counted too.
    """

    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    num_items: int

    @cached_property
    def counts(self) -> NDArray[np.int64]:
        """(num_items,) int64: number of occurrences of each item in these histories."""
        return np.bincount(self.items, minlength=self.num_items).astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of all histories."""
        sha = hashlib.sha256(str(self.num_items).encode())
        sha.update(np.ascontiguousarray(self.indptr, "<i8").tobytes())
        sha.update(np.ascontiguousarray(self.items, "<i4").tobytes())
        return sha.hexdigest()


def split_users(
    dataset: Dataset,
    *,
    fractions: tuple[float, float, float] | None = None,
    by: Literal["user", "time"] = "user",
    seed: int = 0,
) -> UserSplit:
    """Split the users that can have a task (two items or more) into three disjoint parts.

    By time, the users with the earliest targets are for training, the next ones for validation, and
    those with the latest for testing. A user's history ends before the target, so all that is
    fitted precedes every target of a validation or test user.

    Parameters
    ----------
    dataset : Dataset
    fractions : (float, float, float), optional
        Shares of train, validation and test; each at least 0, together 1. By default the sizes that
        the dataset comes with (`Dataset.default_split`), else 0.7, 0.1, 0.2.
    by : {"user", "time"}
        At random, or by the time of each user's target (`Dataset.last_times`).
    seed : int
        Seed of the permutation; at least 0. It is independent of an environment's seed, so that
        runs with different seeds share one split. By time, it only orders users with equal times.

    Raises
    ------
    InvalidOption
        For fractions that are negative or do not add up to 1, for a negative seed, and for a split
        by time of a dataset without times.
    InvalidData
        If the dataset has too few users for its own `default_split`.
    """
    check_choice("by", by, ("user", "time"))
    times = dataset.last_times
    if by == "time" and times is None:
        raise InvalidOption(
            f"{dataset.name} cannot be split by time: it has no times of its users' choices; "
            "ml-1m, ml-100k and ml-latest-small do, and folders of your own whose order is 'time'"
        )
    users = np.flatnonzero(dataset.lengths >= 2)
    if fractions is None and dataset.default_split is not None:
        sizes = dataset.default_split
        if sum(sizes) > len(users):
            raise InvalidData(
                f"{dataset.name} needs a split into {sizes} users but only {len(users)} "
                "have two items or more"
            )
    else:
        shares: tuple[float, ...] = (0.7, 0.1, 0.2) if fractions is None else fractions
        if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1.0) > 1e-9:
            raise InvalidOption(
                f"fractions are three shares of at least 0 that add up to 1, not {shares}"
            )
        train, validation = (round(share * len(users)) for share in shares[:2])
        validation = min(validation, len(users) - train)
        sizes = (train, validation, len(users) - train - validation)
    if seed < 0:
        raise InvalidOption(f"seed must be at least 0, not {seed}")
    order = np.random.default_rng([seed, 0x5E11]).permutation(users)
    if by == "time" and times is not None:
        order = order[np.argsort(times[order], kind="stable")]
    first, second, third = np.cumsum(sizes)
    return UserSplit(order[:first], order[first:second], order[second:third])


def training_interactions(
    dataset: Dataset, split: UserSplit, *, repeats: Repeats = "drop", targets: int = 1
) -> Interactions:
    """Return the train users' sequences without their last item, the target; see `histories`.

    Every statistic, embedding, model and popularity that an environment uses is fitted on this and
    on nothing else, so none of them depends on the target of any user, train or test.

    Parameters
    ----------
    dataset : Dataset
    split : UserSplit
    repeats : {"drop", "keep", "refuse"}
        How earlier choices of a user's target are treated.
    targets : int
        Number of last items that are targets.
    """
    lengths = dataset.lengths[split.train]
    indptr, items, _ = histories(dataset, split.train, repeats, np.maximum(lengths - targets, 0))
    if targets > 1 and repeats != "keep":  # the first target is dropped; now the later ones
        owner = np.repeat(np.arange(len(lengths)), np.diff(indptr))
        repeated = np.zeros(len(items), dtype=bool)
        for back in range(1, targets):
            last = np.maximum(dataset.indptr[split.train + 1] - back, dataset.indptr[split.train])
            there = (lengths >= back)[owner]
            held = dataset.kinds[dataset.items[np.minimum(last, len(dataset.items) - 1)]][owner]
            repeated |= there & (dataset.kinds[items] == held)
        kept = np.bincount(owner[~repeated], minlength=len(lengths))
        indptr, items = np.concatenate([[0], np.cumsum(kept)]).astype(np.int64), items[~repeated]
    return Interactions(indptr, items, dataset.num_items)


def histories(
    dataset: Dataset,
    users: NDArray[np.int64],
    repeats: Repeats = "drop",
    before: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int32], NDArray[np.int64]]:
    """Return the users' sequences before their targets, treating earlier choices of a target.

    A history that contains the target gives the answer away. That happens if a user chose an item
    twice, if rows of a file are doubled, and if a source lists one item under several ids
    (`Dataset.kinds`).

    Parameters
    ----------
    dataset : Dataset
    users : (n,) int64 array
        User rows.
    repeats : {"drop", "keep", "refuse"}
        Leave the target out of the history, show it, or raise.
    before : (n,) int64 array, optional
        Number of items before each target; by default all but the last.

    Returns
    -------
    indptr : (n + 1,) int64 array
    items : (N,) int32 array
        The i-th user's history is ``items[indptr[i]:indptr[i + 1]]``, oldest first.
    dropped : (n,) int64 array
        Number of items left out of each history.

    Raises
    ------
    InvalidData
        If repeats are refused and there is one.
    InvalidOption
        For another value of `repeats`.
    """
    check_choice("repeats", repeats, get_args(Repeats))
    starts = dataset.indptr[users]
    lengths = np.maximum(dataset.lengths[users] - 1, 0) if before is None else before
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = dataset.items[np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])]
    dropped = np.zeros_like(lengths)
    if repeats == "keep" or not len(items):
        return indptr, items, dropped
    owner = np.repeat(np.arange(len(lengths)), lengths)
    targets = dataset.items[(starts + lengths)[owner]]
    repeated = dataset.kinds[items] == dataset.kinds[targets]
    if not repeated.any():
        return indptr, items, dropped
    dropped = np.bincount(owner[repeated], minlength=len(lengths))
    if repeats == "refuse":
        first = int(owner[np.argmax(repeated)])
        title = dataset.titles[int(dataset.items[starts[first] + lengths[first]])]
        raise InvalidData(
            f"{dataset.name}: {(dropped > 0).sum()} of {len(users)} users chose their target "
            f"before (the first is user {dataset.user_tokens[int(users[first])]!r}: {title!r}); "
            "pass repeats='drop' to leave it out of the history, or repeats='keep' to show it"
        )
    indptr = np.concatenate([[0], np.cumsum(lengths - dropped)]).astype(np.int64)
    return indptr, items[~repeated], dropped


def _rows(users: ArrayLike) -> NDArray[np.int64]:
    rows = np.sort(np.asarray(users, dtype=np.int64))
    rows.setflags(write=False)
    return rows
