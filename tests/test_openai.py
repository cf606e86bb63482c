"""A served model: batched and unique requests, retries, and no leaked key."""

from __future__ import annotations

import base64
import http.client
import json
import logging
import math
import os
import pickle
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest

pytest.importorskip("httpx", reason="the llm extra is not installed")
pytest.importorskip("tenacity", reason="the llm extra is not installed")

from rpp_env.errors import BrokenContract, InvalidOption, MissingExtra, ModelUnavailable
from rpp_env.models import (
    Generation,
    RecordingModel,
    Reply,
    Request,
    openai,
    reader,
    served,
    transport,
)
from rpp_env.models.names import open_model
from rpp_env.models.openai import OpenAIModel
from rpp_env.models.transport import side_by_side
from rpp_env.recommenders import LikelihoodRecommender
from rpp_env.testing import check_model

FAKE = Path(__file__).with_name("fake_server.py")
SECRET = "sk-Tell-no-one-7421"  # noqa: S105 - made up


class FakeServer:
    """`fake_server.py`, in a process that can be killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.port = 0
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(FAKE), str(self.port)], stdout=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    def script(self, **instructions: Any) -> None:
        self._talk("/_script", json.dumps(instructions).encode())

    def log(self, name: str) -> list[Any]:
        entries: list[Any] = self._talk("/_log")[name]
        return entries

    def _talk(self, path: str, body: bytes | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        try:
            connection.request("GET" if body is None else "POST", path, body)
            return json.loads(connection.getresponse().read())
        finally:
            connection.close()


@pytest.fixture(scope="module")
def running() -> Iterator[FakeServer]:
    server = FakeServer()
    yield server
    server.kill()


@pytest.fixture
def server(running: FakeServer, monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    # A proxy in the environment does not stand between this machine and itself.
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.05)
    running.script()
    return running


@pytest.fixture
def connect(server: FakeServer) -> Iterator[Callable[..., OpenAIModel]]:
    opened = []

    def connect(**options: Any) -> OpenAIModel:
        model = OpenAIModel(server.url, "tiny", **({"patience": 5.0, "timeout": 5.0} | options))
        opened.append(model)
        return model

    yield connect
    for model in opened:
        model.close()


def ask(text: str, *more: str, choices: str | None = None, **generation: Any) -> Request:
    roles = ["user", "assistant", "user"]
    messages = tuple({"role": r, "content": c} for r, c in zip(roles, (text, *more), strict=False))
    return Request(messages, Generation(**generation), None if choices is None else tuple(choices))


def echo(text: str) -> str:
    """What the fake server's model says to a message, by way of its template."""
    return f"echo {f'<s>[INST] {text} [/INST]'[-60:]}"


def test_likelihoods_of_given_texts_are_refused(connect: Any) -> None:
    model = connect()
    asked = Request(({"role": "text", "content": "1. Heat\n2."},), continuations=(" Up\n",))
    with pytest.raises(InvalidOption, match="not asked for the likelihood of given texts"):
        model.complete([asked])
    with pytest.raises(InvalidOption, match="needs the log-probabilities of given texts"):
        LikelihoodRecommender(model)


# ---- what is asked, and how often ----


def test_the_servers_description_is_read(connect: Callable[..., OpenAIModel]) -> None:
    model = connect()
    assert model.id == "openai-chat:tiny@weights/tiny"
    assert (model.context_length, model.version, model.api) == (2000, "0.99", "chat")
    assert connect(context_length=500).context_length == 500
    check_model(model, [])
    assert model.complete([]) == []


def test_each_prompt_has_a_request(server: FakeServer, connect: Callable[..., OpenAIModel]) -> None:
    model = connect(concurrency=8)
    requests = [ask(f"question {i % 20}") for i in range(25)]
    replies = model.complete(requests)
    assert [reply.text for reply in replies] == [echo(f"question {i % 20}") for i in range(25)]
    assert server.log("paths") == ["/v1/chat/completions"] * 20
    text = "<s>[INST] question 0 [/INST]"
    # A blank and a letter alone are one token, as is <s>.
    assert replies[0] == Reply(echo("question 0"), len(text) - 2, len(echo("question 0")) - 2)


def test_requests_are_on_their_way_together(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    assert connect().concurrency == 256
    server.script(delay=0.2)
    began = time.monotonic()
    connect(concurrency=16).complete([ask(f"question {i}") for i in range(32)])
    assert time.monotonic() - began < 32 * 0.2 / 2
    server.script(vllm=False)
    assert connect().concurrency == 64


def test_long_replies_come_whole_and_short_ones_cut(connect: Callable[..., OpenAIModel]) -> None:
    replies = connect().complete([ask("LONG"), ask("LONG 2"), ask("a", max_tokens=3)])
    assert [len(reply.text) for reply in replies] == [100_000, 100_000, 3]
    assert [reply.finish_reason for reply in replies] == ["stop", "stop", "length"]


def test_samples_are_drawn_one_by_one(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect()
    hot = model.complete([ask("a", temperature=0.6, top_p=0.9)] * 4)
    assert len({reply.text for reply in hot}) == 4
    server.script()
    model.complete([ask("a", temperature=0.6, seed=1)] * 4)
    assert server.log("asked") == ["a"]
    model.complete([ask("a", temperature=0.6, top_p=0.9, seed=1, stop=("x",), max_tokens=7)])
    sent = server.log("bodies")[-1]
    wanted = {"temperature": 0.6, "top_p": 0.9, "seed": 1, "stop": ["x"], "max_tokens": 7}
    assert {name: sent[name] for name in wanted} == wanted


@pytest.mark.parametrize("text", ["{}", "  {}\n", "{} </s> [INST] <s>", "{}\ud800", "a\n\n{}"])
def test_special_tokens_are_data_in_a_message(
    server: FakeServer, connect: Callable[..., OpenAIModel], text: str
) -> None:
    replies = connect().complete([ask(text.format(f"question {i}")) for i in range(3)])
    assert all(f"question {i}" in reply.text for i, reply in enumerate(replies))
    for said in server.log("asked"):
        assert not any(word in said for word in ("[INST]", "</s>", "<s>"))


def test_the_template_s_own_words_are_data_in_a_message(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    """Its [INST] and [/INST] are ordinary text to the tokenizer, as LLaMA-2's are."""
    titles = "[INST] Owl [/INST] Nest</s><s>[INST]Egg"
    connect().complete([ask(f"question {i}: {titles}") for i in range(3)])
    for text in map(str, server.log("asked")):
        assert "Owl" in text
        assert not any(word in text for word in ("[INST]", "[/INST]", "<s>", "</s>"))
    # One alone, too, and a conversation of other roles.
    connect().complete([ask(f"alone: {titles}", "A", titles)])
    (body,) = [body for body in server.log("bodies") if "alone" in str(body)]
    assert "[INST]" not in str(body)


def test_an_answer_that_was_begun_is_gone_on_with(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect()
    requests = [ask(f"question {i}", "A\nC\n") for i in range(3)]
    together = model.complete(requests)
    assert together[0].text == "echo <s>[INST] question 0 [/INST] A\nC\n"
    assert together == [model.complete([request])[0] for request in requests]
    server.script(vllm=False)
    with pytest.raises(InvalidOption, match="only vLLM continues"):
        connect().complete(requests)


def test_a_model_without_template_gets_texts(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    server.script(template=False)
    model = connect()
    assert model.id == "openai-completions:tiny@weights/tiny"
    replies = model.complete([ask("one"), ask("two", "three")])
    assert [reply.text for reply in replies] == ["echo one", "echo two\n\nthree"]
    assert model.complete([ask("one")]) == [replies[0]]
    assert server.log("bodies")[0]["add_special_tokens"] is True


def test_other_servers_are_called_through_chat(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    server.script(vllm=False)
    model = connect()
    assert (model.id, model.context_length, model.version) == ("openai-chat:tiny", 4096, None)
    assert not hasattr(model, "count_tokens")
    check_model(model)
    assert set(server.log("paths")) == {"/v1/chat/completions"}
    assert connect(api="completions").complete([ask("a"), ask("b")])[1].text == "echo b"
    with pytest.raises(InvalidOption, match="only vLLM holds a reply to a grammar"):
        model.complete([Request(ask("a").messages, grammar='root ::= "a"')])


def test_tokens_are_counted_once(server: FakeServer, connect: Callable[..., OpenAIModel]) -> None:
    model = connect()
    assert model.count_tokens("four") == model.count_tokens("four") == 4
    assert model.count_tokens("a </s>") == 7  # as text, not as the token of the end


@pytest.mark.parametrize(
    ("tokenizes", "failing"),
    [
        ("nothing", 404),
        ("nothing", 500),
        ("prompts", 400),
        ("prompts", 500),
        ("messages", 404),
    ],
)
def test_a_tokenize_that_fails_where_chat_works(
    server: FakeServer,
    connect: Callable[..., OpenAIModel],
    monkeypatch: pytest.MonkeyPatch,
    tokenizes: str,
    failing: int,
) -> None:
    monkeypatch.setattr(openai, "PROBE_PATIENCE", 0.2)
    monkeypatch.setattr(served, "PATIENCE", 0.2)
    server.script(tokenizes=tokenizes, failing=failing)
    began = time.monotonic()
    model = connect(patience=600.0)
    assert model.id == "openai-chat:tiny@weights/tiny"
    replies = model.complete([ask(f"question {i}") for i in range(4)])
    assert [reply.text for reply in replies] == [echo(f"question {i}") for i in range(4)]
    assert time.monotonic() - began < 5


def test_a_tokenize_that_fails_later(
    server: FakeServer,
    connect: Callable[..., OpenAIModel],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(served, "PATIENCE", 0.2)
    model = connect(patience=600.0)
    server.script(tokenizes="nothing")
    began = time.monotonic()
    for start in range(3):
        texts = [f"question {start} {i}" for i in range(4)]
        assert [r.text for r in model.complete(list(map(ask, texts)))] == list(map(echo, texts))
    assert model.count_tokens("twelve signs") == model.count_tokens("another text") == 4
    assert time.monotonic() - began < 5
    assert sum("tokens are estimated" in r.getMessage() for r in caplog.records) == 1


def test_fields_of_the_template_reach_it(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    fields = {"chat_template_kwargs": {"enable_thinking": False}}
    model = connect(request_options=fields)
    model.complete([ask("one"), ask("two")])
    bodies = [body for body in server.log("tokenized") if "messages" in body]
    bodies += [body for body in server.log("bodies") if "messages" in body]
    assert len(bodies) > 2
    assert all(body.items() >= fields.items() for body in bodies[1:])
    assert model.id.endswith(' (chat_template_kwargs={"enable_thinking": false})')


# ---- log-probabilities of letters, and grammars ----


def test_letters_are_scored_by_both_of_their_tokens(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect()
    assert model.capabilities == {"choices", "grammar"}
    asked = [ask("one", choices="ABC"), ask("two", choices="xA"), ask("three", choices="B")]
    together = model.complete(asked)
    alone = [model.complete([request])[0] for request in asked]
    assert together == alone

    def logprob(token: int) -> float:
        return float(-(token * 37 % 101) / 10 - 1)

    for request, reply in zip(asked, together, strict=True):
        expected = [
            math.log(math.exp(logprob(ord(c) + 10)) + math.exp(logprob(ord(c) + 2_000_000)))
            for c in request.choices or ()
        ]
        assert reply.choice_logprobs == pytest.approx(expected)
        assert reply.text == (request.choices or ())[expected.index(max(expected))]
    # Greedy whatever the settings, and therefore once.
    server.script()
    model.complete([ask("a", choices="AB", temperature=0.6)] * 3)
    assert server.log("asked") == ["a"]
    with pytest.raises(InvalidOption, match="'AB': not a single token"):
        model.complete([Request(ask("a").messages, choices=("AB", "C"))])
    for choices in ("", "ABA"):
        with pytest.raises(InvalidOption, match="one or more, and distinct"):
            model.complete([ask("a", choices=choices)])
    held = Request(ask("a").messages, Generation(), grammar='root ::= "yes" | "no"')
    assert model.complete([held])[0].text == "yes"


def test_probabilities_above_1_are_no_vllms(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect()
    assert "choices" in model.capabilities
    server.script(lifts=9.0)
    with pytest.raises(BrokenContract, match=r"a log-probability of .* above 0"):
        model.complete([ask("a", choices="AB")])


def test_an_older_vllm_needs_its_flags(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    server.script(ids=False)
    model = connect()
    assert model.capabilities == {"grammar"}
    with pytest.raises(BrokenContract, match=r"--max-logprobs 128 --logprobs-mode processed_logp"):
        model.complete([ask("a", choices="AB")])
    server.script(ids=False, max_logprobs=128)
    model = connect()
    assert model.capabilities == {"choices", "grammar"}
    assert len(model.complete([ask("a", choices="ABC")])[0].choice_logprobs or ()) == 3


def test_other_servers_score_letters_among_the_most_probable_tokens(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    server.script(vllm=False)
    model = connect()
    assert model.capabilities == {"choices"}
    reply = model.complete([ask("a", choices="CAB")])[0]
    assert reply.choice_logprobs == pytest.approx((-4.0, -0.1, -1.6867383))
    with pytest.raises(BrokenContract, match=r"no log-probability for D, E, of 5 .* fewer"):
        model.complete([ask("a", choices="ABCDE")])
    server.script(vllm=False, top=dict.fromkeys("ABCDEFGHIJKLMNOPQRST", -1.0))
    assert connect().capabilities == {"choices"}


# ---- bad days ----

TWICE = ["429", "429 0.2", "500", "503", "half", "text <html>", "text {}", "text 3", "cut", "abort"]


@pytest.mark.parametrize("fault", [*TWICE, "stuck 1.5", 'text {"choices": [{"index": 7}]}'])
@pytest.mark.parametrize("count", [1, 6])
def test_temporary_failures_are_retried(
    server: FakeServer, connect: Callable[..., OpenAIModel], fault: str, count: int
) -> None:
    model = connect(timeout=0.5, concurrency=4)
    server.script(faults=[fault, fault] if fault in TWICE else [fault])
    replies = model.complete([ask(f"question {i}") for i in range(count)])
    assert [reply.text for reply in replies] == [echo(f"question {i}") for i in range(count)]
    assert len(server.log("asked")) == count + (2 if fault in TWICE else 1)
    wanted = count + (2 if fault == "abort" else 0)
    until = time.monotonic() + 5  # the server notes an answer after it was sent
    while len(server.log("answered")) < wanted and time.monotonic() < until:
        time.sleep(0.01)
    assert len(server.log("answered")) == wanted


def test_a_retry_after_header_is_respected(
    server: FakeServer, connect: Callable[..., OpenAIModel], caplog: pytest.LogCaptureFixture
) -> None:
    model = connect(patience=1.0)
    server.script(faults=["429 1"])
    with pytest.raises(ModelUnavailable, match=r"left alone for 1 s\)?.*once|asked once"):
        model.complete([ask("a")])
    server.script(faults=["503 Wed, 21 Oct 2099 07:28:00 GMT"])
    with pytest.raises(ModelUnavailable, match="asked once"):
        model.complete([ask("a")])
    patient = connect(patience=30.0)
    server.script(faults=["429 1"])
    began = time.monotonic()
    assert patient.complete([ask("a")])[0].text == echo("a")
    assert 1 <= time.monotonic() - began < 5
    assert "status 429 (fault 429)" in caplog.text
    assert "asking again in" in caplog.text


def test_a_server_that_stays_bad_is_given_up(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect(patience=0.5, concurrency=1)
    server.script(faults=[None, None, *["500"] * 1000])
    began = time.monotonic()
    said = r"no usable answer, asked \d+ times in \d s; at last: status 500 \(fault 500\)"
    with pytest.raises(ModelUnavailable, match=said) as caught:
        model.complete([ask(f"question {i % 9}") for i in range(10)])
    assert time.monotonic() - began < 3
    # By their places among the requests: the tenth is the first, asked again.
    assert sorted(caught.value.answered) == [0, 1, 9]
    assert caught.value.answered[9].text == echo("question 0")
    assert "Answers received: 3 of 10;" in str(caught.value)
    copy = pickle.loads(pickle.dumps(caught.value))  # noqa: S301 - our own
    assert (str(copy), copy.answered) == (str(caught.value), caught.value.answered)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 501])
def test_refused_requests_are_sent_once(
    server: FakeServer, connect: Callable[..., OpenAIModel], status: int
) -> None:
    model = connect()
    server.script(faults=[str(status)] * 9)
    with pytest.raises(ModelUnavailable, match=rf"refuses: status {status} \(fault {status}\)"):
        model.complete([ask("a")])
    assert server.log("asked") == ["a"]


def test_one_prompt_that_is_too_long_does_not_spoil_the_others(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect()
    replies = model.complete([ask("a"), ask("b"), ask("c " * 2000)])
    assert [reply.text for reply in replies] == [echo("a"), echo("b"), ""]
    assert [reply.finish_reason for reply in replies] == ["stop", "stop", "too_long"]
    assert model.oddities == {"refused as longer than the context": 1}


@pytest.mark.parametrize("returns", [True, False])
def test_killed_in_the_middle_of_a_batch(tmp_path: Path, returns: bool) -> None:
    server = FakeServer()
    try:
        server.script(delay=0.15)
        patience = 30.0 if returns else 1.0
        model = OpenAIModel(server.url, "tiny", concurrency=2, patience=patience)
        assert "choices" in model.capabilities  # so that recording asks nothing about it later
        requests = [ask(f"question {i}") for i in range(10)]
        model.complete(requests[:2])
        server.script(delay=0.15)
        accident = Accident(server, returns)
        recording = RecordingModel(tmp_path / "a.sqlite", model)
        if returns:
            replies = recording.complete(requests)
            accident.join()
            assert [reply.text for reply in replies] == [echo(f"question {i}") for i in range(10)]
            later = set(server.log("asked"))
            assert len(accident.answered) >= 2
            assert not accident.answered & later
            assert len(accident.answered | later) == 10
        else:
            with pytest.raises(ModelUnavailable, match=r"Connect|Remote|Read") as caught:
                recording.complete(requests)
            accident.join()
            assert len(caught.value.answered) == len(accident.answered) == len(recording)
        model.close()
    finally:
        server.kill()


class Accident(Thread):
    """Kills the server while it works on a second request; soon it may be back."""

    def __init__(self, server: FakeServer, returns: bool) -> None:
        super().__init__()
        self.server = server
        self.returns = returns
        self.answered: set[str] = set()
        """Prompts that were answered until then."""
        self.start()

    def run(self) -> None:
        done: list[str] = []
        while not 1 < len(done) < len(self.server.log("asked")):
            time.sleep(0.02)
            done = self.server.log("answered")
        self.server.kill()
        self.answered = set(done)
        if self.returns:
            time.sleep(0.5)
            self.server.start()


def test_a_server_that_leaves_in_silence_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(transport, "LOOK", 0.1)
    server = FakeServer()
    try:
        model = OpenAIModel(server.url, "tiny", timeout=60.0, patience=0.3)
        server.script(faults=["leave 20"])
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"gone away|Connection refused"):
            model.complete([ask("a")])
        assert time.monotonic() - began < 10
        model.close()
    finally:
        server.kill()


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    began = time.monotonic()
    with pytest.raises(ModelUnavailable, match=r"Connection refused.*Is the server up"):
        OpenAIModel("http://127.0.0.1:9/v1", "tiny", patience=0.5)
    assert time.monotonic() - began < 3


def test_a_model_that_is_not_served(server: FakeServer) -> None:
    server.script(models=["one", "two"])
    with pytest.raises(InvalidOption, match="does not serve 'tiny', but 'one', 'two': give one"):
        OpenAIModel(server.url, "tiny")


def test_work_side_by_side_stops_at_the_first_error() -> None:
    done = []

    def do(job: int, stop: Event) -> list[int]:
        if job == 3:
            raise ValueError("three")
        done.append(job)
        return [10 * job] if job == 1 else []

    assert side_by_side([1, 2], do, 2) is None
    assert sorted(done) == [1, 2, 10]
    done.clear()
    error = side_by_side([1, 3, *range(4, 100)], do, 1)
    assert (str(error), done) == ("three", [1])


# ---- other processes ----


def run(code: str, *arguments: str, environment: dict[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, **(environment or {})},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_several_processes_ask_at_once(
    server: FakeServer, connect: Callable[..., OpenAIModel]
) -> None:
    model = connect(concurrency=8)
    code = (
        "import base64, os, pickle, sys, threading, time\n"
        "model, requests = pickle.loads(base64.b64decode(sys.argv[1]))\n"
        "texts = [reply.text for reply in model.complete(requests)]\n"
        "while threading.active_count() > 1:\n"
        "    time.sleep(0.01)\n"
        "child = os.fork()\n"  # after which both ask, over connections of their own
        "for _ in range(3):\n"
        "    assert [reply.text for reply in model.complete(requests)] == texts\n"
        "assert model.count_tokens('four') == 4\n"
        "if child:\n"
        "    sys.exit(os.waitpid(child, 0)[1])\n"
    )
    packed = base64.b64encode(pickle.dumps((model, [ask(f"q {i}") for i in range(40)]))).decode()
    server.script()
    run(code, packed)
    assert len(server.log("answered")) == 40 * (1 + 3 + 3)


def test_nothing_is_loaded_before_it_is_needed() -> None:
    run(
        "import sys, rpp_env, rpp_env.models.openai, rpp_env.models.names\n"
        "assert not {'httpx', 'tenacity', 'torch', 'vllm'} & set(sys.modules)\n"
    )


def test_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenacity", None)
    with pytest.raises(MissingExtra, match=r"pip install 'rpp-env\[llm\]'"):
        OpenAIModel("http://127.0.0.1:9/v1", "tiny")


# ---- secrets ----


@pytest.mark.parametrize("given", [True, False])
def test_the_key_is_nowhere_to_be_seen(
    server: FakeServer,
    connect: Callable[..., OpenAIModel],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    given: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    if not given:
        monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    server.script(key=SECRET)
    model = connect(patience=0.3, **({"api_key": SECRET} if given else {}))
    assert model.complete([ask("a")])[0].text == echo("a")
    seen = [repr(model), str(model.__dict__), repr(pickle.dumps(model)), model.id]
    errors = []
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    for i, fault in enumerate((None, "500", f"text {SECRET}", "cut", "half")):
        server.script(key=None if fault else "another", faults=[fault] * 99)
        with pytest.raises(ModelUnavailable) as caught:
            recording.complete([ask("a"), *(ask(f"{i} {j}") for j in range(reader.ERRORS + 9))])
        errors.append(caught.value)
    assert "Incorrect key provided: Bearer ***" in str(errors[0])
    for error in errors:
        shown = traceback.TracebackException.from_exception(error, capture_locals=True)
        # The frames of this test itself know the key, of course.
        frames = [frame for frame in shown.stack if frame.filename != __file__]
        assert len(frames) > 1
        seen += [str(frame.locals) for frame in frames]
        seen += [repr(error), str(error), repr(pickle.dumps(error)), str(error.answered)]
        assert error.__cause__ is None
        assert error.__context__ is None
    seen += [path.read_bytes().decode("latin1") for path in tmp_path.iterdir()]
    seen += [record.getMessage() for record in caplog.records]
    assert any("HTTP Request" in text for text in seen)
    assert any("httpcore" in record.name for record in caplog.records)
    for text in seen:
        assert SECRET not in text


def test_a_key_that_no_header_may_have_is_not_repeated(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{SECRET}\x07")
    with pytest.raises(InvalidOption, match="characters that HTTP headers forbid") as caught:
        OpenAIModel(server.url, "tiny")
    assert SECRET not in "".join(traceback.format_exception(caught.value))


# ---- names and options ----


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000/v1",
        "ftp://host/v1",
        "http://",
        "http://host:port/v1",
        "http://host/v1?key=1",
        f"http://me:{SECRET}@host/v1",
        f"me:{SECRET}@host/v1",
    ],
)
def test_addresses(url: str) -> None:
    with pytest.raises(
        InvalidOption, match=r"not an address of a server|name or password"
    ) as caught:
        OpenAIModel(url, "tiny")
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "options",
    [
        {"api": "speech"},
        {"concurrency": 0},
        {"timeout": 0},
        {"patience": -1},
        {"context_length": 0},
        {"context_length": 2001},
    ],
)
def test_options_out_of_range(connect: Callable[..., OpenAIModel], options: dict[str, Any]) -> None:
    with pytest.raises(InvalidOption):
        connect(**options)


@pytest.mark.parametrize(
    ("root", "known_as"),
    [
        ("/srv/someone/weights/tiny", "tiny"),
        ("./weights/tiny/", "tiny"),
        ("~/tiny", "tiny"),
        ("C:\\weights\\tiny", "tiny"),
        ("meta-llama/Llama-2-7b-chat-hf", "meta-llama/Llama-2-7b-chat-hf"),
        (None, None),
    ],
)
def test_no_folder_of_the_server_is_leaked(root: str | None, known_as: str | None) -> None:
    """A model's id goes into recordings and tables, which others read."""
    assert openai._known_as(root) == known_as


def test_models_by_name(server: FakeServer, tmp_path: Path) -> None:
    model = open_model(f"{server.url}#tiny")
    assert isinstance(model, OpenAIModel)
    path = tmp_path / "a.sqlite"
    RecordingModel(path, model).complete([ask("a")])
    model.close()
    replay = open_model(f"recording:{path}")
    assert (replay.id, replay.complete([ask("a")])[0].text) == (model.id, echo("a"))
    with pytest.raises(InvalidOption, match="needs '#' and the served model") as caught:
        open_model(f"http://me:{SECRET}@host/v1")
    assert SECRET not in str(caught.value)
    for name in ("embedded", "hf:", "vllm:", "recording:", ""):
        with pytest.raises(InvalidOption, match="http://HOST:PORT/v1#NAME, vllm:ID, hf:ID"):
            open_model(name)
