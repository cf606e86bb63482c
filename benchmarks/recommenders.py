"""Evaluate recommenders without a language model, and compare with LLMRank's published figures.

    python benchmarks/recommenders.py [--datasets ml-1m games] [--methods pop ...] --out FILE

Everything is fitted on all users' histories without their last item, its options chosen by
the second-last one; then each user's last item is ranked once among 19 uniform random others. Every
finished method is a line of the results file and is not run again, unless its options have changed.
Printed is one table per dataset: NDCG in percent, ours / published.

The published figures are those of Table 2 of Hou et al., "Large language models are zero-shot
rankers for recommender systems", ECIR 2024: 19 uniform negatives too, but others, and models of
another library; on games for 6,000 of the users that its own filtering left. So they are neighbours
of ours, not the same numbers measured twice.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from verification import markdown

from rpp_agents.recommenders import CONFIGS, NAMES, Scorer, fit, target_ranks
from rpp_env.data import TaskSet, load_dataset, make_tasks
from rpp_env.metrics import ndcg

CUTS = (1, 5, 10, 20)
CANDIDATES = 20

PUBLISHED = {
    "ml-1m": {
        "pop": (22.91, 45.16, 52.33, 55.36),
        "bm25": (4.70, 12.68, 17.88, 33.19),
        "bpr": (34.60, 59.87, 64.29, 65.39),
        "sasrec": (61.39, 76.39, 78.89, 79.79),
    },
    "games": {
        "pop": (28.35, 47.42, 52.96, 57.45),
        "bm25": (13.92, 28.81, 34.61, 44.35),
        "bpr": (44.92, 62.33, 66.27, 68.94),
        "sasrec": (56.90, 73.19, 75.92, 77.14),
    },
}
"""NDCG@1, 5, 10 and 20, in percent."""

TUNED: dict[str, dict[str, dict[str, Any]]] = {}
"""Options that validation preferred to the defaults, by dataset and method."""


def measured(scorer: Scorer, tasks: TaskSet) -> list[float]:
    """NDCG in percent at every cut."""
    ranks = target_ranks(scorer, tasks)
    return [round(100 * float(ndcg(ranks, cut).mean()), 2) for cut in CUTS]


def run(dataset: str, method: str, config: Any, users: int | None, seed: int) -> dict[str, Any]:
    """Fit one method, and score the targets once: one line of the results."""

    def show_epoch(row: Mapping[str, float]) -> None:
        print(
            f"{dataset} {method}: epoch {row['epoch']}, validation {row['validation']:.4f}, "
            f"{row['seconds']:.0f} s",
            file=sys.stderr,
        )

    data = load_dataset(dataset)
    rows = np.arange(data.num_users)
    if users is not None:
        rows = np.sort(np.random.default_rng(0).permutation(rows)[:users])
    tasks = make_tasks(data, rows, num_candidates=CANDIDATES, seed=0)
    began = time.perf_counter()
    scorer = fit(method, data, config, seed=seed, progress=show_epoch)
    fitted = time.perf_counter()
    scores = measured(scorer, tasks)
    return {
        "users": len(tasks),
        "ndcg": scores,
        "validation": round(scorer.validation, 4),
        "seconds_fitting": round(fitted - began, 1),
        "seconds_scoring": round(time.perf_counter() - fitted, 1),
    }


def table(dataset: str, lines: Mapping[str, Mapping[str, Any]]) -> str:
    """Ours / published, and what it took."""
    header = [dataset, *(f"NDCG@{cut}" for cut in CUTS), "validation", "seconds"]
    rows = []
    for method in NAMES:
        if method in lines:
            line = lines[method]
            published = PUBLISHED.get(dataset, {}).get(method)
            cells = [f"{value:.2f}" for value in line["ndcg"]]
            if published is not None:
                pairs = zip(cells, published, strict=True)
                cells = [f"{ours} / {theirs:.2f}" for ours, theirs in pairs]
            seconds = line["seconds_fitting"] + line["seconds_scoring"]
            rows.append([NAMES[method], *cells, f"{line['validation']:.4f}", f"{seconds:.0f}"])
    return markdown(header, rows)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", default=["ml-1m"])
    parser.add_argument("--methods", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--users", type=int, help="score this many users; else all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/recommenders.jsonl"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    kept = []
    if options.out.exists():
        kept = [json.loads(line) for line in options.out.read_text().splitlines()]
    options.out.parent.mkdir(parents=True, exist_ok=True)
    for dataset in options.datasets:
        lines = {}
        for method in options.methods:
            config = replace(CONFIGS[method], **TUNED.get(dataset, {}).get(method, {}))
            asked = {
                "dataset": dataset,
                "method": method,
                "config": asdict(config),
                "max_users": options.users,
                "seed": options.seed,
            }
            line = next((one for one in kept if asked.items() <= one.items()), None)
            if line is None:
                line = asked | run(dataset, method, config, options.users, options.seed)
                with options.out.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            lines[method] = line
        print(table(dataset, lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
