"""Answers kept on disk: asked once, replayed for ever.

`RecordingModel` stands in front of a language model. What was answered before is read from a file,
and only what is missing is asked; without a model it only replays. The file is an SQLite database
(write-ahead log, flushed to the disk), so that several processes may use one file at once, and
whoever is killed at any moment has lost no answer that was handed out.

An answer is found by the digest of everything that it depends on: the model's id, how it was to be
sampled, the messages, and the choices or the grammar. Where replies are sampled (a temperature, no
seed) equal requests of one call are answered differently: the first, second, third ... of them have
recordings of their own, and the next call replays them in that order.

=================  ========================================================================
table ``answers``  key (sha256), model, request and reply (JSON)
table ``counts``   key (sha256 of model and text), tokens that the model counted
table ``models``   id, and what replaying needs to know of it (JSON)
``user_version``   of the layout
=================  ========================================================================
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, MissingRecording, ModelUnavailable, RecordingFailed
from rpp_env.models.asking import ask
from rpp_env.models.base import LanguageModel, Reply, Request

__all__ = ["RecordingModel"]

LAYOUT = 1
PATIENCE = 60.0
"""Seconds to wait for other processes that write."""
AT_ONCE = 400
"""Keys in one SELECT; SQLite allows 999 variables at least."""


class RecordingModel:
    """A language model whose answers are kept in a file.

    Parameters
    ----------
    path : path
        The recording; made where there is none.
    model : LanguageModel, optional
        Who answers what is missing; without one, what is missing raises `MissingRecording`.
    id : str, optional
        Of the model that was recorded, where `model` is not given. A recording of a single model
        needs none.
    chunk : int
        Answers that are asked for and written together. What a killed process had asked for and
        not written is at most as much.

    Raises
    ------
    InvalidData
        If the file is no recording, or of another version; or if it holds several models (or none)
        and neither `model` nor `id` says which one is meant.
    RecordingFailed
        If the file cannot be written: a full disk, missing rights, or another process that holds it
        for longer than a minute. Whatever was written before is kept.
    """

    def __init__(
        self,
        path: str | Path,
        model: LanguageModel | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the protocol's word
        chunk: int = 512,
    ) -> None:
        self.path = Path(path)
        self.model = model
        self.chunk = chunk
        self.asked = 0
        """Requests that went to the model."""
        self.replayed = 0
        """Requests that did not."""
        if model is None and not self.path.is_file():
            raise InvalidData(f"there is no recording {self.path}, and no model to make one of")
        self._connection: sqlite3.Connection | None = None
        self._process = 0
        self._database()
        self.id = model.id if model is not None else id if id is not None else self._only_model()
        self._about = self._known()
        self._told = False
        """Whether `_remember` has said so."""
        self.context_length: int = self._about["context_length"]
        self._counts: dict[str, int] = {}
        """Token counts that are not written yet: a lost one costs nothing but counting again."""
        if self._about["counts_tokens"]:
            self.count_tokens = self._count_tokens

    @property
    def capabilities(self) -> frozenset[str]:
        """The model's, or those that it had when it was recorded and ``"deterministic"``."""
        # Not before somebody wants to know: a server says it by answering.
        if self.model is not None:
            return frozenset(self.model.capabilities)
        return frozenset(self._about["capabilities"]) | {"deterministic"}

    # Answers

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request: from the file, or else by the model, and into the file.

        Raises
        ------
        MissingRecording
            If an answer is missing and there is no model to ask.
        """
        turns: Counter[str] = Counter()
        keys = []
        for request in requests:
            key = request_key(self.id, request)
            if _sampled(request):
                turns[key] += 1
                key = hashlib.sha256(f"{key}/{turns[key]}".encode()).hexdigest()
            keys.append(key)
        known = self._read(keys)
        # One who replays does not write.
        if self._counts and self.model is not None:
            self._write([])
        missing = {k: r for k, r in zip(keys, requests, strict=True) if k not in known}
        self.replayed += len(requests) - len(missing)
        if missing and self.model is None:
            raise MissingRecording(_missing(self.path, self.id, missing))
        todo = list(missing.items())
        for start in range(0, len(todo), self.chunk):
            known |= self._ask(todo[start : start + self.chunk])
        return [known[key] for key in keys]

    def _ask(self, pairs: Sequence[tuple[str, Request]]) -> dict[str, Reply]:
        assert self.model is not None
        try:
            replies = ask(self.model, [request for _, request in pairs])
        except ModelUnavailable as error:
            # What was answered before the model was lost is paid for.
            self._keep([(*pairs[i], reply) for i, reply in error.answered.items()])
            raise
        self._keep([(*pair, reply) for pair, reply in zip(pairs, replies, strict=True)])
        self._remember()
        # As they stand in the file: where another process was faster, its answer holds for both.
        return self._read([key for key, _ in pairs])

    def _keep(self, answers: Sequence[tuple[str, Request, Reply]]) -> None:
        self.asked += len(answers)
        self._write(
            [
                (key, self.id, _to_json(_request(request)), _to_json(asdict(reply)))
                for key, request, reply in answers
            ]
        )

    def _count_tokens(self, text: str) -> int:
        """Tokens of a text, counted once and kept: replaying must cut prompts at the same place.

        Raises
        ------
        MissingRecording
            If the text was never counted and there is no model to ask.
        """
        key = hashlib.sha256(f"{self.id}\x1f{text}".encode()).hexdigest()
        if key not in self._counts:
            with _explained(self.path):
                row = (
                    self._database()
                    .execute("SELECT tokens FROM counts WHERE key = ?", (key,))
                    .fetchone()
                )
            if row is not None:
                return int(row[0])
            if self.model is None:
                raise MissingRecording(
                    f"{self.path} does not say how many tokens {self.id!r} takes for a text of "
                    f"{len(text)} characters: record this prompt where the model can be asked"
                )
            # LanguageModel does not ask for this method, so that mypy does not know it.
            count: int = self.model.count_tokens(text)  # type: ignore[attr-defined]
            self._counts[key] = count
        return self._counts[key]

    def _known(self) -> dict[str, Any]:
        """What replaying needs to know of the model, as it is or as it was recorded."""
        if self.model is not None:
            return {
                "context_length": self.model.context_length,
                "counts_tokens": hasattr(self.model, "count_tokens"),
            }
        with _explained(self.path):
            row = (
                self._database()
                .execute("SELECT about FROM models WHERE id = ?", (self.id,))
                .fetchone()
            )
        # Answers that were imported come without.
        anything = {
            "context_length": 1 << 31,
            "counts_tokens": False,
            "capabilities": ["choices", "grammar"],
        }
        return anything | (json.loads(row[0]) if row else {})

    def _remember(self) -> None:
        """Keep it for those who will replay; once, and behind answers, for it may be asked for."""
        if self._told:
            return
        try:
            about = self._about | {"capabilities": sorted(self.capabilities)}
        except ModelUnavailable:
            return  # the answers are kept; the next ones are an occasion
        with _explained(self.path):
            self._database().execute(
                "INSERT OR REPLACE INTO models VALUES (?, ?)", (self.id, _to_json(about))
            )
        self._told = True

    def __len__(self) -> int:
        """Answers of this model in the file."""
        with _explained(self.path):
            found = self._database().execute(
                "SELECT count(*) FROM answers WHERE model = ?", (self.id,)
            )
            return int(found.fetchone()[0])

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._counts and self.model is not None:
            self._write([])
        if self._connection is not None and self._process == os.getpid():
            self._connection.close()
        self._connection = None

    # To and from other files

    def export(self, path: str | Path) -> int:
        """Write this model's answers as JSON lines, in the order of their keys; how many.

        The file is written whole or not at all.
        """
        count = 0
        with whole_file(Path(path)) as file:
            for key, model, request, reply in self._rows():
                row = {
                    "key": key,
                    "model": model,
                    "request": json.loads(request),
                    "reply": json.loads(reply),
                }
                file.write(f"{_to_json(row)}\n".encode())
                count += 1
        return count

    def import_lines(self, path: str | Path) -> int:
        """Take in what `export` wrote; how many answers are new. What is there already stays.

        Raises
        ------
        InvalidData
            With the line, if one is no recorded answer; then nothing is taken in.
        """
        rows = []
        for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
            try:
                rows.append(_row(json.loads(line)))
            except (ValueError, KeyError, TypeError) as error:
                raise InvalidData(
                    f"{path}, line {number} is no recorded answer: {error}"
                ) from error
        return self._write(rows)

    # The file

    def _database(self) -> sqlite3.Connection:
        # A connection must not be used by the child of a fork.
        if self._connection is not None and self._process == os.getpid():
            return self._connection
        self._process = os.getpid()
        if self.model is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        with _explained(self.path):
            connection = sqlite3.connect(self.path, timeout=PATIENCE, isolation_level=None)
            try:
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                tables = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
                if version != LAYOUT:
                    _refuse(self.path, version, tables)
                    connection.execute("PRAGMA journal_mode = WAL")
                    connection.execute("BEGIN IMMEDIATE")
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, model TEXT NOT "
                        "NULL, request TEXT NOT NULL, reply TEXT NOT NULL) WITHOUT ROWID"
                    )
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS counts (key TEXT PRIMARY KEY, tokens INTEGER "
                        "NOT NULL) WITHOUT ROWID"
                    )
                    connection.execute(
                        "CREATE TABLE IF NOT EXISTS models (id TEXT PRIMARY KEY, about TEXT NOT "
                        "NULL) WITHOUT ROWID"
                    )
                    connection.execute(f"PRAGMA user_version = {LAYOUT}")
                    connection.execute("COMMIT")
                connection.execute("PRAGMA synchronous = FULL")
            except BaseException:
                connection.close()
                raise
        self._connection = connection
        return connection

    def _only_model(self) -> str:
        with _explained(self.path):
            found = self._database().execute(
                "SELECT model FROM answers UNION SELECT id FROM models ORDER BY 1"
            )
            models = [row[0] for row in found]
        if len(models) != 1:
            raise InvalidData(
                f"{self.path} holds answers of {len(models)} models ({', '.join(models) or 'none'})"
                ": give the model, or the id of the one that is meant"
            )
        return str(models[0])

    def _rows(self) -> Iterator[tuple[str, str, str, str]]:
        with _explained(self.path):
            yield from self._database().execute(
                "SELECT key, model, request, reply FROM answers WHERE model = ? ORDER BY key",
                (self.id,),
            )

    def _read(self, keys: Iterable[str]) -> dict[str, Reply]:
        wanted = list(dict.fromkeys(keys))
        found: dict[str, Reply] = {}
        with _explained(self.path):
            database = self._database()
            for start in range(0, len(wanted), AT_ONCE):
                part = wanted[start : start + AT_ONCE]
                marks = ",".join("?" * len(part))
                rows = database.execute(
                    f"SELECT key, reply FROM answers WHERE key IN ({marks})",  # noqa: S608 (marks)
                    part,
                )
                for key, reply in rows:
                    try:
                        found[key] = _reply(reply)
                    except (ValueError, KeyError, TypeError) as error:
                        raise InvalidData(
                            f"{self.path} holds a damaged answer ({key}): {error}"
                        ) from error
        return found

    def _write(self, rows: Sequence[tuple[str, str, str, str]]) -> int:
        with _explained(self.path):
            database = self._database()
            database.execute("BEGIN IMMEDIATE")
            try:
                before = database.total_changes
                database.executemany("INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", rows)
                new = database.total_changes - before
                counts = list(self._counts.items())
                database.executemany("INSERT OR IGNORE INTO counts VALUES (?, ?)", counts)
                database.execute("COMMIT")
            except BaseException:
                if database.in_transaction:
                    database.execute("ROLLBACK")
                raise
            self._counts.clear()
            return new


def request_key(model: str, request: Request) -> str:
    """The digest of everything that an answer depends on: 64 hexadecimal digits."""
    return hashlib.sha256(_to_json({"model": model, **_request(request)}).encode()).hexdigest()


def _sampled(request: Request) -> bool:
    return request.generation.temperature > 0 and request.generation.seed is None


def _request(request: Request) -> dict[str, Any]:
    return {
        "messages": list(request.messages),
        "generation": asdict(request.generation),
        "choices": request.choices,
        "grammar": request.grammar,
    }


def _reply(text: str) -> Reply:
    told = json.loads(text)
    logprobs = told["choice_logprobs"]
    return Reply(
        text=str(told["text"]),
        prompt_tokens=int(told["prompt_tokens"]),
        completion_tokens=int(told["completion_tokens"]),
        finish_reason=str(told["finish_reason"]),
        choice_logprobs=None if logprobs is None else tuple(map(float, logprobs)),
    )


def _to_json(value: Any) -> str:
    return json.dumps(value, sort_keys=True, separators=(",", ":"))


def _missing(path: Path, model: str, missing: dict[str, Request]) -> str:
    request = next(iter(missing.values()))
    said = " / ".join(message["content"] for message in request.messages)
    short = said if len(said) <= 200 else f"{said[:120]} ... {said[-60:]}"
    return (
        f"{path} has no answer of {model!r} to {len(missing)} of these requests, the first of "
        f"which is {short!r} ({request.generation}): give RecordingModel the model to ask, or "
        "record these prompts where it can be asked"
    )


def _row(told: dict[str, Any]) -> tuple[str, str, str, str]:
    """A line of an export as a row of the table; an error if it is none."""
    _reply(_to_json(told["reply"]))
    key, model = told["key"], told["model"]
    if not (isinstance(key, str) and isinstance(model, str) and len(key) == 64):
        raise TypeError("key and model must be texts, the key of 64 digits")
    return key, model, _to_json(told["request"]), _to_json(told["reply"])


def _refuse(path: Path, version: int, tables: int) -> None:
    """Raise if there is something in the file that is not ours."""
    if version or tables:
        raise InvalidData(
            f"{path} is a database, but no recording of this version (its layout is {version}, "
            f"not {LAYOUT}): give another path"
        )


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    """SQLite's errors as the package's."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise RecordingFailed(
            f"{path} cannot be read or written: {error}. What was recorded before is kept"
        ) from error
    except sqlite3.DatabaseError as error:
        raise InvalidData(f"{path} is no recording: {error}") from error
