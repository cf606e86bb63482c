"""A simulated language model that rewrites sentences (RPP+): a paraphraser by rules.

Like an LLM, `Paraphraser` gets instructions, a user's latest items and labelled sentences in words,
and replies in words, one labelled line each. So RPP+ can be run and tested without a server. It is
no evidence about LLMs: its rules are written below, and they are few.

1. **Other words of the same meaning**, chosen depending on the items shown. Words that
   `EmbeddedModel` understands are replaced by others of the same entry of its lexicon, so that a
   sentence asks it for the same thing.
2. **Sequels**: if a later part of a series follows an earlier one, the reasoning sentence gets a
   clause about sequels. This strengthens one habit of the embedded model; the rule was not fitted
   to anything, and no target was used.
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
"""Phrases with their alternatives, which mean the same to the embedded model."""
SEQUELS = ", and mind the sequels of what I have begun"
"""Clause added to the reasoning if the items shown continue a series."""

_PLACE = {phrase: (i, others) for i, others in enumerate(SYNONYMS) for phrase in others[:1]}
_PHRASE = re.compile(rf"(?<![\w-])(?:{'|'.join(map(re.escape, _PLACE))})(?![\w-])")
_SENTENCE = re.compile(r"^([A-Z]+): (.+)$", re.MULTILINE)
_ITEM = re.compile(r"^\d+\. (.+)$", re.MULTILINE)
_TURNS = 6  # six variants of a sentence cover every choice among two or three alternatives


class Paraphraser:
    """A simulated LLM that rewrites sentences; deterministic. Its tokens are words."""

    id = "paraphraser-v0"
    capabilities: frozenset[str] = frozenset({"deterministic"})
    context_length = 1 << 20

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request."""
        return [self._reply("\n\n".join(m["content"] for m in r.messages)) for r in requests]

    def count_tokens(self, text: str) -> int:
        """Return the number of words: this model's tokens."""
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
    """Rewrite a sentence in other words; `turn` selects the variant."""

    def other(match: re.Match[str]) -> str:
        place, others = _PLACE[match[0]]
        return others[(turn + place) % len(others)]

    return _PHRASE.sub(other, sentence)


@lru_cache(maxsize=1 << 14)
def _goes_on(titles: tuple[str, ...]) -> bool:
    """Whether a later part of a series follows the part before it."""
    from rpp_env.sim.embedded import sequels

    return any(after > place for place, after in enumerate(sequels(titles).tolist()))
