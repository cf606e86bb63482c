"""A simulated disk that loses unsynced data at a power cut.

While a `Disk` watches, the real folder is what the running program sees. Beside it the disk keeps
what is promised to survive: a file's bytes as they were when the file was synced, and a folder's
names as they were when the folder was synced. At every system call that moves, deletes or syncs
something, three worst cases are kept: *nothing* that was not synced has reached the disk; only the
*deletions* have; and *all names* have, but of the bytes only what was synced, so that a file that
was moved into its place before it was synced is empty there.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

Tree = dict[str, bytes | None]
"""Contents by path below the root; None for a folder."""


class Disk:
    """Watches a folder; `cuts` are the states that a power cut could have left so far.

    Parameters
    ----------
    root : Path
        It exists already; what lies in it counts as synced.
    note : callable, optional
        What it gives is kept with each cut, such as how far the program says that it is.
    """

    def __init__(self, root: Path, note: Callable[[], Any] = lambda: None) -> None:
        self.root = root
        self.note = note
        self.cuts: list[tuple[Tree, Any]] = []
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}
        self._open: list[int] = []  # so that no number of a file is used again
        for place in [root, *root.rglob("*")]:
            self._keep(os.open(place, os.O_RDONLY))
        self._root = root.stat().st_ino

    @contextmanager
    def watch(self) -> Iterator[Disk]:
        """Keep all cuts in this block."""
        real = {
            name: getattr(os, name) for name in ("fsync", "rename", "replace", "unlink", "rmdir")
        }

        def watched(name: str) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                self._cut()
                given = real[name](*arguments, **options)
                if name == "fsync":
                    # Not os.dup: what is open for writing only can be read this way.
                    self._keep(os.open(f"/proc/self/fd/{arguments[0]}", os.O_RDONLY))
                self._cut()
                return given

            return call

        with pytest.MonkeyPatch.context() as patch:
            for name in real:
                patch.setattr(os, name, watched(name))
            yield self
            self._cut()
        for number in self._open:
            os.close(number)

    def _keep(self, number: int) -> None:
        self._open.append(number)
        about = os.fstat(number)
        if stat.S_ISDIR(about.st_mode):
            self._names[about.st_ino] = {
                entry.name: (entry.inode(), entry.is_dir()) for entry in os.scandir(number)
            }
        else:
            self._bytes[about.st_ino] = os.pread(number, about.st_size, 0)

    def now(self) -> tuple[Tree, Tree, Tree]:
        """What a power cut at this moment may leave: the three worst cases."""
        nothing = dict(self._synced(self._root, ""))
        deletions = {name: kept for name, kept in nothing.items() if (self.root / name).exists()}
        return nothing, deletions, dict(self._named())

    def _cut(self) -> None:
        for state in self.now():
            cut = (state, self.note())
            if cut not in self.cuts:
                self.cuts.append(cut)

    def _synced(self, folder: int, prefix: str) -> Iterator[tuple[str, bytes | None]]:
        for name, (number, is_folder) in self._names.get(folder, {}).items():
            if is_folder:
                yield f"{prefix}{name}", None
                yield from self._synced(number, f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}", self._bytes.get(number, b"")

    def _named(self) -> Iterator[tuple[str, bytes | None]]:
        for place in self.root.rglob("*"):
            name = place.relative_to(self.root).as_posix()
            yield name, None if place.is_dir() else self._bytes.get(place.stat().st_ino, b"")


def restore(state: Tree, folder: Path) -> Path:
    """Make the folder that a cut left."""
    folder.mkdir(parents=True)
    for name, content in sorted(state.items()):
        if content is None:
            (folder / name).mkdir()
        else:
            (folder / name).write_bytes(content)
    return folder
