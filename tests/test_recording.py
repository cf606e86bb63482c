"""Answers are requested once, survive killed processes, and a missing one is named."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import rpp_env
from rpp_env.errors import (
    BrokenContract,
    InvalidData,
    MissingRecording,
    ModelUnavailable,
    RecordingFailed,
)
from rpp_env.models import Generation, RecordingModel, Reply, Request, echo
from rpp_env.models.recording import request_key
from rpp_env.testing import check_model


class Counting:
    """Answers with a count, so that no two answers are alike."""

    context_length = 4096
    capabilities: frozenset[str] = frozenset()

    def __init__(self, name: str = "counting") -> None:
        self.id = name
        self.batches: list[int] = []

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        before = sum(self.batches)
        self.batches.append(len(requests))
        return [
            Reply(f"answer {before + i}", 7, i, "length", logprobs(request.choices, i))
            for i, request in enumerate(requests)
        ]


def logprobs(choices: Sequence[str] | None, number: int) -> tuple[float, ...] | None:
    return None if choices is None else tuple(-0.1 * (number + i) for i in range(len(choices)))


def ask(text: str, **generation: Any) -> Request:
    return Request(({"role": "user", "content": text},), Generation(**generation))


def test_recorded_answers_are_not_requested_again(tmp_path: Path) -> None:
    model = Counting()
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    first = recording.complete([ask("a"), ask("b"), ask("a")])
    assert model.batches == [2]
    assert first[0] == first[2] != first[1]
    again = recording.complete([ask("c"), ask("b")])
    assert model.batches == [2, 1]
    assert again[1] == first[1]
    assert (recording.asked, recording.replayed, len(recording)) == (3, 2, 3)
    assert recording.complete([]) == []
    # Another process, another day: to the last digit, and in the order of the requests.
    later = RecordingModel(tmp_path / "a.sqlite")
    assert later.id == "counting"
    assert later.complete([ask("b"), ask("c"), ask("a")]) == [first[1], again[0], first[0]]


@pytest.mark.parametrize(
    "changed",
    [
        ask("a", temperature=0.5, seed=1),
        ask("a", max_tokens=5),
        ask("a", stop=("x",)),
        ask("a", seed=3),
        replace(ask("a"), choices=("A", "B")),
        replace(ask("a"), grammar="x"),
        Request(({"role": "system", "content": "a"},)),
        ask("a "),
    ],
)
def test_an_answer_is_that_of_all_it_depends_on(tmp_path: Path, changed: Request) -> None:
    model = Counting()
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    one, other = recording.complete([ask("a"), changed])
    assert one != other
    assert request_key("m", ask("a")) != request_key("n", ask("a"))
    second = Counting("another model")
    RecordingModel(tmp_path / "a.sqlite", second).complete([ask("a")])
    assert second.batches == [1]


def test_samples_differ_and_are_replayed_in_their_order(tmp_path: Path) -> None:
    model = Counting()
    hot = ask("a", temperature=0.6)
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    three = recording.complete([hot, hot, hot])
    assert len({reply.text for reply in three}) == 3
    more = recording.complete([hot] * 5)
    assert more[:3] == three
    assert model.batches == [3, 2]


def test_chunks_are_written_as_they_come(tmp_path: Path) -> None:
    class Dying(Counting):
        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            if len(self.batches) == 2:
                raise KeyboardInterrupt
            return super().complete(requests)

    path = tmp_path / "a.sqlite"
    with pytest.raises(KeyboardInterrupt):
        RecordingModel(path, Dying(), chunk=4).complete([ask(str(i)) for i in range(10)])
    model = Counting()
    RecordingModel(path, model, chunk=4).complete([ask(str(i)) for i in range(10)])
    assert model.batches == [2]


def test_answers_that_came_before_the_model_was_lost_are_kept(tmp_path: Path) -> None:
    class Dying(Counting):
        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            raise ModelUnavailable("gone", {2: Reply("third"), 0: Reply("first")})

    path = tmp_path / "a.sqlite"
    asked = [ask(text) for text in "abcd"]
    with pytest.raises(ModelUnavailable, match="gone"):
        RecordingModel(path, Dying()).complete(asked)
    model = Counting()
    replies = RecordingModel(path, model).complete(asked)
    assert [reply.text for reply in replies] == ["first", "answer 0", "third", "answer 1"]
    assert model.batches == [2]


def test_a_replay_cuts_prompts_where_they_were_cut(tmp_path: Path) -> None:
    """Context length, capabilities and token counts are as good as part of the answers."""

    class Words(Counting):
        context_length = 77
        capabilities = frozenset({"choices"})
        counted = 0

        def count_tokens(self, text: str) -> int:
            self.counted += 1
            return len(text.split())

    path, model = tmp_path / "a.sqlite", Words()
    recording = RecordingModel(path, model)
    assert [recording.count_tokens(text) for text in ("one two", "one", "one two")] == [2, 1, 2]
    assert model.counted == 2
    recording.complete([ask("a")])
    recording.count_tokens("one two three")
    recording.close()
    replay = RecordingModel(path)
    assert (replay.id, replay.context_length) == ("counting", 77)
    assert replay.capabilities == {"choices", "deterministic"}
    assert [replay.count_tokens(text) for text in ("one two", "one", "one two three")] == [2, 1, 3]
    with pytest.raises(MissingRecording, match="does not say how many tokens 'counting' takes"):
        replay.count_tokens("another text")
    # A model that cannot count tokens is not asked to.
    RecordingModel(tmp_path / "b.sqlite", Counting()).complete([ask("a")])
    assert not hasattr(RecordingModel(tmp_path / "b.sqlite"), "count_tokens")


def test_making_one_asks_the_model_nothing(tmp_path: Path) -> None:
    """A server's capabilities are probed by a request, and only where they are needed."""

    class Probed(Counting):
        probes = 0

        @property
        def capabilities(self) -> frozenset[str]:
            self.probes += 1
            return frozenset({"choices"})

    model = Probed()
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    env = rpp_env.RPPEnv.make("movieworld", recording, num_users=60, num_items=100, num_envs=2)
    env.reset(seed=0)
    assert (model.probes, model.batches) == (0, [])
    assert recording.capabilities == {"choices"}
    for text in "ab":
        recording.complete([ask(text)])
    assert model.probes == 2  # once for who asked, and once to keep it for replays
    assert RecordingModel(tmp_path / "a.sqlite").capabilities == {"choices", "deterministic"}


def test_a_missing_answer_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    RecordingModel(path, Counting()).complete([ask("a")])
    replay = RecordingModel(path)
    said = "no answer of 'counting' to 2 of these .* 'what is this'.*give RecordingModel the model"
    with pytest.raises(MissingRecording, match=said):
        replay.complete([ask("a"), ask("what is this"), ask("x" * 10_000)])
    with pytest.raises(InvalidData, match=r"no recording .*, and no model"):
        RecordingModel(tmp_path / "none.sqlite")
    RecordingModel(path, Counting("b")).complete([ask("a")])
    with pytest.raises(InvalidData, match=r"answers of 2 models \(b, counting\)"):
        RecordingModel(path)
    assert RecordingModel(path, id="b").complete([ask("a")])[0].text == "answer 0"


def test_it_keeps_the_contract_of_models(tmp_path: Path) -> None:
    check_model(RecordingModel(tmp_path / "a.sqlite", echo()))
    check_model(RecordingModel(tmp_path / "a.sqlite"))

    class Short(Counting):
        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            return super().complete(requests)[1:]

    with pytest.raises(BrokenContract, match="0 replies to 1 requests"):
        RecordingModel(tmp_path / "b.sqlite", Short()).complete([ask("a")])


WRITER = """
import sys
sys.path.insert(0, {tests!r})
from test_recording import Counting, ask
from rpp_env.models import RecordingModel
recording = RecordingModel({path!r}, Counting())
for i in range({count}):
    (reply,) = recording.complete([ask(str(i))])
    print(i, reply.text, flush=True)
"""


def writer(path: Path, count: int) -> subprocess.Popen[str]:
    code = WRITER.format(tests=str(Path(__file__).parent), path=str(path), count=count)
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def test_a_killed_process_has_lost_no_answer_that_it_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    with writer(path, 100_000) as process:
        assert process.stdout is not None
        reported = [process.stdout.readline() for _ in range(50)]
        process.send_signal(signal.SIGKILL)
        reported += process.stdout.readlines()
    replay = RecordingModel(path)
    for line in reported:
        if line.endswith("\n"):
            number, said = line.rstrip("\n").split(" ", 1)
            assert replay.complete([ask(number)])[0].text == said
    assert len(replay) >= 50


def test_two_processes_write_one_recording(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    processes = [writer(path, 60) for _ in range(2)]
    said = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    # Whichever was faster, both got the same answer, which is the recorded one.
    assert said[0] == said[1]
    assert len(RecordingModel(path)) == 60


def test_a_full_disk_is_an_error_that_loses_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    recording = RecordingModel(path, Counting())
    kept = recording.complete([ask("a")])
    cursor = recording._file._opened()
    pages = cursor.execute("PRAGMA page_count").fetchone()[0]
    cursor.execute(f"PRAGMA max_page_count = {pages + 1}")
    with pytest.raises(RecordingFailed, match=r"disk is full.*recorded before is kept"):
        recording.complete([ask("x" * 100_000)])
    assert recording.complete([ask("a")]) == kept
    cursor.execute("PRAGMA max_page_count = 100000")
    assert len(recording.complete([ask("x" * 100_000)])) == 1


def test_a_file_that_another_process_holds_is_an_error_after_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rpp_env.models.database.PATIENCE", 0.2)
    path = tmp_path / "a.sqlite"
    RecordingModel(path, Counting()).complete([ask("a")])
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN EXCLUSIVE")
    began = time.monotonic()
    with pytest.raises(RecordingFailed, match="locked"):
        RecordingModel(path, Counting()).complete([ask("b")])
    assert time.monotonic() - began < 10
    other.execute("ROLLBACK")
    other.close()


def test_foreign_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "text"
    text.write_text("no database, but long enough to be read as one " * 100)
    before = text.read_bytes()
    for model in (None, Counting()):
        with pytest.raises(InvalidData, match="is not a recording"):
            RecordingModel(text, model)
    assert text.read_bytes() == before
    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE notes (x)")
    other.commit()
    with pytest.raises(InvalidData, match="a database, but not a recording"):
        RecordingModel(tmp_path / "other", Counting())
    other.execute("PRAGMA user_version = 99")
    with pytest.raises(InvalidData, match="its layout is 99"):
        RecordingModel(tmp_path / "other", Counting())
    other.close()
    RecordingModel(tmp_path / "a", Counting()).complete([ask("a")])
    damaged = sqlite3.connect(tmp_path / "a")
    damaged.execute("UPDATE answers SET reply = '{'")
    damaged.commit()
    damaged.close()
    with pytest.raises(InvalidData, match="holds a damaged answer"):
        RecordingModel(tmp_path / "a").complete([ask("a")])


def test_answers_travel_as_json_lines(tmp_path: Path) -> None:
    recording = RecordingModel(tmp_path / "a.sqlite", Counting())
    asked = [ask("a"), ask("ä\nb", temperature=0.5), replace(ask("c"), choices=("A",))]
    said = recording.complete(asked)
    assert recording.export(tmp_path / "a.jsonl") == 3
    rows = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert {row["request"]["messages"][0]["content"] for row in rows} == {"a", "ä\nb", "c"}
    other = RecordingModel(tmp_path / "b.sqlite", Counting())
    assert other.import_lines(tmp_path / "a.jsonl") == 3
    assert other.import_lines(tmp_path / "a.jsonl") == 0
    assert other.complete(asked) == said
    assert other.asked == 0
    for damage in ("{", '{"key": "a"}', '{"key": 1, "model": "m", "request": {}, "reply": {}}'):
        lines = (tmp_path / "a.jsonl").read_text().splitlines()
        (tmp_path / "bad.jsonl").write_text("\n".join([*lines, damage]))
        third = RecordingModel(tmp_path / "c.sqlite", Counting())
        with pytest.raises(InvalidData, match="line 4 is not a recorded answer"):
            third.import_lines(tmp_path / "bad.jsonl")
        assert len(third) == 0
    assert not list(tmp_path.glob(".*part"))


def test_an_interrupted_tabulation_pays_for_no_answer_twice(tmp_path: Path) -> None:
    class Interrupted:
        """The echo, until it has been asked a few times."""

        def __init__(self, times: int) -> None:
            self.echo, self.times, self.asked = echo(), times, 0
            self.id, self.capabilities = self.echo.id, self.echo.capabilities
            self.context_length = self.echo.context_length

        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            self.times -= 1
            if self.times < 0:
                raise KeyboardInterrupt
            self.asked += len(requests)
            return self.echo.complete(requests)

    def make(times: int) -> tuple[Interrupted, rpp_env.RPPEnv]:
        model = Interrupted(times)
        recording = RecordingModel(tmp_path / "a.sqlite", model, chunk=64)
        return model, rpp_env.RPPEnv.make(
            num_users=120, num_items=100, max_users=2, num_envs=1, model=recording
        )

    before, env = make(30)
    with pytest.raises(KeyboardInterrupt):
        rpp_env.tabulate(env)
    after, env = make(1_000)
    table = rpp_env.tabulate(env)
    whole = rpp_env.tabulate(
        rpp_env.RPPEnv.make(num_users=120, num_items=100, max_users=2, num_envs=1, model=echo())
    )
    assert (table.orders == whole.orders).all()
    assert before.asked + after.asked == len(RecordingModel(tmp_path / "a.sqlite"))
