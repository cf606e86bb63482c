"""Reward tables that come with the package, found by name: ``model="table:NAME"``.

``index.toml`` describes each of them, and a folder holds its files, one for each split. Their names
are those of the folder, which stands for the split that is played, and of its files::

    RPPEnv.make("ml-1m", "table:smollm2-ml-1m", "test", ...)        # the file of test users
    RPPEnv.make("ml-1m", "table:smollm2-ml-1m-train", ...)          # the file of train users

A table answers the prompts of the environment that it was made in, so the dataset, the rules and
the options in the index must be given. The files hold digests, positions and numbers of tokens, and
no embeddings (`RewardTable.portable`): to play one, its dataset must be there.
"""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from rpp_env.errors import InvalidData, NotTabulated, TableMismatch
from rpp_env.options import made

__all__ = ["PREFIX", "Shipped", "explained", "find", "names", "shipped"]

PREFIX = "table:"
"""What the name of a model begins with that is a table."""

FOLDER = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Shipped:
    """A table in the index: what it holds, and what it is played with."""

    about: str
    """The model, and how it ranks."""
    dataset: str
    """Name of the dataset that is needed to play it."""
    rules: str
    """Id of the rules."""
    users: Mapping[str, int]
    """Numbers of users, by split."""
    sha256: Mapping[str, str]
    """SHA-256 (hex) of the files, by split."""
    terms: str
    """Licence of the model's answers and terms of the dataset."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """Options of the environment that differ from their defaults."""

    @property
    def needs(self) -> dict[str, Any]:
        """Arguments of `RPPEnv.make` that it is played with."""
        return {"dataset": self.dataset, "rules": self.rules, **self.options}

    @property
    def holds(self) -> str:
        """Numbers of users, in words."""
        counts = ", ".join(f"{count} {split}" for split, count in self.users.items())
        return f"{counts} users of {self.dataset}"


@cache
def shipped() -> dict[str, Shipped]:
    """Return the index: the tables by the names of their folders."""
    index = FOLDER / "index.toml"
    tables = tomllib.loads(index.read_text(encoding="utf-8"))
    return {name: made(Shipped, entry, f"{index}, {name}") for name, entry in tables.items()}


@cache
def names() -> dict[str, tuple[str, str | None]]:
    """Return all names with their folder and split.

    A folder's own name, such as smollm2-ml-1m, has no split; smollm2-ml-1m-train is a file of it.
    """
    return {
        name: (folder, split)
        for folder, table in shipped().items()
        for name, split in ((folder, None), *((f"{folder}-{one}", one) for one in table.users))
    }


def find(name: str, split: str) -> Path | None:
    """Find the file of a table by its name, and check its digest; None for other names.

    One of `names` always is the table of the package, so that it means the same everywhere: a file
    or folder of your own with that name is ``./NAME``.

    Parameters
    ----------
    name : str
        One of `names`, or the path of another table.
    split : str
        The split that is played, which chooses the file if the name is that of a folder.

    Raises
    ------
    NotTabulated
        For a folder without a file of that split.
    InvalidData
        For a file that is missing, or not the one that the index describes.
    """
    if name not in names():
        return None
    folder, own = names()[name]
    table = shipped()[folder]
    split = own or split
    if split not in table.users:
        raise NotTabulated(f"table:{name} holds no {split} users")
    path = FOLDER / folder / f"{split}.rpptable"
    _check(path, table.sha256[split])
    return path


def _check(path: Path, sha256: str) -> None:
    try:
        found = hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise InvalidData(f"{path} cannot be read ({error}): install rpp-env again") from error
    if found != sha256:
        raise InvalidData(
            f"{path} is not the file that came with the package: its SHA-256 is {found}, and must "
            f"be {sha256}; install rpp-env again"
        )


@contextmanager
def explained(model: object) -> Iterator[None]:
    """Add to a `TableMismatch` what the table is played with, if the model is one of `names`."""
    try:
        yield
    except TableMismatch as error:
        name = model.removeprefix(PREFIX) if isinstance(model, str) else ""
        if name not in names():
            raise
        folder, _ = names()[name]
        table = shipped()[folder]
        needs = ", ".join(f"{key}={value!r}" for key, value in table.needs.items())
        raise type(error)(
            f"{error}. table:{folder} holds {table.holds}, and is played with {needs}; "
            f"table:{folder}-SPLIT is the file of one split"
        ) from error
