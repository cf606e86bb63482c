"""Folders of earlier versions give the same reports, and their runs can be resumed."""

from __future__ import annotations

import json
import re
import runpy
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from rpp_agents.cli import main
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.jobs import unfinished
from rpp_agents.experiments.plan import Method, Plan, Run, Setting, Study
from rpp_agents.experiments.raw import raw_lines, raw_scores, read_raw
from rpp_agents.experiments.results import Results

pytestmark = pytest.mark.filterwarnings("ignore:files of finished runs of an earlier version")

ROOT = Path(__file__).parents[2]
REWORDED = [
    ("*significant* is yes", "*significant (Holm)* is yes"),
    ("| significant |", "| significant (Holm) |"),
    (f"{'':11} |    the mean", " gamma 0.95 |    the mean"),
    ("minus rival", "minus baseline"),
    (
        "about all train users; ",
        "about all train users (in a study without that method, within the budget); ",
    ),
    (
        "orders of the candidates, and merged. ",
        "orders of the candidates, and merged (without that method, as before). ",
    ),
    ("-scores.png)\n", "-scores.png)\n\n![](plots/main-movieworld-tokens.png)\n"),
    ("as the rivals' are", "as the baselines' are"),
    ("rewriter's own calls come on top", "rewriter's own calls are not counted"),
    (
        "remain when Holm's correction allows for so many comparisons",
        "are significant (Holm, over all pairs)",
    ),
    (
        "task) with Student's t.",
        "task) with Student's t; one without width says that all worlds agree, not that others would.",  # noqa: E501
    ),
]
"""Reworded parts of reports; the smoke bench also states its discount now."""
MINUS_ENUMERATE = {
    "Manual | 0.401 [-0.782, 1.585]": "-0.044 [-1.473, +1.385]",
    "Random | 0.342 [-0.154, 0.838]": "-0.104 [-0.355, +0.147]",
    "best fixed, 5 merged | 0.459 [0.376, 0.541]": "+0.013 [-0.150, +0.176]",
    "RPP (MAPPO) | 0.334 [-0.569, 1.236]": "-0.112 [-0.769, +0.545]",
    "RPP+ (MAPPO) | 0.396 [-0.294, 1.087]": "-0.050 [-0.495, +0.395]",
    "Pop | 0.308 [-0.217, 0.833]": "-0.138 [-0.418, +0.142]",
}
"""Rows of the smoke study, which has no `enumerate_all`: now they are compared with `enumerate`."""
ALT = re.compile(r"^!\[.*\]", re.MULTILINE)
"""Alternative texts of pictures, which have changed since."""


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
    # The default discount was 0.95 when the folder's file was written.
    file = folder / "study-smoke" / "smoke.toml"
    now = file.read_text().replace("num_envs = 32", "num_envs = 32, options = { gamma = 0.95 }")
    file.write_text(now)
    assert main(["bench", "smoke", "--out", str(folder / "bench-smoke"), "--report"]) == 0
    assert main(["report", str(folder / "study-smoke"), "--no-users"]) == 0
    return folder


@pytest.mark.parametrize("name", ["bench-smoke", "study-smoke"])
def test_the_same_runs_give_the_same_report(before: Path, name: str) -> None:
    expected = (before / name / "old-report.md").read_text()
    for old, new in REWORDED:
        expected = expected.replace(old, new)
    for row, minus in MINUS_ENUMERATE.items():
        expected = expected.replace(f"| {row} |   |", f"| {row} | {minus} |")
    report = (before / name / "report.md").read_text()
    assert ALT.sub("![]", report) == ALT.sub("![]", expected)
    old_lines, lines = (before / name / f"{old}results.jsonl" for old in ("old-", ""))
    assert lines.read_bytes() == old_lines.read_bytes()


def test_the_marl_eval_file_has_baselines_and_its_earlier_runs(before: Path) -> None:
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
    assert unfinished(plan.jobs(plan.runs()), before / name) == []


def test_a_bench_keeps_its_file_and_is_reported_from_it(before: Path) -> None:
    folder = before / "bench-smoke"
    report = (folder / "report.md").read_bytes()
    (folder / "report.md").unlink()
    assert main(["report", str(folder)]) == 0
    assert (folder / "report.md").read_bytes() == report


# ---- raw scores ----


@pytest.mark.parametrize(
    ("form", "name"), [(Bench, "bench-smoke"), (Study, "study-smoke")], ids=["bench", "study"]
)
def test_the_raw_scores_hold_every_users_in_every_run(
    before: Path, form: type[Plan], name: str
) -> None:
    raw, results = (
        read_raw(before / name / "scores.npz"),
        Results.read(form.load("smoke"), before / name),
    )
    assert len(raw["score"]) == len(results.finished) + 3 * len(results.levels)
    for cell, found in results.finished:
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


@pytest.mark.parametrize("setting", ["movieworld", "ml-1m", "lastfm", "games"])
@pytest.mark.parametrize("method", ["RPP (MAPPO)", "LinUCB", "supervised, 5 merged", "SASRec"])
def test_a_published_interval_follows_from_its_raw_scores(setting: str, method: str) -> None:
    check_interval("study", f"### {setting}", setting, method)


@pytest.mark.parametrize("method", ["RPP (A2C)", "supervised (all asked)", "Random", "SASRec"])
@pytest.mark.parametrize(
    ("heading", "setting"),
    [
        ("## Table", "SmolLM2, ml-1m"),
        ("## Negatives by popularity", "SmolLM2, ml-1m, popular negatives"),
    ],
)
def test_an_interval_of_smollm2_follows_from_its_raw_scores(
    heading: str, setting: str, method: str
) -> None:
    check_interval("smollm2", heading, setting, method)


def check_interval(name: str, heading: str, setting: str, method: str) -> None:
    """Compare a row's difference from the baseline with the one that docs/interval.py computes."""
    script = runpy.run_path(str(ROOT / "docs" / "interval.py"))
    file = ROOT / "docs" / "results" / f"{name}.scores.npz"
    found = script["interval"](file, setting, method, "best fixed, 5 merged")
    page = (ROOT / "docs" / f"{name}.md").read_text().split(f"\n{heading}\n")[1]
    row = next(row for row in page.splitlines() if row.startswith(f"| {method} |"))
    assert row.split("|")[4].strip() == "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


@pytest.mark.parametrize("name", ["movieworld", "movieworld-private", "movieworld-all"])
def test_every_published_lead_of_a_bench_follows_from_its_raw_scores(name: str) -> None:
    script = runpy.run_path(str(ROOT / "docs" / "interval.py"))
    file = ROOT / "docs" / "results" / f"{name}.scores.npz"
    bench = Bench.load(name)
    page = (ROOT / "docs" / "results.md").read_text()
    for setting in bench.settings:
        heading = HEADINGS.get(name, "\n### {}\n").format(setting.name.replace("-private", ""))
        lines = page.split(heading)[1].split("\n## ")[0].split("\n### ")[0].splitlines()
        rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if "|" in line]
        place = rows[0].index("minus best fixed")
        shown = {row[0]: row[place] for row in rows}
        for method in {run.method.label for run in bench.runs() if run.setting == setting}:
            found = script["interval"](file, setting.name, method, "fixed")
            assert shown[method] == "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found)


HEADINGS = {
    "movieworld-private": "\n### {}, private\n",
    "movieworld-all": "\n## All users of {}\n",
}
"""Headings of a bench's tables in docs/results.md, where they are not the tasks' names alone."""


@pytest.mark.parametrize(
    ("form", "name", "against"),
    [(Bench, "bench-smoke", "fixed"), (Study, "study-smoke", "best fixed, 5 merged")],
    ids=["bench", "study"],
)
def test_numpy_alone_and_the_command_give_the_intervals_of_the_report(
    before: Path,
    form: type[Plan],
    name: str,
    against: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = before / name / "scores.npz"
    script, raw = runpy.run_path(str(ROOT / "docs" / "interval.py")), read_raw(file)
    assert main(["report", str(file), "--against", against]) == 0
    shown = capsys.readouterr().out
    results = Results.read(form.load("smoke"), before / name)
    for setting in results.settings:
        lines = raw_lines(raw, setting.name)
        for label in results.labels(setting):
            for column in ("score", "first", "last"):
                assert lines.mean((label, column)) == results.score(setting, label, column)
            if label == against:
                continue
            wanted = results.minus(setting, label, against)
            assert lines.minus((label, "score"), (against, "score")) == wanted
            found = script["interval"](file, setting.name, label, against)
            np.testing.assert_allclose(found, (wanted.value, wanted.low, wanted.high), atol=2e-4)
            assert f"{wanted:+.3f}" in shown


def crafted(shared: bool, draws: int, runs: int) -> dict[str, Any]:
    """Two methods in some draws, with users of their own in each or the same in all."""
    rng, users = np.random.default_rng(draws), 30
    rows = [(m, d, s) for m in ("ours", "theirs") for d in range(draws) for s in range(runs)]
    scores = rng.random((len(rows), users)).round(3)
    values = np.append(np.unique(scores), np.nan)
    return {
        "setting": np.array(["x"] * len(rows)),
        "method": np.array([m for m, _, _ in rows]),
        "draw": np.array([d for _, d, _ in rows]),
        "seed": np.array([s for _, _, s in rows]),
        "group": np.array([0 if shared else d for _, d, _ in rows]),
        "values": values,
        "score": np.searchsorted(values[:-1], scores).astype(np.uint16),
    }


@pytest.mark.parametrize("runs", [1, 3])
@pytest.mark.parametrize("draws", [1, 2, 5])
@pytest.mark.parametrize("shared", [True, False])
def test_the_script_follows_every_design(
    tmp_path: Path, shared: bool, draws: int, runs: int
) -> None:
    file = tmp_path / "scores.npz"
    np.savez_compressed(file, **crafted(shared, draws, runs))
    script = runpy.run_path(str(ROOT / "docs" / "interval.py"))
    found = script["interval"](file, "x", "ours", "theirs")
    lines = raw_lines(read_raw(file), "x")
    wanted = lines.minus(("ours", "score"), ("theirs", "score"))
    np.testing.assert_allclose(found, (wanted.value, wanted.low, wanted.high), atol=1e-4)


def test_a_file_of_raw_scores_is_small(before: Path) -> None:
    """Two bytes a number: 52 methods in five worlds with 800 users each are less than 1 MB."""
    with np.load(before / "study-smoke" / "scores.npz", allow_pickle=False) as file:
        assert {str(file[name].dtype) for name in ("score", "first", "last", "merged")} == {
            "uint16"
        }
        assert np.isnan(file["values"][-1])
        assert (np.diff(file["values"][:-1]) > 0).all()


def test_more_numbers_than_two_bytes_count_take_four() -> None:
    setting, method = Setting("x", test_users=70_000), Method("m", "random")
    scores = np.linspace(0, 1, 70_000).round(6).tolist()
    cell = Run(Study.load("smoke"), setting, method, 0, 0)
    found = {"scores": {"score": scores}, "whose": "w"}
    results = Results(cell.plan, [(cell, found)], {}, {}, 1)
    raw = raw_scores(results, ROOT)
    assert raw["score"].dtype == np.uint32
    np.testing.assert_array_equal(raw["values"][raw["score"][0]], scores)


@pytest.mark.parametrize(
    "broken",
    [
        {"score": np.array([["x"]])},
        {"score": np.full((10, 30), 60_000, np.uint16)},
        {"values": np.array([2.0, np.nan])},
        {"method": np.array(["one"])},
        {"draw": np.array([0.5] * 10)},
        {"setting": np.array([{}], object)},
        {"score": np.zeros((0, 30), np.uint16)},
        {"group": None},
    ],
)
def test_raw_scores_of_others_are_refused_with_a_sentence(
    tmp_path: Path, broken: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = crafted(shared=True, draws=5, runs=1) | broken
    file = tmp_path / "scores.npz"
    np.savez(file, **{name: one for name, one in arrays.items() if one is not None})
    assert main(["report", str(file)]) == 2
    assert "holds no raw scores" in capsys.readouterr().err


def test_other_files_than_raw_scores_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "scores.npz"
    for content in (None, b"", b"PK\x03\x04", b"not a zip"):
        if content is not None:
            file.write_bytes(content)
        assert main(["report", str(file)]) == 2
        assert "holds no raw scores" in capsys.readouterr().err
    np.savez(file, **crafted(shared=True, draws=2, runs=1))
    assert main(["report", str(file), "--against", "our"]) == 2
    assert "did you mean 'ours'" in capsys.readouterr().err
    assert main(["report", str(tmp_path), "--against", "ours"]) == 2
    assert "--against is for a file of raw scores" in capsys.readouterr().err
