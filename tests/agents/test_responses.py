"""The baselines that use responses, as methods of the harness."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_agents.experiments.methods import METHODS, method, options
from rpp_agents.experiments.players import Playing
from rpp_agents.experiments.problem import Problem, Users
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Fixed
from rpp_env.evaluation.feedback import fit_posterior, responses, simulate

SMALL: dict[str, Any] = {"num_users": 600, "num_items": 150}


def users(split: str, count: int, rules: str = "RPPFeedback-v0") -> Users:
    live = RPPEnv.make(split=split, rules=rules, max_users=count, num_envs=8, **SMALL)
    return Users(live.remade(recommender=None, table=rpp_env.tabulate(live), num_envs=8), live)


@pytest.fixture(scope="module")
def problem() -> Problem:
    test = users("test", 6)
    return Problem(users("train", 10), test, test)


def fitted(problem: Problem, name: str, budget: int = 10, **config: Any) -> Any:
    return method(name)(problem, seed=0, budget=budget, watch=lambda *_: None, **config)


def test_they_are_played_as_they_are_simulated_and_their_calls_are_counted(
    problem: Problem,
) -> None:
    before = problem.train.ledger.calls
    played = fitted(problem, "posterior").play(problem.test, 0)
    assert problem.train.ledger.calls - before == 10 * problem.train.cells
    shown, worth = responses(problem.test.env)
    expected = simulate(fit_posterior(problem.train.env, explore=1), shown, worth, 15)
    assert played.scores["score"] == pytest.approx(expected, abs=1e-6)
    assert played.cells is not None
    assert played.cells.shape == (6, 15)
    for name, config in (
        ("keep_best", {}),
        ("explore_commit", {}),
        ("posterior", {"explore": 3, "recall": False}),
        ("posterior", {"explore": 0}),
    ):
        scores = fitted(problem, name, **config).play(problem.test, 0).scores["score"]
        assert ((scores >= 0) & (scores <= 1)).all()


def test_their_options_are_those_of_a_plan() -> None:
    assert {"posterior", "keep_best", "explore_commit"} <= set(METHODS)
    assert options("posterior") == {"explore": 1, "recall": True, "whole": True}
    assert options("keep_best") == options("explore_commit") == {"whole": True}


@pytest.mark.parametrize("name", ["posterior", "keep_best", "explore_commit"])
def test_a_budget_pays_for_whole_users(problem: Problem, name: str) -> None:
    """The users that are not drawn are not read: with other answers the policy is the same."""
    train = problem.train.uncounted()
    budget = 4 * train.cells + 5
    player = fitted(replace(problem, train=train), name, budget, whole=False)
    assert train.ledger.calls == 4 * train.cells
    drawn = np.sort(np.random.default_rng(0).permutation(10)[:4])
    table = train.env.table
    assert table is not None
    others = np.setdiff1d(np.arange(10), drawn)
    orders = table.orders.copy()
    orders[others] = orders[others, ..., ::-1]
    changed = replace(table, orders=orders)
    env = train.env.remade(recommender=None, table=changed, num_envs=8)
    again = fitted(replace(problem, train=Users(env, train.live)), name, budget, whole=False)
    scores = [one.play(problem.test, 0).scores["score"] for one in (player, again)]
    np.testing.assert_array_equal(*scores)
    with pytest.raises(InvalidOption, match="the budget is 10: give a larger budget"):
        fitted(problem, name, whole=False)


def test_methods_of_responses_are_refused_without_feedback(problem: Problem) -> None:
    plain = Users(*(env.remade(rules="RPP-v0") for env in (problem.train.env, problem.train.live)))
    for name in ("posterior", "keep_best", "explore_commit"):
        with pytest.raises(InvalidOption, match="RPP-v0 shows no response here"):
            fitted(Problem(plain, plain, plain), name)
    assert np.isfinite(fitted(problem, "keep_best").play(problem.test, 0).scores["last"]).all()


def session(split: str, count: int, **options: Any) -> Users:
    live = RPPEnv.make(
        split=split, rules="RPPSession-v0", max_users=count, num_envs=8, **SMALL, **options
    )
    return Users(live, live)


def test_the_posterior_of_sessions_is_fitted_on_episodes_that_the_budget_pays_for() -> None:
    train, test = session("train", 6), session("test", 5)
    problem = Problem(train, test, test)
    player = fitted(problem, "step_posterior", 5 * 60 + 4, prompts=4)
    policy = player.policy
    # 30 prompts were tried with one user; 4 of them then by all 6 users.
    assert train.ledger.calls <= 300
    assert policy.worth.shape == (5, 6, 4)
    scores = player.play(test, 0).scores["score"]
    assert ((scores >= 0) & (scores <= 1)).all()
    # The tables hold what the environment gives for the fixed prompts of the list.
    fixed = Fixed.of(train.env.space, int(policy.cover[0]), 5)
    expected = Playing(fixed).play(train, 0).scores["score"]
    np.testing.assert_allclose(
        np.sort(policy.worth[:, :, 0].mean(axis=0)), np.sort(expected), atol=1e-6
    )
    # With one prompt it is that fixed prompt.
    alone = {name: getattr(policy, name)[..., :1] for name in ("cover", "shown", "worth")}
    np.testing.assert_array_equal(
        Playing(replace(policy, **alone)).play(test, 0).scores["score"],
        Playing(fixed).play(test, 0).scores["score"],
    )


def test_the_posterior_of_sessions_needs_responses_and_episodes() -> None:
    users = session("train", 4)
    with pytest.raises(InvalidOption, match="half of 10 episodes are too few"):
        fitted(Problem(users, users, users), "step_posterior", 50)
    silent = session("train", 4, feedback="none")
    with pytest.raises(InvalidOption, match="shows no response here"):
        fitted(Problem(silent, silent, silent), "step_posterior", 5000)
