"""The default SASRec: trained once on the warm users, and cached.

A checkpoint belongs to the histories, the size and the seed that it was trained with, and is named
after them. It is looked up in the package, which contains the one of the generated world
``arrivals``, then in the cache folder; if neither has it, one is trained and saved there.
"""

from __future__ import annotations

import hashlib
import sys
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.splits import Interactions
from rpp_env.errors import InvalidData, RPPWarning, WriteFailed
from rpp_env.interrupts import heed_interrupts
from rpp_env.recommenders.patience import Progress
from rpp_env.recommenders.sasrec import Config, SASRec, train

__all__ = ["SMALL", "checkpoint_name", "pretrained"]

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
    name = checkpoint_name(dataset, histories, config, seed)
    kept = cache_dir() / "recommenders" / name
    for path in (_SHIPPED / name, kept):
        if path.is_file():
            try:
                model = SASRec.load(path)
                model.check(dataset)
            except InvalidData as error:
                warnings.warn(f"{error}; it is made again", RPPWarning, stacklevel=2)
            else:
                return model
    if progress is None:
        print(  # noqa: T201 - training is silent for minutes otherwise
            f"training a small SASRec on {len(histories.indptr) - 1:,} warm users of "
            f"{dataset.name}, once; it is kept as {kept}",
            file=sys.stderr,
        )
    model = train(
        histories,
        config,
        seed=seed,
        catalog=dataset.catalog_digest,
        progress=_tell if progress is None else progress,
    )
    try:
        model.save(kept)
    except WriteFailed as error:
        warnings.warn(f"{error}: it is trained again next time", RPPWarning, stacklevel=2)
    return model


def checkpoint_name(
    dataset: Dataset, histories: Interactions, config: Config = SMALL, seed: int = 0
) -> str:
    """Return the file's name: the dataset's, and a digest of all that determines the weights."""
    sha = hashlib.sha256(repr((sorted(asdict(config).items()), seed)).encode())
    sha.update(f"{dataset.catalog_digest} {histories.digest}".encode())
    plain = "".join(c if c.isalnum() or c in "-_" else "_" for c in dataset.name)[:40]
    return f"sasrec-{plain}-{sha.hexdigest()[:16]}.safetensors"


def _tell(row: Mapping[str, float]) -> None:
    print(  # noqa: T201
        f"  epoch {row['epoch']}: NDCG@10 of held-out clicks {row['validation']:.4f}, "
        f"{row['seconds']:.0f} s",
        file=sys.stderr,
    )
