"""Recorded answers: request, key and checksum of an answer, and their JSON forms.

Files may come from an untrusted source, so every row and every line is checked in full.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from rpp_env.errors import InvalidData
from rpp_env.models.asking import MOST_TOKENS, flaw
from rpp_env.models.base import Generation, Reply, Request

__all__ = [
    "Answer",
    "checksum",
    "explained",
    "imported",
    "key_of",
    "read_lines",
    "reply_of",
    "reply_text",
    "request_text",
    "sampled",
    "to_json",
    "turn_of",
]

LONGEST = 1 << 25
"""Maximum bytes of a line of an export: 32 MiB."""
MOST_TURNS = 4096
"""Turns that `turn_of` tries for an answer that was stored without its turn."""
MALFORMED = (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError)
"""Errors raised by reading JSON of another shape."""


class Answer(NamedTuple):
    """A row of the table ``answers``, without its checksum."""

    key: str
    reply: str
    model: str
    turn: int
    request: str

    def wrong(self) -> str:
        """Return why this cannot be an answer to its request; empty if it can."""
        try:
            request = _request_of(json.loads(self.request))
            if key_of(self.model, request_text(request), self.turn) != self.key:
                return "its key is not the digest of its model, request and turn"
            if (self.turn > 0) != sampled(request):
                return "turns are counted from 1 where replies are sampled, and are 0 elsewhere"
            reply_of(self.reply, request)
        except MALFORMED as error:
            return explained(error)
        return ""


def sampled(request: Request) -> bool:
    """Return whether equal requests get different answers, so that each turn has a recording."""
    return request.generation.temperature > 0 and request.generation.seed is None


def request_text(request: Request) -> str:
    """Return everything that an answer depends on, except the model, as JSON."""
    more = request.continuations
    # Optional fields are left out if empty, so that the keys of older recordings stay valid.
    continued = "" if more is None else f'"continuations":{to_json(more)},'
    return (
        f'{{"choices":{to_json(request.choices)},{continued}"generation":{_generation(request.generation)},'
        f'"grammar":{to_json(request.grammar)},"messages":{to_json(request.messages)}}}'
    )


def key_of(model: str, request: str, turn: int = 0) -> str:
    """Return the digest of everything that an answer depends on: 64 hexadecimal digits.

    Parameters
    ----------
    model : str
        The model's id.
    request : str
        The request, as `request_text` returns it.
    turn : int
        Index of a sampled answer, from 1; 0 where equal requests have one answer.
    """
    key = hashlib.sha256(f'{request[:-1]},"model":{to_json(model)}}}'.encode()).hexdigest()
    return hashlib.sha256(f"{key}/{turn}".encode()).hexdigest() if turn else key


def turn_of(key: str, model: str, request: str) -> int:
    """Return the turn that gives this key; 0 if none does.

    For layout 1 and its exports, which did not store the turn.
    """
    plain = key_of(model, request)
    if key == plain or '"seed":null' not in request or '"temperature":0.0' in request:
        return 0
    turns = range(1, MOST_TURNS + 1)
    digests = (hashlib.sha256(f"{plain}/{turn}".encode()).hexdigest() for turn in turns)
    return next((turn for turn, digest in zip(turns, digests, strict=False) if digest == key), 0)


def reply_text(reply: Reply, request: Request) -> str:
    """Return a reply as JSON, with plain numbers; log-probabilities only if requested."""
    wanted = request.choices is not None or request.continuations is not None
    logprobs = reply.choice_logprobs if wanted else None
    fields = {
        "text": reply.text,
        "prompt_tokens": int(reply.prompt_tokens),
        "completion_tokens": int(reply.completion_tokens),
        "finish_reason": reply.finish_reason,
        "choice_logprobs": None if logprobs is None else [float(x) for x in logprobs],
    }
    if request.continuations is not None and reply.choice_tokens is not None:
        fields["choice_tokens"] = [int(count) for count in reply.choice_tokens]
    return to_json(fields)


def reply_of(text: str, request: Request) -> Reply:
    """Read the reply in a JSON text.

    Raises
    ------
    ValueError, TypeError, KeyError, RecursionError
        If it holds no reply, or one that does not answer `request`.
    """
    read = json.loads(text)
    for name, given in (
        ("choice_logprobs", read["choice_logprobs"]),
        ("choice_tokens", read.get("choice_tokens")),
    ):
        if isinstance(given, list):
            read[name] = tuple(given)
    reply = Reply(**read)
    if wrong := flaw(request, reply):
        raise ValueError(f"the model {wrong}")
    return reply


def explained(error: Exception) -> str:
    """Describe what was wrong with JSON, from the error (one of `MALFORMED`) of reading it."""
    if isinstance(error, ValueError):
        return str(error)
    return f"a field is missing, or of another type ({type(error).__name__}: {error})"


def _request_of(read: Any) -> Request:
    """Read a request from parsed JSON; raises one of `MALFORMED`."""
    if set(read) - {"continuations"} != {"choices", "generation", "grammar", "messages"}:
        raise ValueError(f"these are not the fields of a request: {', '.join(map(str, read))}")
    texts = [text for message in read["messages"] for pair in message.items() for text in pair]
    choices, grammar = read["choices"], read["grammar"]
    continuations = read.get("continuations")
    said = [*texts, *(choices or []), *(continuations or []), grammar or ""]
    if not all(isinstance(text, str) for text in said):
        raise TypeError("messages, choices, continuations and grammar of a request must be texts")
    generation = dict(read["generation"])
    generation["stop"] = tuple(generation["stop"])
    return Request(
        messages=tuple(read["messages"]),
        generation=Generation(**generation),
        choices=None if choices is None else tuple(choices),
        grammar=grammar,
        continuations=None if continuations is None else tuple(continuations),
    )


def imported(line: bytes) -> Answer:
    """Read the answer in a line of an export; raises one of `MALFORMED`."""
    read = json.loads(line.decode())
    must, may = {"key", "model", "request", "reply"}, {"turn", "checksum"}
    fields = set(read) if isinstance(read, dict) else set()
    if not must <= fields <= must | may:
        raise ValueError(
            f"a line must have the fields {', '.join(sorted(must))}, and may have "
            f"{' and '.join(sorted(may))}; this one has {', '.join(sorted(fields)) or 'none'}"
        )
    key, model = read["key"], read["model"]
    if not isinstance(key, str) or not isinstance(model, str):
        raise TypeError("key and model must be texts")
    model.encode()
    request = _request_of(read["request"])
    text = request_text(request)
    turn = read.get("turn", turn_of(key, model, text))
    if type(turn) is not int or not 0 <= turn < MOST_TOKENS:
        raise ValueError("turn must be an integer from 0")
    reply = to_json(read["reply"])
    if "checksum" in read and read["checksum"] != checksum(key, reply).hex():
        raise ValueError("its reply is damaged: the checksum is that of another one")
    answer = Answer(key, reply_text(reply_of(reply, request), request), model, turn, text)
    if wrong := answer.wrong():
        raise ValueError(wrong)
    return answer


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, with their numbers."""
    try:
        with path.open("rb") as file:
            number = 0
            while line := file.readline(LONGEST + 1):
                number += 1
                if len(line) > LONGEST:
                    raise InvalidData(f"{path}, line {number} is longer than {LONGEST:,} bytes")
                yield number, line
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from error


to_json = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


@lru_cache(maxsize=256)
def _generation(generation: Generation) -> str:
    return to_json(asdict(generation))


def checksum(key: str | bytes, value: str | bytes) -> bytes:
    """BLAKE2b digest of a row's key and value: 16 bytes."""
    parts = (part.encode() if isinstance(part, str) else part for part in (key, value))
    return hashlib.blake2b(b"\n".join(parts), digest_size=16).digest()
