"""Derive the options of a verb from the signature and the docstring of its `run`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import json
import shutil
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import docstring_parser
import tyro
from tyro.constructors import (
    ConstructorRegistry,
    PrimitiveConstructorSpec,
    StructConstructorSpec,
    StructFieldSpec,
    StructTypeInfo,
)

from rpp_agents.commands.console import say, wrap
from rpp_agents.world import World, is_run, option_name, run_world
from rpp_env.errors import InvalidOption
from rpp_env.models.names import parse_options

__all__ = ["details", "named", "read", "read_player", "wrapped"]

WIDEST = 100
"""Maximum columns at which text is wrapped on a wide terminal."""


def named(words: Sequence[str], option: str, default: str) -> str:
    """Return the value of one option, on which the other options depend."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument(option, nargs="?", default=default)
    value = parser.parse_known_args(list(words))[0]
    return str(getattr(value, option.lstrip("-").replace("-", "_")) or default)


def read(
    run: Callable[..., None],
    prog: str,
    words: Sequence[str],
    world: World | None = None,
    config: tuple[str, Any] | None = None,
) -> Callable[[], None]:
    """Parse the options in `words` and bind them to `run`, without calling it.

    Raises SystemExit for ``--help``, after printing the help, and for unknown options.

    Parameters
    ----------
    run : callable
        Its parameters are the options; a frozen dataclass among them stands for its fields. The
        help of an option is the documentation of the parameter (or field).
    prog : str
        Name of the command in its help.
    words : sequence of str
        The command line after `prog`.
    world : World, optional
        Default of the parameter `world`, for the id in `words`.
    config : (str, dataclass), optional
        Title in the help, and defaults, of the options of the parameter `config`.

    Returns
    -------
    callable
        `run` with its arguments.
    """
    inner = run.func if isinstance(run, partial) else run
    parameters = inspect.signature(run).parameters
    hints, helps = get_type_hints(inner, include_extras=True), _helps(inner)
    boxes = {} if config is None else {"config": config}
    if "world" in parameters:
        given = World() if world is None else world
        boxes["world"] = "environment", given.under(named(words, "--rules", given.rules))
        _check_different(run, *(box for _, box in boxes.values()), boxes["world"][1].options)
    fields = []
    for name, parameter in parameters.items():
        hint, default = hints[name], parameter.default
        if name in boxes:
            title, default = boxes[name]
            called: Any = tyro.conf.arg(name=title)
            hint = Annotated[type(default), tyro.conf.OmitArgPrefixes, called]
        if parameter.kind is parameter.POSITIONAL_ONLY:
            hint = Annotated[hint, tyro.conf.Positional]
        if default is parameter.empty:
            default = tyro.MISSING_NONPROP
        fields.append(_field(name, hint, helps.get(name, ""), default))
    positional = [
        name for name, one in parameters.items() if one.kind is inspect.Parameter.POSITIONAL_ONLY
    ]

    registry = ConstructorRegistry()
    registry.struct_rule(_dataclass)
    registry.struct_rule(
        lambda info: StructConstructorSpec(dict, tuple(fields)) if info.type is _Verb else None
    )
    summary, more = details(inner)
    try:
        found: Any = tyro.cli(_Verb, prog=prog, description=summary, args=words, registry=registry)
    except SystemExit as stopped:
        if not stopped.code and more:
            say(f"\n{wrapped(more)}")
        raise
    values = _made(found)
    return partial(run, *(values.pop(name) for name in positional), **values)


def read_player(run: Callable[..., None], prog: str, words: Sequence[str]) -> Callable[[], None]:
    """Parse as `read`; the first word may be a run's folder, whose world gives the defaults.

    Raises
    ------
    InvalidOption
        For a run's folder after other options.
    """
    world = run_world(words)
    bound = read(run, prog, words, world)
    who = bound.args[0] if isinstance(bound, partial) and bound.args else ""
    if world is None and is_run(str(who)):
        raise InvalidOption(
            f"name the run first, as its world gives the other options their defaults: {prog} "
            f"{who} --OPTION ..."
        )
    return bound


def details(run: Callable[..., Any]) -> tuple[str, str]:
    """Return the first line of a docstring, and the text between it and the parameters."""
    text = inspect.cleandoc(run.__doc__ or "").partition("\n\nParameters\n")[0]
    summary, _, more = text.partition("\n\n")
    return " ".join(summary.split()), more


def wrapped(text: str) -> str:
    """Wrap paragraphs at the terminal's width; indented lines (examples) stay as they are."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    paragraphs = [
        one if one.startswith(" ") else wrap(" ".join(one.split()), width, indent="")
        for one in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


class _Verb:
    """Marker for the arguments of a verb's `run`."""


def _check_different(run: Callable[..., None], *boxes: Any) -> None:
    """Raise InvalidOption for two options of one name, as plugins may bring."""
    seen = dict.fromkeys(inspect.signature(run).parameters, "the verb")
    for box in boxes:
        for field in dataclasses.fields(box):
            what = type(box).__module__
            if field.name in seen and field.name != "options":
                raise InvalidOption(
                    f"{seen[field.name]} and {what} both have an option "
                    f"{option_name(field.name)}: one of them needs another name"
                )
            seen[field.name] = what


def _dataclass(info: StructTypeInfo) -> StructConstructorSpec | None:
    """Return the fields of a dataclass that can be written on a command line, with their help.

    A nested dataclass stands for its own fields.
    """
    if not dataclasses.is_dataclass(info.type):
        return None
    fields = {field.name: field for field in _fields(info.type, info.default)}
    inside = {
        name: list(_fields(type(field.default), field.default))
        for name, field in fields.items()
        if dataclasses.is_dataclass(field.default)
    }

    def make(written: dict[str, Any]) -> Any:
        values = _made(written)
        for name, inner in inside.items():
            taken = {one.name: values.pop(one.name) for one in inner}
            values[name] = dataclasses.replace(fields[name].default, **taken)
        return info.type(**values)

    shown = [one for name, field in fields.items() for one in inside.get(name, [field])]
    # Made later, so that its errors are printed as ours and not in tyro's box.
    return StructConstructorSpec(lambda **values: partial(make, values), tuple(shown))


def _made(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values, of which some are made here; see `_dataclass`."""
    return {name: one() if isinstance(one, partial) else one for name, one in values.items()}


def _fields(kind: Any, given: Any) -> Iterator[StructFieldSpec]:
    """Yield the fields of a dataclass that can be written, with the values of `given`."""
    helps, hints = _helps(kind), get_type_hints(kind, include_extras=True)
    for field in dataclasses.fields(kind):
        default = getattr(given, field.name, field.default)
        hint = (
            hints[field.name] if dataclasses.is_dataclass(default) else _readable(hints[field.name])
        )
        if field.init and hint is not None:
            yield _field(field.name, hint, helps.get(field.name, ""), default)


def _field(name: str, hint: Any, text: str, default: Any) -> StructFieldSpec:
    """Make an option with its help on one line; an uninformative default is left out."""
    flag = tyro.conf.FlagCreatePairsOff
    silent = default in (None, "", ()) or (default is False and flag in get_args(hint)[1:])
    conf: Any = tyro.conf.arg(
        help=text,
        help_behavior_hint="" if silent else None,
        name=_SHORTER.get(name),
        metavar=None if default is not None or get_origin(hint) is Annotated else _metavar(hint),
    )
    documented: Any = Annotated[hint, conf]
    return StructFieldSpec(name, documented, default)


_SHORTER = {"num_candidates": "candidates"}
"""Option names of fields that differ from the fields' names."""

_JSON = PrimitiveConstructorSpec(
    nargs=1,
    metavar="JSON",
    instance_from_str=lambda words: partial(parse_options, words[0]),
    is_instance=lambda value: value is None or isinstance(value, Mapping),
    str_from_instance=lambda value: [json.dumps(value)],
)
"""Placeholder of a table in the help."""


def _readable(hint: Any) -> Any:
    """Return the part of a type that can be written on a command line; None if there is none."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (typing.Union, types.UnionType):
        parts = [part for one in inner if (part := _readable(one)) is not None]
        if all(part is type(None) for part in parts):
            return None
        if any(get_origin(part) is Annotated for part in parts):  # a table, or nothing
            return next(part for part in parts if get_origin(part) is Annotated)
        return typing.Union[tuple(parts)]  # noqa: UP007 - of parts that are only known here
    if origin is Mapping or hint is Mapping:
        return Annotated[dict | None, _JSON]
    if origin in (Annotated, Literal, tuple, Sequence) or hint in _WRITTEN:
        return hint
    return None


_WRITTEN = (str, int, float, bool, Path, type(None))


def _metavar(hint: Any) -> str | None:
    """Return the placeholder of a type's value in the help, without None; None for tyro's own."""
    inner = get_args(hint)
    if Path in inner:
        return "PATH"
    if get_origin(hint) in (tuple, Sequence):
        return None
    names = {str: "STR", int: "INT", float: "FLOAT"}
    return "|".join(names[one] for one in inner if one in names) or None


@cache  # docstrings of dataclasses are read from their source
def _helps(thing: Any) -> Mapping[str, str]:
    """Return the help of each parameter of a function, or field of a dataclass, on one line."""
    sources = reversed(thing.__mro__[:-1]) if isinstance(thing, type) else (thing,)
    return {
        one.arg_name: " ".join((one.description or "").replace("``", "`").split())
        for source in sources
        for one in docstring_parser.parse_from_object(source).params
    }
