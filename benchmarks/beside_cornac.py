"""Our SASRec beside cornac's: the same histories, sizes, held-out clicks and ranking, one run.

It needs cornac, in an environment of its own::

    python -m venv cornac && cornac/bin/pip install cornac rpp-env[agents]
    RPP_ENV_DATA=... cornac/bin/python benchmarks/beside_cornac.py --dataset ml-100k

Leave-one-out over all items, as in ``anchors.py``: the last item of a user is the test item, the
one before it chooses the epoch for a fifth of the users, all other items are trained on, and items
of the history are not ranked. Both read the latest `--length` items and have one block, one head,
64 numbers and a dropout of 0.2. Everything else is each library's own: cornac's trains one target
of a window at a time, against the batch's other targets and 2,048 items drawn by the root of their
popularity.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
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

from rpp_env.data import Interactions, load_dataset
from rpp_env.markdown import table
from rpp_env.metrics import hit, ndcg
from rpp_env.recommenders.sasrec import Training, _held_out, full_ranks


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


def fit_theirs(histories: Interactions, options: Any) -> tuple[Any, list[float]]:
    """Train cornac's; its best epoch on the held-out clicks, and their NDCG@10 by epoch."""
    taught, users, held = _held_out(histories)
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
        n_epochs=options.epochs,
        model_selection="best",
        val_eval_every=1,
        seed=options.seed,
    )
    model.fit(data, data)
    return Theirs(model.model), judged


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--dataset", default="ml-100k")
    parser.add_argument("--length", type=int, default=20)
    parser.add_argument("--epochs", type=int, default=10, help="of cornac's; ours has a patience")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    whole = sequences(load_dataset(options.dataset))
    histories, users = without_last(whole), np.flatnonzero(np.diff(whole.indptr) >= 3)
    targets = whole.items[whole.indptr[users + 1] - 1]
    rows, scores = [["", "NDCG@10", "hit@10", "best epoch", "processor seconds"]], {}
    for name in ("ours", f"cornac {cornac.__version__}"):
        began = time.process_time()
        if name == "ours":
            config = replace(SMALL, max_length=options.length, patience=10)
            training = Training(histories, config, seed=options.seed)
            while not training.done:
                training.epoch()
            model, reached = training.best, training.reached
            epochs = f"{reached['found']} of {reached['epoch']}"
        else:
            model, judged = fit_theirs(histories, options)
            epochs = f"{int(np.argmax(judged)) + 1} of {len(judged)}"
        seconds = time.process_time() - began
        ranks = full_ranks(model, histories, users, targets)
        scores[name] = ndcg(ranks)
        cells = [f"{scores[name].mean():.4f}", f"{hit(ranks).mean():.4f}", epochs, f"{seconds:.0f}"]
        rows.append([name, *cells])
        print(rows[-1], file=sys.stderr, flush=True)
    ours, theirs = scores.values()
    print(table(rows, padded=False))
    gap = ours - theirs
    half = 1.96 * gap.std(ddof=1) / len(gap) ** 0.5
    print(f"\nours minus cornac's: {gap.mean():+.4f} ± {half:.4f}, {len(gap):,} users")


if __name__ == "__main__":
    main()
