"""`Prompt`: a task and a choice of sentences, as the text that the model reads.

The text has five paragraphs separated by blank lines, in the paper's order: role, history,
candidates, reasoning, output. An empty paragraph (no role, no history) is left out. The lists hold
titles alone, numbered from 1; the most recent item of the history is the last. `docs/prompts.md`
shows an example.

A ranking can also be read from the probabilities of single tokens. Then the candidates have letters
instead of numbers, and one line replaces the output's contract (`Prompt.lettered`); the four
agents' sentences stay as they are.
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
"""Letters that name the candidates; each is one token in every tokeniser."""
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
"""For each of `rpp_env.sentences.FORMATS`: how an answer begins, and the text before and after a
title in it."""
_NUMBERS = tuple(f"{i}. " for i in range(1, 1001))
_LETTERS = tuple(f"{letter}. " for letter in LETTERS)


@dataclass(frozen=True, slots=True)
class Prompt:
    """One question to a recommender.

    Attributes
    ----------
    task : RankingTask
        The task, with history and candidates.
    choice : Choice
        The sentences.
    shown : int
        Number of most recent history items that are shown, 0 to ``len(task.history)``.
    fallbacks : int
        Number of sentences kept because their rewrites (RPP+) could not be used. Not compared.

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
        """The whole prompt; built at each call."""
        return self._text(self.choice.contract, _NUMBERS)

    def lettered(self, whole: bool = False, candidates: bool = True) -> str:
        """Return the prompt that asks for letters of `LETTERS` instead of titles.

        Parameters
        ----------
        whole : bool
            Whether to ask for all candidates, one letter per line, or only for the best one.
        candidates : bool
            Whether the candidates are shown. Without them the answer shows the model's preference
            for letters alone.

        Raises
        ------
        InvalidOption
            If there are more candidates than letters.
        """
        if len(self.task.candidates) > len(LETTERS):
            raise InvalidOption(
                f"user {self.task.user!r} has {len(self.task.candidates)} candidates, and there "
                f"are {len(LETTERS)} letters to name them: take fewer, or rank_by='generate'"
            )
        return self._text(_EACH if whole else _FIRST, _LETTERS if candidates else ())

    def lead(self) -> Lead:
        """Return the prompt without candidates, up to where a title follows; for likelihoods.

        The sentences and the history stay. The output format determines how the answer begins:
        "1." for a numbered list, "[" for JSON.
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
        if self.shown:  # with 0, the slice [-0:] would be the whole history
            head += history_lead + _listed(task.history[-self.shown :], _NUMBERS) + "\n\n"
        if not markers:
            return head.rstrip("\n") + tail
        return head + candidates_lead + _listed(candidates, markers) + tail

    @property
    def messages(self) -> tuple[dict[str, str], ...]:
        """The prompt as one user message, for chat servers."""
        return as_messages(self.text)

    @property
    def instructions(self) -> str:
        """The role, reasoning and output sentences alone: encoded for the observation."""
        choice = self.choice
        return _instructions(
            choice.role, choice.reasoning, choice.output, len(self.task.candidates)
        )


class Prompts(list[Prompt]):
    """The sentence prompts of a batch of users."""


def as_messages(text: str) -> tuple[dict[str, str], ...]:
    """Return `Prompt.messages` for a text that is known already."""
    return ({"role": "user", "content": text},)


@lru_cache(maxsize=1 << 12)
def _listed(titles: tuple[str, ...], markers: tuple[str, ...]) -> str:
    if len(titles) > len(markers):
        return "\n".join(f"{i}. {title}" for i, title in enumerate(titles, 1))
    return "\n".join(map(add, markers, titles))


@lru_cache(maxsize=4096)
def _frame(sentences: tuple[str, ...], count: int) -> tuple[str, str, str, str]:
    """Return the text around the two lists, which does not depend on the user."""
    # Not str.format: a rewritten sentence may contain braces.
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
