"""Candidates that a deployment would re-rank: the items that a frozen SASRec ranks highest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import write_text
from rpp_env.errors import InvalidOption

if TYPE_CHECKING:
    from rpp_env.recommenders.sasrec import SASRec

__all__ = ["retrieve", "write_selection"]

_BATCH = 512


def retrieve(
    model: SASRec, dataset: Dataset, users: Iterable[int], count: int = 40
) -> dict[int, NDArray[np.int32]]:
    """List the items that a SASRec scores highest for each user, out of the whole catalog.

    The model reads the user's history without the target, and items of the history are left out.
    The target is in the list only where the model ranks it that high, and nothing marks it.

    Parameters
    ----------
    model : SASRec
        Trained on the histories of train users, as `rpp_env.recommenders.pretrained.pretrained`
        trains one from `training_interactions`.
    dataset : Dataset
    users : iterable of int
        User rows.
    count : int
        Items of a list.

    Returns
    -------
    dict of int to (count,) int32 array
        Item rows by user row, best first, as `rpp_env.data.make_tasks` takes for
        ``negatives="retrieved"``; there the target is put in, and the order is shuffled.

    Raises
    ------
    InvalidOption
        If a user's history leaves fewer than `count` items.
    InvalidData
        For a model of other items.
    """
    import torch

    model.check(dataset)
    rows = np.fromiter(users, np.int64)
    longest = int(dataset.lengths[rows].max(initial=1)) - 1
    if not 1 <= count <= dataset.num_items - longest:
        raise InvalidOption(
            f"count must be 1 to {dataset.num_items - longest}, the items that the longest history "
            f"leaves; got {count}"
        )
    length, found = model.config.max_length, {}
    items = model.weights["items.weight"].detach()
    for start in range(0, len(rows), _BATCH):
        part = rows[start : start + _BATCH]
        seen = [dataset.sequence(user)[:-1] for user in part.tolist()]
        padded = np.full((len(part), length), -1)
        for row, history in zip(padded, seen, strict=True):
            last = history[-length:]
            row[length - len(last) :] = last
        with torch.inference_mode():
            scores = (model.encode(torch.from_numpy(padded)) @ items.T).numpy()
        for user, own, known in zip(part.tolist(), scores, seen, strict=True):
            own[known] = -np.inf
            found[user] = np.argsort(-own, kind="stable")[:count].astype(np.int32)
    return found


def write_selection(
    path: str | Path, selection: Mapping[int, NDArray[np.integer]], dataset: Dataset
) -> None:
    """Write lists as a file that `rpp_env.data.read_selection` reads (``selection=PATH``)."""
    lines = [
        f"{dataset.user_tokens[user]}\t{' '.join(dataset.item_tokens[item] for item in items)}\n"
        for user, items in selection.items()
    ]
    write_text(Path(path), "".join(lines))
