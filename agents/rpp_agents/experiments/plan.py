"""Plans of experiments: a TOML file, and the runs that follow from it.

A study's file names settings, methods and seeds. A bench's (`rpp_agents.experiments.bench`) is a
shorter form for methods that are trainers; both become a `Plan`. A study's::

    title = "Does personalising the prompt pay?"
    smallest = 0.02                # the smallest relevant difference, fixed before the run
    seeds = [0, 1, 2, 3, 4]
    budget = 40_000                # calls of the model that a method may spend on train users

    [primary]                      # the primary contrast, fixed before the run
    setting = "movieworld"
    method = "RPP (MAPPO)"
    against = "best fixed, 5 merged"

    [[contrasts]]                  # further ones, fixed before the run; one correction over all
    setting = "movieworld"
    method = "RPP-Ro"
    against = "best fixed, 5 merged"

    [[settings]]
    name = "movieworld"
    dataset = "movieworld"
    part = "main"                  # its table in the report; see PARTS
    model = "embedded"             # the ranking model, as in RPPEnv.make
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
    family = "RPP"                 # its neighbours in tables
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
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeVar

from rpp_agents.experiments.files import (
    check_different,
    check_problem,
    check_size,
    matches,
    nameless,
    options_of,
    plain,
    read_toml,
    selected,
    short,
    slug,
    with_defaults,
    world_option,
)
from rpp_agents.experiments.methods import VERSIONS, options
from rpp_agents.experiments.run_files import FITTED, REDRAWN, Kind
from rpp_agents.trainers import trainer_config
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption
from rpp_env.factory import Options
from rpp_env.metrics import chance_ndcg
from rpp_env.options import made, unknown
from rpp_env.rules import RULES, Rules, episode_of, find_system

__all__ = [
    "DETAILED",
    "ONE_PATTERN",
    "PARTS",
    "PRESETS",
    "SPLITS",
    "SWEEPS",
    "Comparison",
    "Method",
    "Plan",
    "Redrawn",
    "Run",
    "Setting",
    "Study",
    "Table",
]

PRESETS = Path(__file__).with_name("presets")
"""Folder of the shipped files: ``study`` and ``bench``."""

SPLITS = ("train", "validation", "test")

PARTS: dict[str, str] = {
    "main": "Main table",
    "systems": "Across the systems",
    "models": "Generalisation over models",
    "users": "Training users",
    "candidates": "Number of candidates",
    "negatives": "How candidates are drawn",
    "time": "Later users",
}
"""Parts of a report, in its order."""

DETAILED = ("main", "systems", "models", "time")
"""Parts with a table of each setting."""

SWEEPS = ("users", "candidates", "negatives")
"""Parts that vary one thing; they are shown with the main settings of the same data."""

ONE_PATTERN = "one pattern"
"""The family of methods with a separate table."""

OPTIONS = frozenset(field.name for field in dataclasses.fields(Options))
_OPTIONS = OPTIONS | {"rules", "max_cycles"}
_OPTIONS -= {"data_seed", "task_seed", "user_seed", "draws"}  # follow from the draw
_OPTIONS -= {"rank_by", "recording", "generation"}  # are the setting's own
"""Options of a setting's problem. Observations are the same for all methods."""

_Row = TypeVar("_Row")


@dataclass(frozen=True)
class Comparison:
    """A contrast that a study names before the run: the primary one, or a further one."""

    setting: str
    method: str
    against: str


@dataclass(frozen=True)
class Setting:
    """A dataset, its users and the recommender that ranks."""

    name: str
    dataset: str = "movieworld"
    part: str = "main"
    model: str = "embedded"
    """Ranking model, as in `RPPEnv.make`; empty for the rules' own recommender."""
    rank_by: str = "generate"
    recording: str = ""
    """File of the model's recorded answers, in the output folder; none by default."""
    tables: bool = True
    """Ask for every answer about train, validation and test users before; else only for those that
    methods choose to ask for, and tables of train users alone."""
    draws: Sequence[int] = (0,)
    train_users: int = 500
    validation_users: int = 200
    test_users: int = 1500
    budget: int | None = None
    """Overrides the plan's."""
    options: Mapping[str, Any] = field(default_factory=dict)
    observe: Literal["shared", "private"] = "shared"
    """Observations of each agent (benches only)."""
    live: bool = False
    """Whether to train on all train users with the model itself (benches only)."""

    @property
    def rules(self) -> Rules | Episode:
        """The rules of its episodes."""
        return RULES.get(self.options.get("rules", "RPP-v0")) or self.episode

    @property
    def episode(self) -> Episode:
        """The episode of its rules, without the setting's `max_cycles`."""
        return episode_of(self.options.get("rules", "RPP-v0"))

    @property
    def recommender(self) -> str:
        """Name of the model that ranks."""
        return self.model or find_system(self.options.get("rules", "RPP-v0")).model

    @property
    def steps(self) -> int:
        """Steps of an episode."""
        return int(self.options.get("max_cycles", self.rules.max_cycles))

    @property
    def candidates(self) -> int:
        """Candidates of a task."""
        rules = self.rules
        if not isinstance(rules, Rules):
            rules = options_of(self.options["rules"])
        number = self.options.get("num_candidates", getattr(rules, "num_candidates", None))
        return int(number or RULES["RPP-v0"].num_candidates)

    @property
    def chance(self) -> float:
        """NDCG@10 of a random order."""
        return chance_ndcg(self.candidates)

    def users_of(self, split: str) -> int:
        """Number of users of a split."""
        return int(getattr(self, f"{split}_users"))

    def problem(self, draw: int, split: str = "test") -> dict[str, Any]:
        """Return the options of `RPPEnv.make` that select the tasks.

        A made world has other users in every draw. Of a real dataset each draw has train users of
        its own, and the test users are the same, with other candidates.
        """
        entries = {"dataset": self.dataset, **self.options, **world_option(self.dataset, draw)}
        if split == "train" and "task_seed" in entries and draw:
            entries["user_seed"] = draw
        return entries


@dataclass(frozen=True)
class Table:
    """A reward table of some users of one draw."""

    file: str
    """Path, relative to the output folder."""
    setting: Setting
    split: str
    users: int
    problem: Mapping[str, Any]
    """Options of `RPPEnv.make`."""
    shown: tuple[int, ...] | None = None
    """History lengths in it; by default those of the rules."""


@dataclass(frozen=True)
class Method:
    """A method: a way to choose prompts, or to rank without them."""

    label: str
    method: str
    family: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    parts: Sequence[str] = ()
    settings: Sequence[str] = ()
    """Settings in which it is run; by default all of `parts`."""
    variants: Mapping[str, Any] = field(default_factory=dict)
    """Variants: names for the label's ``{}``, with additions to the config."""
    seeds: int | None = None
    """Number of the plan's seeds that it is run with, such as 1 if it is slow; by default all."""
    tunes: str | None = None
    """Group of the points of a grid: the label of a bench's algorithm with a grid, or of a study's
    method with variants, without the ``{}``."""
    point: Mapping[str, Any] = field(default_factory=dict)
    """Options that differ between the points of a grid."""

    def resolved(self, episode: Episode | None = None) -> dict[str, Any]:
        """Return the config with the method's own defaults, and the discount of an `episode`."""
        config, where = dict(self.config), f"method {self.label!r}"
        if self.method == "recommender":
            entries = config.get("config", {})
            return config | {"config": _recommender_options(config["name"], entries, where)}
        config = options(self.method) | config
        if self.method == "rpp":
            options_given = config["options"] or {}
            config["options"] = _trainer_options(config["trainer"], options_given, where, episode)
        return config

    @property
    def varies(self) -> bool:
        """Return whether the result depends on the seed within a draw."""
        fixed = ("manual", "enumerate_all", "llmrank", "merged_best", "recommender")
        return self.method not in fixed

    def runs_in(self, setting: Setting) -> bool:
        """Return whether it is run in a setting."""
        if self.settings:
            return setting.name in self.settings
        return setting.part in (self.parts or PARTS)


@dataclass(frozen=True)
class Run:
    """A run: one method, fitted once."""

    plan: Plan
    setting: Setting
    method: Method
    draw: int
    seed: int

    @property
    def name(self) -> str:
        """Name for the terminal."""
        return f"{self.setting.name}/{self.method.label} draw {self.draw} seed {self.seed}"

    @property
    def folder(self) -> str:
        """Folder of its method's runs in its setting, relative to the output folder."""
        return f"cells/{slug(self.setting.name)}/{slug(self.method.label)}"

    @property
    def file(self) -> str:
        """Path of its result, relative to the output folder."""
        return f"{self.folder}/s{self.seed}.json"

    @property
    def budget(self) -> int:
        """Maximum calls of the model, or steps of the environment."""
        return self.setting.budget or self.plan.budget

    @property
    def asked(self) -> dict[str, Any]:
        """JSON-serialisable fingerprint of its inputs."""
        setting = dataclasses.asdict(self.setting)
        for key in ("name", "part", "draws", "recording", "observe", "live"):
            del setting[key]
        return plain(
            setting
            | self._train_users
            | {"draw": self.draw, "seed": self.seed, "budget": self.budget}
            | {"method": self.method.method, "config": self.method.resolved(self.setting.episode)}
            | {"version": VERSIONS.get(self.method.method, 1)}
            | {"points": self.plan.points}
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of the method's config."""
        which = {k: x for k, x in self.method.config.items() if k in ("name", "trainer")}
        return plain(dataclasses.replace(self.method, config=which).resolved())

    @property
    def kind(self) -> Kind:
        """Schema of its file."""
        return FITTED

    @property
    def tables(self) -> list[Table]:
        """Tables that it replays; none for a recommender without prompts."""
        if self.method.method == "recommender":
            return []
        splits = SPLITS if self.setting.tables else ("train",)
        return [self.plan.table(self.setting, self.draw, split) for split in splits]

    @property
    def _train_users(self) -> dict[str, Any]:
        """Options that select the train users, for methods that are fitted on them."""
        entries = self.setting.problem(self.draw, "train")
        if self.method.method == "recommender" or "user_seed" not in entries:
            return {}
        return {"user_seed": entries["user_seed"]}

    @property
    def levels(self) -> Job | None:
        """Job of the baselines of its draw (benches only)."""
        return None

    @property
    def problem(self) -> str:
        """Key of the problem: runs of one problem and draw must have scored the same users."""
        return self.setting.name

    @property
    def place(self) -> int:
        """Index of its draw among those of its setting."""
        return list(self.setting.draws).index(self.draw)

    def per_user(self, found: Mapping[str, Any]) -> dict[str, list[float]]:
        """Return its results for every scored user, by column."""
        scores: dict[str, list[float]] = found["scores"]
        return scores

    def path(self, found: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        """Return evenly spaced calls or steps of training with scores; the last is the result.

        A method that was fitted at an earlier point stays as it was; one that learns at once has
        its score everywhere. Points before the last are of as many users as a curve is.
        """
        scores, points = found["scores"]["score"], self.plan.points
        curve = [point["test"] for point in found["curve"][: points - 1]][: len(found["curve"]) - 1]
        last = sum(scores) / len(scores)
        steps = [round(self.budget * (i + 1) / points) for i in range(points)]
        return steps, curve + [last] * (points - len(curve))

    def curve(self, found: Mapping[str, Any], split: str = "test") -> list[tuple[float, float]]:
        """Return the calls or steps of intermediate evaluations, with their scores."""
        return [(point["calls"], point[split]) for point in found["curve"]]

    def costs(self, found: Mapping[str, Any]) -> dict[str, float]:
        """Return its costs by name: of training, then per scored user."""
        training, testing = found["training"], found["testing"]
        return {
            "training calls": training["calls"],
            "unique": training["unique"],
            "training tokens": training["tokens"],
            "seconds": training["seconds"],
            "calls": testing["calls"],
            "different": testing["different"],
            "tokens": testing["tokens"],
            "named": testing["named"],
        }

    def matches(self, pattern: str) -> bool:
        """Return whether a pattern of ``--only`` matches it."""
        return matches(self.setting.name, self.method.label, pattern)


@dataclass(frozen=True)
class Redrawn:
    """A job that draws candidates three times for the same users, to measure luck in hindsight."""

    plan: Plan
    setting: Setting

    DRAWS: ClassVar[int] = 3
    MOST: ClassVar[int] = 300

    @property
    def name(self) -> str:
        """Name for the terminal."""
        return f"{self.setting.name}, candidates drawn again"

    @property
    def file(self) -> str:
        """Path of its result, relative to the output folder."""
        return f"redrawn/{slug(self.setting.name)}.json"

    @property
    def users(self) -> int:
        """Test users."""
        return min(self.MOST, self.setting.test_users)

    @property
    def draw(self) -> int:
        """Draw whose train users choose the best fixed prompt."""
        return self.setting.draws[0]

    @property
    def asked(self) -> dict[str, Any]:
        """JSON-serialisable fingerprint of its inputs."""
        return plain(
            self.setting.problem(self.draw, "train")
            | {"model": self.setting.model, "rank_by": self.setting.rank_by}
            | {"users": self.users, "draws": self.DRAWS}
            | {"train_users": self.setting.train_users}
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """Default config: none."""
        return {}

    @property
    def kind(self) -> Kind:
        """Schema of its file."""
        return REDRAWN

    @property
    def tables(self) -> list[Table]:
        """Tables that it replays."""
        return [self.plan.table(self.setting, self.draw, "train")]


Job = Any
"""A `Run`, or what is found beside runs: `Redrawn`, `rpp_agents.experiments.bench.Levels`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Settings x methods x seeds: the common base of studies and benches."""

    name: str
    settings: tuple[Setting, ...]
    methods: tuple[Method, ...]
    seeds: tuple[int, ...] = (0,)
    budget: int = 40_000
    points: int = 10
    """Points of a learning curve."""
    title: str = "A study of prompts"
    primary: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the primary contrast, see `Comparison`."""
    contrasts: tuple[Comparison, ...] = ()
    """Further contrasts, named before the run (studies only)."""
    smallest: float = 0.02
    """Smallest relevant difference."""
    against: str = ""
    """Method that all others are compared with (benches only)."""
    refusals: bool = False
    """Whether a method that cannot choose a setting's prompts is named in the report, with its
    reason, and not counted as failed (studies only)."""

    FORM: ClassVar[str] = ""
    """Form of the file: ``"study"`` or ``"bench"``."""
    UNIT: ClassVar[str] = "calls of the model in training"
    """Unit of the x-axis of learning curves."""
    split: str = "test"
    """Split whose scores are reported."""

    @classmethod
    def load(cls, which: str | Path, trust: Sequence[str] = ()) -> Self:
        """Read a file, or a shipped one by its name.

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
        entries, path = read_toml(which, PRESETS / cls.FORM, cls.FORM, trust)
        return cls.parse(entries, path.stem, where=str(path))

    @classmethod
    def parse(cls, entries: Mapping[str, Any], name: str, *, where: str = "") -> Self:
        """Make the plan from the tables of its file."""
        where = where or f"the {cls.FORM}"
        return cls._parse(nameless(entries, cls.FORM, where), name, where)

    @classmethod
    def _parse(cls, entries: dict[str, Any], name: str, where: str) -> Self:
        raise NotImplementedError

    @property
    def tunes(self) -> bool:
        """Return whether it compares points of a grid."""
        return any(method.tunes is not None for method in self.methods)

    def table(self, setting: Setting, draw: int, split: str) -> Table:
        """Return the table that runs of a setting replay."""
        raise NotImplementedError

    def jobs(self, runs: Sequence[Run]) -> list[Job]:
        """Return the jobs of these runs, and further jobs that the report needs."""
        raise NotImplementedError

    def _runs(self) -> Iterator[Run]:
        raise NotImplementedError

    def runs(self, only: Sequence[str] = ()) -> list[Run]:
        """List all runs, the first seed's first, so that partial results are balanced.

        Parameters
        ----------
        only : sequence of str
            Patterns of SETTING/METHOD, with ``*`` and ``?``; a name alone is either.

        Raises
        ------
        InvalidOption
            For a pattern that nothing matches.
        """
        names = "; ".join(setting.name for setting in self.settings)
        labels = "; ".join(method.label for method in self.methods)
        there = f"settings are {names}. Methods: {labels}"
        return selected(list(self._runs()), only, there)

    def check_common(self, where: str) -> None:
        """Check the conditions of both forms."""
        for label, names in (
            ("name", [setting.name for setting in self.settings]),
            ("label", [method.label for method in self.methods]),
        ):
            check_different(names, label, where)
        check_seeds(self.seeds, "seeds", where)
        known = [setting.name for setting in self.settings]
        for method in self.methods:
            if others := [name for name in method.settings if name not in known]:
                here = f"{where}, method {method.label!r}"
                raise InvalidOption(f"{here}: {unknown('setting', others[0], known)}")


def rows_of(
    entries: Mapping[str, Any], key: str, kind: type[_Row], where: str, *hidden: str
) -> Any:
    """Read the rows of ``[[key]]`` as dataclasses."""
    rows = entries.get(key)
    if not isinstance(rows, list) or not rows:
        raise InvalidOption(f"{where} needs at least one [[{key}]]")
    return tuple(
        made(kind, row, f"{where}, [[{key}]] {i + 1}", hidden=hidden) for i, row in enumerate(rows)
    )


def check_seeds(numbers: Sequence[int], name: str, where: str) -> None:
    """Check that numbers are different and at least 0."""
    if not numbers or min(numbers) < 0 or len(set(numbers)) < len(numbers):
        raise InvalidOption(f"{where}: {name} must be different numbers from 0, at least one")


def check_counts(row: object, names: Sequence[str], where: str) -> None:
    """Check that fields are at least 1."""
    for name in names:
        if getattr(row, name) < 1:
            raise InvalidOption(f"{where}: {name} must be at least 1")


def check_options(chosen: Mapping[str, Any], allowed: Iterable[str], where: str) -> None:
    """Check a setting's options."""
    rules = chosen.get("rules", "RPP-v0")
    if not isinstance(rules, str):
        raise InvalidOption(f"{where}: rules must be the name of an id, not {rules!r}")
    try:
        own = options_of(rules)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    if rules not in RULES:
        names = {field.name for field in dataclasses.fields(own)}
        allowed = names & {*allowed, *(names - OPTIONS)} | {"rules", "max_cycles"}
    for key in chosen:
        if key not in allowed:
            raise InvalidOption(f"{where}: {unknown('option', key, sorted(allowed))}")


@dataclass(frozen=True, kw_only=True)
class Study(Plan):
    """Settings x methods x seeds; see the module's docstring for the file."""

    FORM: ClassVar[str] = "study"

    @classmethod
    def _parse(cls, entries: dict[str, Any], name: str, where: str) -> Self:
        entries["settings"] = with_defaults(entries.get("settings"), "options", "rules", model="")
        settings = rows_of(entries, "settings", Setting, where, "observe", "live")
        methods = rows_of(entries, "methods", Method, where, "tunes", "point")
        if "primary" in entries:
            made(Comparison, entries["primary"], f"{where}, [primary]")
        rows = {
            "settings": settings,
            "methods": tuple(one for method in methods for one in _variants(method)),
        }
        if "contrasts" in entries:
            rows["contrasts"] = rows_of(entries, "contrasts", Comparison, where)
        study: Self = made(cls, entries | rows | {"name": name}, where, hidden=("against", "split"))
        study.check(where)
        return study

    def check(self, where: str) -> None:
        """Check the conditions of a study."""
        rows = {"settings": len(self.settings), "methods": len(self.methods)}
        runs = math.prod(rows.values()) * len(self.seeds)
        check_size(where, **rows, seeds=len(self.seeds), points=self.points, runs=runs)
        self.check_common(where)
        check_counts(self, ("budget", "points"), where)
        for setting in self.settings:
            _check_setting(setting, f"{where}, setting {setting.name!r}")
        for method in self.methods:
            here = f"{where}, method {method.label!r}"
            if others := [name for name in method.parts if name not in PARTS]:
                raise InvalidOption(f"{here}: {unknown('part', others[0], PARTS)}")
            _check_method(method, here)
        self._check_calls(where)
        self._check_recommenders(where)
        known = [setting.name for setting in self.settings]
        labels = [method.label for method in self.methods]
        named = [self.primary] if self.primary else []
        for contrast in (*named, *map(dataclasses.asdict, self.contrasts)):
            for key, names in (("setting", known), ("method", labels), ("against", labels)):
                if contrast[key] not in names:
                    raise InvalidOption(f"{where}: {unknown(key, contrast[key], names)}")

    def _check_recommenders(self, where: str) -> None:
        """Refuse recommenders that would be fitted on the targets of a setting's tasks.

        They are fitted on all users' histories without the last item, which is the target in RPP's
        tasks and nowhere else.
        """
        for setting in self.settings:
            if issubclass(options_of(setting.options.get("rules", "RPP-v0")), Options):
                continue
            for method in self.methods:
                if method.method == "recommender" and method.runs_in(setting):
                    raise InvalidOption(
                        f"{where}: {method.label!r} would be fitted on clicks that are targets in "
                        f"{setting.name!r}, whose rules are {setting.rules.id}: give it parts or "
                        "settings without that one"
                    )

    def _check_calls(self, where: str) -> None:
        """Check that the baseline at equal calls makes one call per step of an episode.

        If episodes have one step, the best fixed prompt itself is that baseline.
        """
        for setting in self.settings:
            there = [method for method in self.methods if method.runs_in(setting)]
            if setting.steps == 1 or not any(method.method == "rpp" for method in there):
                continue
            for method in there:
                if method.method != "merged_fixed":
                    continue
                calls = method.resolved()["calls"]
                if calls != setting.steps:
                    raise InvalidOption(
                        f"{where}: {method.label!r} asks {calls} times, and an episode of "
                        f"{setting.name!r} has {setting.steps} steps: what is compared at equal "
                        f"calls needs config = {{ calls = {setting.steps} }} there"
                    )

    def table(self, setting: Setting, draw: int, split: str) -> Table:
        """See `Plan.table`: settings that differ only in their users share the largest table."""

        def alike(other: Setting) -> bool:
            mine = (setting.problem(0), setting.model, setting.rank_by)
            return draw in other.draws and (other.problem(0), other.model, other.rank_by) == mine

        users = max(other.users_of(split) for other in self.settings if alike(other))
        problem = setting.problem(draw, split)
        name = f"{slug(Path(setting.dataset).name)}-{split}-d{draw}-{users}"
        digest = short((problem, setting.model, setting.rank_by, users))
        return Table(f"tables/{name}-{digest}.rpptable", setting, split, users, problem)

    def jobs(self, runs: Sequence[Run]) -> list[Job]:
        """Return the runs' jobs, and `Redrawn` after the first one of each main setting."""
        jobs: list[Job] = []
        seen = set()
        for run in runs:
            jobs.append(run)
            setting = run.setting
            wanted = (
                setting.part == "main" and setting.tables and run.method.method != "recommender"
            )
            # Files of retrieved candidates hold one draw, and so do other systems.
            retrieved = setting.options.get("negatives") == "retrieved"
            wanted &= not retrieved and isinstance(setting.rules, Rules)
            wanted &= not setting.episode.changes
            if wanted and setting.name not in seen:
                seen.add(setting.name)
                jobs.append(Redrawn(self, setting))
        return jobs

    def _runs(self) -> Iterator[Run]:
        for index, seed in enumerate(self.seeds):
            for setting in self.settings:
                draw = setting.draws[index % len(setting.draws)]
                # One draw more would be the same draw again.
                new = index < len(setting.draws) or len(setting.draws) > 1
                for method in self.methods:
                    if index >= (method.seeds or len(self.seeds)) or not method.runs_in(setting):
                        continue
                    if new or method.varies:
                        yield Run(self, setting, method, draw, seed)


def _check_setting(setting: Setting, where: str) -> None:
    check_options(setting.options, _OPTIONS, where)
    check_problem(setting.options, where)
    if not isinstance(setting.rules, Rules) and setting.model == "embedded":
        raise InvalidOption(
            f"{where}: the embedded model reads sentences, and {setting.rules.id} has none: give "
            'model = "" for its own recommender, or name one'
        )
    if setting.part not in PARTS:
        raise InvalidOption(f"{where}: {unknown('part', setting.part, PARTS)}")
    place = Path(setting.recording)
    if place.is_absolute() or place.drive or ".." in place.parts:
        raise InvalidOption(
            f"{where}: recording is a file in the study's folder, such as answers.sqlite, "
            f"not {setting.recording!r}"
        )
    if not setting.draws or min(setting.draws) < 0:
        raise InvalidOption(f"{where}: draws must hold at least one number, none below 0")
    check_counts(setting, ("train_users", "validation_users", "test_users"), where)


def _check_method(method: Method, where: str) -> None:
    if method.method == "recommender":
        from rpp_agents.recommenders import NAMES

        name = method.config.get("name")
        if not isinstance(name, str) or set(method.config) - {"name", "config"}:
            raise InvalidOption(
                f"{where}: a recommender's config holds a name, one of {', '.join(NAMES)}, and "
                f"perhaps its own config; got {dict(method.config)}"
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
        entries = allowed | dict(method.config)
        _trainer_options(entries["trainer"], entries["options"] or {}, where)


def _recommender_options(name: str, entries: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the config of a recommender, with its own defaults."""
    from rpp_agents.recommenders import default_config

    try:
        default = default_config(name)
    except InvalidOption as error:
        raise InvalidOption(f"{where}: {error}") from error
    known = [field.name for field in dataclasses.fields(default)]
    for key in entries:
        if key not in known:
            raise InvalidOption(f"{where}: {unknown('option', key, known)}")
    return dataclasses.asdict(made(type(default), entries, where))


def _trainer_options(
    trainer: str, entries: Mapping[str, Any], where: str, episode: Episode | None = None
) -> dict[str, Any]:
    """Return the Config of a trainer, with its own defaults and without the study's settings."""
    from rpp_agents.experiments.methods.trained import SET_BY_THE_STUDY

    ours = ("total_steps", "seed", *SET_BY_THE_STUDY)
    for key in entries:
        if key in ours:
            raise InvalidOption(f"{where}: {key} is the study's own; leave it out")
    found = dataclasses.asdict(trainer_config(trainer, entries, where, episode=episode))
    return {key: x for key, x in found.items() if key not in ours}


def _variants(method: Method) -> list[Method]:
    """Expand the variants of a method."""
    if not method.variants:
        return [method]
    return [
        dataclasses.replace(
            method,
            label=method.label.replace("{}", name),
            config={**method.config, **more},
            variants={},
            tunes=" ".join(method.label.replace("{}", "").strip(" -,:").split()) or method.label,
            point=more,
        )
        for name, more in method.variants.items()
    ]
