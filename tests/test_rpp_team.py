"""The prompts of RPPBandit-v0 chosen by 2, 4, 8 or 16 agents: the same prompts for any team."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from pettingzoo.test import parallel_api_test

import rpp_env
from rpp_env import RPPEnv, tabulate
from rpp_env.errors import InvalidOption
from rpp_env.evaluation.baselines import Fixed
from rpp_env.rpp_team import TeamPrompts
from rpp_env.rules import RULES, find_system
from rpp_env.sentences.space import SentencePrompts
from rpp_env.testing import check_space

RULES_NAME = "rpp_env.rpp_team:RPP_TEAM"
SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100, "max_users": 4, "num_envs": 4}
SIZES = (2, 4, 8, 16)


def team(agents: int, **options: Any) -> RPPEnv:
    return RPPEnv.make(rules=RULES_NAME, agents=agents, **SMALL | options)


@pytest.fixture(scope="module")
def own() -> RPPEnv:
    return RPPEnv.make(rules="RPPBandit-v0", **SMALL)


@pytest.fixture(scope="module")
def best(own: RPPEnv) -> Any:
    return tabulate(own).rewards().reshape(4, -1).max(axis=1)


@pytest.mark.parametrize("agents", SIZES)
def test_the_best_prompt_of_each_user_is_that_of_the_four_and_is_reached(
    agents: int, own: RPPEnv, best: Any
) -> None:
    env = team(agents)
    assert env.agents == env.space.agents
    assert len(env.agents) == agents
    assert env.tasks.digest == own.tasks.digest
    table = tabulate(env)
    rewards = table.rewards().reshape(4, -1)
    np.testing.assert_array_equal(rewards.max(axis=1), best)
    for user in range(4):
        plan = Fixed.of(env.space, int(rewards[user].argmax()), 1).plan
        env.reset(options={"users": np.array([user])})
        assert env.step(plan).rewards[0] == pytest.approx(best[user])


@pytest.mark.parametrize("agents", SIZES)
def test_every_prompt_is_chosen_by_some_code_and_only_equal_ones_share_it(
    agents: int, own: RPPEnv
) -> None:
    env = team(agents)
    assert env.space.shape is not None
    codes = np.arange(math.prod(env.space.shape))
    rows = np.zeros(len(codes), np.int64)
    alike = env.space.alike(codes, rows)
    prompts = own.space.alike(np.arange(math.prod(own.space.shape or ())), rows[:1])
    assert len(np.unique(alike)) == len(np.unique(prompts))
    rng = np.random.default_rng(0)
    for one in rng.choice(codes, 8):
        pair = np.array([one, alike[one]])
        state = env.space.at(pair, rows[:2])
        np.testing.assert_array_equal(env.space.cell(state), pair)
        assert len(np.unique(env.space.keys(state), axis=0)) == 1


def test_four_agents_are_those_of_the_bandit_rules(own: RPPEnv) -> None:
    env = team(4)
    assert env.agents == own.agents
    actions = np.array([[1, 2, 3, 4], [0, 4, 8, 0], [2, 2, 2, 2], [4, 0, 1, 3]])
    steps = []
    for one in (env, own):
        one.reset(seed=0)
        steps.append(one.step(actions))
    np.testing.assert_array_equal(steps[0].rewards, steps[1].rewards)
    np.testing.assert_array_equal(steps[0].observations, steps[1].observations)


@pytest.mark.slow
def test_the_space_passes_the_suite() -> None:
    def made(tasks: Any) -> TeamPrompts:
        env = RPPEnv.make(rules="RPPBandit-v0", num_users=60, num_items=100, max_users=1)
        assert isinstance(env.space, SentencePrompts)
        book, history = env.space.book, env.space.history
        return TeamPrompts(SentencePrompts(book, history, tasks, env.space.encoder), 8)

    model = RPPEnv.make(rules="RPPBandit-v0", num_users=400, num_items=100, max_users=1).recommender
    assert model is not None
    check_space(made, model, "movieworld", num_users=400, num_items=100)


@pytest.mark.parametrize("agents", [2, 16])
def test_the_faces_have_a_team_of_that_size(agents: int) -> None:
    options = {**SMALL, "agents": agents, "rules": RULES_NAME}
    del options["num_envs"]
    env = rpp_env.parallel_env(**options)
    assert len(env.possible_agents) == agents
    parallel_api_test(env, num_cycles=6)
    last = env.possible_agents[-1]
    private = rpp_env.parallel_env(**options, observe="private")
    shown = [np.count_nonzero(one.reset(seed=0)[0][last]) for one in (private, env)]
    assert shown[0] < shown[1]


def test_rules_that_move_and_uneven_teams_are_refused(own: RPPEnv) -> None:
    moving = RPPEnv.make(rules="RPP-v0", **SMALL).space
    assert isinstance(moving, SentencePrompts)
    with pytest.raises(InvalidOption, match="such as RPPBandit-v0"):
        TeamPrompts(moving, 8)
    assert isinstance(own.space, SentencePrompts)
    with pytest.raises(InvalidOption, match="4 parts are not shared out evenly among 3 agents"):
        TeamPrompts(own.space, 3)
    with pytest.raises(InvalidOption, match="agents"):
        team(3)


def test_its_episode_is_that_of_the_bandit_rules() -> None:
    episode = find_system(RULES_NAME).episode
    assert episode is not None
    assert (episode.id, episode.max_cycles) == ("RPPTeam-v0", RULES["RPPBandit-v0"].max_cycles)
