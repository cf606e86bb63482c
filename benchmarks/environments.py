"""Measure steps per second of the environment's interfaces, and of MPE2's simple_spread.

    pip install mpe2
    python benchmarks/environments.py [--seconds 1] [--repeats 9] [--table FILE] [--users 2000]
    python benchmarks/environments.py --profile     # where the time of a table's replay goes
    python benchmarks/environments.py --memory      # what a table of ml-1m's size takes

Random actions, drawn beforehand; one process. A user-step is one step of one user and all agents.
The live rows answer every prompt through text (write the prompt, answer, parse); the table rows
replay recorded answers, all with rewards and episode ends; "observations" states whether
observations were read, and only the parallel interfaces, which always return infos, compute them.
The rows are measured in turns, so that a busy moment of the machine affects all alike; rates are
medians of processor time, and the ratio is the median of the turns' ratios to simple_spread.
"""

from __future__ import annotations

import argparse
import cProfile
import multiprocessing
import platform
import pstats
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import rpp_env
from rpp_env.data.candidates import TaskSet
from rpp_env.parallel import RPPParallelEnv
from rpp_env.sentences import SentenceCatalog
from rpp_env.table import RewardTable, tabulate

Turn = Callable[[], int]
"""Plays an episode or more, and says how many user-steps that was."""

DRAWN = 997
"""Different actions; a prime, so that they meet other steps of the episode each time."""


def rate(turn: Turn, seconds: float) -> float:
    """User-steps per second of processor time."""
    made = 0
    start = time.process_time()
    while (spent := time.process_time() - start) < seconds:
        made += turn()
    return made / spent


def batched(env: rpp_env.RPPEnv, observe: bool = True) -> Turn:
    rng = np.random.default_rng(0)
    actions = [rng.integers(env.nvec, size=(env.num_envs, 4)) for _ in range(DRAWN)]
    env.reset(seed=0)
    taken = 0

    def episode() -> int:
        nonlocal taken
        env.reset()
        for _ in range(env.max_cycles):
            taken += 1
            step = env.step(actions[taken % DRAWN])
            if observe:
                step.observations  # noqa: B018 - made when it is asked for
        return env.num_envs * env.max_cycles

    return episode


def parallel(env: Any) -> Turn:
    """Any PettingZoo environment."""
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    sizes = {agent: int(env.action_space(agent).n) for agent in env.possible_agents}
    actions = [
        {agent: int(rng.integers(size)) for agent, size in sizes.items()} for _ in range(DRAWN)
    ]
    taken = 0

    def episode() -> int:
        nonlocal taken
        env.reset()
        made = 0
        while env.agents:
            taken += 1
            env.step(actions[taken % DRAWN])
            made += 1
        return made

    return episode


def repeated(table: RewardTable, tasks: TaskSet, users: int) -> tuple[TaskSet, RewardTable]:
    """Tasks and table of so many users: a replay asks for memory, whoever they are."""
    rows = np.arange(users) % len(tasks)
    return tasks.subset(rows), table.subset(rows)


def replays(users: int, path: Path | None) -> Callable[[int], rpp_env.RPPEnv]:
    """Environments that replay a table, by the number of users at play."""
    some = rpp_env.RPPEnv.make("movieworld", num_envs=1, max_users=64)
    if path is None:
        tasks, table = repeated(tabulate(some), some.tasks, users)
    else:
        env = rpp_env.RPPEnv.make("movieworld", f"table:{path}")
        assert env.table is not None
        tasks, table = env.tasks, env.table

    def make(at_once: int) -> rpp_env.RPPEnv:
        return rpp_env.RPPEnv(
            tasks, book=some.book, embeddings=some.embeddings, table=table, num_envs=at_once
        )

    return make


def profile(make: Callable[[int], rpp_env.RPPEnv]) -> None:
    """Print where the time of a table's replay goes."""
    turns = {
        "256 users, with observations": batched(make(256)),
        "256 users, without": batched(make(256), observe=False),
        "parallel_env": parallel(RPPParallelEnv(make(1))),
    }
    for name, turn in turns.items():
        measured = cProfile.Profile()
        measured.enable()
        rate(turn, 2.0)
        measured.disable()
        print(f"{name}\n{'=' * len(name)}")
        pstats.Stats(measured).sort_stats("tottime").print_stats(12)


def resident() -> float:
    """MB of this process that lie in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6


def play_from(path: str, tasks: TaskSet, book: SentenceCatalog) -> None:
    """In a process of its own: load a table, play, and say what that took."""
    before = resident()
    table = RewardTable.load(path)
    loaded = resident()
    env = rpp_env.RPPEnv(tasks, book=book, embeddings=table.embeddings, table=table)
    batched(env)()
    arrays = sum(value.nbytes for value in vars(table).values() if isinstance(value, np.ndarray))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    users, prompts, _, candidates = table.orders.shape
    print(f"{users:,} users, {prompts:,} prompts each, {candidates} candidates")
    print(f"arrays, with those that a replay adds: {arrays / 1e6:,.0f} MB")
    print(f"process: {before:,.0f} MB; {loaded:,.0f} MB with the table; ", end="")
    print(f"{resident():,.0f} MB while it plays; at most {peak:,.0f} MB")


def memory(users: int = 6040) -> None:
    """Print what a table of so many users under RPP-v0 takes, on disk and in memory."""
    some = rpp_env.RPPEnv.make("movieworld", num_envs=1, max_users=40)
    tasks, table = repeated(tabulate(some), some.tasks, users)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "large.rpptable"
        table.save(path)
        print(f"file: {path.stat().st_size / 1e6:,.0f} MB")
        spawned = multiprocessing.get_context("spawn")
        process = spawned.Process(target=play_from, args=(str(path), tasks, some.book))
        process.start()
        process.join()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--users", type=int, default=2000, help="of the table that is replayed")
    parser.add_argument("--table", type=Path, help="replay this table of movieworld's train users")
    parser.add_argument("--profile", action="store_true", help="where a replay's time goes")
    parser.add_argument("--memory", action="store_true", help="what a table takes")
    options = parser.parse_args()
    if options.memory:
        memory()
        return
    make = replays(options.users, options.table)
    if options.profile:
        profile(make)
        return
    rows: dict[str, Turn] = {}
    try:
        from mpe2 import simple_spread_v3
    except ImportError:
        print("mpe2 is not installed: no peer, no ratios (pip install mpe2)")
    else:
        rows["mpe2 simple_spread_v3, parallel, N=3"] = parallel(simple_spread_v3.parallel_env())
    rows |= {
        "parallel_env, table": parallel(RPPParallelEnv(make(1))),
        "parallel_env, embedded model": parallel(rpp_env.parallel_env()),
        "core, embedded model, 256 users": batched(rpp_env.RPPEnv.make("movieworld")),
    }
    for users in (256, 2048):
        rows[f"core, table, {users} users, observations"] = batched(make(users))
        rows[f"core, table, {users} users"] = batched(make(users), observe=False)
    measured: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.repeats):
        for name, turn in rows.items():
            measured[name].append(rate(turn, options.seconds))
    peer = next(iter(measured.values()))
    machine = platform.processor() or platform.machine()
    print(f"{machine}, Python {platform.python_version()}, NumPy {np.__version__}\n")
    print("| environment | user-steps/s | ratio |")
    print("|---|---|---|")
    for name, rates in measured.items():
        ratio = statistics.median(mine / other for mine, other in zip(rates, peer, strict=True))
        print(f"| {name} | {statistics.median(rates):,.0f} | {ratio:,.1f} |")


if __name__ == "__main__":
    main()
