"""RecBole's atomic files: tab-separated UTF-8 with a typed header such as ``user_id:token``.

A broken file is an `InvalidData` that names the file, the line (from 1; the header is line 1), the
column, and what was expected there. So is a file that is too large (`MAX_TEXT`, `MAX_LINE`,
`MAX_ID`): files come from others, and a small archive may hold gigabytes.
"""

from __future__ import annotations

import gzip
import stat
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from rpp_env.errors import InvalidData
from rpp_env.text import plain

__all__ = [
    "MAX_ID",
    "MAX_LINE",
    "MAX_TEXT",
    "Interactions",
    "read_bounded",
    "read_interactions",
    "read_table",
    "read_text",
]

MAX_TEXT = 1 << 30
"""Bytes of one file, unpacked: more than 30 million ratings. Assign another number where yours are
larger; reading takes a few times as much memory."""
MAX_LINE = 1 << 20
"""Characters of a header, and about those of a row beyond the block that is split at once."""
MAX_ID = 200
"""Characters of a user's or an item's id."""
_BOMB = 200
"""A gzip file that unpacks to more than so many times its size, and `_SMALL`, is none of data."""
_SMALL = 1 << 26

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
        Where the file cannot be opened, is not whole gzip, is not UTF-8, or holds more than
        `MAX_TEXT` bytes.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidData(f"{path} cannot be read: it is no file")
        if facts.st_size > MAX_TEXT:
            raise _too_large(str(path), MAX_TEXT)
        with ExitStack() as files:
            packed: BinaryIO = files.enter_context(path.open("rb"))
            file = packed
            if path.suffix == ".gz":
                file = cast(BinaryIO, files.enter_context(gzip.open(packed)))
            data = read_bounded(file, str(path), MAX_TEXT, packed)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise InvalidData(f"{path} is not a whole gzip file: {error}") from None
    except OSError as error:
        raise InvalidData(f"{path} cannot be read: {error.strerror}") from None
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


def read_bounded(file: BinaryIO, name: str, limit: int, packed: BinaryIO | None = None) -> bytes:
    """All bytes of an open file, if they are few enough.

    Parameters
    ----------
    file : binary file
    name : str
        What errors call it.
    limit : int
        The most bytes.
    packed : binary file, optional
        What `file` unpacks; its position says how much was unpacked so far.

    Raises
    ------
    InvalidData
        Where there are more bytes, or far more than `packed` could hold of real data.
    """
    data = bytearray()
    while chunk := file.read(1 << 20):
        data += chunk
        if len(data) > limit:
            raise _too_large(name, limit)
        if packed is not None and len(data) > max(_SMALL, _BOMB * packed.tell()):
            raise InvalidData(
                f"{name} unpacks to more than {_BOMB} times its size ({len(data):,} bytes so far), "
                "which no data do: unpack it yourself if you trust it"
            )
    return bytes(data)


def _too_large(name: str, limit: int) -> InvalidData:
    return InvalidData(
        f"{name} holds more than {limit:,} bytes: split it, or assign a larger number to "
        "rpp_env.data.atomic.MAX_TEXT where memory allows"
    )


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
    where = f"column {required[0]}"
    ids = columns[required[0]] = [
        _id(token, path, required[0], partial(int, line))
        for line, token in enumerate(columns[required[0]], start=2)
    ]
    lines: dict[str, int] = {}
    for line, token in enumerate(ids, start=2):
        if lines.setdefault(token, line) != line:
            raise InvalidData(
                f"{path}, line {line}, {where}: expected each id once, but {token!r} "
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
    raw = Interactions(
        path,
        tuple(user_codes),
        tuple(item_codes),
        np.concatenate(users),
        np.concatenate(items),
        np.concatenate(times),
    )
    user_tokens, user_of = _ids(path, "user_id", raw.user_tokens, raw.line_of_user)
    item_tokens, item_of = _ids(path, "item_id", raw.item_tokens, raw.line_of_item)
    return Interactions(
        path, user_tokens, item_tokens, user_of[raw.users], item_of[raw.items], raw.timestamps
    )


def _ids(
    path: Path, column: str, tokens: Sequence[str], line_of: Callable[[int], int]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    """Plain ids, and which of them each token is; blanks around an id are no part of it."""
    found: dict[str, int] = {}
    spelled: dict[str, str] = {}
    rows = np.empty(len(tokens), dtype=np.int32)
    for code, token in enumerate(tokens):
        name = _id(token, path, column, partial(line_of, code))
        if spelled.setdefault(name, token.strip()) != token.strip():
            raise InvalidData(
                f"{path}, line {line_of(code)}, column {column}: expected ids that differ in what "
                f"can be seen, but two of them are {name!r}"
            )
        rows[code] = found.setdefault(name, len(found))
    return tuple(found), rows


def _id(token: str, path: Path, column: str, line: Callable[[], int]) -> str:
    """An id as it is shown, and looked for in other files."""
    name = plain(token) if len(token) <= MAX_ID else ""
    if not name:
        got = f"{len(token):,} characters" if len(token) > MAX_ID else "nothing that can be seen"
        raise InvalidData(
            f"{path}, line {line()}, column {column}: expected an id, "
            f"got {got if token.strip() else 'nothing'} (1 to {MAX_ID} characters are allowed)"
        )
    return name


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
    header = text[: text.find("\n") % (len(text) + 1)]
    if len(header) > MAX_LINE:
        raise InvalidData(f"{path}, line 1: expected a header, got {len(header):,} characters")
    for number, field in enumerate(header.split("\t"), start=1):
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
        if stop - start > _BLOCK + MAX_LINE:
            last = line + text.count("\n", start, stop)
            raise InvalidData(f"{path}, line {last}: expected at most {MAX_LINE:,} characters")
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
