"""Trainers by name: those of this package, installed plugins, and code of your own.

::

    @dataclass(frozen=True)
    class Config:
        total_steps: int = 500_000
        seed: int = 0

    def train(env, config=Config(), *, callbacks=(), **options):
        ...                             # env.reset, env.step, env.action_masks: an RPPEnv
        return policy                   # act(observations, masks, greedy, memory)

`rpp_agents.training.Train` describes the arguments of `train`; keywords that it does not take are
left out. ``docs/plugins.md`` has a trainer of twenty lines.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rpp_agents import SOLVERS, TRAINERS
from rpp_env.episode import Episode
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
    """Name as given."""
    label: str
    """Name in tables and plots."""
    function: Any
    """The ``train`` function."""
    config: type
    """The dataclass of the options; has `total_steps` and `seed`."""
    module: str
    """The module of the trainer."""

    def train(self, env: Any, config: Any, **keywords: Any) -> Any:
        """Call the trainer with those keywords that it takes."""
        return self.function(env, config, **{k: x for k, x in keywords.items() if self.takes(k)})

    def takes(self, keyword: str) -> bool:
        """Return whether the trainer's function takes a keyword."""
        parameters = inspect.signature(self.function).parameters
        anything = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        return anything or keyword in parameters


def trainer_names() -> list[str]:
    """List all installed trainers: this package's, then entry points of others."""
    return [*_KNOWN, *(name for name in entry_points("trainer") if name not in _KNOWN)]


def find_trainer(name: str) -> Trainer:
    """Look up a trainer by name.

    Parameters
    ----------
    name : str
        One of `TRAINERS` or `SOLVERS`, ``package.module:train``, or an entry point of
        ``rpp_env.trainers``.

    Raises
    ------
    InvalidOption
        For an unknown name, and for an object that is not a trainer.
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
    """Return the dataclass of a trainer's options, checking the fields that runs need."""
    kind = config_class(function, code)
    if kind is None:
        raise InvalidOption(
            f"trainer {name!r} does not declare its options: its parameter `config` needs a "
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


def trainer_config(
    name: str,
    table: Mapping[str, Any],
    where: str,
    *,
    episode: Episode | None = None,
    **fixed: Any,
) -> Any:
    """Make a trainer's Config from a table, with those of the `fixed` fields that it has.

    With an `episode`, a discount that the table leaves out is the episode's.

    Raises
    ------
    InvalidOption
        For an unknown trainer or field, or an invalid value.
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
        config: Any = made(kind, {**table, **fixed}, where)
    except TypeError as error:
        raise InvalidOption(f"{where}: {error}") from error
    if episode is not None and hasattr(config, "in_episode"):
        config = config.in_episode(episode)
    return config
