"""All errors that the package raises on purpose.

::

    RPPError
    ├── InvalidData (ValueError)        a file or a dataset is not valid
    │   └── UnknownDataset              no dataset of that name, no folder at that path
    ├── InvalidOption (ValueError)      an option is unknown, out of range, or contradicts another
    ├── InvalidTask (ValueError)        a ranking task that is not well-formed
    ├── InvalidAction (ValueError)      an action that the agent does not have
    ├── ResetNeeded (RuntimeError)      a step before the first reset, or after the last step
    ├── MissingExtra (ImportError)      an optional dependency is not installed
    ├── TableMismatch (ValueError)      a reward table made for other tasks, prompts or rules
    │   └── NotTabulated                the table holds none of the users (e.g. another split)
    ├── MissingRecording (LookupError)  a reply is not in the recording, and there is no model
    ├── WriteFailed (OSError)           a file cannot be written: full disk, missing rights
    ├── RecordingFailed (OSError)       a recording cannot be read or written
    ├── ModelUnavailable (ConnectionError)  a model is unreachable or refuses; keeps its replies
    ├── TrainingDiverged (FloatingPointError)  a loss is no longer finite
    └── BrokenContract (RuntimeError)   a model, recommender or encoder returned an invalid value

A language model's reply is never an error: an unreadable reply is a ranking that names nothing.
Each message states what came, what was allowed and what to do.
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
    """A problem that does not stop the work; the message states what was done instead."""


class InvalidData(RPPError, ValueError):
    """A file or a dataset is not valid; the message names file, line and column where it can."""


class UnknownDataset(InvalidData):
    """No dataset of that name is known, and no folder lies at that path."""


class InvalidOption(RPPError, ValueError):
    """An option is unknown, out of range, or contradicts another one."""


class InvalidTask(RPPError, ValueError):
    """A ranking task is not well-formed: repeated candidates, or no target among them."""


class InvalidAction(RPPError, ValueError):
    """An action that the agent does not have."""


class ResetNeeded(RPPError, RuntimeError):
    """A step before the first reset, or after the episode's last step."""


class MissingExtra(RPPError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} is not installed: run `pip install 'rpp-env[{extra}]'`")


class TableMismatch(RPPError, ValueError):
    """A reward table that was made for other data, tasks, sentences or rules."""


class NotTabulated(TableMismatch):
    """A reward table that holds none of the users, for example because of another split."""


class MissingRecording(RPPError, LookupError):
    """A reply is not in the recording, and there is no model to request it from."""


class WriteFailed(RPPError, OSError):
    """A file cannot be written; its previous content is kept."""


class RecordingFailed(RPPError, OSError):
    """A recording cannot be read or written; what was recorded before is kept."""


class ModelUnavailable(RPPError, ConnectionError):
    """A model cannot be reached, returns no usable reply in time, or refuses a request.

    Attributes
    ----------
    answered : dict of int to Reply
        The replies that did arrive, by the index of their request in the call.
    """

    def __init__(self, message: str, answered: Mapping[int, Any] | None = None) -> None:
        super().__init__(message)
        self.answered = dict(answered or {})


class TrainingDiverged(RPPError, FloatingPointError):
    """A loss is no longer finite; the last checkpoint is kept."""


class BrokenContract(RPPError, RuntimeError):
    """A model, recommender or encoder returned values of the wrong number, order or type.

    Attributes
    ----------
    answered : dict of int to Reply
        If a model's reply is at fault: its other replies, by the index of their request.
    """

    def __init__(self, message: str, answered: Mapping[int, Any] | None = None) -> None:
        super().__init__(message)
        self.answered = dict(answered or {})
