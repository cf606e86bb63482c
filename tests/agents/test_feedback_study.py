"""The study of RPPFeedback-v0: how it was set up, and that docs/feedback.md has its results."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import PRESETS, Method, Plan, Study
from rpp_agents.experiments.raw import raw_lines, read_raw
from rpp_agents.experiments.statistics import Contrast, holm

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
STUDY, TUNING = Study.load("feedback"), Study.load("feedback-tuning")
(SETTING,) = STUDY.settings
PAGE = (ROOT / "docs" / "feedback.md").read_text(encoding="utf-8")


def learners(plan: Plan) -> list[Method]:
    return [method for method in plan.methods if method.method == "rpp"]


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the first table below a heading, by their first cell."""
    text = PAGE.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {row[0]: row[1:] for row in found[1:]}


def test_all_learners_have_as_many_points() -> None:
    points = defaultdict(list)
    for method in learners(TUNING):
        points[method.tunes].append(json.dumps(method.point))
    assert {len(set(each)) for each in points.values()} == {4}
    assert len(TUNING.runs()) == 4 * len(points)


def test_the_learners_play_with_what_won() -> None:
    """The point with the highest score on world 11; the paper's own numbers are not tuned."""
    best: dict[Any, tuple[float, dict[str, Any]]] = {}
    grid = {method.label: method for method in TUNING.methods}
    for line in (RESULTS / "feedback-tuning.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        method = grid.pop(run["method"])
        best[method.tunes] = max(best.get(method.tunes, (0.0, {})), (run["score"], method.config))
    assert not grid
    tuned = {method.label: dict(method.config) for method in learners(STUDY)}
    del tuned["A2C, the paper's numbers"]
    assert tuned == {label: config for label, (_, config) in best.items()}
    # The primary contrast is about the best of them.
    assert STUDY.primary["method"] == max(best, key=lambda label: best[label][0])


def test_its_worlds_served_for_nothing_else() -> None:
    others: set[int] = set()
    for form in (Study, Bench):
        for path in (PRESETS / form.FORM).glob("*.toml"):
            if path.stem not in ("feedback", "session"):
                plan = form.load(path.stem)
                others |= {draw for setting in plan.settings for draw in setting.draws}
    for name in ("feedback", "session"):
        (setting,) = Study.load(name).settings
        assert not others & set(setting.draws)
        others |= set(setting.draws)


@pytest.mark.parametrize("name", ["feedback", "session"])
def test_learners_have_the_same_number_of_answers(name: str) -> None:
    plan = Study.load(name)
    (setting,) = plan.settings
    for method in learners(plan):
        assert plan.budget % (method.config["num_envs"] * setting.steps) == 0


RAW = raw_lines(read_raw(RESULTS / "feedback.scores.npz"), SETTING.name)


def minus(method: str, against: str) -> Contrast:
    return RAW.minus((method, "score"), (against, "score"))


def test_the_table_is_that_of_the_scores() -> None:
    shown = table("Table")
    assert set(shown) == {method.label for method in STUDY.methods}
    trained = defaultdict(list)
    for line in (RESULTS / "feedback.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        trained[run["method"]].append(run["curve"][-1]["train"])
    for label, (score, apart, _, _, first, last, train) in shown.items():
        assert score == str(RAW.mean((label, "score")))
        if label not in ("random", "best fixed (whole table)"):
            assert apart == f"{minus(label, 'best fixed (whole table)'):+.3f}"
        for cell, column in ((first, "first"), (last, "last")):
            assert cell in ("", f"{RAW.mean((label, column)).value:.3f}")
        assert train == f"{np.mean(trained[label]):.3f}"


def test_the_contrasts_are_those_that_were_named() -> None:
    text = PAGE.split("\n## Contrasts\n")[1].split("\n## ")[0]
    found = [minus(one.method, one.against) for one in STUDY.contrasts]
    for one, value, significant in zip(STUDY.contrasts, found, holm(found), strict=True):
        said = f"{value:+.3f} | {'yes' if significant else 'no'} |"
        assert f"| {one.method} | {one.against} | {said}" in text
    assert len(re.findall(r"^\| .*\[", text, re.MULTILINE)) == len(found)


def test_every_run_was_made() -> None:
    raw = read_raw(RESULTS / "feedback.scores.npz")
    done = {
        label: sorted(raw["seed"][raw["method"] == label].tolist()) for label in set(raw["method"])
    }
    assert done == {one.label: list(STUDY.seeds[: one.seeds]) for one in STUDY.methods}


def test_the_points_of_tuning_are_on_the_page() -> None:
    text = PAGE.split("\n## Tuning\n")[1]
    for line in (RESULTS / "feedback-tuning.jsonl").read_text(encoding="utf-8").splitlines():
        assert f"{json.loads(line)['score']:.3f}" in text
