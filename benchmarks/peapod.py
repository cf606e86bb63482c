"""What attention to similar users is worth on PeaPOD-v0: its solver beside its controls.

    python benchmarks/peapod.py --out docs/results/peapod.json

All play the test clicks of the same users; the solver is tuned on validation clicks. A difference
is of paired users, with a 95% bootstrap interval; a solver's runs are averaged for each user first.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpp_agents import Random
from rpp_agents.solvers import controls
from rpp_agents.solvers.peapod import Config, pretrained, tune
from rpp_env import RPPEnv
from rpp_env.data.folders import write_text
from rpp_env.intervals import estimate
from rpp_env.markdown import table


def scores(policy: Any, env: RPPEnv) -> Any:
    observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
    return env.step(policy.act(observations)[0]).rewards


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--options", type=json.loads, default={}, help="options, as JSON")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    made: dict[str, RPPEnv] = {
        split: RPPEnv.make(rules="PeaPOD-v0", split=split, seed=0, **args.options)
        for split in ("train", "validation", "test")
    }
    test = made["test"]
    found = {"no prompt": controls.without_prompt(test)}
    for who in ("another", "self"):
        env = RPPEnv.make(rules="PeaPOD-v0", split="test", seed=0, whose=who, **args.options)
        found[f'pre-trained attention, whose="{who}"'] = scores(pretrained(env), env)
    found["random attention"] = scores(Random(test.action_spaces, seed=0), test)
    found["equal attention"] = scores(controls.zero(test), test)
    found["pre-trained attention"] = scores(pretrained(test), test)
    runs, epochs = [], []
    for seed in range(args.seeds):
        config = Config(seed=seed, total_steps=5 * len(made["train"].tasks))
        tuned = tune(made["train"], made["validation"], config, patience=2)
        runs.append(scores(tuned.policy, test))
        epochs.append(tuned.epoch)
        print(f"seed {seed}: epoch {tuned.epoch}, test {runs[-1].mean():.4f}", flush=True)
    found["the solver"] = np.mean(runs, axis=0)
    bare = found["no prompt"]
    gaps = {
        name: estimate({"gap": value - bare}, {"gap": lambda means: means["gap"]})["gap"]
        for name, value in found.items()
    }
    lines = [(name, f"{value.mean():.4f}", f"{gaps[name]:+.4f}") for name, value in found.items()]
    print(table([("prompt", "NDCG@10", "minus no prompt"), *lines]), flush=True)
    rows = {
        name: {"mean": float(value.mean()), "difference": asdict(gaps[name])}
        for name, value in found.items()
    }
    personal = {
        who: estimate(
            {
                "gap": found["pre-trained attention"]
                - found[f'pre-trained attention, whose="{who}"']
            },
            {"gap": lambda means: means["gap"]},
        )["gap"]
        for who in ("another", "self")
    }
    for who, gap in personal.items():
        print(f'pre-trained attention minus whose="{who}": {gap}')
    about = {
        "users": len(test.tasks),
        "recommender": test.recommender.digest,
        "composer": test.space.around.composer.digest,
        "epochs": epochs,
    }
    kept = {who: asdict(gap) for who, gap in personal.items()}
    written = {"about": about, "scores": rows, "personal": kept}
    if args.out:
        write_text(args.out, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
