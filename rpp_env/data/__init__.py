"""Data: from atomic files or a generated world to a `Dataset`, a split and ranking tasks."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

from rpp_env.data.arrivals import ColdSplit, arrival_tasks, split_arrivals
from rpp_env.data.candidates import (
    MAX_HISTORY,
    TaskSet,
    make_tasks,
    read_selection,
    split_selection,
)
from rpp_env.data.dataset import Dataset
from rpp_env.data.files import KNOWN, MADE, find_dataset, read_dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.profiles import Profiles
from rpp_env.data.splits import Interactions, UserSplit, split_users, training_interactions
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import unknown
from rpp_env.plugins import entry_points, is_code, load_code, make, resolve

__all__ = [
    "KNOWN",
    "MADE",
    "MAX_HISTORY",
    "ColdSplit",
    "Dataset",
    "Interactions",
    "Profiles",
    "TaskSet",
    "UserSplit",
    "arrival_tasks",
    "cache_dir",
    "load_dataset",
    "make_tasks",
    "read_selection",
    "split_arrivals",
    "split_selection",
    "split_users",
    "training_interactions",
]


def load_dataset(name: str | Path, root: str | Path | None = None, **options: Any) -> Dataset:
    """Load a dataset by name, or from a folder of atomic files.

    Parameters
    ----------
    name : str or Path
        ``"movieworld"``, ``"movieworld-hard"``, ``"movieworld-drift"`` and ``"arrivals"`` are
        generated from a seed.
        ``"ml-1m"``, ``"ml-100k"``, ``"ml-latest-small"``, ``"lastfm"``, ``"games"``, ``"beauty"``,
        ``"sports"`` and ``"toys"`` (upper or lower case) are folders of that name, looked up under
        `root`, else under the environment variable ``RPP_ENV_DATA``, else in the cache folder.
        ``"package.module:function"`` or an entry point of ``rpp_env.datasets`` makes a dataset.
        Anything else is the path of a folder.
    root : str or Path, optional
        The folder that holds the folders.
    **options
        Movieworld: `num_users`, `num_items`, `seed`. Files: `domain` and `order`, which override
        the known facts about the name (a folder of your own: ``"products"`` and ``"time"``).

    Raises
    ------
    UnknownDataset
        If the folder is not found; the message lists the places that were searched.
    InvalidData
        If a file is invalid; the message names file, line and column.
    InvalidOption
        For options that the dataset does not take.
    """
    brought = _brought(str(name))
    made = str(name).lower() in MADE
    # Check the name before its options.
    folder = None if made or brought is not None else find_dataset(name, root)
    allowed: tuple[str, ...] = ("num_users", "num_items", "seed") if made else ("domain", "order")
    if brought is not None:
        allowed = tuple(inspect.signature(brought).parameters) if callable(brought) else ()
        options |= {} if root is None else {"root": root}
    for key in options:
        if key not in allowed:
            raise InvalidOption(f"dataset {str(name)!r}: {unknown('option', key, allowed)}")
    if brought is not None:
        dataset = make(brought, options)
        if not isinstance(dataset, Dataset):
            raise InvalidData(f"{name} returned a {type(dataset).__name__}, not a Dataset")
        return dataset
    if folder is None:
        if root is not None:
            raise InvalidOption(f"dataset {str(name)!r} is generated: leave out root")
        movieworld = load_code("dataset", "rpp_env.sim.movieworld:movieworld")
        return cast(Dataset, movieworld(str(name).lower(), **options))
    return read_dataset(folder, **options)


def _brought(name: str) -> Any:
    """Return external code that makes this dataset; None for the package's own, and folders."""
    if name.lower() in (*MADE, *KNOWN) or Path(name).is_dir():
        return None
    if is_code(name) or name in entry_points("dataset"):
        return resolve("dataset", name, {})
    return None
