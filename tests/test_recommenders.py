"""LLMRecommender: one call per batch, equal prompts once, and trimming."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace

import pytest

from rpp_env import BrokenContract, Generation, InvalidOption, LLMRecommender, RPPEnv, ScriptedModel
from rpp_env.models import Reply, Request, echo
from rpp_env.recommenders import Recommender
from rpp_env.recommenders.llm import RankBy
from rpp_env.sentences.prompt import LETTERS, Prompt
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


def test_a_batch_is_one_call_and_equal_prompts_are_requested_once() -> None:
    model = Counting()
    prompts = example_prompts()
    rankings = LLMRecommender(model).rank([*prompts, *reversed(prompts)])
    assert [len(batch) for batch in model.batches] == [len(prompts)]
    assert model.batches[0] == [prompt.text for prompt in prompts]
    assert rankings[: len(prompts)] == rankings[len(prompts) :][::-1]


def test_sampled_replies_are_drawn_for_every_prompt() -> None:
    model = Counting()
    LLMRecommender(model, generation=Generation.paper()).rank([example_prompts()[0]] * 3)
    assert [len(batch) for batch in model.batches] == [3]


def test_an_empty_batch_is_not_asked() -> None:
    model = Counting()
    assert list(LLMRecommender(model).rank([])) == []
    assert model.batches == []


def test_a_ranking_holds_reply_and_cost() -> None:
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
def test_a_prompt_that_is_too_long_loses_its_oldest_history(counts: bool, kept: int) -> None:
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
    with pytest.raises(BrokenContract, match=r"'counting' returned 0 replies to 2 requests"):
        LLMRecommender(model).rank(example_prompts()[:2])


# Letters


def lettered_lines(request: Request) -> list[tuple[str, str]]:
    """Letters and titles of the candidates."""
    return re.findall(r"^([A-Za-z])\. (.+)$", request.messages[0]["content"], re.MULTILINE)


class Lettered:
    """Likes the candidates by their titles: the later in the alphabet, the better."""

    id = "lettered"
    context_length = 4096
    capabilities = frozenset({"choices", "deterministic"})

    def __init__(self) -> None:
        self.asked: list[Request] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += requests
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Reply:
        assert request.choices is not None
        title = dict(lettered_lines(request))
        ranked = sorted(request.choices, key=title.__getitem__)
        likes = tuple(float(ranked.index(choice) - 99) for choice in request.choices)
        return Reply(ranked[-1], 100, 1, choice_logprobs=likes)


def by_title(prompt: Prompt) -> tuple[int, ...]:
    titles = prompt.task.candidates
    return tuple(sorted(range(len(titles)), key=titles.__getitem__, reverse=True))


@pytest.mark.parametrize("rank_by", ["logprobs", "structured"])
def test_letters_order_all_candidates(rank_by: RankBy) -> None:
    prompts = example_prompts()
    recommender = LLMRecommender(Lettered(), rank_by)
    check_recommender(recommender)
    for prompt, ranking in zip(prompts, recommender.rank(prompts), strict=True):
        assert ranking.order == by_title(prompt)
        assert ranking.named == len(ranking.order)
        assert ranking.text.startswith(LETTERS[ranking.order[0]])


def test_logprobs_ask_for_one_token_once() -> None:
    model = Lettered()
    prompts = example_prompts()
    rankings = LLMRecommender(model, "logprobs", Generation.paper()).rank([*prompts, *prompts])
    assert [request.messages[0]["content"] for request in model.asked] == [
        prompt.lettered() for prompt in prompts
    ]
    assert {request.generation for request in model.asked} == {Generation(max_tokens=1)}
    count = len(prompts[0].task.candidates)
    assert model.asked[0].choices == tuple(LETTERS[:count])
    assert (rankings[0].prompt_tokens, rankings[0].completion_tokens) == (100, 1)


def test_structured_ranking_asks_for_the_remaining_letters() -> None:
    model = Lettered()
    prompt = example_prompts()[0]
    (ranking,) = LLMRecommender(model, "structured").rank([prompt])
    count = len(prompt.task.candidates)
    said = [LETTERS[i] for i in by_title(prompt)]
    assert len(model.asked) == count - 1  # the last one is not asked for
    for place, request in enumerate(model.asked):
        assert request.messages[0]["content"] == prompt.lettered(whole=True)
        begun = "".join(f"{letter}\n" for letter in said[:place])
        assert [message["content"] for message in request.messages[1:]] == [begun] * bool(place)
        assert request.choices is not None
        assert sorted(request.choices) == sorted(said[place:])
    assert ranking.text == "\n".join(said)
    assert ranking.completion_tokens == count - 1


@pytest.mark.parametrize("rank_by", ["logprobs", "structured"])
def test_a_target_in_first_place_earns_1(rank_by: RankBy) -> None:
    """An oracle of letters earns 1; one who likes all letters alike earns what the order earns."""

    class Oracle(Lettered):
        def __init__(self, env: RPPEnv, knows: bool) -> None:
            super().__init__()
            self.targets = {
                env.tasks.task(i).candidates: env.tasks.task(i).target for i in range(40)
            }
            self.knows = knows

        def answer(self, request: Request) -> Reply:
            assert request.choices is not None
            found = lettered_lines(request)
            target = self.targets[tuple(title for _, title in found)]
            liked = {letter: title == target and self.knows for letter, title in found}
            likes = tuple(float(liked[choice]) - 1.0 for choice in request.choices)
            return Reply(request.choices[0], choice_logprobs=likes)

    options = {"num_users": 240, "num_items": 100, "num_envs": 40, "max_users": 40}
    plain = RPPEnv.make(model=echo(), **options)
    plain.reset(seed=0)
    echoed = plain.step([[1, 2, 3, 0]] * 40).rewards
    for knows in (True, False):
        env = RPPEnv.make(model=Oracle(plain, knows), rank_by=rank_by, **options)
        env.reset(seed=0)
        rewards = env.step([[1, 2, 3, 0]] * 40).rewards
        assert (rewards == (1.0 if knows else echoed)).all()
    assert 0.1 < echoed.mean() < 0.4


@pytest.mark.parametrize("logprobs", [None, (0.0,), (float("nan"),) * 10, (-float("inf"),) * 10])
def test_every_letter_must_be_scored(logprobs: tuple[float, ...] | None) -> None:
    model = Lettered()
    model.answer = lambda request: Reply("A", choice_logprobs=logprobs)  # type: ignore[method-assign]
    with pytest.raises(BrokenContract, match="asked for the log-probabilities of 10 letters"):
        LLMRecommender(model, "logprobs").rank(example_prompts()[:1])


def test_there_must_be_letters_enough() -> None:
    prompt = example_prompts()[0]
    titles = tuple(f"Title {i}" for i in range(53))
    many = replace(prompt, task=replace(prompt.task, candidates=titles, target=titles[0]))
    with pytest.raises(InvalidOption, match="53 candidates, and there are 52 letters"):
        LLMRecommender(Lettered(), "logprobs").rank([many])
    fewer = replace(many, task=replace(many.task, candidates=titles[:52]))
    (ranking,) = LLMRecommender(Lettered(), "logprobs").rank([fewer])
    assert ranking.order == by_title(fewer)


def test_other_ways_to_rank_are_refused() -> None:
    with pytest.raises(
        InvalidOption, match="'magic' is not known; there are generate, logprobs, structured"
    ):
        LLMRecommender(echo(), "magic")  # type: ignore[arg-type]
    with pytest.raises(InvalidOption, match=r"needs log-probabilities of letters, which .*'echo'"):
        LLMRecommender(echo(), "logprobs")
