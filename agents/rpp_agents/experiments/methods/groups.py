"""Prompts for groups of users, and the policy of a model fitted on every answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.fixed import best_of_all, search
from rpp_agents.experiments.players import Asking, asking_best
from rpp_agents.experiments.problem import Problem, Users
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.diagnose import fit_reference

__all__ = ["groups", "supervised"]

Ints = NDArray[np.int64]


def groups(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    groups: int = 4,
) -> Asking:
    """Search one prompt for each group of similar users by successive halving.

    Groups are k-means clusters of the train users' first observations, scaled to deviation 1. A
    group spends a share of the budget by its size. A new user gets the prompt of the nearest group.

    Parameters
    ----------
    groups : int
        Clusters; fewer where there are fewer train users.

    Raises
    ------
    InvalidOption
        For fewer than one, or a budget that leaves a group without a call.
    """
    from sklearn.cluster import KMeans
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    users = problem.train
    users.finite("groups")
    if groups < 1:
        raise InvalidOption(f"groups={groups}: give 1 or more")
    means = KMeans(min(groups, len(users)), n_init=10, random_state=seed)
    nearest = make_pipeline(StandardScaler(), means)
    member = nearest.fit_predict(users.observations)
    sizes = np.bincount(member)
    shares = budget * sizes // len(users)
    if shares.min() < 1:
        raise InvalidOption(f"{budget} calls are too few for {len(sizes)} groups: take fewer")
    # Until its turn comes, a group gets what the largest one was found to like.
    order = np.argsort(-sizes, kind="stable")
    cells = np.zeros(len(sizes), np.int64)
    before = users.ledger.calls
    for i, group in enumerate(order.tolist()):
        rows = np.flatnonzero(member == group)
        cells[order[i:] if i == 0 else group] = search(users, rows, seed, int(shares[group]))
        watch(users.ledger.calls - before, _nearest(nearest, cells.copy()))
    return _nearest(nearest, cells)


def _nearest(model: Any, cells: Ints) -> Asking:
    return Asking(lambda users, _: cells[model.predict(users.observations)][:, None])


def supervised(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    components: int = 16,
    members: int = 8,
    portfolio: int = 20,
    calls: int = 1,
) -> Asking:
    """Play each user's best prompt by a model fitted on every answer, ignoring the budget.

    The model is the observable reference (`rpp_env.evaluation.diagnose.fit_reference`), from the
    first observation to the rewards of all cells. Asked directly, a user gets that cell of the
    portfolio whose predicted reward is best; the portfolio holds the cells that this puts first
    most often for train users, and is not `Reference.portfolio`, which is about walks.

    Parameters
    ----------
    components, members : int
        As `fit_reference` takes them.
    portfolio : int
        Cells that it may ask.
    calls : int
        How many of them it asks about a user, the best first; the answers are merged.

    Raises
    ------
    InvalidOption
        Where the train environment replays no complete table, or there are fewer than 11 users.
    """
    users = problem.train
    users.finite("supervised")
    reference = fit_reference(users.env, components=components, members=members, seed=seed)
    best_of_all(users)  # the table was paid for by asking every cell of everybody

    def predict(users: Users) -> NDArray[np.float32]:
        seen = users.observations[:, None]
        return np.asarray(reference.rewards(seen).reshape(len(users), -1), np.float32)

    often = np.bincount(predict(users).argmax(axis=1), minlength=users.cells)
    kept = often.argsort(kind="stable")[::-1][:portfolio]
    last = np.ones(users.cells, np.float32)
    last[kept] = 0.0

    def values(users: Users) -> NDArray[np.float32]:
        return predict(users) - 100 * last  # rewards are between 0 and 1

    return asking_best(values, min(calls, portfolio))
