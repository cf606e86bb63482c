"""Parse one line of a reply: the items or candidate numbers that it names."""

# ruff: noqa: RUF001 - replies contain curly quotes and dashes
from __future__ import annotations

import re
from functools import lru_cache
from itertools import islice
from typing import NamedTuple

from rpp_env.sentences.parsing.scripts import plain_signs
from rpp_env.sentences.parsing.titles import Titles, fold
from rpp_env.sentences.parsing.words import (
    JOINING,
    NOUN,
    announces,
    chooses,
    compares,
    kind_of,
    refuses,
)

__all__ = ["MARKER", "Entry", "Reading", "ends_sentence", "read_line"]

_LONGEST_KEPT = 2000
"""Longest line, in characters, whose reading is cached for the next reply."""
_LONGEST_LABEL = 200
_DEEPEST = 2
"""Maximum number of labels and marks removed in front of an item."""

_DIGIT = re.compile(r"\d")
_NUMBER = re.compile(r"\d+")
_WORD_SIGN = re.compile(r"[^\W_]")
_LETTER = re.compile(r"[^\W\d_]")
_QUOTES = "\"'“”‘’«»„"
_EMPHASIS = _QUOTES + "*_` "
_BULLETED = _EMPHASIS + "-+–•"
_DECORATION = _QUOTES + "*_`~#|<>[](){}.,;:!…-–—•·=/\\ \t"
_SENTENCE_END = (".", "!", "?", ":")

MARKER = re.compile(
    rf"[\s*_\-•+–—<>|#\"'`]{{0,12}}(?:{NOUN}\b\.?\s*)?[#(\[]?(?P<rank>\d{{1,3}})(?:st|nd|rd|th)?"
    r"[\"'*_]{0,3}(?:[\])>]\s*[.:|]?|\s*\\?[.:|)]|\s+[-–—=](?=\s)|\s*[-=]+>)[*_]{0,3}\s*"
    r"(?:(?:title|name)\s*:\s*)?",
    re.IGNORECASE,
)
"""A rank or a number, before the item of that place."""
_ARROW = re.compile(r"(?:[-=]+>|→)\s*")
_BULLET = re.compile(r"(?:[-*•+–—▪◦‣·→>]\s+)+(?:\[[ xX✓]?\]\s+)?")
_LETTERED = re.compile(r"[\s*_>\-•]{0,6}[(\[]?(?:[A-Za-z]|[ivxIVX]{2,5})[.)\]][*_]{0,3}\s+(?=\S)")
_PLAIN_NUMBER = re.compile(
    r"\W{0,4}(?P<rank>\d{1,3})(?:st|nd|rd|th|º|ª|er|e)?(?![\d/])[^\w\"“«]{1,6}(?=\S)"
)
_LONE_NUMBER = re.compile(rf"(?:{NOUN}\b\.?\s*:?\s*)?[#(\[]*(\d{{1,4}})[\])]*", re.IGNORECASE)

_CALLED = re.compile(r"(?:title|name)\b", re.IGNORECASE)
_NUMBER_BEHIND = re.compile(r"\s[\[(]#?\d{1,3}[\])]$")
_QUANTITY = re.compile(
    r"(?P<word>[^\W\d_]+)|(?P<number>\d{1,12}(?:\.\d{1,12})?)(?P<unit>\s*%|\s?/\s?\d{1,3}(?![\d/]))?"
)
_REASONED = re.compile(
    r"[*_`\"#(\[]{0,3}(\d{1,3})"
    r"(?:[*_`\"\])]{0,3}\s?[:(]|\s[-–—]\s|,?\s+(?:because|since|as|due to)\b)"
)
_RUN = re.compile(
    r"(?<![\w.])[#(\[{]{0,2}\d{1,4}(?!\d)[\])}]{0,2}"
    r"(?:\s*(?:[-=]+>|[,;>→≻|=/&<.-]|\b(?:and|then|und|et|y)\b)*+\s*[#(\[{]{0,2}\d{1,4}(?!\d)[\])}]{0,2})+"
)
_RUN_SIGN = re.compile(r"[,;>→≻]|[-=]+>")
_REMARK = re.compile(r"\s*\([^()\d]{0,100}\)[\s.]*$")

_JOINING = frozenset(word for word in JOINING.split("|") if " " not in word)
_FILLING = frozenset("is are at the of with has as in n".split())
_LIST_SIGN = re.compile(rf"[,;:>→|/\d=&–—-]|\b(?:{JOINING})\b|[和与與及と]")
_LIST_GAP = re.compile(
    rf"[\W\d_]*(?:(?:\b(?:{JOINING}|the|best|place|choice|is|comes?|would|be|maybe|perhaps|in|at)\b"
    r"|[和与與及と])[\W\d_]*){0,6}"
)
_TIED = re.compile(r"^\W*\(?(?:tied?|equal)\)?")
_TIE = re.compile(r"[^\w,>|:-]*(?:[/&=+,>;]|\band\b|\bund\b|\bor\b)[^\w:|-]*")
_LIST_SIGNS_ONLY = re.compile(r"[\s,;:.>→|/\d=&–—\"'*-]*")
_INVENTED_GAP = re.compile(r"[\W_]*([,;>→|])[^,;>→|]{1,80}\1[\W\d_]*")
_DESCRIPTION = re.compile(r"(?:[-–](?=[)\]:]))?[\s*_`\"”»)\].!?…]*(?:$|\s[-–—]+\s|[:(\[|–—])")
_REASON = re.compile(
    r"[\s*_`\"”»)\]}.!?…+-]*(?:,?\s*\b(?:because|since|as|which|is|was|due|given|would|will|fits|matches|weil|denn|"
    r"porque|parce|perche|car)\b|,\s*(?:a|an|the|another|directed|starring|by|with|who|also|for|it|this|"
    r"based|similar)\b)"
)
_STRESSED = re.compile(r"(\*\*|__|[*_`\"“«])(?P<title>[^*_`\"“”«»]{1,200})[*_`\"”»]{1,2}")
_RANK_INSIDE = re.compile(
    r"(?<![\w.,(\[/-])[*_(\[#]{0,3}[01](?:[.)\]:][*_]{0,2}\s*|\s*\|\s*|\s+[-–—]\s+)(?=\S)"
)
_BREAK = re.compile(
    r"[:：][*_\s]*|[-=]+>\s*|[!.?]\s+|\s[-–—]\s+|\*\*\s+|(?P<verb>\b(?:is|are)\s+)"
    r"|^(?:ok|okay|sure|well|yes|so|certainly|great|alright),\s+",
    re.IGNORECASE,
)
"""End of a label."""
_FIELD = re.compile(
    r"(?:^|[,;|]\s{0,3}|\s[-–—]\s)[*_\"']{0,3}"
    r"([^\W\d_][^\W\d_]{0,20}(?:[ _][^\W\d_]{1,20})?)[*_\"']{0,3}\s?[:=]\s*"
)


class Entry(NamedTuple):
    """One place of a list."""

    text: str
    item: int | None = None
    loose: int = 0
    """0 if the item is certain, 1 if it is read loosely."""
    number: int | None = None
    """The digits that may be a candidate number."""
    rank: int | None = None
    """The number before it: a rank, or possibly a candidate number."""
    read: bool = True
    """Whether a rank, a bullet, a number or a title was recognised."""
    mark: str = ""
    """Kind of mark before it: "rank", "bullet" or empty."""
    label: str = ""
    """Words before it, on the same line."""
    sign: str = ""
    """Sign between `rank` and `number`, if the line holds nothing else."""
    indent: int = 0


class Reading(NamedTuple):
    """The parsed content of a line."""

    entries: tuple[Entry, ...]
    """None for a line that only holds a rank or a remark."""
    in_sentence: bool = False
    """Whether the entries are in the middle of a sentence."""
    refused: bool = False
    """Whether the sentence refuses to do something."""


def ends_sentence(line: str) -> bool:
    """Return whether a line without items separates two lists, rather than belonging to one."""
    return line.startswith("#") or line.rstrip("*_ ").endswith(_SENTENCE_END)


def read_line(line: str, titles: Titles) -> Reading:
    """Parse a line that holds at most one rank."""
    read = _read_again if len(line) <= _LONGEST_KEPT else _read_anew
    return read(line, titles)


def _read_anew(line: str, titles: Titles) -> Reading:
    if line in titles.exact and not line.isdigit():
        return Reading((Entry(line, titles.exact[line]),))
    if not line.isascii():
        marker = MARKER.match(line)
        rest = line[marker.end() :] if marker else line
        if marker and rest in titles.exact and not rest.isdigit():
            return Reading(
                (Entry(rest, titles.exact[rest], rank=int(marker["rank"]), mark="rank"),)
            )
        line = plain_signs(line)
    return _Line(line, titles).read()


_read_again = lru_cache(maxsize=1 << 12)(_read_anew)
"""Cached `_read_anew`: replies to one task have most of their lines in common."""


class _Line:
    """A line that is not just a title: the marks before its item, and the rest."""

    __slots__ = ("core", "depth", "figures", "inner", "line", "mark", "rank", "rest", "titles")

    def __init__(self, line: str, titles: Titles, depth: int = 0) -> None:
        self.line = line
        self.depth = depth
        self.titles = titles
        if (arrow := _ARROW.match(line)) and len(arrow[0]) < len(line):
            self.line = line = line[arrow.end() :]
        self.rank: int | None = None
        self.mark = ""
        marker = MARKER.match(line)
        if marker:
            self.rest = line[marker.end() :]
            self.rank = int(marker["rank"])
            self.mark = "rank"
        elif bullet := _BULLET.match(line):
            self.rest = line[bullet.end() :]
            self.mark = "bullet"
        else:
            self.rest = line

    def entry(self, text: str, item: int | None = None, loose: int = 0) -> Entry:
        return Entry(text, item, loose, None, self.rank, True, self.mark)

    def read(self) -> Reading:
        return self._exactly() or self._as_a_whole() or self._in_parts() or self._unread()

    def _inner(self, text: str) -> Reading:
        """Parse a part of the line."""
        return _Line(text, self.titles, self.depth + 1).read()

    def _exactly(self) -> Reading | None:
        """Read a title exactly as in the prompt, with nothing but marks around it."""
        exact = self.titles.exact
        for text in (self.rest, inner := self.rest.strip(_EMPHASIS)):
            if text in exact and not text.isdigit():
                return Reading((self.entry(text, exact[text]),))
        if inner[-1:] in ("]", ")"):  # "1. +44 [3]"
            text = _NUMBER_BEHIND.sub("", inner)
            if text in exact and not text.isdigit():
                return Reading((self.entry(text, exact[text], 1),))
        self.inner = inner
        self.core = core = self.rest.strip(_DECORATION)
        self.figures = _DIGIT.search(core) is not None or (self.rank is not None and not core)
        if self.figures or self.titles.signs:
            whole = self.line.strip(_BULLETED)
            if whole in exact and not whole.isdigit():
                return Reading((Entry(whole, exact[whole]),))
        entry = self._of_signs() if self.titles.signs else None
        return None if entry is None else Reading((entry,))

    def _as_a_whole(self) -> Reading | None:
        """Read a line that is one number or one title apart from the marks before it."""
        titles, core = self.titles, self.core
        digits_first, digits_only = titles.with_digits
        if self.figures:
            if reading := self._lone_number() or self._ranked_number():
                return reading
            if not digits_only and not _LETTER.search(self.line):
                return self._figures() or Reading(())
        for text in (self.inner, core) if self.inner != core else (core,):
            if found := titles.find(text):
                if found[1] and not self.mark and _LETTERED.match(self.line):
                    self.mark = "rank"  # "a) Alien", where "a" is not an article
                return Reading((self.entry(core, *found),))
        if self.mark and digits_first and (found := titles.find(self.line)):  # "3. Ninjas"
            return Reading((self.entry(core, *found),))
        entry = self._behind_more_numbers()
        return None if entry is None else Reading((entry,))

    def _in_parts(self) -> Reading | None:
        """Read a line that holds more than one number or one title."""
        fields = self._fields()
        if fields is not None and fields.item is not None:
            return Reading((fields,))
        if self.figures and (reading := self._figures()):
            return reading
        if reading := self._words():
            return reading
        if self.figures and (reading := self._run()):
            return reading
        entry = fields or self._number_with_reason()
        return None if entry is None else Reading((entry,))

    def _unread(self) -> Reading:
        if self.mark:
            return Reading((self.entry(self.core),))
        return Reading((Entry(self.line, read=False),), refused=refuses(self.line))

    def _of_signs(self) -> Entry | None:
        """Read a title without letters and digits, such as "!!!", with no words before it."""
        for title in sorted(self.titles.signs, key=len, reverse=True):
            before, found, behind = self.line.partition(title)
            first = not _LETTER.search(before) or before.rstrip().endswith(":")
            if found and first and (not behind or behind[0] in " ,.;:([-*\"'`|"):
                return self.entry(title, self.titles.exact[title])
        return None

    # Numbers

    def _lone_number(self) -> Reading | None:
        """Read a line that is one number, as in "Candidate 3" or "3."."""
        if self.mark == "rank" and self.core and not _LETTER.search(self.line):
            return None
        core = self.core or self.line.strip(_DECORATION)
        number = _LONE_NUMBER.fullmatch(core)
        if number is None:
            return None
        item, loose = self.titles.find(core) or (None, 0)
        kind = "" if core[0].isdigit() else kind_of(core)
        if item is None and kind in ("rank", "other", "reason"):
            if kind == "rank" and self.rank is not None:  # "3: rank 1"
                return self._number(str(self.rank), int(number[1]))
            return Reading(())
        if _CALLED.match(core) and (titled := self.titles.keys.get(number[1])) is not None:
            return Reading((self.entry(core, titled),))
        quoted = item is not None and self.rest[:1] in _QUOTES
        rank = self.rank if self.core else None
        value = None if quoted else int(number[1])
        return Reading((Entry(core, item, loose, value, rank, mark=self.mark),))

    def _ranked_number(self) -> Reading | None:
        """Read a number behind a rank, as in "1 -> 3"; it may be a title as well."""
        if not self.core.isdigit() or self.rank is None:
            return None
        if self.rest[:1] in _QUOTES and (found := self.titles.find(self.core)):
            return Reading((self.entry(self.core, *found),))
        return self._figures()

    def _behind_more_numbers(self) -> Entry | None:
        """Read the title behind one or two more numbers, as in "1. [3] Up" or "1 Up"."""
        rest, rank = self.rest, self.rank
        for _ in range(2):
            inner = MARKER.match(rest) or _PLAIN_NUMBER.match(rest)
            if inner is None:
                return None
            rest = rest[inner.end() :]
            rank = int(inner["rank"]) if rank is None else rank
            if found := self.titles.find(rest.strip(_DECORATION)):
                return Entry(self.core, *found, rank=rank, mark="rank")
        return None

    def _figures(self) -> Reading | None:
        """Read candidate numbers, alone in the line or in a row of them."""
        quantities = _quantities(self.line)
        if quantities is None:
            return None
        worded = _LETTER.search(self.core) is not None
        if worded and (scanned := self.titles.scan(folded := fold(self.rest))):
            start, end, item = scanned[0]
            head = folded[start:end]
            noun = kind_of(head) in ("number", "title", "rank") and " " not in head
            if not _WORD_SIGN.search(folded[:start]) and not head.isdigit() and not noun:
                # As in "Why? [3]", where "Why?" is a title.
                return Reading((self.entry(self.core, item, 1),))
        kept = [
            (n, kind, start, end)
            for n, kind, start, end in quantities
            if kind not in ("other", "reason")
        ]
        own = [q for q in kept if q[1] == "number"]
        ranks = [q for q in kept if q[1] == "rank"]
        plain = [q for q in kept if not q[1]]
        if own:
            behind = [q for q in plain if q[2] > own[-1][2]]
            if len(own) > 1 or len(behind) > 1:
                return self._chain([q[0] for q in kept if q[1] != "rank"])
            if (
                len(behind) == 1
                and _RUN_SIGN.search(self.line[own[0][3] : behind[0][2]])
                and not ranks
            ):
                return self._chain([own[0][0], behind[0][0]])
            if len(behind) == 1 and not ranks and kept[0] == own[0]:
                sign = self.line[own[0][3] : behind[0][2]].strip()
                return self._number(behind[0][0], int(own[0][0]), sign or " ")
            before = [*ranks, *(q for q in plain if q[2] < own[0][2])]
            rank = int(before[0][0]) if before else None
            return self._number(own[0][0], rank)
        if ranks:
            return self._number(plain[0][0], int(ranks[0][0])) if plain else Reading(())
        if len(plain) > 2:
            return self._chain([q[0] for q in plain])
        if len(plain) == 2:
            sign = self.line[plain[0][3] : plain[1][2]].strip("[](){}#*_`\"' ")
            return self._number(plain[1][0], int(plain[0][0]), sign or " ")
        return self._number(plain[0][0], None) if plain else Reading(())

    def _number(self, number: str, rank: int | None, sign: str = "") -> Reading:
        item = self.titles.exact.get(number, self.titles.keys.get(number))
        mark = self.mark if rank is None else "rank"
        entry = Entry(number, item, number=int(number), rank=rank, mark=mark, sign=sign)
        return Reading((entry,))

    def _chain(self, numbers: list[str], in_sentence: bool = False) -> Reading:
        exact = self.titles.exact
        return Reading(tuple(Entry(n, exact.get(n), number=int(n)) for n in numbers), in_sentence)

    def _run(self) -> Reading | None:
        """Read a row of numbers with words around it, as in "3 > 1 > 2 (best first)"."""
        if len(_NUMBER.findall(self.core if self.mark == "rank" else self.line)) < 2:
            return None
        line = _REMARK.sub("", self.line).rstrip(" .*`\"'$")
        best = max(_RUN.finditer(line), key=lambda run: len(run[0]), default=None)
        if best is None:
            return None
        numbers = re.findall(r"\d+", best[0])
        before, behind = line[: best.start()].rstrip(" *_`\"'"), line[best.end() :]
        count = len(self.titles.exact)
        after = _LETTER.search(behind) is not None
        if after:
            fits = len(set(numbers)) == len(numbers) > 2 and all(
                1 <= int(n) <= count for n in numbers
            )
            listed = len(_RUN_SIGN.findall(best[0])) >= len(numbers) - 2
            return self._chain(numbers, True) if fits and listed else None
        # "1. 3" and "1 | 3" are a rank and a number, "Apollo 12, 13" may be a title.
        if len(numbers) > 2 or (
            len(numbers) == 2 and before[-1:] in ("", ":") and _RUN_SIGN.search(best[0])
        ):
            return self._chain(numbers)
        return None

    def _number_with_reason(self) -> Entry | None:
        """Read a number with words behind it, as in "1. 3 - it is loud"."""
        found = _REASONED.match(self.rest)
        if found is None:
            return None
        if self.rank is None:
            return Entry(self.core, rank=int(found[1]), mark="rank")
        return Entry(self.core, number=int(found[1]), rank=self.rank, mark="rank", sign=":")

    # Words

    def _words(self) -> Reading | None:
        titles, core = self.titles, self.core
        folded, scanned = "", []
        if not (core.isalnum() and core.isascii()):
            folded = fold(self.rest)
            scanned = titles.scan(folded)
        chain, pure, between = _longest_chain(folded, scanned)
        tie = len(chain) == 2 and pure and _TIE.fullmatch(between) is not None
        described = chain and chain[0] != scanned[0] and self._described(folded, scanned[0])
        if not described and (len(chain) > 2 or (len(chain) == 2 and (not self.mark or tie))):
            if titles.signs:
                chain = _with_titles_of_signs(folded, chain, titles)
            entries = [Entry(folded[start:end], item) for start, end, item in chain]
            liked = _is_of_the_past(folded[: chain[0][0]])
            if pure and not liked:
                entries = [e._replace(rank=self.rank, mark=self.mark) for e in entries]
                return Reading(tuple(entries))
            return Reading(tuple(entries), True, liked or refuses(self.line))
        if self.rank is not None and self.rank > len(titles.exact):
            # "- 54: a story" is about the film "54"
            folded = fold(self.line)
            scanned = titles.scan(folded)
        if scanned and self._described(folded, scanned[0]):
            return Reading((self.entry(core, scanned[0][2], 1),))
        stressed = _STRESSED.match(self.rest) if self.mark else None
        if stressed and (found := titles.find(stressed["title"].strip(_DECORATION))):
            return Reading((self.entry(core, found[0], 1),))
        if self.depth >= _DEEPEST:
            return None
        if (lettered := _LETTERED.match(self.line)) and not self.rank:
            inner = self._inner(self.line[lettered.end() :])
            if inner.entries and inner.entries[0].item is not None and not inner.in_sentence:
                marked = (e._replace(mark=e.mark or "rank") for e in inner.entries)
                return Reading(tuple(marked))
        tried = self.mark != "rank" and len(self.line) <= _LONGEST_KEPT
        tried = tried and (bool(scanned) or _DIGIT.search(self.line) is not None)
        if tried and (reading := self._behind_label()):
            return reading
        return None

    def _described(self, folded: str, title: tuple[int, int, int]) -> bool:
        """Whether the line begins with a title and continues with a description."""
        start, end, _ = title
        if _WORD_SIGN.search(folded[:start]):
            return False
        reason = self.mark and _REASON.match(folded, end)
        return bool(reason or _DESCRIPTION.match(folded, end))

    def _fields(self) -> Entry | None:
        """Read the item of a line of keys and values, as in "Rank: 1, Title: Alien"."""
        if self.depth >= _DEEPEST or (":" not in self.rest and "=" not in self.rest):
            return None
        fields = list(_FIELD.finditer(self.rest))
        if not fields or fields[0].start() > 0:
            return None
        ends = [field.start() for field in fields[1:]] + [len(self.rest)]
        values = {
            kind_of(field[1]): self.rest[field.end() : end].strip(_DECORATION)
            for field, end in zip(fields[::-1], ends[::-1], strict=True)
        }
        rank = self.rank
        if values.get("rank", "").isdigit():
            rank = int(values["rank"])
        title = values.get("title") or values.get("number") or ""
        mark = self.mark or "field"
        if "title" in values and (found := self.titles.find(title)):
            return Entry(title, *found, rank=rank, mark=mark)
        if not title or title.isdigit():
            return None
        first = next(iter(self._inner(title).entries), None)
        if first is None or (first.item is None and first.number is None):
            return Entry(title, rank=rank, mark=mark)
        return first._replace(rank=first.rank if rank is None else rank, mark=mark)

    def _behind_label(self) -> Reading | None:
        """Read the item behind some words, as in "Ranking: 1. Alien" or "Sure! Alien"."""
        text = self.rest if self.mark == "bullet" else self.line
        inside = _RANK_INSIDE.search(text, 1, _LONGEST_LABEL)
        breaks = islice(_BREAK.finditer(text, 0, _LONGEST_LABEL), 4)
        places = [(found.end(), found["verb"] is not None) for found in breaks]
        if inside is not None and not _DIGIT.search(text, 0, inside.start()):
            places.append((inside.start(), False))
        for place, after_verb in sorted(places):
            label, behind = text[:place].strip(_DECORATION), text[place:].strip()
            if not behind or not _LETTER.search(label):
                continue
            kind, announced = kind_of(label), announces(label)
            if kind in ("rank", "other", "reason") and not announced:
                continue
            inner = self._inner(behind)
            if not inner.entries or inner.in_sentence:
                continue
            first = inner.entries[0]
            if first.label:
                continue
            if first.item is not None:
                fits = not first.loose or first.mark != ""
            elif first.number is not None:
                fits = announced or not after_verb  # "The answer is 3"
            else:  # a list may follow, whose first item was not recognised
                fits = first.mark == "rank" and (announced or len(label.split()) <= 2)
            if not fits:
                continue
            mark = first.mark or self.mark or ("field" if kind in ("title", "number") else "")
            labelled = first._replace(label=label, mark=mark)
            return Reading((labelled, *inner.entries[1:]), refused=refuses(label))
        return None


def _with_titles_of_signs(
    folded: str, chain: list[tuple[int, int, int]], titles: Titles
) -> list[tuple[int, int, int]]:
    """Add titles without letters and digits, such as "!!!", between those of a list."""
    found = list(chain)
    starts = [0, *(end for _, end, _ in chain)]
    ends = [*(start for start, _, _ in chain), len(folded)]
    for title in titles.signs:
        sign = fold(title)
        if _LIST_SIGNS_ONLY.fullmatch(sign):
            continue
        for start, end in zip(starts, ends, strict=True):
            at = folded.find(sign, start, end)
            if at >= 0:
                found.append((at, at + len(sign), titles.exact[title]))
                break
    return sorted(found)


def _is_of_the_past(before: str) -> bool:
    """Whether the words introduce titles that the user liked, not a ranking."""
    label = before.rpartition(":")[0]
    if label:
        return kind_of(" ".join(label.split()[-2:])) == "reason" and not announces(label)
    return compares(before) and chooses(before) is None


def _quantities(line: str) -> list[tuple[str, str, int, int]] | None:
    """Return a line's numbers with their kinds, by the words before them; None for other words.

    The kind is "rank", "number" (of a candidate), "other" (scores, shares, fractions) or empty.
    """
    found: list[tuple[str, str, int, int]] = []
    pending = ""
    for token in _QUANTITY.finditer(line):
        if word := token["word"]:
            kind = kind_of(word)
            if kind:
                pending = {"title": "number", "label": ""}.get(kind, kind)
            elif word.casefold() not in _JOINING and word not in _FILLING:
                return None
            continue
        if token["unit"] and line.count("/") > 1:  # "3/1/2" is a list, "3/10" a score
            found += [
                (n[0], "", token.start() + n.start(), token.start() + n.end())
                for n in _NUMBER.finditer(token[0])
            ]
            continue
        kind = "other" if token["unit"] or "." in token["number"] else pending
        found.append((token["number"], kind, token.start(), token.end()))
        pending = ""
    return found


def _longest_chain(
    folded: str, scanned: list[tuple[int, int, int]]
) -> tuple[list[tuple[int, int, int]], bool, str]:
    """Return the longest run of titles separated by list signs only, and whether it is all.

    The third value is the sign between its first two titles.
    """
    if len(scanned) < 2:
        return [], False, ""
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
    if len(best) < 2:
        return [], False, ""
    before = folded[: best[0][0]].rpartition(":")[2]
    behind = _TIED.sub("", folded[best[-1][1] :])
    pure = not _LETTER.search(before) and not _LETTER.search(behind)
    return best, pure, folded[best[0][1] : best[1][0]]
