"""How long MAPPO takes on movieworld to reach 95% of what it has gained in the end.

    python benchmarks/time_to_gain.py [--steps 200000] [--seeds 0 1 2] [--table]

It plays all 8,000 train users: live, so that every prompt is written and answered in text, or with
``--table`` the answers of 1,500 of them. At 20 points 500 validation users are played greedily; the
clock stands still meanwhile. The gain is over the best fixed prompt of 500 train users, played for
the same validation users. Not counted: making the world and the tables.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from verification import markdown

import rpp_env
from rpp_agents import mappo, play, search_fixed
from rpp_agents.policy import Policy
from rpp_env.table import tabulate

POINTS = 20
SHARE = 0.95
USERS = 500
"""Validation users who are played at every point."""


def tabulated(split: str, users: int, folder: str, **options: int) -> rpp_env.RPPEnv:
    path = Path(folder) / f"{split}-{users}.rpptable"
    if not path.exists():
        tabulate(rpp_env.RPPEnv.make(split=split, max_users=users), path, processes=2)
    return rpp_env.RPPEnv.make(split=split, max_users=users, model=f"table:{path}", **options)


def run(
    env: rpp_env.RPPEnv, judge: rpp_env.RPPEnv, fixed: float, steps: int, seed: int
) -> list[str]:
    """One row of the table."""
    curve: list[tuple[float, float, float]] = []
    began, paused = time.perf_counter(), 0.0

    def watch(row: Mapping[str, float], policy: Policy) -> None:
        nonlocal paused
        if row["steps"] < steps * (len(curve) + 1) / POINTS:
            return
        now = time.perf_counter()
        score = float(play(policy, judge, episodes=USERS).mean())
        curve.append((now - began - paused, row["steps"], score - fixed))
        paused += time.perf_counter() - now

    config = mappo.Config(total_steps=steps, seed=seed, gamma=0.95, threads=1, evaluations=0)
    mappo.train(env, config, callbacks=[watch], progress=False)
    gains = np.array([gain for *_, gain in curve])
    if gains[-1] <= 0:
        sys.exit(f"seed {seed} gained nothing over the best fixed prompt ({gains[-1]:+.3f})")
    # From here on it never falls below again: a lucky evaluation on the way does not count.
    below = np.flatnonzero(gains < SHARE * gains[-1])
    seconds, at, _ = curve[below[-1] + 1 if len(below) else 0]
    return [
        str(seed),
        f"{fixed:.3f}",
        f"{fixed + gains[-1]:.3f}",
        f"{at:,.0f}",
        f"{seconds:.1f}",
        f"{curve[-1][0]:.1f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="replay answers instead of asking")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        prompt, _ = search_fixed(tabulated("train", 500, folder))
        judge = tabulated("validation", USERS, folder, num_envs=USERS)
        fixed = float(play(prompt, judge, episodes=USERS).mean())
        rows = []
        for seed in options.seeds:
            if options.table:
                env = tabulated("train", 1500, folder, num_envs=256, seed=seed)
            else:
                env = rpp_env.RPPEnv.make(split="train", num_envs=256, seed=seed)
            rows.append(run(env, judge, fixed, options.steps, seed))
    header = [
        "seed",
        "best fixed",
        "at the end",
        "steps to 95%",
        "seconds to 95%",
        "seconds in all",
    ]
    print(markdown(header, rows))
    print(f"\nmedian: {statistics.median(float(row[4]) for row in rows):.1f} s to 95% of the gain")


if __name__ == "__main__":
    main()
