"""What rewriting changes, on the same users and prompts.

    python benchmarks/rewriting.py [--users 300] [--dataset movieworld]
    python benchmarks/rewriting.py --model smollm2 --rank-by likelihood --users 80 --shown 10 \
        --reasonings 1 2 7 8

By default the embedded model ranks and the embedded paraphraser rewrites; a language model that is
named does both. Every cell is a fixed prompt (items shown, role, reasoning, output) under
RPPBandit-v0, asked once as the catalog has it and once rewritten, of validation users. The report
gives NDCG@10 and the paired differences, with 95% bootstrap intervals over users, and how many
sentences were changed, refused (the catalog's was sent) and given back as they were.

The primary contrast is named here, before any run: the mean over all cells, rewritten minus as in
the catalog.

Answers of a language model go through a recording, so the same command resumes where it was
stopped. It writes OUT/rewriting.md and OUT/rewriting.json, which hold no titles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from rpp_env import RULES, LLMRewriter, RPPEnv
from rpp_env.data.folders import write_text
from rpp_env.errors import RPPError
from rpp_env.intervals import Estimate, estimate
from rpp_env.markdown import table
from rpp_env.models import Generation, RecordingModel
from rpp_env.models.names import open_model, parse_options
from rpp_env.sim.paraphraser import Paraphraser

SHOWN = (5, 20)
ROLE, OUTPUT = 3, 0
SENTENCES = 3
"""Sentences of a prompt that are rewritten."""
REWRITES = Generation(temperature=0.7, max_tokens=160, seed=0)
"""As `LLMRewriter`'s own, but shorter: three sentences have some 70 tokens."""


def compare(
    given: argparse.Namespace, model: Any, rewriter: LLMRewriter
) -> tuple[dict[str, dict[str, Estimate]], Counter[str]]:
    """Ask every cell both ways; return the estimates by cell, and counts of sentences."""
    plain, rewriting = (
        RPPEnv.make(
            given.dataset,
            model,
            split="validation",
            rules="RPPBandit-v0",
            rank_by=given.rank_by,
            max_users=given.users,
            num_envs=given.users,
            rewrite=rewrite,
        )
        for rewrite in (None, rewriter)
    )
    users = list(range(len(plain.tasks)))
    cells: list[tuple[str, np.ndarray, np.ndarray]] = []
    said: Counter[str] = Counter()
    for shown in given.shown:
        level = RULES["RPPBandit-v0"].history_options.index(shown)
        for reasoning in given.reasonings or range(plain.book.sizes[2]):
            actions = np.array([[ROLE, level, reasoning, OUTPUT]] * len(users))
            rewards = []
            for env in (plain, rewriting):
                env.reset(seed=0, options={"users": users})
                step = env.step(actions)
                rewards.append(step.rewards)
            said["sentences"] += SENTENCES * len(users)
            said["changed"] += int(step.infos["rewritten"].sum())
            said["refused"] += int(step.infos["rewrite_fallbacks"].sum())
            cells.append((f"reasoning {reasoning}, {shown} items", *rewards))
            print(f"{cells[-1][0]}: asked", file=sys.stderr, flush=True)
    for label, pick in (
        ("mean of all", cells),
        *(
            (f"mean, {n} items shown", [c for c in cells if f", {n} items" in c[0]])
            for n in given.shown
            if len(given.shown) > 1
        ),
    ):
        cells.append((label, *(np.mean([cell[i] for cell in pick], axis=0) for i in (1, 2))))
    found = {
        label: estimate(
            {"before": before, "after": after},
            {
                "before": lambda mean: mean["before"],
                "after": lambda mean: mean["after"],
                "difference": lambda mean: mean["after"] - mean["before"],
            },
        )
        for label, before, after in cells
    }
    said["users"] = len(users)
    return found, said


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--dataset", default="movieworld")
    parser.add_argument("--model", default="embedded", help="that ranks and rewrites")
    parser.add_argument("--model-options", metavar="JSON", default='{"dtype": "bfloat16"}')
    parser.add_argument("--rank-by", default="generate")
    parser.add_argument("--shown", nargs="+", type=int, default=SHOWN, help="history lengths")
    parser.add_argument("--reasonings", nargs="+", type=int, help="sentences (default: all)")
    parser.add_argument("--out", type=Path, default=Path("runs/rewriting"))
    given = parser.parse_args()
    model: Any = "embedded"
    rewriter = LLMRewriter(Paraphraser())
    if given.model != "embedded":
        inner = open_model(given.model, **(parse_options(given.model_options) or {}))
        model = RecordingModel(given.out / "answers.sqlite", inner)
        rewriter = LLMRewriter(model, generation=REWRITES)
    found, said = compare(given, model, rewriter)
    shares = {name: said[name] / said["sentences"] for name in ("changed", "refused")}
    reasons = ", ".join(f"{name} {count}" for name, count in rewriter.faults.most_common())
    rows = [[label, *map(str, one.values())] for label, one in found.items()]
    text = f"""# Rewritten by {rewriter.id}

{given.dataset}, {said["users"]} validation users, role {ROLE}, output {OUTPUT}, ranked by
{given.rank_by}. Of {said["sentences"]} sentences {shares["changed"]:.0%} were changed and
{shares["refused"]:.0%} refused ({reasons}; equal questions count once).

{table([["prompt", "as in the catalog", "rewritten", "difference"], *rows])}
"""
    numbers = {
        "rewriter": rewriter.id,
        "dataset": given.dataset,
        "rank_by": given.rank_by,
        "cells": {
            label: {name: asdict(one) for name, one in each.items()}
            for label, each in found.items()
        },
        "sentences": dict(said),
        "faults": dict(rewriter.faults),
        "calls": dict(rewriter.calls),
    }
    write_text(given.out / "rewriting.md", text)
    write_text(given.out / "rewriting.json", json.dumps(numbers, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
