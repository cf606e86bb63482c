"""Plugins by name: trainers, models, recommenders, datasets, catalogs, methods, ids.

Wherever such a part is named (a keyword, an option of the command, a TOML file), there are three
forms:

- a name of the package's own, such as ``"mappo"``;
- ``"package.module:attribute"``, which is imported;
- the name of an entry point that an installed package declares in the group of its kind::

      [project.entry-points."rpp_env.trainers"]
      mine = "package.module:train"

The package's own names come first: an entry point cannot replace them. ``docs/plugins.md`` shows an
example of each kind.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import re
import sys
import typing
from collections.abc import Mapping
from functools import reduce
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from rpp_env.errors import InvalidOption
from rpp_env.options import nearest, unknown

__all__ = [
    "FromFile",
    "Kind",
    "config_class",
    "entry_points",
    "is_code",
    "load_code",
    "locate",
    "make",
    "resolve",
]

Kind = Literal["trainer", "model", "recommender", "dataset", "book", "method", "rules"]
"""Kinds of plugins; the entry points of trainers are the group ``rpp_env.trainers``."""

_CODE = re.compile(r"[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*(?:\.[^\W\d]\w*)*")
_NOT_MODULES = frozenset({"http", "https", "vllm", "hf", "recording", "table", "checkpoint"})
"""Prefixes of model names that do not refer to code."""


class FromFile(str):
    """A name that was read from a file: a server of that name is sent no API key."""

    __slots__ = ()


def is_code(name: object) -> bool:
    """Return whether a name is ``package.module:attribute``, so that using it runs code."""
    if not isinstance(name, str) or _CODE.fullmatch(name) is None:
        return False
    return name.partition(":")[0] not in _NOT_MODULES


def _group(kind: Kind) -> str:
    return f"rpp_env.{kind.removesuffix('s')}s"


def entry_points(kind: Kind) -> dict[str, str]:
    """Return the names that installed packages declare for a kind, and the code of each."""
    assert kind in get_args(Kind)
    found: dict[str, str] = {}
    for point in metadata.entry_points(group=_group(kind)):
        if found.setdefault(point.name, point.value) != point.value:
            found[point.name] = ""  # declared by two packages: ambiguous
    return found


def locate(kind: Kind, name: str, known: Mapping[str, Any]) -> Any:
    """Look up a name without importing it: the value in `known`, or the path of the code.

    Raises
    ------
    InvalidOption
        As `resolve` does for names.
    """
    if name in known:
        return known[name]
    if is_code(name):
        return name
    declared = entry_points(kind)
    if declared.get(name):
        return declared[name].split("[")[0].replace(" ", "")
    if name in declared:
        raise InvalidOption(
            f"{kind} {name!r} is declared by two packages (entry points of {_group(kind)}): "
            "name the one you mean as package.module:attribute"
        )
    raise InvalidOption(
        f"{unknown(kind, name, [*known, *declared])}. Name one of your own as "
        "package.module:attribute"
    )


def resolve(kind: Kind, name: str, known: Mapping[str, Any]) -> Any:
    """Look up a name, and import the code that it refers to.

    Parameters
    ----------
    kind : Kind
        Kind of the name, for the group of entry points and for errors.
    name : str
        One of `known`, ``package.module:attribute``, or an entry point's name.
    known : mapping
        The package's own names. A value that `is_code` is imported, any other is returned as it is.

    Raises
    ------
    InvalidOption
        For an unknown name, with the nearest known one; if the module cannot be imported or lacks
        the attribute; if two packages declare the same entry point.
    """
    found = locate(kind, name, known)
    return load_code(kind, found) if is_code(found) else found


def make(thing: Any, parts: Mapping[str, Any]) -> Any:
    """Call a factory; return any other object (neither a function nor a class) unchanged.

    Parameters
    ----------
    thing : object
        A function or class that can be called without arguments, or with some of `parts`.
    parts : mapping
        Arguments by name; a factory gets those that it has parameters for.
    """
    if not (inspect.isroutine(thing) or inspect.isclass(thing)):
        return thing
    taken = inspect.signature(thing).parameters
    return thing(**{name: part for name, part in parts.items() if name in taken})


def config_class(function: Any, code: str) -> type | None:
    """Return the dataclass of a function's options.

    That is the type of the default of its parameter `config`, else the parameter's annotation, else
    the ``Config`` of the module in `code` (which names the function); None if there is none.
    """
    parameter = inspect.signature(function).parameters.get("config")
    try:
        annotated = typing.get_type_hints(function).get("config")
    except (NameError, TypeError):  # names that exist for type checkers only
        annotated = None
    module = sys.modules.get(code.partition(":")[0])
    default = None if parameter is None else type(parameter.default)
    candidates = (default, annotated, getattr(module, "Config", None))
    return next((one for one in candidates if dataclasses.is_dataclass(one)), None)  # type: ignore[return-value]


def load_code(kind: Kind, name: str) -> Any:
    """Import ``package.module:attribute``; the module may lie in the working directory.

    Raises
    ------
    InvalidOption
        If there is no such module or attribute, or the module fails to import a dependency.
    """
    module_name, _, path = name.partition(":")
    try:
        module = _imported(module_name)
    except ImportError as error:
        raise InvalidOption(
            f"{kind} {name!r}: cannot import {module_name} ({error}); install it, or run the "
            "command in the folder that holds it"
        ) from error
    try:
        return reduce(getattr, path.split("."), module)
    except AttributeError as error:
        close = nearest(path, [one for one in vars(module) if not one.startswith("_")])
        meant = f"; did you mean {close!r}?" if close else ""
        raise InvalidOption(f"{kind} {name!r}: {module_name} has no {path!r}{meant}") from error


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        # An installed command does not search the working directory. It is appended to the path, so
        # that no file in it replaces a library, and kept there for worker processes.
        here, top = str(Path.cwd()), name.partition(".")[0]
        there = Path(here, top).is_dir() or Path(here, f"{top}.py").is_file()
        if error.name != top or here in sys.path or not there:
            raise
        sys.path.append(here)
        importlib.invalidate_caches()
        return importlib.import_module(name)
