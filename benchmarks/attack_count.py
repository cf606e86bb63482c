"""What the parts of `attack.py` share: a count, and processes with bounds."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Count", "bounded"]


@dataclass
class Count:
    """How often a part tried, and what came of it."""

    held: int = 0
    lost: int = 0
    wrong: int = 0
    notes: list[str] = field(default_factory=list)
    """What was lost or wrong, each with its reason."""

    @property
    def tried(self) -> int:
        return self.held + self.lost + self.wrong

    def add(self, name: str, *, lost: str = "", wrong: str = "") -> None:
        """Count one input; `lost` and `wrong` say why it was not held."""
        self.lost += bool(lost)
        self.wrong += bool(wrong and not lost)
        self.held += not (lost or wrong)
        if lost or wrong:
            self.notes.append(f"{name}: {lost or wrong}")


def bounded(
    code: str, *words: str, megabytes: int = 1500, seconds: float = 60, folder: Path | None = None
) -> tuple[int | None, bytes, bytes]:
    """Run Python code in a process with so much memory and time.

    Returns
    -------
    (int or None, bytes, bytes)
        Exit code (None where the time was up), output and error output.
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
