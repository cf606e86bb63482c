"""Compare the ways to read a ranking from a real language model, on the same users and prompts.

    rpp-env model get smollm2
    python benchmarks/ways.py --users 60 --out runs/ways

Every user gets one prompt of RPP-v0, drawn at random, and its ranking is read in each way: titles'
log-probabilities (likelihood), those of the candidates' letters (logprobs, also with each
correction of the letters' bias), and a list in words (generate). Titles' log-probabilities are also
read in float32, and after a bare list of the last 10 titles. For each way the report gives NDCG@10,
the share of candidates named, how often the candidate that is shown first is ranked first, and what
it costs; then the rank correlation of every two ways, and whether the model recites the catalogue.

Everything goes through a recording, so the same command resumes where it was stopped. It writes
OUT/ways.md and OUT/ways.json, which hold no titles.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from likelihood import prompts as lists
from numpy.typing import NDArray
from real_llm import Recital
from scipy.stats import spearmanr

from rpp_agents.commands.console import progress
from rpp_agents.experiments.problem import joined, tokens_of
from rpp_env import RPPEnv
from rpp_env.data.candidates import TaskBatch
from rpp_env.data.folders import write_text
from rpp_env.errors import RPPError
from rpp_env.intervals import estimate
from rpp_env.markdown import table
from rpp_env.metrics import chance_ndcg
from rpp_env.models import Generation, RecordingModel
from rpp_env.models.names import open_model
from rpp_env.prompting import Rankings
from rpp_env.recommenders.base import rank_all

CHUNK = 4
"""Users per call: what a stopped run loses at most."""
FEWEST = 3
"""Candidates that both ways must have named for a prompt to count in a rank correlation."""


@dataclass(frozen=True)
class Way:
    """A way to read a ranking: options of the environment, and the precision of the weights."""

    name: str
    options: dict[str, Any]
    dtype: str = "bfloat16"
    bare: bool = False
    """Whether the prompt is a bare list of the last 10 titles instead of RPP-v0's sentences."""


WAYS = (
    Way("likelihood", {"rank_by": "likelihood"}),
    Way("likelihood, float32", {"rank_by": "likelihood"}, "float32"),
    Way("likelihood, bare list", {"rank_by": "likelihood"}, bare=True),
    Way("logprobs", {"rank_by": "logprobs"}),
    Way("logprobs, prior", {"rank_by": "logprobs", "calibrate": "prior"}),
    Way("logprobs, permutations", {"rank_by": "logprobs", "calibrate": "permutations"}),
    Way("generate", {"rank_by": "generate", "generation": Generation(max_tokens=320)}),
)


@dataclass
class Reading:
    """The rankings of one way, and what they cost."""

    rankings: Rankings
    scores: NDArray[np.float64]
    """(U,) NDCG@10."""
    first: float
    """Share of users for whom the candidate that is shown first is ranked first."""
    tokens: float
    """Of a prompt and its reply."""
    seconds: float
    """Per prompt asked in this run; NaN if all were recorded before."""


def read(way: Way, env: RPPEnv, cells: NDArray[np.int64], asked: Callable[[], int]) -> Reading:
    """Ask for one prompt per user and read its ranking."""
    rows = np.arange(len(env.tasks))
    before, parts, start = asked(), [], time.process_time()
    with progress(way.name) as show:
        for i in range(0, len(rows), CHUNK):
            some = rows[i : i + CHUNK]
            if way.bare:
                prompts: Any = lists(env.tasks.subset(some), "list", 10)
            else:
                batch = TaskBatch(env.tasks, some)
                prompts = env.space.prompts(env.space.at(cells[some], some), batch, some)
            assert env.recommender is not None
            ranked = rank_all(env.recommender, prompts, env.tasks.num_candidates, len(some))
            parts.append(env.episode.respond(ranked, TaskBatch(env.tasks, some)))
            show(int(some[-1]) + 1, len(rows))
    spent, new = time.process_time() - start, asked() - before
    found = joined(parts)
    rankings = found.rankings
    return Reading(
        rankings,
        found.rewards,
        float(((rankings.order[:, 0] == 0) & (rankings.named > 0)).mean()),
        float(tokens_of(found).mean()),
        spent / len(rows) if new else float("nan"),
    )


def agreement(one: Reading, other: Reading) -> tuple[float, int]:
    """Return the mean rank correlation over the candidates that both named, and its prompts."""
    found = []
    for a, b, m, n in zip(
        one.rankings.order,
        other.rankings.order,
        one.rankings.named,
        other.rankings.named,
        strict=True,
    ):
        both = np.intersect1d(a[:m], b[:n])
        if len(both) >= FEWEST:
            found.append(spearmanr(np.argsort(a)[both], np.argsort(b)[both])[0])
    return (float(np.mean(found)) if found else float("nan")), len(found)


def report(
    facts: dict[str, Any], found: dict[str, Reading], recital: Recital | None, size: int
) -> tuple[str, dict[str, Any]]:
    """The tables, and the numbers in them."""
    scores = {name: one.scores for name, one in found.items()}
    first = next(iter(found))
    means = estimate(scores, {name: lambda m, n=name: m[n] for name in scores})
    minus = estimate(scores, {name: lambda m, n=name: m[n] - m[first] for name in scores})
    rows = [
        [
            name,
            str(means[name]),
            "" if name == first else f"{minus[name]:+.3f}",
            f"{one.rankings.named.mean() / size:.0%}",
            f"{one.first:.0%}",
            f"{one.tokens:,.0f}",
            "recorded" if np.isnan(one.seconds) else f"{one.seconds:.2f}",
        ]
        for name, one in found.items()
    ]
    names = list(found)
    pairs = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    agreements = {(a, b): agreement(found[a], found[b]) for a, b in pairs}
    correlated = [
        [a, b, "-" if not n else f"{value:.2f}", str(n)]
        for (a, b), (value, n) in agreements.items()
    ]
    head = ["way", "NDCG@10", f"minus {first}", "named", "first shown is first", "tokens", "CPU s"]
    text = f"""# {facts["model"]} on {facts["dataset"]}: ways to read a ranking

{facts["users"]} test users, {size} candidates, {facts["negatives"]} negatives, one prompt each;
95% intervals over users. Chance is {chance_ndcg(size):.3f}; the candidate shown first would be
ranked first for {1 / size:.0%} of the users by chance.

{table([head, *rows])}

Rank correlation (Spearman) over the candidates that both ways named, at least {FEWEST}:

{table([["way", "way", "correlation", "prompts"], *correlated])}
"""
    numbers: dict[str, Any] = {
        **facts,
        "ways": {
            name: {
                "ndcg": asdict(means[name]),
                "minus first": asdict(minus[name]),
                "named": float(one.rankings.named.mean() / size),
                "first shown": one.first,
                "tokens": one.tokens,
                "cpu seconds": None if np.isnan(one.seconds) else one.seconds,
            }
            for name, one in found.items()
        },
        "agreement": [
            {"ways": pair, "correlation": None if not n else value, "prompts": n}
            for pair, (value, n) in agreements.items()
        ],
    }
    if recital is not None:
        numbers["recital"] = asdict(recital)
        text += f"""
Asked for the titles of {recital.asked} ids of the dataset's file of items, it gives
{recital.recalled:.1%} of them; of ids that were dealt out anew, {recital.shuffled:.1%}.
"""
    return text, numbers


def main() -> None:
    """Parse the command line, ask, and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--dataset", default="ml-1m")
    parser.add_argument("--negatives", default="uniform", choices=("uniform", "popularity"))
    parser.add_argument("--users", type=int, default=60, help="test users")
    parser.add_argument("--seed", type=int, default=0, help="of the prompts")
    parser.add_argument(
        "--ways", nargs="+", default=[one.name for one in WAYS], choices=[one.name for one in WAYS]
    )
    parser.add_argument("--titles", type=int, default=100, help="titles to recite; 0 for none")
    parser.add_argument("--out", type=Path, default=Path("runs/ways"))
    given = parser.parse_args()
    ways = [one for one in WAYS if one.name in given.ways]
    models: dict[str, RecordingModel] = {}
    found: dict[str, Reading] = {}
    for way in ways:
        if way.dtype not in models:
            inner = open_model(given.model, dtype=way.dtype)
            models[way.dtype] = RecordingModel(given.out / f"answers-{way.dtype}.sqlite", inner)
        model = models[way.dtype]
        env = RPPEnv.make(
            given.dataset,
            model,
            "test",
            max_users=given.users,
            negatives=given.negatives,
            **way.options,
        )
        assert env.space.shape is not None
        cells = np.random.default_rng(given.seed).integers(
            np.prod(env.space.shape), size=len(env.tasks)
        )
        found[way.name] = read(way, env, cells, lambda model=model: model.asked)
    recital = Recital.of(model, env, given.titles) if given.titles else None
    facts = {
        "model": model.id,
        "dataset": given.dataset,
        "negatives": given.negatives,
        "users": len(env.tasks),
    }
    text, numbers = report(facts, found, recital, env.tasks.num_candidates)
    write_text(given.out / "ways.md", text)
    write_text(given.out / "ways.json", json.dumps(numbers, indent=1) + "\n")
    print(text)


if __name__ == "__main__":
    try:
        main()
    except RPPError as error:
        sys.exit(f"error: {error}")
