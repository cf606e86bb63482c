"""LLMRecommender: one call a batch, equal prompts once, what does not fit is trimmed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest

from rpp_env import BrokenContract, Generation, InvalidOption, LLMRecommender, RPPEnv, ScriptedModel
from rpp_env.models import Reply, Request, echo
from rpp_env.recommenders import Recommender
from rpp_env.testing import check_recommender, example_prompts


class Counting(ScriptedModel):
    """Echoes, and keeps what it was asked."""

    def __init__(self, context_length: int = 1_000_000) -> None:
        super().__init__(echo()._answer, "counting", context_length)
        self.batches: list[list[str]] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.messages[-1]["content"] for request in requests])
        return super().complete(requests)


def test_it_is_a_recommender() -> None:
    recommender = LLMRecommender(echo())
    assert isinstance(recommender, Recommender)
    check_recommender(recommender)


def test_a_batch_is_one_call_and_equal_prompts_are_asked_once() -> None:
    model = Counting()
    prompts = example_prompts()
    rankings = LLMRecommender(model).rank([*prompts, *reversed(prompts)])
    assert [len(batch) for batch in model.batches] == [len(prompts)]
    assert model.batches[0] == [prompt.text for prompt in prompts]
    assert rankings[: len(prompts)] == rankings[len(prompts) :][::-1]


def test_where_replies_are_sampled_every_prompt_gets_its_own() -> None:
    model = Counting()
    LLMRecommender(model, generation=Generation.paper()).rank([example_prompts()[0]] * 3)
    assert [len(batch) for batch in model.batches] == [3]


def test_an_empty_batch_is_not_asked() -> None:
    model = Counting()
    assert LLMRecommender(model).rank([]) == []
    assert model.batches == []


def test_a_ranking_says_what_was_said_and_what_it_cost() -> None:
    prompt = example_prompts()[0]
    (ranking,) = LLMRecommender(echo()).rank([prompt])
    assert ranking.order == tuple(range(10))
    assert ranking.named == 10
    assert prompt.task.candidates[0] in ranking.text
    assert ranking.prompt_tokens == len(prompt.text.split())
    assert ranking.completion_tokens == len(ranking.text.split())
    assert ranking.trimmed == 0


def test_the_generation_reaches_the_model() -> None:
    seen: list[Generation] = []

    class Listening(Counting):
        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            seen.extend(request.generation for request in requests)
            return super().complete(requests)

    generation = Generation(max_tokens=77, stop=("END",))
    LLMRecommender(Listening(), generation=generation).rank(example_prompts()[:1])
    assert seen == [generation]


@pytest.mark.parametrize("counts", [True, False])
@pytest.mark.parametrize("kept", [5, 4, 1])
def test_the_oldest_history_goes_first_where_a_prompt_is_too_long(counts: bool, kept: int) -> None:
    prompt = replace(example_prompts()[0], shown=6)

    def size(text: str) -> int:
        return len(text.split()) if counts else -(-len(text) // 3)

    room = size(replace(prompt, shown=kept).text)
    model = Counting(context_length=room + 32 + 50)
    if not counts:
        model.count_tokens = None  # type: ignore[assignment,method-assign]
        model.complete = lambda requests: [Reply("") for _ in requests]  # type: ignore[method-assign]
    recommender = LLMRecommender(model, generation=Generation(max_tokens=50))
    (ranking,) = recommender.rank([prompt])
    assert ranking.trimmed == 6 - kept
    if counts:
        assert model.batches == [[replace(prompt, shown=kept).text]]
        assert prompt.task.history[0] not in model.batches[0][0]
        assert prompt.task.history[-1] in model.batches[0][0]


def test_trimming_shows_in_the_environment() -> None:
    options = {"num_users": 60, "num_items": 100, "num_envs": 8}
    free = RPPEnv.make(model=echo(), **options)
    free.reset(seed=0)
    wanted = free.step([[0, 4, 0, 0]] * 8)
    tight = RPPEnv.make(
        model=Counting(int(wanted.infos["prompt_tokens"].min()) + 32 + 512 - 10), **options
    )
    tight.reset(seed=0)
    step = tight.step([[0, 4, 0, 0]] * 8)
    assert (step.infos["trimmed"] > 0).all()
    assert (step.infos["shown"] + step.infos["trimmed"] == wanted.infos["shown"]).all()


def test_a_prompt_that_cannot_fit_is_refused_with_numbers() -> None:
    recommender = LLMRecommender(Counting(context_length=100), generation=Generation(max_tokens=50))
    with pytest.raises(InvalidOption, match=r"user 'user 0' .*one history item.* into the 18 that"):
        recommender.rank(example_prompts()[:1])


def test_a_model_that_loses_replies_breaks_its_contract() -> None:
    model = Counting()
    model.complete = lambda requests: []  # type: ignore[method-assign]
    with pytest.raises(BrokenContract, match=r"'counting' gave 0 replies to 2 requests"):
        LLMRecommender(model).rank(example_prompts()[:2])


@pytest.mark.parametrize("rank_by", ["logprobs", "structured", "magic"])
def test_other_ways_to_rank_are_refused(rank_by: str) -> None:
    with pytest.raises(InvalidOption, match=r"'generate' is the only way so far"):
        LLMRecommender(echo(), rank_by)
