"""The study of prefixes for new users, in small: agents and the native solver at equal answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpp_agents.experiments.plan import Study
from tests.small_study import run_small


def test_the_settings_differ_in_the_form_of_a_prefix_alone() -> None:
    study = Study.load("ppr")
    codebook, vectors = (setting.problem(51) for setting in study.settings)
    assert codebook.pop("codebook") == 64
    assert codebook == vectors
    assert {setting.users_of("test") for setting in study.settings} == {480}
    assert study.primary["against"] in {method.label for method in study.methods}


@pytest.mark.timeout(400)
def test_agents_and_the_native_solver_spend_the_same_number_of_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = (
        ("draws = [51, 52, 53]", "draws = [0]"),
        ("train_users = 1680", "train_users = 64"),
        ("validation_users = 240", "validation_users = 12"),
        ("test_users = 480", "test_users = 24"),
        ("seeds = [0, 1, 2]", "seeds = [0]"),
        ("budget = 40_000", "budget = 512"),
        ("codebook = 64", "codebook = 8"),
        ('shots = "zero"', 'shots = "zero", num_users = 600, num_items = 200'),
    )
    calls, report = run_small("ppr", changes, tmp_path, capsys)
    assert {spent for (_, label), spent in calls.items() if label != "Random"} == {512}
    assert len(calls) == 8
    assert "| PPR (native) |" in report
    assert "| best fixed |" in report
