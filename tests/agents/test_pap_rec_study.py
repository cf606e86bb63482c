"""The study of PAP-REC's words, in small: agents and the native solver at equal answers."""

from __future__ import annotations

from pathlib import Path

import pytest

from rpp_agents.experiments.plan import Study
from rpp_env import load_dataset
from rpp_env.data.clicks import training_clicks
from tests.small_study import run_small


def test_the_settings_differ_in_whose_words_are_chosen_alone() -> None:
    study = Study.load("pap_rec")
    own, shared = (setting.problem(0) for setting in study.settings)
    assert (own.pop("rules"), shared.pop("rules")) == ("PAPRec-v0", "PAPRecShared-v0")
    assert {name: shared.pop(name) for name in ("top", "group")} == {"top": 2, "group": 20}
    assert own == shared
    # Whole turns of the solver, and whole steps of all groups, come to the budget.
    users, budget = study.settings[0].train_users, study.budget
    assert not budget % (6 * users)
    assert not budget % (3 * users)
    assert not budget % (20 * 12)


@pytest.mark.slow
def test_agents_and_the_native_solver_spend_the_same_number_of_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("transformers")
    from rpp_env.recommenders.t5 import Config, train

    data = load_dataset("movieworld", num_users=120, num_items=200)
    config = Config(dim=16, layers=1, heads=2, feed_forward=32, negatives=9, rate=1e-2, epochs=1)
    model = train(data, training_clicks(data), config)
    monkeypatch.setattr("rpp_env.later_clicks._pretrained", lambda *_: model)
    world = "num_users = 120, num_items = 200, gradient_clicks = 1"
    changes = (
        ("draws = [0, 51, 52]", "draws = [0]"),
        ("train_users = 1000", "train_users = 40"),
        ("validation_users = 200", "validation_users = 6"),
        ("test_users = 1000", "test_users = 20"),
        ("seeds = [0, 1, 2]", "seeds = [0]"),
        ("budget = 42_000", "budget = 480"),
        ('"PAPRec-v0"', f'"PAPRec-v0", {world}'),
        ("top = 2, group", f'top = 2, shared_words = "drama comedy", {world}, group'),
    )
    calls, report = run_small("pap_rec", changes, tmp_path, capsys)
    assert len(calls) == 12
    trained = {key: spent for key, spent in calls.items() if key[1] not in ("Random", "best fixed")}
    assert set(trained.values()) == {480}, trained
    assert "| PAP-REC (native) |" in report
    assert "| MAPPO (groups) |" in report
