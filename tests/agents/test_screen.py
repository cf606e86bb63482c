"""What the command prints fits the terminal, in lines that are broken between words."""

from __future__ import annotations

import contextlib
import dataclasses
from typing import Annotated

import pytest
import tyro

from rpp_agents import TRAINERS
from rpp_agents.cli import COMMANDS, main
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


def test_help_is_wrapped_between_words_and_says_no_empty_default(
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


def test_details_are_what_stands_before_the_parameters() -> None:
    summary, more = details(walk)
    assert summary == "Walk."
    assert more.startswith("A paragraph")
    assert more.endswith("every blank counts")


def test_long_words_are_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    url = "http://127.0.0.1:8000/v1#meta-llama/Llama-2-7b-chat-hf"
    assert url in wrapped(f"see where it is: {url} for more").splitlines()
