"""Folders of the package, and atomic writing of files."""

from __future__ import annotations

import errno
import glob
import os
import secrets
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from rpp_env.errors import InvalidData, RPPError, RPPWarning, WriteFailed

if sys.platform != "win32":
    import fcntl

__all__ = [
    "alone",
    "cache_dir",
    "check_folder",
    "check_place",
    "drop_unfinished",
    "keep_folder",
    "make_folder",
    "whole_file",
    "write_text",
    "writing",
]

_UNFINISHED = ".part"
"""Suffixes of files that are still being written."""


def cache_dir() -> Path:
    """Return the package's cache folder: ``$RPP_ENV_CACHE``, else the platform's cache location.

    It may not exist yet. Everything in it can be made again, so it is safe to delete.
    """
    chosen = os.environ.get("RPP_ENV_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "rpp_env"


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """Write a file atomically, even if the power fails.

    The data go to a file next to `path`. When the block ends without an error, that file is synced
    to the disk, replaces `path`, and the folder is synced: from then on it is safe to delete what
    the file replaces. After an error `path` is unchanged. Folders are made as needed.

    Parameters
    ----------
    path : Path

    Yields
    ------
    file
        Binary, for writing, reading and seeking.

    Raises
    ------
    WriteFailed
        If the system refuses: a full disk, no permission, a folder that is a file.
    """
    # Not tempfile.mkstemp: its files cannot be read by others, whatever the umask.
    beside = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}{_UNFINISHED}")
    with writing(path):
        make_folder(path.parent)
        try:
            with beside.open("x+b") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            beside.replace(path)
        except BaseException:
            with suppress(OSError):
                beside.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def keep_folder(made: Path, place: Path) -> None:
    """Move a finished folder to its place atomically, as `whole_file` does for a file.

    Raises
    ------
    WriteFailed
        If the system refuses.
    """
    with writing(place):
        for inside in [*made.rglob("*"), made]:
            _sync(inside)
        made.rename(place)
        _sync(place.parent)


def write_text(path: Path, text: str) -> None:
    """Write text as UTF-8, as `whole_file` writes."""
    with whole_file(path) as file:
        file.write(text.encode())


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Convert an OSError in this block to a `WriteFailed` that names `path`."""
    try:
        yield
    except RPPError:
        raise
    except OSError as error:
        raise WriteFailed(
            f"{path} cannot be written: {error.strerror or error}; what was there before is kept"
        ) from error


@contextmanager
def alone(path: Path, *, wait: bool) -> Iterator[bool]:
    """Be the only process that makes `path`, among those that use this function.

    When a process ends, however it ends, the next one may continue. If the file system has no
    locks, every process continues.

    Parameters
    ----------
    path : Path
    wait : bool
        Wait for a process that holds the lock; a warning is issued.

    Yields
    ------
    bool
        Whether this process holds the lock; always true if it waits.

    Raises
    ------
    WriteFailed
        If the system refuses.
    """
    lock = path.with_name(f".{path.name}.lock")
    with writing(path):
        make_folder(path.parent)
        held = _lock(lock, wait=False)
        if held is None and wait:
            message = f"waiting for another process, which makes {path}"
            warnings.warn(message, RPPWarning, stacklevel=3)
            held = _lock(lock, wait=True)
    try:
        yield held is not None
    finally:
        if held is not None:
            lock.unlink(missing_ok=True)
            held.close()


def _lock(lock: Path, *, wait: bool) -> BinaryIO | None:
    """Return the lock's open file once it is held; None if another process holds it."""
    while True:
        held = _open_lock(lock)
        if sys.platform == "win32":  # has no such locks
            return held
        try:
            fcntl.flock(held, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            held.close()
            return None
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.EINVAL):
                held.close()
                raise
        except BaseException:
            held.close()
            raise
        # Its previous holder may have deleted the file meanwhile: then the lock is worthless.
        try:
            there = lock.stat().st_ino
        except FileNotFoundError:
            there = None
        if there == os.fstat(held.fileno()).st_ino:
            return held
        held.close()


def _open_lock(lock: Path) -> BinaryIO:
    """Open a lock's file, made as needed; never through a link or as a pipe."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    flags |= getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        return os.fdopen(os.open(lock, flags, 0o666), "ab")
    except OSError:
        if lock.is_symlink() or lock.is_fifo():
            raise InvalidData(f"{lock} is not a file: delete it, or give another folder") from None
        raise


def check_folder(folder: Path, *, itself: bool = False) -> None:
    """Check that no link in a folder leads outside it, before files are read or written there.

    Folders of runs, benchmarks, studies and parts of tables may come from an untrusted source. If a
    link in one leads elsewhere, writing in the folder would change the user's own files. Entries
    that are neither files nor folders (pipes, devices) are refused too, because reading one may
    never end. The folder need not exist, and links that stay in it are followed. Hidden files and
    folders are skipped: none is written or read by its name, except locks, which `alone` opens
    without following links.

    Parameters
    ----------
    folder : Path
    itself : bool
        Whether the folder itself must not be a link either.

    Raises
    ------
    InvalidData
        With the link or the file, and its target.
    """
    if itself and folder.is_symlink():
        raise InvalidData(f"{folder} is a link, and not the folder itself: delete the link")
    root = os.path.realpath(folder)
    waiting = [root] if Path(root).is_dir() else []
    try:
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.name.startswith("."):
                        continue
                    if entry.is_symlink():
                        target = os.path.realpath(entry.path)
                        if os.path.commonpath([root, target]) != root:
                            raise InvalidData(
                                f"{_inside(folder, root, entry)} is a link to {target}, outside "
                                f"the folder {folder}: writing through it would "
                                "change files there. Delete the link, or give another folder"
                            )
                    elif entry.is_dir():
                        waiting.append(entry.path)
                    elif not entry.is_file():
                        raise InvalidData(
                            f"{_inside(folder, root, entry)} is neither a file nor a folder: "
                            "delete it, or give another folder"
                        )
    except (OSError, ValueError) as error:  # for example a path that is too long
        raise InvalidData(f"{folder} cannot be read: {error}") from error


def _inside(folder: Path, root: str, entry: os.DirEntry[str]) -> Path:
    return folder / os.path.relpath(entry.path, root)


def check_place(path: Path) -> None:
    """Check that a file can be written at a path, before the work whose result goes there.

    Raises
    ------
    WriteFailed
    """
    with writing(path):
        make_folder(path.parent)
        if path.is_dir():
            raise IsADirectoryError(f"{path} is a folder")
        if not os.access(path if path.exists() else path.parent, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def drop_unfinished(path: Path) -> None:
    """Delete what killed writers of `path` left next to it; only call it without other writers.

    Raises
    ------
    WriteFailed
        If the system refuses.
    """
    with writing(path):
        for left in path.parent.glob(f".{glob.escape(path.name)}-*{_UNFINISHED}"):
            left.unlink(missing_ok=True)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents, and sync their names to the disk."""
    if not folder.is_dir():
        if folder.exists():
            raise NotADirectoryError(f"{folder} is a file and no folder")
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        _sync(folder.parent)


def _sync(place: Path) -> None:
    """Sync a file, or the names in a folder, to the disk if the system can."""
    if os.name == "nt":  # cannot open folders
        return
    number = os.open(place, os.O_RDONLY)
    try:
        os.fsync(number)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(number)
