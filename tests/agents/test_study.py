"""The study: calls, merged orders, and a complete study that is killed and resumed."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_agents.cli import main
from rpp_agents.experiments import run as work
from rpp_agents.experiments import show
from rpp_agents.experiments.jobs import unfinished
from rpp_agents.experiments.methods import METHODS, VERSIONS, method, options
from rpp_agents.experiments.methods.fixed import best_of_all
from rpp_agents.experiments.methods.sentences import MANUAL, items
from rpp_agents.experiments.methods.sentences.alone import OnlyAgent
from rpp_agents.experiments.plan import PRESETS, Redrawn, Setting, Study
from rpp_agents.experiments.players import Asking, Played, Playing, Unasked, asking_best, borda
from rpp_agents.experiments.problem import Counted, Problem, Users, tokens_of
from rpp_agents.experiments.report import write_report
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run import make_tables, run_all
from rpp_agents.experiments.run_files import write_run
from rpp_agents.experiments.statistics import holm
from rpp_agents.experiments.tables import verdict
from rpp_agents.recommenders import BPRConfig
from rpp_env.episode import Response
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.evaluation.baselines import Fixed, Random
from rpp_env.intervals import Estimate
from rpp_env.metrics import ndcg
from rpp_env.rules import RULES
from rpp_env.sentences import AGENTS, SentenceCatalog
from rpp_env.sim.embedded import EmbeddedModel

WORLD = {"dataset": "movieworld", "data_seed": 41, "num_users": 400, "num_items": 100}
WORLD |= {"fractions": (0.5, 0.2, 0.3)}


def users(split: str, count: int) -> Users:
    live = rpp_env.RPPEnv.make(split=split, max_users=count, **WORLD)
    table = rpp_env.tabulate(live)
    return Users(rpp_env.RPPEnv.make(model=table, split=split, max_users=count, **WORLD), live)


@pytest.fixture(scope="module")
def whole() -> Problem:
    return Problem(users("train", 20), users("validation", 6), users("test", 12))


@pytest.fixture
def problem(whole: Problem) -> Problem:
    return Problem(whole.train.uncounted(), whole.validation.uncounted(), whole.test.uncounted())


def fit(problem: Problem, name: str, budget: int = 2000, seed: int = 0, **config: Any) -> Any:
    return method(name)(problem, seed=seed, budget=budget, watch=lambda *_: None, **config)


# ---- asking and counting ----


@pytest.mark.slow
def test_a_table_and_the_model_answer_alike(problem: Problem) -> None:
    asked = problem.train
    alone = Users(asked.live, asked.live)
    rng = np.random.default_rng(0)
    rows, cells = rng.integers(len(asked), size=200), rng.integers(asked.cells, size=200)
    left, right = asked.ask(rows, cells), alone.ask(rows, cells)
    for name in ("order", "named"):
        np.testing.assert_array_equal(getattr(left.rankings, name), getattr(right.rankings, name))
    np.testing.assert_array_equal(left.rank, right.rank)
    np.testing.assert_array_equal(tokens_of(left), tokens_of(right))
    for name in ("calls", "unique", "tokens"):
        assert getattr(asked.ledger, name) == getattr(alone.ledger, name)


def test_a_cell_is_the_environments_prompt(problem: Problem) -> None:
    """A fixed prompt that needs no walking: the same ranks by asking and by playing."""
    test = problem.test
    rules = test.env.rules
    plan = Fixed.prompt(rules, level=rules.start, role=2, reasoning=4, output=1)
    played = Playing(plan).play(test, 0)
    cell = test.cell(rules.start, 2, 4, 1)
    asked = test.ask(np.arange(len(test)), np.full(len(test), cell))
    np.testing.assert_array_equal(played.ranks, np.tile(asked.rank[:, None], (1, 5)))
    np.testing.assert_array_equal(played.orders[:, 3], asked.rankings.order)
    np.testing.assert_array_equal(played.tokens[:, 0], tokens_of(asked))


def test_calls_are_counted_and_repeats_are_not_unique(problem: Problem) -> None:
    train = problem.train
    rows = np.arange(10)
    first = train.ask(rows, np.full(10, 7))
    train.ask(rows, np.full(10, 7))
    assert (train.ledger.calls, train.ledger.unique) == (20, 10)
    assert train.ledger.tokens == 2 * tokens_of(first).sum()
    # A short history is shown whole on several rungs: one prompt.
    short = int(train.env.tasks.history_lengths.argmin())
    length = int(train.env.tasks.history_lengths[short])
    levels = [i for i, n in enumerate(train.env.rules.rungs) if n >= length]
    before = train.ledger.unique
    cells = np.array([train.cell(level, 1, 0, 0) for level in levels])
    train.ask(np.full(len(cells), short), cells)
    assert train.ledger.unique == before + (1 if levels else 0)


def test_rankings_of_reordered_candidates_are_returned_in_the_tasks_order(problem: Problem) -> None:
    test = problem.test
    rows, cells = np.arange(len(test)), np.full(len(test), 30)
    plain = test.ask(rows, cells)
    rng = np.random.default_rng(0)
    orders = rng.permuted(np.tile(np.arange(20), (len(rows), 1)), axis=1)
    other = test.ask(rows, cells, orders=orders)
    # The embedded model looks at titles, not places: what it says stays the same but for ties.
    assert (plain.rankings.order[:, 0] == other.rankings.order[:, 0]).mean() > 0.9
    position = test.env.tasks.position
    for row, order, rank in zip(rows, other.rankings.order, other.rank, strict=True):
        assert rank == 0 or order[rank - 1] == position[row]


def test_playing_is_counted_as_asking_is(problem: Problem) -> None:
    train = problem.train
    env = Counted(train.environment(num_envs=len(train)), train)
    env.reset(seed=0, options={"users": np.arange(len(train))})
    env.step(np.tile([1, 2, 3, 0], (len(train), 1)))
    assert (train.ledger.calls, train.ledger.unique) == (len(train), len(train))
    cell = train.cell(train.env.rules.start, 1, 3, 0)
    asked = train.ask(np.arange(len(train)), np.full(len(train), cell))
    assert train.ledger.unique == len(train)
    assert train.ledger.tokens == 2 * tokens_of(asked).sum()


def test_tasks_must_agree(problem: Problem) -> None:
    with pytest.raises(InvalidOption, match="same tasks"):
        Users(problem.train.env, problem.test.live)


# ---- merging ----


def random_orders(rng: np.random.Generator, count: int, calls: int, K: int) -> Any:
    return rng.permuted(np.tile(np.arange(K), (count, calls, 1)), axis=2)


def ranks_of(orders: Any, target: Any, named: Any) -> Any:
    place = (orders == target[:, None, None]).argmax(axis=2)
    return np.where(place < named, place + 1, 0)


def test_borda_equals_its_definition() -> None:
    rng = np.random.default_rng(0)
    orders, target = random_orders(rng, 40, 3, 6), rng.integers(6, size=40)
    named = rng.integers(0, 7, size=(40, 3))
    ranks = ranks_of(orders, target, named)
    found = borda(orders, named, ranks)
    for i in range(40):
        points = np.zeros(6)
        for order, count in zip(orders[i], named[i], strict=True):
            for place, candidate in enumerate(order[:count]):
                points[candidate] += 6 - place
        first = {c: place for place, c in enumerate(orders[i, 0])}
        merged = sorted(range(6), key=lambda c: (-points[c], first[c]))
        expected = merged.index(target[i]) + 1 if ranks[i].any() else 0
        assert found[i] == expected


def test_one_order_merged_is_itself() -> None:
    rng = np.random.default_rng(1)
    orders, target = random_orders(rng, 30, 1, 8), rng.integers(8, size=30)
    named = np.full((30, 1), 8)
    ranks = ranks_of(orders, target, named)
    np.testing.assert_array_equal(borda(orders, named, ranks), ranks[:, 0])
    tripled = np.repeat(orders, 3, axis=1)
    same = borda(tripled, np.full((30, 3), 8), np.repeat(ranks, 3, axis=1))
    np.testing.assert_array_equal(same, ranks[:, 0])


def test_the_best_cells_are_played_in_order(problem: Problem) -> None:
    test = problem.test

    def rewards(users: Users) -> Any:
        return users.rewards

    best = asking_best(rewards).choose(test, np.random.default_rng(0))
    assert (best[:, 0] == test.rewards.argmax(axis=1)).all()
    five = asking_best(rewards, 5)
    cells = five.choose(test, np.random.default_rng(0))
    assert (cells[:, :1] == best).all()
    values = np.take_along_axis(test.rewards, cells, axis=1)
    assert (np.diff(values) <= 0).all()
    assert (values[:, -1] == np.sort(test.rewards, axis=1)[:, -5]).all()
    played = five.play(test, 0)
    np.testing.assert_array_equal(played.scores["score"], played.scores["merged"])
    assert not asking_best(rewards).play(test, 0).merge
    with pytest.raises(InvalidOption, match="calls=0"):
        asking_best(rewards, 0)


def test_scores_are_means_or_merged_and_never_the_best() -> None:
    orders = np.array([[[0, 1, 2], [1, 0, 2]]], np.uint8)
    ranks = np.array([[1, 2]])
    calls = [
        Response(rpp_env.Rankings(orders[:, i], np.array([3])), ranks[:, i], ndcg(ranks[:, i]))
        for i in range(2)
    ]
    played = Played(calls, np.zeros((1, 2), np.int64))
    assert played.scores["score"][0] == pytest.approx(ndcg(ranks).mean())
    assert played.scores["first"][0] == 1.0
    assert played.scores["last"][0] == pytest.approx(1 / np.log2(3))
    merged = Played(calls, played.cells, merge=True)
    assert merged.scores["score"][0] == merged.scores["merged"][0] == 1.0  # a tie: the first order


# ---- methods ----


def test_oracle_echo_and_silence() -> None:
    """Reward code, tested as everywhere: an oracle scores 1, an echo chance, a silent model 0."""

    class Scripted:
        def __init__(self, said: str) -> None:
            self.said = said

        def rank(self, prompts: Any) -> list[rpp_env.Ranking]:
            found = []
            for prompt in prompts:
                K, at = len(prompt.task.candidates), prompt.task.position
                order = list(range(K))
                if self.said == "oracle":
                    order = [at, *(i for i in order if i != at)]
                found.append(rpp_env.Ranking(tuple(order), 0 if self.said == "silent" else K))
            return found

    for said, low, high in (("oracle", 1, 1), ("echo", 0.12, 0.34), ("silent", 0, 0)):
        env = rpp_env.RPPEnv.make(model=Scripted(said), split="test", max_users=100, **WORLD)
        scripted = Users(env, env)
        for calls, reorder in ((1, False), (5, True)):
            player = Asking(
                lambda users, _, calls=calls: np.zeros((len(users), calls), int),
                reorder=reorder,
                merge=True,
            )
            score = player.play(scripted, 0).scores["score"].mean()
            assert low <= score <= high, (said, calls)


def test_the_manual_prompt_is_the_configured_one(problem: Problem) -> None:
    player = fit(problem, "manual")
    played = player.play(problem.test, 0)
    prompts = problem.test.prompts(problem.test.rows, played.cells[:, 0])
    lengths = problem.test.env.tasks.history_lengths
    book = problem.test.env.book
    for prompt, length in zip(prompts, lengths, strict=True):
        assert prompt.shown == min(length, MANUAL["shown"])
        assert prompt.choice.role == book.role_playing[MANUAL["role"]] == ""
        assert prompt.choice.reasoning == book.reasoning_guidance[MANUAL["reasoning"]]
        assert prompt.choice.output == book.output_format[MANUAL["output"]].text
    assert problem.train.ledger.calls == 0


def test_the_best_fixed_prompt_is_the_best(problem: Problem) -> None:
    means = problem.train.rewards.mean(axis=0)
    cell = best_of_all(problem.train)
    assert means[cell] == means.max()
    assert problem.train.ledger.calls == len(problem.train) * problem.train.cells


def test_enumerate_keeps_its_budget_and_finds_something_good(problem: Problem) -> None:
    calls: list[int] = []
    player = method("enumerate")(
        problem, seed=0, budget=9000, watch=lambda asked, _: calls.append(asked)
    )
    assert problem.train.ledger.calls <= 9000
    assert all(a <= b for a, b in pairwise(calls))
    cell = int(player.choose(problem.test, np.random.default_rng(0))[0, 0])
    means = problem.train.rewards.mean(axis=0)
    assert (means > means[cell]).mean() < 0.1
    fit(problem, "enumerate", budget=300)  # fewer calls than prompts: some are never tried


def test_merging_several_prompts_is_chosen_on_train_users(problem: Problem) -> None:
    player = fit(problem, "merged_best")
    chosen = player.choose(problem.test, np.random.default_rng(0))
    assert (chosen == chosen[0]).all()
    assert chosen.shape == (len(problem.test), 5)
    means = problem.train.rewards.mean(axis=0)
    assert means[chosen[0, 0]] == means.max()
    on_train = player.play(problem.train, 0).scores["score"].mean()
    assert on_train >= means.max() - 1e-9


def test_merged_random_is_seeded(problem: Problem) -> None:
    player = fit(problem, "merged_random")
    one, two, three = (player.play(problem.test, seed).ranks for seed in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one != three).any()


@pytest.mark.parametrize("agent", AGENTS)
def test_only_one_agent_chooses(problem: Problem, agent: str) -> None:
    train = problem.train
    env = OnlyAgent(train.environment(num_envs=len(train)), agent)
    index = AGENTS.index(agent)
    assert env.nvec.tolist() == [train.env.nvec[index]]
    seen, _ = env.reset(seed=0, options={"users": np.arange(len(train))})
    assert seen.shape == (len(train), 1, env.observation_width)
    rng = Random(env.action_spaces, seed=0)
    shown = []
    for _ in range(env.max_cycles):
        actions, _ = rng.act(seen)
        step = env.step(actions)
        seen = step.observations
        joint = step.actions
        np.testing.assert_array_equal(joint[:, index], actions[:, 0])
        for part, column in (("role", 0), ("reasoning", 2), ("output", 3)):
            if column != index:
                assert (joint[:, column] == MANUAL[part]).all()
        shown.append(step.infos["shown"])
    if agent != "history_records":
        lengths = train.env.tasks.history_lengths
        np.testing.assert_array_equal(shown[-1], np.minimum(lengths, MANUAL["shown"]))


def test_rpp_plus_rewrites_and_asks_the_model(problem: Problem) -> None:
    player = fit(problem, "rpp", budget=400, rewrite="embedded", num_envs=16)
    assert problem.train.live.calls["prompts"] == 0  # an environment of its own
    assert problem.train.ledger.calls >= 400
    played = player.play(problem.test, 0)
    assert played.ranks.shape == (len(problem.test), 5)
    assert problem.test.ledger.calls == 5 * len(problem.test)


def test_a_prompt_that_shows_a_whole_history_is_asked_once(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = problem.train
    lengths = train.env.tasks.history_lengths.copy()
    short = 3
    lengths[short] = 6  # as if this history were short
    monkeypatch.setattr(train.env.space, "_lengths", lengths)
    unasked = Unasked(train)
    values = np.random.default_rng(0).random((1, train.cells))
    levels = 5  # 1, 2, 3, 5, and all six
    rows = np.array([short])
    asked = [int(unasked.best(rows, values)[0]) for _ in range(levels * train.cells // 7)]
    keys = train.keys(np.full(len(asked), short), np.array(asked))
    assert len(set(keys.tolist())) == len(asked)  # every prompt, and each once
    # Several calls are different prompts as well.
    five = asking_best(lambda users: np.tile(values, (len(users), 1)), 5)
    cells = five.choose(train, np.random.default_rng(0))
    for row in range(len(train)):
        assert len(set(train.keys(np.full(5, row), cells[row]).tolist())) == 5


def test_a_trainer_learns_and_is_counted(problem: Problem) -> None:
    points: list[tuple[int, float]] = []

    def watch(calls: int, player: Any) -> None:
        points.append((calls, player.play(problem.train.uncounted(), 0).scores["score"].mean()))

    method("rpp")(
        problem, seed=0, budget=6000, watch=watch, num_envs=20, options={"learning_rate": 8e-3}
    )
    assert problem.train.ledger.calls == points[-1][0] >= 6000
    random = fit(problem, "random").play(problem.train.uncounted(), 0).scores["score"].mean()
    assert points[-1][1] > random + 0.05  # on the users that it was trained on
    assert problem.test.ledger.calls == problem.validation.ledger.calls == 0


@pytest.mark.parametrize("name", METHODS)
def test_every_method_has_one_signature(name: str) -> None:
    assert callable(method(name))
    assert {"seed", "budget", "watch"}.isdisjoint(options(name))


def test_agents_observe_privately_where_a_study_says_so(problem: Problem) -> None:
    for observe, readers in (("shared", (0, 1, 2, 3)), ("private", (0,))):
        player = fit(problem, "rpp", budget=80, num_envs=8, observe=observe)
        assert player.env(problem.test).observer.readers("user") == readers


def test_mistakes_of_a_trainer_get_a_sentence(problem: Problem) -> None:
    with pytest.raises(InvalidOption, match="trainer 'mapo' is not known"):
        fit(problem, "rpp", trainer="mapo")
    with pytest.raises(InvalidOption, match="agent 'role' is not known"):
        fit(problem, "rpp", only="role")
    with pytest.raises(InvalidOption, match="method 'enum' is not known"):
        method("enum")


# ---- other rules ----


@pytest.fixture(scope="module")
def bandit() -> Problem:
    """The same problem under RPPBandit-v0, where the history agent chooses the length itself."""
    parts = []
    for split, count in (("train", 12), ("validation", 4), ("test", 12)):
        options = WORLD | {"split": split, "max_users": count, "rules": "RPPBandit-v0"}
        live = rpp_env.RPPEnv.make(**options)
        parts.append(Users(rpp_env.RPPEnv.make(model=rpp_env.tabulate(live), **options), live))
    return Problem(*parts)


def test_a_level_is_the_items_that_the_rules_show(bandit: Problem) -> None:
    test = bandit.test
    assert items(test.env.space) == (1, 3, 5, 10, 20)  # type: ignore[arg-type]
    lengths = test.env.tasks.history_lengths
    for name, config, most in (("manual", {}, 5), ("llmrank", {"shown": 20}, 20)):
        player = fit(bandit, name, **config)
        cells = player.choose(test, np.random.default_rng(0))[:, 0]
        shown = [prompt.shown for prompt in test.prompts(test.rows, cells)]
        np.testing.assert_array_equal(shown, np.minimum(lengths, most))
    with pytest.raises(InvalidOption, match="llmrank shows 1, 3, 5, 10, 20 items, not 8"):
        fit(bandit, "llmrank", shown=8)


def test_a_single_agent_starts_from_the_manual_prompt_under_other_rules(bandit: Problem) -> None:
    train = bandit.train
    env = OnlyAgent(train.environment(num_envs=len(train)), "role_playing")
    env.reset(seed=0, options={"users": np.arange(len(train))})
    step = env.step(np.zeros((len(train), 1), np.int64))
    lengths = train.env.tasks.history_lengths
    np.testing.assert_array_equal(step.infos["shown"], np.minimum(lengths, MANUAL["shown"]))


def test_choices_are_counted_by_the_levels_of_the_rules(bandit: Problem) -> None:
    test = bandit.test
    played = fit(bandit, "manual").play(test, 0)
    history = np.array(work._choices(played, test)["shares"]["history_records"])
    assert history.shape[1] == 5
    long = test.env.tasks.history_lengths >= 5
    if long.all():
        assert history[:, 2].max() == 1.0  # the third of 1, 3, 5, 10 and 20


def test_a_setting_takes_its_numbers_from_its_rules() -> None:
    assert Setting("x").steps == 5
    assert Setting("x", options={"max_cycles": 3}).steps == 3
    bandit = Setting("x", options={"rules": "RPPBandit-v0"})
    assert (bandit.steps, bandit.candidates) == (1, RULES["RPPBandit-v0"].num_candidates)
    assert Setting("x", options={"num_candidates": 7}).candidates == 7


def test_the_baseline_makes_one_call_per_step_of_an_episode() -> None:
    rows = [
        {"label": "RPP", "method": "rpp"},
        {"label": "fixed", "method": "enumerate_all"},
    ]

    def study(calls: int, **options: Any) -> Study:
        merged = {"label": "merged", "method": "merged_fixed", "config": {"calls": calls}}
        content = {"settings": [{"name": "a", "options": options}], "methods": [*rows, merged]}
        return Study.parse(content, "x")

    study(5)
    study(3, max_cycles=3)
    with pytest.raises(InvalidOption, match=r"'merged' asks 5 times.*'a' has 3 steps.*calls = 3"):
        study(5, max_cycles=3)
    # One step is one call: the best fixed prompt itself is the baseline at equal calls.
    one = study(5, rules="RPPBandit-v0")
    finished = [(run, {"scores": {"score": [0.0]}}) for run in one.runs()]
    found = Results(one, finished, {}, {}, len(finished))
    assert found.baseline(one.settings[0]) == "fixed"


# ---- the file ----

SETTING: dict[str, Any] = {
    "name": "tiny",
    "draws": [41, 42],
    "train_users": 20,
    "validation_users": 6,
    "test_users": 16,
    "options": {"num_users": 400, "num_items": 100, "fractions": [0.5, 0.2, 0.3]},
}
METHOD = {"label": "Manual", "method": "manual"}
FILE: dict[str, Any] = {"seeds": [0, 1], "settings": [SETTING], "methods": [METHOD]}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"settings": []}, r"at least one \[\[settings\]\]"),
        ({"seed": 1}, "key 'seed' is not known; did you mean 'seeds'"),
        ({"name": "x"}, "leave out 'name'"),
        ({"seeds": []}, "different numbers from 0"),
        ({"budget": 0}, "budget must be at least 1"),
        ({"settings": [{**SETTING, "options": {"draws": 5}}]}, "option 'draws' is not known"),
        ({"settings": [{**SETTING, "options": {"observe": "private"}}]}, "'observe' is not known"),
        (
            {"methods": [{"label": "x", "method": "rpp", "config": {"trainer": "mapo"}}]},
            "method 'x': trainer 'mapo' is not known; did you mean 'mappo'",
        ),
        (
            {"methods": [{"label": "x", "method": "rpp", "config": {"options": {"gama": 1}}}]},
            "method 'x': option 'gama' is not known; did you mean 'gamma'",
        ),
        (
            {"methods": [{"label": "x", "method": "rpp", "config": {"options": {"seed": 1}}}]},
            "seed is the study's own",
        ),
        (
            {
                "methods": [
                    {
                        "label": "x",
                        "method": "recommender",
                        "config": {"name": "bpr", "config": {"dims": 1}},
                    }
                ]
            },
            "option 'dims' is not known; did you mean 'dim'",
        ),
        ({"settings": [{**SETTING, "part": "maine"}]}, "did you mean 'main'"),
        (
            {"settings": [{**SETTING, "options": {"rules": "RPP-v1"}}]},
            "rules 'RPP-v1' is not known",
        ),
        ({"settings": [{**SETTING, "observe": "private"}]}, "'observe' is not known"),
        ({"against": "Manual"}, "'against' is not known"),
        ({"settings": [{**SETTING, "draws": []}]}, "at least one number"),
        ({"settings": [{**SETTING, "test_users": 0}]}, "test_users must be at least 1"),
        ({"settings": [SETTING, SETTING]}, "two have the name 'tiny'"),
        ({"methods": [METHOD, METHOD]}, "two have the label 'Manual'"),
        ({"methods": [{**METHOD, "method": "enumerat"}]}, "did you mean 'enumerate"),
        ({"methods": [{**METHOD, "config": {"calls": 3}}]}, "option 'calls' is not known"),
        ({"methods": [{**METHOD, "settings": ["small"]}]}, "setting 'small' is not known"),
        ({"methods": [{**METHOD, "parts": ["user"]}]}, "did you mean 'users'"),
        ({"methods": [{**METHOD, "method": "recommender"}]}, "holds a name, one of pop"),
        ({"primary": {"setting": "tiny", "method": "Manual"}}, "'against' is missing"),
        ({"primary": {"setting": "t", "method": "Manual", "against": "Manual"}}, "setting 't'"),
        ({"contrasts": [{"setting": "tiny", "method": "M", "against": "Manual"}]}, "method 'M'"),
    ],
)
def test_mistakes_in_a_file_get_a_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(InvalidOption, match=said):
        Study.parse(FILE | changes, "x")


def test_seeds_play_the_draws_in_turn_and_twice_the_same_is_once() -> None:
    study = Study.parse(FILE | {"seeds": [0, 1, 2]}, "x")
    assert [cell.draw for cell in study.runs()] == [41, 42, 41]
    alone = FILE | {"settings": [{**SETTING, "draws": [41]}]}
    assert len(Study.parse(alone, "x").runs()) == 1  # nothing in it depends on the seed
    learns = alone | {"methods": [{"label": "RPP", "method": "rpp"}]}
    assert len(Study.parse(learns, "x").runs()) == 2


def test_variants_are_separate_methods() -> None:
    row = {"label": "RPP-{}", "method": "rpp", "config": {"trainer": "iql"}}
    row["variants"] = {"Ro": {"only": "role_playing"}, "Hi": {"only": "history_records"}}
    study = Study.parse(FILE | {"methods": [row]}, "x")
    assert [m.label for m in study.methods] == ["RPP-Ro", "RPP-Hi"]
    assert study.methods[1].config == {"trainer": "iql", "only": "history_records"}


def test_another_seed_reruns_only_the_runs_that_depend_on_it() -> None:
    rows = [
        {"label": name, "method": name}
        for name in ("manual", "enumerate_all", "merged_best", "merged_fixed", "random", "linucb")
    ]
    rows += [
        {"label": name, "method": "recommender", "config": {"name": name}}
        for name in ("pop", "bpr")  # trained once, with one seed
    ]
    (setting,) = FILE["settings"]
    study = Study.parse(
        FILE | {"settings": [setting | {"draws": [5]}], "seeds": [0, 1], "methods": rows}, "x"
    )
    runs = Counter(cell.method.label for cell in study.runs())
    assert {label for label, count in runs.items() if count == 2} == {
        "merged_fixed",  # its later calls are reordered by the seed
        "random",
        "linucb",
    }
    assert set(runs.values()) == {1, 2}


@pytest.mark.parametrize("name", sorted(path.stem for path in (PRESETS / "study").glob("*.toml")))
def test_shipped_studies_are_sound(name: str) -> None:
    study = Study.load(name)
    cells = study.runs()
    assert len({cell.file for cell in cells}) == len(cells)
    # These ask no question.
    asks = name not in ("systems", "feedback-tuning", "feedback-variants-tuning")
    assert bool(study.primary) == asks


def test_draws_of_a_real_dataset_have_different_train_users() -> None:
    real = Setting("real", "ml-1m", draws=(0, 1, 2))
    assert [real.problem(draw, "train").get("user_seed", 0) for draw in (0, 1, 2)] == [0, 1, 2]
    assert all("user_seed" not in real.problem(draw, "test") for draw in (0, 1, 2))
    made = Setting("made", draws=(1, 2))  # other worlds have other users anyway
    assert "user_seed" not in made.problem(2, "train")
    # Methods fitted on train users depend on the draw; those fitted on all histories do not.
    rows = [
        {"label": "Manual", "method": "manual"},
        {"label": "Pop", "method": "recommender", "config": {"name": "pop"}},
    ]
    content = {"settings": [{"name": "real", "dataset": "ml-1m", "draws": [0, 1]}], "methods": rows}
    cells = Study.parse(FILE | content | {"seeds": [0, 1]}, "x").runs()
    asked = {(cell.method.label, cell.draw): cell.asked.get("user_seed", 0) for cell in cells}
    assert asked == {("Manual", 0): 0, ("Manual", 1): 1, ("Pop", 0): 0, ("Pop", 1): 0}


def test_a_recommender_is_kept_under_its_whole_config() -> None:
    content = {"label": "BPR", "method": "recommender", "config": {"name": "bpr"}}
    study = Study.parse(FILE | {"methods": [content]}, "x")
    resolved = study.methods[0].resolved()
    assert resolved["config"]["dim"] == BPRConfig().dim
    other = content | {"config": {"name": "bpr", "config": {"dim": 7}}}
    study = Study.parse(FILE | {"methods": [other]}, "x")
    assert study.methods[0].resolved()["config"] == resolved["config"] | {"dim": 7}


@pytest.mark.slow
@pytest.mark.parametrize("rank_by", ["generate", "logprobs"])
def test_luck_is_measured_the_way_that_the_setting_ranks(
    rank_by: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    setting = {**SETTING, "rank_by": rank_by}
    study = Study.parse(FILE | {"settings": [setting], "seeds": [0], "methods": [METHOD]}, "x")
    jobs = study.jobs(study.runs())
    make_tables(study.runs(), tmp_path)
    asked: list[str] = []

    def tabulate(env: rpp_env.RPPEnv) -> Any:
        asked.append(env.recommender.rank_by)
        return rpp_env.tabulate(env)

    # Both ways earn alike in this small world.
    monkeypatch.setattr(work, "tabulate", tabulate)
    (redrawn,) = [o.found for o in run_all(jobs, tmp_path) if isinstance(o.job, Redrawn)]
    assert redrawn is not None
    (given,) = study.settings
    env = rpp_env.RPPEnv.make(
        split="test", max_users=16, draws=3, rank_by=rank_by, **given.problem(41)
    )
    rewards = rpp_env.tabulate(env).rewards().reshape(len(env.tasks), -1)
    wanted = rewards.reshape(-1, 3, rewards.shape[1]).max(axis=2).mean()
    assert redrawn["estimates"]["hindsight"][0] == pytest.approx(wanted, abs=1e-6)
    assert redrawn["estimates"]["random"][0] == pytest.approx(rewards.mean(), abs=1e-6)
    assert asked == [rank_by]


# ---- a whole one ----

METHODS_OF_ALL: list[dict[str, Any]] = [
    METHOD,
    {"label": "random", "method": "random"},
    {"label": "fixed", "method": "enumerate_all"},
    {"label": "merged", "method": "merged_fixed"},
    {"label": "Enumerate", "method": "enumerate"},
    {"label": "supervised", "method": "supervised"},
    {
        "label": "RPP (MAPPO)",
        "family": "RPP",
        "method": "rpp",
        "config": {"num_envs": 16},
    },
    {
        "label": "RPP-Ro",
        "family": "one pattern",
        "method": "rpp",
        "config": {"num_envs": 16, "only": "role_playing"},
    },
    {"label": "Pop", "method": "recommender", "config": {"name": "pop"}},
]
WHOLE = FILE | {
    "methods": METHODS_OF_ALL,
    "budget": 800,
    "points": 3,
    "primary": {"setting": "tiny", "method": "RPP (MAPPO)", "against": "merged"},
    "contrasts": [
        {"setting": "tiny", "method": name, "against": "fixed"} for name in ("Manual", "random")
    ],
}


def as_toml(value: Any) -> str:
    """What these tests need of it."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(as_toml, value)) + "]"
    return json.dumps(value)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A study, killed when it had finished a cell and run to its end; and one that ran through."""
    folder = tmp_path_factory.mktemp("study")
    file = folder / "tiny.toml"
    file.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in WHOLE.items()))
    killed, straight = folder / "killed", folder / "straight"
    command = ["study", str(file), "--processes", "1", "--out"]
    code = f"from rpp_agents.cli import main; main({[*command, str(killed)]!r})"
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL) as running:
        while running.poll() is None and len(list(killed.glob("cells/**/*.json"))) < 3:
            time.sleep(0.02)
        assert running.poll() is None
        running.kill()
    done = {path: path.stat().st_mtime_ns for path in killed.glob("cells/**/*.json")}
    assert 3 <= len(done) < 18
    assert main([*command, str(killed)]) == 0
    assert all(path.stat().st_mtime_ns == when for path, when in done.items())
    assert main([*command, str(straight)]) == 0
    return killed, straight


def results(path: Path) -> Any:
    found = json.loads(path.read_text())
    if path.parent.name != "users":
        del found["sha256"]
        found.get("training", {}).pop("seconds", None)
    return found


@pytest.mark.slow
def test_a_killed_study_ends_with_the_same_files(finished: tuple[Path, Path]) -> None:
    killed, straight = finished
    files = [sorted(p.relative_to(f) for p in f.rglob("*") if p.is_file()) for f in finished]
    assert files[0] == files[1]
    for name in files[0]:
        if name.suffix == ".json":
            assert results(killed / name) == results(straight / name), name
    # Seconds are all that may differ in a report.
    left, right = (
        re.sub(r"\| [\d,.]+ \|$", "|", (f / "report.md").read_text(), flags=re.MULTILINE)
        for f in finished
    )
    assert left == right


def test_a_finished_study_calls_no_model_and_writes_nothing(finished: tuple[Path, Path]) -> None:
    folder = finished[0]
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    began = time.process_time()
    assert main(["study", str(folder / "tiny.toml"), "--out", str(folder)]) == 0
    assert time.process_time() - began < 5
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_the_report_states_the_results(finished: tuple[Path, Path]) -> None:
    folder = finished[0]
    text = (folder / "report.md").read_text()
    study = Study.load(folder / "tiny.toml")
    found = Results.read(study, folder)
    setting = study.settings[0]
    cell = json.loads((folder / "cells/tiny/manual/s0.json").read_text())
    other = json.loads((folder / "cells/tiny/manual/s1.json").read_text())
    mean = np.mean([np.mean(c["scores"]["score"]) for c in (cell, other)])
    assert found.score(setting, "Manual").value == pytest.approx(mean)
    assert f"| Manual | {found.score(setting, 'Manual')} |" in text
    ahead = found.score(setting, "fixed").value - mean
    assert found.minus(setting, "fixed", "Manual").value == pytest.approx(ahead)
    assert abs(ahead) > 0.01  # or its sign would not show
    assert "Primary contrast, named before the run:** RPP (MAPPO) minus merged" in text
    assert "Not complete" not in text
    named = found.contrasts()
    assert [one.method for one, _, _ in named] == ["Manual", "random"]
    for one, contrast, significant in named:
        assert contrast == found.minus(setting, one.method, "fixed")
        said = f"{contrast:+.3f} | {'yes' if significant else 'no'} |"
        assert f"| tiny | {one.method} | fixed | {said}" in text
    assert [significant for *_, significant in named] == holm([x for _, x, _ in named])
    fewer = replace(found, finished=[x for x in found.finished if x[0].method.label != "Manual"])
    # A bench's baselines have names, such as "random", that a study's methods may have.
    row = next(line for line in text.splitlines() if line.startswith("| random | 0."))
    minus_baseline, significant = row.split(" | ")[3:5]
    assert minus_baseline == f"{found.minus(setting, 'random', 'merged'):+.3f}"
    assert significant in ("yes", "no")
    (_, missing, early), (_, there, also_early) = fewer.contrasts()
    assert (missing, early, also_early) == (None, False, False)
    assert there == named[1][1]
    assert "### One pattern at a time" in text
    pattern = next(row for row in text.splitlines() if row.startswith("| RPP-Ro |"))
    difference = found.minus(setting, "RPP-Ro", "RPP (MAPPO)")
    assert f"{difference.value:+.3f} [" in pattern.split("|")[-2]
    # The baseline is merged by itself; beside it, so is who else makes several calls.
    sides = {
        (name, column): np.mean(
            [
                np.mean(json.loads(path.read_text())["scores"][column])
                for path in sorted((folder / "cells" / "tiny" / name).glob("*.json"))
            ]
        )
        for name, column in (("rpp-mappo", "merged"), ("merged", "score"))
    }
    both = float(sides["rpp-mappo", "merged"] - sides["merged", "score"])
    rows_of = text.partition("### Merged on both sides")[2].splitlines()
    row = next(line for line in rows_of if line.startswith("| tiny | RPP (MAPPO) |"))
    assert f"| {both:+.3f} [" in row
    main_table = text.partition("### One pattern")[0]
    assert "RPP-Ro" not in main_table
    assert "How much of hindsight is luck" in text
    shown = re.findall(r"^!\[(.*)\]\((.*)\)$", text, re.MULTILINE)
    assert sorted(path for _, path in shown) == sorted(
        str(path.relative_to(folder)) for path in (folder / "plots").glob("main-*.png")
    )
    assert all(len(alt.split()) > 8 for alt, _ in shown)  # what there is to see
    alts = {path: alt for alt, path in shown}
    runs = [json.loads((folder / f"cells/tiny/rpp-mappo/s{s}.json").read_text()) for s in (0, 1)]
    tokens = np.mean([run["testing"]["tokens"] for run in runs])
    assert f"RPP (MAPPO) {tokens:,.0f} tokens" in alts["plots/main-tiny-tokens.png"]
    for name in ("index.html", "results.jsonl", "plots/main-tiny-scores.png"):
        assert (folder / name).stat().st_size > 500
    rows = [json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]
    assert len(rows) == 18
    assert all("scores" not in row and "prompts" not in row for row in rows)


def test_the_page_holds_prompts_of_made_users(finished: tuple[Path, Path]) -> None:
    from rpp_agents.experiments.show import page_data

    folder = finished[0]
    found = Results.read(Study.load(folder / "tiny.toml"), folder)
    data = page_data(found, folder)
    assert len(data["users"]) == 16
    user = data["users"][0]
    assert [view["method"] for view in user["views"]] == ["Manual", "fixed", "RPP (MAPPO)"]
    for view in user["views"]:
        parts = [paragraph["part"] for paragraph in view["paragraphs"]]
        assert parts[-1] == "contract"
        assert {"history_records", "candidates", "reasoning_guidance"} <= set(parts)
        if view["rank"]:
            assert view["order"][view["rank"] - 1] == user["target"]
            assert user["candidates"][user["target"]] in view["reply"] or "[" in view["reply"]
    # What is shown is what was scored.
    scores = json.loads((folder / "cells/tiny/manual/s0.json").read_text())["scores"]["last"]
    shown = [user["views"][0]["ndcg"] for user in data["users"]]
    np.testing.assert_allclose(shown, scores, atol=1e-4)
    assert page_data(found, folder, users=False)["users"] == []


def test_the_pages_sentences_are_those_of_the_settings_rules_and_book(tmp_path: Path) -> None:
    sentences = show._sentences(Setting("x", options={"rules": "RPPBandit-v0"}))
    assert sentences["history_records"] == ["1 item", "3 items", "5 items", "10 items", "20 items"]
    source = (Path(rpp_env.__file__).parent / "sentences" / "movies.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(source.replace(SentenceCatalog.load("movies").role_playing[1], "Be brief."))
    assert show._sentences(Setting("x", options={"book": str(own)}))["role_playing"][1] == (
        "Be brief."
    )


def test_shares_of_choices_are_shares(finished: tuple[Path, Path]) -> None:
    for name in ("rpp-mappo", "manual", "random"):
        found = json.loads((finished[0] / f"cells/tiny/{name}/s0.json").read_text())["choices"]
        counts = np.array(found["counts"])
        assert counts.sum() == 16
        for shares in found["shares"].values():
            np.testing.assert_allclose(np.sum(shares, axis=1), counts > 0, atol=1e-3)


def test_users_with_tied_last_items_are_reported(tmp_path: Path) -> None:
    folder = tmp_path / "tied"
    folder.mkdir()
    rows = [f"u{u}\ti{i}\t{i}" for u in range(20) for i in range(u, u + 5)]
    head = "user_id:token\titem_id:token\ttimestamp:float"
    (folder / "tied.inter").write_text("\n".join([head, *rows]) + "\n")
    titles = [f"i{i}\tFilm {chr(65 + i)}" for i in range(24)]
    items = "\n".join(["item_id:token\ttitle:token_seq", *titles])
    (folder / "tied.item").write_text(items + "\n")
    env = rpp_env.RPPEnv.make(str(folder), split="test", num_candidates=5)
    assert work._unsure(env) == []  # nothing is known of ties
    # The last item is the one that stands last, but of every second user.
    last = [f"u{u}\ti{u + 4 - u % 2}" for u in range(20)]
    path = folder / "tied.last_timestamp.tsv"
    path.write_text("\n".join(["user_id:token\titem_id:token", *last]) + "\n")
    tokens = [env.tasks.dataset.user_tokens[user] for user in env.tasks.users]
    odd = [row for row, token in enumerate(tokens) if int(token[1:]) % 2]
    assert work._unsure(env) == odd
    assert 0 < len(odd) < len(tokens)


def test_ties_are_left_out(finished: tuple[Path, Path]) -> None:
    found = Results.read(Study.load(finished[0] / "tiny.toml"), finished[0])
    setting, (_, first) = found.settings[0], found.runs(found.settings[0], "Manual")[0]
    kept = [0, 2, 3]
    first["unsure"] = [i for i in range(16) if i not in kept]
    alone = Results(found.plan, [c for c in found.finished if c[1] is first], {}, {}, 1)
    scores = np.array(first["scores"]["score"])
    assert alone.score(setting, "Manual").value == pytest.approx(scores.mean())
    assert alone.only_sure().score(setting, "Manual").value == pytest.approx(scores[kept].mean())


def test_other_users_are_not_compared(finished: tuple[Path, Path], tmp_path: Path) -> None:
    folder = finished[1]
    path = folder / "cells/tiny/random/s0.json"
    kept = path.read_text()
    found = json.loads(kept)
    del found["sha256"]
    write_run(path, {**found, "whose": "others"})
    with pytest.raises(InvalidData, match="scored different users"):
        Results.read(Study.load(folder / "tiny.toml"), folder)
    path.write_text(kept)


def test_other_options_are_refused(finished: tuple[Path, Path]) -> None:
    study = Study.parse(WHOLE | {"budget": 900}, "tiny")
    with pytest.raises(InvalidOption, match="budget was 800 and is 900"):
        unfinished(study.runs(), finished[0])
    # An option that the run left at its default is an option, too.
    for label, config, said in (
        ("supervised", {"calls": 5}, "config.calls was 1 and is 5"),
        (
            "RPP (MAPPO)",
            {"num_envs": 16, "options": {"gamma": 0.5}},
            "config.options.gamma was 0.0 and is 0.5",
        ),
    ):
        rows = [m | {"config": config} if m["label"] == label else m for m in METHODS_OF_ALL]
        study = Study.parse(WHOLE | {"methods": rows}, "tiny")
        with pytest.raises(InvalidOption, match=said):
            unfinished(study.runs(), finished[0])


def test_runs_of_a_changed_method_are_refused(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    study = Study.parse(WHOLE, "tiny")
    assert not unfinished(study.runs(), finished[0])
    monkeypatch.setitem(VERSIONS, "random", 2)
    with pytest.raises(InvalidOption, match="version was 1 and is 2"):
        unfinished(study.runs(), finished[0])


@pytest.mark.slow
def test_settings_without_data_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RPP_ENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    absent = {"name": "real", "dataset": "lastfm"}
    content = FILE | {"settings": [{**SETTING, "draws": [41]}, absent]}
    file, out = tmp_path / "x.toml", tmp_path / "out"
    file.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in content.items()))
    options = [str(file), "--out", str(out), "--processes", "1"]
    with pytest.raises(SystemExit) as ended:
        main(["study", *options])
    assert ended.value.code == 1
    assert "left out: real: dataset 'lastfm' was not found" in capsys.readouterr().err
    assert (out / "cells/tiny/manual/s0.json").is_file()
    assert (out / "report.md").is_file()
    assert main(["study", *options, "--only", "tiny"]) == 0
    assert main(["study", *options, "--only", "real"]) == 2


@pytest.mark.slow
def test_an_old_report_is_written_again(tmp_path: Path) -> None:
    content = FILE | {"settings": [{**SETTING, "draws": [41]}], "seeds": [0]}
    file, out = tmp_path / "x.toml", tmp_path / "out"

    def run(**changes: Any) -> int:
        rows = (content | changes).items()
        file.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in rows))
        assert main(["study", str(file), "--out", str(out), "--processes", "1"]) == 0
        return (out / "report.md").stat().st_mtime_ns

    first = run()
    assert run() == first
    second = run(title="Another title")  # nothing is left to run
    assert second > first
    assert "Another title" in (out / "report.md").read_text()
    (cell,) = out.glob("cells/*/*/*.json")
    os.utime(cell, ns=(second + 10**9, second + 10**9))  # as if killed before the report
    assert run(title="Another title") > second


def test_tables_of_another_model_are_refused(
    finished: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    cell = Study.parse(WHOLE, "tiny").runs()[0]
    work.open_problem(cell, finished[0])
    monkeypatch.setattr(EmbeddedModel, "id", property(lambda self: "embedded-2"))
    with pytest.raises(InvalidOption, match=r"hold answers of .*embedded-2"):
        work.open_problem(cell, finished[0])


def test_books_and_rules_without_the_manual_prompt_get_a_sentence() -> None:
    book = SentenceCatalog.load("movies")
    book = replace(book, reasoning_guidance=book.reasoning_guidance[:3])
    live = rpp_env.RPPEnv.make(split="train", max_users=5, book=book, **WORLD)
    train = Users(live, live)
    few = Problem(train, train, train)
    for name, config in (("manual", {}), ("llmrank", {}), ("rpp", {"only": "role_playing"})):
        with pytest.raises(InvalidOption, match=r"the manual prompt is .* the book has"):
            fit(few, name, **config)


@pytest.mark.slow
def test_a_failed_cell_is_named_and_run_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {"label": "RPP", "method": "rpp", "config": {"num_envs": 0}}
    file = tmp_path / "bad.toml"
    content = FILE | {"methods": [METHOD, bad], "seeds": [0]}
    file.write_text("".join(f"{key} = {as_toml(value)}\n" for key, value in content.items()))
    with pytest.raises(SystemExit) as ended:
        main(["study", str(file), "--out", str(tmp_path / "out"), "--processes", "1"])
    assert ended.value.code == 1
    assert "1 failed" in capsys.readouterr().out
    failed = (tmp_path / "out/cells/tiny/rpp/s0.failed.txt").read_text()
    assert "num_envs" in failed
    assert "Not complete: 1 of 2" in (tmp_path / "out/report.md").read_text()


def test_the_command_lists_and_refuses(
    finished: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = finished[0]
    assert main(["study", str(folder / "tiny.toml"), "--out", str(folder), "--dry-run"]) == 0
    assert "19 of 19 are finished" in capsys.readouterr().out
    assert main(["report", str(folder)]) == 0
    assert "index.html" in capsys.readouterr().out
    assert main(["report", str(tmp_path)]) == 2
    assert "holds 0 TOML files" in capsys.readouterr().err
    assert main(["study", "nothing"]) == 2
    assert "study 'nothing' is not known" in capsys.readouterr().err
    with pytest.raises(InvalidOption, match="no run of this study"):
        write_report(Study.load("smoke"), tmp_path)


@pytest.mark.slow
def test_tables_serve_settings_that_differ_in_train_users(tmp_path: Path) -> None:
    few = {**SETTING, "name": "few", "train_users": 5, "part": "users"}
    content = FILE | {"settings": [SETTING, few], "seeds": [0]}
    study = Study.parse(content | {"methods": [{"label": "f", "method": "enumerate_all"}]}, "x")
    make_tables(study.runs(), tmp_path)
    assert len(list((tmp_path / "tables").glob("*.rpptable"))) == 3
    found = {o.job.file: o.found for o in run_all(study.jobs(study.runs()), tmp_path)}
    training = found["cells/few/f/s0.json"]["training"]
    assert training["calls"] == 5 * 7 * 5 * 9 * 5
    # Among the users of the larger one.
    assert found["cells/tiny/f/s0.json"]["training"]["calls"] == 4 * training["calls"]


@pytest.mark.parametrize(
    ("interval", "said"),
    [
        ((0.05, 0.03, 0.07), "large enough to matter throughout"),
        ((0.05, 0.01, 0.09), "is open"),
        ((0.005, 0.001, 0.01), "Significantly above 0, and too small"),
        ((-0.05, -0.09, -0.01), "Significantly below 0"),
        ((0.0, -0.01, 0.01), "Not significantly different from 0, and too small to matter"),
        ((-0.09, -0.2, 0.01), "an advantage that matters is excluded"),
        ((0.02, -0.01, 0.05), "not excluded"),
    ],
)
def test_verdicts(interval: tuple[float, float, float], said: str) -> None:
    assert said in verdict(Estimate(*interval), 0.02)


def test_no_page_of_ours_holds_titles_of_ml_1m() -> None:
    """Its terms forbid more than aggregates: nothing under docs/ may name its films."""
    try:
        titles = rpp_env.load_dataset("ml-1m").titles
    except rpp_env.errors.RPPError:
        pytest.skip("ml-1m is not here: RPP_ENV_DATA says where it lies")
    docs = Path(__file__).parents[2] / "docs"
    for path in docs.rglob("*"):
        if "_build" in path.parts:
            continue
        if path.suffix in (".md", ".html", ".json", ".jsonl", ".svg", ".toml"):
            text = path.read_text(encoding="utf-8", errors="ignore").casefold()
            # Short titles are words ("Heat"); of the long ones this one is a phrase of ours.
            found = {t for t in titles if len(t) >= 14 and t.casefold() in text}
            assert found <= {"Before and After"}, (path.name, len(found))
