"""The pilot: verdicts on simulated users, power, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

from rpp_agents.cli import main
from rpp_agents.experiments.pilot import (
    Answers,
    Halves,
    Pilot,
    Ridge,
    analyse,
    ask,
    choose_cells,
    power,
    primary,
)
from rpp_agents.experiments.problem import Users
from rpp_agents.experiments.statistics import Contrast
from rpp_env import RPPEnv
from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.models.scripted import echo


def simulated(users: int, gain: float, seed: int, prompts: int = 10, K: int = 20) -> Answers:
    """Simulate users: their first feature determines the half of the prompts that earns more."""
    rng = np.random.default_rng(seed)
    seen = rng.standard_normal((users, 12))
    liked = (seen[:, :1] > 0) == (np.arange(prompts) < prompts // 2)
    rank = rng.integers(1, K + 1, (users, prompts))
    rewards = ndcg(rank).astype(np.float64) + 2 * gain * liked
    points = np.argsort(rng.random((users, prompts, K)), axis=-1) + 1
    return Answers(seen, rewards, points, rng.integers(K, size=users))


def users_of(model: Any = "embedded", count: int = 40, **options: Any) -> Users:
    env = RPPEnv.make("movieworld", model, max_users=count, num_users=600, **options)
    return Users(env, env)


# The verdict, where the truth is known


def test_personalising_pays_in_movieworld() -> None:
    users = users_of(count=400)
    answers = ask(users, choose_cells(users, 12, seed=1))
    found = analyse(answers, replicates=20)
    assert found.verdict == "pays"
    assert found.contrast.low > 0
    assert found.contrast.value == pytest.approx(
        found.scores["personal prompt"].mean() - found.scores["best fixed prompt"].mean()
    )


def test_a_model_that_ignores_the_prompt() -> None:
    """It lists the candidates as they are shown: nothing to gain, and sixty users show it."""
    users = users_of(echo(), count=60)
    answers = ask(users, choose_cells(users, 6, seed=0))
    assert (answers.rewards == answers.rewards[:, :1]).all()
    assert answers.rewards.any()
    found = analyse(answers, replicates=20)
    assert found.verdict == "does not pay"
    assert (found.contrast.low, found.contrast.high) == (0, 0)
    assert found.power == 1.0


def test_too_few_users() -> None:
    users = users_of(count=10)
    found = analyse(ask(users, choose_cells(users, 10, seed=0)), replicates=20)
    assert found.verdict == "cannot be told"
    assert found.power < 0.5
    assert found.needed is None or found.needed > 10
    with pytest.raises(InvalidOption, match="8 users and 2 prompts or more; got 7 and 10"):
        analyse(ask(users_of(count=7), choose_cells(users, 10, seed=0)))


@pytest.mark.parametrize(
    ("interval", "strength", "best", "verdict"),
    [
        ((0.001, 0.2), 0.1, 0.3, "pays"),
        ((0.0, 0.2), 1.0, 0.3, "cannot be told"),
        ((-0.02, 0.029), 0.8, 0.3, "does not pay"),
        ((-0.02, 0.029), 0.79, 0.3, "cannot be told"),
        ((-0.02, 0.03), 1.0, 0.3, "cannot be told"),
        ((-0.2, -0.1), 0.9, 0.3, "does not pay"),
        ((-0.02, 0.01), 0.1, 0.02, "does not pay"),  # hindsight alone shows it
        ((-0.02, 0.01), 0.1, 0.03, "cannot be told"),
    ],
)
def test_the_rule_of_the_verdict(
    interval: tuple[float, float], strength: float, best: float, verdict: str
) -> None:
    contrast = Contrast(sum(interval) / 2, *interval, 0.5)
    scores = {"hindsight": np.array([0.5, 0.5]) + best, "best fixed prompt": np.full(2, 0.5)}
    assert Pilot(scores, contrast, 0.03, strength, None, 100, 0.227).verdict == verdict


# How often it is wrong


def test_no_gain_is_reported_without_an_effect() -> None:
    """200 pilots of 40 users without a connection: 2.5% is the nominal share of "pays"."""
    wrong = 0
    for seed in range(200):
        answers = simulated(40, 0.0, seed)
        wrong += primary(answers.observations, answers.rewards, seed).low > 0
    assert wrong <= 10


def test_gains_are_detected_at_the_stated_power() -> None:
    found = np.mean(
        [
            primary(a.observations, a.rewards, seed).low > 0
            for seed in range(100)
            for a in [simulated(120, 0.1, seed)]
        ]
    )
    said = power(simulated(120, 0.1, 1000), 120, 0.1, replicates=100)
    assert found == pytest.approx(said, abs=0.25)
    assert said > 0.3
    assert power(simulated(120, 0.1, 1000), 120, 0.0, replicates=100) <= 0.07
    # Neither more users nor a larger gain make it weaker.
    assert power(simulated(120, 0.1, 1000), 480, 0.1, replicates=50) >= 0.9


# Nothing is chosen on the users that it is scored on


def test_a_users_rewards_do_not_affect_their_own_prompt() -> None:
    answers = simulated(40, 0.1, 0)
    halves = Halves(answers.observations, seed=0)
    fixed, personal = halves.fixed(answers.rewards), halves.personal(answers.rewards)
    for _, scored in halves.ways:
        changed = answers.rewards.copy()
        changed[scored] = np.random.default_rng(1).random(changed[scored].shape)
        np.testing.assert_array_equal(halves.fixed(changed)[scored], fixed[scored])
        np.testing.assert_array_equal(halves.personal(changed)[scored], personal[scored])
    fit, scored = halves.ways[0]
    changed = answers.rewards.copy()
    changed[fit, 3] += 5
    assert (halves.fixed(changed)[scored] == 3).all()
    assert set(np.concatenate([fit, scored])) == set(range(40))


def test_ridge_is_least_squares_or_the_mean() -> None:
    rng = np.random.default_rng(0)
    inputs = rng.standard_normal((200, 3)) * [1, 5, 0] + 2
    exact = inputs[:, :2] @ [[1.0, -1.0], [2.0, 0.5]] + 3
    new = rng.standard_normal((20, 3))
    new[:, 2] = 2
    wanted = new[:, :2] @ [[1.0, -1.0], [2.0, 0.5]] + 3
    np.testing.assert_allclose(Ridge(inputs).predict(exact, new), wanted, rtol=0.05, atol=0.2)
    noise = rng.standard_normal((200, 2))
    spread = Ridge(inputs).predict(noise, inputs).std(axis=0)
    assert (spread < 0.2).all()


def test_prompts_cover_every_option_evenly() -> None:
    users = users_of(count=8)
    cells = choose_cells(users, 45, seed=0)
    assert len(set(cells.tolist())) == 45
    for axis, options in enumerate(np.unravel_index(cells, users.shape)):
        counts = np.bincount(options, minlength=users.shape[axis])
        reachable = counts[users.env.space.axes[axis].lowest :]
        assert reachable.min() >= 45 // len(reachable) - 2
    assert len(choose_cells(users, 10**6, seed=0)) == len(set(range(users.cells)))


# The command


@pytest.fixture(autouse=True)
def few_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rpp_agents.experiments.pilot._MOST_FACTOR", 4)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pilot", "--num-users", "300", "--calls", "160", "--prompts", "4", "--no-sasrec"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "40 train users" in shown
    numbers = json.loads((tmp_path / "pilot.json").read_text())
    assert (numbers["users"], numbers["calls"], len(numbers["prompts"])) == (40, 160, 4)
    assert numbers["primary"]["contrast"] == "personal prompt - best fixed prompt"
    assert numbers["verdict"] in {"pays", "does not pay", "cannot be told"}
    text = (tmp_path / "pilot.md").read_text()
    for line in ("chance", "popularity", "five fixed prompts merged", "hindsight"):
        assert f"| {line} " in text
    again = numbers
    assert main([*words, "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "pilot.json").read_text()) == again


def test_answers_are_recorded_and_not_requested_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []
    model = echo()
    answer = model.complete

    def complete(requests: Any) -> Any:
        asked.extend(requests)
        return answer(requests)

    monkeypatch.setattr(model, "complete", complete)
    monkeypatch.setattr("rpp_env.factory.open_model", lambda *_, **__: model)
    words = [
        "pilot",
        "--num-users",
        "300",
        "--prompts",
        "4",
        "--no-sasrec",
        "--model",
        "mine:model",
    ]
    words += ["--out", str(tmp_path)]
    assert main([*words, "--calls", "40"]) == 0
    first = len(asked)
    assert 30 < first <= 40  # short histories make some prompts the same
    report = (tmp_path / "pilot.md").read_text()
    assert "asks mine:model up to 40 times" in capsys.readouterr().err
    assert main([*words, "--calls", "40"]) == 0
    assert len(asked) == first
    assert (tmp_path / "pilot.md").read_text() == report
    assert main([*words, "--calls", "80"]) == 0
    assert first < len(asked) <= 80
    assert "It does not pay" in (tmp_path / "pilot.md").read_text()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--calls", "79"], "take 80 calls; got calls=79"),
        (["--prompts", "1"], "prompts 2 or more"),
        (["--worth", "0"], "worth above 0"),
        (["--rewrite", "embedded"], "--rewrite"),
        (["--rules", "PPR-v0"], "infinitely many"),
        (["--seed", "-1"], "seed"),
    ],
)
def test_impossible_options_are_refused(
    words: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["pilot", "--num-users", "300", "--out", str(tmp_path), *words]) == 2
    assert said in capsys.readouterr().err
