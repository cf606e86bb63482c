"""Reward tables: every prompt is answered once, then replayed at array speed.

`tabulate` sends a recommender every prompt that a prompt space can reach: one for each task and
each *cell* (prompt index) of the space's `shape`. Equal prompts are sent once. Under RPP's rules a
cell is a history length with a role, a reasoning and an output. A table keeps, per task and cell:

==================  ==================  ==========================================================
array               shape, dtype        holds
==================  ==================  ==========================================================
``orders``          (T, C, S, K) uint8  positions of the task's candidates, best first
``named``           (T, C, S) uint8     how many of them the recommender placed
``completion``      (T, C, S) uint16    tokens of the reply
``prompt``          (T, C) uint16       tokens of the prompt
``trimmed``         (T, C) uint8        history items that did not fit
``positions``       (T,) uint8          position of the target: a test table is an answer key
``keys``            (T,) uint64         digest of user, draw, history and candidates
==================  ==================  ==========================================================

Where the model samples, S answers are kept per prompt (`samples`); a replay takes them in turn. One
table of sentences serves all rules whose history lengths are among its own
(`RewardTable.for_space`). A file holds digests and positions, no titles and no sequences. Besides,
it holds its provenance as JSON, a SHA-256 of itself, and the embeddings of the items, so that a
replay has the observations of the live environment on every machine. Embeddings are fitted on the
dataset, and may not be passed on where the dataset may not: `RewardTable.portable` leaves them out.
Files may come from an untrusted source: nothing is unpickled, and every number is checked
on loading.
"""

from __future__ import annotations

import hashlib
import json
import math
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from multiprocessing.connection import wait
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

import numpy as np
from numpy.typing import NDArray

from rpp_env.data.arrays import read_arrays, write_arrays
from rpp_env.data.candidates import TaskBatch
from rpp_env.data.folders import alone, check_folder, drop_unfinished, whole_file
from rpp_env.embeddings import Embeddings
from rpp_env.errors import (
    InvalidData,
    InvalidOption,
    NotTabulated,
    RPPWarning,
    TableMismatch,
)
from rpp_env.interrupts import held_interrupts
from rpp_env.metrics import ndcg
from rpp_env.options import check_values
from rpp_env.prompting import COSTS, PromptSpace, Rankings, Recommender
from rpp_env.recommenders.base import rank_all

if TYPE_CHECKING:
    from rpp_env.core import RPPEnv
    from rpp_env.data.candidates import TaskSet
    from rpp_env.data.dataset import Dataset

__all__ = ["RewardTable", "tabulate"]

Ints = NDArray[np.int64]

_FORMAT = 1
_ANSWERS = ("orders", "named", "completion", "prompt", "trimmed")
_ARRAYS = {
    "orders": np.uint8,
    "named": np.uint8,
    "completion": np.uint16,
    "prompt": np.uint16,
    "trimmed": np.uint8,
    "positions": np.uint8,
    "keys": np.uint64,
}
_CHUNK = 8  # tasks per call: 12,600 prompts under RPP-v0


@dataclass(frozen=True, eq=False)
class RewardTable:
    """Recorded answers; see the module's table for the arrays.

    Attributes
    ----------
    sizes : tuple of int
        The prompt space's `shape`; for sentences the numbers of history lengths, roles, reasonings
        and outputs. C is their product.
    provenance : dict
        Digests of data and tasks, the description of the prompts (`PromptSpace.about`), the rules,
        the model's id and its options.
    embeddings : Embeddings, optional
        Embeddings of the environment that was tabulated; None: they are fitted on the dataset when
        the table is played.
    """

    orders: NDArray[np.uint8]
    named: NDArray[np.uint8]
    completion: NDArray[np.uint16]
    prompt: NDArray[np.uint16]
    trimmed: NDArray[np.uint8]
    positions: NDArray[np.uint8]
    keys: NDArray[np.uint64]
    sizes: tuple[int, ...]
    provenance: dict[str, Any]
    embeddings: Embeddings | None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def samples(self) -> int:
        """Answers per prompt (S)."""
        return int(self.orders.shape[2])

    @property
    def shown(self) -> tuple[int, ...]:
        """For sentences: the history lengths in the table."""
        return tuple(self.provenance.get("shown", ()))

    @property
    def reads_order(self) -> bool:
        """False if the order in which candidates are shown does not matter to its recommender."""
        return bool(self.provenance.get("reads_order", True))

    def for_space(self, space: PromptSpace[Any, Any]) -> RewardTable:
        """Return the same answers indexed by the cells of this prompt space: `RPPEnv.table`.

        Nothing is copied if the cells are the table's already. A history level is identified by the
        number of items that it shows, however it is reached.

        Raises
        ------
        TableMismatch
            If the space has prompts that are not in the table.
        """
        index = space.within(self.provenance)
        table = self
        if index is not None:
            assert space.shape is not None
            arrays = {name: getattr(self, name).take(index, axis=1) for name in _ANSWERS}
            about = json.loads(json.dumps(dict(space.about)))
            table = replace(
                self, **arrays, sizes=space.shape, provenance={**self.provenance, **about}
            )
        if table.sizes != space.shape:
            raise TableMismatch(
                f"the table has prompts of shape {table.sizes}, and the environment's have "
                f"{space.shape}"
            )
        return table

    def lookup(
        self, rows: Ints, cells: Ints, turn: Ints | None = None
    ) -> tuple[Rankings, NDArray[np.uint16]]:
        """Return answers for tasks `rows`, and the rank (B,) of each target (0: not named).

        Parameters
        ----------
        rows, cells : (B,) int64 arrays
            Cells of the table itself: use the table that `for_space` returns.
        turn : (B,) int64 array, optional
            Which of several recorded answers to take, modulo their number.
        """
        said = rows * self.named.shape[1] + cells
        if turn is not None:
            said = said * self.samples + turn % self.samples
        rank, named, *cost = self._numbers.take(said, axis=0).T
        cost_of = dict(zip(self._costs, cost, strict=True))
        return _Recorded(self._orders, said, named, cost_of), rank

    @cached_property
    def _orders(self) -> NDArray[np.uint8]:
        """(T * C * S, K) orders, next to `_numbers`."""
        return self.orders.reshape(-1, self.orders.shape[-1])

    @cached_property
    def _costs(self) -> tuple[str, ...]:
        """Costs in this table; `trimmed` only if some history items did not fit."""
        return COSTS if self.trimmed.any() else COSTS[1:]

    @cached_property
    def _numbers(self) -> NDArray[np.uint16]:
        """(T * C * S, ...) rank, named and `_costs` in one array: a replay looks up once."""
        columns = (
            *(self.ranks(), self.named),
            *((self.trimmed[..., None],) if "trimmed" in self._costs else ()),
            *(self.prompt[..., None], self.completion),
        )
        made = np.empty((*self.named.shape, len(columns)), dtype=np.uint16)
        for i, column in enumerate(columns):
            made[..., i] = column
        made.setflags(write=False)
        return made.reshape(-1, len(columns))

    def ranks(self) -> NDArray[np.uint8]:
        """(T, C, S) 1-based rank of the target; 0 where it was not named."""
        found = np.empty(self.named.shape, dtype=np.uint8)
        for start in range(0, len(self), 256):  # bounds the memory of the comparison
            part = slice(start, start + 256)
            at = (self.orders[part] == self.positions[part, None, None, None]).argmax(axis=-1)
            found[part] = np.where(at < self.named[part], at + 1, 0)
        return found

    def rewards(self, k: int = 10) -> NDArray[np.float32]:
        """``(T, *sizes)`` NDCG@k, the mean over the recorded answers.

        For sentences, sizes are levels, roles, reasonings and outputs.
        """
        by_rank = ndcg(np.arange(256), k).astype(np.float32)
        mean: NDArray[np.float32] = by_rank[self.ranks()].mean(axis=2)
        return mean.reshape(len(self), *self.sizes)

    def check(self, tasks: TaskSet, space: PromptSpace[Any, Any]) -> None:
        """Check that the table is of these tasks and prompts.

        Raises
        ------
        TableMismatch
            If the table answers other prompts than these.
        """
        self._check_questions(tasks)
        self.for_space(space)
        if len(tasks) != len(self) or (_keys(tasks) != self.keys).any():
            raise TableMismatch(
                f"the table's {len(self)} tasks are not the environment's {len(tasks)}: the users, "
                "the draws, the candidates or their order differ; choose the table's with "
                "`RewardTable.select`"
            )
        wrong = np.count_nonzero(tasks.position != self.positions)
        if wrong:
            raise TableMismatch(
                f"the targets of {wrong} of the {len(self)} tasks are not where the table has them"
            )
        items = tasks.dataset.num_items
        if self.embeddings is not None and len(self.embeddings.items) != items:
            raise TableMismatch(
                f"the table's embeddings are of {len(self.embeddings.items)} items, and the "
                f"dataset has {items}"
            )

    def _check_questions(self, tasks: TaskSet) -> None:
        expected = _questions(tasks)
        if "titles_digest" in self.provenance:  # `portable`
            del expected["dataset_digest"]
            expected["titles_digest"] = tasks.dataset.titles_digest
        for name, value in expected.items():
            if self.provenance.get(name) != value:
                raise TableMismatch(
                    f"the table was made with {name}={self.provenance.get(name)!r}, and the "
                    f"environment has {value!r}: make a table of this environment with "
                    "`rpp-env tabulate`, or give the table's own dataset and options"
                )

    def select(self, tasks: TaskSet) -> tuple[TaskSet, RewardTable]:
        """Return the tasks of `tasks` that the table holds, in their order, and their table.

        Raises
        ------
        TableMismatch
            If the table was made of another dataset or another number of candidates.
        NotTabulated
            If they have nothing in common, as with users of another split.
        """
        self._check_questions(tasks)
        row = {key: i for i, key in enumerate(self.keys.tolist())}
        keys = _keys(tasks).tolist()
        mine = [i for i, key in enumerate(keys) if key in row]
        if not mine:
            raise NotTabulated(
                f"none of the {len(tasks):,} tasks is in the table of {len(self):,}: it holds "
                "users of another split, or was made with other options. `rpp-env tabulate FOLDER "
                "--split train validation test` makes tables of all splits, and table:FOLDER "
                "replays each split from its own"
            )
        if self.provenance.get("dataset_digest") != tasks.dataset.digest:
            _warn(
                f"{tasks.dataset.name} is another copy here than the one that the table was made "
                f"of: {len(mine):,} of its {len(self):,} tasks are played, whose histories are "
                "the same"
            )
        rows = np.array([row[keys[i]] for i in mine])
        if len(mine) == len(self) == len(tasks) and (rows == np.arange(len(self))).all():
            return tasks, self
        return tasks.subset(mine), self.subset(rows)

    def subset(self, rows: Sequence[int] | Ints) -> RewardTable:
        """Return the table of these task rows alone, in this order."""
        index = np.asarray(rows, dtype=np.int64)
        arrays = {name: getattr(self, name)[index] for name in _ARRAYS}
        return RewardTable(
            **arrays, sizes=self.sizes, provenance=self.provenance, embeddings=self.embeddings
        )

    def portable(self, dataset: Dataset) -> RewardTable:
        """Return the answers of a model that reads nothing but prompts, for passing them on.

        The embeddings, which are counts, genres and words of titles in another form, are left out:
        whoever plays the table has the dataset, and fits them again. Of the dataset only the titles
        must be the same (`Dataset.titles_digest`). Copies of one dataset may differ in the order of
        some clicks; users whose history differs are left out with a warning.

        Parameters
        ----------
        dataset : Dataset
            The dataset that the table was made of.

        Returns
        -------
        RewardTable
            It holds digests, positions and numbers of tokens.

        Raises
        ------
        TableMismatch
            For another dataset.
        """
        if self.provenance.get("dataset_digest") != dataset.digest:
            raise TableMismatch(f"the table was made of another copy of {dataset.name} than this")
        titles = {"titles_digest": dataset.titles_digest, "embeddings": None}
        return replace(self, embeddings=None, provenance={**self.provenance, **titles})

    def save(self, path: str | Path) -> None:
        """Write one file with its digest, atomically.

        Raises
        ------
        WriteFailed
            If the file cannot be written.
        """
        arrays: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _ARRAYS}
        if self.embeddings is not None:
            arrays |= {f"embeddings_{k}": getattr(self.embeddings, k) for k in _EMBEDDINGS}
        arrays["sizes"] = np.array(self.sizes)
        arrays["provenance"] = _as_bytes(self.provenance)
        write_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | Path) -> RewardTable:
        """Read a table, and check every number in it.

        Files of versions before digests are read as well, with an `RPPWarning`.

        Raises
        ------
        TableMismatch
            If the file is missing, damaged or not a table, or if it holds values that no
            recommender can have answered.
        """
        path = Path(path)
        if not path.is_file():
            raise TableMismatch(f"no table at {path}: make one with `rpp-env tabulate`")
        try:
            kept, proven = read_arrays(path)
            table = cls._from_arrays(kept)
        except (InvalidData, ValueError) as error:
            reason = str(error).removeprefix(f"{path} ")
            raise TableMismatch(
                f"{path} is not a reward table that can be used ({reason}): delete it and make it "
                "again with `rpp-env tabulate`"
            ) from error
        if not proven:
            _warn(
                f"{path} has no digest: every number was checked for its range, but damage within "
                "the range goes unnoticed; `RewardTable.load(path).save(path)` adds a digest"
            )
        return table

    @classmethod
    def _from_arrays(cls, kept: dict[str, NDArray[Any]]) -> RewardTable:
        """Make a table from the arrays that `save` wrote; ValueError for anything else."""
        names = {*_ARRAYS, "sizes", "provenance"}
        fitted = {f"embeddings_{name}" for name in _EMBEDDINGS}
        if kept.keys() & fitted:
            names |= fitted
        if kept.keys() != names:
            differ = sorted(kept.keys() ^ names)
            raise ValueError(f"its arrays are not a table's: {', '.join(differ)}")
        provenance = _from_bytes(kept.pop("provenance"))
        if provenance.get("format") != _FORMAT:
            raise ValueError(
                f"it has format {provenance.get('format')!r}, and this version reads {_FORMAT}"
            )
        if str(provenance.get("rank_by")).startswith("likelihood"):  # made before this was noted
            provenance.setdefault("reads_order", False)
        sizes, shown = kept.pop("sizes"), provenance.get("shown")
        fits = sizes.ndim == 1 and 0 < sizes.size <= _MOST_AXES and sizes.dtype == np.int64
        if not fits or not (sizes > 0).all():
            raise ValueError(
                "its sizes are not four numbers from 1, or as many as its prompts have"
            )
        if "shown" in provenance:  # a table of sentences
            if len(sizes) != 4:
                raise ValueError("its sizes are not four numbers from 1")
            if not _are_numbers(shown) or len(shown) != sizes[0]:
                raise ValueError(f"{sizes[0]} levels, but items shown are {shown}")
        tasks = kept["keys"].size
        counts = [provenance.get("samples"), provenance.get("num_candidates")]
        if not _are_numbers(counts) or not tasks:
            raise ValueError(
                f"it holds {counts[0]} answers about {counts[1]} candidates for {tasks} tasks"
            )
        embeddings, digest = None, None
        if kept.keys() & fitted:
            embeddings = Embeddings(*(kept.pop(f"embeddings_{name}") for name in _EMBEDDINGS))
            _check_embeddings(embeddings)
            digest = embeddings.digest
        if provenance.get("embeddings") != digest:
            raise ValueError("its embeddings do not match the digest that it names")
        _check_answers(kept, tasks, sizes.tolist(), shown, *counts)
        return cls(
            **kept,
            sizes=tuple(sizes.tolist()),
            provenance=provenance,
            embeddings=embeddings,
        )


_MOST_AXES = 64
"""Maximum number of axes of an array."""
_EMBEDDINGS = ("items", "content", "popularity")


class _Recorded(Rankings):
    """Rankings from a table; their orders are looked up when they are first read.

    A policy that reads rewards alone then does without a random access to memory per user.
    """

    def __init__(
        self,
        orders: NDArray[np.uint8],
        said: Ints,
        named: NDArray[np.uint16],
        cost: Mapping[str, NDArray[np.uint16]],
    ) -> None:
        vars(self).update(named=named, cost=cost, texts=None, _orders=orders, _said=said)

    def __len__(self) -> int:
        return len(self.named)

    @cached_property
    def order(self) -> NDArray[np.uint8]:
        """See `Rankings`."""
        orders: NDArray[np.uint8] = vars(self)["_orders"].take(vars(self)["_said"], axis=0)
        return orders


def _are_numbers(given: Any) -> TypeGuard[list[int]]:
    """Whether a value is a list of whole numbers from 1."""
    return isinstance(given, list) and all(
        isinstance(number, int) and not isinstance(number, bool) and 0 < number < 1 << 31
        for number in given
    )


def _check_embeddings(embeddings: Embeddings) -> None:
    for name in _EMBEDDINGS:
        array = getattr(embeddings, name)
        wanted = 1 if name == "popularity" else 2
        if array.dtype.kind != "f" or array.ndim != wanted or 0 in array.shape:
            raise ValueError(f"the embeddings' {name} are {array.dtype} of shape {array.shape}")
        if len(array) != len(embeddings.items):
            raise ValueError(f"the embeddings' {name} are of {len(array)} items")
        if not np.isfinite(array).all():
            raise ValueError(f"the embeddings' {name} are not all finite")


def _check_answers(
    arrays: Mapping[str, NDArray[Any]],
    tasks: int,
    sizes: Sequence[int],
    shown: Sequence[int] | None,
    samples: int,
    candidates: int,
) -> None:
    """Raise ValueError for values that no recommender can have answered about these tasks."""
    cells = math.prod(sizes)
    shapes = {
        "orders": (tasks, cells, samples, candidates),
        "named": (tasks, cells, samples),
        "completion": (tasks, cells, samples),
        "prompt": (tasks, cells),
        "trimmed": (tasks, cells),
        "positions": (tasks,),
        "keys": (tasks,),
    }
    for name, array in arrays.items():
        if array.dtype != _ARRAYS[name] or array.shape != shapes[name]:
            raise ValueError(
                f"its {name} are {array.dtype} of shape {array.shape}, and must be "
                f"{np.dtype(_ARRAYS[name])} of shape {shapes[name]}"
            )
    if not _permutations(arrays["orders"]):
        raise ValueError("its orders are not all permutations of the candidates")
    if arrays["named"].max() > candidates:
        raise ValueError(f"it holds answers that name more than {candidates} candidates")
    if shown is not None:
        by_level = arrays["trimmed"].reshape(tasks, len(shown), -1).max(axis=(0, 2))
        if (by_level > np.array(shown)).any():
            raise ValueError("it holds prompts that lost more history items than were shown")
    if "positions" in arrays and arrays["positions"].max() >= candidates:
        raise ValueError("it holds targets outside of the candidates")


def _permutations(orders: NDArray[np.uint8]) -> bool:
    """Whether every row (the last axis) is a permutation of 0 to K - 1."""
    rows = orders.reshape(-1, orders.shape[-1])
    for start in range(0, len(rows), 1 << 13):  # bounds the memory
        part = rows[start : start + (1 << 13)]
        for low in range(0, rows.shape[1], 32):
            # One bit per number; numbers outside of this word are shifted out of it.
            bits = np.left_shift(np.uint32(1), part - np.uint8(low), dtype=np.uint32)
            wanted = (1 << min(32, rows.shape[1] - low)) - 1
            if (np.bitwise_or.reduce(bits, axis=1) != wanted).any():
                return False
    return True


def tabulate(
    env: RPPEnv,
    path: str | Path | None = None,
    *,
    rows: Sequence[int] | None = None,
    shown: Sequence[int] | None = None,
    samples: int = 1,
    processes: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> RewardTable:
    """Ask the recommender every prompt that the environment's prompt space can reach.

    Parameters
    ----------
    env : RPPEnv
        An environment with a recommender, without rewriting, that keeps the candidates' order.
    path : str or Path, optional
        Where to write the table. Finished parts are kept in ``PATH.parts`` meanwhile, so that an
        interrupted call can be resumed.
    rows : sequence of int, optional
        Task rows; all by default.
    shown : sequence of int, optional
        For prompts of sentences: history lengths to ask for, so that one table serves several
        rules; they must include those of the environment's rules, which are the default.
    samples : int
        Answers per prompt, for models that sample.
    processes : int
        Worker processes, for recommenders that compute locally (a server is called from one).
    progress : callable, optional
        Called with (tasks done, tasks in all).

    Returns
    -------
    RewardTable
        Its tasks are `rows`, in that order.

    Raises
    ------
    InvalidOption
        For an environment that a table cannot replace.
    TableMismatch
        If `path` or its parts hold another environment's answers.
    """
    if env.recommender is None:
        raise InvalidOption("this environment already replays a table: give one with a recommender")
    if env.rewrite is not None:
        raise InvalidOption("rewritten prompts depend on more than the actions: leave out rewrite=")
    env.episode.check_table(
        "tabulate an id whose episodes have one task in one order, such as RPP-v0, or PPR-v0 with "
        "shots=k for each number of clicks"
    )
    if env.space.shape is None:
        raise InvalidOption(
            f"{type(env.space).__name__} has infinitely many prompts, and a table holds every one: "
            "give a prompt space with a shape, such as one whose agents choose from a codebook"
        )
    counts = {"samples": samples, "processes": processes}
    check_values(dict.fromkeys(counts, int), counts)
    if samples < 1 or processes < 1:
        raise InvalidOption(f"samples and processes must be at least 1, not {samples}, {processes}")
    if processes > 1:
        _check_main()
    space = env.space if shown is None else _showing(env, shown)
    every = np.arange(len(env.tasks))
    chosen = every if rows is None else every[np.asarray(rows)]
    tasks = env.tasks if rows is None else env.tasks.subset(chosen)
    provenance = _provenance(env, tasks, space, samples)
    job = _Job(env.tasks, chosen, space, env.recommender, samples)
    if path is None:
        answers = job.ask(None, processes, progress)
        return _table(tasks, answers, job, provenance, env.embeddings)
    path = Path(path)
    if path.exists():
        return _finished(path, provenance)
    with alone(path, wait=True):
        if path.exists():  # written by the process that held the lock
            return _finished(path, provenance)
        drop_unfinished(path)
        parts = _Parts(Path(f"{path}.parts"), provenance, _keys(tasks), job)
        check_folder(parts.folder, itself=True)
        parts.begin()
        answers = job.ask(parts, processes, progress)
        table = _table(tasks, answers, job, provenance, env.embeddings)
        table.save(path)
        parts.end()
    return table


def _check_main() -> None:
    """Raise if called while a worker process is importing the main script.

    Each worker imports the main script. Without a guard it would get here again, and wait for the
    lock of the table that its parent expects it to make.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise InvalidOption(
            "each worker process runs this script again: put its work under "
            '`if __name__ == "__main__":`, or use processes=1'
        )


def _finished(path: Path, provenance: dict[str, Any]) -> RewardTable:
    """Return the finished table at this path."""
    table = RewardTable.load(path)
    if table.provenance != provenance:
        raise TableMismatch(f"{path} holds other answers: choose another path or delete it")
    shutil.rmtree(f"{path}.parts", ignore_errors=True)  # left by a call that was killed
    return table


def _table(
    tasks: TaskSet,
    answers: Mapping[str, NDArray[Any]],
    job: _Job,
    provenance: dict[str, Any],
    embeddings: Embeddings,
) -> RewardTable:
    return RewardTable(
        **answers,
        positions=tasks.position.astype(np.uint8),
        keys=_keys(tasks),
        sizes=job.space.shape or (),
        provenance=provenance,
        embeddings=embeddings,
    )


@dataclass(frozen=True)
class _Job:
    """Work of a worker process: a range of tasks to tabulate."""

    tasks: TaskSet
    rows: Ints
    space: PromptSpace[Any, Any]
    recommender: Recommender[Any]
    samples: int

    def ask(
        self,
        parts: _Parts | None,
        processes: int,
        progress: Callable[[int, int], None] | None,
    ) -> dict[str, NDArray[Any]]:
        """Return the arrays of all tasks; finished parts are not asked again."""
        total = len(self.rows)
        chunks = [range(s, min(s + _CHUNK, total)) for s in range(0, total, _CHUNK)]
        made: dict[int, dict[str, NDArray[Any]]] = {}
        if parts is not None:
            made = {i: kept for i, rows in enumerate(chunks) if (kept := parts.load(i, rows))}
        done = sum(len(chunks[i]) for i in made)
        if progress is not None:
            progress(done, total)
        left = {i: rows for i, rows in enumerate(chunks) if i not in made}
        for i, answers in _work(self, left, processes):
            if parts is not None:
                parts.save(i, chunks[i], answers)
            made[i] = answers
            done += len(chunks[i])
            if progress is not None:
                progress(done, total)
        return {
            name: np.concatenate([made[i][name] for i in range(len(chunks))]) for name in _ANSWERS
        }

    def run(self, numbers: Sequence[int]) -> dict[str, NDArray[Any]]:
        """Return the arrays of these tasks, given by their indices in `rows`."""
        rows = self.rows[np.asarray(numbers)]
        every = np.arange(math.prod(self.space.shape or ()))
        some = np.tile(every, len(rows)), np.repeat(rows, len(every))
        alike = self.space.alike(*some).reshape(len(rows), -1)
        asked = [np.unique(cells) for cells in alike]  # equal prompts once
        cells, who = np.concatenate(asked), np.repeat(rows, list(map(len, asked)))
        starts = np.cumsum([0, *map(len, asked[:-1])])
        where = np.stack(
            [
                start + np.searchsorted(own, first)
                for start, own, first in zip(starts, asked, alike, strict=True)
            ]
        )
        prompts = self.space.prompts(self.space.at(cells, who), TaskBatch(self.tasks, who), who)
        K = self.tasks.num_candidates
        answers = [rank_all(self.recommender, prompts, K, len(cells)) for _ in range(self.samples)]
        orders = np.stack([said.order.astype(np.uint8) for said in answers], axis=1)
        names = ("completion_tokens", "prompt_tokens", "trimmed")
        numbers_of = np.stack(
            [np.stack([said.named, *map(said.spent, names)], axis=1) for said in answers], axis=1
        )
        if not 0 <= numbers_of.min() <= numbers_of.max() < 1 << 16:
            raise InvalidOption(
                "a table keeps 0 to 65,535 tokens per text, not "
                f"{numbers_of.min()} to {numbers_of.max()}"
            )
        named, completion, prompt, trimmed = numbers_of[where].transpose(3, 0, 1, 2)
        return {
            "orders": orders[where],
            "named": named.astype(np.uint8),
            "completion": completion.astype(np.uint16),
            "prompt": prompt[..., 0].astype(np.uint16),
            "trimmed": trimmed[..., 0].astype(np.uint8),
        }


def _work(
    job: _Job, chunks: Mapping[int, Sequence[int]], processes: int
) -> Iterator[tuple[int, dict[str, NDArray[Any]]]]:
    """Yield the arrays of every chunk as they are finished, by this many processes."""
    if processes == 1 or len(chunks) < 2:
        for i, rows in chunks.items():
            yield i, job.run(rows)
        return
    # The job is not an argument of the process: one that dies while it is started, in a script
    # without a guard, would leave us writing into its pipe for ever. A queue writes in a thread.
    context = multiprocessing.get_context("spawn")
    handed: multiprocessing.Queue[bytes] = context.Queue()
    handed.cancel_join_thread()
    content = pickle.dumps(job)
    for _ in range(processes):
        handed.put(content)
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_begin, initargs=(handed,)
    ) as pool:
        try:
            with held_interrupts():  # this starts the workers
                running = {pool.submit(_run, rows): i for i, rows in chunks.items()}
            for future in as_completed(running):
                yield running[future], future.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


_job: _Job | None = None  # the job of this worker process


def _begin(handed: multiprocessing.Queue[bytes]) -> None:
    global _job  # noqa: PLW0603 - a pool's initializer has no other place to leave it
    follow_parent()
    _job = pickle.loads(handed.get())  # noqa: S301 - our parent's


def follow_parent() -> None:
    """Set up a worker: it ignores Ctrl-C, which its parent handles, and ends with its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _run(rows: Sequence[int]) -> dict[str, NDArray[Any]]:
    assert _job is not None
    return _job.run(rows)


def _showing(env: RPPEnv, shown: Sequence[int]) -> PromptSpace[Any, Any]:
    """Return the environment's prompt space with other history lengths."""
    showing = getattr(env.space, "showing", None)
    if showing is None:
        raise InvalidOption(
            f"shown={list(shown)} is for prompts of sentences, but the environment's are of "
            f"{type(env.space).__name__}: leave it out"
        )
    space: PromptSpace[Any, Any] = showing(shown, env.tasks)
    return space


def _questions(tasks: TaskSet) -> dict[str, Any]:
    """Return what determines a table's answers besides the prompts and the tasks."""
    return {
        "dataset": tasks.dataset.name,
        "dataset_digest": tasks.dataset.digest,
        "num_candidates": tasks.num_candidates,
    }


def _provenance(
    env: RPPEnv, tasks: TaskSet, space: PromptSpace[Any, Any], samples: int
) -> dict[str, Any]:
    model = getattr(env.recommender, "model", None)
    generation = getattr(env.recommender, "generation", None)
    provenance = {
        "format": _FORMAT,
        **_questions(tasks),
        **space.about,
        "tasks": len(tasks),
        "tasks_digest": hashlib.sha256(_keys(tasks).tobytes()).hexdigest(),
        "rules": env.episode.id,
        "model": getattr(model, "id", None) or type(env.recommender).__name__,
        "rank_by": getattr(env.recommender, "rank_by", None),
        "generation": None if generation is None else asdict(generation),
        "samples": samples,
        "embeddings": env.embeddings.digest,
    }
    if digest := getattr(env.recommender, "digest", None):  # weights of a SASRec
        provenance["recommender"] = digest
    if thinking := getattr(env.recommender, "thinking", ()):  # affects how replies are parsed
        provenance["thinking"] = thinking
    if not getattr(env.recommender, "reads_order", True):
        provenance["reads_order"] = False
    # Through JSON, so that it compares equal to the provenance read from a file.
    plain: dict[str, Any] = json.loads(json.dumps(provenance))
    return plain


def _keys(tasks: TaskSet) -> NDArray[np.uint64]:
    """(T,) a digest per task of its user, draw, history and candidates in their order."""
    tokens = tasks.dataset.user_tokens
    keys = np.empty(len(tasks), dtype=np.uint64)
    for i, (user, draw) in enumerate(zip(tasks.users.tolist(), tasks.draw.tolist(), strict=True)):
        hashed = hashlib.blake2b(f"{tokens[user]}\x1f{draw}\x1f".encode(), digest_size=8)
        hashed.update(tasks.history(i).astype("<i4").tobytes())
        hashed.update(tasks.candidates[i].astype("<i4").tobytes())
        keys[i] = int.from_bytes(hashed.digest(), "little")
    return keys


@dataclass(frozen=True)
class _Parts:
    """The folder of finished parts next to a table that is being made.

    A part holds the answers about some tasks, the keys of these tasks, and a digest of the
    provenance, so that it can be identified wherever it is.
    """

    folder: Path
    provenance: dict[str, Any]
    keys: NDArray[np.uint64]
    job: _Job

    @property
    def _note(self) -> Path:
        return self.folder / "provenance.json"

    @property
    def _table(self) -> NDArray[np.uint8]:
        """Array that identifies the table that a part belongs to."""
        sha = hashlib.sha256(json.dumps(self.provenance, sort_keys=True).encode())
        return np.frombuffer(sha.digest(), np.uint8)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"

    def begin(self) -> None:
        """Create the folder or resume it; `TableMismatch` if it belongs to another table."""
        other = TableMismatch(
            f"{self.folder} holds parts of another table: choose another path or delete that folder"
        )
        if self._note.is_file():
            try:
                noted = _from_bytes(np.frombuffer(self._note.read_bytes(), np.uint8))
            except ValueError as error:
                # The parts themselves say what they are.
                if any(map(self._is_anothers, sorted(self.folder.glob("*.npz")))):
                    raise other from None
                _warn(f"{self._note} is damaged ({error}) and written again")
            else:
                if noted != self.provenance:
                    raise other
                return
        with whole_file(self._note) as file:
            file.write(json.dumps(self.provenance, indent=1).encode())

    def _is_anothers(self, path: Path) -> bool:
        try:
            kept, proven = read_arrays(path)
        except InvalidData:
            return False
        return proven and not np.array_equal(kept.get("table", []), self._table)

    def load(self, number: int, rows: range) -> dict[str, NDArray[Any]] | None:
        """Return the answers of a finished part; None if it is missing or unusable."""
        path = self._file(number)
        if not path.is_file():
            return None
        try:
            kept, proven = read_arrays(path)
            self._check(kept, proven, rows)
        except (InvalidData, ValueError) as error:
            reason = str(error).removeprefix(f"{path} ")
            _warn(f"{path} cannot be used ({reason}): its tasks are asked again")
            return None
        if not proven:
            _warn(f"{path} has no digest: its numbers were checked where possible, and are used")
        return {name: kept[name] for name in _ANSWERS}

    def _check(self, kept: dict[str, NDArray[Any]], proven: bool, rows: range) -> None:
        """Raise ValueError for a part that does not belong to this table."""
        about = self._about(rows)
        # Parts of versions before digests hold the answers alone.
        if proven or kept.keys() != set(_ANSWERS):
            if kept.keys() != {*_ANSWERS, *about}:
                raise ValueError("its arrays are not those of a part")
            if not np.array_equal(kept["table"], about["table"]):
                raise ValueError("it is a part of another table")
            if not np.array_equal(kept["keys"], about["keys"]):
                raise ValueError("its answers are about other tasks")
        _check_answers(
            {name: kept[name] for name in _ANSWERS},
            len(rows),
            self.job.space.shape or (),
            self.provenance.get("shown"),
            self.job.samples,
            self.job.tasks.num_candidates,
        )

    def save(self, number: int, rows: range, answers: Mapping[str, NDArray[Any]]) -> None:
        """Save the answers about some tasks."""
        write_arrays(self._file(number), {**answers, **self._about(rows)})

    def _about(self, rows: range) -> dict[str, NDArray[Any]]:
        """Return what identifies a part besides its answers."""
        return {"keys": self.keys[rows], "table": self._table}

    def end(self) -> None:
        """Delete the folder once the table has been written."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _warn(message: str) -> None:
    warnings.warn(message, RPPWarning, stacklevel=3)


def _as_bytes(value: dict[str, Any]) -> NDArray[np.uint8]:
    return np.frombuffer(json.dumps(value).encode(), dtype=np.uint8)


def _from_bytes(content: NDArray[Any]) -> dict[str, Any]:
    """Decode what `_as_bytes` or a note wrote; ValueError for anything else."""
    try:
        value = json.loads(content.tobytes())
    except RecursionError as error:
        raise ValueError("its provenance is nested too deeply") from error
    if not isinstance(value, dict):
        raise ValueError(f"its provenance is {str(value)[:40]!r}")  # noqa: TRY004 - of a file
    return value
