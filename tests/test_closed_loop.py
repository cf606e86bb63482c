"""Policies of users' responses, on tables with known optima and on movieworld."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import search_fixed
from rpp_env.evaluation.diagnose import Reference, diagnose
from rpp_env.evaluation.feedback import (
    COVER,
    KeepBest,
    Posterior,
    StepPosterior,
    fit_explore_commit,
    fit_keep_best,
    fit_posterior,
    responses,
    simulate,
)
from rpp_env.metrics import ndcg
from rpp_env.prompting import Axis

SMALL: dict[str, Any] = {"num_users": 600, "num_items": 150}


@pytest.fixture(scope="module")
def tabulated() -> dict[str, RPPEnv]:
    made = {}
    for split, users in (("train", 24), ("test", 16)):
        live = RPPEnv.make(
            split=split, rules="RPPFeedback-v0", max_users=users, num_envs=16, **SMALL
        )
        made[split] = live.remade(recommender=None, table=rpp_env.tabulate(live), num_envs=16)
    return made


def two_types() -> tuple[Any, Any]:
    """Two types of users: a prompt fair for all, one that tells them apart, and one for each."""
    worth = np.array([[0.5, 0.0, 1.0, 0.0], [0.5, 0.2, 0.0, 1.0]], np.float32)
    return np.tile(worth, (20, 1)), (Axis.of(0, 4),)


def test_a_posterior_finds_the_type_and_exploring_pays_where_greed_sees_nothing() -> None:
    worth, axes = two_types()
    every = (axes, 0, np.arange(4))
    greedy = Posterior(*every, worth, worth, noise=0.1, explore=1)
    explores = Posterior(*every, worth, worth, noise=0.1, explore=2)
    forgets = Posterior(*every, worth, worth, noise=0.1, explore=2, recall=False)
    # Prompt 0 is played first and says nothing about the type; all other prompts pay 0.5 at best.
    assert simulate(greedy, worth, worth, 6) == pytest.approx([0.5] * 40)
    expected = np.tile([(0.5 + 0.0 + 4) / 6, (0.5 + 0.2 + 4) / 6], 20)
    assert simulate(explores, worth, worth, 6) == pytest.approx(expected, abs=1e-6)
    # The response to the best prompt says what the type is, so the last one is enough here.
    assert simulate(forgets, worth, worth, 6) == pytest.approx(expected, abs=1e-6)


def test_keep_the_best_stops_where_a_response_is_good_enough() -> None:
    worth, axes = two_types()
    keeps = KeepBest(axes, 0, np.array([0, 2, 3]), enough=0.9)
    assert simulate(keeps, worth, worth, 6) == pytest.approx(
        np.tile([(0.5 + 1 * 5) / 6, (0.5 + 0 + 1 * 4) / 6], 20)
    )
    never = KeepBest(axes, 0, np.array([0, 1]), enough=0.9)
    assert simulate(never, worth, worth, 6) == pytest.approx(
        np.tile([(0.5 * 5) / 6, (0.5 * 5 + 0.2) / 6], 20)
    )


def test_explore_then_commit_tries_the_whole_list_and_keeps_the_best_of_it() -> None:
    worth, axes = two_types()
    commits = KeepBest(axes, 0, np.array([0, 2, 3]), enough=np.inf)
    assert simulate(commits, worth, worth, 6) == pytest.approx(
        np.tile([(0.5 + 1 + 0 + 1 * 3) / 6, (0.5 + 0 + 1 + 1 * 3) / 6], 20)
    )


def test_a_posterior_by_steps_compares_responses_of_the_same_step() -> None:
    """The first response tells two types apart, the second nothing; the third step asks anew."""
    fair, own = [0.6, 0.9, 0.0], [0.4, 0.0, 0.9]
    worth = np.tile(np.array([fair, own], np.float32), (3, 20, 1))
    shown = worth.copy()
    shown[1] = 0.3
    every = ((Axis.of(0, 3),), 0, np.arange(3), shown, worth)
    recalls, forgets = (StepPosterior(*every, noise=0.05, recall=one) for one in (True, False))
    assert recalls.simulate(shown, worth) == pytest.approx((0.5 + 0.9 + 0.9) / 3)
    assert forgets.simulate(shown, worth) == pytest.approx((0.5 + 0.9 + 0.5) / 3)
    # Infinite noise: the best prompt of each step, whatever the responses.
    planned = StepPosterior(*every, noise=np.inf)
    assert planned.simulate(shown, worth) == pytest.approx(0.5)


def test_a_prompt_that_is_two_moves_away_is_reached_and_not_skipped() -> None:
    moves = np.clip(np.arange(5)[:, None] + np.array([-1, 0, 1]), 0, 4)
    axes = (Axis(0, moves, 0, np.array([1, 0, 2])),)
    keeps = KeepBest(axes, 0, np.array([0, 3, 1]), enough=0.9)
    memory, cells = keeps.begin(1), []
    for _ in range(7):
        _, memory = keeps.move(memory)
        cells.append(int(memory.cell[0]))
        memory = keeps.learn(memory, np.array([0.1 * (cells[-1] == 3)]))
    assert cells == [0, 1, 2, 3, 2, 1, 2]  # and back towards 3, the best one of the list


@pytest.mark.slow
def test_rewards_of_the_environment_equal_the_simulation(tabulated: dict[str, RPPEnv]) -> None:
    train, test = tabulated["train"], tabulated["test"]
    shown, worth = responses(test)
    for policy in (
        fit_posterior(train),
        fit_posterior(train, explore=1, recall=False),
        fit_keep_best(train),
        fit_explore_commit(train),
    ):
        report = rpp_env.evaluate(policy, test, baselines=("random",))
        played = ndcg(report.scores["policy"].ranks, 10).mean(axis=1)
        assert played == pytest.approx(simulate(policy, shown, worth, 15), abs=1e-6)


def test_the_list_begins_with_the_best_prompt(tabulated: dict[str, RPPEnv]) -> None:
    train = tabulated["train"]
    _, worth = responses(train)
    policy = fit_posterior(train)
    assert worth.mean(axis=0).argmax() == policy.cover[0]
    assert len(set(policy.cover.tolist())) == len(policy.cover) == COVER
    reached = [worth[:, policy.cover[: n + 1]].max(axis=1).mean() for n in range(COVER)]
    assert (np.diff(reached) >= 0).all()


def test_other_targets_change_nothing_but_by_the_responses(tabulated: dict[str, RPPEnv]) -> None:
    """The policies read one column of the observations."""
    policy = fit_posterior(tabulated["train"])
    seen = np.random.default_rng(0).random((5, 4, 188), np.float32)
    _, memory = policy.act(seen)
    other = seen + 1
    other[:, 0, policy.column] = seen[:, 0, policy.column]
    assert (policy.act(seen, memory=memory)[0] == policy.act(other, memory=memory)[0]).all()


def test_unsuitable_environments_are_refused(tabulated: dict[str, RPPEnv]) -> None:
    with pytest.raises(InvalidOption, match="fitted on a complete table"):
        fit_posterior(RPPEnv.make(rules="RPPFeedback-v0", max_users=3, **SMALL))
    train = tabulated["train"]
    silent = train.remade(rules="RPP-v0")
    with pytest.raises(InvalidOption, match="RPP-v0 shows no response here"):
        fit_keep_best(silent)


def test_a_diagnosis_tells_memory_from_exploration(tabulated: dict[str, RPPEnv]) -> None:
    train, test = tabulated["train"], tabulated["test"]
    cells = train.space.shape
    assert cells is not None

    def constant(seen: Any) -> Any:
        return np.zeros((len(seen), np.prod(cells)), np.float32)

    nobody = Reference(constant, train.space.axes, 15, np.zeros(1, np.int64))
    found = diagnose(train, test, reference=nobody, resamples=50)
    names = (
        "closed loop minus best kept prompt",
        "exploring minus greedy",
        "memory minus none",
    )
    assert [name for name in found.gaps if name in names] == [*names]
    assert "Responses pay" in found.markdown()
    shown, worth = responses(test)
    greedy = fit_posterior(train, explore=1)
    assert found.lines["posterior, greedy"].value == pytest.approx(
        simulate(greedy, shown, worth, 15).mean(), abs=1e-6
    )
    fixed, _ = search_fixed(train)
    report = rpp_env.evaluate(fixed, test, baselines=("random",))
    assert found.lines["best fixed prompt"].value == pytest.approx(
        report.lines["policy"]["ndcg@10"].value, abs=1e-6
    )
    parts = (env.remade(rules="RPP-v0") for env in (train, test))
    assert not set(names) & set(diagnose(*parts, reference=nobody, resamples=50).gaps)
