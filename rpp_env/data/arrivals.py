"""New users: warm and cold users, and tasks after none to a few of their clicks.

A recommender is trained on *warm* users and prompted for *cold* users. Prompting is learned on some
cold users and evaluated on others. Only the first clicks of a cold user count; each task has one of
them as its target, and the clicks before it as its history.

============  ========================================  ==================================
shots         targets                                   history
============  ========================================  ==================================
``"zero"``    the first click                           none
``"few"``     the second click to the tenth             the clicks before it
``"joint"``   both                                      the clicks before it, if any
a number k    the click after the first k               the first k clicks
============  ========================================  ==================================
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.candidates import MAX_HISTORY, TaskSet, check_candidates, user_rows
from rpp_env.data.clicks import tasks_before
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats, UserSplit, training_interactions
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import check_seed, unknown

__all__ = ["CLICKS", "ColdSplit", "Shots", "arrival_tasks", "split_arrivals"]

CLICKS = 10
"""Number of first clicks of a cold user that count; users with fewer are cold by clicks."""

By = Literal["random", "clicks"]
"""How cold users are chosen; see `split_arrivals`."""
Shots = Literal["zero", "few", "joint"]
"""Numbers of clicks after which tasks are made."""


@dataclass(frozen=True, eq=False)
class ColdSplit:
    """Warm users, and three parts of the cold ones; all disjoint.

    Attributes
    ----------
    warm : (n,) int64 array
        User rows that a recommender is trained on.
    cold : UserSplit
        Cold users: train (prompting is learned on them), validation (they choose epochs and
        options) and test (they evaluate it).
    """

    warm: NDArray[np.int64]
    cold: UserSplit

    def __post_init__(self) -> None:
        rows = np.sort(np.asarray(self.warm, dtype=np.int64))
        rows.setflags(write=False)
        object.__setattr__(self, "warm", rows)
        for name in ("train", "validation", "test"):
            shared = np.intersect1d(rows, self.cold.part(name))
            if len(shared):
                raise InvalidData(
                    f"user row {shared[0]} is warm, and cold in {name}: warm and cold users must "
                    "be disjoint"
                )

    def interactions(self, dataset: Dataset, repeats: Repeats = "drop") -> Interactions:
        """Return the warm users' histories without their last items: all that is fitted on."""
        none = np.zeros(0, dtype=np.int64)
        return training_interactions(dataset, UserSplit(self.warm, none, none), repeats=repeats)


def split_arrivals(
    dataset: Dataset,
    *,
    by: By = "random",
    cold: float = 0.2,
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2),
    seed: int = 0,
) -> ColdSplit:
    """Split users into warm and cold ones, and the cold ones into train, validation and test.

    Parameters
    ----------
    dataset : Dataset
    by : {"random", "clicks"}
        ``"random"``: a share of the users is cold, whatever they clicked later; for data in which
        all users have many clicks, such as ml-1m. ``"clicks"``: users with fewer than ten clicks.
    cold : float
        That share, between 0 and 1; ignored by clicks.
    fractions : (float, float, float)
        Shares of the cold users, adding up to 1. The paper has 0.8 and 0.2; our validation users
        are taken from the 0.8.
    seed : int
        Seed of the permutations; at least 0.

    Raises
    ------
    InvalidOption
        For shares out of range.
    InvalidData
        If there are no warm or no cold users.
    """
    check_seed(seed)
    if by not in get_args(By):
        raise InvalidOption(unknown("by", by, get_args(By)))
    if by == "random" and not 0 < cold < 1:
        raise InvalidOption(f"cold is a share of the users, between 0 and 1; got {cold}")
    shares: tuple[float, ...] = fractions
    if len(shares) != 3 or min(shares) < 0 or abs(sum(shares) - 1) > 1e-9:
        raise InvalidOption(
            f"fractions are three shares of at least 0 that add up to 1, not {fractions}"
        )
    users = np.flatnonzero(dataset.lengths)
    order = np.random.default_rng([seed, 0xC01D]).permutation(users)
    if by == "clicks":
        few = dataset.lengths[order] < CLICKS
        arrived, warm = order[few], order[~few]
    else:
        count = round(cold * len(order))
        arrived, warm = order[:count], order[count:]
    if not len(arrived) or not len(warm):
        raise InvalidData(
            f"{dataset.name}: {len(warm)} users are warm and {len(arrived)} cold by {by}; both are "
            "needed"
            + (f" (by clicks, cold users have fewer than {CLICKS})" if by == "clicks" else "")
        )
    first, second = (round(share * len(arrived)) for share in np.cumsum(fractions)[:2])
    return ColdSplit(warm, UserSplit(arrived[:first], arrived[first:second], arrived[second:]))


def arrival_tasks(
    dataset: Dataset,
    users: ArrayLike,
    shots: Shots | int = "joint",
    *,
    crop: int | None = None,
    num_candidates: int | None = 100,
    negatives: Literal["uniform", "popularity"] = "uniform",
    interactions: Interactions | None = None,
    seed: int = 0,
    repeats: Repeats = "drop",
) -> TaskSet:
    """Make tasks of users' first clicks, grouped by user; `TaskSet.draw` counts the clicks.

    Parameters
    ----------
    dataset : Dataset
    users : (n,) array of int
        User rows; users with too few clicks have no task.
    shots : {"zero", "few", "joint"} or int
        See the module's docstring; a number lies in 0 to 9.
    crop : int, optional
        Number of latest clicks that a history keeps, 0 to 9: the same targets with less history.
    num_candidates : int, optional
        K, the target included; None for all items, also those of the history.
    negatives : {"uniform", "popularity"}
        As for `make_tasks`: items that the user never clicks, also later.
    interactions : Interactions, optional
        Interactions that popularity is counted on: `ColdSplit.interactions`.
    seed : int
        Seed of the negatives and orders.
    repeats : {"drop", "keep", "refuse"}
        How a target that the user clicked before is treated; see `make_tasks`.

    Raises
    ------
    InvalidOption
        For unknown or contradictory options, and if a user has too few negatives.
    InvalidData
        If repeats are refused and there is one.
    """
    check_seed(seed)
    check_candidates(dataset, num_candidates, negatives)
    if shots in get_args(Shots):
        clicks = np.arange(shots == "few", 1 if shots == "zero" else CLICKS)
    elif shots in range(CLICKS):
        clicks = np.array([shots])
    else:
        raise InvalidOption(
            f"{unknown('shots', shots, get_args(Shots))}, or a number of clicks in 0..{CLICKS - 1}"
        )
    if crop is not None and not 0 <= crop < CLICKS:
        raise InvalidOption(f"crop lies in 0..{CLICKS - 1} clicks, not {crop}")
    if negatives not in ("uniform", "popularity"):
        raise InvalidOption(unknown("negatives", negatives, ("uniform", "popularity")))
    if (negatives == "popularity") != (interactions is not None):
        raise InvalidOption(
            "negatives='popularity' and interactions=split.interactions(dataset) belong together"
        )
    chosen = user_rows(dataset, users)
    rows = np.repeat(chosen, len(clicks))
    before = np.tile(clicks, len(chosen)).astype(np.int64)
    there = before < dataset.lengths[rows]
    rows, before = rows[there], before[there]
    return tasks_before(
        dataset,
        rows,
        before,
        crop=MAX_HISTORY if crop is None else crop,
        num_candidates=num_candidates,
        interactions=interactions,
        seed=seed,
        repeats=repeats,
    )
