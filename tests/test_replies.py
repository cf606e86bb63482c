"""Replies of servers are data: parsed if possible, counted if malformed, never a crash."""

from __future__ import annotations

import logging
import math
import pickle
import string
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("httpx", reason="the llm extra is not installed")
pytest.importorskip("tenacity", reason="the llm extra is not installed")

import rpp_env
from rpp_agents.commands import serve
from rpp_env.errors import BrokenContract, InvalidOption, ModelUnavailable
from rpp_env.models import Generation, RecordingModel, Reply, Request, openai, transport
from rpp_env.models.asking import estimated_tokens
from rpp_env.models.names import open_model, parse_options
from rpp_env.models.openai import OpenAIModel
from rpp_env.models.replies import letter
from rpp_env.recommenders.llm import LLMRecommender, RankBy
from rpp_env.testing import example_prompts
from tests.odd_servers import Answer, chosen, odd_server, said, scored

GOOD = "1. nothing of this"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.02)
    monkeypatch.setattr(openai, "PROBE_PATIENCE", 0.2)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def ask(text: str = "rank", choices: str | None = None, **generation: Any) -> Request:
    message = {"role": "user", "content": text}
    return Request(
        (message,), Generation(**generation), None if choices is None else tuple(choices)
    )


def odd_for_some(odd: Answer) -> Callable[[dict[str, Any]], Answer]:
    """Answers oddly whatever holds the word "odd"."""
    return lambda body: odd if "odd" in body["messages"][-1]["content"] else (200, said(GOOD))


def row(message: Any, finish: Any = "stop") -> dict[str, Any]:
    return chosen({"message": message, "finish_reason": finish})


TEXTS = {
    "a text": ("1. Up", said("1. Up")),
    "nothing": ("", said("")),
    "parts": (
        "1. Up\n2. Down",
        said([{"type": "text", "text": "1. Up\n"}, {"type": "text", "text": "2. Down"}]),
    ),
    "output parts": ("1. Up", said([{"type": "output_text", "text": "1. Up"}])),
    "thoughts among the parts": (
        "1. Up",
        said(
            [
                {"type": "thinking", "thinking": [{"type": "text", "text": "2. Down"}]},
                {"type": "text", "text": "1. Up"},
            ]
        ),
    ),
    "parts that are texts": ("1. Up", said(["1. ", "Up"])),
    "one part": ("1. Up", said({"type": "text", "text": "1. Up"})),
    "the older interface's text": ("1. Up", chosen({"text": "1. Up", "finish_reason": "stop"})),
    "a message that is a text": ("1. Up", row("1. Up")),
    "half a character": (
        "caf\N{REPLACEMENT CHARACTER}",
        b'{"choices": [{"message": {"content": "caf\xe9"}}]}',
    ),
    "odd usage": ("1. Up", said("1. Up", usage=[3])),
    "no usage": ("1. Up", said("1. Up", usage=None)),
    "an odd reason to stop": ("1. Up", said("1. Up", finish=["stop"])),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_in_any_wrapping(kind: str) -> None:
    text, body = TEXTS[kind]
    with odd_server((200, body)) as server:
        model = OpenAIModel(server.url, "odd")
        assert model.complete([ask()])[0].text == text
    assert model.oddities == {}
    assert len(server.questions) == 1


EMPTY = {
    "null": ("no content", row({"content": None})),
    "no content": ("no content", row({"role": "assistant"})),
    "a number": ("no content", said(5)),
    "used up by thoughts": ("cut off before", row({"content": None}, "length")),
    "used up, another word": ("cut off before", row({"content": ""}, "MAX_TOKENS")),
    "thoughts alone": ("reasoning", row({"content": None, "reasoning_content": "1. Up"})),
    "thoughts as parts": ("reasoning", said([{"type": "thinking", "thinking": "1. Up"}])),
    "a refusal": ("a refusal", row({"refusal": "I do not rank Up."})),
    "a refusal as part": ("a refusal", said([{"type": "refusal", "refusal": "Not Up."}])),
    "calls of tools": (
        "tool calls",
        row({"content": None, "tool_calls": [{"id": "1"}]}, "tool_calls"),
    ),
    "a filter": ("content filter", row({"content": None}, "content_filter")),
    "a filter, no message": ("content filter", chosen({"finish_reason": "content_filter"})),
    "no choices": ("nothing in choices", {"choices": [], "prompt_filter_results": [{}]}),
    "choices that are null": ("nothing in choices", {"choices": None}),
    "flagged": ("content filter", {"error": {"message": "the input was flagged", "code": 403}}),
    "a router's flag": (
        "content filter",
        chosen({"error": {"message": "moderation", "code": 403}}),
    ),
    "an unknown error": ("an error in place", {"error": {"message": "it broke", "code": "odd"}}),
    "an error's text": ("an error in place", {"error": "it broke"}),
    "an error of another form": ("an error in place", {"object": "error", "message": "it broke"}),
    "an error's list": ("an error in place", {"error": ["it broke"]}),
    "HTML": ("an error in place", b"<html>blocked</html>"),
    "nothing at all": ("an error in place", b""),
    "a number for all": ("an error in place", b"3"),
    "a choice that is null": ("an error in place", chosen(None)),
    "nested too deeply": ("an error in place", b"[" * 50_000),
    "a stream": ("an error in place", b'data: {"choices": []}\n\n'),
}


@pytest.mark.parametrize("kind", EMPTY)
def test_a_reply_without_text_is_counted_and_names_nothing(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Greedy decoding gives the same oddity for the same prompt again: asking on is no remedy."""
    oddity, body = EMPTY[kind]
    with odd_server(odd_for_some((200, body))) as server:
        model = OpenAIModel(server.url, "odd", patience=60.0)
        began = time.monotonic()
        texts = [f"good {i}" for i in range(6)] + [f"odd {i}" for i in range(3)]
        replies = model.complete(list(map(ask, texts)))
        assert time.monotonic() - began < 10
    assert [reply.text for reply in replies] == [GOOD] * 6 + [""] * 3
    assert [count for name, count in model.oddities.items() if oddity in name] == [3]
    warned = [r for r in caplog.records if r.name.endswith("reader") and oddity in r.getMessage()]
    assert len(warned) == 1
    assert len(server.questions) <= 6 + 3 * transport.TRIES


def test_an_environment_resumes(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)

    def answer(body: dict[str, Any]) -> Answer:
        length = len(body["messages"][-1]["content"])
        return (200, [{"choices": []}, row({"refusal": "no"}), said(GOOD)][length % 3])

    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd")
        env = rpp_env.RPPEnv.make("movieworld", model, num_envs=24, seed=0)
        env.reset(seed=0)
        step = env.step(np.zeros((24, 4), int))
    assert step.rewards.tolist() == [0.0] * 24
    assert set(map(len, model.oddities)) != set()
    assert sum(model.oddities.values()) > 4


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"message": "Your key is odd", "code": 401}},
        {"error": {"message": "Your key is odd", "type": "authentication_error"}},
        {"error": {"message": "Your key is odd: no credits", "code": "402"}},
        {"error": {"message": "Your key is odd", "code": 404}},
    ],
)
def test_an_error_that_all_would_get_ends_the_call_in_the_servers_words(body: Any) -> None:
    with odd_server((200, body)) as server:
        model = OpenAIModel(server.url, "odd", concurrency=1)
        with pytest.raises(ModelUnavailable, match="Your key is odd"):
            model.complete([ask("one"), ask("two")])
    assert len(server.questions) == 1


@pytest.mark.parametrize("body", [{"error": {"message": "it broke"}}, b"<p>it broke</p>"])
def test_where_nothing_is_answered_the_call_ends_in_the_servers_words(body: Any) -> None:
    with odd_server((200, body)) as server:
        model = OpenAIModel(server.url, "odd", concurrency=1)
        with pytest.raises(ModelUnavailable, match="it broke"):
            model.complete([ask("one"), ask("two")])
        asked = len(server.questions)
        assert asked <= 3 * transport.TRIES
        with pytest.raises(ModelUnavailable, match="it broke"):
            model.complete([ask(str(i)) for i in range(100)])
    assert len(server.questions) < asked + 20 * transport.TRIES


def test_an_error_on_one_request_is_distinguished_from_a_broken_server() -> None:
    """When a run is repeated with its recording, only what was never answered is asked."""
    with odd_server(odd_for_some((200, {"error": "it broke"}))) as server:
        model = OpenAIModel(server.url, "odd")
        assert model.complete([ask("odd")])[0].finish_reason == "no_answer"
        assert len(server.questions) == 2
        model.complete([ask("odd")])
    assert len(server.questions) == 3


def test_where_all_is_filtered_nothing_is_wrong_with_the_server() -> None:
    with odd_server((200, {"error": {"message": "flagged", "code": 403}})) as server:
        model = OpenAIModel(server.url, "odd")
        assert [reply.text for reply in model.complete([ask("one"), ask("two")])] == ["", ""]
    assert len(server.questions) == 2


def test_an_error_that_passes_is_waited_for() -> None:
    answers = [{"error": {"message": "busy", "code": code}} for code in (429, "503", "x")]
    answers[2] = {"error": {"message": "busy", "type": "overloaded_error"}}
    with odd_server(lambda _: (200, answers.pop() if answers else said("at last"))) as server:
        assert OpenAIModel(server.url, "odd").complete([ask()])[0].text == "at last"
    assert len(server.questions) == 4


@pytest.mark.parametrize("status", [400, 403])
def test_a_prompt_that_a_filter_refuses(status: int) -> None:
    refusal = {"error": {"message": "triggering the content management policy", "code": "x"}}
    with odd_server(odd_for_some((status, refusal))) as server:
        model = OpenAIModel(server.url, "odd")
        replies = model.complete([ask("odd"), ask("good")])
    assert [reply.finish_reason for reply in replies] == ["content_filter", "stop"]
    assert model.oddities == {"refused by a content filter": 1}


def test_answers_are_recorded_and_errors_are_not(tmp_path: Path) -> None:
    odd = row({"refusal": "no"})
    for body, kept in ((odd, 2), ({"error": "it broke"}, 1)):
        path = tmp_path / f"{kept}.sqlite"
        with odd_server(odd_for_some((200, body))) as server:
            recording = RecordingModel(path, OpenAIModel(server.url, "odd"))
            replies = recording.complete([ask("odd"), ask("good")])
            assert [reply.text for reply in replies] == ["", GOOD]
            assert len(recording) == kept
            recording.complete([ask("odd"), ask("good")])
            recording.close()
        assert [q["messages"][-1]["content"] for q in server.questions].count("odd") == 3 - kept


def test_answers_to_others_survive_a_broken_one(tmp_path: Path) -> None:
    """One letter that is not there ends the call, and what was paid for is kept."""

    def answer(body: dict[str, Any]) -> Answer:
        lacks = "odd" in body["messages"][-1]["content"]
        return (200, scored(("A", -1.0), ("X" if lacks else "B", -2.0)))

    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd", concurrency=1)
        assert "choices" in model.capabilities
        recording = RecordingModel(tmp_path / "a.sqlite", model)
        asked = [ask("one", "AB"), ask("two", "AB"), ask("odd", "AB"), ask("three", "AB")]
        with pytest.raises(BrokenContract, match="no log-probability for B, of 2") as caught:
            recording.complete(asked)
        assert sorted(caught.value.answered) == [0, 1]
        assert len(recording) == 2
        copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
        assert copy.answered == caught.value.answered
        recording.close()


# ---- numbers and names ----


@pytest.mark.parametrize("count", [-5, 2.5, "many", True, math.inf, 1 << 40, [3]])
def test_token_counts_that_are_none_are_noticed(count: Any) -> None:
    usage = {"prompt_tokens": count, "completion_tokens": 2}
    with odd_server((200, said("x", usage=usage))) as server:
        model = OpenAIModel(server.url, "odd")
        assert model.complete([ask()]) == [Reply("x", 0, 2)]
    assert model.oddities == {"invalid token counts, counted as 0": 1}


@pytest.mark.parametrize(
    ("named", "noticed"),
    [
        ("odd", False),
        ("odd-2024-08-06", False),
        ("makers/Odd", False),
        ("odd:latest", False),
        ("odd@1f2e3d4c", False),
        ("odd-mini", True),
        ("odder", True),
        ("odd.5", True),
        ("another", True),
        (None, False),
        (7, False),
    ],
)
def test_another_models_name_is_noticed(named: Any, noticed: bool) -> None:
    with odd_server((200, said(model=named))) as server:
        model = OpenAIModel(server.url, "odd")
        model.complete([ask()])
    assert list(model.oddities) == (["a reply by a model that was not asked for"] * noticed)


# ---- log-probabilities ----

LETTERS = string.ascii_uppercase


@pytest.mark.parametrize(
    ("token", "text"),
    [
        ("A", "A"),
        (" A", "A"),
        ("A\n", "A"),
        ("\u2581A", "A"),
        ("\u0120A", "A"),
        ("A\u010a", "A"),
        ("<0x41>", "A"),
        ("<0xE2>", "<0xE2>"),
        ("(A", "(A"),
        ("a", "a"),
    ],
)
def test_the_text_of_a_token(token: str, text: str) -> None:
    assert letter(token) == text


def test_tokens_of_one_letter_are_added_up() -> None:
    pairs = [("A", -1.0), ("A", -3.0), ("\u0120A", -2.0), ("<0x42>", -2.5), ("\u2581B", -4.0)]
    pairs += [("C", -5.0), ("The", -0.5), (None, -1.0), ("C", None), ("C", math.nan), ("C", "-1")]
    with odd_server((200, scored(*pairs))) as server:
        (reply,) = OpenAIModel(server.url, "odd").complete([ask(choices="ABC")])
    wanted = [
        math.log(math.exp(-1) + math.exp(-3) + math.exp(-2)),
        math.log(math.exp(-2.5) + math.exp(-4)),
        -5,
    ]
    assert reply.choice_logprobs == pytest.approx(wanted)
    assert len(server.questions) == 1


@pytest.mark.parametrize(
    "logprobs",
    [
        {
            "content": [
                {
                    "top_logprobs": [
                        {"token": "", "bytes": [65], "logprob": -1.0},
                        {"token": "B", "logprob": -2.0},
                    ]
                }
            ]
        },
        {"content": [{"top_logprobs": {"A": -1.0, "B": -2.0}}]},
        {"tokens": ["A"], "token_logprobs": [-1.0], "top_logprobs": [{"A": -1.0, " B": -2.0}]},
        {"top_logprobs": [[{"token": "A", "logprob": -1}, {"token": "B", "logprob": -2}]]},
    ],
)
def test_log_probabilities_in_other_shapes(logprobs: Any) -> None:
    body = chosen({"message": {"content": "A"}, "logprobs": logprobs})
    with odd_server((200, body)) as server:
        (reply,) = OpenAIModel(server.url, "odd").complete([ask(choices="AB")])
    assert reply.choice_logprobs == (-1.0, -2.0)


@pytest.mark.parametrize("value", [0.7, 1.0, math.inf])
def test_probabilities_above_1_are_noticed(value: float) -> None:
    with odd_server((200, scored(("A", value), ("B", -1.0)))) as server:
        model = OpenAIModel(server.url, "odd")
        with pytest.raises(BrokenContract, match=r"'A' a log-probability of .* above 0"):
            model.complete([ask(choices="AB")])
    assert len(server.questions) == 1


ABSENT: dict[str, Answer] = {
    "left out": (200, said("A")),
    "null": (200, chosen({"message": {"content": "A"}, "logprobs": None})),
    "a text": (200, chosen({"message": {"content": "A"}, "logprobs": "none"})),
    "no content": (200, chosen({"message": {"content": "A"}, "logprobs": {"content": []}})),
    "null content": (200, chosen({"message": {"content": "A"}, "logprobs": {"content": None}})),
    "only its own": (
        200,
        chosen(
            {"message": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": -1}]}}
        ),
    ),
    "no others": (200, scored()),
    "no values": (200, scored(("A", None))),
    "refused 400": (400, {"error": {"message": "logprobs are odd"}}),
    "refused 422": (422, {"detail": [{"loc": ["body", "logprobs"], "msg": "odd"}]}),
    "refused 501": (501, b"odd"),
    "fails": (500, {"error": {"message": "logprobs are odd"}}),
    "fails in HTML": (502, b"<html>odd</html>"),
    "an error in a 200": (200, {"error": {"message": "logprobs are odd", "code": 400}}),
    "HTML in a 200": (200, b"<html>odd</html>"),
    "no choices": (200, {"choices": []}),
}


@pytest.mark.parametrize("kind", ABSENT)
def test_a_server_without_log_probabilities_is_detected_within_seconds(
    kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    with odd_server(lambda body: ABSENT[kind] if body.get("logprobs") else (200, said())) as server:
        model = OpenAIModel(server.url, "odd", patience=2.0 if "fails" in kind else 600.0)
        began = time.monotonic()
        assert model.capabilities == frozenset()
        assert time.monotonic() - began < 10
        asked = len(server.questions)
        assert asked == 1 if kind not in {"fails", "fails in HTML", "HTML in a 200"} else asked < 40
        assert model.capabilities == frozenset()
        with pytest.raises(InvalidOption, match="needs log-probabilities of letters"):
            LLMRecommender(model, "logprobs")
        assert len(server.questions) == asked
    (warning,) = [
        r.getMessage() for r in caplog.records if "no ranking by letters" in r.getMessage()
    ]
    assert server.url in warning


def test_a_server_that_is_silent_about_letters_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(openai, "PROBE", 0.3)

    def answer(body: dict[str, Any]) -> Answer:
        time.sleep(1.5 if body.get("logprobs") else 0)
        return (200, said())

    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd", patience=0.2)
        began = time.monotonic()
        assert model.capabilities == frozenset()
        assert time.monotonic() - began < 5


def test_a_busy_server_is_not_one_without_log_probabilities(tmp_path: Path) -> None:
    """What could not be found out is found out again where it matters, and nowhere else."""
    busy = [True]

    def answer(body: dict[str, Any]) -> Answer:
        if body.get("logprobs") and busy[0]:
            return (429, b"busy", {"Retry-After": "30"})
        return (200, scored(("A", -1.0)) if body.get("logprobs") else said())

    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd")
        with pytest.raises(ModelUnavailable, match="left alone for 30 s"):
            model.capabilities  # noqa: B018 - it asks
        asked = len(server.questions)
        recording = RecordingModel(tmp_path / "a.sqlite", model, chunk=1)
        recording.complete([ask(str(i)) for i in range(5)])
        with pytest.raises(ModelUnavailable, match="left alone for 30 s"):
            model.capabilities  # noqa: B018 - it does not ask again
        assert len(server.questions) == asked + 5
        busy[0] = False
        assert model.complete([ask(choices="A")])[0].choice_logprobs == (-1.0,)
        recording.close()


def test_the_letters_that_are_needed_suffice() -> None:
    """Five candidates need A to E, which twenty tokens hold more often than A to T."""
    words = ["The", "**", "I", "Sure", "\n", "a", "Option", "My", "One", "It"]
    pairs = [(c, -1.0 - i) for i, c in enumerate("ABCDE")] + [(w, -9.0) for w in words]
    with odd_server((200, scored(*pairs))) as server:
        model = OpenAIModel(server.url, "odd")
        env = rpp_env.RPPEnv.make(
            "movieworld", model, rank_by="logprobs", num_candidates=5, num_envs=4, seed=0
        )
        env.reset(seed=0)
        step = env.step(np.zeros((4, 4), int))
        assert [one.order for one in step.rankings or ()] == [(0, 1, 2, 3, 4)] * 4
        env = rpp_env.RPPEnv.make("movieworld", model, rank_by="logprobs", num_envs=4, seed=0)
        env.reset(seed=0)
        with pytest.raises(BrokenContract, match=r"for F, G, .*, T, of 20 .* fewer candidates"):
            env.step(np.zeros((4, 4), int))


def test_letters_that_a_filter_held_back_rank_nothing() -> None:
    answered: Answer = (200, scored(*((c, -1.0 - i) for i, c in enumerate(LETTERS))))

    def answer(body: dict[str, Any]) -> Answer:
        first = len(server.questions) == 2
        return (200, {"choices": []}) if first else answered

    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd", concurrency=1)
        recommender = LLMRecommender(model, "logprobs")
        rankings = recommender.rank(example_prompts()[:3])
    assert [ranking.named for ranking in rankings] == [0, 10, 10]
    assert rankings[0].order == tuple(range(10))


def test_structured_ranking_needs_a_server_that_continues_a_reply() -> None:
    with odd_server((200, scored(("A", -1.0)))) as server:
        model = OpenAIModel(server.url, "odd")
        with pytest.raises(InvalidOption, match="needs a model that continues an answer"):
            LLMRecommender(model, "structured")
    assert len(server.questions) == 1


def test_the_check_of_an_odd_server_ends_soon() -> None:
    with odd_server(
        lambda body: (
            ABSENT["left out"] if body.get("logprobs") else (200, row({"content": None}, "length"))
        )
    ) as server:
        model = open_model(f"{server.url}#odd", patience=20.0)
        began = time.monotonic()
        out = serve.check(server.url, model)
        assert time.monotonic() - began < 10
    assert "(nothing)" in out
    assert "12 of the replies: no text: cut off before its text began" in out
    assert "not logprobs: rank_by='logprobs' needs log-probabilities" in out


# ---- options ----

NEWER = "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
GREEDY = "Unsupported value: 'temperature' does not support 0 with this model."


def newer(body: dict[str, Any]) -> Answer:
    """As models do that think."""
    if "max_tokens" in body:
        return (400, {"error": {"message": NEWER, "param": "max_tokens"}})
    if "temperature" in body:
        return (400, {"error": {"message": GREEDY, "param": "temperature"}})
    return (200, said())


def test_models_that_take_other_fields() -> None:
    with odd_server(newer) as server:
        name = f"{server.url}#odd"
        with pytest.raises(ModelUnavailable, match=r"\{\"max_tokens_field\": \"max_completion_tok"):
            open_model(name).complete([ask()])
        options: dict[str, Any] = {"max_tokens_field": "max_completion_tokens"}
        with pytest.raises(
            ModelUnavailable, match=r"\{\"request_options\": \{\"temperature\": null"
        ):
            open_model(name, **options).complete([ask()])
        options["request_options"] = {"temperature": None, "reasoning_effort": "low"}
        model = open_model(name, **options)
        assert model.complete([ask()])[0].text == "a reply"
        assert model.id == 'openai-chat:odd (reasoning_effort="low", temperature=null)'
        sent = server.questions[-1]
        assert set(sent) == {"model", "messages", "max_completion_tokens", "reasoning_effort"}
        env = rpp_env.RPPEnv.make("movieworld", name, model_options=options, num_envs=1, seed=0)
        env.reset(seed=0)
        assert env.step([[0, 0, 0, 0]]).infos["named"].tolist() == [0]
    assert parse_options('{"listed": false}') == {"listed": False}
    for text in ("{", "[1]", "null"):
        with pytest.raises(InvalidOption, match=r'give one such as .\{"timeout": 60\}'):
            parse_options(text)


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("stop", {"error": {"message": "Unsupported parameter: 'stop' is not supported"}}),
        ("top_p", {"detail": [{"loc": ["body", "top_p"], "msg": "Extra inputs"}]}),
        ("seed", {"error": "unknown field `seed`"}),
        (None, {"error": "stop it"}),
    ],
)
def test_a_refusal_names_the_option_that_helps(field: str | None, body: Any) -> None:
    asked = ask(temperature=0.5, top_p=0.9, seed=1, stop=("x",))
    with odd_server((400, body)) as server:
        with pytest.raises(ModelUnavailable, match="refuses: status 400") as caught:
            OpenAIModel(server.url, "odd").complete([asked])
        assert ("request_options" in str(caught.value)) == (field is not None)
        if field is not None:
            assert f"{{'request_options': {{'{field}': None}}}}" in str(caught.value)


def test_options_that_are_none() -> None:
    with odd_server((200, said())) as server:
        name = f"{server.url}#odd"
        for options, match in (
            ({"request_options": {"messages": []}}, "cannot set 'messages'"),
            ({"request_options": {"x": {1}}}, "must be JSON values"),
            ({"time_out": 3}, "did you mean 'timeout'"),
            ({"api_key": "x"}, "set OPENAI_API_KEY"),
            ({"max_body": 3}, "at least 1,024"),
        ):
            with pytest.raises(InvalidOption, match=match):
                open_model(name, **options)
        with pytest.raises(InvalidOption, match="given by its name"):
            rpp_env.RPPEnv.make("movieworld", "embedded", model_options={"timeout": 3})


def test_servers_that_list_other_names() -> None:
    def listing(*names: str) -> Answer:
        return (200, {"data": [{"id": name} for name in names]})

    for models in (listing("odd:latest"), listing("x", "*"), (200, [{"id": "odd"}])):
        with odd_server((200, said()), models=models) as server:
            assert OpenAIModel(server.url, "odd").complete([ask()])[0].text == "a reply"
    absent: Answer = (404, {"error": "no such page"})
    junk: Answer = (200, {"data": [3]})
    for models in (absent, (405, b""), (200, b"<html>"), junk, listing(), listing("Odd", "two")):
        with odd_server((200, said()), models=models) as server:
            with pytest.raises(rpp_env.errors.RPPError, match=r"model_options=\{'listed': False\}"):
                OpenAIModel(server.url, "odd")
            before = len(server.headers)
            model = OpenAIModel(server.url, "odd", listed=False)
            assert model.complete([ask()])[0].text == "a reply"
            assert len(server.headers) == before + 1


@pytest.mark.parametrize("length", [True, -3, 0, "8192", 2.5, None])
def test_context_lengths_that_are_none(length: Any) -> None:
    models: Answer = (200, {"data": [{"id": "odd", "max_model_len": length, "root": [1]}]})
    with odd_server((200, said()), models=models) as server:
        model = OpenAIModel(server.url, "odd")
    assert (model.context_length, model.id) == (4096, "openai-chat:odd")


# ---- prompts that are too long ----


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("", 0),
        ("abc", 1),
        ("abcd", 2),
        ("caf\u00e9", 2),
        ("\u5343\u3068\u5343\u5c0b", 4),
        ("\uc0b4\uc778\uc758 \ucd94\uc5b5", 6),
        ("\u5343 and", 3),
    ],
)
def test_a_character_of_most_scripts_is_a_token(text: str, tokens: int) -> None:
    assert estimated_tokens(text) == tokens


TOO_LONG = [
    (
        400,
        {
            "error": {
                "message": "This model's maximum context length is 9 tokens.",
                "code": "context_length_exceeded",
            }
        },
    ),
    (400, {"error": {"message": "the request exceeds the available context size"}}),
    (422, {"error": "prompt is too long: 9 tokens > 8 maximum"}),
    (413, {"message": "Input is too long for requested model."}),
    (200, {"error": {"message": "Please reduce the length of the messages", "code": 400}}),
]


@pytest.mark.parametrize("refusal", TOO_LONG)
@pytest.mark.parametrize("rank_by", ["generate", "logprobs"])
def test_a_prompt_that_the_server_calls_too_long_is_shortened(
    rank_by: RankBy, refusal: Answer, tmp_path: Path
) -> None:
    """It counts its tokens, and we can only guess them."""
    prompts = example_prompts()
    texts = [p.text if rank_by == "generate" else p.lettered() for p in prompts]
    most = sorted(map(len, texts))[6]

    def answer(body: dict[str, Any]) -> Answer:
        if len(body["messages"][-1]["content"]) > most:
            return refusal
        return (200, scored(*((c, -1.0 - i) for i, c in enumerate(LETTERS))))

    path = tmp_path / "a.sqlite"
    with odd_server(answer) as server:
        model = OpenAIModel(server.url, "odd")
        recording = RecordingModel(path, model)
        rankings = list(LLMRecommender(recording, rank_by).rank(prompts))
        recording.close()
        for ranking, prompt, text in zip(rankings, prompts, texts, strict=True):
            assert (ranking.trimmed > 0) == (len(text) > most)
            assert ranking.trimmed < prompt.shown
            assert ranking.named == (10 if rank_by == "logprobs" else 0)
        assert model.oddities["refused as longer than the context"] >= 5
        most = 100
        with pytest.raises(InvalidOption, match="even with one history item"):
            LLMRecommender(model, rank_by).rank(prompts)
    # What was refused is recorded, so that a replay shortens at the same places.
    assert list(LLMRecommender(RecordingModel(path), rank_by).rank(prompts)) == rankings
