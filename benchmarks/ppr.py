"""PPR's table: the value of a prefix, an added vector and a contrastive loss for cold users.

    python benchmarks/ppr.py --dataset ml-100k arrivals --out runs/ppr
    python benchmarks/ppr.py --dataset ml-1m --backbone cl4srec --out runs/ppr-cl4srec

For each dataset a small SASRec is pre-trained on the warm users, once. Every row of the table then
trains on the cold users of ``train`` (zero-shot and few-shot clicks together), keeps the epoch that
is best on those of ``validation``, and is judged once on those of ``test``; all rows read the same
tasks. One set of weights gives the zero-shot, the few-shot and the joint figures.

=====================  =========================================================================
pre-train              the SASRec as it is
fine-tuning            all of its weights, and the added vector MLP_a(profile)
light                  prefix and added vector; the SASRec is frozen
full                   all of it
- MLP_a                without the added vector: the prefix alone
- CL                   without the contrastive loss
MLP_a alone            the added vector alone; the SASRec is frozen
constant prefix        one prefix for all users, learned; no added vector
light, cross-entropy   light with the clicked item against all items, not one random item
light, n = 2, 4        prefixes of several vectors
=====================  =========================================================================

Intervals are Student's, over users (whose clicks are averaged first) and training seeds, paired in
the differences; "Holm" marks differences that are significant at 5% among those of a table.
What is finished is kept in OUT, one file for each run, and not computed again; pre-training resumes
from its last epoch. It writes
OUT/ppr-DATASET.md, OUT/ppr-DATASET.json (what the pictures show) and, of all datasets in OUT, the
pictures ppr-clicks.png, ppr-noise.png and ppr-length.png.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from rpp_agents.experiments.plots import COLOURS
from rpp_agents.experiments.statistics import Contrast, Lines, holm
from rpp_agents.plots import INK, Picture, grid, headline, legend, save
from rpp_agents.recommenders.base import ranks_by
from rpp_agents.solvers.controls import own_history, zero
from rpp_agents.solvers.ppr import Config, tune
from rpp_env import RPPEnv
from rpp_env.data import load_dataset, split_arrivals
from rpp_env.data.candidates import TaskSet
from rpp_env.data.folders import write_text
from rpp_env.evaluation.baselines import Random
from rpp_env.markdown import table
from rpp_env.metrics import hit, ndcg
from rpp_env.recommenders.pretrained import SMALL
from rpp_env.recommenders.sasrec import CL4SRec, train

ROWS: dict[str, dict[str, Any]] = {
    "pre-train": {"mode": "pre-train"},
    "fine-tuning": {"mode": "fine-tune", "contrastive": 0.0},
    "fine-tuning + CL": {"mode": "fine-tune"},
    "light": {"mode": "light"},
    "light - CL": {"mode": "light", "contrastive": 0.0},
    "light - MLP_a": {"mode": "light", "shift": False},
    "light - MLP_a - CL": {"mode": "light", "shift": False, "contrastive": 0.0},
    "MLP_a alone": {"mode": "light", "prompt": False, "contrastive": 0.0},
    "constant prefix": {"mode": "light", "shift": False, "contrastive": 0.0, "constant": True},
    "light, cross-entropy": {"mode": "light", "loss": "cross_entropy"},
    "full": {"mode": "full"},
    "full - CL": {"mode": "full", "contrastive": 0.0},
    "full - MLP_a": {"mode": "full", "shift": False},
    "light, n = 2": {"mode": "light", "prefix": 2},
    "light, n = 4": {"mode": "light", "prefix": 4},
}
NOISE = (10, 20, 40)
"""Shares of history items that are replaced at random, in percent."""
SHOTS = {"zero-shot": (0,), "few-shot": tuple(range(1, 10)), "joint": tuple(range(10))}
CUTS = (5, 10, 20, 50)
BACKBONES = {"sasrec": SMALL, "cl4srec": CL4SRec(**asdict(SMALL))}
"""Recommenders that are frozen, by their training."""
CLICKS = (0, 1, 3, 5, 9)
"""Clicks known whose gains are told apart."""
DRAWN = ("fine-tuning", "light", "full")
CONTRASTIVE = {
    "fine-tuning + CL": "fine-tuning",
    "light": "light - CL",
    "light - MLP_a": "light - MLP_a - CL",
    "full": "full - CL",
}
"""Rows with the contrastive loss, and the same without it."""
LENGTHS = {"light": 1, "light, n = 2": 2, "light, n = 4": 4}
"""Rows of the pictures, beside pre-train, from which gains are counted."""


class World:
    """The environments and test tasks of a dataset."""

    def __init__(self, dataset: str, size: Mapping[str, Any], backbone: Path) -> None:
        self.options: dict[str, Any] = {
            "rules": "PPR-v0",
            "dataset": dataset,
            "model": f"checkpoint:{backbone}",
            "shift": True,
            "num_envs": 64,
            "seed": 0,
            **size,
        }
        self.validation = self.env("validation").tasks
        self.test = self.env("test").tasks
        self.every = self.env("test", num_candidates=None).tasks
        self.profiles = self.test.dataset.profiles
        self.shuffled = self.profiles.shuffled(self.test.users)

    def env(self, split: str, **options: Any) -> RPPEnv:
        return RPPEnv.make(split=split, **{**self.options, **options})

    def noisy(self, percent: int) -> TaskSet:
        """The test tasks with so many percent of the history items replaced by random ones."""
        rng = np.random.default_rng([percent, 0x401])
        items = self.test.history_items.copy()
        wrong = rng.random(len(items)) < percent / 100
        items[wrong] = rng.integers(self.test.dataset.num_items, size=int(wrong.sum()))
        return replace(self.test, history_items=items)


def pretrained(dataset: str, size: Mapping[str, Any], backbone: str, folder: Path) -> Path:
    """Train the recommender on the warm users, once; it is the environment's own for sasrec."""
    path = folder / f"{backbone}.safetensors"
    if not path.is_file():
        data = load_dataset(dataset, **size)
        found = train(
            split_arrivals(data).interactions(data),
            BACKBONES[backbone],
            catalog=data.catalog_digest,
            checkpoint=folder / f"{backbone}.training.safetensors",
            progress=lambda row: print(f"{dataset}, {backbone}: {dict(row)}", file=sys.stderr),
        )
        found.save(path)
    return path


def run(world: World, row: Mapping[str, Any], seed: int, options: Any) -> dict[str, Any]:
    """Train a row, and rank every test task in each way; (T,) arrays and numbers."""
    chosen = dict(row)
    env = world.env("train", prefix=chosen.pop("prefix", 1))
    config = Config(
        seed=seed,
        total_steps=options.epochs * len(env.tasks),
        learning_rate=options.rate,
        recommender_rate=options.recommender_rate,
        contrastive=chosen.pop("contrastive", 0.1),
        constant=chosen.pop("constant", False),
        loss=chosen.pop("loss", "bpr"),
    )
    began = time.perf_counter()
    found = tune(env, world.validation, config, patience=options.patience, **chosen)
    seconds = time.perf_counter() - began
    solver, test = found.solver, world.test
    made = {
        "own": ranks_by(solver.scores(test), test),
        "all": ranks_by(solver.scores(world.every), world.every),
        "shuffled": ranks_by(solver.scores(test, world.shuffled), test),
    }
    for percent in NOISE:
        tasks = world.noisy(percent)
        made[f"noise {percent}"] = ranks_by(solver.scores(tasks), tasks)
    trained = sum(weight.numel() for part in solver.trained() for weight in part)
    about = {
        "seconds": seconds,
        "epoch": found.epoch,
        "validation": found.validation,
        "gradient_calls": found.gradient_calls,
        "trained": trained,
    }
    return {**made, "about": json.dumps(about)}


def by_user(values: np.ndarray, tasks: TaskSet, clicks: tuple[int, ...]) -> np.ndarray:
    """(U,) means over those of each user's tasks that come after so many clicks."""
    there = np.isin(tasks.draw, clicks)
    _, user = np.unique(tasks.users[there], return_inverse=True)
    return np.bincount(user, values[there]) / np.bincount(user)


def lines(kept: Mapping[str, Any], tasks: TaskSet, clicks: tuple[int, ...], metric: Any) -> Lines:
    """The users' scores of every row in every run."""
    return Lines(
        {
            name: {"world": [by_user(metric(ranks), tasks, clicks) for ranks in runs]}
            for name, runs in kept.items()
        }
    )


def shown(contrast: Contrast, significant: bool = False) -> str:
    if np.isnan(contrast.low):
        return f"{contrast.value:.4f}"
    mark = " Holm" if significant else ""
    return f"{contrast.value:+.4f} [{contrast.low:+.4f}, {contrast.high:+.4f}]{mark}"


def controls(world: World, own: Mapping[str, list[np.ndarray]]) -> list[list[str]]:
    """Few-shot NDCG@10 of prefixes that nothing learned, beside those of the table."""
    env = world.env("test", shift=False, encoder_state=True)
    observations, _ = env.reset(options={"users": np.arange(len(env.tasks))})

    def played(policy: Any) -> np.ndarray:
        env.reset(options={"users": np.arange(len(env.tasks))})
        return env.step(policy.act(observations)[0]).infos["rank"]

    made = {
        "no prefix (pre-train)": own["pre-train"],
        "a prefix of zeros": [played(zero(env))],
        "random prefixes": [played(Random(env.action_spaces, seed=seed)) for seed in range(5)],
        "the user's own history as a prefix": [played(own_history(env))],
        "constant prefix": own.get("constant prefix", own["pre-train"]),
    }
    found = lines(made, world.test, SHOTS["few-shot"], lambda ranks: ndcg(ranks, 10))
    rows = [["few-shot", "NDCG@10", "minus no prefix"]]
    first = next(iter(made))
    for name in made:
        difference = "" if name == first else shown(found.minus(name, first))
        rows += [[name, f"{found.mean(name).value:.4f}", difference]]
    return rows


def popularity(test: TaskSet) -> list[list[str]]:
    """NDCG@10 of one ranking for everybody, by the number of the warm users' clicks."""
    data = test.dataset
    clicked = split_arrivals(data).interactions(data).items
    counts = np.bincount(clicked, minlength=data.num_items).astype(np.float64)
    ranks = ranks_by(counts[test.candidates], test)
    cells = []
    for clicks in SHOTS.values():
        found = lines({"popularity": [ranks]}, test, clicks, ndcg).mean("popularity")
        cells.append(f"{found.value:.4f} [{found.low:.4f}, {found.high:.4f}]")
    return [["NDCG@10", *SHOTS], ["popularity", *cells]]


def auc(tasks: TaskSet) -> Any:
    """The share of the other candidates that come after the target: a rank statistic of a task."""
    return lambda ranks: (tasks.num_candidates - ranks) / (tasks.num_candidates - 1)


def along(world: World, kept: Mapping[str, Any], options: Any) -> list[str]:
    """The tables of gains by clicks known and by noise; writes what the pictures show."""
    test, parts = world.test, []

    def found(what: str, clicks: tuple[int, ...]) -> Lines:
        ranks = {name: [run[what] for run in runs] for name, runs in kept.items()}
        return lines(ranks, test, clicks, ndcg)

    rows = [["minus pre-train, NDCG@10", *(f"k = {k}" for k in CLICKS)]]
    by_clicks = {k: found("own", (k,)) for k in CLICKS}
    rows += [
        [name, *(shown(by_clicks[k].minus(name, "pre-train")) for k in CLICKS)] for name in kept
    ]
    parts += ["### Clicks known", table(rows, padded=False)]
    few = SHOTS["few-shot"]
    noise = {0: found("own", few)} | {p: found(f"noise {p}", few) for p in NOISE}
    rows = [["few-shot NDCG@10", *(f"{percent} %" for percent in noise)]]
    for name in kept:
        rows.append([name, *(f"{one.mean(name).value:.4f}" for one in noise.values())])
    parts += ["### History items replaced at random", table(rows, padded=False)]
    rows = [["minus pre-train, NDCG@10", *(f"{percent} %" for percent in noise)]]
    for name in kept:
        if name != "pre-train":
            rows.append([name, *(shown(one.minus(name, "pre-train")) for one in noise.values())])
    parts.append(table(rows, padded=False))
    # Without any click the gain is another quantity: pre-training knows nothing.
    few_clicks = {k: one for k, one in by_clicks.items() if k}
    gains = {
        "clicks": {name: _gains(few_clicks, name) for name in kept if name in DRAWN},
        "noise": {name: _gains(noise, name) for name in kept if name in DRAWN},
        "length": {
            "light": {LENGTHS[name]: _gains(noise, name)[0] for name in kept if name in LENGTHS}
        },
    }
    write_text(options.out / f"ppr-{test.dataset.name}.json", json.dumps(gains, indent=1) + "\n")
    return parts


def report(world: World, kept: dict[str, list[dict[str, Any]]], options: Any) -> str:
    """All tables of a dataset."""
    test, parts = world.test, []
    about = {name: [json.loads(str(run["about"])) for run in runs] for name, runs in kept.items()}

    def of(what: str) -> dict[str, list[np.ndarray]]:
        return {name: [run[what] for run in runs] for name, runs in kept.items()}

    def ndcg10(ranks: np.ndarray) -> np.ndarray:
        return ndcg(ranks, 10)

    for shots, clicks in SHOTS.items():
        metrics = {"AUC": auc(test)}
        for cut in CUTS:
            metrics[f"HIT@{cut}"] = lambda ranks, cut=cut: hit(ranks, cut)
            metrics[f"NDCG@{cut}"] = lambda ranks, cut=cut: ndcg(ranks, cut)
        found = {name: lines(of("own"), test, clicks, metric) for name, metric in metrics.items()}
        rows = [["", *metrics, "all items NDCG@10"]]
        full = lines(of("all"), world.every, clicks, ndcg10)
        for name in kept:
            values = [f"{metric.mean(name).value:.4f}" for metric in found.values()]
            rows.append([name, *values, f"{full.mean(name).value:.4f}"])
        parts += [f"### {shots}", table(rows, padded=False)]
        rows = [["NDCG@10", "minus pre-train", "minus fine-tuning", "minus constant prefix"]]
        against = ("pre-train", "fine-tuning", "constant prefix")
        base = found["NDCG@10"]
        every = [(name, other) for name in kept for other in against if name != other in kept]
        contrasts = {pair: base.minus(*pair) for pair in every}
        marks = dict(zip(every, holm(list(contrasts.values())), strict=True))
        for name in kept:
            pairs = [(name, other) for other in against]
            rows.append(
                [name, *(shown(contrasts[p], marks[p]) if p in marks else "" for p in pairs)]
            )
        parts.append(table(rows, padded=False))
        if "MLP_a alone" in kept:
            names = [name for name in kept if name not in ("pre-train", "MLP_a alone")]
            minus = [base.minus(name, "MLP_a alone") for name in names]
            parts.append(_column("minus MLP_a alone", names, minus))
        ablated = {a: b for a, b in CONTRASTIVE.items() if a in kept and b in kept}
        if ablated:
            minus = [base.minus(*pair) for pair in ablated.items()]
            parts.append(_column("minus the same without CL", list(ablated), minus))
        # One pair for each run and user: own and shuffled profiles are read by the same weights.
        gaps = {
            name: [
                by_user(ndcg10(run["own"]) - ndcg10(run["shuffled"]), test, clicks) for run in runs
            ]
            for name, runs in kept.items()
            if name not in ("pre-train", "constant prefix")
        }
        pair = Lines({name: {"world": runs} for name, runs in gaps.items()})
        names, minus = list(gaps), [pair.mean(name) for name in gaps]
        parts.append(_column("own minus shuffled profile", names, minus))
    parts += along(world, kept, options)
    parts += ["### Popularity", table(popularity(test), padded=False)]
    parts += ["### Prefixes without a profile", table(controls(world, of("own")), padded=False)]
    rows = [["", "runs", "seconds", "best epoch", "weights trained", "gradient calls"]]
    for name, runs in about.items():
        middle = {key: float(np.mean([run[key] for run in runs])) for key in runs[0]}
        rows.append(
            [
                name,
                len(runs),
                f"{middle['seconds']:.0f}",
                f"{middle['epoch']:.0f}",
                f"{middle['trained']:,.0f}",
                f"{middle['gradient_calls']:,.0f}",
            ]
        )
    parts += ["### Cost", table(rows, padded=False)]
    data = test.dataset
    users = [len(np.unique(world.env(split).tasks.users)) for split in ("train", "validation")]
    head = (
        f"{data.name}: {users[0]} cold users to train on, {users[1]} to choose the epoch, "
        f"{len(np.unique(test.users))} to judge by ({len(test):,} tasks, 1 + "
        f"{test.num_candidates - 1} candidates); {data.num_items:,} items. Learning rate "
        f"{options.rate:g}, of the recommender {options.recommender_rate:g}; at most "
        f"{options.epochs} epochs, patience {options.patience}."
    )
    name = data.name if options.backbone == "sasrec" else f"{data.name}, {options.backbone}"
    body = "\n\n".join(parts).replace("### ", f"### {name}, ")
    return f"## {name}\n\n{head}\n\n{body}\n"


def _column(title: str, names: list[str], differences: list[Contrast]) -> str:
    """A table of differences, marked as one family."""
    marked = zip(names, differences, holm(differences), strict=True)
    return table(
        [["NDCG@10", title], *([name, shown(one, mark)] for name, one, mark in marked)],
        padded=False,
    )


def _gains(found: Mapping[int, Lines], name: str) -> dict[int, list[float]]:
    """Value and interval of the gain over pre-training, at each point of an axis."""
    contrasts = {at: one.minus(name, "pre-train") for at, one in found.items()}
    return {at: [round(x, 6) for x in (c.value, c.low, c.high)] for at, c in contrasts.items()}


def draw(found: Mapping[str, Any], what: str, xlabel: str, path: Path) -> Picture:
    """Draw the gains over pre-training along an axis, with a panel for each dataset."""
    label = "gain over pre-training, NDCG@10"
    figure, panels = grid(len(found), 3.6, 2.6, xlabel=xlabel, ylabel=label)
    colours: dict[str, str] = {}
    said = []
    for axes, (dataset, gains) in zip(panels, found.items(), strict=True):
        axes.set_title(dataset, fontsize=8, color=INK, loc="left")
        axes.axhline(0, color=INK, linewidth=0.8)
        for number, (name, along) in enumerate(gains[what].items()):
            colour = colours.setdefault(name, COLOURS[len(colours)])
            at = [int(x) for x in along]
            value, low, high = np.array(list(along.values()), dtype=np.float64).T
            apart = np.array(at) + (number - (len(gains[what]) - 1) / 2) * 0.015 * max(at)
            bars = (value - low, high - value)
            axes.errorbar(apart, value, bars, color=colour, marker="o", markersize=3.5, capsize=2)
            said.append(
                f"{name} on {dataset} "
                + ", ".join(f"{v:+.4f} at {x}" for x, v in zip(at, value, strict=True))
            )
        axes.set_xticks(at)
    legend(figure, {name: {"color": c, "marker": "o"} for name, c in colours.items()}, 4)
    headline(figure, f"{label}, with 95% intervals")
    return save(figure, path, f"Gain over pre-training against {xlabel}: {'; '.join(said)}")


def draw_all(results: Path, folder: Path) -> list[Picture]:
    """Draw what is known of the datasets in `results`."""
    found = {
        path.stem.removeprefix("ppr-"): json.loads(path.read_text(encoding="utf-8"))
        for path in sorted(results.glob("ppr-*.json"), reverse=True)
    }
    return [
        draw(found, "clicks", "clicks known", folder / "ppr-clicks.png"),
        draw(found, "noise", "% of history items replaced at random", folder / "ppr-noise.png"),
        draw(found, "length", "vectors of the prefix", folder / "ppr-length.png"),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", nargs="+", default=["ml-100k", "arrivals"])
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--patience", type=int, default=4)
    parser.add_argument("--rate", type=float, default=1e-3)
    parser.add_argument("--recommender-rate", type=float, default=1e-4)
    parser.add_argument("--size", type=json.loads, default={}, help="of a generated world, as JSON")
    parser.add_argument("--backbone", choices=BACKBONES, default="sasrec")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--draw", type=Path, help="draw the .json files of a folder, run nothing")
    parser.add_argument("--out", type=Path, default=Path("runs/ppr"))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for dataset in () if options.draw else options.dataset:
        folder, kept = options.out / dataset, {}
        folder.mkdir(parents=True, exist_ok=True)
        path = pretrained(dataset, options.size, options.backbone, folder)
        world = World(dataset, options.size, path)
        for seed in range(options.seeds):
            for name in options.rows:
                if ROWS[name]["mode"] == "pre-train" and seed:
                    continue  # nothing is drawn
                path = folder / f"{name.replace(' ', '_')}-{seed}.npz"
                if not path.is_file():
                    made = run(world, ROWS[name], seed, options)
                    whole = path.with_suffix(".tmp.npz")
                    np.savez_compressed(whole, **made)
                    whole.replace(path)
                    score = ndcg(made["own"], 10).mean()
                    print(f"{dataset}, {name}, seed {seed}: {score:.4f}", file=sys.stderr)
                with np.load(path) as file:
                    kept.setdefault(name, []).append(dict(file))
        text = report(world, {name: kept[name] for name in options.rows}, options)
        write_text(options.out / f"ppr-{dataset}.md", text)
        print(text)
    for picture in draw_all(options.draw or options.out, options.out):
        print(picture.markdown(options.out))


if __name__ == "__main__":
    main()
