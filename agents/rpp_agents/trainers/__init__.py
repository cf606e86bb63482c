"""Trainers by name: those of this package, and others' that are installed or at hand.

::

    @dataclass(frozen=True)
    class Config:
        total_steps: int = 500_000
        seed: int = 0

    def train(env, config=Config(), *, callbacks=(), **options):
        ...                             # env.reset, env.step, env.action_masks: an RPPEnv
        return policy                   # act(observations, masks, greedy, memory)

`rpp_agents.training.Train` says what `train` may be given; keywords that it does not take are left
out. ``docs/plugins.md`` has a trainer of twenty lines.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpp_agents import SOLVERS, TRAINERS
from rpp_env.errors import InvalidOption
from rpp_env.options import made, unknown
from rpp_env.plugins import config_class, entry_points, is_code, load_code, locate

__all__ = ["Trainer", "find_trainer", "trainer_config", "trainer_names"]

_KNOWN = {
    **{name: f"rpp_agents.trainers.{name}:train" for name in TRAINERS},
    **{name: f"rpp_agents.solvers.{name}:train" for name in SOLVERS},
}
_NEEDED = ("total_steps", "seed")


@dataclass(frozen=True)
class Trainer:
    """A trainer and its options."""

    name: str
    """As it was given."""
    label: str
    """What it is called in tables and plots."""
    function: Any
    """Its ``train``."""
    config: type
    """The dataclass of its options; has `total_steps` and `seed`."""
    module: str
    """The module that was named."""

    def train(self, env: Any, config: Any, **keywords: Any) -> Any:
        """Train, with those keywords that the trainer takes."""
        return self.function(env, config, **{k: x for k, x in keywords.items() if self.takes(k)})

    def takes(self, keyword: str) -> bool:
        """Whether the trainer's function takes a keyword."""
        parameters = inspect.signature(self.function).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return anything or keyword in parameters


def trainer_names() -> list[str]:
    """All trainers that are installed: this package's, then others' entry points."""
    return [*_KNOWN, *(name for name in entry_points("trainer") if name not in _KNOWN)]


def find_trainer(name: str) -> Trainer:
    """The trainer of that name.

    Parameters
    ----------
    name : str
        One of `TRAINERS` or `SOLVERS`, ``package.module:train``, or an entry point of
        ``rpp_env.trainers``.

    Raises
    ------
    InvalidOption
        For a name that stands for no trainer, or for something that is none.
    """
    code = locate("trainer", name, _KNOWN)
    function = load_code("trainer", code)
    if not callable(function) or isinstance(function, type):
        raise InvalidOption(
            f"trainer {name!r} must be a function train(env, config) that returns a policy, not "
            f"{function!r}"
        )
    module = name.partition(":")[0].rpartition(".")[2]
    label = {**TRAINERS, **SOLVERS}.get(name) or (module if is_code(name) else name)
    return Trainer(name, label, function, _config_of(function, code, name), code.partition(":")[0])


def _config_of(function: Any, code: str, name: str) -> type:
    """The dataclass of a trainer's options, which has what runs need."""
    kind = config_class(function, code)
    if kind is None:
        raise InvalidOption(
            f"trainer {name!r} says nothing of its options: its parameter `config` needs a "
            "dataclass as default, as in def train(env, config=Config())"
        )
    fields = dataclasses.fields(kind)
    names = {field.name for field in fields}
    for field in fields:
        if field.init and field.default is field.default_factory is dataclasses.MISSING:
            raise InvalidOption(f"trainer {name!r}: {kind.__name__}.{field.name} needs a default")
    if missing := [field for field in _NEEDED if field not in names]:
        raise InvalidOption(
            f"trainer {name!r}: its {kind.__name__} needs the fields {' and '.join(_NEEDED)}, and "
            f"has no {missing[0]}"
        )
    return kind


def trainer_config(name: str, table: Mapping[str, Any], where: str, **fixed: Any) -> Any:
    """A trainer's Config from a table, with `fixed` fields where it has them.

    Raises
    ------
    InvalidOption
        For a trainer or a field that does not exist, or a value that is not allowed.
    """
    try:
        kind = find_trainer(name).config
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    known = {field.name for field in dataclasses.fields(kind)}
    for key in table:
        if key not in known:
            raise InvalidOption(f"{where}: {unknown('option', key, sorted(known))}")
    fixed = {key: x for key, x in fixed.items() if key in known}
    try:
        return made(kind, {**table, **fixed}, where)
    except TypeError as error:
        raise InvalidOption(f"{where}: {error}") from error
