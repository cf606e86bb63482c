"""Ranking tasks of users: the target, the other candidates, and their order.

A task is a user's last item (of a session, one of the last few) among ``K - 1`` negatives. Each
(seed, user token, draw) has its own random streams, so a task does not depend on the other users or
their order.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.atomic import read_text
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats, UserSplit, histories
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_choice
from rpp_env.task import RankingTask
from rpp_env.text import plain

__all__ = ["MAX_HISTORY", "TaskBatch", "TaskSet", "make_tasks", "read_selection", "split_selection"]

MAX_HISTORY = 50
"""Number of items before the target that a task keeps; older ones are left out."""

_CELLS = 1 << 25
"""Maximum (user, item) pairs of a block in which tasks are made, to bound memory."""

_KEPT = 1 << 14
"""Number of `RankingTask` objects that a set caches, some 700 bytes each."""

Selection = Mapping[int, NDArray[np.int32]]


@dataclass(frozen=True, eq=False)
class TaskSet:
    """Many ranking tasks as arrays; `task` returns one as a `RankingTask`.

    Attributes
    ----------
    dataset : Dataset
    users : (T,) int64 array
        User rows.
    draw : (T,) int64 array
        Index of the task among its user's, from 0: the draw of candidates, the step of a session,
        or (`arrival_tasks`) the number of clicks before the target.
    history_indptr : (T + 1,) int64 array
        Task i's history is ``history_items[history_indptr[i]:history_indptr[i + 1]]``.
    history_items : (H,) int32 array
        The last 50 items before the target, oldest first; none for a new user.
    candidates : (T, K) int32 array
        Item rows in the order in which they are shown. If all items are candidates, a read-only
        view of one row: the items in the order of the catalog.
    position : (T,) int64 array
        Index of the target among them, 0 to K - 1.
    dropped : (T,) int64 array
        Number of items left out of the user's history because they are the target; see
        `make_tasks`. Not part of the digest, which covers the histories.
    """

    dataset: Dataset
    users: NDArray[np.int64]
    draw: NDArray[np.int64]
    history_indptr: NDArray[np.int64]
    history_items: NDArray[np.int32]
    candidates: NDArray[np.int32]
    position: NDArray[np.int64]
    dropped: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    _made: dict[int, RankingTask] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        if not len(self.dropped):
            object.__setattr__(self, "dropped", np.zeros(len(self.users), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.users)

    @property
    def num_candidates(self) -> int:
        """K, the target included."""
        return int(self.candidates.shape[1])

    @property
    def targets(self) -> NDArray[np.int32]:
        """(T,) int32 item rows of the targets."""
        return self.candidates[np.arange(len(self)), self.position]

    @property
    def history_lengths(self) -> NDArray[np.int64]:
        """(T,) int64: items in each history, at most 50."""
        return np.diff(self.history_indptr)

    def history(self, i: int) -> NDArray[np.int32]:
        """(n,) int32 item rows before task i's target, oldest first, at most 50."""
        return self.history_items[self.history_indptr[i] : self.history_indptr[i + 1]]

    def task(self, i: int) -> RankingTask:
        """Return task i with its titles; cached."""
        i = range(len(self))[i]
        made = self._made.get(i)
        if made is None:
            if len(self._made) >= _KEPT:
                self._made.clear()
            titles = self.dataset.titles
            shown = tuple(titles[item] for item in self.candidates[i])
            made = self._made[i] = RankingTask(
                user=self.dataset.user_tokens[self.users[i]],
                history=tuple(titles[item] for item in self.history(i)),
                candidates=shown,
                target=shown[self.position[i]],
                domain=self.dataset.domain,
            )
        return made

    def subset(self, rows: ArrayLike) -> TaskSet:
        """Return the tasks at `rows` (integers or a boolean mask), in that order."""
        where = np.asarray(rows)
        chosen = np.arange(len(self))[where if where.size else where.astype(np.int64)]
        starts = self.history_indptr.take(chosen)
        lengths = self.history_indptr.take(chosen + 1) - starts  # of these tasks alone
        indptr, items = _take(starts, lengths, self.history_items)
        return TaskSet(
            self.dataset,
            self.users.take(chosen),
            self.draw.take(chosen),
            indptr,
            items,
            self.candidates.take(chosen, axis=0),
            self.position.take(chosen),
            self.dropped.take(chosen),
        )

    def in_common(self, other: TaskSet) -> NDArray[np.int64]:
        """(n,) rows of the users of whom both sets have a task with the same `draw`, sorted.

        A protocol of later clicks has the same users in all parts, but none of their tasks twice.
        None are in common where the datasets differ.
        """
        if self.dataset.digest != other.dataset.digest:
            return np.zeros(0, np.int64)
        most = 1 + max((int(one.draw.max()) for one in (self, other) if len(one)), default=0)
        mine, others = (one.users * most + one.draw for one in (self, other))
        return np.unique(np.intersect1d(mine, others) // most)

    def padded_history(
        self, length: int = 20, rows: NDArray[np.int64] | None = None
    ) -> NDArray[np.int32]:
        """(T, length) int32 item rows: the latest in the last column, -1 in empty places.

        Only of the tasks at `rows`, if given.
        """
        back = np.arange(length, 0, -1)
        ends, lengths = self.history_indptr[1:], self.history_lengths
        if rows is not None:
            ends, lengths = ends[rows], lengths[rows]
        where = ends[:, None] - back
        known = back <= lengths[:, None]
        if not len(self.history_items):
            return np.full(known.shape, -1, dtype=np.int32)
        return np.where(known, self.history_items[np.where(known, where, 0)], np.int32(-1))

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the dataset and of all tasks, including the candidates' orders."""
        sha = hashlib.sha256(self.dataset.digest.encode())
        for array in (
            self.users,
            self.draw,
            self.history_indptr,
            self.history_items,
            self.candidates,
            self.position,
        ):
            sha.update(str(array.shape).encode())
            step = max(1, _CELLS // max(1, array[:1].size))  # limits memory with all items
            for start in range(0, len(array), step):
                part = array[start : start + step]
                sha.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
        return sha.hexdigest()


@dataclass(eq=False, slots=True)  # not frozen, which would take longer to make, once a step
class TaskBatch(Sequence[RankingTask]):
    """The tasks of B users at one step, as arrays; also a sequence of `RankingTask`.

    Attributes
    ----------
    tasks : TaskSet
    rows : (B,) int64 array
        Indices of the users' tasks.
    shown : (B, K) int64 array, optional
        Per user, the task's candidate at each position shown; None for the task's own order.
    """

    tasks: TaskSet
    rows: NDArray[np.int64]
    shown: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> RankingTask: ...
    @overload
    def __getitem__(self, index: slice) -> list[RankingTask]: ...
    def __getitem__(self, index: int | slice) -> RankingTask | list[RankingTask]:
        """Return one user's task with its titles, or a list of several."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        task = self.tasks.task(int(self.rows[index]))
        if self.shown is None:
            return task
        order = self.shown[index].tolist()
        return replace(task, candidates=tuple(task.candidates[i] for i in order))

    @property
    def candidates(self) -> NDArray[np.int32]:
        """(B, K) int32 item rows, in the order in which they are shown."""
        own = self.tasks.candidates[self.rows]
        return own if self.shown is None else np.take_along_axis(own, self.shown, axis=1)

    def histories(self, length: int) -> NDArray[np.int32]:
        """(B, length) int32 item rows: the latest in the last column, -1 in empty places."""
        return self.tasks.padded_history(length, self.rows)

    def as_set(self) -> TaskSet:
        """Return the B tasks as a `TaskSet`, with candidates in the order shown."""
        own = self.tasks.subset(self.rows)
        if self.shown is None:
            return own
        place = (self.shown == own.position[:, None]).argmax(axis=1)
        return replace(own, candidates=self.candidates, position=place)


def make_tasks(
    dataset: Dataset,
    users: ArrayLike,
    *,
    num_candidates: int | None = 20,
    negatives: Literal["uniform", "popularity", "retrieved"] = "uniform",
    interactions: Interactions | None = None,
    draws: int = 1,
    seed: int = 0,
    selection: str | Path | Selection | None = None,
    unfiltered: bool = False,
    repeats: Repeats = "drop",
    targets: int = 1,
) -> TaskSet:
    """Make `draws` tasks for each user, or one for each of the last items; grouped by user.

    A target that occurs in its user's history would give the answer away. By default all its
    earlier occurrences are removed before the last 50 items are taken; a warning counts them, and
    `TaskSet.dropped` lists them.

    Parameters
    ----------
    dataset : Dataset
    users : (n,) array of int
        User rows; users with fewer than two items are left out, since they have no history.
    num_candidates : int, optional
        K, the target included; at least 2. None: all items, also those of the history.
    negatives : {"uniform", "popularity", "retrieved"}
        ``"uniform"``: among all items that the user never interacted with. ``"popularity"``: the
        same items, in proportion to one plus their count in `interactions` (one, because otherwise
        an item unseen in training could only be a target).
        ``"retrieved"``: the first K - 1 of the user's line in a selection file, without the target.
    interactions : Interactions, optional
        Interactions that popularity is counted on: `training_interactions`.
    draws : int
        Tasks per user, each with its own negatives (``"retrieved"``: the same ones) and order.
    seed : int
        Seed of the negatives and orders.
    selection : str, Path or mapping, optional
        For ``"retrieved"``: a file or name that `read_selection` reads, or what it returned.
    unfiltered : bool
        For ``"retrieved"``: keep listed items that are in the user's own history, as the published
        setup does. Otherwise they are dropped before the first K - 1 are taken.
    repeats : {"drop", "keep", "refuse"}
        How a target in its user's history is treated: left out (a user whose history holds nothing
        else gets no task), shown, or refused. Items are equal if they have the same id, or titles
        that only an added id distinguishes (`Dataset.kinds`).
    targets : int
        Number of a user's last items that are targets, each with the items before it as history,
        in their order; users who have fewer, or a target without a history, are left out.

    Raises
    ------
    InvalidOption
        For unknown or contradictory options, and if a user has fewer than K - 1 negatives.
    InvalidData
        If repeats are refused and there is one.

    Warns
    -----
    UserWarning
        If items were left out of histories.
    """
    check_choice("negatives", negatives, ("uniform", "popularity", "retrieved"))
    check_candidates(dataset, num_candidates, negatives, draws)
    if draws < 1:
        raise InvalidOption(f"draws must be at least 1, not {draws}")
    if negatives == "popularity" and interactions is None:
        raise InvalidOption(
            "negatives='popularity' needs interactions=training_interactions(dataset, split)"
        )
    if (negatives == "retrieved") != (selection is not None):
        raise InvalidOption("negatives='retrieved' and selection=... belong together: give both")
    if unfiltered and negatives != "retrieved":
        raise InvalidOption("unfiltered=True reads selection files: it needs negatives='retrieved'")
    if targets > 1 and (draws > 1 or negatives == "retrieved"):
        raise InvalidOption(
            "sessions of several targets draw each target's candidates once: leave out draws and "
            "negatives='retrieved'"
        )
    rows = user_rows(dataset, users)
    rows = np.repeat(rows[dataset.lengths[rows] > targets], targets)
    back = np.tile(np.arange(targets, 0, -1), len(rows) // targets)
    indptr, history, dropped = histories(dataset, rows, repeats, dataset.lengths[rows] - back)
    left = (np.diff(indptr) > 0).reshape(-1, targets).all(axis=1).repeat(targets)
    if dropped.any():
        who = "users" if targets == 1 else "tasks: the user"
        warnings.warn(left_out(dataset.name, dropped, left, who), stacklevel=2)
    starts, lengths = (np.repeat(values[left], draws) for values in (indptr[:-1], np.diff(indptr)))
    dropped, rows, back = (np.repeat(values[left], draws) for values in (dropped, rows, back))
    draw = np.arange(len(rows), dtype=np.int64) % (draws * targets)
    wanted = dataset.items[dataset.indptr[rows + 1] - back]
    weights = np.ones(dataset.num_items)
    if negatives == "retrieved":
        if not isinstance(selection, Mapping):
            assert selection is not None
            selection = read_selection(selection, dataset)
        assert num_candidates is not None
        others = _retrieved(
            dataset, rows, selection, count=num_candidates - 1, unfiltered=unfiltered
        )
        keys = _keys(seed, [dataset.user_tokens[row] for row in rows], draw)
        candidates, position = _ordered(wanted, others, keys[:, 2])
    else:
        if negatives == "popularity":
            assert interactions is not None
            weights += interactions.counts
        candidates, position = among(dataset, rows, draw, wanted, num_candidates, weights, seed)
    indptr, history = latest(starts, lengths, history, MAX_HISTORY)
    return TaskSet(dataset, rows, draw, indptr, history, candidates, position, dropped)


def check_candidates(
    dataset: Dataset, num_candidates: int | None, negatives: str = "uniform", draws: int = 1
) -> None:
    """Check that the catalog has this number of candidates.

    Raises
    ------
    InvalidOption
    """
    if num_candidates is None:
        if negatives != "uniform" or draws != 1:
            raise InvalidOption(
                "num_candidates=None takes all items as candidates, so nothing is drawn: leave out "
                "negatives and draws"
            )
    elif not 2 <= num_candidates <= dataset.num_items:
        raise InvalidOption(
            f"num_candidates must lie in 2..{dataset.num_items}, the number of items of "
            f"{dataset.name}; got {num_candidates}"
        )


def user_rows(dataset: Dataset, users: ArrayLike) -> NDArray[np.int64]:
    """Return user rows as an array.

    Raises
    ------
    InvalidOption
        If one is out of range.
    """
    rows = np.asarray(users, dtype=np.int64).reshape(-1)
    if len(rows) and not 0 <= rows.min() <= rows.max() < dataset.num_users:
        raise InvalidOption(
            f"user rows must lie in 0..{dataset.num_users - 1}; got {rows.min()}..{rows.max()}"
        )
    return rows


def among(
    dataset: Dataset,
    users: NDArray[np.int64],
    draw: NDArray[np.int64],
    targets: NDArray[np.int32],
    num_candidates: int | None,
    weights: NDArray[np.float64],
    seed: int,
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """(T, K) candidates and (T,) positions of the targets: sampled negatives, or all items."""
    if num_candidates is None:
        catalog = np.arange(dataset.num_items, dtype=np.int32)
        return np.broadcast_to(catalog, (len(users), len(catalog))), targets.astype(np.int64)
    keys = _keys(seed, [dataset.user_tokens[row] for row in users], draw)
    others = _sampled(dataset, users, keys, num_candidates - 1, weights)
    return _ordered(targets, others, keys[:, 2])


def latest(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], flat: NDArray[np.int32], most: int
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Return the last `most` items of ragged rows of `flat`, as a ragged array."""
    kept = np.minimum(lengths, most)
    return _take(starts + lengths - kept, kept, flat)


def left_out(
    name: str, dropped: NDArray[np.int64], left: NDArray[np.bool_], who: str = "users"
) -> str:
    """Write the warning about targets that are in their users' histories."""
    text = (
        f"{name}: {(dropped > 0).sum():,} of {len(dropped):,} {who} chose their target before, by "
        "the same id or by the same title (doubled rows look the same); "
        f"{dropped.sum():,} items were left out of their histories"
    )
    if not left.all():
        text += (
            f", and {(~left).sum():,} {who.partition(':')[0]} are left out, as nothing else is "
            "in their histories"
        )
    return text + ". repeats='keep' shows them, repeats='refuse' raises an error"


def read_selection(selection: str | Path, dataset: Dataset) -> dict[int, NDArray[np.int32]]:
    """Read candidate lists in the format of LLMRank and RPP.

    One line per user, no header: ``user <TAB> item item ...``, tokens of the dataset. The target is
    not marked; `make_tasks` adds it. Gzipped if the name ends in ``.gz``.

    Parameters
    ----------
    selection : str or Path
        A file, or the ending of one in the dataset's own folder: ``"train"`` refers to
        ``selected/<name>.train``, ``"train.bm25"`` to ``selected/<name>.train.bm25``.
    dataset : Dataset

    Returns
    -------
    dict of int to (n,) int32 array
        Item rows by user row, in the file's order of users and items, repeats included.

    Raises
    ------
    InvalidData
        If there is no such file, or a line holds an unknown token or no items.
    """
    path = _find_selection(selection, dataset)
    users = {token: row for row, token in enumerate(dataset.user_tokens)}
    items = {token: row for row, token in enumerate(dataset.item_tokens)}
    lists: dict[int, NDArray[np.int32]] = {}
    text = read_text(path).removesuffix("\n")
    for number, line in enumerate(text.split("\n") if text else (), start=1):
        where = f"{path}, line {number}"
        token, tab, listed = line.partition("\t")
        token = plain(token)
        if not tab or not listed.strip():
            raise InvalidData(f"{where}: expected `user <TAB> item item ...`, got {line[:60]!r}")
        if token not in users:
            raise InvalidData(f"{where}, column 1: no user {token!r} in {dataset.name}")
        if users[token] in lists:
            raise InvalidData(f"{where}, column 1: user {token!r} has a line already")
        try:
            found = [items[plain(item)] for item in listed.split()]
        except KeyError as error:
            raise InvalidData(
                f"{where}, column 2: no item {error.args[0]!r} in {dataset.name}"
            ) from None
        lists[users[token]] = np.array(found, dtype=np.int32)
    if not lists:
        raise InvalidData(f"{path} is empty: expected one line per user")
    return lists


def split_selection(
    dataset: Dataset,
    train: str | Path,
    test: str | Path,
    *,
    overlap: Literal["refuse", "train", "test"] = "refuse",
) -> UserSplit:
    """Make a split from the users of two selection files (no validation users).

    Of the published lastfm files, 91 of the 200 test users are train users too; such files are
    refused unless `overlap` states on which side the shared users belong.

    Raises
    ------
    InvalidData
        If users are in both files and `overlap` is ``"refuse"``.
    InvalidOption
        For another `overlap`.
    """
    check_choice("overlap", overlap, ("refuse", "train", "test"))
    trained, tested = (np.array(list(read_selection(file, dataset))) for file in (train, test))
    shared = np.intersect1d(trained, tested)
    if len(shared) and overlap == "refuse":
        raise InvalidData(
            f"{len(shared)} of the {len(tested)} test users of {test} are train users of "
            f"{train} too (the first is {dataset.user_tokens[shared[0]]!r}); pass "
            "overlap='train' or overlap='test' to keep them on one side only"
        )
    if overlap == "train":
        tested = np.setdiff1d(tested, shared)
    elif overlap == "test":
        trained = np.setdiff1d(trained, shared)
    return UserSplit(trained, np.zeros(0, np.int64), tested)


def _take(
    starts: NDArray[np.int64], lengths: NDArray[np.int64], flat: NDArray[np.int32]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    """Take rows of `flat` as a ragged array: (indptr, values)."""
    indptr = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=indptr[1:])
    return indptr, flat[np.repeat(starts - indptr[:-1], lengths) + np.arange(indptr[-1])]


def _keys(seed: int, tokens: list[str], draw: NDArray[np.int64]) -> NDArray[np.uint64]:
    """(T, 3) keys of each task's random streams: negatives, remaining negatives, order."""
    digests = b"".join(
        hashlib.blake2b(f"{seed}\0{number}\0{token}".encode(), digest_size=24).digest()
        for token, number in zip(tokens, draw.tolist(), strict=True)
    )
    return np.frombuffer(digests, dtype="<u8").reshape(-1, 3)


def _uniforms(keys: NDArray[np.uint64], count: int) -> NDArray[np.float64]:
    """(T, count) numbers in [0, 1): the first `count` of every key's SplitMix64 stream.

    Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA 2014.
    """
    x = keys[:, None] + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    x ^= x >> np.uint64(31)
    uniforms: NDArray[np.float64] = (x >> np.uint64(11)) * 2.0**-53
    return uniforms


def _sampled(
    dataset: Dataset,
    users: NDArray[np.int64],
    keys: NDArray[np.uint64],
    count: int,
    weights: NDArray[np.float64],
) -> NDArray[np.int32]:
    """(T, count) distinct items that the user never interacted with, drawn one by one by weight."""
    cumulative = np.cumsum(weights)
    tries = 2 * count + 16
    block = max(1, _CELLS // (dataset.num_items + 16 * tries))
    chosen = np.empty((len(users), count), dtype=np.int32)
    for start in range(0, len(users), block):
        part = slice(start, start + block)
        size = len(users[part])
        free = np.ones((size, dataset.num_items), dtype=bool)
        indptr, touched = _take(
            dataset.indptr[users[part]], dataset.lengths[users[part]], dataset.items
        )
        free[np.repeat(np.arange(size), np.diff(indptr)), touched] = False
        left = free.sum(axis=1)
        if left.min() < count:
            worst = int(left.argmin())
            raise InvalidOption(
                f"num_candidates is {count + 1}, but user "
                f"{dataset.user_tokens[users[start + worst]]!r} has touched all but {left[worst]} "
                f"of {dataset.num_items} items; at most {left[worst] + 1} candidates are possible"
            )
        point = _uniforms(keys[part, 0], tries) * cumulative[-1]
        drawn = np.minimum(np.searchsorted(cumulative, point, side="right"), dataset.num_items - 1)
        good = np.take_along_axis(free, drawn, axis=1) & _first_of_its_kind(drawn)
        good &= np.cumsum(good, axis=1) <= count
        found = good.sum(axis=1)
        chosen[start:][np.nonzero(good)[0], (np.cumsum(good, axis=1) - 1)[good]] = drawn[good]
        for row in np.flatnonzero(found < count):
            # The remaining draws without replacement at once: the smallest of exponential waiting
            # times with the items' weights as rates.
            have = int(found[row])
            free[row, chosen[start + row, :have]] = False
            pool = np.flatnonzero(free[row])
            points = _uniforms(keys[part, 1][row : row + 1], len(pool))[0]
            waits = -np.log1p(-points) / weights[pool]
            chosen[start + row, have:] = pool[np.argsort(waits, kind="stable")[: count - have]]
    return chosen


def _first_of_its_kind(rows: NDArray[Any]) -> NDArray[np.bool_]:
    """Mark per row the first occurrence of each value."""
    order = np.argsort(rows, axis=1, kind="stable")
    ordered = np.take_along_axis(rows, order, axis=1)
    first = np.ones(rows.shape, dtype=bool)
    np.put_along_axis(first, order[:, 1:], ordered[:, 1:] != ordered[:, :-1], axis=1)
    return first


def _ordered(
    targets: NDArray[np.int32], others: NDArray[np.int32], keys: NDArray[np.uint64]
) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Shuffle target and negatives by each task's own stream: (T, K) candidates, (T,) position."""
    together = np.concatenate([targets[:, None], others], axis=1)
    order = np.argsort(_uniforms(keys, together.shape[1]), axis=1, kind="stable")
    return np.take_along_axis(together, order, axis=1), np.argmin(order, axis=1)


def _retrieved(
    dataset: Dataset,
    users: NDArray[np.int64],
    selection: Selection,
    *,
    count: int,
    unfiltered: bool,
) -> NDArray[np.int32]:
    """(T, count): the first listed items, without repeats and the target (and the history)."""
    chosen = np.empty((len(users), count), dtype=np.int32)
    for i, user in enumerate(users.tolist()):
        if user not in selection:
            raise InvalidOption(
                f"user {dataset.user_tokens[user]!r} has no line in the selection, which holds "
                f"{len(selection)} users; make tasks for those"
            )
        listed = selection[user]
        taken = dataset.sequence(user)[-1:] if unfiltered else dataset.sequence(user)
        kept = listed[_first_of_its_kind(listed[None])[0] & ~np.isin(listed, taken)]
        if len(kept) < count:
            raise InvalidOption(
                f"num_candidates is {count + 1}, but of the {len(listed)} items listed for user "
                f"{dataset.user_tokens[user]!r} only {len(kept)} can be negatives; at most "
                f"{len(kept) + 1} candidates are possible"
            )
        chosen[i] = kept[:count]
    return chosen


def _find_selection(selection: str | Path, dataset: Dataset) -> Path:
    path = Path(selection)
    places = [path]
    if dataset.folder is not None:
        folder = dataset.folder / "selected"
        stem = dataset.folder.name
        places += [folder / f"{stem}.{selection}", folder / f"{stem}.{selection}.gz", folder / path]
    for place in places:
        if place.is_file():
            return place
    raise InvalidData(
        f"no selection file {str(selection)!r}; looked at {', '.join(map(str, places))}"
    )
