"""Read a folder of atomic files as a `Dataset`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rpp_env.data.atomic import read_interactions, read_table
from rpp_env.data.dataset import Dataset
from rpp_env.data.folders import cache_dir
from rpp_env.data.profiles import read_profiles
from rpp_env.data.titles import clean_title, unique_titles
from rpp_env.errors import InvalidData, UnknownDataset
from rpp_env.options import unknown
from rpp_env.plugins import entry_points

__all__ = ["KNOWN", "MADE", "Facts", "find_dataset", "read_dataset"]

MADE = ("movieworld", "movieworld-hard", "movieworld-drift", "arrivals")
"""Datasets that are generated from a seed."""


@dataclass(frozen=True)
class Facts:
    """Facts about a dataset that its files do not contain."""

    domain: str = "products"
    order: str = "time"
    notes: str = ""


_AMAZON = "The order is the position in the source's sequence; there are no clock times."
_KEYWORDS = (
    " Titles are keyword strings that a model made of the products' metadata (IDGenRec), not the "
    "products' real titles."
)

KNOWN: dict[str, Facts] = {
    "ml-1m": Facts("movies"),
    "ml-100k": Facts("movies"),
    "ml-latest-small": Facts("movies"),
    "lastfm": Facts(
        "music",
        "play count",
        "The column called timestamp holds play counts: the last item is the user's most played "
        "artist, not the latest one.",
    ),
    "games": Facts("games", "position", _AMAZON),
    "beauty": Facts("products", "position", _AMAZON),
    "sports": Facts("products", "position", _AMAZON + _KEYWORDS),
    "toys": Facts("products", "position", _AMAZON + _KEYWORDS),
}
"""Facts about known datasets, by lower-case name."""

_TITLE = ("title", "movie_title", "name")
_YEAR = ("release_year", "year")
_MAKER = ("maker", "brand", "artist", "publisher")
_GENRE = ("genre", "genres", "class", "categories")


_AROUND = " \t\"'[]"
"""Characters around a genre in some sources: ``['Drama', 'War']``."""
_NO_GENRES = "(no genres listed)"


def find_dataset(name: str | Path, root: str | Path | None = None) -> Path:
    """Find the folder of a known name, or the folder at a path; see `rpp_env.load_dataset`.

    Raises
    ------
    UnknownDataset
    """
    known = str(name).lower() in KNOWN
    roots: list[Path] = []
    if known:
        if root is not None:
            roots = [Path(root)]
        else:
            shared = os.environ.get("RPP_ENV_DATA")
            roots = [Path(shared)] if shared else []
            roots.append(cache_dir() / "data")
        for folder in roots:
            for place in sorted(folder.iterdir()) if folder.is_dir() else ():
                if place.name.lower() == str(name).lower() and place.is_dir():
                    return place
    for place in (Path(name), Path(root or ".") / name):
        if place.is_dir():
            return place
    if known:
        looked = ", ".join(str(place / str(name)) for place in roots)
        raise UnknownDataset(
            f"dataset {str(name)!r} was not found; searched for the folder {looked}. Set "
            "RPP_ENV_DATA to the folder that holds it, pass its path, or (ml-1m, ml-latest-small) "
            f"run `rpp-env data get {str(name).lower()}`"
        )
    if Path(name).is_file():
        raise UnknownDataset(f"{name} is a file, and a dataset is a folder of atomic files")
    names = [*MADE, *KNOWN, *entry_points("dataset")]
    raise UnknownDataset(f"{unknown('dataset', str(name), names)}. No folder has that path, either")


def read_dataset(folder: Path, *, domain: str | None = None, order: str | None = None) -> Dataset:
    """Read a folder of RecBole atomic files.

    ``<folder>.inter`` or ``<folder>.inter.gz`` needs the columns ``user_id``, ``item_id`` and
    ``timestamp``; ``<folder>.item`` needs ``item_id`` and a title (``title``, ``movie_title`` or
    ``name``), and may have a year, a maker and genres; ``<folder>.user`` is optional, with the
    columns of `read_profiles`. Each user's rows are sorted by timestamp; rows with equal timestamps
    stay in the order of the file.

    Parameters
    ----------
    folder : Path
        Its name is the dataset's name, and selects the facts about a known dataset.
    domain, order : str, optional
        Override those facts. Timestamps count as clock times (`Dataset.last_times`) only if the
        order is ``"time"``.

    Raises
    ------
    InvalidData
    """
    facts = KNOWN.get(folder.resolve().name.lower(), Facts())
    domain = facts.domain if domain is None else domain
    read = read_interactions(_interaction_file(folder))
    stem = read.path.name.removesuffix(".gz").removesuffix(".inter")
    item_file, user_file = folder / f"{stem}.item", folder / f"{stem}.user"
    if not item_file.is_file():
        raise InvalidData(f"{item_file} is missing: titles are needed to write prompts")
    catalogue = read_table(item_file, ("item_id",))
    titles = _column(catalogue, _TITLE)
    if titles is None:
        raise InvalidData(
            f"{item_file}, line 1: expected a column called {', '.join(_TITLE[:-1])} or "
            f"{_TITLE[-1]}, got {', '.join(catalogue)}"
        )
    rows = {token: row for row, token in enumerate(catalogue["item_id"])}
    try:
        row_of = np.array([rows[token] for token in read.item_tokens], dtype=np.int32)
    except KeyError as error:
        line = read.line_of_item(read.item_tokens.index(error.args[0]))
        raise InvalidData(
            f"{read.path}, line {line}, column item_id: expected an id of {item_file.name}, got "
            f"{error.args[0]!r}"
        ) from None
    profiles = None
    if user_file.is_file():
        known = read_table(user_file, ("user_id",))
        listed = set(known["user_id"])
        for code, token in enumerate(read.user_tokens):
            if token not in listed:
                raise InvalidData(
                    f"{read.path}, line {read.line_of_user(code)}, column user_id: expected an id "
                    f"of {user_file.name}, got {token!r}"
                )
        profiles = read_profiles(known, read.user_tokens, str(user_file))
    sequence = np.lexsort((read.timestamps, read.users))
    indptr = np.concatenate([[0], np.cumsum(np.bincount(read.users))])
    order = facts.order if order is None else order
    genres = _column(catalogue, _GENRE)
    return Dataset(
        name=stem,
        domain=domain,
        titles=unique_titles(
            # "Vitamins C, A" does not end in an article.
            [clean_title(title, articles=domain != "products") for title in titles],
            catalogue["item_id"],
            years=_column(catalogue, _YEAR),
            makers=_column(catalogue, _MAKER),
        ),
        item_tokens=tuple(catalogue["item_id"]),
        genres=_genres(genres) if genres else ((),) * len(titles),
        user_tokens=read.user_tokens,
        indptr=indptr,
        items=row_of[read.items[sequence]],
        order=order,
        last_times=read.timestamps[sequence[indptr[1:] - 1]] if order == "time" else None,
        notes=facts.notes,
        folder=folder,
        profiles=profiles,
    )


def _column(table: dict[str, list[str]], names: Sequence[str]) -> list[str] | None:
    return next((table[name] for name in names if name in table), None)


def _genres(column: Sequence[str]) -> tuple[tuple[str, ...], ...]:
    """Return each item's genres.

    They are split at bars, else semicolons, else commas, if the column contains any; else at
    blanks, as in RecBole's files.
    """
    separator = next((mark for mark in "|;," if any(mark in value for value in column)), None)
    return tuple(
        tuple(
            dict.fromkeys(
                genre
                for part in value.split(separator)
                if (genre := part.strip(_AROUND)) and genre.lower() != _NO_GENRES
            )
        )
        for value in column
    )


def _interaction_file(folder: Path) -> Path:
    stem = folder.resolve().name
    for name in (f"{stem}.inter", f"{stem}.inter.gz"):
        if (folder / name).is_file():
            return folder / name
    found = [*sorted(folder.glob("*.inter")), *sorted(folder.glob("*.inter.gz"))]
    found = [file for file in found if file.is_file()]
    if len(found) == 1:
        return found[0]
    raise InvalidData(
        f"{folder} holds {len(found)} files that end in .inter or .inter.gz; expected one, or one "
        f"called {stem}.inter"
    )
