"""Ranks of test clicks among three lists, simple baselines, and tables of them with differences.

    python benchmarks/ranked.py --dataset beauty --model checkpoint:FILE --out FILE.json

Run alone, it ranks a T5 without a prompt, beside the baselines. It is imported by benchmarks of ids
that are played on users' later clicks. The lists are the task's candidates
(*sampled*: the target and 99 items that the user never clicks), *all* items, and those of them that
are *new* to the user. Intervals of differences are Student's, over users and training seeds,
paired; "Holm" marks those that are significant at 5% among those of a table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpp_agents.experiments.statistics import Lines, holm
from rpp_agents.recommenders.base import ranks_by
from rpp_env import RPPEnv, load_dataset
from rpp_env.data.candidates import TaskSet
from rpp_env.data.clicks import SMALL_WORLD, click_tasks, task_users, training_clicks
from rpp_env.data.folders import write_text
from rpp_env.factory import choose_users
from rpp_env.later_clicks import recommender_of
from rpp_env.markdown import table
from rpp_env.metrics import hit, ndcg
from rpp_env.recommenders import pretrained
from rpp_env.recommenders.t5 import max_plus_one
from rpp_env.tokens import SlotPrompts
from rpp_env.vectors import PrefixPrompts

LISTS = ("sampled", "all", "new")
METRICS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "NDCG@1 = HR@1": lambda ranks: hit(ranks, 1),
    "NDCG@5": lambda ranks: ndcg(ranks, 5),
    "NDCG@10": lambda ranks: ndcg(ranks, 10),
    "HR@5": lambda ranks: hit(ranks, 5),
    "HR@10": lambda ranks: hit(ranks, 10),
}
SASREC = replace(pretrained.SMALL, epochs=200, patience=8)
"""PPR's SASRec, until it no longer improves."""
_USERS = 500
"""Number of users whose scores of all items are in memory."""

Ranks = Mapping[str, np.ndarray]
"""(T,) the targets' ranks, from 1, by list."""
Scores = Callable[[TaskSet, np.ndarray], Any]
"""Takes some tasks and their rows; returns scores of their candidates, a (B, K) array or tensor."""


def parser(about: str | None) -> argparse.ArgumentParser:
    """Make a parser of the arguments that the benchmarks share."""
    made = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--dataset", help="a name or a folder (default: the id's generated world)")
    made.add_argument("--model", help="t5 (default) or checkpoint:FILE, a file of T5.save")
    made.add_argument("--users", type=int, help="at most so many users")
    made.add_argument("--seeds", type=int, default=3)
    made.add_argument("--options", type=json.loads, default={}, help="further options, as JSON")
    made.add_argument("--out", type=Path, help="write what was found to a JSON file")
    return made


def environment(rules: str, split: str, given: argparse.Namespace, **options: Any) -> RPPEnv:
    """Make an environment from the arguments of `parser`."""
    return RPPEnv.make(
        given.dataset,
        given.model,
        split,
        rules=rules,
        max_users=given.users,
        seed=0,
        **{**given.options, **options},
    )


class Clicks:
    """The targets of tasks among the three lists."""

    def __init__(self, tasks: TaskSet) -> None:
        self.tasks = tasks
        items = np.arange(tasks.dataset.num_items, dtype=np.int32)
        every = np.broadcast_to(items, (len(tasks), len(items)))
        self.every = replace(tasks, candidates=every, position=tasks.targets.astype(np.int64))

    def ranks(self, scores: Scores) -> Ranks:
        """Rank the targets; of equals, the one shown first is first."""
        found: dict[str, list[np.ndarray]] = {name: [] for name in LISTS}
        for rows in np.split(np.arange(len(self.tasks)), range(_USERS, len(self.tasks), _USERS)):
            sampled, every = self.tasks.subset(rows), self.every.subset(rows)
            with torch.inference_mode():
                few, whole = (
                    torch.as_tensor(scores(tasks, rows)).double().clone().numpy()
                    for tasks in (sampled, every)
                )
            found["sampled"].append(ranks_by(few, sampled))
            found["all"].append(ranks_by(whole, every))
            own = whole[np.arange(len(rows)), every.position]
            for row, task in zip(whole, rows.tolist(), strict=True):
                user, before = self.tasks.users[task], self.tasks.draw[task]
                row[self.tasks.dataset.sequence(user)[:before]] = -np.inf
            whole[np.arange(len(rows)), every.position] = own
            found["new"].append(ranks_by(whole, every))
        return {name: np.concatenate(parts) for name, parts in found.items()}

    def baselines(self, numbers: np.ndarray) -> dict[str, list[Ranks]]:
        """Rank by rules without a prompt: a SASRec of the same clicks, popularity, and ids.

        `numbers` are those that the items' ids spell (`Vocabulary.numbers`).
        """
        data = self.tasks.dataset
        taught = training_clicks(data)
        sasrec = pretrained.pretrained(data, taught, SASREC)
        # Ranks are all that the rule gives, so that seen items cannot be left out.
        rule = {
            name: max_plus_one(numbers, tasks)
            for name, tasks in (("sampled", self.tasks), ("all", self.every))
        }
        return {
            "SASRec": [self.ranks(lambda tasks, _: sasrec.scores(PrefixPrompts(None, tasks)))],
            "popularity": [self.ranks(lambda tasks, _: taught.counts[tasks.candidates])],
            "largest id + 1": [rule],
        }


def kept(path: Path | None, make: Callable[[], Ranks]) -> Ranks:
    """Read ranks from a file, or make and write them: a run that was stopped goes on."""
    if path is None:
        return make()
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = path.with_suffix(".tmp.npz")
        np.savez_compressed(whole, **make())
        whole.replace(path)
    with np.load(path) as file:
        return dict(file)


def report(
    found: Mapping[str, Sequence[Ranks]], minus: Sequence[tuple[str, str]]
) -> tuple[str, dict[str, Any]]:
    """Write tables of all rows and of the differences `minus`; return them as JSON, too."""
    parts: list[str] = []
    written: dict[str, Any] = {"scores": {}, "differences": {}}
    for which in LISTS:
        there = {
            name: [run[which] for run in runs] for name, runs in found.items() if which in runs[0]
        }
        rows: list[list[object]] = [[f"among {which}", *METRICS]]
        scores = {
            name: {m: float(np.mean([of(run) for run in runs])) for m, of in METRICS.items()}
            for name, runs in there.items()
        }
        rows += [[name, *(f"{x:.4f}" for x in row.values())] for name, row in scores.items()]
        parts.append(table(rows, padded=False))
        lines = Lines({name: {0: [ndcg(run) for run in runs]} for name, runs in there.items()})
        pairs = [pair for pair in minus if all(name in there for name in pair)]
        contrasts = [lines.minus(*pair) for pair in pairs]
        rows, gaps = [[f"difference in NDCG@10 among {which}", "value"]], {}
        for (one, two), gap, mark in zip(pairs, contrasts, holm(contrasts), strict=True):
            name = f"{one} minus {two}"
            rows.append([name, f"{gap:+.4f}{' Holm' if mark else ''}"])
            gaps[name] = {**asdict(gap), "significant": bool(mark)}
        parts.append(table(rows))
        written["scores"][which], written["differences"][which] = scores, gaps
    return "\n\n".join(parts), written


def main() -> None:
    given = parser(__doc__).parse_args()
    torch.set_num_threads(1)
    size = {} if given.dataset else SMALL_WORLD
    data = load_dataset(given.dataset or "movieworld", **{**size, **given.options})
    model = recommender_of(given.model, data, training_clicks(data))
    users = choose_users(task_users(data), given.users, 0)
    clicks, bare = Clicks(click_tasks(data, users, "test")), "the T5, without a prompt"

    def scores(tasks: TaskSet, _: np.ndarray) -> Any:
        return model.scores(SlotPrompts(np.zeros((len(tasks), 0), np.int64), tasks))

    found = {bare: [clicks.ranks(scores)], **clicks.baselines(model.vocabulary.numbers)}
    text, written = report(found, [(bare, name) for name in found if name != bare])
    print(text)
    about = {"dataset": data.name, "users": len(clicks.tasks), "recommender": model.digest}
    if given.out:
        write_text(given.out, json.dumps({"about": about, **written}, indent=1) + "\n")


if __name__ == "__main__":
    main()
