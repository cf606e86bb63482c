"""What the verbs have in common: bars of progress, aligned columns, saved policies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rpp_env.errors import InvalidData

__all__ = ["columns", "find_policy", "progress", "size"]


@contextmanager
def progress(label: str, unit: str = "tasks") -> Iterator[Callable[[int, int], None]]:
    """A bar on the error output, so that the output itself can be piped.

    Gives a function of (done, in all). Where nobody watches, one line at the end.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn(unit),
        Remaining(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )
    task = bar.add_task(label, total=None)
    began, last = time.perf_counter(), [0, 0]

    def tell(done: int, total: int) -> None:
        last[:] = done, total
        bar.update(task, completed=done, total=total)

    with bar:
        yield tell
    seconds = time.perf_counter() - began
    done = f"{last[1]:,} {unit} in {seconds:.1f} s" if last[1] else "kept from an earlier time"
    print(f"{label}: {done}", file=sys.stderr)


def columns(rows: Sequence[Sequence[Any]], indent: str = "  ") -> str:
    """Rows of texts, each column as wide as it must be."""
    texts = [[str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        (indent + "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True))).rstrip()
        for row in texts
    )


def size(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def find_policy(path: Path) -> Path:
    """The policy's file: itself, or the one in a run's folder."""
    if path.is_file():
        return path
    kept = path / "policy.safetensors"
    if kept.is_file():
        return kept
    if (path / "checkpoint.safetensors").is_file():
        raise InvalidData(
            f"the run in {path} is not finished: go on with it (`rpp-env train` with the same "
            "options), and it will leave its policy there"
        )
    raise InvalidData(f"{path} is neither a policy's file nor the folder of a run that has one")
