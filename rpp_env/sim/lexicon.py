"""The words that `EmbeddedModel` understands, and their votes.

An entry holds words of one meaning. It votes for *topics*; the votes of all lines of a prompt add
up, and an entry counts once per line. ``docs/embedded.md`` shows the lexicon as a table.
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
    "alone": "only the user's preferences: popularity is switched off",
    "think": "thoughts are written down, and the method counts more",
    "brief": "no preamble, and no room for thoughts",
}
"""Topics that a word can vote for, with their meanings."""


@dataclass(frozen=True)
class Word:
    """Words of one meaning, and their votes."""

    spellings: str
    """Lower-case words or phrases, separated by commas; found as whole words."""
    votes: dict[str, float]
    """Votes by topic."""

    @property
    def pattern(self) -> str:
        """A regular expression that finds any of the spellings."""
        return rf"(?<![\w-])(?:{'|'.join(map(re.escape, self.spellings.split(', ')))})(?![\w-])"


LEXICON: tuple[Word, ...] = (
    # whose knowledge
    Word(
        "expert, experts, connoisseur, connoisseurs, scholar, scholars",
        {"content": 0.6, "crowd": -0.5},
    ),
    Word("genre, genres, style, styles, category, categories, mechanics", {"content": 0.2}),
    Word("story, stories, craft, made, sound, built", {"content": 0.2}),
    Word("people, people's, others, audience, audiences", {"people": 0.4, "crowd": 0.1}),
    Word("taste, tastes", {"people": 0.3}),
    Word(
        "like-minded, similar people, similar users, similar viewers", {"people": 0.5, "crowd": 0.1}
    ),
    Word("recommender, recommend", {"crowd": 0.3}),
    Word("popular, popularity, famous, hit, hits, best-known", {"crowd": 0.5}),
    Word("widely, everybody, everyone, crowd", {"crowd": 0.2}),
    Word("interest, interests, personal", {"content": 0.3, "people": 0.3, "crowd": -0.05}),
    # how to use it
    Word("history", {"long": 0.15, "recent": 0.15}),
    Word("preference, preferences, likes, liking", {"long": 0.25, "recent": 0.05}),
    Word("infer, deduce, work out", {"long": 0.3, "think": 0.5}),
    Word("long-standing, lasting, always, enduring", {"long": 0.5}),
    Word("whole, entire, complete, overall", {"long": 0.45}),
    Word("similarity, similar, resemble, resembles", {"long": 0.25}),
    Word("visible, seen, shown", {"recent": 0.2}),
    Word("update, revise, refresh", {"recent": 0.45, "think": 0.5}),
    Word("latest, newest, last few", {"recent": 0.4}),
    Word("recent, recently, lately, just now", {"recent": 0.4}),
    Word(
        "next, continue, continues, sequel, sequels, follow on, follows on, following on",
        {"next": 0.6},
    ),
    Word("likelihood, likely, probable, probability", {"next": 0.4}),
    Word("priority, priorities, importance", {"priority": 0.9}),
    Word("only the preferences, nothing but, solely", {"alone": 0.8}),
    # how to go about it
    Word("first, begin by", {"think": 0.5}),
    Word("step by step, step-by-step, think, reason carefully", {"think": 1.0}),
    Word("compute, calculate, score", {"think": 0.25}),
    Word("check, verify, look again", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    Word("refine, improve, correct", {"think": 0.5, "next": 0.2, "long": 0.1, "recent": 0.1}),
    # how to answer
    Word("unnecessary, leave out, skip, omit", {"brief": 0.8}),
    Word("little text, few words, short, briefly", {"brief": 0.9}),
    Word("no explanation, no explanations, without explaining, do not explain", {"brief": 0.5}),
    Word("no other words, nothing else", {"brief": 0.5}),
)
"""All entries; frozen with the levels of movieworld."""

_MATCHERS = tuple(
    (
        re.compile(word.pattern),
        np.array([word.votes.get(topic, 0.0) for topic in TOPICS]),
    )
    for word in LEXICON
)


def votes_of(line: str) -> NDArray[np.float64]:
    """(10,) votes of the words of a line of text, in the order of `TOPICS`."""
    lower = line.lower().replace("’", "'")  # noqa: RUF001 - typographic apostrophes are common
    votes = np.zeros(len(TOPICS))
    for matcher, vote in _MATCHERS:
        if matcher.search(lower):
            votes += vote
    return votes
