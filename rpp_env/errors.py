"""Every error that the package raises on purpose.

::

    RPPError
    ├── InvalidData (ValueError)        a file or a dataset is not what it should be
    │   └── UnknownDataset              no dataset of that name, no folder at that path
    ├── InvalidOption (ValueError)      an option is unknown, out of range, or contradicts another
    ├── InvalidTask (ValueError)        a ranking task that nobody could answer
    ├── InvalidAction (ValueError)      an action that the pattern book does not hold
    ├── ResetNeeded (RuntimeError)      a step before the first reset, or after the last step
    ├── MissingExtra (ImportError)      an optional dependency is not installed
    ├── TableMismatch (ValueError)      a reward table that answers another question
    │   └── NotTabulated                it holds none of the users, as one of another split
    ├── MissingRecording (LookupError)  an answer is not in the recording, and nobody to ask
    ├── WriteFailed (OSError)           a file that cannot be written: a full disk, no rights
    ├── RecordingFailed (OSError)       a recording that cannot be written: a full disk, no rights
    ├── ModelUnavailable (ConnectionError)  a model that is gone, or refuses; keeps its answers
    ├── TrainingDiverged (FloatingPointError)  a loss is no longer finite
    └── BrokenContract (RuntimeError)   a model, recommender or encoder gave back the wrong thing

What a language model *says* is never an error: an unreadable reply is a ranking that names nothing.
Each message says what came, what was allowed and what to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = [
    "BrokenContract",
    "InvalidAction",
    "InvalidData",
    "InvalidOption",
    "InvalidTask",
    "MissingExtra",
    "MissingRecording",
    "ModelUnavailable",
    "NotTabulated",
    "RPPError",
    "RPPWarning",
    "RecordingFailed",
    "ResetNeeded",
    "TableMismatch",
    "TrainingDiverged",
    "UnknownDataset",
    "WriteFailed",
]


class RPPError(Exception):
    """Base of all errors of this package."""


class RPPWarning(UserWarning):
    """Something was not as it should be, and the work goes on; the message says how."""


class InvalidData(RPPError, ValueError):
    """A file or a dataset is not what it should be; names file, line and column where it can."""


class UnknownDataset(InvalidData):
    """No dataset of that name is known, and no folder lies at that path."""


class InvalidOption(RPPError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class InvalidTask(RPPError, ValueError):
    """A ranking task that nobody could answer."""


class InvalidAction(RPPError, ValueError):
    """An action that the pattern book does not hold."""


class ResetNeeded(RPPError, RuntimeError):
    """A step before the first reset, or after the episode's last step."""


class MissingExtra(RPPError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: run `pip install 'rpp-env[{extra}]'`")


class TableMismatch(RPPError, ValueError):
    """A reward table that was made from other data, tasks, sentences or rules."""


class NotTabulated(TableMismatch):
    """A reward table that holds none of the users, such as one of another split."""


class MissingRecording(RPPError, LookupError):
    """An answer that is not in the recording, and no model to ask for it."""


class WriteFailed(RPPError, OSError):
    """A file that cannot be written; what was there before is kept."""


class RecordingFailed(RPPError, OSError):
    """A recording that cannot be read or written; what was recorded before is kept."""


class ModelUnavailable(RPPError, ConnectionError):
    """A model that cannot be reached, gives no usable answer in time, or refuses a question.

    Attributes
    ----------
    answered : dict of int to Reply
        What it did answer of the requests of that call, by their place among them.
    """

    def __init__(self, message: str, answered: Mapping[int, Any] | None = None) -> None:
        super().__init__(message)
        self.answered = dict(answered or {})


class TrainingDiverged(RPPError, FloatingPointError):
    """A loss that is no longer finite; the last checkpoint is kept."""


class BrokenContract(RPPError, RuntimeError):
    """A model, recommender or encoder gave back the wrong number, order or kind of things.

    Attributes
    ----------
    answered : dict of int to Reply
        Where a model's reply is at fault: its other replies, by their place among the requests.
    """

    def __init__(self, message: str, answered: Mapping[int, Any] | None = None) -> None:
        super().__init__(message)
        self.answered = dict(answered or {})
