"""Read replies of OpenAI-compatible servers leniently; only something that is no reply raises.

A reply without text, or with the text in parts, is a reply; an oddity is named in `Said.oddity`, to
be counted. Only an entry that is no reply at all raises `ValueError`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Said", "Verdict", "error_of", "first_alternatives", "judged", "letter", "read_row"]

LENGTH = frozenset({"length", "max_tokens", "max_output_tokens", "model_length", "token_limit"})
"""Several servers' words for a reply that was cut off."""
FILTERED = re.compile(
    r"content.?(filter|policy|management)|flagged|moderat|guardrail|safety", re.IGNORECASE
)
"""Messages of servers that block a request or a reply because of its content."""
TOO_LONG = re.compile(
    r"context.{0,12}(length|window|size)|(prompt|input|messages?|request)\b.{0,40}\b(too|is) long"
    r"|too many (input |prompt )?tokens|reduce the length|exceeds?.{0,40}context|max_model_len"
    r"|n_ctx|maximum.{0,20}(input|prompt).{0,12}(length|tokens)",
    re.IGNORECASE | re.DOTALL,
)
"""Messages of servers about a request that is longer than their context."""
HOPELESS = frozenset({401, 402, 404, 405, 407, 410})
"""Error codes that every other request would get, too: no key, no money, no such model."""

Verdict = Literal["filtered", "too_long", "hopeless", "other"]


@dataclass(frozen=True, slots=True)
class Said:
    """The parsed content of one reply."""

    text: str
    finish: str
    """``"stop"``, ``"length"``, or the server's own word."""
    oddity: str = ""
    """Why there is no text, if that was not the model's choice."""


def read_row(row: Any) -> Said:
    """Read the text of one entry of ``choices``, of either interface.

    Raises
    ------
    ValueError
        For an entry that holds neither a message nor a text nor a finish reason.
    """
    if not isinstance(row, Mapping) or not {"message", "text", "finish_reason"} & set(row):
        raise ValueError("an entry of choices that is not a reply")
    finish = row.get("finish_reason")
    finish = finish.lower() if isinstance(finish, str) and finish else "stop"
    finish = "length" if finish in LENGTH else finish
    message = row.get("message")
    if message is None:
        message = {"content": row.get("text")}
    if not isinstance(message, Mapping):
        message = {"content": message}
    text = _text(message.get("content"))
    oddity = "" if text else _reason(message, finish)
    return Said(text, finish, oddity)


def _text(content: Any) -> str:
    """Return the text of a content or of its parts, without reasoning."""
    if isinstance(content, str):
        return content
    if isinstance(content, Mapping):
        kind = content.get("type", "text")
        said = content.get("text")
        return said if kind in {"text", "output_text"} and isinstance(said, str) else ""
    if isinstance(content, list):
        return "".join(map(_text, content))
    return ""


def _reason(message: Mapping[str, Any], finish: str) -> str:
    """Return why a reply has no text."""
    content = message.get("content")
    parts = content if isinstance(content, list) else []
    kinds = {str(part.get("type")) for part in parts if isinstance(part, Mapping)}
    if finish == "content_filter":
        return "held back by a content filter"
    if message.get("refusal") or "refusal" in kinds:
        return "a refusal"
    if message.get("tool_calls") or message.get("function_call"):
        return "tool calls and no text"
    if finish == "length":
        return "cut off before its text began (a larger max_tokens leaves room for reasoning)"
    if kinds or any(message.get(name) for name in _THOUGHTS):
        return "reasoning and no text"
    return "" if content == "" else "no content"


_THOUGHTS = ("reasoning_content", "reasoning", "reasoning_details", "thinking")


# Errors


def error_of(answer: Any) -> tuple[int | None, str] | None:
    """Return code and message of an error sent with the status 200; None if there is none."""
    if not isinstance(answer, Mapping):
        return None
    found = answer if answer.get("object") == "error" else answer.get("error")
    if not found and isinstance(answer.get("choices"), list):
        # The answer of one provider among several, as routers pass it on.
        row = answer["choices"][0] if answer["choices"] else None
        found = row.get("error") if isinstance(row, Mapping) else None
    if not found:
        return None
    if not isinstance(found, Mapping):
        return None, str(found)
    words = found.get("message") or found.get("detail") or found
    code = next(
        (
            int(value)
            for value in (found.get("code"), found.get("status"), answer.get("code"))
            if isinstance(value, int) or (isinstance(value, str) and value.isdecimal())
        ),
        None,
    )
    named = found.get("code") or found.get("type") or found.get("status")
    more = f" ({named})" if isinstance(named, str) and not named.isdecimal() else ""
    return code if code is not None else _CODES.get(str(named).lower()), f"{words}{more}"


_CODES = {
    "authentication_error": 401,
    "invalid_api_key": 401,
    "insufficient_quota": 402,
    "model_not_found": 404,
    "rate_limit_error": 429,
    "rate_limit_exceeded": 429,
    "resource_exhausted": 429,
    "overloaded_error": 503,
    "unavailable": 503,
    "server_error": 500,
    "internal_server_error": 500,
    "timeout": 504,
}
"""Names of errors that have no number."""


def judged(code: int | None, words: str) -> Verdict:
    """Classify a refusal: what it means for the request, and for all others."""
    if code in HOPELESS:
        return "hopeless"
    if TOO_LONG.search(words):
        return "too_long"
    if FILTERED.search(words):
        return "filtered"
    return "other"


# Log-probabilities


def first_alternatives(logprobs: Any) -> list[tuple[str, float]] | None:
    """Return the alternatives for a reply's first token, with log-probabilities; or None.

    Accepts either interface's form, and mixtures of both: ``content`` with entries that hold
    ``top_logprobs``, or ``top_logprobs`` with a mapping or list for each token.
    """
    if not isinstance(logprobs, Mapping):
        return None
    content = logprobs.get("content")
    if isinstance(content, list) and content and isinstance(content[0], Mapping):
        tops: Any = [content[0].get("top_logprobs")]
    else:
        tops = logprobs.get("top_logprobs")
    first = tops[0] if isinstance(tops, list) and tops else None
    if isinstance(first, Mapping):
        pairs: Iterable[tuple[Any, Any]] = first.items()
    elif isinstance(first, list):
        entries = [entry for entry in first if isinstance(entry, Mapping)]
        pairs = [(_name(entry), entry.get("logprob")) for entry in entries]
    else:
        return None
    found = [
        (name, float(value))
        for name, value in pairs
        if isinstance(name, str) and isinstance(value, int | float) and not math.isnan(value)
    ]
    return found or None


def _name(entry: Mapping[str, Any]) -> Any:
    token, raw = entry.get("token"), entry.get("bytes")
    if (not isinstance(token, str) or not token.strip()) and isinstance(raw, list):
        try:
            return bytes(raw).decode("utf-8", "replace")
        except (ValueError, TypeError):
            return token
    return token


_BLANKS = " \t\r\n\N{NO-BREAK SPACE}\u0120\u2581\u010a\u010d\u0109"
"""Blanks, and how tokenizers write them: byte-level ones a blank, a line break, a carriage return
and a tab, SentencePiece a blank."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


def letter(token: str) -> str:
    """Return a token's text without blanks; a tokenizer's own piece is decoded."""
    bare = token.strip(_BLANKS)
    byte = _BYTE.fullmatch(bare)
    return chr(int(byte[1], 16)) if byte and int(byte[1], 16) < 128 else bare
