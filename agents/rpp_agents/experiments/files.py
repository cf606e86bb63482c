"""Reading the TOML files of experiments, and checks of the names and sizes in them."""

from __future__ import annotations

import dataclasses
import fnmatch
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Protocol, TypeVar

from rpp_agents.trust import confirm
from rpp_env.errors import InvalidOption
from rpp_env.options import check_values, read_small, unknown
from rpp_env.plugins import FromFile, is_code
from rpp_env.rules import RULES, find_system
from rpp_env.sim.movieworld import LEVELS

__all__ = [
    "check_different",
    "check_problem",
    "check_size",
    "has_table",
    "matches",
    "nameless",
    "options_of",
    "plain",
    "read_toml",
    "selected",
    "short",
    "slug",
    "with_defaults",
    "world_option",
]


class _Named(Protocol):
    def matches(self, pattern: str) -> bool: ...


Matched = TypeVar("Matched", bound=_Named)

DEEPEST = 32
MOST = {
    "settings": 200,
    "environments": 200,
    "methods": 500,
    "algorithms": 500,
    "seeds": 1000,
    "points": 10_000,
    "evaluations": 10_000,
    "runs": 20_000,
}
"""Maximum rows and numbers of a plan: an untrusted file could ask for a report of any length."""
LARGEST_WORLD = {"num_users": 200_000, "num_items": 100_000, "dim": 1024}
"""Maximum sizes of a generated world in a plan: a report generates it again to show its users."""
LONGEST_NAME = 100
"""Maximum characters of a label or name in a file."""


def read_toml(
    which: str | Path, presets: Path, what: str, trust: Sequence[str] = ()
) -> tuple[dict[str, Any], Path]:
    """Read the tables of a TOML file, or of the shipped one of that name; return its path too.

    Raises
    ------
    InvalidOption
        If there is none, or it is not TOML; if it names servers or code that are not confirmed in
        `trust`.
    """
    path = Path(which)
    if path.suffix != ".toml":
        path = presets / f"{which}.toml"
    if not path.is_file():
        if path.suffix == Path(which).suffix:
            raise InvalidOption(f"there is no file {which}")
        shipped = sorted(file.stem for file in presets.glob("*.toml"))
        raise InvalidOption(
            f"{unknown(what, str(which), shipped)}. A file of your own ends in .toml"
        )
    try:
        entries = tomllib.loads(read_small(path).decode())
    except OSError as error:
        raise InvalidOption(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidOption(f"{path} is not TOML: {error}") from error
    _check_plain(entries, str(path))
    if path.parent != presets:
        confirm(str(path), _places(entries), trust, f"use a {what} without them")
        entries = _marked(entries)
    return entries, path


def _check_plain(value: Any, where: str, depth: int = 0) -> None:
    """Check for values that later code could not print, save or traverse."""
    if depth > DEEPEST:
        raise InvalidOption(f"{where}: tables and lists lie in each other more than {DEEPEST} deep")
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            _check_plain(inner, where, depth + 1)
    elif isinstance(value, float) and not math.isfinite(value):
        raise InvalidOption(f"{where}: {value} is no finite number")
    elif isinstance(value, int) and abs(value) >= 1 << 63:
        raise InvalidOption(f"{where}: a whole number is beyond 64 bits")
    elif not isinstance(value, str | int | float):  # dates and times
        raise InvalidOption(f"{where}: {value} is no text, number, list or table: put it in quotes")


def check_size(where: str, **counts: int) -> None:
    """Check that each count of a plan is at most its limit in `MOST`.

    Raises
    ------
    InvalidOption
    """
    for name, count in counts.items():
        if count > MOST[name]:
            raise InvalidOption(f"{where}: {count:,} {name}, at most {MOST[name]:,} are allowed")


def check_problem(options: Mapping[str, Any], where: str) -> None:
    """Check the types and ranges of an environment's options.

    Raises
    ------
    InvalidOption
    """
    kind = options_of(options.get("rules", "RPP-v0"))
    known = {field.name for field in dataclasses.fields(kind)}
    try:
        kind(**{name: value for name, value in options.items() if name in known})
        check_values({"max_cycles": int | None, "padded_actions": bool}, options)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    for name, most in LARGEST_WORLD.items():
        if (options.get(name) or 0) > most:
            raise InvalidOption(f"{where}: {name} may be {most:,} in a plan, not {options[name]:,}")


def options_of(rules: str) -> Any:
    """Return the class of an id's options, besides `RPPEnv.make`'s own."""
    return resolve_name(find_system(rules).options)


def with_defaults(rows: Any, *place: str, **more: Any) -> Any:
    """Rows of a file, with the dataset of their rules, and `more`, where they do not name it.

    The rules stand at `place` in a row. Rows of sentences, and those that are refused later, are
    returned as they are.
    """
    if not isinstance(rows, list):
        return rows
    filled = []
    for row in rows:
        rules = row
        for key in place:
            rules = rules.get(key) if isinstance(rules, Mapping) else None
        with suppress(InvalidOption):
            if isinstance(rules, str) and rules not in RULES:
                row = {"dataset": find_system(rules).dataset, **more, **row}  # noqa: PLW2901
        filled.append(row)
    return filled


def has_table(path: Path, name: str) -> bool:
    """Return whether a TOML file contains a table of that name; False if it cannot be read."""
    try:
        return name in tomllib.loads(read_small(path).decode())
    except (OSError, ValueError, RecursionError):
        return False


def _marked(value: Any) -> Any:
    """Mark the addresses of servers in a file's tables as not the user's own."""
    if isinstance(value, dict):
        return {name: _marked(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return list(map(_marked, value))
    return FromFile(value) if isinstance(value, str) and _is_server(value) else value


def _is_server(text: str) -> bool:
    return text.partition(":")[0].lower() in ("http", "https")


_SHOWN = frozenset(
    {"name", "label", "family", "title", "part", "parts", "settings", "environments"}
)
"""Keys of rows that are only displayed, or name other rows."""


def _places(entries: Mapping[str, Any]) -> dict[str, str]:
    """Return the servers, code and written files that a file names: key and text."""
    found: dict[str, str] = {}

    def look(value: Any, key: str) -> None:
        if isinstance(value, Mapping):
            if key.endswith("model_options"):
                found[key] = json.dumps(value)
            for name, inner in value.items():
                look(inner, f"{key}.{name}")
        elif isinstance(value, list):
            for i, inner in enumerate(value):
                look(inner, f"{key}[{i}]")
        elif isinstance(value, str) and (
            _is_server(value) or is_code(value) or key.endswith("options.recording")
        ):
            found[key] = value

    for table, rows in entries.items():
        for i, row in enumerate(rows if isinstance(rows, list) else ()):
            for key, value in row.items() if isinstance(row, Mapping) else ():
                if key not in _SHOWN:
                    look(value, f"{table}[{i}].{key}")
    return found


def nameless(entries: Mapping[str, Any], what: str, where: str) -> dict[str, Any]:
    """Copy the tables of a file, which must not contain its name."""
    if "name" in entries:
        raise InvalidOption(f"{where}: a {what} has its file's name; leave out 'name'")
    return dict(entries)


def world_option(dataset: str, world: int) -> dict[str, Any]:
    """Return the option that selects the world: its seed, or that of the candidates."""
    return {"data_seed" if dataset.lower() in LEVELS else "task_seed": world}


def slug(name: str) -> str:
    """Convert a name to the name of a file or folder: never empty, and never a parent folder."""
    plain = re.sub(r"[^a-z0-9.]+", "-", name.lower().replace("+", "-plus-")).strip("-")
    return plain if plain.strip(".") else f"{plain.strip('.') or 'x'}-{short(name)}"


def check_different(names: Sequence[str], what: str, where: str) -> None:
    """Check that names differ as files, and can be used as files."""
    for name in names:
        if not name.strip() or len(name) > LONGEST_NAME or not name.isprintable():
            raise InvalidOption(
                f"{where}: a {what} is one line of 1 to {LONGEST_NAME} characters that can be "
                f"shown, not {name[: 2 * LONGEST_NAME]!r}"
            )
    slugs = [slug(name) for name in names]
    if twice := [name for name, s in zip(names, slugs, strict=True) if slugs.count(s) > 1]:
        raise InvalidOption(f"{where}: two have the {what} {twice[-1]!r} (or one that looks so)")


def selected(runs: Sequence[Matched], only: Sequence[str], there: str) -> list[Matched]:
    """Select the runs that match one of the patterns `only`; all without patterns.

    Raises
    ------
    InvalidOption
        For a pattern that matches none; `there` is what exists.
    """
    for pattern in only:
        if not any(run.matches(pattern) for run in runs):
            raise InvalidOption(f"--only {pattern!r} matches nothing: {there}")
    return [run for run in runs if not only or any(run.matches(p) for p in only)]


def matches(left: str, right: str, pattern: str) -> bool:
    """Return whether LEFT/RIGHT, or one of the two alone, matches a pattern (``*``, ``?``)."""
    left, right, pattern = left.lower(), right.lower(), pattern.lower()
    if pattern in (left, right, f"{left}/{right}"):
        return True  # literally, whatever brackets are in it
    if "/" in pattern:
        first, second = pattern.split("/", 1)
        return fnmatch.fnmatchcase(left, first) and fnmatch.fnmatchcase(right, second)
    return fnmatch.fnmatchcase(left, pattern) or fnmatch.fnmatchcase(right, pattern)


def plain(value: Mapping[str, Any]) -> dict[str, Any]:
    """Convert a value through JSON, so that it compares equal to one read from a file."""
    plain: dict[str, Any] = json.loads(json.dumps(value))
    return plain


def short(value: Any) -> str:
    """Return eight letters that identify a value."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]
