"""The words that `EmbeddedModel` understands, and what each of them asks for.

A word is a regular expression over lower-case text, found as a whole word. It votes for *topics*;
the votes of all lines of a prompt add up, and a word counts once a line. ``docs/embedded.md`` shows
the lexicon as a table.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["LEXICON", "TOPICS", "Word", "votes_of"]

TOPICS: dict[str, str] = {
    "content": "knowledge: what the items are",
    "people": "knowledge: what like-minded people choose",
    "crowd": "knowledge: what is popular",
    "long": "method: all of the history counts alike",
    "recent": "method: the end of the history counts most",
    "next": "method: what comes after the last item",
    "priority": "method: nothing of the history, popularity alone",
    "alone": "the user's preferences alone: popularity is switched off",
    "think": "thoughts are written down, and the method leans on them",
    "brief": "no preamble, and no room for thoughts",
}
"""What a word can vote for."""


@dataclass(frozen=True)
class Word:
    """A word, as a regular expression over lower-case text, and its votes by topic."""

    pattern: str
    votes: dict[str, float]


LEXICON: tuple[Word, ...] = (
    # whose knowledge
    Word(r"experts?|connoisseurs?|scholars?", {"content": 0.6, "crowd": -0.5}),
    Word(r"genres?|styles?|categor(?:y|ies)|mechanics", {"content": 0.2}),
    Word(r"stor(?:y|ies)|craft|made|sound|built", {"content": 0.2}),
    Word(r"people(?:'s)?|others|audiences?", {"people": 0.4, "crowd": 0.1}),
    Word(r"tastes?", {"people": 0.3}),
    Word(r"like-minded|similar (?:people|users|viewers)", {"people": 0.5, "crowd": 0.1}),
    Word(r"recommender|recommend", {"crowd": 0.3}),
    Word(r"popular|popularity|famous|hits?|best-known", {"crowd": 0.5}),
    Word(r"widely|everybody|everyone|crowd", {"crowd": 0.2}),
    Word(r"interests?|personal", {"content": 0.3, "people": 0.3, "crowd": -0.05}),
    # how to use it
    Word(r"history", {"long": 0.15, "recent": 0.15}),
    Word(r"preferences?|likes|liking", {"long": 0.25, "recent": 0.05}),
    Word(r"infer|deduce|work out", {"long": 0.3, "think": 0.5}),
    Word(r"long-standing|lasting|always|enduring", {"long": 0.5}),
    Word(r"whole|entire|complete|overall", {"long": 0.45}),
    Word(r"similarity|similar|resembles?", {"long": 0.25}),
    Word(r"visible|seen|shown", {"recent": 0.2}),
    Word(r"update|revise|refresh", {"recent": 0.45, "think": 0.5}),
    Word(r"latest|newest|last few", {"recent": 0.4}),
    Word(r"recent|recently|lately|just now", {"recent": 0.4}),
    Word(r"next|continues?|sequels?|follow(?:s|ing)? on", {"next": 0.6}),
    Word(r"likelihood|likely|probable|probability", {"next": 0.4}),
    Word(r"priority|priorities|importance", {"priority": 0.9}),
    Word(r"only the preferences|nothing but|solely", {"alone": 0.8}),
    # how to go about it
    Word(r"first|begin by", {"think": 0.5}),
    Word(r"step by step|step-by-step|think|reason carefully", {"think": 1.0}),
    Word(r"compute|calculate|score", {"think": 0.25}),
    Word(r"check|verify|look again", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    Word(r"refine|improve|correct", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    # how to answer
    Word(r"unnecessary|leave out|skip|omit", {"brief": 0.8}),
    Word(r"little text|few words|short|briefly", {"brief": 0.9}),
    Word(r"no explanations?|without explaining|do not explain", {"brief": 0.5}),
    Word(r"no other words|nothing else", {"brief": 0.5}),
)
"""Which word calls which habit; frozen with the levels of movieworld."""

_MATCHERS = tuple(
    (
        re.compile(rf"(?<![\w-])(?:{word.pattern})(?![\w-])"),
        np.array([word.votes.get(topic, 0.0) for topic in TOPICS]),
    )
    for word in LEXICON
)


def votes_of(line: str) -> NDArray[np.float64]:
    """(10,) what the words of a line of text vote for, in the order of `TOPICS`."""
    lower = line.lower().replace("’", "'")  # noqa: RUF001 - typographic apostrophes are common
    votes = np.zeros(len(TOPICS))
    for matcher, vote in _MATCHERS:
        if matcher.search(lower):
            votes += vote
    return votes
