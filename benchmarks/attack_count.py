"""Shared parts of `attack.py`: counts of outcomes, and processes with limits."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Count", "bounded", "forked"]


@dataclass
class Count:
    """Number of inputs that a part tried, and their outcomes."""

    held: int = 0
    lost: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    """Inputs that were lost or wrong, with the reasons."""

    @property
    def tried(self) -> int:
        return self.held + self.lost + self.wrong

    def add(self, name: str, *, lost: str = "", wrong: str = "") -> None:
        """Count one input; `lost` and `wrong` state why it was not held."""
        self.lost += bool(lost)
        self.wrong += bool(wrong and not lost)
        self.held += not (lost or wrong)
        if lost or wrong:
            self.notes.append(f"{name}: {lost or wrong}")


def bounded(
    code: str, *words: str, megabytes: int = 1500, seconds: float = 60, folder: Path | None = None
) -> tuple[int | None, bytes, bytes]:
    """Run Python code in a process with limits on memory and time.

    Returns
    -------
    (int or None, bytes, bytes)
        Exit code (None after a timeout), output and error output.
    """

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))

    threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"), "1")
    try:
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            preexec_fn=limit,
            env=os.environ | threads | {"PYTHONPATH": ":".join(sys.path), "NO_COLOR": "1"},
            cwd=folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return None, b"", b""
    return done.returncode, done.stdout, done.stderr


def forked(
    work: Callable[[], object],
    folder: Path,
    *,
    megabytes: int,
    seconds: float,
    environment: Mapping[str, str],
) -> tuple[int | None, str]:
    """Call a function in a fork of this process, with limits on additional memory and time.

    Parameters
    ----------
    work : callable
    folder : Path
        The fork's working folder; what it prints goes to the file ``.printed`` there.
    megabytes, seconds : int, float
    environment : mapping of str to str
        Added to the fork's variables.

    Returns
    -------
    (int or None, str)
        Exit code, 1 after a traceback and None after a timeout; and the printed output.
    """
    printed = folder / ".printed"
    child = os.fork()
    if child == 0:
        code = 1
        try:
            os.chdir(folder)
            os.environ.update(environment)
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            most = used + (megabytes << 20)
            resource.setrlimit(resource.RLIMIT_AS, (most, most))
            number = os.open(printed, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            for stream in (1, 2):
                os.dup2(number, stream)
            os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
            work()
            code = 0
        except BaseException:  # noqa: BLE001 - it is printed, and counted
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status), printed.read_text(errors="replace")
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None, ""
