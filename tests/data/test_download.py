"""Downloads come from a server on this machine, out of archives that the test makes."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rpp_env.data import download, load_dataset
from rpp_env.data.download import SOURCES, get
from rpp_env.errors import InvalidData, InvalidOption, MissingExtra

ML_1M = {
    "ml-1m/README": "The terms.",
    "ml-1m/movies.dat": (
        "1::Bird, The (1990)::Drama|Film-Noir\n2::Caf\xe9 (1991)::Comedy\n3::Owl::War\n"
    ),
    "ml-1m/users.dat": "1::F::1::10::48067\n2::M::56::16::70072\n",
    "ml-1m/ratings.dat": "1::2::5::978300760\n1::1::3::978300700\n2::3::4::1\n2::1::4::2\n",
}
ML_SMALL = {
    "ml-latest-small/README.txt": "The terms.",
    "ml-latest-small/movies.csv": (
        "movieId,title,genres\r\n"
        '1,"Bird, The (1990)",Drama|Film-Noir\r\n'
        '2,"Say ""Café"" ",(no genres listed)\r\n'
    ),
    "ml-latest-small/ratings.csv": "userId,movieId,rating,timestamp\r\n1,2,4.5,9\r\n1,1,0.5,8\r\n",
    "ml-latest-small/tags.csv": "userId,movieId,tag,timestamp\r\n",
}


def archive(members: dict[str, str], encoding: str = "utf-8") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as opened:
        for name, text in members.items():
            opened.writestr(name, text.encode(encoding))
    return out.getvalue()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def served() -> Iterator[tuple[str, dict[str, bytes]]]:
    """The address of a server on 127.0.0.1, and the files that it serves."""
    files: dict[str, bytes] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = files.get(self.path.lstrip("/"))
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", files
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def ml_1m(served, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a small ml-1m archive whose digest is the expected one."""
    address, files = served
    files["ml-1m.zip"] = archive(ML_1M, "latin-1")
    source = replace(SOURCES["ml-1m"], md5=md5(files["ml-1m.zip"]))
    monkeypatch.setitem(SOURCES, "ml-1m", source)
    return f"{address}/ml-1m.zip"


def test_the_digest_of_ml_1m_is_grouplens() -> None:
    assert SOURCES["ml-1m"].md5 == "c4d9eecfca2ab87c1945afe126590906"
    assert all(s.url.startswith("https://files.grouplens.org/") for s in SOURCES.values())


def test_ml_1m_becomes_atomic_files(
    ml_1m: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = get("ML-1M", tmp_path / "new", url=ml_1m)
    assert "may not be redistributed without" in capsys.readouterr().out
    assert folder == tmp_path / "new" / "ml-1m"
    assert sorted(p.name for p in folder.iterdir()) == [
        "README-grouplens.txt",
        "ml-1m.inter",
        "ml-1m.item",
        "ml-1m.user",
    ]
    assert [p.name for p in folder.parent.iterdir()] == ["ml-1m"]
    assert (folder / "ml-1m.item").read_text(encoding="utf-8").splitlines() == [
        "item_id:token\ttitle:token_seq\trelease_year:token\tgenre:token_seq",
        "1\tBird, The\t1990\tDrama Film-Noir",
        "2\tCafé\t1991\tComedy",
        "3\tOwl\t\tWar",
    ]
    data = load_dataset("ml-1m", tmp_path / "new")
    assert data.titles == ("The Bird", "Café", "Owl")
    assert [data.sequence(u).tolist() for u in (0, 1)] == [[0, 1], [2, 0]]


def test_ml_latest_small_becomes_atomic_files(
    served, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    address, files = served
    files["small.zip"] = archive(ML_SMALL)
    files["small.zip.md5"] = f"MD5 (small.zip) = {md5(files['small.zip']).upper()}\n".encode()
    folder = get("ml-latest-small", tmp_path, url=f"{address}/small.zip")
    assert "development set" in capsys.readouterr().out
    data = load_dataset(folder)
    assert data.titles == ("The Bird", 'Say "Café"')
    assert data.genres == (("Drama", "Film-Noir"), ())
    assert data.sequence(0).tolist() == [0, 1]
    assert data.domain == "movies"


def test_a_wrong_digest_leaves_nothing_behind(served, tmp_path: Path) -> None:
    address, files = served
    files["ml-1m.zip"] = archive(ML_1M, "latin-1")
    with pytest.raises(InvalidData, match=r"wrong digest: expected MD5 c4d9eec.*, got"):
        get("ml-1m", tmp_path, url=f"{address}/ml-1m.zip", accept=lambda terms: True)
    assert list(tmp_path.iterdir()) == []
    files["small.zip"] = archive(ML_SMALL)
    for published, message in ((b"0" * 32, "wrong digest"), (b"soon", "expected an MD5 of 32")):
        files["small.zip.md5"] = published
        with pytest.raises(InvalidData, match=message):
            get("ml-latest-small", tmp_path, url=f"{address}/small.zip", accept=lambda terms: True)
        assert list(tmp_path.iterdir()) == []
    del files["small.zip.md5"]
    with pytest.raises(InvalidData, match=r"small\.zip\.md5 cannot be downloaded: 404"):
        get("ml-latest-small", tmp_path, url=f"{address}/small.zip", accept=lambda terms: True)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ml-1m/ratings.dat": "1::2::5::9\n1::2::5\n"}, "ratings.dat, row 2: expected 4 fields"),
        ({"ml-1m/ratings.dat": "1::2::5::soon\n"}, "line 2, column timestamp: expected a number"),
        ({"ml-1m/ratings.dat": "1::7::5::9\n"}, "column item_id: expected an id of ml-1m.item"),
        ({"ml-1m/movies.dat": None}, "holds no movies.dat, only ml-1m/README"),
    ],
)
def test_a_broken_archive_leaves_nothing_behind(
    served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change, message: str
) -> None:
    address, files = served
    members = {name: text for name, text in (ML_1M | change).items() if text is not None}
    files["x.zip"] = archive(members, "latin-1")
    monkeypatch.setitem(SOURCES, "ml-1m", replace(SOURCES["ml-1m"], md5=md5(files["x.zip"])))
    with pytest.raises(InvalidData, match=message):
        get("ml-1m", tmp_path, url=f"{address}/x.zip")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_zip_file_is_refused(served, tmp_path: Path, monkeypatch) -> None:
    address, files = served
    files["x.zip"] = b"<html>busy</html>"
    monkeypatch.setitem(SOURCES, "ml-1m", replace(SOURCES["ml-1m"], md5=md5(files["x.zip"])))
    with pytest.raises(InvalidData, match="is not a zip file"):
        get("ml-1m", tmp_path, url=f"{address}/x.zip")
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_is_away_is_named(tmp_path: Path, served) -> None:
    address, _ = served
    with pytest.raises(InvalidData, match=r"ml-1m\.zip cannot be downloaded: 404"):
        get("ml-1m", tmp_path, url=f"{address}/ml-1m.zip")
    assert list(tmp_path.iterdir()) == []


def test_terms_come_first_and_can_be_refused(ml_1m: str, tmp_path: Path) -> None:
    read: list[str] = []
    with pytest.raises(InvalidOption, match="terms of ml-1m were not accepted"):
        get("ml-1m", tmp_path / "x", url=ml_1m, accept=read.append)
    assert "Harper" in read[0]
    assert not (tmp_path / "x").exists()


def test_what_is_there_is_kept(ml_1m: str, tmp_path: Path) -> None:
    folder = get("ml-1m", tmp_path, url=ml_1m)
    before = (folder / "ml-1m.item").stat().st_mtime_ns
    assert get("ml-1m", tmp_path, url="http://127.0.0.1:9/gone.zip") == folder
    assert (folder / "ml-1m.item").stat().st_mtime_ns == before


def test_the_default_place_is_where_load_dataset_looks(
    ml_1m: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RPP_ENV_CACHE", str(tmp_path))
    monkeypatch.delenv("RPP_ENV_DATA", raising=False)
    get("ml-1m", url=ml_1m)
    assert load_dataset("ml-1m").num_items == 3


def test_only_known_names(tmp_path: Path) -> None:
    with pytest.raises(InvalidOption, match="'games' cannot be downloaded; choose from ml-1m"):
        get("games", tmp_path)


def test_without_pooch_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pooch", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[agents\]"):
        get("ml-1m", tmp_path, accept=lambda terms: True)
    assert list(tmp_path.iterdir()) == []


def test_show_terms_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.show_terms("these") is True
    assert capsys.readouterr().out == "these\n"
