"""Titles that a language model can read and a parser can distinguish."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Sequence

from rpp_env.errors import InvalidData
from rpp_env.text import MAX_RAW, plain

__all__ = ["MAX_LENGTH", "clean_title", "names_of_items", "unique_titles"]

MAX_LENGTH = 120
"""Maximum characters of a title; the longest of the Amazon data had hundreds."""

_MAX_NOTE = 60
"""Maximum characters of a year or a maker that distinguishes equal titles."""

_NO_CHARACTER = re.compile(r"&#(?:x0*[0-9a-f]{7,}|0*[0-9]{8,});?", re.IGNORECASE)
"""Numeric entities beyond Unicode, of which some have thousands of digits."""

# Only real HTML tags: a title may contain other text in angle brackets.
_TAGS = re.compile(
    r"</?(?:(?P<inside>a|abbr|b|big|code|em|font|i|s|small|span|strong|sub|sup|tt|u)"
    r"|br|center|div|h[1-6]|hr|img|li|ol|p|table|tbody|td|th|tr|ul)(?:\s[^<>]*)?/?>",
    re.IGNORECASE,
)
_ARTICLES = (
    r"The|An?|La|Les?|L'|Il|I|Lo|Gli|El|Los|Las|Une?|Una|Uno|Der|Die|Das|Eine?|De|Het|Den|Det|En|Et"
    r"|Os?|Uma?"
)
# In the title proper, and in each alternative title in brackets: "Postman, The (Postino, Il)".
_TRAILING_ARTICLE = re.compile(
    rf"(^|\()((?:a\.k\.a\. )?)([^()]*?), ({_ARTICLES})(?=\s*(?:\(|\)|$))"
)


def clean_title(text: str, *, articles: bool = True) -> str:
    """Clean a title to one line of plain text; see `unique_titles` for further steps.

    HTML entities become characters, tags are removed, and the rest is cleaned by
    `rpp_env.text.plain`.

    Parameters
    ----------
    text : str
        Only its first 4,096 characters are kept.
    articles : bool
        Move an article from the end to the front: ``"Bird, The"`` becomes ``"The Bird"``.

    Returns
    -------
    str
        The clean title; may be empty.
    """
    text = _NO_CHARACTER.sub("", text[:MAX_RAW])
    # Some sources escaped twice: "&amp;amp;".
    text = _NO_CHARACTER.sub("", html.unescape(text))
    text = _TAGS.sub(lambda tag: "" if tag["inside"] else " ", html.unescape(text))
    text = plain(text)
    return _TRAILING_ARTICLE.sub(_article_first, text) if articles else text


def unique_titles(
    titles: Sequence[str],
    tokens: Sequence[str],
    *,
    years: Sequence[str] | None = None,
    makers: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """Shorten long titles and make equal ones different.

    A title of more than 120 characters is cut at the end of a word, with an ellipsis. Titles that
    are then equal, ignoring case, get the year if years differ, then the maker if makers differ,
    then the id. Empty ones (and ``"nan"``, a missing value that was written out) are named after
    their id.

    Parameters
    ----------
    titles, tokens : sequences of str
        Cleaned titles, and the ids of the items; ids must differ.
    years, makers : sequences of str, optional
        Properties that distinguish equal titles; ``""`` if unknown.

    Returns
    -------
    tuple of str
        Distinct titles, even when case is ignored; none longer than 120 characters unless the id
        alone is.

    Raises
    ------
    InvalidData
        If two ids are equal.
    """
    tokens = list(map(plain, tokens))
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
            notes = [plain(value)[:_MAX_NOTE].rstrip() for value in known]
            _tell_apart(bases, chosen, suffixes, [f" ({note})" if note else "" for note in notes])
    marks = _id_marks(tokens)
    # An id could still be equal to another item's title: then both get their ids once more.
    while _tell_apart(bases, chosen, suffixes, marks):
        pass
    return tuple(chosen)


def names_of_items(titles: Sequence[str], tokens: Sequence[str]) -> list[str]:
    """Return each item's name for a reader: its title without case and without an added id.

    Items of one name are one item that a source lists under several ids.
    """
    names = []
    for title, mark in zip(titles, _id_marks(list(tokens)), strict=True):
        name = title
        while name.endswith(mark):
            name = name.removesuffix(mark)
        names.append(name.casefold())
    return names


def _id_marks(tokens: list[str]) -> list[str]:
    folded = Counter(token.casefold() for token in tokens)
    return [
        f" (id {token})" if folded[token.casefold()] == 1 else f" (id {token}, row {row})"
        for row, token in enumerate(tokens)
    ]


def _tell_apart(bases: list[str], chosen: list[str], suffixes: list[str], marks: list[str]) -> bool:
    """Add its mark to each of a group of equal titles if marks differ; False if none did."""
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
    # The last word may have been cut in two; a single long word stays cut.
    if not base[len(cut)].isspace() and " " in cut:
        cut = cut[: cut.rindex(" ")]
    return cut.rstrip(" ,;:-(/&") + "…" + suffix


def _article_first(found: re.Match[str]) -> str:
    opening, alias, title, article = found.groups()
    return f"{opening}{alias}{article}{'' if article.endswith(chr(39)) else ' '}{title}"
