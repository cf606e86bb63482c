"""The raw scores of a folder in one compact file, from which all intervals follow.

``scores.npz`` is a NumPy archive without pickles. With N runs (a bench's baselines are runs too),
U the largest number of scored users, G groups of them and V different numbers:

===================  ================  =========================================================
array                shape, dtype      holds
===================  ================  =========================================================
``setting``          (N,) text         name of the setting or environment
``method``           (N,) text         label of the method; of a baseline its name
``draw``, ``seed``   (N,) int64        world or draw of the candidates; training seed, -1 of lines
``values``           (V,) float64      every number that is a score, rising; the last is NaN
``score``            (N, U) uint16     NDCG@10 of each user, as places in ``values``; NaN beyond the
                                       setting's users (uint32 where V is more than 65,536)
``first``, ``last``  as ``score``      of an episode's first and last step or call
``merged``           as ``score``      of all calls merged (studies only)
``unsure``           (N, U) bool       whether the user's last item is a tie (studies only)
``group``            (N,) int64        row of ``users``
``users``            (G, U) text       digests of the users; empty where they were not kept
===================  ================  =========================================================

Scores of a user are means of a few values of NDCG@10, so that there are few different numbers: 52
methods in five worlds with 800 users each take 0.8 MB. Rows of one group have the same users in the
same order, so that differences pair by column. Users are digests and numbers;
``docs/interval.py`` makes an interval from the file with NumPy alone, and `read_raw` reads it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench import LEVELS
from rpp_agents.experiments.results import COLUMNS, Key, Results
from rpp_agents.experiments.run import user_digests
from rpp_agents.experiments.statistics import Lines
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData

__all__ = ["raw_lines", "raw_scores", "read_raw", "write_raw"]

LARGEST = 512 << 20
"""Maximum bytes of all arrays of a file."""


def write_raw(results: Results, out: Path) -> None:
    """Write ``scores.npz`` into the folder `out`, the same bytes for the same results."""
    arrays: dict[str, Any] = raw_scores(results, out)
    with whole_file(out / "scores.npz") as file:
        np.savez_compressed(file, **arrays)


def raw_scores(results: Results, out: Path) -> dict[str, NDArray[Any]]:
    """Return the arrays of ``scores.npz``; see the module's docstring."""
    rows = list(_rows(results))
    widest = max(len(columns["score"]) for *_, columns in rows)
    groups = list(dict.fromkeys(whose for *_, whose, _, _ in rows))
    setting, method, draw, seed, whose, unsure, columns = zip(*rows, strict=True)
    found: dict[str, NDArray[Any]] = {
        "setting": np.array(setting),
        "method": np.array(method),
        "draw": np.array(draw, np.int64),
        "seed": np.array(seed, np.int64),
        "group": np.array([groups.index(one) for one in whose], np.int64),
    }
    scores = {}
    for name in COLUMNS:
        if any(name in one for one in columns):
            scores[name] = np.full((len(rows), widest), np.nan)
            for row, one in enumerate(columns):
                scores[name][row, : len(one.get(name, ()))] = one.get(name, ())
    every = np.unique(np.concatenate([column.ravel() for column in scores.values()]))
    values = np.append(every[~np.isnan(every)], np.nan)
    kind = np.uint16 if len(values) <= 1 << 16 else np.uint32
    found["values"] = values
    for name, column in scores.items():
        places = np.searchsorted(values[:-1], column)
        found[name] = np.where(np.isnan(column), len(values) - 1, places).astype(kind)
    found["unsure"] = np.zeros((len(rows), widest), bool)
    for row, users in enumerate(unsure):
        found["unsure"][row, users] = True
    counts = {one: len(scores["score"]) for one, scores in zip(whose, columns, strict=True)}
    digests = [user_digests(out, one) or [] for one in groups]
    for one, found_there in zip(groups, digests, strict=True):
        if len(found_there) not in (0, counts[one]):
            raise InvalidData(
                f"{out / 'users'} names {len(found_there)} users, and {counts[one]} were scored: "
                "delete the folder"
            )
    found["users"] = np.array([[*one, *[""] * (widest - len(one))] for one in digests])
    return found


def read_raw(path: Path) -> dict[str, NDArray[Any]]:
    """Read the arrays of a file that `write_raw` wrote, with indices of scores resolved.

    Raises
    ------
    InvalidData
        For a file that is none, is too large, or does not hold together.
    """
    try:
        with ZipFile(path) as file:
            if (size := sum(one.file_size for one in file.infolist())) > LARGEST:
                raise InvalidData(f"{path} holds {size:,} bytes, and {LARGEST:,} are read at most")
        with np.load(path, allow_pickle=False) as file:
            found = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise InvalidData(f"{path} holds no raw scores: {error}") from error
    try:
        return _checked(found)
    except (KeyError, IndexError, ValueError, TypeError) as error:
        raise InvalidData(f"{path} holds no raw scores: {error}") from error


def _checked(found: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    count, widest = found["score"].shape
    for name, kinds in (("setting", "U"), ("method", "U"), ("draw", "i"), ("group", "i")):
        if found[name].shape != (count,) or found[name].dtype.kind not in kinds:
            raise ValueError(f"{name} does not fit to {count} runs")
    values = found.get("values")
    for name in (column for column in COLUMNS if column in found):
        scores = found[name] if values is None else values[found[name]]
        inside = np.isnan(scores) | ((scores >= 0) & (scores <= 1))
        if scores.shape != (count, widest) or scores.dtype != np.float64 or not inside.all():
            raise ValueError(f"{name} is no table of scores between 0 and 1")
        found[name] = scores
    if not count or np.isnan(found["score"]).all(axis=1).any():
        raise ValueError("a run has no scores")
    return found


def raw_lines(raw: Mapping[str, NDArray[Any]], setting: str) -> Lines[Key]:
    """Return all lines of a setting, for means, differences and their intervals."""
    rows = np.flatnonzero(raw["setting"] == setting)
    lines: dict[Key, dict[int, list[NDArray[np.float64]]]] = {}
    for row in rows.tolist():
        users = ~np.isnan(raw["score"][row])
        for name in (column for column in COLUMNS if column in raw):
            scores = raw[name][row][users]
            if not np.isnan(scores).all():
                by_draw = lines.setdefault((str(raw["method"][row]), name), {})
                by_draw.setdefault(int(raw["draw"][row]), []).append(scores)
    alike = len(set(raw["group"][rows].tolist())) == 1
    return Lines(lines, shared_users=alike and len(set(raw["draw"][rows].tolist())) > 1)


_Raw = tuple[str, str, int, int, str, list[int], Mapping[str, list[float]]]


def _rows(results: Results) -> Iterator[_Raw]:
    """Setting, method, draw, seed, whose scores, ties and scores of each run and baseline."""
    for (name, draw), found in results.levels.items():
        for line in LEVELS:
            users = found["users"][line]
            scores = {"score": users["mean"], "first": users["first"], "last": users["last"]}
            yield name, line, draw, -1, found["whose"], [], scores
    for run, found in results.finished:
        yield (
            run.setting.name,
            run.method.label,
            run.draw,
            run.seed,
            found["whose"],
            found.get("unsure", []),
            run.per_user(found),
        )
