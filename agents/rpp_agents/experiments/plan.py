"""What a study runs: a TOML file, and the cells that follow from it.

::

    title = "Does personalising the prompt pay?"
    smallest = 0.02                # the smallest difference that matters, named before the run
    seeds = [0, 1, 2, 3, 4]
    budget = 40_000                # calls of the model that a method may spend on train users

    [primary]                      # the contrast that the study is about, named before the run
    setting = "movieworld"
    method = "RPP (MAPPO)"
    against = "best fixed, 5 merged"

    [[settings]]
    name = "movieworld"
    dataset = "movieworld"
    part = "main"                  # in which table of the report it stands; see PARTS
    model = "embedded"             # who ranks, as RPPEnv.make names it
    draws = [2, 3, 4, 5, 6]        # of worlds; of real data: of candidates and train users
    train_users = 500
    validation_users = 200
    test_users = 1500
    options = { num_candidates = 20, negatives = "uniform" }      # as RPPEnv.make takes them

    [[methods]]
    label = "best fixed, 5 merged"
    method = "merged_fixed"

    [[methods]]
    label = "RPP (MAPPO)"
    method = "rpp"                 # a name in rpp_agents.experiments.methods.METHODS,
                                   # "recommender", or package.module:function
    family = "RPP"                 # what it stands beside in tables
    config = { trainer = "mappo", options = { learning_rate = 8e-3 } }
    parts = ["main", "users"]      # where it is run; by default everywhere

    [[methods]]
    label = "RPP-{}"
    method = "rpp"
    variants = { Ro = { only = "role_playing" } }     # one method each; the label holds a {}

The k-th seed plays the draw k modulo their number, alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rpp_agents.experiments.cells import FITTED, Kind
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
    world_option,
)
from rpp_agents.experiments.methods import VERSIONS, options
from rpp_agents.trainers import trainer_config
from rpp_env.errors import InvalidOption
from rpp_env.factory import Options
from rpp_env.metrics import chance_ndcg
from rpp_env.options import made, unknown
from rpp_env.rules import RULES

__all__ = [
    "ONE_PATTERN",
    "PARTS",
    "PRESETS",
    "SWEEPS",
    "Cell",
    "Method",
    "Primary",
    "Setting",
    "Study",
]

PRESETS = Path(__file__).with_name("presets") / "study"
"""Folder of the shipped studies."""

PARTS: dict[str, str] = {
    "main": "Main table",
    "models": "Generalisation over models",
    "users": "Training users",
    "candidates": "Number of candidates",
    "negatives": "How candidates are drawn",
    "time": "Later users",
}
"""Parts of a report, in its order."""

SWEEPS = ("users", "candidates", "negatives")
"""Parts that vary one thing; the main settings of the same data stand beside them."""

ONE_PATTERN = "one pattern"
"""The family of methods that stand in a table of their own."""


_OPTIONS = {field.name for field in dataclasses.fields(Options)} | {"rules", "max_cycles"}
_OPTIONS -= {"data_seed", "task_seed", "user_seed", "draws"}  # follow from the draw
_OPTIONS -= {"rank_by", "recording", "generation"}  # are the setting's own
"""What a setting may say of its problem. What agents see is the same for all methods."""


@dataclass(frozen=True)
class Primary:
    """The contrast that a study is about."""

    setting: str
    method: str
    against: str


@dataclass(frozen=True)
class Setting:
    """Whose prompts are chosen, and who ranks."""

    name: str
    dataset: str = "movieworld"
    part: str = "main"
    model: str = "embedded"
    rank_by: str = "generate"
    recording: str = ""
    """A file that keeps the model's answers, from the study's folder; none by default."""
    tables: bool = True
    """Ask for every answer about train, validation and test users before; else only for those that
    methods choose to ask for, and tables of train users alone."""
    draws: Sequence[int] = (0,)
    train_users: int = 500
    validation_users: int = 200
    test_users: int = 1500
    budget: int | None = None
    """Where it shall differ from the study's."""
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def candidates(self) -> int:
        """Candidates of a task."""
        return int(self.options.get("num_candidates", RULES["RPP-v0"].num_candidates))

    @property
    def chance(self) -> float:
        """NDCG@10 of a random order."""
        return chance_ndcg(self.candidates)

    def problem(self, draw: int, split: str = "test") -> dict[str, Any]:
        """Options of `RPPEnv.make` that say which tasks these are.

        A made world has other users in every draw. Of a real dataset each draw has train users of
        its own, and the test users are the same, with other candidates.
        """
        told = {"dataset": self.dataset, **self.options, **world_option(self.dataset, draw)}
        if split == "train" and "task_seed" in told and draw:
            told["user_seed"] = draw
        return told

    def table(self, draw: int, split: str, users: int) -> str:
        """File of the answers about so many users of a split, from the study's folder."""
        told = (self.problem(draw, split), self.model, self.rank_by, users)
        name = f"{slug(Path(self.dataset).name)}-{split}-d{draw}-{users}"
        return f"tables/{name}-{short(told)}.rpptable"


@dataclass(frozen=True)
class Method:
    """One way to choose prompts, or to do without."""

    label: str
    method: str
    family: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[str] = ()
    settings: Sequence[str] = ()
    """Names of those where it is run; by default all of `parts`."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Names that fill the label's ``{}``, and what each adds to the config."""
    seeds: int | None = None
    """How many of the study's seeds, where it shall differ; such as 1 of what is slow."""

    @property
    def resolved(self) -> dict[str, Any]:
        """The config with the method's own defaults."""
        config, where = dict(self.config), f"method {self.label!r}"
        if self.method == "recommender":
            told = config.get("config", {})
            return config | {"config": _recommender_options(config["name"], told, where)}
        config = options(self.method) | config
        if self.method == "rpp":
            config["options"] = _trainer_options(config["trainer"], config["options"] or {}, where)
        return config

    def runs_in(self, setting: Setting) -> bool:
        """Whether it is run there."""
        if self.settings:
            return setting.name in self.settings
        return setting.part in (self.parts or PARTS)


@dataclass(frozen=True)
class Cell:
    """One method, fitted once."""

    study: Study
    setting: Setting
    method: Method
    seed: int

    @property
    def draw(self) -> int:
        """Which world, or which draw of the candidates."""
        return self.setting.draws[self.study.seeds.index(self.seed) % len(self.setting.draws)]

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return f"{self.setting.name}/{self.method.label} draw {self.draw} seed {self.seed}"

    @property
    def file(self) -> str:
        """Where it is kept, from the study's folder."""
        return f"cells/{slug(self.setting.name)}/{slug(self.method.label)}/s{self.seed}.json"

    @property
    def budget(self) -> int:
        """Calls of the model that it may spend."""
        return self.setting.budget or self.study.budget

    @property
    def asked(self) -> dict[str, Any]:
        """What it depends on."""
        setting = dataclasses.asdict(self.setting)
        for key in ("name", "part", "draws", "recording"):
            del setting[key]
        return plain(
            setting
            | self._train_users
            | {"draw": self.draw, "seed": self.seed, "budget": self.budget}
            | {"method": self.method.method, "config": self.method.resolved}
            | {"version": VERSIONS.get(self.method.method, 1)}
            | {"points": self.study.points}
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """The method's own config."""
        which = {k: x for k, x in self.method.config.items() if k in ("name", "trainer")}
        return plain(dataclasses.replace(self.method, config=which).resolved)

    @property
    def kind(self) -> Kind:
        """What its file must hold."""
        return FITTED

    @property
    def _train_users(self) -> dict[str, Any]:
        """Which they are, for whoever is fitted on them."""
        told = self.setting.problem(self.draw, "train")
        if self.method.method == "recommender" or "user_seed" not in told:
            return {}
        return {"user_seed": told["user_seed"]}

    def matches(self, pattern: str) -> bool:
        """Whether ``--only`` with this pattern means it."""
        return matches(self.setting.name, self.method.label, pattern)


@dataclass(frozen=True, kw_only=True)
class Study:
    """Settings x methods x seeds; see the module's page for the file."""

    name: str
    settings: tuple[Setting, ...]
    methods: tuple[Method, ...]
    title: str = "A study of prompts"
    primary: Mapping[str, Any] = field(default_factory=dict)
    smallest: float = 0.02
    seeds: tuple[int, ...] = (0,)
    budget: int = 40_000
    points: int = 10
    """Points of a learning curve."""

    @classmethod
    def load(cls, which: str | Path, trust: Sequence[str] = ()) -> Study:
        """Read a study: a TOML file, or the name of a shipped one.

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
        told, path = read_toml(which, PRESETS, "study", trust)
        return cls.parse(told, path.stem, where=str(path))

    @classmethod
    def parse(cls, told: Mapping[str, Any], name: str, *, where: str = "the study") -> Study:
        """The study that the tables of such a file describe."""
        told = nameless(told, "study", where)
        lists: dict[str, Any] = {}
        for key, kind in (("settings", Setting), ("methods", Method)):
            rows = told.get(key)
            if not isinstance(rows, list) or not rows:
                raise InvalidOption(f"{where} needs at least one [[{key}]]")
            lists[key] = tuple(
                made(kind, row, f"{where}, [[{key}]] {i + 1}") for i, row in enumerate(rows)
            )
        lists["methods"] = tuple(one for method in lists["methods"] for one in _variants(method))
        if "primary" in told:
            made(Primary, told["primary"], f"{where}, [primary]")
        study = made(cls, told | lists | {"name": name}, where)
        study._check(where)  # noqa: SLF001 - its own
        return study

    def _check(self, where: str) -> None:
        rows = {"settings": len(self.settings), "methods": len(self.methods)}
        runs = math.prod(rows.values()) * len(self.seeds)
        check_size(where, **rows, seeds=len(self.seeds), points=self.points, runs=runs)
        for label, names in (
            ("name", [setting.name for setting in self.settings]),
            ("label", [method.label for method in self.methods]),
        ):
            check_different(names, label, where)
        if not self.seeds or min(self.seeds) < 0 or len(set(self.seeds)) < len(self.seeds):
            raise InvalidOption(f"{where}: seeds must be different numbers from 0, at least one")
        for key in ("budget", "points"):
            if getattr(self, key) < 1:
                raise InvalidOption(f"{where}: {key} must be at least 1")
        known = [setting.name for setting in self.settings]
        self._check_rows(known, where)
        if self.primary:
            labels = [method.label for method in self.methods]
            for key, names in (("setting", known), ("method", labels), ("against", labels)):
                if self.primary[key] not in names:
                    raise InvalidOption(f"{where}: {unknown(key, self.primary[key], names)}")

    def _check_rows(self, known: Sequence[str], where: str) -> None:
        for setting in self.settings:
            here = f"{where}, setting {setting.name!r}"
            for key in setting.options:
                if key not in _OPTIONS:
                    raise InvalidOption(f"{here}: {unknown('option', key, sorted(_OPTIONS))}")
            check_problem(setting.options, here)
            if setting.part not in PARTS:
                raise InvalidOption(f"{here}: {unknown('part', setting.part, PARTS)}")
            place = Path(setting.recording)
            if place.is_absolute() or place.drive or ".." in place.parts:
                raise InvalidOption(
                    f"{here}: recording is a file in the study's folder, such as answers.sqlite, "
                    f"not {setting.recording!r}"
                )
            if not setting.draws or min(setting.draws) < 0:
                raise InvalidOption(f"{here}: draws must hold at least one number, none below 0")
            for key in ("train_users", "validation_users", "test_users"):
                if getattr(setting, key) < 1:
                    raise InvalidOption(f"{here}: {key} must be at least 1")
        for method in self.methods:
            here = f"{where}, method {method.label!r}"
            if others := [name for name in method.settings if name not in known]:
                raise InvalidOption(f"{here}: {unknown('setting', others[0], known)}")
            if others := [name for name in method.parts if name not in PARTS]:
                raise InvalidOption(f"{here}: {unknown('part', others[0], PARTS)}")
            self._check_config(method, here)

    @staticmethod
    def _check_config(method: Method, where: str) -> None:
        if method.method == "recommender":
            from rpp_agents.recommenders import NAMES

            name = method.config.get("name")
            if not isinstance(name, str) or set(method.config) - {"name", "config"}:
                raise InvalidOption(
                    f"{where}: a recommender's config holds a name, one of "
                    f"{', '.join(NAMES)}, and perhaps its own config; got "
                    f"{dict(method.config)}"
                )
            _recommender_options(name, method.config.get("config", {}), where)
            return
        try:
            allowed = options(method.method)
        except InvalidOption as error:
            raise InvalidOption(f"{where}: {error}") from error
        for key in method.config:
            if key not in allowed:
                raise InvalidOption(f"{where}: {unknown('option', key, allowed)}")
        if method.method == "rpp":
            told = allowed | dict(method.config)
            _trainer_options(told["trainer"], told["options"] or {}, where)

    def cells(self, only: Sequence[str] = ()) -> list[Cell]:
        """All runs, the first seed's first, so that what is finished is balanced.

        Parameters
        ----------
        only : sequence of str
            Patterns of SETTING/METHOD, with ``*`` and ``?``; a name alone is either.

        Raises
        ------
        InvalidOption
            For a pattern that nothing matches.
        """
        cells = [
            Cell(self, setting, method, seed)
            for index, seed in enumerate(self.seeds)
            for setting in self.settings
            for method in self.methods
            if method.runs_in(setting)
            and index < (method.seeds or len(self.seeds))
            # One draw more would be the same draw again.
            and (index < len(setting.draws) or len(setting.draws) > 1 or _varies(method))
        ]
        there = (
            f"settings are "
            f"{'; '.join(s.name for s in self.settings)}. Methods: "
            f"{'; '.join(m.label for m in self.methods)}"
        )
        return selected(cells, only, there)


def _recommender_options(name: str, told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The config of a recommender, with its own defaults."""
    from rpp_agents.recommenders import default_config

    try:
        default = default_config(name)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    known = [field.name for field in dataclasses.fields(default)]
    for key in told:
        if key not in known:
            raise InvalidOption(f"{where}: {unknown('option', key, known)}")
    return dataclasses.asdict(made(type(default), told, where))


def _trainer_options(trainer: str, told: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The Config of a trainer, with its own defaults and without what the study sets."""
    from rpp_agents.experiments.methods.trained import SET_BY_THE_STUDY

    ours = ("total_steps", "seed", *SET_BY_THE_STUDY)
    for key in told:
        if key in ours:
            raise InvalidOption(f"{where}: {key} is the study's own; leave it out")
    found = dataclasses.asdict(trainer_config(trainer, told, where))
    return {key: x for key, x in found.items() if key not in ours}


def _variants(method: Method) -> list[Method]:
    """The methods that a table of the file stands for."""
    if not method.variants:
        return [method]
    return [
        dataclasses.replace(
            method,
            label=method.label.replace("{}", name),
            config={**method.config, **more},
            variants={},
        )
        for name, more in method.variants.items()
    ]


def _varies(method: Method) -> bool:
    """Whether another seed in the same draw is another run."""
    fixed = ("manual", "enumerate_all", "llmrank", "merged_best", "recommender")
    return method.method not in fixed
