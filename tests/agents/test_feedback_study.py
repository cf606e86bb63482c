"""The studies of RPPFeedback-v0 and RPPSession-v0: their set-up, and that the pages show it."""

from __future__ import annotations

import json
import runpy
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import PRESETS, Method, Plan, Study
from rpp_agents.experiments.raw import raw_lines, read_raw

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "docs" / "results"
STUDY, TUNING = Study.load("feedback"), Study.load("feedback-tuning")
PUBLISHED = {"feedback": "feedback.md", "session": "session.md"}
"""Studies of this form, and their pages."""
PAGE = (ROOT / "docs" / "feedback.md").read_text(encoding="utf-8")


def learners(plan: Plan) -> list[Method]:
    return [method for method in plan.methods if method.method == "rpp"]


def test_all_learners_have_as_many_points() -> None:
    points = defaultdict(list)
    for method in (*learners(TUNING), *learners(Study.load("feedback-variants-tuning"))):
        points[method.tunes].append(json.dumps(method.point))
    assert {len(set(each)) for each in points.values()} == {4}


def winners(name: str) -> dict[Any, tuple[float, dict[str, Any]]]:
    """The best score of each learner of a tuning study, with its config."""
    best: dict[Any, tuple[float, dict[str, Any]]] = {}
    grid = {method.label: method for method in Study.load(name).methods}
    for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        run = json.loads(line)
        method = grid.pop(run["method"])
        best[method.tunes] = max(best.get(method.tunes, (0.0, {})), (run["score"], method.config))
    assert not grid
    return best


def test_the_learners_play_with_what_won() -> None:
    """The point with the highest score on world 11; the paper's own numbers are not tuned."""
    best = winners("feedback-tuning")
    tuned = {method.label: dict(method.config) for method in learners(STUDY)}
    del tuned["A2C, the paper's numbers"]
    assert tuned == {label: config for label, (_, config) in best.items()}
    # The primary contrast is about the best of them.
    assert STUDY.primary["method"] == max(best, key=lambda label: best[label][0])
    # Sessions were not tuned: they have the same options.
    best |= winners("feedback-variants-tuning")
    for name in ("session", "session-variants"):
        for method in learners(Study.load(name)):
            if method.label in best:
                assert dict(method.config) == best[method.label][1]


def test_its_worlds_served_for_nothing_else() -> None:
    ours = ("feedback", "session", "session-variants")
    others: set[int] = set()
    for form in (Study, Bench):
        for path in (PRESETS / form.FORM).glob("*.toml"):
            if path.stem not in ours:
                plan = form.load(path.stem)
                others |= {draw for setting in plan.settings for draw in setting.draws}
    for name in ours:
        (setting,) = Study.load(name).settings
        assert not others & set(setting.draws)
        others |= set(setting.draws)


@pytest.mark.parametrize("name", ["feedback", "session", "session-variants"])
def test_learners_have_the_same_number_of_answers(name: str) -> None:
    plan = Study.load(name)
    (setting,) = plan.settings
    for method in learners(plan):
        assert plan.budget % (method.config["num_envs"] * setting.steps) == 0


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_tables_are_those_of_the_scores(name: str) -> None:
    page = (ROOT / "docs" / PUBLISHED[name]).read_text(encoding="utf-8")
    made = runpy.run_path(str(ROOT / "docs" / "study_tables.py"))
    for heading, table in (("Contrasts", "contrasts"), ("Table", "scores")):
        section = page.split(f"\n## {heading}\n")[1].split("\n## ")[0]
        said = f"run python docs/study_tables.py {name}"
        assert f"\n{made[table](name)}\n" in section, said


def test_the_variants_of_sessions_are_those_of_the_scores() -> None:
    page = (ROOT / "docs" / "session.md").read_text(encoding="utf-8")
    section = page.split("\n## Variants\n")[1].split("\n## ")[0]
    made = runpy.run_path(str(ROOT / "docs" / "study_tables.py"))
    for table in ("contrasts", "scores"):
        assert f"\n{made[table]('session-variants')}\n" in section
    raw = read_raw(RESULTS / "session-variants.scores.npz")
    names = ("MAPPO, private", "central PPO, private", "MAPPO", "central PPO")
    runs = {(one.draw, one.method.label) for one in Study.load("session-variants").runs()}
    assert set(zip(raw["draw"].tolist(), raw["method"].tolist(), strict=True)) == runs
    lines = raw_lines(raw, "movieworld-drift")
    weights = zip(names, (1, -1, -1, 1), strict=True)
    apart = lines.contrast({(name, "score"): weight for name, weight in weights})
    assert f"| with private minus with shared observations | {apart:+.3f} |" in section


def test_a_table_by_hand() -> None:
    """Two rows of docs/feedback.md, from the scores of each run and user."""
    raw = read_raw(RESULTS / "feedback.scores.npz")

    def by_world(method: str) -> dict[int, float]:
        mine = raw["method"] == method
        draws = raw["draw"][mine]
        means = np.nanmean(raw["score"][mine], axis=1)
        return {draw: float(means[draws == draw].mean()) for draw in np.unique(draws).tolist()}

    fixed = by_world("best fixed (whole table)")
    for method in ("random", "MAPPO"):
        scores = by_world(method)
        apart = [scores[draw] - fixed[draw] for draw in fixed]
        low, high = stats.ttest_1samp(apart, 0).confidence_interval(0.95)
        mean = np.mean(list(scores.values()))
        row = next(
            line for line in PAGE.splitlines() if line.startswith(f"| {method} | {mean:.3f}")
        )
        assert f"| {np.mean(apart):+.3f} [{low:+.3f}, {high:+.3f}] |" in row


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_run_was_made(name: str) -> None:
    study, raw = Study.load(name), read_raw(RESULTS / f"{name}.scores.npz")
    done = {
        label: sorted(raw["seed"][raw["method"] == label].tolist()) for label in set(raw["method"])
    }
    assert done == {one.label: list(study.seeds[: one.seeds]) for one in study.methods}
    lines = (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(lines) == len(raw["seed"])


@pytest.mark.parametrize("name", ["feedback-tuning", "feedback-variants-tuning"])
def test_the_points_of_tuning_are_on_the_page(name: str) -> None:
    text = PAGE.split("\n## Tuning\n")[1]
    for line in (RESULTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        assert f"{json.loads(line)['score']:.3f}" in text
