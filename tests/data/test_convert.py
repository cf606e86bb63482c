"""The converters of published datasets, on small files of their forms."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import rpp_env

SCRIPT = Path(__file__).parents[2] / "examples" / "convert_dataset.py"


def convert(*words: object) -> str:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def zipped(path: Path, files: dict[str, str], encoding: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text.encode(encoding))
    return path


def test_movielens_100k(tmp_path: Path) -> None:
    genres = "unknown|0\nAction|1\nFilm-Noir|2\n\n"
    films = "1|Café One (1995)|01-Jan-1995||http://x|0|1|1\n2|Second|||http://x|1|0|0\n"
    data = {
        "ml-100k/u.data": "7\t1\t3\t100\n7\t2\t4\t90\n8\t2\t5\t80\n8\t1\t1\t85\n",
        "ml-100k/u.item": films,
        "ml-100k/u.genre": genres,
        "ml-100k/u.user": "7|24|M|technician|85711\n8|53|F|other|94043\n",
    }
    archive = zipped(tmp_path / "a.zip", data, "latin-1")
    assert "2 users, 2 items, 4 rows" in convert("ml-100k", archive, tmp_path / "data")
    found = rpp_env.load_dataset("ml-100k", root=tmp_path / "data")
    assert list(found.titles) == ["Café One", "Second"]
    last = [found.titles[found.items[end - 1]] for end in found.indptr[1:]]
    assert last == ["Café One", "Café One"]
    assert (tmp_path / "data/ml-100k/ml-100k.item").read_text("utf-8").splitlines()[1].split(
        "\t"
    ) == ["1", "Café One", "1995", "Action Film-Noir"]
    assert set(found.profiles.fields) >= {"age", "gender", "occupation"}


def test_lastfm(tmp_path: Path) -> None:
    data = {
        "user_artists.dat": "userID\tartistID\tweight\n"
        "2\t51\t13883\n2\t52\t11690\n3\t51\t5\n3\t52\t9\n",
        "artists.dat": "id\tname\turl\tpictureURL\n"
        "51\tDuran\thttp://x\thttp://y\n52\tBjörk\thttp://x\t\n",
    }
    archive = zipped(tmp_path / "a.zip", data, "utf-8")
    convert("lastfm", archive, tmp_path / "data")
    found = rpp_env.load_dataset("lastfm", root=tmp_path / "data")
    assert list(found.titles) == ["Duran", "Björk"]
    last = [found.titles[found.items[end - 1]] for end in found.indptr[1:]]
    assert last == ["Duran", "Björk"]  # the most played


@pytest.mark.parametrize("name", ["beauty", "games"])
def test_amazon(name: str, tmp_path: Path) -> None:
    reviews = [
        {"reviewerID": user, "asin": f"B{item}", "unixReviewTime": when, "overall": 5.0}
        for user, items in {
            "A1": [(1, 30), (2, 10), (3, 20), (2, 40)],
            "A2": [(1, 1), (3, 2)],
        }.items()
        for item, when in items
    ]
    with gzip.open(tmp_path / "reviews.json.gz", "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(review) + "\n" for review in reviews)
    meta = [{"asin": "B1", "title": "It's\tone", "brand": "X"}, {"asin": "B2", "title": "Two"}]
    with gzip.open(tmp_path / "meta.json.gz", "wt", encoding="utf-8") as file:
        # Amazon 2014 has Python literals, Amazon 2018 JSON.
        file.writelines((repr(m) if name == "beauty" else json.dumps(m)) + "\n" for m in meta)
    files = (tmp_path / "reviews.json.gz", tmp_path / "meta.json.gz", tmp_path / "data")
    convert(name, *files, "--last", 2)
    found = rpp_env.load_dataset(name, root=tmp_path / "data")
    rows = [found.items[a:b] for a, b in zip(found.indptr, found.indptr[1:], strict=False)]
    assert [[found.titles[i] for i in row] for row in rows] == [
        ["B3", "It's one"],
        ["It's one", "B3"],
    ]
