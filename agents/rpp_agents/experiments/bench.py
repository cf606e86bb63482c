"""Benches: the shorter form of file for methods that are trainers.

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

An environment becomes a setting with the worlds as draws, an algorithm a method that is called
``rpp``. Beside what a study does, a bench scores every step of the episode, reads the fixed prompt
and the reference from baselines that move as agents do, and can vary what agents see. The
protocol is that of Gorsane et al. 2022, "Towards a Standardised Performance Evaluation Protocol for
Cooperative MARL" (https://arxiv.org/abs/2209.10485): many training seeds, evaluations at fixed
steps, all users at each. One thing is stricter: nothing is chosen by the scores. What counts is the
policy at the end of training, not the best one on the way.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

from rpp_agents.experiments import run_files as files_of
from rpp_agents.experiments.files import (
    check_problem,
    check_size,
    plain,
    short,
    slug,
    with_defaults,
    world_option,
)
from rpp_agents.experiments.plan import (
    OPTIONS,
    Job,
    Method,
    Plan,
    Run,
    Setting,
    Table,
    check_counts,
    check_options,
    check_seeds,
    rows_of,
)
from rpp_agents.experiments.run_files import TRAINED, Kind
from rpp_agents.trainers import trainer_config
from rpp_env.errors import InvalidOption
from rpp_env.options import made, unknown
from rpp_env.rules import RULES, episode_of

__all__ = [
    "LEVELS",
    "Algorithm",
    "Bench",
    "Environment",
    "Levels",
    "Training",
    "as_bench",
    "problem_of",
]

LEVELS = {
    "random": "random prompt",
    "fixed": "best fixed prompt",
    "reference": "observable reference",
}
"""Names of the baselines of a world."""

_SET_BY_THE_BENCH = ("total_steps", "seed", "evaluations", "eval_episodes")
_HOW_NOT_WHAT: dict[str, Any] = {"threads": 1, "tensorboard": False, "evaluations": 0}
"""Fields of a Config that are equal in all runs, and not part of the fingerprint."""

_OPTIONS = (OPTIONS | {"max_cycles", "padded_actions"}) - {"data_seed", "task_seed"}
"""Options of an environment's problem; the seeds follow from the world."""


@dataclass(frozen=True)
class Environment:
    """A row of ``[[environments]]``."""

    name: str
    dataset: str = "movieworld"
    rules: str = "RPP-v0"
    observe: Literal["shared", "private"] = "shared"
    total_steps: int | None = None
    """Environment steps of every run in it; overrides the bench's."""
    live: bool = False
    """Whether to train on all train users with the model; else on the table of ``train_users``."""
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Algorithm:
    """A row of ``[[algorithms]]``."""

    label: str
    trainer: str
    config: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int | None = None
    ranking: Literal["mean", "sequence"] = "mean"
    """Form of the last ranking in observations; A2C's recurrent network reads a sequence."""
    environments: Sequence[str] = ()
    """Environments in which it is run; by default all."""
    grid: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, kw_only=True)
class _File:
    """The keys of the file."""

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


@dataclass(frozen=True)
class Levels:
    """Job of the baselines of one problem in one world, without training."""

    plan: Bench
    setting: Setting
    draw: int

    @property
    def name(self) -> str:
        """Name for the terminal."""
        setting = self.setting
        return f"{setting.dataset} {setting.rules.id} baselines, world {self.draw}"

    @property
    def file(self) -> str:
        """Path of its result, relative to the output folder."""
        setting, options = self.setting, problem_of(self.setting)["options"]
        name = f"{slug(Path(setting.dataset).name)}-{slug(setting.rules.id)}"
        extra = f"-{short(options)}" if options else ""
        return f"levels/{name}{extra}/w{self.draw}.json"

    @property
    def asked(self) -> dict[str, Any]:
        """JSON-serialisable fingerprint of its inputs."""
        return plain(problem_of(self.setting) | self.plan.users | {"world": self.draw})

    @property
    def defaults(self) -> dict[str, Any]:
        """Default config: none."""
        return {}

    @property
    def kind(self) -> Kind:
        """Schema of its file."""
        return files_of.LEVELS

    @property
    def tables(self) -> list[Table]:
        """Tables that it replays."""
        return [self.plan.table(self.setting, self.draw, s) for s in ("train", self.plan.split)]


@dataclass(frozen=True)
class Training(Run):
    """One training run."""

    plan: Bench

    @property
    def name(self) -> str:
        """See `Run.name`."""
        return f"{self.setting.name}/{self.method.label} world {self.draw} seed {self.seed}"

    @property
    def file(self) -> str:
        """See `Run.file`."""
        return f"{self.folder}/w{self.draw}-s{self.seed}.json"

    @property
    def config(self) -> Any:
        """The trainer's Config."""
        own = {"total_steps": self.budget, "seed": self.seed}
        return _config(self.method, episode=self.setting.episode, **own)

    @property
    def asked(self) -> dict[str, Any]:
        """See `Run.asked`."""
        method = self.method.config
        config = dataclasses.asdict(self.config)
        entries = {
            "environment": problem_of(self.setting)
            | {"observe": self.setting.observe}
            | ({"live": True} if self.setting.live else {}),
            "users": self.plan.users,
            "world": self.draw,
            "seed": self.seed,
            "trainer": method["trainer"],
            "num_envs": method["num_envs"],
            "ranking": method["ranking"],
            "evaluations": self.plan.points,
            "config": {key: x for key, x in config.items() if key not in _HOW_NOT_WHAT},
        }
        return plain(entries)

    @property
    def defaults(self) -> dict[str, Any]:
        """The trainer's own Config."""
        return plain(dataclasses.asdict(type(self.config)()))

    @property
    def kind(self) -> Kind:
        """See `Run.kind`."""
        return TRAINED

    @property
    def levels(self) -> Levels:
        """Job of its baselines."""
        return Levels(self.plan, self.setting, self.draw)

    @property
    def tables(self) -> list[Table]:
        """See `Run.tables`."""
        return self.levels.tables

    @property
    def problem(self) -> str:
        """See `Run.problem`: problems that differ only in the observations are one."""
        return json.dumps(problem_of(self.setting), sort_keys=True)

    def per_user(self, found: Mapping[str, Any]) -> dict[str, list[float]]:
        """See `Run.per_user`."""
        users = found["users"]
        return {"score": users["mean"], "first": users["first"], "last": users["last"]}

    def path(self, found: Mapping[str, Any]) -> tuple[list[int], list[float]]:
        """See `Run.path`."""
        return found["points"], [*found["scores"][:-1], found["score"]]

    def curve(self, found: Mapping[str, Any], split: str = "test") -> list[tuple[float, float]]:
        """See `Run.curve`; of the users that are scored alone."""
        return list(zip(found["points"], found["scores"], strict=True)) if split == "test" else []

    def costs(self, found: Mapping[str, Any]) -> dict[str, float]:
        """See `Run.costs`."""
        return {"steps/s": found["steps_per_second"], "seconds": found["seconds"]}


@dataclass(frozen=True, kw_only=True)
class Bench(Plan):
    """Algorithms x seeds x environments; see the module's docstring for the file."""

    worlds: tuple[int, ...]
    design: Literal["nested", "crossed"] = "nested"
    split: Literal["test", "validation"] = "test"
    train_users: int = 2000
    test_users: int = 2000

    FORM: ClassVar[str] = "bench"
    UNIT: ClassVar[str] = "environment steps"

    @classmethod
    def _parse(cls, entries: dict[str, Any], name: str, where: str) -> Self:
        entries["environments"] = with_defaults(entries.get("environments"), "rules")
        lists = {
            key: rows_of(entries, key, kind, where)
            for key, kind in (("environments", Environment), ("algorithms", Algorithm))
        }
        file: _File = made(_File, entries | lists, where)
        _check(file, where)
        methods = tuple(point for one in file.algorithms for point in _points(one, file.num_envs))
        against = file.against or file.algorithms[0].label
        bench = cls(
            name=name,
            title=f"Bench {name}",
            settings=tuple(_setting(one, file) for one in file.environments),
            methods=methods,
            seeds=file.seeds,
            budget=file.total_steps,
            points=file.evaluations,
            against=next(m.label for m in methods if against in (m.label, m.tunes)),
            worlds=file.worlds,
            design=file.design,
            split=file.split,
            train_users=file.train_users,
            test_users=file.test_users,
        )
        bench.check_common(where)
        return bench

    @property
    def users(self) -> dict[str, Any]:
        """Split whose scores are reported."""
        return {
            "split": self.split,
            "train_users": self.train_users,
            "test_users": self.test_users,
        }

    def table(self, setting: Setting, draw: int, split: str) -> Table:
        """See `Plan.table`: it holds enough for all rules, so that benches share a table."""
        rules = sorted(name for name, one in RULES.items() if one.order != "step")
        numbers: tuple[int, ...] | None = None
        if setting.rules.id in rules:
            numbers = tuple(sorted({n for name in rules for n in RULES[name].lengths.shown()}))
        else:
            rules = [setting.rules.id]
        options = problem_of(setting)["options"]
        users = self.train_users if split == "train" else self.test_users
        name = f"{slug(Path(setting.dataset).name)}-{split}-w{draw}-{users}"
        file = f"tables/{name}-{short((setting.dataset, options, numbers))}.rpptable"
        problem = {"dataset": setting.dataset, "rules": rules[0], **options}
        problem |= world_option(setting.dataset, draw)
        return Table(file, setting, split, users, problem, numbers)

    def jobs(self, runs: Sequence[Run]) -> list[Job]:
        """Return the runs, each after the baselines of its world."""
        jobs: list[Job] = []
        lines: set[str] = set()
        for run in runs:
            levels = Levels(self, run.setting, run.draw)
            if levels.file not in lines:
                lines.add(levels.file)
                jobs.append(levels)
            jobs.append(run)
        return jobs

    def runs(self, only: Sequence[str] = ()) -> list[Run]:
        """See `Plan.runs`; a trainer or an option that does not exist is refused here."""
        chosen = super().runs(only)
        for method in {run.method.label: run.method for run in chosen}.values():
            _config(method, total_steps=self.budget, seed=0)
        return chosen

    def _runs(self) -> Iterator[Run]:
        for index, seed in enumerate(self.seeds):
            nested = (self.worlds[index % len(self.worlds)],)
            for world in self.worlds if self.design == "crossed" else nested:
                for setting in self.settings:
                    for method in self.methods:
                        if method.runs_in(setting):
                            yield Training(self, setting, method, world, seed)


def as_bench(plan: Plan) -> Bench:
    """A plan that is a bench."""
    assert isinstance(plan, Bench)
    return plan


def problem_of(setting: Setting) -> dict[str, Any]:
    """Return a problem's options without the observations, on which no baseline depends."""
    options = {key: x for key, x in setting.options.items() if key != "rules"}
    return {"dataset": setting.dataset, "rules": setting.rules.id, "options": options}


def _setting(environment: Environment, file: _File) -> Setting:
    return Setting(
        environment.name,
        environment.dataset,
        model="embedded" if environment.rules in RULES else "",
        draws=file.worlds,
        train_users=file.train_users,
        validation_users=file.test_users,
        test_users=file.test_users,
        budget=environment.total_steps or file.total_steps,
        options={**environment.options, "rules": environment.rules},
        observe=environment.observe,
        live=environment.live,
    )


def _points(algorithm: Algorithm, num_envs: int) -> list[Method]:
    """Expand an algorithm to methods: one, or one for each point of its grid."""
    return [
        Method(
            f"{algorithm.label} [{i + 1}]" if algorithm.grid else algorithm.label,
            "rpp",
            config={
                "trainer": algorithm.trainer,
                "options": {**algorithm.config, **point},
                "num_envs": algorithm.num_envs or num_envs,
                "ranking": algorithm.ranking,
            },
            settings=algorithm.environments,
            tunes=algorithm.label if algorithm.grid else None,
            point={**algorithm.config, **point},
        )
        for i, point in enumerate(algorithm.grid or [{}])
    ]


def _check(file: _File, where: str) -> None:
    counts = ("total_steps", "num_envs", "evaluations", "train_users", "test_users")
    check_counts(file, counts, where)
    points = sum(max(1, len(algorithm.grid)) for algorithm in file.algorithms)
    rows = {"environments": len(file.environments), "algorithms": points}
    runs = math.prod(rows.values()) * len(file.seeds)
    runs *= len(file.worlds) if file.design == "crossed" else 1
    check_size(where, **rows, seeds=len(file.seeds), evaluations=file.evaluations, runs=runs)
    check_seeds(file.seeds, "seeds", where)
    check_seeds(file.worlds, "worlds", where)
    for environment in file.environments:
        if environment.total_steps is not None and environment.total_steps < 1:
            raise InvalidOption(f"{where}: {environment.name}'s total_steps must be at least 1")
        here = f"{where}, environment {environment.name!r}"
        if "rules" in environment.options:
            raise InvalidOption(f"{here}: rules are a key of the environment, not of its options")
        entries = {**environment.options, "rules": environment.rules}
        check_options(entries, _OPTIONS | {"rules"}, here)
        try:
            episode_of(environment.rules).check_table("a bench replays tables, so name other rules")
        except InvalidOption as error:
            raise InvalidOption(f"{here}: {error}") from error
        check_problem(entries, here)
    budgets = {algorithm.label: len(algorithm.grid) for algorithm in file.algorithms}
    if len(set(budgets.values())) > 1:
        raise InvalidOption(
            f"{where}: every algorithm gets the same number of grid points, not {budgets}"
        )
    known = [environment.name for environment in file.environments]
    labels = [algorithm.label for algorithm in file.algorithms]
    for algorithm in file.algorithms:
        if others := [name for name in algorithm.environments if name not in known]:
            raise InvalidOption(f"{where}: {unknown('environment', others[0], known)}")
        if algorithm.label in LEVELS:
            raise InvalidOption(
                f"{where}: {algorithm.label!r} is a baseline's name; choose another label"
            )
    if file.against and file.against not in labels:
        raise InvalidOption(f"{where}: {unknown('against', file.against, labels)}")


def _config(method: Method, **given: Any) -> Any:
    """The Config of the algorithm's trainer."""
    where, chosen = f"algorithm {method.label!r}", method.config["options"]
    for key in chosen:
        if key in _SET_BY_THE_BENCH:
            raise InvalidOption(
                f"{where}: {key} is the bench's own, the same for all; leave it out"
            )
    fixed = {key: x for key, x in _HOW_NOT_WHAT.items() if key not in chosen}
    return trainer_config(method.config["trainer"], chosen, where, **{**fixed, **given})
