"""PPR-v0: a prefix of vectors for a frozen SASRec, chosen for users who have just arrived.

=============  ======================================================================
agents         one for each vector of the prefix (one by default)
actions        ``Box(-1, 1, (64,))`` each; codes of a few numbers, or ``Discrete(K)`` over
               a codebook, by options
observations   the blocks of `rpp_env.observation`, and ``profile``, one-hot; ``state``, what the
               recommender makes of the history without a prefix, by an option
recommender    a small SASRec, trained on the warm users once and never again
users          cold ones: those of ``train``, ``validation`` and ``test`` are disjoint, and none
               of them was trained on
tasks          the first ten clicks of a user, each one an episode (``shots``)
reward         NDCG@10 of the click among 99 items that the user never clicks, or all items
episode        one step
=============  ======================================================================

Version history: v0, the first one. The system is that of *Personalized Prompt for Sequential
Recommendation* (Wu et al., IEEE TKDE 2024), as an environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.arrivals import By, ColdSplit, Shots, arrival_tasks, split_arrivals
from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats
from rpp_env.episode import Episode
from rpp_env.errors import InvalidOption
from rpp_env.factory import (
    DataOptions,
    Parts,
    choose_users,
    fitted_embeddings,
    given_dataset,
    table_file,
)
from rpp_env.observation import Context
from rpp_env.options import check_numbers, unknown
from rpp_env.prompting import PromptSpace, Recommender
from rpp_env.table import RewardTable
from rpp_env.vectors import CodebookPrompts, PrefixPrompts, VectorPrompts

__all__ = ["EPISODE", "Options", "assemble"]

EPISODE = Episode("PPR-v0", 1)


@dataclass(frozen=True, kw_only=True)
class Options(DataOptions):
    """Options of ``PPR-v0``, besides the environment's own."""

    cold_by: By = "random"
    """How cold users are chosen: a random share, or those of fewer than ten clicks."""
    cold: float = 0.2
    """Share of cold users, where they are random."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of train, validation and test among the cold users."""
    shots: Shots | int = "joint"
    """Which clicks are played: the first (``"zero"``), later ones (``"few"``), all ten
    (``"joint"``), or the one after that many clicks."""
    crop: int | None = None
    """Latest clicks that a history keeps."""
    num_candidates: int | None = 100
    """Candidates, the target included; None for all items."""
    negatives: Literal["uniform", "popularity"] = "uniform"
    """How the other candidates are drawn; see `arrival_tasks`."""
    repeats: Repeats = "drop"
    """How a target that the user clicked before is treated; see `arrival_tasks`."""
    task_seed: int = 0
    """Seed of candidates and orders."""
    user_seed: int = 0
    """Seed for drawing `max_users` users."""
    prefix: int = 1
    """Vectors of the prefix, with an agent for each."""
    codes: int | None = None
    """Numbers of an action, along the main directions of the items; None: the vector itself."""
    codebook: int | None = None
    """Vectors that each agent chooses among: the centers of that many groups of items."""
    scale: float = 3.0
    """Largest number of a prefix, as a multiple of the root mean square of the items' inputs."""
    profile: tuple[str, ...] | None = None
    """Fields of the profile that are observed; None: all fields of the dataset."""
    encoder_state: bool = False
    """Whether observations hold the recommender's state after the history, without a prefix."""
    dim: int = 32
    """Width of the embeddings of the observations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_numbers(self, 1, "prefix", "codes", "dim", highest=10_000)
        check_numbers(self, 2, "codebook", highest=1_000_000)
        check_numbers(self, 0, "data_seed", "task_seed", "user_seed")
        check_numbers(self, 0, "scale", highest=1e6, above=True)
        if self.codes is not None and self.codebook is not None:
            raise InvalidOption("codes are vectors and a codebook holds none: give one of the two")


def assemble(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Parts:
    """Make the arguments of `RPPEnv` for the id ``PPR-v0``.

    Parameters
    ----------
    dataset : str or Dataset, optional
        By default ``"arrivals"``.
    model : str or Recommender, optional
        ``"sasrec"`` (the default; see `rpp_env.recommenders.pretrained`), ``"checkpoint:PATH"``
        (a file of `SASRec.save`), or a recommender that reads `PrefixPrompts`. A table of a
        codebook, or ``"table:PATH"``, is one of the default recommender.
    split : str
        The split whose cold users are played.
    max_users, max_cycles : int, optional
        As `RPPEnv.make` takes them; an episode has one step.
    options : mapping
        Fields of `Options`.

    Raises
    ------
    InvalidOption
        For options that are unknown, contradict each other, or ask for what the dataset lacks.
    InvalidData
        For a checkpoint of another catalog.
    """
    known = [field.name for field in fields(Options)]
    for key in options:
        if key not in known:
            raise InvalidOption(unknown("option of PPR-v0", key, known))
    chosen = Options(**options)
    if max_cycles not in (None, EPISODE.max_cycles):
        raise InvalidOption(
            f"an episode of PPR-v0 has one step: leave max_cycles={max_cycles!r} out"
        )
    data = given_dataset("arrivals" if dataset is None else dataset, chosen)
    users, histories = _split(data, chosen.cold_by, chosen.cold, chosen.fractions, chosen.repeats)
    rows = choose_users(users.cold.part(split), max_users, chosen.user_seed)
    tasks = _tasks(
        data,
        tuple(rows.tolist()),
        shots=chosen.shots,
        crop=chosen.crop,
        num_candidates=chosen.num_candidates,
        negatives=chosen.negatives,
        interactions=histories if chosen.negatives == "popularity" else None,
        seed=chosen.task_seed,
        repeats=chosen.repeats,
    )
    table = None
    if isinstance(model, str) and model.startswith("table:"):
        model = RewardTable.load(table_file(model.removeprefix("table:"), split))
    if isinstance(model, RewardTable):
        tasks, table = model.select(tasks)
        model = None
    contexts = _profile(tasks, chosen.profile)
    recommender = _recommender(model, data, histories)
    if chosen.encoder_state:
        contexts = (*contexts, _state(tasks, recommender))
    return Parts(
        tasks=tasks,
        rules=EPISODE,
        book=None,
        embeddings=table.embeddings
        if table
        else fitted_embeddings(data, histories, "svd", chosen.dim),
        recommender=None if table else recommender,
        table=table,
        space=_space(recommender, chosen),
        contexts=contexts,
    )


@lru_cache(maxsize=4)
def _split(
    data: Dataset,
    by: By,
    cold: float,
    fractions: tuple[float, float, float],
    repeats: Repeats,
) -> tuple[ColdSplit, Interactions]:
    split = split_arrivals(data, by=by, cold=cold, fractions=fractions)
    return split, split.interactions(data, repeats)


@lru_cache(maxsize=8)
def _tasks(data: Dataset, users: tuple[int, ...], **options: Any) -> TaskSet:
    return arrival_tasks(data, users, **options)


def _recommender(model: Any, data: Dataset, histories: Interactions) -> Recommender[Any]:
    if model is None or model == "sasrec":
        return _pretrained(data, histories)
    if isinstance(model, str) and model.startswith("checkpoint:"):
        from rpp_env.recommenders.sasrec import SASRec

        loaded = SASRec.load(model.removeprefix("checkpoint:"))
        loaded.check(data)
        return loaded
    if isinstance(model, str) or not isinstance(model, Recommender):
        raise InvalidOption(
            "PPR-v0 takes model='sasrec', 'checkpoint:PATH' or a recommender that reads "
            f"PrefixPrompts, not {model!r}"
        )
    return model


@lru_cache(maxsize=4)
def _pretrained(data: Dataset, histories: Interactions) -> Recommender[Any]:
    from rpp_env.recommenders.pretrained import pretrained

    return pretrained(data, histories)


def _inputs(recommender: Any) -> NDArray[np.float32] | None:
    """(num_items, d) item inputs of the recommender; None if it does not expose them."""
    from rpp_env.recommenders.sasrec import SASRec

    if not isinstance(recommender, SASRec):
        return None
    items = recommender.weights["items.weight"].detach().numpy()
    return np.asarray(items * recommender.config.dim**0.5, dtype=np.float32)


def _space(recommender: Any, chosen: Options) -> PromptSpace[Any, PrefixPrompts]:
    agents = tuple(f"prefix_{i}" for i in range(chosen.prefix))
    inputs = _inputs(recommender)
    if inputs is None:
        if chosen.codes is not None or chosen.codebook is not None:
            raise InvalidOption(
                "codes and codebook are made from a SASRec's items; with a recommender of your "
                "own, give a prompt space of your own (space=)"
            )
        return VectorPrompts(chosen.scale * np.eye(64), agents)
    size = float(np.sqrt((inputs**2).mean()))
    if chosen.codebook is not None:
        return CodebookPrompts(_centers(inputs, chosen.codebook), agents)
    decoder = chosen.scale * size * np.eye(inputs.shape[1])
    if chosen.codes is not None:
        if chosen.codes > inputs.shape[1]:
            raise InvalidOption(
                f"codes={chosen.codes}, but items have {inputs.shape[1]} numbers: give no more"
            )
        _, _, directions = np.linalg.svd(inputs - inputs.mean(axis=0), full_matrices=False)
        # A code reaches as far in each direction as a full prefix of the recommender's own width.
        reach = chosen.scale * size * inputs.shape[1] ** 0.5
        decoder = reach * directions[: chosen.codes]
    return VectorPrompts(decoder, agents)


def _centers(inputs: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the centers of `count` groups of items (k-means), the same at each call."""
    if count > len(inputs):
        raise InvalidOption(f"codebook={count}, but there are {len(inputs)} items: give no more")
    items = inputs.astype(np.float64)
    rng = np.random.default_rng(0)
    centers = items[rng.permutation(len(items))[:count]]
    for _ in range(20):
        far = (centers**2).sum(axis=1) - 2 * items @ centers.T
        nearest = far.argmin(axis=1)
        sums = np.zeros_like(centers)
        np.add.at(sums, nearest, items)
        sizes = np.bincount(nearest, minlength=count)[:, None]
        centers = np.where(sizes > 0, sums / np.maximum(sizes, 1), centers)
    return centers.astype(np.float32)


def _profile(tasks: TaskSet, wanted: tuple[str, ...] | None) -> tuple[Context, ...]:
    """Return the users' profiles, one-hot; nothing where no field is wanted."""
    profiles = tasks.dataset.profiles
    if wanted == ():
        return ()
    if profiles is None:
        raise InvalidOption(
            f"{tasks.dataset.name} has no profiles, which PPR-v0 shows: take arrivals, ml-1m, "
            "ml-100k, a folder with a .user file, or profile=()"
        )
    if wanted is not None:
        profiles = profiles.select(wanted)
    return (Context({"profile": profiles.width}, profiles.one_hot(tasks.users)),)


def _state(tasks: TaskSet, recommender: Any) -> Context:
    """Return the recommender's state after every history, of length 1; 0 for empty histories."""
    from rpp_env.recommenders.sasrec import SASRec

    if not isinstance(recommender, SASRec):
        raise InvalidOption("encoder_state is the state of a SASRec, and another one is given")
    states = recommender.read(tasks)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    scaled = np.clip(states / np.maximum(lengths, 1e-12), -1, 1).astype(np.float32)
    return Context({"state": states.shape[1]}, scaled)
