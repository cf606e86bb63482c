"""What the repository's checkpoint can do: enough to test with, on users that no training saw."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import rpp_env
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.models.transformers import TransformersModel
from rpp_env.recommenders import LLMRecommender
from rpp_env.sentences.prompt import Prompt
from rpp_env.task import Ranking

USERS = 120


@pytest.fixture(scope="module")
def model(checkpoint: Path, trained: bool) -> TransformersModel:
    if not trained:
        pytest.skip("the checkpoint is not part of this distribution")
    return TransformersModel(checkpoint, device="cpu", batch_size=32)


@pytest.fixture(scope="module")
def asked() -> list[Prompt]:
    env = rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=USERS)
    choice = env.book.choose([[1, 0, 4, 0]])[0]
    return [Prompt(env.tasks.task(i), choice, 8) for i in range(USERS)]


def above_chance(rankings: list[Ranking], asked: list[Prompt]) -> float:
    """By how many standard errors."""
    scores = np.array([ndcg(r.rank(p.task.position)) for r, p in zip(rankings, asked, strict=True)])
    return float((scores.mean() - chance_ndcg(20)) / (scores.std() / np.sqrt(len(scores))))


def test_letters_rank_above_chance(model: TransformersModel, asked: list[Prompt]) -> None:
    assert above_chance(LLMRecommender(model, "logprobs").rank(asked), asked) > 2


@pytest.mark.parametrize(("form", "named"), [("numbers", 0.8), ("bare", 0.4), ("json", 0.4)])
def test_lists_rank_above_chance(
    form: str, named: float, model: TransformersModel, asked: list[Prompt]
) -> None:
    """The second way: by numbers as well as letters do, by titles less (see the card)."""
    book = rpp_env.PatternBook.load("movies")
    which = next(i for i, o in enumerate(book.output_format) if o.format == form)
    choice = book.choose([[1, 0, 4, which]])[0]
    prompts = [replace(prompt, choice=choice) for prompt in asked]
    rankings = LLMRecommender(model, "generate").rank(prompts)
    assert np.mean([r.named for r in rankings]) > named * 20
    assert above_chance(rankings, prompts) > 2


def test_letters_correlate_with_the_teachers(model: TransformersModel, asked: list[Prompt]) -> None:
    env = rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=USERS)
    pupils = LLMRecommender(model, "logprobs").rank(asked)
    teachers = LLMRecommender(env.recommender.model, "logprobs").rank(asked)
    correlations = [
        np.corrcoef(np.argsort(a.order), np.argsort(b.order))[0, 1]
        for a, b in zip(pupils, teachers, strict=True)
    ]
    assert np.mean(correlations) > 0.3


def test_lists_have_their_format(model: TransformersModel, asked: list[Prompt]) -> None:
    """Some titles are said twice (see the card), but lists look right, mostly of candidates."""
    titles = set(rpp_env.load_dataset("movieworld").titles)
    offered = []
    for prompt, ranking in zip(
        asked[:8], LLMRecommender(model, "generate").rank(asked[:8]), strict=True
    ):
        lines = ranking.text.split("\n")
        assert len(lines) >= 15
        assert all(re.match(r"\d+\. ", line) for line in lines)
        said = [line.partition(". ")[2] for line in lines]
        assert np.mean([title in titles for title in said]) > 0.9
        offered += [title in prompt.task.candidates for title in said]
    assert np.mean(offered) > 0.6


def test_it_heeds_the_reasoning(model: TransformersModel, asked: list[Prompt]) -> None:
    book = rpp_env.PatternBook.load("movies")
    orders = []
    for reasoning in (0, 3, 5):  # the teacher ranks by other habits with each
        choice = book.choose([[1, 0, reasoning, 0]])[0]
        prompts = [replace(prompt, choice=choice) for prompt in asked]
        orders.append([r.order for r in LLMRecommender(model, "logprobs").rank(prompts)])
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same_first = [a[0] == b[0] for a, b in zip(orders[one], orders[other], strict=True)]
        assert np.mean(same_first) < 0.9


def test_every_film_is_a_few_tokens(model: TransformersModel) -> None:
    titles = rpp_env.load_dataset("movieworld").titles
    assert {model.count_tokens(title) for title in titles} <= {1, 2, 3}


def test_it_is_small(checkpoint: Path, trained: bool) -> None:
    if trained:
        assert sum(path.stat().st_size for path in checkpoint.iterdir()) <= 8_000_000
