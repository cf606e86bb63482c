"""The command's output fits the terminal, in lines broken between words."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from rpp_agents import TRAINERS
from rpp_agents.cli import COMMANDS, main
from rpp_agents.commands.console import columns, show, wrap
from rpp_agents.commands.options import details, read, wrapped

HELPS = [[], *([verb] for verb in COMMANDS), *(["train", name] for name in TRAINERS)]


@dataclasses.dataclass(frozen=True)
class Place:
    """Where it happens."""

    town: str = "here"
    """A town that is named in full, with the county and the country, so that the help of this
    option is longer than one line."""


def walk(
    legs: int = 2,
    /,
    place: tyro.conf.OmitArgPrefixes[Place] = Place(),
    note: str | None = None,
    back: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> str:
    """Walk.

    A paragraph that goes on for more than one line of a terminal of eighty columns, so that it has
    to be wrapped.

        an example   of which  every blank counts

    Parameters
    ----------
    legs
        Number of legs.
    note
        A note that is long, with a number of words that do not fit on the one line that it would
        have.
    back
        Walk back.
    """
    return f"{legs} {place.town} {note} {back}"


def lines_of_help(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    with contextlib.suppress(SystemExit):
        main([*words, "--help"])
    return capsys.readouterr().out.splitlines()


# ---- help ----


@pytest.mark.parametrize("words", HELPS, ids=[" ".join(words) or "rpp-env" for words in HELPS])
def test_help_fits_eighty_columns(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = lines_of_help(words, capsys)
    assert len(lines) > 4
    assert [line for line in lines if len(line) > 80] == []
    assert "None)" not in "\n".join(lines)


def test_options_are_read_and_bound() -> None:
    words = ["3", "--town", "there", "--note", "x y", "--back"]
    assert read(walk, "walk", words)() == "3 there x y True"  # type: ignore[arg-type, func-returns-value]
    assert read(walk, "walk", [])() == "2 here None False"  # type: ignore[arg-type, func-returns-value]


def test_help_is_wrapped_between_words_without_empty_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    with pytest.raises(SystemExit) as stopped:
        read(walk, "walk", ["--help"])  # type: ignore[arg-type]
    assert stopped.value.code == 0
    out = capsys.readouterr().out
    inside = [line.strip("│| ") for line in out.splitlines()]
    text = " ".join(inside)
    assert "so that the help of this option is longer than one line. (default: here)" in text
    assert max(len(line) for line in inside) > 70
    assert out.count("(default: ") == 2  # 2 legs, and the town
    assert "Number of legs. (default: 2)" in text
    assert "\n    an example   of which  every blank counts\n" in out
    assert "of eighty columns,\nso that it has to be wrapped." in out


def test_a_wrong_option_ends_without_the_details(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        read(walk, "walk", ["--towns", "x"])  # type: ignore[arg-type]
    assert stopped.value.code == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "--town" in err


def test_details_are_the_text_before_the_parameters() -> None:
    summary, more = details(walk)
    assert summary == "Walk."
    assert more.startswith("A paragraph")
    assert more.endswith("every blank counts")


def test_long_words_are_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    url = "http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf"
    assert url in wrapped(f"see where it is: {url} for more").splitlines()


# ---- lines and tables ----


def test_lines_are_broken_between_words() -> None:
    text = "  one two three four\nshort\n"
    assert wrap(text, 12) == "  one two\n    three\n    four\nshort\n"
    assert wrap("a-b c:/d/e-f/g h", 8) == "a-b\n  c:/d/e-f/g\n  h"
    assert wrap("fits   as it   is", 20) == "fits   as it   is"
    assert wrap("", 5) == ""


def test_colours_take_no_room_and_wide_letters_take_two() -> None:
    red = "\x1b[31mone two\x1b[0m three"
    assert wrap(red, 13) == red
    assert wrap(red, 12) == "\x1b[31mone two\x1b[0m\n  three"
    assert wrap("日本 語", 7) == "日本 語"
    assert wrap("日本 語", 6) == "日本\n  語"
    assert wrap("é" * 4 + " e\u0301e\u0301", 7) == "é" * 4 + " e\u0301e\u0301"


REPORT = """`movieworld`: a report.

|                      |              NDCG@10 | step 1 | step 5 |
|----------------------|---------------------:|-------:|-------:|
| best fixed prompt    | 0.464 [0.449, 0.481] |  0.464 |  0.464 |
| observable reference | 0.521 [0.506, 0.538] |  0.520 |  0.521 |

A sentence that says what the numbers are, which is longer than eighty columns are wide, by far.
"""
WIDE = "\n".join(
    "| " + " | ".join(cells) + " |"
    for cells in (
        ["method with a long name", *(f"contrast {i}" for i in range(7))],
        ["---"] * 8,
        ["best of several fixed prompts", *(f"-0.00{i} [-0.01{i}, 0.02{i}]" for i in range(7))],
        ["x", *("none",) * 7],
    )
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def on_terminal(run: Callable[[], object], columns: int = 80) -> list[str]:
    """The lines that `run` prints on a terminal of so many columns, without colours."""
    with pytest.MonkeyPatch.context() as patch:
        screen = Terminal()
        patch.setattr("sys.stdout", screen)
        patch.setattr("sys.stderr", screen)
        patch.setenv("COLUMNS", str(columns))
        patch.setenv("TERM", "xterm")
        patch.delenv("NO_COLOR", raising=False)
        run()
    return plain(screen.getvalue())


def plain(text: str) -> list[str]:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).rstrip("\n").split("\n")


def test_a_report_is_drawn_on_a_terminal_and_markdown_elsewhere(
    capsys: pytest.CaptureFixture[str],
) -> None:
    show(REPORT)
    assert capsys.readouterr().out == REPORT
    lines = on_terminal(lambda: show(REPORT))
    assert max(map(len, lines)) <= 80
    assert not any("|" in line for line in lines)
    (row,) = (line for line in lines if line.startswith("observable reference"))
    assert row.split()[2:] == ["0.521", "[0.506,", "0.538]", "0.520", "0.521"]
    assert "`movieworld`: a report." in lines
    assert "columns are wide, by far." in " ".join(lines)
    assert not any(line.startswith(" ") for line in lines if "columns" in line)


@pytest.mark.parametrize("width", [60, 80, 120, 400])
def test_a_table_that_is_too_wide_becomes_several_whole_ones(width: int) -> None:
    lines = on_terminal(lambda: show(WIDE), width)
    assert max(map(len, lines)) <= width
    for i in range(7):  # each head and each number once, in one piece
        assert sum(f"contrast {i}" in line for line in lines) == 1
        assert sum(f"-0.00{i} [-0.01{i}, 0.02{i}]" in line for line in lines) == 1
    counts = [line.count("contrast") for line in lines if "contrast" in line]
    assert max(counts) - min(counts) <= 1  # no column is left over


def test_columns_break_their_last_one_on_a_terminal() -> None:
    rows = [
        ("name", "kind", "a place that is far away and takes many words to say"),
        ("b", "c", "d"),
    ]
    assert columns(rows).count("\n") == 1
    lines = on_terminal(lambda: sys.stdout.write(columns(rows)), 40)
    assert lines[0] == "  name  kind  a place that is far away"
    assert lines[1].startswith(" " * 16)
    assert lines[-1] == "  b     c     d"
    assert max(map(len, lines)) <= 40


# ---- whole commands ----


def test_doctor_fits_a_terminal(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RPP_ENV_DATA", str(tmp_path))
    lines = on_terminal(lambda: main(["doctor"]))
    long = [line for line in lines if len(line) > 80]
    assert all(len(line.split()) == 1 for line in long)  # a path alone


def test_a_game_fits_a_terminal_and_shows_the_prompt_whole() -> None:
    words = ["play", "random", "--user", "u00047", "--steps", "1"]
    lines = on_terminal(lambda: main(words))
    assert max(map(len, lines)) == 80  # the rules
    assert sum(line.startswith("── ") for line in lines) == 5
    assert "These are the 20 candidate films:" in lines
    narrow = on_terminal(lambda: main(words), 50)
    assert max(map(len, narrow)) == 50
    assert " ".join(" ".join(lines).split()).count("1 of 1 steps: mean NDCG@10") == 1


def test_an_error_is_broken_between_words() -> None:
    lines = on_terminal(lambda: main(["play", "--dataset", "nowhere-that-anybody-knows"]))
    assert lines[0].startswith("rpp-env: ")
    assert len(lines) > 1
    assert max(map(len, lines)) <= 80


def test_a_real_terminal_is_one() -> None:
    pty = pytest.importorskip("pty", reason="there are no pseudo-terminals here")
    screen, end = pty.openpty()
    code = "from rpp_agents.cli import main; main(['play', 'random', '--steps', '1'])"
    environment = {**os.environ, "COLUMNS": "70", "TERM": "xterm"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen([sys.executable, "-c", code], stdout=end, env=environment)
    os.close(end)
    said = b""
    with contextlib.suppress(OSError):  # Linux: the other side is closed
        while piece := os.read(screen, 65536):
            said += piece
    os.close(screen)
    assert process.wait() == 0
    assert b"\x1b[35m" in said  # the role agent's colour
    assert max(map(len, plain(said.decode().replace("\r\n", "\n")))) == 70
