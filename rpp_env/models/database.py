"""An SQLite file shared by processes, threads and forks.

SQLite allows several processes to use a file at once, and loses no committed data at a kill or a
power cut. `Database` adds what SQLite leaves to its callers:

- **Forks.** No connection is inherited. SQLite keeps its locks in the memory of a process, so that
  even a new connection of a child would rely on locks that its parent holds. Therefore all
  connections are closed just before a fork, and each process opens its own when it needs one.
- **Threads** take turns.
- **Waiting.** While another process holds the file, calls wait, also when opening it.
- **Read-only places.** A file that cannot be written is read without locks.
- **Untrusted files** are opened with the settings that SQLite recommends for them, and texts are
  read as bytes.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from rpp_env.data.folders import make_folder
from rpp_env.errors import InvalidData, RecordingFailed

__all__ = ["LOGS", "Damaged", "Database", "transacted"]

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for other processes that write."""
SLICE = 0.5
"""Seconds of each wait; between waits, Ctrl-C and other threads are served."""
LONGEST = 1 << 23
"""Maximum bytes of a value: 8 MiB."""
LOGS = ("-wal", "-journal")
"""Suffixes of the files that belong to a file while it is written."""
IN_THE_LOG = (
    "The log next to it (-wal or -journal) belongs to it, and cannot be merged where nothing can "
    "be written: `rpp-env recording copy` makes one file of both"
)
BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL})


class Damaged(InvalidData):
    """Part of a file has changed since it was written; `what` is the message without the path."""

    def __init__(self, message: str, what: str = "") -> None:
        super().__init__(message)
        self.what = what


class _Process:
    """State shared by all open files of this process."""

    lock = threading.RLock()
    """Held while a connection is used, and during a fork."""
    files: ClassVar[weakref.WeakSet[Database]] = weakref.WeakSet()
    forks = 0
    """Number of forks, by which an interrupted operation detects one."""


def _before_fork() -> None:
    _Process.lock.acquire()
    _Process.forks += 1
    for file in list(_Process.files):
        # A connection cannot be closed while SQLite's own code is running on it (and has called
        # the code that forks). It stays with the parent, and the child will refuse to use it.
        with suppress(sqlite3.Error):
            file._disconnect()  # noqa: SLF001 - of this module


def _after_fork() -> None:
    # Not held where C code forks and calls Python's handlers in the child only.
    with suppress(RuntimeError):
        _Process.lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork
    )


def _leak(connection: sqlite3.Connection) -> None:
    """Never close this connection, not even at exit: it belongs to the parent process."""
    import ctypes

    ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))


class Database:
    """An SQLite file, opened when it is first needed, and again after `close`, a fork or pickling.

    A subclass defines in `_check` which files it accepts, and in `_prepare` how they are made.

    Parameters
    ----------
    path : path
        Created if `write` is true and it does not exist.
    write : bool
        Whether the file will be written. Otherwise nothing is written, and a file in a read-only
        folder can be read too.

    Raises
    ------
    InvalidData
        By all methods, if the file is not of this kind, or is damaged.
    RecordingFailed
        By all methods, if the file cannot be opened, read or written, or another process has held
        it for longer than a minute.
    """

    remedy = ""
    """Advice for errors about damage."""
    lock = _Process.lock

    def __init__(self, path: str | Path, *, write: bool) -> None:
        self.__setstate__({"path": Path(path).absolute(), "write": write})

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path, "write": self.write}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.path: Path = state["path"]
        self.write: bool = state["write"]
        self._connection: sqlite3.Connection | None = None
        self._cursor: sqlite3.Cursor | None = None
        self._process = 0
        """Id of the process that opened the connection."""
        self._logs = True
        """Whether the file system supports write-ahead logs, as far as is known."""
        self._frozen = False
        """Whether the file is read without locks because it cannot be written."""
        self._stamp: tuple[int, ...] | None = None
        _Process.files.add(self)

    def __del__(self) -> None:
        # At interpreter exit, anything may be gone already.
        with suppress(Exception):
            self.close()

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with _Process.lock:
            self._disconnect()

    def _check(self, cursor: sqlite3.Cursor) -> bool:
        """Raise for a file of another kind; return whether the file is new and empty."""
        raise NotImplementedError

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        """Create or migrate the tables; raise if the file cannot be written."""
        raise NotImplementedError

    def _damaged(self, what: str) -> Damaged:
        return Damaged(f"{self.path} {what}. {self.remedy}", what)

    def _do(self, work: Callable[[sqlite3.Cursor], T], *, write: bool = False) -> T:
        """Call `work` with the cursor of an open connection, in a transaction if it writes.

        It is called again if another process holds the file, or if a fork in the middle of it (in a
        signal handler) has closed the connection, in the child and in the parent.
        """
        deadline = time.monotonic() + PATIENCE
        while True:
            forks = _Process.forks
            try:
                with _Process.lock:
                    cursor = self._opened()
                    return transacted(cursor, work) if write else work(cursor)
            except sqlite3.ProgrammingError:
                if forks == _Process.forks:
                    raise
            except UnicodeDecodeError as error:
                raise self._damaged("is damaged, and SQLite's message is not valid text") from error
            except sqlite3.Error as error:
                if _code(error) not in BUSY or time.monotonic() > deadline:
                    raise self._explained(error) from error
                time.sleep(0.001)  # for other threads

    def _opened(self) -> sqlite3.Cursor:
        """Return the cursor of a connection that this process has opened."""
        for file in (self,) if self._connection is not None else list(_Process.files):
            file._refuse_inherited()  # noqa: SLF001 - of this class
        if self._cursor is None:
            self._disconnect()  # closing was interrupted
        elif self._stamp != self._look():
            frozen = self._frozen
            self.close()
            if not frozen:
                raise RecordingFailed(
                    f"{self.path} was deleted or replaced while it was open; data written to it "
                    "before are lost. The next call opens the file that is there now"
                )
        if self._connection is None:
            self._open()
        assert self._cursor is not None
        return self._cursor

    def _refuse_inherited(self) -> None:
        if self._connection is not None and self._process != os.getpid():
            raise RecordingFailed(
                f"{self.path} was open when process {self._process} was forked without Python's "
                f"knowledge, and cannot be used in its child {os.getpid()}: call close() before "
                "the fork, fork by os.fork or multiprocessing, or start a new process instead"
            )

    def _disconnect(self) -> None:
        connection, cursor = self._connection, self._cursor
        if connection is not None and self._process != os.getpid():
            _leak(connection)
        elif connection is not None:
            if cursor is not None:
                cursor.close()  # first, or its statement keeps the file open
            self._cursor = None
            connection.close()
        self._connection = self._cursor = None

    def _open(self) -> None:
        """Connect; create, migrate or refuse the file."""
        if self.write:
            try:
                make_folder(self.path.parent)
            except OSError as error:
                raise RecordingFailed(f"{self.path} cannot be made: {error}") from error
            self._unless_logs_fail("rwc", self._do_without_log)
        elif not self.path.is_file():
            raise InvalidData(f"there is no recording {self.path}")
        elif self._has_log() or _writable(Path(os.path.realpath(self.path))):
            self._unless_logs_fail("rw", self._freeze)
        else:
            self._freeze()

    def _unless_logs_fail(self, mode: str, otherwise: Callable[[], None]) -> None:
        """Connect; call `otherwise` if the file system has no shared memory for the log."""
        try:
            self._connect(mode)
        except sqlite3.OperationalError as error:
            if _code(error) != sqlite3.SQLITE_IOERR:
                raise
            otherwise()

    def _freeze(self) -> None:
        """Read the file as it is, without locks."""
        if self._has_log():
            raise RecordingFailed(f"{self.path} cannot be read here. {IN_THE_LOG}")
        self._connect("ro&immutable=1")

    def _do_without_log(self) -> None:
        """Switch to a rollback journal, which needs no shared memory."""
        with closing(sqlite3.connect(self.path, timeout=min(SLICE, PATIENCE))) as alone:
            alone.execute("PRAGMA locking_mode = EXCLUSIVE")
            alone.execute("PRAGMA journal_mode = DELETE")
        self._logs = False
        self._connect("rwc")

    def _connect(self, mode: str) -> None:
        self._process = os.getpid()
        self._frozen = "immutable" in mode
        try:
            self._connection = sqlite3.connect(
                f"{self.path.as_uri()}?mode={mode}",
                uri=True,
                timeout=min(SLICE, PATIENCE),
                isolation_level=None,
                check_same_thread=False,
            )
            self._connection.text_factory = bytes  # texts may be invalid
            self._cursor = cursor = self._connection.cursor()
            # SQLite's recommendations for untrusted files.
            self._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, LONGEST)
            for setting in ("trusted_schema = OFF", "cell_size_check = ON", "mmap_size = 0"):
                cursor.execute(f"PRAGMA {setting}")
            new = transacted(cursor, self._check, "BEGIN")
            if new and self._logs:
                cursor.execute("PRAGMA journal_mode = WAL")
            # Every commit is on the disk before it is reported: with a rollback journal, the
            # journal's deletion, too.
            cursor.execute("PRAGMA synchronous = EXTRA")
            if self.write:
                self._prepare(cursor)
            self._stamp = self._look()
        except BaseException:
            self._disconnect()
            raise

    def _look(self) -> tuple[int, ...] | None:
        """Return what changes if the file is replaced; and if it is written, when frozen."""
        try:
            found = os.stat(self.path)  # noqa: PTH116 - half the time of Path's
        except OSError:
            return None
        if not self._frozen:
            return found.st_dev, found.st_ino
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, self._has_log()

    def _has_log(self) -> bool:
        """Whether the file is incomplete without a log next to it."""
        real = os.path.realpath(self.path)
        return any(_size(f"{real}{end}") for end in LOGS)

    def _explained(self, error: sqlite3.Error) -> Exception:
        """Convert SQLite's error to one of the package's."""
        code = _code(error)
        if code == sqlite3.SQLITE_TOOBIG:
            return InvalidData(f"{self.path}: a value is larger than {LONGEST:,} bytes")
        if code == sqlite3.SQLITE_NOTADB:
            return InvalidData(f"{self.path} is not a recording: {error}")
        if not isinstance(error, sqlite3.OperationalError):
            return self._damaged(f"is damaged ({error})")
        remedy = "What was recorded before is kept"
        if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            remedy = "For recording, the file and its folder must be writable"
            if not self.write and self._has_log():
                remedy = IN_THE_LOG
        return RecordingFailed(f"{self.path} cannot be read or written: {error}. {remedy}")


def transacted(
    cursor: sqlite3.Cursor, work: Callable[[sqlite3.Cursor], T], begin: str = "BEGIN IMMEDIATE"
) -> T:
    """Call `work` in one transaction, which is kept as a whole or not at all."""
    try:
        cursor.execute(begin)
        made = work(cursor)
        cursor.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a fork may have closed the connection
            if cursor.connection.in_transaction:
                cursor.execute("ROLLBACK")
        raise
    return made


def _code(error: sqlite3.Error) -> int:
    """Return SQLite's primary result code; -1 for errors of Python's module."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def _size(path: str) -> int:
    """Return the size of a file in bytes; 0 if it does not exist."""
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def _writable(path: Path) -> bool:
    """Whether this process may write a file and its folder."""
    options: Any = {"effective_ids": True} if os.access in os.supports_effective_ids else {}
    return all(os.access(place, os.W_OK, **options) for place in (path, path.parent))
