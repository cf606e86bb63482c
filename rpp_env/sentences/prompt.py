"""Prompt: one task and one choice of sentences, as the text that the model reads.

Five paragraphs with a blank line between them, in the paper's order: role, history, candidates,
reasoning, output. A paragraph that is empty (no role, no history) is left out. The lists hold
titles alone, numbered from 1; the most recent item of the history is the last. `docs/prompts.md`
shows a whole one.

A ranking can also be read off single tokens. Then the candidates carry letters instead of numbers,
and one line takes the place of the output's contract (`Prompt.lettered`); the four agents'
sentences stay as they are.
"""

from __future__ import annotations

import string
from dataclasses import dataclass, field
from functools import lru_cache
from operator import add

from rpp_env.errors import InvalidOption
from rpp_env.sentences import Choice
from rpp_env.sentences.leads import Lead
from rpp_env.task import RankingTask

__all__ = ["LETTERS", "Prompt", "Prompts", "as_messages"]

LETTERS = string.ascii_uppercase + string.ascii_lowercase
"""Names of the candidates where one token is asked for: one token each in every tokeniser."""
_FIRST = (
    "Begin with one letter alone, that of the candidate in first place. "
    "Format of the first line: <letter>"
)
_EACH = (
    "Instead of the candidates themselves, write their letters, the best one first. "
    "Format of each line: <letter>"
)

_BEGUN = {
    "numbered": ("1.", " ", "\n"),
    "bare": ("", "", "\n"),
    "numbers": ("Candidate:", " ", "\n"),
    "json": ("[", ' "', '",'),
    "template": ("1 |", " ", "\n"),
}
"""For each of `rpp_env.sentences.FORMATS` what an answer begins with, and what stands before and
after the title in it."""
_NUMBERS = tuple(f"{i}. " for i in range(1, 1001))
_LETTERS = tuple(f"{letter}. " for letter in LETTERS)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a recommender.

    Attributes
    ----------
    task : RankingTask
        Whose history and which candidates.
    choice : Choice
        The sentences.
    shown : int
        How many of the most recent history items are shown, 0 to ``len(task.history)``.
    fallbacks : int
        Of its sentences, how many stayed as they were because a rewrite (RPP+) could not be used.
        Not compared.

    Raises
    ------
    InvalidOption
        Where `shown` lies outside that range.
    """

    task: RankingTask
    choice: Choice
    shown: int
    fallbacks: int = field(default=0, compare=False)

    def __post_init__(self) -> None:
        if not 0 <= self.shown <= len(self.task.history):
            raise InvalidOption(
                f"shown must lie in 0..{len(self.task.history)}, the length of the history of "
                f"user {self.task.user!r}; got {self.shown}"
            )

    @property
    def text(self) -> str:
        """The whole prompt; made anew at each call."""
        return self._text(self.choice.contract, _NUMBERS)

    def lettered(self, whole: bool = False, candidates: bool = True) -> str:
        """The prompt that asks for letters of `LETTERS` instead of titles.

        Parameters
        ----------
        whole : bool
            Whether to ask for all candidates, one letter a line, or for the first one alone.
        candidates : bool
            Whether the candidates are shown. Without them, what a model answers is its liking for
            letters alone.

        Raises
        ------
        InvalidOption
            Where there are more candidates than letters.
        """
        if len(self.task.candidates) > len(LETTERS):
            raise InvalidOption(
                f"user {self.task.user!r} has {len(self.task.candidates)} candidates, and there "
                f"are {len(LETTERS)} letters to name them: take fewer, or rank_by='generate'"
            )
        return self._text(_EACH if whole else _FIRST, _LETTERS if candidates else ())

    def lead(self) -> Lead:
        """The prompt without candidates, up to where a title follows; for likelihoods.

        The sentences and the history stay, and the output's format says what the answer has begun
        with: "1." for a numbered list, "[" for JSON.
        """
        task, choice = self.task, self.choice
        sentences = (choice.role, choice.history_lead, "", choice.reasoning, choice.output, "")
        role, history_lead, _, tail = _frame(sentences, len(task.candidates))
        text = role
        if self.shown:
            text += history_lead + _listed(task.history[-self.shown :], _NUMBERS)
        begun, before, after = _BEGUN[choice.format]
        return Lead((text + tail).strip("\n"), before, after, begun)

    def _text(self, contract: str, markers: tuple[str, ...]) -> str:
        task, choice = self.task, self.choice
        candidates = task.candidates
        sentences = (
            choice.role,
            choice.history_lead,
            choice.candidates_lead,
            choice.reasoning,
            choice.output,
            contract,
        )
        head, history_lead, candidates_lead, tail = _frame(sentences, len(candidates))
        if self.shown:  # where it is 0, a slice from -0 would be the whole history
            head += history_lead + _listed(task.history[-self.shown :], _NUMBERS) + "\n\n"
        if not markers:
            return head.rstrip("\n") + tail
        return head + candidates_lead + _listed(candidates, markers) + tail

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The prompt as one message of the user, as chat servers take it."""
        return as_messages(self.text)

    @property
    def instructions(self) -> str:
        """The role, reasoning and output sentences alone: what the observation embeds."""
        choice = self.choice
        return _instructions(
            choice.role, choice.reasoning, choice.output, len(self.task.candidates)
        )


class Prompts(list[Prompt]):
    """The prompts of a batch of users, in words."""


def as_messages(text: str) -> tuple[dict[str, str], ...]:
    """`Prompt.messages` of a prompt's text, for those who have it already."""
    return ({"role": "user", "content": text},)


@lru_cache(maxsize=1 << 12)
def _listed(titles: tuple[str, ...], markers: tuple[str, ...]) -> str:
    if len(titles) > len(markers):
        return "\n".join(f"{i}. {title}" for i, title in enumerate(titles, 1))
    return "\n".join(map(add, markers, titles))


@lru_cache(maxsize=4096)
def _frame(sentences: tuple[str, ...], count: int) -> tuple[str, str, str, str]:
    """What stands around the two lists: all that does not depend on the user."""
    # Not str.format: a rewritten sentence may hold any braces.
    filled = (sentence.replace("{k}", str(count)) for sentence in sentences)
    role, history_lead, candidates_lead, reasoning, output, contract = filled
    head = f"{role}\n\n" if role else ""
    asked = "\n".join(filter(None, (output, contract)))
    tail = "".join(f"\n\n{paragraph}" for paragraph in (reasoning, asked) if paragraph)
    return head, f"{history_lead}\n", f"{candidates_lead}\n", tail


@lru_cache(maxsize=4096)
def _instructions(role: str, reasoning: str, output: str, count: int) -> str:
    said = " ".join(filter(None, (role, reasoning, output)))
    return said.replace("{k}", str(count))
