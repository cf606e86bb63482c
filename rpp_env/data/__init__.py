"""Data: atomic files or a seed -> `Dataset` -> users split -> ranking tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rpp_env.data.candidates import (
    MAX_HISTORY,
    TaskSet,
    make_tasks,
    read_selection,
    split_selection,
)
from rpp_env.data.dataset import Dataset
from rpp_env.data.files import KNOWN, find_dataset, read_dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.splits import Interactions, UserSplit, split_users, training_interactions
from rpp_env.errors import InvalidOption

__all__ = [
    "KNOWN",
    "MAX_HISTORY",
    "Dataset",
    "Interactions",
    "TaskSet",
    "UserSplit",
    "cache_dir",
    "load_dataset",
    "make_tasks",
    "read_selection",
    "split_selection",
    "split_users",
    "training_interactions",
]

_MADE = ("movieworld", "movieworld-hard", "movieworld-drift")


def load_dataset(name: str | Path, root: str | Path | None = None, **options: Any) -> Dataset:
    """Load a dataset by name, or from a folder of atomic files.

    Parameters
    ----------
    name : str or Path
        ``"movieworld"``, ``"movieworld-hard"`` and ``"movieworld-drift"`` are made by a seed.
        ``"ml-1m"``, ``"ml-100k"``, ``"ml-latest-small"``, ``"lastfm"``, ``"games"``, ``"beauty"``,
        ``"sports"`` and ``"toys"`` (upper or lower case) are folders of that name, looked up under
        `root`, else under the environment variable ``RPP_ENV_DATA``, else in the cache folder.
        Anything else is the path of a folder.
    root : str or Path, optional
        The folder that holds the folders.
    **options
        Movieworld: `num_users`, `num_items`, `seed`. Files: `domain` and `order`, which override
        what is known of the name (a folder of your own: ``"products"`` and ``"time"``).

    Raises
    ------
    UnknownDataset
        Where no such folder was found; the message says where it was looked for.
    InvalidData
        Where a file is broken; the message names file, line and column.
    InvalidOption
        For options that the dataset does not have.
    """
    made = str(name).lower() in _MADE
    allowed = ("num_users", "num_items", "seed") if made else ("domain", "order")
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise InvalidOption(
            f"dataset {str(name)!r} has no option {unknown[0]!r}; its options are "
            f"{', '.join(allowed)}"
        )
    if made:
        if root is not None:
            raise InvalidOption(f"dataset {str(name)!r} is made by a seed: root has no meaning")
        from rpp_env.data.movieworld import movieworld

        return movieworld(str(name).lower(), **options)
    return read_dataset(find_dataset(name, root), **options)
