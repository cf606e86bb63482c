"""Parse lists and objects in a reply: JSON, or what models write instead of it.

Accepted besides JSON: comments, missing or extra commas, other quotes, unquoted keys and texts,
tuples, and text that is cut off at any place.
"""

# ruff: noqa: RUF001 - full-width punctuation is part of the patterns
from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import NamedTuple, TypeAlias

from rpp_env.sentences.parsing.titles import Titles
from rpp_env.sentences.parsing.words import kind_of

__all__ = ["OPENING", "Line", "unfold_objects"]

OPENING = re.compile(
    r"\[(?=\s*(?:[\"'“{\[(]|\d+\s*[^\d\s\]]|//|/\*|# ))"
    r"|\{(?=\s*(?:[\"'“\d]|//|/\*|# |[^\W\d]\w*\s*:))"
)
"""Possible beginning of a list or an object."""

_DECODE = json.JSONDecoder().raw_decode
_DEEPEST = 12
_MOST = 5000
_SPACE = re.compile(r"(?:\s|//[^\n]*|/\*(?:[^*]|\*(?!/))*+(?:\*/|\Z)|#\s[^\n]*)*+")
_TOKEN = re.compile(
    r"(?P<sign>[\[\](){},:，：])"
    # A quote in the middle of a text is followed by a letter: ["The "Burbs", "Up"].
    r"|\"(?P<double>(?:[^\"\\\n]|\\.|\"(?=\w))*+)(?:\"|(?=\n)|\Z)"
    r"|“(?P<curly>[^”\n]*+)(?:”|(?=\n)|\Z)"
    r"|'(?P<single>[^\n]{0,300}?)'(?=\s{0,20}(?:[,\]})：:，]|\Z))"
    r"|(?P<number>-?\d{1,12}(?:\.\d{1,12})?)%?(?=\s{0,20}(?:[,\]}):，：\n]|\Z|//|/\*|# ))"
    r"|(?P<bare>[^\s\[\](){},:\"“，：][^\[\](){},:\"\n，：]{0,200}+)"
)

_ORDINAL = re.compile(r"\d|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|last")

Value: TypeAlias = "str | float | list[Value] | dict[str, Value]"


class Line(NamedTuple):
    """A line of a reply, or an entry of a list in it."""

    text: str
    indent: int = 0
    rank: int | None = None
    """The rank that an object states."""


def unfold_objects(text: str, titles: Titles) -> Iterator[str | list[Line]]:
    """Yield the text between lists and objects unchanged, and each list or object as lines."""
    done = 0
    position = 0
    while opening := OPENING.search(text, position):
        value, position = _Reader(text, opening.start()).read()
        lines = list(_lines(value, titles))
        # "[3] > [1]" is not JSON.
        if len(lines) > 1 or (lines and (isinstance(value, dict) or not lines[0].text.isdigit())):
            yield text[done : opening.start()]
            yield lines
            done = position
    yield text[done:]


class _Reader:
    """Reads one list or object as far as possible."""

    def __init__(self, text: str, start: int) -> None:
        self.text = text
        self.position = start
        self.left = _MOST

    def read(self) -> tuple[Value, int]:
        """Return the value that begins here, and where it ends."""
        try:
            return _DECODE(self.text, self.position)
        except (ValueError, RecursionError):
            pass
        opening = self._next()
        assert opening is not None
        return self._container(opening, 1), self.position

    def _next(self) -> re.Match[str] | None:
        start = _SPACE.match(self.text, self.position)
        assert start is not None
        token = _TOKEN.match(self.text, start.end())
        self.left -= 1
        if token is None or self.left < 0:
            return None
        self.position = token.end()
        return token

    def _container(self, opening: re.Match[str], depth: int) -> Value:
        """Return the list or object behind an opening bracket.

        It is an object if it contains colons.
        """
        values: list[Value] = []
        fields: dict[str, Value] = {}
        key: str | None = None
        while token := self._next():
            sign = token["sign"]
            if sign is None:
                if token["bare"] is not None and depth == 1 and opening["sign"] == "[":
                    break  # "Alien [1979, a classic]"
                value: Value = _scalar(token)
            elif sign in "[({":
                if depth >= _DEEPEST:
                    break
                value = self._container(token, depth + 1)
            elif sign in "])}":
                break
            else:
                if sign in ":：" and values and isinstance(values[-1], (str, int, float)):
                    key = str(values.pop())
                continue
            if key is None:
                values.append(value)
            else:
                fields.setdefault(key, value)
                key = None
        if fields and not values:
            return fields
        return [*([fields] if fields else []), *values]


def _scalar(token: re.Match[str]) -> str | float:
    if (number := token["number"]) is not None:
        return float(number) if "." in number else int(number)
    if (double := token["double"]) is not None:
        return _unescape(double)
    for kind in ("curly", "single", "bare"):
        if (found := token[kind]) is not None:
            return found.strip()
    return ""


def _unescape(text: str) -> str:
    try:
        return str(json.loads(f'"{text}"', strict=False)) if "\\" in text else text
    except ValueError:
        return text


# From values to lines --------------------------------------------------------------------------


def _lines(value: Value, titles: Titles) -> Iterator[Line]:
    if isinstance(value, list):
        yield from _list_lines(value, titles)
    elif isinstance(value, dict):
        yield from _object_lines(value, titles)
    else:
        yield from _scalar_lines(value)


def _scalar_lines(value: str | float, rank: int | None = None) -> Iterator[Line]:
    if type(value) is int:
        yield Line(str(value), rank=rank)
    elif isinstance(value, str):
        if "\n" in value.strip():
            yield from map(Line, value.split("\n"))
        else:
            # A number in quotes is looked up as a title first.
            yield Line(f'"{" ".join(value.split())}"', rank=rank)


def _list_lines(values: list[Value], titles: Titles) -> Iterator[Line]:
    if all(isinstance(each, str) for each in values):
        for each in values:
            yield from _scalar_lines(str(each))
        return
    if 1 < len(values) <= 3 and all(isinstance(each, (str, int, float)) for each in values):
        texts = [each for each in values if isinstance(each, str) and not each.isdigit()]
        numbers = [each for each in values if not isinstance(each, str)]
        # [1, "Alien"] or ["Alien", 0.9] in a list of such pairs.
        if len(texts) == 1 and numbers and titles.find(texts[0]) is not None:
            yield Line(f'"{texts[0]}"')
            return
    records = [_record(each, titles) if isinstance(each, dict) else None for each in values]
    if records and all(records):
        yield from _by_score([record for record in records if record], titles)
        return
    for each, record in zip(values, records, strict=True):
        if record:
            yield record.line
        elif isinstance(each, list) and len(each) == 2 and all(_is_number(n) for n in each):
            yield Line(f"{each[0]} | {each[1]}")
        else:
            yield from _lines(each, titles)


def _is_number(value: Value) -> bool:
    return type(value) is int or (isinstance(value, str) and value.strip().isdigit())


class _Record(NamedTuple):
    line: Line
    score: float | None


def _record(fields: dict[str, Value], titles: Titles) -> _Record | None:
    """Return the item of an object that describes one, such as {"rank": 1, "id": 3}."""
    rank: int | None = None
    number: int | None = None
    score: float | None = None
    texts: list[str] = []
    for key, value in fields.items():
        kind = kind_of(key)
        if isinstance(value, (list, dict)):
            continue
        if kind == "title" and isinstance(value, str) and titles.find(value) is not None:
            texts.append(value)
        elif _is_number(value):
            whole = int(value)
            if kind in ("rank", "label"):
                rank = whole
            elif kind in ("number", "title") and number is None:
                number = whole
            elif kind in ("other", "reason"):
                score = float(whole)
        elif isinstance(value, str):
            if kind in ("number", "title"):
                texts.append(value)
        elif kind == "other":
            score = float(value)
    known = next((text for text in texts if titles.find(text) is not None), None)
    if known is None and number is None:
        known = next(iter(texts), None)
    if known is not None:
        return _Record(Line(f'"{" ".join(known.split())}"', rank=rank), score)
    return None if number is None else _Record(Line(str(number), rank=rank), score)


def _by_score(records: list[_Record], titles: Titles) -> Iterator[Line]:
    """Order records by score if they are in the prompt's order and scores differ; else keep it."""
    scores = [record.score for record in records]
    known = [score for score in scores if score is not None]
    if len(known) == len(records) > 2 and all(record.line.rank is None for record in records):
        places = [_place(record.line.text, titles) for record in records]
        shown = places == list(range(len(titles.candidates)))
        if shown and known != sorted(known, reverse=True):
            records = sorted(records, key=lambda record: -(record.score or 0.0))
    yield from (record.line for record in records)


def _place(text: str, titles: Titles) -> int | None:
    if text.isdigit():
        return int(text) - 1
    found = titles.find(text.strip('"'))
    return None if found is None else found[0]


def _object_lines(fields: dict[str, Value], titles: Titles) -> Iterator[Line]:
    if record := _record(fields, titles):
        yield record.line
        return
    keys = list(fields)
    if all(key.strip().isdigit() for key in keys):
        for key, value in fields.items():
            if _is_number(value) or isinstance(value, float):
                yield Line(f"{key} | {value}")
            elif isinstance(value, dict) and (record := _record(value, titles)):
                yield record.line._replace(rank=int(key))
            elif isinstance(value, str):
                yield from _scalar_lines(value, int(key))
            else:
                yield from _lines(value, titles)
        return
    named = [key for key in keys if titles.find(key) is not None]
    if 2 * len(named) > len(keys):
        yield from _titled(fields)
        return
    for key, value in fields.items():
        if isinstance(value, (list, dict)):
            yield Line(f"{key}:")
            yield from _lines(value, titles)
        elif isinstance(value, str) and "\n" in value.strip():
            yield Line(f"{key}:")
            yield from map(Line, value.split("\n"))
        elif isinstance(value, str) and titles.find(value) is not None:
            yield from _scalar_lines(value)
        elif isinstance(value, str):
            yield Line(f"{key}: {value}")
        elif isinstance(value, int) and _ORDINAL.search(key):
            yield Line(str(value))


def _titled(fields: dict[str, Value]) -> Iterator[Line]:
    """Yield lines of {"Alien": 1, "Up": 2}: a permutation holds ranks, other numbers are scores."""
    values = list(fields.values())
    numbers = [value for value in values if isinstance(value, (int, float))]
    order = list(fields)
    if len(numbers) == len(values):
        falling = numbers == sorted(numbers, reverse=True)
        if sorted(numbers) in (list(range(len(values))), list(range(1, len(values) + 1))):
            if not falling:
                order.sort(key=dict(zip(fields, numbers, strict=True)).__getitem__)
        elif not falling:
            order.sort(key=lambda key: -dict(zip(fields, numbers, strict=True))[key])
    for key in order:
        yield Line(f'"{key}"')
