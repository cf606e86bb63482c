"""CAPO, EvoPrompt and OPRO: instructions that a language model writes from others and their scores.

Zehle et al. 2025, "CAPO: Cost-Aware Prompt Optimization"; Guo et al. 2024, "Connecting Large
Language Models with Evolutionary Algorithms Yields Powerful Prompt Optimizers"; Yang et al. 2024,
"Large Language Models as Optimizers": all by promptolution, the library of CAPO's authors (the
extra ``promptolution``; Python below 3.13). Each finds one instruction for everybody.

An instruction is one text in the place of the reasoning sentence. A first population is the manual
prompt and others of the catalog: a role, a reasoning sentence, and the manual prompt's output
sentence. As under `grips`, the history stays at the manual prompt's items, and the contract line
stays. Questions are counted as for any method, calls of the proposer beside them. Questions that
the budget does not cover end a search, with the best instruction of its last full round.
"""

from __future__ import annotations

import random
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product, zip_longest
from types import SimpleNamespace
from typing import Any, Literal

import numpy as np

from rpp_agents.experiments.methods import Watch
from rpp_agents.experiments.methods.sentences import asking, manual_cell
from rpp_agents.experiments.methods.sentences.grips import Instruction, Paraphrases
from rpp_agents.experiments.players import Asking
from rpp_agents.experiments.problem import Ledger, Problem, Users
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.models.asking import ask
from rpp_env.models.base import Generation, LanguageModel, Request
from rpp_env.models.names import open_model
from rpp_env.options import check_choice
from rpp_env.sentences.prompt import as_messages

__all__ = ["capo", "evoprompt", "opro"]

TASK = (
    "A language model is shown what a user chose so far and a numbered list of {k} candidates. The "
    "prompt tells it to rank the candidates, so that what the user chooses next comes first. The "
    "same prompt is used for every user, and {k} in it stands for the number of candidates."
)
"""Description of the task, for models that propose."""
_LONGEST = 512
_IDLE = 5
"""Rounds without a new question after which a search ends: its proposer repeats itself."""
_AND = "\x1f"
"""Between the texts that rules, instead of a model, make a new one of."""
_SCORED = re.compile(r"text:\n(.*?)\nscore:", re.DOTALL)
_EXAMPLES = "Here are some examples of the target dataset:\n<examples>\n\n"


def capo(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    proposer: str | LanguageModel = "embedded",
    score_users: int = 120,
    population: int = 10,
    block: int = 30,
    crossovers: int = 4,
) -> Asking:
    """Search for a better instruction by CAPO: evolution with races and a penalty for length.

    A round writes instructions from pairs of the population, puts each into other words, and races
    old and new ones over blocks of the score set: what is significantly worse than as many others
    as the population has is asked no further.

    Prompts hold no examples of answers (the original's few shots), which would show train users to
    the recommender.

    Parameters
    ----------
    proposer : str or LanguageModel
        Who writes. ``"embedded"``: rules, which take each sentence from one of the texts and put
        the whole into other words by the paraphraser. A model, or the name of one, answers the
        library's own prompts, which show it texts.
    score_users : int
        Train users on whom instructions are scored.
    population : int
        Instructions that are kept.
    block : int
        Score users that are asked between two tests of a race.
    crossovers : int
        New instructions a round.

    Raises
    ------
    InvalidOption
        For a number that is too small, a model that is not there, and prompts of anything but
        sentences.
    MissingExtra
        Without the library.
    """
    _at_least(1, block=block, crossovers=crossovers)
    search = _Search(problem, seed, budget, watch, proposer, score_users)
    return search.run(
        "CAPO",
        {"crossover_template": f"<mother>{_AND}<father>", "mutation_template": "<instruction>"},
        population=population,
        fewest=2,
        block=block,
        crossovers_per_iter=crossovers,
        upper_shots=0,
        df_few_shots=(),
    )


def evoprompt(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    proposer: str | LanguageModel = "embedded",
    score_users: int = 100,
    population: int = 10,
    variant: Literal["ga", "de"] = "ga",
) -> Asking:
    """Search for a better instruction by EvoPrompt: a genetic algorithm or differential evolution.

    A round writes as many instructions as the population has, from two of it (``"ga"``) or four
    (``"de"``), and scores them; the best remain.

    Parameters
    ----------
    proposer, score_users, population
        As of `capo`.
    variant : {"ga", "de"}

    Raises
    ------
    InvalidOption, MissingExtra
        As `capo`.
    """
    check_choice("evoprompt's variant", variant, ("ga", "de"))
    texts = [f"<prompt{i}>" for i in ((1, 2) if variant == "ga" else range(4))]
    search = _Search(problem, seed, budget, watch, proposer, score_users)
    return search.run(
        f"EvoPrompt{variant.upper()}",
        {"prompt_template": _AND.join(texts)},
        population=population,
        fewest=len(texts),
    )


def opro(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    proposer: str | LanguageModel = "embedded",
    score_users: int = 100,
    proposals: int = 8,
    remembered: int = 20,
) -> Asking:
    """Search for a better instruction by OPRO, from the manual prompt.

    A round asks the proposer several times for a better instruction than those that it is shown
    with their mean scores; it is shown no users, unlike the original. Rules as the proposer mix the
    two best ones.

    Parameters
    ----------
    proposer, score_users
        As of `capo`.
    proposals : int
        New instructions a round.
    remembered : int
        How many of the best instructions the proposer is shown.

    Raises
    ------
    InvalidOption, MissingExtra
        As `capo`.
    """
    _at_least(1, proposals=proposals, remembered=remembered)
    search = _Search(problem, seed, budget, watch, proposer, score_users)
    return search.run(
        "OPRO",
        {"prompt_template": "<instructions>"},
        population=1,
        fewest=1,
        num_instructions_per_step=proposals,
        max_num_instructions=remembered,
        num_few_shots=0,
    )


def _at_least(lowest: int, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < lowest:
            raise InvalidOption(f"{name} must be at least {lowest}; got {number}")


@dataclass(frozen=True)
class _Search:
    """What the three methods have in common."""

    problem: Problem
    seed: int
    budget: int
    watch: Watch
    proposer: str | LanguageModel
    score_users: int

    def run(
        self,
        kind: str,
        by_rules: Mapping[str, str],
        *,
        population: int,
        fewest: int,
        block: int = 0,
        **options: Any,
    ) -> Asking:
        """Run one of the library's optimisers.

        Parameters
        ----------
        kind : str
            Its class.
        by_rules : mapping
            Its templates where rules propose: the texts alone.
        population : int
            Instructions at the beginning.
        fewest : int
            Different instructions that a round is made of.
        block : int
            Score users of a block; 0: all are asked at once.
        **options
            Of the optimiser.
        """
        _at_least(1, score_users=self.score_users)
        _at_least(fewest, population=population)
        users, rng = self.problem.train, np.random.default_rng(self.seed)
        manual = manual_cell(users, f"promptolution's {kind}")
        try:
            import pandas as pd
            from promptolution import optimizers
            from promptolution.tasks.reward_tasks import RewardTask
            from promptolution.utils.templates import OPRO_TEMPLATE_TD
        except ImportError as error:
            raise MissingExtra("promptolution", "promptolution") from error
        rows = rng.permutation(len(users))[: self.score_users]
        choice = users.prompts(rows[:1], np.array([manual]))[0].choice
        first = Instruction(choice.role, choice.reasoning, choice.output)
        task = RewardTask(
            pd.DataFrame({"user": rows}),
            float,  # what `_Scores` predicts
            x_column="user",
            task_description=TASK,
            n_subsamples=min(block or len(rows), len(rows)),
            eval_strategy="sequential_block" if block else "full",
        )
        if block:
            options["max_n_blocks_eval"] = task.n_blocks
        writer: _Rules | _Model
        if self.proposer == "embedded":
            writer = _Rules(self.seed, users.ledger)
            options |= by_rules
        else:
            writer = _Model(self.proposer, self.seed, users.ledger)
            if kind == "OPRO":
                options["prompt_template"] = OPRO_TEMPLATE_TD.replace(_EXAMPLES, "")
        search = getattr(optimizers, kind)(
            _Scores(users, manual, self.budget),
            task,
            writer,
            initial_prompts=_begun(users, first, population, rng),
            **options,
        )

        def player() -> Asking:
            if not len(search.scores):  # nothing was asked
                return asking(manual, first)
            best = search.prompts[int(np.argmax(search.scores))]
            return asking(manual, _instruction(str(best)))

        idle = 0
        with _seeded(self.seed), warnings.catch_warnings():
            # CAPO's tests compare scores that may be equal.
            warnings.simplefilter("ignore", RuntimeWarning)
            try:
                # Not its `optimize`, which logs errors, of models too, and goes on without.
                search._pre_optimization_loop()  # noqa: SLF001
                while idle < _IDLE and len(set(search.prompts)) >= fewest:
                    before = users.ledger.calls
                    search.prompts = search._step()  # noqa: SLF001
                    self.watch(users.ledger.calls, player())
                    idle = 0 if users.ledger.calls > before else idle + 1
            except _Spent:
                pass
        return player()


def _begun(users: Users, first: Instruction, count: int, rng: np.random.Generator) -> list[str]:
    """Return the manual prompt, and others of the catalog."""
    book = users.env.book
    assert book is not None  # or there would be no manual prompt
    texts = (
        _text(*one, first.output) for one in product(book.role_playing, book.reasoning_guidance)
    )
    manual = _text(*vars(first).values())
    others = [text for text in texts if text != manual]
    return [manual, *rng.permutation(others)[: count - 1].tolist()]


def _text(*sentences: str) -> str:
    return " ".join(filter(None, sentences))


def _instruction(text: str) -> Instruction:
    return Instruction("", text, "")


class _Spent(Exception):
    """The budget does not cover the next questions."""


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the generators from which the library draws, and restore them."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


class _Scores:
    """The library's predictor: it predicts NDCG@10 of a prompt for a user, by asking."""

    extraction_description = ""
    llm = SimpleNamespace(tokenizer=SimpleNamespace(encode=str.split))  # counts words
    """Counts a prompt's words, for CAPO's penalty."""

    def __init__(self, users: Users, cell: int, budget: int) -> None:
        self._users, self._cell, self._budget = users, cell, budget

    def predict(
        self,
        prompts: Sequence[str],
        xs: Sequence[str],
        system_prompts: Any = None,  # noqa: ARG002 - the library calls it with these
    ) -> tuple[list[float], list[str]]:
        asked: dict[str, dict[int, float]] = {}
        for text, x in zip(prompts, xs, strict=True):
            asked.setdefault(text, {})[int(x)] = 0.0
        if self._users.ledger.calls + sum(map(len, asked.values())) > self._budget:
            raise _Spent
        for text, scores in asked.items():
            rows = np.array([*scores])
            cells = np.full(len(rows), self._cell)
            found = self._users.ask(rows, cells, rewrite=_instruction(text))
            scores.update(zip(rows.tolist(), found.rewards.tolist(), strict=True))
        return [asked[text][int(x)] for text, x in zip(prompts, xs, strict=True)], [""] * len(xs)


class _Rules:
    """Writes without a model: each sentence from one of the texts, then all in other words."""

    def __init__(self, seed: int, ledger: Ledger) -> None:
        self._rng = np.random.default_rng(seed)
        self._words = Paraphrases("embedded", seed, ledger)

    def set_generation_seed(self, seed: int) -> None:
        """Do nothing: it has its own."""

    def get_response(self, prompts: Sequence[str]) -> list[str]:
        return [self._written(_SCORED.findall(text)[-2:] or text.split(_AND)) for text in prompts]

    def _written(self, texts: Sequence[str]) -> str:
        sentences = zip_longest(*(re.split(r"(?<=[.!?]) ", text) for text in texts), fillvalue="")
        drawn = (one[int(self._rng.integers(len(one)))] for one in sentences)
        return f"{self._words.draw(_text(*drawn), self._rng)}."


class _Model:
    """Asks a language model."""

    def __init__(self, model: str | LanguageModel, seed: int, ledger: Ledger) -> None:
        self._model = open_model(model) if isinstance(model, str) else model
        self._rng, self._ledger = np.random.default_rng(seed), ledger

    def set_generation_seed(self, seed: int) -> None:
        """Do nothing: every request has a seed of its own."""

    def get_response(self, prompts: Sequence[str]) -> list[str]:
        seeds = self._rng.integers(2**31, size=len(prompts)).tolist()
        requests = [
            Request(as_messages(text), Generation(temperature=1.0, max_tokens=_LONGEST, seed=seed))
            for text, seed in zip(prompts, seeds, strict=True)
        ]
        self._ledger.proposals += len(requests)
        return [reply.text for reply in ask(self._model, requests)]
