"""Broken files are refused with file, line, column and expectation; whole ones are read exactly."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from rpp_env.data import atomic, load_dataset
from rpp_env.data.atomic import read_interactions, read_table
from rpp_env.errors import InvalidData

INTER = "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
ITEM = "item_id:token\ttitle:token_seq\trelease_year:token\tgenre:token_seq\n"
GOOD = "a\t1\t5\t10\na\t2\t4\t11\nb\t3\t1\t7.5\n"


def test_reads_plain_and_gzipped_files_alike(making, tmp_path: Path) -> None:
    plain = load_dataset(making.folder(tmp_path, GOOD))
    zipped = load_dataset(making.folder(tmp_path / "z", GOOD, zipped=True))
    assert plain.digest == zipped.digest
    assert plain.user_tokens == ("a", "b")
    assert [plain.sequence(u).tolist() for u in (0, 1)] == [[0, 1], [2]]


@pytest.mark.parametrize("tidy", [lambda t: t.replace("\n", "\r\n"), lambda t: t.rstrip("\n")])
def test_line_ends_do_not_matter(tmp_path: Path, tidy) -> None:
    path = tmp_path / "x.inter"
    path.write_bytes(tidy(INTER + GOOD).encode())
    read = read_interactions(path)
    assert read.timestamps.tolist() == [10.0, 11.0, 7.5]


def test_small_blocks_read_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    body = "".join(f"u{n % 7}\t{n % 11}\t1\t{n}\n" for n in range(500))
    path = tmp_path / "x.inter"
    path.write_text(INTER + body)
    whole = read_interactions(path)
    monkeypatch.setattr(atomic, "_BLOCK", 50)
    parts = read_interactions(path)
    assert whole.user_tokens == parts.user_tokens
    for name in ("users", "items", "timestamps"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))
    path.write_text(INTER + body + "u\t1\t1\n")
    with pytest.raises(InvalidData, match=r"line 502: expected 4 fields .* got 3"):
        read_interactions(path)
    path.write_text(INTER + body + "u\t1\t1\tsoon\n")
    with pytest.raises(InvalidData, match="line 502, column timestamp: expected a number"):
        read_interactions(path)


@pytest.mark.parametrize(
    ("inter", "message"),
    [
        ("", r"tiny\.inter is empty: expected a header line such as user_id:token"),
        (INTER, "has a header but no rows"),
        ("user\titem:token\na\t1\n", r"line 1, column 1: expected name:type .* got 'user'"),
        ("user_id:words\ta:token\na\t1\n", "line 1, column 1: expected name:type"),
        ("user_id:token\tuser_id:token\na\t1\n", "line 1, column 2: expected each column once"),
        (
            "user_id:token\titem_id:token\na\t1\n",
            "line 1: expected a column 'timestamp', got user_",
        ),
        (INTER.replace("timestamp:float", "timestamp:token") + GOOD, "expected timestamp:float"),
        ("a\t1\t5\n", "line 2: expected 4 fields .user_id, item_id, rating, timestamp. .* got 3"),
        # Three fields and then five: the same number in all.
        ("a\t1\t5\na\t2\t4\t11\t12\n", "line 2: expected 4 fields .* got 3"),
        ("a\t1\t5\t1\n\na\t1\t5\t1\n", "line 3: expected 4 fields .* got an empty line"),
        (GOOD + "b\t1\t1\tsoon\n", "line 5, column timestamp: expected a number, got 'soon'"),
        (GOOD + "b\t1\t1\tnan\n", "line 5, column timestamp: expected a number, got 'nan'"),
        (GOOD + "b\t1\t1\t\n", "line 5, column timestamp: expected a number, got ''"),
        (GOOD + "\t1\t1\t3\n", "line 5, column user_id: expected an id, got nothing"),
        (GOOD + "b\t\t1\t3\n", "line 5, column item_id: expected an id, got nothing"),
        (GOOD + "b\t9\t1\t3\n", r"line 5, column item_id: expected an id of tiny\.item, got '9'"),
    ],
)
def test_a_broken_inter_file_names_line_and_column(
    making, tmp_path: Path, inter: str, message: str
) -> None:
    folder = making.folder(tmp_path, inter)
    with pytest.raises(InvalidData, match=message) as caught:
        load_dataset(folder)
    assert str(folder / "tiny.inter") in str(caught.value)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        ("", "is empty"),
        (
            "item_id:token\tyear:token\n1\t2\n",
            "line 1: expected a column called title, movie_title",
        ),
        (ITEM.replace("item_id", "id") + "1\tA\t\t\n", "line 1: expected a column 'item_id'"),
        (
            "1\tA\t\t\n1\tB\t\t\n",
            "line 3, column item_id: expected each id once, but '1' .* line 2",
        ),
        ("\tA\t\t\n", "line 2, column item_id: expected an id, got nothing"),
        ("1\tA\t\n", "line 2: expected 4 fields"),
    ],
)
def test_a_broken_item_file_names_line_and_column(
    making, tmp_path: Path, item: str, message: str
) -> None:
    folder = making.folder(tmp_path, GOOD, item)
    with pytest.raises(InvalidData, match=message) as caught:
        load_dataset(folder)
    assert str(folder / "tiny.item") in str(caught.value)


def test_an_unknown_user_is_named_where_there_is_a_user_file(making, tmp_path: Path) -> None:
    folder = making.folder(tmp_path, GOOD, user="user_id:token\tage:token\na\t3\n")
    with pytest.raises(InvalidData, match=r"line 4, column user_id: .* tiny\.user, got 'b'"):
        load_dataset(folder)


def test_bytes_that_are_not_utf8_are_named(tmp_path: Path) -> None:
    path = tmp_path / "x.inter"
    path.write_bytes(INTER.encode() + b"a\t1\t5\t1\nb\t\xe9\t5\t1\n")
    with pytest.raises(InvalidData, match=r"line 3, column 2: expected UTF-8, got the byte 0xe9"):
        read_interactions(path)


@pytest.mark.parametrize("cut", [10, -4])
def test_gzip_that_is_cut_short_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "x.inter.gz"
    path.write_bytes(gzip.compress((INTER + GOOD).encode())[:cut])
    with pytest.raises(InvalidData, match="is not a whole gzip file"):
        read_interactions(path)


def test_invalid_or_damaged_gzip_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.inter.gz"
    path.write_text(INTER + GOOD)
    with pytest.raises(InvalidData, match="is not a whole gzip file"):
        read_interactions(path)
    data = bytearray(gzip.compress((INTER + GOOD).encode()))
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(bytes(data))
    with pytest.raises(InvalidData, match="is not a whole gzip file"):
        read_interactions(path)


def test_missing_files_are_named(making, tmp_path: Path) -> None:
    with pytest.raises(InvalidData, match=r"gone\.item cannot be read: No such file"):
        read_table(tmp_path / "gone.item", ("item_id",))
    folder = making.folder(tmp_path, GOOD)
    (folder / "tiny.item").unlink()
    with pytest.raises(InvalidData, match=r"tiny\.item is missing"):
        load_dataset(folder)
    (folder / "tiny.inter").rename(folder / "a.inter")
    (folder / "b.inter.gz").write_bytes(b"")
    with pytest.raises(InvalidData, match=r"holds 2 files that end in \.inter"):
        load_dataset(folder)
