"""Diagnostics on tables with known answers."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rpp_env import RULES, InvalidOption, RPPEnv
from rpp_env.evaluation import diagnose as d
from rpp_env.models import echo
from rpp_env.prompting import Axis
from rpp_env.table import tabulate

RULE = RULES["RPP-v0"]
SHAPE = (7, 5, 9, 5)
AXES = (RULE.lengths.axis, Axis.of(0, 5), Axis.of(2, 9), Axis.of(3, 5))


def test_episode_scores_pay_for_the_way() -> None:
    rewards = np.zeros((1, *SHAPE), dtype=np.float32)
    rewards[0, 6] = 1.0
    scores = d.episode_scores(rewards, AXES, 5)
    assert scores[0, 6] == pytest.approx(0.8)  # the first step shows 8 items, not 20
    assert scores[0, 5].max() == 0.0
    rewards[0, 4] = 0.5
    assert d.episode_scores(rewards, AXES, 5)[0, 6] == pytest.approx(0.9)


def test_planning_beats_greedy_choices_where_it_should() -> None:
    rewards = np.zeros((1, *SHAPE), dtype=np.float32)
    rewards[0, 2] = 0.4
    rewards[0, 6] = 1.0  # two moves away; greed stays on level 2
    assert d._planned(rewards, rewards, AXES, 5, greedy=True)[0] == pytest.approx(0.4)
    assert d._planned(rewards, rewards, AXES, 5)[0] == pytest.approx(0.8)


def test_planning_equals_a_search_of_all_plans() -> None:
    rewards = np.random.default_rng(0).random((3, *SHAPE)).astype(np.float32)
    best = rewards.reshape(3, 7, -1).max(axis=2)
    totals = np.full((3,), -1.0)
    grid = np.array(np.meshgrid(*[range(5)] * 5)).reshape(5, -1)
    level = np.full(grid.shape[1], RULE.start)
    total = np.zeros((3, grid.shape[1]))
    for move in grid:
        level = RULE.lengths.next_level(level, move)
        total += best[:, level]
    totals = total.max(axis=1) / 5
    assert d._planned(rewards, rewards, AXES, 5) == pytest.approx(totals)


def test_random_scores_equal_a_simulation() -> None:
    rng = np.random.default_rng(0)
    rewards = rng.random((2, *SHAPE)).astype(np.float32)
    runs = 20_000
    level = np.full(runs, RULE.start)
    total = np.zeros((2, runs))
    for _ in range(5):
        level = RULE.lengths.next_level(level, rng.integers(5, size=runs))
        total += rewards[
            :,
            level,
            rng.integers(5, size=runs),
            rng.integers(9, size=runs),
            rng.integers(5, size=runs),
        ]
    assert d._random_scores(rewards, AXES, 5) == pytest.approx(total.mean(axis=1) / 5, abs=5e-3)


def test_an_additive_table_is_additive_and_has_no_traps() -> None:
    rng = np.random.default_rng(0)
    effects = [rng.random(n) for n in SHAPE]
    table = sum(e.reshape([-1 if a == i else 1 for a in range(4)]) for i, e in enumerate(effects))
    scores = np.asarray(table)[None].astype(np.float32)
    assert d._additive(scores) == pytest.approx(scores, abs=1e-5)
    assert d._additive_share(scores) == pytest.approx(1.0, abs=1e-4)
    assert d._stuck(scores, (1, 0, 2, 3)) == 0.0


def test_two_peaks_are_a_trap() -> None:
    scores = np.zeros((1, *SHAPE), dtype=np.float32)
    # Two agents must change together to come from the lower peak to the higher one.
    scores[0, :, 0, :4] = 0.5
    scores[0, :, 1:, 4:] = 1.0
    scores += np.float32(0)
    stuck = d._stuck(scores, (1, 0, 2, 3))
    # AGENTS begin with the role: from reasonings 0-3 it goes to role 0 and stays there.
    assert stuck == pytest.approx(4 / 9)
    assert d._additive_share(scores) < 0.9


def test_freezing_an_important_agent_costs_its_gain() -> None:
    # Half of the users prefer role 1, half role 2; the reasoning sentence has no effect.
    fitted = np.zeros((10, *SHAPE), dtype=np.float32)
    fitted[:5, :, 1] = 1.0
    fitted[5:, :, 2] = 1.0
    everyone = np.arange(10)
    flat = fitted.reshape(10, -1)
    frozen = d._frozen(fitted, fitted, fitted, 1)
    assert flat[everyone, frozen].mean() == pytest.approx(0.5)
    frozen = d._frozen(fitted, fitted, fitted, 2)
    assert flat[everyone, frozen].mean() == pytest.approx(1.0)


@pytest.fixture(scope="module")
def small() -> dict[str, RPPEnv]:
    options: dict[str, Any] = {"num_users": 360, "num_items": 100, "num_envs": 8}
    made = {}
    for split, users in (("train", 80), ("test", 40)):
        live = RPPEnv.make(split=split, max_users=users, **options)
        table = tabulate(live)
        made[split] = RPPEnv(
            live.tasks, book=live.book, embeddings=live.embeddings, table=table, num_envs=8
        )
    return made


@pytest.mark.slow
def test_a_diagnosis_of_movieworld(small: dict[str, RPPEnv]) -> None:
    found = d.diagnose(small["train"], small["test"], resamples=200)
    value = {name: line.value for name, line in found.lines.items()}
    assert value["random prompt"] < value["best fixed prompt"] < value["hindsight"]
    assert max(value["type reference"], value["observable reference"]) < value["hindsight"]
    assert all(e.low <= e.value <= e.high for e in found.lines.values())
    text = found.markdown()
    assert "| type reference |" in text
    assert "gap left with role_playing frozen" in text
    assert found.to_json()["about"]["users"] == 40


def test_a_reference_plays_its_cells(small: dict[str, RPPEnv]) -> None:
    train, test = small["train"], small["test"]
    reference = d.fit_reference(train, members=1)
    rows = np.arange(8)
    observations, _ = test.reset(seed=0, options={"users": rows})
    cells = reference.cells(observations)
    memory = None
    rewards = []
    for _ in range(test.max_cycles):
        actions, memory = reference.act(observations, memory=memory)
        assert (actions[:, [0, 2, 3]] == cells[:, 1:]).all()
        step = test.step(actions)
        observations = step.observations
        rewards.append(step.rewards)
    assert test.table is not None
    scores = d.episode_scores(test.table.rewards()[rows], test.space.axes, 5)
    wanted = scores[rows, cells[:, 0], cells[:, 1], cells[:, 2], cells[:, 3]]
    assert np.mean(rewards, axis=0) == pytest.approx(wanted)


def test_users_of_both_sides_are_refused(small: dict[str, RPPEnv]) -> None:
    with pytest.raises(InvalidOption, match="users are in both"):
        d.diagnose(small["train"], small["train"])


def test_a_table_is_needed() -> None:
    env = RPPEnv.make(model=echo(), num_users=60, num_items=100, num_envs=2)
    with pytest.raises(InvalidOption, match="rpp-env tabulate"):
        d.fit_reference(env)


@pytest.mark.slow
def test_a_gap_that_is_not_there_is_no_denominator() -> None:
    live = RPPEnv.make(model=echo(), num_users=300, num_items=100, num_envs=8, max_users=20)
    other = RPPEnv.make(
        model=echo(), num_users=300, num_items=100, num_envs=8, max_users=20, split="test"
    )
    envs = [
        RPPEnv(e.tasks, book=e.book, embeddings=e.embeddings, table=tabulate(e), num_envs=8)
        for e in (live, other)
    ]
    found = d.diagnose(*envs, resamples=100)
    assert found.agents["observable"]["gap left with role_playing frozen"] is None
    assert "no significant gap" in found.markdown()
    assert "NaN" not in json.dumps(found.to_json(), allow_nan=False)
