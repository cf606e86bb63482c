"""Ranking by likelihood: how probable each candidate's title is as a continuation of the prompt.

The prompt contains no list of candidates, so there is no position bias and nothing to parse. Titles
are tokenised together with the prompt; the text that ends a title is counted too. Four scores are
computed from the same numbers:

``sum``
    The title's log-probability. Favours short and frequent titles.
``mean``
    The same per token. Favours titles with predictable parts (series, numbers).
``pmi``
    The sum minus that under the same prompt without a history: the effect of the history, with
    popularity and fluency removed.
``pmi-alpha``
    The sum minus ``alpha`` times the log-probability without a history. `choose_alpha` chooses
    alpha on train users.

The score is an option of the environment, the same for all methods: no agent chooses it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidOption
from rpp_env.metrics import ndcg
from rpp_env.models.asking import Room, ask, estimated_tokens, release
from rpp_env.models.base import Generation, LanguageModel, Reply, Request
from rpp_env.options import check_choice
from rpp_env.prompting import Rankings
from rpp_env.sentences.leads import Lead
from rpp_env.task import Ranking, RankingTask

__all__ = [
    "ALPHAS",
    "Continued",
    "LikelihoodRecommender",
    "Likelihoods",
    "Score",
    "choose_alpha",
]

Floats = NDArray[np.float64]
Score = Literal["sum", "mean", "pmi", "pmi-alpha"]
"""Ways to compute a score from log-probabilities."""
ALPHAS = tuple(round(0.1 * i, 1) for i in range(16))
"""Values that `choose_alpha` tries: 0 (the sum) to 1.5."""
_ONE = Generation(max_tokens=1)


class Continued(Protocol):
    """A prompt that a title continues: a dataclass with the number of history items shown."""

    @property
    def task(self) -> RankingTask: ...
    @property
    def shown(self) -> int: ...
    def lead(self) -> Lead:
        """Return the prompt up to where a title follows."""
        ...


@dataclass(frozen=True)
class Likelihoods:
    """A model's log-probabilities of the candidates of B prompts."""

    sums: Floats
    """(B, K) log-probability of each title, in nats; at most 0."""
    tokens: NDArray[np.int64]
    """(B, K) number of tokens of each title, from 1."""
    stubs: Floats | None = None
    """(B, K) log-probability of each title under the same prompt without a history; None if it was
    not requested."""

    def scores(self, score: Score, alpha: float = 1.0) -> Floats:
        """(B, K) scores, higher is better."""
        if score == "sum":
            return self.sums
        if score == "mean":
            return self.sums / self.tokens
        assert self.stubs is not None, "pmi needs stubs"
        weight = 1.0 if score == "pmi" else alpha
        return self.sums - weight * self.stubs


class LikelihoodRecommender:
    """Ranks candidates by a language model's likelihood of their titles.

    All prompts of a call are one call of the model (and the prompts without history, for ``pmi``,
    another one; each title's is requested once and cached). A prompt that does not fit loses its
    oldest history items first; `Ranking.trimmed` is their number.

    Parameters
    ----------
    model : LanguageModel
        A model with the capability ``"likelihood"``.
    score : str
        ``"sum"``, ``"mean"``, ``"pmi"`` or ``"pmi-alpha"``; the module's docstring describes them.
    alpha : float, optional
        For ``"pmi-alpha"`` only: from 0 (the sum) to 1 (PMI), and beyond. `choose_alpha` chooses it
        on train users.

    Raises
    ------
    InvalidOption
        For another `score`, a missing or superfluous `alpha`, a model without likelihoods, a title
        without tokens, or a prompt that does not fit even with one history item.
    BrokenContract
        For replies that are not answers: `rpp_env.models.asking.flaw` lists what is checked.
    """

    reads_order = False

    def __init__(
        self, model: LanguageModel, score: Score = "sum", alpha: float | None = None
    ) -> None:
        check_choice("score", score, get_args(Score))
        if (score == "pmi-alpha") != (alpha is not None):
            raise InvalidOption(
                "score='pmi-alpha' needs alpha, a number that was chosen on train users "
                f"(rpp_env.recommenders.choose_alpha), and no other score does; got {score!r} and "
                f"alpha={alpha}"
            )
        if alpha is not None and not (np.isfinite(alpha) and alpha >= 0):
            raise InvalidOption(f"alpha must be finite and at least 0, not {alpha}")
        if "likelihood" not in model.capabilities:
            raise InvalidOption(
                "rank_by='likelihood' needs the log-probabilities of given texts, which model "
                f"{model.id!r} does not provide: load one in this process ('smollm2', 'hf:ID', "
                "'vllm:ID'), or rank in another way, such as rank_by='generate' under RPP-v0"
            )
        self.model = model
        self.score: Score = score
        self.alpha = alpha
        weight = "" if alpha is None else f" {alpha:g}"
        self.rank_by = f"likelihood ({score}{weight})"
        """Name of the ranking method, saved in tables."""
        self.trimmed = 0
        """History items left out so far because a prompt would not fit."""
        self._stubs: dict[tuple[Lead, str], float] = {}
        self._lengths: dict[str, int] = {}

    def rank(self, prompts: Sequence[Continued]) -> Rankings:
        """Rank the candidates of every prompt."""
        if not prompts:
            return Rankings.of(())
        found, replies, fitted = self._ask(prompts, self.score.startswith("pmi"))
        # A stable sort: ties stay in the order of the task's candidates.
        orders = np.argsort(-found.scores(self.score, self.alpha or 0.0), axis=1, kind="stable")
        return Rankings.of(
            Ranking(
                order=tuple(order),
                named=len(order),
                text=prompt.task.candidates[order[0]],
                prompt_tokens=reply.prompt_tokens,
                completion_tokens=reply.completion_tokens,
                trimmed=prompt.shown - shown,
            )
            for order, prompt, reply, shown in zip(
                orders.tolist(), prompts, replies, fitted, strict=True
            )
        )

    def likelihoods(self, prompts: Sequence[Continued], stubs: bool = True) -> Likelihoods:
        """Return the model's log-probabilities for every prompt, from which scores are computed.

        Parameters
        ----------
        prompts : sequence
            At least one prompt; all with the same number of candidates.
        stubs : bool
            Whether to request the titles' log-probabilities without a history, too.
        """
        return self._ask(prompts, stubs)[0]

    def release(self) -> None:
        """Close the model's files and connections; the next call opens them again."""
        release(self.model)

    def _ask(
        self, prompts: Sequence[Continued], stubs: bool
    ) -> tuple[Likelihoods, list[Reply], list[int]]:
        """Return log-probabilities, replies, and the number of history items in each prompt."""
        self._measure(prompts)
        shown, leads = map(list, zip(*map(self._fit, prompts), strict=True))
        replies: dict[int, Reply] = {}
        while todo := [i for i in range(len(prompts)) if i not in replies]:
            requests = [_request(leads[i], prompts[i].task.candidates) for i in todo]
            for i, reply in zip(todo, ask(self.model, requests), strict=True):
                if reply.finish_reason != "too_long":
                    replies[i] = reply
                    continue
                # By how much is unknown: a third of the history goes, as for other ways to rank.
                if shown[i] <= 1:
                    raise self._too_long(prompts[i])
                shown[i] = max(1, 2 * shown[i] // 3)
                leads[i] = _showing(prompts[i], shown[i])
        given = [replies[i] for i in range(len(prompts))]
        self.trimmed += sum(p.shown for p in prompts) - sum(shown)
        found = Likelihoods(
            np.array([reply.choice_logprobs for reply in given], np.float64),
            np.array([reply.choice_tokens for reply in given], np.int64),
            self._without_history(prompts) if stubs else None,
        )
        return found, given, shown

    def _without_history(self, prompts: Sequence[Continued]) -> Floats:
        leads = [_showing(prompt, 0) for prompt in prompts]
        wanted = {
            (lead, title): None
            for lead, prompt in zip(leads, prompts, strict=True)
            for title in prompt.task.candidates
            if (lead, title) not in self._stubs
        }
        # Title by title, so that a recording serves any other set of candidates.
        requests = [_request(lead, (title,)) for lead, title in wanted]
        for key, reply in zip(wanted, ask(self.model, requests), strict=True):
            assert reply.choice_logprobs is not None
            self._stubs[key] = reply.choice_logprobs[0]
        return np.array(
            [
                [self._stubs[lead, title] for title in prompt.task.candidates]
                for lead, prompt in zip(leads, prompts, strict=True)
            ]
        )

    # What fits

    def _measure(self, prompts: Sequence[Continued]) -> None:
        """Count the tokens of new titles."""
        count = getattr(self.model, "count_tokens", None) or estimated_tokens
        for title in {title for prompt in prompts for title in prompt.task.candidates}:
            if title in self._lengths:
                continue
            self._lengths[title] = count(title)
            if not self._lengths[title]:
                raise InvalidOption(
                    f"the title {title!r} has no token of {self.model.id!r}, and therefore no "
                    "likelihood: correct it in the dataset, or use rank_by='logprobs'"
                )

    def _fit(self, prompt: Continued) -> tuple[int, Lead]:
        """Return how many history items of a prompt fit, and the prompt with these."""
        longest = max(self._lengths[title] for title in prompt.task.candidates)
        # Besides the title: the text around it.
        room = Room(self.model, Generation(max_tokens=longest + 8))
        for shown in range(prompt.shown, -1, -1):
            lead = _showing(prompt, shown)
            if (shown or not prompt.shown) and room.holds(lead.text + lead.begun):
                return shown, lead
        raise self._too_long(prompt)

    def _too_long(self, prompt: Continued) -> InvalidOption:
        return InvalidOption(
            f"the prompt of user {prompt.task.user!r} and the longest title do not fit into the "
            f"{self.model.context_length} tokens of {self.model.id!r}, even with one history item: "
            "use a model with a longer context"
        )


def choose_alpha(
    recommender: LikelihoodRecommender,
    prompts: Sequence[Continued],
    alphas: Sequence[float] = ALPHAS,
) -> float:
    """Choose the weight of the likelihood without history that gives the highest NDCG@10.

    Parameters
    ----------
    recommender : LikelihoodRecommender
        A recommender with any score.
    prompts : sequence
        Prompts of train users; their targets are used.
    alphas : sequence of float
        Values to try; of equally good ones the first is taken.

    Returns
    -------
    float
        The `alpha` of ``LikelihoodRecommender(model, "pmi-alpha", alpha)``.
    """
    found = recommender.likelihoods(prompts)
    targets = np.array([prompt.task.position for prompt in prompts])
    return max(alphas, key=lambda alpha: _paid(found.scores("pmi-alpha", alpha), targets).mean())


def _paid(scores: Floats, targets: NDArray[np.int64]) -> Floats:
    """(B,) NDCG@10 of each prompt's target."""
    orders = np.argsort(-scores, axis=1, kind="stable")
    return np.asarray(ndcg((orders == targets[:, None]).argmax(axis=1) + 1))


def _request(lead: Lead, titles: tuple[str, ...]) -> Request:
    return Request(lead.messages, _ONE, continuations=lead.continuations(titles))


def _showing(prompt: Continued, shown: int) -> Lead:
    if shown == prompt.shown:
        return prompt.lead()
    shorter: Any = replace(prompt, shown=shown)  # type: ignore[type-var]
    lead: Lead = shorter.lead()
    return lead
