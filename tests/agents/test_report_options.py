"""Optional parts of a report: marl-eval's JSON, aggregates, grids, the page."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
import pytest

from rpp_agents.cli import main
from rpp_agents.experiments import plots
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import Redrawn, Run, Study
from rpp_agents.experiments.report import Options, marl_eval, write_report
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run_files import write_run

USERS = 20
TASKS = 6
HEIGHTS = {"fixed": 0.3, "merged": 0.32, "supervised": 0.5, "MAPPO": 0.4, "slow": 0.35}


def study(settings: int = TASKS) -> Study:
    rows = [{"name": f"s{i}", "draws": [i, 10 + i], "test_users": USERS} for i in range(settings)]
    rpp = {"method": "rpp", "config": {"trainer": "mappo"}}
    methods = [
        {"label": "fixed", "method": "enumerate_all"},
        {"label": "merged", "method": "merged_fixed"},
        {"label": "supervised", "method": "supervised"},
        {"label": "MAPPO", **rpp},
        {
            "label": "rate {}",
            **rpp,
            "variants": {
                "low": {"options": {"learning_rate": 1e-3}},
                "high": {"options": {"learning_rate": 1e-2}},
            },
            "settings": ["s0", "s1"],
        },
    ]
    content = {"seeds": [0, 1], "budget": 400, "points": 4, "settings": rows, "methods": methods}
    return Study.parse(content, "x")


def height(cell: Run) -> float:
    label = cell.method.label
    return HEIGHTS.get(label, 0.45 if label == "rate high" else 0.35) + 0.01 * cell.seed


def invented(plan: Study, out: Path) -> None:
    """Files as a study leaves them: in each draw users differ, and all methods alike."""
    for job in plan.jobs(plan.runs()):
        if isinstance(job, Redrawn):
            continue
        base = np.random.default_rng(job.draw).uniform(-0.1, 0.1, USERS)
        scores = (base - base.mean() + height(job)).round(5).tolist()
        # A trainer has a point at each quarter; a method that learns at once has one.
        shares = (0.5, 0.7, 0.9, 1.0) if job.method.method == "rpp" else (1.0,)
        curve = [
            {"calls": 100 * (i + 1), "train": 0.3, "validation": 0.3, "test": height(job) * share}
            for i, share in enumerate(shares)
        ]
        found: dict[str, Any] = {
            "training": {"calls": 400, "unique": 400, "tokens": 9, "seconds": 1.0, "users": 9},
            "testing": {"calls": 1, "different": 1.0, "tokens": 9.0, "named": 1.0},
            "curve": curve,
            "whose": f"{job.setting.name} {job.draw}",
            "unsure": [],
            "choices": {"kinds": [], "counts": [], "shares": {}},
            "cells": [],
            "scores": dict.fromkeys(("score", "first", "last", "merged"), scores),
        }
        write_run(out / job.file, {"asked": job.asked, **found})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Study, Path]:
    plan, out = study(), tmp_path_factory.mktemp("study")
    invented(plan, out)
    return plan, out


def rows_of(text: str, head: str) -> dict[str, list[str]]:
    section = text.partition(f"## {head}")[2].partition("\n## ")[0]
    lines = [line.strip("|").split("|") for line in section.splitlines() if line.startswith("| ")]
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


@pytest.mark.slow
def test_optional_sections_are_left_out_by_default(done: tuple[Study, Path]) -> None:
    plan, out = done
    text = write_report(plan, out, Options(page=False)).read_text()
    assert "All tasks together" not in text
    assert "Tuning" not in text
    assert not (out / "marl_eval.json").exists()
    assert not (out / "index.html").exists()


@pytest.mark.slow
def test_aggregates_over_the_tasks_of_a_study(done: tuple[Study, Path]) -> None:
    plan, out = done
    text = write_report(plan, out, Options(iqm=True)).read_text()
    rows = rows_of(text, "All tasks together")
    gap = HEIGHTS["supervised"] - HEIGHTS["fixed"]
    for label in ("MAPPO", "merged"):
        # A seed lifts all methods of its draw alike, so that it cancels.
        share = (HEIGHTS[label] - HEIGHTS["fixed"]) / gap
        assert rows[label][0].startswith(f"{share:.3f} [")
        assert rows[label][2].startswith(f"{1 - share:.3f} [")
        assert rows[label][-1] == str(2 * TASKS)
    assert rows["fixed"][0].startswith("0.000")
    assert "rate high" not in rows  # not run in all of the tasks
    better = rows_of(text, "Probability of improvement over merged")
    assert better["MAPPO"][-1].startswith("1.00")
    assert better["fixed"][-1].startswith("0.00")
    assert better["rate high"][0].startswith("1.00")
    assert {"overall.png", "improvement.png"} <= {path.name for path in out.glob("plots/*")}


@pytest.mark.slow
def test_too_few_tasks_are_reported(tmp_path: Path) -> None:
    plan = study(TASKS - 1)
    invented(plan, tmp_path)
    text = write_report(plan, tmp_path, Options(iqm=True, page=False)).read_text()
    assert "too few tasks for aggregates over tasks: 5 with a significant gap" in text


@pytest.mark.slow
def test_variants_are_a_grid(done: tuple[Study, Path]) -> None:
    plan, out = done
    text = write_report(plan, out, Options(grids=True)).read_text()
    lines = [line for line in text.splitlines() if line.startswith("| rate |")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert [(row[1], row[2], row[-1]) for row in cells] == [
        ("1", "learning_rate 0.001", ""),
        ("2", "learning_rate 0.01", "**best**"),
    ]
    assert cells[1][3:5] == ["0.4550", "0.4550"]
    assert cells[1][5:9] == [""] * 4  # settings where no point is run
    assert cells[1][-3:-1] == ["0.4550", "4"]


def test_missing_grids_are_reported(tmp_path: Path) -> None:
    plan = Study.parse(
        {
            "seeds": [0, 1],
            "points": 4,
            "budget": 400,
            "settings": [{"name": "s0", "draws": [0, 10], "test_users": USERS}],
            "methods": [{"label": "fixed", "method": "enumerate_all"}],
        },
        "x",
    )
    invented(plan, tmp_path)
    text = write_report(plan, tmp_path, Options(grids=True, page=False)).read_text()
    assert "There are no grids." in text


@pytest.mark.slow
def test_marl_eval_of_a_study(done: tuple[Study, Path]) -> None:
    """Its points are evenly spaced in the budget; what learns at once has its score everywhere."""
    plan, out = done
    write_report(plan, out, Options(marl_eval=True, page=False))
    data = json.loads((out / "marl_eval.json").read_text())
    assert data == marl_eval(Results.read(plan, out))
    tasks = data["rpp_env"]
    assert set(tasks) == {f"s{i}" for i in range(TASKS)}
    for algorithms in tasks.values():
        for runs in algorithms.values():
            assert list(runs) == ["seed_0", "seed_1"]
            for run in runs.values():
                steps = [run[f"step_{i}"] for i in range(4)]
                assert [step["step_count"] for step in steps] == [100, 200, 300, 400]
                assert steps[-1]["ndcg_10"] == run["absolute_metrics"]["ndcg_10"]
                assert all(math.isfinite(step["ndcg_10"][0]) for step in steps)
    learner, fixed = (tasks["s0"][label]["seed_0"] for label in ("MAPPO", "fixed"))
    np.testing.assert_allclose(
        [learner[f"step_{i}"]["ndcg_10"][0] for i in range(4)], [0.2, 0.28, 0.36, 0.4], atol=1e-5
    )
    assert len({fixed[f"step_{i}"]["ndcg_10"][0] for i in range(4)}) == 1


def test_a_method_that_stops_early_keeps_its_score() -> None:
    cell = study().runs()[0]
    curve = [{"calls": 100, "test": 0.1}, {"calls": 150, "test": 0.25}]
    found = {"scores": {"score": [0.2, 0.4]}, "curve": curve}
    assert cell.path(found) == ([100, 200, 300, 400], [0.1, *[pytest.approx(0.3)] * 3])
    assert cell.path(found | {"curve": []})[1] == [pytest.approx(0.3)] * 4


def test_a_bench_has_a_page(tmp_path: Path) -> None:
    with ZipFile(Path(__file__).with_name("results_of_before.zip")) as file:
        file.extractall(tmp_path)
    folder = tmp_path / "bench-smoke"
    with pytest.warns(match="earlier version"):
        write_report(Bench.load("smoke"), folder)
    page = (folder / "index.html").read_text()
    assert "Bench smoke" in page
    assert "steps/s" in page
    assert "environment steps" in page


def test_the_command_takes_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["report", "--help"])
    shown = capsys.readouterr().out
    for option in ("--marl-eval", "--iqm", "--grids", "--no-page", "--against"):
        assert option in shown


@pytest.mark.parametrize(("count", "begins", "named"), [(12, "At", 12), (13, "Highest at", 12)])
def test_a_picture_names_all_of_a_few_methods_and_the_highest_of_many(
    count: int, begins: str, named: int
) -> None:
    scores = {f"method {i}": i / 100 for i in range(count)}
    said = plots._ending(scores, " on ml-1m")
    assert said.startswith(f"{begins} the end on ml-1m: ")
    assert said.count("method") == named
    assert f"method {count - 1} 0.{count - 1}" in said
    assert ("method 0 0.000" in said) == (count == named)
