"""Record a language model's answers in a file, and replay them.

`RecordingModel` wraps a language model. Answers in the file are read from it, and only the missing
ones are requested; without a model it only replays. `rpp_env.models.answer_file` describes the
file. Several processes and threads may use it at once, across forks, and a process that is killed
at any moment loses no answer that it has returned.

An answer is found by the digest of everything that it depends on: the model's id, the sampling
settings, the messages, and the choices or the grammar. Where replies are sampled (a temperature, no
seed), equal requests of one call get different answers: the first, second, third ... of them have
separate recordings, and the next call replays them in that order.

Only valid answers are kept. A reply of the wrong type, or with missing or impossible
log-probabilities, is an error (`rpp_env.models.asking.flaw`), and its request is sent again later.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rpp_env.data.folders import whole_file
from rpp_env.errors import (
    BrokenContract,
    InvalidData,
    InvalidOption,
    MissingRecording,
    ModelUnavailable,
)
from rpp_env.models.answer_file import REMEDY, AnswerFile
from rpp_env.models.answers import (
    MALFORMED,
    Answer,
    checksum,
    explained,
    key_of,
    reply_of,
    reply_text,
    request_text,
    sampled,
    to_json,
)
from rpp_env.models.asking import ask_unchecked, flaw, is_token_count, release
from rpp_env.models.base import LanguageModel, Reply, Request
from rpp_env.options import unknown

__all__ = ["RecordingModel", "request_key"]

logger = logging.getLogger(__name__)

UNKNOWN = {
    "context_length": 1 << 31,
    "counts_tokens": False,
    "capabilities": ["choices", "grammar"],
}
"""Defaults for a model whose answers were imported: exports do not contain them."""


class RecordingModel:
    """A language model whose answers are kept in a file.

    Threads may share it, and it may be pickled, copied and carried across forks: each process opens
    the file for itself.

    Parameters
    ----------
    path : path
        The recording; created if `model` is given and the file does not exist.
    model : LanguageModel, optional
        Model for missing answers. Without one, a missing answer raises
        `MissingRecording`.
    id : str, optional
        Id of the recorded model, if `model` is not given; needed only where the file holds answers
        of several models.
    chunk : int
        Number of answers that are requested and written together. A killed process loses at most
        the answers of one chunk, none of which it has returned.

    Raises
    ------
    InvalidData
        If the file is not a recording, is of a newer version, or is damaged; if it holds answers of
        several models (or none) and neither `model` nor `id` is given; or if it has none of `id`.
    InvalidOption
        If `chunk` is below 1.
    RecordingFailed
        If the file cannot be written: a full disk, no permission, or another process that holds it
        for longer than a minute. What was written before is kept.
    """

    def __init__(
        self,
        path: str | Path,
        model: LanguageModel | None = None,
        *,
        id: str | None = None,  # noqa: A002 - the protocol's word
        chunk: int = 512,
    ) -> None:
        if chunk < 1:
            raise InvalidOption(f"chunk must be at least 1, not {chunk}")
        self.path = Path(path).absolute()
        self.model = model
        self.chunk = chunk
        self.asked = 0
        """Number of requests that went to the model."""
        self.replayed = 0
        """Number of requests that were answered from the file."""
        if model is None and not self.path.is_file():
            raise InvalidData(f"there is no recording {self.path}, and no model to make one of")
        self._file = AnswerFile(self.path, write=model is not None)
        known = self._file.models()  # opens the file, and raises if it is invalid
        self.id = model.id if model is not None else self._chosen(id, known)
        if not self._file.has_checksums:
            logger.warning(
                "%s was recorded by an older version, without checksums: its answers are not "
                "verified. `rpp-env recording copy` makes a copy with checksums of it.",
                self.path,
            )
        self._about = self._known()
        self._noted = False
        """Whether the file holds the model's properties for replaying."""
        self.context_length: int = self._about["context_length"]
        self._counts: dict[str, int] = {}
        """Token counts that are not written yet; a lost one is counted again."""
        self._begin()

    def _begin(self) -> None:
        if self._about["counts_tokens"]:
            self.count_tokens = self._count_tokens

    def __getstate__(self) -> dict[str, Any]:
        state = {name: value for name, value in self.__dict__.items() if name != "count_tokens"}
        return state | {"_counts": dict(self._counts)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._begin()

    @property
    def capabilities(self) -> frozenset[str]:
        """Capabilities of the model; in replay the recorded ones, and ``"deterministic"``."""
        # Read only when needed: a server has to answer requests for it.
        if self.model is not None:
            return frozenset(self.model.capabilities)
        return frozenset(self._about["capabilities"]) | {"deterministic"}

    # Answers

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request: from the file, or else by the model, recording its replies.

        Raises
        ------
        MissingRecording
            If an answer is missing and there is no model.
        InvalidData
            If an answer is damaged, or if one is missing and any part of the file is damaged: it
            may be there.
        BrokenContract
            If the model returns an invalid reply. The other replies are recorded.
        """
        turns: Counter[str] = Counter()
        wanted: dict[str, tuple[Request, str, int]] = {}
        keys = []
        for request in requests:
            text = request_text(request)
            turn = 0
            if sampled(request):
                turns[text] += 1
                turn = turns[text]
            key = key_of(self.id, text, turn)
            wanted[key] = (request, text, turn)
            keys.append(key)
        known = self._read({key: request for key, (request, _, _) in wanted.items()})
        # In replay mode (no model) nothing is written.
        if self._counts and self.model is not None:
            self._write([])
        missing = {key: asked for key, asked in wanted.items() if key not in known}
        with self._file.lock:
            self.replayed += len(requests) - len(missing)
        if missing:
            self._file.verify()
        if missing and self.model is None:
            raise MissingRecording(
                _missing(self.path, self.id, [r for r, _, _ in missing.values()])
            )
        todo = list(missing.items())
        for start in range(0, len(todo), self.chunk):
            known |= self._ask(dict(todo[start : start + self.chunk]))
        return [known[key] for key in keys]

    def _ask(self, wanted: dict[str, tuple[Request, str, int]]) -> dict[str, Reply]:
        assert self.model is not None
        requests = {key: request for key, (request, _, _) in wanted.items()}
        rows = [Answer(key, "", self.id, turn, text) for key, (_, text, turn) in wanted.items()]
        asked = list(requests.values())
        try:
            replies = dict(enumerate(ask_unchecked(self.model, asked)))
        except (ModelUnavailable, BrokenContract) as error:
            # Answers that arrived before the model was lost are paid for.
            self._keep(rows, asked, error.answered)
            raise
        flaws = self._keep(rows, asked, replies)
        if flaws:
            more = f" So are {len(flaws) - 1} more of {len(rows)} replies." if flaws[1:] else ""
            raise BrokenContract(
                f"model {self.model.id!r} {flaws[0]}. It is not kept in {self.path}.{more}"
            )
        self._remember()
        passed_on = {key: replies[i] for i, key in enumerate(requests) if not _lasts(replies[i])}
        # Read back from the file: if another process was faster, its answer holds for both.
        return passed_on | self._read(requests)

    def _keep(
        self, rows: Sequence[Answer], requests: Sequence[Request], replies: dict[int, Any]
    ) -> list[str]:
        """Write the valid replies; return a description of each flaw in the others."""
        with self._file.lock:
            self.asked += len(replies)
        flaws = {i: flaw(requests[i], reply) for i, reply in replies.items()}
        self._write(
            [
                rows[i]._replace(reply=reply_text(reply, requests[i]))
                for i, reply in replies.items()
                if not flaws[i] and _lasts(reply)
            ]
        )
        return [wrong for wrong in flaws.values() if wrong]

    def _read(self, wanted: dict[str, Request]) -> dict[str, Reply]:
        found = {}
        for key, text in self._file.replies(wanted).items():
            try:
                found[key] = reply_of(text, wanted[key])
            except MALFORMED as error:
                raise InvalidData(
                    f"{self.path} holds an invalid answer ({key}): {explained(error)}. {REMEDY}"
                ) from error
        return found

    def _write(self, answers: Sequence[Answer]) -> None:
        counts, self._counts = self._counts, {}
        about = {} if self._noted else {self.id: to_json(self._about)}
        try:
            self._file.add(answers, counts, about if answers else {})
        except BaseException:
            self._counts = counts | self._counts
            raise

    def _count_tokens(self, text: str) -> int:
        """Count the tokens of a text, recorded so that a replay shortens prompts equally.

        Raises
        ------
        MissingRecording
            If the text was never counted and there is no model.
        BrokenContract
            If the model's count is not a number of tokens.
        """
        key = hashlib.sha256(f"{self.id}\x1f{text}".encode()).hexdigest()
        count = self._counts.get(key)
        if count is None:
            count = self._file.tokens(key)
        if count is not None:
            return count
        if self.model is None:
            self._file.verify()
            raise MissingRecording(
                f"{self.path} does not say how many tokens {self.id!r} takes for a text of "
                f"{len(text)} characters: record this prompt where the model can be asked"
            )
        # LanguageModel does not require this method, so mypy does not know it.
        counted: Any = self.model.count_tokens(text)  # type: ignore[attr-defined]
        if not is_token_count(counted):
            raise BrokenContract(
                f"count_tokens of model {self.id!r} returned {counted!r:.40} for {len(text)} "
                "characters: it must be an integer from 0"
            )
        self._counts[key] = int(counted)
        return self._counts[key]

    def _known(self) -> dict[str, Any]:
        """Return the model's properties for replaying, current or recorded."""
        if self.model is not None:
            return {
                "context_length": self.model.context_length,
                "counts_tokens": hasattr(self.model, "count_tokens"),
            }
        return UNKNOWN | (self._file.about(self.id) or {})

    def _remember(self) -> None:
        """Record the capabilities: once, and after answers, as reading them may call the model."""
        if self._noted:
            return
        self._noted = True
        try:
            about = self._about | {"capabilities": sorted(self.capabilities)}
        except ModelUnavailable:
            return  # the answers are kept, and the model is not asked about itself again
        self._file.add([], about={self.id: to_json(about)}, replace=True)

    def _chosen(self, wanted: str | None, models: Sequence[str]) -> str:
        if wanted is not None and wanted not in models:
            raise InvalidData(f"{self.path}: {unknown('model', wanted, models)}")
        if wanted is None and len(models) != 1:
            names = ", ".join([*models[:10], *(["..."] if models[10:] else [])]) or "none"
            raise InvalidData(
                f"{self.path} holds answers of {len(models)} models ({names}): give the model, or "
                "the id of the one that is meant"
            )
        return wanted or models[0]

    def __len__(self) -> int:
        """Return the number of this model's answers in the file."""
        return self._file.count(self.id)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        if self._counts and self.model is not None:
            self._write([])
        self._file.close()

    def release(self) -> None:
        """Close the file, and release the model."""
        self.close()
        release(self.model)

    # To and from other files

    def export(self, path: str | Path) -> int:
        """Write this model's answers as JSON lines, in the order of their keys; return the count.

        The file is written atomically. Each line contains the answer's checksum.
        """
        count = 0
        with whole_file(Path(path)) as file:
            for answer in self._file.answers():
                if answer.model != self.id:
                    continue
                row = answer._asdict() | {
                    "request": json.loads(answer.request),
                    "reply": json.loads(answer.reply),
                    "checksum": checksum(answer.key, answer.reply).hex(),
                }
                file.write(f"{to_json(row)}\n".encode())
                count += 1
        return count

    def import_lines(self, path: str | Path) -> int:
        """Add the answers that `export` wrote; return the number of new ones. Others are unchanged.

        Raises
        ------
        InvalidData
            With the line, if one is no recorded answer of this model, is damaged, or contradicts
            another one. Then nothing is added.
        """
        return AnswerFile(self.path, write=True).import_lines(path, self.id)

    def copy(self, path: str | Path, *, skip_damaged: bool = False) -> tuple[int, int]:
        """Copy the whole recording into a new file, even while others write to it.

        Parameters, result and errors are those of `AnswerFile.copy`.
        """
        return AnswerFile(self.path, write=False).copy(path, skip_damaged=skip_damaged)


def request_key(model: str, request: Request) -> str:
    """The digest of everything that an answer depends on: 64 hexadecimal digits."""
    return key_of(model, request_text(request))


def _lasts(reply: Any) -> bool:
    """Whether a reply is worth keeping: no error that came in an answer's place."""
    return not (isinstance(reply, Reply) and reply.finish_reason == "no_answer")


def _missing(path: Path, model: str, missing: Sequence[Request]) -> str:
    request = missing[0]
    said = " / ".join(message["content"] for message in request.messages)
    short = said if len(said) <= 200 else f"{said[:120]} ... {said[-60:]}"
    return (
        f"{path} has no answer of {model!r} to {len(missing)} of these requests, the first of "
        f"which is {short!r} ({request.generation}): give RecordingModel the model to ask, or "
        "record these prompts where it can be asked"
    )
