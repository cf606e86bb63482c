"""The file of a recording: answers with checksums, in an SQLite database (`Database`).

Every row has a checksum, which is compared whenever the row is read. A row that cannot be found may
be damaged as well, so the whole file is verified once before a request is repeated.

=================  ========================================================================
table ``answers``  key (sha256, see `key_of`), reply, checksum, model, turn, request
table ``counts``   key (sha256 of model and text), tokens that the model counted, checksum
table ``models``   id, properties of the model for replaying, checksum
``user_version``   of the layout: 2. Layout 1 had neither checksums nor turns
=================  ========================================================================

Replies, requests and notes on models are JSON.

A checksum is the BLAKE2b digest (16 bytes) of the row's key and value. It finds accidents, not
forgeries: anyone can compute it.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from rpp_env.data.folders import make_folder, whole_file, writing
from rpp_env.errors import InvalidData, InvalidOption, RecordingFailed
from rpp_env.models.answers import (
    MALFORMED,
    Answer,
    checksum,
    explained,
    imported,
    key_of,
    read_lines,
    turn_of,
)
from rpp_env.models.database import LOGS, Damaged, Database, transacted

__all__ = ["REMEDY", "AnswerFile"]

T = TypeVar("T")

LAYOUT = 2
APPLICATION = 0x52505041
"""``application_id`` of a recording: "RPPA"."""
SCHEMA = {
    "answers": "CREATE TABLE answers (key TEXT PRIMARY KEY, reply TEXT NOT NULL, checksum BLOB NOT "
    "NULL, model TEXT NOT NULL, turn INTEGER NOT NULL, request TEXT NOT NULL) WITHOUT ROWID",
    "counts": "CREATE TABLE counts (key TEXT PRIMARY KEY, tokens INTEGER NOT NULL, checksum BLOB "
    "NOT NULL) WITHOUT ROWID",
    "models": "CREATE TABLE models (id TEXT PRIMARY KEY, about TEXT NOT NULL, checksum BLOB NOT "
    "NULL) WITHOUT ROWID",
}
FIRST_SCHEMA = {
    "answers": "CREATE TABLE answers (key TEXT PRIMARY KEY, model TEXT NOT NULL, request TEXT NOT "
    "NULL, reply TEXT NOT NULL) WITHOUT ROWID",
    "counts": "CREATE TABLE counts (key TEXT PRIMARY KEY, tokens INTEGER NOT NULL) WITHOUT ROWID",
    "models": "CREATE TABLE models (id TEXT PRIMARY KEY, about TEXT NOT NULL) WITHOUT ROWID",
}
"""Statements for layout 1."""
NOTE = (
    "INSERT INTO models VALUES (?, ?, ?) ON CONFLICT (id) DO UPDATE SET about = excluded.about, "
    "checksum = excluded.checksum"
)
FIRST_NOTE = f"{NOTE} WHERE about = '{{}}'"
COLUMNS = {"counts": ("key", "tokens"), "models": ("id", "about")}
AT_ONCE = 400
"""Keys in one SELECT; SQLite allows at least 999 variables."""
PAGE = 250
"""Rows read at a time when all rows are read."""
SMALLEST_PAGE = 2
"""Rows read at a time next to a damaged row, so that few others are lost with it."""
REMEDY = (
    "`rpp-env recording check` lists what is damaged, and `rpp-env recording copy "
    "--skip-damaged` saves the rest"
)


class AnswerFile(Database):
    """The file of a recording; safe with many processes and threads, and across forks."""

    remedy = REMEDY

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._layout = 0
        self._verified = False
        self._written: set[str] = set()
        """Ids of models that are known to have a row in the table of models."""
        super().__setstate__(state)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        super().close()
        self._verified = False
        self._written = set()

    # Reading

    @property
    def has_checksums(self) -> bool:
        """Return whether damage to an answer is noticed: files of layout 1 have no checksums."""
        return self._do(lambda _: self._layout == LAYOUT)

    def replies(self, keys: Iterable[str]) -> dict[str, str]:
        """Return the replies (JSON) in the file, by key."""
        wanted = list(dict.fromkeys(keys))

        def read(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
            rows: list[tuple[Any, ...]] = []
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, reply, {self._checksums} FROM answers WHERE key IN ({marks})"  # noqa: S608
                rows += cursor.execute(query, part).fetchall()
            return rows

        return {
            self._text(key): self._text(self._whole("answers", key, reply, written))
            for key, reply, written in self._do(read)
        }

    def tokens(self, key: str) -> int | None:
        """Return the number of tokens that was counted for this key, or None."""
        found = self._value("counts", key)
        if found is not None and not found.isdecimal():
            raise self._damaged(f"holds an invalid token count ({key})")
        return None if found is None else int(found)

    def about(self, model: str) -> dict[str, Any] | None:
        """Return the recorded properties of a model that replaying needs, or None."""
        found = self._value("models", model)
        if found is None:
            return None
        try:
            read = json.loads(found)
            length, counts = read.get("context_length", 1), read.get("counts_tokens", False)
            right = type(length) is int and length > 0 and isinstance(counts, bool)
            right &= all(isinstance(name, str) for name in read.get("capabilities", []))
        except MALFORMED:
            right = False
        if not right:
            raise self._damaged(f"holds an invalid note on model {model!r}")
        return dict(read)

    def models(self) -> list[str]:
        """Ids of the models whose answers the file holds, sorted."""

        def read(cursor: sqlite3.Cursor) -> list[tuple[Any]]:
            query = "SELECT id FROM models ORDER BY 1"
            if self._layout < LAYOUT:
                query = "SELECT model FROM answers UNION SELECT id FROM models ORDER BY 1"
            return cursor.execute(query).fetchall()

        return [self._text(row[0]) for row in self._do(read)]

    def count(self, model: str) -> int:
        """Number of answers of a model."""
        query = "SELECT count(*) FROM answers WHERE model = ?"
        return int(self._do(lambda cursor: cursor.execute(query, (model,)).fetchone())[0])

    def answers(self) -> Iterator[Answer]:
        """All answers in the order of their keys, each compared with its checksum and its key."""
        for found in self._answers():
            if isinstance(found, str):
                raise self._damaged(found)
            yield found

    def problems(self, *, thorough: bool = True) -> Iterator[str]:
        """Check the structure, every checksum and every key; a sentence for each problem.

        Parameters
        ----------
        thorough : bool
            Also check that each reply is a valid answer to its request, because a file from an
            untrusted source may hold others.
        """
        try:
            check = self._do(lambda cursor: cursor.execute("PRAGMA quick_check(20)").fetchall())
            yield from (f"is damaged ({_shown(line)})" for (line,) in check if line != b"ok")
            for found in self._answers():
                if isinstance(found, str):
                    yield found
                elif thorough and (wrong := found.wrong()):
                    yield f"holds an invalid answer ({found.key}): {wrong}"
            for table in ("counts", "models"):
                yield from (row for row in self._pairs(table) if isinstance(row, str))
        except Damaged as error:
            yield error.what

    def verify(self) -> None:
        """Check the whole file once, before the first request that it has no answer to.

        An answer whose key is damaged cannot be found, and would be paid for again.

        Raises
        ------
        InvalidData
            If any of it is damaged.
        """
        if self._verified:
            return
        for problem in self.problems(thorough=False):
            raise self._damaged(problem)
        self._verified = True

    # Writing

    def add(
        self,
        answers: Sequence[Answer],
        counts: Mapping[str, int] | None = None,
        about: Mapping[str, str] | None = None,
        *,
        replace: bool = False,
    ) -> int:
        """Write all of this or nothing; return the number of new answers. Others are unchanged.

        Parameters
        ----------
        answers : sequence of Answer
        counts : mapping of str to int
            Tokens by key.
        about : mapping of str to str
            Properties of a model that replaying needs (JSON), by its id.
        replace : bool
            Replace what the file has about these models.
        """

        def write(cursor: sqlite3.Cursor) -> int:
            new = self._insert(cursor, answers)
            if counts:
                rows = [(key, n, checksum(key, str(n))) for key, n in counts.items()]
                cursor.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?, ?)", rows)
            if about:
                notes = [(id_, text, checksum(id_, text)) for id_, text in about.items()]
                cursor.executemany(NOTE if replace else FIRST_NOTE, notes)
            return new

        new = self._do(write, write=True)
        self._written |= {answer.model for answer in answers}
        return new

    def import_lines(self, path: str | Path, model: str | None = None) -> int:
        """Add the answers of an export; return the number of new ones. Others are unchanged.

        Parameters
        ----------
        path : path
            JSON lines.
        model : str, optional
            Id of the model that all lines must belong to; by default that of the first line.

        Raises
        ------
        InvalidData
            If a line is not a recorded answer, is damaged, belongs to another model, or contradicts
            an earlier line; the message names the line. Then nothing is added.
        """

        def write(cursor: sqlite3.Cursor) -> int:
            new, batch, only = 0, list[Answer](), model
            replies: dict[str, bytes] = {}
            for number, line in read_lines(Path(path)):
                try:
                    answer = imported(line)
                    only = answer.model if only is None else only
                    if answer.model != only:
                        raise ValueError(f"it is an answer of {answer.model!r}, not of {only!r}")
                    reply = checksum(answer.key, answer.reply)
                    if replies.setdefault(answer.key, reply) != reply:
                        raise ValueError("a line before it answers the same request differently")
                except MALFORMED as error:
                    raise InvalidData(
                        f"{path}, line {number} is not a recorded answer: {explained(error)}"
                    ) from None
                batch.append(answer)
                if len(batch) == PAGE:
                    new += self._insert(cursor, batch)
                    batch.clear()
            return new + self._insert(cursor, batch)

        return self._do(write, write=True)

    def copy(self, path: str | Path, *, skip_damaged: bool = False) -> tuple[int, int]:
        """Copy everything into a new file, even while others write to this one.

        Answers that are still in the log (``-wal``) are copied too, and answers of layout 1 get
        checksums.

        Parameters
        ----------
        path : path
            Must not exist.
        skip_damaged : bool
            Copy the undamaged answers; without it, damage is an error.

        Returns
        -------
        (int, int)
            Numbers of answers copied, and of damaged rows skipped.
        """
        target = Path(path).absolute()
        if target.exists():
            raise InvalidOption(f"{target} exists: choose another path for the copy")
        with writing(target):
            make_folder(target.parent)
            with tempfile.TemporaryDirectory(dir=target.parent, prefix=".copying-") as folder:
                source = self._readable(Path(folder))
                copied = AnswerFile(Path(folder) / target.name, write=True)
                try:
                    found = source._copy_into(copied, skip_damaged)  # noqa: SLF001 - of this class
                finally:
                    source.close()
                    copied.close()
                with whole_file(target) as file, copied.path.open("rb") as whole:
                    shutil.copyfileobj(whole, file)
        return found

    def _readable(self, folder: Path) -> AnswerFile:
        """Return this file, or a copy with its log if they cannot be read where they are."""
        try:
            self.models()
        except RecordingFailed:
            if not self._has_log():
                raise
            real = os.path.realpath(self.path)
            for end in ("", *LOGS):
                with suppress(FileNotFoundError):
                    shutil.copyfile(f"{real}{end}", folder / f"source{end}")
            return AnswerFile(folder / "source", write=False)
        return self

    def _copy_into(self, target: AnswerFile, skip: bool) -> tuple[int, int]:
        skipped = 0

        def whole(rows: Iterable[T | str]) -> Iterator[T]:
            nonlocal skipped
            for row in rows:
                if not isinstance(row, str):
                    yield row
                elif skip:
                    skipped += 1
                else:
                    raise self._damaged(row)

        checked = (
            f"holds an invalid answer ({found.key}): {wrong}"
            if isinstance(found, Answer) and (wrong := found.wrong())
            else found
            for found in self._answers()
        )
        copied, answers = 0, whole(checked)
        while batch := list(islice(answers, PAGE)):
            copied += target.add(batch)
        target.add([], {key: int(n) for key, n in whole(self._pairs("counts"))})
        target.add([], about=dict(whole(self._pairs("models"))), replace=True)
        return copied, skipped

    # Rows

    @property
    def _checksums(self) -> str:
        return "checksum" if self._layout == LAYOUT else "NULL"

    def _insert(self, cursor: sqlite3.Cursor, answers: Sequence[Answer]) -> int:
        before = cursor.connection.total_changes
        cursor.executemany(
            "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?, ?, ?)",
            [
                (a.key, a.reply, checksum(a.key, a.reply), a.model, a.turn, a.request)
                for a in answers
            ],
        )
        new = cursor.connection.total_changes - before
        # Every model with answers has a row there, because scanning all answers is slow.
        if ids := {a.model for a in answers} - self._written:
            rows = [(id_, "{}", checksum(id_, "{}")) for id_ in ids]
            cursor.executemany("INSERT OR IGNORE INTO models VALUES (?, ?, ?)", rows)
        return new

    def _value(self, table: str, wanted: str) -> str | None:
        key, value = COLUMNS[table]

        def read(cursor: sqlite3.Cursor) -> tuple[Any, Any] | None:
            query = f"SELECT {value}, {self._checksums} FROM {table} WHERE {key} = ?"  # noqa: S608
            found: tuple[Any, Any] | None = cursor.execute(query, (wanted,)).fetchone()
            return found

        row = self._do(read)
        return None if row is None else self._text(self._whole(table, wanted.encode(), *row))

    def _whole(self, table: str, key: Any, value: Any, written: Any) -> bytes:
        """Return the value as it was written; raise if it does not match its checksum."""
        if table == "counts" and type(value) is int:
            value = str(value).encode()
        if (
            not isinstance(key, bytes)
            or not isinstance(value, bytes)
            or (self._layout == LAYOUT and written != checksum(key, value))
        ):
            what = {"answers": "answer", "counts": "token count", "models": "note on the model"}
            raise self._damaged(f"holds a damaged {what[table]} ({_shown(key)})")
        return value

    def _pairs(self, table: str) -> Iterator[tuple[str, str] | str]:
        """Yield all keys and values of a table, and a sentence for each damaged row."""
        for row in self._rows(table, COLUMNS[table]):
            if isinstance(row, str):
                yield row
                continue
            try:
                yield self._text(row[0]), self._text(self._whole(table, row[0], row[1], row[2]))
            except Damaged as error:
                yield error.what

    def _answers(self) -> Iterator[Answer | str]:
        """Yield all answers with correct checksums and keys, and a sentence for each other row."""
        old = not self.has_checksums
        columns = ("key", "reply", "model", "request", "0" if old else "turn")
        for row in self._rows("answers", columns):
            if isinstance(row, str):
                yield row
                continue
            *values, turn, written = row
            try:
                self._whole("answers", values[0], values[1], written)
                key, reply, model, request = map(self._text, values)
                turn = turn_of(key, model, request) if old else turn
                right = key == key_of(model, request, turn)
            except Damaged as error:
                yield error.what
                continue
            except MALFORMED:
                right = False
            if right:
                yield Answer(key, reply, model, turn, request)
            else:
                yield (
                    f"holds a damaged answer ({_shown(values[0])}): its key is not the digest of "
                    "its model, request and turn"
                )

    def _rows(self, table: str, columns: Sequence[str]) -> Iterator[tuple[Any, ...] | str]:
        """Yield all rows of a table with their checksums; a sentence for an unreadable part.

        After such a part, the rest is read from the other end.
        """
        last = None
        try:
            for row in self._walk(table, columns, "ASC"):
                last = row[0]
                yield row
        except Damaged as error:
            yield error.what
            with suppress(Damaged):
                for row in self._walk(table, columns, "DESC"):
                    if last is not None and row[0] <= last:
                        return
                    yield row

    def _walk(self, table: str, columns: Sequence[str], order: str) -> Iterator[tuple[Any, ...]]:
        """Yield the rows in the order of their keys, a page at a time, up to a damaged one."""
        key, forward = columns[0], order == "ASC"
        query = f"SELECT {', '.join(columns)}, {self._checksums} FROM {table}"  # noqa: S608
        # Each page begins with the last row of the previous one, so that none is missed.
        where = f"WHERE {key} {'>=' if forward else '<='} CAST(? AS TEXT)"
        last: bytes | None = None
        size = PAGE
        while True:

            def read(
                cursor: sqlite3.Cursor, last: bytes | None = last, size: int = size
            ) -> list[tuple[Any, ...]]:
                given = () if last is None else (last,)
                end = f"ORDER BY {key} {order} LIMIT {size}"
                return cursor.execute(f"{query} {where if given else ''} {end}", given).fetchall()

            try:
                page = self._do(read)
            except Damaged:
                if size == SMALLEST_PAGE:
                    raise
                size = SMALLEST_PAGE
                continue
            found = last is None or (page and page[0][0] == last)
            for row in page[last is not None :] if found else ():
                name = row[0]
                found = isinstance(name, bytes) and (last is None or (name > last) == forward)
                if not found:
                    break
                last = name
                yield row
            if not found:
                raise self._damaged(f"holds {table} in a wrong order")
            if len(page) < size:
                return

    def _text(self, value: Any) -> str:
        """Decode the value of a text column."""
        try:
            return str(value, "utf-8")
        except (TypeError, UnicodeDecodeError):
            raise self._damaged(f"holds an invalid text ({_shown(value)})") from None

    # Layouts

    def _check(self, cursor: sqlite3.Cursor) -> bool:
        self._layout = self._layout_of(cursor)
        if self._layout == 0 and not self.write:
            raise InvalidData(f"{self.path} is empty: it holds no recording")
        return self._layout == 0

    def _prepare(self, cursor: sqlite3.Cursor) -> None:
        """Make or migrate the file, in one transaction."""
        if self._layout < LAYOUT:
            transacted(cursor, self._migrate)
            self._layout, self._verified = LAYOUT, True
        # Writes nothing, but fails if the file cannot be written: before the model is paid for.
        cursor.execute("DELETE FROM counts WHERE 0")

    def _migrate(self, cursor: sqlite3.Cursor) -> None:
        layout = self._layout_of(cursor)
        if layout == LAYOUT:  # another process was faster
            return
        for table, statement in SCHEMA.items():
            if layout:
                cursor.execute(f"ALTER TABLE {table} RENAME TO first_{table}")
            cursor.execute(statement)
        if layout:
            self._take_over(cursor)
        for table in SCHEMA if layout else ():
            cursor.execute(f"DROP TABLE first_{table}")
        cursor.execute(f"PRAGMA application_id = {APPLICATION}")
        cursor.execute(f"PRAGMA user_version = {LAYOUT}")

    def _take_over(self, cursor: sqlite3.Cursor) -> None:
        """Copy the rows of layout 1, except for replies that were never valid (a NaN)."""
        last = ""
        query = "SELECT key, reply, model, request FROM first_answers WHERE key > ? ORDER BY key"
        while rows := cursor.execute(f"{query} LIMIT {PAGE}", (last,)).fetchall():
            batch = []
            for row in rows:
                key, reply, model, request = map(self._text, row)
                answer = Answer(key, reply, model, turn_of(key, model, request), request)
                if key != key_of(model, request, answer.turn):
                    raise self._damaged(f"holds a damaged answer ({_shown(row[0])})")
                batch += [] if answer.wrong() else [answer]
            self._insert(cursor, batch)
            last = self._text(rows[-1][0])
        for key, n in cursor.execute("SELECT key, tokens FROM first_counts").fetchall():
            row = (self._text(key), n, checksum(key, str(n)))
            cursor.execute("INSERT INTO counts VALUES (?, ?, ?)", row)
        for model, about in cursor.execute("SELECT id, about FROM first_models").fetchall():
            row = (self._text(model), self._text(about), checksum(model, about))
            cursor.execute("INSERT OR REPLACE INTO models VALUES (?, ?, ?)", row)

    def _layout_of(self, cursor: sqlite3.Cursor) -> int:
        """Return the file's layout; 0 if it is empty. Within a transaction.

        Raises
        ------
        InvalidData
            If it is another program's, or newer.
        """
        (version,) = cursor.execute("PRAGMA user_version").fetchone()
        (application,) = cursor.execute("PRAGMA application_id").fetchone()
        query = "SELECT name, sql FROM sqlite_master WHERE name NOT GLOB 'sqlite_*'"
        found = dict(cursor.execute(query).fetchall())
        layouts: tuple[tuple[int, int, int, dict[str, str]], ...] = (
            (0, 0, 0, {}),
            (1, 1, 0, FIRST_SCHEMA),
            (LAYOUT, LAYOUT, APPLICATION, SCHEMA),
        )
        for layout, its_version, its_application, schema in layouts:
            tables = {name.encode(): statement.encode() for name, statement in schema.items()}
            if (version, application, found) == (its_version, its_application, tables):
                return layout
        if application == APPLICATION and version > LAYOUT:
            raise InvalidData(
                f"{self.path} was recorded by a newer version (its layout is {version}, and this "
                f"one knows {LAYOUT}): update rpp-env"
            )
        raise InvalidData(
            f"{self.path} is a database, but not a recording of this version (its layout is "
            f"{version}, not {LAYOUT}): give another path"
        )


def _shown(key: Any) -> str:
    """Format a key for a message."""
    return key.decode("ascii", "backslashreplace")[:100] if isinstance(key, bytes) else repr(key)
