"""Reads the options of a verb off the signature and the docstring of its `run`."""

from __future__ import annotations

import dataclasses
import functools
import inspect
import shutil
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, get_args, get_type_hints

import docstring_parser
import tyro

from rpp_agents.commands.console import say, wrap

__all__ = ["details", "read", "wrapped"]

WIDEST = 100
"""Columns that text is wrapped at where the terminal is wider."""


def read(
    run: Callable[..., None],
    prog: str,
    words: Sequence[str],
    replaced: Mapping[str, tuple[Any, Any]] | None = None,
) -> Callable[[], None]:
    """Bind the options in `words` to `run`, without calling it.

    For ``--help`` the help is printed and SystemExit raised; likewise for options that there are
    not.

    Parameters
    ----------
    run : callable
        Its parameters are the options; a frozen dataclass among them stands for its fields. What
        an option does is said where the parameter (or the field) is documented.
    prog : str
        What the command is called in its help.
    words : sequence of str
        The command line behind `prog`.
    replaced : mapping of str to (type, default), optional
        Parameters that are read as another type than `run` names, such as an algorithm's config.

    Returns
    -------
    callable
        `run` with its arguments.
    """
    signature = inspect.signature(run)
    inner = run.func if isinstance(run, functools.partial) else run
    helps = _helps(inner)
    hints = get_type_hints(inner, include_extras=True)
    typed = {name: (hints[name], one.default) for name, one in signature.parameters.items()}
    typed |= replaced or {}
    parameters = [
        one.replace(
            annotation=_documented(typed[name][0], helps.get(name, ""), typed[name][1]),
            default=typed[name][1],
        )
        for name, one in signature.parameters.items()
    ]

    def bound(*positional: Any, **named: Any) -> Callable[[], None]:
        return functools.partial(run, *positional, **named)

    bound.__doc__ = None
    bound.__annotations__ = {one.name: one.annotation for one in parameters}
    bound.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    summary, more = details(inner)
    try:
        read: Callable[[], None] = tyro.cli(
            bound, prog=prog, description=summary, args=words, registry=_registry
        )
    except SystemExit as stopped:
        if not stopped.code and more:
            say(f"\n{wrapped(more)}")
        raise
    return read


def details(run: Callable[..., Any]) -> tuple[str, str]:
    """The first line of a docstring, and what stands between it and the parameters."""
    text = inspect.cleandoc(run.__doc__ or "").partition("\n\nParameters\n")[0]
    summary, _, more = text.partition("\n\n")
    return " ".join(summary.split()), more


def wrapped(text: str) -> str:
    """Paragraphs at the terminal's width; indented lines (examples) stay as they are."""
    width = min(shutil.get_terminal_size().columns, WIDEST)
    paragraphs = [
        one if one.startswith(" ") else wrap(" ".join(one.split()), width, indent="")
        for one in text.split("\n\n")
    ]
    return "\n\n".join(paragraphs)


_registry = tyro.constructors.ConstructorRegistry()


@_registry.struct_rule
def _dataclass(
    info: tyro.constructors.StructTypeInfo,
) -> tyro.constructors.StructConstructorSpec | None:
    """The fields of a dataclass, each with its help in one piece.

    tyro itself keeps the line breaks of the docstrings.
    """
    if not dataclasses.is_dataclass(info.type):
        return None
    helps, hints = _helps(info.type), get_type_hints(info.type, include_extras=True)
    fields = []
    for field in dataclasses.fields(info.type):
        default = getattr(info.default, field.name, field.default)
        hint = _documented(hints[field.name], helps.get(field.name, ""), default)
        fields.append(tyro.constructors.StructFieldSpec(field.name, hint, default))
    return tyro.constructors.StructConstructorSpec(info.type, tuple(fields))


def _helps(thing: Any) -> Mapping[str, str]:
    """What each parameter of a function, or each field of a dataclass, does; in one line each."""
    sources = reversed(thing.__mro__[:-1]) if isinstance(thing, type) else (thing,)
    return {
        one.arg_name: " ".join((one.description or "").split())
        for source in sources
        for one in docstring_parser.parse_from_object(source).params
    }


def _documented(hint: Any, text: str, default: Any) -> Any:
    """The type of an option together with its help; a default that says nothing is left out."""
    flag = tyro.conf.FlagCreatePairsOff
    silent = default in (None, "", ()) or (default is False and flag in get_args(hint)[1:])
    return Annotated[hint, tyro.conf.arg(help=text, help_behavior_hint="" if silent else None)]
