"""Ctrl-C while a command runs: exit status 130, no invalid file, no process left."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(os.name != "posix", reason="signals of POSIX"),
    pytest.mark.timeout(300),
]

MAIN = "import sys; from rpp_agents.cli import main; sys.exit(main(sys.argv[1:]))"

# However fast the machine: the third epoch of the first network lasts until it is interrupted.
# scikit-learn catches the interrupt here, and would return what it has.
WHILE_FITTING = """
import itertools, sys, time
from sklearn.neural_network import MLPRegressor
epochs, real = itertools.count(1), MLPRegressor._update_no_improvement_count
def counted(*given, **named):
    if next(epochs) == 3:
        print("the third epoch", file=sys.stderr, flush=True)
        time.sleep(120)
    real(*given, **named)
MLPRegressor._update_no_improvement_count = counted
"""

BENCH = """
total_steps = 400_000
num_envs = 16
evaluations = 1
train_users = 16
test_users = 12
seeds = [0, 1]
worlds = [101]
[[environments]]
name = "bandit"
rules = "RPPBandit-v0"
options = { num_users = 400, num_items = 100 }
[[algorithms]]
label = "quick"
trainer = "mappo"
num_envs = 16
config = { rollout_steps = 1, hidden = [4] }
"""


def of_group(group: int) -> list[str]:
    """The processes that are left of a process group."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[2]) == group and fields[0] != "Z":
            found.append(stat.parent.name)
    return found


def command(
    words: list[str],
    cwd: Path,
    when: Callable[[Path, str], bool],
    after: float = 0.3,
    code: str = MAIN,
) -> tuple[int, str]:
    """Exit code and error output of a command that is interrupted, as a terminal does it."""
    log = cwd / "log.txt"
    with (
        log.open("w") as err,
        subprocess.Popen(
            [sys.executable, "-c", code, *words],
            cwd=cwd,
            stdout=err,
            stderr=err,
            start_new_session=True,
        ) as running,
    ):
        until = time.monotonic() + 200
        try:
            while not when(cwd, log.read_text()):
                assert running.poll() is None, log.read_text()
                assert time.monotonic() < until, log.read_text()
                time.sleep(0.05)
            time.sleep(after)
            os.killpg(running.pid, signal.SIGINT)
            status = running.wait(timeout=60)
            time.sleep(0.5)
            assert of_group(running.pid) == []
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
    return status, log.read_text()


def interrupted_while_fitting(words: list[str], cwd: Path) -> tuple[int, str]:
    return command(words, cwd, lambda _, said: "the third epoch" in said, 0, WHILE_FITTING + MAIN)


@pytest.mark.slow
@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_bench_keeps_finished_runs(processes: str, tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(BENCH)
    words = ["bench", str(file), "--out", "out", "--processes", processes]
    levels = "out/levels/**/*.json"
    code, said = command(words, tmp_path, lambda cwd, _: bool(list(cwd.glob(levels))), after=2)
    assert code == 130
    assert "the same command resumes from the finished runs in out" in " ".join(said.split())
    assert "Traceback" not in said
    assert not list(tmp_path.glob("out/**/*.failed.txt"))
    assert not list(tmp_path.glob("out/cells/**/*.json"))
    assert len(list(tmp_path.glob(levels))) == 1


@pytest.mark.slow
def test_a_bench_keeps_no_level_of_a_reference_that_was_cut_short(tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(BENCH)
    words = ["bench", str(file), "--out", "out", "--processes", "1"]
    code, said = interrupted_while_fitting(words, tmp_path)
    assert code == 130, said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("out/levels/**/*.json"))


@pytest.mark.slow
def test_the_reference_of_a_command_is_not_fitted_in_part(tmp_path: Path) -> None:
    words = "diagnose --rules RPPBandit-v0 --train-users 30 --users 30 --processes 2 --json d.json"
    code, said = interrupted_while_fitting(words.split(), tmp_path)
    assert code == 130, said
    assert "Traceback" not in said
    assert "NDCG" not in said
    assert not (tmp_path / "d.json").exists()


@pytest.mark.slow
def test_training_states_how_to_resume(tmp_path: Path) -> None:
    words = "train mappo --rules RPPBandit-v0 --max-users 60 --num-envs 32 --run-dir run"
    code, said = command(
        [*words.split(), "--total-steps", "9000000"],
        tmp_path,
        lambda cwd, _: len(rows(cwd / "run" / "progress.csv")) > 3,
    )
    assert code == 130, said
    assert "the same command resumes from the last checkpoint in run" in " ".join(said.split())
    assert "Traceback" not in said
    assert (tmp_path / "run" / "checkpoint.safetensors").is_file()
    assert not (tmp_path / "run" / "report.md").exists()


def rows(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.is_file() else []


@pytest.mark.slow
def test_a_line_now_and_then_where_there_is_no_terminal(tmp_path: Path) -> None:
    code = MAIN.replace("sys.exit", "import rpp_agents.ticking as t; t.EVERY = 0.005; sys.exit")
    words = "train mappo --rules RPPBandit-v0 --max-users 60 --num-envs 32 --eval-users 30 "
    words += "--budget 1600 --total-steps 6400 --run-dir run"
    done = subprocess.run(
        [sys.executable, "-c", code, *words.split()],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert re.search(r"^MAPPO: iteration [\d,]+ of 200, .*, \d+ s$", done.stderr, re.MULTILINE)
    assert re.search(r"^playing: .*, \d+ s$", done.stderr, re.MULTILINE)
