"""Hostile folders of benches and studies, read by the commands that report them."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rpp_agents.cli import main
from rpp_agents.experiments import run, run_files
from rpp_agents.experiments.run_files import read_run, write_run
from rpp_env.errors import InvalidData, RPPWarning

BENCHMARKS = str(Path(__file__).parents[2] / "benchmarks")
sys.path.insert(0, BENCHMARKS)
try:
    attack: Any = importlib.import_module("attack_folders")
finally:
    sys.path.remove(BENCHMARKS)


def refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    capsys.readouterr()
    assert main(words) == 2
    lines = capsys.readouterr().err.strip("\n").split("\n")
    *warnings, err = lines  # of an old matplotlib
    assert all(line.startswith("rpp-env: warning: ") for line in warnings)
    assert err.startswith("rpp-env: ")
    assert len(err) < 2000
    assert err.isprintable()
    return err


@pytest.mark.parametrize("kind", [*attack.ANY, *attack.FITS])
def test_a_hostile_cell_of_a_study_is_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changed = attack.study_folder(tmp_path / "out")[0]
    (attack.ANY | attack.FITS)[kind](changed)
    err = refused(["report", str(tmp_path / "out")], capsys)
    assert "s0.json" in err or "Manual draw 1 seed 0" in err
    assert not (tmp_path / "out" / "report.md").exists()


@pytest.mark.parametrize("kind", [*attack.ANY, *attack.TRAINS])
def test_a_hostile_cell_of_a_bench_is_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    changed = attack.bench_folder(out)[0]
    (attack.ANY | attack.TRAINS)[kind](changed)
    err = refused(["bench", str(out / "tiny.toml"), "--report", "--out", str(out)], capsys)
    assert "s0.json" in err or "tiny/A world 1 seed 0" in err
    assert not (out / "report.md").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", attack.PLANS)
def test_a_hostile_plan_is_a_sentence(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    attack.study_folder(tmp_path / "out")
    (tmp_path / "out" / "tiny.toml").write_text(attack.PLANS[kind])
    assert "tiny.toml" in refused(["report", str(tmp_path / "out")], capsys)


def test_valid_invented_runs_are_reported_unchanged(tmp_path: Path) -> None:
    attack.study_folder(tmp_path / "study")
    assert main(["report", str(tmp_path / "study")]) == 0
    out = tmp_path / "bench"
    attack.bench_folder(out)
    assert main(["bench", str(out / "tiny.toml"), "--report", "--out", str(out)]) == 0


def test_a_run_without_a_digest_is_read_with_a_warning(tmp_path: Path) -> None:
    path = attack.study_folder(tmp_path / "out")[0]
    whole = read_run(path, run_files.FITTED)
    path.write_bytes(run_files._DIGEST.sub(b"\n}\n", path.read_bytes()))
    with pytest.warns(RPPWarning, match="carry no digest"):
        assert read_run(path, run_files.FITTED) == whole


def test_all_cells_together_are_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    attack.study_folder(tmp_path / "out")
    monkeypatch.setattr(run_files, "LARGEST_TOGETHER", 5000)
    assert "a report reads 5,000 at most" in refused(["report", str(tmp_path / "out")], capsys)


@pytest.mark.parametrize("kind", ["bytes", "another shape", "another type", "objects", "no digest"])
def test_scores_that_cannot_be_used_are_fitted_again(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    arrays: dict[str, Any] = {
        "another shape": np.zeros((3, 4), np.float32),
        "another type": np.zeros((2, 4), np.int64),
    }
    if kind == "bytes":
        path.write_bytes(b"PK" + bytes(100))
    elif kind == "objects":
        np.savez(path, scores=np.array([{}], object))
    elif kind == "no digest":
        np.savez(path, scores=np.zeros((2, 4), np.float32))
    else:
        run.write_arrays(path, {"scores": arrays[kind]})
    with pytest.warns(RPPWarning, match="are fitted again"):
        assert run._kept_scores(path, (2, 4)) is None
    run.write_arrays(path, {"scores": np.ones((2, 4), np.float32)})
    found = run._kept_scores(path, (2, 4))
    assert found is not None
    assert found.sum() == 8


def test_a_file_that_cannot_be_is_not_written_over(tmp_path: Path) -> None:
    write_run(tmp_path / "a.json", {"asked": {}, "more": 1})
    with pytest.raises(InvalidData, match=r"a\.json holds no finished run \('curve' is missing"):
        read_run(tmp_path / "a.json", run_files._table(curve=run_files._rows(run_files._SCORE)))
