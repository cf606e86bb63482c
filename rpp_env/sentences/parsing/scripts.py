"""Convert punctuation and digits of other scripts, and emoji, to their ASCII equivalents."""

# ruff: noqa: RUF001 - the tables contain them
from __future__ import annotations

import re
import unicodedata

__all__ = ["plain_digits", "plain_signs"]

_SIGNS = str.maketrans(
    {
        **{chr(0xFF01 + i): chr(0x21 + i) for i in range(94)},  # full-width forms of ASCII
        **dict.fromkeys("《》〈〉「」『』｢｣〝〞", '"'),
        "【": "[",
        "】": "]",
        "〔": "[",
        "〕": "]",
        "〖": "[",
        "〗": "]",
        "，": ", ",
        "、": ", ",
        "､": ", ",
        "。": ". ",
        "｡": ". ",
        "：": ": ",
        "；": "; ",
        "！": "! ",
        "？": "? ",
        "（": " (",
        "）": ") ",
        "｜": " | ",
        "　": " ",
        **dict.fromkeys("＞≻»›⟶→⇒➔➜➡⮕▶▷►❯≫≥", " > "),
        **dict.fromkeys("•◦‣▪▫■□●○◆◇★☆✦✧➤➢・", "•"),
        **dict.fromkeys("\ufeff\u200b\u200c\u200d\u2060\ufe0e\ufe0f\u00ad", None),
        "\u00a0": " ",
        "\u2009": " ",
        "\u202f": " ",
        "№": "No. ",
        "🥇": "1. ",
        "🥈": "2. ",
        "🥉": "3. ",
        "🏆": "",
    }
)
_EMOJI = re.compile("[\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff\U000e0020-\U000e007f\u20e3]+")

_KEYCAPS = re.compile("(?:[0-9]\ufe0f?\u20e3)+|🔟")
_CIRCLED = re.compile(
    "[\u2460-\u249b\u24ea-\u24ff\u2776-\u2793\u3251-\u325f\u32b1-\u32bf\u3220-\u3229\u3280-\u3289]"
)
_OTHER_DIGITS = re.compile(r"(?![0-9])\d+")
_HAN = "〇一二三四五六七八九十"
_HAN_RANK = re.compile(
    rf"^\W*第?\s*([{_HAN}]{{1,3}})\s*(?:[、.．:：]|[位名番號号](?:[\s、.．:：]|$))"
)
_PLACE = re.compile(
    r"^(?P<before>\W*)第?\s*(?P<rank>\d{1,3})\s*(?:番目|번째|[位名番號号个個위등번])\s*(?:[:：.．、,，)）\s]\s*|(?=[《「『【\"“])|$)"
)
_NUMERO = re.compile(r"^(\W*)[Nn][°º]\s*(?=\d)")
_COMMA_RANK = re.compile(r"^(\W*\d{1,3})\s*[、，．]\s*")


def plain_digits(text: str) -> str:
    """Convert digits of other scripts; circled ones and keycaps get brackets: "③" is "(3)"."""
    text = _KEYCAPS.sub(_keycap, text)
    text = _CIRCLED.sub(lambda sign: f" ({_value(sign[0])}) ", text)
    return _OTHER_DIGITS.sub(
        lambda digits: "".join(str(unicodedata.digit(d, 0)) for d in digits[0]), text
    )


def plain_signs(line: str) -> str:
    """Convert a line's ranks, list signs, quotes and brackets to ASCII, and drop emoji."""
    line = _NUMERO.sub(r"\1No. ", plain_digits(line))
    if han := _HAN_RANK.match(line):
        line = f"{_han_value(han[1])}. {line[han.end() :]}"
    elif place := _PLACE.match(line):
        behind = line[place.end() :]
        line = f"{place['before']}{place['rank']}. {behind}" if behind else place["rank"]
    else:
        line = _COMMA_RANK.sub(r"\1. ", line)
    return _EMOJI.sub(" ", line.translate(_SIGNS)).strip()


def _keycap(found: re.Match[str]) -> str:
    digits = "".join(c for c in found[0] if c.isascii())
    return f" ({digits or 10}) "


def _value(sign: str) -> int:
    return round(unicodedata.numeric(sign, 0))


def _han_value(numeral: str) -> int:
    """Value of a Chinese numeral up to 99."""
    tens, ten, ones = numeral.rpartition("十")
    if not ten:
        return int("".join(str(_HAN.index(c)) for c in numeral))
    return 10 * (_HAN.index(tens) if tens in _HAN and tens else 1) + (
        _HAN.index(ones) if ones else 0
    )
