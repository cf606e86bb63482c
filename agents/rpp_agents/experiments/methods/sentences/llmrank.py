"""LLMRank's three prompts, the same for everybody but for the title that the user chose last.

After Hou et al., "Large Language Models are Zero-Shot Rankers for Recommender Systems" (ECIR 2024),
and the code that they released.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.sentences import (
    MANUAL,
    asking,
    cell_of,
    items,
    manual_cell,
    space_of,
)
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Problem
from rpp_env.errors import InvalidOption
from rpp_env.options import check_choice
from rpp_env.sentences.prompt import Prompt

__all__ = ["PROMPTS", "RANK", "Guidance", "llmrank"]

RANK = (
    "rank the {k} candidate {item}s by the likelihood that I will {choose} them next, according to "
    "my {history}. Think step by step."
)
"""Common part of the three methods."""

PROMPTS: dict[str, str] = {
    "sequential": "Please {rank}",
    "recency": "Please {rank} Note that the {item} that I {chose} most recently is {title}.",
    "examples": (
        "Had I asked you for another {item} before I {chose} the last one in my {history}, you "
        "should have recommended {title}. Now that I have {chose} {title}, please {rank}"
    ),
}
"""Text in place of the catalog's reasoning guidance."""

_BUY = {"choose": "buy", "chose": "bought", "history": "purchase history"}
_WORDS: dict[str, dict[str, str]] = {
    "movies": {
        "item": "film",
        "choose": "watch",
        "chose": "watched",
        "history": "viewing history",
    },
    "music": {
        "item": "artist",
        "choose": "listen to",
        "chose": "listened to",
        "history": "listening history",
    },
    "games": {"item": "game", **_BUY},
    "products": {"item": "product", **_BUY},
}
"""Wording of the domains' catalogs."""


@dataclass(frozen=True)
class Guidance:
    """Puts one of `PROMPTS` in the place of the reasoning sentence: a `Rewrite`."""

    prompt: str

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts with it."""
        return [replace(p, choice=p.choice.rewritten(reasoning=self.sentence(p))) for p in prompts]

    def sentence(self, prompt: Prompt) -> str:
        """The prompt's text for this user, in the words of the domain.

        One item has nothing before it, so it cannot be split into history and answer: to such a
        user, "examples" says what "recency" does.
        """
        task, name = prompt.task, self.prompt
        if name == "examples" and prompt.shown < 2:
            name = "recency"
        words = _WORDS[task.domain]
        rank = RANK.format(k=len(task.candidates), **words)
        return PROMPTS[name].format(rank=rank, title=task.history[-1], **words)


def llmrank(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    prompt: str = "sequential",
    shown: int = 20,
) -> Asking:
    """One of LLMRank's prompts: no call of training.

    They stand in our frame, whose lists, output sentence and contract are the manual prompt's. So
    "examples" differs from the original in that the list still holds the last item; it is told
    about, instead of being taken out.

    Parameters
    ----------
    prompt : {"sequential", "recency", "examples"}
        The history in order; also what was chosen most recently; or the user's own last choice as
        an example of a right answer.
    shown : int
        Items of the history, as many as some level shows. LLMRank shows up to 50, and 20 comes
        nearest. That is its setting, not its best one: its own figures have 5 ahead of 50.

    Raises
    ------
    InvalidOption
        For another prompt, a number that no level shows, or a domain whose words are not known.
    """
    users = problem.train
    domain = users.env.tasks.dataset.domain
    space = space_of(users.env, "the method llmrank")
    check_choice("llmrank's prompt", prompt, PROMPTS)
    check_choice("llmrank's domain", domain, _WORDS)
    if shown not in items(space):
        counts = ", ".join(map(str, items(space)))
        raise InvalidOption(f"llmrank shows {counts} items, not {shown!r}")
    manual_cell(users)  # is there, but for the items shown
    return asking(cell_of(space, **MANUAL | {"shown": shown}), Guidance(prompt))
