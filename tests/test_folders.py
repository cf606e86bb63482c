"""Folders from others: nothing is written outside them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import rpp_env
from rpp_env.data.folders import alone, check_folder
from rpp_env.errors import InvalidData
from rpp_env.table import tabulate

Make = Callable[[Path, Path], None]
"""Function that puts a file or link into a folder, given the folder and a file outside."""


def _far(folder: Path, outside: Path) -> None:
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "a" / "b" / "c").symlink_to(outside)


def _chain(folder: Path, outside: Path) -> None:
    (folder / "one").symlink_to("two")
    (folder / "two").symlink_to(outside)


def _socket(folder: Path, _: Path) -> None:
    import socket

    before = Path.cwd()
    os.chdir(folder)  # the names of sockets are short
    try:
        with socket.socket(socket.AF_UNIX) as made:
            made.bind("s")
    finally:
        os.chdir(before)


REFUSED: dict[str, Make] = {
    "a file": lambda folder, outside: (folder / "x").symlink_to(outside),
    "a folder": lambda folder, outside: (folder / "x").symlink_to(outside.parent),
    "nothing yet": lambda folder, outside: (folder / "x").symlink_to(outside.with_name("new")),
    "relative": lambda folder, outside: (folder / "x").symlink_to("../" + outside.name),
    "above": lambda folder, _: (folder / "x").symlink_to(".."),
    "the root": lambda folder, _: (folder / "x").symlink_to("/"),
    "a name that begins alike": lambda folder, _: (folder / "x").symlink_to(f"{folder}2"),
    "far inside": _far,
    "by two links": _chain,
    "a device": lambda folder, _: (folder / "x").symlink_to("/dev/zero"),
    "a pipe": lambda folder, _: os.mkfifo(folder / "x"),
    "a socket": _socket,
}


@pytest.mark.parametrize("kind", REFUSED)
def test_contents_that_lead_outside_a_folder_are_refused(kind: str, tmp_path: Path) -> None:
    folder, outside = tmp_path / "folder", tmp_path / "outside"
    folder.mkdir()
    outside.write_text("mine")
    REFUSED[kind](folder, outside)
    with pytest.raises(InvalidData, match=r"[dD]elete"):
        check_folder(folder)


def test_links_that_stay_in_a_folder_are_allowed(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "runs" / "one").mkdir(parents=True)
    (folder / "runs" / "latest").symlink_to("one")
    (folder / "again").symlink_to(folder / "runs")
    (folder / "self").symlink_to(".")
    (folder / "loop").symlink_to("loop")
    (folder / "gone").symlink_to("nothing")
    (folder / ".venv").symlink_to("/usr")
    check_folder(folder)
    check_folder(tmp_path / "not there")
    (tmp_path / "mine").symlink_to(folder)
    check_folder(tmp_path / "mine")
    with pytest.raises(InvalidData, match="is a link"):
        check_folder(tmp_path / "mine", itself=True)


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_is_not_opened_through_a_link(kind: str, tmp_path: Path) -> None:
    lock, outside = tmp_path / ".t.lock", tmp_path / "outside"
    if kind == "link":
        lock.symlink_to(outside)
    else:
        os.mkfifo(lock)
    with (
        pytest.raises(InvalidData, match=r"\.t\.lock is not a file"),
        alone(tmp_path / "t", wait=True),
    ):
        pass
    assert not outside.exists()


def test_a_tables_parts_are_written_beside_it_and_nowhere_else(tmp_path: Path) -> None:
    env = rpp_env.RPPEnv.make(num_users=60, num_items=100, max_users=2)
    outside = tmp_path / "outside"
    outside.mkdir()
    parts = tmp_path / "t.rpptable.parts"
    for inside in (False, True):
        if inside:
            parts.mkdir()
            (parts / "000000.npz").symlink_to(outside / "part")
        else:
            parts.symlink_to(outside)
        with pytest.raises(InvalidData, match="is a link"):
            tabulate(env, tmp_path / "t.rpptable")
        assert not list(outside.iterdir())
        if not inside:
            parts.unlink()
