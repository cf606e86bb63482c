"""Read the answers of one served model, and count the odd ones.

A model's reply is never an error. A reply without text, for whatever reason, is an empty `Reply`;
so is a refusal that concerns one request only; and each kind is warned about once.
"""

from __future__ import annotations

import json
import logging
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from threading import Lock
from typing import Any

import numpy as np

from rpp_env.errors import BrokenContract, ModelUnavailable
from rpp_env.models.asking import ROUNDING, is_token_count
from rpp_env.models.base import Reply, Request
from rpp_env.models.network import shorten
from rpp_env.models.replies import error_of, first_alternatives, judged, letter, read_row
from rpp_env.models.served import ServedChat
from rpp_env.models.transport import QUOTED, Refused, Transport, Trouble, is_transient

__all__ = ["OURS", "TOP", "Lacking", "Reader"]

logger = logging.getLogger(__name__)

ERRORS = 16
"""Errors in a row, sent instead of answers, after which the server itself is considered down."""
OURS = frozenset({"model", "messages", "prompt", "stream", "n", "logprobs", "top_logprobs"})
"""Fields of a request that are needed to read its answer."""
TOP = 20
"""Maximum log-probabilities that a server other than vLLM returns."""
EMPTY = {
    "too_long": ("too_long", "refused as longer than the context"),
    "filtered": ("content_filter", "refused by a content filter"),
}
"""Finish reason and oddity for refusals of a single request."""
VERSION = re.compile(r"|[-:@](latest|v\d[\d.]*|\d{4}[\d-]*|[0-9a-f]{7,})")
"""Suffixes that servers add to a model's name: a date, a number, a digest."""
_counting = Lock()


class Lacking(BrokenContract):
    """Log-probabilities were returned, but not those of all choices."""


class Reader:
    """Reads the answers of a served model.

    Parameters
    ----------
    server : Transport
        The client of the server.
    name : str
        The served model that is requested.
    chat : ServedChat, optional
        The tokenizer, if the server is vLLM.
    version : str, optional
        Version of vLLM.
    max_tokens_field : str
        The request's field for the maximum length of a reply.

    Attributes
    ----------
    oddities : Counter of str
        Counts of oddities, by kind.
    works : bool
        Whether any request has been answered.
    error : ModelUnavailable or None
        The last error that came instead of an answer.
    """

    def __init__(
        self,
        server: Transport,
        name: str,
        chat: ServedChat | None,
        version: str | None,
        max_tokens_field: str,
    ) -> None:
        self._server = server
        self._name = name
        self._chat = chat
        self._version = version
        self._max_tokens_field = max_tokens_field
        self.oddities: Counter[str] = Counter()
        self.works = False
        self.error: ModelUnavailable | None = None
        self._errors = 0
        """Errors in a row, instead of answers."""

    def reply(self, request: Request, answer: Any) -> Reply:
        """Read the reply in the answer to one request, of either interface.

        Raises
        ------
        BrokenContract
            If log-probabilities are missing or impossible.
        Refused
            If no other request would be answered either.
        Trouble
            If this request may be answered at the next try.
        ValueError, TypeError, KeyError, IndexError or AttributeError
            If it is not an answer.
        """
        self._note_model(answer)
        error = error_of(answer)
        if error is not None:
            return self._in_place(*error)
        rows = answer.get("choices")
        if not rows and ({"choices", "usage"} & set(answer)):
            # Some servers report a filtered reply or prompt like this.
            self.odd("nothing in choices, as from a content filter")
            return Reply("", *self._usage(answer), finish_reason="content_filter")
        if len(rows) > 1:
            self.odd("several replies to one request, of which the first is read")
        return self._reply(request, rows[0], self._usage(answer))

    def _reply(self, request: Request, row: Any, counts: tuple[int, int]) -> Reply:
        said = read_row(row)
        if said.finish == "abort":
            # A server that shuts down returns unfinished replies.
            raise Trouble("a reply that ended by 'abort'")
        if said.finish == "error":
            raise ValueError("a reply that ended by 'error'")
        self._errors, self.works = 0, True
        if request.choices is None or said.finish == "content_filter":
            if said.oddity:
                self.odd(f"no text: {said.oddity}")
            return Reply(said.text, *counts, finish_reason=said.finish)
        scores = self._scores(row, request.choices)
        lacking = [choice for choice in request.choices if choice not in scores]
        if lacking:
            raise Lacking(
                f"{self._server.base_url} returned no log-probability for {', '.join(lacking)}, of "
                f"{len(request.choices)} choices. {self.cannot()}"
            )
        logprobs = [scores[choice] for choice in request.choices]
        return Reply.choosing(request.choices, logprobs, *counts)

    def _scores(self, row: Mapping[str, Any], choices: Sequence[str]) -> dict[str, float]:
        """Return the log-probability of each choice that the server returns, over all its tokens.

        Raises
        ------
        BrokenContract
            If it returns none at all, or impossible ones.
        """
        pairs = first_alternatives(row.get("logprobs"))
        if pairs is None:
            raise BrokenContract(
                f"{self._server.base_url} leaves the log-probabilities out of its replies: use "
                "vLLM, or rank by 'generate'"
            )
        impossible = [(token, value) for token, value in pairs if value > ROUNDING]
        if impossible:
            token, value = impossible[0]
            raise BrokenContract(
                f"{self._server.base_url} gave {token!r} a log-probability of {value:g}, but none "
                "can be above 0: it returns something else, so rank by 'generate'"
            )
        found: dict[str, list[float]] = {}
        if self._chat is None:
            for token, value in pairs:
                found.setdefault(letter(token), []).append(value)
        else:
            given = dict(pairs)
            for choice, ids in self._chat.choice_tokens(choices).items():
                values = [given.get(f"token_id:{token}", -math.inf) for token in ids]
                # All of its tokens are needed, or the sum would be too small.
                found[choice] = values if min(values, default=-math.inf) > -math.inf else []
        sums = {text: np.logaddexp.reduce(values) for text, values in found.items() if values}
        return {text: float(value) for text, value in sums.items() if value > -math.inf}

    def instead(self, refused: Refused, body: Mapping[str, Any]) -> Reply:
        """Return an empty reply if only this request is refused; else raise with a remedy."""
        verdict = judged(refused.status, refused.words)
        if verdict in EMPTY:
            self.odd(EMPTY[verdict][1], refused.words)
            return Reply("", finish_reason=EMPTY[verdict][0])
        named = _named_field(refused.words, body)
        if named is None:
            raise refused
        option: dict[str, Any] = {"request_options": {named: None}}
        if named == self._max_tokens_field and "max_completion_tokens" in refused.words:
            option = {"max_tokens_field": "max_completion_tokens"}
        raise Refused(
            f"{refused} If it takes no {named}, give model_options={option} (on the command line: "
            f"--model-options '{json.dumps(option)}')."
        )

    def _in_place(self, code: int | None, words: str) -> Reply:
        """Handle an error that was sent with the status 200 instead of an answer."""
        if code is not None and is_transient(code):
            raise Trouble(f"error {code} in place of an answer ({shorten(words, QUOTED)})")
        verdict = judged(code, words)
        if verdict in EMPTY:
            self.odd(EMPTY[verdict][1], words)
            return Reply("", finish_reason=EMPTY[verdict][0])
        what = f"error {code or ''} in place of an answer ({shorten(words, QUOTED)})"
        error = self._server.refusal(self._server.base_url, code, words, what)
        if verdict == "hopeless":
            raise error
        return self.failed(error, words)

    def failed(self, error: ModelUnavailable, words: str) -> Reply:
        """Return an empty reply to a request that the server answers with errors only.

        Others may still be answered; if none ever was, `complete` raises the error.
        """
        with _counting:
            self._errors += 1
            self.error = error
        if self._errors > ERRORS:
            raise error
        self.odd("an error in place of an answer", words)
        return Reply("", finish_reason="no_answer")

    def odd(self, kind: str, words: str = "") -> None:
        """Count an oddity; the first of its kind is a warning."""
        with _counting:
            self.oddities[kind] += 1
            first = self.oddities[kind] == 1
        if first:
            logger.warning(
                "%s, model %s: %s%s. More of this kind are counted in `oddities`.",
                self._server.base_url,
                self._name,
                kind,
                f" ({shorten(words, QUOTED)})" if words else "",
            )

    def _note_model(self, answer: Any) -> None:
        """Notice if another model has answered."""
        named = answer.get("model")
        if isinstance(named, str) and named != self._name and not _same(named, self._name):
            self.odd("a reply by a model that was not asked for", named)

    def _usage(self, answer: Mapping[str, Any]) -> tuple[int, int]:
        usage = answer.get("usage")
        given = usage if isinstance(usage, Mapping) else {}
        return self._tokens(given.get("prompt_tokens")), self._tokens(
            given.get("completion_tokens")
        )

    def _tokens(self, count: Any) -> int:
        """Read a number of tokens; 0 if there is none."""
        if count is None:
            return 0
        count = int(count) if isinstance(count, float) and count.is_integer() else count
        if is_token_count(count):
            return int(count)
        self.odd("invalid token counts, counted as 0", repr(count))
        return 0

    def cannot(self) -> str:
        if self._chat is not None:
            return (
                f"This vLLM ({self._version}) does not know logprob_token_ids: use vLLM 0.32 or "
                "later, or start it with --max-logprobs 128 --logprobs-mode processed_logprobs"
            )
        return (
            f"A server other than vLLM returns only those of its {TOP} most probable tokens: rank "
            "fewer candidates, use vLLM, or rank by 'generate'"
        )


def _same(named: str, wanted: str) -> bool:
    """Whether two names are of one model, ignoring a folder in front and a version behind."""
    names = (named.lower().rpartition("/")[2], wanted.lower().rpartition("/")[2])
    one, other = sorted(names, key=len)
    return other.startswith(one) and VERSION.fullmatch(other[len(one) :]) is not None


def _named_field(words: str, body: Mapping[str, Any]) -> str | None:
    """Return the field of a request that a refusal names; None if it names no optional field.

    A field's name that is an ordinary word must be quoted, or be named as a place.
    """
    for field in sorted(set(body) - OURS, key=len, reverse=True):
        word = re.escape(field)
        plain = "_" in field or field == "temperature"
        if re.search(rf"\b{word}\b" if plain else rf"['\"`.]{word}\b|\b{word}['\"`:]", words):
            return field
    return None
