"""Lookup of the titles of one task, from exact to vague matches."""

# ruff: noqa: RUF001, RUF003 - replies contain curly quotes and dashes
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

__all__ = ["Titles", "compact", "fold", "key_of", "places_of", "titles_of"]

_LONGEST_SCANNED = 30
"""Longer titles are found as whole lines only: a scan looks this many words ahead."""

_ARTICLES = frozenset("the a an le la les el los las il der das un une".split())
_FOLDING = str.maketrans(
    {"&": " and ", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}
    | dict.fromkeys("'’‘`´", None)  # "Schindler’s" and "Schindlers" are one word
)
_SIGNS = str.maketrans(dict.fromkeys("™®©℠", None))
_VOICING = "\u3099\u309a"
"""Marks that make other letters of kana; in other scripts, accents make variants of a letter."""
_UNSPACED = (
    "\u3041-\u3096\u309d-\u30fa\u30fc-\u30ff\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff"
    "\U00020000-\U0003ffff"
)
"""Letters of scripts without blanks between words (Korean appends particles to them)."""
_WORD = re.compile(r"[^\W_]+")
_WORD_OR_SIGN = re.compile(rf"[{_UNSPACED}]|[^\W_{_UNSPACED}]+")
_BLANK_BETWEEN_SIGNS = re.compile(rf"(?<=[{_UNSPACED}]) (?=[{_UNSPACED}])")

_YEAR = re.compile(r"[\[(]\s*(?:18|19|20)\d\d\b[^\])]{0,12}[\])]?|\s*[,–—-]\s+(?:18|19|20)\d\d$")
_NEXT_YEAR = re.compile(r"[\s,]*[(\[]?\s*((?:18|19|20)\d\d)\b")
_OWN_YEAR = re.compile(r"\s*\((?:18|19|20)\d\d\)$")
_BRACKETED_NUMBER = re.compile(r"\s[\[(]#?\d{1,3}[\])]?$")
_BRACKETED = re.compile(r"\(([^()]*)\)")
_KNOWN_AS = re.compile(r"^\s*(?:a\.?k\.?a\.?|aka|also known as)\s*", re.IGNORECASE)
_MAIN_PART = re.compile(r":|\s-\s|[(\[]")
_PARTS = re.compile(r":|\s[-–—]\s")

_NUMERALS = {
    word: str(number)
    for words in (
        "i ii iii iv v vi vii viii ix x xi xii xiii xiv xv xvi xvii xviii xix xx",
        "one two three four five six seven eight nine ten eleven twelve thirteen fourteen",
    )
    for number, word in enumerate(words.split(), 1)
}
_NUMBER = re.compile(r"\d")
_INSTALMENT = re.compile(r"\b(?:part|pt|vol|volume|chapter|episode|no|number) (?=\d)")


@lru_cache(maxsize=4096)
def places_of(candidates: tuple[str, ...]) -> dict[Any, int]:
    """Return the position of each title."""
    return {title: place for place, title in enumerate(candidates)}


def fold(text: str) -> str:
    """Remove case, accents and apostrophes, and normalise the forms of letters and digits."""
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text.translate(_SIGNS))
        plain = "".join(c for c in decomposed if not unicodedata.combining(c) or c in _VOICING)
        text = unicodedata.normalize("NFC", plain)
    return text.translate(_FOLDING)


def _words(folded: str) -> re.Pattern[str]:
    return _WORD if folded.isascii() else _WORD_OR_SIGN


@lru_cache(maxsize=4096)
def key_of(text: str) -> str:
    """Return the words of a title; an article behind it moves to the front."""
    folded = fold(text)
    words = _words(folded).findall(folded)
    if len(words) > 1 and words[-1] in _ARTICLES:
        words.insert(0, words.pop())
    return " ".join(words)


def compact(key: str) -> str:
    """Remove blanks between letters of a script that has none from a key."""
    return key if key.isascii() else _BLANK_BETWEEN_SIGNS.sub("", key)


def _without_article(key: str) -> str:
    article, _, rest = key.partition(" ")
    return rest if rest and article in _ARTICLES else key


def _numerals_in(words: list[str]) -> bool:
    return not _NUMERALS.keys().isdisjoint(words)


def _in_digits(key: str) -> str:
    """Write a key's numerals as digits: "rocky iii", "rocky part three" and "rocky 3" agree."""
    words = [_NUMERALS.get(word, word) for word in key.split(" ")]
    return _INSTALMENT.sub("", " ".join(words))


def _unambiguous(keys: Iterable[tuple[str, int]]) -> dict[str, int]:
    """Map each key to its candidate; keys of several candidates are left out."""
    found: dict[str, int] = {}
    several = {""}
    for key, item in keys:
        if found.setdefault(key, item) != item:
            several.add(key)
    return {key: item for key, item in found.items() if key not in several}


@lru_cache(maxsize=1 << 14)
def _keys_of(title: str) -> tuple[str, str]:
    """Return the keys of a title: whole, and without its article."""
    key = key_of(title)
    return key, _without_article(key)


class _Vague(NamedTuple):
    """Further keys that may refer to a title."""

    undated: tuple[str, ...]
    """The title without its year, or without everything in brackets."""
    parts: tuple[str, ...]
    """The part before a colon, behind the last one, or in brackets."""
    numbered: tuple[str, ...]
    """Keys with numerals as digits, except those that are only a number."""


@lru_cache(maxsize=1 << 14)
def _vague_keys_of(title: str) -> _Vague:
    def keys(texts: Iterable[str]) -> list[str]:
        return [_without_article(key_of(text)) for text in texts]

    undated = _OWN_YEAR.sub("", title)
    year = title[len(undated) :]
    names = keys([undated, _BRACKETED.sub(" ", title)]) if "(" in title else []
    main = _MAIN_PART.split(title, maxsplit=1)[0]
    parts = [key for key in keys([main, main + year]) if not key.isdigit()]
    more = [_KNOWN_AS.sub("", other) for other in _BRACKETED.findall(undated)]
    more += _PARTS.split(undated)[1:][-1:]
    # A single word of a subtitle or in brackets is too vague: "Impossible", "Uncut".
    parts += keys(part for part in more if " " in key_of(part))
    numbered = (_in_digits(key) for key in (_keys_of(title)[1], *names))
    return _Vague(tuple(names), tuple(parts), tuple(key for key in numbered if not key.isdigit()))


class _Phrase(NamedTuple):
    """Words that refer to a title in a longer text."""

    words: str
    first: str
    length: int


@lru_cache(maxsize=1 << 14)
def _phrases_of(title: str) -> tuple[list[_Phrase], list[_Phrase], list[_Phrase]]:
    """Return the phrases of the whole title, of its other names, and these with digits."""
    levels: tuple[dict[str, None], dict[str, None], dict[str, None]] = ({}, {}, {})
    whole, bare = _keys_of(title)
    for level, names in enumerate(((whole,), (bare, *_vague_keys_of(title).undated))):
        for key in names:
            article, _, rest = key.partition(" ")
            inverted = [f"{rest} {article}"] if rest and article in _ARTICLES else []
            for phrase in (key, *inverted):
                words = phrase.split(" ")
                if phrase and len(words) <= _LONGEST_SCANNED:
                    levels[level][phrase] = None
                    if len(words) > 1 and _numerals_in(words):
                        levels[2][" ".join(_NUMERALS.get(word, word) for word in words)] = None
    first, second, third = (
        [_Phrase(words, words.partition(" ")[0], words.count(" ") + 1) for words in level]
        for level in levels
    )
    return first, second, third


class Titles:
    """Lookup tables for the candidates of one task."""

    def __init__(self, candidates: tuple[str, ...]) -> None:
        self.candidates = candidates
        self.exact = places_of(candidates)
        keys = [_keys_of(title) for title in candidates]
        self.item_keys = [whole for whole, _ in keys]
        self._longest = max(map(len, self.item_keys), default=0)
        self.keys = _unambiguous((whole, item) for item, (whole, _) in enumerate(keys))
        self.bare_keys = _unambiguous((bare, item) for item, (_, bare) in enumerate(keys))
        self.signs = [title for title in candidates if not _keys_of(title)[0]]
        """Titles without a letter or a digit."""

    @cached_property
    def _vague(self) -> dict[str, int]:
        """Unambiguous shorter names, such as "Star Wars" for "Star Wars: Episode IV"."""
        names = [_vague_keys_of(title) for title in self.candidates]
        undated = _unambiguous((key, i) for i, each in enumerate(names) for key in each.undated)
        parts = _unambiguous((key, i) for i, each in enumerate(names) for key in each.parts)
        return parts | undated

    @cached_property
    def _numbered(self) -> dict[str, int]:
        """Names with numerals as digits."""
        names = [_vague_keys_of(title).numbered for title in self.candidates]
        return _unambiguous((key, i) for i, each in enumerate(names) for key in each)

    @cached_property
    def _years(self) -> dict[int, str]:
        found = ((item, _OWN_YEAR.search(title)) for item, title in enumerate(self.candidates))
        return {item: year[0].strip(" ()") for item, year in found if year}

    @cached_property
    def with_digits(self) -> tuple[bool, bool]:
        """Return whether a title begins with a digit, and whether one has digits and no letter."""
        return (
            any(key[:1].isdigit() for key in self.item_keys),
            any(" " in key and key.replace(" ", "").isdigit() for key in self.item_keys),
        )

    @cached_property
    def phrases(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Items by their phrases; lengths of the phrases by first word, longest first."""
        phrases: dict[str, int] = {}
        lengths: dict[str, set[int]] = {}
        every = [_phrases_of(title) for title in self.candidates]
        for level in range(3):
            found: dict[str, int] = {}
            several = set()
            for item, levels in enumerate(every):
                for words, first, length in levels[level]:
                    if found.setdefault(words, item) != item:
                        several.add(words)
                    if first in lengths:
                        lengths[first].add(length)
                    else:
                        lengths[first] = {length}
            for words in several:
                del found[words]
            phrases = found | phrases
        return phrases, {first: sorted(some, reverse=True) for first, some in lengths.items()}

    def find(self, text: str) -> tuple[int, int] | None:
        """Return the candidate that `text` refers to, and 0 (certain) or 1 (loose)."""
        if text in self.exact:
            return self.exact[text], 0
        if len(text) > 2 * self._longest + 40:
            return None
        key = key_of(text)
        if key in self.keys:
            return self.keys[key], 0
        if text.isdigit():
            return None
        bare = _without_article(key)
        if bare in self.bare_keys:
            return self.bare_keys[bare], 1
        if text[-1:] in "0123456789])" and (number := _BRACKETED_NUMBER.search(text)):
            # "Rocky [3]" is not "Rocky III".
            found = self.find(text[: number.start()])
            return None if found is None else (found[0], 1)
        if len(bare) <= self._longest and bare in self._vague:
            return self._vague[bare], 1
        dated = "(" in text or "[" in text or text[-1:].isdigit()
        if dated and (year := _YEAR.search(text)):
            key = key_of(text[: year.start()] + text[year.end() :])
            item = self.keys.get(key, self.bare_keys.get(_without_article(key)))
            if item is not None:
                return item, 1
        if len(bare) > self._longest + 8 or not self._numbered:
            return None
        if _NUMBER.search(bare) or _numerals_in(bare.split(" ")):
            item = self._numbered.get(_in_digits(bare))
            return None if item is None else (item, 1)
        return None

    def scan(self, folded: str) -> list[tuple[int, int, int]]:
        """Find titles anywhere in a folded line: (start, end, item), the longest at each place."""
        phrases, lengths = self.phrases
        pattern = _words(folded)
        words = pattern.findall(folded)
        digits = words
        if _numerals_in(words):
            digits = [_NUMERALS.get(word, word) for word in words]
        if lengths.keys().isdisjoint(words) and (
            digits is words or lengths.keys().isdisjoint(digits)
        ):
            return []
        places = [match.span() for match in pattern.finditer(folded)]
        found = []
        i, count = 0, len(words)
        while i < count:
            if words[i] not in lengths and digits[i] not in lengths:
                i += 1
                continue
            length, item = _longest(words, i, phrases, lengths)
            last = i + length - 1
            if (
                length > 1
                and words[last] in _ARTICLES
                and _longest(words, last, phrases, lengths)[0] > 1
            ):
                # "Up, The Matrix" names "Up", even if "The Up" is a title.
                shorter = _longest(words, i, phrases, lengths, length - 1)
                length, item = shorter if shorter[0] else (length, item)
            if digits is not words:
                other, same = _longest(digits, i, phrases, lengths)
                if other > max(length, 1) and digits[i : i + other] != words[i : i + other]:
                    length, item = other, same
            if length > 1 and words[i + length - 1].isdigit():
                at, behind = places[i + length - 1]
                if folded[at - 1] in "([" and behind - at <= 3:  # "Rocky (3)" is not "Rocky III"
                    shorter = _longest(words, i, phrases, lengths, length - 1)
                    length, item = shorter if shorter[0] else (length, item)
            if length:
                start, end = places[i][0], places[i + length - 1][1]
                # A number in brackets behind a title is a year, not the film "1984".
                year = folded[start:end].isdigit() and folded[start - 1 : start] in ("(", "[")
                if not year and not self._is_of_another_year(item, folded, end):
                    found.append((start, end, item))
            i += max(length, 1)
        return found

    def _is_of_another_year(self, item: int, folded: str, end: int) -> bool:
        """Whether a year follows that is not the title's own: "Hamlet (1948)", "Hamlet (1996)"."""
        own = self._years.get(item)
        if own is None:
            return False
        said = _NEXT_YEAR.match(folded, end)
        return said is not None and said[1] != own


def _longest(
    words: list[str],
    start: int,
    phrases: dict[str, int],
    lengths: dict[str, list[int]],
    most: int = _LONGEST_SCANNED + 1,
) -> tuple[int, int]:
    """Return the number of words of the longest title at `start`, and its item; or 0 words."""
    for length in lengths.get(words[start], ()):
        if length <= most and start + length <= len(words):
            item = phrases.get(" ".join(words[start : start + length]))
            if item is not None:
                return length, item
    return 0, 0


@lru_cache(maxsize=512)
def titles_of(candidates: tuple[str, ...]) -> Titles:
    """Return the lookup of these candidates, cached for the next reply to the same task."""
    return Titles(candidates)
