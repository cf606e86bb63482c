"""Arrays in a file that proves itself: NumPy's ``.npz``, uncompressed, with a digest at its end.

The digest is SHA-256 over the whole file and stands in the archive's comment, so that NumPy reads
the file as any other. It shows damage, not intent: whoever makes a file can make its digest. So a
file is read as data of unknown origin, with or without one: nothing is unpickled, nothing is
unpacked, and no memory is taken before the file is known to hold that much.
"""

from __future__ import annotations

import hashlib
import io
import math
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData

__all__ = ["DIGITS", "file_digest", "read_arrays", "write_arrays"]

DIGITS = 64
"""Characters of a digest."""

_MARK = b"rpp_env sha256 "
_PIECE = 1 << 20


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to one file with a digest, whole or not at all.

    Raises
    ------
    WriteFailed
        If the file cannot be written.
    """
    with whole_file(path) as file:
        np.savez(file, **arrays)  # type: ignore[arg-type]  # its stub knows no **
        with zipfile.ZipFile(file, "a") as archive:
            archive.comment = _MARK + b"0" * DIGITS
        at = file.seek(-DIGITS, os.SEEK_END)
        digest = file_digest(file, at)
        file.seek(at)
        file.write(digest.encode())


def read_arrays(path: Path) -> tuple[dict[str, NDArray[Any]], bool]:
    """Read what `write_arrays` wrote, or a file of `numpy.savez`.

    Parameters
    ----------
    path : Path

    Returns
    -------
    arrays : dict of str to array
        Numbers and bools of any shape; what they mean has not been looked at.
    proven : bool
        Whether the file carries its digest; files of ``numpy.savez`` do not.

    Raises
    ------
    InvalidData
        For a file that is damaged, is no such archive, or holds anything else.
    """
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            at = size - DIGITS
            file.seek(max(at - len(_MARK), 0))
            end = file.read()
            proven = end.startswith(_MARK)
            if proven and file_digest(file, at).encode() != end[len(_MARK) :]:
                reason = "its content is not what its digest says"
            elif not proven and (end[-22:-18], end[-2:]) != (b"PK\x05\x06", b"\0\0"):
                reason = "its end is missing or damaged"  # NumPy's archives have no comment
            else:
                with zipfile.ZipFile(file) as archive:
                    return _members(archive, size), proven
    # Neither zipfile nor NumPy say what they raise where a file is damaged.
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
    raise InvalidData(f"{path} is damaged or no archive of arrays: {reason}")


def file_digest(file: BinaryIO, at: int) -> str:
    """SHA-256 (hex) of an open file, with zeros in place of the `DIGITS` characters from `at` on.

    That is where the digest itself stands.
    """
    sha = hashlib.sha256()
    file.seek(0)
    _feed(sha, file, at)
    sha.update(b"0" * DIGITS)
    file.seek(at + DIGITS)
    _feed(sha, file, None)
    return sha.hexdigest()


def _feed(sha: Any, file: BinaryIO, size: int | None) -> None:
    while piece := file.read(_PIECE if size is None else min(_PIECE, size)):
        sha.update(piece)
        if size is not None:
            size -= len(piece)


def _members(archive: zipfile.ZipFile, size: int) -> dict[str, NDArray[Any]]:
    members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise ValueError("its arrays are compressed")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its arrays claim to be larger than the file")
    names = [member.filename.removesuffix(".npy") for member in members]
    if len(set(names)) < len(names):
        raise ValueError("it holds two arrays of one name")
    arrays = {}
    for name, member in zip(names, members, strict=True):
        with archive.open(member) as opened:
            arrays[name] = _array(opened, member.file_size)
    return arrays


def _array(file: IO[bytes], size: int) -> NDArray[Any]:
    """One array of so many bytes, with its header."""
    # A header is short; what is read here counts.
    begin = file.read(min(size, 1 << 14))
    header = io.BytesIO(begin)
    version = np.lib.format.read_magic(header)
    if version == (1, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(header)
    elif version == (2, 0):
        shape, fortran, dtype = np.lib.format.read_array_header_2_0(header)
    else:
        raise ValueError(f"an array has version {version} of NumPy's format")
    if dtype.kind not in "biuf":
        raise ValueError(f"an array is of type {dtype}")
    length = math.prod(shape) * dtype.itemsize
    if min(shape, default=0) < 0 or header.tell() + length != size:
        raise ValueError(f"an array says that it is {shape} of {dtype}, and takes {size} bytes")
    array = np.empty(math.prod(shape), dtype)
    into = array.view(np.uint8)
    rest = begin[header.tell() :]
    into[: len(rest)] = np.frombuffer(rest, np.uint8)
    done = len(rest)
    while done < length:
        piece = file.read(min(_PIECE, length - done))
        if not piece:
            raise ValueError("it ends too early")
        into[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
    if file.read(1):  # which also checks the archive's own sum
        raise ValueError("an array goes on behind its end")
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
