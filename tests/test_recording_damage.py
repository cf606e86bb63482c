"""Flipped bits, cut files, files of others: detected, or without effect."""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import rpp_env
from rpp_env.errors import (
    BrokenContract,
    InvalidData,
    InvalidOption,
    MissingRecording,
    ModelUnavailable,
    RecordingFailed,
    RPPError,
)
from rpp_env.models import Generation, RecordingModel, Reply, Request
from rpp_env.models.answer_file import FIRST_SCHEMA, AnswerFile
from rpp_env.models.answers import checksum, key_of, request_text
from rpp_env.models.recording import request_key


class Letters:
    """Answers in words and in letters, counts tokens, and counts what it is asked."""

    id, context_length = "letters", 4096
    capabilities = frozenset({"choices"})

    def __init__(self) -> None:
        self.asked = 0

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        self.asked += len(requests)
        return [self.answer(request) for request in requests]

    def answer(self, request: Request) -> Reply:
        text = request.messages[0]["content"]
        if request.choices is None:
            return Reply(f"said {text}", len(text), 3)
        return Reply.choosing(request.choices, [-0.1 * len(text), -2.5], 7)

    def count_tokens(self, text: str) -> int:
        return len(text.split())


def ask(text: str, **generation: Any) -> Request:
    return Request(({"role": "user", "content": text},), Generation(**generation))


ASKED = [
    *(ask(f"question {i} {'of some length ' * 20}") for i in range(24)),
    *(ask("what else", temperature=0.7) for _ in range(3)),
    *(replace(ask(f"letter {i}"), choices=("A", "B")) for i in range(6)),
]
TEXTS = ["one", "one two", "one two three"]


def replay(path: Path, model: Any = None) -> Any:
    """Everything that a recording can say."""
    recording = RecordingModel(path, model)
    try:
        counts = [recording.count_tokens(text) for text in TEXTS]
        about = recording.id, recording.context_length, sorted(recording.capabilities)
        return recording.complete(ASKED), counts, about
    finally:
        recording._counts.clear()
        recording.close()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole") / "a.sqlite"
    replay(path, Letters())
    recording = RecordingModel(path, Letters())
    for text in TEXTS:
        recording.count_tokens(text)
    recording.close()
    return path


def outcome(path: Path, truth: Any, model: Letters | None) -> str:
    """What becomes of a damaged recording; anything but an error of ours is an error here."""
    try:
        found = replay(path, model)
    except RPPError as error:
        return "noticed" if str(path) in str(error) else f"unclear: {error}"
    if model is not None and model.asked:
        return "asked again"
    return "harmless" if found[:2] == truth[:2] else "wrong"


@pytest.mark.parametrize("writes", [False, True], ids=["replay", "record"])
def test_a_flipped_bit_is_noticed_or_harmless(whole: Path, tmp_path: Path, writes: bool) -> None:
    truth, data = replay(whole), whole.read_bytes()
    rng = random.Random(int(writes))  # noqa: S311
    used = [i for i, byte in enumerate(data) if byte]
    places = [rng.randrange(len(data)) for _ in range(60)]
    places += rng.sample(used, 200) + [rng.randrange(100) for _ in range(40)]
    path, found = tmp_path / "a.sqlite", Counter[str]()
    for place in places:
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        found[outcome(path, truth, Letters() if writes else None)] += 1
    assert set(found) == {"noticed", "harmless"}, found
    assert found["noticed"] > 100


def test_every_bit_of_an_answer_counts(whole: Path, tmp_path: Path) -> None:
    """Of each reply and checksum, and of what is kept beside answers."""
    truth, data = replay(whole), whole.read_bytes()
    path, rng = tmp_path / "a.sqlite", random.Random(5)  # noqa: S311
    with sqlite3.connect(whole) as file:
        rows = file.execute("SELECT reply, checksum FROM answers").fetchall()
        rows += file.execute("SELECT about, checksum FROM models").fetchall()
    file.close()
    values = [value.encode() if isinstance(value, str) else value for row in rows for value in row]
    for value in values:
        flipped = bytearray(data)
        flipped[data.index(value) + rng.randrange(len(value))] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        assert outcome(path, truth, None) == "noticed"
        with pytest.raises(InvalidData, match=r"damaged .*`rpp-env recording check` lists"):
            RecordingModel(path).complete(ASKED)


def test_a_cut_file_is_noticed(whole: Path, tmp_path: Path) -> None:
    truth, data = replay(whole), whole.read_bytes()
    path, rng = tmp_path / "a.sqlite", random.Random(2)  # noqa: S311
    ends = [rng.randrange(1, len(data)) for _ in range(30)]
    ends += [end - end % 4096 for end in ends if end >= 4096]
    for end in ends:
        path.write_bytes(data[:end])
        for model in (None, Letters()):
            assert outcome(path, truth, model) == "noticed"
    path.write_bytes(b"")
    with pytest.raises(InvalidData, match="is empty: it holds no recording"):
        RecordingModel(path)


def test_a_flip_gives_no_other_reward_in_an_environment(tmp_path: Path) -> None:
    options: dict[str, Any] = {"num_users": 120, "num_items": 100, "max_users": 4, "num_envs": 4}

    def play(**model: Any) -> list[Any]:
        env = rpp_env.RPPEnv.make("movieworld", **options, **model)
        try:
            observations, _ = env.reset(seed=0)
            step = env.step([[0, 2, 0, 0], [1, 1, 1, 1], [2, 3, 4, 2], [0, 0, 0, 3]])
            return [np.array(observations), np.array(step.observations), step.rewards]
        finally:
            env.close()

    whole, path = tmp_path / "whole", tmp_path / "a.sqlite"
    truth = play(recording=str(whole))
    data, rng = whole.read_bytes(), random.Random(3)  # noqa: S311
    used = [i for i, byte in enumerate(data) if byte]
    noticed = 0
    for place in rng.sample(used, 60):
        flipped = bytearray(data)
        flipped[place] ^= 1 << rng.randrange(8)
        path.write_bytes(flipped)
        try:
            found = play(model=f"recording:{path}")
        except RPPError:
            noticed += 1
        else:
            assert all((one == other).all() for one, other in zip(found, truth, strict=True))
    assert noticed > 10


# ------------------------------------------------------------------------- what cannot be found


def test_answers_hidden_by_damage_are_not_requested_again(whole: Path, tmp_path: Path) -> None:
    """A key that is damaged, a table that has lost a row: before anything is paid for."""
    path = tmp_path / "a.sqlite"
    shutil.copy(whole, path)
    data = bytearray(path.read_bytes())
    key = request_key("letters", ASKED[0]).encode()
    data[data.index(key) + 40] ^= 1
    path.write_bytes(data)
    model = Letters()
    with pytest.raises(InvalidData, match=r"holds a damaged answer \("):
        RecordingModel(path, model).complete(ASKED[:1])
    assert model.asked == 0
    with pytest.raises(InvalidData, match=r"holds a damaged answer \("):
        RecordingModel(path).complete(ASKED[:1])
    # Other answers are found, so the file is not verified.
    assert RecordingModel(path).complete(ASKED[1:5]) == replay(whole)[0][1:5]
    # Where nothing is damaged, it is missing.
    with pytest.raises(MissingRecording):
        RecordingModel(whole).complete([ask("new")])


def test_undamaged_answers_are_saved(whole: Path, tmp_path: Path) -> None:
    path, rest = tmp_path / "a.sqlite", tmp_path / "rest.sqlite"
    data = bytearray(whole.read_bytes())
    for request in ASKED[3:5]:
        data[data.index(request_key("letters", request).encode()) + 3] ^= 4
    path.write_bytes(data)
    problems = list(AnswerFile(path, write=False).problems())
    assert len(problems) == 2
    assert all("holds a damaged answer" in problem for problem in problems)
    with pytest.raises(InvalidData, match="holds a damaged answer"):
        RecordingModel(path).copy(rest)
    assert not [file for file in tmp_path.iterdir() if path.name not in file.name]
    assert RecordingModel(path).copy(rest, skip_damaged=True) == (31, 2)
    model = Letters()
    assert replay(rest, model)[0] == replay(whole)[0]
    assert model.asked == 2
    assert list(AnswerFile(rest, write=False).problems()) == []
    with pytest.raises(InvalidOption, match="exists: choose another path"):
        RecordingModel(whole).copy(rest)


def test_behind_a_damaged_page_the_rest_is_saved(tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    many = [ask(f"{i} {'x' * 1500}") for i in range(200)]
    recording = RecordingModel(path, Letters())
    recording.complete(many)
    recording.close()
    data = bytearray(path.read_bytes())
    pages = [at for at in range(4096, len(data), 4096) if data[at] == 10]  # leaves
    start = pages[len(pages) // 2]
    data[start : start + 64] = b"\xff" * 64
    path.write_bytes(data)
    kept, left_out = RecordingModel(path).copy(tmp_path / "rest.sqlite", skip_damaged=True)
    assert 150 < kept < 200
    assert left_out >= 1
    model = Letters()
    RecordingModel(tmp_path / "rest.sqlite", model).complete(many)
    assert model.asked == 200 - kept


# ---------------------------------------------------------------------- files of other programs


def test_recordings_of_other_versions_and_hostile_ones(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    shutil.copy(whole, path)

    def refused(statement: str, match: str) -> None:
        shutil.copy(whole, path)
        with sqlite3.connect(path) as file:
            file.executescript(statement)
        file.close()
        for model in (None, Letters()):
            with pytest.raises(InvalidData, match=match):
                RecordingModel(path, model)

    refused("PRAGMA user_version = 3", r"newer version \(its layout is 3, .*update rpp-env")
    refused("PRAGMA application_id = 7", "a database, but not a recording")
    refused("DROP TABLE counts", "a database, but not a recording")
    refused("CREATE VIEW more AS SELECT * FROM answers", "a database, but not a recording")
    refused(
        "CREATE TRIGGER t AFTER INSERT ON answers BEGIN DELETE FROM answers; END",
        "a database, but not a recording",
    )
    refused("ALTER TABLE answers ADD COLUMN more", "a database, but not a recording")


@pytest.mark.parametrize(
    "reply",
    [
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        '{"choice_logprobs":null,"completion_tokens":0,"finish_reason":"stop","prompt_tokens":0}',
        '{"choice_logprobs":null,"completion_tokens":0,"finish_reason":"stop","prompt_tokens":0,"text":1}',
        '{"choice_logprobs":null,"completion_tokens":-1,"finish_reason":"stop","prompt_tokens":0,"text":""}',
        '{"choice_logprobs":null,"completion_tokens":0,"finish_reason":"stop","prompt_tokens":1e3,"text":""}',
        '{"choice_logprobs":null,"completion_tokens":0,"finish_reason":"stop","prompt_tokens":9'
        + "9" * 5000
        + ',"text":""}',
        '{"choice_logprobs":[NaN,-1],"completion_tokens":0,"finish_reason":"stop","prompt_tokens":0,"text":""}',
        '{"choice_logprobs":[0.5,-1],"completion_tokens":0,"finish_reason":"stop","prompt_tokens":0,"text":""}',
    ],
)
def test_a_forged_checksum_makes_no_answer(whole: Path, tmp_path: Path, reply: str) -> None:
    path = tmp_path / "a.sqlite"
    shutil.copy(whole, path)
    asked = ASKED[-1]
    key = request_key("letters", asked)
    with sqlite3.connect(path) as file:
        row = (reply, checksum(key, reply), key)
        file.execute("UPDATE answers SET reply = ?, checksum = ? WHERE key = ?", row)
    file.close()
    for model in (None, Letters()):
        with pytest.raises(InvalidData, match="holds an invalid answer"):
            RecordingModel(path, model).complete([asked])
    assert any("holds an invalid answer" in x for x in AnswerFile(path, write=False).problems())


@pytest.mark.parametrize("about", ["[]", "{", '{"context_length":"x"}', '{"capabilities":[1]}'])
def test_a_forged_note_is_refused(whole: Path, tmp_path: Path, about: str) -> None:
    path = tmp_path / "a.sqlite"
    shutil.copy(whole, path)
    with sqlite3.connect(path) as file:
        file.execute(
            "UPDATE models SET about = ?, checksum = ?", (about, checksum("letters", about))
        )
    file.close()
    with pytest.raises(InvalidData, match="holds an invalid note on model 'letters'"):
        RecordingModel(path)


# --------------------------------------------------------------------------------- older layouts


@pytest.fixture
def first(whole: Path, tmp_path: Path) -> Path:
    """The same recording as it was written before there were checksums, with a NaN in it."""
    path = tmp_path / "first.sqlite"
    asked = replace(ask("poisoned"), choices=("A", "B"))
    poison = '{"choice_logprobs":[NaN,-1.0],"completion_tokens":1,"finish_reason":"stop",'
    poison += '"prompt_tokens":1,"text":"A"}'
    with sqlite3.connect(path) as file:
        file.execute("PRAGMA journal_mode = WAL")
        file.execute("PRAGMA user_version = 1")
        for statement in FIRST_SCHEMA.values():
            file.execute(statement)
        file.execute("ATTACH ? AS now", (str(whole),))
        columns = {"answers": "key, model, request, reply", "counts": "key, tokens"}
        for table, names in (columns | {"models": "id, about"}).items():
            file.execute(f"INSERT INTO {table} SELECT {names} FROM now.{table}")  # noqa: S608
        row = (request_key("letters", asked), "letters", request_text(asked), poison)
        file.execute("INSERT INTO answers VALUES (?, ?, ?, ?)", row)
    file.close()
    return path


def test_the_first_layout_is_read_as_it_is(
    whole: Path, first: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = first.read_bytes()
    assert replay(first) == replay(whole)
    assert "without checksums" in caplog.text
    assert first.read_bytes() == before
    with pytest.raises(InvalidData, match="holds an invalid answer"):
        RecordingModel(first).complete([replace(ask("poisoned"), choices=("A", "B"))])


def test_the_first_layout_is_migrated_by_a_writer(whole: Path, first: Path) -> None:
    model = Letters()
    found = replay(first, model)
    assert found[:2] == replay(whole)[:2]
    assert model.asked == 0
    assert list(AnswerFile(first, write=False).problems()) == []
    assert replay(first) == replay(whole)
    # What was never an answer is asked for at last.
    recording = RecordingModel(first, model)
    (reply,) = recording.complete([replace(ask("poisoned"), choices=("A", "B"))])
    assert reply.choice_logprobs == (-0.1 * len("poisoned"), -2.5)
    assert model.asked == 1


def test_a_migration_happens_whole_or_not_at_all(first: Path, tmp_path: Path) -> None:
    with sqlite3.connect(first) as file:
        file.execute("UPDATE answers SET request = replace(request, 'question 3', 'question 4')")
    file.close()
    before = first.read_bytes()
    with pytest.raises(InvalidData, match="holds a damaged answer"):
        RecordingModel(first, Letters())
    assert first.read_bytes() == before
    # Of 33 answers one has lost its request, and the poisoned one never was an answer.
    assert RecordingModel(first).copy(tmp_path / "rest", skip_damaged=True) == (32, 2)


# ---------------------------------------------------------------------------- what is an answer


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"choice_logprobs": None}, "log-probabilities of 2 letters and returned None"),
        ({"choice_logprobs": (-1.0,)}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": (-1.0, float("nan"))}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": (-1.0, -float("inf"))}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": (float("inf"), -1.0)}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": (0.5, -1.0)}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": ("a", -1.0)}, "log-probabilities of 2 letters"),
        ({"choice_logprobs": np.array([-1.0, -2.0])}, "log-probabilities of 2 letters"),
        ({"text": None}, "text is a NoneType"),
        ({"text": b"A"}, "text is a bytes"),
        ({"finish_reason": None}, "finish_reason is a NoneType"),
        ({"finish_reason": "abort"}, "did not finish"),
        ({"prompt_tokens": -1}, "counted -1 prompt tokens"),
        ({"completion_tokens": 1.5}, "1.5 completion tokens"),
        ({"prompt_tokens": None}, "counted None prompt tokens"),
        ({"prompt_tokens": 1 << 40}, "integers from 0 to"),
    ],
)
def test_invalid_answers_are_not_kept(tmp_path: Path, changed: dict[str, Any], match: str) -> None:
    """The others of its batch are; and the next time it is asked for again."""

    class Faulty(Letters):
        mended = False

        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            replies: list[Any] = super().complete(requests)
            if not self.mended:
                replies[1] = replace(replies[1], **changed)
            return replies

    model = Faulty()
    recording = RecordingModel(tmp_path / "a.sqlite", model)
    with pytest.raises(BrokenContract, match=match):
        recording.complete(ASKED[-3:])
    assert (len(recording), recording.asked) == (2, 3)
    model.mended = True
    assert recording.complete(ASKED[-3:]) == Letters().complete(ASKED[-3:])
    assert (model.asked, len(recording)) == (4, 3)
    assert replay_of(recording.path, ASKED[-3:]) == Letters().complete(ASKED[-3:])


def replay_of(path: Path, requests: Sequence[Request]) -> list[Reply]:
    return RecordingModel(path).complete(requests)


@pytest.mark.parametrize("reply", [None, "A", {"text": "A"}, 3])
def test_other_things_than_replies_are_refused(tmp_path: Path, reply: Any) -> None:
    class Other(Letters):
        def answer(self, request: Request) -> Reply:
            return reply  # type: ignore[no-any-return]

    recording = RecordingModel(tmp_path / "a.sqlite", Other())
    with pytest.raises(BrokenContract, match="instead of a Reply"):
        recording.complete(ASKED[:2])
    assert len(recording) == 0


@pytest.mark.parametrize(
    "reply",
    [
        Reply(""),
        Reply("cut", finish_reason="length"),
        Reply("<html><body>502 Bad Gateway</body></html>"),
        Reply("\x00 \ud800 \u2028", np.int64(3), np.int32(0)),  # type: ignore[arg-type]
    ],
)
def test_any_text_of_a_model_is_an_answer(tmp_path: Path, reply: Reply) -> None:
    class Writes(Letters):
        def answer(self, request: Request) -> Reply:
            return reply

    path = tmp_path / "a.sqlite"
    assert RecordingModel(path, Writes()).complete(ASKED[:1]) == [reply]
    assert RecordingModel(path).complete(ASKED[:1]) == [reply]


def test_numbers_of_other_libraries_are_kept_as_plain_ones(tmp_path: Path) -> None:
    class Numpy(Letters):
        def answer(self, request: Request) -> Reply:
            return Reply("A", choice_logprobs=(np.float32(-0.1), np.float64(-2.0)))  # type: ignore[arg-type]

    path = tmp_path / "a.sqlite"
    (reply,) = RecordingModel(path, Numpy()).complete(ASKED[-1:])
    assert reply.choice_logprobs == (float(np.float32(-0.1)), -2.0)
    assert replay_of(path, ASKED[-1:]) == [reply]


def test_a_lost_model_leaves_only_answers(tmp_path: Path) -> None:
    class Lost(Letters):
        def complete(self, requests: Sequence[Request]) -> list[Reply]:
            raise ModelUnavailable("gone", {0: Reply("first"), 1: Reply("x", -1), 2: None})

    recording = RecordingModel(tmp_path / "a.sqlite", Lost())
    with pytest.raises(ModelUnavailable, match="gone"):
        recording.complete(ASKED[:3])
    assert len(recording) == 1


@pytest.mark.parametrize("count", [-1, 1.5, None, "3", True, 1 << 40])
def test_a_count_of_tokens_is_a_number(tmp_path: Path, count: Any) -> None:
    class Counts(Letters):
        def count_tokens(self, text: str) -> int:
            return count  # type: ignore[no-any-return]

    recording = RecordingModel(tmp_path / "a.sqlite", Counts())
    with pytest.raises(BrokenContract, match=r"count_tokens of model 'letters' returned"):
        recording.count_tokens("a b c")
    recording.model = Letters()
    assert recording.count_tokens("a b c") == 3


def test_a_model_lost_before_its_capabilities_are_known_gets_no_more_requests(
    tmp_path: Path,
) -> None:
    class Silent(Letters):
        probes = 0

        @property
        def capabilities(self) -> frozenset[str]:  # type: ignore[override]
            self.probes += 1
            raise ModelUnavailable("no")

    model = Silent()
    recording = RecordingModel(tmp_path / "a.sqlite", model, chunk=1)
    recording.complete(ASKED[:5])
    assert (model.probes, len(recording)) == (1, 5)
    recording.close()
    assert RecordingModel(tmp_path / "a.sqlite").context_length == 4096


# ------------------------------------------------------------------------ lines of an export


def exported(whole: Path, tmp_path: Path) -> list[dict[str, Any]]:
    RecordingModel(whole).export(tmp_path / "a.jsonl")
    return [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]


Change = Callable[[dict[str, Any]], Any]
HOSTILE: dict[str, tuple[Change, str]] = {
    "another key": (lambda row: row | {"key": "0" * 64}, "checksum is that of another"),
    "another key, no checksum": (
        lambda row: {k: v for k, v in row.items() if k != "checksum"} | {"key": "0" * 64},
        "its key is not the digest",
    ),
    "a key that is no text": (lambda row: row | {"key": 3}, "key and model must be texts"),
    "another model": (lambda row: row | {"model": "other"}, "digest|an answer of 'other'"),
    "another request": (
        lambda row: row | {"request": row["request"] | {"grammar": "x"}},
        "its key is not the digest",
    ),
    "a request with more": (
        lambda row: row | {"request": row["request"] | {"more": 1}},
        "not the fields of a request",
    ),
    "a request of another type": (lambda row: row | {"request": [1]}, "fields of a request"),
    "no request": (lambda row: row | {"request": None}, "of another type"),
    "messages that are none": (
        lambda row: row | {"request": row["request"] | {"messages": "abc"}},
        "of another type",
    ),
    "another temperature": (
        lambda row: (
            row
            | {
                "request": row["request"]
                | {"generation": row["request"]["generation"] | {"top_p": 9}}
            }
        ),
        "top_p in",
    ),
    "another reply": (
        lambda row: row | {"reply": row["reply"] | {"text": "better"}},
        "checksum is that of another",
    ),
    "a reply that is none": (
        lambda row: {k: v for k, v in row.items() if k != "checksum"} | {"reply": {"text": "x"}},
        "a field is missing",
    ),
    "a negative count": (
        lambda row: (
            {k: v for k, v in row.items() if k != "checksum"}
            | {"reply": row["reply"] | {"prompt_tokens": -3}}
        ),
        "integers from 0",
    ),
    "another turn": (lambda row: row | {"turn": row["turn"] + 1}, "digest"),
    "a turn that is none": (lambda row: row | {"turn": "1"}, "turn must be an integer"),
    "another checksum": (lambda row: row | {"checksum": "00"}, "checksum is that of another"),
    "one field more": (lambda row: row | {"more": 1}, "must have the fields"),
    "one field less": (lambda row: {"key": row["key"]}, "must have the fields"),
    "a list": (lambda row: [row], "must have the fields"),
    "a number": (lambda row: 3, "this one has none"),
    "half a letter": (lambda row: row | {"model": "\ud800"}, "surrogates not allowed"),
}


@pytest.mark.parametrize("change", HOSTILE.values(), ids=HOSTILE)
def test_lines_that_are_no_recorded_answers(
    whole: Path, tmp_path: Path, change: tuple[Change, str]
) -> None:
    rows: list[Any] = exported(whole, tmp_path)
    rows[7] = change[0](rows[7])
    lines = tmp_path / "b.jsonl"
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    with pytest.raises(InvalidData, match=f"line 8 is not a recorded answer: .*({change[1]})"):
        RecordingModel(tmp_path / "b.sqlite", Letters()).import_lines(lines)
    assert len(RecordingModel(tmp_path / "b.sqlite", Letters())) == 0


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"\xff\xfe\x00", "line 1 is not a recorded answer"),
        (b"[" * 1_000_000, "line 1 is not a recorded answer"),
        (b'{"key": ' + b"9" * 10_000 + b"}", "line 1 is not a recorded answer"),
        (b"\n", "line 1 is not a recorded answer"),
        (b" " * ((1 << 25) + 2), "line 1 is longer than"),
    ],
    ids=["no text", "deep", "digits", "nothing", "long"],
)
def test_files_of_other_kinds_are_not_imported(tmp_path: Path, content: bytes, match: str) -> None:
    (tmp_path / "b.jsonl").write_bytes(content)
    recording = RecordingModel(tmp_path / "b.sqlite", Letters())
    with pytest.raises(InvalidData, match=match):
        recording.import_lines(tmp_path / "b.jsonl")
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidData, match="cannot be read"):
            recording.import_lines(path)


def test_lines_are_imported_once(whole: Path, tmp_path: Path) -> None:
    rows = exported(whole, tmp_path)
    lines = tmp_path / "b.jsonl"
    assert {row["turn"] for row in rows} == {0, 1, 2, 3}
    # As exports were before there were checksums and turns; and each line twice.
    old = [{k: row[k] for k in ("key", "model", "request", "reply")} for row in rows]
    lines.write_text("".join(f"{json.dumps(row)}\n" for row in [*old, *rows]))
    other = RecordingModel(tmp_path / "b.sqlite", Letters())
    assert other.import_lines(lines) == len(rows)
    assert other.import_lines(lines) == 0
    assert other.complete(ASKED) == replay(whole)[0]
    assert other.asked == 0
    # What is there stays, and a file that contradicts itself is refused.
    changed = old[3] | {"reply": old[3]["reply"] | {"completion_tokens": 99}}
    lines.write_text(json.dumps(changed))
    assert other.import_lines(lines) == 0
    assert other.complete(ASKED) == replay(whole)[0]
    lines.write_text(f"{json.dumps(changed)}\n{json.dumps(old[3])}")
    with pytest.raises(InvalidData, match=r"line 2 .*a line before it answers the same request"):
        RecordingModel(tmp_path / "c.sqlite", Letters()).import_lines(lines)


def test_answers_of_another_model_are_not_imported(whole: Path, tmp_path: Path) -> None:
    class Other(Letters):
        id = "other"

    rows = exported(whole, tmp_path)
    recording = RecordingModel(tmp_path / "b.sqlite", Other())
    with pytest.raises(InvalidData, match=r"line 1 .*an answer of 'letters', not of 'other'"):
        recording.import_lines(tmp_path / "a.jsonl")
    for row in rows[2:]:
        row["model"], row["key"] = "other", key_of("other", json.dumps(row["request"]))
    recording.complete(ASKED[:1])
    recording.export(tmp_path / "other.jsonl")
    both = tmp_path / "both.jsonl"
    both.write_text((tmp_path / "a.jsonl").read_text() + (tmp_path / "other.jsonl").read_text())
    with pytest.raises(InvalidData, match=r"line 34 .*an answer of 'other', not of 'letters'"):
        AnswerFile(tmp_path / "c.sqlite", write=True).import_lines(both)


# ---------------------------------------------------------------------- places that differ


def test_a_recording_is_copied_while_it_is_written(whole: Path, tmp_path: Path) -> None:
    """Its last answers lie in the log, which a copy of the file alone would lack."""
    path = tmp_path / "a.sqlite"
    recording = RecordingModel(path, Letters())
    recording.complete(ASKED)
    shutil.copy(path, tmp_path / "alone")
    assert RecordingModel(path).copy(tmp_path / "b.sqlite") == (33, 0)
    recording.complete([ask("more")])
    assert replay_of(tmp_path / "b.sqlite", ASKED) == replay(whole)[0]
    with pytest.raises(RPPError):
        replay_of(tmp_path / "alone", ASKED)
    assert len(RecordingModel(tmp_path / "b.sqlite")) == 33


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user of this machine can enter."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


READ_ONLY = """
import os, sys
from pathlib import Path
from rpp_env.errors import RecordingFailed
from rpp_env.models import RecordingModel
from rpp_env.models.answer_file import AnswerFile
from tests.test_recording_damage import ASKED, TEXTS, Letters
# All that is needed is loaded before it cannot be: Python may lie where root alone can read.
RecordingModel(Path(sys.argv[2]) / "before", Letters()).complete(ASKED)
AnswerFile(Path(sys.argv[2]) / "before", write=False).copy(Path(sys.argv[2]) / "copied")
if os.getuid() == 0:
    os.setresgid(65534, 65534, 65534)
    os.setresuid(65534, 65534, 65534)
for name in ("closed", "killed", "alone"):
    path = Path(sys.argv[1]) / name / "a.sqlite"
    before = sorted(path.parent.iterdir())
    try:
        RecordingModel(path, Letters())
    except RecordingFailed as error:
        assert "the file and its folder must be writable" in str(error), error
    else:
        raise AssertionError("opened for writing")
    try:
        recording = RecordingModel(path)
    except RecordingFailed as error:
        assert name == "alone" and "recording copy` makes one file of both" in str(error), error
    else:
        assert name != "alone"
        recording.complete(ASKED)
        recording.close()
    AnswerFile(path, write=False).copy(Path(sys.argv[2]) / name)
    assert len(RecordingModel(Path(sys.argv[2]) / name).complete(ASKED)) == 33
    assert sorted(path.parent.iterdir()) == before
"""


def test_a_read_only_recording_is_replayed(place: Path) -> None:
    """With its log, too, if a killed process left one; where that is impossible, copied."""
    copies = place / "copies"
    copies.mkdir()
    copies.chmod(0o777)
    for name, ends in (
        ("closed", ("",)),
        ("killed", ("", "-wal", "-shm")),
        ("alone", ("", "-wal")),
    ):
        (place / name).mkdir()
        recording = RecordingModel(place / "open.sqlite", Letters())
        recording.complete(ASKED)
        if name == "closed":
            recording.close()
        for end in ends:
            kept = shutil.copy(f"{place}/open.sqlite{end}", f"{place}/{name}/a.sqlite{end}")
            Path(kept).chmod(0o444)
        recording.close()
        (place / "open.sqlite").unlink()
        (place / name).chmod(0o555)
    root = Path(__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(place), str(copies)],
        cwd=root,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, [str(root), *sys.path]))},
        capture_output=True,
        text=True,
        check=False,
    )
    for name in ("closed", "killed", "alone"):
        (place / name).chmod(0o755)
    assert done.returncode == 0, done.stderr


def test_a_file_that_changes_under_a_reader_without_locks_is_reopened(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.sqlite"
    shutil.copy(whole, path)
    monkeypatch.setattr("rpp_env.models.database._writable", lambda _: False)
    reader = RecordingModel(path)
    assert reader._file._frozen
    monkeypatch.undo()
    writer = RecordingModel(path, Letters())
    writer.complete([ask("new")])
    writer.close()
    assert reader.complete([ask("new")])[0].text == "said new"


def test_a_file_that_is_deleted_under_its_writer_is_an_error(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    recording = RecordingModel(path, Letters())
    recording.complete(ASKED[:1])
    for file in tmp_path.glob("a.sqlite*"):
        file.unlink()
    with pytest.raises(RecordingFailed, match="was deleted or replaced while it was open"):
        recording.complete(ASKED[1:2])
    recording.complete(ASKED[2:3])
    assert len(recording) == 1


@pytest.fixture
def without_shared_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    connect = sqlite3.connect

    def without_log(path: str, **options: Any) -> sqlite3.Connection:
        # The system that locks by files has no shared memory, and stays without a log.
        if options.get("uri"):
            path = f"{path}&vfs=unix-dotfile"
        return connect(path, **options)

    monkeypatch.setattr("rpp_env.models.database.sqlite3.connect", without_log)
    return


@pytest.mark.usefixtures("without_shared_memory")
def test_a_file_system_without_logs(whole: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.sqlite"
    assert replay(path, Letters())[0] == replay(path)[0]
    recording = RecordingModel(path, Letters())
    recording.complete([ask("new")])
    assert recording._file._opened().execute("PRAGMA journal_mode").fetchone() == (b"delete",)
    assert recording._file._opened().execute("PRAGMA synchronous").fetchone() == (3,)
    recording.close()
    assert sorted(tmp_path.iterdir()) == [path]
