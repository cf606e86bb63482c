"""One line of a reply: which items it names."""

# ruff: noqa: RUF001 - replies hold curly quotes and dashes, so their characters stand here
from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from rpp_env.parsing.titles import Titles, fold

__all__ = ["MARKER", "Entry", "ends_sentence", "read_line"]

_LONGEST_KEPT = 2000
"""What lines of up to so many characters say is kept for the next reply."""


_LETTER = re.compile(r"[^\W\d_]")


_QUOTES = "\"'“”‘’«»„"


_EMPHASIS = _QUOTES + "*_` "


_DECORATION = _QUOTES + "*_`~#|<>[](){}.,;:!…-–—•· \t"


_LABEL = r"(?:candidate|rank|no|number|item|option|place|title|name)\b\.?\s*"


MARKER = re.compile(
    rf"[\s*_\-•+–—<>|#\"'`]{{0,12}}(?:{_LABEL})?[#(\[]?(?P<rank>\d{{1,3}})(?:st|nd|rd|th)?[\"']?"
    r"(?:[\])>]\s*[.:|]?|\s*\\?[.:|)]|\s+[-–—](?=\s))[*_]{0,3}\s*"
    r"(?:(?:title|name)\s*:\s*)?",
    re.IGNORECASE,
)


_BULLET = re.compile(r"[-*•+–—▪◦‣·→>]\s+")


_PLAIN_NUMBER = re.compile(r"(?P<rank>\d{1,3})\s+(?=\S)")


_LONE_NUMBER = re.compile(rf"(?:{_LABEL})?[#(\[]*(\d{{1,4}})[\])]*", re.IGNORECASE)


_NUMBERS_IN_LINE = re.compile(r"(^|:|[^\W\d_])([\s\d,;>→|\[\](){}#*.<=-]+)$")


_NUMBER_WORD = re.compile(r"\b(?:candidate|and|then)\b", re.IGNORECASE)


_LIST_SIGN = re.compile(r"[,;:>→|/\d–—-]|\b(?:and|then)\b")


_LIST_GAP = re.compile(r"[\W\d_]*(?:and|then)?[\W\d_]*")


_INVENTED_GAP = re.compile(r"[\W_]*([,;>→|])[^,;>→|]{1,80}\1[\W\d_]*")


_DESCRIPTION = re.compile(r"[\s*_`\"”»)\].!?…]*(?:$|\s[-–—]+\s|[:(\[|–—])")


_SENTENCE_END = (".", "!", "?", ":")


class Entry(NamedTuple):
    """One place of a list."""

    text: str
    item: int | None = None
    loose: int = 0
    number: int | None = None
    rank: int = 0
    read: bool = True  # a rank, a bullet, a number or a title was recognised


def read_line(line: str, titles: Titles) -> tuple[list[Entry], bool]:
    """The entries of a line, at least one; and whether they stand in the middle of a sentence."""
    read = _read_again if len(line) <= _LONGEST_KEPT else _read_anew
    return read(line, titles)


def _read_anew(line: str, titles: Titles) -> tuple[list[Entry], bool]:
    if line in titles.exact and not line.isdigit():
        return [Entry(line, titles.exact[line])], False
    marker = MARKER.match(line)
    rest = line[marker.end() :] if marker else line
    rank = int(marker["rank"]) if marker else 0
    if not marker and (bullet := _BULLET.match(line)):
        rest = line[bullet.end() :]
    marked = rest is not line
    if rest in titles.exact and not rest.isdigit():
        return [Entry(rest, titles.exact[rest], rank=rank)], False
    core = rest.strip(_DECORATION)
    if (number := _LONE_NUMBER.fullmatch(core or line.strip(_DECORATION))) is not None:
        item, loose = titles.find(core) or (None, 0)
        value = None if item is not None and rest[0] in _QUOTES else int(number[1])
        return [Entry(core, item, loose, value, rank if core else 0)], False
    for text in (rest.strip(_EMPHASIS), core):
        if found := titles.find(text):
            return [Entry(core, *found, rank=rank)], False
    if marked and (found := titles.find(line)):  # "3. Ninjas"
        return [Entry(core, *found, rank=rank)], False
    for inner in (MARKER.match(rest), _PLAIN_NUMBER.match(rest)):  # "1. [3] Up" and "1 Up"
        if inner and (found := titles.find(rest[inner.end() :].strip(_DECORATION))):
            return [Entry(core, *found, rank=rank or int(inner["rank"]))], False
    if numbers := _numbers_in(line):
        return [Entry(n, titles.exact.get(n), 0, int(n)) for n in numbers], False

    folded = fold(rest)
    scanned = titles.scan(folded)
    chain, pure = _longest_chain(folded, scanned)
    if len(chain) > 2 or (len(chain) == 2 and not marked):
        entries = [Entry(folded[start:end], item) for start, end, item in chain]
        if pure:
            entries[0] = entries[0]._replace(rank=rank)
        return entries, not pure
    if rank > len(titles.exact):  # "- 54: a story" is about the film "54"
        folded = fold(line)
        scanned = titles.scan(folded)
    if scanned and not folded[: scanned[0][0]].strip(_DECORATION):
        _, end, item = scanned[0]
        if _DESCRIPTION.match(folded, end):
            return [Entry(core, item, 1, rank=rank)], False
    return [Entry(core, rank=rank) if marked else Entry(line, read=False)], False


_read_again = lru_cache(maxsize=1 << 12)(_read_anew)
"""Replies to one task have most of their lines in common."""


def _numbers_in(line: str) -> list[str]:
    """Candidate numbers of a one-line list such as "[3] > [1] > [2]" or "3, 1, 2"."""
    found = _NUMBERS_IN_LINE.search(_NUMBER_WORD.sub("", line).rstrip(" .*`"))
    if found is None:
        return []
    before, listed = found.groups()
    numbers = re.findall(r"(?<!\d)\d{1,4}(?!\d)", listed)
    # "1. 3" and "1 | 3" are a rank and a number, "Apollo 12, 13" is some title.
    if len(numbers) > 2 or (
        len(numbers) == 2 and before in ("", ":") and re.search("[,;>→]", listed)
    ):
        return numbers
    return []


def _longest_chain(
    folded: str, scanned: list[tuple[int, int, int]]
) -> tuple[list[tuple[int, int, int]], bool]:
    """The longest run of titles with nothing but list signs between them; whether it is all."""
    best: list[tuple[int, int, int]] = []
    chain: list[tuple[int, int, int]] = []
    for match in scanned:
        if chain:
            gap = folded[chain[-1][1] : match[0]]
            listed = _LIST_GAP.fullmatch(gap) or _INVENTED_GAP.fullmatch(gap)
            if len(gap) > 200 or not listed or not _LIST_SIGN.search(gap):
                chain = []
        chain.append(match)
        if len(chain) > len(best):
            best = chain
    if not best:
        return [], False
    before = folded[: best[0][0]].rpartition(":")[2]
    return best, not _LETTER.search(before) and not _LETTER.search(folded, best[-1][1])


def ends_sentence(line: str) -> bool:
    """Whether a line that names nothing stands between lists, not in one."""
    return line.startswith("#") or line.rstrip("*_ ").endswith(_SENTENCE_END)
