"""A real SASRec of a small generated world, for tests of prompts that are vectors or tokens."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from rpp_env import Dataset, Rankings, load_dataset
from rpp_env.data import split_users, training_interactions
from rpp_env.tokens import SlotPrompts
from rpp_env.vectors import PrefixPrompts

WIDTH = 16


def small_world() -> Dataset:
    return load_dataset("movieworld", num_users=400, num_items=100)


def trained(data: Dataset) -> Any:
    """A `SASRec` that is trained here, in seconds."""
    from rpp_env.recommenders.sasrec import Config, train

    config = Config(
        dim=WIDTH, blocks=1, max_length=20, loss="cross_entropy", rate=5e-3, batch=64, epochs=3
    )
    histories = training_interactions(data, split_users(data))
    return train(histories, config, catalog=data.catalog_digest)


class Slotted:
    """A SASRec that reads tokens: an item's vector for each slot, before the history."""

    reads = SlotPrompts

    def __init__(self, sasrec: Any, items: NDArray[Any]) -> None:
        self.sasrec, self.items = sasrec, items

    def rank(self, prompts: SlotPrompts) -> Rankings:
        found: Rankings = self.sasrec.rank(PrefixPrompts(self.items[prompts.ids], prompts.tasks))
        return found
