"""The contracts: valid parts pass, and each violation is caught."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest

from rpp_env import BrokenContract, HashedNGrams, LLMRecommender, Prompt, Ranking
from rpp_env.models import Reply, Request, ScriptedModel, echo
from rpp_env.sim.embedded import EmbeddedModel
from rpp_env.testing import check_encoder, check_model, check_recommender, example_prompts


def broken(method: str, thing: object, change: Callable[..., object]) -> object:
    setattr(thing, method, change(getattr(thing, method)))
    return thing


def test_example_prompts_cover_all_outputs_and_can_be_answered() -> None:
    prompts = example_prompts()
    assert len({prompt.choice.format for prompt in prompts}) == 5
    assert len({prompt.task.position for prompt in prompts}) == 10
    assert len({prompt.text for prompt in prompts}) == 12


def test_good_parts_pass() -> None:
    check_model(echo())
    check_recommender(LLMRecommender(echo()))
    check_encoder(HashedNGrams())
    check_encoder(HashedNGrams(64, seed=3), ["one text", "another"])


def test_the_embedded_model_passes_on_its_own_prompts() -> None:
    from rpp_env.factory import assemble
    from rpp_env.rules import RULES

    options = {"num_users": 60, "num_items": 100}
    parts = assemble("movieworld", "embedded", "test", RULES["RPP-v0"], None, None, options)
    assert isinstance(parts.recommender, LLMRecommender)
    assert isinstance(parts.recommender.model, EmbeddedModel)
    rng = np.random.default_rng(0)
    choices = parts.book.choose(rng.integers(0, parts.book.sizes, (len(parts.tasks), 4)))
    prompts = [Prompt(parts.tasks.task(i), choice, 3) for i, choice in enumerate(choices)]
    check_model(parts.recommender.model, prompts)
    check_recommender(parts.recommender, prompts)


MODELS: dict[str, Callable[[Callable[..., list[Reply]]], Callable[..., object]]] = {
    "loses a reply": lambda complete: lambda requests: complete(requests)[1:],
    "answers nothing with something": lambda complete: (
        lambda requests: complete(requests) or [Reply("")]
    ),
    "gives bare texts": lambda complete: lambda requests: [r.text for r in complete(requests)],
    "turns the order round": lambda complete: lambda requests: complete(requests)[::-1],
    "depends on the batch": lambda complete: (
        lambda requests: [Reply(f"{len(requests)}") for _ in requests]
    ),
    "counts below zero": lambda complete: lambda requests: [Reply("", -1) for _ in requests],
}


@pytest.mark.parametrize("how", MODELS)
def test_a_broken_model_is_caught(how: str) -> None:
    model = broken("complete", echo(), MODELS[how])
    with pytest.raises(BrokenContract):
        check_model(model)  # type: ignore[arg-type]


def test_a_model_that_is_not_one_is_caught() -> None:
    with pytest.raises(BrokenContract, match="object lacks a part of LanguageModel"):
        check_model(object())  # type: ignore[arg-type]
    nameless = ScriptedModel(str, "")
    with pytest.raises(BrokenContract, match=r"model\.id"):
        check_model(nameless)


def test_a_model_that_claims_determinism_and_has_none_is_caught() -> None:
    count = iter(range(1000))
    with pytest.raises(BrokenContract, match="asked again"):
        check_model(ScriptedModel(lambda _: str(next(count))))


class Constant:
    """Returns given orders."""

    def __init__(self, rank: Callable[[Sequence[Prompt]], list[Ranking]]) -> None:
        self.rank = rank


RECOMMENDERS: dict[str, Callable[[Sequence[Prompt]], list[Ranking]]] = {
    "one ranking only": lambda prompts: [Ranking(tuple(range(10)), 10)] if prompts else [],
    "too few candidates": lambda prompts: [Ranking((0, 1), 2) for _ in prompts],
    "by place in the batch": lambda prompts: [
        Ranking(tuple(np.roll(range(10), i).tolist()), 10) for i in range(len(prompts))
    ],
    "by the size of the batch": lambda prompts: [
        Ranking(tuple(range(10)), len(prompts) % 10) for _ in prompts
    ],
    "something for nothing": lambda prompts: [Ranking(tuple(range(10)), 10)] * max(1, len(prompts)),
}


@pytest.mark.parametrize("how", RECOMMENDERS)
def test_a_broken_recommender_is_caught(how: str) -> None:
    with pytest.raises(BrokenContract):
        check_recommender(Constant(RECOMMENDERS[how]))


ENCODERS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "narrow": lambda rows: rows[:, :-1],
    "one row too few": lambda rows: rows[1:],
    "float64": lambda rows: rows.astype(np.float64),
    "out of range": lambda rows: rows * 10,
    "not finite": lambda rows: rows * np.float32("nan"),
    "all the same": lambda rows: rows * 0,
    "by place in the batch": lambda rows: rows * np.linspace(0, 1, len(rows), dtype="f4")[:, None],
}


@pytest.mark.parametrize("how", ENCODERS)
def test_a_broken_encoder_is_caught(how: str) -> None:
    change = ENCODERS[how]
    encoder = broken("encode", HashedNGrams(), lambda encode: lambda texts: change(encode(texts)))
    with pytest.raises(BrokenContract):
        check_encoder(encoder)  # type: ignore[arg-type]


def test_requests_of_the_check_are_greedy() -> None:
    seen: list[Request] = []

    def listen(complete: Callable[..., list[Reply]]) -> Callable[..., object]:
        return lambda requests: (seen.extend(requests), complete(requests))[1]

    check_model(broken("complete", echo(), listen))  # type: ignore[arg-type]
    assert {request.generation.temperature for request in seen} == {0}
