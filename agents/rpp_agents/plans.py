"""TOML files that say what to run: how they are read, and what things in them are called."""

from __future__ import annotations

import fnmatch
import hashlib
import json
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rpp_env.data.movieworld import LEVELS
from rpp_env.errors import InvalidOption
from rpp_env.options import unknown

__all__ = [
    "check_different",
    "matches",
    "nameless",
    "plain",
    "read_toml",
    "selected",
    "short",
    "slug",
    "world_option",
]


class _Cell(Protocol):
    def matches(self, pattern: str) -> bool: ...


Matched = TypeVar("Matched", bound=_Cell)


def read_toml(which: str | Path, presets: Path, what: str) -> tuple[dict[str, Any], Path]:
    """The tables of a TOML file, or of the shipped one of that name; and where it lies.

    Raises
    ------
    InvalidOption
        Where there is none, or it is no TOML.
    """
    path = Path(which)
    if path.suffix != ".toml":
        path = presets / f"{which}.toml"
    if not path.is_file():
        shipped = sorted(file.stem for file in presets.glob("*.toml"))
        raise InvalidOption(
            f"{unknown(what, str(which), shipped)}. A file of your own ends in .toml"
        )
    try:
        told = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InvalidOption(f"{path} is not TOML: {error}") from error
    return told, path


def nameless(told: Mapping[str, Any], what: str, where: str) -> dict[str, Any]:
    """A copy of the tables of a file, which must not say what it is called."""
    if "name" in told:
        raise InvalidOption(f"{where}: a {what} is called as its file is; leave out 'name'")
    return dict(told)


def world_option(dataset: str, world: int) -> dict[str, Any]:
    """How `RPPEnv.make` is told the world: it is made by a seed, or its candidates are drawn."""
    return {"data_seed" if dataset.lower() in LEVELS else "task_seed": world}


def slug(name: str) -> str:
    """A name as a file's."""
    return re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("+", "-plus-")).strip("-")


def check_different(names: Sequence[str], what: str, where: str) -> None:
    """Refuse names of which two are, or look as files, the same."""
    slugs = [slug(name) for name in names]
    if twice := [name for name, s in zip(names, slugs, strict=True) if slugs.count(s) > 1]:
        raise InvalidOption(f"{where}: two have the {what} {twice[-1]!r} (or one that looks so)")


def selected(cells: Sequence[Matched], only: Sequence[str], there: str) -> list[Matched]:
    """The cells that one of the patterns `only` means; all without patterns.

    Raises
    ------
    InvalidOption
        For a pattern that means none, with what is `there`.
    """
    for pattern in only:
        if not any(cell.matches(pattern) for cell in cells):
            raise InvalidOption(f"--only {pattern!r} matches nothing: {there}")
    return [cell for cell in cells if not only or any(cell.matches(p) for p in only)]


def matches(left: str, right: str, pattern: str) -> bool:
    """Whether LEFT/RIGHT, or one of the two alone, is what a pattern with ``*`` and ``?`` says."""
    left, right, pattern = left.lower(), right.lower(), pattern.lower()
    if pattern in (left, right, f"{left}/{right}"):
        return True  # as it stands, whatever brackets are in it
    if "/" in pattern:
        first, second = pattern.split("/", 1)
        return fnmatch.fnmatchcase(left, first) and fnmatch.fnmatchcase(right, second)
    return fnmatch.fnmatchcase(left, pattern) or fnmatch.fnmatchcase(right, pattern)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """As a JSON file gives it back, so that the two compare."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def short(value: Any) -> str:
    """Eight letters that stand for a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
