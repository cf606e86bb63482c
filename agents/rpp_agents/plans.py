"""TOML files that say what to run: how they are read, and what things in them are called."""

from __future__ import annotations

import dataclasses
import difflib
import fnmatch
import hashlib
import importlib
import json
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rpp_agents import TRAINERS
from rpp_env.data.movieworld import LEVELS
from rpp_env.errors import InvalidOption

__all__ = [
    "check_different",
    "made",
    "matches",
    "nameless",
    "plain",
    "read_toml",
    "selected",
    "short",
    "slug",
    "trainer_config",
    "unknown",
    "world_option",
]


Made = TypeVar("Made")


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
        shipped = ", ".join(sorted(file.stem for file in presets.glob("*.toml")))
        raise InvalidOption(f"there is no {what} {str(which)!r}: name one of {shipped}, or a file")
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


_KINDS: dict[str, tuple[type | tuple[type, ...], str]] = {
    "bool": (bool, "true or false"),
    "int": (int, "a whole number"),
    "str": (str, "a text"),
    "Mapping": (Mapping, "a table"),
    "float": ((int, float), "a number"),
    "tuple[int": (list, "a list of whole numbers"),
    "Sequence[int": (list, "a list of whole numbers"),
    "Sequence[Mapping": (list, "a list of tables"),
    "Sequence[str": (list, "a list of texts"),
    "tuple": (tuple, "a list of tables"),
}


_INNER: dict[str, type] = {"int": int, "Mapping": Mapping, "Sequence[str": str}


def made(kind: type[Made], told: Mapping[str, Any], where: str, hidden: Iterable[str] = ()) -> Made:
    """A dataclass from a table: unknown, missing and wrong things get a sentence."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.name not in hidden}  # type: ignore[arg-type]
    for key in told:
        if key not in fields:
            raise InvalidOption(f"{where}: {unknown('key', key, fields)}")
    missing = dataclasses.MISSING
    values: dict[str, Any] = {}
    for name, one in fields.items():
        if name not in told:
            if one.default is missing and one.default_factory is missing:
                raise InvalidOption(f"{where}: {name!r} is missing")
            continue
        value, said = told[name], str(one.type)
        if said.startswith("Literal"):
            allowed = re.findall(r"['\"](.*?)['\"]", said)
            if value not in allowed:
                raise InvalidOption(f"{where}: {name} is {value!r}; it may be {', '.join(allowed)}")
        else:
            types, words = next(x for start, x in _KINDS.items() if said.startswith(start))
            items = value if isinstance(value, list) else [value]
            inner = next((k for word, k in _INNER.items() if word in said), object)
            good = isinstance(value, types) and all(isinstance(x, inner) for x in items)
            if not good or (types is not bool and any(isinstance(x, bool) for x in items)):
                raise InvalidOption(f"{where}: {name} must be {words}, not {value!r}")
        values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


def trainer_config(trainer: str, told: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """A trainer's Config from a table, with `fixed` fields where it has them.

    Raises
    ------
    InvalidOption
        For a trainer or a field that does not exist, or a value that is not allowed.
    """
    if trainer not in TRAINERS:
        raise InvalidOption(f"{where}: {unknown('trainer', trainer, TRAINERS)}")
    kind = importlib.import_module(f"rpp_agents.{trainer}").Config
    known = [one.name for one in dataclasses.fields(kind)]
    for key in told:
        if key not in known:
            raise InvalidOption(f"{where}: {unknown('option', key, sorted(known))}")
    # TOML has lists, configs hold tuples.
    values = {k: tuple(x) if isinstance(x, list) else x for k, x in told.items()}
    try:
        return kind(**values, **{key: x for key, x in fixed.items() if key in known})
    except (TypeError, InvalidOption) as error:
        raise InvalidOption(f"{where}: {error}") from error


def unknown(what: str, key: str, known: Iterable[str]) -> str:
    """What to say of a name that does not exist, with the one that may be meant."""
    close = difflib.get_close_matches(key, list(known), 1)
    meant = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(known)}"
    return f"{what} {key!r} is not known; {meant}"
