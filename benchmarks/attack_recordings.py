"""Forks, kills, openings, flipped bits and cuts of recordings; see `attack.py`."""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from attack_count import Count
from numpy.typing import NDArray

import rpp_env
from rpp_env.errors import RPPError
from rpp_env.models import Generation, RecordingModel, Reply, Request
from rpp_env.models.answer_file import AnswerFile

__all__ = ["flips", "forks", "kills", "opens", "truncations"]

FORKS, KILLS, OPENS, FLIPS, TRUNCATIONS = 100, 100, 150, 200, 60
PATIENCE = 60
"""Seconds after which a process counts as hanging, and is ended."""
WORLD: dict[str, Any] = {"num_users": 120, "num_items": 100, "max_users": 8, "num_envs": 8}


class Parrot:
    """A model that is fast, and whose answers are known."""

    id, context_length = "parrot", 4096
    capabilities: frozenset[str] = frozenset()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(f"said {request.messages[0]['content']}") for request in requests]


class Reports:
    """What processes were given, in a file that they append to."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def ask(self, recording: RecordingModel, name: str, count: int) -> None:
        for i in range(count):
            recording.complete([ask(f"{name} {i}")])
            os.write(self.number, f"{name} {i}\n".encode())

    def missing(self, path: Path) -> tuple[str, str]:
        """What was lost of it, and what is wrong, each in words."""
        texts = self.path.read_text().split("\n")[:-1]
        if not texts:
            return "", ""
        try:
            replies = RecordingModel(path).complete([ask(text) for text in texts])
        except RPPError as error:
            return f"of {len(texts)} answers: {error}", ""
        problems = "; ".join(AnswerFile(path, write=False).problems())
        other = sum(r.text != f"said {t}" for r, t in zip(replies, texts, strict=True))
        return problems, f"{other} answers are others" if other else ""

    def close(self) -> None:
        os.close(self.number)
        self.path.unlink()


def ask(text: str) -> Request:
    return Request(({"role": "user", "content": text},), Generation())


def forked(work: Callable[[], None]) -> int:
    """Do it in a child, which ends with 0 if all went well; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    signal.alarm(PATIENCE)
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - the child of an attack does not go on with the attack
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stderr.flush()
        os._exit(code)


def well(*children: int) -> bool:
    """Wait for all; whether none failed."""
    codes = [os.waitpid(child, 0)[1] for child in children]
    return not any(codes)


# ------------------------------------------------------------------------------ forks and kills


def forks(folder: Path) -> Count:
    """A process forks with an open recording, in five ways; all go on using it."""
    count = Count()
    for trial in range(FORKS):
        path, reports = folder / f"{trial}.sqlite", Reports(folder / "reports")
        fine = well(forked(lambda trial=trial, path=path, r=reports: _fork(trial, path, r)))
        lost, wrong = reports.missing(path)
        count.add(f"fork {trial}", lost=lost or ("" if fine else "a process failed"), wrong=wrong)
        reports.close()
    return count


def _fork(trial: int, path: Path, reports: Reports) -> None:
    rng = random.Random(trial)  # noqa: S311
    way = ("parent closes", "parent goes", "thread records", "child forks", "child closes")[
        trial % 5
    ]
    recordings = [RecordingModel(path, Parrot())]
    reports.ask(recordings[0], "before", 2)
    stop = threading.Event()

    def record() -> None:
        turn = 0
        while not stop.is_set():
            reports.ask(recordings[0], f"thread {turn}", 1)
            turn += 1

    thread = threading.Thread(target=record)
    if way == "thread records":
        thread.start()

    def child(name: str) -> None:
        inner = []
        if way == "child forks":
            inner.append(forked(lambda: reports.ask(recordings[0], f"inner {name}", 5)))
        if way == "child closes":
            recordings[0].close()
        reports.ask(recordings[0], f"child {name}", rng.randrange(1, 15))
        assert well(*inner)

    children = []
    for i in range(3):
        children.append(forked(lambda i=i: child(str(i))))
        reports.ask(recordings[0], f"parent {i}", rng.randrange(4))
    if way == "parent closes":
        recordings[0].close()
    if way == "parent goes":
        recordings.clear()
    stop.set()
    if way == "thread records":
        thread.join()
    assert well(*children)


def kills(folder: Path) -> Count:
    """Two writers of one recording and their forked children are killed at a random time."""
    count, path, reports = Count(), folder / "a.sqlite", Reports(folder / "reports")
    for trial in range(KILLS):
        rng = random.Random(trial)  # noqa: S311
        writers = []
        for writer in range(2):
            name = f"{trial}.{writer}"
            started = os.fork()
            if started == 0:
                os.setpgid(0, 0)
                _write(path, reports, name)
            os.setpgid(started, started)  # whichever of the two comes first
            writers.append(started)
        time.sleep(rng.uniform(0.02, 0.25))
        for process in writers:
            os.killpg(process, signal.SIGKILL)
            os.waitpid(process, 0)
        lost, wrong = reports.missing(path)
        count.add(f"kill {trial}", lost=lost, wrong=wrong)
    reports.close()
    return count


def _write(path: Path, reports: Reports, name: str) -> None:
    """Record until killed, in this process and in two children."""
    try:
        recording = RecordingModel(path, Parrot())
        reports.ask(recording, name, 1)
        for i in range(2):
            forked(lambda i=i: reports.ask(recording, f"{name}.{i}", 10_000))
        reports.ask(recording, f"{name} more", 10_000)
    finally:
        os._exit(1)


def opens(folder: Path) -> Count:
    """Six processes open a recording that is not there yet, at the same time."""
    count = Count()
    for trial in range(OPENS):
        path = folder / f"{trial}.sqlite"
        wait, go = os.pipe()

        def work(name: str, path: Path = path, wait: int = wait, go: int = go) -> None:
            os.close(go)
            os.read(wait, 1)  # ends when all have been started
            RecordingModel(path, Parrot()).complete([ask(name)])

        children = [forked(lambda i=i, work=work: work(str(i))) for i in range(6)]
        os.close(go)
        os.close(wait)
        fine = sum(map(well, children))
        kept = len(RecordingModel(path))
        lost = "" if fine == kept == 6 else f"{fine} of 6 succeeded, {kept} answers are kept"
        count.add(f"open {trial}", lost=lost)
    return count


# --------------------------------------------------------------------------------------- damage


def play(recording: RecordingModel) -> list[NDArray[Any]]:
    """Observations and rewards of an episode."""
    env = rpp_env.RPPEnv.make("movieworld", recording, **WORLD)
    try:
        seen = [np.array(env.reset(seed=0)[0])]
        rng = np.random.default_rng(0)
        for _ in range(env.max_cycles):
            step = env.step(np.stack([rng.integers(0, n, 8) for n in env.book.sizes], axis=1))
            seen += [np.array(step.observations), step.rewards]
        return seen
    finally:
        env.close()


def flips(folder: Path) -> Count:
    """One bit of the file is flipped: anywhere, and where something is written."""

    def damaged(data: bytes, rng: random.Random) -> bytes:
        used = [i for i, byte in enumerate(data) if byte]
        place = rng.choice(used) if rng.random() < 0.75 else rng.randrange(len(data))
        return data[:place] + bytes([data[place] ^ 1 << rng.randrange(8)]) + data[place + 1 :]

    return _damage(folder, FLIPS, damaged)


def truncations(folder: Path) -> Count:
    """The file ends too soon: anywhere, and between pages."""

    def damaged(data: bytes, rng: random.Random) -> bytes:
        end = rng.randrange(len(data))
        return data[: end - end % 4096] if rng.random() < 0.3 else data[:end]

    return _damage(folder, TRUNCATIONS, damaged)


def _damage(folder: Path, trials: int, damaged: Callable[[bytes, random.Random], bytes]) -> Count:
    """Replay a damaged recording, and compare; every second time a model is there to be asked."""
    whole, path, count = folder / "whole.sqlite", folder / "a.sqlite", Count()
    embedded = rpp_env.RPPEnv.make("movieworld", **WORLD).recommender.model
    truth = play(RecordingModel(whole, embedded))
    data = whole.read_bytes()
    for trial in range(trials):
        changed = damaged(data, random.Random(trial))  # noqa: S311
        path.write_bytes(changed)
        lost = wrong = ""
        try:
            recording = RecordingModel(path, embedded if trial % 2 else None)
            found = play(recording)
        except RPPError:
            pass  # noticed
        except Exception as error:  # noqa: BLE001 - a traceback is a result
            lost = f"{type(error).__name__}: {error}"
        else:
            if not all((one == other).all() for one, other in zip(found, truth, strict=True)):
                wrong = "another reward or observation"
            elif recording.asked and changed:  # an empty file is a new recording
                wrong = f"{recording.asked} answers were asked for again"
        count.add(f"trial {trial}", lost=lost, wrong=wrong)
        for end in ("-wal", "-shm", "-journal"):
            Path(f"{path}{end}").unlink(missing_ok=True)
    return count
