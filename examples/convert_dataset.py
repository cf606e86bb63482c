"""Convert a published dataset to the atomic files that rpp_env reads; needs only Python.

    python convert_dataset.py ml-100k ml-100k.zip data
    python convert_dataset.py lastfm hetrec2011-lastfm-2k.zip data
    python convert_dataset.py beauty reviews_Beauty_5.json.gz meta_Beauty.json.gz data
    python convert_dataset.py games Video_Games_5.json.gz meta_Video_Games.json.gz data --last 50

writes data/NAME/NAME.inter and NAME.item (and .user). The terms of each dataset are in
docs/tutorials/your-data.md. MovieLens 1M and latest-small: ``rpp-env data get``.
"""

from __future__ import annotations

import argparse
import ast
import gzip
import io
import json
import os
import re
import sys
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

Row = tuple[str, ...]
CLICK = ("user_id:token", "item_id:token", "rating:float", "timestamp:float")


def clean(text: object) -> str:
    """Return a text on one line, without tabs."""
    return " ".join(str(text).split())


def lines(archive: zipfile.ZipFile, ending: str, encoding: str) -> Iterator[list[str]]:
    """Yield the rows of a zip file's member, with fields separated by tabs or bars."""
    (name,) = (name for name in archive.namelist() if name.rpartition("/")[2] == ending)
    with archive.open(name) as file:
        for line in io.TextIOWrapper(file, encoding=encoding):
            if line.strip():
                yield [clean(field) for field in re.split(r"\t|\|", line.rstrip("\r\n"))]


def ml_100k(archive: Path) -> dict[str, list[Row]]:
    with zipfile.ZipFile(archive) as opened:
        clicks = [CLICK, *(tuple(row) for row in lines(opened, "u.data", "latin-1"))]
        kinds = [name for name, _ in lines(opened, "u.genre", "latin-1")]
        items = [("item_id:token", "title:token_seq", "release_year:token", "genre:token_seq")]
        for token, titled, _, _, _, *flags in lines(opened, "u.item", "latin-1"):
            found = re.fullmatch(r"(.*\S)\s*\((\d{4})\)", titled)
            title, year = found.groups() if found else (titled, "")
            genres = [kind for kind, flag in zip(kinds, flags, strict=True) if flag == "1"]
            items.append((token, title, year, " ".join(genres)))
        users = [
            ("user_id:token", "age:token", "gender:token", "occupation:token", "zip_code:token")
        ]
        users += [tuple(row) for row in lines(opened, "u.user", "latin-1")]
    return {"inter": clicks, "item": items, "user": users}


def lastfm(archive: Path) -> dict[str, list[Row]]:
    """Convert lastfm; column timestamp is the play count: a user's last item is the most played."""
    with zipfile.ZipFile(archive) as opened:
        clicks = [CLICK]
        for user, artist, plays in list(lines(opened, "user_artists.dat", "utf-8"))[1:]:
            clicks.append((user, artist, plays, plays))
        items = [("item_id:token", "title:token_seq")]
        items += [(row[0], row[1]) for row in list(lines(opened, "artists.dat", "utf-8"))[1:]]
    return {"inter": clicks, "item": items}


def records(path: Path) -> Iterator[dict[str, object]]:
    """Yield the objects of a gzipped file, one per line: JSON, or Amazon 2014's Python literals."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        for line in file:
            yield json.loads(line) if line.startswith('{"') else ast.literal_eval(line)


def amazon(reviews: Path, meta: Path, last: int | None) -> dict[str, list[Row]]:
    """Convert Amazon data; column timestamp is the position in the user's sequence."""
    chosen: dict[str, dict[str, tuple[float, str]]] = defaultdict(dict)
    for review in records(reviews):  # the first review of an item counts
        when = float(str(review["unixReviewTime"]))
        rating = str(review.get("overall", 1))
        chosen[clean(review["reviewerID"])].setdefault(clean(review["asin"]), (when, rating))
    clicks, known = [CLICK], set()
    for user, items in chosen.items():
        row = sorted(items.items(), key=lambda item: item[1][0])
        for place, (item, (_, rating)) in enumerate(row[-last:] if last else row):
            clicks.append((user, item, rating, str(place)))
            known.add(item)
    rows: dict[str, Row] = {}
    for item in records(meta):
        token = clean(item["asin"])
        if token in known:
            title = clean(item.get("title") or "") or token
            rows.setdefault(token, (token, title, clean(item.get("brand") or "")))
    for token in sorted(known - set(rows)):
        rows[token] = (token, token, "")
    head = ("item_id:token", "title:token_seq", "brand:token_seq")
    return {"inter": clicks, "item": [head, *rows.values()]}


def write(folder: Path, tables: dict[str, list[Row]]) -> None:
    if folder.exists():
        sys.exit(f"{folder} is there already; remove it first")
    folder.mkdir(parents=True)
    for ending, rows in tables.items():
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"{folder.name}.{ending}").write_text(text, encoding="utf-8", newline="\n")
    clicks = tables["inter"][1:]
    users = len({row[0] for row in clicks})
    print(f"{folder}: {users:,} users, {len(tables['item']) - 1:,} items, {len(clicks):,} rows")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ["ml-100k", "lastfm", "beauty", "sports", "toys", "games"]
    parser.add_argument("name", choices=names)
    parser.add_argument("files", nargs="+", type=Path, help="the files that were downloaded")
    parser.add_argument("folder", type=Path, help="folder of the datasets, see RPP_ENV_DATA")
    parser.add_argument("--last", type=int, help="keep a user's last so many items (Amazon)")
    options = parser.parse_args()
    wanted = 1 if options.name in ("ml-100k", "lastfm") else 2
    if len(options.files) != wanted:
        parser.error(f"{options.name} is made of {wanted} file(s), got {len(options.files)}")
    if options.name == "ml-100k":
        tables = ml_100k(*options.files)
    elif options.name == "lastfm":
        tables = lastfm(*options.files)
    else:
        tables = amazon(*options.files, options.last)
    write(options.folder / options.name, tables)


if (
    __name__ == "__main__" and "RPP_ENV_FAST" not in os.environ
):  # the tests bring files of their own
    main()
