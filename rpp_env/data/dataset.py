"""Datasets: a catalog of titles, and one sequence of items per user."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.profiles import Profiles
from rpp_env.data.titles import names_of_items
from rpp_env.errors import InvalidData
from rpp_env.text import plain

__all__ = ["Dataset"]


@dataclass(frozen=True, eq=False)
class Dataset:
    """Items, users, and each user's items, oldest first.

    Titles, tokens and genres are cleaned (`rpp_env.text.plain`) when they are added: prompts,
    parsers and observations read the same strings, and none can control a prompt or a terminal.

    An *item row* is an index into `titles`, a *user row* an index into `user_tokens`. The last item
    of a sequence is the user's target; users with fewer than two items are never given a task.

    Attributes
    ----------
    name, domain : str
        The dataset's name, and the domain of its sentences: ``"movies"``, ``"music"``, ``"games"``
        or ``"products"`` (or a catalog file of your own).
    titles : tuple of str
        One clean title per item; all different, even when case is ignored.
    item_tokens, user_tokens : tuple of str
        The ids of the source, by row; each unique.
    genres : tuple of tuple of str
        Genres per item; empty if unknown.
    indptr : (num_users + 1,) int64 array
        User u's sequence is ``items[indptr[u]:indptr[u + 1]]``. Read-only.
    items : (N,) int32 array
        Item rows, each user's sequence in order, oldest first, the target included. Read-only.
    order : str
        What the order means: ``"time"``, ``"position"`` (an order without clock times) or
        ``"play count"`` (lastfm: the last item is the most played one, not the latest).
    habits : (num_users,) int array, optional
        Movieworld's latent habit per user. A label: environments never read it.
    habit_names : tuple of str
        Names of the numbers in `habits`.
    default_split : (int, int, int), optional
        Sizes of train, validation and test that the dataset comes with.
    last_times : (num_users,) float64 array, optional
        Time of each user's last item, the target, by a clock that all users share. Read-only; None
        if the source has no clock times. Earlier times are not kept: nothing needs them, and those
        of some copies of ml-1m are made up.
    notes : str
        A remark for readers of results, in a sentence or two.
    folder : Path, optional
        Folder of the files; selection files are looked up there.
    profiles : Profiles, optional
        Known properties of the users besides their clicks. Not part of `digest`, because no task
        depends on them; they have their own.

    Raises
    ------
    InvalidData
        If lengths disagree, a row is out of range, or a title or token occurs twice.
    """

    name: str
    domain: str
    titles: tuple[str, ...]
    item_tokens: tuple[str, ...]
    genres: tuple[tuple[str, ...], ...]
    user_tokens: tuple[str, ...]
    indptr: NDArray[np.int64]
    items: NDArray[np.int32]
    order: str = "time"
    habits: NDArray[Any] | None = None
    habit_names: tuple[str, ...] = ()
    default_split: tuple[int, int, int] | None = None
    last_times: NDArray[np.float64] | None = None
    notes: str = ""
    folder: Path | None = field(default=None, repr=False)
    profiles: Profiles | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "indptr", _frozen(self.indptr, np.int64))
        object.__setattr__(self, "items", _frozen(self.items, np.int32))
        for name in ("titles", "item_tokens", "user_tokens"):
            object.__setattr__(self, name, tuple(map(plain, getattr(self, name))))
        genres = tuple(tuple(map(plain, genres)) for genres in self.genres)
        object.__setattr__(self, "genres", genres)
        count = len(self.titles)
        if not count or not self.user_tokens:
            raise InvalidData(f"{self.name}: a dataset needs at least one item and one user")
        if not len(self.item_tokens) == len(self.genres) == count:
            raise InvalidData(
                f"{self.name}: {count} titles, {len(self.item_tokens)} item tokens and "
                f"{len(self.genres)} genre lists; give one of each per item"
            )
        if (
            self.indptr.shape != (self.num_users + 1,)
            or self.indptr[0] != 0
            or self.indptr[-1] != len(self.items)
            or (np.diff(self.indptr) < 0).any()
        ):
            raise InvalidData(
                f"{self.name}: indptr must rise from 0 to {len(self.items)} in "
                f"{self.num_users + 1} entries, one more than there are users"
            )
        if len(self.items) and not 0 <= self.items.min() <= self.items.max() < count:
            raise InvalidData(
                f"{self.name}: item rows must lie in 0..{count - 1}; "
                f"got {self.items.min()}..{self.items.max()}"
            )
        for what, values in (
            ("title", [t.casefold() for t in self.titles]),
            ("item token", self.item_tokens),
            ("user token", self.user_tokens),
        ):
            if len(set(values)) != len(values):
                raise InvalidData(f"{self.name}: the {what} {_twice(values)!r} appears twice")
        if self.habits is not None and self.habits.shape != (self.num_users,):
            raise InvalidData(f"{self.name}: habits must hold one number per user")
        if self.profiles is not None and len(self.profiles) != self.num_users:
            raise InvalidData(
                f"{self.name}: {len(self.profiles)} profiles for {self.num_users} users"
            )
        if self.last_times is not None:
            object.__setattr__(self, "last_times", _frozen(self.last_times, np.float64))
            if self.last_times.shape != (self.num_users,) or not np.isfinite(self.last_times).all():
                raise InvalidData(f"{self.name}: last_times must hold one finite time per user")

    @property
    def num_users(self) -> int:
        """Number of users, with a task or not."""
        return len(self.user_tokens)

    @property
    def num_items(self) -> int:
        """Number of items in the catalog, chosen by a user or not."""
        return len(self.titles)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """(num_users,) int64: number of items in each user's sequence, the target included."""
        return np.diff(self.indptr)

    def sequence(self, user: int) -> NDArray[np.int32]:
        """(n,) int32 item rows of a user row, oldest first, the target last."""
        return self.items[self.indptr[user] : self.indptr[user + 1]]

    @cached_property
    def kinds(self) -> NDArray[np.int32]:
        """(num_items,) int32: equal for items that only their ids distinguish."""
        numbers: dict[str, int] = {}
        names = names_of_items(self.titles, self.item_tokens)
        return np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int32)

    @cached_property
    def title_index(self) -> dict[str, int]:
        """Item rows by title, spelled exactly."""
        return {title: row for row, title in enumerate(self.titles)}

    @cached_property
    def catalog_digest(self) -> str:
        """SHA-256 (hex) of the item tokens in order, which define the item rows."""
        return hashlib.sha256("\x1e".join(self.item_tokens).encode()).hexdigest()

    @cached_property
    def titles_digest(self) -> str:
        """SHA-256 (hex) of the items' titles in order: all that a prompt's words depend on."""
        return hashlib.sha256("\x1e".join(self.titles).encode()).hexdigest()

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of everything that tasks and fitted models depend on.

        Names, notes, habits, times and folders are left out: they change neither.
        """
        sha = hashlib.sha256()
        for values in (
            (self.domain, self.order, repr(self.default_split)),
            self.titles,
            self.item_tokens,
            ("\x1f".join(genres) for genres in self.genres),
            self.user_tokens,
        ):
            sha.update("\x1e".join(values).encode())
            sha.update(b"\x1d")
        sha.update(self.indptr.astype("<i8").tobytes())
        sha.update(self.items.astype("<i4").tobytes())
        return sha.hexdigest()


def _frozen(array: NDArray[Any], dtype: type[np.generic]) -> NDArray[Any]:
    """Return a read-only array of `dtype`; a copy if the caller could still write to it."""
    array = np.asarray(array)
    if array.dtype != dtype or array.flags.writeable:
        array = array.astype(dtype)
        array.setflags(write=False)
    return array


def _twice(values: Iterable[str]) -> str:
    seen: set[str] = set()
    for value in values:
        if value in seen:
            return value
        seen.add(value)
    raise AssertionError("no value appears twice")
