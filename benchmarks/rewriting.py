"""What rewriting by the embedded paraphraser changes, on the same users and prompts.

    python benchmarks/rewriting.py [--users 300] [--dataset movieworld]

Every cell is a fixed prompt (items shown, role, reasoning, output) under RPPBandit-v0, asked once
as the book has it and once rewritten, of validation users. Prints the table of docs/rewriting.md:
NDCG@10 and the paired differences, with 95% bootstrap intervals over users.
"""

from __future__ import annotations

import argparse

import numpy as np

from rpp_env import RULES, RPPEnv
from rpp_env.intervals import estimate

SHOWN = (5, 20)
ROLE, OUTPUT = 3, 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--dataset", default="movieworld")
    given = parser.parse_args()
    plain, rewriting = (
        RPPEnv.make(
            given.dataset,
            split="validation",
            rules="RPPBandit-v0",
            max_users=given.users,
            num_envs=given.users,
            rewrite=rewrite,
        )
        for rewrite in (None, "embedded")
    )
    users = list(range(len(plain.tasks)))
    cells: list[tuple[str, np.ndarray, np.ndarray]] = []
    for shown in SHOWN:
        level = RULES["RPPBandit-v0"].history_options.index(shown)
        for reasoning in range(plain.book.sizes[2]):
            actions = np.array([[ROLE, level, reasoning, OUTPUT]] * len(users))
            rewards = []
            for env in (plain, rewriting):
                env.reset(seed=0, options={"users": users})
                rewards.append(env.step(actions).rewards)
            cells.append((f"reasoning {reasoning}, {shown} items", *rewards))
    for label, pick in (
        ("mean of the eighteen", cells),
        *((f"mean, {n} items shown", [c for c in cells if f", {n} items" in c[0]]) for n in SHOWN),
    ):
        cells.append((label, *(np.mean([cell[i] for cell in pick], axis=0) for i in (1, 2))))
    print(f"{given.dataset}, {len(users)} validation users, role {ROLE}, output {OUTPUT}\n")
    print("| prompt | as in the book | rewritten | difference |\n|---|---|---|---|")
    for label, before, after in cells:
        found = estimate(
            {"before": before, "after": after},
            {
                "before": lambda mean: mean["before"],
                "after": lambda mean: mean["after"],
                "difference": lambda mean: mean["after"] - mean["before"],
            },
        )
        print(f"| {label} | {found['before']} | {found['after']} | {found['difference']} |")


if __name__ == "__main__":
    main()
