"""parse_ranking: what a recommender said, read as an order; write_ranking: the other way round.

Whoever tells the model how to write reads it back, so both sides stand here. What a model says is
never an error: what cannot be read is not named.

How a reply is read
-------------------
1. A reply that keeps to one of `FORMATS`, every line exactly, is read at once.
2. Otherwise thinking between ``<think>`` tags is dropped, JSON lists are unfolded, and every line
   is read for itself: a rank or a bullet is taken off, then emphasis, quotes and a year. Exact
   titles come before folded ones (case, accents, punctuation, place of the article), these before a
   title at the head of a line with a description behind it. Titles in one line between commas,
   semicolons, bars or '>' are a list too.
3. Lines that follow each other are a list. A list that starts again at 1, or repeats what the last
   one named, is another list. Of several, the last one that names more than half as many items as
   the longest counts, so that drafts, thinking and afterwords do not; a list inside a sentence
   counts half.
4. In that list what is still open is compared with the titles that are left: a title that was cut
   off, then the closest spelling (`difflib`), never across different numbers ("Rocky II").
5. Without any list, the first title that each line mentions counts.

A line, or an entry of a one-line list, is one item; an item that is named again keeps its best
reading, and of equal readings the first.

Numbers are candidate numbers, as the prompt prints them from 1, where everything in the list is a
number and none outside of 1..K is a title; otherwise a number that is a title is that title. So
"1984" is the film, "9" is the film in a list of titles and candidate 9 in a list of numbers, and a
number in quotes is a title first.
"""

# ruff: noqa: RUF001, RUF003 - replies hold curly quotes and dashes, so their characters stand here
from __future__ import annotations

import difflib
import html
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from typing import Any, NamedTuple, TypeGuard

from rpp_env.errors import InvalidOption
from rpp_env.patterns import FORMATS
from rpp_env.task import Ranking

__all__ = ["FORMATS", "parse_order", "parse_ranking", "write_ranking"]

_NUMBER_OF = {str(i + 1): i for i in range(1000)}
_RANKS = tuple(f"{numeral}. " for numeral in _NUMBER_OF)
_TEMPLATES = tuple(f"{numeral} | " for numeral in _NUMBER_OF)

_WINDOW = 25_000
"""Of a longer reply, so many characters at each end are read."""
_LONGEST_SCANNED = 30
"""Titles of more words are found as whole lines only: a scan takes their length at every word."""
_LONGEST_KEPT = 2000
"""What lines of up to so many characters say is kept for the next reply."""
_COMPARISONS = 1000
"""Pairs of a line and a title that are compared by spelling, at most."""
_CLOSE = 0.85
"""Similarity (`difflib`) from which a misspelt title is recognised."""

_ARTICLES = frozenset("the a an le la les el los las il der das un une".split())
_FOLDING = str.maketrans(
    {"&": " and ", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}
    | dict.fromkeys("'’‘`´", None)  # "Schindler’s" and "Schindlers" are one word
)
_TOKEN = re.compile(r"[^\W_]+")
_NUMERIC = re.compile(r"\d+|[ivx]+")
_LETTER = re.compile(r"[^\W\d_]")
_YEAR = re.compile(r"[\[(]\s*(?:18|19|20)\d\d\b[^\])]{0,12}[\])]?")
_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)
_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)
_TAG = re.compile(r"</?(?:answer|ranking|output|response|result|ol|ul|li|br)\s*/?>", re.IGNORECASE)
_QUOTES = "\"'“”‘’«»„"
_EMPHASIS = _QUOTES + "*_` "
_DECORATION = _QUOTES + "*_`~#|<>[](){}.,;:!…-–—•· \t"

_LABEL = r"(?:candidate|rank|no|number|item|option|place|title|name)\b\.?\s*"
_MARKER = re.compile(
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
_INLINE_RANK = re.compile(r"\s+(?=\d{1,3}[.)]\s)")
_INVENTED_GAP = re.compile(r"[\W_]*([,;>→|])[^,;>→|]{1,80}\1[\W\d_]*")
_DESCRIPTION = re.compile(r"[\s*_`\"”»)\].!?…]*(?:$|\s[-–—]+\s|[:(\[|–—])")
_SENTENCE_END = (".", "!", "?", ":")

# With indent=0 it would write the same, and take five times as long.
_JSON_LINES = json.JSONEncoder(ensure_ascii=False, separators=(",\n", ": ")).encode
_JSON_OPENING = re.compile(r"\[(?=\s*[\"'{\d])")
_JSON_ITEM = re.compile(
    r"[\s,:{}]*(?:\"(?P<double>(?:[^\"\\\n]|\\.)*)(?:\"|(?=\n)|$)"
    r"|'(?P<single>.{0,300}?)'(?=\s*[,\]}:])|(?P<number>\d{1,9})(?=\s*[,\]}:]|\s*$)|(?P<end>\]))"
)


def write_ranking(order: Sequence[int], candidates: Sequence[str], format: str) -> str:  # noqa: A002 - the word that the sentences use
    """Write a ranking as the contract line of that format asks.

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
        `parse_ranking` gives the order back wherever all candidates are in it. In the bare format
        titles are put in quotes where all of them could be candidate numbers.

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


def parse_ranking(reply: str, candidates: Sequence[str]) -> Ranking:
    """Read a ranking out of a reply.

    Parameters
    ----------
    reply : str
        Anything at all.
    candidates : sequence of str
        Titles in the order in which the prompt shows them; no title twice.

    Returns
    -------
    Ranking
        What was named comes first, the rest follows as shown; `text` stays empty.
    """
    return Ranking(*parse_order(reply, candidates))


def parse_order(reply: str, candidates: Sequence[str]) -> tuple[tuple[int, ...], int]:
    """`Ranking.order` and `Ranking.named` of `parse_ranking`, for those who make the Ranking."""
    candidates = tuple(candidates)
    count = len(candidates)
    stripped = reply.strip()
    named = _read_exactly(stripped, candidates)
    if named is None:
        named = _read_nearly_exactly(stripped, candidates)
    if named is None:
        named = _read_leniently(reply, _titles(candidates))
    if len(named) == count:
        return tuple(named), count
    placed = set(named)
    return (*named, *(i for i in range(count) if i not in placed)), len(named)


# Replies that keep to their format -----------------------------------------------------------


@lru_cache(maxsize=4096)
def _places(candidates: tuple[str, ...]) -> dict[Any, int]:
    return {title: place for place, title in enumerate(candidates)}


def _read_exactly(reply: str, candidates: tuple[str, ...]) -> list[int] | None:
    """The order, or None where some line is not exactly as one of the formats has it."""
    count = len(candidates)
    place = _places(candidates).get
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


def _read_nearly_exactly(reply: str, candidates: tuple[str, ...]) -> list[int] | None:
    """The order of a list that keeps to its format, but for two things; else None.

    There may be sentences before it, and its last line may be cut off. Line by line it would be
    read to the same order, only slower.
    """
    if len(reply) > _WINDOW or _holds_markup(reply):
        return None
    head, listed, last, title = (_json_parts if reply.startswith("[\n") else _line_parts)(reply)
    place = _places(candidates).get
    order = list(map(place, listed))
    # A list of numbers might mean candidate numbers.
    if not listed or not _distinct(order) or candidates[order[0]].isdigit():
        return None
    whole = [*order, place(title)]
    if len(whole) == len(candidates) and _distinct(whole) and all(map(_is_sentence, head)):
        return whole
    titles = _titles(candidates)
    (entry, *more), in_sentence = _read_line(last, titles)
    if (
        more
        or in_sentence
        or entry.rank == 1
        or last.startswith(("1.", "1)"))
        or (not entry.read and _ends_sentence(last))
        or any(_lists([line.strip() for line in head], titles))
    ):
        return None
    places = {item: i for i, item in enumerate(order)}
    if entry.item is not None:
        places.setdefault(entry.item, len(order))
    return _guess([*map(titles.entries.__getitem__, order), entry], titles, places)


def _holds_markup(reply: str) -> bool:
    """Whether there may be tags, escapes, entities or another list in JSON."""
    return (
        "<" in reply
        or "\\" in reply
        or "\r" in reply
        or ("&" in reply and ";" in reply)
        or (reply.find("[", 1) > 0 and _JSON_OPENING.search(reply, 1) is not None)
    )


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


def _is_sentence(line: str) -> bool:
    """Whether a line is blank, or begins as a sentence does, not as an item, and ends as one."""
    line = line.strip()
    return not line or (line[0].isalpha() and _ends_sentence(line) and not _MARKER.match(line))


def _ends_sentence(line: str) -> bool:
    """Whether a line that names nothing stands between lists, not in one."""
    return line.startswith("#") or line.rstrip("*_ ").endswith(_SENTENCE_END)


def _distinct(order: list[int | None]) -> TypeGuard[list[int]]:
    """Whether every line was read, and no two as the same item."""
    return None not in order and len(set(order)) == len(order)


# Titles, as they can be looked up -------------------------------------------------------------


def _fold(text: str) -> str:
    """Without case, accents and apostrophes."""
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    return text.translate(_FOLDING)


@lru_cache(maxsize=4096)
def _key(text: str) -> str:
    """The words of a title; an article behind it comes to the front."""
    words = _TOKEN.findall(_fold(text))
    if len(words) > 1 and words[-1] in _ARTICLES:
        words.insert(0, words.pop())
    return " ".join(words)


def _without_article(key: str) -> str:
    article, _, rest = key.partition(" ")
    return rest if rest and article in _ARTICLES else key


def _unambiguous(keys: Iterable[str]) -> dict[str, int]:
    """Which key stands for which candidate; keys of several candidates stand for none."""
    found: dict[str, int] = {}
    several = {""}
    for item, key in enumerate(keys):
        if found.setdefault(key, item) != item:
            several.add(key)
    return {key: item for key, item in found.items() if key not in several}


@lru_cache(maxsize=1 << 14)
def _title_keys(title: str) -> tuple[str, str, str]:
    """Keys of a title: whole; without its article; the same of what stands before a colon."""
    key = _key(title)
    main_part = _key(re.split(r":|\s-\s|[(\[]", title, maxsplit=1)[0])
    return key, _without_article(key), _without_article(main_part)


class _Titles:
    """The candidates of one task, from exact to vague."""

    def __init__(self, candidates: tuple[str, ...]) -> None:
        self.exact = _places(candidates)
        self.entries = [_Entry(title, item) for item, title in enumerate(candidates)]
        every = [_title_keys(title) for title in candidates]
        self.item_keys = [key for key, _, _ in every]
        self.keys = _unambiguous(self.item_keys)
        self.bare_keys = _unambiguous([bare for _, bare, _ in every])
        # "Star Wars" for "Star Wars: Episode IV", where that can mean only one.
        self.main_parts = _unambiguous([main for _, _, main in every])

    @cached_property
    def phrases(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Words that stand for an item; by their first, how many there can be, most first."""
        phrases: dict[str, int] = {}
        for keys in (self.keys, self.bare_keys):
            for key, item in keys.items():
                article, _, rest = key.partition(" ")
                if key.count(" ") < _LONGEST_SCANNED:
                    phrases.setdefault(key, item)
                    if rest and article in _ARTICLES:
                        phrases.setdefault(f"{rest} {article}", item)
        lengths: dict[str, set[int]] = {}
        for phrase in phrases:
            lengths.setdefault(phrase.partition(" ")[0], set()).add(phrase.count(" ") + 1)
        return phrases, {first: sorted(some, reverse=True) for first, some in lengths.items()}

    def find(self, text: str) -> tuple[int, int] | None:
        """The candidate that `text` as a whole stands for, and 0 (surely) or 1 (loosely)."""
        if text in self.exact:
            return self.exact[text], 0
        if len(text) > 400:
            return None
        key = _key(text)
        if key in self.keys:
            return self.keys[key], 0
        bare = _without_article(key)
        if bare in self.bare_keys:
            return self.bare_keys[bare], 1
        if (year := _YEAR.search(text)) is None:
            return (self.main_parts[bare], 1) if bare in self.main_parts else None
        key = _key(text[: year.start()] + text[year.end() :])
        item = self.keys.get(key, self.bare_keys.get(_without_article(key)))
        return None if item is None else (item, 1)

    def scan(self, folded: str) -> list[tuple[int, int, int]]:
        """Titles anywhere in a folded line: (start, end, item), the longest at each place."""
        phrases, lengths = self.phrases
        words = _TOKEN.findall(folded)
        if lengths.keys().isdisjoint(words):
            return []
        places = [match.span() for match in _TOKEN.finditer(folded)]
        found = []
        i = 0
        while i < len(words):
            length = next(
                (
                    length
                    for length in lengths.get(words[i], ())
                    if i + length <= len(words) and " ".join(words[i : i + length]) in phrases
                ),
                0,
            )
            if length:
                start, end = places[i][0], places[i + length - 1][1]
                # A number in brackets behind a title is a year, not the film "1984".
                if not (folded[start:end].isdigit() and folded[start - 1 : start] in ("(", "[")):
                    found.append((start, end, phrases[" ".join(words[i : i + length])]))
            i += max(length, 1)
        return found


@lru_cache(maxsize=512)
def _titles(candidates: tuple[str, ...]) -> _Titles:
    return _Titles(candidates)


# Lines and lists -------------------------------------------------------------------------------


class _Entry(NamedTuple):
    """One place of a list."""

    text: str
    item: int | None = None
    loose: int = 0
    number: int | None = None
    rank: int = 0
    read: bool = True  # a rank, a bullet, a number or a title was recognised


@dataclass(slots=True)
class _List:
    """Entries that follow each other."""

    entries: list[_Entry] = field(default_factory=list)
    in_sentence: bool = False
    items: set[int] = field(default_factory=set)
    numbers: int = 0

    def add(self, entry: _Entry) -> None:
        self.entries.append(entry)
        self.numbers += entry.number is not None
        if entry.item is not None:
            self.items.add(entry.item)

    @property
    def only_numbers(self) -> bool:
        return self.numbers > 0 and not self.items

    def restarts(self, entry: _Entry) -> bool:
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


def _read_leniently(reply: str, titles: _Titles) -> list[int]:
    text = _THOUGHT_END.split(reply)[-1]
    text = _THOUGHT.split(text, maxsplit=1)[0]
    if len(text) > 2 * _WINDOW:
        text = f"{text[:_WINDOW]}\n{text[-_WINDOW:]}"
    text = _TAG.sub("\n", text)
    if "&" in text and ";" in text:
        text = html.unescape(text)
    text = _unfold_json(text).replace("\r", "\n")
    lines = [piece for line in text.split("\n") for piece in _unfold_ranks(line.strip())]
    lists = _join(_lists(lines, titles))
    resolved = [_resolve(found, titles) for found in lists]
    sizes = [
        len(places) / 2 if found.in_sentence else len(places)
        for found, places in zip(lists, resolved, strict=True)
    ]
    longest = max(sizes, default=0)
    for found, places, size in zip(lists[::-1], resolved[::-1], sizes[::-1], strict=True):
        if size * 2 > longest:
            return _guess(found.entries, titles, places)
    unread = _List([entry for found in lists for entry in found.entries])
    guessed = _guess(unread.entries, titles, _resolve(unread, titles))
    return guessed or _mentions(lines, titles)


def _unfold_json(text: str) -> str:
    """Put each entry of a JSON list (or a Python one) on a line of its own; it may be cut off."""
    parts = []
    done = 0
    for opening in _JSON_OPENING.finditer(text):
        if opening.start() < done:
            continue
        position = opening.end()
        entries = []
        while found := _JSON_ITEM.match(text, position):
            position = found.end()
            if found["end"]:
                break
            title = _unescape(found["double"] or found["single"] or "")
            entries.append(found["number"] or f'"{title}"')
        # "[3] > [1]" is no JSON.
        if len(entries) > 1 or (entries and not entries[0].isdigit()):
            parts += [text[done : opening.start()], *entries]
            done = position
    return "\n".join([*parts, text[done:]])


def _unfold_ranks(line: str) -> list[str]:
    """Put "1. Up 2. Alien 3. It" on three lines: there "Alien 3" is no title."""
    if not line.startswith(("1.", "1)")):
        return [line]
    pieces = _INLINE_RANK.split(line)
    for rank, piece in enumerate(pieces, 1):
        if not piece.startswith((f"{rank}.", f"{rank})")):
            return [line]
    return pieces


def _unescape(text: str) -> str:
    try:
        return " ".join(str(json.loads(f'"{text}"')).split()) if "\\" in text else text
    except ValueError:
        return text


def _lists(lines: list[str], titles: _Titles) -> Iterator[_List]:
    """Entries, cut wherever other text stands between them or the ranks start again."""
    current = _List()
    after_blank = False
    for line in lines:
        if not line or line.startswith("```"):
            after_blank = True
            continue
        entries, in_sentence = _read_line(line, titles)
        prose = in_sentence or (not entries[0].read and (after_blank or _ends_sentence(line)))
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


def _read_line(line: str, titles: _Titles) -> tuple[list[_Entry], bool]:
    """The entries of a line, at least one; and whether they stand in the middle of a sentence."""
    read = _read_again if len(line) <= _LONGEST_KEPT else _read_anew
    return read(line, titles)


def _read_anew(line: str, titles: _Titles) -> tuple[list[_Entry], bool]:
    if line in titles.exact and not line.isdigit():
        return [_Entry(line, titles.exact[line])], False
    marker = _MARKER.match(line)
    rest = line[marker.end() :] if marker else line
    rank = int(marker["rank"]) if marker else 0
    if not marker and (bullet := _BULLET.match(line)):
        rest = line[bullet.end() :]
    marked = rest is not line
    if rest in titles.exact and not rest.isdigit():
        return [_Entry(rest, titles.exact[rest], rank=rank)], False
    core = rest.strip(_DECORATION)
    if (number := _LONE_NUMBER.fullmatch(core or line.strip(_DECORATION))) is not None:
        item, loose = titles.find(core) or (None, 0)
        value = None if item is not None and rest[0] in _QUOTES else int(number[1])
        return [_Entry(core, item, loose, value, rank if core else 0)], False
    for text in (rest.strip(_EMPHASIS), core):
        if found := titles.find(text):
            return [_Entry(core, *found, rank=rank)], False
    if marked and (found := titles.find(line)):  # "3. Ninjas"
        return [_Entry(core, *found, rank=rank)], False
    for inner in (_MARKER.match(rest), _PLAIN_NUMBER.match(rest)):  # "1. [3] Up" and "1 Up"
        if inner and (found := titles.find(rest[inner.end() :].strip(_DECORATION))):
            return [_Entry(core, *found, rank=rank or int(inner["rank"]))], False
    if numbers := _numbers_in(line):
        return [_Entry(n, titles.exact.get(n), 0, int(n)) for n in numbers], False

    folded = _fold(rest)
    scanned = titles.scan(folded)
    chain, pure = _longest_chain(folded, scanned)
    if len(chain) > 2 or (len(chain) == 2 and not marked):
        entries = [_Entry(folded[start:end], item) for start, end, item in chain]
        if pure:
            entries[0] = entries[0]._replace(rank=rank)
        return entries, not pure
    if rank > len(titles.exact):  # "- 54: a story" is about the film "54"
        folded = _fold(line)
        scanned = titles.scan(folded)
    if scanned and not folded[: scanned[0][0]].strip(_DECORATION):
        _, end, item = scanned[0]
        if _DESCRIPTION.match(folded, end):
            return [_Entry(core, item, 1, rank=rank)], False
    return [_Entry(core, rank=rank) if marked else _Entry(line, read=False)], False


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


# From a list to an order -----------------------------------------------------------------------


def _resolve(found: _List, titles: _Titles) -> dict[int, int]:
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


def _guess(entries: list[_Entry], titles: _Titles, places: dict[int, int]) -> list[int]:
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
        keys = {_key(entry.text): None, _key(head): None}
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


def _mentions(lines: list[str], titles: _Titles) -> list[int]:
    """The first title of each line that is more than a short word of the language ("It", "Up")."""
    named: dict[int, None] = {}
    for line in lines:
        folded = _fold(line)
        for start, end, item in titles.scan(folded):
            emphasised = folded[start - 1 : start] in ("*", '"', "“", "«") if start else False
            title = folded[start:end]
            if emphasised or " " in title or (len(title) > 4 and not title.isdigit()):
                named.setdefault(item)
                break
    return list(named)
