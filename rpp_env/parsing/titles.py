"""Titles of one task, as they can be looked up: from exact to vague."""

# ruff: noqa: RUF001, RUF003 - replies hold curly quotes and dashes, so their characters stand here
from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any

__all__ = ["Titles", "fold", "key_of", "places_of", "titles_of"]

_LONGEST_SCANNED = 30
"""Titles of more words are found as whole lines only: a scan takes their length at every word."""


_ARTICLES = frozenset("the a an le la les el los las il der das un une".split())


_FOLDING = str.maketrans(
    {"&": " and ", "æ": "ae", "œ": "oe", "ø": "o", "ł": "l", "đ": "d"}
    | dict.fromkeys("'’‘`´", None)  # "Schindler’s" and "Schindlers" are one word
)


_TOKEN = re.compile(r"[^\W_]+")


_YEAR = re.compile(r"[\[(]\s*(?:18|19|20)\d\d\b[^\])]{0,12}[\])]?")


@lru_cache(maxsize=4096)
def places_of(candidates: tuple[str, ...]) -> dict[Any, int]:
    """The position of each title."""
    return {title: place for place, title in enumerate(candidates)}


def fold(text: str) -> str:
    """Without case, accents and apostrophes."""
    text = text.casefold()
    if not text.isascii():
        decomposed = unicodedata.normalize("NFD", text)
        text = "".join(c for c in decomposed if not unicodedata.combining(c))
    return text.translate(_FOLDING)


@lru_cache(maxsize=4096)
def key_of(text: str) -> str:
    """The words of a title; an article behind it comes to the front."""
    words = _TOKEN.findall(fold(text))
    if len(words) > 1 and words[-1] in _ARTICLES:
        words.insert(0, words.pop())
    return " ".join(words)


def without_article(key: str) -> str:
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
    key = key_of(title)
    main_part = key_of(re.split(r":|\s-\s|[(\[]", title, maxsplit=1)[0])
    return key, without_article(key), without_article(main_part)


class Titles:
    """The candidates of one task, from exact to vague."""

    def __init__(self, candidates: tuple[str, ...]) -> None:
        self.exact = places_of(candidates)
        self.candidates = candidates
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
        key = key_of(text)
        if key in self.keys:
            return self.keys[key], 0
        bare = without_article(key)
        if bare in self.bare_keys:
            return self.bare_keys[bare], 1
        if (year := _YEAR.search(text)) is None:
            return (self.main_parts[bare], 1) if bare in self.main_parts else None
        key = key_of(text[: year.start()] + text[year.end() :])
        item = self.keys.get(key, self.bare_keys.get(without_article(key)))
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
def titles_of(candidates: tuple[str, ...]) -> Titles:
    """The titles of these candidates, kept for the next reply to the same task."""
    return Titles(candidates)
