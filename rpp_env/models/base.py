"""The seam to language models: texts in, texts out."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeGuard, runtime_checkable

from rpp_env.errors import InvalidOption
from rpp_env.options import check_fields

__all__ = [
    "NO_ANSWER",
    "Generation",
    "LanguageModel",
    "Message",
    "Reply",
    "Request",
    "is_language_model",
]

Message = dict[str, str]
"""``{"role": "user", "content": ...}``, as chat servers take it.

A single message with the role ``"text"`` is plain text that the model goes on with, without a chat
template, for models with the capability ``"likelihood"``.
"""
NO_ANSWER = frozenset({"content_filter", "too_long", "no_answer"})
"""`Reply.finish_reason` of a reply without text, and without log-probabilities, that names nothing
because the model was not let answer."""


@dataclass(frozen=True, slots=True)
class Generation:
    """How a reply is sampled."""

    temperature: float = 0.0
    """0 decodes greedily."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with at least this probability."""
    max_tokens: int = 512
    """Longest reply, in the model's tokens; what is longer comes back cut off."""
    seed: int | None = None
    """Seed of the sampler, where the model has one."""
    stop: tuple[str, ...] = ()
    """Texts at which generation stops."""

    def __post_init__(self) -> None:
        check_fields(self)
        if self.temperature < 0 or not 0 < self.top_p <= 1 or self.max_tokens < 1:
            raise InvalidOption(
                "temperature must be >= 0, top_p in (0, 1] and max_tokens >= 1; got "
                f"{self.temperature}, {self.top_p} and {self.max_tokens}"
            )

    @classmethod
    def paper(cls) -> Generation:
        """LLaMA2-7B-chat as the RPP code asked it: temperature 0.6, top-p 0.9."""
        return cls(temperature=0.6, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Request:
    """One question to a model."""

    messages: tuple[Message, ...]
    """Where the last one is the assistant's, the answer begins with it, and the model goes on."""
    generation: Generation = Generation()
    choices: tuple[str, ...] | None = None
    """One-token identifiers whose log-probabilities are wanted instead of a text."""
    grammar: str | None = None
    """A grammar that the reply must obey, for models with that capability."""
    continuations: tuple[str, ...] | None = None
    """Texts whose log-probabilities, as what follows the prompt, are wanted instead of a text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """What a model said, and what it cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    """``"stop"``, or ``"length"`` where the reply was cut off.

    With an empty text also those of `NO_ANSWER`: ``"content_filter"``; ``"too_long"``, where the
    model refuses the prompt as longer than its context; and ``"no_answer"``, where a server gave an
    error in place of an answer, which it may give another time, so that it is not to be kept.
    """
    choice_logprobs: tuple[float, ...] | None = None
    """Of `Request.choices` or `Request.continuations`, in their order: finite, and comparable with
    each other. Of a continuation it is the sum over its tokens."""
    choice_tokens: tuple[int, ...] | None = None
    """Of `Request.continuations`: how many tokens each of them has; at least one."""

    @classmethod
    def choosing(
        cls,
        choices: Sequence[str],
        logprobs: Sequence[float],
        prompt_tokens: int,
        completion_tokens: int = 1,
    ) -> Reply:
        """The reply that is the most probable choice; of equal ones, the first."""
        best = choices[max(range(len(choices)), key=logprobs.__getitem__)]
        return cls(best, prompt_tokens, completion_tokens, choice_logprobs=tuple(logprobs))


@runtime_checkable
class LanguageModel(Protocol):
    """Anything that answers a batch of requests.

    Caching, recording, servers and fakes all implement this one method. Replies come back in the
    order of the requests, one each. `testing.check_model` proves it.
    """

    @property
    def id(self) -> str:
        """Names the model and whatever its answers depend on."""
        ...

    @property
    def context_length(self) -> int:
        """Most tokens that a prompt and its reply may have together."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Any of ``"choices"``, ``"grammar"``, ``"likelihood"``, ``"deterministic"``."""
        ...

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        ...


def is_language_model(thing: object) -> TypeGuard[LanguageModel]:
    """``isinstance(thing, LanguageModel)``, which on Python 3.11 would evaluate its properties.

    A server says what it is capable of by answering, and making an environment asks nothing.
    """
    names = ("id", "context_length", "capabilities", "complete")
    absent = object()
    return all(inspect.getattr_static(thing, name, absent) is not absent for name in names)
