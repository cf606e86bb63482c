"""The raw scores of a folder in one compact file, from which all intervals follow.

``scores.npz`` is a NumPy archive without pickles. With N runs (a bench's level lines are runs too),
U the largest number of scored users and G groups of them:

===================  ================  =========================================================
array                shape, dtype      holds
===================  ================  =========================================================
``setting``          (N,) text         name of the setting or environment
``method``           (N,) text         label of the method; of a level line its name
``draw``, ``seed``   (N,) int64        world or draw of the candidates; training seed, -1 of lines
``score``            (N, U) float64    NDCG@10 of each user; NaN beyond the setting's users
``first``, ``last``  (N, U) float64    of an episode's first and last step or call
``merged``           (N, U) float64    of all calls merged (studies only)
``unsure``           (N, U) bool       whether the user's last item is a tie (studies only)
``group``            (N,) int64        row of ``users``
``users``            (G, U) text       digests of the users; empty where they were not kept
===================  ================  =========================================================

Rows of one group have the same users in the same order, so that differences pair by column. Users
are digests and numbers; ``docs/interval.py`` makes an interval from the file with NumPy alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rpp_agents.experiments.bench import LEVELS
from rpp_agents.experiments.results import Results
from rpp_agents.experiments.run import user_digests
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData

__all__ = ["raw_scores", "write_raw"]

_COLUMNS = ("score", "first", "last", "merged")


def write_raw(results: Results, out: Path) -> None:
    """Write ``scores.npz`` into the folder `out`, the same bytes for the same results."""
    arrays: dict[str, Any] = raw_scores(results, out)
    with whole_file(out / "scores.npz") as file:
        np.savez_compressed(file, **arrays)


def raw_scores(results: Results, out: Path) -> dict[str, NDArray[Any]]:
    """The arrays of ``scores.npz``, as the module's docstring has them."""
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
    for name in _COLUMNS:
        if any(name in one for one in columns):
            found[name] = np.full((len(rows), widest), np.nan)
            for row, one in enumerate(columns):
                found[name][row, : len(one.get(name, ()))] = one.get(name, ())
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


_Raw = tuple[str, str, int, int, str, list[int], Mapping[str, list[float]]]


def _rows(results: Results) -> Iterator[_Raw]:
    """Setting, method, draw, seed, whose scores, ties and scores of each run and level line."""
    for (name, draw), found in results.levels.items():
        for line in LEVELS:
            users = found["users"][line]
            scores = {"score": users["mean"], "first": users["first"], "last": users["last"]}
            yield name, line, draw, -1, found["whose"], [], scores
    for cell, found in results.cells:
        yield (
            cell.setting.name,
            cell.method.label,
            cell.draw,
            cell.seed,
            found["whose"],
            found.get("unsure", []),
            cell.per_user(found),
        )
