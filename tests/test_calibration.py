"""Calibration of letters, for a model that prefers some of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

import rpp_env
from rpp_env.errors import InvalidOption
from rpp_env.models import Reply, Request
from rpp_env.recommenders import LLMRecommender
from rpp_env.recommenders.llm import ORDERS
from rpp_env.sentences.prompt import LETTERS
from rpp_env.testing import example_prompts


class Biased:
    """Knows how good each title is (the longer, the better), and likes early letters far more."""

    id = "biased"
    context_length = 100_000
    capabilities = frozenset({"choices", "deterministic"})

    def __init__(self, bias: float = 3.0) -> None:
        self.bias = bias
        self.asked = 0

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        replies = []
        self.asked += len(requests)
        for request in requests:
            text = request.messages[0]["content"]
            shown = dict(line.split(". ", 1) for line in text.splitlines() if line[1:3] == ". ")
            choices = request.choices or ()
            worth = np.array([len(shown.get(letter, "")) for letter in choices], float)
            scores = 0.1 * worth - self.bias * np.arange(len(choices)) - 100
            replies.append(Reply.choosing(choices, scores.tolist(), len(text)))
        return replies


def test_calibration_recovers_the_models_preferences() -> None:
    prompts = example_prompts()
    best = [max(map(len, prompt.task.candidates)) for prompt in prompts]

    def found(calibrate: str, bias: float) -> list[int]:
        rankings = LLMRecommender(Biased(bias), "logprobs", calibrate=calibrate).rank(prompts)
        return [len(p.task.candidates[r.order[0]]) for r, p in zip(rankings, prompts, strict=True)]

    assert found("none", 0.0) == best
    first = [len(prompt.task.candidates[0]) for prompt in prompts]
    assert found("none", 3.0) == first  # the first letter, whatever it stands for
    assert found("prior", 3.0) == best
    assert found("permutations", 3.0) != first


def test_permutations_average_over_the_candidates_not_the_letters() -> None:
    """With a bias so small that it cancels out, nothing moves."""
    prompts = example_prompts()
    plain = LLMRecommender(Biased(0.0), "logprobs").rank(prompts)
    averaged = LLMRecommender(Biased(0.0), "logprobs", calibrate="permutations").rank(prompts)
    for one, other, prompt in zip(plain, averaged, prompts, strict=True):
        titles = prompt.task.candidates
        assert [len(titles[i]) for i in one.order] == [len(titles[i]) for i in other.order]


@pytest.mark.parametrize(("calibrate", "passes"), [("none", 1), ("prior", 2), ("permutations", 4)])
def test_the_cost_of_calibration_is_counted(calibrate: str, passes: int) -> None:
    prompts = example_prompts()[:1]
    model = Biased()
    (ranking,) = LLMRecommender(model, "logprobs", calibrate=calibrate).rank(prompts)
    assert model.asked == passes
    assert ranking.completion_tokens == passes
    assert ORDERS == 4
    (plain,) = LLMRecommender(Biased(), "logprobs").rank(prompts)
    assert (ranking.prompt_tokens > plain.prompt_tokens) == (passes > 1)


def test_without_candidates_the_rest_of_the_prompt_stays() -> None:
    for prompt in example_prompts():
        text = prompt.lettered(candidates=False)
        whole = prompt.lettered()
        assert not any(f"{letter}. " in text for letter in LETTERS[: len(prompt.task.candidates)])
        # What is left out is one paragraph.
        paragraphs = whole.split("\n\n")
        assert [p for p in paragraphs if p not in text.split("\n\n")] == [
            p for p in paragraphs if "\nA. " in p
        ]
        assert len(text.split("\n\n")) == len(paragraphs) - 1


def test_it_is_for_letters_alone() -> None:
    for rank_by in ("generate", "structured"):
        with pytest.raises(InvalidOption, match="is for rank_by='logprobs'"):
            LLMRecommender(Biased(), rank_by, calibrate="prior")
    with pytest.raises(InvalidOption, match="There are none, prior, permutations"):
        LLMRecommender(Biased(), "logprobs", calibrate="priors")
    env = rpp_env.RPPEnv.make(
        "movieworld", Biased(), "train", max_users=2, rank_by="logprobs", calibrate="prior"
    )
    assert env.recommender.rank_by == "logprobs (prior)"
