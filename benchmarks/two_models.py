"""Play the prompts that were chosen for one language model on another one.

    rpp-env model get gemma3-270m
    python benchmarks/two_models.py --models table:smollm2-ml-1m gemma3-270m --out runs/two-models

Both models answer all 63 prompts of RPPLikelihood-v0's `films-forms` about the same users and
candidates. The best fixed prompt and the supervised policy are fitted on each model's answers about
the train users, and each is played on both models' answers about the test users. The report says
what is lost by prompts that were chosen for the other model, and how the two models agree about the
prompts: by the rank correlation of the prompts' means over the test users.

The primary contrast is named here, before any run: on each model, the supervised policy fitted on
it minus the one fitted on the other model, the mean of the two.

A model is named as `RPPEnv.make` names it; `table:` takes its recorded answers. The table of any
other model is made in OUT, resumably. The program writes OUT/two-models.md and
OUT/two-models.json, which hold no titles.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from rpp_agents.experiments.methods import method
from rpp_agents.experiments.problem import Problem, Users
from rpp_env import RPPEnv, tabulate
from rpp_env.data.folders import write_text
from rpp_env.errors import InvalidOption, RPPError
from rpp_env.intervals import Estimate, estimate
from rpp_env.markdown import table
from rpp_env.metrics import chance_ndcg
from rpp_env.models.names import parse_options
from rpp_env.table import RewardTable

FITTED = {"best fixed prompt": "enumerate_all", "supervised": "supervised"}
"""Ways to choose prompts, and their methods of a study."""


def users_of(given: argparse.Namespace, model: str, split: str, count: int) -> Users:
    """Return the first users of a split with a model's answers about all prompts."""
    options: dict[str, Any] = {
        "rules": "RPPLikelihood-v0",
        "catalog": "films-forms",
        "max_users": count,
    }
    if model.startswith("table:"):
        env = RPPEnv.make(given.dataset, model, split, **options)
        return Users(env, env)
    path = given.out / f"{model}-{split}-{count}.rpptable"
    if not path.exists():
        asked = parse_options(given.model_options)
        live = RPPEnv.make(given.dataset, model, split, model_options=asked, **options)
        tabulate(
            live,
            path,
            processes=1,
            progress=lambda i, n: print(f"{path.stem}: {i} of {n}", file=sys.stderr, flush=True),
        )
    env = RPPEnv.make(given.dataset, RewardTable.load(path), split, **options)
    return Users(env, env)


def play(
    problems: dict[str, Problem], seeds: Sequence[int]
) -> dict[tuple[str, str, str], NDArray[np.float64]]:
    """(U,) NDCG@10 of test users by (way, model fitted on, model played on), mean over seeds."""
    found: dict[tuple[str, str, str], NDArray[np.float64]] = {}
    for way, name in FITTED.items():
        for one, problem in problems.items():
            scores: dict[str, list[NDArray[np.float64]]] = {other: [] for other in problems}
            for seed in seeds:
                player = method(name)(problem, seed=seed, budget=1, watch=lambda *_: None)
                for other, played in problems.items():
                    scores[other].append(player.play(played.test, seed).scores["score"])
            found |= {
                (way, one, other): np.mean(several, axis=0) for other, several in scores.items()
            }
    return found


def agreement(one: NDArray[np.float64], other: NDArray[np.float64]) -> Estimate:
    """Spearman's correlation between the prompts' means over users, from two (U, cells) rewards."""
    cells = range(one.shape[1])
    columns = {
        f"{name} {i}": table[:, i] for name, table in (("a", one), ("b", other)) for i in cells
    }

    def correlation(means: dict[str, NDArray[np.float64]]) -> NDArray[np.float64]:
        a, b = (
            rankdata(np.stack([means[f"{name} {i}"] for i in cells], axis=-1), axis=-1)
            for name in "ab"
        )
        a, b = (x - x.mean(axis=-1, keepdims=True) for x in (a, b))
        with np.errstate(invalid="ignore"):  # NaN where all prompts are equally good
            return np.asarray(
                (a * b).sum(axis=-1) / np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
            )

    return estimate(columns, {"correlation": correlation})["correlation"]


def report(given: argparse.Namespace, problems: dict[str, Problem]) -> tuple[str, dict[str, Any]]:
    """The tables, and the numbers in them."""
    one, other = problems
    found = play(problems, range(given.seeds))
    columns = {" / ".join(key): values for key, values in found.items()}
    # Of each way: fitted on the model that it is played on, minus fitted on the other.
    pairs = {
        way: [(f"{way} / {a} / {a}", f"{way} / {b} / {a}") for a, b in ((one, other), (other, one))]
        for way in FITTED
    }
    statistics: dict[str, Any] = {name: lambda m, n=name: m[n] for name in columns}
    for way, two in pairs.items():
        for (own, foreign), on in zip(two, problems, strict=True):
            statistics[f"{way}: own minus other's on {on}"] = lambda m, a=own, b=foreign: (
                m[a] - m[b]
            )
        statistics[f"{way}: own minus other's"] = lambda m, two=two: np.mean(
            [m[a] - m[b] for a, b in two], axis=0
        )
    estimates = estimate(columns, statistics)
    rewards = [problem.test.rewards for problem in problems.values()]
    same = agreement(*rewards)
    users = float(
        np.mean(
            [np.corrcoef(a, b)[0, 1] for a, b in zip(*rewards, strict=True) if a.std() and b.std()]
        )
    )
    means = {
        name: asdict(estimate({"x": r.mean(axis=1)}, {"x": lambda m: m["x"]})["x"])
        for name, r in zip(problems, rewards, strict=True)
    }
    test = problems[one].test
    size = test.env.tasks.num_candidates
    rows = [
        [f"{way}, fitted on {a}", *(str(estimates[f"{way} / {a} / {b}"]) for b in problems)]
        for way in FITTED
        for a in problems
    ]
    mean_row = [
        f"mean of {rewards[0].shape[1]} prompts",
        *(str(Estimate(**m)) for m in means.values()),
    ]
    contrasts = [[name, f"{x:+.3f}"] for name, x in estimates.items() if "minus" in name]
    text = f"""# Prompts chosen for one model, played on another

{given.dataset}, {len(problems[one].train)} train and {len(test)} test users, {size} candidates,
uniform negatives; NDCG@10 with 95% intervals over users. Chance is {chance_ndcg(size):.3f}.

{table([["", *(f"played on {name}" for name in problems)], mean_row, *rows])}

{table([["contrast", "NDCG@10"], *contrasts])}

Rank correlation of the prompts' means between the models: {same:.2f}. Correlation of a user's
rewards over prompts, mean over users: {users:.2f}.
"""
    numbers = {
        "models": {
            name: problem.test.env.table.provenance["model"]  # type: ignore[union-attr]
            for name, problem in problems.items()
        },
        "train users": len(problems[one].train),
        "users": len(test),
        "mean": means,
        "scores": {name: asdict(estimates[name]) for name in columns},
        "contrasts": {name: asdict(x) for name, x in estimates.items() if "minus" in name},
        "rank correlation": asdict(same),
        "correlation within users": users,
    }
    return text, numbers


def main() -> None:
    """Parse the command line, ask what is missing, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--models", nargs=2, default=["table:smollm2-ml-1m", "gemma3-270m"], help="two models"
    )
    parser.add_argument("--model-options", metavar="JSON", default='{"dtype": "bfloat16"}')
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--train-users", type=int, default=30)
    parser.add_argument("--users", type=int, default=60, help="test users")
    parser.add_argument("--seeds", type=int, default=3, help="of the supervised policy")
    parser.add_argument("--out", type=Path, default=Path("runs/two-models"))
    given = parser.parse_args()
    problems: dict[str, Problem] = {}
    for model in given.models:
        train = users_of(given, model, "train", given.train_users)
        test = users_of(given, model, "test", given.users)
        problems[model.removeprefix("table:")] = Problem(train, test, test)
    one, other = problems.values()
    for a, b in ((one.train, other.train), (one.test, other.test)):
        if a.env.tasks.digest != b.env.tasks.digest:
            raise InvalidOption("the two models were asked about different users")
    text, numbers = report(given, problems)
    write_text(given.out / "two-models.md", text)
    write_text(given.out / "two-models.json", json.dumps(numbers, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
