"""Markdown for reports: a table writer, and escaping of text from outside.

Reports contain labels, names and dataset names; none of them can add a column, a link or HTML.
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
    """Escape a text for one line of Markdown: no bars, HTML, code or links."""
    line = " ".join(printable(text).split("\n"))
    return _ESCAPE.sub(lambda found: _MEANT.get(found[0], f"\\{found[0]}"), line)


def code(text: object) -> str:
    """Format a text as inline code; back-ticks inside it become apostrophes."""
    return f"`{' '.join(printable(text).split(chr(10))).replace('`', chr(39))}`"


def unescaped(markdown: str) -> str:
    """Undo `words`, for output on a terminal."""
    return _UNESCAPE.sub(lambda found: _BACK[found[0]], markdown)


def table(rows: Sequence[Sequence[object]], *, padded: bool = True) -> str:
    """Write a Markdown table.

    Parameters
    ----------
    rows : sequence of sequences
        The header, then the body; every entry goes through `words`. All columns but the first are
        right-aligned, as numbers.
    padded : bool
        Whether to pad the columns so that they also align in a terminal; changing one number can
        then change every line.
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
