"""Downloads, from a local server and archives made by the test."""

from __future__ import annotations

import gzip
import hashlib
import io
import socketserver
import threading
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

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
    """Address of a small ml-1m archive with the expected digest."""
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


def test_files_that_are_not_zip_archives_are_refused(served, tmp_path: Path, monkeypatch) -> None:
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


def test_existing_folders_are_kept(ml_1m: str, tmp_path: Path) -> None:
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
    with pytest.raises(InvalidOption, match="'games' is not known; there are ml-1m"):
        get("games", tmp_path)


def test_without_requests_the_extra_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "requests", None)
    with pytest.raises(MissingExtra, match=r"rpp-env\[agents\]"):
        get("ml-1m", tmp_path, accept=lambda terms: True)
    assert list(tmp_path.iterdir()) == []


@contextmanager
def answering(answer: Callable[[Any], None]) -> Iterator[str]:
    """The address of a server that treats each connection as `answer` does."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while self.rfile.readline().strip():
                pass
            with suppress(OSError):
                answer(self.wfile)

    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/ml-1m.zip"
    server.shutdown()
    server.server_close()


def endless(out: Any) -> None:
    out.write(b"HTTP/1.1 200 OK\r\n\r\n")
    while True:
        out.write(b"x" * (1 << 16))


def packed(out: Any) -> None:
    body = gzip.compress(b"0" * (1 << 28), 1)
    out.write(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\n")
    out.write(f"Content-Length: {len(body)}\r\n\r\n".encode() + body)


def dripping(out: Any) -> None:
    out.write(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
    while True:
        out.write(b"x")
        time.sleep(0.05)


def dripping_headers(out: Any) -> None:
    out.write(b"HTTP/1.1 200 OK\r\nX: ")
    while True:
        out.write(b"x")
        time.sleep(0.05)


@pytest.mark.parametrize("answer", [endless, packed])
def test_a_server_cannot_fill_the_disk(tmp_path: Path, answer) -> None:
    with answering(answer) as url, pytest.raises(InvalidData, match="more than 16,777,216 bytes"):
        get("ml-1m", tmp_path, url=url)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("answer", [dripping, dripping_headers, lambda out: time.sleep(9)])
def test_a_server_cannot_hold_us_up(tmp_path: Path, monkeypatch, answer) -> None:
    monkeypatch.setattr(download, "PATIENCE", 0.5)
    began = time.perf_counter()
    with (
        answering(answer) as url,
        pytest.raises(InvalidData, match=r"not downloaded within 0\.5 s"),
    ):
        get("ml-1m", tmp_path, url=url)
    assert time.perf_counter() - began < 5
    assert list(tmp_path.iterdir()) == []


def zipped(members: dict[str, bytes], method: int = zipfile.ZIP_DEFLATED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as opened:
        for name, data in members.items():
            opened.writestr(name, data)
    return out.getvalue()


BOMB = b"0" * (100 << 20)
PLAIN = {name: text.encode("latin-1") for name, text in ML_1M.items()}
SMALL = {name: text.encode() for name, text in ML_SMALL.items()}


def lying(data: bytes) -> bytes:
    """An archive whose directory states ten bytes for each file."""
    at = data.index(b"PK\x01\x02")
    while at >= 0:
        data = data[: at + 24] + (10).to_bytes(4, "little") + data[at + 28 :]
        at = data.find(b"PK\x01\x02", at + 4)
    return data


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("ml-1m", lambda: zipped(PLAIN | {"ml-1m/README": BOMB}), "README .* more than 1,048,576"),
        ("ml-1m", lambda: zipped(PLAIN | {"ml-1m/ratings.dat": BOMB}), "more than 67,108,864"),
        (
            "ml-1m",
            lambda: zipped(PLAIN | {"ml-1m/ratings.dat": b"\n" * (60 << 20)}),
            "ratings.dat, row 1: expected 4 fields, got 1",
        ),
        (
            "ml-1m",
            lambda: zipped(PLAIN | {"ml-1m/movies.dat": b"1::" + b"x" * (50 << 20)}),
            "movies.dat, row 1: expected at most 1,048,576 characters",
        ),
        (
            "ml-latest-small",
            lambda: zipped(
                SMALL | {"ml-latest-small/movies.csv": b'a\n1,"' + b"x" * 200_000 + b'",Drama\n'}
            ),
            r"movies\.csv, .*field larger than field limit",
        ),
        (
            "ml-latest-small",
            lambda: zipped(SMALL | {"ml-latest-small/movies.csv": b'a\n1,"' + b"x\n" * 200_000}),
            r"movies\.csv, .*field larger than field limit",
        ),
        (
            "ml-latest-small",
            lambda: zipped(SMALL | {"ml-latest-small/movies.csv": b"\xff\n\xff"}),
            "UTF-8",
        ),
        ("ml-1m", lambda: lying(zipped(PLAIN)), "cannot be unpacked"),
        ("ml-1m", lambda: zipped(PLAIN).replace(b"Owl", b"Owx")[:-30], "not a zip file"),
        (
            "ml-1m",
            lambda: zipped(PLAIN, zipfile.ZIP_STORED).replace(b"Owl", b"Owx"),
            "unpacked",
        ),
        (
            "ml-1m",
            lambda: zipped(PLAIN, zipfile.ZIP_LZMA).replace(b"\x05\x00]\x00", b"\x05\x00\xff\xff"),
            "cannot be unpacked|not a zip",
        ),
        (
            "ml-1m",
            lambda: (
                zipped(PLAIN)
                .replace(b"PK\x03\x04\x14\0\0", b"PK\x03\x04\x14\0\1")
                .replace(b"PK\x01\x02\x14\x03\x14\0\0", b"PK\x01\x02\x14\x03\x14\0\1")
            ),
            "cannot be unpacked",
        ),
        (
            "ml-1m",
            lambda: zipped({"x" * 60_000 + str(i): b"" for i in range(20)}),
            "holds no ratings",
        ),
    ],
    ids=[
        "readme",
        "ratings",
        "empty rows",
        "row",
        "field",
        "rows in a field",
        "bytes",
        "lying",
        "cut",
        "damaged",
        "damaged lzma",
        "encrypted",
        "names",
    ],
)
def test_a_hostile_archive_ends_in_a_sentence(
    served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, data, message: str
) -> None:
    address, files = served
    files["x.zip"] = data()
    files["x.zip.md5"] = md5(files["x.zip"]).encode()
    monkeypatch.setitem(SOURCES, name, replace(SOURCES[name], md5=None))
    tracemalloc.start()
    with pytest.raises(InvalidData, match=message) as caught:
        get(name, tmp_path, url=f"{address}/x.zip")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 << 20
    assert len(str(caught.value)) < 1000
    assert list(tmp_path.iterdir()) == []


def test_show_terms_continues(capsys: pytest.CaptureFixture[str]) -> None:
    assert download.show_terms("these") is True
    assert capsys.readouterr().out == "these\n"
