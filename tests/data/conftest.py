"""Small datasets and atomic files; and real ones, where they are.

Tests that need a real dataset are skipped by its name where it is not.
"""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rpp_env.data import Dataset, load_dataset
from rpp_env.errors import UnknownDataset


@pytest.fixture(scope="session")
def real() -> Callable[[str], Dataset]:
    root = os.environ.get("RPP_ENV_DATA")
    loaded: dict[str, Dataset] = {}

    def load(name: str) -> Dataset:
        if not root:
            pytest.skip(f"{name}: RPP_ENV_DATA is not set")
        if name not in loaded:
            try:
                loaded[name] = load_dataset(name, Path(root))
            except UnknownDataset:
                pytest.skip(f"{name} is not in RPP_ENV_DATA")
        return loaded[name]

    return load


@pytest.fixture(scope="session")
def making() -> SimpleNamespace:
    """Makers of small datasets: `random`, `of` given sequences, and a `folder` of files."""
    return SimpleNamespace(random=_made, of=_dataset, folder=_write_folder)


INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\ttitle:token_seq\trelease_year:token\tgenre:token_seq\n"


def _made(users: int = 200, items: int = 60, *, seed: int = 0, longest: int = 20) -> Dataset:
    """Random sequences of 2 to `longest` different items, earlier items being more popular."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, longest + 1, users)
    law = 1.0 / np.arange(1, items + 1)
    chosen = [rng.choice(items, size=n, replace=False, p=law / law.sum()) for n in lengths]
    return _dataset(chosen, items)


def _dataset(sequences: list[Any], items: int, **fields: Any) -> Dataset:
    """A dataset of these sequences."""
    known: dict[str, Any] = {
        "name": "made",
        "domain": "movies",
        "titles": tuple(f"Film {i}" for i in range(items)),
        "item_tokens": tuple(f"i{i}" for i in range(items)),
        "genres": tuple(("Comedy",) if i % 2 else ("Drama", "War") for i in range(items)),
        "user_tokens": tuple(f"u{u}" for u in range(len(sequences))),
        "indptr": np.concatenate([[0], np.cumsum([len(s) for s in sequences])]),
        "items": np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences]),
    }
    return Dataset(**(known | fields))


def _write_folder(
    root: Path,
    inter: str,
    item: str = "1\tAnn\t1990\tDrama\n2\tBob\t\t\n3\tCat\t1991\tDrama War\n",
    *,
    user: str | None = None,
    name: str = "tiny",
    zipped: bool = False,
) -> Path:
    """A folder of atomic files; bodies that start with a header of their own keep it."""
    folder = root / name
    folder.mkdir(parents=True)
    body = inter if ":" in inter.split("\n", maxsplit=1)[0] or not inter else INTER + inter
    if zipped:
        (folder / f"{name}.inter.gz").write_bytes(gzip.compress(body.encode()))
    else:
        (folder / f"{name}.inter").write_text(body, encoding="utf-8", newline="\n")
    body = item if ":" in item.split("\n", maxsplit=1)[0] or not item else ITEM + item
    (folder / f"{name}.item").write_text(body, encoding="utf-8", newline="\n")
    if user is not None:
        (folder / f"{name}.user").write_text(user, encoding="utf-8", newline="\n")
    return folder
