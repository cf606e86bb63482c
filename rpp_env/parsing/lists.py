"""From the lines of a reply to lists, and from the list that counts to an order."""

# ruff: noqa: RUF001 - replies hold curly quotes and dashes, so their characters stand here
from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache

from rpp_env.parsing.lines import Entry, ends_sentence, read_line
from rpp_env.parsing.text import answer_lines
from rpp_env.parsing.titles import Titles, fold, key_of

__all__ = ["find_lists", "guess", "read_leniently"]

_COMPARISONS = 1000
"""Pairs of a line and a title that are compared by spelling, at most."""


_CLOSE = 0.85
"""Similarity (`difflib`) from which a misspelt title is recognised."""


_NUMERIC = re.compile(r"\d+|[ivx]+")


@dataclass(slots=True)
class _List:
    """Entries that follow each other."""

    entries: list[Entry] = field(default_factory=list)
    in_sentence: bool = False
    items: set[int] = field(default_factory=set)
    numbers: int = 0

    def add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self.numbers += entry.number is not None
        if entry.item is not None:
            self.items.add(entry.item)

    @property
    def only_numbers(self) -> bool:
        return self.numbers > 0 and not self.items

    def restarts(self, entry: Entry) -> bool:
        """Whether `entry` opens another list: the ranks of this one had begun at 1, or had none."""
        return (
            entry.rank == 1
            and bool(self.entries)
            and self.entries[0].rank <= 1
            and self.entries[-1].rank != 1
        )

    def goes_on_with(self, other: _List) -> bool:
        """Whether `other`, which stands behind some other text, is the rest of this list."""
        rank = other.entries[0].rank
        if rank > 1 and rank == self.entries[-1].rank + 1:
            return True
        if self.in_sentence or other.in_sentence or self.restarts(other.entries[0]):
            return False
        return self.only_numbers == other.only_numbers and not self.items & other.items


def read_leniently(reply: str, titles: Titles) -> list[int]:
    """The items that a reply names, best first."""
    lines = answer_lines(reply)
    lists = _join(find_lists(lines, titles))
    resolved = [_resolve(found, titles) for found in lists]
    sizes = [
        len(places) / 2 if found.in_sentence else len(places)
        for found, places in zip(lists, resolved, strict=True)
    ]
    longest = max(sizes, default=0)
    for found, places, size in zip(lists[::-1], resolved[::-1], sizes[::-1], strict=True):
        if size * 2 > longest:
            return guess(found.entries, titles, places)
    unread = _List([entry for found in lists for entry in found.entries])
    guessed = guess(unread.entries, titles, _resolve(unread, titles))
    return guessed or _mentions(lines, titles)


def find_lists(lines: list[str], titles: Titles) -> Iterator[_List]:
    """Entries, cut wherever other text stands between them or the ranks start again."""
    current = _List()
    after_blank = False
    for line in lines:
        if not line or line.startswith("```"):
            after_blank = True
            continue
        entries, in_sentence = read_line(line, titles)
        prose = in_sentence or (not entries[0].read and (after_blank or ends_sentence(line)))
        after_blank = False
        if current.entries and (
            prose
            or current.restarts(entries[0])
            or (current.items and len(entries) > 1 and all(e.item is None for e in entries))
        ):
            yield current
            current = _List()
        if in_sentence:
            yield _List([*entries], True, {e.item for e in entries if e.item is not None})
        elif not prose:
            for entry in entries:
                current.add(entry)
    if current.entries:
        yield current


def _join(parts: Iterable[_List]) -> list[_List]:
    lists: list[_List] = []
    for part in parts:
        if lists and lists[-1].goes_on_with(part):
            for entry in part.entries:
                lists[-1].add(entry)
        else:
            lists.append(part)
    return lists


def _resolve(found: _List, titles: Titles) -> dict[int, int]:
    """The items of a list, each with the place of its best reading."""
    count = len(titles.exact)
    entries = found.entries
    words = any(e.item is not None and e.number is None for e in entries)
    titles_first = words or any(
        e.item is not None and e.number is not None and not 1 <= e.number <= count for e in entries
    )
    items = []
    for entry in entries:
        item, number = entry.item, entry.number
        if number is not None and not (titles_first and item is not None):
            item = number - 1 if 1 <= number <= count and not words else None
        items.append(item)
    places: dict[int, int] = {}
    for loose in (0, 1):
        for place, (entry, item) in enumerate(zip(entries, items, strict=True)):
            if item is not None and entry.loose == loose:
                places.setdefault(item, place)
    return places


def guess(entries: list[Entry], titles: Titles, places: dict[int, int]) -> list[int]:
    """The order of the items at `places`; unread entries get those that are left, where clear."""
    places = dict(places)
    left = {i: key for i, key in enumerate(titles.item_keys) if key and i not in places}
    budget = _COMPARISONS
    for place, entry in enumerate(entries):
        if entry.item is not None or entry.number is not None or not 0 < len(entry.text) <= 200:
            continue
        budget -= len(left)
        if budget < 0 or not left:
            break
        head = re.split(r"\s[-–—]\s|[:(|]", entry.text, maxsplit=1)[0]
        keys = {key_of(entry.text): None, key_of(head): None}
        for key in keys:
            item = _closest(key, left, cut_off=bool(places) and place == len(entries) - 1)
            if item is not None:
                places[item] = place
                del left[item]
                break
    return sorted(places, key=places.__getitem__)


def _closest(key: str, left: dict[int, str], cut_off: bool) -> int | None:
    numbers = _numeric_words(key)
    same = {item: title for item, title in left.items() if _numeric_words(title) == numbers}
    # The last line of a reply may be cut off anywhere, others have at least half of the title.
    longer = left if cut_off and not numbers else same
    cut = [
        item
        for item, title in longer.items()
        if title.startswith(key) and (cut_off or 2 * len(key) >= len(title))
    ]
    if len(key) >= 4 and len(cut) == 1:
        return cut[0]
    rivals = {
        item: title
        for item, title in same.items()
        if 2 * min(len(key), len(title)) >= _CLOSE * (len(key) + len(title))
    }
    if not rivals:
        return None
    matcher = difflib.SequenceMatcher(autojunk=False)
    matcher.set_seq2(key)
    best, closest = _CLOSE, None
    for item, title in rivals.items():
        matcher.set_seq1(title)
        if matcher.quick_ratio() >= best:
            ratio = matcher.ratio()
            if ratio > best:
                best, closest = ratio, item
            elif ratio == best:
                closest = None  # what is as close to two titles stands for neither
    return closest


@lru_cache(maxsize=4096)
def _numeric_words(key: str) -> tuple[str, ...]:
    return tuple(word for word in key.split() if _NUMERIC.fullmatch(word))


def _mentions(lines: list[str], titles: Titles) -> list[int]:
    """The first title of each line that is more than a short word of the language ("It", "Up")."""
    named: dict[int, None] = {}
    for line in lines:
        folded = fold(line)
        for start, end, item in titles.scan(folded):
            emphasised = folded[start - 1 : start] in ("*", '"', "“", "«") if start else False
            title = folded[start:end]
            if emphasised or " " in title or (len(title) > 4 and not title.isdigit()):
                named.setdefault(item)
                break
    return list(named)
