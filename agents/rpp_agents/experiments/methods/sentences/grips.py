"""GrIPS: the words of the manual prompt, edited phrase by phrase as long as the score rises.

After Prasad, Hase, Zhou and Bansal, "GrIPS: Gradient-free, Edit-based Instruction Search for
Prompting Large Language Models" (EACL 2023), and the code that they released. It finds one
instruction for everybody.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice, pairwise
from typing import NamedTuple

import numpy as np

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.sentences import asking, manual_cell
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Ledger, Problem
from rpp_env.errors import InvalidOption
from rpp_env.models.asking import ask
from rpp_env.models.base import Generation, LanguageModel, Request
from rpp_env.models.names import open_model
from rpp_env.sentences.prompt import Prompt, as_messages
from rpp_env.sim.paraphraser import Paraphraser

__all__ = ["Instruction", "Paraphrases", "Phrase", "grips", "phrases"]

QUESTION = (
    "Say the phrase below in other words that mean the same, and not as it was said before. Answer "
    "with the same label and the new phrase, on one line, and nothing else."
)
"""Instructions of the paraphrasing model; earlier phrasings and the phrase follow."""

_MOST_PARAPHRASES = 10
_MOST_DRAWS = 20
_MARKS = ".,;:!?"
_OPENERS = frozenset(
    "according after and as because before but by considering from if in into so that then to "
    "unless when where which while who with without".split()
)
_Places = list[tuple[int, int]]
"""Paragraphs and phrases in them."""
_Deleted = tuple[str, ...]
_SAID = re.compile(r"[\s*]*PHRASE[\s*]*:(.+)", re.IGNORECASE)


@dataclass(frozen=True)
class Instruction:
    """Three sentences for everybody: a `Rewrite`. Any of them may be empty."""

    role: str
    reasoning: str
    output: str

    def __call__(self, prompts: Sequence[Prompt]) -> list[Prompt]:
        """The prompts with these sentences."""
        said = self.role, self.reasoning, self.output
        return [replace(p, choice=p.choice.rewritten(*said)) for p in prompts]


def grips(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    score_users: int = 100,
    candidates: int = 5,
    edits: int = 1,
    patience: int = 2,
    paraphraser: str | LanguageModel = "embedded",
) -> Asking:
    """Search for a better instruction by edits of the manual prompt.

    An edit deletes a phrase, swaps two, puts one into other words, or brings a deleted one back.
    A round draws some edited instructions, and the best of them takes the place of the present one
    if its mean NDCG@10 on the score set is higher. The score set is drawn once. The defaults are
    those of the released code, whose ten rounds come to about 5,000 calls too. A budget of less
    than two score sets leaves the manual prompt as it is.

    What is not as in the original:

    - It adds the entropy of the predicted labels to the score. A ranking has no labels.
    - Phrases come from a few rules (`phrases`) instead of a constituency parser, and other words
      from `paraphraser` instead of PEGASUS. Asking that one is counted beside the budget.
    - What was scored before is drawn again, up to 20 times, instead of being paid for twice. It
      could not win: the present instruction is the best of all that were scored. Where all draws
      of a round are known, the search ends.

    Only text is edited, so the history stays at the manual prompt's items. The manual prompt has
    no role, and nothing is added that was not there; a role can arise only from what is brought
    back. The contract line stays too: without it, no reply could be read.

    Parameters
    ----------
    score_users : int
        Train users on whom instructions are scored.
    candidates : int
        Instructions a round.
    edits : int
        How many edits lead from the present instruction to a candidate.
    patience : int
        Rounds without a better one after which the search ends.
    paraphraser : str or LanguageModel
        ``"embedded"`` (rules), a model, or the name of one.

    Raises
    ------
    InvalidOption
        For a number below 1, or a model that is not there.
    """
    if min(score_users, candidates, edits, patience) < 1:
        raise InvalidOption(
            "score_users, candidates, edits and patience must be at least 1; got "
            f"{score_users}, {candidates}, {edits} and {patience}"
        )
    users, rng = problem.train, np.random.default_rng(seed)
    rows = rng.permutation(len(users))[:score_users]
    manual = manual_cell(users, "the method grips")
    cells = np.full(len(rows), manual)
    choice = users.prompts(rows[:1], cells[:1])[0].choice
    best = _Draft(tuple(map(phrases, (choice.role, choice.reasoning, choice.output))))
    editor = _Editor(rng, Paraphrases(paraphraser, seed, users.ledger))
    scores: dict[Instruction, float] = {}

    def score(draft: _Draft) -> float:
        asked = users.ask(rows, cells, rewrite=draft.instruction)
        scores[draft.instruction] = float(asked.rewards.mean())
        return scores[draft.instruction]

    def affordable() -> int:
        return budget // len(rows) - len(scores)

    if affordable() < 2:
        return asking(manual, best.instruction)
    highest, unchanged = score(best), 0
    while unchanged < patience and affordable():
        new: list[_Draft] = []
        for _ in range(min(candidates, affordable())):
            known = {*scores, *(draft.instruction for draft in new)}
            drafts = (editor.edited(best, edits) for _ in range(_MOST_DRAWS))
            new += islice((draft for draft in drafts if draft.instruction not in known), 1)
        if not new:
            break
        found = [score(draft) for draft in new]
        unchanged += 1
        if max(found) > highest:
            highest, unchanged = max(found), 0
            best = new[found.index(highest)]
        watch(len(scores) * len(rows), asking(manual, best.instruction))
    return asking(manual, best.instruction)


class Phrase(NamedTuple):
    """Words that are edited together, and the punctuation behind them."""

    words: str
    mark: str = ""


def phrases(text: str) -> tuple[Phrase, ...]:
    """The phrases of a text.

    Punctuation ends one. A word such as "by" or "that" begins one where two words or more lie on
    either side of the cut; "step by step" stays whole.
    """
    found: list[Phrase] = []
    words: list[str] = []
    for word in text.split():
        bare = word.rstrip(_MARKS)
        words += [bare] if bare else []
        if bare != word:
            found += _cut(words, word[len(bare) :])
            words = []
    return (*found, *_cut(words, ""))


def _cut(words: Sequence[str], mark: str) -> list[Phrase]:
    begins = [0]
    for i in range(2, len(words) - 1):
        opens = words[i].lower() in _OPENERS and words[i - 1] != words[i + 1]
        if opens and i - begins[-1] >= 2:
            begins.append(i)
    cut = [" ".join(words[i:j]) for i, j in pairwise([*begins, len(words)])]
    return [*map(Phrase, cut[:-1]), Phrase(cut[-1], mark)] if words else []


_Part = tuple[Phrase, ...]


@dataclass(frozen=True)
class _Draft:
    """An instruction in pieces. They stay apart, whatever text the edits make of them."""

    parts: tuple[_Part, ...]
    """Indices of role, reasoning and output."""
    deleted: tuple[str, ...] = ()
    """Phrases that can be restored."""

    @cached_property
    def instruction(self) -> Instruction:
        return Instruction(*(" ".join(words + mark for words, mark in p) for p in self.parts))


@dataclass(frozen=True)
class _Editor:
    rng: np.random.Generator
    paraphrases: Paraphrases

    def edited(self, draft: _Draft, times: int) -> _Draft:
        for _ in range(times):
            draft = self._edit(draft)
        return draft

    def _edit(self, draft: _Draft) -> _Draft:
        places = [(p, i) for p, part in enumerate(draft.parts) for i in range(len(part))]
        possible = [self._delete, self._paraphrase] if places else []
        possible += [self._swap] if len(places) > 1 else []
        possible += [self._add] if draft.deleted else []
        if not possible:
            return draft
        parts = list(draft.parts)
        deleted = possible[self._below(len(possible))](parts, places, draft.deleted)
        return _Draft(tuple(parts), deleted)

    def _delete(self, parts: list[_Part], places: _Places, deleted: _Deleted) -> _Deleted:
        p, i = places[self._below(len(places))]
        before, (words, mark), after = parts[p][:i], parts[p][i], parts[p][i + 1 :]
        if before and _ends(mark) and not _ends(before[-1].mark):
            before = (*before[:-1], before[-1]._replace(mark=mark))  # it ends one phrase earlier
        parts[p] = before + after
        return (*deleted, words)

    def _swap(self, parts: list[_Part], places: _Places, deleted: _Deleted) -> _Deleted:
        i, j = self.rng.choice(len(places), 2, replace=False).tolist()
        one, other = (parts[p][k].words for p, k in (places[i], places[j]))
        _say(parts, places[i], other)
        _say(parts, places[j], one)
        return deleted

    def _paraphrase(self, parts: list[_Part], places: _Places, deleted: _Deleted) -> _Deleted:
        p, i = place = places[self._below(len(places))]
        _say(parts, place, self.paraphrases.draw(parts[p][i].words, self.rng))
        return deleted

    def _add(self, parts: list[_Part], places: _Places, deleted: _Deleted) -> _Deleted:
        back = self._below(len(deleted))
        # Behind any phrase, or in front of a paragraph.
        places = [*places, *((p, -1) for p in range(len(parts)))]
        p, i = places[self._below(len(places))]
        before, after = parts[p][: i + 1], parts[p][i + 1 :]
        mark = before[-1].mark if before else ""
        before = (*before[:-1], before[-1]._replace(mark="")) if before else ()
        parts[p] = (*before, Phrase(deleted[back], mark), *after)
        return deleted[:back] + deleted[back + 1 :]

    def _below(self, count: int) -> int:
        return int(self.rng.integers(count))


def _ends(mark: str) -> bool:
    return mark.endswith((".", "!", "?"))


def _say(parts: list[_Part], place: tuple[int, int], words: str) -> None:
    p, i = place
    parts[p] = (*parts[p][:i], parts[p][i]._replace(words=words), *parts[p][i + 1 :])


class Paraphrases:
    """Other words for phrases: up to ten ways are asked for, then one of them is drawn."""

    def __init__(self, model: str | LanguageModel, seed: int, ledger: Ledger | None = None) -> None:
        if isinstance(model, str):
            model = Paraphraser() if model == "embedded" else open_model(model)
        self._model = model
        self._generation = Generation(temperature=1.0, max_tokens=60, seed=seed)
        self._said: dict[str, list[str]] = {}
        self._ledger = ledger or Ledger()

    def draw(self, phrase: str, rng: np.random.Generator) -> str:
        said = self._said.setdefault(phrase, [])
        if len(said) == _MOST_PARAPHRASES:
            return said[int(rng.integers(len(said)))]
        # The list makes each question another one, for models that always answer alike.
        before = "\n".join(f"{i}. {one}" for i, one in enumerate([phrase, *said], 1))
        self._ledger.proposals += 1
        text = f"{QUESTION}\n\nSaid before:\n{before}\n\nPHRASE: {phrase}"
        reply = ask(self._model, [Request(as_messages(text), self._generation)])[0]
        match = _SAID.search(reply.text)
        new = match[1].strip(f"*\"'`{_MARKS} ") if match else ""
        # What cannot be used is no error: the phrase stays.
        said.append(phrase if reply.finish_reason == "length" or not new else new)
        return said[-1]
