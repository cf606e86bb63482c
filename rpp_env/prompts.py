"""Prompt: one task and one choice of sentences, as the text that the model reads.

Five paragraphs with a blank line between them, in the paper's order: role, history, candidates,
reasoning, output. A paragraph that is empty (no role, no history) is left out. The lists hold
titles alone, numbered from 1; the most recent item of the history is the last. `docs/prompts.md`
shows a whole one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from operator import add

from rpp_env.errors import InvalidOption
from rpp_env.patterns import Choice
from rpp_env.task import RankingTask

__all__ = ["Prompt", "as_messages"]

_MARKERS = tuple(f"{i}. " for i in range(1, 1001))


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

    Raises
    ------
    InvalidOption
        Where `shown` lies outside that range.
    """

    task: RankingTask
    choice: Choice
    shown: int

    def __post_init__(self) -> None:
        if not 0 <= self.shown <= len(self.task.history):
            raise InvalidOption(
                f"shown must lie in 0..{len(self.task.history)}, the length of the history of "
                f"user {self.task.user!r}; got {self.shown}"
            )

    @property
    def text(self) -> str:
        """The whole prompt; made anew at each call."""
        task, choice = self.task, self.choice
        candidates = task.candidates
        sentences = (
            choice.role,
            choice.history_lead,
            choice.candidates_lead,
            choice.reasoning,
            choice.output,
            choice.contract,
        )
        head, history_lead, candidates_lead, tail = _frame(sentences, len(candidates))
        if self.shown:  # where it is 0, a slice from -0 would be the whole history
            head += history_lead + _listed(task.history[-self.shown :]) + "\n\n"
        return head + candidates_lead + _listed(candidates) + tail

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


def as_messages(text: str) -> tuple[dict[str, str], ...]:
    """`Prompt.messages` of a prompt's text, for those who have it already."""
    return ({"role": "user", "content": text},)


@lru_cache(maxsize=1 << 12)
def _listed(titles: tuple[str, ...]) -> str:
    if len(titles) > len(_MARKERS):
        return "\n".join(f"{i}. {title}" for i, title in enumerate(titles, 1))
    return "\n".join(map(add, _MARKERS, titles))


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
