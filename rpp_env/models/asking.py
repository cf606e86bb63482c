"""What everyone does who asks a language model: count the replies, and see what fits."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rpp_env.errors import BrokenContract
from rpp_env.models.base import Generation, LanguageModel, Reply, Request

__all__ = ["Room", "ask"]

CHARACTERS_PER_TOKEN = 3
"""Cautious estimate for models that cannot count tokens (English text has about four)."""
TEMPLATE_TOKENS = 32
"""Kept free for what a chat template adds around the prompt."""


def ask(model: LanguageModel, requests: Sequence[Request]) -> list[Reply]:
    """The model's replies; it is not called where there is nothing to ask.

    Raises
    ------
    BrokenContract
        Where it gives back another number of replies than it was asked for.
    """
    replies = model.complete(requests) if requests else []
    if len(replies) != len(requests):
        raise BrokenContract(
            f"model {model.id!r} gave {len(replies)} replies to {len(requests)} requests; "
            "complete() must answer each one, in order"
        )
    return replies


class Room:
    """How long a prompt may be, besides its reply and what a chat template adds.

    Where the model has a method ``count_tokens(text) -> int``, texts are measured with it; else one
    token is taken for every three characters.

    Attributes
    ----------
    tokens : int
        That a prompt may have.
    count : callable
        Text to its number of tokens.
    """

    def __init__(self, model: LanguageModel, generation: Generation) -> None:
        self.tokens = model.context_length - generation.max_tokens - TEMPLATE_TOKENS
        self.count: Callable[[str], int] = getattr(model, "count_tokens", None) or _estimated

    def holds(self, text: str) -> bool:
        """Whether a prompt of this text fits."""
        # A token has at least one byte, so that most prompts need not be counted.
        size = len(text) if text.isascii() else len(text.encode())
        return size <= self.tokens or self.count(text) <= self.tokens


def _estimated(text: str) -> int:
    return -(-len(text) // CHARACTERS_PER_TOKEN)
