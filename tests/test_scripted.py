"""The scripted models: an oracle, an echo, and a silent one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rpp_env import InvalidOption, Prompt, RankingTask, SentenceCatalog
from rpp_env.models import LanguageModel, Request, ScriptedModel, echo, oracle, silent
from rpp_env.sentences import DOMAINS
from rpp_env.sentences.parsing import parse_ranking
from rpp_env.testing import check_model, example_prompts


def said(model: ScriptedModel, prompt: Prompt) -> str:
    return model.complete([Request(tuple(prompt.messages))])[0].text


def test_they_are_language_models() -> None:
    for model in (echo(), silent(), oracle(prompt.task for prompt in example_prompts())):
        assert isinstance(model, LanguageModel)
        check_model(model)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("output", range(5))
def test_the_oracle_names_the_target_first_in_every_format(domain: str, output: int) -> None:
    task = replace(example_prompts()[3].task, domain=domain)
    (choice,) = SentenceCatalog.load(domain).choose([[0, 0, 0, output]])
    reply = said(oracle([task]), Prompt(task, choice, 2))
    ranking = parse_ranking(reply, task.candidates)
    assert ranking.order[0] == task.position != 0
    assert ranking.named == len(task.candidates)


@pytest.mark.parametrize("prompt", example_prompts(), ids=lambda prompt: prompt.choice.format)
def test_the_echo_keeps_the_order_shown(prompt: Prompt) -> None:
    ranking = parse_ranking(said(echo(), prompt), prompt.task.candidates)
    assert ranking.order == tuple(range(10))
    assert ranking.named == 10


def test_formats_are_really_different() -> None:
    replies = {prompt.choice.format: said(echo(), prompt) for prompt in example_prompts()}
    assert len({reply.split("\n")[0][:3] for reply in replies.values()}) == len(replies) == 5


def test_the_silent_model_returns_empty_replies() -> None:
    assert said(silent(), example_prompts()[0]) == ""


def test_an_ambiguous_answer_key_is_refused() -> None:
    task = RankingTask("a", ("x", "y"), ("p", "q", "r"), "p")
    other = RankingTask("b", ("z", "y"), ("r", "q", "p"), "q")
    oracle([task, replace(task, user="c")])
    with pytest.raises(InvalidOption, match="cannot tell user 'b'"):
        oracle([task, other])
