"""Download a MovieLens archive from GroupLens and convert it to atomic files.

The archive's MD5 is checked before anything is read: for ml-1m, which never changes, against the
digest in this file; for ml-latest-small, which GroupLens updates from time to time, against the
``.md5`` file that they publish next to it. The latter shows that the transfer was complete, not
which release it is. The size of transfers and archives, and the duration, are limited.
"""

from __future__ import annotations

import csv
import hashlib
import io
import lzma
import re
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from rpp_env.data.atomic import MAX_LINE
from rpp_env.data.files import read_dataset
from rpp_env.data.folders import cache_dir, keep_folder
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra
from rpp_env.options import unknown

__all__ = ["SOURCES", "Source", "get", "show_terms"]

MAX_ARCHIVE = 1 << 24
"""Maximum bytes of a downloaded archive; ml-1m's has 6 million."""
MAX_MEMBER = 1 << 26
"""Maximum bytes of a file in it, unpacked; ml-1m's ratings have 25 million."""
MAX_README = 1 << 20
"""Maximum bytes of its README, and of a published digest."""
PATIENCE = 600.0
"""Maximum seconds of a download."""

_CITE = (
    "Cite: F. Maxwell Harper and Joseph A. Konstan. 2015. The MovieLens Datasets: History and "
    "Context. ACM Transactions on Interactive Intelligent Systems 5, 4, Article 19."
)


@dataclass(frozen=True)
class Source:
    """Address, digest and terms of a dataset."""

    url: str
    terms: str
    md5: str | None
    """MD5 of the archive; None: published at the same address with ``.md5`` added."""


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
"""Datasets that `get` can download."""

Rows = Iterable[Iterable[str]]


def show_terms(terms: str) -> bool:
    """Print the terms and accept them; the default of `get`."""
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
        A mirror of the archive. It must have the same digest.
    accept : callable
        Called with the terms before the download; False cancels it.

    Returns
    -------
    Path
        The folder with ``<name>.inter``, ``<name>.item``, for ml-1m ``<name>.user``, and GroupLens'
        own README. It appears only when complete; if it exists already, nothing is downloaded.

    Raises
    ------
    InvalidOption
        For a name that cannot be downloaded, and if the terms were not accepted.
    InvalidData
        If the archive cannot be downloaded, has the wrong digest, or lacks a file.
    MissingExtra
        Without requests: ``pip install 'rpp-env[agents]'``.
    """
    source = SOURCES.get(name.lower())
    if source is None:
        raise InvalidOption(unknown("dataset to download", name, SOURCES))
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
        md5 = source.md5 or _published_md5(f"{url}.md5", work)
        archive = _fetch(url, md5, work / "archive.zip", MAX_ARCHIVE)
        atomic = work / name
        atomic.mkdir()
        _convert(archive, atomic, name)
        read_dataset(atomic)
        keep_folder(atomic, folder)
    return folder


class _Download(threading.Thread):
    """A download in the background, so that a slow server cannot block the caller."""

    def __init__(self, url: str, target: Path, limit: int) -> None:
        super().__init__(name=f"download of {url}", daemon=True)
        self.url, self.target, self.limit = url, target, limit
        self.error: Exception | None = None
        self.abandoned = False

    def run(self) -> None:
        import requests

        written = 0
        try:
            with (
                requests.get(self.url, stream=True, timeout=30) as response,
                self.target.open("wb") as file,
            ):
                response.raise_for_status()
                for data in response.iter_content(1 << 16):
                    written += len(data)
                    if self.abandoned or written > self.limit:
                        self.error = InvalidData(
                            f"{self.url} sends more than {self.limit:,} bytes; nothing was kept"
                        )
                        return
                    file.write(data)
        except Exception as error:  # noqa: BLE001 - raised again in the waiting thread
            self.error = error


def _fetch(url: str, md5: str | None, target: Path, limit: int) -> Path:
    """Download a file; if `md5` is given, the digest must match."""
    try:
        import requests
    except ImportError:
        raise MissingExtra("requests", "agents") from None
    download = _Download(url, target, limit)
    download.start()
    download.join(PATIENCE)
    if download.is_alive():
        download.abandoned = True
        raise InvalidData(f"{url} was not downloaded within {PATIENCE:g} s; nothing was kept")
    if isinstance(download.error, requests.RequestException | OSError):
        raise InvalidData(f"{url} cannot be downloaded: {download.error}") from download.error
    if download.error is not None:
        raise download.error
    found = hashlib.md5(target.read_bytes(), usedforsecurity=False).hexdigest()
    if md5 is not None and found != md5:
        raise InvalidData(
            f"{url} has the wrong digest: expected MD5 {md5}, got {found}. Nothing was kept; try "
            "again later, or pass the url of another copy"
        )
    return target


def _published_md5(url: str, work: Path) -> str:
    file = _fetch(url, None, work / "archive.md5", MAX_README)
    text = file.read_text(encoding="utf-8", errors="replace")
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
            readme = next((n for n in opened.namelist() if n.endswith(_READMES)), None)
            if readme is not None:
                (folder / "README-grouplens.txt").write_bytes(_read(opened, readme, MAX_README))
    except zipfile.BadZipFile as error:
        raise InvalidData(f"the archive of {name} is not a zip file: {error}") from None


_READMES = ("README", "README.txt")
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
    # A blank would split one genre into two in the atomic format.
    return token, title, year, " ".join(genre.replace(" ", "_") for genre in names)


def _colons(archive: zipfile.ZipFile, ending: str, width: int) -> Iterator[list[str]]:
    """Yield the rows of a Latin-1 file with fields separated by two colons."""
    lines = _lines(archive, ending, "latin-1")
    rows = (line.rstrip("\r\n").split("::") for line in lines)
    return _checked(rows, ending, width)


def _commas(archive: zipfile.ZipFile, ending: str, width: int) -> Iterator[list[str]]:
    """Yield the rows of a CSV file in UTF-8, without its header."""
    return _checked(csv.reader(_lines(archive, ending, "utf-8-sig")), ending, width, first=2)


def _checked(
    rows: Iterable[list[str]], name: str, width: int, *, first: int = 1
) -> Iterator[list[str]]:
    """Yield the rows from number `first` on, checking widths and collapsing blanks."""
    line = 0
    try:
        for line, row in enumerate(rows, start=1):
            if line < first:
                continue
            if len(row) != width:
                raise InvalidData(f"{name}, row {line}: expected {width} fields, got {len(row)}")
            yield [" ".join(field.split()) for field in row]
    except UnicodeDecodeError as error:
        raise InvalidData(f"{name}: expected UTF-8: {error}") from None
    except csv.Error as error:  # for example a field without an end
        raise InvalidData(f"{name}, after row {line}: {error}") from None


def _lines(archive: zipfile.ZipFile, ending: str, encoding: str) -> Iterator[str]:
    """Yield the lines of a file in the archive, with their line ends."""
    for name in archive.namelist():
        if name.rpartition("/")[2] == ending:
            break
    else:
        held = ", ".join(name[:60] for name in archive.namelist()[:10])
        raise InvalidData(f"the archive holds no {ending}, only {held}")
    text = io.TextIOWrapper(
        io.BytesIO(_read(archive, name, MAX_MEMBER)), encoding=encoding, newline=""
    )
    number = 0
    while line := text.readline(MAX_LINE):
        number += 1
        if len(line) == MAX_LINE:
            raise InvalidData(f"{ending}, row {number}: expected at most {MAX_LINE:,} characters")
        yield line


def _read(archive: zipfile.ZipFile, name: str, limit: int) -> bytes:
    """Read a file of the archive, if it is complete and not too large."""
    try:
        with archive.open(name) as file:
            data = file.read(limit + 1)
    # Damaged, encrypted and unusual archives raise different errors.
    except (
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        OSError,
        EOFError,
        RuntimeError,
        ValueError,
    ) as error:
        raise InvalidData(f"{name[:60]} in the archive cannot be unpacked: {error}") from None
    if len(data) > limit:
        raise InvalidData(
            f"{name[:60]} in the archive unpacks to more than {limit:,} bytes: this is not the "
            "expected archive"
        )
    return data
