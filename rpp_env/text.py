"""Text from outside: made plain where it enters prompts, and shown safely where it leaves.

Titles, ids, genres and replies were written by others. `plain` is what a dataset makes of a text
before anything reads it, so that prompts, parsers and observations all hold the same string.
`printable` is what a terminal gets: everything that could steer it is written out instead.
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
"""Characters of a field that `plain` reads; what follows is left out."""

_MAX_MARKS = 8
"""Combining marks on one letter; scripts that stack them (Hebrew, Thai, Tibetan) need fewer."""

_JOINERS = "\u200c\u200d"
"""They shape Persian and Indic words and emoji, and show nothing anywhere else."""

_LOOSE_JOINERS = re.compile(
    rf"(?<=[{_JOINERS}])[{_JOINERS}]+|(?<![^\x00-\x7f])[{_JOINERS}]+|[{_JOINERS}]+(?![^\x00-\x7f])"
)
"""Joiners without a letter that is not ASCII on both sides."""

_PICTURE = "\ufe0e\ufe0f"
"""Whether the symbol before them is shown as text or as an emoji."""

# Letters and marks of Unicode that show nothing: fillers, a blank pattern, variation selectors.
_UNSEEN = re.compile(
    "[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0"
    "\U000e0100-\U000e01ef]"
)

_WORD = r"[!-\"$-;=-Z\\-~]+"
_SURELY_PLAIN = re.compile(rf"{_WORD}(?: {_WORD})*")
"""Most texts: ASCII words with one blank between them, and nothing that a marker begins with."""

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
"""What chat templates in use write around messages; a text that holds it could end its message."""


_TEMPLATE_WORD = re.compile(
    r"<{1,2}[^<>\s]{1,60}>{1,2}|\[[^\[\]\s]{1,40}\]|\#{2,} ?\w+(?: \w+)?:?|\w{2,20}:(?=\s*\Z)"
)


def plain(text: str) -> str:
    """One line of text that shows all it holds; the same again for what is plain already.

    Control characters become blanks. Characters that show nothing or turn the direction of writing
    go: bidirectional controls, zero-width characters, unpaired surrogates, private and unassigned
    code points. Joiners stay between letters that are not ASCII. More than eight combining marks on
    one letter are left out. Unicode becomes NFC, white space one blank. Words that chat templates
    write around messages are broken up (`without_markers`).

    Parameters
    ----------
    text : str
        Of which the first `MAX_RAW` characters count.
    """
    if len(text) <= MAX_RAW and _SURELY_PLAIN.fullmatch(text):
        return text
    text = text[:MAX_RAW]
    before = ""
    while text != before and not _seen(text):
        # Composing may leave a mark or a selector without what it stood on, hence once more.
        before, text = text, unicodedata.normalize("NFC", _visible(text))
        text = _LOOSE_JOINERS.sub("", " ".join(text.split()))
    return without_markers(" ".join(unicodedata.normalize("NFC", text).split()))


def without_markers(text: str) -> str:
    """`text`, with a blank in every word by which a known chat template marks turns or roles.

    ``[INST]`` becomes ``[ INST]``: the letters stay, and no template means them.
    """
    while _MARKERS.search(text):
        text = _MARKERS.sub(lambda found: broken_up(found[0]), text)
    return text


def template_words(pieces: Iterable[str]) -> frozenset[str]:
    """The words by which a chat template marks turns and roles.

    Parameters
    ----------
    pieces : iterable of str
        What the template writes before, between and after messages, such as ``"<s>[INST] "`` and
        ``" [/INST]"``. A role with a colon (``"USER: "``) counts where a message follows it.
    """
    return frozenset(word for piece in pieces for word in _TEMPLATE_WORD.findall(piece))


def without_words(text: str, words: Collection[str]) -> str:
    """`text`, with each of these words broken up, so that it is text to tokenizer and template."""
    if not words:
        return text
    return _any_of(frozenset(words)).sub(lambda found: broken_up(found[0]), text)


@lru_cache(maxsize=64)
def _any_of(words: frozenset[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(words, key=lambda w: (-len(w), w)))))


def broken_up(word: str) -> str:
    """A template's or tokenizer's word with a blank in it, so that it stays text."""
    if word[0].isalnum():  # a role with its colon
        return f"{word[:-1]} {word[-1]}"
    return f"{word[0]} {word[1:]}"


def printable(text: object) -> str:
    r"""What a terminal may be given: as `text`, with all that could steer it written out.

    Line breaks stay, a tab becomes blanks. Other control characters, bidirectional ones, those that
    show nothing and unpaired surrogates are shown as Python writes them: ``\x1b``, ``\u202e``.

    Parameters
    ----------
    text : object
        Its ``str`` is shown.
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
    """Whether each character shows something of its own, apart from blanks at the ends."""
    if not text.isprintable():
        return False
    return text.isascii() or not (_UNSEEN.search(text) or any(map(unicodedata.combining, text)))


def unseen(text: str) -> str:
    """The characters of a text that steer or hide something, as `plain` sees it; mostly none."""
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
    """`text` without what shows nothing, controls as blanks, marks thinned out."""
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
