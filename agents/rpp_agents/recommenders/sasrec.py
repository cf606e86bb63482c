"""SASRec as a baseline that reads no prompt: every user's history is encoded once."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from rpp_agents.recommenders.base import (
    Vectors,
    earlier,
    keep_best,
    known,
    validation_ndcg,
    validation_tasks,
)
from rpp_env.data import Dataset, Interactions
from rpp_env.recommenders.patience import Progress
from rpp_env.recommenders.sasrec import Config, SASRec, last_items, make_optimizer, run_epoch

__all__ = ["Config", "SASRec", "SASRecScorer", "fit"]


class SASRecScorer(Vectors):
    """Scores from every user's history, encoded by a SASRec.

    Parameters
    ----------
    dataset : Dataset
        Its histories are read without their targets.
    module : SASRec
        A SASRec trained on these items.
    """

    def __init__(self, dataset: Dataset, module: SASRec) -> None:
        module.check(dataset)
        self.module = module
        histories = known(dataset)
        length, vectors = module.config.max_length, []
        with torch.inference_mode():
            for start in range(0, dataset.num_users, 512):
                users = np.arange(start, min(start + 512, dataset.num_users))
                last = last_items(histories, users, histories.indptr[users + 1], length)
                vectors.append(module.encode(torch.from_numpy(last)).numpy())
        items = module.weights["items.weight"].detach().numpy().copy()
        super().__init__(dataset, np.concatenate(vectors), items)


def fit(
    dataset: Dataset, config: Config, seed: int = 0, progress: Progress | None = None
) -> SASRecScorer:
    """Train a SASRec on all histories without their targets; see `rpp_agents.recommenders.fit`."""
    before = earlier(dataset)
    histories, tasks = known(before), validation_tasks(before)
    rng = np.random.default_rng(seed)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = SASRec.initial(dataset.num_items, config, dataset.catalog_digest)
        state, best = keep_best(
            _epochs(module, histories, rng),
            lambda _: validation_ndcg(SASRecScorer(before, module), tasks),
            config,
            progress,
        )
    scorer = SASRecScorer(dataset, SASRec(config, state, module.catalog))
    scorer.validation = best
    return scorer


def _epochs(
    module: SASRec, histories: Interactions, rng: np.random.Generator
) -> Iterator[dict[str, Tensor]]:
    optimizer = make_optimizer(module)
    while True:
        run_epoch(module, optimizer, histories, rng)
        yield {name: tensor.detach().clone() for name, tensor in module.weights.items()}
