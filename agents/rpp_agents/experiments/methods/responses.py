"""Policies that use the user's responses: those of `rpp_env.evaluation.feedback`.

By default they are fitted on every answer about the train users, ignoring the budget, as
`supervised` is. With ``whole=False`` they are fitted on every answer about as many train users as
the budget pays for, drawn by the seed. `step_posterior` plays whole episodes, within the budget.
"""

from __future__ import annotations

from functools import partial
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.fixed import best_of_all
from rpp_agents.experiments.players import Playing
from rpp_agents.experiments.problem import Counted, Problem, Users
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Policy
from rpp_env.evaluation.feedback import (
    PROMPTS,
    fit_explore_commit,
    fit_keep_best,
    fit_posterior,
    fit_step_posterior,
)

__all__ = ["explore_commit", "keep_best", "posterior", "step_posterior"]


def posterior(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    explore: int = 1,
    recall: bool = True,
    whole: bool = True,
) -> Playing:
    """Play what is best in expectation over the train users who explain the responses so far.

    Parameters
    ----------
    explore : int
        Number of prompts that are tried first; 0: the best number on train users.
    recall : bool
        Whether all responses of the episode count, or only the last one.
    whole : bool
        Whether to fit on all train users, or on as many as the budget pays for.

    Raises
    ------
    InvalidOption
        Where the train environment replays no complete table, or shows no response; for a budget
        that pays for fewer than two users.
    """
    fit = partial(fit_posterior, explore=explore or None, recall=recall)
    return _fitted(problem.train, "posterior", fit, seed, None if whole else budget)


def keep_best(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    whole: bool = True,
) -> Playing:
    """Try the prompts of a list until a response is good enough, then keep that one.

    Options and errors are those of `posterior`.
    """
    return _fitted(problem.train, "keep_best", fit_keep_best, seed, None if whole else budget)


def explore_commit(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    whole: bool = True,
) -> Playing:
    """Try all prompts of a short list, then keep the one with the best response.

    Options and errors are those of `posterior`.
    """
    name = "explore_commit"
    return _fitted(problem.train, name, fit_explore_commit, seed, None if whole else budget)


def step_posterior(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    prompts: int = PROMPTS,
    recall: bool = True,
) -> Playing:
    """Play as `posterior` does where each step asks for another item; it is fitted on episodes.

    Parameters
    ----------
    prompts : int
        Number of prompts among which it looks for those that it plays.
    recall : bool
        Whether all responses of the episode count, or only the last one.

    Raises
    ------
    InvalidOption
        Where no response is shown, for a budget below two episodes for each prompt, twice, and for
        infinitely many prompts, or too many.
    """
    users = problem.train
    users.finite("step_posterior", episodes=True)
    env: Any = Counted(users.environment(seed=seed), users)
    episodes = budget // env.max_cycles
    policy = fit_step_posterior(env, episodes=episodes, prompts=prompts, recall=recall, seed=seed)
    return Playing(policy)


class _Fit(Protocol):
    def __call__(self, env: RPPEnv, *, rows: NDArray[np.int64], seed: int) -> Policy: ...


def _fitted(users: Users, name: str, fit: _Fit, seed: int, budget: int | None) -> Playing:
    """Fit on all answers about the users that a budget pays for, None: about all."""
    users.finite(name)
    rows = users.rows
    if budget is not None:
        if (count := budget // users.cells) < 2:
            raise InvalidOption(
                f"{name} is fitted on all {users.cells:,} answers about each of at least 2 users, "
                f"and the budget is {budget:,}: give a larger budget, or whole = true"
            )
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:count])
    policy = fit(users.env, rows=rows, seed=seed)
    best_of_all(users, rows)  # the table was paid for by asking every cell of these users
    return Playing(policy)
