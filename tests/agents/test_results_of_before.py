"""Folders that earlier versions wrote are still reported with the same numbers, and go on."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from rpp_agents.cli import main
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.jobs import unfinished
from rpp_agents.experiments.plan import Plan, Study
from rpp_agents.experiments.results import Results

pytestmark = pytest.mark.filterwarnings("ignore:files of finished runs of an earlier version")

ROOT = Path(__file__).parents[2]
REWORDED = [
    ("*significant* is yes", "*significant (Holm)* is yes"),
    ("| significant |", "| significant (Holm) |"),
    (
        "remain when Holm's correction allows for so many comparisons",
        "are significant (Holm, over all pairs)",
    ),
]
"""Words of reports that have changed since."""


@pytest.fixture(scope="module")
def before(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bench-smoke`` and ``study-smoke``, each with the report of its time."""
    folder = tmp_path_factory.mktemp("before")
    with ZipFile(Path(__file__).with_name("results_of_before.zip")) as file:
        file.extractall(folder)
    for name in ("bench-smoke", "study-smoke"):
        for path in (folder / name).glob("*.*"):
            if path.suffix != ".toml":
                path.rename(path.with_name(f"old-{path.name}"))
    assert main(["bench", "smoke", "--out", str(folder / "bench-smoke"), "--report"]) == 0
    assert main(["report", str(folder / "study-smoke"), "--no-users"]) == 0
    return folder


@pytest.mark.parametrize("name", ["bench-smoke", "study-smoke"])
def test_the_same_cells_give_the_same_report(before: Path, name: str) -> None:
    expected = (before / name / "old-report.md").read_text()
    for old, new in REWORDED:
        expected = expected.replace(old, new)
    assert (before / name / "report.md").read_text() == expected
    old_lines, lines = (before / name / f"{old}results.jsonl" for old in ("old-", ""))
    assert lines.read_bytes() == old_lines.read_bytes()


def test_marl_evals_file_has_level_lines_beside_what_it_had(before: Path) -> None:
    old, new = (
        json.loads((before / "bench-smoke" / name).read_text())["rpp_env"]
        for name in ("old-marl_eval.json", "marl_eval.json")
    )
    for task, algorithms in new.items():
        lines = {label: algorithms.pop(label) for label in list(algorithms) if "prompt" in label}
        lines |= {"observable reference": algorithms.pop("observable reference")}
        assert algorithms == old[task]
        levels = json.loads(
            (before / f"bench-smoke/levels/movieworld-{_rules(task)}/w101.json").read_text()
        )
        run = lines["best fixed prompt"]["seed_0"]
        assert run["absolute_metrics"]["ndcg_10"] == [levels["scores"]["fixed"]]
        steps = {label: list(runs) for label, runs in (algorithms | lines).items()}
        assert len({tuple(runs) for runs in steps.values()}) == 1


def _rules(task: str) -> str:
    return "rppbandit-v0" if task.endswith("bandit") else "rpp-v0"


@pytest.mark.parametrize(
    ("form", "name"), [(Bench, "bench-smoke"), (Study, "study-smoke")], ids=["bench", "study"]
)
def test_nothing_is_run_again(before: Path, form: type[Plan], name: str) -> None:
    plan = form.load("smoke")
    assert unfinished(plan.jobs(plan.cells()), before / name) == []


def test_a_bench_keeps_its_file_and_is_reported_from_it(before: Path) -> None:
    folder = before / "bench-smoke"
    report = (folder / "report.md").read_bytes()
    (folder / "report.md").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.md").read_bytes() == report


# ---- raw scores ----


def arrays(folder: Path) -> dict[str, Any]:
    with np.load(folder / "scores.npz", allow_pickle=False) as file:
        return dict(file)


@pytest.mark.parametrize(
    ("form", "name"), [(Bench, "bench-smoke"), (Study, "study-smoke")], ids=["bench", "study"]
)
def test_the_raw_scores_hold_every_users_in_every_run(
    before: Path, form: type[Plan], name: str
) -> None:
    raw, results = arrays(before / name), Results.read(form.load("smoke"), before / name)
    assert len(raw["score"]) == len(results.cells) + 3 * len(results.levels)
    for cell, found in results.cells:
        (row,) = np.flatnonzero(
            (raw["setting"] == cell.setting.name)
            & (raw["method"] == cell.method.label)
            & (raw["seed"] == cell.seed)
            & (raw["draw"] == cell.draw)
        )
        for column, scores in cell.per_user(found).items():
            np.testing.assert_array_equal(raw[column][row], scores)
    same = {(draw, group) for draw, group in zip(raw["draw"], raw["group"], strict=True)}
    assert len(same) == 2  # two worlds, each with users of its own
    assert raw["users"].shape == raw["score"][:2].shape


def test_a_published_interval_follows_from_its_raw_scores() -> None:
    script = runpy.run_path(str(ROOT / "docs" / "interval.py"))
    file = ROOT / "docs" / "results" / "movieworld.scores.npz"
    found = script["interval"](file, "movieworld", "RPP (MAPPO)", "best fixed, 5 merged")
    rows = (ROOT / "docs" / "study.md").read_text().splitlines()
    row = next(row for row in rows if row.startswith("| RPP (MAPPO) | 0.467 [0.431, 0.503] | +"))
    assert "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found) in row.split("|")[4]


@pytest.mark.parametrize(
    ("form", "name", "pair"),
    [
        (Bench, "bench-smoke", ("movieworld", "discount 0", "fixed")),
        (Study, "study-smoke", ("movieworld", "RPP (MAPPO)", "best fixed, 5 merged")),
    ],
    ids=["bench", "study"],
)
def test_numpy_alone_gives_the_interval_of_the_report(
    before: Path, form: type[Plan], name: str, pair: tuple[str, str, str]
) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "interval.py"))
    found = script["interval"](before / name / "scores.npz", *pair)
    results = Results.read(form.load("smoke"), before / name)
    setting = next(one for one in results.settings if one.name == pair[0])
    wanted = results.minus(setting, *pair[1:])
    np.testing.assert_allclose(found, (wanted.value, wanted.low, wanted.high), atol=2e-4)
