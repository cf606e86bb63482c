"""Jobs in parallel processes, each with one result file: runs of benches and studies.

A file is written atomically, and its existence alone marks a job as finished: after any
interruption, the same command continues with what is missing. The error of a failed job is saved in
``.failed.txt`` next to its place, until it is run again; so is the reason of a job that cannot be
done (`Refused`), in ``.refused.txt``.
"""

from __future__ import annotations

import multiprocessing
import reprlib
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rpp_agents.experiments.run_files import Kind, check_sizes, read_run, write_run
from rpp_env.data.folders import whole_file
from rpp_env.errors import InvalidData, InvalidOption
from rpp_env.interrupts import heed_interrupts, held_interrupts
from rpp_env.options import read_small
from rpp_env.table import follow_parent
from rpp_env.threads import one_thread

__all__ = [
    "Job",
    "Outcome",
    "Refused",
    "Work",
    "all_kept",
    "kept",
    "refusal",
    "run_jobs",
    "unfinished",
]

_LONGEST_REFUSAL = 4_000
"""Maximum bytes of a reason, which a report prints."""


class Job(Protocol):
    """A unit of work with one result file."""

    @property
    def name(self) -> str:
        """Name for the terminal."""
        ...

    @property
    def file(self) -> str:
        """Path of its result, relative to the output folder."""
        ...

    @property
    def asked(self) -> dict[str, Any]:
        """JSON-serialisable fingerprint of the job's inputs."""
        ...

    @property
    def defaults(self) -> dict[str, Any]:
        """Default values of its ``config``, JSON-serialisable."""
        ...

    @property
    def kind(self) -> Kind:
        """The schema of its file."""
        ...


J = TypeVar("J", bound=Job)
Work = Callable[[Any, Path], dict[str, Any]]
"""Computes a job's result from the job and the output folder; a module-level function."""


class Refused(Exception):
    """A job that cannot be done, with the reason: a method that cannot choose such prompts."""


def kept(job: Job, out: Path) -> dict[str, Any] | None:
    """Return the result of a finished job; None if it has not been run.

    Raises
    ------
    InvalidOption
        If it was run with other options.
    InvalidData
        If its file is damaged or invalid.
    """
    path = out / job.file
    found = read_run(path, job.kind)
    if found is None:
        return None
    # "overrides" of earlier versions repeats what "config" holds.
    before = {key: x for key, x in found["asked"].items() if key != "overrides"}
    differ = _differences(before, job.asked, {"config": job.defaults})
    if differ:
        raise InvalidOption(
            f"{job.name} was run with other options ({'; '.join(differ)}): give another --out, put "
            f"the options back, or delete {path}"
        )
    return found


def all_kept(jobs: Iterable[J], out: Path) -> list[tuple[J, dict[str, Any]]]:
    """Return the finished ones of these jobs with their results; raises as `kept`.

    Raises
    ------
    InvalidData
        If all files together are larger than a report can hold.
    """
    jobs = list(jobs)
    check_sizes([out / job.file for job in jobs], out)
    return [(job, found) for job in jobs if (found := kept(job, out)) is not None]


def unfinished(jobs: Iterable[J], out: Path) -> list[J]:
    """Return the jobs without a result, in order; raises as `kept`."""
    return [job for job in jobs if kept(job, out) is None]


def _differences(
    before: Mapping[str, Any], now: Mapping[str, Any], defaults: Mapping[str, Any], prefix: str = ""
) -> list[str]:
    found: list[str] = []
    for key in sorted({*before, *now}):
        usual = defaults.get(key)
        if prefix and key not in before and key in defaults and now[key] == usual:
            continue  # a field that is newer than the run: its default changes nothing
        old, new = before.get(key), now.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            inner = usual if isinstance(usual, Mapping) else {}
            found += _differences(old, new, inner, f"{prefix}{key}.")
        elif old != new:
            found.append(f"{prefix}{key} was {reprlib.repr(old)} and is {reprlib.repr(new)}")
    return found


@dataclass(frozen=True)
class Outcome:
    """Outcome of a job: its result, an error, or the reason why it cannot be done."""

    job: Any
    found: dict[str, Any] | None
    error: str = ""
    refusal: str = ""


def run_jobs(jobs: Sequence[J], out: Path, work: Work, *, processes: int = 1) -> Iterator[Outcome]:
    """Run these jobs and yield each one's outcome as it ends.

    Parameters
    ----------
    jobs : sequence of Job
    out : Path
        Output folder.
    work : callable
        Computes a job's result, which is saved together with the job's inputs.
    processes : int
        With one, jobs run in this process; with more, in that many others. A process that dies is
        replaced, and its job tried once more.
    """
    if processes < 1:
        raise InvalidOption(f"processes must be at least 1, not {processes}")
    if processes == 1:
        for job in jobs:
            yield _do(job, out, work)
        return
    waiting = deque(jobs)
    suspects: deque[J] = deque()
    while waiting or suspects:
        # A job whose process has died runs alone, so that it takes no other job with it again.
        queue, side_by_side = (suspects, 1) if suspects else (waiting, processes)
        alone = bool(suspects)
        with _pool(side_by_side) as pool:
            running: dict[Future[Outcome], J] = {}
            broken = False
            while running or (queue and not broken):
                while queue and not broken and len(running) < side_by_side:
                    job = queue.popleft()
                    with held_interrupts():  # this may start a worker
                        running[pool.submit(_do, job, out, work)] = job
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        yield future.result()
                    except BrokenProcessPool:
                        broken = True
                        if alone:
                            said = "its process died twice, killed from outside or out of memory\n"
                            yield _failed(job, out, said)
                        else:
                            suspects.append(job)


def _do(job: Job, out: Path, work: Work) -> Outcome:
    """Run a job and save its result; an error is part of the outcome."""
    try:
        if (done := kept(job, out)) is not None:  # finished by another command meanwhile
            return Outcome(job, done)
        # What a library made of an interrupt is not kept, and one process finds what several find.
        with heed_interrupts(), one_thread():
            found = work(job, out)
    except Refused as refused:
        _failure(job, out).unlink(missing_ok=True)
        with whole_file(_refusal(job, out)) as file:
            file.write(f"{refused}\n".encode())
        return Outcome(job, None, refusal=str(refused))
    except Exception:  # noqa: BLE001 - whatever it was, the other jobs continue
        return _failed(job, out, traceback.format_exc())
    found = {"asked": job.asked, **found}
    write_run(out / job.file, found)
    _failure(job, out).unlink(missing_ok=True)
    _refusal(job, out).unlink(missing_ok=True)
    return Outcome(job, found)


def refusal(job: Job, out: Path) -> str:
    """Return the reason why a job could not be done when it was last run; empty if it was not.

    Raises
    ------
    InvalidData
        For a file that is no such reason.
    """
    path = _refusal(job, out)
    try:
        return " ".join(read_small(path, _LONGEST_REFUSAL).decode().split())
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise InvalidData(f"{path} holds no reason ({error}): delete it") from error


def _refusal(job: Job, out: Path) -> Path:
    return (out / job.file).with_suffix(".refused.txt")


def _failure(job: Job, out: Path) -> Path:
    return (out / job.file).with_suffix(".failed.txt")


def _failed(job: Job, out: Path, error: str) -> Outcome:
    _refusal(job, out).unlink(missing_ok=True)
    with whole_file(_failure(job, out)) as file:
        file.write(error.encode())
    return Outcome(job, None, error)


@contextmanager
def _pool(processes: int) -> Iterator[ProcessPoolExecutor]:
    before = set(multiprocessing.active_children())
    with one_thread():
        pool = ProcessPoolExecutor(
            processes, mp_context=multiprocessing.get_context("spawn"), initializer=follow_parent
        )
        try:
            yield pool
        finally:
            # Every job has ended, or the bench was interrupted and need not wait for one. A pool
            # whose process was killed does not end one that it was just starting, and waits for it.
            for child in set(multiprocessing.active_children()) - before:
                child.terminate()
            pool.shutdown(cancel_futures=True)
