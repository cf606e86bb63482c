"""The study of SmolLM2, from answers to report, with a model of a few lines in its place."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path

import pytest

from rpp_agents.cli import main
from rpp_agents.experiments.plan import Study

METHODS = ("Random", "LinUCB", "RPP (MAPPO)")


def test_the_preset_asks_the_real_model_about_forms_and_lengths() -> None:
    study = Study.load("smollm2")
    setting, popular = study.settings
    for one in study.settings:
        assert one.model == "smollm2"
        assert one.options["rules"] == "RPPLikelihood-v0"
        assert one.recording  # so that other scores need no further answers
    assert (setting.train_users, setting.test_users) == (100, 200)
    assert study.primary["setting"] == setting.name
    assert popular.options["negatives"] == "popularity"
    assert study.primary["method"] in {method.label for method in study.methods}


@pytest.mark.timeout(400)
def test_every_kind_of_method_is_fitted_and_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (files("rpp_agents") / "experiments/presets/study/smollm2.toml").read_text()
    head, *methods = re.split(r"(?=\[\[methods\]\])", text)
    top, first, _ = re.split(r"(?=\[\[settings\]\])", head)
    head = top + first
    for old, new in (
        ('"ml-1m"', '"movieworld"'),
        ('"smollm2"', '"letters:Letters"'),
        ('recording = "smollm2.sqlite"', ""),
        ('model_options = { dtype = "bfloat16" }', 'score = "mean"'),
        ("train_users = 100", "train_users = 12"),
        ("test_users = 200", "test_users = 12"),
        ("seeds = [0, 1, 2]", "seeds = [0]"),
        ("budget = 6_000", "budget = 300"),
        ('"supervised (all asked)"', '"LinUCB"'),
        ('"best fixed, 5 merged"', '"Random"'),
    ):
        assert old in head
        head = head.replace(old, new)
    kept = [one for one in methods if any(f'label = "{name}"' in one for name in METHODS)]
    small = tmp_path / "small.toml"
    small.write_text(head + "".join(kept))
    words = ["study", str(small), "--trust", "letters:Letters", "--processes", "1"]
    assert main([*words, "--out", str(tmp_path / "out")]) == 0, capsys.readouterr().err
    lines = (tmp_path / "out" / "results.jsonl").read_text().splitlines()
    assert len(lines) == len(METHODS) == len(list(map(json.loads, lines)))
    report = (tmp_path / "out" / "report.md").read_text()
    assert all(name in report for name in METHODS)

    # The same study of its tables, in place of the model.
    answers = tmp_path / "answers"
    answers.mkdir()
    for split in ("train", "validation", "test"):
        (path,) = (tmp_path / "out" / "tables").glob(f"*-{split}-*.rpptable")
        path.rename(answers / f"{split}.rpptable")
    for old, new in (
        ('model = "letters:Letters"', f"model = 'table:{answers}'"),
        ('rank_by = "likelihood"', ""),
        ('score = "mean"', ""),
    ):
        assert small.read_text().count(old) == 1
        small.write_text(small.read_text().replace(old, new))
    words = ["study", str(small), "--processes", "1", "--out", str(tmp_path / "again")]
    assert main(words) == 0, capsys.readouterr().err
    again = (tmp_path / "again" / "results.jsonl").read_text().splitlines()
    for before, after in zip(map(json.loads, lines), map(json.loads, again), strict=True):
        for key in ("method", "users", "score", "curve", "testing", "choices"):
            assert before[key] == after[key], (before["method"], key)

    # The table knows that its model reads no order of candidates, so that it has all answers.
    text = small.read_text().replace('method = "random"', 'method = "merged_random"')
    small.write_text(text)
    only = ["--only", "SmolLM2, ml-1m/Random"]
    assert main([*words[:-1], str(tmp_path / "merged"), *only]) == 0, capsys.readouterr().err
