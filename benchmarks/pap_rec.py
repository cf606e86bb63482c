"""PAP-REC's words on PAPRec-v0: what they gain where they were chosen, and what elsewhere.

    python benchmarks/pap_rec.py --users 300 --seeds 0 1 2

The search chooses words on the third-last clicks (split train); the validation and the test clicks
of the same users judge them. Prompts of equal length: six shared words, or five and one of the
user's own. ``shuffled`` gives each user the word of another. Intervals are paired, over users.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from typing import Any

import numpy as np

import rpp_env
from rpp_agents.solvers.pap_rec import Config, Criterion, Judge, search, shuffled
from rpp_env.markdown import table
from rpp_env.pap_rec import MANUAL


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--criterion", default="surrogate")
    parser.add_argument("--dataset")
    parser.add_argument("--model")
    given = parser.parse_args()
    made = {
        split: rpp_env.RPPEnv.make(
            given.dataset, given.model, split, rules="PAPRec-v0", max_users=given.users, samples=1
        )
        for split in ("train", "validation", "test")
    }
    model = made["train"].recommender
    judges = {split: Judge(model, env.tasks, "reward") for split, env in made.items()}
    count = len(made["train"].tasks)
    manual = np.tile(model.vocabulary.encode(MANUAL), (count, 1))
    rows: dict[str, list[dict[str, Any]]] = {}

    def judged(name: str, prompts: Any) -> None:
        values = {split: judge(prompts) for split, judge in judges.items()}
        rows.setdefault(name, []).append(values)

    criterion: Criterion = given.criterion
    for seed in given.seeds:
        config = Config(seed=seed, criterion=criterion, total_steps=10**9, clicks=2)
        rng = np.random.default_rng(seed)
        judged("no words", manual[:, :0])
        judged("manual words", manual)
        judged("random words", rng.choice(model.vocabulary.tokens, (count, 6)))
        tasks = made["train"].tasks
        alone = search(model, tasks, config, length=6, slots=0, rounds=given.rounds)
        judged("six shared words", alone.prompts())
        found = search(model, tasks, config, rounds=given.rounds)
        judged("five shared words and the user's", found.prompts())
        judged("the same, of another user", shuffled(found, seed).prompts())
        plain = replace(found, own=np.tile(found.shared[-1:], (count, 1)))
        judged("the same, without the user's", plain.prompts())
        print(
            f"seed {seed}: {model.vocabulary.decode(found.shared)!r}, "
            f"{found.changed:.0%} of the users changed, {found.answers:,} answers",
            flush=True,
        )
    base = rows["manual words"]
    lines = [("prompt", "where chosen", "validation", "test", "test, minus manual words")]
    for name, runs in rows.items():
        means = [np.mean([run[s].mean() for run in runs]) for s in judges]
        gaps = np.mean([a["test"] - b["test"] for a, b in zip(runs, base, strict=True)], axis=0)
        spread = 1.96 * gaps.std(ddof=1) / count**0.5
        figures = [f"{mean:.4f}" for mean in means]
        lines.append((name, *figures, f"{gaps.mean():+.4f} ± {spread:.4f}"))
    print(table(lines))


if __name__ == "__main__":
    main()
