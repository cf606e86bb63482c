"""Make the parts of an environment from names; loaded and fitted parts are cached."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, Literal, TypeGuard, TypeVar

import numpy as np
from numpy.typing import NDArray

from rpp_env import tables
from rpp_env.data import load_dataset
from rpp_env.data.candidates import TaskSet, make_tasks, read_selection
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import (
    Interactions,
    Repeats,
    UserSplit,
    split_users,
    training_interactions,
)
from rpp_env.embeddings import Embeddings, fit_embeddings
from rpp_env.episode import Episode, Feedback
from rpp_env.errors import InvalidOption, NotTabulated, TableMismatch
from rpp_env.models.base import Generation, LanguageModel, is_language_model
from rpp_env.models.names import open_model
from rpp_env.models.recording import RecordingModel
from rpp_env.observation import Context
from rpp_env.options import check_fields, check_numbers, check_values, unknown
from rpp_env.recommenders.base import Recommender
from rpp_env.recommenders.likelihood import LikelihoodRecommender, Score
from rpp_env.recommenders.llm import Calibrate, LLMRecommender, RankBy
from rpp_env.rules import IDS, RULES, SYSTEMS, Rules, find_system
from rpp_env.sentences import SentenceCatalog, history_labels
from rpp_env.table import RewardTable
from rpp_env.tables import PREFIX

__all__ = [
    "MODEL_OPTIONS",
    "DataOptions",
    "Options",
    "Parts",
    "as_rules",
    "assemble",
    "choose_users",
    "chosen_options",
    "embeddings_of",
    "given_dataset",
    "given_table",
    "is_table",
    "table_file",
]


Chosen = TypeVar("Chosen", bound="DataOptions")

MODEL_OPTIONS = (
    *("rank_by", "score", "alpha", "calibrate", "generation", "thinking"),
    *("recording", "model_options"),
)
"""Names of the options that are about a language model: a table of its answers takes none."""


@dataclass(frozen=True, kw_only=True)
class DataOptions:
    """Options of any id that select the dataset."""

    root: str | Path | None = None
    """Folder of datasets (default: the environment variable ``RPP_ENV_DATA``, else the cache)."""
    domain: str | None = None
    """Domain of the items, which selects the sentences (default: the dataset's)."""
    num_users: int | None = None
    """Number of users of a generated world."""
    num_items: int | None = None
    """Number of items of a generated world."""
    data_seed: int | None = None
    """Seed of a generated world."""

    def __post_init__(self) -> None:
        check_fields(self)
        check_numbers(self, 1, "num_users", "num_items", highest=10_000_000)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Options of `RPPEnv.make` and of all wrappers, besides the environment's own."""

    fractions: tuple[float, float, float] | None = None
    """Shares of train, validation and test users (default: the dataset's)."""
    split_by: Literal["user", "time"] = "user"
    """How users are split: at random, or those with the latest targets for the test; see
    `split_users`."""
    num_candidates: int | None = None
    """Number of candidates K, the target included; overrides the rules' number."""
    negatives: Literal["uniform", "popularity", "retrieved"] = "uniform"
    """How the candidates other than the target are drawn; see `make_tasks`."""
    selection: str | Path | None = None
    """File of candidates for ``negatives="retrieved"``; only users with a line in it are played."""
    unfiltered: bool | None = None
    """Whether ``negatives="retrieved"`` keeps the user's own items (the paper's rules do)."""
    repeats: Repeats = "drop"
    """How a target that is in its user's history is treated: left out (with a warning that counts),
    shown, or refused; see `make_tasks`."""
    draws: int = 1
    """Tasks per user, each with its own candidates and order."""
    task_seed: int = 0
    """Seed of candidates and orders; apart from `seed`, so that all seeds play the same tasks."""
    user_seed: int = 0
    """Seed for drawing `max_users` users."""
    feedback: Feedback | None = None
    """What the observations show of the user's response to the last list: nothing, its reward, the
    rank of the chosen item, or whether that was in the top three; overrides the rules'."""
    embeddings: Literal["svd", "lightgcn"] | Embeddings = "svd"
    """Method by which the embeddings of the observations are fitted, or fitted embeddings."""
    dim: int = 32
    """Width of the embeddings of the observations."""
    book: SentenceCatalog | str | Path | None = None
    """Catalog of sentences, or the path of its TOML file (default: the domain's)."""
    model_options: Mapping[str, Any] | None = None
    """Options of a language model that is given by its name, as rpp_env.models.open_model takes
    them, such as '{"request_options": {"temperature": null}}'."""
    rank_by: RankBy = "generate"
    """How a language model's rankings are read; see `LLMRecommender`, `LikelihoodRecommender`."""
    score: Score = "sum"
    """How titles' log-probabilities become scores, for ``rank_by="likelihood"``."""
    alpha: float | None = None
    """Weight for ``score="pmi-alpha"``, chosen on train users; see `choose_alpha`."""
    calibrate: Calibrate = "none"
    """How a model's preference for letters is corrected, for ``rank_by="logprobs"``."""
    generation: Generation | None = None
    """Sampling options of a language model; overrides the rules'."""
    thinking: Sequence[tuple[str, str]] = ()
    """Marks that open and close a language model's reasoning, besides the known ones; see
    `LLMRecommender`."""
    recording: str | Path | None = None
    """File of a language model's replies; recorded requests are not sent again."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "draws", "dim", highest=10_000)
        check_numbers(self, 2, "num_candidates", highest=10_000)
        check_numbers(self, 0, "data_seed", "task_seed", "user_seed")
        if isinstance(self.embeddings, Embeddings) and self.dim != type(self).dim:
            raise InvalidOption(f"dim={self.dim} is for fitting embeddings, but some are given")


_CANDIDATES = 20
"""Number of candidates of a task if the rules do not define it."""

_ARGUMENTS: dict[str, Any] = {
    "dataset": str | Path | Dataset,
    "split": Literal["train", "validation", "test"],
    "max_users": int | None,
    "max_cycles": int | None,
}


@dataclass(frozen=True)
class Parts:
    """Arguments for the constructor of an environment."""

    tasks: TaskSet
    rules: Rules | Episode
    book: SentenceCatalog | None
    embeddings: Embeddings
    recommender: Recommender[Any] | None
    table: RewardTable | None
    space: Any = None
    """A prompt space, or a function that makes one, instead of the catalog."""
    contexts: tuple[Context, ...] = ()
    """Further blocks of the observations."""


def as_rules(rules: Any) -> Rules:
    """Return the rules with that id, or the rules themselves."""
    if isinstance(rules, Rules):
        return rules
    if not isinstance(rules, str) or rules not in RULES:
        if isinstance(rules, str) and rules in SYSTEMS:
            raise InvalidOption(
                f"{rules} has no rules of sentences: make it with RPPEnv.make, parallel_env, env "
                "or gymnasium.make"
            )
        raise InvalidOption(f"{unknown('rules', rules, IDS)}. Give your own as Rules")
    return RULES[rules]


def assemble(
    dataset: str | Dataset | None,
    model: str | LanguageModel | Recommender[Any] | RewardTable | None,
    split: str,
    rules: Rules | Episode | str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
    sentences: bool = True,
    kind: type[Options] = Options,
    targets: int = 1,
) -> Parts:
    """Load, fit and check the arguments of `RPPEnv.make`; a catalog only if `sentences`.

    `kind` is the class of the options: a system may add options of its own to `Options`. The last
    `targets` items of each user are targets; nothing is fitted on them.
    """
    if isinstance(rules, str) and rules not in RULES:
        system = find_system(rules)
        dataset = system.dataset if dataset is None else dataset
        model = system.model if model is None else model
        given: dict[str, Any] = {
            "dataset": dataset,
            "split": split,
            "max_users": max_users,
            "max_cycles": max_cycles,
        }
        check_values(_ARGUMENTS, given)
        parts: Parts = resolve_name(system.assemble)(
            dataset, model, split, max_users, max_cycles, options
        )
        return parts
    rules = rules if isinstance(rules, Episode) else as_rules(rules)
    dataset = "movieworld" if dataset is None else dataset
    model = "embedded" if model is None else model
    known = {field.name for field in fields(kind)}
    for key in options:
        if key not in known:
            raise InvalidOption(unknown("option", key, sorted(known)))
    chosen = kind(**options)
    given = {"dataset": dataset, "split": split, "max_users": max_users, "max_cycles": max_cycles}
    check_values(_ARGUMENTS, given)
    data = given_dataset(dataset, chosen)
    if rules == RULES["RPPPaper-v0"] and data.domain == "games":
        rules = replace(rules, start=5)  # as in the paper's code
    if max_cycles is not None:
        rules = replace(rules, max_cycles=max_cycles)
    if chosen.feedback is not None:
        rules = replace(rules, feedback=chosen.feedback)
    users, interactions = _split(data, chosen.fractions, chosen.split_by, chosen.repeats, targets)
    rows = users.part(split)
    retrieved = chosen.negatives == "retrieved"
    if retrieved and chosen.selection is not None:
        rows = np.intersect1d(rows, list(read_selection(chosen.selection, data)))
    rows = choose_users(rows, max_users, chosen.user_seed)
    tasks = _tasks(
        data,
        interactions,
        tuple(rows.tolist()),
        num_candidates=getattr(rules, "num_candidates", _CANDIDATES)
        if chosen.num_candidates is None
        else chosen.num_candidates,
        negatives=chosen.negatives,
        selection=chosen.selection,
        unfiltered=(retrieved and rules.order == "step")
        if chosen.unfiltered is None
        else chosen.unfiltered,
        draws=chosen.draws,
        seed=chosen.task_seed,
        repeats=chosen.repeats,
        targets=targets,
    )
    if targets > 1 and not len(tasks):
        raise InvalidOption(
            f"no user of {data.name} has {targets + 1} items here: give a smaller max_cycles"
        )
    book = _book(chosen, rules, data.domain) if sentences else None
    if not sentences and chosen.book is not None:
        raise InvalidOption("book holds sentences, but a prompt space is given: give one of them")
    if is_table(model):
        _only_for_models(chosen, "a table")
        tasks, table = _opened(model, split).select(tasks)
        fitting = (chosen.embeddings, chosen.dim) != (Options.embeddings, Options.dim)
        if fitting and table.embeddings is not None:
            raise InvalidOption("a table has its own embeddings: leave out embeddings and dim")
        recommender = None
    else:
        assert not isinstance(model, RewardTable)
        recommender, table = _recommender(model, data, interactions, rules, chosen), None
    embeddings = chosen.embeddings
    if isinstance(embeddings, str):
        embeddings = embeddings_of(table, data, interactions, embeddings, chosen.dim)
    return Parts(tasks, rules, book, embeddings, recommender, table)


def chosen_options(kind: type[Chosen], name: str, options: Mapping[str, Any]) -> Chosen:
    """Make the options of the id `name`.

    Raises
    ------
    InvalidOption
        For an option that the id does not have.
    """
    known = [field.name for field in fields(kind)]
    for key in options:
        if key not in known:
            raise InvalidOption(unknown(f"option of {name}", key, known))
    return kind(**options)


def choose_users(rows: NDArray[np.int64], max_users: int | None, seed: int) -> NDArray[np.int64]:
    """Choose at most this many users, the same for all seeds of the environment.

    The users of a smaller number are among those of a larger one.
    """
    if max_users is None:
        return rows
    if max_users < 1:
        raise InvalidOption(f"max_users must be at least 1, not {max_users}")
    return np.sort(np.random.default_rng(seed).permutation(rows)[:max_users])


def _book(chosen: Options, rules: Rules | Episode, domain: str) -> SentenceCatalog:
    if isinstance(chosen.book, SentenceCatalog):
        return chosen.book
    if isinstance(rules, Episode):
        raise InvalidOption(
            f"episode {rules.id!r} does not define the history lengths of prompts of sentences: "
            "give rules, or a prompt space (space=)"
        )
    labels = history_labels(rules.history, rules.history_options)
    return SentenceCatalog.load(domain if chosen.book is None else chosen.book, history=labels)


def given_table(model: Any, tasks: TaskSet, split: str) -> tuple[Any, TaskSet, RewardTable | None]:
    """Return the model and the tasks; for a table given as the model: None, its tasks, and it."""
    if not is_table(model):
        return model, tasks, None
    return None, *_opened(model, split).select(tasks)


def is_table(model: object) -> TypeGuard[str | RewardTable]:
    """Return whether a model is a table, or names one as ``table:PATH`` or ``table:NAME``."""
    return isinstance(model, RewardTable) or (isinstance(model, str) and model.startswith(PREFIX))


def _opened(model: str | RewardTable, split: str) -> RewardTable:
    if isinstance(model, RewardTable):
        return model
    return RewardTable.load(table_file(model.removeprefix(PREFIX), split))


def table_file(name: str, split: str) -> Path:
    """Return the path of a table, or of a split's table in a folder of tables.

    A name of `rpp_env.tables` is one of these, whatever has the same path.

    Raises
    ------
    NotTabulated
        For a folder without a table of this split.
    TableMismatch
        If there is no table of that name.
    InvalidData
        If a file of the package is damaged.
    """
    if (shipped := tables.find(name, split)) is not None:
        return shipped
    path = Path(name)
    if not path.exists():
        raise TableMismatch(
            f"no table at {path}: make one with `rpp-env tabulate`, or name one that comes with "
            f"the package ({unknown('table', name, tables.names())})"
        )
    if not path.is_dir():
        return path
    inside = path / f"{split}.rpptable"
    if not inside.is_file():
        raise NotTabulated(
            f"{path} holds no {inside.name}: make it with `rpp-env tabulate {path} --split {split}`"
        )
    return inside


def _recommender(
    model: str | LanguageModel | Recommender[Any],
    data: Dataset,
    interactions: Interactions,
    rules: Rules | Episode,
    chosen: Options,
) -> Recommender[Any]:
    if isinstance(model, str) and model != "embedded":
        parts = {"dataset": data, "interactions": interactions}
        model = open_model(model, parts, **(chosen.model_options or {}))
    elif chosen.model_options:
        raise InvalidOption(
            "model_options are for a language model that is given by its name, such as "
            "'http://127.0.0.1:8000/v1#NAME'"
        )
    elif isinstance(model, str):
        model = _embedded(data, interactions)
    if isinstance(model, Recommender):
        _only_for_models(chosen, "a recommender")
        return model
    if is_language_model(model):
        if chosen.recording is not None:
            model = RecordingModel(chosen.recording, model)
        generation = chosen.generation or getattr(rules, "generation", None)
        if chosen.rank_by == "likelihood":
            if chosen.thinking or chosen.generation is not None or chosen.calibrate != "none":
                raise InvalidOption(
                    "rank_by='likelihood' generates no text: leave out generation, thinking and "
                    "calibrate, which are for other values of rank_by"
                )
            return LikelihoodRecommender(model, chosen.score, chosen.alpha)
        if (chosen.score, chosen.alpha) != ("sum", None):
            raise InvalidOption(
                f"score and alpha are for rank_by='likelihood', not for {chosen.rank_by!r}"
            )
        return LLMRecommender(model, chosen.rank_by, generation, chosen.thinking, chosen.calibrate)
    raise InvalidOption(
        f"model must be a name, a LanguageModel (id, context_length, capabilities, complete) or a "
        f"Recommender (rank), not {type(model).__name__}"
    )


def _only_for_models(chosen: Options, what: str) -> None:
    *names, last = MODEL_OPTIONS
    if any(getattr(chosen, name) != getattr(type(chosen), name) for name in MODEL_OPTIONS):
        raise InvalidOption(
            f"{', '.join(names)} and {last} are for language models; {what} is given"
        )


# ------------------------------------------------------------- cached for the next environment


def given_dataset(dataset: str | Dataset, chosen: DataOptions) -> Dataset:
    """Return a dataset by its name, cached for the next environment, or the given one."""
    if isinstance(dataset, Dataset):
        made = {"root": chosen.root, "num_users": chosen.num_users, "num_items": chosen.num_items}
        given = sorted(name for name, value in made.items() if value is not None)
        if given or chosen.data_seed is not None:
            raise InvalidOption(
                f"{given or 'data_seed'} is for loading a dataset by name, but a Dataset is given"
            )
        return dataset if chosen.domain is None else replace(dataset, domain=chosen.domain)
    options = {
        "domain": chosen.domain,
        "num_users": chosen.num_users,
        "num_items": chosen.num_items,
        "seed": chosen.data_seed,
    }
    given_options = tuple((name, value) for name, value in options.items() if value is not None)
    return _loaded(dataset, chosen.root, os.environ.get("RPP_ENV_DATA"), given_options)


@lru_cache(maxsize=4)
def _loaded(
    name: str,
    root: str | None,
    place: str | None,  # noqa: ARG001 - part of the key: load_dataset reads it from the environment
    options: tuple[tuple[str, Any], ...],
) -> Dataset:
    return load_dataset(name, root, **dict(options))


@lru_cache(maxsize=4)
def _split(
    dataset: Dataset,
    fractions: tuple[float, float, float] | None,
    by: Literal["user", "time"],
    repeats: Repeats,
    targets: int,
) -> tuple[UserSplit, Interactions]:
    split = split_users(dataset, fractions=fractions, by=by)
    return split, training_interactions(dataset, split, repeats=repeats, targets=targets)


@lru_cache(maxsize=8)
def _tasks(
    dataset: Dataset, interactions: Interactions, users: tuple[int, ...], **options: Any
) -> TaskSet:
    return make_tasks(dataset, users, interactions=interactions, **options)


def embeddings_of(
    table: RewardTable | None,
    dataset: Dataset,
    interactions: Interactions,
    method: Literal["svd", "lightgcn"],
    dim: int,
) -> Embeddings:
    """Return the embeddings of a table that has its own; else fitted ones, cached."""
    own = None if table is None else table.embeddings
    return _fitted(dataset, interactions, method, dim) if own is None else own


@lru_cache(maxsize=4)
def _fitted(
    dataset: Dataset, interactions: Interactions, method: Literal["svd", "lightgcn"], dim: int
) -> Embeddings:
    return fit_embeddings(dataset, interactions, method=method, dim=dim)


@lru_cache(maxsize=4)
def _embedded(dataset: Dataset, interactions: Interactions) -> LanguageModel:
    from rpp_env.sim.embedded import EmbeddedModel

    return EmbeddedModel.fit(dataset, interactions)
