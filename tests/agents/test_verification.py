"""The problems of benchmarks/verification.py, and that no run is repeated."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rpp_agents import ippo, mappo
from rpp_agents.baselines import Random
from rpp_agents.rollout import Collector

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "verification.py"


@pytest.fixture(scope="module")
def verification() -> ModuleType:
    spec = importlib.util.spec_from_file_location("verification", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["verification"] = module  # dataclasses look for their module
    spec.loader.exec_module(module)
    return module


class Always:
    """Takes the same joint action in every environment."""

    def __init__(self, *actions: int) -> None:
        self.actions = np.array(actions)

    def act(self, observations: Any, *args: Any, **kwargs: Any) -> tuple[Any, None]:
        return np.tile(self.actions, (len(observations), 1)), None


# The problems


def test_a_matrix_game_pays_both_agents_its_entry_25_times(verification: ModuleType) -> None:
    game = verification.MatrixGame(verification.PAYOFFS["climbing"], 4)
    for actions, payoff in (((0, 0), 11), ((2, 1), 6), ((1, 2), 0), ((0, 1), -30)):
        returns = verification.team_returns(Always(*actions), game, 8)
        np.testing.assert_array_equal(returns, np.full(8, 2 * 25 * payoff))
    game.reset()
    for turn in range(1, 26):
        step = game.step(np.zeros((4, 2), np.int64))
        assert step.terminated.all() == (turn == 25)
        assert not step.truncated.any()


def test_an_episode_that_is_over_counts_no_further(verification: ModuleType) -> None:
    game = verification.MatrixGame(verification.PAYOFFS["linear"], 3)
    game.max_cycles = np.array([1, 4, 2])
    returns = verification.team_returns(Always(0, 0), game, 6)
    np.testing.assert_array_equal(returns, [2, 8, 4] * 2)


def test_the_payoffs_are_those_of_the_papers(verification: ModuleType) -> None:
    best = {name: np.max(table) for name, table in verification.PAYOFFS.items()}
    assert list(best.values()) == [5, 6, 10, 10, 10, 11]
    linear = np.array(verification.PAYOFFS["linear"])
    differences = linear[1:] - linear[:-1]
    np.testing.assert_array_equal(differences, differences[:, :1].repeat(3, axis=1))
    for name in ("penalty-0", "penalty-25", "penalty-100", "climbing"):
        table = np.array(verification.PAYOFFS[name])
        assert (table[0, 0], table[1, 1]) != (0, 0)
        assert table[2, 2] in (0, -25, -100, 5)


def test_random_foragers_find_as_much_as_the_package_by_itself_gives(
    verification: ModuleType,
) -> None:
    gymnasium = pytest.importorskip("gymnasium")
    pytest.importorskip("lbforaging")
    env = verification.foraging(200)
    random = Random(env.action_spaces, seed=1)
    returns = verification.team_returns(random, env, 600, greedy=False)
    assert set(np.round(returns, 6)) == {0.0, 1.0}
    # 5,000 episodes of the plain environment gave 0.0138 +- 0.0017.
    assert abs(returns.mean() - 0.0138) < 4 * np.hypot(0.0048, 0.0017)
    plain = gymnasium.make(
        "Foraging-5x5-2p-1f-coop-v3", max_episode_steps=25, disable_env_checker=True
    )
    (seeds,) = (np.random.SeedSequence(7).generate_state(200),)
    seen, _ = env.reset(seed=7)
    first, _ = plain.reset(seed=int(seeds[0]))
    np.testing.assert_array_equal(seen[0], np.stack(first))
    np.testing.assert_array_equal(env.state()[0], np.concatenate(first))


def test_a_forager_s_time_out_is_no_success(verification: ModuleType) -> None:
    pytest.importorskip("lbforaging")
    env = verification.foraging(64)
    env.reset(seed=3)
    rng = np.random.default_rng(0)
    endings = {"fed": 0, "late": 0}
    over = np.zeros(64, np.bool_)
    for _ in range(100):
        if over.any():
            env.reset(options={"reset_mask": over})
        step = env.step(rng.integers(6, size=(64, 2)))
        over = step.terminated | step.truncated
        fed = step.rewards.sum(axis=1) > 0
        np.testing.assert_array_equal(step.terminated, fed)
        assert not (step.terminated & step.truncated).any()
        np.testing.assert_allclose(step.rewards.sum(axis=1)[fed], 1)
        endings["fed"] += int(fed.sum())
        endings["late"] += int(step.truncated.sum())
    assert min(endings.values()) > 0


def test_random_spreading_is_on_the_scale_of_the_reference(verification: ModuleType) -> None:
    pytest.importorskip("mpe2")
    env = verification.spread(25)
    assert (env.agents, env.state_width) == (("agent_0", "agent_1", "agent_2"), 54)
    returns = verification.team_returns(Random(env.action_spaces, seed=1), env, 100, greedy=False)
    error = np.hypot(returns.std() / np.sqrt(100), 1.4)  # theirs: 300 episodes
    assert abs(returns.mean() - -82.1) < 4 * error
    idle = verification.team_returns(Always(0, 0, 0), env, 100)
    assert abs(idle.mean() - -76.2) < 4 * np.hypot(idle.std() / np.sqrt(100), 1.4)
    collector = Collector(env, "state", team_reward=True)
    collector.reset(0)
    rollout = collector.collect(
        lambda seen, masks: (np.zeros((25, 3), np.int64), np.zeros((25, 3), np.float32)), 25
    )
    assert rollout.ended[-1].all()
    assert not rollout.terminated.any()
    np.testing.assert_array_equal(rollout.rewards[..., 0], rollout.rewards[..., 1])


def test_mappo_learns_to_spread_by_forces(verification: ModuleType) -> None:
    """Vectors as actions, on a problem that others made: better than random, by an interval."""
    pytest.importorskip("mpe2")
    env, judge = (verification.spread(count, continuous=True) for count in (10, 50))
    assert env.action_spaces[0].shape == (5,)
    config = mappo.Config(
        total_steps=12_000, rollout_steps=100, shared=True, gamma=0.99, team_reward=True, threads=1
    )
    policy = mappo.train(env, config, progress=False)
    lead = verification.team_returns(policy, judge, 100) - verification.team_returns(
        Random(judge.action_spaces, seed=1), judge, 100, greedy=False
    )
    assert lead.mean() > 2 * lead.std() / 10, (lead.mean(), lead.std())


def test_every_evaluated_policy_plays_the_same_episodes(verification: ModuleType) -> None:
    pytest.importorskip("lbforaging")
    env = verification.foraging(8)
    starts = []
    for policy in (Always(5, 5), Always(0, 0)):
        seen: list[Any] = []

        class Watched:
            def act(self, observations: Any, *args: Any, **kwargs: Any) -> Any:
                seen.append(observations)  # noqa: B023
                return policy.act(observations, *args, **kwargs)  # noqa: B023

        verification.team_returns(Watched(), env, 16)
        starts.append((seen[0], seen[25]))
    np.testing.assert_array_equal(starts[0], starts[1])


# The runs


def test_every_algorithm_takes_its_settings(verification: ModuleType) -> None:
    for name, problem in verification.PROBLEMS.items():
        assert set(problem.band) <= set(problem.settings) == set(problem.steps)
        for algorithm in problem.settings:
            settings = verification.settings_of(name, algorithm)
            assert settings["total_steps"] == problem.steps[algorithm]
            assert settings["team_reward"]


def test_a_learner_reaches_the_expected_score(verification: ModuleType) -> None:
    row = verification.run("linear", "ippo", 100, total_steps=2_000)
    assert row["curve"][-1] == [2_000, 5.0]
    assert len(row["curve"]) == 3


def test_a_finished_run_is_not_run_again(
    verification: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Any] = []

    def run(name: str, algorithm: str, seed: int) -> dict[str, Any]:
        made.append((name, algorithm, seed))
        return {
            "problem": name,
            "algorithm": algorithm,
            "seed": seed,
            "settings": verification.settings_of(name, algorithm),
            "curve": [[100, 1.0], [200, 5.0]],
            "seconds": 1.0,
        }

    monkeypatch.setattr(verification, "run", run)
    path = tmp_path / "deep" / "results.jsonl"
    keys = [("linear", "vdn", 0), ("linear", "vdn", 1), ("lbf", "central", 0)]
    verification.run_all(keys, path)
    assert made == keys[:2]  # the joint baselines do not play foraging
    runs = verification.run_all([*keys, ("linear", "vdn", 2)], path)
    assert made == [("linear", "vdn", seed) for seed in range(3)]
    assert runs == verification.finished(path)
    (row,) = verification.rows_of("linear", runs, [0, 1, 2])
    assert (row.scores, row.verdict) == ([5.0] * 3, "yes")

    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines[0]["settings"]["gamma"] = 0.5
    lines[1]["curve"][-1][1] = 4.0
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    runs = verification.finished(path)
    assert set(runs) == {("linear", "vdn", 1), ("linear", "vdn", 2)}
    (row,) = verification.rows_of("linear", runs, [0, 1, 2])
    assert row.verdict == "NO"  # one seed is enough


@pytest.mark.parametrize(("last", "verdict"), [(-63.0, "yes"), (-67.0, "NO")])
def test_of_other_problems_the_mean_is_judged(
    verification: ModuleType, last: float, verdict: str
) -> None:
    settings = {"total_steps": 200_000}
    runs = [
        {"curve": [[200_000, score]], "settings": settings, "seconds": 1.0}
        for score in (-60.0, -61.0, last)
    ]
    row = verification.Row("spread", "qmix", runs)
    assert row.verdict == verdict
    assert f"{np.mean(row.scores):.2f}" in row.cells()


def test_a_run_in_which_nothing_is_cut_off(verification: ModuleType) -> None:
    game = verification.MatrixGame(verification.PAYOFFS["linear"], 2)
    config = ippo.Config(total_steps=100, rollout_steps=25, seed=0)
    ippo.train(game, dataclasses.replace(config, shared=True), progress=False)
