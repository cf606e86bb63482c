"""PAP-REC's words on PAPRec-v0: how much of a personal word's gain is selection noise.

    python benchmarks/pap_rec.py --out docs/results/pap_rec.json
    python benchmarks/pap_rec.py --dataset beauty --model checkpoint:FILE --users 2000 --rules

A user's words are kept or refused on one click. Here each user has two clicks to choose on, and a
draw for each seed says which of them *accepts* words and which only *scores* them; the test click
comes after both. What a word gains on the accepting click and not on the other one is noise. What
is kept is decided by NDCG@5 + hit@5 (``surrogate``) or by the click's log-likelihood. Searches
begin from the manual words; PAP-REC's code begins from random ones and takes 100 turns
(``--first random --rounds 100``).

Prompts have six words: six shared ones, or five and one of the user's own, which is compared with
the last shared word in its place and with the word of another user. Values are NDCG@10; intervals
are paired bootstraps over users, whose seeds are averaged first. The test click is also ranked
among all items, beside simple rules (``--rules``), with the lists, metrics and intervals of
`ranked.py`.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, get_args

import numpy as np
import ranked
import torch

from rpp_agents.solvers.pap_rec import Config, Criterion, Judge, search, shuffled
from rpp_env.data.clicks import PARTS, tasks_before
from rpp_env.data.folders import write_text
from rpp_env.intervals import estimate
from rpp_env.markdown import table
from rpp_env.pap_rec import MANUAL
from rpp_env.tokens import SlotPrompts

CLICKS = ("accepting", "other", "test")
"""Clicks on which words are judged."""
GAINS = {
    "the user's word": ("five shared words and the user's", "five shared words, the last twice"),
    "another user's word": ("the same, of another user", "five shared words, the last twice"),
    "the user's minus another's": (
        "five shared words and the user's",
        "the same, of another user",
    ),
    "six shared words minus manual words": ("six shared words", "manual words"),
    "the user's word minus manual words": ("five shared words and the user's", "manual words"),
}
"""Differences of prompts."""
RULES = ("SASRec", "popularity", "largest id + 1")
MINUS = (*GAINS.values(), *((rule, "manual words") for rule in RULES))
"""Differences on the test click."""

Values = dict[str, list[dict[str, Any]]]
"""NDCG@10 of the users by prompt, seed and kind of click."""


def compared(values: Values, criterion: Criterion, given: argparse.Namespace) -> dict[str, Any]:
    """Search with each seed, and judge the words on all clicks; returns what the searches did."""
    env = ranked.environment("PAPRec-v0", "test", given, gradient_clicks=1)
    model, test = env.recommender, env.tasks
    clicks, lists = ranked.Clicks(test), {}
    users, lengths = test.users, test.dataset.lengths[test.users]
    manual = np.tile(model.vocabulary.encode(MANUAL), (len(users), 1))
    searches = []
    for seed in range(given.seeds):
        rng = np.random.default_rng([seed, 1])
        # As many users accept on the earlier of their two clicks as on the later one.
        back = rng.permutation(np.arange(len(users)) % 2) + 2
        asked = {"accepting": back, "other": len(PARTS) + 2 - back}
        tasks = {
            name: tasks_before(
                test.dataset, users, lengths - there, num_candidates=test.num_candidates
            )
            for name, there in asked.items()
        } | {"test": test}
        judges = {name: Judge(model, some, "reward") for name, some in tasks.items()}

        def judged(name: str, prompts: Any, judges: Mapping[str, Judge] = judges) -> None:
            found = {clicks: judge(prompts) for clicks, judge in judges.items()}
            values.setdefault(name, []).append(found)
            ranks = clicks.ranks(lambda part, rows: model.scores(SlotPrompts(prompts[rows], part)))
            lists.setdefault(name, []).append(ranks)

        judged("no words", manual[:, :0])
        judged("manual words", manual)
        judged("random words", rng.choice(model.vocabulary.tokens, (len(users), 6)))
        config = Config(seed=seed, criterion=criterion, total_steps=10**9, clicks=given.clicks)
        five, six, own = manual[0], np.append(manual[0], manual[0, -1:]), "shared"
        if given.first == "random":
            five, six, own = *(rng.choice(model.vocabulary.tokens, n) for n in (5, 6)), "random"
        accepting, rounds = tasks["accepting"], given.rounds
        alone = search(model, accepting, config, shared=six, slots=0, rounds=rounds)
        judged("six shared words", alone.prompts())
        found = search(model, accepting, config, shared=five, first=own, rounds=rounds)
        plain = replace(found, own=np.tile(found.shared[-1:], (len(users), 1)))
        judged("five shared words, the last twice", plain.prompts())
        judged("five shared words and the user's", found.prompts())
        judged("the same, of another user", shuffled(found, seed).prompts())
        searches.append(
            {
                "six shared words": model.vocabulary.decode(alone.shared),
                "five shared words": model.vocabulary.decode(found.shared),
                "changed": found.changed,
                "turns": len(found.turns),
                "answers": alone.answers + found.answers,
            }
        )
        print(criterion, seed, searches[-1], flush=True)
    if given.rules:
        lists |= clicks.baselines(model.vocabulary.numbers)
    text, found = ranked.report(lists, MINUS)
    print(f"{criterion}, the test click\n\n{text}\n", flush=True)
    about = {"users": len(users), "recommender": model.digest, "rounds": given.rounds}
    about |= {"clicks": given.clicks, "first": given.first, "dataset": test.dataset.name}
    return {"about": about, "searches": searches, "lists": found}


def mean(values: Values, name: str, clicks: str) -> Any:
    """(U,) values of the users, averaged over seeds."""
    return np.mean([run[clicks] for run in values[name]], axis=0)


def lost(means: Mapping[str, Any]) -> Any:
    """Share of the gain on accepting clicks that is not there on the others; NaN without one."""
    gained = means["accepting"]
    return 1 - means["other"] / np.where(gained > 0, gained, np.nan)


def main() -> None:
    parser = ranked.parser(__doc__)
    parser.set_defaults(users=500)
    parser.add_argument("--rounds", type=int, default=4, help="turns of a search")
    parser.add_argument("--clicks", type=int, default=2, help="training clicks of a gradient")
    parser.add_argument(
        "--criteria", nargs="+", choices=get_args(Criterion), default=["surrogate", "likelihood"]
    )
    parser.add_argument("--first", choices=("manual", "random"), default="manual", help="words")
    parser.add_argument("--rules", action="store_true", help="rank by SASRec and rules, too")
    given = parser.parse_args()
    torch.set_num_threads(1)
    written: dict[str, Any] = {}
    for criterion in given.criteria:
        values: Values = {}
        kept = compared(values, criterion, given)
        kept["scores"] = {
            name: {clicks: float(mean(values, name, clicks).mean()) for clicks in CLICKS}
            for name in values
        }
        gains = {
            name: {
                clicks: mean(values, one, clicks) - mean(values, two, clicks) for clicks in CLICKS
            }
            for name, (one, two) in GAINS.items()
        }
        found = {
            name: estimate(gap, {clicks: lambda m, of=clicks: m[of] for clicks in CLICKS})
            for name, gap in gains.items()
        }
        kept["gains"] = {
            name: {clicks: asdict(gap) for clicks, gap in some.items()}
            for name, some in found.items()
        }
        noise = estimate(gains["the user's word"], {"noise": lost})["noise"]
        kept["noise"] = asdict(noise)
        written[criterion] = kept
        scores = [
            (name, *(f"{score[clicks]:.4f}" for clicks in CLICKS))
            for name, score in kept["scores"].items()
        ]
        rows = [
            (name, *(f"{some[clicks]:+.4f}" for clicks in CLICKS)) for name, some in found.items()
        ]
        print(table([(criterion, *CLICKS), *scores]), table([("gain", *CLICKS), *rows]), sep="\n\n")
        print(f"share of the gain of the user's word that is noise: {noise:.2f}", flush=True)
    if given.out:
        write_text(given.out, json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
