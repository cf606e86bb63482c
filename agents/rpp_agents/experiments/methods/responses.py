"""Policies that use the user's responses: those of `rpp_env.evaluation.feedback`.

They are fitted on every answer about the train users, ignoring the budget, as `supervised` is.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.fixed import best_of_all
from rpp_agents.experiments.players import Playing
from rpp_agents.experiments.problem import Problem, Users
from rpp_env import RPPEnv
from rpp_env.evaluation.baselines import Policy
from rpp_env.evaluation.feedback import fit_keep_best, fit_posterior

__all__ = ["keep_best", "posterior"]


def posterior(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    explore: int | None = 1,
    recall: bool = True,
) -> Playing:
    """Play what is best in expectation over the train users who explain the responses so far.

    Parameters
    ----------
    explore : int, optional
        Number of prompts that are tried first; None: the best number on train users.
    recall : bool
        Whether all responses of the episode count, or only the last one.

    Raises
    ------
    InvalidOption
        Where the train environment replays no complete table, or shows no response.
    """
    fit = partial(fit_posterior, explore=explore, recall=recall, seed=seed)
    return _fitted(problem.train, "posterior", fit)


def keep_best(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
) -> Playing:
    """Try the prompts of a list until a response is good enough, then keep that one.

    Raises
    ------
    InvalidOption
        Where the train environment replays no complete table, or shows no response.
    """
    return _fitted(problem.train, "keep_best", partial(fit_keep_best, seed=seed))


def _fitted(users: Users, name: str, fit: Callable[[RPPEnv], Policy]) -> Playing:
    users.finite(name)
    policy = fit(users.env)
    best_of_all(users)  # the table was paid for by asking every cell of everybody
    return Playing(policy)
