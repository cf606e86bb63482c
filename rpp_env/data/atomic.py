"""RecBole's atomic files: tab-separated UTF-8 with a typed header such as ``user_id:token``.

A broken file is an `InvalidData` that names the file, the line (from 1; the header is line 1), the
column, and what was expected there.
"""

from __future__ import annotations

import gzip
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidData

__all__ = ["Interactions", "read_interactions", "read_table", "read_text"]

_TYPES = ("token", "token_seq", "float", "float_seq")
_BLOCK = 1 << 23
"""Characters that are split at once: whole columns fast, without all fields in memory together."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """The rows of an ``.inter`` file, in file order.

    Attributes
    ----------
    path : Path
    user_tokens, item_tokens : tuple of str
        The distinct tokens, in the order of their first appearance.
    users, items : (N,) int32 arrays
        Which of them each row names.
    timestamps : (N,) float64 array
        Finite; whatever the file calls ``timestamp``.
    """

    path: Path
    user_tokens: tuple[str, ...]
    item_tokens: tuple[str, ...]
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    timestamps: NDArray[np.float64]

    def line_of_item(self, code: int) -> int:
        """The first line that names item token `code`."""
        return int(np.argmax(self.items == code)) + 2

    def line_of_user(self, code: int) -> int:
        """The first line that names user token `code`."""
        return int(np.argmax(self.users == code)) + 2


def read_text(path: Path) -> str:
    """The text of a UTF-8 file, gunzipped where its name ends in ``.gz``; line ends become LF.

    Raises
    ------
    InvalidData
        Where the file cannot be opened, is not whole gzip, or is not UTF-8.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from None
    if path.suffix == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise InvalidData(f"{path} is not a whole gzip file: {error}") from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        column = data.count(b"\t", data.rfind(b"\n", 0, error.start) + 1, error.start) + 1
        raise InvalidData(
            f"{path}, line {line}, column {column}: expected UTF-8, got the byte "
            f"0x{data[error.start]:02x}"
        ) from None
    return text.replace("\r\n", "\n")


def read_table(path: Path, required: Sequence[str]) -> dict[str, list[str]]:
    """Read all columns of an atomic file (``.item``, ``.user``) as text.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Columns that must be there; the first is an id: not empty, and no value twice.

    Returns
    -------
    dict of str to list of str
        Values by column name, without the types; row i stands in line ``i + 2``.

    Raises
    ------
    InvalidData
    """
    text = read_text(path)
    types = _header(path, text, required)
    columns: dict[str, list[str]] = {name: [] for name in types}
    for fields in _blocks(path, text, list(types)):
        for place, values in enumerate(columns.values()):
            values.extend(fields[place :: len(types)])
    lines: dict[str, int] = {}
    for line, token in enumerate(columns[required[0]], start=2):
        if not token:
            raise InvalidData(
                f"{path}, line {line}, column {required[0]}: expected an id, got nothing"
            )
        if lines.setdefault(token, line) != line:
            raise InvalidData(
                f"{path}, line {line}, column {required[0]}: expected each id once, but {token!r} "
                f"stands in line {lines[token]} already"
            )
    return columns


def read_interactions(path: Path) -> Interactions:
    """Read the users, items and timestamps of an ``.inter`` or ``.inter.gz`` file.

    Raises
    ------
    InvalidData
    """
    text = read_text(path)
    types = _header(path, text, ("user_id", "item_id", "timestamp"))
    names = list(types)
    if types["timestamp"] != "float":
        raise InvalidData(
            f"{path}, line 1, column timestamp: expected timestamp:float, got "
            f"timestamp:{types['timestamp']}"
        )
    width = len(names)
    user, item, time = (names.index(name) for name in ("user_id", "item_id", "timestamp"))
    user_codes, item_codes = _numbering(), _numbering()
    users, items, times = [], [], []
    rows = 0
    for fields in _blocks(path, text, names):
        count = len(fields) // width
        users.append(np.fromiter(map(user_codes.__getitem__, fields[user::width]), np.int32, count))
        items.append(np.fromiter(map(item_codes.__getitem__, fields[item::width]), np.int32, count))
        times.append(_floats(path, rows + 2, "timestamp", fields[time::width]))
        rows += count
    read = Interactions(
        path,
        tuple(user_codes),
        tuple(item_codes),
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(times),
    )
    for column, codes, line_of in (
        ("user_id", user_codes, read.line_of_user),
        ("item_id", item_codes, read.line_of_item),
    ):
        if "" in codes:
            raise InvalidData(
                f"{path}, line {line_of(codes[''])}, column {column}: expected an id, got nothing"
            )
    return read


def _numbering() -> defaultdict[str, int]:
    """A dictionary that numbers its keys as they are first asked for."""
    codes: defaultdict[str, int] = defaultdict()
    codes.default_factory = codes.__len__
    return codes


def _header(path: Path, text: str, required: Sequence[str]) -> dict[str, str]:
    """Column types by name, in file order."""
    if not text.strip():
        raise InvalidData(f"{path} is empty: expected a header line such as {required[0]}:token")
    types: dict[str, str] = {}
    for number, field in enumerate(text[: text.find("\n") % (len(text) + 1)].split("\t"), start=1):
        name, colon, kind = field.partition(":")
        if not name or not colon or kind not in _TYPES:
            raise InvalidData(
                f"{path}, line 1, column {number}: expected name:type with one of the types "
                f"{', '.join(_TYPES)}, got {field[:60]!r}"
            )
        if name in types:
            raise InvalidData(
                f"{path}, line 1, column {number}: expected each column once, got {name!r} again"
            )
        types[name] = kind
    for name in required:
        if name not in types:
            raise InvalidData(f"{path}, line 1: expected a column {name!r}, got {', '.join(types)}")
    return types


def _blocks(path: Path, text: str, names: list[str]) -> Iterator[list[str]]:
    """The fields below the header, row after row in one list, in blocks of whole rows."""
    start = text.find("\n") + 1
    end = len(text.rstrip("\n"))
    if not 0 < start <= end:
        raise InvalidData(f"{path} has a header but no rows: expected at least one")
    line = 2
    while start < end:
        stop = text.find("\n", start + _BLOCK, end)
        if stop < 0:
            stop = end
        block = text[start:stop]
        _check_widths(path, line, block, names)
        yield block.replace("\n", "\t").split("\t")
        line += block.count("\n") + 1
        start = stop + 1


def _check_widths(path: Path, first: int, block: str, names: list[str]) -> None:
    """Raise for the first row that has not one field per column."""
    characters = np.frombuffer(block.encode(), dtype=np.uint8)
    separators = characters[(characters == 9) | (characters == 10)]
    width = len(names)
    if (len(separators) + 1) % width == 0:
        ends = np.append(separators, 10).reshape(-1, width) == 10
        if ends[:, -1].all() and not ends[:, :-1].any():
            return
    for line, row in enumerate(block.split("\n"), start=first):
        fields = row.count("\t") + 1
        if fields != width:
            raise InvalidData(
                f"{path}, line {line}: expected {width} fields ({', '.join(names)}) between tabs, "
                f"got {fields if row else 'an empty line'}"
            )


def _floats(path: Path, first: int, column: str, texts: list[str]) -> NDArray[np.float64]:
    try:
        values = np.array(list(map(float, texts)))
        if np.isfinite(values).all():
            return values
    except ValueError:
        pass
    for line, text in enumerate(texts, start=first):
        try:
            fine = np.isfinite(float(text))
        except ValueError:
            fine = False
        if not fine:
            raise InvalidData(
                f"{path}, line {line}, column {column}: expected a number, got {text[:60]!r}"
            )
    raise AssertionError("all numbers are fine")
