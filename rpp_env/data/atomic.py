"""RecBole's atomic files: tab-separated UTF-8 with a typed header such as ``user_id:token``.

An invalid file raises `InvalidData` with the file, the line (from 1; the header is line 1), the
column, and what was expected there. So does a file that is too large (`MAX_TEXT`, `MAX_LINE`,
`MAX_ID`): files are untrusted, and a small archive may unpack to gigabytes.
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
"""Maximum bytes of one file, unpacked: more than 30 million ratings. Assign another number for
larger files; reading takes a few times as much memory."""
MAX_LINE = 1 << 20
"""Maximum characters of a header, and roughly of a row beyond the block that is split at once."""
MAX_ID = 200
"""Maximum characters of a user's or an item's id."""
_BOMB = 200
"""Limit on the ratio of unpacked to packed size of a gzip file larger than `_SMALL`."""
_SMALL = 1 << 26

_TYPES = ("token", "token_seq", "float", "float_seq")
_BLOCK = 1 << 23
"""Characters split at once: fast, without all fields in memory together."""


@dataclass(frozen=True, eq=False)
class Interactions:
    """The rows of an ``.inter`` file, in file order.

    Attributes
    ----------
    path : Path
    user_tokens, item_tokens : tuple of str
        The distinct tokens, in the order of their first appearance.
    users, items : (N,) int32 arrays
        Index of each row's token.
    timestamps : (N,) float64 array
        Finite; the file's column ``timestamp``, whatever it means.
    """

    path: Path
    user_tokens: tuple[str, ...]
    item_tokens: tuple[str, ...]
    users: NDArray[np.int32]
    items: NDArray[np.int32]
    timestamps: NDArray[np.float64]

    def line_of_item(self, code: int) -> int:
        """Return the first line that names item token `code`."""
        return int(np.argmax(self.items == code)) + 2

    def line_of_user(self, code: int) -> int:
        """Return the first line that names user token `code`."""
        return int(np.argmax(self.users == code)) + 2


def read_text(path: Path) -> str:
    """Read a UTF-8 file, gunzipped if its name ends in ``.gz``; line ends become LF.

    Raises
    ------
    InvalidData
        If the file cannot be opened, is not complete gzip, is not UTF-8, or holds more than
        `MAX_TEXT` bytes.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise InvalidData(f"{path} cannot be read: it is not a file")
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
    """Read all bytes of an open file, up to a limit.

    Parameters
    ----------
    file : binary file
    name : str
        Name of the file in errors.
    limit : int
        Maximum number of bytes.
    packed : binary file, optional
        The compressed file under `file`; its position measures the compression ratio.

    Raises
    ------
    InvalidData
        If there are more bytes, or the ratio to `packed` is not plausible for real data.
    """
    data = bytearray()
    while chunk := file.read(1 << 20):
        data += chunk
        if len(data) > limit:
            raise _too_large(name, limit)
        if packed is not None and len(data) > max(_SMALL, _BOMB * packed.tell()):
            raise InvalidData(
                f"{name} unpacks to more than {_BOMB} times its size ({len(data):,} bytes so far), "
                "which no real data do: unpack it yourself if you trust it"
            )
    return bytes(data)


def _too_large(name: str, limit: int) -> InvalidData:
    return InvalidData(
        f"{name} holds more than {limit:,} bytes: split it, or assign a larger number to "
        "rpp_env.data.atomic.MAX_TEXT if memory allows"
    )


def read_table(path: Path, required: Sequence[str]) -> dict[str, list[str]]:
    """Read all columns of an atomic file (``.item``, ``.user``) as text.

    Parameters
    ----------
    path : Path
    required : sequence of str
        Required columns; the first is an id: not empty, and without repeats.

    Returns
    -------
    dict of str to list of str
        Values by column name, without the types; row i is line ``i + 2``.

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
                f"is in line {lines[token]} already"
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
    """Return plain ids, and the id of each token; blanks around an id are stripped."""
    found: dict[str, int] = {}
    spelled: dict[str, str] = {}
    rows = np.empty(len(tokens), dtype=np.int32)
    for code, token in enumerate(tokens):
        name = _id(token, path, column, partial(line_of, code))
        if spelled.setdefault(name, token.strip()) != token.strip():
            raise InvalidData(
                f"{path}, line {line_of(code)}, column {column}: expected ids that differ in "
                f"visible characters, but two of them are {name!r}"
            )
        rows[code] = found.setdefault(name, len(found))
    return tuple(found), rows


def _id(token: str, path: Path, column: str, line: Callable[[], int]) -> str:
    """Return an id as it is displayed and compared with other files."""
    name = plain(token) if len(token) <= MAX_ID else ""
    if not name:
        got = f"{len(token):,} characters" if len(token) > MAX_ID else "nothing that can be seen"
        raise InvalidData(
            f"{path}, line {line()}, column {column}: expected an id, "
            f"got {got if token.strip() else 'nothing'} (1 to {MAX_ID} characters are allowed)"
        )
    return name


def _numbering() -> defaultdict[str, int]:
    """Make a dictionary that numbers its keys in the order of first use."""
    codes: defaultdict[str, int] = defaultdict()
    codes.default_factory = codes.__len__
    return codes


def _header(path: Path, text: str, required: Sequence[str]) -> dict[str, str]:
    """Return column types by name, in file order."""
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
    """Yield the fields below the header, row after row in one list, in blocks of whole rows."""
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
    """Raise for the first row without exactly one field per column."""
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
    raise AssertionError("all numbers are valid")
