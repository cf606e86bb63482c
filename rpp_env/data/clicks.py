"""Tasks and training data of leave-one-out protocols: the same users, disjoint later clicks.

Each user's last three clicks are held out: the last is for the test, the one before it for
validation, and the third-last for training agents. Everything earlier is what recommenders and
embeddings are fitted on. No click of one part is a target of another.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.candidates import (
    MAX_HISTORY,
    TaskSet,
    among,
    check_candidates,
    latest,
    left_out,
    user_rows,
)
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats, histories
from rpp_env.errors import InvalidData
from rpp_env.options import check_choice

__all__ = ["PARTS", "SMALL_WORLD", "click_tasks", "task_users", "tasks_before", "training_clicks"]

PARTS = ("train", "validation", "test")
"""Parts of the held-out clicks, from the earliest to the last."""
SMALL_WORLD = {"num_users": 3000, "num_items": 200}
"""Size of the generated world in which ids are played by default if their recommender is a T5: the
one in the package was trained on it."""


def task_users(dataset: Dataset) -> NDArray[np.int64]:
    """Return the users with two clicks or more before the held-out ones, as rows.

    Raises
    ------
    InvalidData
        If there is none.
    """
    users = np.flatnonzero(dataset.lengths >= len(PARTS) + 2)
    if not len(users):
        raise InvalidData(
            f"{dataset.name}: no user has {len(PARTS) + 2} items, which a split by clicks needs: "
            "two to train on, and one each for train, validation and test"
        )
    return users


def training_clicks(dataset: Dataset, *, repeats: Repeats = "drop") -> Interactions:
    """Return the histories of `task_users` without the held-out clicks.

    Parameters
    ----------
    dataset : Dataset
    repeats : {"drop", "keep", "refuse"}
        How earlier choices of the first held-out item are treated; see `histories`.
    """
    users = task_users(dataset)
    before = dataset.lengths[users] - len(PARTS)
    indptr, items, _ = histories(dataset, users, repeats, before)
    return Interactions(indptr, items, dataset.num_items)


def click_tasks(
    dataset: Dataset,
    users: ArrayLike,
    part: str,
    *,
    num_candidates: int | None = 100,
    seed: int = 0,
    repeats: Repeats = "drop",
) -> TaskSet:
    """Make the tasks of one part of the held-out clicks, one for each user.

    Parameters
    ----------
    dataset : Dataset
    users : (n,) array of int
        User rows, of `task_users`.
    part : {"train", "validation", "test"}
        See the module's docstring. A history holds all clicks before the target, those of earlier
        parts included.
    num_candidates : int, optional
        K, the target included; the others are items that the user never clicks. None: all items.
    seed : int
        Seed of the negatives and orders; the same numbers give the same tasks in every part.
    repeats : {"drop", "keep", "refuse"}
        How a target that the user clicked before is treated; see `make_tasks`.

    Raises
    ------
    InvalidOption
        For unknown options, and if a user has too few negatives.
    InvalidData
        If repeats are refused and there is one.
    """
    check_choice("split", part, PARTS)
    check_candidates(dataset, num_candidates)
    rows = np.intersect1d(user_rows(dataset, users), task_users(dataset))
    before = dataset.lengths[rows] - len(PARTS) + PARTS.index(part)
    return tasks_before(
        dataset, rows, before, num_candidates=num_candidates, seed=seed, repeats=repeats
    )


def tasks_before(
    dataset: Dataset,
    rows: NDArray[np.int64],
    before: NDArray[np.int64],
    *,
    crop: int = MAX_HISTORY,
    num_candidates: int | None = 100,
    interactions: Interactions | None = None,
    seed: int = 0,
    repeats: Repeats = "drop",
) -> TaskSet:
    """Make tasks whose targets follow the first `before` clicks; `TaskSet.draw` is that number.

    Parameters
    ----------
    dataset : Dataset
    rows, before : (T,) int64 arrays
        User rows, and the number of clicks before each target.
    crop : int
        Number of latest clicks that a history keeps.
    num_candidates : int, optional
        K, the target included; None: all items.
    interactions : Interactions, optional
        If given, negatives are drawn by popularity among these.
    seed, repeats
        See `make_tasks`.
    """
    indptr, items, dropped = histories(dataset, rows, repeats, before)
    # A history of only the target becomes empty: then there is no task with that many clicks.
    left = (np.diff(indptr) > 0) | (before == 0)
    if dropped.any():
        warnings.warn(left_out(dataset.name, dropped, left, "tasks: the user"), stacklevel=3)
    starts, lengths = indptr[:-1][left], np.diff(indptr)[left]
    rows, before, dropped = rows[left], before[left], dropped[left]
    targets = dataset.items[dataset.indptr[rows] + before]
    weights = np.ones(dataset.num_items)
    if interactions is not None:
        weights += interactions.counts
    candidates, position = among(dataset, rows, before, targets, num_candidates, weights, seed)
    indptr, items = latest(starts, lengths, items, crop)
    return TaskSet(dataset, rows, before, indptr, items, candidates, position, dropped)
