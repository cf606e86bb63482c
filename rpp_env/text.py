"""Text from outside: cleaned where it enters prompts, escaped where it is displayed.

Titles, ids, genres and replies are untrusted. A dataset passes each text through `plain` first, so
that prompts, parsers and observations all hold the same string. `printable` prepares text for a
terminal: characters that could control the terminal are written as escapes.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Collection, Iterable
from functools import lru_cache

__all__ = [
    "MAX_RAW",
    "broken_up",
    "plain",
    "printable",
    "template_words",
    "unseen",
    "without_markers",
    "without_words",
]

MAX_RAW = 4096
"""Characters of a field that `plain` keeps; the rest is left out."""

_MAX_MARKS = 8
"""Most combining marks per letter; scripts that stack them (Hebrew, Thai, Tibetan) need fewer."""

_JOINERS = "\u200c\u200d"
"""Joiners shape Persian and Indic words and emoji, and are invisible anywhere else."""

_LOOSE_JOINERS = re.compile(
    rf"(?<=[{_JOINERS}])[{_JOINERS}]+|(?<![^\x00-\x7f])[{_JOINERS}]+|[{_JOINERS}]+(?![^\x00-\x7f])"
)
"""Joiners that do not stand between two non-ASCII letters."""

_PICTURE = "\ufe0e\ufe0f"
"""Selectors: whether the symbol before them is shown as text or as an emoji."""

# Letters and marks of Unicode that are invisible: fillers, a blank pattern, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

_WORD = r"[!-\"$-;=-Z\\-~]+"
_SURELY_PLAIN = re.compile(rf"{_WORD}(?: {_WORD})*")
"""Fast path for most texts: ASCII words with one blank between them, without template markers."""

_MARKERS = re.compile(
    r"""
      <[|\uff5c] [^<>\n]{0,60} [|\uff5c]>               # <|im_start|>, <|eot_id|> and their like
    | <</?SYS>>
    | \[/?(?:INST|SYS|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|THINK
            |ARGS|CALL_ID|IMG|IMG_BREAK|IMG_END|PREFIX|SUFFIX|MIDDLE|CLS|SEP|MASK|PAD|UNK|BOS|EOS
            |gMASK|sMASK)\]
    | </?(?:s|bos|eos|unk|pad|mask|cls|sep|sop|eop|eot|start_of_turn|end_of_turn
            |start_of_image|end_of_image|start_header_id|end_header_id|tool_call|tool_response
            |tools?|think|thought|thinking|reasoning|answer|system|user|human|assistant|model
            |extra_id_\d+|unused\d+|special_\d+|beginning_of_sentence|end_of_sentence)>
    | (?<!\#)\#{2,}+\s*(?:instruction|response|input|output|system|user|human|assistant
            |context|prompt|question|answer|message)s?\b
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Markers that chat templates write around messages; in a title they could end the message."""


_TEMPLATE_WORD = re.compile(
    r"<{1,2}[^<>\s]{1,60}>{1,2}|\[[^\[\]\s]{1,40}\]|\#{2,} ?\w+(?: \w+)?:?|\w{2,20}:(?=\s*\Z)"
)


def plain(text: str) -> str:
    """Clean a text to one line without invisible characters; idempotent.

    Control characters become blanks. Invisible characters and those that change the direction of
    writing are removed: bidirectional controls, zero-width characters, unpaired surrogates, private
    and unassigned code points. Joiners stay between letters that are not ASCII. More than eight
    combining marks on one letter are left out. Unicode becomes NFC, white space one blank. Markers
    of chat templates are broken up (`without_markers`).

    Parameters
    ----------
    text : str
        Only its first `MAX_RAW` characters are kept.
    """
    if len(text) <= MAX_RAW and _SURELY_PLAIN.fullmatch(text):
        return text
    text = text[:MAX_RAW]
    before = ""
    while text != before and not _seen(text):
        # Composing may leave a mark or a selector without its base character, so clean once more.
        before, text = text, unicodedata.normalize("NFC", _visible(text))
        text = _LOOSE_JOINERS.sub("", " ".join(text.split()))
    return without_markers(" ".join(unicodedata.normalize("NFC", text).split()))


def without_markers(text: str) -> str:
    """Insert a blank into every word by which a known chat template marks turns or roles.

    ``[INST]`` becomes ``[ INST]``: the letters stay, but no template reads them as a marker.
    """
    while _MARKERS.search(text):
        text = _MARKERS.sub(lambda found: broken_up(found[0]), text)
    return text


def template_words(pieces: Iterable[str]) -> frozenset[str]:
    """Return the words by which a chat template marks turns and roles.

    Parameters
    ----------
    pieces : iterable of str
        Text that the template writes before, between and after messages, such as ``"<s>[INST] "``,
        ``" [/INST]"``. A role with a colon (``"USER: "``) counts where a message follows it.
    """
    return frozenset(word for piece in pieces for word in _TEMPLATE_WORD.findall(piece))


def without_words(text: str, words: Collection[str]) -> str:
    """Break up each of these words, so that tokenizer and template treat them as plain text."""
    if not words:
        return text
    return _any_of(frozenset(words)).sub(lambda found: broken_up(found[0]), text)


@lru_cache(maxsize=64)
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(words, key=lambda w: (-len(w), w)))))


def broken_up(word: str) -> str:
    """Insert a blank into a template's or tokenizer's word, so that it is plain text."""
    if word[0].isalnum():  # a role with its colon
        return f"{word[:-1]} {word[-1]}"
    return f"{word[0]} {word[1:]}"


def printable(text: object) -> str:
    r"""Escape a text for a terminal: characters that could control it are written out.

    Line breaks stay, a tab becomes blanks. Other control characters, bidirectional ones, invisible
    ones and unpaired surrogates are shown as Python escapes: ``\x1b``, ``\u202e``.

    Parameters
    ----------
    text : object
        The object whose ``str`` is shown.
    """
    text = str(text)
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    text = text.replace("\r\n", "\n").expandtabs(4)
    shown: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        marks = marks + 1 if category[0] == "M" else 0
        if character == "\n" or (character in _JOINERS and shown and not shown[-1].isascii()):
            shown.append(character)
        elif category == "Zs":
            shown.append(" ")
        elif character.isprintable() and not unseen(character):
            if marks <= _MAX_MARKS:
                shown.append(character)
        else:
            shown.append(character.encode("unicode_escape").decode())
    return "".join(shown)


def _seen(text: str) -> bool:
    """Whether each character is visible, apart from blanks at the ends."""
    if not text.isprintable():
        return False
    return text.isascii() or not (_UNSEEN.search(text) or any(map(unicodedata.combining, text)))


def unseen(text: str) -> str:
    """Return the invisible or controlling characters of a text; usually none."""
    if text.isprintable() and not _UNSEEN.search(text):
        return ""
    return "".join(
        character
        for character in text
        if unicodedata.category(character) in ("Cc", "Cf", "Co", "Cs", "Cn", "Zl", "Zp")
        or _UNSEEN.match(character)
        if character not in _JOINERS + _PICTURE
    )


def _visible(text: str) -> str:
    """Remove invisible characters, replace controls by blanks, and limit combining marks."""
    kept: list[str] = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)
        if category in ("Cc", "Zl", "Zp") or character == "\u2800":
            kept.append(" ")
        elif character in _JOINERS:
            kept.append(character)
        elif character in _PICTURE:
            if kept and (
                unicodedata.category(kept[-1]) in ("So", "Sm", "Po") or kept[-1].isdigit()
            ):
                kept.append(character)
        elif category in ("Cf", "Co", "Cs", "Cn") or _UNSEEN.match(character):
            continue
        elif category[0] == "M":
            marks += 1
            if marks <= _MAX_MARKS:
                kept.append(character)
            continue
        else:
            kept.append(character)
        marks = 0
    return "".join(kept)
