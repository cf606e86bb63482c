"""A stand-in for the language model that rewrites sentences (RPP+): a paraphraser by rules.

`Paraphraser` gets what an LLM gets, instructions, a user's latest items and labelled sentences in
words, and answers in words, one labelled line each. So everything around it runs without a server.
It is a stand-in and no evidence about LLMs: what it does was written down here, and it does little.

1. **Other words of the same meaning**, a choice that hangs on the items that it is shown. Words
   that `EmbeddedModel` understands are replaced by others of the same entry of its lexicon, so that
   a sentence asks it for the same thing.
2. **One thing that titles tell**: where a later part of a series follows an earlier one, the
   reasoning sentence is told to mind sequels. This strengthens one habit of the embedded model; it
   was not fitted to anything, and no target was looked at.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import lru_cache

from rpp_env.models.base import Reply, Request

__all__ = ["Paraphraser"]

SYNONYMS: tuple[tuple[str, ...], ...] = (
    ("You are an expert", "You are a connoisseur", "You are a scholar"),
    ("genre", "style"),
    ("popular", "famous", "best-known"),
    ("personal interest", "personal interests"),
    ("Please rank", "Rank", "I would like you to rank"),
    ("in order of priority", "by their priority", "in order of importance"),
    ("according to", "in accordance with", "guided by"),
    ("visible", "seen", "shown"),
    ("likelihood", "probability"),
    ("Think step by step", "Reason carefully", "Think about it step by step"),
    ("infer", "deduce", "work out"),
    ("long-standing", "lasting", "enduring"),
    ("update", "revise", "refresh"),
    ("latest", "newest"),
    ("most recently", "lately"),
    ("Compute", "Calculate"),
    ("whole", "entire", "complete"),
    ("check your ranking", "verify your ranking", "look again at your ranking"),
    ("refine it", "improve it", "correct it"),
    ("Give only", "Write only", "Return only"),
    ("leave out", "omit", "skip"),
    ("little text", "few words"),
    ("no explanation", "no explanations"),
    ("no other words", "nothing else"),
)
"""Phrases and others that can stand in their place, the same words to the embedded model."""
SEQUELS = ", and mind the sequels of what I have begun"
"""What is added to the reasoning where the items shown go on with a series."""

_PLACE = {phrase: (i, others) for i, others in enumerate(SYNONYMS) for phrase in others[:1]}
_PHRASE = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, _PLACE))})(?![\w-])")
_SENTENCE = re.compile(r"^([A-Z]+): (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^\d+\. (.+)$", re.MULTILINE)
_TURNS = 6  # six ways to say a sentence: every choice of two or three words comes round


class Paraphraser:
    """The embedded stand-in for an LLM that rewrites; deterministic. Its tokens are words."""

    id = "paraphraser-v0"
    capabilities: frozenset[str] = frozenset({"deterministic"})
    context_length = 1 << 20

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        return [self._reply("\n\n".join(m["content"] for m in r.messages)) for r in requests]

    def count_tokens(self, text: str) -> int:
        """Words: this model's tokens."""
        return len(text.split())

    def _reply(self, text: str) -> Reply:
        titles = tuple(_ITEM.findall(text))
        turn = zlib.crc32("\n".join(titles).encode()) % _TURNS
        lines = []
        for label, sentence in _SENTENCE.findall(text):
            said = _reworded(sentence, turn)
            if label == "REASONING" and _goes_on(titles):
                said = re.sub(r"(?=[.!?](?:\s|$))", SEQUELS, said, count=1)
            lines.append(f"{label}: {said}")
        answer = "\n".join(lines)
        return Reply(answer, self.count_tokens(text), self.count_tokens(answer))


@lru_cache(maxsize=1 << 12)
def _reworded(sentence: str, turn: int) -> str:
    """The sentence in other words; `turn` says which."""

    def other(match: re.Match[str]) -> str:
        place, others = _PLACE[match[0]]
        return others[(turn + place) % len(others)]

    return _PHRASE.sub(other, sentence)


@lru_cache(maxsize=1 << 14)
def _goes_on(titles: tuple[str, ...]) -> bool:
    """Does a later part of a series follow the part before it?"""
    from rpp_env.sim.embedded import sequels

    return any(after > place for place, after in enumerate(sequels(titles).tolist()))
