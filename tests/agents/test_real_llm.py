"""The report of benchmarks/real_llm.py, with the embedded model."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rpp_env.metrics import chance_ndcg

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "real_llm.py"


def run(out: Path, *options: str, model: str = "embedded") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SCRIPT), "--model", model, "--dataset", "movieworld"]
    command += ["--rules", "RPPBandit-v0", "--sample", "12", "--titles", "8", "--out", str(out)]
    paths = {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), *sys.path])}
    return subprocess.run(
        [*command, *options], capture_output=True, text=True, check=False, env=os.environ | paths
    )


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_report_and_its_resumption(tmp_path: Path) -> None:
    first = run(tmp_path, "--users", "40")
    assert first.returncode == 0, first.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["reading"]["answers"] == 40 * 1125
    assert report["reading"]["whole"] == 1.0  # this world lets every reply be whole
    assert report["any prompt"]["chance"] == pytest.approx(chance_ndcg(20), abs=1e-4)
    assert report["any prompt"]["score"] > 0.25 > report["any prompt"]["score_by_luck"]
    # With so many prompts, nearly every user has one that beats chance by luck.
    assert min(report["any prompt"]["best"], report["any prompt"]["best_by_luck"]) > 0.9
    assert report["recital"] == {"asked": 8, "recalled": 0.0, "shuffled": 0.0}
    for agreement in report["agreement"]:
        assert agreement["compared"] == 12
        assert agreement["correlation"] == agreement["same_first"] == 1.0
    assert report["diagnosis"]
    assert (tmp_path / "report.md").read_text().strip() == first.stdout.strip()
    # The model is not called again, and could not be.
    again = run(tmp_path, "--users", "40", model=f"recording:{tmp_path}/answers.sqlite")
    assert again.returncode == 0, again.stderr
    replayed = json.loads((tmp_path / "report.json").read_text())
    assert replayed["run"]["asked"] == 0
    assert replayed["agreement"] == report["agreement"]


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_report_by_likelihood(tmp_path: Path) -> None:
    done = run(tmp_path, "--users", "24", "--rank-by", "likelihood", model="letters:Letters")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["run"]["rank_by"] == "likelihood"
    assert report["reading"]["named"] == report["reading"]["whole"] == 1.0  # nothing is parsed
    # It writes a title instead of a list, and has no letters.
    (pair,) = report["agreement"]
    assert (pair["ways"], pair["compared"]) == (["generate", "likelihood"], 0)


def test_the_score_by_luck(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where orders are noise, the target fares as any other candidate."""
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    import real_llm

    rng = np.random.default_rng(0)

    class Table:
        orders = rng.permuted(np.tile(np.arange(20, dtype=np.uint8), (400, 30, 1, 1)), axis=3)
        named = np.full((400, 30, 1), 20, dtype=np.uint8)
        positions = rng.integers(20, size=400).astype(np.uint8)

    luck = real_llm.AnyPrompt.of([Table()])
    assert luck.score == pytest.approx(luck.score_by_luck, abs=0.01)
    assert luck.score_by_luck == pytest.approx(chance_ndcg(20), abs=0.005)
    assert luck.best == pytest.approx(luck.best_by_luck, abs=0.03)
    # And a model that puts the target first wherever it may: no luck.
    Table.orders = np.roll(Table.orders, 0)
    for row, position in enumerate(Table.positions):
        place = Table.orders[row, :, 0] == position
        Table.orders[row, :, 0][place] = Table.orders[row, :, 0, 0]
        Table.orders[row, :, 0, 0] = position
    knows = real_llm.AnyPrompt.of([Table()])
    assert knows.score == knows.mean == knows.best == 1.0
    assert knows.score_by_luck < chance_ndcg(20)


def test_an_error_is_one_line(tmp_path: Path) -> None:
    failed = run(tmp_path, model="http://127.0.0.1:9/v1")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: ")
    assert "#" in failed.stderr
    assert "Traceback" not in failed.stderr
