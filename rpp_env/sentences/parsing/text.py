"""Find the answer's lines in a text: dialogue turns, tags, entities, LaTeX and tables."""

# ruff: noqa: RUF001 - the patterns contain signs of many scripts
from __future__ import annotations

import html
import re
from collections.abc import Iterator
from itertools import islice

from rpp_env.sentences.parsing.objects import OPENING, Line, unfold_objects
from rpp_env.sentences.parsing.scripts import plain_digits
from rpp_env.sentences.parsing.thoughts import answers, holds_marks
from rpp_env.sentences.parsing.titles import Titles
from rpp_env.sentences.parsing.words import kind_of

__all__ = ["WINDOW", "answer_lines", "holds_markup", "speaks_for_others", "turns"]

WINDOW = 25_000
"""Characters that are read at each end of a longer reply."""

_SPECIAL = re.compile(
    r"<[|｜][^<>\n]{1,40}[|｜]>|</?s>|<(?:eos|bos|pad|unk|end_of_turn)>|\[/INST\]"
)
_XML = re.compile(r"<(/?)([A-Za-z][\w.-]{0,30})(?:\s[^<>]{0,200})?/?>")
_INLINE_TAGS = frozenset("a b big code em font i kbd mark s small span strong sub sup tt u".split())
_BLOCK_TAGS = frozenset(
    "br dd div dl dt hr li ol p table tbody thead tr ul h1 h2 h3 h4 h5 h6".split()
)
_CELLS = frozenset(("td", "th"))

_LATEX = re.compile(
    r"\\(?:(?P<space>[,;! ]|quad\b|qquad\b)"
    r"|(?P<more>succ(?:eq)?|gt|(?:long)?rightarrow|Rightarrow|to)\b"
    r"|(?P<item>item\b|\\(?=\s|$))|(?P<begin>(?:begin|end)\s*\{[^{}\n]{0,30}\}(?:\[[^\]\n]*\])?)"
    r"|(?P<wrap>boxed|fbox|text\w{0,2}|math\w{2}|operatorname|left|right|displaystyle)(?![a-zA-Z])"
    r"|(?P<sign>[()\[\]]))"
)
_BRACES = re.compile(r"\{([^{}\n]{0,4000})\}")
_LINK = re.compile(r"\[([^\[\]\n]{1,200})\]\((?:https?:|/|#)[^()\s]{0,300}\)")
_STRUCK = re.compile(r"~~[^~\n]{1,200}~~")

_ROLES = (
    r"user|human|question|instructions?|prompt|input|exercise|example\s*\d+|task\s*\d+|query|customer"
    r"|usuario|usuário|utilisateur|benutzer|nutzer|пользователь|用户|用戶|问题|ユーザー|사용자"
)
_USER_TURN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>\s*(?:user|system)\b|<start_of_turn>\s*user\b|\[INST\]"
    r"|<[|｜](?:user|prompter|system)[|｜]>"
    rf"|^[ \t]*(?:#{{1,6}}[ \t]*|\*\*|\[)?(?:{_ROLES})(?:\*\*|\])?[ \t]*(?:[:：]|$)"
    r"|^[ \t]*#{1,6}[ \t]*(?:new[ \t]+)?(?:user|instruction|exercise|task|example|question)\b"
    r"[^\n]{0,20}$"
    r"|^These are the \d+ candidate\b"
    r"|<\|endoftext\|>|<\|(?:eot_id|im_end|return|end|end_of_turn)\|>|</s>|<eos>|<end_of_turn>"
    r"|<｜end▁of▁sentence｜>",
    re.IGNORECASE | re.MULTILINE,
)
"""Start of another speaker's turn or of another exercise, or the end of the text."""
_MAY_BE_TURN = re.compile(
    r"[<]|\[inst\]|\n[ \t]*(?:#{1,6}[ \t]*|\*\*|\[)?(?:new[ \t]+)?"
    r"(?:these are the |follow|new|next|the|user|human|question|instruction|prompt|input|exercise"
    r"|example|task|query|customer|usuario|utilisateur|benutzer|nutzer)"
)
"""A lower-case ASCII text without any of these holds no such turn."""
_MODEL_TURN = re.compile(
    r"<\|(?:im_start|start_header_id)\|>\s*assistant\b|<start_of_turn>\s*model\b|\[/INST\]"
    r"|<[|｜]assistant[|｜]>"
    r"|^[ \t]*(?:#{1,6}[ \t]*|\*\*|\[)?"
    r"(?:assistant|ai|bot|model|answer|response|output|助手|回答|答案|アシスタント|답변)"
    r"(?:\*\*|\])?[ \t]*[:：]",
    re.IGNORECASE | re.MULTILINE,
)

_RULER = re.compile(r"\|?(?=[^|\n]*-)[\s:|-]*\|[\s:|-]*")
_FIRST_RANK = re.compile(r"(?<![\w.,])[*_]{0,3}[(#]?([01])([.)、．])\s?")
_RANK_SIGNS = ".)、．"
_NEXT_RANKS = {
    sign: re.compile(rf"[\s,;，；。、]+(?=[(#*_]{{0,3}}\d{{1,3}}{re.escape(sign)})")
    for sign in _RANK_SIGNS
}


def holds_markup(reply: str, thinking: tuple[tuple[str, str], ...] = ()) -> bool:
    """Return whether a reply may contain anything that is not read line by line."""
    return (
        "<" in reply
        or "\\" in reply
        or "\r" in reply
        or "\t" in reply
        or "~~" in reply
        or ("&" in reply and ";" in reply)
        or ("](" in reply)
        or OPENING.search(reply, 1) is not None
        or holds_marks(reply, thinking)
    )


def speaks_for_others(text: str) -> bool:
    """Return whether the model also wrote a user's turn or another exercise."""
    if text.isascii() and _MAY_BE_TURN.search(f"\n{text.lower()}") is None:
        return False
    return _USER_TURN.search(text) is not None


def turns(reply: str, thinking: tuple[tuple[str, str], ...] = ()) -> Iterator[list[str]]:
    """Yield texts that may be the answer, the likeliest first, each with its shorter variants.

    Reasoning is left out. If the model continued with a user's turn or another exercise, the text
    before that comes first, then the model's own turns, then the whole text.
    """
    for answer in answers(reply, thinking):
        text = answer
        if len(text) > 2 * WINDOW:
            text = f"{text[:WINDOW]}\n{text[-WINDOW:]}"
        others = list(islice(_USER_TURN.finditer(text), 20)) if speaks_for_others(text) else []
        if not others:
            yield [text]
            continue
        parts = [text[: others[0].start()]]
        ends = [*(other.start() for other in others[1:]), len(text)]
        for other, end in zip(others, ends, strict=True):
            if own := _MODEL_TURN.search(text, other.end(), end):
                parts.append(text[own.end() : end])
        yield [*parts, text]


def answer_lines(text: str, titles: Titles) -> list[Line]:
    """Return the lines of an answer, each entry of a list or an object on its own line."""
    if "<" in text:
        text = _without_tags(_SPECIAL.sub("\n", text))
    if "&" in text and ";" in text:
        text = html.unescape(text)
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\\" in text:
        text = _without_latex(text)
    if "](" in text:
        text = _LINK.sub(r"\1", text)
    if "~~" in text:
        text = _STRUCK.sub("", text)
    lines: list[Line] = []
    if "[" not in text and "{" not in text:
        _add_lines(text, lines, titles)
        return lines
    for piece in unfold_objects(text, titles):
        if isinstance(piece, str):
            _add_lines(piece, lines, titles)
        else:
            lines += piece
    return lines


def _without_tags(text: str) -> str:
    """Replace tags of HTML, and closed tags of XML, by line breaks around each element."""
    closed = {match.casefold() for match in re.findall(r"</([A-Za-z][\w.-]{0,30})\s*>", text)}

    def replaced(tag: re.Match[str]) -> str:
        name = tag[2].casefold()
        if name in _INLINE_TAGS:
            return ""
        if name in _CELLS:
            return " | "
        if name in _BLOCK_TAGS:
            return "\n"
        if name not in closed and not tag[0].endswith("/>"):
            return tag[0]
        return f"\n{tag[2]}: " if not tag[1] and kind_of(name) else "\n"

    return _XML.sub(replaced, text)


def _without_latex(text: str) -> str:
    if "\n" not in text:
        text = text.replace("\\n", "\n")

    def replaced(command: re.Match[str]) -> str:
        if command["more"]:
            return " > "
        return "\n" if command["item"] or command["begin"] else " "

    plain = _LATEX.sub(replaced, text)
    if plain != text:
        plain = _BRACES.sub(r" \1 ", plain).replace("$", " ")
    return plain


def _add_lines(text: str, lines: list[Line], titles: Titles) -> None:
    rows = text.split("\n")
    if text.isascii() and "|" not in text and "\t" not in text:
        several = text.count(".") > 1 or text.count(")") > 1  # a whole list on one line
        for row in rows:
            stripped = row.strip()
            indent = 0 if stripped is row else len(row) - len(row.lstrip())
            if several and "1" in stripped and (stripped.count(".") > 1 or stripped.count(")") > 1):
                lines += (Line(piece, indent) for piece in _unfold_ranks(stripped, titles))
            else:
                lines.append(Line(stripped, indent))
        return
    columns: list[str] | None = None
    for number, row in enumerate(rows):
        if "|" in row:
            if _RULER.fullmatch(row.strip()):
                # The row above holds the names of the columns.
                columns = [kind_of(cell) for cell in _cells(rows[number - 1])] if number else None
                if lines and number:
                    lines.pop()
                continue
            if columns and (line := _row_line(_cells(row), columns)):
                lines.append(line)
                continue
        else:
            columns = None
        stripped = row.strip()
        if not stripped:
            lines.append(Line(""))
            continue
        indent = len(row) - len(row.lstrip())
        if not stripped.isascii():
            stripped = plain_digits(stripped).strip()
        if "\t" in stripped:
            stripped = stripped.replace("\t", " | ")
        if "1" in stripped and (
            stripped.count(".") > 1 or stripped.count(")") > 1 or not stripped.isascii()
        ):
            lines += (Line(piece, indent) for piece in _unfold_ranks(stripped, titles))
        else:
            lines.append(Line(stripped, indent))


def _cells(row: str) -> list[str]:
    return [cell.strip() for cell in row.strip().strip("|").split("|")]


def _row_line(cells: list[str], columns: list[str]) -> Line | None:
    """Return the item of a row; None if the columns do not identify its cell."""
    by_kind = {kind: cell for kind, cell in zip(columns[::-1], cells[::-1], strict=False) if kind}
    title, number, rank = (by_kind.get(kind, "") for kind in ("title", "number", "rank"))
    if not title and number and not number.isdigit():
        title, number = number, ""
    place = int(rank) if rank.isdigit() else None
    if title:
        return Line(title, rank=place)
    return Line(number, rank=place) if number else None


def _unfold_ranks(line: str, titles: Titles) -> list[str]:
    """Split "1. Up 2. Alien 3. It" into three lines: there "Alien 3" is not a title."""
    if line in titles.exact:
        return [line]
    first = _FIRST_RANK.search(line)
    if first is None:
        return [line]
    pieces = _NEXT_RANKS[first[2]].split(line[first.start() :])
    if len(pieces) < 2:
        return [line]
    for rank, piece in enumerate(pieces, int(first[1])):
        if not piece.lstrip("*_(#").startswith(f"{rank}{first[2]}"):
            return [line]
    before = line[: first.start()].strip()
    return [before, *pieces] if before else pieces
