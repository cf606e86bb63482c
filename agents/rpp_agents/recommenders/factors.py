"""Vectors per user and item, fitted so that chosen items score above others (BPR's loss).

BPR-MF (Rendle et al., UAI 2009) is implicit's: every user and item has its own vector, and every
item a bias; the other item of a pair is drawn by popularity. LightGCN (He et al., SIGIR 2020) is
PyTorch Geometric's: vectors are averaged with those of their neighbours in the graph of users and
items, layer by layer; the other item is any that the user has not chosen.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rpp_agents.recommenders.base import (
    Array,
    Vectors,
    chosen_matrix,
    earlier,
    keep_best,
    known,
    validation_ndcg,
    validation_tasks,
)
from rpp_env.data import Dataset, Interactions
from rpp_env.embeddings import train_lightgcn
from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.recommenders.patience import Patience, Progress

__all__ = ["BPRConfig", "LightGCNConfig", "fit"]


@dataclass(frozen=True, kw_only=True)
class BPRConfig(Patience):
    """Options of BPR-MF."""

    dim: int = 64
    """Width of the vectors, without the bias."""
    rate: float = 0.02
    """Learning rate of the stochastic gradient descent."""
    decay: float = 0.002
    """Weight of the vectors' squared lengths in the loss."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.dim, self.rate, self.decay)


@dataclass(frozen=True, kw_only=True)
class LightGCNConfig(Patience):
    """Options of LightGCN."""

    layers: int = 2
    """Number of graph convolution layers; 0 is matrix factorisation."""
    dim: int = 64
    """Width of the vectors."""
    rate: float = 0.02
    """Adam's learning rate."""
    decay: float = 1e-4
    """Weight of the vectors' squared lengths in the loss."""
    batch: int = 1 << 16
    """Number of pairs of a user and a chosen item per step; each step uses the whole graph."""

    def __post_init__(self) -> None:
        super().__post_init__()
        _check(self.dim, self.rate, self.decay)
        if min(self.layers, self.batch) < 1:
            raise InvalidOption(
                f"layers and batch must be at least 1, not {self.layers} and {self.batch}"
            )


def _check(dim: int, rate: float, decay: float) -> None:
    if dim < 1 or rate <= 0 or decay < 0:
        raise InvalidOption(
            "dim must be at least 1, rate above 0 and decay at least 0; got "
            f"dim={dim}, rate={rate}, decay={decay}"
        )


def fit(
    dataset: Dataset,
    config: BPRConfig | LightGCNConfig,
    seed: int = 0,
    progress: Progress | None = None,
) -> Vectors:
    """Train vectors on all histories without their targets; see `rpp_agents.recommenders.fit`."""
    before = earlier(dataset)
    tasks = validation_tasks(before)
    if isinstance(config, BPRConfig):
        training = _bpr(known(before), config, seed)
    else:
        training = _lightgcn(known(before), config, seed)
    vectors, best = keep_best(
        training,
        lambda vectors: validation_ndcg(Vectors(before, *vectors), tasks),
        config,
        progress,
    )
    fitted = Vectors(dataset, *vectors)
    fitted.validation = best
    return fitted


def _bpr(histories: Interactions, config: BPRConfig, seed: int) -> Iterator[tuple[Array, Array]]:
    try:
        from implicit.cpu.bpr import BayesianPersonalizedRanking
    except ImportError:
        raise MissingExtra("implicit", "study") from None

    chosen = chosen_matrix(histories)
    rng = np.random.default_rng(seed)
    model = BayesianPersonalizedRanking(
        factors=config.dim,
        learning_rate=config.rate,
        regularization=config.decay,
        iterations=1,
        num_threads=1,  # several threads overwrite each other, which no seed repeats
    )
    while True:
        # Continues from the current vectors, with new samples.
        model.random_state = int(rng.integers(1 << 31))
        model.fit(chosen, show_progress=False)
        yield model.user_factors.copy(), model.item_factors.copy()


def _lightgcn(
    histories: Interactions, config: LightGCNConfig, seed: int
) -> Iterator[tuple[Array, Array]]:
    def epoch(rng: np.random.Generator, pairs: int) -> Iterator[NDArray[np.int64]]:
        order = rng.permutation(pairs)
        for start in range(0, pairs, config.batch):
            yield order[start : start + config.batch]

    return train_lightgcn(
        histories,
        config.dim,
        epoch,
        layers=config.layers,
        rate=config.rate,
        decay=config.decay,
        decay_items=True,
        seed=seed,
    )
