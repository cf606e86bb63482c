"""Atomic writes of files, through errors, kills and power cuts."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from power_cut import Disk

from rpp_env.data.folders import alone, drop_unfinished, keep_folder, whole_file
from rpp_env.errors import WriteFailed


def write(path: Path, content: bytes) -> None:
    with whole_file(path) as file:
        file.write(content)


def test_a_file_is_the_old_or_the_new_one_after_a_power_cut(tmp_path: Path) -> None:
    path = tmp_path / "kept"
    write(path, b"old")
    done = False
    disk = Disk(tmp_path, note=lambda: done)
    with disk.watch():
        write(path, b"new")
        done = True
    assert len(disk.cuts) > 4
    for state, said in disk.cuts:
        assert state["kept"] in ((b"new",) if said else (b"old", b"new"))
    assert any(state["kept"] == b"old" for state, _ in disk.cuts)


def test_new_folders_are_there_after_a_power_cut(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    with disk.watch():
        write(tmp_path / "a" / "b" / "kept", b"new")
        wanted = {"a": None, "a/b": None, "a/b/kept": b"new"}
        assert disk.now() == (wanted, wanted, wanted)


def test_a_folder_is_whole_or_not_there_after_a_power_cut(tmp_path: Path) -> None:
    made = tmp_path / ".data-1"
    (made / "deep").mkdir(parents=True)
    disk = Disk(tmp_path)
    (made / "a.inter").write_bytes(b"rows")
    (made / "deep" / "b").write_bytes(b"more")
    wanted = {"data": None, "data/deep": None, "data/a.inter": b"rows", "data/deep/b": b"more"}
    with disk.watch():
        keep_folder(made, tmp_path / "data")
        assert disk.now() == (wanted, wanted, wanted)
    for state, _ in disk.cuts:
        assert "data" not in state or state == wanted


def test_files_deleted_after_a_write_are_safely_replaced(tmp_path: Path) -> None:
    """As a table replaces its parts: at no moment is there neither."""
    write(tmp_path / "part", b"answers")
    disk = Disk(tmp_path)
    with disk.watch():
        write(tmp_path / "table", b"answers")
        (tmp_path / "part").unlink()
    for state, _ in disk.cuts:
        assert b"answers" in state.values()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_refused_write_is_a_sentence_and_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "kept"
    write(path, b"old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(WriteFailed, match=r"kept cannot be written: No space left on device"):
        write(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_is_a_file_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    with pytest.raises(WriteFailed, match=r"runs is a file and no folder"):
        write(tmp_path / "runs" / "first" / "report.json", b"")


def test_an_error_of_ours_keeps_its_kind(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), whole_file(tmp_path / "kept"):
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


def test_only_leftovers_of_killed_writers_are_deleted(tmp_path: Path) -> None:
    left = [".kept-12-0a.part", ".kept-999-1f.part"]
    other = [".kept2-12-0a.part", "kept", ".kept-notes"]
    for name in left + other:
        (tmp_path / name).touch()
    drop_unfinished(tmp_path / "kept")
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(other)


TAKES_TURNS = """
import sys, time
from pathlib import Path
from rpp_env.data.folders import alone, write_text

path, count = Path(sys.argv[1]), 0
for _ in range(int(sys.argv[2])):
    with alone(path, wait=True):
        number = int(path.read_text())
        time.sleep(0.002)
        path.write_text(str(number + 1))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_processes_take_turns(tmp_path: Path) -> None:
    path = tmp_path / "counter"
    path.write_text("0")
    command = [sys.executable, "-W", "ignore", "-c", TAKES_TURNS, str(path), "25"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    children = [subprocess.Popen(command, env=environment) for _ in range(4)]
    assert [child.wait() for child in children] == [0] * 4
    assert path.read_text() == "100"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_process_that_does_not_wait_is_informed(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with alone(path, wait=False) as first:
        assert first
        with alone(path, wait=False) as second:
            assert not second
    with alone(path, wait=False) as third:
        assert third
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(sys.platform == "win32", reason="has no such locks")
def test_a_killed_process_lets_the_next_one_in(tmp_path: Path) -> None:
    path = tmp_path / "run"
    script = (
        "import os, signal\nfrom pathlib import Path\nfrom rpp_env.data.folders import alone\n"
        f"with alone(Path({str(path)!r}), wait=False): os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=False)
    assert list(tmp_path.iterdir())  # the file of its lock, which is free
    with alone(path, wait=False) as mine:
        assert mine
    assert not list(tmp_path.iterdir())
