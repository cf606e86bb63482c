"""Arrays in a file with a digest: NumPy's ``.npz``, uncompressed.

The digest is SHA-256 over the whole file and is stored in the archive's comment, so that NumPy can
read the file. It detects damage, not forgery: the author of a file can compute its digest. So files
are untrusted with or without one: nothing is unpickled, nothing is decompressed, and no memory is
allocated before the file is known to be that large.
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
"""Number of characters of a digest."""

_MARK = b"rpp_env sha256 "
_PIECE = 1 << 20


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays to one file with a digest, atomically.

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
    """Read a file of `write_arrays` or `numpy.savez`.

    Parameters
    ----------
    path : Path

    Returns
    -------
    arrays : dict of str to array
        Numbers and bools of any shape; their meaning is not checked.
    proven : bool
        Whether the file has a digest; files of ``numpy.savez`` have none.

    Raises
    ------
    InvalidData
        For a file that is damaged, is not such an archive, or holds anything else.
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
    # Neither zipfile nor NumPy document which errors a damaged file raises.
    except Exception as error:  # noqa: BLE001
        reason = str(error) or type(error).__name__
    raise InvalidData(f"{path} is damaged or not an archive of arrays: {reason}")


def file_digest(file: BinaryIO, at: int) -> str:
    """Return the SHA-256 (hex) of an open file, with `DIGITS` characters from `at` on zeroed.

    The digest itself is stored in these characters.
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
    """Read one array of this many bytes, header included."""
    # A header is short; its length is limited here.
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
    if file.read(1):  # also checks the archive's own checksum
        raise ValueError("an array continues after its end")
    return array.reshape(shape[::-1]).T if fortran else array.reshape(shape)
