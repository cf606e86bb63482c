"""Agent-steps per second of the environment's faces, beside MPE2's simple_spread in the same run.

    pip install mpe2
    python benchmarks/environments.py [--seconds 3] [--repeats 3]

Random actions, one process. An agent-step is one agent's step: a batch of B users and four agents
makes 4 B of them. The live rows answer every prompt through text (write the prompt, answer, parse);
the table rows replay recorded answers. Each row is the median of the repeats, taken in turns, so
that a busy moment of the machine meets all rows alike; the ratio is to simple_spread.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

import rpp_env
from rpp_env.table import tabulate


def rate(turn: Callable[[], int], seconds: float) -> float:
    """Agent-steps per second of `turn`, which makes some and says how many."""
    made = 0
    start = time.perf_counter()
    while time.perf_counter() - start < seconds:
        made += turn()
    return made / (time.perf_counter() - start)


def batched(env: rpp_env.RPPEnv) -> Callable[[], int]:
    rng = np.random.default_rng(0)
    env.reset(seed=0)

    def episode() -> int:
        env.reset()
        for _ in range(env.max_cycles):
            env.step(rng.integers(env.nvec, size=(env.num_envs, 4)))
        return 4 * env.num_envs * env.max_cycles

    return episode


def parallel(env) -> Callable[[], int]:  # type: ignore[no-untyped-def]  # any PettingZoo environment
    env.reset(seed=0)
    spaces = {agent: env.action_space(agent) for agent in env.possible_agents}

    def episode() -> int:
        env.reset()
        made = 0
        while env.agents:
            made += len(env.agents)
            env.step({agent: spaces[agent].sample() for agent in env.agents})
        return made

    return episode


@contextmanager
def profiled() -> Iterator[None]:
    """Print where the time of a block goes."""
    import cProfile
    import pstats

    profile = cProfile.Profile()
    profile.enable()
    yield
    profile.disable()
    pstats.Stats(profile).sort_stats("tottime").print_stats(14)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--seconds", type=float, default=3.0, help="of each measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--profile", action="store_true", help="where the time of the live core goes"
    )
    options = parser.parse_args()

    live = rpp_env.RPPEnv.make("movieworld", num_envs=256)
    if options.profile:
        episode = batched(live)
        with profiled():
            for _ in range(10):
                episode()
        return
    few = rpp_env.RPPEnv.make("movieworld", num_envs=8, max_users=64)
    table = tabulate(few)
    rows: dict[str, Callable[[], int]] = {}
    try:
        from mpe2 import simple_spread_v3
    except ImportError:
        print("mpe2 is not installed: no peer, no ratios (pip install mpe2)")
    else:
        rows["mpe2 simple_spread_v3, parallel, N=3"] = parallel(simple_spread_v3.parallel_env())
    rows["rpp_env parallel_env, embedded model"] = parallel(rpp_env.parallel_env())
    rows["rpp_env core, embedded model, 256 users"] = batched(live)
    for users in (256, 2048):
        replay = rpp_env.RPPEnv(
            few.tasks.subset(np.arange(users) % len(few.tasks)),
            book=few.book,
            embeddings=few.embeddings,
            table=table.subset(np.arange(users) % len(few.tasks)),
            num_envs=users,
        )
        rows[f"rpp_env core, reward table, {users} users"] = batched(replay)
    measured: dict[str, list[float]] = {name: [] for name in rows}
    for _ in range(options.repeats):
        for name, turn in rows.items():
            measured[name].append(rate(turn, options.seconds))
    peer = statistics.median(next(iter(measured.values())))
    print(f"{platform.processor() or platform.machine()}, Python {platform.python_version()}\n")
    print("| environment | agent-steps/s | user-steps/s | ratio |")
    print("|---|---|---|---|")
    for name, rates in measured.items():
        median = statistics.median(rates)
        agents = 3 if name.startswith("mpe2") else 4
        print(f"| {name} | {median:,.0f} | {median / agents:,.0f} | {median / peer:.2f} |")


if __name__ == "__main__":
    main()
