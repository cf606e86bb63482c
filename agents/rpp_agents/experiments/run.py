"""Makes the tables that a study replays, and runs its cells.

::

    OUT/tables/                             every answer, per setting, draw and split
    OUT/cells/SETTING/METHOD/s0.json        one method, fitted once
    OUT/cells/SETTING/METHOD/s0.failed.txt  what went wrong, until it is run again
    OUT/report.md  results.jsonl  index.html  plots/        what `rpp-env report` writes

A cell holds every test user's scores, what its answers cost, the learning curve, and which
sentences each kind of user got.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.cells import REDRAWN, Kind
from rpp_agents.experiments.files import plain, short, slug
from rpp_agents.experiments.jobs import Outcome, run_jobs
from rpp_agents.experiments.methods import method
from rpp_agents.experiments.plan import Cell, Setting, Study
from rpp_agents.experiments.players import Played, Player
from rpp_agents.experiments.problem import Problem, Users, remade
from rpp_env import RPPEnv
from rpp_env.data.arrays import read_arrays, write_arrays
from rpp_env.data.atomic import read_table
from rpp_env.errors import InvalidData, InvalidOption, RPPWarning
from rpp_env.intervals import estimate
from rpp_env.metrics import ndcg
from rpp_env.table import RewardTable, tabulate

__all__ = [
    "SPLITS",
    "Redrawn",
    "jobs_of",
    "live_of",
    "make_tables",
    "open_problem",
    "run_cells",
    "tables_of",
    "users_of",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

SPLITS = ("train", "validation", "test")
_WORTH_A_PROCESS = 64
_CURVE_USERS = 500
"""Of each split, for the points of a curve."""
_KEPT_PROMPTS = 48
"""Test users whose prompts are kept one by one, for the page."""


# Tables


def users_of(setting: Setting, split: str) -> int:
    """How many users of a split a setting has."""
    return int(getattr(setting, f"{split}_users"))


def tables_of(cells: Sequence[Cell]) -> list[tuple[Setting, int, str, int]]:
    """Setting, draw, split and users of the tables that these cells replay.

    Settings that differ in the number of train users share the largest one's.
    """
    found: dict[str, tuple[Setting, int, str, int]] = {}
    for cell in cells:
        if cell.method.method == "recommender":
            continue  # reads no prompts
        setting, draw = cell.setting, cell.draw
        for split in SPLITS if setting.tables else ("train",):
            file, users = _table_of(cell.study, setting, draw, split)
            found[file] = (setting, draw, split, users)
    return list(found.values())


def _table_of(study: Study, mine: Setting, draw: int, split: str) -> tuple[str, int]:
    """The file that a setting replays, and its users: the most that any such setting has."""
    users = max(
        users_of(other, split)
        for other in study.settings
        if draw in other.draws
        and (other.problem(0), other.model, other.rank_by)
        == (mine.problem(0), mine.model, mine.rank_by)
    )
    return mine.table(draw, split, users), users


def make_tables(
    cells: Sequence[Cell],
    out: Path,
    *,
    processes: int = 1,
    tell: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Make the tables that these cells replay, where they are not there yet.

    Parameters
    ----------
    cells : sequence of Cell
    out : Path
        Folder of the study.
    processes : int
        Processes that compute answers.
    tell : callable, optional
        Called with a table's name, its finished tasks, and its tasks in all.

    Returns
    -------
    list of Path
        Of those that were made now.
    """
    made = []
    for setting, draw, split, users in tables_of(cells):
        path = out / setting.table(draw, split, users)
        if path.exists():
            continue
        # A server, or an engine in this process, is asked from one.
        several = setting.model == "embedded" and users >= _WORTH_A_PROCESS
        tabulate(
            live_of(setting, draw, split, users, out),
            path,
            processes=processes if several else 1,
            progress=None if tell is None else _telling(tell, path.stem),
        )
        made.append(path)
    return made


def _telling(tell: Callable[[str, int, int], None], name: str) -> Callable[[int, int], None]:
    return lambda done, users: tell(name, done, users)


def live_of(setting: Setting, draw: int, split: str, users: int, out: Path, **more: Any) -> RPPEnv:
    """The model itself; `more` options as `RPPEnv.make` takes them."""
    options: dict[str, Any] = {"rank_by": setting.rank_by} if setting.rank_by != "generate" else {}
    if setting.recording:
        options["recording"] = str(out / setting.recording)
    options |= setting.problem(draw, split) | more
    return RPPEnv.make(model=setting.model, split=split, max_users=users, **options)


def _replay(study: Study, setting: Setting, draw: int, split: str, out: Path) -> RPPEnv:
    """The table of a split."""
    return RPPEnv.make(
        model=_table(out / _table_of(study, setting, draw, split)[0]),
        split=split,
        max_users=users_of(setting, split),
        **setting.problem(draw, split),
    )


@lru_cache(maxsize=6)
def _table(path: Path) -> RewardTable:
    return RewardTable.load(path)


def open_problem(cell: Cell, out: Path) -> Problem:
    """The problem of a cell, whose tables are there."""
    parts = {}
    for split in SPLITS:
        setting, users = cell.setting, users_of(cell.setting, split)
        live = live_of(setting, cell.draw, split, users, out)
        env = live
        if setting.tables or split == "train":
            env = _replay(cell.study, setting, cell.draw, split, out)
            _check_model(env, live)
            # The same embeddings, and not only equal ones.
            live = remade(live, embeddings=env.embeddings)
        parts[split] = Users(env, live)
    return Problem(**parts)


def _check_model(env: RPPEnv, live: RPPEnv) -> None:
    """A table of another model than the one that is asked beside it is not to be compared."""
    assert env.table is not None
    before = env.table.provenance["model"]
    now = getattr(getattr(live.recommender, "model", None), "id", None)
    # Digests are of fitted numbers, whose last bits may differ from machine to machine.
    names = [re.sub(r"\b[0-9a-f]{16}\b", "", str(name)) for name in (before, now)]
    if now is not None and names[0] != names[1]:
        raise InvalidOption(
            f"the study's tables hold answers of {before}, and what no table holds would be asked "
            f"of {now}: give another --out, or delete the tables and the cells"
        )


# One cell


def jobs_of(cells: Sequence[Cell]) -> list[Cell | Redrawn]:
    """The cells, and after the first of a setting of the main table what is drawn again there."""
    jobs: list[Cell | Redrawn] = []
    seen = set()
    for cell in cells:
        jobs.append(cell)
        setting = cell.setting
        wanted = setting.part == "main" and setting.tables and cell.method.method != "recommender"
        # Files of retrieved candidates hold one draw.
        if wanted and setting.name not in seen and setting.options.get("negatives") != "retrieved":
            seen.add(setting.name)
            jobs.append(Redrawn(cell.study, setting))
    return jobs


def run_cells(
    jobs: Sequence[Cell | Redrawn], out: Path, *, processes: int = 1
) -> Iterator[Outcome]:
    """Run these jobs, whose tables are there, and give each one's outcome as it ends."""
    return run_jobs(jobs, out, _find, processes=processes)


def _find(job: Cell | Redrawn, out: Path) -> dict[str, Any]:
    return _redraw(job, out) if isinstance(job, Redrawn) else _fit(job, out)


def _fit(cell: Cell, out: Path) -> dict[str, Any]:
    if cell.method.method == "recommender":
        return _recommend(cell, out)
    problem = open_problem(cell, out)
    watched = {split: _first(getattr(problem, split), _CURVE_USERS) for split in SPLITS}
    curve: list[dict[str, float]] = []
    paused = 0.0
    at = [cell.budget * (i + 1) / cell.study.points for i in range(cell.study.points - 1)]

    def watch(calls: int, player: Player) -> None:
        nonlocal paused
        if len(curve) >= len(at) or calls < at[len(curve)]:
            return
        began = time.perf_counter()
        point = {"calls": calls} | _point(player, watched, cell.seed)
        while len(curve) < len(at) and calls >= at[len(curve)]:
            curve.append(point)
        paused += time.perf_counter() - began

    began = time.perf_counter()
    fit = method(cell.method.method)
    player = fit(problem, seed=cell.seed, budget=cell.budget, watch=watch, **cell.method.config)
    seconds = time.perf_counter() - began - paused
    spent = problem.train.ledger
    test = problem.test.uncounted()
    played = player.play(test, cell.seed)
    curve.append({"calls": spent.calls} | _point(player, watched, cell.seed))
    return {
        "training": {"calls": spent.calls, "unique": spent.unique, "tokens": spent.tokens}
        | {"seconds": round(seconds, 2), "users": len(np.unique(problem.train.env.tasks.users))},
        "testing": {
            "calls": played.ranks.shape[1],
            "different": round(test.ledger.unique / len(test), 4),
            "tokens": round(float(played.tokens.sum(axis=1).mean()), 1),
            "named": round(float(played.named.mean() / played.orders.shape[2]), 4),
        },
        "curve": curve,
        "whose": _whose(test.env),
        "unsure": _unsure(test.env),
        "choices": _choices(played, test),
        "prompts": played.prompts[:_KEPT_PROMPTS].tolist(),
        "scores": {name: values.round(5).tolist() for name, values in played.scores.items()},
    }


def _point(player: Player, watched: Mapping[str, Users], seed: int) -> dict[str, float]:
    """Mean scores by split."""
    return {
        split: round(float(player.play(users, seed).scores["score"].mean()), 5)
        for split, users in watched.items()
    }


def _first(users: Users, count: int) -> Users:
    """The first users, with a ledger of their own."""
    if len(users) <= count:
        return users.uncounted()
    rows = np.arange(count)
    tasks = users.live.tasks.subset(rows)

    def cut(env: RPPEnv) -> RPPEnv:
        table = None if env.table is None else env.table.subset(rows)
        return remade(env, tasks=tasks, table=table)

    return Users(cut(users.env), cut(users.live))


def _choices(played: Played, users: Users) -> dict[str, Any]:
    """How often each kind of user got each option of each agent, over all calls.

    Kinds are movieworld's habits; elsewhere all users are one kind.
    """
    tasks = users.env.tasks
    habits = tasks.dataset.habits
    kinds = np.zeros(len(users), np.int64) if habits is None else habits[tasks.users]
    names = tasks.dataset.habit_names if habits is not None else ("all users",)
    counts = np.bincount(kinds, minlength=len(names))
    if (played.prompts < 0).any():
        return {"kinds": list(names), "counts": counts.tolist(), "shares": {}}
    roles, _, reasonings, outputs = users.env.book.sizes
    rungs = users.env.rules.rungs
    shown = played.prompts[..., 1]
    # A history shorter than its rung is the rung that it fills.
    level = np.searchsorted(np.array(rungs), shown)
    columns = {
        "role_playing": (played.prompts[..., 0], roles),
        "history_records": (np.minimum(level, len(rungs) - 1), len(rungs)),
        "reasoning_guidance": (played.prompts[..., 2], reasonings),
        "output_format": (played.prompts[..., 3], outputs),
    }
    shares = {}
    for agent, (chosen, size) in columns.items():
        found = np.zeros((len(names), size))
        np.add.at(found, (np.broadcast_to(kinds[:, None], chosen.shape), chosen), 1)
        total = found.sum(axis=1, keepdims=True)
        shares[agent] = (found / np.maximum(total, 1)).round(4).tolist()
    return {"kinds": list(names), "counts": counts.tolist(), "shares": shares}


def _whose(env: RPPEnv) -> str:
    """A digest of the users, the same in every draw with the same users."""
    tokens = [env.tasks.dataset.user_tokens[row] for row in env.tasks.users]
    told = json.dumps([env.tasks.dataset.digest, *tokens])
    return hashlib.sha256(told.encode()).hexdigest()


def _unsure(env: RPPEnv) -> list[int]:
    """Rows of users whose last item is a tie: ``NAME.last_timestamp.tsv`` names another one.

    Where several items carry a user's last time, which of them is the target hangs on how the
    source breaks ties.
    """
    dataset, tasks = env.tasks.dataset, env.tasks
    path = None if dataset.folder is None else dataset.folder / f"{dataset.name}.last_timestamp.tsv"
    if path is None or not path.is_file():
        return []
    table = read_table(path, ("user_id", "item_id"))
    last = dict(zip(table["user_id"], table["item_id"], strict=True))
    return [
        row
        for row, (user, item) in enumerate(zip(tasks.users, tasks.targets, strict=True))
        if last.get(dataset.user_tokens[user]) != dataset.item_tokens[item]
    ]


# Recommenders without prompts


def _recommend(cell: Cell, out: Path) -> dict[str, Any]:
    from rpp_agents.recommenders.base import ranks_by

    users = users_of(cell.setting, "test")
    env = RPPEnv.make(split="test", max_users=users, **cell.setting.problem(cell.draw))
    tasks = env.tasks
    began = time.perf_counter()
    every = _item_scores(cell, env, out)
    seconds = time.perf_counter() - began
    # One row of `every` for each user; several tasks of a user have the same one.
    row = np.unique(tasks.users, return_inverse=True)[1]
    ranks = ranks_by(every[row[:, None], tasks.candidates], tasks)
    scores = np.asarray(ndcg(ranks), np.float64).round(5).tolist()
    return {
        "training": {"calls": 0, "unique": 0, "tokens": 0, "seconds": round(seconds, 2)},
        "testing": {"calls": 0, "different": 0, "tokens": 0, "named": 1.0},
        "curve": [],
        "whose": _whose(env),
        "unsure": _unsure(env),
        "choices": {"kinds": [], "counts": [], "shares": {}},
        "prompts": [],
        "scores": dict.fromkeys(("score", "first", "last", "merged"), scores),
    }


def _item_scores(cell: Cell, env: RPPEnv, out: Path) -> NDArray[np.float32]:
    """(users, items) of the test users: fitted once for all draws of the candidates, and kept."""
    from rpp_agents.recommenders import default_config, fit

    name, told = cell.method.config["name"], cell.method.resolved["config"]
    dataset, rows = env.tasks.dataset, np.unique(env.tasks.users)
    digest = short([dataset.digest, name, told, rows.tolist()])
    path = out / "scores" / f"{slug(dataset.name)}-{slug(name)}-{digest}.npz"
    if (kept := _kept_scores(path, (len(rows), dataset.num_items))) is not None:
        return kept
    scorer = fit(name, dataset, type(default_config(name))(**told), seed=0)
    items = np.arange(dataset.num_items, dtype=np.int32)
    found = np.concatenate(
        [
            scorer.score(part, np.broadcast_to(items, (len(part), len(items))))
            for part in np.array_split(rows, max(1, len(rows) // 64))
        ]
    ).astype(np.float32)
    write_arrays(path, {"scores": found})
    return found


def _kept_scores(path: Path, shape: tuple[int, int]) -> NDArray[np.float32] | None:
    """Scores that were fitted before; None where there are none, or none that can be used."""
    if not path.exists():
        return None
    try:
        arrays, proven = read_arrays(path)
    except InvalidData as error:
        reason = str(error)
    else:
        found = arrays.get("scores")
        if proven and found is not None and found.dtype == np.float32 and found.shape == shape:
            return found
        reason = f"{path} does not hold scores of {shape[0]:,} users and {shape[1]:,} items"
    warnings.warn(f"{reason}: they are fitted again", RPPWarning, stacklevel=2)
    return None


# How much of hindsight is luck


@dataclasses.dataclass(frozen=True)
class Redrawn:
    """The same test users with candidates drawn three times: does a user's best prompt last?"""

    study: Study
    setting: Setting

    DRAWS: ClassVar[int] = 3
    MOST: ClassVar[int] = 300

    @property
    def name(self) -> str:
        """What it is called on the screen."""
        return f"{self.setting.name}, candidates drawn again"

    @property
    def file(self) -> str:
        """Where it is kept, from the study's folder."""
        return f"redrawn/{slug(self.setting.name)}.json"

    @property
    def asked(self) -> dict[str, Any]:
        """What it depends on."""
        return plain(
            self.setting.problem(self.setting.draws[0], "train")
            | {"model": self.setting.model, "rank_by": self.setting.rank_by}
            | {"users": min(self.MOST, self.setting.test_users), "draws": self.DRAWS}
            | {"train_users": self.setting.train_users}
        )

    @property
    def defaults(self) -> dict[str, Any]:
        """It has no config."""
        return {}

    @property
    def kind(self) -> Kind:
        """What its file must hold."""
        return REDRAWN


def _redraw(job: Redrawn, out: Path) -> dict[str, Any]:
    setting, draw = job.setting, job.setting.draws[0]
    users = min(job.MOST, setting.test_users)
    env = live_of(setting, draw, "test", users, out, draws=job.DRAWS)
    rewards = tabulate(env).rewards().reshape(len(env.tasks), -1)
    by_draw = rewards.reshape(-1, job.DRAWS, rewards.shape[1])  # a user's draws lie side by side
    train = _replay(job.study, setting, draw, "train", out)
    assert train.table is not None
    told_apart = train.table.rewards().reshape(len(train.table), -1)
    fixed = int(told_apart.mean(axis=0, dtype=np.float64).argmax())
    best = by_draw == by_draw.max(axis=2, keepdims=True)
    share = best / best.sum(axis=2, keepdims=True)  # ties are drawn among
    others = [
        (share[:, a] * by_draw[:, b]).sum(axis=1)
        for a in range(job.DRAWS)
        for b in range(job.DRAWS)
        if a != b
    ]
    columns = {
        "random": by_draw.mean(axis=(1, 2)),
        "fixed": by_draw[:, :, fixed].mean(axis=1),
        "hindsight": by_draw.max(axis=2).mean(axis=1),
        "survives": np.mean(others, axis=0),
    }
    differences: dict[str, Any] = {
        "hindsight minus fixed": lambda m: m["hindsight"] - m["fixed"],
        "survives minus fixed": lambda m: m["survives"] - m["fixed"],
        "survives minus random": lambda m: m["survives"] - m["random"],
    }
    lines: dict[str, Any] = {name: itemgetter(name) for name in columns}
    found = estimate(columns, lines | differences)
    return {
        "users": len(by_draw),
        "estimates": {name: dataclasses.astuple(value) for name, value in found.items()},
    }
