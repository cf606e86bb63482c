"""What the commands share: output to the terminal, progress bars, aligned columns, policies."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rpp_agents.jobs import Job, Outcome
from rpp_env.errors import InvalidData
from rpp_env.text import printable

__all__ = ["columns", "end", "find_policy", "progress", "say", "size", "work_off"]


def say(
    *parts: object,
    end: str = "\n",
    error: bool = False,
    painted: bool = False,
    flush: bool = False,
) -> None:
    """Print for a person. Everything that a command prints goes through here.

    Parameters
    ----------
    *parts : object
        Texts, with a blank between them. They may hold words from outside (ids, replies, error
        messages of servers, file names): whatever could steer the terminal is written out.
    end : str
        What follows the last part.
    error : bool
        Whether it goes to the error output.
    painted : bool
        The parts hold colours of our own, and their words have been through `printable` already.
    flush : bool
        Whether it is shown at once.
    """
    texts = parts if painted else map(printable, parts)
    print(*texts, end=end, file=sys.stderr if error else sys.stdout, flush=flush)


def _description(text: str) -> str:
    """A bar's description, which rich would read for markup."""
    from rich.markup import escape

    return escape(printable(text))


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
    task = bar.add_task(_description(label), total=None)
    began, last = time.perf_counter(), [0, 0]

    def tell(done: int, total: int) -> None:
        last[:] = done, total
        bar.update(task, completed=done, total=total)

    with bar:
        yield tell
    seconds = time.perf_counter() - began
    done = f"{last[1]:,} {unit} in {seconds:.1f} s" if last[1] else "kept from an earlier time"
    say(f"{label}: {done}", error=True)


def columns(rows: Sequence[Sequence[Any]], indent: str = "  ") -> str:
    """Rows of texts, each column as wide as it must be."""
    texts = [[printable(cell) for cell in row] for row in rows]
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


def work_off(
    left: Sequence[Job],
    total: int,
    *,
    make_tables: Callable[[Callable[[str, int, int], None]], Sequence[Path]],
    run: Callable[[], Iterator[Outcome]],
    said: Callable[[Outcome], str],
) -> list[str]:
    """Make tables, run what is left, and tell how it goes; the names of what failed.

    Parameters
    ----------
    left : sequence of Job
        What is to be run, of `total`.
    make_tables : callable
        Makes them; is given what to call with a table's name, its finished tasks and all.
    run : callable
        Runs `left`.
    said : callable
        What to say of something that was found.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as Remaining

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("[bold]{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Remaining(),
        console=console,
        # The time left is guessed from the speed of everything so far: a cell takes minutes.
        speed_estimate_period=7 * 86_400,
        disable=not console.is_terminal,
    )

    def above(line: str) -> None:
        text = printable(line)
        bar.console.print(text, markup=False, highlight=False, soft_wrap=True)

    failed = []
    with bar:
        tables: dict[str, Any] = {}

        def tell(name: str, done: int, users: int) -> None:
            if name not in tables:
                tables[name] = bar.add_task(_description(f"table {name}"), total=users)
            bar.update(tables[name], completed=done)

        began = time.perf_counter()
        if made := make_tables(tell):
            above(f"{len(made)} tables made in {time.perf_counter() - began:.0f} s")
        for task in tables.values():
            bar.remove_task(task)
        task = bar.add_task("cells", total=total, completed=total - len(left))
        began, done = time.perf_counter(), total - len(left)
        for outcome in run():
            done += 1
            passed = time.perf_counter() - began
            ahead = passed / (done - total + len(left)) * (total - done)
            if outcome.found is None:
                failed.append(outcome.job.name)
                told = f"FAILED: {outcome.error.strip().splitlines()[-1]}"
            else:
                told = said(outcome)
            above(f"[{done}/{total}] {outcome.job.name}: {told}; about {_time(ahead)} left")
            bar.update(task, completed=done)
    sys.stderr.flush()
    return failed


def end(failed: Sequence[str], folder: Path) -> None:
    """Say what failed, and end with 1 where something did."""
    if failed:
        say(f"\n{len(failed)} failed; each one's error lies beside its place in {folder}:")
        say("\n".join(f"  {name}" for name in failed))
        say("The same command runs them again.")
        raise SystemExit(1)


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
