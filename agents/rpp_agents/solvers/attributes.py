"""Predict one field of a profile from a user's clicks, through a frozen SASRec.

The paper's second task (Wu et al., IEEE TKDE 2024): a classifier reads the user's vector of a
frozen recommender, and the prompt is made of all *other* fields of the profile, in mode "light"::

    c = classifier(SASRec(generator(other fields), history))

`without_field` takes the field out of a dataset, so that no observation and no prompt can hold it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from rpp_agents.solvers.epochs import best_epoch
from rpp_agents.solvers.ppr import Config, Solver
from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import unknown

__all__ = ["Predicted", "Predictor", "predict", "without_field"]


def without_field(dataset: Dataset, field: str) -> tuple[Dataset, NDArray[np.int64]]:
    """Take a field out of a dataset's profiles.

    Returns
    -------
    (Dataset, (num_users,) int64 array)
        The dataset with the other fields, and the codes of `field`: 0 where it is missing.

    Raises
    ------
    InvalidOption
        For a field that there is not, and for the only one.
    """
    profiles = dataset.profiles
    fields = () if profiles is None else profiles.fields
    if profiles is None or field not in fields or len(fields) < 2:
        raise InvalidOption(
            unknown("profile field", field, fields)
            if field not in fields
            else f"{field!r} is the only field of {dataset.name}: the prompt is made of others"
        )
    others = profiles.select([name for name in fields if name != field])
    return replace(dataset, profiles=others), profiles.codes[:, fields.index(field)]


class Predictor(Solver):
    """Learner of a classifier, and of the generator of its prefix.

    Parameters
    ----------
    env : RPPEnv
        Environment of ``PPR-v0`` with a dataset of `without_field`.
    labels : (num_users,) int64 array
        Codes of the field that is predicted; users with 0 are not learned from.
    config : Config
        Options; there is no contrastive loss.
    prompt : bool
        Whether a prefix precedes the history; without one the classifier alone is trained.

    Raises
    ------
    InvalidData
        For labels of other users, and where no training user has one.
    """

    def __init__(
        self, env: Any, labels: NDArray[np.int64], config: Config, *, prompt: bool = True
    ) -> None:
        dataset = env.tasks.dataset
        if labels.shape != (dataset.num_users,):
            raise InvalidData(
                f"there are labels of shape {labels.shape}, and {dataset.name} has "
                f"{dataset.num_users} users: take both from without_field"
            )
        self.labels = labels
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.seed)
            # Before the rest, because the optimizer is made of all that is trained.
            self.classifier = nn.Linear(env.recommender.config.dim, int(labels.max(initial=1)))
        # In mode "pre-train" nothing of PPR's is trained: only the classifier is left.
        super().__init__(
            env, config, mode="light" if prompt else "pre-train", prompt=prompt, shift=False
        )
        self.known = np.flatnonzero(labels[self.tasks.users])
        if not len(self.known):
            raise InvalidData("no training user has the field that is to be predicted")

    def trained(self) -> tuple[list[Tensor], list[Tensor]]:
        """See `Solver.trained`: also the classifier's weights."""
        networks, own = super().trained()
        return [*networks, *self.classifier.parameters()], own

    def predict(self, tasks: TaskSet) -> NDArray[np.int64]:
        """(T,) int64 codes that are predicted for the users of `tasks`, from 1."""
        profiles = tasks.dataset.profiles
        assert profiles is not None
        hot = torch.from_numpy(profiles.one_hot(tasks.users))
        with torch.inference_mode():
            found = self._classes(tasks, np.arange(len(tasks)), hot).argmax(1) + 1
        return np.asarray(found.numpy())

    def accuracy(self, tasks: TaskSet) -> float:
        """Share of right predictions, among tasks of users whose field is known."""
        truth = self.labels[tasks.users]
        return float((self.predict(tasks) == truth)[truth > 0].mean())

    def _classes(self, tasks: TaskSet, rows: NDArray[np.int64], hot: Tensor) -> Tensor:
        """(B, classes) scores of the classes for tasks `rows`, whose profiles are `hot`."""
        longest = max(1, int(tasks.history_lengths[rows].max(initial=1)))
        length = min(longest, self.recommender.config.max_length)
        seen = torch.from_numpy(tasks.padded_history(length, rows).astype(np.int64))
        prefix, _ = self._decoded(self.networks(hot))
        found: Tensor = self.classifier(self.recommender.encode(seen, prefix))
        return found

    def _loss(self, rows: NDArray[np.int64]) -> tuple[Tensor, float, int]:
        """Return a batch's loss, its accuracy, and the number of differentiated answers."""
        rows = self.known[rows % len(self.known)]
        classes = self._classes(self.tasks, rows, self.hot[rows])
        truth = torch.from_numpy(self.labels[self.tasks.users[rows]] - 1)
        right = float((classes.argmax(1) == truth).float().mean())
        return F.cross_entropy(classes, truth), right, len(rows)


@dataclass(frozen=True, eq=False)
class Predicted:
    """Result of `predict`.

    Attributes
    ----------
    predictor : Predictor
        With the weights of the best epoch.
    validation : float
        Accuracy on validation tasks in that epoch.
    epoch : int
        Index of that epoch; 0: before training.
    """

    predictor: Predictor
    validation: float
    epoch: int


def predict(
    env: Any,
    labels: NDArray[np.int64],
    validation: TaskSet,
    config: Config,
    *,
    prompt: bool = True,
    patience: int = 5,
) -> Predicted:
    """Train a `Predictor`, and keep the epoch that is best on validation tasks.

    Parameters
    ----------
    env, labels, config, prompt
        See `Predictor`; `config.total_steps` is the maximum.
    validation : TaskSet
        Tasks of other users of the same dataset.
    patience : int
        Number of epochs without an improvement after which training ends.
    """
    predictor = Predictor(env, labels, config, prompt=prompt)
    parts = (predictor.networks, predictor.classifier)

    def copied() -> list[dict[str, Tensor]]:
        return [{name: x.clone() for name, x in part.state_dict().items()} for part in parts]

    epoch, weights, best = best_epoch(
        predictor.iterate,
        copied,
        lambda: predictor.accuracy(validation),
        total_steps=config.total_steps,
        batch=config.batch,
        tasks=len(predictor.known),
        patience=patience,
    )
    for part, kept in zip(parts, weights, strict=True):
        part.load_state_dict(kept)
    return Predicted(predictor, best, epoch)
