"""Files of finished runs of a bench or a study: written with a digest, read as untrusted data.

Folders of benches and studies are shared, and `rpp-env report` reads them. So a file's size is
limited, and everything in it is checked against its `Kind` before a number is used: types, ranges,
lengths, and that there is nothing else. The digest detects damage, not forgery.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import reprlib
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, RPPWarning
from rpp_env.options import read_small

__all__ = [
    "FITTED",
    "LEVELS",
    "REDRAWN",
    "TRAINED",
    "Kind",
    "check_sizes",
    "read_run",
    "write_run",
]

Kind = Callable[[Any], None]
"""Checks a value; raises `_Wrong` for an invalid one."""

LARGEST = 16 << 20
"""Maximum bytes of one file."""
LARGEST_TOGETHER = 512 << 20
"""Bytes of all files of a bench or a study, which a report holds in memory."""
_DIGEST = re.compile(rb',\n"sha256": "([0-9a-f]{64})"\n}\n\Z')


class _Wrong(ValueError):
    """A value is invalid; its position is put before the text while the error propagates."""


def write_run(path: Path, found: Mapping[str, Any]) -> None:
    """Write the result of a run, one line for each key, and a digest of these lines.

    Raises
    ------
    WriteFailed
        If the file cannot be written.
    """
    rows = ",\n".join(f"{json.dumps(key)}: {json.dumps(x)}" for key, x in found.items()).encode()
    digest = hashlib.sha256(rows).hexdigest()
    with whole_file(path) as file:
        file.write(b"{\n" + rows + f',\n"sha256": "{digest}"\n}}\n'.encode())


def read_run(path: Path, kind: Kind) -> dict[str, Any] | None:
    """Read a file that `write_run` wrote, without the digest; None if there is none.

    Parameters
    ----------
    path : Path
    kind : Kind
        What the file must hold besides ``asked``, a table.

    Raises
    ------
    InvalidData
        For a file that is damaged, too large, or holds anything else. A file without a digest, of
        an earlier version, is read with an `RPPWarning`.
    """
    try:
        content = read_small(path, LARGEST)
        found = json.loads(content)
        digest = _DIGEST.search(content)
        if digest is not None:
            if hashlib.sha256(content[2 : digest.start()]).hexdigest() != digest[1].decode():
                raise _Wrong("its content does not match its digest")
            found.pop("sha256", None)
        if not isinstance(found, dict) or not isinstance(found.get("asked"), dict):
            raise _Wrong("it does not state its inputs")
        kind({key: x for key, x in found.items() if key != "asked"})
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidData(
            f"{path} holds no finished run ({error}): delete it to run it again"
        ) from error
    if digest is None:
        warnings.warn(
            "files of finished runs of an earlier version carry no digest: they are used as they "
            "are",
            RPPWarning,
            stacklevel=3,
        )
    return found


def check_sizes(paths: Sequence[Path], out: Path) -> None:
    """Check that the finished runs fit into the memory of a report.

    Raises
    ------
    InvalidData
    """
    sizes = (path.stat().st_size for path in paths if path.is_file())
    size = sum(size for size in sizes if size <= LARGEST)  # `read_run` refuses larger ones
    if size > LARGEST_TOGETHER:
        raise InvalidData(
            f"the finished runs in {out} take {size:,} bytes, and a report reads "
            f"{LARGEST_TOGETHER:,} at most: keep fewer of them in one folder"
        )


# ------------------------------------------------------------------------------- what values may be


def _shown(value: object) -> str:
    return reprlib.repr(value)


def _number(low: float, high: float = math.inf, *, whole: bool = False) -> Kind:
    check = _numbers(low, high, whole=whole)
    return lambda value: check([value])


def _numbers(low: float, high: float = math.inf, *, whole: bool = False) -> Kind:
    """Return a check of lists of finite numbers in a range; true and false are not numbers."""

    def check(values: Any) -> None:
        kinds = {int} if whole else {int, float}
        if not isinstance(values, list) or not set(map(type, values)) <= kinds:
            raise _Wrong(f"must be {'whole ' * whole}numbers, not {_shown(values)}")
        try:
            array = np.array(values, np.float64)
        except OverflowError:
            raise _Wrong("holds a number beyond all ranges") from None
        fine = np.isfinite(array) & (array >= low) & (array <= high)
        if not fine.all():
            raise _Wrong(f"must lie in {low:g}..{high:g}, not {_shown(values[fine.argmin()])}")

    return check


def _text(pattern: str) -> Kind:
    matches = re.compile(pattern, re.ASCII).fullmatch

    def check(value: Any) -> None:
        if not isinstance(value, str) or not matches(value):
            raise _Wrong(f"is {_shown(value)}, which it cannot be")

    return check


def _name(value: Any) -> None:
    if not isinstance(value, str) or len(value) > 100 or not value.isprintable():
        raise _Wrong(f"must be a short text on one line, not {_shown(value)}")


def _true(value: Any) -> None:
    if value is not True:
        raise _Wrong(f"must be true, not {_shown(value)}")


def _table(*rules: Callable[[Mapping[str, Any]], None], **kinds: Kind) -> Kind:
    """A table with these keys and no others, which then keeps `rules`; ``x_=`` may be missing."""
    needed = {key: kind for key, kind in kinds.items() if not key.endswith("_")}
    allowed = {key.rstrip("_"): kind for key, kind in kinds.items()}

    def check(value: Any) -> None:
        """Refuse what is no such table."""
        if not isinstance(value, dict):
            raise _Wrong(f"must be a table, not {_shown(value)}")
        if missing := needed.keys() - value.keys():
            raise _Wrong(f"{min(missing)!r} is missing")
        if more := value.keys() - allowed.keys():
            raise _Wrong(f"{_shown(min(more))} is no key of it")
        _each(value, allowed)
        for rule in rules:
            rule(value)

    return check


def _mapping(key: Kind, kind: Kind, most: int = 64) -> Kind:
    """A table with any keys of a kind."""

    def check(value: Any) -> None:
        if not isinstance(value, dict) or len(value) > most:
            raise _Wrong(f"must be a table of up to {most}, not {_shown(value)}")
        for name in value:
            key(name)
        _each(value, dict.fromkeys(value, kind))

    return check


def _rows(kind: Kind, most: int = 10_000) -> Kind:
    """A list."""

    def check(value: Any) -> None:
        if not isinstance(value, list) or len(value) > most:
            raise _Wrong(f"must be a list of up to {most:,}, not {_shown(value)}")
        _each(dict(enumerate(value)), dict.fromkeys(range(len(value)), kind))

    return check


def _each(values: Mapping[Any, Any], kinds: Mapping[Any, Kind]) -> None:
    for key, value in values.items():
        try:
            kinds[key](value)
        except _Wrong as error:
            raise _Wrong(f"{key}: {error}") from None


def _as_long(*names: str) -> Callable[[Mapping[str, Any]], None]:
    def check(value: Mapping[str, Any]) -> None:
        lengths = {name: len(value[name]) for name in names}
        if len(set(lengths.values())) > 1 or not min(lengths.values()):
            raise _Wrong(f"{', '.join(names)} must be as long as each other and not empty")

    return check


# -------------------------------------------------------------------------------------------- kinds

_SCORE, _SCORES = _number(0, 1), _numbers(0, 1)
_COUNT, _AMOUNT = _number(0, 1e15, whole=True), _number(0, 1e15)
_BY_SPLIT = _mapping(_text("train|validation|test"), _name)
_VERSIONS = _mapping(_text("[a-z-]{1,40}"), _text("[A-Za-z0-9.+!_-]{1,60}"))
_BY_USER = _table(_as_long("mean", "first", "last"), mean=_SCORES, first=_SCORES, last=_SCORES)

TRAINED = _table(
    _as_long("points", "scores"),
    points=_numbers(0, 1e15, whole=True),
    played_=_numbers(0, 1e15, whole=True),
    scores=_SCORES,
    score=_SCORE,
    first_=_SCORE,
    last_=_SCORE,
    greedy_=_true,
    seconds=_AMOUNT,
    processor_seconds_=_AMOUNT,
    steps_per_second=_AMOUNT,
    tables=_BY_SPLIT,
    whose=_name,
    versions=_VERSIONS,
    users=_BY_USER,
)
"""A training run of a bench."""


def _same_users(lines: Mapping[str, Any]) -> None:
    if len({len(line["mean"]) for line in lines["users"].values()}) > 1:
        raise _Wrong("users: the lines must be about as many users each")


LEVELS = _table(
    _same_users,
    scores=_table(chance=_SCORE, random=_SCORE, fixed=_SCORE, reference=_SCORE),
    steps=_number(1, 1e6, whole=True),
    fixed_plan_=_rows(_numbers(0, 1e6, whole=True)),
    fixed_on_train_=_SCORE,
    tables=_BY_SPLIT,
    whose=_name,
    versions=_VERSIONS,
    users=_table(random=_BY_USER, fixed=_BY_USER, reference=_BY_USER),
)
"""The baselines of a bench's problem in one world."""


def _choices(value: Mapping[str, Any]) -> None:
    kinds = len(value["kinds"])
    if len(value["counts"]) != kinds:
        raise _Wrong("kinds and counts must be as long as each other")
    for agent, shares in value["shares"].items():
        if len(shares) != kinds or len(set(map(len, shares))) != 1:
            raise _Wrong(f"shares: {agent}: must be {kinds} rows of one length")


def _fitted(value: Mapping[str, Any]) -> None:
    users, unsure = len(value["scores"]["score"]), value["unsure"]
    if unsure != sorted(set(unsure)) or max(unsure, default=-1) >= users:
        raise _Wrong(f"unsure: must be rising numbers below {users}")
    for name in {"cells", "prompts"} & value.keys():
        prompts = value[name]
        if len(prompts) > users:
            raise _Wrong(f"{name}: must be those of {users} users at most")
        if len(set(map(len, prompts))) > 1 or any(not one for one in prompts):
            raise _Wrong(f"{name}: must be lists of one length, none of them empty")
    if any(len(one) != 4 for step in value.get("prompts", ()) for one in step):
        raise _Wrong("prompts: must be of four numbers each")


FITTED = _table(
    _fitted,
    training=_table(
        calls=_AMOUNT,
        unique=_AMOUNT,
        tokens=_AMOUNT,
        proposals_=_COUNT,
        seconds=_AMOUNT,
        users_=_COUNT,
    ),
    testing=_table(calls=_AMOUNT, different=_AMOUNT, tokens=_AMOUNT, named=_SCORE),
    curve=_rows(_table(calls=_AMOUNT, train=_SCORE, validation=_SCORE, test=_SCORE)),
    whose=_name,
    unsure=_numbers(0, 1e9, whole=True),
    choices=_table(
        _choices,
        kinds=_rows(_name, 100),
        counts=_numbers(0, 1e9, whole=True),
        shares=_mapping(_text("[A-Za-z0-9_.-]{1,40}"), _rows(_SCORES)),
    ),
    cells_=_rows(_numbers(0, 1e15, whole=True), 1000),
    prompts_=_rows(_rows(_numbers(-1, 1e6, whole=True)), 1000),  # of earlier versions
    scores=_table(
        _as_long("score", "first", "last", "merged"),
        score=_SCORES,
        first=_SCORES,
        last=_SCORES,
        merged=_SCORES,
    ),
)
"""A method that a study fitted once."""

_ESTIMATE = _numbers(-1, 1)
_LINES = ("random", "fixed", "hindsight", "survives")
_DIFFERENCES = ("hindsight minus fixed", "survives minus fixed", "survives minus random")


def _three(value: Any) -> None:
    _ESTIMATE(value)
    if len(value) != 3:
        raise _Wrong("must be a value and the two ends of its interval")


REDRAWN = _table(
    users=_number(1, 1e9, whole=True),
    estimates=_table(**dict.fromkeys((*_LINES, *_DIFFERENCES), _three)),
)
"""Results of a study about hindsight."""
