"""Sentences and prompts as a report's page shows them."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.methods.sentences import items
from rpp_env.rules import Rules
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences.prompt import Prompt
from rpp_env.sentences.space import SentencePrompts

__all__ = ["cells_of_before", "options", "paragraphs"]


def options(rules: Rules, book: str, candidates: int) -> dict[str, list[str]]:
    """The options of each agent, in words.

    Parameters
    ----------
    rules : Rules
    book : str
        As `SentenceCatalog.load` takes it.
    candidates : int
        How many of them the sentences speak of.
    """
    loaded = SentenceCatalog.load(book, history=tuple(map(str, rules.history_options)))

    def said(text: str) -> str:
        return text.replace("{k}", str(candidates))

    return {
        "role_playing": [said(text) or "(no role)" for text in loaded.role_playing],
        "history_records": [f"{n} item{'s' if n > 1 else ''}" for n in rules.lengths.shown()],
        "reasoning_guidance": [said(text) for text in loaded.reasoning_guidance],
        "output_format": [said(f"{o.text} {o.contract}") for o in loaded.output_format],
    }


def paragraphs(prompt: Prompt) -> list[dict[str, str]]:
    """A prompt's text, cut where its parts meet."""
    choice, count = prompt.choice, str(len(prompt.task.candidates))
    told = {
        "role_playing": choice.role,
        "reasoning_guidance": choice.reasoning,
        "output_format": choice.output,
        "contract": choice.contract,
    }
    filled = {text.replace("{k}", count): part for part, text in told.items() if text}
    found = []
    lists = iter(("history_records", "candidates") if prompt.shown else ("candidates",))
    for paragraph in prompt.text.split("\n\n"):
        lines = paragraph.split("\n")
        if paragraph in filled:
            found.append({"part": filled[paragraph], "text": paragraph})
        elif all(line in filled for line in lines):
            found += [{"part": filled[line], "text": line} for line in lines]
        else:
            found.append({"part": next(lists), "text": paragraph})
    return found


def cells_of_before(prompts: Any, space: SentencePrompts) -> NDArray[np.int64] | None:
    """Cells of prompts as earlier versions kept them; None for what this book does not have.

    Parameters
    ----------
    prompts : (users, calls, 4) numbers
        Role, history items shown, reasoning, output.
    space : SentencePrompts
    """
    role, shown, reasoning, output = np.moveaxis(np.asarray(prompts, np.int64), -1, 0)
    numbers = np.array(items(space))
    # A history shorter than its level's items is the level that it fills.
    level = np.searchsorted(np.maximum.accumulate(numbers), shown)
    where = (level, role, reasoning, output)
    for one, size in zip(where, space.shape, strict=True):
        if ((one < 0) | (one >= size)).any():
            return None
    return np.asarray(np.ravel_multi_index(where, space.shape), np.int64)
