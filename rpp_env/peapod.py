"""PeaPOD-v0: a prefix for a frozen T5 that is composed from similar users.

=============  ======================================================================
agents         one for each head of attention (four by default)
actions        ``Box(-1, 1, (n,))`` each: logits of the attention to n neighbours; or
               ``Discrete(n)``, whom to listen to, by an option
prompt         three vectors: a projection of the values that the heads take from the neighbours
observations   the blocks of `rpp_env.observation`; ``vector``, the user's own; ``neighbours``,
               theirs; ``similarity``, how alike they are
recommender    a small T5, trained on all users' clicks but their last three, and frozen
users          all of them in each split; the clicks differ: the third-last is for ``train``, the
               one before the last for ``validation``, the last for ``test``
reward         NDCG@10 of the click among 99 items that the user never clicks, or all items
episode        one step
=============  ======================================================================

Version history: v0, the first one. The system is PeaPOD (Ramos, Wu and Lipani, arXiv 2407.05033),
as an environment: its backbone is frozen here, and so are values and projection, after
pre-training on training clicks (`rpp_env.recommenders.composer`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rpp_env import later_clicks
from rpp_env.composed import AttentionPrompts, Composer, Neighbourhood, NeighbourPrompts
from rpp_env.data.dataset import Dataset
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.factory import (
    Parts,
    embeddings_of,
)
from rpp_env.later_clicks import histories_of, played, recommender_of
from rpp_env.observation import Context
from rpp_env.options import check_numbers
from rpp_env.prompting import Recommender
from rpp_env.recommenders import composer as composers
from rpp_env.rules import episode_of

__all__ = ["Options", "assemble"]

_EPISODE = episode_of("PeaPOD-v0")


@dataclass(frozen=True, kw_only=True)
class Options(later_clicks.Options):
    """Options of ``PeaPOD-v0``, besides the environment's own."""

    actions: Literal["attention", "neighbour"] = "attention"
    """Whether a head gives logits of its attention, or chooses one neighbour."""
    sharpness: float = 5.0
    """Largest logit of the attention."""
    whose: composers.Whose = "similar"
    """Whose vectors a prompt is made of: the user's neighbours, or, as controls, the neighbours of
    another user (the next one of the dataset), or the user's own vector alone."""
    neighbours: int = composers.Config.neighbours
    """Number of similar users (n; the paper: 20 or 10)."""
    heads: int = composers.Config.heads
    """Number of heads of attention, each an agent (H; the paper: 4)."""
    length: int = composers.Config.length
    """Number of vectors of the prefix (P; the paper: 3)."""
    vectors: int = composers.Config.dim
    """Width of the users' vectors (the paper: 512)."""
    composer: str | Path | None = None
    """File of a composer that `rpp_env.recommenders.composer.save` wrote; by default one is
    pre-trained, and kept in the cache."""

    def __post_init__(self) -> None:
        super().__post_init__()
        names = "neighbours heads length vectors".split()
        check_numbers(self, 1, *names, highest=10_000)
        check_numbers(self, 0, "sharpness", highest=40, above=True)
        if self.actions == "neighbour" and self.sharpness != Options.sharpness:
            raise InvalidOption("actions='neighbour' has no logits: leave out sharpness")
        given = [name for name in names[1:4] if getattr(self, name) != getattr(Options, name)]
        if self.composer is not None and given:
            raise InvalidOption(
                f"a composer has its own sizes: leave out {', '.join(given)}, or composer"
            )


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Parts:
    """Make the arguments of `RPPEnv` for the id ``PeaPOD-v0``.

    Parameters
    ----------
    dataset : str or Dataset, optional
        By default ``"movieworld"``, of 3,000 users and 200 items.
    model : str or Recommender, optional
        ``"t5"`` (the default; see `rpp_env.recommenders.pretrained`), ``"checkpoint:PATH"`` (a file
        of `T5.save`), or a recommender that reads `PrefixPrompts`; one that is no T5 gets a random
        composer, whose vectors have 64 numbers. A table, or ``"table:PATH"``, is one of the default
        recommender and ``actions="neighbour"``.
    split : str
        The clicks that are played; the users are the same in each.
    max_users, max_cycles : int, optional
        As `RPPEnv.make` takes them; an episode has one step.
    options : mapping
        Fields of `Options`.

    Raises
    ------
    InvalidOption
        For options that are unknown, or contradict each other.
    InvalidData
        For a checkpoint or a composer of another catalog or recommender.
    """
    given = played(Options, _EPISODE, dataset, model, split, max_users, max_cycles, options)
    chosen, data, tasks, table = given.chosen, given.data, given.tasks, given.table
    histories = histories_of(data)
    recommender = recommender_of(given.model, data, histories)
    if isinstance(recommender, str) or not isinstance(recommender, Recommender):
        raise InvalidOption(
            "PeaPOD takes model='t5', 'checkpoint:PATH' or a recommender that reads "
            f"PrefixPrompts, not {model!r}"
        )
    composer, users = _composer(recommender, data, chosen)
    own, near, alike = users.around(tasks, chosen.neighbours, chosen.whose)
    around = Neighbourhood(composer, users.pool, near)
    seen = np.concatenate([own, users.pool[near].reshape(len(tasks), -1), alike], axis=1)
    width = users.pool.shape[1]
    blocks = {"vector": width, "neighbours": near.shape[1] * width, "similarity": near.shape[1]}
    return Parts(
        tasks=tasks,
        rules=_EPISODE,
        book=None,
        embeddings=embeddings_of(table, data, histories, "svd", chosen.dim),
        recommender=None if table else recommender,
        table=table,
        space=NeighbourPrompts(around)
        if chosen.actions == "neighbour"
        else AttentionPrompts(around, sharpness=chosen.sharpness),
        contexts=(Context(blocks, seen.astype(np.float32)),),
    )


def _composer(recommender: Any, data: Dataset, chosen: Options) -> tuple[Composer, composers.Users]:
    """Return the composer, and the users who may be listened to."""
    config = composers.Config(
        dim=chosen.vectors,
        heads=chosen.heads,
        length=chosen.length,
        neighbours=chosen.neighbours,
    )
    if chosen.composer is None:
        return _fitted(recommender, data, config)
    composer, factors = composers.load(chosen.composer)
    width = getattr(getattr(recommender, "config", None), "dim", composer.dim)
    if len(factors.items) != data.num_items or composer.dim != width:
        raise InvalidData(
            f"{chosen.composer} holds a composer of {len(factors.items)} items and vectors of "
            f"{composer.dim} numbers; {data.name} has {data.num_items} items, and the recommender "
            f"reads vectors of {width}: pre-train one for these"
        )
    return composer, composers.Users.of(data, factors)


@lru_cache(maxsize=4)
def _fitted(
    recommender: Any, data: Dataset, config: composers.Config
) -> tuple[Composer, composers.Users]:
    composer, factors = composers.pretrained(recommender, data, config)
    return composer, composers.Users.of(data, factors)
