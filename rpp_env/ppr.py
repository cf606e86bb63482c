"""PPR-v0 and PPRStream-v0: a prefix of vectors for a frozen SASRec and new users.

=============  ======================================================================
agents         one for each vector of the prefix (one by default), or for each field of the profile
actions        ``Box(-1, 1, (64,))`` each; codes of a few numbers, or ``Discrete(K)`` over
               a codebook, by options
observations   the blocks of `rpp_env.observation`, and ``profile``, one-hot; ``state``, what the
               recommender makes of the history without a prefix, by an option
recommender    a small SASRec, trained on the warm users once and never again
users          cold ones: those of ``train``, ``validation`` and ``test`` are disjoint, and none
               of them was trained on
tasks          the first ten clicks of a user: each one an episode (``PPR-v0``, option ``shots``),
               or each one a step (``PPRStream-v0``)
reward         NDCG@10 of the click among 99 items that the user never clicks, or all items
episode        one step; in ``PPRStream-v0`` ten, or ``max_cycles``: the prefix is chosen again
               before each click
=============  ======================================================================

Version history: v0, the first ones. The system is that of *Personalized Prompt for Sequential
Recommendation* (Wu et al., IEEE TKDE 2024), as an environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.arrivals import CLICKS, By, ColdSplit, Shots, arrival_tasks, split_arrivals
from rpp_env.data.candidates import TaskSet
from rpp_env.data.dataset import Dataset
from rpp_env.data.splits import Interactions, Repeats
from rpp_env.data.tensors import read_tensors, write_tensors
from rpp_env.episode import Stream
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.factory import (
    DataOptions,
    Parts,
    choose_users,
    chosen_options,
    embeddings_of,
    given_dataset,
    given_table,
    is_table,
)
from rpp_env.observation import Context
from rpp_env.options import check_numbers
from rpp_env.prompting import PromptSpace, Recommender
from rpp_env.rules import episode_of
from rpp_env.vectors import CodebookPrompts, Places, PrefixPrompts, VectorPrompts

__all__ = [
    "Options",
    "StreamOptions",
    "assemble",
    "assemble_stream",
    "read_codebook",
    "write_codebook",
]

_EPISODE = episode_of("PPR-v0")


@dataclass(frozen=True, kw_only=True)
class StreamOptions(DataOptions):
    """Options of ``PPRStream-v0``, besides the environment's own."""

    cold_by: By = "random"
    """How cold users are chosen: a random share, or those of fewer than ten clicks."""
    cold: float = 0.2
    """Share of cold users, if they are random."""
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)
    """Shares of train, validation and test among the cold users."""
    crop: int | None = None
    """Number of latest clicks that a history keeps."""
    num_candidates: int | None = 100
    """Number of candidates, the target included; None: all items."""
    negatives: Literal["uniform", "popularity"] = "uniform"
    """How the other candidates are drawn; see `arrival_tasks`."""
    repeats: Repeats = "drop"
    """How a target that the user clicked before is treated; see `arrival_tasks`."""
    task_seed: int = 0
    """Seed of candidates and orders."""
    user_seed: int = 0
    """Seed for drawing `max_users` users."""
    prefix: int = 1
    """Number of vectors of the prefix, with an agent for each."""
    agents: Literal["positions", "fields"] = "positions"
    """Whether agents are the positions of the prefix, or the fields of the profile, whose vectors
    are added."""
    deep: bool = False
    """Whether each block of the recommender reads a separate prefix, with agents for each."""
    shift: bool = False
    """Whether a further agent's vector is added to the user's after the recommender has read the
    prefix and the history, like the paper's profile network."""
    codes: int | None = None
    """Numbers of an action, along the main directions of the items; None: the vector itself."""
    codebook: int | str | Path | None = None
    """Number of vectors that each agent chooses among: the centers of that many groups of items; or
    a file that `write_codebook` wrote."""
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
        if isinstance(self.codebook, int):
            check_numbers(self, 2, "codebook", highest=1_000_000)
        check_numbers(self, 0, "data_seed", "task_seed", "user_seed")
        check_numbers(self, 0, "scale", highest=1e6, above=True)
        if self.codes is not None and self.codebook is not None:
            raise InvalidOption("codes are vectors and a codebook holds none: give one of the two")
        if self.shift and self.codebook is not None:
            raise InvalidOption(
                "a codebook holds prefixes, and a shift is not a prefix: give one of the two"
            )


@dataclass(frozen=True, kw_only=True)
class Options(StreamOptions):
    """Options of ``PPR-v0``, besides the environment's own."""

    shots: Shots | int = "joint"
    """Clicks that are played: the first (``"zero"``), later ones (``"few"``), all ten
    (``"joint"``), or the one after that many clicks."""


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
    chosen = chosen_options(Options, "PPR-v0", options)
    if max_cycles not in (None, _EPISODE.max_cycles):
        raise InvalidOption(
            f"an episode of PPR-v0 has one step: leave max_cycles={max_cycles!r} out, or take "
            "PPRStream-v0"
        )
    return _parts(dataset, model, split, max_users, chosen, chosen.shots, None)


def assemble_stream(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    max_cycles: int | None,
    options: Mapping[str, Any],
) -> Parts:
    """Make the arguments of `RPPEnv` for the id ``PPRStream-v0``; see `assemble`.

    `max_cycles`, 1 to 10, is the number of clicks in an episode, 10 by default. Users with fewer
    clicks are left out. There are no tables.
    """
    chosen = chosen_options(StreamOptions, "PPRStream-v0", options)
    steps = CLICKS if max_cycles is None else max_cycles
    if not 1 <= steps <= CLICKS:
        raise InvalidOption(
            f"an episode of PPRStream-v0 is the first clicks of a user, 1 to {CLICKS}: "
            f"max_cycles={steps} is not"
        )
    if is_table(model):
        episode_of("PPRStream-v0").check_table("leave model out, or name a recommender")
    return _parts(dataset, model, split, max_users, chosen, "joint", steps)


def _parts(
    dataset: str | Dataset | None,
    model: Any,
    split: str,
    max_users: int | None,
    chosen: StreamOptions,
    shots: Shots | int,
    steps: int | None,
) -> Parts:
    """Make the parts of an environment; with `steps`, a stream of that many clicks."""
    data = given_dataset("arrivals" if dataset is None else dataset, chosen)
    users, histories = _split(data, chosen.cold_by, chosen.cold, chosen.fractions, chosen.repeats)
    rows = choose_users(users.cold.part(split), max_users, chosen.user_seed)
    tasks = _tasks(
        data,
        tuple(rows.tolist()),
        shots=shots,
        crop=chosen.crop,
        num_candidates=chosen.num_candidates,
        negatives=chosen.negatives,
        interactions=histories if chosen.negatives == "popularity" else None,
        seed=chosen.task_seed,
        repeats=chosen.repeats,
    )
    rules = _EPISODE
    model, tasks, table = given_table(model, tasks, split)
    if steps is not None:
        rules, tasks = _stream(tasks, steps)
    whole = rules.every(tasks)
    contexts = _profile(whole, chosen)
    recommender = _recommender(model, data, histories)
    if chosen.encoder_state:
        contexts = (*contexts, _state(whole, recommender))
    return Parts(
        tasks=tasks,
        rules=rules,
        book=None,
        embeddings=embeddings_of(table, data, histories, "svd", chosen.dim),
        recommender=None if table else recommender,
        table=table,
        space=_space(recommender, chosen, data),
        contexts=contexts,
    )


def _stream(tasks: TaskSet, steps: int) -> tuple[Stream, TaskSet]:
    """Return the episodes of the users who have a task for each of the first `steps` clicks."""
    early = tasks.draw < steps
    counts = np.bincount(tasks.users[early], minlength=len(tasks.dataset.user_tokens))
    whole = tasks.subset(early & (counts[tasks.users] == steps))
    if not len(whole):
        raise InvalidOption(
            f"no user of {tasks.dataset.name} has {steps} clicks here: give a smaller max_cycles"
        )
    named = episode_of("PPRStream-v0")
    stream = Stream(named.id, steps, whole=whole, discount=named.discount)
    return stream, stream.first


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
            "PPR takes model='sasrec', 'checkpoint:PATH' or a recommender that reads "
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


def _agents(
    chosen: StreamOptions, blocks: int, data: Dataset
) -> tuple[list[str], Places, list[list[str]] | None]:
    """Return the agents' names, the places of their vectors, and the blocks that each may see."""
    names, places, layers, sees = [], [], [], []
    given: tuple[str | None, ...] = (None,)
    if chosen.agents == "fields":
        given = _fields(data, chosen.profile)
    for place in range(chosen.prefix):
        for block in range(blocks if chosen.deep else 1):
            for field in given:
                number = f"_{place}" if field is None or chosen.prefix > 1 else ""
                layer = f"_block_{block}" if chosen.deep else ""
                names.append(f"{'prefix' if field is None else field}{number}{layer}")
                places.append(place)
                layers.append(block)
                sees.append([f"profile_{field}", "length"])
    if chosen.shift:
        names.append("shift")
        places.append(-1)
        layers.append(0)
        sees.append([f"profile_{field}" for field in given] + ["length"])
    private = sees if chosen.agents == "fields" else None
    return names, Places(tuple(places), tuple(layers)), private


def _fields(data: Dataset, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return the fields of the profile that have an agent."""
    found = () if data.profiles is None else data.profiles.fields
    found = found if wanted is None else wanted
    if not found:
        raise InvalidOption(
            "agents='fields' needs a profile with one agent per field, and there is none: use "
            "agents='positions', or a dataset with profiles"
        )
    return found


def _space(
    recommender: Any, chosen: StreamOptions, data: Dataset
) -> PromptSpace[Any, PrefixPrompts]:
    inputs = _inputs(recommender)
    if inputs is None:
        if chosen.codes is not None or chosen.codebook is not None or chosen.deep:
            raise InvalidOption(
                "codes, codebook and deep are made from a SASRec's weights; with a recommender of "
                "your own, give a prompt space of your own (space=)"
            )
        names, places, private = _agents(chosen, 1, data)
        return VectorPrompts(chosen.scale * np.eye(64), names, places=places, private=private)
    names, places, private = _agents(chosen, recommender.config.blocks, data)
    size = float(np.sqrt((inputs**2).mean()))
    if chosen.codebook is not None:
        entries = (
            _centers(inputs, chosen.codebook)
            if isinstance(chosen.codebook, int)
            else read_codebook(chosen.codebook, recommender)
        )
        return CodebookPrompts(entries, names, places=places, private=private)
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
    # Users' vectors have another scale than the recommender's inputs.
    answer = recommender.weights["norm.weight"].square() + recommender.weights["norm.bias"].square()
    ratio = float(answer.mean()) ** 0.5 / size
    scales = [ratio if place < 0 else 1.0 for place in places.places]
    return VectorPrompts(decoder, names, places=places, scales=scales, private=private)


def write_codebook(path: str | Path, vectors: Any, recommender: Any) -> None:
    """Save a codebook for the option `codebook`, with the digest of its SASRec.

    Parameters
    ----------
    path : str or Path
    vectors : (K, d) array or torch.Tensor
        Prefixes, such as the means of groups of those that a solver chose.
    recommender : SASRec
    """
    import torch

    about = {"kind": "codebook", "recommender": recommender.digest}
    write_tensors(path, {"codebook": torch.as_tensor(vectors, dtype=torch.float32)}, about)


def read_codebook(path: str | Path, recommender: Any) -> NDArray[np.float32]:
    """(K, d) float32: read a file of `write_codebook`.

    Raises
    ------
    InvalidData
        For another file, and for a codebook of another recommender.
    """
    tensors, about = read_tensors(path)
    if about.get("kind") != "codebook" or set(tensors) != {"codebook"}:
        raise InvalidData(f"{path} holds no codebook: make one with rpp_env.ppr.write_codebook")
    found = tensors["codebook"].numpy()
    width = recommender.config.dim
    if found.ndim != 2 or len(found) < 2 or found.shape[1] != width:
        raise InvalidData(
            f"{path} holds a codebook of shape {found.shape}; this recommender reads two or more "
            f"vectors of {width} numbers"
        )
    if about.get("recommender") != recommender.digest:
        raise InvalidData(
            f"{path} is the codebook of another recommender (digest "
            f"{str(about.get('recommender'))[:12]}, but this one has {recommender.digest[:12]}): "
            "make one for this recommender"
        )
    return np.asarray(found, dtype=np.float32)


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


def _profile(tasks: TaskSet, chosen: StreamOptions) -> tuple[Context, ...]:
    """Return the users' profiles, one-hot; nothing where no field is wanted."""
    profiles = tasks.dataset.profiles
    if chosen.profile == ():
        return ()
    if profiles is None:
        raise InvalidOption(
            f"{tasks.dataset.name} has no profiles, which PPR shows: use arrivals, ml-1m, "
            "ml-100k, a folder with a .user file, or profile=()"
        )
    if chosen.profile is not None:
        profiles = profiles.select(chosen.profile)
    blocks = {"profile": profiles.width}
    if chosen.agents == "fields":
        sizes = zip(profiles.fields, profiles.sizes, strict=True)
        blocks = {f"profile_{field}": size for field, size in sizes}
    return (Context(blocks, profiles.one_hot(tasks.users)),)


def _state(tasks: TaskSet, recommender: Any) -> Context:
    """Return the recommender's state after every history, of length 1; 0 for empty histories."""
    from rpp_env.recommenders.sasrec import SASRec

    if not isinstance(recommender, SASRec):
        raise InvalidOption("encoder_state is the state of a SASRec, and another one is given")
    states = recommender.read(tasks)
    lengths = np.linalg.norm(states, axis=1, keepdims=True)
    scaled = np.clip(states / np.maximum(lengths, 1e-12), -1, 1).astype(np.float32)
    return Context({"state": states.shape[1]}, scaled)
