"""Explanations by a small T5 that is trained from scratch, beside the template that it was taught.

    python benchmarks/explanations.py --out docs/results/explanations.json

The reference of a test click is *template-made* (`rpp_env.data.explanations`): no review is at
hand. So scores are high for whoever knows the template, and what counts is the difference from the
template that is filled without a search in the history. The T5 is trained once, in resumable
stages, and kept in the cache. Intervals of the difference are paired bootstraps over users.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import torch

from rpp_env import load_dataset
from rpp_env.data.clicks import SMALL_WORLD, click_tasks, task_users, training_clicks
from rpp_env.data.explanations import Explainer, surrogate, text_scores
from rpp_env.data.folders import write_text
from rpp_env.intervals import estimate
from rpp_env.markdown import table
from rpp_env.recommenders.pretrained import EXPLAINING_T5, pretrained_t5
from rpp_env.tokens import SlotPrompts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dataset")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=EXPLAINING_T5.epochs)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    data = load_dataset(
        given.dataset or "movieworld", None, **({} if given.dataset else SMALL_WORLD)
    )
    config = replace(EXPLAINING_T5, epochs=given.epochs)
    model = pretrained_t5(data, training_clicks(data), config).ask("explanation")
    users = task_users(data)
    users = np.sort(np.random.default_rng(0).permutation(users)[: given.users])
    tasks = click_tasks(data, users, "test", num_candidates=None)
    explainer, n = Explainer.of(data), config.max_history
    shown = [tasks.history(i)[-n:].tolist() for i in range(len(tasks))]
    items = tasks.targets.tolist()
    wanted = list(map(explainer.reference, shown, items))
    none = np.zeros((len(tasks), 0), np.int64)
    words = np.random.default_rng(1).choice(model.vocabulary.tokens, (len(tasks), 1))
    # Each user's item, explained to the user before: by that user's history.
    other = np.roll(np.arange(len(tasks)), -1)
    moved = replace(tasks, candidates=tasks.candidates[other], position=tasks.position[other])
    exchanged = model.explain(SlotPrompts(none, moved))
    exchanged = [exchanged[i] for i in np.argsort(other)]
    found = {
        "the T5": model.explain(SlotPrompts(none, tasks)),
        "the T5, with a random word": model.explain(SlotPrompts(words, tasks)),
        "the T5, with another user's history": exchanged,
        "the template, copied": list(map(explainer.copied, shown, items)),
    }
    each = {name: surrogate(texts, wanted) for name, texts in found.items()}
    scores = {
        name: text_scores(texts, wanted)
        | {
            "BLEU-4 + 0.1 ROUGE-L": float(each[name].mean()),
            "equal": 100 * float(np.mean([a == b for a, b in zip(texts, wanted, strict=True)])),
        }
        for name, texts in found.items()
    }
    gaps = {
        f"the T5 minus {name}": estimate({"gap": each["the T5"] - each[name]}, {"gap": gap})["gap"]
        for name in found
        if name != "the T5"
    }
    names = list(scores["the T5"])
    rows = [(name, *(f"{some[key]:.1f}" for key in names)) for name, some in scores.items()]
    print(table([("text", *names), *rows]))
    for name, one in gaps.items():
        print(f"{name}, BLEU-4 + 0.1 ROUGE-L: {one:+.1f}")
    examples = [{name: texts[i] for name, texts in found.items()} for i in range(3)]
    for i, texts in enumerate(examples):
        print(json.dumps({"reference": wanted[i], **texts}, indent=1))
    written = {
        "about": {"users": len(tasks), "epochs": given.epochs, "recommender": model.digest},
        "scores": scores,
        "differences": {name: asdict(one) for name, one in gaps.items()},
    }
    if given.out:
        write_text(given.out, json.dumps(written, indent=1) + "\n")


def gap(means: dict[str, float]) -> float:
    return means["gap"]


if __name__ == "__main__":
    main()
