"""Shared helpers for calling a language model: check the replies and the context budget."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from numbers import Real

import numpy as np

from rpp_env.errors import BrokenContract
from rpp_env.models.base import NO_ANSWER, Generation, LanguageModel, Reply, Request

__all__ = [
    "MOST_TOKENS",
    "ROUNDING",
    "Room",
    "ask",
    "ask_unchecked",
    "estimated_tokens",
    "flaw",
    "is_token_count",
    "release",
]

ROUNDING = 1e-3
"""Rounding tolerance for log-probabilities slightly above 0."""
MOST_TOKENS = 1 << 31
BROKEN_OFF = frozenset({"abort", "error"})
"""Finish reasons of replies that a server did not finish: not an answer, whatever the text."""

CHARACTERS_PER_TOKEN = 3
"""Cautious estimate for models that cannot count tokens (English text has about four)."""
LATIN = "\u024f"
"""The last character of the Latin alphabets. Tokenizers are fitted mostly to these; of Chinese,
Japanese and Korean text, and of most other scripts, they make about one token of each character."""
TEMPLATE_TOKENS = 32
"""Tokens kept free for what a chat template adds around the prompt."""


def ask(model: LanguageModel, requests: Sequence[Request]) -> list[Reply]:
    """Return the model's replies, checked; an empty batch never reaches the model.

    Raises
    ------
    BrokenContract
        If the number of replies differs from the number of requests, or a reply does not answer its
        request: see `flaw`.
    """
    replies = ask_unchecked(model, requests)
    for request, reply in zip(requests, replies, strict=True):
        if wrong := flaw(request, reply):
            raise BrokenContract(f"model {model.id!r} {wrong}")
    return replies


def ask_unchecked(model: LanguageModel, requests: Sequence[Request]) -> list[Reply]:
    """Return one reply per request, for callers that check each of them with `flaw`.

    Raises
    ------
    BrokenContract
        If the number of replies differs from the number of requests.
    """
    replies = model.complete(requests) if requests else []
    given: object = replies
    if not isinstance(given, list | tuple):
        raise BrokenContract(
            f"model {model.id!r} returned a {type(given).__name__} instead of a list of replies"
        )
    if len(replies) != len(requests):
        raise BrokenContract(
            f"model {model.id!r} returned {len(replies)} replies to {len(requests)} requests; "
            "complete() must answer each one, in order"
        )
    return replies


def release(part: object) -> None:
    """Release the files and connections of a model, recommender or rewriter; they reopen on use.

    Calls the part's method ``release()``, if it has one. Not ``close()``, which may end a model for
    good, and several environments may share it.
    """
    method = getattr(part, "release", None)
    if callable(method):
        method()


def flaw(request: Request, reply: object) -> str:
    """Return why `reply` does not answer `request`; empty if it does.

    The *text* of a reply is never a flaw: an empty text, a list that was cut off and a page of HTML
    are answers. Flaws are wrong types, negative counts of tokens, a reply that the server broke
    off, and log-probabilities that are missing, not finite or above 0.
    """
    if not isinstance(reply, Reply):
        return f"returned a {type(reply).__name__} instead of a Reply"
    text: object = reply.text
    finish: object = reply.finish_reason
    if not isinstance(text, str) or not isinstance(finish, str):
        return (
            f"returned a reply whose text is a {type(text).__name__} and whose finish_reason is a "
            f"{type(finish).__name__}: both must be str"
        )
    if finish in BROKEN_OFF:
        return f"did not finish a reply (finish_reason={finish!r}): send the request again"
    if not is_token_count(reply.prompt_tokens) or not is_token_count(reply.completion_tokens):
        return (
            f"counted {reply.prompt_tokens!r:.40} prompt tokens and "
            f"{reply.completion_tokens!r:.40} completion tokens: both must be integers from 0 to "
            f"{MOST_TOKENS - 1:,}"
        )
    wanted = request.choices if request.continuations is None else request.continuations
    if wanted is None or (finish in NO_ANSWER and text == ""):
        return ""
    found: object = reply.choice_logprobs
    what = "letters" if request.continuations is None else "continuations"
    if not (
        isinstance(found, Sequence) and len(found) == len(wanted) and all(map(_is_logprob, found))
    ):
        return (
            f"was asked for the log-probabilities of {len(wanted)} {what} and returned "
            f"{repr(found)[:200]}: each must be there, finite and not above 0"
        )
    counts: object = reply.choice_tokens
    if request.continuations is not None and not (
        isinstance(counts, Sequence)
        and len(counts) == len(wanted)
        and all(is_token_count(count) and count > 0 for count in counts)
    ):
        return (
            f"returned {repr(counts)[:200]} as numbers of tokens of {len(wanted)} continuations: "
            "each must be an integer above 0"
        )
    return ""


def is_token_count(count: object) -> bool:
    """Return whether a value is an integer that can be a number of tokens."""
    if isinstance(count, bool) or not isinstance(count, int | np.integer):
        return False
    return 0 <= int(count) < MOST_TOKENS


def _is_logprob(x: object) -> bool:
    # Most are plain floats, which are checked faster than other real numbers.
    return (type(x) is float or isinstance(x, Real)) and math.isfinite(x) and x <= ROUNDING


class Room:
    """The context budget of a prompt, without its reply and what a chat template adds.

    If the model has a method ``count_tokens(text) -> int``, texts are measured with it; else with
    `estimated_tokens`.

    Attributes
    ----------
    tokens : int
        Tokens available for a prompt.
    count : callable
        Returns a text's number of tokens.
    """

    def __init__(self, model: LanguageModel, generation: Generation) -> None:
        self.tokens = model.context_length - generation.max_tokens - TEMPLATE_TOKENS
        self.count: Callable[[str], int] = getattr(model, "count_tokens", None) or estimated_tokens

    def holds(self, text: str) -> bool:
        """Return whether a prompt of this text fits."""
        # A token has at least one byte, so most prompts need not be counted.
        size = len(text) if text.isascii() else len(text.encode())
        return size <= self.tokens or self.count(text) <= self.tokens


def estimated_tokens(text: str) -> int:
    """Estimate the number of tokens: one per three Latin characters, one per other character."""
    others = 0 if text.isascii() else sum(character > LATIN for character in text)
    return others - (others - len(text)) // CHARACTERS_PER_TOKEN
