"""Compare agents with PPR's own solver on `arrivals`: NDCG@10 by the number of answers.

    python benchmarks/ppr_agents.py --choose --size '{"data_seed": 1, "task_seed": 1}' --seeds 1
    python benchmarks/ppr_agents.py --size '{"data_seed": 1130, "task_seed": 30}'
    python benchmarks/ppr_agents.py --size '{"data_seed": 1130, "task_seed": 30}' --stream

Cold users without any click (zero-shot), the default SASRec, a prefix of one vector and nothing
else. Every learner gets the same number of answers for users of ``train``; each tenth of them it is
played for all users of ``validation``, and the best of these policies is judged once on ``test``.
An answer of the native solver is one that was differentiated; the agents see what they are paid.

With ``--stream`` the first ten clicks of each user are played one after another (``PPRStream-v0``),
and a user's score is the mean over them.

With ``--choose`` the settings of `CHOICES` are compared on ``validation`` users alone; what won in
another world stands in `METHODS`.

The share is (score - constant) / (native - constant), ratios of means over the same users, where
"constant" is one prefix for all users that the native solver learned.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpp_agents.experiments.statistics import Lines, holm
from rpp_agents.policy import load_policy
from rpp_agents.solvers.controls import Shuffled, zero
from rpp_agents.trainers import find_trainer
from rpp_env import RPPEnv
from rpp_env.data.folders import write_text
from rpp_env.evaluation.baselines import Random
from rpp_env.markdown import table
from rpp_env.metrics import chance_ndcg, ndcg
from rpp_env.sim.movieworld import first_choice

Setting = tuple[str, dict[str, Any], dict[str, Any]]
"""A trainer, options of the environment, and options of the trainer."""

METHODS: dict[str, Setting] = {
    "native, BPR": ("ppr", {}, {"contrastive": 0.0}),
    "native, BPR + contrastive": ("ppr", {}, {}),
    "native, cross-entropy": ("ppr", {}, {"contrastive": 0.0, "loss": "cross_entropy"}),
    "constant prefix (native)": (
        "ppr",
        {},
        {"contrastive": 0.0, "loss": "cross_entropy", "constant": True},
    ),
    "LinUCB, 64 prefixes": ("linucb", {"codebook": 64}, {"optimism": 2.0}),
    "IPPO, 64 prefixes": ("ippo", {"codebook": 64}, {"learning_rate": 0.01}),
    "REINFORCE, 64 prefixes": ("reinforce", {"codebook": 64}, {"learning_rate": 0.01}),
    "MAPPO, 8 codes": ("mappo", {"codes": 8}, {}),
    "MAPPO, 64 numbers": ("mappo", {}, {}),
    "MAPPO, an agent for each field": ("mappo", {"codes": 8, "agents": "fields"}, {}),
    "REINFORCE, 8 codes": ("reinforce", {"codes": 8}, {"learning_rate": 0.01}),
    "Evolution strategy, 8 codes": ("evolution", {"codes": 8}, {}),
}
CHOICES: dict[str, Setting] = {
    f"LinUCB, {size} prefixes, optimism {width:g}": (
        "linucb",
        {"codebook": size},
        {"optimism": width},
    )
    for size in (16, 64, 256)
    for width in (0.5, 2.0, 10.0)
} | {
    f"{trainer.upper()}, {name}, learning rate {rate:g}": (trainer, made, {"learning_rate": rate})
    for trainer, name, made, rates in (
        ("ippo", "64 prefixes", {"codebook": 64}, (3e-3, 1e-2)),
        ("mappo", "8 codes", {"codes": 8}, (1e-3, 3e-3)),
        ("reinforce", "64 prefixes", {"codebook": 64}, (1e-2, 3e-2)),
    )
    for rate in rates
}
NATIVE, CONSTANT = "native, cross-entropy", "constant prefix (native)"


def make(split: str, made: dict[str, Any], options: Any, num_envs: int) -> RPPEnv:
    rules = {"rules": "PPRStream-v0"} if options.stream else {"rules": "PPR-v0", "shots": "zero"}
    return RPPEnv.make(split=split, seed=0, num_envs=num_envs, **rules, **options.size, **made)


def ranks(policy: Any, env: RPPEnv) -> np.ndarray:
    """(T, S) ranks of all users' targets at each step, by the policy's most probable actions."""
    observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})
    found = []
    for _ in range(env.max_cycles):
        actions, _ = policy.act(observations, env.action_masks(), greedy=True)
        step = env.step(actions)
        observations = step.observations
        found.append(step.infos["rank"])
    return np.stack(found, axis=1)


def paid(found: np.ndarray) -> np.ndarray:
    """(T,) NDCG@10 of ranks (T,) or (T, S), the mean over the steps."""
    return ndcg(found).reshape(len(found), -1).mean(axis=1)


def run(method: Setting, seed: int, folder: Path, options: Any) -> None:
    """Train once, and keep the ranks of the policy that was best on validation users."""
    name, made, changed = method
    env = make("train", made, options, options.envs)
    validation = make("validation", made, options, 1)
    test = validation if options.choose else make("test", made, options, 1)
    trainer = find_trainer(name)
    config = trainer.config(
        total_steps=options.answers, seed=seed, evaluations=0, tensorboard=False, **changed
    )
    kept = folder / "best.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {"value": -1.0, "curve": []}
    due = [options.answers * i // 10 for i in range(1, 11)]

    def judge(row: Any, policy: Any) -> None:
        if not due or row["steps"] < due[0]:
            return
        while due and row["steps"] >= due[0]:
            del due[0]
        value = float(paid(ranks(policy, validation)).mean())
        found["curve"].append([int(row["steps"]), value, float(paid(ranks(policy, test)).mean())])
        if value > found["value"]:
            found.update(value=value, steps=int(row["steps"]))
            policy.save(kept)

    began = time.perf_counter()
    trainer.train(env, config, callbacks=[judge], progress=False)
    found["seconds"] = time.perf_counter() - began
    policy = load_policy(kept)
    np.savez_compressed(
        folder / "made.tmp.npz",
        own=ranks(policy, test),
        shuffled=ranks(Shuffled(policy, test), test),
        about=json.dumps(found),
    )
    (folder / "made.tmp.npz").replace(folder / "made.npz")


def optimum(test: RPPEnv, options: Any) -> np.ndarray:
    """(T,) NDCG@10 of the best ranking that a profile allows without clicks."""
    tasks, data = test.tasks, test.tasks.dataset
    world = options.size.get("data_seed", 0)
    chances = first_choice(data.profiles, num_items=data.num_items, seed=world)
    best = chances[tasks.users[:, None], tasks.candidates]
    order = np.argsort(-best, axis=1, kind="stable")
    return ndcg((order == tasks.position[:, None]).argmax(axis=1) + 1)


def report(kept: dict[str, list[dict[str, Any]]], options: Any) -> str:
    test = make("test", {}, options, 1)
    scores = {name: [paid(one["own"]) for one in runs] for name, runs in kept.items()}
    scores["zero prefix"] = [paid(ranks(zero(test), test))]
    scores["random prefix"] = [
        paid(ranks(Random(test.action_spaces, seed=seed), test)) for seed in range(5)
    ]
    if not options.stream:
        scores["optimum of this world"] = [optimum(test, options)]
    for name, runs in kept.items():
        scores[f"{name}, shuffled"] = [paid(one["shuffled"]) for one in runs]
    lines = Lines({name: {"world": runs} for name, runs in scores.items()})
    plain = [name for name in scores if not name.endswith(", shuffled")]
    minus = {name: lines.minus(name, CONSTANT) for name in plain if name != CONSTANT}
    marks = dict(zip(minus, holm(list(minus.values())), strict=True))
    rows = [
        [
            "",
            "runs",
            "NDCG@10",
            "minus constant prefix",
            "share of the native solver's gain",
            "with shuffled profiles",
            "answers of the best",
            "seconds",
        ]
    ]
    for name in plain:
        about = [json.loads(str(one["about"])) for one in kept.get(name, [])]
        share = lines.gain(name, CONSTANT, NATIVE)
        difference = minus.get(name)
        rows.append(
            [
                name,
                len(scores[name]),
                f"{lines.mean(name).value:.4f}",
                ""
                if difference is None
                else f"{difference:+.4f}" + (" Holm" if marks[name] else ""),
                f"{share:.2f}" if name not in (NATIVE, CONSTANT) else "",
                f"{lines.mean(f'{name}, shuffled').value:.4f}" if name in kept else "",
                f"{np.mean([one['steps'] for one in about]):,.0f}" if about else "",
                f"{np.mean([one['seconds'] for one in about]):.0f}" if about else "",
            ]
        )
    curve = [
        ["test NDCG@10 after answers", *(f"{options.answers * i // 10:,}" for i in range(1, 11))]
    ]
    for name, runs in kept.items():
        curves = [json.loads(str(one["about"]))["curve"] for one in runs]
        if {len(one) for one in curves} == {10}:
            means = np.mean([[point[2] for point in one] for one in curves], axis=0)
            curve.append([name, *(f"{value:.3f}" for value in means)])
    head = (
        f"{len(make('train', {}, options, 1).tasks):,} cold users to learn from, "
        f"{len(make('validation', {}, options, 1).tasks)} to choose by, {len(test.tasks)} to judge "
        f"by; {options.answers:,} answers a run, {options.envs} users at once. Chance is "
        f"{chance_ndcg(test.tasks.num_candidates):.4f}."
    )
    return "\n\n".join([head, table(rows, padded=False), table(curve, padded=False)]) + "\n"


def choice(kept: dict[str, list[dict[str, Any]]]) -> str:
    """Table of the settings' NDCG@10 for validation users."""
    rows = [["validation users", "runs", "NDCG@10"]]
    for name, runs in kept.items():
        values = [json.loads(str(one["about"]))["value"] for one in runs]
        rows.append([name, len(runs), f"{np.mean(values):.4f}"])
    return table(rows, padded=False) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--choose", action="store_true", help="compare CHOICES, without test users")
    parser.add_argument("--stream", action="store_true", help="play PPRStream-v0")
    parser.add_argument("--methods", nargs="+", choices=[*METHODS, *CHOICES])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--answers", type=int, default=107_520)
    parser.add_argument("--envs", type=int, default=512)
    parser.add_argument("--size", type=json.loads, default={}, help="options of PPR-v0, as JSON")
    parser.add_argument("--out", type=Path, default=Path("runs/ppr-agents"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    methods = CHOICES if options.choose else METHODS
    names = options.methods or list(methods)
    kept: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for seed in range(options.seeds):
        for name in names:
            folder = options.out / f"{name.replace(' ', '_')}-{seed}"
            if not (folder / "made.npz").is_file():
                run(methods[name], seed, folder, options)
                print(f"{name}, seed {seed}", file=sys.stderr, flush=True)
            with np.load(folder / "made.npz") as file:
                kept[name].append(dict(file))
    text = choice(kept) if options.choose else report(kept, options)
    write_text(options.out / ("choice.md" if options.choose else "ppr-agents.md"), text)
    print(text)


if __name__ == "__main__":
    main()
