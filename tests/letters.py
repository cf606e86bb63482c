"""Models that score titles by a rule, where a test needs no real one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rpp_env.models import Reply, Request


class Letters:
    """A model of letters: those that are frequent in the prompt are probable."""

    id = "letters"
    capabilities = frozenset({"likelihood", "deterministic"})

    def __init__(self, context_length: int = 4000) -> None:
        self.context_length = context_length
        self.asked: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        return [self._reply(request) for request in requests]

    def _reply(self, request: Request) -> Reply:
        text = "\n".join(message["content"] for message in request.messages)
        if request.continuations is None:
            return Reply("1. Up", len(text), 5)
        if len(text) + max(map(len, request.continuations)) > self.context_length:
            return Reply("", finish_reason="too_long")
        sums = tuple(self.score(text, said) for said in request.continuations)
        counts = tuple(map(len, request.continuations))
        best = request.continuations[int(np.argmax(sums))]
        return Reply(best, len(text), sum(counts), choice_logprobs=sums, choice_tokens=counts)

    def score(self, text: str, said: str) -> float:
        return sum(math.log((1 + text.count(letter)) / (99 + len(text))) for letter in said)

    def count_tokens(self, text: str) -> int:
        return len(text)
