"""Re-rank what a frozen SASRec retrieves, with a real language model.

    rpp-env model get smollm2
    python benchmarks/retrieved.py --users 300 --train-users 150 --out runs/retrieved

A SASRec that was trained on train users' histories retrieves 20 items of the whole catalog for each
user, as a deployment would; nothing is put in. Where the next item is not among them every order
earns nothing, so nobody is asked, and these users count with 0. For the others the language model
scores the titles in six prompts, and the best one for train users is played for test users. Beside
it stand the order in which SASRec gives the list, popularity, chance, and the same prompt with no
history and with other users' histories.

The primary contrast is named here, before any run: the best fixed prompt minus SASRec's own order,
the score being the sum, paired over the test users whose next item was retrieved.

Everything goes through a recording, so the same command resumes where it was stopped. It writes
OUT/retrieved.md and OUT/retrieved.json, which hold no titles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from likelihood import OTHERS, asked, of_others, paid, prompts
from numpy.typing import NDArray

from rpp_env.data import Dataset, load_dataset
from rpp_env.data.candidates import TaskSet, make_tasks
from rpp_env.data.folders import write_text
from rpp_env.data.splits import Interactions, split_users, training_interactions
from rpp_env.errors import RPPError
from rpp_env.intervals import estimate
from rpp_env.markdown import table
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.models import RecordingModel
from rpp_env.models.names import open_model, parse_options
from rpp_env.recommenders import LikelihoodRecommender, Likelihoods
from rpp_env.recommenders.pretrained import pretrained
from rpp_env.recommenders.retrieval import retrieve

LISTED = 20
"""Items that are retrieved."""
FORMS, LENGTHS = ("list", "like", "list in chat"), (5, 20)
"""The prompts, chosen before any run: every form with every history length."""
OWN = "SASRec's own order"


@dataclass(frozen=True)
class Lists:
    """What was retrieved for some users."""

    users: int
    """Number of users, including those whose next item was not retrieved."""
    tasks: TaskSet
    """The others: their lists, in random order."""
    own: NDArray[np.float64]
    """(U,) NDCG@10 of the lists as they were retrieved."""


def lists(
    data: Dataset, found: Mapping[int, NDArray[np.int32]], interactions: Interactions
) -> Lists:
    """Make the tasks of those users whose next item was retrieved."""
    places = {
        user: np.flatnonzero(items == data.sequence(user)[-1]) for user, items in found.items()
    }
    tasks = make_tasks(
        data,
        [user for user, at in places.items() if len(at)],
        interactions=interactions,
        num_candidates=LISTED,
        negatives="retrieved",
        selection=found,
    )
    ranks = 1 + np.array([int(places[user][0]) for user in tasks.users.tolist()])
    return Lists(len(found), tasks, ndcg(ranks))


def earned(found: Likelihoods, tasks: TaskSet, score: Any = "sum") -> NDArray[np.float64]:
    """(U,) NDCG@10 of each user."""
    return paid(found.scores(score), tasks.position.astype(np.int64))


def measure(
    recommender: LikelihoodRecommender, train: TaskSet, test: TaskSet, shuffles: int
) -> tuple[dict[str, float], str, dict[str, NDArray[np.float64]]]:
    """Return each prompt's mean for train users, the best prompt, and test users' NDCG@10."""
    choices = [(form, length) for form in FORMS for length in LENGTHS]
    means = {
        f"{form}, {length} titles": float(
            earned(
                asked(recommender, prompts(train, form, length), f"{form}, {length}"), train
            ).mean()
        )
        for form, length in choices
    }
    best = max(means, key=means.__getitem__)
    form, length = choices[list(means).index(best)]
    own = asked(recommender, prompts(test, form, length), "test users")
    assert own.stubs is not None
    bare = Likelihoods(own.stubs, own.tokens)
    others = [
        asked(recommender, of_others(test, form, length, i), f"{OTHERS}, {i + 1}")
        for i in range(shuffles)
    ]
    return (
        means,
        best,
        {
            "best fixed prompt": earned(own, test),
            "the same, PMI": earned(own, test, "pmi"),
            "the same, no history": earned(bare, test),
            "the same, history of another user": np.mean(
                [earned(one, test) for one in others], axis=0
            ),
        },
    )


def main() -> None:
    """Parse the command line, retrieve, ask, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--model-options", metavar="JSON", default='{"dtype": "bfloat16"}')
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--users", type=int, default=300, help="test users")
    parser.add_argument("--train-users", type=int, default=150, help="who choose the prompt")
    parser.add_argument("--shuffles", type=int, default=3, help="of other users' histories")
    parser.add_argument("--out", type=Path, default=Path("runs/retrieved"))
    given = parser.parse_args()
    data = load_dataset(given.dataset)
    split = split_users(data)
    interactions = training_interactions(data, split)
    sasrec = pretrained(data, interactions)
    rng = np.random.default_rng(0)

    test, train = (
        lists(
            data,
            retrieve(sasrec, data, rng.permutation(split.part(part))[:count], LISTED),
            interactions,
        )
        for part, count in (("test", given.users), ("train", given.train_users))
    )
    inner = open_model(given.model, **(parse_options(given.model_options) or {}))
    model = RecordingModel(given.out / "answers.sqlite", inner)
    recommender = LikelihoodRecommender(model)
    means, best, columns = measure(recommender, train.tasks, test.tasks, given.shuffles)
    popularity = interactions.counts[test.tasks.candidates].astype(np.float64)
    columns |= {
        OWN: test.own,
        "popularity": paid(popularity, test.tasks.position.astype(np.int64)),
    }
    first = "best fixed prompt"
    inside = estimate(columns, {name: lambda m, n=name: m[n] for name in columns})
    minus = estimate(columns, {name: lambda m, n=name: m[first] - m[n] for name in columns})
    # Over all users: those whose next item was not retrieved earn nothing.
    rest = np.zeros(test.users - len(test.tasks))
    whole = {name: np.concatenate([column, rest]) for name, column in columns.items()}
    every = estimate(whole, {name: lambda m, n=name: m[n] for name in whole})
    rows = [
        [name, str(inside[name]), "" if name == first else f"{minus[name]:+.3f}", str(every[name])]
        for name in columns
    ]
    tried = [[name, f"{mean:.3f}"] for name, mean in means.items()]
    head = ["order", "next item retrieved", f"{first} minus it", "all users"]
    text = f"""# {model.id} re-ranks what SASRec retrieves on {given.dataset}

{test.users} test users; SASRec retrieves the next item among {LISTED} of {data.num_items:,} for
{len(test.tasks)} of them. NDCG@10 with 95% intervals over users; a random order has
{chance_ndcg(LISTED):.3f} where the next item was retrieved. Primary contrast: {first} minus {OWN}.

{table([head, *rows])}

The prompts for {len(train.tasks)} of {train.users} train users; the best one is "{best}":

{table([["prompt", "NDCG@10"], *tried])}
"""
    numbers = {
        "model": model.id,
        "dataset": given.dataset,
        "users": test.users,
        "retrieved": len(test.tasks),
        "train users": train.users,
        "train retrieved": len(train.tasks),
        "items": data.num_items,
        "train": means,
        "best": best,
        "means": {name: asdict(one) for name, one in inside.items()},
        "best minus": {name: asdict(one) for name, one in minus.items()},
        "all users": {name: asdict(one) for name, one in every.items()},
    }
    write_text(given.out / "retrieved.md", text)
    write_text(given.out / "retrieved.json", json.dumps(numbers, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
