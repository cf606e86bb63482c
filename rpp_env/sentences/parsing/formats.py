"""The five output formats: a writer, and a fast parser for replies that keep to one of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import TypeGuard

from rpp_env.errors import InvalidOption
from rpp_env.sentences import FORMATS
from rpp_env.sentences.parsing.lines import MARKER, Entry, ends_sentence, read_line
from rpp_env.sentences.parsing.lists import find_lists, guess
from rpp_env.sentences.parsing.objects import Line
from rpp_env.sentences.parsing.text import WINDOW, holds_markup, speaks_for_others
from rpp_env.sentences.parsing.titles import places_of, titles_of
from rpp_env.sentences.parsing.words import refuses

__all__ = ["read_exactly", "read_nearly_exactly", "write_ranking"]

_NUMBER_OF = {str(i + 1): i for i in range(1000)}


_RANKS = tuple(f"{numeral}. " for numeral in _NUMBER_OF)


_TEMPLATES = tuple(f"{numeral} | " for numeral in _NUMBER_OF)


# indent=0 would write the same, but takes five times as long.
_JSON_LINES = json.JSONEncoder(ensure_ascii=False, separators=(",\n", ": ")).encode


def write_ranking(order: Sequence[int], candidates: Sequence[str], format: str) -> str:  # noqa: A002 - the word that the sentences use
    """Write a ranking in the format that a contract line asks for.

    Parameters
    ----------
    order : sequence of int
        Positions in `candidates`, best first; all of them, or the first few.
    candidates : sequence of str
        Titles as the prompt shows them.
    format : str
        One of `FORMATS`: ``"numbered"`` (``1. Title``), ``"bare"`` (``Title``), ``"numbers"``
        (``7``), ``"json"`` (a list, one title per line) or ``"template"`` (``1 | Title``).

    Returns
    -------
    str
        `parse_ranking` returns the order again if it has all candidates. In the bare format,
        titles are quoted if all of them could be candidate numbers.

    Raises
    ------
    InvalidOption
        For another format.
    """
    titles = [candidates[i] for i in order]
    if format == "numbered":
        return "\n".join(f"{i}. {title}" for i, title in enumerate(titles, 1))
    if format == "bare":
        if all(_NUMBER_OF.get(title, len(candidates)) < len(candidates) for title in titles):
            titles = [f'"{title}"' for title in titles]
        return "\n".join(titles)
    if format == "numbers":
        return "\n".join(str(i + 1) for i in order)
    if format == "json":
        return f"[\n{_JSON_LINES(titles)[1:-1]}\n]" if titles else "[]"
    if format == "template":
        return "\n".join(f"{i} | {title}" for i, title in enumerate(titles, 1))
    raise InvalidOption(f"format is one of {', '.join(FORMATS)}, not {format!r}")


def read_exactly(reply: str, candidates: tuple[str, ...]) -> list[int] | None:
    """Return the order; None if some line does not keep exactly to one of the formats."""
    count = len(candidates)
    place = places_of(candidates).get
    lines = reply.split("\n")
    first = lines[0]
    if len(lines) <= count:
        if first.isdigit():
            numbers = list(map(_NUMBER_OF.get, lines))
            if _distinct(numbers) and max(numbers) < count:
                return numbers
        if place(first) is not None and _distinct(order := list(map(place, lines))):
            return order
        for start, markers in (("1. ", _RANKS), ("1 | ", _TEMPLATES)):
            if first.startswith(start) and len(lines) <= len(markers):
                titles = map(str.removeprefix, lines, markers)
                if _distinct(order := list(map(place, titles))):
                    return order
    if first.startswith("[") and reply.endswith("]"):
        try:
            order = list(map(place, json.loads(reply)))
        except (ValueError, TypeError, RecursionError):
            return None
        if _distinct(order):
            return order
    return None


def read_nearly_exactly(
    reply: str, candidates: tuple[str, ...], thinking: tuple[tuple[str, str], ...] = ()
) -> list[int] | None:
    """Return the order of a list that keeps to its format with two exceptions; else None.

    There may be sentences before it, and its last line may be cut off. The lenient parser would
    return the same order, only slower.
    """
    if len(reply) > WINDOW or holds_markup(reply, thinking):
        return None
    head, listed, last, title = (_json_parts if reply.startswith("[\n") else _line_parts)(reply)
    place = places_of(candidates).get
    order = list(map(place, listed))
    # A list of numbers might mean candidate numbers.
    if not listed or not _distinct(order) or candidates[order[0]].isdigit():
        return None
    if head and (speaks_for_others("\n".join(head)) or _refuses(head)):
        return None
    whole = [*order, place(title)]
    if len(whole) == len(candidates) and _distinct(whole) and all(map(_is_sentence, head)):
        return whole
    titles = titles_of(candidates)
    last = last.strip()
    reading = read_line(last, titles)
    if (
        len(reading.entries) != 1
        or reading.in_sentence
        or last.startswith(("0.", "1.", "0)", "1)"))
        or any(find_lists([Line(line.strip()) for line in head], titles))
    ):
        return None
    entry = reading.entries[0]
    if (
        entry.rank in (0, 1)
        or entry.label
        or (entry.loose and not entry.mark)
        or (not entry.read and ends_sentence(last))
    ):
        return None
    places = {item: i for i, item in enumerate(order)}
    if entry.item is not None:
        places.setdefault(entry.item, len(order))
    return guess([*(Entry(candidates[item], item) for item in order), entry], titles, places)


_Parts = tuple[list[str], list[str], str, str]
"""Lines before a list; titles of its lines but the last; the last line, and the title in it."""


def _line_parts(reply: str) -> _Parts:
    lines = reply.split("\n")
    first = next((i for i, line in enumerate(lines) if line.startswith(("1. ", "1 | "))), None)
    if first is None:
        return [], lines[:-1], lines[-1], lines[-1]
    head, listed = lines[:first], lines[first:]
    markers = _RANKS if listed[0].startswith("1. ") else _TEMPLATES
    if len(listed) > len(markers):
        return [], [], "", ""
    *titles, last = map(str.removeprefix, listed, markers)
    return head, titles, lines[-1], last


def _json_parts(reply: str) -> _Parts:
    listed, _, last = reply.rpartition(",\n")
    title, _, after = last.removeprefix('"').partition('"')
    try:
        titles = json.loads(f"{listed}]")
    except (ValueError, RecursionError):
        return [], [], "", ""
    if "\n" in title or after not in ("", ",") or not all(isinstance(each, str) for each in titles):
        return [], [], "", ""
    if after:
        return [], [*titles, title], after, ""
    return [], titles, f'"{title}"', title


def _refuses(head: list[str]) -> bool:
    lead = next((line for line in reversed(head) if line.strip()), "").rstrip()
    return lead.endswith(":") and _refuses_in(lead)


_refuses_in = lru_cache(maxsize=256)(refuses)  # models lead into their lists with few sentences


def _is_sentence(line: str) -> bool:
    """Whether a line is blank, or begins and ends like a sentence rather than an item."""
    line = line.strip()
    return not line or (line[0].isalpha() and ends_sentence(line) and not MARKER.match(line))


def _distinct(order: list[int | None]) -> TypeGuard[list[int]]:
    """Whether every line was read, and no two as the same item."""
    return None not in order and len(set(order)) == len(order)
