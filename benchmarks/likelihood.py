"""Rank by likelihood with a real language model: NDCG@10, chance, popularity and controls.

    rpp-env model get smollm2
    python benchmarks/likelihood.py --dataset ml-1m --users 200 --out runs/likelihood
    make real-llm     # all of it from a fresh clone, on ml-latest-small or movieworld

Each candidate's title is scored as what follows a user's last films, in several forms and for
several history lengths. Beside them stand what the same model says without any history, what it
says with another user's history, the candidates' popularity among train users, and chance.
All four scores come from the same answers; alpha of pmi-alpha is chosen on train users.

The primary contrast is named here, before any run: the form "list" with 10 titles and the score
"sum", minus the same model without a history, paired over test users, with the first kind of
negatives.

Everything goes through a recording, so that the same command goes on where it was stopped. It
writes OUT/likelihood.md and OUT/likelihood.json, which hold no titles.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rpp_agents.commands.console import progress
from rpp_env.data import Dataset, load_dataset
from rpp_env.data.candidates import TaskSet, make_tasks
from rpp_env.data.folders import write_text
from rpp_env.data.splits import split_users, training_interactions
from rpp_env.errors import RPPError, UnknownDataset
from rpp_env.intervals import estimate
from rpp_env.markdown import table
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.models import RecordingModel
from rpp_env.models.names import open_model, parse_options
from rpp_env.recommenders import LikelihoodRecommender, Likelihoods, choose_alpha
from rpp_env.sentences.leads import FORMS, ContinuedPrompt
from rpp_env.task import RankingTask

CHUNK = 16
"""Users that are asked for together: what a stopped run loses at most."""
PRIMARY = ("list, 10 titles", "sum")
SCORES = ("sum", "mean", "pmi", "pmi-alpha")
OTHERS, REORDERED = "of another user", "in another order"
"""What controls show in place of the user's last titles."""


def paid(scores: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """(U,) NDCG@10 of each user's target; of equal candidates the first is ahead."""
    orders = np.argsort(-scores, axis=1, kind="stable")
    return ndcg((orders == targets[:, None]).argmax(axis=1) + 1)


def prompts(tasks: TaskSet, form: str, length: int) -> list[ContinuedPrompt]:
    """Each user's prompt."""
    return [_prompt(tasks.task(i), form, length) for i in range(len(tasks))]


def of_others(tasks: TaskSet, form: str, length: int, number: int) -> list[ContinuedPrompt]:
    """Each user's prompt with the history of another one: derangement number `number`."""
    order = np.random.default_rng([1, number]).permutation(len(tasks))
    # Each user takes the next one's in a circle of all, so that nobody has the own history.
    other = dict(zip(order.tolist(), np.roll(order, -1).tolist(), strict=True))
    made = []
    for i in range(len(tasks)):
        task, history = tasks.task(i), tasks.task(other[i]).history
        # What the user is to choose next must not stand in it, for its own sake.
        left = tuple(title for title in history if title not in task.candidates)
        made.append(_prompt(replace(task, history=left or history[:1]), form, length))
    return made


def in_another_order(tasks: TaskSet, form: str, length: int, number: int) -> list[ContinuedPrompt]:
    """Each user's prompt with the titles that it shows in a random order."""
    made = []
    for i in range(len(tasks)):
        task = tasks.task(i)
        last = task.history[-length:]
        order = np.random.default_rng([2, number, i]).permutation(len(last))
        made.append(_prompt(replace(task, history=tuple(last[j] for j in order)), form, length))
    return made


def _prompt(task: RankingTask, form: str, length: int) -> ContinuedPrompt:
    return ContinuedPrompt(task, FORMS[form], min(length, len(task.history)))


def asked(
    recommender: LikelihoodRecommender, given: Sequence[ContinuedPrompt], what: str
) -> Likelihoods:
    """What the model says of all prompts, a few users at a time."""
    parts = []
    with progress(what) as show:
        for start in range(0, len(given), CHUNK):
            parts.append(recommender.likelihoods(given[start : start + CHUNK]))
            show(min(start + CHUNK, len(given)), len(given))
    return Likelihoods(
        *(np.concatenate([getattr(p, name) for p in parts]) for name in ("sums", "tokens", "stubs"))
    )


def shared_words(tasks: TaskSet, length: int) -> np.ndarray:
    """(U, K) summed rarity of the words that candidates share with the last titles of a user."""
    titles = [_words(title) for title in tasks.dataset.titles]
    counts = Counter(word for words in titles for word in words)
    scores = np.zeros((len(tasks), tasks.num_candidates))
    for i in range(len(tasks)):
        task = tasks.task(i)
        seen = set().union(*map(_words, task.history[-length:]))
        for k, title in enumerate(task.candidates):
            scores[i, k] = sum(
                np.log(len(titles) / counts[word]) for word in sorted(_words(title) & seen)
            )
    return scores


def _words(title: str) -> set[str]:
    return set(re.findall(r"\w+", title.lower()))


@dataclass
class Measured:
    """What a model, and lines beside it, earn on the same test users."""

    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """NDCG@10 of each user, by "SETTING; SCORE", and of popularity."""
    alphas: dict[str, float] = field(default_factory=dict)
    contrasts: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Two columns whose difference is wanted, by its name."""

    def add(
        self, setting: str, found: Sequence[Likelihoods], targets: np.ndarray, alpha: float
    ) -> None:
        """The mean of each user's NDCG@10 over the ways in which a setting was asked."""
        for score in SCORES:
            scores = [paid(one.scores(score, alpha), targets) for one in found]
            self.columns[f"{setting}; {score}"] = np.mean(scores, axis=0)

    def add_empty(self, form: str, found: Likelihoods, targets: np.ndarray) -> None:
        """What the same titles earn without a history."""
        bare = Likelihoods(found.stubs, found.tokens, np.zeros_like(found.stubs))
        for score in ("sum", "mean"):
            self.columns[f"{form}, no history; {score}"] = paid(bare.scores(score), targets)

    def compare(self, form: str, setting: str, controls: Sequence[str]) -> None:
        for score in SCORES:
            name = f"{setting}; {score}"
            bare = f"{form}, no history; {'mean' if score == 'mean' else 'sum'}"
            self.contrasts[f"{name} - no history"] = (name, bare)
            for control in controls:
                what = control.removeprefix(f"{setting} ")
                self.contrasts[f"{name} - {what}"] = (name, f"{control}; {score}")
            for line in ("popularity", "shared words"):
                self.contrasts[f"{name} - {line}"] = (name, line)


def measure(
    given: argparse.Namespace, recommender: LikelihoodRecommender, train: TaskSet, test: TaskSet
) -> Measured:
    """Ask the model in every form and for every length, and in the controls."""
    measured, targets = Measured(), test.position.astype(np.int64)
    controls = {
        OTHERS: (of_others, given.derangements),
        REORDERED: (in_another_order, given.orders),
    }
    for form in given.forms:
        for length in given.lengths:
            setting = f"{form}, {length} titles"
            asked(recommender, prompts(train, form, length), f"{setting} (train users)")
            alpha = choose_alpha(recommender, prompts(train, form, length))
            measured.alphas[setting] = alpha
            found = asked(recommender, prompts(test, form, length), setting)
            measured.add(setting, [found], targets, alpha)
            measured.add_empty(form, found, targets)
            named = []
            for what, (make, count) in controls.items() if length == given.lengths[0] else ():
                several = [
                    asked(recommender, make(test, form, length, i), f"{setting} {what}, {i + 1}")
                    for i in range(count)
                ]
                if several:
                    named.append(f"{setting} {what}")
                    measured.add(named[-1], several, targets, alpha)
            measured.compare(form, setting, named)
    return measured


def report(
    given: argparse.Namespace, measured: Measured, test: TaskSet, negatives: str
) -> tuple[str, dict[str, Any]]:
    """A section about one kind of negatives, and the numbers in it."""
    columns = measured.columns
    means = estimate(columns, {name: lambda m, n=name: m[n] for name in columns})
    differences = estimate(
        columns,
        {
            name: lambda m, one=one, other=other: m[one] - m[other]
            for name, (one, other) in measured.contrasts.items()
        },
    )
    settings = dict.fromkeys(name.partition("; ")[0] for name in columns if "; " in name)
    rows = [[name, *(means.get(f"{name}; {score}", "") for score in SCORES)] for name in settings]
    chance = chance_ndcg(test.num_candidates)
    primary = "; ".join(PRIMARY)
    first = primary in columns and negatives == given.negatives[0]
    named = f"; the primary contrast is {primary} - no history" if first else ""
    text = f"""## {test.num_candidates} candidates, {negatives} negatives

{len(test)} test users; NDCG@10 with 95% intervals over users. Chance is {chance:.3f}; popularity
among train users has {means["popularity"]}, and words that candidates share with the last
{given.lengths[0]} titles have {means["shared words"]}.

{table([["form and history", *SCORES], *rows])}

alpha, chosen on train users: {", ".join(f"{n}: {a:g}" for n, a in measured.alphas.items())}.

Paired differences{named}.

{table([["contrast", "NDCG@10"], *([n, f"{d:+.3f}"] for n, d in differences.items())])}
"""
    result = {
        "negatives": negatives,
        "users": len(test),
        "chance": chance,
        "means": {name: asdict(found) for name, found in means.items()},
        "differences": {name: asdict(found) for name, found in differences.items()},
        "alpha": measured.alphas,
    }
    return text, result


def first_here(names: Sequence[str]) -> Dataset:
    """The first dataset of these that is on this machine, or is generated."""
    for name in names[:-1]:
        try:
            return load_dataset(name)
        except UnknownDataset:
            print(f"{name} is not here (rpp-env data get {name}); next: {names[-1]}", flush=True)
    return load_dataset(names[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--model-options", metavar="JSON", help='such as \'{"dtype": "bfloat16"}\'')
    parser.add_argument(
        "--dataset", nargs="+", default=["ml-1m"], help="of several, the first that is here"
    )
    parser.add_argument(
        "--negatives", nargs="+", default=["uniform"], choices=("uniform", "popularity")
    )
    parser.add_argument("--users", type=int, default=200, help="test users")
    parser.add_argument("--train-users", type=int, default=60, help="on whom alpha is chosen")
    parser.add_argument("--forms", nargs="+", default=["list"], choices=list(FORMS))
    parser.add_argument("--lengths", nargs="+", type=int, default=[10, 3, 20])
    parser.add_argument(
        "--derangements", type=int, default=3, help="ways to deal out others' histories"
    )
    parser.add_argument("--orders", type=int, default=1, help="random orders of the own titles")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--out", type=Path, default=Path("runs/likelihood"))
    given = parser.parse_args()
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    began = time.perf_counter()
    data = first_here(given.dataset)
    given.dataset = data.name
    split = split_users(data)
    interactions = training_interactions(data, split)
    rng = np.random.default_rng(0)
    # Each number's users are among the next one's, and the same for all kinds of negatives.
    users = {part: rng.permutation(split.part(part)) for part in ("test", "train")}

    def tasks_of(part: str, count: int, negatives: str) -> TaskSet:
        return make_tasks(
            data,
            tuple(users[part][:count].tolist()),
            interactions=interactions,
            num_candidates=20,
            negatives=negatives,
        )

    inner = open_model(given.model, **(parse_options(given.model_options) or {}))
    model = RecordingModel(given.out / "answers.sqlite", inner)
    recommender = LikelihoodRecommender(model)
    sections, results = [], []
    for negatives in given.negatives:
        train = tasks_of("train", given.train_users, negatives)
        test = tasks_of("test", given.users, negatives)
        measured = measure(given, recommender, train, test)
        popularity = interactions.counts[test.candidates].astype(np.float64)
        measured.columns["popularity"] = paid(popularity, test.position.astype(np.int64))
        words = shared_words(test, given.lengths[0])
        measured.columns["shared words"] = paid(words, test.position.astype(np.int64))
        section, result = report(given, measured, test, negatives)
        sections.append(section)
        results.append(result)
    tail = f"{time.perf_counter() - began:,.0f} s in all."
    read = getattr(inner, "read", None)
    if read is not None and read.asked:
        tail += (
            f" {read.computed:,} tokens were computed of {read.asked:,} in prompts and titles: "
            f"{read.shared:.0%} were shared."
        )
    head = f"# {given.model} ranks {given.dataset} by likelihood\n\n{model.id}.\n"
    text = "\n".join([head, *sections, tail]) + "\n"
    write_text(given.out / "likelihood.md", text)
    numbers = {"model": model.id, "dataset": given.dataset, "results": results}
    write_text(given.out / "likelihood.json", json.dumps(numbers, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
