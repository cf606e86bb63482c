"""What stands around the lines of a list: thinking, tags, JSON, several ranks in one line."""

from __future__ import annotations

import html
import json
import re

__all__ = ["JSON_OPENING", "WINDOW", "answer_lines"]

WINDOW = 25_000
"""Of a longer reply, so many characters at each end are read."""


_THOUGHT_END = re.compile(r"</think(?:ing)?>", re.IGNORECASE)


_THOUGHT = re.compile(r"<think(?:ing)?>", re.IGNORECASE)


_TAG = re.compile(r"</?(?:answer|ranking|output|response|result|ol|ul|li|br)\s*/?>", re.IGNORECASE)


_INLINE_RANK = re.compile(r"\s+(?=\d{1,3}[.)]\s)")


JSON_OPENING = re.compile(r"\[(?=\s*[\"'{\d])")


_JSON_ITEM = re.compile(
    r"[\s,:{}]*(?:\"(?P<double>(?:[^\"\\\n]|\\.)*)(?:\"|(?=\n)|$)"
    r"|'(?P<single>.{0,300}?)'(?=\s*[,\]}:])|(?P<number>\d{1,9})(?=\s*[,\]}:]|\s*$)|(?P<end>\]))"
)


def _unfold_json(text: str) -> str:
    """Put each entry of a JSON list (or a Python one) on a line of its own; it may be cut off."""
    parts = []
    done = 0
    for opening in JSON_OPENING.finditer(text):
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


def answer_lines(reply: str) -> list[str]:
    """The lines of what was answered: without thinking, and each entry on a line of its own."""
    text = _THOUGHT_END.split(reply)[-1]
    text = _THOUGHT.split(text, maxsplit=1)[0]
    if len(text) > 2 * WINDOW:
        text = f"{text[:WINDOW]}\n{text[-WINDOW:]}"
    text = _TAG.sub("\n", text)
    if "&" in text and ";" in text:
        text = html.unescape(text)
    text = _unfold_json(text).replace("\r", "\n")
    return [piece for line in text.split("\n") for piece in _unfold_ranks(line.strip())]


def _unescape(text: str) -> str:
    try:
        return " ".join(str(json.loads(f'"{text}"')).split()) if "\\" in text else text
    except ValueError:
        return text
