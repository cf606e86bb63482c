"""Checks of option names and values: misspelt names get a suggestion, wrong types a sentence.

Tables of TOML and JSON files, the ``Config`` of a trainer and the keywords of a function go through
the same two checks, so that their error messages agree.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Collection, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, TypeVar

from rpp_env.errors import InvalidData, InvalidOption

__all__ = [
    "check_choice",
    "check_fields",
    "check_numbers",
    "check_seed",
    "check_values",
    "made",
    "nearest",
    "read_small",
    "unknown",
]

Made = TypeVar("Made")

_MOST_NAMED = 24
"""Number of names that an error lists; of longer lists it lists the nearest ones."""
_SMALL = 1 << 20
"""Size limit in bytes of a settings file (JSON, TOML)."""


def read_small(path: Path, most: int = _SMALL) -> bytes:
    """Read a small settings file, which may come from an untrusted source.

    Raises
    ------
    OSError
        As for any file.
    InvalidData
        If it is not a regular file (such as an endless device), or is larger than `most`.
    """
    if path.exists() and not path.is_file():
        raise InvalidData(f"{path} is not a file")
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise InvalidData(f"{path} is larger than {most:,} bytes, the limit for such a file")
    return content


def nearest(came: object, known: Iterable[str]) -> str | None:
    """Return the known name that `came` most likely misspells; None where none is near."""
    names = {name.lower(): name for name in known}
    close = difflib.get_close_matches(str(came).lower(), names, 1)
    return names[close[0]] if close else None


def unknown(what: str, came: object, known: Iterable[str]) -> str:
    """Write a sentence about an unknown name: what came, what may be meant, what there is.

    Parameters
    ----------
    what : str
        The noun, such as ``"trainer"``.
    came : object
        The unknown value.
    known : iterable of str
        The known names.
    """
    names = list(known)
    close = nearest(came, names)
    if len(names) > _MOST_NAMED:
        near = difflib.get_close_matches(str(came), names, _MOST_NAMED, cutoff=0)
        there = f"the nearest of {len(names)} are {', '.join(near)}"
    else:
        there = f"there are {', '.join(names)}" if names else "there are none"
    if close:
        return f"{what} {came!r} is not known; did you mean {close!r}? T{there[1:]}"
    return f"{what} {came!r} is not known; {there}"


def check_choice(what: str, came: object, known: Iterable[str]) -> None:
    """Raise InvalidOption for a value that is not among the known names; see `unknown`.

    Raises
    ------
    InvalidOption
    """
    names = list(known)
    if came not in names:
        raise InvalidOption(unknown(what, came, names))


def made(
    kind: type[Made], table: Mapping[str, Any], where: str, hidden: Collection[str] = ()
) -> Made:
    """Make a dataclass from the table of a file.

    Parameters
    ----------
    kind : type
        The dataclass.
    table : mapping
        Fields by name; lists become tuples.
    where : str
        Where the table is, for errors.
    hidden : collection of str
        Fields that a file must not set.

    Raises
    ------
    InvalidOption
        For an unknown or missing key, and for a value of a wrong type.
    """
    if not isinstance(table, Mapping):
        raise InvalidOption(f"{where} must be a table, not {table!r}")
    fields = {
        field.name: field
        for field in dataclasses.fields(kind)  # type: ignore[arg-type]
        if field.init and field.name not in hidden
    }
    for key in table:
        if key not in fields:
            raise InvalidOption(f"{where}: {unknown('key', key, fields)}")
    for name, field in fields.items():
        no_default = field.default is field.default_factory is dataclasses.MISSING
        if no_default and name not in table:
            raise InvalidOption(f"{where}: {name!r} is missing")
    values = {name: _frozen(value) for name, value in table.items()}
    check_values(_hints(kind), values, where)
    try:
        return kind(**values)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error


def _frozen(value: Any) -> Any:
    """Convert lists in a value read from a file to tuples, also inside tables."""
    if isinstance(value, Mapping):
        return {name: _frozen(inner) for name, inner in value.items()}
    return tuple(map(_frozen, value)) if isinstance(value, list) else value


def check_fields(config: Any, where: str = "") -> None:
    """Check that the fields of a dataclass have values of their annotated types.

    Integers are accepted for floats, and numpy's numbers for Python's; True and False are not
    numbers, and neither are texts and NaN.

    Raises
    ------
    InvalidOption
        With the field, what it must be, and what it is.
    """
    names = [field.name for field in dataclasses.fields(config)]
    check_values(_hints(type(config)), {name: getattr(config, name) for name in names}, where)


def check_numbers(
    config: object,
    lowest: float,
    *names: str,
    highest: float = math.inf,
    above: bool = False,
) -> None:
    """Check that fields of a config lie in `lowest` to `highest`; None passes.

    With `above`, the lowest number itself is refused too.

    Raises
    ------
    InvalidOption
        With the field, its value and the allowed range.
    """
    for name in names:
        value = getattr(config, name)
        if value is None:
            continue
        if not lowest <= value <= highest or (above and value == lowest):
            allowed = (
                f"lie in {lowest}..{highest}" if highest < math.inf else f"be {lowest} or more"
            )
            raise InvalidOption(
                f"{name} must {f'be above {lowest}' if above else allowed}, not {value}"
            )


def check_seed(seed: object, name: str = "seed") -> None:
    """Check that a seed is a whole number of 0 or more.

    Raises
    ------
    InvalidOption
    """
    if not _fits(seed, int) or seed < 0:  # type: ignore[operator]
        raise InvalidOption(f"{name} must be a whole number of 0 or more, not {seed!r}")


def _hints(kind: Any) -> dict[str, Any]:
    try:
        return typing.get_type_hints(kind)
    except (NameError, TypeError):  # names that exist for type checkers only
        return {}


def check_values(hints: Mapping[str, Any], values: Mapping[str, Any], where: str = "") -> None:
    """Check that values are of the types in `hints`, as `check_fields` does.

    Raises
    ------
    InvalidOption
        With the name, what it must be, and what it is.
    """
    for name, value in values.items():
        hint = hints.get(name, Any)
        if _fits(value, hint):
            continue
        start = f"{where}: {name}" if where else name
        allowed = _choices(hint)
        if allowed and isinstance(value, str):
            raise InvalidOption(f"{start} is {value!r}; {_may_be(value, allowed)}")
        noun = _words(hint)
        if isinstance(value, list):  # lists are from Python code: those of files became tuples
            noun = noun.replace("a list", "a tuple")
        raise InvalidOption(f"{start} must be {noun}, not {value!r}")


def _fits(value: Any, hint: Any) -> bool:
    """Whether a value is of an annotated type; an unusual annotation accepts every value."""
    if hint is Any:
        return True
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _fits(value, inner[0])
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in inner)
    if hint is None or hint is type(None):
        return value is None
    if hint is bool:
        return isinstance(value, bool)
    if hint in (int, float):
        number = isinstance(value, Integral if hint is int else Real)
        return number and not isinstance(value, bool) and not math.isnan(value)
    if origin is tuple and not (len(inner) == 2 and inner[1] is ...):
        return (
            isinstance(value, tuple) and len(value) == len(inner) and all(map(_fits, value, inner))
        )
    if origin in (tuple, list, Sequence):
        kinds = (list, tuple) if origin is Sequence else origin
        return isinstance(value, kinds) and all(_fits(one, inner[0]) for one in value)
    if origin in (dict, Mapping):
        return isinstance(value, origin)
    return isinstance(value, hint) if isinstance(hint, type) else True


def _choices(hint: Any) -> list[Any]:
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        return list(inner)
    return [one for part in inner for one in _choices(part)] if origin else []


def _may_be(value: str, allowed: Sequence[Any]) -> str:
    close = nearest(value, [one for one in allowed if isinstance(one, str)])
    meant = f"did you mean {close!r}? It" if close else "it"
    return f"{meant} may be {', '.join(map(str, allowed))}"


_WORDS: dict[Any, tuple[str, str]] = {
    bool: ("true or false", "values true or false"),
    int: ("a whole number", "whole numbers"),
    float: ("a number", "numbers"),
    str: ("a text", "texts"),
    None: ("nothing", ""),
    type(None): ("nothing", ""),
}
"""Nouns for one value and for several."""


def _words(hint: Any, several: bool = False) -> str:
    """Describe an annotated type in words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint in _WORDS:
        return _WORDS[hint][several]
    if origin is typing.Annotated:
        return _words(inner[0], several)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(_words(one, several) for one in inner if one is not type(None))
    if origin is Literal:
        return f"one of {', '.join(map(str, inner))}"
    if origin is tuple and not (len(inner) == 2 and inner[1] is ...):
        return f"a list of {len(inner)}: {', '.join(map(_words, inner))}"
    if origin in (tuple, list, Sequence):
        return f"a list of {_words(inner[0], several=True)}"
    if dataclasses.is_dataclass(hint) or origin in (dict, Mapping) or hint in (dict, Mapping):
        return "tables" if several else "a table"
    name = getattr(hint, "__name__", str(hint))
    return f"values of type {name}" if several else f"of type {name}"
