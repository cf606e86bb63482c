"""Measure how time and memory grow with the users: movieworld with up to 100,000.

    python benchmarks/many_users.py [--users 12500 25000 50000 100000] [--out FILE]

For each size, in a process of its own: make the world, make a task for every user, fit embeddings
and the embedded model on the train users, make the environment, then `rpp_env.evaluate` a learned
policy and a fixed prompt on all users, train users included (it is speed that is measured here),
live and in batches. The policy is MAPPO, trained briefly at the smallest size and kept at --policy
for the others and the next time: observations are of one width, however many users there are.

Seconds are processor time; the clock's are in the JSON. "x" is a number divided by that of the size
before, where users double. Peak memory is the most that the process ever had (ru_maxrss), up to the
end of each part.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

import rpp_env
from rpp_env.data import load_dataset, make_tasks, split_users, training_interactions
from rpp_env.embeddings import fit_embeddings
from rpp_env.evaluation.baselines import Fixed
from rpp_env.sentences import SentenceCatalog
from rpp_env.sim.embedded import EmbeddedModel

T = TypeVar("T")

BEST = {"level": 6, "role": 1, "reasoning": 5, "output": 1}
"""Movieworld's best fixed prompt (docs/movieworld.md)."""
PARTS = ("world", "tasks", "fit", "env", "fixed", "MAPPO", "report")
"""What is measured, in order."""


def peak() -> float:
    """MiB that this process had at most, so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


class Watch:
    """Processor time, time by the clock and peak memory of named parts."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.clock: dict[str, float] = {}
        self.peak: dict[str, float] = {"imports": peak()}
        self.start()

    def start(self) -> None:
        self._begun = time.process_time(), time.perf_counter()

    def stop(self, part: str) -> None:
        """The time since the last start or stop was spent on this."""
        self.seconds[part] = time.process_time() - self._begun[0]
        self.clock[part] = time.perf_counter() - self._begun[1]
        self.peak[part] = peak()
        self.start()

    def played(self, line: str, done: int, total: int) -> None:
        """What `rpp_env.evaluate` calls after each batch."""
        if done == total:
            self.stop(line)


def learned(path: Path, users: int, steps: int) -> None:
    """Train MAPPO for a minute or less, and keep the policy."""
    from rpp_agents import mappo

    env = rpp_env.RPPEnv.make("movieworld", split="train", num_users=users)
    policy = mappo.train(
        env, mappo.Config(total_steps=steps, gamma=0.95, threads=1), progress=False
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    policy.save(path)


def measured(users: int, path: Path, num_envs: int) -> dict[str, Any]:
    """All numbers of one size."""
    from rpp_agents.policy import load_policy

    policy = load_policy(path)
    watch = Watch()
    data = load_dataset("movieworld", num_users=users)
    interactions = training_interactions(data, split_users(data))
    watch.stop("world")
    tasks = make_tasks(data, np.arange(users))
    watch.stop("tasks")
    embeddings = fit_embeddings(data, interactions, cache=False)
    model = EmbeddedModel.fit(data, interactions, embeddings=embeddings)
    watch.stop("fit")
    env = rpp_env.RPPEnv(
        tasks,
        book=SentenceCatalog.load(data.domain),
        embeddings=embeddings,
        recommender=rpp_env.LLMRecommender(model),
        num_envs=num_envs,
    )
    env.reset()
    watch.stop("env")
    fixed = Fixed.prompt(env.rules, **BEST)
    report = rpp_env.evaluate(
        policy, env, baselines={"fixed": fixed}, name="MAPPO", progress=watch.played
    )
    watch.stop("report")
    return {
        "users": users,
        "interactions": len(data.items),
        "steps": env.max_cycles,
        "seconds": watch.seconds,
        "clock": watch.clock,
        "peak_mib": watch.peak,
        "ndcg@10": {line: report.lines[line]["ndcg@10"].value for line in ("fixed", "MAPPO")},
    }


def apart(function: Callable[..., T], *arguments: Any) -> T:
    """Return the function's result, computed in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


def rows(found: Sequence[dict[str, Any]]) -> Iterator[list[str]]:
    yield ["users", *(f"{part}, s" for part in PARTS), "users/s", "peak, MiB", "time x", "memory x"]
    before: dict[str, Any] | None = None
    for one in found:
        seconds, most = one["seconds"], max(one["peak_mib"].values())
        played = seconds["fixed"] + seconds["MAPPO"]
        row = [f"{one['users']:,}", *(f"{seconds[part]:,.1f}" for part in PARTS)]
        row += [f"{2 * one['users'] / played:,.0f}", f"{most:,.0f}"]
        if before is None:
            row += ["", ""]
        else:
            row.append(f"{sum(seconds.values()) / sum(before['seconds'].values()):.2f}")
            row.append(f"{most / max(before['peak_mib'].values()):.2f}")
        yield row
        before = one


def table(found: Sequence[dict[str, Any]]) -> str:
    head, *body = rows(found)
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *body))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--users", type=int, nargs="+", default=[12_500, 25_000, 50_000, 100_000])
    parser.add_argument("--num-envs", type=int, default=512, help="users that play at once")
    parser.add_argument("--steps", type=int, default=60_000, help="of MAPPO's training")
    parser.add_argument("--policy", type=Path, default=Path("runs/many_users/mappo.safetensors"))
    parser.add_argument("--out", type=Path, help="append a line of JSON for each size")
    options = parser.parse_args()
    if not options.policy.is_file():
        apart(learned, options.policy, min(options.users), options.steps)
    found = []
    for users in options.users:
        one = apart(measured, users, options.policy, options.num_envs)
        one |= {"load": os.getloadavg()[0], "python": platform.python_version()}
        found.append(one)
        print(json.dumps(one), flush=True)
        if options.out is not None:
            with options.out.open("a", encoding="utf-8") as file:
                file.write(json.dumps(one) + "\n")
    print(f"\n{table(found)}")
    for part in ("imports", *PARTS):
        print(f"peak MiB after {part}: ", *(f"{one['peak_mib'][part]:,.0f}" for one in found))


if __name__ == "__main__":
    main()
