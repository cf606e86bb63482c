"""Fetch a MovieLens archive from GroupLens and turn it into atomic files.

The archive's MD5 is checked before anything is read: for ml-1m, which never changes, against the
digest written here; for ml-latest-small, which GroupLens renews from time to time, against the
``.md5`` file that they publish beside it. The latter shows that the transfer was whole, not which
release it is.
"""

from __future__ import annotations

import csv
import io
import re
import shutil
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rpp_env.data.files import read_dataset
from rpp_env.data.folders import cache_dir
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra

__all__ = ["SOURCES", "Source", "get", "show_terms"]

_CITE = (
    "Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and "
    "Context. ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19."
)


@dataclass(frozen=True)
class Source:
    """Where a dataset comes from, and on what terms."""

    url: str
    terms: str
    md5: str | None
    """Of the archive; None: published beside it, at the same address with ``.md5`` added."""


SOURCES: dict[str, Source] = {
    "ml-1m": Source(
        "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
        "MovieLens 1M, by GroupLens Research, University of Minnesota: for research; acknowledge "
        "it in publications; it may not be redistributed without separate permission, nor used "
        "commercially without permission; no endorsement may be implied. Full terms: "
        "https://files.grouplens.org/datasets/movielens/ml-1m-README.txt\n" + _CITE,
        "c4d9eecfca2ab87c1945afe126590906",
    ),
    "ml-latest-small": Source(
        "https://files.grouplens.org/datasets/movielens/ml-latest-small.zip",
        "MovieLens latest-small, by GroupLens Research, University of Minnesota: for research; "
        "acknowledge it in publications; it may be redistributed under the same terms; no "
        "commercial use without permission; no endorsement may be implied. GroupLens renew it and "
        "call it a development set, not a benchmark. Full terms: "
        "https://files.grouplens.org/datasets/movielens/ml-latest-small-README.html\n" + _CITE,
        None,
    ),
}
"""What `get` can fetch."""

Rows = Iterable[Iterable[str]]


def show_terms(terms: str) -> bool:
    """Print the terms and go on; what `get` does unless told otherwise."""
    print(terms)  # noqa: T201 the terms are for a person to read
    return True


def get(
    name: str,
    root: str | Path | None = None,
    *,
    url: str | None = None,
    accept: Callable[[str], bool] = show_terms,
) -> Path:
    """Download a dataset, check its digest, and write it as atomic files.

    Parameters
    ----------
    name : str
        ``"ml-1m"`` or ``"ml-latest-small"``.
    root : str or Path, optional
        The folder becomes ``<root>/<name>``; the default is ``data`` in the cache folder, where
        `rpp_env.load_dataset` looks.
    url : str, optional
        A mirror of the archive. The same digest must come out.
    accept : callable
        Is given the terms before anything is fetched; False ends it there.

    Returns
    -------
    Path
        The folder with ``<name>.inter``, ``<name>.item``, for ml-1m ``<name>.user``, and GroupLens'
        own README. It appears whole or not at all; where it is there already, nothing is fetched.

    Raises
    ------
    InvalidOption
        For a name that cannot be downloaded, and where the terms were not accepted.
    InvalidData
        Where the archive cannot be fetched, has the wrong digest, or does not hold what it should.
    MissingExtra
        Without pooch: ``pip install 'rpp-env[agents]'``.
    """
    source = SOURCES.get(name.lower())
    if source is None:
        raise InvalidOption(f"{name!r} cannot be downloaded; choose from {', '.join(SOURCES)}")
    name = name.lower()
    folder = (cache_dir() / "data" if root is None else Path(root)) / name
    if folder.exists():
        return folder
    if not accept(source.terms):
        raise InvalidOption(f"the terms of {name} were not accepted; nothing was downloaded")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{name}-") as made:
        work = Path(made)
        url = source.url if url is None else url
        archive = _fetch(
            url, source.md5 or _published_md5(f"{url}.md5", work), work / "archive.zip"
        )
        atomic = work / name
        atomic.mkdir()
        _convert(archive, atomic, name)
        read_dataset(atomic)
        atomic.rename(folder)
    return folder


def _fetch(url: str, md5: str | None, target: Path) -> Path:
    """Download a file; where `md5` is given it must fit."""
    try:
        import pooch  # type: ignore[import-untyped]
        import requests
    except ImportError:
        raise MissingExtra("pooch", "agents") from None
    try:
        pooch.HTTPDownloader()(url, str(target), None)
    except (requests.RequestException, OSError) as error:
        raise InvalidData(f"{url} cannot be downloaded: {error}") from error
    found = pooch.file_hash(str(target), alg="md5")
    if md5 is not None and found != md5:
        raise InvalidData(
            f"{url} has the wrong digest: expected MD5 {md5}, got {found}. Nothing was kept; try "
            "again later, or pass the url of another copy"
        )
    return target


def _published_md5(url: str, work: Path) -> str:
    text = _fetch(url, None, work / "archive.md5").read_text(encoding="utf-8", errors="replace")
    found = re.search(r"\b[0-9a-fA-F]{32}\b", text)
    if found is None:
        raise InvalidData(f"{url}: expected an MD5 of 32 hexadecimal digits, got {text[:60]!r}")
    return found[0].lower()


def _convert(archive: Path, folder: Path, name: str) -> None:
    try:
        with zipfile.ZipFile(archive) as opened:
            tables = _ml_1m(opened) if name == "ml-1m" else _ml_latest(opened)
            for ending, (header, rows) in tables.items():
                with (folder / f"{name}.{ending}").open("w", encoding="utf-8", newline="\n") as out:
                    out.write("\t".join(header) + "\n")
                    out.writelines("\t".join(row) + "\n" for row in rows)
            readme = next(
                (n for n in opened.namelist() if n.endswith(("README", "README.txt"))), None
            )
            if readme is not None:
                with (
                    opened.open(readme) as text,
                    (folder / "README-grouplens.txt").open("wb") as out,
                ):
                    shutil.copyfileobj(text, out)
    except zipfile.BadZipFile as error:
        raise InvalidData(f"the archive of {name} is not a zip file: {error}") from None


_RATING = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")
_MOVIE = ("item_id:token", "title:token_seq", "release_year:token", "genre:token_seq")
_USER = ("user_id:token", "gender:token", "age:token", "occupation:token", "zip_code:token")


def _ml_1m(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[str, ...], Rows]]:
    return {
        "inter": (_RATING, _colons(archive, "ratings.dat", 4)),
        "item": (_MOVIE, map(_movie, _colons(archive, "movies.dat", 3))),
        "user": (_USER, _colons(archive, "users.dat", 5)),
    }


def _ml_latest(archive: zipfile.ZipFile) -> dict[str, tuple[tuple[str, ...], Rows]]:
    return {
        "inter": (_RATING, _commas(archive, "ratings.csv", 4)),
        "item": (_MOVIE, map(_movie, _commas(archive, "movies.csv", 3))),
    }


def _movie(fields: list[str]) -> tuple[str, str, str, str]:
    token, titled, genres = fields
    title, year = titled.strip(), ""
    found = re.fullmatch(r"(.*\S)\s*\((\d{4})\)", title)
    if found is not None:
        title, year = found.groups()
    names = [] if genres == "(no genres listed)" else genres.split("|")
    # A blank would part one genre into two in the atomic form.
    return token, title, year, " ".join(genre.replace(" ", "_") for genre in names)


def _colons(archive: zipfile.ZipFile, ending: str, width: int) -> Iterator[list[str]]:
    """Rows of a file whose fields are parted by two colons, in Latin-1."""
    lines = _member(archive, ending).decode("latin-1").splitlines()
    return _checked((line.split("::") for line in lines), ending, width, first=1)


def _commas(archive: zipfile.ZipFile, ending: str, width: int) -> Iterator[list[str]]:
    """Rows of a CSV file in UTF-8, below its header."""
    try:
        text = _member(archive, ending).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidData(f"{ending}: expected UTF-8: {error}") from None
    rows = csv.reader(io.StringIO(text, newline=""))
    next(rows, None)
    return _checked(rows, ending, width, first=2)


def _checked(
    rows: Iterable[list[str]], name: str, width: int, *, first: int
) -> Iterator[list[str]]:
    for line, row in enumerate(rows, start=first):
        if len(row) != width:
            raise InvalidData(f"{name}, row {line}: expected {width} fields, got {len(row)}")
        yield [" ".join(field.split()) for field in row]


def _member(archive: zipfile.ZipFile, ending: str) -> bytes:
    for name in archive.namelist():
        if name.rpartition("/")[2] == ending:
            return archive.read(name)
    raise InvalidData(f"the archive holds no {ending}, only {', '.join(archive.namelist()[:10])}")
