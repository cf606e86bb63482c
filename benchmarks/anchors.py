"""Compare SASRec with careful public results: full ranking, leave-one-out, all items.

The last item of every user is the test item. For a fifth of the users, 2,000 at most, the one
before it chooses the epoch; all other items are trained on. A test item is ranked among all items
but those of the user's history; ties go to the item of the lower row. ml-1m is without its 290
items of fewer than five ratings, as in SASRec's own file of 3,416 items.

Every epoch is saved, and a second run resumes from the last one::

    python benchmarks/anchors.py --datasets beauty ml-1m --out runs/anchors
    python benchmarks/anchors.py --datasets ml-1m --backbone cl4srec --out runs/anchors-cl4srec

"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpp_env.data import Dataset, Interactions, load_dataset
from rpp_env.markdown import table as written
from rpp_env.metrics import hit, ndcg
from rpp_env.recommenders.sasrec import CL4SRec, Config, Training, full_ranks

ANCHORS = {"ml-1m": 0.177, "beauty": 0.050, "sports": 0.030, "toys": 0.053}
"""Target NDCG@10; well-tuned public replications are at 0.178 to 0.186, 0.053, 0.031, 0.058."""

SMALL = Config(
    dim=64,
    blocks=1,
    heads=1,
    max_length=50,
    dropout=0.2,
    loss="softmax",
    negatives=256,
    rate=1e-3,
    batch=128,
    pool=20,
    epochs=200,
    patience=50,
)
CONFIGS = {
    "beauty": SMALL,
    "sports": SMALL,
    "toys": SMALL,
    "ml-1m": replace(
        SMALL,
        blocks=2,
        max_length=200,
        negatives=1000,
        batch=16,
        pool=10,
        patience=10,
    ),
}
RARE = 5


def sequences(dataset: Dataset) -> Interactions:
    """All users' whole sequences; ml-1m's without its rare items."""
    kept = np.ones(dataset.num_items, dtype=bool)
    if dataset.name == "ml-1m":
        kept = np.bincount(dataset.items, minlength=dataset.num_items) >= RARE
    rows = np.cumsum(kept) - 1
    here = kept[dataset.items]
    indptr = np.concatenate([[0], np.cumsum(here)])[dataset.indptr]
    return Interactions(indptr, rows[dataset.items[here]].astype(np.int32), int(kept.sum()))


def without_last(whole: Interactions) -> Interactions:
    """The same without every user's last item."""
    last = np.zeros(len(whole.items), dtype=bool)
    last[whole.indptr[1:] - 1] = True
    indptr = whole.indptr - np.arange(len(whole.indptr))
    return Interactions(indptr, whole.items[~last], whole.num_items)


def run(name: str, config: Config, seed: int, out: Path) -> dict[str, Any]:
    """Train, resuming where a run was stopped, and score the test items once, at the end."""
    dataset = load_dataset(name)
    whole = sequences(dataset)
    users = np.flatnonzero(np.diff(whole.indptr) >= 3)
    if len(users) < len(whole.indptr) - 1:
        raise SystemExit(f"{name}: {len(whole.indptr) - 1 - len(users)} users have too few items")
    histories = without_last(whole)
    training = Training(histories, config, seed=seed, checkpoint=out / f"{name}-{seed}.safetensors")
    row: Mapping[str, float] = {"epoch": 0, "seconds": 0.0}
    while not training.done:
        row = training.epoch()
        print(
            f"{name}, seed {seed}: epoch {row['epoch']}, loss {row['loss']:.4f}, validation "
            f"{row['validation']:.4f} (best {training.best.validation:.4f}), "
            f"{row['seconds']:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    targets = whole.items[whole.indptr[1:] - 1]
    line: dict[str, Any] = {
        "users": len(users),
        "items": whole.num_items,
        "validation": training.best.validation,
        "epoch": training.reached["found"],
        "epochs": training.reached["epoch"],
        "seconds": training.reached["seconds"],
    }
    for seen in ("drop", "keep"):
        ranks = full_ranks(training.best, histories, users, targets, seen=seen)
        scores = ndcg(ranks, 10)
        line[seen] = {
            "ndcg": float(scores.mean()),
            "error": float(scores.std() / len(scores) ** 0.5),
            "hit": float(hit(ranks, 10).mean()),
        }
    return line


def table(lines: list[dict[str, Any]]) -> str:
    """What was reached beside what there was to reach."""
    rows = []
    for line in lines:
        ours, all_items = line["drop"], line["keep"]
        rows.append(
            [
                line["dataset"],
                str(line["seed"]),
                f"{line['users']:,}",
                f"{line['items']:,}",
                f"{ours['ndcg']:.4f} ± {1.96 * ours['error']:.4f}",
                f"{ANCHORS[line['dataset']]:.3f}",
                f"{ours['hit']:.4f}",
                f"{all_items['ndcg']:.4f}",
                f"{line['epoch']} of {line['epochs']}",
                f"{line['seconds']:.0f}",
            ]
        )
    header = (
        "dataset, seed, users, items, NDCG@10, anchor, hit@10, seen items ranked too, "
        "best epoch, seconds"
    )
    return written([header.split(", "), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--datasets", nargs="+", choices=ANCHORS, default=list(ANCHORS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backbone", choices=("sasrec", "cl4srec"), default="sasrec")
    parser.add_argument("--config", type=json.loads, default={}, help="fields, as JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/anchors"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    options.out.mkdir(parents=True, exist_ok=True)
    results = options.out / "anchors.jsonl"
    kept = (
        [json.loads(line) for line in results.read_text().splitlines()] if results.exists() else []
    )
    lines = []
    for name in options.datasets:
        for seed in options.seeds:
            config = CONFIGS[name]
            if options.backbone == "cl4srec":
                config = CL4SRec(**asdict(config))
            config = replace(config, **options.config)
            asked = {"dataset": name, "seed": seed, "config": asdict(config)}
            line = next((one for one in kept if asked.items() <= one.items()), None)
            if line is None:
                line = asked | run(name, config, seed, options.out)
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            lines.append(line)
            print(table(lines) + "\n", flush=True)


if __name__ == "__main__":
    main()
