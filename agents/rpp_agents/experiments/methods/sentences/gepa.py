"""GEPA: the words of the manual prompt, put into other words by a language model that sees scores.

Agrawal et al. 2025, "GEPA: Reflective Prompt Evolution Can Outperform Reinforcement Learning", by
its authors' library (the extra ``optimizers``). It finds one instruction for everybody.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

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
from rpp_env.sentences.prompt import as_messages

__all__ = ["gepa"]

Texts = dict[str, str]
"""The sentences, by their names in `Instruction`."""

_LONGEST = 512


def gepa(
    problem: Problem,
    *,
    seed: int,
    budget: int,
    watch: Watch,
    proposer: str | LanguageModel = "embedded",
    score_users: int = 100,
    minibatch: int = 10,
) -> Asking:
    """Search for a better instruction by GEPA, from the manual prompt.

    A round puts one sentence of a candidate into other words, compares both on a few train users,
    and scores what is better there on the score set. Candidates are drawn from the Pareto front
    over the users of the score set, as in the library's defaults. What is asked is counted as for
    any method, and calls of the proposer beside it. A round begins only if the budget is enough for
    all of it; a budget below one score set leaves the manual prompt as it is.

    As under `grips`, only text is edited: the history stays at the manual prompt's items, no role
    is added, and the contract line stays.

    Parameters
    ----------
    proposer : str or LanguageModel
        Who finds other words. ``"embedded"``: the paraphraser, by rules, which reads no scores. A
        model, or the name of one, answers GEPA's own reflection prompt, which shows it NDCG@10 of
        the users of the minibatch, and nothing of what they were shown or chose.
    score_users : int
        Train users of the score set.
    minibatch : int
        Train users on whom a new candidate is compared with the one it comes from.

    Raises
    ------
    InvalidOption
        For a number below 1, a model that is not there, and prompts of anything but sentences.
    MissingExtra
        Without the library.
    """
    if min(score_users, minibatch) < 1:
        raise InvalidOption(
            f"score_users and minibatch must be at least 1; got {score_users} and {minibatch}"
        )
    users, rng = problem.train, np.random.default_rng(seed)
    manual = manual_cell(users, "the method gepa")
    try:
        from gepa import optimize
    except ImportError as error:
        raise MissingExtra("gepa", "optimizers") from error
    rows = rng.permutation(len(users)).tolist()
    scored = rows[:score_users]
    choice = users.prompts(np.array(rows[:1]), np.array([manual]))[0].choice
    first = Instruction(choice.role, choice.reasoning, choice.output)
    # An empty sentence has no other words.
    begun = {name: text for name, text in vars(first).items() if text}
    if budget < len(scored):
        return asking(manual, first)

    def player(texts: Mapping[str, str]) -> Asking:
        return asking(manual, _instruction(texts))

    def spent(state: Any) -> bool:
        """Whether the budget is too small for another round."""
        scores = state.program_full_scores_val_set
        watch(users.ledger.calls, player(state.program_candidates[int(np.argmax(scores))]))
        return users.ledger.calls + 2 * minibatch + len(scored) > budget

    if proposer == "embedded":
        words = Paraphrases(proposer, seed, users.ledger)

        def propose(candidate: Texts, _: Any, names: Sequence[str]) -> Texts:
            return {name: words.draw(candidate[name], rng) for name in names}

        by: dict[str, Any] = {"custom_candidate_proposer": propose}
    else:
        by = {"reflection_lm": _reflecting(proposer, seed, users.ledger)}
    found = optimize(
        begun,
        rows,
        scored,
        adapter=_Scored(users, manual),
        reflection_minibatch_size=minibatch,
        stop_callbacks=spent,
        logger=_Silent(),
        seed=seed,
        **by,
    )
    return player(found.best_candidate)


def _instruction(texts: Mapping[str, str]) -> Instruction:
    return Instruction(*(texts.get(name, "") for name in ("role", "reasoning", "output")))


def _reflecting(proposer: str | LanguageModel, seed: int, ledger: Ledger) -> Any:
    """Return the model as GEPA calls it: from a prompt to a text."""
    model = open_model(proposer) if isinstance(proposer, str) else proposer
    generation = Generation(temperature=1.0, max_tokens=_LONGEST, seed=seed)

    def reflect(prompt: str) -> str:
        ledger.proposals += 1
        return ask(model, [Request(as_messages(prompt), generation)])[0].text

    return reflect


class _Scored:
    """GEPA's adapter: users are its examples, and NDCG@10 their score."""

    propose_new_texts = None

    def __init__(self, users: Users, cell: int) -> None:
        self._users, self._cell = users, cell

    def evaluate(self, batch: list[int], candidate: Texts, capture_traces: bool = False) -> Any:  # noqa: ARG002
        from gepa.core.adapter import EvaluationBatch

        rows = np.array(batch, np.int64)
        cells = np.full(len(rows), self._cell)
        asked = self._users.ask(rows, cells, rewrite=_instruction(candidate))
        scores = asked.rewards.tolist()
        return EvaluationBatch(outputs=scores, scores=scores, trajectories=scores)

    def make_reflective_dataset(
        self,
        candidate: Texts,  # noqa: ARG002 - gepa calls it with these
        found: Any,
        names: Sequence[str],
    ) -> dict[str, list[dict[str, str]]]:
        rows = [{"Feedback": f"NDCG@10 of the list: {score:.3f}"} for score in found.scores]
        return dict.fromkeys(names, rows)


class _Silent:
    """GEPA prints every round otherwise."""

    def log(self, message: str) -> None:
        """Do nothing."""
