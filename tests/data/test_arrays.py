"""Files of arrays: damage is detected, and hostile files cost no memory and no traceback."""

from __future__ import annotations

import io
import pickle
import struct
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rpp_env.data.arrays import read_arrays, write_arrays
from rpp_env.errors import InvalidData

ARRAYS: dict[str, Any] = {
    "orders": np.arange(6000, dtype=np.uint8).reshape(30, 10, 20),
    "transposed": np.asfortranarray(np.random.default_rng(0).standard_normal((7, 5))),
    "empty": np.zeros((0, 3), np.float32),
    "number": np.array(3),
    "flags": np.array([True, False]),
}


class Content(bytes):
    def __repr__(self) -> str:
        return f"<{len(self)} bytes>"


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("arrays") / "a.npz"
    write_arrays(path, ARRAYS)
    return Content(path.read_bytes())


def same(one: dict[str, Any], two: dict[str, Any]) -> bool:
    return one.keys() == two.keys() and all(
        one[k].dtype == two[k].dtype and one[k].shape == two[k].shape and (one[k] == two[k]).all()
        for k in one
    )


def test_arrays_come_back_and_numpy_reads_them_too(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(content)
    found, proven = read_arrays(path)
    assert proven
    assert same(found, ARRAYS)
    with np.load(path, allow_pickle=False) as file:
        assert same({name: file[name] for name in file.files}, ARRAYS)
    np.savez(path, **ARRAYS)
    found, proven = read_arrays(path)
    assert not proven
    assert same(found, ARRAYS)


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_every_flipped_bit_is_noticed(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, at: float, bit: int
) -> None:
    damaged = bytearray(content)
    damaged[int(at * len(content))] ^= 1 << bit
    path = tmp_path_factory.getbasetemp() / "flipped.npz"
    path.write_bytes(damaged)
    with pytest.raises(InvalidData, match=r"flipped\.npz is damaged"):
        read_arrays(path)


@given(size=st.floats(0, 1, exclude_max=True))
def test_every_truncated_file_is_noticed(
    content: bytes, tmp_path_factory: pytest.TempPathFactory, size: float
) -> None:
    path = tmp_path_factory.getbasetemp() / "short.npz"
    path.write_bytes(content[: int(size * len(content))])
    with pytest.raises(InvalidData, match=r"short\.npz is damaged"):
        read_arrays(path)


def npz(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for name, member in members.items():
            archive.writestr(f"{name}.npy", member)
    return file.getvalue()


def npy(header: str, data: bytes = b"") -> bytes:
    text = header.encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


def saved(array: Any) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=True)
    return file.getvalue()


class Bomb:
    def __reduce__(self) -> tuple[Callable[[str], Any], tuple[str]]:
        raise AssertionError("it was pickled or unpickled")


def twice(name: str, member: bytes) -> bytes:
    """An archive of two members that lie over each other."""
    content = npz({name: member})
    at = content.index(b"PK\x01\x02")
    entry = content[at : content.index(b"PK\x05\x06")]
    other = entry.replace(name.encode(), b"o" * len(name))
    end = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 2, 2, len(entry) * 2, at, 0)
    return content[:at] + entry + other + end


def two_of_one_name() -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings(), zipfile.ZipFile(file, "w") as archive:
        warnings.simplefilter("ignore")
        for number in (1, 2):
            archive.writestr("a.npy", saved(np.array(number)))
    return file.getvalue()


HOSTILE = {
    "a huge shape": npz({"a": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (10**15,)}")}),
    "a huge literal shape": npz(
        {"a": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }\n")}
    ),
    "a negative shape": npz(
        {"a": npy("{'descr': '<f8', 'fortran_order': False, 'shape': (-1, -1), }\n", b"\0" * 8)}
    ),
    "nested parentheses": npz({"a": npy("(" * 9000)}),
    "an endless string": npz({"a": npy("{'descr': '")}),
    "another version": npz({"a": b"\x93NUMPY\x09\x00" + b"\0" * 20}),
    "no header": npz({"a": b""}),
    "objects": npz({"a": saved(np.array([{}], dtype=object))}),
    "text": npz({"a": saved(np.array(["x"]))}),
    "records": npz({"a": saved(np.zeros(2, "i4,i4"))}),
    "compressed": npz({"a": saved(np.zeros(10_000_000))}, zipfile.ZIP_DEFLATED),
    "bytes behind the end": npz({"a": saved(np.zeros(4)) + b"more"}),
    "a missing end": npz({"a": saved(np.zeros(4))[:-8]}),
    "two of one name": two_of_one_name(),
    "over each other": twice("a" * 8, saved(np.zeros(10_000))),
    "a pickle": pickle.dumps({"a": 1}),
    "a single array": saved(np.zeros(4)),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_files_take_no_memory_and_end_in_a_sentence(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.npz"
    path.write_bytes(HOSTILE[kind])
    tracemalloc.start()
    try:
        with pytest.raises(InvalidData, match=r"a\.npz is damaged or not an archive"):
            read_arrays(path)
        assert tracemalloc.get_traced_memory()[1] < 4_000_000 + 4 * len(HOSTILE[kind])
    finally:
        tracemalloc.stop()


def test_a_folder_or_nothing_is_a_sentence(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none"):
        with pytest.raises(InvalidData):
            read_arrays(path)
