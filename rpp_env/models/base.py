"""The interface of language models: `LanguageModel`, `Request`, `Reply` and `Generation`."""

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
"""``{"role": "user", "content": ...}``, the message format of chat servers.

A single message with the role ``"text"`` is plain text that the model continues without a chat
template, for models with the capability ``"likelihood"``.
"""
NO_ANSWER = frozenset({"content_filter", "too_long", "no_answer"})
"""Values of `Reply.finish_reason` for replies without text and log-probabilities, where the model
could not answer."""


@dataclass(frozen=True, slots=True)
class Generation:
    """Sampling options of a reply."""

    temperature: float = 0.0
    """Sampling temperature; 0 decodes greedily."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with at least this probability."""
    max_tokens: int = 512
    """Longest reply, in the model's tokens; a longer one is cut off."""
    seed: int | None = None
    """Seed of the sampler, if the model supports one."""
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
        """Return the options of LLaMA2-7B-chat in the RPP code: temperature 0.6, top-p 0.9."""
        return cls(temperature=0.6, top_p=0.9)


@dataclass(frozen=True, slots=True)
class Request:
    """One request to a model."""

    messages: tuple[Message, ...]
    """Conversation; if the last message is the assistant's, the model continues it."""
    generation: Generation = Generation()
    choices: tuple[str, ...] | None = None
    """One-token identifiers whose log-probabilities are requested instead of a text."""
    grammar: str | None = None
    """A grammar that the reply must obey, for models with that capability."""
    continuations: tuple[str, ...] | None = None
    """Continuations of the prompt whose log-probabilities are requested instead of a text."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A model's reply and its cost."""

    text: str
    prompt_tokens: int = 0
    completion_tokens: int = 0
    finish_reason: str = "stop"
    """``"stop"``, or ``"length"`` if the reply was cut off.

    With an empty text also those of `NO_ANSWER`: ``"content_filter"``; ``"too_long"``, if the
    model refuses the prompt as longer than its context; and ``"no_answer"``, if a server sent an
    error instead of an answer. That may change at the next try, so it must not be recorded.
    """
    choice_logprobs: tuple[float, ...] | None = None
    """Log-probabilities of `Request.choices` or `Request.continuations`, in their order: finite,
    and comparable with each other. For a continuation, the sum over its tokens."""
    choice_tokens: tuple[int, ...] | None = None
    """Numbers of tokens of `Request.continuations`; at least one each."""

    @classmethod
    def choosing(
        cls,
        choices: Sequence[str],
        logprobs: Sequence[float],
        prompt_tokens: int,
        completion_tokens: int = 1,
    ) -> Reply:
        """Make the reply whose text is the most probable choice; of equal ones, the first."""
        best = choices[max(range(len(choices)), key=logprobs.__getitem__)]
        return cls(best, prompt_tokens, completion_tokens, choice_logprobs=tuple(logprobs))


@runtime_checkable
class LanguageModel(Protocol):
    """A language model: answers a batch of requests.

    Caches, recordings, servers and test doubles all implement `complete`. It returns one reply per
    request, in order. `testing.check_model` checks it.
    """

    @property
    def id(self) -> str:
        """Name of the model and of everything that its replies depend on."""
        ...

    @property
    def context_length(self) -> int:
        """Maximum tokens of a prompt and its reply together."""
        ...

    @property
    def capabilities(self) -> frozenset[str]:
        """Some of ``"choices"``, ``"grammar"``, ``"likelihood"`` and ``"deterministic"``."""
        ...

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        ...


def is_language_model(thing: object) -> TypeGuard[LanguageModel]:
    """Like ``isinstance(thing, LanguageModel)``, which on Python 3.11 would read its properties.

    Reading a server's capabilities sends requests, and making an environment must send none.
    """
    names = ("id", "context_length", "capabilities", "complete")
    absent = object()
    return all(inspect.getattr_static(thing, name, absent) is not absent for name in names)
