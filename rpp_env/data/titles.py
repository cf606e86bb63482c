"""Titles that a language model can read and a parser can tell apart."""

from __future__ import annotations

import html
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

from rpp_env.errors import InvalidData

__all__ = ["MAX_LENGTH", "clean_title", "unique_titles"]

MAX_LENGTH = 120
"""Characters of the longest title; the longest of the Amazon data had hundreds."""

# Only real HTML tags: a title may hold other things between angle brackets.
_TAGS = re.compile(
    r"</?(?:(?P<inside>a|abbr|b|big|code|em|font|i|s|small|span|strong|sub|sup|tt|u)"
    r"|br|center|div|h[1-6]|hr|img|li|ol|p|table|tbody|td|th|tr|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ARTICLES = (
    r"The|An?|La|Les?|L'|Il|I|Lo|Gli|El|Los|Las|Une?|Una|Uno|Der|Die|Das|Eine?|De|Het|Den|Det|En|Et"
    r"|Os?|Uma?"
)
# In the title proper, and in each parenthesised other title: "Postman, The (Postino, Il)".
_TRAILING_ARTICLE = re.compile(
    rf"(^|\()((?:a\.k\.a\. )?)([^()]*?), ({_ARTICLES})(?=\s*(?:\(|\)|$))"
)


def clean_title(text: str, *, articles: bool = True) -> str:
    """One line of plain text; see `unique_titles` for what else a title needs.

    HTML entities become characters, tags go, so do invisible characters; Unicode becomes NFC, a run
    of white space one blank.

    Parameters
    ----------
    text : str
    articles : bool
        Move an article from the end to the front: ``"Bird, The"`` becomes ``"The Bird"``.

    Returns
    -------
    str
        Empty where nothing was left.
    """
    # Some sources escaped twice: "&amp;amp;".
    text = _TAGS.sub(lambda tag: "" if tag["inside"] else " ", html.unescape(html.unescape(text)))
    text = unicodedata.normalize("NFC", text)
    text = "".join(map(_visible, text)) if not text.isascii() or not text.isprintable() else text
    text = " ".join(text.split())
    return _TRAILING_ARTICLE.sub(_article_first, text) if articles else text


def unique_titles(
    titles: Sequence[str],
    tokens: Sequence[str],
    *,
    years: Sequence[str] | None = None,
    makers: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Shorten long titles and tell equal ones apart.

    A title of more than 120 characters is cut at the end of a word, with an ellipsis. Titles that
    are then equal, case ignored, get the year where years differ, then the maker where makers
    differ, then the id. Empty ones (and ``"nan"``, a missing value that was written out) are called
    after their id.

    Parameters
    ----------
    titles, tokens : sequences of str
        Cleaned titles, and the ids of the items; ids must differ.
    years, makers : sequences of str, optional
        What is known to tell equal titles apart; ``""`` where it is not.

    Returns
    -------
    tuple of str
        As many, no two of them equal, even when case is ignored; none longer than 120 characters
        unless the id alone is.

    Raises
    ------
    InvalidData
        Where two ids are equal.
    """
    if len(set(tokens)) != len(tokens):
        raise InvalidData("titles cannot be told apart: two items have the same id")
    bases = [
        f"Untitled ({token})" if title in ("", "nan") else title
        for title, token in zip(titles, tokens, strict=True)
    ]
    chosen = [_shortened(base, "") for base in bases]
    suffixes = [""] * len(bases)
    for known in (years, makers):
        if known is not None:
            _tell_apart(
                bases, chosen, suffixes, [f" ({value})" if value else "" for value in known]
            )
    folded = Counter(token.casefold() for token in tokens)
    marks = [
        f" (id {token})" if folded[token.casefold()] == 1 else f" (id {token}, row {row})"
        for row, token in enumerate(tokens)
    ]
    # An id could still spell out somebody else's title: then both get their ids once more.
    while _tell_apart(bases, chosen, suffixes, marks):
        pass
    return tuple(chosen)


def _tell_apart(bases: list[str], chosen: list[str], suffixes: list[str], marks: list[str]) -> bool:
    """Add its mark to each of a group of equal titles whose marks differ; False where none did."""
    groups: dict[str, list[int]] = {}
    for row, title in enumerate(chosen):
        groups.setdefault(title.casefold(), []).append(row)
    marked = False
    for rows in groups.values():
        if len({marks[row] for row in rows}) > 1:
            marked = True
            for row in rows:
                suffixes[row] += marks[row]
                chosen[row] = _shortened(bases[row], suffixes[row])
    return marked


def _shortened(base: str, suffix: str) -> str:
    room = MAX_LENGTH - len(suffix)
    if len(base) <= room:
        return base + suffix
    cut = base[: max(room - 1, 1)]
    # The last word may have been cut in two; a single endless word stays cut.
    if not base[len(cut)].isspace() and " " in cut:
        cut = cut[: cut.rindex(" ")]
    return cut.rstrip(" ,;:-(/&") + "…" + suffix


def _article_first(found: re.Match[str]) -> str:
    opening, alias, title, article = found.groups()
    return f"{opening}{alias}{article}{'' if article.endswith(chr(39)) else ' '}{title}"


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category in ("Cc", "Zl", "Zp"):
        return " "
    # Joiners (U+200C, U+200D) shape Persian words and emoji; other format characters show nothing.
    if category in ("Co", "Cs", "Cn") or (category == "Cf" and character not in "\u200c\u200d"):
        return ""
    return character
