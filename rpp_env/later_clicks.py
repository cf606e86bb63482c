"""Tasks, options and recommender of ids that are played on users' later clicks, with a T5.

PAPRec-v0 and PeaPOD-v0 share them: the same users in each split, and one of their last three clicks
as the target (`rpp_env.data.clicks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Generic, TypeVar

from rpp_env.data.candidates import TaskSet
from rpp_env.data.clicks import SMALL_WORLD, click_tasks, task_users, training_clicks
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption
from rpp_env.factory import (
    DataOptions,
    choose_users,
    chosen_options,
    given_dataset,
    given_table,
)
from rpp_env.options import check_numbers
from rpp_env.recommenders.t5 import T5
from rpp_env.table import RewardTable

__all__ = ["Options", "Played", "histories_of", "played", "recommender_of"]


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Options of all ids of later clicks."""

    num_candidates: int | None = 100
    """Number of candidates, the target included; None: all items."""
    repeats: Repeats = "drop"
    """How a target that the user clicked before is treated; see `click_tasks`."""
    task_seed: int = 0
    """Seed of candidates and orders."""
    user_seed: int = 0
    """Seed for drawing `max_users` users."""
    dim: int = 32
    """Width of the embeddings of the observations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "dim", highest=10_000)
        check_numbers(self, 2, "num_candidates")
        check_numbers(self, 0, "data_seed", "task_seed", "user_seed")


O = TypeVar("O", bound=Options)  # noqa: E741


@dataclass(frozen=True)
class Played(Generic[O]):
    """Options, data, tasks and model of an environment, from the arguments of its ``assemble``.

    Attributes
    ----------
    chosen : Options
        The options, with the size of a generated world.
    data : Dataset
    tasks : TaskSet
        Those of the table, if there is one.
    model : object
        The `model` as it was given; None with a table.
    table : RewardTable or None
    """

    chosen: O
    data: Dataset
    tasks: TaskSet
    model: Any
    table: RewardTable | None


def played(
    kind: type[O],
    episode: Episode,
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Played[O]:
    """Check the arguments of an ``assemble``; `kind` is the class of the id's options.

    Raises
    ------
    InvalidOption
        For options that are unknown, or contradict each other.
    """
    chosen = chosen_options(kind, episode.id, options)
    if max_cycles not in (None, episode.max_cycles):
        raise InvalidOption(
            f"an episode of {episode.id} has one step: leave max_cycles={max_cycles!r} out"
        )
    dataset = "movieworld" if dataset is None else dataset
    if dataset == "movieworld":
        chosen = kind(**SMALL_WORLD | {k: v for k, v in options.items() if v is not None})
    data = given_dataset(dataset, chosen)
    tasks = _tasks(
        data,
        tuple(choose_users(task_users(data), max_users, chosen.user_seed).tolist()),
        split,
        num_candidates=chosen.num_candidates,
        seed=chosen.task_seed,
        repeats=chosen.repeats,
    )
    model, tasks, table = given_table(model, tasks, split)
    return Played(chosen, data, tasks, model, table)


@lru_cache(maxsize=8)
def _tasks(data: Dataset, users: tuple[int, ...], part: str, **options: Any) -> TaskSet:
    return click_tasks(data, users, part, **options)


@lru_cache(maxsize=4)
def histories_of(data: Dataset, repeats: Repeats = "drop") -> Interactions:
    """Return `training_clicks`, cached."""
    return training_clicks(data, repeats=repeats)


def recommender_of(model: Any, data: Dataset, histories: Interactions) -> Any:
    """Return the T5 of a name or a file, checked against the dataset; anything else as it is.

    Parameters
    ----------
    model : object
        None or ``"t5"`` is the default, trained on `histories`; ``"checkpoint:PATH"`` is a file of
        `T5.save`.
    data : Dataset
    histories : Interactions

    Raises
    ------
    InvalidData
        For a T5 of another catalog.
    """
    if model is None or model == "t5":
        return _pretrained(data, histories)
    if isinstance(model, str) and model.startswith("checkpoint:"):
        model = T5.load(model.removeprefix("checkpoint:"))
    if isinstance(model, T5):
        model.check(data)
    return model


@lru_cache(maxsize=4)
def _pretrained(data: Dataset, histories: Interactions) -> T5:
    from rpp_env.recommenders.pretrained import pretrained_t5

    return pretrained_t5(data, histories)
