"""Shared parts of the commands: terminal output, progress bars, aligned columns, policies."""

from __future__ import annotations

import itertools
import re
import shutil
import sys
import time
import unicodedata
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Literal

from rpp_agents.ticking import ticking
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.markdown import unescaped
from rpp_env.text import printable

__all__ = [
    "asking",
    "columns",
    "described",
    "find_policy",
    "progress",
    "say",
    "show",
    "size",
    "wrap",
]


def say(
    *parts: object,
    end: str = "\n",
    error: bool = False,
    painted: bool = False,
    flush: bool = False,
) -> None:
    """Print to the terminal; all output of the commands goes through this function.

    On a terminal, long lines are broken between words.

    Parameters
    ----------
    *parts : object
        Texts, joined by blanks. They may contain untrusted text (ids, replies, error messages of
        servers, file names): characters that could control the terminal are escaped.
    end : str
        Text after the last part.
    error : bool
        Whether to print to standard error.
    painted : bool
        Whether the parts contain our own colour codes, and were escaped by `printable` already.
    flush : bool
        Whether to flush the output.
    """
    text = " ".join(map(str, parts) if painted else map(printable, parts))
    stream = sys.stderr if error else sys.stdout
    print(wrap(text) if stream.isatty() else text, end=end, file=stream, flush=flush)


def asking(yes: bool) -> Callable[[str], bool]:
    """Make a function that shows terms of use and asks for consent; with `yes` it consents."""

    def accept(terms: str) -> bool:
        say(terms)
        if yes:
            return True
        if not sys.stdin.isatty():
            raise InvalidOption("the terms need a yes on a terminal: give --yes to accept them")
        say("Download on these terms? [y/N] ", end="", flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")

    return accept


def wrap(text: str, width: int | None = None, indent: str = "  ") -> str:
    """Break long lines between words.

    A word that is longer than a line stays whole (an address, a path), and so does a line that
    fits.

    Parameters
    ----------
    text : str
        May contain colours, which take no columns.
    width : int, optional
        Columns of the terminal; by default the actual number.
    indent : str
        Prefix of the continuation lines, after the line's own indentation.
    """
    room = shutil.get_terminal_size().columns if width is None else width
    lines = []
    for line in text.split("\n"):
        if _cells(line) <= room:
            lines.append(line)
            continue
        row = line[: len(line) - len(line.lstrip(" "))]
        further, begun = row + indent, False
        for word in line.split():
            if begun and _cells(row) + 1 + _cells(word) > room:
                lines.append(row)
                row, begun = further, False
            row += f" {word}" if begun else word
            begun = True
        lines.append(row)
    return "\n".join(lines)


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def _cells(text: str) -> int:
    """Count the columns of a text on a terminal: two for wide characters, none for accents."""
    seen = _COLOUR.sub("", text)
    if seen.isascii():
        return len(seen)
    return sum(
        0 if unicodedata.combining(c) else 1 + (unicodedata.east_asian_width(c) in "WF")
        for c in seen
    )


def show(markdown: str) -> None:
    """Print a report: on a terminal with drawn tables, elsewhere as Markdown."""
    if not sys.stdout.isatty():
        say(markdown, end="")
        return
    for k, block in enumerate(markdown.strip("\n").split("\n\n")):
        if k:
            say()
        lines = block.split("\n")
        if len(lines) > 1 and all(line.startswith("|") for line in lines):
            _draw_table(lines)
        else:
            say(wrap(printable(unescaped(block)), indent=""))


_BAR = re.compile(r"(?<!\\)\|")


def _draw_table(lines: Sequence[str]) -> None:
    """Draw a Markdown table; a wide one is split into several, each with the first column.

    Numbers and intervals are never broken.
    """
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    heads, rules, *rows = [
        [
            printable(unescaped(cell)).strip()
            for cell in re.split(r"(?<!\\)\|", line.strip().strip("|"))
        ]
        for line in lines
    ]
    console = Console()
    columns = list(zip(heads, *rows, strict=True))
    widths = [max(map(_cells, column)) for column in columns]
    left = console.width - sum(width + 3 for width in widths[1:])
    # Break the names, into three lines at most, before splitting the columns.
    first = min(widths[0], left if 3 * left >= widths[0] else console.width // 2)
    for k, group in enumerate(_groups(widths[1:], console.width - first)):
        if k:
            say()
        table = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False)
        for i in (0, *(i + 1 for i in group)):
            whole = i > 0 and first + widths[i] + 3 <= console.width
            justify: Literal["left", "right"] = "right" if rules[i].endswith(":") else "left"
            widest = None if i else first
            table.add_column(
                Text(heads[i]), justify=justify, no_wrap=whole, overflow="fold", max_width=widest
            )
        for row in rows:
            table.add_row(*(Text(row[i]) for i in (0, *(i + 1 for i in group))))
        console.print(table, highlight=False)


def _groups(widths: Sequence[int], room: int) -> list[list[int]]:
    """Group columns into as few tables as fit, with similar numbers of columns."""
    gap, total = 3, len(widths)
    for count in range(1, total + 1):
        ends = [round(total * (k + 1) / count) for k in range(count)]
        groups = [list(range(a, b)) for a, b in itertools.pairwise([0, *ends])]
        if all(sum(widths[i] + gap for i in group) <= room for group in groups):
            return groups
    return [[i] for i in range(total)]


def described(text: str) -> str:
    """Escape the markup of rich in a bar's description."""
    from rich.markup import escape

    return escape(printable(text))


@contextmanager
def progress(label: str, unit: str = "tasks") -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on standard error, so that the output can be piped.

    Yields a function of (done, total). Without a terminal it prints a line now and then, and one at
    the end.
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
    task = bar.add_task(described(label), total=None)
    began, last = time.perf_counter(), [0, 0]

    def advance(done: int, total: int) -> None:
        last[:] = done, total
        bar.update(task, completed=done, total=total)

    def line() -> str:
        return f"{label}: {last[0]:,} of {last[1]:,} {unit}" if last[1] else f"{label}: begun"

    with bar if console.is_terminal else nullcontext(), ticking(line):
        yield advance
    seconds = time.perf_counter() - began
    done = f"{last[1]:,} {unit} in {seconds:.1f} s" if last[1] else "kept from an earlier time"
    say(f"{label}: {done}", error=True)


def columns(rows: Sequence[Sequence[Any]], indent: str = "  ") -> str:
    """Align rows of texts in columns.

    On a terminal a long last column is broken between words.
    """
    texts = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_cells, column)) for column in zip(*texts, strict=True)]
    before = len(indent) + sum(width + 2 for width in widths[:-1])
    room = max(shutil.get_terminal_size().columns - before, 20) if sys.stdout.isatty() else None
    lines = []
    for *row, last in texts:
        left = indent + "".join(
            cell + " " * (width + 2 - _cells(cell))
            for cell, width in zip(row, widths, strict=False)
        )
        for part in [last] if room is None else wrap(last, room).split("\n"):
            lines.append((left + part).rstrip())
            left = " " * before
    return "\n".join(lines)


def size(path: Path) -> int:
    """Return the bytes of a file, or of all files in a folder."""
    if path.is_file():
        return path.stat().st_size
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def find_policy(path: Path) -> Path:
    """Return the policy's file: the path itself, or the file in a run's folder."""
    if path.is_file():
        return path
    kept = path / "policy.safetensors"
    if kept.is_file():
        return kept
    if (path / "checkpoint.safetensors").is_file():
        raise InvalidData(
            f"the run in {path} is not finished: resume it (`rpp-env train` with the same "
            "options), which writes its policy there"
        )
    raise InvalidData(f"{path} is neither a policy's file nor the folder of a run that has one")
