"""A first look at RPPFeedback-v0: MAPPO with and without a memory, beside policies of responses.

    python benchmarks/feedback.py FOLDER [--train-users 400] [--steps 200000] [--seeds 0 1]

Policies of responses are fitted on a table of train users (400 users are 630,000 answers), and
MAPPO is trained on all of them with a budget of steps. All play the same 1,000 test users, and
nothing is chosen on these. The ranks of each run are kept in FOLDER, where finished runs are not
made again; the scores with their intervals go to docs/results/feedback.json.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from itertools import product
from operator import itemgetter
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rpp_env
from rpp_agents import mappo
from rpp_env.data.folders import whole_file
from rpp_env.evaluation.baselines import Policy, search_fixed
from rpp_env.evaluation.evaluate import episodes
from rpp_env.evaluation.feedback import fit_keep_best, fit_posterior
from rpp_env.intervals import estimate
from rpp_env.metrics import ndcg

RULES = "RPPFeedback-v0"
OUT = Path(__file__).parents[1] / "docs" / "results" / "feedback.json"
LABELS = {
    "fixed": "best fixed prompt",
    "keep": "keep the best",
    "last": "posterior bandit, last response only",
    "greedy": "posterior bandit",
    "exploring": "posterior bandit, exploring first",
}


def made(split: str, users: int | None = None, **options: Any) -> rpp_env.RPPEnv:
    return rpp_env.RPPEnv.make("movieworld", split=split, rules=RULES, max_users=users, **options)


def rivals(folder: Path, users: int) -> Iterator[tuple[str, Callable[[], Policy]]]:
    """Names of files, and functions that fit the policies of responses."""

    def train() -> rpp_env.RPPEnv:
        table = folder / "train.rpptable"
        if not table.exists():
            rpp_env.tabulate(made("train", users), table, processes=1)
        return made("train", users, model=f"table:{table}")

    yield "fixed", lambda: search_fixed(train())[0]
    yield "keep", lambda: fit_keep_best(train())
    yield "last", lambda: fit_posterior(train(), explore=1, recall=False)
    yield "greedy", lambda: fit_posterior(train(), explore=1)
    yield "exploring", lambda: fit_posterior(train())


def runs(steps: int, seeds: list[int]) -> Iterator[tuple[str, Callable[[], Policy]]]:
    """Names of files, and functions that train MAPPO."""
    for seed, gamma, memory in product(seeds, (0.9, 0.0), (0, 32)):
        config = mappo.Config(
            total_steps=steps, memory=memory, gamma=gamma, seed=seed, evaluations=0
        )

        def train(config: mappo.Config = config) -> Policy:
            env = made("train", num_envs=256, seed=config.seed)
            return mappo.train(env, config, progress=False)

        yield f"m{memory}-g{gamma}-s{seed}", train


def ranks(policy: Policy, env: rpp_env.RPPEnv) -> np.ndarray[Any, Any]:
    found = np.zeros((len(env.tasks), env.max_cycles), np.int64)
    for rows, t, step in episodes(policy, env, size=500):
        found[rows, t] = step.infos["rank"]
    return found


def report(folder: Path, steps: int, seeds: list[int], users: int) -> dict[str, Any]:
    """Scores by label, and differences over the same users, of the runs that are there."""
    played: dict[str, list[Any]] = {}
    for name, label in LABELS.items():
        if (folder / f"{name}.npy").exists():
            played[label] = [ndcg(np.load(folder / f"{name}.npy"))]
    for gamma, memory in product((0.0, 0.9), (0, 32)):
        files = [folder / f"m{memory}-g{gamma}-s{seed}.npy" for seed in seeds]
        label = f"MAPPO, {'a memory' if memory else 'no memory'}, discount {gamma:g}"
        if all(file.exists() for file in files):
            played[label] = [ndcg(np.load(file)) for file in files]
    columns: dict[str, Any] = {}
    for label, each in played.items():
        mean = np.mean(each, axis=0)  # of the seeds
        columns |= {
            label: mean.mean(axis=1),
            f"{label} first": mean[:, 0],
            f"{label} last": mean[:, -1],
        }

    def minus(left: str, right: str) -> Any:
        return lambda means: means[left] - means[right]

    pairs = [
        (f"MAPPO, a memory, discount {g}", f"MAPPO, no memory, discount {g}") for g in ("0", "0.9")
    ]
    pairs += [(LABELS["greedy"], LABELS["last"]), (LABELS["exploring"], LABELS["greedy"])]
    pairs += [(left, LABELS["fixed"]) for left in played if left != LABELS["fixed"]]
    pairs += [(LABELS["greedy"], left) for left in played if left.startswith("MAPPO")]
    differences = {
        f"{left} minus {right}": minus(left, right)
        for left, right in pairs
        if left in played and right in played
    }
    found = estimate(columns, {name: itemgetter(name) for name in columns} | differences)
    return {
        "dataset": "movieworld",
        "rules": RULES,
        "steps": steps,
        "train_users_of_the_table": users,
        "test_users": len(next(iter(columns.values()))),
        "runs": {label: len(each) for label, each in played.items()},
        "per_run": {label: [float(x.mean()) for x in each] for label, each in played.items()},
        "scores": {
            label: {
                name: asdict(found[label if name == "mean" else f"{label} {name}"])
                for name in ("mean", "first", "last")
            }
            for label in played
        },
        "differences": {name: asdict(found[name]) for name in differences},
        "command": "python benchmarks/feedback.py FOLDER",
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", type=Path)
    parser.add_argument("--train-users", type=int, default=400)
    parser.add_argument("--test-users", type=int, default=1000)
    parser.add_argument("--steps", type=int, default=200_000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1])
    parser.add_argument("--report", action="store_true", help="Only report what is in FOLDER.")
    parser.add_argument("--out", type=Path, default=OUT)
    given = parser.parse_args()
    torch.set_num_threads(1)
    given.folder.mkdir(parents=True, exist_ok=True)
    if not given.report:
        test = made("test", given.test_users, num_envs=500)
        both = (*rivals(given.folder, given.train_users), *runs(given.steps, given.seeds))
        for name, fit in both:
            if not (path := given.folder / f"{name}.npy").exists():
                np.save(path, ranks(fit(), test))
                print(name, float(ndcg(np.load(path)).mean()), flush=True)
    found = report(given.folder, given.steps, given.seeds, given.train_users)
    with whole_file(given.out) as file:
        file.write(json.dumps(found, indent=1).encode() + b"\n")


if __name__ == "__main__":
    main()
