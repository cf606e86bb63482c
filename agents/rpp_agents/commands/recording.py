"""``rpp-env recording``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import tyro

from rpp_agents.commands.console import say
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.models import RecordingModel
from rpp_env.models.answer_file import AnswerFile

__all__ = ["run"]

MOST_SHOWN = 20
"""Maximum damaged rows that `check` lists."""


def run(
    action: Annotated[
        Literal["check", "copy", "export", "import"],
        tyro.conf.arg(metavar="ACTION"),
    ],
    file: Annotated[Path, tyro.conf.arg(metavar="FILE")],
    to: Annotated[Path | None, tyro.conf.arg(metavar="[OTHER]")] = None,
    /,
    model: Annotated[str | None, tyro.conf.arg(metavar="ID")] = None,
    skip_damaged: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    """Check, copy, export or import a model's recorded answers.

    A recording may be in use meanwhile. Copy it with this command and not as a file: its latest
    answers lie in a second file until they are moved into it.

        rpp-env recording check answers.sqlite
        rpp-env recording copy answers.sqlite copy.sqlite
        rpp-env recording export answers.sqlite answers.jsonl
        rpp-env recording import answers.sqlite answers.jsonl

    Parameters
    ----------
    action
        check compares every answer with its checksum; copy writes a new recording; export writes
        JSON lines; import adds the answers of JSON lines, and changes none.
    file
        The recording; import makes it if there is none.
    to
        The file to write (copy, export) or to read (import).
    model
        Id of the model whose answers are exported or imported; needed where there are several.
    skip_damaged
        Copy the answers that are whole, and skip the others; otherwise damage is an error.
    """
    if (action == "check") == (to is not None):
        wanted = "one file" if action == "check" else "two files"
        raise InvalidOption(f"{action} takes {wanted}: see rpp-env recording --help")
    if skip_damaged and action != "copy":
        raise InvalidOption("--skip-damaged is an option of copy")
    if model is not None and action in {"check", "copy"}:
        raise InvalidOption(f"--model is an option of export and import: {action} takes all")
    if to is None:
        _check(file)
    elif action == "copy":
        copied, skipped = AnswerFile(file, write=False).copy(to, skip_damaged=skip_damaged)
        without = f"; damaged rows skipped: {skipped:,}" if skipped else ""
        say(f"{to}: {copied:,} answers{without}")
    elif action == "export":
        say(f"{to}: {RecordingModel(file, id=model).export(to):,} answers")
    else:
        say(f"{file}: {AnswerFile(file, write=True).import_lines(to, model):,} new answers")


def _check(path: Path) -> None:
    file = AnswerFile(path, write=False)
    counts = {model: file.count(model) for model in file.models()}
    problems = 0
    for problem in file.problems():
        problems += 1
        if problems <= MOST_SHOWN:
            say(f"{path} {problem}")
    if problems:
        more = f", of which {MOST_SHOWN} are shown" if problems > MOST_SHOWN else ""
        raise InvalidData(
            f"{path}: {problems:,} problems{more}. `rpp-env recording copy {path} NEW "
            "--skip-damaged` saves the rest"
        )
    for model, count in counts.items():
        whole = "all whole" if file.has_checksums else "recorded before there were checksums"
        say(f"{path}: {count:,} answers of {model}, {whole}")
    if not counts:
        say(f"{path}: no answers")
