"""Base of the scoring recommenders: their data, and how their epochs are chosen.

No target is used here. A dataset's last items are cut off first (`known`); training cuts off one
more item per user for validation (`earlier`).
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from rpp_env.data import (
    Dataset,
    Interactions,
    TaskSet,
    UserSplit,
    make_tasks,
    training_interactions,
)
from rpp_env.errors import InvalidData, InvalidOption, InvalidTask
from rpp_env.metrics import ndcg
from rpp_env.prompting import Rankings
from rpp_env.recommenders.patience import Patience, Progress
from rpp_env.sentences.prompt import Prompt
from rpp_env.task import RankingTask

__all__ = [
    "Scorer",
    "ScoringRecommender",
    "Vectors",
    "chosen_matrix",
    "earlier",
    "keep_best",
    "known",
    "target_ranks",
    "validation_ndcg",
    "validation_tasks",
]

Array = NDArray[np.float32]
State = TypeVar("State")
_CANDIDATES, _USERS = 100, 2000
"""Validation ranks the held-out item among 99 others, for at most 2,000 users."""


class Scorer(ABC):
    """A fitted recommender that scores candidates for a user's whole history.

    Parameters
    ----------
    dataset : Dataset
        The dataset of the user and item rows.

    Attributes
    ----------
    validation : float
        NDCG@10 of the second-last items among 99 sampled others, for choosing options.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.validation = float("nan")

    @abstractmethod
    def score(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> Array:
        """(T, K) float32: scores of items, (T, K) rows, for users, (T,) rows; higher is better.

        A row's scores do not depend on the other rows.
        """

    def scores(self, tasks: TaskSet) -> Array:
        """(T, K) float32: the scores of every task's candidates, as they are shown.

        The history is the user's whole sequence without the target, even if the task keeps less.

        Raises
        ------
        InvalidData
            If the tasks are of other users or items than those of the fit.
        """
        ours, theirs = self.dataset, tasks.dataset
        if ours.user_tokens != theirs.user_tokens or ours.item_tokens != theirs.item_tokens:
            raise InvalidData(
                f"fitted on {ours.name} ({ours.num_users} users, {ours.num_items} items), but "
                f"the tasks are of {theirs.name} ({theirs.num_users} users, "
                f"{theirs.num_items} items); fit on the dataset of the tasks"
            )
        return self.score(tasks.users, tasks.candidates)


class Vectors(Scorer):
    """Scores are products of a user's and an item's vector.

    Parameters
    ----------
    dataset : Dataset
    users : (num_users, d) float32 array
    items : (num_items, d) float32 array
    """

    def __init__(self, dataset: Dataset, users: Array, items: Array) -> None:
        super().__init__(dataset)
        self.users, self.items = users, items

    def score(self, users: NDArray[np.int64], items: NDArray[np.int32]) -> Array:
        # Not a matrix product: its rounding would depend on the size of the batch.
        scores: Array = np.einsum("td,tkd->tk", self.users[users], self.items[items])
        return scores


class ScoringRecommender:
    """A scorer as a `Recommender`: it uses the prompt's user and candidates, not its sentences.

    Parameters
    ----------
    scorer : Scorer
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer
        self._users = {token: row for row, token in enumerate(scorer.dataset.user_tokens)}

    def rank(self, prompts: Sequence[Prompt]) -> Rankings:
        """Rank the candidates of every prompt by score; ties go to the one shown first.

        Raises
        ------
        InvalidTask
            For a user or a title that is not in the dataset.
        """
        if not prompts:
            return Rankings.of(())
        rows = [self._rows(prompt.task) for prompt in prompts]
        scores = np.stack([self.scorer.score(user, items)[0] for user, items in rows])
        order = np.argsort(-scores, axis=1, kind="stable")
        return Rankings(order, np.full(len(rows), order.shape[1]))

    def _rows(self, task: RankingTask) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        dataset = self.scorer.dataset
        if task.user not in self._users:
            raise InvalidTask(f"no user {task.user!r} in {dataset.name}, which this was fitted on")
        try:
            items = [dataset.title_index[title] for title in task.candidates]
        except KeyError as error:
            raise InvalidTask(
                f"user {task.user!r}: no title {error.args[0]!r} in {dataset.name}, which this "
                "was fitted on"
            ) from None
        return np.array([self._users[task.user]]), np.array([items], dtype=np.int32)


def known(dataset: Dataset) -> Interactions:
    """Return all users' histories without their targets; the i-th is user row i's."""
    none = np.zeros(0, dtype=np.int64)
    return training_interactions(dataset, UserSplit(np.arange(dataset.num_users), none, none))


def chosen_matrix(histories: Interactions) -> Any:
    """Make a sparse float32 matrix, users x items: 1 where a user chose an item, however often."""
    from scipy import sparse

    ones = np.ones(len(histories.items), dtype=np.float32)
    shape = (len(histories.indptr) - 1, histories.num_items)
    matrix = sparse.csr_matrix((ones, histories.items, histories.indptr), shape)
    matrix.sum_duplicates()
    matrix.data[:] = 1.0
    return matrix


def earlier(dataset: Dataset) -> Dataset:
    """Return the dataset before every user's last choice: its targets are the second-last items."""
    before = known(dataset)
    return replace(dataset, indptr=before.indptr, items=before.items, default_split=None)


def validation_tasks(dataset: Dataset, seed: int = 0) -> TaskSet:
    """Make tasks of up to 2,000 users of an `earlier` dataset, with up to 100 candidates each.

    Raises
    ------
    InvalidOption
        If no user has two items or more, or a user has interacted with the whole catalog.
    """
    users = np.flatnonzero(dataset.lengths >= 2)
    count = min(_CANDIDATES, dataset.num_items - int(dataset.lengths.max()) + 1)
    if not len(users) or count < 2:
        raise InvalidOption(
            f"{dataset.name} is too small to choose epochs on: some user needs three items or "
            f"more, and no user may have chosen all but one of the {dataset.num_items} items"
        )
    users = np.random.default_rng([seed, 0x7A1]).permutation(users)[:_USERS]
    return make_tasks(dataset, np.sort(users), num_candidates=count, seed=seed)


def target_ranks(scorer: Scorer, tasks: TaskSet) -> NDArray[np.int64]:
    """(T,) int64: the targets' ranks from 1; see `ranks_by`."""
    return ranks_by(scorer.scores(tasks), tasks)


def ranks_by(scores: Array, tasks: TaskSet) -> NDArray[np.int64]:
    """(T,) int64: the targets' ranks by (T, K) scores; ties go to the one shown first.

    They are counted, which takes a fraction of the time of sorting. NaN comes after every number.
    """
    own = np.take_along_axis(scores, tasks.position[:, None], axis=1)
    shown_before = np.arange(scores.shape[1]) < tasks.position[:, None]
    lost, own_lost = np.isnan(scores), np.isnan(own)
    ahead = (scores > own) | (own_lost & ~lost)
    level = (scores == own) | (own_lost & lost)
    ranks: NDArray[np.int64] = 1 + (ahead | (level & shown_before)).sum(axis=1)
    return ranks


def validation_ndcg(scorer: Scorer, tasks: TaskSet) -> float:
    """Return the mean NDCG@10 over the tasks."""
    return float(ndcg(target_ranks(scorer, tasks), 10).mean())


def keep_best(
    training: Iterable[State],
    judge: Callable[[State], float],
    stop: Patience,
    progress: Progress | None,
) -> tuple[State, float]:
    """Train epoch by epoch, and return the best result on validation, with its score.

    It is not fitted again on the validation items, so that the reported model is the chosen one.
    The second-last item of a history is therefore an input (SASRec) or unused (BPR-MF, LightGCN),
    but never a label.

    Parameters
    ----------
    training : iterable
        Each step trains for one epoch and yields a copy of the model.
    judge : callable
        Returns a model's validation score.
    stop : Patience
    progress : Progress, optional
    """
    began = time.perf_counter()
    states = zip(range(1, stop.epochs + 1), training, strict=False)
    best, kept, found = -np.inf, None, 0
    for epoch, state in states:
        value = judge(state)
        if progress is not None:
            seconds = time.perf_counter() - began
            progress({"epoch": epoch, "validation": value, "seconds": seconds})
        if value > best:
            best, kept, found = value, state, epoch
        elif epoch - found >= stop.patience:
            break
    assert kept is not None
    return kept, float(best)
