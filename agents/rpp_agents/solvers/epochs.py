"""Training of a solver epoch by epoch, keeping the epoch that is best on validation tasks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from rpp_agents.recommenders.base import keep_best
from rpp_env.recommenders.patience import Patience

__all__ = ["best_epoch"]

W = TypeVar("W")


def best_epoch(
    iterate: Callable[[float], object],
    weights: Callable[[], W],
    judge: Callable[[], float],
    *,
    total_steps: int,
    batch: int,
    tasks: int,
    patience: int,
    progress: Callable[[int, float], None] | None = None,
) -> tuple[int, W, float]:
    """Train for as many epochs as `total_steps` allow, one at least, unless patience runs out.

    Parameters
    ----------
    iterate : callable
        Takes one gradient step on a batch; its argument is always 0.
    weights : callable
        Copies the weights.
    judge : callable
        Returns the score on validation tasks.
    total_steps : int
        Number of tasks to train on; with 0 the start alone is judged.
    batch, tasks : int
        Number of tasks of a step, and of an epoch.
    patience : int
        Number of epochs in a row without a better score after which training ends.
    progress : callable, optional
        Called with (epoch, score) after every epoch.

    Returns
    -------
    (int, weights, float)
        The best epoch, its weights and its score; epoch 0 is the start, since nothing better may
        follow.
    """
    steps = -(-tasks // batch)
    epochs = max(1, total_steps // (steps * batch)) if total_steps else 0

    def training() -> Iterator[tuple[int, W]]:
        for epoch in range(epochs + 1):
            for _ in range(steps if epoch else 0):
                iterate(0.0)
            yield epoch, weights()

    def judged(state: tuple[int, W]) -> float:
        score = judge()
        if progress is not None and state[0] > 0:
            progress(state[0], score)
        return score

    stop = Patience(epochs=epochs + 1, patience=patience)
    (epoch, found), best = keep_best(training(), judged, stop, None)
    return epoch, found, best
