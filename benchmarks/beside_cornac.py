"""Our SASRec beside cornac's: the same histories, sizes, held-out clicks and ranking.

It needs cornac, in an environment of its own::

    python -m venv cornac && cornac/bin/pip install cornac rpp-env[agents]
    RPP_ENV_DATA=... cornac/bin/python benchmarks/beside_cornac.py --seeds 3
    RPP_ENV_DATA=... cornac/bin/python benchmarks/beside_cornac.py --part test --rows ours cornac

``--part test`` is leave-one-out over all items, as in ``anchors.py``: the last item of a user is
the test item. ``--part validation``, by which the rows are compared with each other, leaves the
test item out and ranks the five items before it, each after all items before that one. In both
the rest is trained on, but for the last item of a fifth of the users, which chooses the epoch, and
items of the history are not ranked. All rows read the latest `--length` items and have one block,
one head, 64 numbers and a dropout of 0.2.

=====================  =========================================================================
ours                   the options of ``anchors.py`` for Beauty, with a patience of 10: 128
                       windows a step, which do not overlap, against 256 random items
batches of 26          26 windows a step, which are some 512 targets, as in cornac's
all items              cross-entropy over all items
overlapping windows    a window every five items, which teaches its last five
cornac's training      our network on cornac's batches and loss: one target of a window at a time,
                       512 a step, against the step's other targets and 2,048 items drawn by the
                       root of their popularity; four epochs
cornac                 cornac's network, trained so
=====================  =========================================================================

What is finished is kept in OUT, one file for each run, and not computed again. Intervals are
Student's, paired, over users (whose clicks are averaged first) and training seeds, if several;
"Holm" marks differences that are significant at 5% among all of the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cornac
import numpy as np
import torch
import torch.nn.functional as F
from anchors import SMALL, sequences, without_last
from cornac.data import SequentialDataset
from cornac.models import SASRec as TheirSASRec
from cornac.models.sasrec import recom_sasrec
from cornac.models.seq_utils import session_seq_iter
from cornac.models.seq_utils.losses import get_loss_function

from rpp_agents.experiments.statistics import Lines, holm
from rpp_env.data import Interactions, load_dataset
from rpp_env.markdown import table
from rpp_env.metrics import hit, ndcg
from rpp_env.recommenders.sasrec import Training, full_ranks, last_items, windows
from rpp_env.recommenders.stages import held_out

CLICKS = 5
"""Clicks of a user by which rows are compared on the validation part."""
TAUGHT = 5
"""Items that a window teaches where windows overlap."""
BATCH, NEGATIVES, ALPHA = 512, 2048, 0.5
"""Cornac's own."""


class Overlapping(Training):
    """Our training with a window every few items, against the same random items."""

    def learn(self, rng: np.random.Generator) -> float:
        model, config = self.model, self.config
        users, ends = windows(self.taught, TAUGHT)
        order, losses = rng.permutation(len(users)), []
        for start in range(0, len(order), config.batch):
            rows = order[start : start + config.batch]
            window = torch.from_numpy(
                last_items(self.taught, users[rows], ends[rows], config.max_length + 1)
            )
            taught = (window[:, -TAUGHT - 1 : -1] >= 0) & (window[:, -TAUGHT:] >= 0)
            states = model.states(window[:, :-1], training=True)[:, -TAUGHT:][taught]
            targets, items = window[:, -TAUGHT:][taught], model.weights["items.weight"]
            others = torch.from_numpy(rng.integers(model.num_items, size=config.negatives))
            against = (states @ items[others].T).masked_fill(others == targets[:, None], -torch.inf)
            liked = (states * items[targets]).sum(dim=1)
            loss = (torch.logaddexp(liked, against.logsumexp(dim=1)) - liked).mean()
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))


class AsTheirs(Training):
    """Our network on cornac's batches and loss."""

    def learn(self, rng: np.random.Generator) -> float:
        items, losses = self.model.weights["items.weight"], []
        loss_of = get_loss_function("ce")
        for _, given, shown in session_seq_iter(
            their_data(self.taught),
            pad_index=-1,
            batch_size=BATCH,
            max_len=self.config.max_length,
            n_sample=NEGATIVES,
            sample_alpha=ALPHA,
            rng=np.random.RandomState(int(rng.integers(1 << 31))),
        ):
            states = self.model.states(torch.from_numpy(given), training=True)[:, -1]
            loss = loss_of(states @ items[torch.from_numpy(shown)].T)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            losses.append(loss.item())
        return float(np.mean(losses))


class Theirs:
    """Cornac's SASRec in the form in which `full_ranks` reads ours."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.config = SimpleNamespace(max_length=model.maxlen)
        self.weights = {"items.weight": model.item_emb.weight[: model.item_num]}

    def encode(self, histories: torch.Tensor) -> torch.Tensor:
        given = F.pad(histories, (self.model.maxlen - histories.shape[1], 0), value=-1)
        self.model.eval()
        given = given.masked_fill(given < 0, self.model.item_num)
        found: torch.Tensor = self.model(None, given, given[:, 0], return_hidden=True)[0]
        return found


def their_data(histories: Interactions) -> Any:
    """The histories as cornac's sessions, one for each user, with our item rows."""
    users = np.repeat(np.arange(len(histories.indptr) - 1), np.diff(histories.indptr)).tolist()
    items = histories.items.tolist()
    rows = [
        (user, user, item, at) for at, (user, item) in enumerate(zip(users, items, strict=True))
    ]
    every = {item: item for item in range(histories.num_items)}
    return SequentialDataset.build(rows, fmt="USIT", global_iid_map=every)


def fit_theirs(histories: Interactions, seed: int, options: Any) -> tuple[Any, str]:
    """Train cornac's; its best epoch on the held-out clicks, and which that is."""
    taught, users, held = held_out(histories)
    judged: list[float] = []

    def judge(model: Any, *_: Any, **__: Any) -> float:
        judged.append(float(ndcg(full_ranks(Theirs(model.model), taught, users, held)).mean()))
        print(f"cornac: epoch {len(judged)}, {judged[-1]:.4f}", file=sys.stderr, flush=True)
        return judged[-1]

    recom_sasrec.val_score = judge
    data = their_data(taught)
    model = TheirSASRec(
        embedding_dim=SMALL.dim,
        num_blocks=SMALL.blocks,
        num_heads=SMALL.heads,
        max_len=options.length,
        dropout=SMALL.dropout,
        batch_size=BATCH,
        n_sample=NEGATIVES,
        sample_alpha=ALPHA,
        n_epochs=options.epochs,
        model_selection="best",
        val_eval_every=1,
        seed=seed,
    )
    model.fit(data, data)
    return Theirs(model.model), f"{int(np.argmax(judged)) + 1} of {len(judged)}"


Fit = Callable[[Interactions, int, Any], tuple[Any, str]]


def ours(kind: type[Training] = Training, **changes: Any) -> Fit:
    """A training of ours; its best epoch, and which that is."""

    def fit(histories: Interactions, seed: int, options: Any) -> tuple[Any, str]:
        config = replace(SMALL, max_length=options.length, patience=options.patience)
        if kind is AsTheirs:
            config = replace(config, epochs=options.epochs)
        training = kind(histories, replace(config, **changes), seed=seed)
        while not training.done:
            row = training.epoch()
            if options.follow and row["epoch"] % options.follow == 0:
                score = ndcg(judged(training.model, options.whole, options.clicks).ravel()).mean()
                print(f"epoch {row['epoch']}: {score:.4f}", file=sys.stderr, flush=True)
        reached = training.reached
        return training.best, f"{reached['found']} of {reached['epoch']}"

    return fit


ROWS: dict[str, Fit] = {
    "ours": ours(),
    "batches of 26": ours(batch=26),
    "all items": ours(loss="cross_entropy"),
    "overlapping windows": ours(Overlapping, patience=6),  # an epoch has four times the updates
    "cornac's training": ours(AsTheirs),
    "cornac": fit_theirs,
}


def cut(whole: Interactions, clicks: int) -> Interactions:
    """The sequences without every user's last `clicks` items."""
    for _ in range(clicks):
        whole = without_last(whole)
    return whole


def judged(model: Any, whole: Interactions, clicks: int) -> np.ndarray:
    """(clicks, U) ranks of the last items, each after all items before it."""
    users = np.arange(len(whole.indptr) - 1)
    ranks = []
    for back in range(clicks, 0, -1):
        targets = whole.items[whole.indptr[1:] - back]
        ranks.append(full_ranks(model, cut(whole, back), users, targets))
    return np.stack(ranks)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--part", choices=("validation", "test"), default="validation")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=list(ROWS))
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=4, help="of cornac's training")
    parser.add_argument("--patience", type=int, default=10, help="of our training")
    parser.add_argument("--follow", type=int, default=0, help="print the score every N epochs")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("runs/beside-cornac"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    whole, clicks = sequences(load_dataset(options.dataset)), 1
    if options.part == "validation":
        whole, clicks = without_last(whole), CLICKS
    elif options.follow:
        parser.error("--follow looks at the clicks that rows are judged by: not with --part test")
    options.whole, options.clicks = whole, clicks
    shortest = int(np.diff(whole.indptr).min())
    if shortest < clicks + 3:
        raise SystemExit(f"{options.dataset}: a user has {shortest} items, too few for {clicks}")
    about: dict[str, list[Any]] = {}
    scores: dict[str, list[np.ndarray]] = {}
    for seed in range(options.seeds):
        for name in options.rows:
            path = options.out / f"{options.part}-{name.replace(' ', '_')}-{seed}.npz"
            if not path.is_file():
                began = time.process_time()
                model, epoch = ROWS[name](cut(whole, clicks), seed, options)
                seconds = time.process_time() - began
                ranks = judged(model, whole, clicks)
                np.savez_compressed(path, ranks=ranks, epoch=epoch, seconds=seconds)
            with np.load(path) as file:
                kept = dict(file)
            about.setdefault(name, []).append(kept)
            each = ndcg(kept["ranks"].ravel(), 10).reshape(kept["ranks"].shape)
            scores.setdefault(name, []).append(each.mean(axis=0))
            print(f"{name}, seed {seed}: {each.mean():.4f}", file=sys.stderr, flush=True)
    lines = Lines({name: {"world": runs} for name, runs in scores.items()})
    first, *others = options.rows
    gaps = {name: lines.minus(name, first) for name in others}
    marks = dict(zip(gaps, holm(list(gaps.values())), strict=True))
    rows = [["", "runs", "NDCG@10", "hit@10", f"minus {first}", "best epoch", "processor seconds"]]
    for name, runs in about.items():
        gap, mean = gaps.get(name), lines.mean(name)
        rows.append(
            [
                name,
                str(len(runs)),
                f"{mean.value:.4f}",
                f"{np.mean([hit(run['ranks'].ravel(), 10).mean() for run in runs]):.4f}",
                f"{gap.value:+.4f} [{gap.low:+.4f}, {gap.high:+.4f}]{' Holm' * marks[name]}"
                if gap
                else "",
                ", ".join(str(run["epoch"]) for run in runs),
                f"{np.mean([float(run['seconds']) for run in runs]):.0f}",
            ]
        )
    users = len(whole.indptr) - 1
    print(f"{options.dataset}, {options.part}, {users:,} users, cornac {cornac.__version__}\n")
    print(table(rows, padded=False))


if __name__ == "__main__":
    main()
