"""Trainers, recommenders and methods from outside run in train, bench and study."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from rpp_agents.cli import main
from rpp_agents.recommenders import default_config, fit
from rpp_agents.trainers import find_trainer, trainer_config, trainer_names
from rpp_env import load_dataset
from rpp_env.errors import InvalidOption
from tests.brought import PARTS, declare

pytestmark = pytest.mark.usefixtures("one_network")

MINE = "elsewhere:train"
SMALL = "num_users = 400, num_items = 100, fractions = [0.5, 0.2, 0.3]"


@pytest.fixture(autouse=True)
def brought(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "elsewhere.py").write_text(PARTS)
    declare(tmp_path, "rpp_env.trainers", always="elsewhere:train")
    declare(tmp_path, "rpp_env.recommenders", "second", newest="elsewhere:fit_newest")
    monkeypatch.syspath_prepend(str(tmp_path))
    # Workers are processes of their own.
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    monkeypatch.setitem(sys.modules, "elsewhere", None)
    monkeypatch.delitem(sys.modules, "elsewhere")
    return tmp_path


@pytest.mark.parametrize("name", [MINE, "always"])
def test_a_trainer_from_outside_trains(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    words = f"train {name} --rules RPPBandit-v0 --max-users 60 --eval-users 30 --num-envs 32 "
    words += f"--budget 1600 --total-steps 64 --always 2 --run-dir {folder}"
    assert main(words.split()) == 0, capsys.readouterr().err
    report = json.loads((folder / "report.json").read_text())
    assert report["name"] == ("elsewhere" if name == MINE else "always")
    assert report["about"]["users"] == 30


def test_its_options_are_options_of_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["train", MINE, "--help"])
    assert "--always" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert "always          Learns nothing at all." in capsys.readouterr().out
    assert trainer_names()[-1] == "always"


BENCH = f"""
total_steps = 320
num_envs = 16
evaluations = 2
train_users = 16
test_users = 12
seeds = [0]
worlds = [101]
[[environments]]
name = "bandit"
rules = "RPPBandit-v0"
options = {{ {SMALL} }}
[[algorithms]]
label = "mine"
trainer = "TRAINER"
config = {{ always = 1 }}
"""


def run_bench(tmp_path: Path, trainer: str, *more: str) -> int:
    file = tmp_path / "my.toml"
    file.write_text(BENCH.replace("TRAINER", trainer))
    return main(["bench", str(file), "--out", str(tmp_path / "out"), *more])


@pytest.mark.slow
def test_a_bench_runs_it_and_prints_its_table(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(tmp_path, "always", "--processes", "1") == 0
    out = capsys.readouterr().out
    assert "| mine " in out
    assert "| *best fixed prompt* " in out
    (cell,) = (tmp_path / "out" / "cells").glob("**/*.json")
    found = json.loads(cell.read_text())
    assert found["asked"]["config"]["always"] == 1
    assert found["asked"]["trainer"] == "always"
    assert len(found["scores"]) == 2


def test_code_in_a_file_is_run_when_it_is_confirmed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_bench(tmp_path, MINE) == 2
    err = capsys.readouterr().err
    assert f"algorithms[0].trainer {MINE}" in err
    assert f"--trust {MINE}" in err
    assert not (tmp_path / "out").exists()
    assert "elsewhere" not in sys.modules
    assert run_bench(tmp_path, MINE, "--trust", MINE, "--dry-run") == 0
    assert "0 of 2 are finished" in capsys.readouterr().out


STUDY = f"""
budget = 640
points = 2
[[settings]]
name = "tiny"
draws = [41]
train_users = 12
validation_users = 4
test_users = 8
tables = false
options = {{ {SMALL} }}
[[methods]]
label = "RPP (mine)"
method = "rpp"
config = {{ trainer = "always", options = {{ always = 1 }}, num_envs = 16 }}
[[methods]]
label = "newest"
method = "recommender"
config = {{ name = "newest", config = {{ last = 2 }} }}
[[methods]]
label = "my own"
method = "elsewhere:method"
config = {{ option = 2 }}
"""


@pytest.mark.slow
def test_a_study_runs_all_three(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = tmp_path / "mine.toml", tmp_path / "out"
    file.write_text(STUDY)
    words = ["study", str(file), "--out", str(out), "--trust", "elsewhere:method"]
    # In processes of their own, which must find the module as well.
    assert main([*words, "--processes", "2"]) == 0, capsys.readouterr().err
    found = {path.parent.name: json.loads(path.read_text()) for path in out.glob("cells/**/*.json")}
    assert set(found) == {"rpp-mine", "newest", "my-own"}
    assert found["rpp-mine"]["asked"]["config"]["options"] == {"always": 1}
    assert found["newest"]["asked"]["config"]["config"] == {"last": 2}
    assert found["my-own"]["asked"]["config"] == {"option": 2}
    assert all(0 <= s <= 1 for f in found.values() for s in f["scores"]["score"])


def test_objects_that_are_not_trainers_are_refused(brought: Path) -> None:
    (brought / "odd_parts.py").write_text(
        "from dataclasses import dataclass\n"
        "@dataclass\nclass Needs:\n    steps: int\n    total_steps: int = 1\n    seed: int = 0\n"
        "@dataclass\nclass Short:\n    seed: int = 0\n"
        "def bare(env): pass\n"
        "def needs(env, config: Needs): pass\n"
        "def short(env, config=Short()): pass\n"
        "class Klass: pass\n"
        "number = 5\n"
    )
    for name, said in (
        ("bare", "does not declare its options"),
        ("needs", "Needs.steps needs a default"),
        ("short", "has no total_steps"),
        ("Klass", "must be a function"),
        ("number", "must be a function"),
    ):
        with pytest.raises(InvalidOption, match=said):
            find_trainer(f"odd_parts:{name}")
    with pytest.raises(
        InvalidOption, match="x: option 'allways' is not known; did you mean 'always"
    ):
        trainer_config("always", {"allways": 1}, "x")
    with pytest.raises(InvalidOption, match="x: always must be a whole number, not '1'"):
        trainer_config("always", {"always": "1"}, "x")
    sys.modules.pop("odd_parts")


def test_a_recommender_from_outside_is_fitted() -> None:
    dataset = load_dataset("movieworld", num_users=60)
    assert default_config("newest").last == 1
    assert fit("newest", dataset).dataset is dataset
    with pytest.raises(InvalidOption, match="recommender 'newst' is not known; did you mean 'new"):
        fit("newst", dataset)


def test_the_installed_command_looks_where_it_is_run(tmp_path: Path) -> None:
    (tmp_path / "only_mine.py").write_text(PARTS)
    code = "import sys; from rpp_agents.cli import main; sys.exit(main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, "train", "only_mine:train", "--help"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "--always" in done.stdout
