"""The default recommenders, a SASRec and a T5: trained once, and cached.

A checkpoint belongs to the histories, the size and the seed that it was trained with, and is named
after them. It is looked up in the package, which contains those of the generated worlds
(``arrivals`` for the SASRec, a small ``movieworld`` for the T5), then in the cache folder; if
neither has it, one is trained and saved there.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.splits import Interactions
from rpp_env.errors import InvalidData, RPPWarning, WriteFailed
from rpp_env.interrupts import heed_interrupts
from rpp_env.recommenders import t5
from rpp_env.recommenders.patience import Patience, Progress
from rpp_env.recommenders.sasrec import Config, SASRec, train

__all__ = [
    "EXPLAINING_T5",
    "FULL_T5",
    "SMALL",
    "SMALL_T5",
    "checkpoint_name",
    "file_name",
    "kept",
    "pretrained",
    "pretrained_t5",
    "t5_name",
]

SMALL = Config(
    dim=64,
    blocks=1,
    heads=1,
    max_length=50,
    loss="softmax",
    negatives=256,
    rate=3e-3,
    batch=64,
    pool=10,
    epochs=10,
    patience=3,
)
"""PPR's size (one block, one head, 64 numbers), and a loss that needs few epochs."""

SMALL_T5 = t5.Config(
    dim=64,
    layers=2,
    heads=4,
    feed_forward=128,
    negatives=19,
    rate=3e-3,
    embedding_rate=3e-2,
    batch=64,
    samples=2,
    ahead=24,
    epochs=7,
    patience=7,
)
"""A T5 that is trained in minutes on a few thousand users."""

EXPLAINING_T5 = replace(SMALL_T5, tasks=(*SMALL_T5.tasks, "explanation"), epochs=8)
"""One that is also taught to explain choices; not the one in the package."""

FULL_T5 = t5.Config(tasks=("sequential",), ahead=24, epochs=300, patience=10)
"""128 numbers, 3 + 3 layers, for real data. It is not taught `"top-n"`, whose texts list 100
candidates and would double the cost of an epoch. An example teaches 24 items, which is all of those
that follow in Amazon's short histories, and saves passes of the encoder in MovieLens's long
ones."""

_SHIPPED = Path(__file__).parent / "checkpoints"


@heed_interrupts()
def pretrained(
    dataset: Dataset,
    histories: Interactions,
    config: Config = SMALL,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> SASRec:
    """Return the SASRec of these histories: from the package, from the cache, or newly trained.

    Parameters
    ----------
    dataset : Dataset
        The dataset of the histories' items.
    histories : Interactions
        Histories of the warm users, without any target.
    config : Config
    seed : int
    progress : callable, optional
        Called after every epoch; by default a line is written to standard error.

    Warns
    -----
    RPPWarning
        If a cached file is damaged and made again, and if it cannot be written.
    """
    return _trained(
        checkpoint_name(dataset, histories, config, seed),
        SASRec.load,
        lambda tell, _: train(
            histories, config, seed=seed, catalog=dataset.catalog_digest, progress=tell
        ),
        dataset,
        f"SASRec on {len(histories.indptr) - 1:,} warm users",
        progress,
    )


@heed_interrupts()
def pretrained_t5(
    dataset: Dataset,
    histories: Interactions,
    config: t5.Config = SMALL_T5,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> t5.T5:
    """Return the T5 of these histories, as `pretrained` returns a SASRec.

    Training that is interrupted resumes from the cache folder.
    """
    return _trained(
        t5_name(dataset, histories, config, seed),
        t5.T5.load,
        lambda tell, stage: t5.train(
            dataset, histories, config, seed=seed, checkpoint=stage, progress=tell
        ),
        dataset,
        f"T5 on {len(histories.indptr) - 1:,} users",
        progress,
    )


M = TypeVar("M", SASRec, t5.T5)
K = TypeVar("K")


def _trained(
    name: str,
    load: Callable[[Path], M],
    fit: Callable[[Progress, Path], M],
    dataset: Dataset,
    what: str,
    progress: Progress | None,
) -> M:
    """Load the recommender of that name, or train it in stages, with a line on standard error."""

    def loaded(path: Path) -> M:
        model = load(path)
        model.check(dataset)
        return model

    def made(path: Path) -> M:
        if progress is None:
            print(  # noqa: T201 - training is silent for minutes otherwise
                f"training a small {what} of {dataset.name}, once; it is kept as {path}",
                file=sys.stderr,
            )
        return fit(_tell if progress is None else progress, path.with_suffix(".training"))

    def save(model: M, path: Path) -> None:
        model.save(path)
        path.with_suffix(".training").unlink(missing_ok=True)

    return kept(name, loaded, made, save)


def kept(
    name: str,
    load: Callable[[Path], K],
    make: Callable[[Path], K],
    save: Callable[[K, Path], None],
) -> K:
    """Return what a file of that name holds, or make and save it.

    The file is looked up in the package, and then in the cache folder.

    Parameters
    ----------
    name : str
        From `file_name`.
    load : callable
        Reads a file; an `InvalidData` that it raises is a warning, and the file is made again.
    make : callable
        Gets the path in the cache.
    save : callable
        Writes what was made to that path.

    Warns
    -----
    RPPWarning
        If a file is damaged and made again, and if it cannot be written.
    """
    cached = cache_dir() / "recommenders" / name
    for path in (_SHIPPED / name, cached):
        if path.is_file():
            try:
                return load(path)
            except InvalidData as error:
                warnings.warn(f"{error}; it is made again", RPPWarning, stacklevel=4)
    made = make(cached)
    try:
        save(made, cached)
    except WriteFailed as error:
        warnings.warn(f"{error}: it is trained again next time", RPPWarning, stacklevel=4)
    return made


def checkpoint_name(
    dataset: Dataset, histories: Interactions, config: Config = SMALL, seed: int = 0
) -> str:
    """Return the file's name: the dataset's, and a digest of all that determines the weights."""
    return file_name(
        "sasrec", dataset, f"{dataset.catalog_digest} {histories.digest}", config, seed
    )


def t5_name(
    dataset: Dataset, histories: Interactions, config: t5.Config = SMALL_T5, seed: int = 0
) -> str:
    """Return the file's name, as `checkpoint_name`; a T5 depends on titles and genres, too."""
    words = hashlib.sha256(repr((dataset.titles, dataset.genres)).encode()).hexdigest()
    given = f"{dataset.catalog_digest} {words} {histories.digest}"
    return file_name("t5", dataset, given, config, seed)


def file_name(kind: str, dataset: Dataset, given: str, config: Patience, seed: int) -> str:
    """Return a file's name: kind, the dataset's name, and a digest of what determines the rest.

    `given` is what it was trained on, as text.
    """
    sha = hashlib.sha256(repr((sorted(asdict(config).items()), seed)).encode())
    sha.update(given.encode())
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in dataset.name)[:40]
    return f"{kind}-{plain}-{sha.hexdigest()[:16]}.safetensors"


def _tell(row: Mapping[str, float]) -> None:
    print(  # noqa: T201
        f"  epoch {row['epoch']}: NDCG@10 of held-out clicks {row['validation']:.4f}, "
        f"{row['seconds']:.0f} s",
        file=sys.stderr,
    )
