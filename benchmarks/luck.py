"""How much of hindsight is luck with the candidates: from a table alone, without a model.

    rpp-env data get ml-1m
    python benchmarks/luck.py --out runs/luck

A user's best prompt, known afterwards, is partly the one whose accidents suited the candidates that
were drawn. Titles that are ranked by likelihood are scored one by one, so leaving candidates out is
the same as having drawn fewer: a user's negatives are split at random into two halves, the target
is ranked among each, and the prompt that is best among one half is paid among the other one. What
is lost was luck with the candidates; what is left may still be luck with the one target. The best
fixed prompt is the one that is best for train users among halves.

It writes OUT/luck.json, which holds no titles.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.problem import Users
from rpp_env import RPPEnv
from rpp_env.data.folders import write_text
from rpp_env.errors import RPPError
from rpp_env.intervals import Estimate, estimate
from rpp_env.metrics import chance_ndcg, ndcg

Floats = NDArray[np.float64]


def halves(env: RPPEnv, splits: int, seed: int = 0) -> Floats:
    """(splits, 2, U, cells) NDCG@10 of each user's target among either half of the negatives."""
    users = Users(env, env)
    rows, K = users.rows, env.tasks.num_candidates
    places = np.stack(
        [
            np.argsort(users.ask(rows, np.full(len(rows), cell)).rankings.order, axis=1)
            for cell in range(users.cells)
        ],
        axis=1,
    )
    targets = env.tasks.position
    mine = np.take_along_axis(places, targets[:, None, None], axis=2)
    negatives = np.array([np.delete(np.arange(K), target) for target in targets])
    rng, size = np.random.default_rng(seed), (K - 1) // 2
    found = np.empty((splits, 2, *places.shape[:2]))
    for split in found:
        drawn = rng.permuted(negatives, axis=1)
        for half, paid in enumerate(split):
            some = drawn[:, None, half * size : (half + 1) * size]
            ahead = np.take_along_axis(places, some, axis=2) < mine
            paid[:] = ndcg(1 + ahead.sum(axis=2))
    return found


def luck(train: Floats, test: Floats) -> dict[str, Estimate]:
    """Estimate the lines over test users, from the `halves` of train and test users."""
    fixed = int(train.mean(axis=(0, 1, 2)).argmax())
    best = test == test.max(axis=-1, keepdims=True)
    share = best / best.sum(axis=-1, keepdims=True)  # ties are drawn among
    columns = {
        "random": test.mean(axis=(0, 1, 3)),
        "fixed": test[..., fixed].mean(axis=(0, 1)),
        "hindsight": test.max(axis=-1).mean(axis=(0, 1)),
        "survives": (share * test[:, ::-1]).sum(axis=-1).mean(axis=(0, 1)),
    }
    return estimate(
        columns,
        {name: lambda m, n=name: m[n] for name in columns}
        | {
            "hindsight minus fixed": lambda m: m["hindsight"] - m["fixed"],
            "survives minus fixed": lambda m: m["survives"] - m["fixed"],
            "survives minus random": lambda m: m["survives"] - m["random"],
        },
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="table:smollm2-ml-1m", help="table of likelihoods")
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--splits", type=int, default=20, help="random splits of the negatives")
    parser.add_argument("--out", type=Path, default=Path("runs/luck"))
    given = parser.parse_args()
    train, test = (
        halves(
            RPPEnv.make(
                given.dataset,
                given.model,
                split,
                rules="RPPLikelihood-v0",
                catalog="films-forms",
            ),
            given.splits,
        )
        for split in ("train", "test")
    )
    found = luck(train, test)
    numbers = {"model": given.model, "train users": train.shape[2], "users": test.shape[2]}
    numbers |= {name: asdict(one) for name, one in found.items()}
    write_text(given.out / "luck.json", json.dumps(numbers, indent=1) + "\n")
    print(f"{test.shape[2]} test users, the target among 10; chance {chance_ndcg(10):.3f}")
    print("\n".join(f"{name}: {one}" for name, one in found.items()))


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
