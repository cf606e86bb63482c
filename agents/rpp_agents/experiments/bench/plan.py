"""What a bench runs: a TOML file, and the cells that follow from it.

::

    total_steps = 400_000          # of the environment, in every run
    num_envs = 256                 # users that play at once in training
    evaluations = 20               # evenly spaced; the last one is the result
    train_users = 2000
    test_users = 2000              # of `split`, all of them at every evaluation
    split = "test"                 # "validation" where something is chosen by the scores
    seeds = [0, 1, 2]              # of training
    worlds = [11, 12, 13]          # movieworld: the world's seed; else the candidate draw
    design = "nested"              # the k-th seed plays worlds[k % 3] alone; "crossed": every one
    against = "MAPPO"              # what the others are compared with; else the first

    [[environments]]
    name = "hard-private"
    dataset = "movieworld-hard"
    rules = "RPP-v0"
    observe = "private"
    total_steps = 200_000          # overrides the bench's
    live = true                    # train on all train users, asking the model; else on the table
    options = { negatives = "popularity" }      # as `RPPEnv.make` takes them

    [[algorithms]]
    label = "MAPPO"
    trainer = "mappo"              # as `rpp_agents.trainers.find_trainer` takes it
    grid = [{ learning_rate = 1e-3 }, { learning_rate = 3e-3 }]     # to tune: each is run

    [[algorithms]]
    label = "discount 0"
    trainer = "mappo"
    config = { gamma = 0.0 }                    # fields of its Config
    num_envs = 128                              # overrides the bench's
    environments = ["hard-private"]             # where it is run; by default all
    grid = [{ learning_rate = 1e-3 }, { learning_rate = 3e-3 }]     # to tune: each is run
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rpp_agents.experiments.cells import LEVELS, TRAINED, Kind
from rpp_agents.experiments.files import (
    check_different,
    check_problem,
    check_size,
    matches,
    nameless,
    plain,
    read_toml,
    selected,
    short,
    slug,
)
from rpp_agents.trainers import trainer_config
from rpp_env.errors import InvalidOption
from rpp_env.factory import Options
from rpp_env.options import made, unknown
from rpp_env.rules import RULES

__all__ = ["PRESETS", "Algorithm", "Bench", "Cell", "Environment", "Levels", "Table"]

PRESETS = Path(__file__).parents[1] / "presets" / "bench"
"""Folder of the shipped benches."""

_SET_BY_THE_BENCH = ("total_steps", "seed", "evaluations", "eval_episodes")
_HOW_NOT_WHAT: dict[str, Any] = {"threads": 1, "tensorboard": False, "evaluations": 0}
"""Fields of a Config that are the same for every cell, and no part of what was asked."""

_OPTIONS = {one.name for one in dataclasses.fields(Options)} | {"max_cycles", "padded_actions"}
_OPTIONS -= {"data_seed", "task_seed"}  # follow from the world
"""What an environment of a bench may say of its problem."""


@dataclass(frozen=True)
class Environment:
    """One task of a bench."""

    name: str
    dataset: str = "movieworld"
    rules: str = "RPP-v0"
    observe: Literal["shared", "private"] = "shared"
    total_steps: int | None = None
    """Environment steps of every run there, where they shall differ from the bench's."""
    live: bool = False
    """Train on all train users, asking the model; else on the table of ``train_users``."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> dict[str, Any]:
        """Everything but what the agents see of it, on which no level line depends."""
        return {"dataset": self.dataset, "rules": self.rules, "options": dict(self.options)}


@dataclass(frozen=True)
class Algorithm:
    """One way to train."""

    label: str
    trainer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int | None = None
    ranking: Literal["mean", "sequence"] = "mean"
    """How it observes the last ranking; a sequence is what A2C's recurrent network reads."""
    environments: Sequence[str] = ()
    """Names of those where it is run; by default all."""
    grid: Sequence[Mapping[str, Any]] = ()
    tunes: str | None = None
    """Of which algorithm this is one point of the grid."""


@dataclass(frozen=True)
class Table:
    """Every answer for some users of one world."""

    dataset: str
    options: Mapping[str, Any]
    world: int
    split: str
    users: int
    rules: tuple[str, ...]
    """Ids of all rules that replay it."""

    @property
    def shown(self) -> tuple[int, ...]:
        """Numbers of history items that these rules show."""
        numbers: set[int] = set()
        for rules in (RULES[name] for name in self.rules):
            levels = np.arange(rules.max_level + 1)
            numbers.update(rules.items_shown(levels, np.full(len(levels), 1 << 30)).tolist())
        return tuple(sorted(numbers))

    @property
    def file(self) -> str:
        """Its name."""
        parts = [slug(Path(self.dataset).name), self.split, f"w{self.world}", str(self.users)]
        return "-".join([*parts, short((self.dataset, dict(self.options), self.shown))]) + (
            ".rpptable"
        )


@dataclass(frozen=True)
class Levels:
    """The level lines of one problem in one world: they need no training."""

    bench: Bench
    environment: Environment
    world: int

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return (
            f"{self.environment.dataset} {self.environment.rules} level lines, world {self.world}"
        )

    @property
    def file(self) -> str:
        """Where it is kept, from the bench's folder."""
        problem = self.environment.problem
        name = f"{slug(Path(self.environment.dataset).name)}-{slug(self.environment.rules)}"
        extra = f"-{short(problem['options'])}" if problem["options"] else ""
        return f"levels/{name}{extra}/w{self.world}.json"

    @property
    def asked(self) -> dict[str, Any]:
        """What it depends on."""
        return plain(self.environment.problem | self.bench.users | {"world": self.world})

    @property
    def defaults(self) -> dict[str, Any]:
        """They have no config."""
        return {}

    @property
    def kind(self) -> Kind:
        """What its file must hold."""
        return LEVELS

    def table(self, split: str) -> Table:
        """The answers of these users, with the bench's other rules on the same data."""
        return self.bench.table(self.environment, self.world, split)


@dataclass(frozen=True)
class Cell:
    """One training run."""

    bench: Bench
    environment: Environment
    algorithm: Algorithm
    world: int
    seed: int

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return f"{self.environment.name}/{self.algorithm.label} world {self.world} seed {self.seed}"

    @property
    def file(self) -> str:
        """Where it is kept, from the bench's folder."""
        folder = f"{slug(self.environment.name)}/{slug(self.algorithm.label)}"
        return f"cells/{folder}/w{self.world}-s{self.seed}.json"

    @property
    def num_envs(self) -> int:
        """Users that play at once."""
        return self.algorithm.num_envs or self.bench.num_envs

    @property
    def total_steps(self) -> int:
        """Environment steps of training."""
        return self.bench.steps_in(self.environment)

    @property
    def config(self) -> Any:
        """The trainer's Config."""
        return _config(self.algorithm, total_steps=self.total_steps, seed=self.seed)

    @property
    def asked(self) -> dict[str, Any]:
        """What it depends on."""
        config = dataclasses.asdict(self.config)
        told = {
            "environment": self.environment.problem
            | {"observe": self.environment.observe}
            | ({"live": True} if self.environment.live else {}),
            "users": self.bench.users,
            "world": self.world,
            "seed": self.seed,
            "trainer": self.algorithm.trainer,
            "num_envs": self.num_envs,
            "ranking": self.algorithm.ranking,
            "evaluations": self.bench.evaluations,
            "overrides": self.algorithm.config,
            "config": {key: x for key, x in config.items() if key not in _HOW_NOT_WHAT},
        }
        return plain(told)

    @property
    def defaults(self) -> dict[str, Any]:
        """The trainer's own Config."""
        return plain(dataclasses.asdict(type(self.config)()))

    @property
    def kind(self) -> Kind:
        """What its file must hold."""
        return TRAINED

    def matches(self, pattern: str) -> bool:
        """Whether ``--only`` with this pattern means it."""
        return matches(self.environment.name, self.algorithm.label, pattern)

    def table(self, split: str) -> Table:
        """The answers of these users."""
        return self.bench.table(self.environment, self.world, split)

    @property
    def levels(self) -> Levels:
        """Its level lines."""
        return Levels(self.bench, self.environment, self.world)


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Algorithms x seeds x environments; see the module's page for the file."""

    name: str
    total_steps: int
    seeds: tuple[int, ...]
    worlds: tuple[int, ...]
    environments: tuple[Environment, ...]
    algorithms: tuple[Algorithm, ...]
    design: Literal["nested", "crossed"] = "nested"
    split: Literal["test", "validation"] = "test"
    num_envs: int = 256
    evaluations: int = 20
    train_users: int = 2000
    test_users: int = 2000
    against: str = ""

    @classmethod
    def load(cls, which: str | Path, trust: Sequence[str] = ()) -> Bench:
        """Read a bench: a TOML file, or the name of a shipped one.

        Parameters
        ----------
        which : str or Path
        trust : sequence of str
            Servers and code that a file of others names and that the caller confirms.

        Raises
        ------
        InvalidOption
            Where there is none; where something in it is unknown, missing or of the wrong kind;
            and for servers and code that nobody has confirmed.
        """
        told, path = read_toml(which, PRESETS, "bench", trust)
        return cls.parse(told, path.stem, where=str(path))

    @classmethod
    def parse(cls, told: Mapping[str, Any], name: str, *, where: str = "the bench") -> Bench:
        """The bench that the tables of such a file describe."""
        told = nameless(told, "bench", where)
        lists: dict[str, Any] = {}
        for key, kind in (("environments", Environment), ("algorithms", Algorithm)):
            rows = told.get(key)
            if not isinstance(rows, list) or not rows:
                raise InvalidOption(f"{where} needs at least one [[{key}]]")
            lists[key] = tuple(
                made(kind, row, f"{where}, [[{key}]] {i + 1}", hidden=("tunes",))
                for i, row in enumerate(rows)
            )
        bench = made(cls, told | lists | {"name": name}, where)
        bench._check(where)  # noqa: SLF001 - its own
        points = [
            dataclasses.replace(
                algorithm,
                label=f"{algorithm.label} [{i + 1}]" if algorithm.grid else algorithm.label,
                config={**algorithm.config, **point},
                grid=(),
                tunes=algorithm.label if algorithm.grid else None,
            )
            for algorithm in bench.algorithms
            for i, point in enumerate(algorithm.grid or [{}])
        ]
        against = bench.against or bench.algorithms[0].label
        first = next(point.label for point in points if against in (point.label, point.tunes))
        return dataclasses.replace(bench, algorithms=tuple(points), against=first)

    def _check(self, where: str) -> None:
        for name in ("total_steps", "num_envs", "evaluations", "train_users", "test_users"):
            if getattr(self, name) < 1:
                raise InvalidOption(f"{where}: {name} must be at least 1")
        points = sum(max(1, len(algorithm.grid)) for algorithm in self.algorithms)
        rows = {"environments": len(self.environments), "algorithms": points}
        runs = math.prod(rows.values()) * len(self.seeds)
        runs *= len(self.worlds) if self.design == "crossed" else 1
        check_size(where, **rows, seeds=len(self.seeds), evaluations=self.evaluations, runs=runs)
        for name in ("seeds", "worlds"):
            numbers = getattr(self, name)
            if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
                raise InvalidOption(
                    f"{where}: {name} must be different numbers from 0, at least one"
                )
        for label, names in (
            ("name", [environment.name for environment in self.environments]),
            ("label", [algorithm.label for algorithm in self.algorithms]),
        ):
            check_different(names, label, where)
        for environment in self.environments:
            if environment.total_steps is not None and environment.total_steps < 1:
                raise InvalidOption(f"{where}: {environment.name}'s total_steps must be at least 1")
            for key in environment.options:
                if key not in _OPTIONS:
                    here = f"{where}, environment {environment.name!r}"
                    raise InvalidOption(f"{here}: {unknown('option', key, sorted(_OPTIONS))}")
            check_problem(environment.options, f"{where}, environment {environment.name!r}")
            if environment.rules not in RULES:
                raise InvalidOption(f"{where}: {unknown('rules', environment.rules, RULES)}")
            if RULES[environment.rules].order == "step":
                raise InvalidOption(
                    f"{where}: {environment.rules} reorders the candidates at every step, which no "
                    "table can hold; a bench replays tables"
                )
        budgets = {algorithm.label: len(algorithm.grid) for algorithm in self.algorithms}
        if len(set(budgets.values())) > 1:
            raise InvalidOption(
                f"{where}: every algorithm gets the same number of grid points, not {budgets}"
            )
        self._check_algorithms(where)

    def _check_algorithms(self, where: str) -> None:
        known = [environment.name for environment in self.environments]
        labels = [algorithm.label for algorithm in self.algorithms]
        for algorithm in self.algorithms:
            if others := [name for name in algorithm.environments if name not in known]:
                raise InvalidOption(f"{where}: {unknown('environment', others[0], known)}")
            if algorithm.label in ("random", "fixed", "reference"):
                raise InvalidOption(
                    f"{where}: {algorithm.label!r} is a level line's name; choose another label"
                )
        if self.against and self.against not in labels:
            raise InvalidOption(f"{where}: {unknown('against', self.against, labels)}")

    @property
    def users(self) -> dict[str, Any]:
        """Whose scores they are."""
        return {
            "split": self.split,
            "train_users": self.train_users,
            "test_users": self.test_users,
        }

    @property
    def tunes(self) -> bool:
        """Whether it compares points of a grid."""
        return any(algorithm.tunes is not None for algorithm in self.algorithms)

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """All runs, the first seed's first, so that what is finished is balanced.

        Parameters
        ----------
        only : sequence of str
            Patterns of ENVIRONMENT/ALGORITHM, with ``*`` and ``?``; a name alone is either.

        Raises
        ------
        InvalidOption
            For a pattern that nothing matches, and for a trainer or an option of its Config that
            does not exist.
        """
        cells = [
            Cell(self, environment, algorithm, world, seed)
            for seed in self.seeds
            for world in self.worlds_of(seed)
            for environment in self.environments
            for algorithm in self.algorithms
            if environment.name in (algorithm.environments or [environment.name])
        ]
        there = (
            f"environments are "
            f"{', '.join(e.name for e in self.environments)}; algorithms "
            f"{', '.join(a.label for a in self.algorithms)}"
        )
        chosen = selected(cells, only, there)
        for algorithm in {cell.algorithm.label: cell.algorithm for cell in chosen}.values():
            _config(algorithm, total_steps=self.total_steps, seed=0)
        return chosen

    def steps_in(self, environment: Environment) -> int:
        """Environment steps of every run there."""
        return environment.total_steps or self.total_steps

    def worlds_of(self, seed: int) -> tuple[int, ...]:
        """The worlds that this training seed plays."""
        if self.design == "crossed":
            return self.worlds
        return (self.worlds[self.seeds.index(seed) % len(self.worlds)],)

    def table(self, environment: Environment, world: int, split: str) -> Table:
        """The answers that it replays: enough for all rules, so that benches share a table."""
        users = self.train_users if split == "train" else self.test_users
        rules = tuple(sorted(name for name, one in RULES.items() if one.order != "step"))
        return Table(environment.dataset, environment.options, world, split, users, rules)


def _config(algorithm: Algorithm, **given: Any) -> Any:
    """The Config of the algorithm's trainer."""
    where = f"algorithm {algorithm.label!r}"
    for key in algorithm.config:
        if key in _SET_BY_THE_BENCH:
            raise InvalidOption(
                f"{where}: {key} is the bench's own, the same for all; leave it out"
            )
    fixed = {key: x for key, x in _HOW_NOT_WHAT.items() if key not in algorithm.config}
    return trainer_config(algorithm.trainer, algorithm.config, where, **{**fixed, **given})
