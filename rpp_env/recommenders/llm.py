"""A language model as a recommender: ask, read the reply, count what it cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from rpp_env.errors import BrokenContract, InvalidOption
from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.parsing import parse_order
from rpp_env.prompts import as_messages
from rpp_env.task import Ranking

if TYPE_CHECKING:
    from rpp_env.prompts import Prompt

__all__ = ["LLMRecommender"]

CHARACTERS_PER_TOKEN = 3
"""Cautious estimate for models that cannot count tokens (English text has about four)."""
TEMPLATE_TOKENS = 32
"""Kept free for what a chat template adds around the prompt."""


class LLMRecommender:
    """Asks a language model for a ranking, in words, and reads its reply.

    The whole batch is one call of the model. Where decoding is greedy, equal prompts are asked
    once; where it samples, each prompt gets an answer of its own. A prompt that would leave less
    room than ``generation.max_tokens`` for the reply loses its oldest history items first, and the
    ranking says how many in `Ranking.trimmed`.

    Parameters
    ----------
    model : LanguageModel
        Who is asked. Where it has a method ``count_tokens(text) -> int``, prompts are measured with
        it; else one token is taken for every three characters.
    rank_by : str
        How the ranking is got out of the model; ``"generate"`` (it writes the list) is the only way
        so far.
    generation : Generation
        How replies are sampled.

    Raises
    ------
    InvalidOption
        For another `rank_by`, or a prompt that does not fit even with one history item.
    BrokenContract
        Where the model gives back another number of replies than it was asked for.
    """

    def __init__(
        self,
        model: LanguageModel,
        rank_by: str = "generate",
        generation: Generation | None = None,
    ) -> None:
        if rank_by != "generate":
            raise InvalidOption(
                f"rank_by={rank_by!r} is not available: 'generate' is the only way so far"
            )
        self.model = model
        self.rank_by = rank_by
        self.generation = Generation() if generation is None else generation
        self._count: Callable[[str], int] | None = getattr(model, "count_tokens", None)

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        """Rank the candidates of every prompt in one call of the model."""
        fitted = [self._fit(prompt) for prompt in prompts]
        sampled = self.generation.temperature > 0
        keys = [i if sampled else text for i, (_, text) in enumerate(fitted)]
        requests = {
            key: Request(as_messages(text), self.generation)
            for key, (_, text) in zip(keys, fitted, strict=True)
        }
        replies = self.model.complete(list(requests.values())) if requests else []
        if len(replies) != len(requests):
            raise BrokenContract(
                f"model {self.model.id!r} gave {len(replies)} replies to {len(requests)} requests; "
                "complete() must answer each one, in order"
            )
        answers = dict(zip(requests, replies, strict=True))
        return [
            self._read(answers[key], prompt, prompt.shown - shown)
            for key, (shown, _), prompt in zip(keys, fitted, prompts, strict=True)
        ]

    def _read(self, reply: Reply, prompt: Prompt, trimmed: int) -> Ranking:
        order, named = parse_order(reply.text, prompt.task.candidates)
        return Ranking(
            order=order,
            named=named,
            text=reply.text,
            prompt_tokens=reply.prompt_tokens,
            completion_tokens=reply.completion_tokens,
            trimmed=trimmed,
        )

    def _fit(self, prompt: Prompt) -> tuple[int, str]:
        """How many history items of `prompt` fit, and the text with these."""
        room = self.model.context_length - self.generation.max_tokens - TEMPLATE_TOKENS
        text = prompt.text
        # A token has at least one byte, so that most prompts need not be counted.
        size = len(text) if text.isascii() else len(text.encode())
        if size <= room or self._tokens(text) <= room:
            return prompt.shown, text
        for shown in range(prompt.shown - 1, 0, -1):
            shorter = replace(prompt, shown=shown).text
            if self._tokens(shorter) <= room:
                return shown, shorter
        raise InvalidOption(
            f"the prompt of user {prompt.task.user!r} has {self._tokens(text)} tokens, and "
            f"even with one history item it does not fit into the {room} that {self.model.id!r} "
            f"has besides {self.generation.max_tokens} for the reply: take a model with a longer "
            "context, fewer candidates or a smaller max_tokens"
        )

    def _tokens(self, text: str) -> int:
        return self._count(text) if self._count else -(-len(text) // CHARACTERS_PER_TOKEN)
