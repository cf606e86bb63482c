"""Runs the cells of a bench, in processes, and keeps what each found.

::

    OUT/tables/                         every answer, per world and split; safe to delete at the end
    OUT/levels/PROBLEM/w11.json         chance, random and best fixed prompt, observable reference
    OUT/cells/ENV/ALGORITHM/w11-s0.json one training run
    OUT/cells/ENV/ALGORITHM/w11-s0.failed.txt     what went wrong, until it is run again

A file is written whole or not at all, and is all that says that a cell is finished: whatever
stops a bench, the same command goes on with what is missing.
"""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench.plan import Cell, Environment, Levels, Table
from rpp_agents.experiments.files import world_option
from rpp_agents.experiments.jobs import Outcome, run_jobs
from rpp_agents.trainers import find_trainer
from rpp_env import RPPEnv
from rpp_env.evaluation.baselines import Policy, Random, search_fixed
from rpp_env.evaluation.diagnose import fit_reference
from rpp_env.evaluation.evaluate import episodes
from rpp_env.metrics import chance_ndcg
from rpp_env.table import RewardTable, tabulate

__all__ = ["jobs_of", "make_tables", "play_everyone", "run_cells"]

Job = Cell | Levels
Floats = NDArray[np.float64]

RANDOM_PLAYS = 10
"""Episodes per user behind the line of the random prompt."""
_BATCH = 512
_WORTH_A_PROCESS = 64


# Tables


def make_tables(
    jobs: Sequence[Job],
    out: Path,
    *,
    processes: int = 1,
    tell: Callable[[Table, int, int], None] | None = None,
) -> list[Path]:
    """Make the tables that these jobs replay, where they are not there yet.

    Parameters
    ----------
    jobs : sequence of Cell or Levels
    out : Path
        Folder of the bench.
    processes : int
        Processes that compute answers.
    tell : callable, optional
        Called with a table, its finished tasks, and its tasks in all.

    Returns
    -------
    list of Path
        Of those that were made now.
    """
    made = []
    for table in _tables(jobs):
        path = out / "tables" / table.file
        if path.exists():
            continue
        env = RPPEnv.make(
            table.dataset,
            split=table.split,
            rules=table.rules[0],
            max_users=table.users,
            **table.options,
            **world_option(table.dataset, table.world),
        )
        tabulate(
            env,
            path,
            shown=table.shown,
            # Starting a process takes as long as some dozens of users.
            processes=processes if table.users >= _WORTH_A_PROCESS else 1,
            progress=None if tell is None else partial(tell, table),
        )
        made.append(path)
    return made


def _tables(jobs: Sequence[Job]) -> list[Table]:
    named = {}
    for job in jobs:
        for split in ("train", job.bench.split):
            table = job.table(split)
            named[table.file] = table
    return list(named.values())


@lru_cache(maxsize=4)
def _table(path: Path) -> tuple[RewardTable, str]:
    """A table and the digest of its file."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return RewardTable.load(path), digest


def _env(job: Job, split: str, out: Path, **options: Any) -> tuple[RPPEnv, str]:
    """An environment over a table, and the table's digest."""
    environment: Environment = job.environment
    told = job.table(split)
    table, digest = _table(out / "tables" / told.file)
    env = RPPEnv.make(
        environment.dataset,
        table,
        split,
        rules=environment.rules,
        max_users=told.users,
        **{"num_envs": _BATCH, **options},
        **environment.options,
        **world_option(environment.dataset, job.world),
    )
    return env, digest


def _live(cell: Cell, **options: Any) -> RPPEnv:
    """All train users, and the model itself."""
    environment = cell.environment
    return RPPEnv.make(
        environment.dataset,
        split="train",
        rules=environment.rules,
        num_envs=cell.num_envs,
        seed=cell.seed,
        **options,
        **environment.options,
        **world_option(environment.dataset, cell.world),
    )


# One job


def play_everyone(policy: Policy, env: RPPEnv) -> Floats:
    """(U, S) rewards of every user at every step, played greedily once; draws are averaged."""
    tasks = len(env.tasks)
    rewards = np.empty((tasks, env.max_cycles))
    for rows, t, step in episodes(policy, env, size=_BATCH):
        rewards[rows, t] = step.rewards
    _, user = np.unique(env.tasks.users, return_inverse=True)
    count = np.bincount(user)
    by_step = [np.bincount(user, weights=column) / count for column in rewards.T]
    return np.stack(by_step, axis=1)


def _per_user(rewards: Floats) -> dict[str, list[float]]:
    columns = {"mean": rewards.mean(axis=1), "first": rewards[:, 0], "last": rewards[:, -1]}
    return {name: column.round(6).tolist() for name, column in columns.items()}


def _whose(env: RPPEnv) -> str:
    """A digest of the users, the same in every world with the same users."""
    tokens = [env.tasks.dataset.user_tokens[row] for row in np.unique(env.tasks.users)]
    told = json.dumps([env.tasks.dataset.digest, *tokens])
    return hashlib.sha256(told.encode()).hexdigest()


def _versions() -> dict[str, str]:
    names = ("rpp-env", "numpy", "scipy", "torch")
    return {"python": platform.python_version()} | {name: version(name) for name in names}


def _train(cell: Cell, out: Path) -> dict[str, Any]:
    seen = {"observe": cell.environment.observe, "ranking": cell.algorithm.ranking}
    if cell.environment.live:
        env = _live(cell, **seen)
        train_digest = _table(out / "tables" / cell.table("train").file)[1]  # the level lines'
    else:
        env, train_digest = _env(cell, "train", out, **seen, num_envs=cell.num_envs, seed=cell.seed)
    test, test_digest = _env(cell, cell.bench.split, out, **seen)
    total, points = cell.total_steps, cell.bench.evaluations
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

    trainer, config = find_trainer(cell.algorithm.trainer), cell.config
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
        "tables": {"train": train_digest, cell.bench.split: test_digest},
        "whose": _whose(test),
        "versions": _versions(),
        "users": _per_user(rewards),
    }


def _clocks() -> Floats:
    return np.array([time.perf_counter(), time.process_time()])


def _score_levels(levels: Levels, out: Path) -> dict[str, Any]:
    # On what all agents see together, also for those that see less: what of it each needs is the
    # agents' problem, and two forms of one problem share their lines.
    env, train_digest = _env(levels, "train", out)
    test, test_digest = _env(levels, levels.bench.split, out)
    fixed, on_train = search_fixed(env)
    rng = Random(test.action_spaces, seed=levels.world)
    lines = {
        "random": np.mean([play_everyone(rng, test) for _ in range(RANDOM_PLAYS)], axis=0),
        "fixed": play_everyone(fixed, test),
        "reference": play_everyone(fit_reference(env, seed=levels.world), test),
    }
    return {
        "scores": {"chance": chance_ndcg(test.tasks.num_candidates)}
        | {name: round(float(rewards.mean()), 6) for name, rewards in lines.items()},
        "steps": test.max_cycles,
        "fixed_plan": fixed.plan.tolist(),
        "fixed_on_train": round(on_train, 6),
        "tables": {"train": train_digest, levels.bench.split: test_digest},
        "whose": _whose(test),
        "versions": _versions(),
        "users": {name: _per_user(rewards) for name, rewards in lines.items()},
    }


# Many jobs


def jobs_of(cells: Sequence[Cell]) -> list[Job]:
    """The cells, each after the level lines of its world."""
    jobs: list[Job] = []
    lines: set[str] = set()
    for cell in cells:
        if cell.levels.file not in lines:
            lines.add(cell.levels.file)
            jobs.append(cell.levels)
        jobs.append(cell)
    return jobs


def run_cells(jobs: Sequence[Job], out: Path, *, processes: int = 1) -> Iterator[Outcome]:
    """Run these jobs, whose tables are there, and give each one's outcome as it ends.

    See `rpp_agents.experiments.jobs.run_jobs`.
    """
    return run_jobs(jobs, out, _find, processes=processes)


def _find(job: Job, out: Path) -> dict[str, Any]:
    return _train(job, out) if isinstance(job, Cell) else _score_levels(job, out)
