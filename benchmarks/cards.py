"""Measure the task cards: the figures about each id in the README and on the environments' pages.

    python benchmarks/cards.py [--ids RPP-v0 ...] [--parts diagnosis training]

For each id it measures the cost of one call (random actions), `rpp_env.diagnose` on tables of train
and test users, and MAPPO's score on test users with each discount. Numbers of ids and parts that
are not measured again are unchanged in the file. Numbers that no code measures are null. Processor
time is that of one thread, so that other work on the machine hardly counts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

import rpp_env
from rpp_agents import mappo, play
from rpp_env.data.folders import whole_file
from rpp_env.evaluation.diagnose import diagnose

OUT = Path(__file__).parents[1] / "docs" / "results" / "cards.json"


@dataclass(frozen=True)
class Setup:
    """How an id is measured."""

    dataset: str = "movieworld"
    model: str = "embedded"
    train_users: int = 2000
    """Users of the table on which prompts are chosen."""
    users: int = 2000
    finite: dict[str, Any] | None = field(default_factory=dict)
    """Options under which its prompts are finitely many; None where there are none."""
    elsewhere: dict[str, Any] = field(default_factory=dict)
    """Options of diagnosis and training where they are not measured with the id's defaults."""
    discounts: tuple[float, ...] = (0.0,)
    seeds: tuple[int, ...] = (0, 1)
    steps: int = 200_000
    batch: int = 256
    """Users of each of the two batches on which one call is measured."""
    why_no_table: str = ""
    """Why nothing is diagnosed, as the cards say it."""
    why_no_training: str = ""
    """Why nothing is trained, as the cards say it."""


SETUPS = {
    "RPP-v0": Setup(train_users=8000, discounts=(0.0, 0.95)),
    "RPPBandit-v0": Setup(train_users=400, users=400),
    "RPPPaper-v0": Setup(
        finite=None,
        discounts=(0.0, 0.95),
        why_no_table="replies are sampled",
    ),
    "RPPFeedback-v0": Setup(train_users=400, users=200, discounts=(0.0, 0.9)),
    "RPPSession-v0": Setup(
        dataset="movieworld-drift",
        finite=None,
        discounts=(0.0, 0.9),
        why_no_table="a task at each step",
    ),
    "RPPLikelihood-v0": Setup(
        model="smollm2",
        train_users=100,
        users=200,
        # A table of all prompts of the id itself would take days.
        elsewhere={
            "dataset": "ml-1m",
            "catalog": "films-forms",
            "model": "table:smollm2-ml-1m",
        },
        discounts=(0.95,),
        steps=50_000,
        batch=2,
    ),
    "PPR-v0": Setup(
        dataset="arrivals",
        model="sasrec",
        train_users=200,
        users=100,
        finite={"codebook": 32},
        steps=50_000,
    ),
    "PPRStream-v0": Setup(
        dataset="arrivals",
        model="sasrec",
        finite=None,
        discounts=(0.0, 0.95),
        steps=50_000,
        why_no_table="a task at each step",
    ),
    "PAPRec-v0": Setup(model="t5", finite=None, steps=50_000),
    "PAPRecShared-v0": Setup(
        model="t5",
        finite=None,
        discounts=(),
        batch=32,
        why_no_table="7,776 prompts a user",
        why_no_training="not run yet",
    ),
    "PeaPOD-v0": Setup(
        model="t5",
        train_users=300,
        users=300,
        finite={"actions": "neighbour", "neighbours": 3},
        steps=50_000,
    ),
}


def made(rules: str, split: str, users: int | None = None, **options: Any) -> rpp_env.RPPEnv:
    options = {"dataset": SETUPS[rules].dataset} | options
    return rpp_env.RPPEnv.make(split=split, rules=rules, max_users=users, **options)


def call(rules: str) -> dict[str, Any]:
    """Tokens and processor time of one call, over random actions of two batches of users."""
    env = made(rules, "test", num_envs=SETUPS[rules].batch, seed=0)
    player = rpp_env.evaluation.baselines.Random(env.action_spaces, seed=0)
    tokens, seconds, steps = np.zeros(2), 0.0, 0
    for seed in range(2):
        observations, _ = env.reset(seed=seed)
        for _ in range(env.max_cycles):
            actions, _ = player.act(observations, env.action_masks())
            began = time.process_time()
            step = env.step(actions)
            seconds += time.process_time() - began
            observations, steps = step.observations, steps + 1
            infos = step.infos
            tokens += [infos["prompt_tokens"].mean(), infos["completion_tokens"].mean()]
    prompt, completion = (round(float(x) / steps, 1) for x in tokens)
    milliseconds = round(1000 * seconds / (steps * env.num_envs), 3)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "milliseconds": milliseconds,
    }


def diagnosis(rules: str, folder: Path) -> dict[str, Any] | None:
    setup = SETUPS[rules]
    if setup.finite is None:
        return None
    envs, options = [], setup.finite | setup.elsewhere
    for split, users in (("train", setup.train_users), ("test", setup.users)):
        env = made(rules, split, users, **options)
        if env.table is None:
            path = folder / f"{rules}-{split}.rpptable"
            rpp_env.tabulate(env, path, processes=2)
            env = made(rules, split, users, **options | {"model": f"table:{path}"})
        envs.append(env)
    found = diagnose(*envs)
    return {"options": options, "prompts": int(np.prod(envs[0].space.shape))} | found.to_json()


def training(rules: str) -> dict[str, Any] | None:
    """MAPPO with each discount: its score on test users, and the processor time of its training.

    Discounts are compared by the scores on validation users.
    """
    setup, runs = SETUPS[rules], []
    if not setup.discounts:
        return None
    test, validation = (
        made(rules, split, 1000, **{"num_envs": 500} | setup.elsewhere)
        for split in ("test", "validation")
    )
    for discount in setup.discounts:
        for seed in setup.seeds:
            env = made(rules, "train", **{"num_envs": 256, "seed": seed} | setup.elsewhere)
            config = mappo.Config(
                total_steps=setup.steps, gamma=discount, seed=seed, threads=1, evaluations=0
            )
            began = time.process_time()
            policy = mappo.train(env, config, progress=False)
            minutes = (time.process_time() - began) / 60
            report = rpp_env.evaluate(policy, test, name="MAPPO", seed=0, baselines=("random",))
            runs.append(
                {
                    "discount": discount,
                    "seed": seed,
                    "minutes": round(minutes, 2),
                    "validation": float(play(policy, validation, episodes=1000).mean()),
                    "score": asdict(report.lines["MAPPO"]["ndcg@10"]),
                    "random": asdict(report.lines["random"]["ndcg@10"]),
                }
            )
            print(rules, runs[-1], flush=True)
    about = {"trainer": "mappo", "steps": setup.steps, "users": len(test.tasks)}
    return about | {"options": setup.elsewhere, "runs": runs}


PARTS = ("call", "diagnosis", "training")


def measure(rules: str, parts: list[str], card: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The card, after each part that is measured."""
    setup = SETUPS[rules]
    env = made(rules, "test", 100)
    card |= {
        "dataset": setup.dataset,
        "model": setup.model,
        "steps": env.max_cycles,
        "agents": list(env.agents),
        "actions": [str(space) for space in env.action_spaces],
        "candidates": env.tasks.num_candidates,
        "why_no_table": setup.why_no_table,
        "why_no_training": setup.why_no_training,
        "command": f"python benchmarks/cards.py --ids {rules}",
    }
    if "call" in parts:
        card["call"] = call(rules)
        yield card
    if "diagnosis" in parts:
        with tempfile.TemporaryDirectory() as folder:
            card["diagnosis"] = diagnosis(rules, Path(folder))
        yield card
    if "training" in parts:
        card["training"] = training(rules)
        yield card


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--ids", nargs="+", choices=SETUPS, default=list(SETUPS))
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--out", type=Path, default=OUT)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for rules in options.ids:
        cards = json.loads(options.out.read_text("utf-8")) if options.out.exists() else {}
        for card in measure(rules, options.parts, cards.get(rules, {})):
            cards[rules] = card
            with whole_file(options.out) as file:
                file.write(json.dumps(cards, indent=1).encode() + b"\n")
        print(rules, "measured", flush=True)


if __name__ == "__main__":
    main()
