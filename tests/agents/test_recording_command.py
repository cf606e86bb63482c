"""``rpp-env recording``, and recordings through the other verbs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from rpp_agents.cli import main
from rpp_env.models import Generation, RecordingModel, Reply, Request


class Parrot:
    id, context_length = "parrot", 4096
    capabilities: frozenset[str] = frozenset()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(f"said {request.messages[0]['content']}") for request in requests]


def ask(text: str) -> Request:
    return Request(({"role": "user", "content": text},), Generation())


BOOK = """
domain = "movies"
history_lead = "I have watched:"
candidates_lead = "These are the {k} candidate films:"
role_playing = ["", "You know films."]
reasoning_guidance = ["Rank the {k} films.", "Rank them by what I have watched."]
[[output_format]]
text = "Give the {k} titles, one per line."
format = "bare"
contract = "Format of each line: <title>"
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    recording = RecordingModel(tmp_path / "a.sqlite", Parrot())
    recording.complete([ask(str(i)) for i in range(30)])
    recording.close()
    return tmp_path / "a.sqlite"


def test_a_recording_is_checked_copied_and_moved_as_lines(
    path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy, lines, other = (path.with_name(name) for name in ("b.sqlite", "b.jsonl", "c.sqlite"))
    assert main(["recording", "check", str(path)]) == 0
    assert "30 answers of parrot, all whole" in capsys.readouterr().out
    assert main(["recording", "copy", str(path), str(copy)]) == 0
    assert main(["recording", "export", str(copy), str(lines), "--model", "parrot"]) == 0
    assert main(["recording", "import", str(other), str(lines)]) == 0
    assert main(["recording", "import", str(other), str(lines)]) == 0
    said = capsys.readouterr().out.split()
    assert [word for word in said if word.isdigit()] == ["30", "30", "30", "0"]
    assert RecordingModel(other).complete([ask("7")])[0].text == "said 7"


def test_damage_is_named_and_the_rest_saved(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = bytearray(path.read_bytes())
    for number in range(5, 30):
        data[data.index(f'said {number}"'.encode())] ^= 2
    path.write_bytes(data)
    copy = path.with_name("b.sqlite")
    assert main(["recording", "check", str(path)]) == 2
    out, error = capsys.readouterr()
    assert out.count("holds a damaged answer (") == 20
    assert "25 problems, of which 20 are shown" in error
    assert "--skip-damaged` saves the rest" in " ".join(error.split())
    assert main(["recording", "copy", str(path), str(copy)]) == 2
    assert not copy.exists()
    assert main(["recording", "copy", str(path), str(copy), "--skip-damaged"]) == 0
    assert "5 answers; damaged rows skipped: 25" in capsys.readouterr().out
    assert main(["recording", "check", str(copy)]) == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["check", "a.sqlite", "b"], "check takes one file"),
        (["copy", "a.sqlite"], "copy takes two files"),
        (["check", "a.sqlite", "--skip-damaged"], "an option of copy"),
        (["copy", "a.sqlite", "b", "--model", "parrot"], "an option of export and import"),
        (["export", "a.sqlite", "b", "--model", "parrt"], "did you mean 'parrot'?"),
        (["check", "none"], "there is no recording"),
        (["check", "text"], "is not a recording"),
        (["copy", "a.sqlite", "text"], "exists: choose another path"),
        (["import", "b.sqlite", "text"], "line 1 is not a recorded answer"),
        (["import", "b.sqlite", "none"], "cannot be read"),
        (["import", "b.sqlite", "lines", "--model", "b"], "an answer of 'parrot', not of 'b'"),
        (["check", "empty"], "is empty: it holds no recording"),
    ],
)
def test_user_errors_state_a_remedy(
    path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: list[str],
    said: str,
) -> None:
    monkeypatch.chdir(path.parent)
    Path("text").write_text("no recording\n" * 100)
    Path("empty").touch()
    RecordingModel(path).export("lines")
    assert main(["recording", *words]) == 2
    assert said in " ".join(capsys.readouterr().err.split())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Stochastic Optimizer")
def test_all_verbs_record_in_several_processes(tmp_path: Path) -> None:
    """With their default two processes, one recording, and none of it asked for again."""
    path, book = tmp_path / "a.sqlite", tmp_path / "book.toml"
    book.write_text(BOOK)
    problem = ["--rules", "RPPBandit-v0", "--recording", str(path), "--book", str(book)]
    counts = [0]
    for words in (
        ["tabulate", str(tmp_path / "t.rpptable"), "--max-users", "20"],
        ["diagnose", "--users", "20", "--train-users", "30", "--json", str(tmp_path / "found")],
        [
            *("train", "mappo", "--run-dir", str(tmp_path / "run"), "--train-users", "40"),
            *("--total-steps", "128", "--num-envs", "64", "--eval-users", "9"),
        ],
    ):
        assert main([*words, *problem]) == 0
        counts.append(len(RecordingModel(path)))
    assert counts == sorted(set(counts))  # each asked something new
    assert json.loads((tmp_path / "found").read_text())
    assert main(["recording", "check", str(path)]) == 0
