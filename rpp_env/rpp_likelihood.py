"""RPPLikelihood-v0: prompts that a title continues, for a small pretrained language model.

=============  ======================================================================
agents         ``role_playing``, ``history_records``, ``reasoning_guidance``, ``output_format``
actions        ``Discrete``: an opening, a move along the history lengths, the form of the
               history, and the words before the next title
observations   the blocks of `rpp_env.observation`, as under ``RPP-v0``
recommender    a pretrained language model, ``"smollm2"`` by default. It scores each
               candidate's title as a continuation of the prompt, which names no candidates
tasks          as under ``RPP-v0``
reward         NDCG@10 of the item that the user chose next
episode        five steps
=============  ======================================================================

How log-probabilities become a score (`score`, `alpha`) is an option of the environment, the same
for all methods: no agent chooses it. Version history: v0, the first one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from rpp_env import factory
from rpp_env.data.dataset import Dataset
from rpp_env.errors import InvalidOption
from rpp_env.rules import episode_of
from rpp_env.sentences.lead_space import LENGTHS, LeadPrompts
from rpp_env.sentences.leads import LeadCatalog

__all__ = ["MODEL", "Options", "assemble"]

_EPISODE = episode_of("RPPLikelihood-v0")
MODEL = "smollm2"
"""Default model: one of `rpp_env.models.pretrained.PRETRAINED`."""


@dataclass(frozen=True, kw_only=True)
class Options(factory.Options):
    """Options of ``RPPLikelihood-v0``, besides the environment's own.

    They are RPP's, without those for other values of `rank_by`.
    """

    rank_by: Literal["likelihood"] = "likelihood"
    """How rankings are read from the model; only this value is possible under this id."""
    catalog: LeadCatalog | Literal["films", "films-forms"] = "films"
    """Options of the agents: all for films, only their forms, or a catalog of your own."""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("book", "calibrate", "generation", "thinking"):
            if getattr(self, name) != getattr(Options, name):
                raise InvalidOption(
                    f"{name} is for models that write an answer, but under {_EPISODE.id} they "
                    "score titles: leave it out (the option catalog sets the prompts' parts)"
                )


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> factory.Parts:
    """Make the arguments of `RPPEnv` for the id ``RPPLikelihood-v0``.

    Parameters
    ----------
    dataset : str or Dataset, optional
        By default ``"movieworld"``.
    model : str, LanguageModel, Recommender or RewardTable, optional
        ``"smollm2"`` by default. A language model needs the capability ``"likelihood"``.
    split : str
        The split whose users are played.
    max_users, max_cycles : int, optional
        As `RPPEnv.make` takes them.
    options : mapping
        Fields of `Options`.

    Raises
    ------
    InvalidOption
        For unknown or contradictory options, a model without likelihoods or one that has not been
        fetched, and a dataset of another domain than films without a `catalog`.
    """
    episode = _EPISODE if max_cycles is None else replace(_EPISODE, max_cycles=max_cycles)
    parts = factory.assemble(
        dataset,
        MODEL if model is None else model,
        split,
        episode,
        max_users,
        None,
        options,
        sentences=False,
        kind=Options,
    )
    catalog = options.get("catalog", Options.catalog)
    history = replace(LENGTHS, steps=episode.max_cycles)
    return replace(parts, space=partial(LeadPrompts, catalog=catalog, history=history))
