"""Run a plan's jobs in parallel processes, and save their results.

::

    OUT/NAME.toml                           the plan
    OUT/tables/                             every answer, per setting, draw and split
    OUT/cells/SETTING/METHOD/s0.json        one method, fitted once; of a bench w11-s0.json
    OUT/cells/SETTING/METHOD/s0.failed.txt  what went wrong, until it is run again
    OUT/cells/SETTING/METHOD/s0.refused.txt why the method cannot choose such prompts
    OUT/levels/PROBLEM/w11.json             of a bench: random and best fixed prompt, reference
    OUT/redrawn/SETTING.json                of a study: the same users with other candidates
    OUT/users/DIGEST.json                   digests of the users whose scores these are
    OUT/report.md  results.jsonl  scores.npz  plots/  ...       what `rpp-env report` writes

A run holds every test user's scores, what its answers cost, the learning curve, and (of a study)
which sentences each kind of user got. Tables may be deleted when all is finished; a study's page is
made from them.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import platform
import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache, partial, singledispatch
from importlib.metadata import version
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench import Levels, Training
from rpp_agents.experiments.files import short, slug
from rpp_agents.experiments.jobs import Outcome, Refused, run_jobs
from rpp_agents.experiments.methods import method
from rpp_agents.experiments.plan import SPLITS, Job, Redrawn, Run, Table
from rpp_agents.experiments.players import Played, Player
from rpp_agents.experiments.problem import Problem, Users, remade
from rpp_agents.trainers import find_trainer
from rpp_env import RPPEnv
from rpp_env.data.arrays import read_arrays, write_arrays
from rpp_env.data.atomic import read_table
from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption, RPPWarning
from rpp_env.evaluation.baselines import Policy, Random, search_fixed
from rpp_env.evaluation.diagnose import fit_reference
from rpp_env.evaluation.evaluate import episodes
from rpp_env.factory import MODEL_OPTIONS
from rpp_env.intervals import estimate
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.options import read_small
from rpp_env.table import RewardTable, tabulate

__all__ = [
    "digests_of_users",
    "live_of",
    "make_tables",
    "open_problem",
    "play_everyone",
    "replay",
    "run_all",
    "tables_of",
    "user_digests",
    "versions",
]

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

RANDOM_PLAYS = 10
"""Episodes per user for a bench's random-prompt baseline."""
_BATCH = 512
_WORTH_A_PROCESS = 64
_CURVE_USERS = 500
"""Users of each split for the points of a study's curve."""
_KEPT_PROMPTS = 48
"""Number of test users whose prompts are saved individually, for the page."""


# Tables


def tables_of(jobs: Sequence[Job]) -> list[Table]:
    """List the tables that these jobs replay, without repeats."""
    return list({table.file: table for job in jobs for table in job.tables}.values())


def make_tables(
    jobs: Sequence[Job],
    out: Path,
    *,
    processes: int = 1,
    tell: Callable[[str, int, int], None] | None = None,
) -> list[Path]:
    """Make the missing tables that these jobs replay.

    Parameters
    ----------
    jobs : sequence of jobs
    out : Path
        Folder of all.
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
    for table in tables_of(jobs):
        path = out / table.file
        if path.exists():
            continue
        # A server, or an engine in this process, is asked from one. Starting a process takes as
        # long as some dozens of users.
        several = table.setting.model == "embedded" and table.users >= _WORTH_A_PROCESS
        live = live_of(table, out)
        if live.episode.changes:  # a study's methods play it live
            continue
        if live.table is not None:  # the setting's model is a table: these users of it
            live.table.save(path)
            made.append(path)
            continue
        if live.space.shape is None:  # a study's trainers play it live; all else refuses it
            if jobs[0].plan.FORM == "bench":
                raise InvalidOption(
                    f"environment {table.setting.name!r}: a bench replays tables of every prompt, "
                    f"and {type(live.space).__name__} has infinitely many: give the agents options "
                    "to choose among, such as a codebook, or compare trainers in a study (method = "
                    "'rpp')"
                )
            continue
        tabulate(
            live,
            path,
            shown=table.shown,
            processes=processes if several else 1,
            progress=None if tell is None else partial(tell, path.stem),
        )
        made.append(path)
    return made


def live_of(table: Table, out: Path, users: int | None = None, **more: Any) -> RPPEnv:
    """Make an environment of a table's users with the model itself; `more` are its options."""
    setting = table.setting
    options: dict[str, Any] = {"rank_by": setting.rank_by} if setting.rank_by != "generate" else {}
    if setting.recording:
        options["recording"] = str(out / setting.recording)
    options |= dict(table.problem) | more
    users = table.users if users is None else users
    model = setting.model or None
    return RPPEnv.make(model=model, split=table.split, max_users=users, **options)


@lru_cache(maxsize=6)
def _table(path: Path) -> RewardTable:
    return RewardTable.load(path)


@lru_cache(maxsize=64)
def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def replay(table: Table, out: Path, users: int | None = None, **more: Any) -> RPPEnv:
    """Make an environment over a table; `more` are options of `RPPEnv.make`."""
    return RPPEnv.make(
        model=_table(out / table.file),
        split=table.split,
        max_users=table.users if users is None else users,
        **{key: x for key, x in table.problem.items() if key not in MODEL_OPTIONS} | more,
    )


def open_problem(run: Run, out: Path) -> Problem:
    """Open the problem of a study's run, whose tables exist."""
    parts = {}
    for split in SPLITS:
        setting, table = run.setting, run.plan.table(run.setting, run.draw, split)
        users = setting.users_of(split)
        live = live_of(table, out, users)
        env = live
        if live.tabulable and (setting.tables or split == "train"):
            env = replay(table, out, users)
            _check_model(env, live)
            # The same embeddings, and not only equal ones.
            live = remade(live, embeddings=env.embeddings)
        parts[split] = Users(env, live)
    return Problem(**parts)


def _check_model(env: RPPEnv, live: RPPEnv) -> None:
    """Check that a table was made with the model that is also called directly."""
    assert env.table is not None
    before = env.table.provenance["model"]
    now = getattr(getattr(live.recommender, "model", None), "id", None)
    # Digests are of fitted numbers, whose last bits may differ from machine to machine.
    names = [re.sub(r"\b[0-9a-f]{16}\b", "", str(name)) for name in (before, now)]
    if now is not None and names[0] != names[1]:
        raise InvalidOption(
            f"the study's tables hold answers of {before}, but other prompts would be sent to "
            f"{now}: give another --out, or delete the tables and the runs"
        )


# Jobs


def run_all(jobs: Sequence[Job], out: Path, *, processes: int = 1) -> Iterator[Outcome]:
    """Run these jobs, whose tables exist, and yield each one's outcome as it ends.

    See `rpp_agents.experiments.jobs.run_jobs`.
    """
    return run_jobs(jobs, out, _find, processes=processes)


@singledispatch
def _find(job: Job, out: Path) -> dict[str, Any]:  # noqa: ARG001 - of the functions below
    """Compute a job's result."""
    raise TypeError(f"nothing is known about jobs like {job!r}")


@_find.register
def _fit(run: Run, out: Path) -> dict[str, Any]:
    if run.method.method == "recommender":
        return _recommend(run, out)
    problem = open_problem(run, out)
    watched = {split: getattr(problem, split).first(_CURVE_USERS) for split in SPLITS}
    curve: list[dict[str, float]] = []
    paused = 0.0
    at = [run.budget * (i + 1) / run.plan.points for i in range(run.plan.points - 1)]

    def watch(calls: int, player: Player) -> None:
        nonlocal paused
        if len(curve) >= len(at) or calls < at[len(curve)]:
            return
        began = time.perf_counter()
        point = {"calls": calls} | _point(player, watched, run.seed)
        while len(curve) < len(at) and calls >= at[len(curve)]:
            curve.append(point)
        paused += time.perf_counter() - began

    began = time.perf_counter()
    fit = method(run.method.method)
    try:
        player = fit(problem, seed=run.seed, budget=run.budget, watch=watch, **run.method.config)
    except InvalidOption as error:
        if not run.plan.refusals:
            raise
        raise Refused(str(error)) from error
    seconds = time.perf_counter() - began - paused
    spent = problem.train.ledger
    test = problem.test.uncounted()
    played = player.play(test, run.seed)
    curve.append({"calls": spent.calls} | _point(player, watched, run.seed))
    users, of_users = _by_user(test.env.tasks.users)
    kept = min(_KEPT_PROMPTS, len(users))
    return {
        "training": {"calls": spent.calls, "unique": spent.unique, "tokens": spent.tokens}
        | {"proposals": spent.proposals, "seconds": round(seconds, 2)}
        | {"users": len(np.unique(problem.train.env.tasks.users))},
        "testing": {
            "calls": played.ranks.shape[1],
            "different": round(test.ledger.unique / len(test), 4),
            "tokens": round(float(played.tokens.sum(axis=1).mean()), 1),
            "named": round(float(played.named.mean() / played.orders.shape[2]), 4),
        },
        "curve": curve,
        "whose": _whose(test.env, users, out),
        "unsure": _unsure(test.env) if len(users) == len(test) else [],
        "choices": _choices(played, test),
        "cells": [] if played.cells is None else played.cells[:kept].tolist(),
        "scores": {name: of_users(x).round(5).tolist() for name, x in played.scores.items()},
    }


def _by_user(users: Ints) -> tuple[Ints, Callable[[Floats], Floats]]:
    """The users of some tasks, and what makes numbers of tasks means of users.

    Users are what intervals are over; the tasks of one user are not independent.
    """
    several, row = np.unique(users, return_inverse=True)
    if len(several) == len(users):
        return users, lambda values: values
    count = np.bincount(row)
    return several, lambda values: np.bincount(row, weights=values) / count


def _point(player: Player, watched: Mapping[str, Users], seed: int) -> dict[str, float]:
    """Return the mean scores by split."""
    return {
        split: round(float(player.play(users, seed).scores["score"].mean()), 5)
        for split, users in watched.items()
    }


def _choices(played: Played, users: Users) -> dict[str, Any]:
    """Count how often each kind of user got each option of each agent, over all calls.

    Kinds are movieworld's habits; elsewhere all users are one kind.
    """
    tasks = users.env.tasks
    habits = tasks.dataset.habits
    kinds = np.zeros(len(users), np.int64) if habits is None else habits[tasks.users]
    names = tasks.dataset.habit_names if habits is not None else ("all users",)
    counts = np.bincount(kinds, minlength=len(names))
    if played.cells is None:
        return {"kinds": list(names), "counts": counts.tolist(), "shares": {}}
    space, cells = users.env.space, played.cells
    rows = np.repeat(users.rows, cells.shape[1])
    where = np.unravel_index(space.alike(cells.ravel(), rows).reshape(cells.shape), users.shape)
    shares = {}
    for axis, chosen in sorted(zip(space.axes, where, strict=True), key=lambda one: one[0].agent):
        found = np.zeros((len(names), len(axis)))
        np.add.at(found, (np.broadcast_to(kinds[:, None], chosen.shape), chosen), 1)
        total = found.sum(axis=1, keepdims=True)
        shares[space.agents[axis.agent]] = (found / np.maximum(total, 1)).round(4).tolist()
    return {"kinds": list(names), "counts": counts.tolist(), "shares": shares}


# Whose scores


def _whose(env: RPPEnv, users: Ints, out: Path) -> str:
    """Return a digest of the scored users, equal in every draw with the same users.

    The single users' digests are kept beside the runs, so that scores of different folders can be
    paired without a user's name.
    """
    dataset = env.tasks.dataset
    tokens = [dataset.user_tokens[row] for row in users]
    whose = _digest_of([dataset.digest, *tokens])
    path = _users_file(out, whose)
    if not path.exists():
        digests = digests_of_users(dataset, tokens)
        with whole_file(path) as file:
            file.write((json.dumps(digests) + "\n").encode())
    return whose


def digests_of_users(dataset: Dataset, tokens: Iterable[str]) -> list[str]:
    """Return 16 hexadecimal digits for each user, so that files name no user of a dataset."""
    return [_digest_of([dataset.digest, token])[:16] for token in tokens]


def _digest_of(value: Any) -> str:
    return hashlib.sha256(json.dumps(value).encode()).hexdigest()


def _users_file(out: Path, whose: str) -> Path:
    return out / "users" / f"{slug(whose)[:16]}.json"


def user_digests(out: Path, whose: str) -> list[str] | None:
    """The digests of the users that `whose` stands for; None in folders that were made before."""
    path = _users_file(out, whose)
    if not path.is_file():
        return None
    try:
        digests = json.loads(read_small(path, 1 << 24))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidData(f"{path} holds no digests of users ({error}): delete it") from error
    fine = isinstance(digests, list) and all(
        isinstance(one, str) and re.fullmatch("[0-9a-f]{16}", one) for one in digests
    )
    if not fine:
        raise InvalidData(f"{path} holds no digests of users: delete it")
    return list(digests)


def _unsure(env: RPPEnv) -> list[int]:
    """List users whose last item is a tie: ``NAME.last_timestamp.tsv`` names another one.

    Where several items carry a user's last time, which of them is the target depends on how the
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


def _recommend(run: Run, out: Path) -> dict[str, Any]:
    from rpp_agents.recommenders.base import ranks_by

    users = run.setting.test_users
    env = RPPEnv.make(split="test", max_users=users, **run.setting.problem(run.draw))
    tasks = env.tasks
    began = time.perf_counter()
    every = _item_scores(run, env, out)
    seconds = time.perf_counter() - began
    # One row of `every` for each user; several tasks of a user have the same one.
    row = np.unique(tasks.users, return_inverse=True)[1]
    ranks = ranks_by(every[row[:, None], tasks.candidates], tasks)
    scores = np.asarray(ndcg(ranks), np.float64).round(5).tolist()
    return {
        "training": {"calls": 0, "unique": 0, "tokens": 0, "seconds": round(seconds, 2)},
        "testing": {"calls": 0, "different": 0, "tokens": 0, "named": 1.0},
        "curve": [],
        "whose": _whose(env, tasks.users, out),
        "unsure": _unsure(env),
        "choices": {"kinds": [], "counts": [], "shares": {}},
        "cells": [],
        "scores": dict.fromkeys(("score", "first", "last", "merged"), scores),
    }


def _item_scores(run: Run, env: RPPEnv, out: Path) -> NDArray[np.float32]:
    """(users, items) scores of the test users: fitted once for all draws, and cached."""
    from rpp_agents.recommenders import default_config, fit

    name, own_options = run.method.config["name"], run.method.resolved()["config"]
    dataset, rows = env.tasks.dataset, np.unique(env.tasks.users)
    digest = short([dataset.digest, name, own_options, rows.tolist()])
    path = out / "scores" / f"{slug(dataset.name)}-{slug(name)}-{digest}.npz"
    if (kept := _kept_scores(path, (len(rows), dataset.num_items))) is not None:
        return kept
    scorer = fit(name, dataset, type(default_config(name))(**own_options), seed=0)
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
    """Read cached scores; None if there are none, or unusable ones."""
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


@_find.register
def _redraw(job: Redrawn, out: Path) -> dict[str, Any]:
    test = job.plan.table(job.setting, job.draw, "test")
    env = live_of(test, out, job.users, draws=job.DRAWS)
    rewards = tabulate(env).rewards().reshape(len(env.tasks), -1)
    by_draw = rewards.reshape(-1, job.DRAWS, rewards.shape[1])  # a user's draws lie side by side
    train = replay(job.tables[0], out, job.setting.train_users)
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


# Benches


def play_everyone(policy: Policy, env: RPPEnv) -> Floats:
    """(U, S) rewards of every user at every step of one greedy episode; draws are averaged."""
    tasks = len(env.tasks)
    rewards = np.empty((tasks, env.max_cycles))
    for rows, t, step in episodes(policy, env, size=_BATCH):
        rewards[rows, t] = step.rewards
    _, user = np.unique(env.tasks.users, return_inverse=True)
    count = np.bincount(user)
    by_step = [np.bincount(user, weights=column) / count for column in rewards.T]
    return np.stack(by_step, axis=1)


def _env(job: Training | Levels, split: str, out: Path, **options: Any) -> RPPEnv:
    """Make an environment over a bench's table, under the setting's own rules."""
    table = job.plan.table(job.setting, job.draw, split)
    own: dict[str, Any] = {"num_envs": _BATCH, "rules": job.setting.rules.id}
    return replay(table, out, **own | options)


def _per_user(rewards: Floats) -> dict[str, list[float]]:
    columns = {"mean": rewards.mean(axis=1), "first": rewards[:, 0], "last": rewards[:, -1]}
    return {name: column.round(6).tolist() for name, column in columns.items()}


def _replayed(job: Training | Levels, test: RPPEnv, out: Path) -> dict[str, Any]:
    """Return the provenance of the numbers."""
    return {
        "tables": {table.split: _digest(out / table.file) for table in job.tables},
        "whose": _whose(test, np.unique(test.tasks.users), out),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Return the versions of Python and of the libraries on which numbers depend."""
    names = ("rpp-env", "numpy", "scipy", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


@_find.register
def _train(run: Training, out: Path) -> dict[str, Any]:
    chosen = run.method.config
    seen = {"observe": run.setting.observe, "ranking": chosen["ranking"]}
    playing = {"num_envs": chosen["num_envs"], "seed": run.seed}
    if run.setting.live:
        table = run.plan.table(run.setting, run.draw, "train")
        problem = {**table.problem, "rules": run.setting.rules.id}
        env = RPPEnv.make(split="train", **problem, **seen, **playing)
    else:
        env = _env(run, "train", out, **seen, **playing)
    test = _env(run, run.plan.split, out, **seen)
    total, points = run.budget, run.plan.points
    at = [round(total * i / points) for i in range(1, points + 1)]
    played: list[int] = []
    scores: list[float] = []
    paused = np.zeros(2)  # seconds, and processor seconds, of the evaluations

    def watch(row: Mapping[str, float], policy: Policy) -> None:
        # The last point is not played here: it is the final policy's.
        if row["steps"] < at[len(scores)] or len(scores) == points - 1:
            return
        before = _clocks()
        score = float(play_everyone(policy, test).mean())
        while len(scores) < points - 1 and row["steps"] >= at[len(scores)]:
            scores.append(score)
            played.append(int(row["steps"]))
        paused[:] += _clocks() - before

    trainer, config = find_trainer(chosen["trainer"]), run.config
    begun = _clocks()
    policy = trainer.train(env, config, callbacks=[watch], progress=False)
    seconds, processor = _clocks() - begun - paused
    rewards = play_everyone(policy, test)
    missing = points - len(scores)  # more than one only where the trainer says no steps
    scores += [float(rewards.mean())] * missing
    played += [total] * missing
    return {
        "points": at,
        "played": played,
        "scores": [round(score, 6) for score in scores],
        "score": round(float(rewards.mean()), 6),
        "first": round(float(rewards[:, 0].mean()), 6),
        "last": round(float(rewards[:, -1].mean()), 6),
        "greedy": True,
        "seconds": round(float(seconds), 3),
        "processor_seconds": round(float(processor), 3),
        "steps_per_second": round(total / max(float(processor), 1e-9), 1),
        **_replayed(run, test, out),
        "users": _per_user(rewards),
    }


def _clocks() -> Floats:
    return np.array([time.perf_counter(), time.process_time()])


@_find.register
def _score_levels(levels: Levels, out: Path) -> dict[str, Any]:
    # On what all agents see together, also for those that see less: what of it each needs is the
    # agents' problem, and two forms of one problem share their lines.
    env, test = (_env(levels, split, out) for split in ("train", levels.plan.split))
    fixed, on_train = search_fixed(env)
    rng = Random(test.action_spaces, seed=levels.draw)
    lines = {
        "random": np.mean([play_everyone(rng, test) for _ in range(RANDOM_PLAYS)], axis=0),
        "fixed": play_everyone(fixed, test),
        "reference": play_everyone(fit_reference(env, seed=levels.draw), test),
    }
    return {
        "scores": {"chance": chance_ndcg(test.tasks.num_candidates)}
        | {name: round(float(rewards.mean()), 6) for name, rewards in lines.items()},
        "steps": test.max_cycles,
        "fixed_plan": fixed.plan.tolist(),
        "fixed_on_train": round(on_train, 6),
        **_replayed(levels, test, out),
        "users": {name: _per_user(rewards) for name, rewards in lines.items()},
    }
