"""Markdown of reports: one table writer, and others' words shown as they are.

Labels, names and datasets stand in reports; what they hold becomes no column, link or HTML.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rpp_env.text import printable

__all__ = ["code", "table", "unescaped", "words"]

_MEANT = {"\\": "\\\\", "|": "\\|", "`": "\\`", "<": "&lt;", ">": "&gt;", "&": "&amp;"}
_ESCAPE = re.compile(r"[\\|`<>&]|\](?=[(\[:])")
_BACK = {written: meant for meant, written in _MEANT.items()} | {"\\]": "]"}
_UNESCAPE = re.compile(r"\\[\\|`\]]|&(?:lt|gt|amp);")


def words(text: object) -> str:
    """A text for Markdown on one line: no bar, HTML, code or link in it means anything."""
    line = " ".join(printable(text).split("\n"))
    return _ESCAPE.sub(lambda found: _MEANT.get(found[0], f"\\{found[0]}"), line)


def code(text: object) -> str:
    """A text as code, between back-ticks; its own become apostrophes."""
    return f"`{' '.join(printable(text).split(chr(10))).replace('`', chr(39))}`"


def unescaped(markdown: str) -> str:
    """What `words` was given, for a terminal."""
    return _UNESCAPE.sub(lambda found: _BACK[found[0]], markdown)


def table(rows: Sequence[Sequence[object]], *, padded: bool = True) -> str:
    """Write a table.

    Parameters
    ----------
    rows : sequence of sequences
        The head, and the rows below it; every cell goes through `words`. All columns but the first
        are numbers, on the right.
    padded : bool
        Whether columns also stand below each other in a terminal; a change of one number can then
        change every line.
    """
    cells = [[words(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    if not padded:
        widths = [0, *(1 for _ in widths[1:])]

    def line(row: Sequence[str]) -> str:
        padded = [row[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rules = ["-" * max(widths[0] + 2, 3), *("-" * max(width + 1, 3) + ":" for width in widths[1:])]
    return "\n".join([line(cells[0]), f"|{'|'.join(rules)}|", *map(line, cells[1:])])
