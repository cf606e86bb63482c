"""The training loop of recommenders: epochs, validation, and a checkpoint to resume from."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.splits import Interactions
from rpp_env.data.tensors import read_tensors, write_tensors
from rpp_env.errors import InvalidData
from rpp_env.options import check_seed
from rpp_env.recommenders.patience import Patience

if TYPE_CHECKING:
    from torch import Tensor
    from torch.optim import Optimizer

__all__ = ["Stages", "Trained", "copied", "held_out"]

_JUDGED = 2000
"""Maximum number of users whose held-out clicks choose the epoch; at most a fifth of all users."""


class Trained(Protocol):
    """A recommender that `Stages` trains: named weights, and a score on held-out clicks."""

    validation: float

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The weights by name."""


M = TypeVar("M", bound=Trained)


class Stages(ABC, Generic[M]):
    """Training epoch by epoch, whose best epoch on held-out clicks is kept.

    A subclass has five methods: `initial`, `of`, `copy`, `learn` and `judge`.

    Parameters
    ----------
    kind : str
        Name of the recommender in files.
    histories : Interactions
        Histories of the users to train on, without any target.
    config : Patience
    seed : int
        Seed of first weights, samples, orders and dropout.
    catalog : str
        `Dataset.catalog_digest`, stored in the recommender for later checks.
    checkpoint : str or Path, optional
        A file that is written after every epoch, and from which training resumes bit-identically.

    Attributes
    ----------
    done : bool
        Whether the last epoch was reached, or patience has run out.
    best : Trained
        The best epoch so far, with its ``validation``.

    Raises
    ------
    InvalidData
        For a checkpoint of other histories, another config or seed.
    """

    def __init__(
        self,
        kind: str,
        histories: Interactions,
        config: Patience,
        *,
        seed: int = 0,
        catalog: str = "",
        checkpoint: str | Path | None = None,
    ) -> None:
        import torch

        check_seed(seed)
        self.seed, self.catalog = seed, catalog
        self._patience = config
        self._checkpoint = None if checkpoint is None else Path(checkpoint)
        self.taught, self.users, self.held = held_out(histories)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.model = self.initial()
        self._about = {
            "kind": f"{kind} training",
            # Epochs may be raised later; and as JSON, where tuples are lists.
            "config": json.loads(json.dumps(asdict(replace(config, epochs=1, patience=1)))),
            "seed": seed,
            "catalog": catalog,
            "histories": histories.digest,
        }
        self._epoch, self._found, self._seconds, self._value = 0, 0, 0.0, -np.inf
        self.best = self.copy(self.model)
        moments = self._restored() if self._checkpoint and self._checkpoint.exists() else {}
        self.optimizer = self.make_optimizer(moments)

    @abstractmethod
    def initial(self) -> M:
        """Make an untrained recommender, with weights from torch's global generator."""

    @abstractmethod
    def of(self, path: Path, tensors: Mapping[str, Tensor]) -> M:
        """Make a recommender of the tensors of a file, checking them."""

    @abstractmethod
    def copy(self, model: M) -> M:
        """Copy a recommender, so that later steps do not change it."""

    @abstractmethod
    def make_optimizer(self, moments: Mapping[str, Mapping[str, Tensor]]) -> Optimizer:
        """Make an Adam optimizer over all weights, with these moments; enables their gradients."""

    @abstractmethod
    def learn(self, rng: np.random.Generator) -> float:
        """Train for one epoch; returns the mean loss."""

    @abstractmethod
    def judge(self) -> float:
        """Return the NDCG@10 of the held-out clicks, `held` of `users` after `taught`."""

    @property
    def done(self) -> bool:
        """Return whether training is finished."""
        waited = self._epoch - self._found
        return self._epoch >= self._patience.epochs or waited >= self._patience.patience

    @property
    def reached(self) -> dict[str, float]:
        """``epoch`` and ``found`` (the best epoch), its ``value``, and ``seconds``."""
        return {
            "epoch": self._epoch,
            "found": self._found,
            "value": self._value,
            "seconds": self._seconds,
        }

    def epoch(self) -> dict[str, float]:
        """Train for one epoch, validate, and write the checkpoint; returns a progress record."""
        import torch

        began = time.perf_counter()
        self._epoch += 1
        rng = np.random.default_rng([self.seed, self._epoch])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(1 << 62)))
            loss = self.learn(rng)
        value = self.judge()
        if value > self._value:
            self._value, self._found = value, self._epoch
            self.best = self.copy(self.model)
            self.best.validation = value
        self._seconds += time.perf_counter() - began
        if self._checkpoint is not None:
            self._write(self._checkpoint)
        return {
            "epoch": self._epoch,
            "validation": value,
            "seconds": self._seconds,
            "loss": loss,
        }

    def _write(self, path: Path) -> None:
        tensors = {f"model.{name}": tensor for name, tensor in self.model.weights.items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.weights.items()}
        for name, moments in zip(self.model.weights, self._moments(), strict=True):
            tensors |= {f"{part}.{name}": moments[part] for part in _MOMENTS}
        write_tensors(path, tensors, {**self._about, **self.reached})

    def _moments(self) -> list[dict[str, Tensor]]:
        state = self.optimizer.state
        return [state[p] for group in self.optimizer.param_groups for p in group["params"]]

    def _restored(self) -> dict[str, dict[str, Tensor]]:
        """Resume from the checkpoint; returns the optimizer's moments."""
        path = self._checkpoint
        assert path is not None
        tensors, about = read_tensors(path)
        for what, ours in self._about.items():
            if about.get(what) != ours:
                raise InvalidData(
                    f"{path} is the checkpoint of a training with another {what}: "
                    f"{about.get(what)!r}, and this one has {ours!r}. Name another file, or delete "
                    "that one"
                )
        parts: dict[str, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            part, _, rest = name.partition(".")
            parts.setdefault(part, {})[rest] = tensor
        names = set(self.model.weights)
        if set(parts) != {"model", "best", *_MOMENTS} or any(
            set(p) != names for p in parts.values()
        ):
            raise InvalidData(f"{path} is damaged: it lacks tensors of a recommender in training")
        try:
            self.model = self.of(path, parts["model"])
            self.best = self.of(path, parts["best"])
            self._epoch, self._found = int(about["epoch"]), int(about["found"])
            self._value, self._seconds = float(about["value"]), float(about["seconds"])
        except (KeyError, TypeError, ValueError) as error:
            if isinstance(error, InvalidData):
                raise
            raise InvalidData(f"{path} is damaged: {error!r}") from error
        self.best.validation = self._value
        return {name: {part: parts[part][name] for part in _MOMENTS} for name in names}


_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


def copied(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy weights, without gradients, so that later steps do not change them."""
    return {name: tensor.detach().clone() for name, tensor in weights.items()}


def held_out(
    histories: Interactions,
) -> tuple[Interactions, NDArray[np.int64], NDArray[np.int32]]:
    """Return histories without the last items of some users, those users, and these items."""
    lengths = np.diff(histories.indptr)
    users = np.flatnonzero(lengths >= 2)
    users = np.random.default_rng(0x7A1).permutation(users)
    users = np.sort(users[: min(_JUDGED, -(-len(users) // 5))])
    last = histories.indptr[users + 1] - 1
    lengths[users] -= 1
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    rest = Interactions(indptr, np.delete(histories.items, last), histories.num_items)
    return rest, users, histories.items[last]
