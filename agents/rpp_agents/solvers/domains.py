"""Two domains of one dataset, and users' vectors of the one as profiles in the other.

The cross-domain prompt of PPR (Wu et al., IEEE TKDE 2024): the same users, no item in common, and
the vector that a recommender of the source domain has of a user is the prompt in the target
domain. The paper has two services of one company; here both domains are parts of one dataset, cut
by genre, and are called that::

    source, target = split_domains(load_dataset("ml-100k"), ["Comedy"])
    model = train(histories of source, Config())
    dataset = with_source(target, source, model)
    env = RPPEnv.make(rules="PPR-v0", dataset=dataset)

In ``PPR-v0`` the vector then takes the place of a profile: solvers, agents and controls are the
same. `rpp_agents.solvers.ppr.Config.given` makes it the prefix itself; without it the generator
reads it.

The whole source history is read, also what lies after the target's click: the services of the
paper have no common clock either.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from rpp_env.data.dataset import Dataset
from rpp_env.data.neighbours import unit
from rpp_env.data.profiles import Profiles
from rpp_env.data.splits import Interactions
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.options import unknown
from rpp_env.recommenders.sasrec import SASRec, last_items

__all__ = ["UserVectors", "split_domains", "with_source"]


@dataclass(frozen=True, eq=False)
class UserVectors(Profiles):
    """Profiles that are vectors: one field of d numbers, of length 1, or 0 where nothing is known.

    Attributes
    ----------
    vectors : (num_users, d) float32 array
        What `one_hot` returns; there are no codes.
    """

    vectors: NDArray[np.float32] = field(default_factory=lambda: np.zeros((0, 0), np.float32))

    @classmethod
    def of(cls, vectors: ArrayLike) -> UserVectors:
        """Make profiles of (num_users, d) vectors, scaled to length 1."""
        given = np.asarray(vectors, np.float32)
        if given.ndim != 2 or not np.isfinite(given).all():
            raise InvalidData(f"vectors must be finite numbers (users, d); got {given.shape}")
        scaled = unit(given)
        scaled.setflags(write=False)
        names = tuple(map(str, range(given.shape[1])))
        return cls(("source",), (names,), np.zeros((len(given), 1), np.int64), scaled)

    def one_hot(self, users: ArrayLike | None = None) -> NDArray[np.float32]:
        """(n, d) float32: the vectors of `users`, or of all."""
        if users is None:
            return self.vectors.copy()
        found: NDArray[np.float32] = self.vectors[np.asarray(users, dtype=np.int64)]
        return found

    def select(self, fields: Sequence[str]) -> Profiles:
        """Return the profiles; ``source`` is the only field."""
        for name in fields:
            if name not in self.fields:
                raise InvalidOption(unknown("profile field", name, self.fields))
        return self

    def shuffled(self, users: ArrayLike, seed: int = 0) -> Profiles:
        """See `Profiles.shuffled`."""
        rows = np.arange(len(self))[:, None]
        places = Profiles(("row",), (tuple(map(str, range(len(rows)))),), rows + 1)
        order = places.shuffled(users, seed).codes[:, 0] - 1
        return replace(self, vectors=self.vectors[order])

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of the vectors."""
        return hashlib.sha256(self.vectors.astype("<f4").tobytes()).hexdigest()


def split_domains(dataset: Dataset, genres: Sequence[str]) -> tuple[Dataset, Dataset]:
    """Split a dataset by its items' genres: the source, and the target with items of `genres`.

    Users are the same in both, in the same rows; some may have no item in one of them. Orders are
    unchanged.

    Raises
    ------
    InvalidOption
        For an unknown genre, and where a domain would have no item.
    """
    known = sorted({genre for item in dataset.genres for genre in item})
    for genre in genres:
        if genre not in known:
            raise InvalidOption(unknown("genre", genre, known))
    wanted = np.array([not set(genres).isdisjoint(item) for item in dataset.genres], dtype=bool)
    if wanted.all() or not wanted.any():
        raise InvalidOption(
            f"items of {', '.join(genres) or 'no genre'} are {int(wanted.sum())} of {len(wanted)}: "
            "both domains need items"
        )
    return _part(dataset, ~wanted, "source"), _part(dataset, wanted, "target")


def with_source(target: Dataset, source: Dataset, model: SASRec) -> Dataset:
    """Return `target` with its users' vectors in `source` as profiles; 0 without a history.

    Parameters
    ----------
    target, source : Dataset
        Of the same users, in the same rows, with no item in common.
    model : SASRec
        Trained on histories of the source domain.

    Raises
    ------
    InvalidData
        For other users, common items, or a model of other items.
    """
    if target.user_tokens != source.user_tokens:
        raise InvalidData("both domains need the same users, in the same rows")
    if shared := set(target.item_tokens) & set(source.item_tokens):
        raise InvalidData(
            f"{len(shared)} items, {min(shared)!r} among them, are in both domains: a source "
            "vector would be made of targets"
        )
    model.check(source)
    histories = Interactions(source.indptr, source.items, source.num_items)
    length, vectors = model.config.max_length, []
    with torch.inference_mode():
        for start in range(0, source.num_users, 512):
            users = np.arange(start, min(start + 512, source.num_users))
            last = last_items(histories, users, histories.indptr[users + 1], length)
            vectors.append(model.encode(torch.from_numpy(last)).numpy())
    return replace(target, profiles=UserVectors.of(np.concatenate(vectors)))


def _part(dataset: Dataset, kept: NDArray[np.bool_], name: str) -> Dataset:
    """Return a dataset with some of the items, and what users clicked of them."""
    here = kept[dataset.items]
    places = np.flatnonzero(kept).tolist()
    return replace(
        dataset,
        name=f"{dataset.name}-{name}",
        titles=tuple(dataset.titles[i] for i in places),
        item_tokens=tuple(dataset.item_tokens[i] for i in places),
        genres=tuple(dataset.genres[i] for i in places),
        indptr=np.concatenate([[0], np.cumsum(here)])[dataset.indptr],
        items=(np.cumsum(kept) - 1)[dataset.items[here]].astype(np.int32),
        default_split=None,
        last_times=None,
        folder=None,
        profiles=None,
    )
