"""Forks, kills, threads, simultaneous starts: every returned answer is in the file."""

from __future__ import annotations

import copy
import ctypes
import gc
import itertools
import multiprocessing
import os
import pickle
import random
import signal
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import pytest

import rpp_env
from rpp_env.errors import RecordingFailed
from rpp_env.models import Generation, RecordingModel, Reply, Request
from rpp_env.rewriting import LLMRewriter

SMALL: dict[str, Any] = {"num_users": 120, "num_items": 100, "max_users": 2}


class Parrot:
    """Says again what it is asked; can be pickled."""

    id, context_length = "parrot", 4096
    capabilities: frozenset[str] = frozenset()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        return [Reply(f"said {request.messages[0]['content']}") for request in requests]


def ask(text: str) -> Request:
    return Request(({"role": "user", "content": text},), Generation())


class Reports:
    """What was handed out, by any number of processes: they append to one file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.number = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)

    def ask(self, recording: RecordingModel, texts: Sequence[str]) -> None:
        for text in texts:
            (reply,) = recording.complete([ask(text)])
            assert reply.text == f"said {text}"
            os.write(self.number, f"{text}\n".encode())

    def count(self) -> int:
        return self.path.read_bytes().count(b"\n")

    def check(self, path: Path) -> int:
        """All of it is in the recording, whole, and nothing else."""
        os.close(self.number)
        handed_out = self.path.read_text().split("\n")[:-1]
        replay = RecordingModel(path)
        replies = replay.complete([ask(text) for text in handed_out])
        assert [reply.text for reply in replies] == [f"said {text}" for text in handed_out]
        assert len(replay) == len(set(handed_out))
        assert list(replay._file.problems()) == []
        replay.close()
        assert sorted(path.parent.glob(f"{path.name}-*")) == []
        return len(handed_out)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a.sqlite"


@pytest.fixture
def reports(tmp_path: Path) -> Reports:
    return Reports(tmp_path / "reports")


def open_files(path: Path) -> int:
    """How many descriptors this process has of a recording."""
    count = 0
    for number in Path("/proc/self/fd").iterdir():
        try:
            count += str(number.readlink()).startswith(str(path))
        except OSError:
            continue
    return count


def forked(work: Callable[[], None]) -> int:
    """Do something in a child; its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001 - a child of a test must not go on with the test
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(code)


def ended_well(*children: int) -> bool:
    return all(os.waitpid(child, 0)[1] == 0 for child in children)


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
pytestmark = [needs_fork, pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")]


@pytest.mark.parametrize("parent", ["closes first", "is collected first", "goes on"])
def test_a_child_opens_the_file_for_itself(path: Path, reports: Reports, parent: str) -> None:
    recordings = [RecordingModel(path, Parrot())]
    reports.ask(recordings[0], ["before"])
    wait, go = os.pipe()

    def work() -> None:
        assert open_files(path) == 0  # nothing is inherited
        os.read(wait, 1)
        reports.ask(recordings[0], [f"child {i}" for i in range(20)])
        inner = forked(lambda: reports.ask(recordings[0], [f"inner {i}" for i in range(20)]))
        recordings[0].close()
        reports.ask(recordings[0], ["again"])
        assert ended_well(inner)

    children = [forked(work)]
    if parent == "closes first":
        recordings[0].close()
    elif parent == "is collected first":
        recordings.clear()
        gc.collect()
    else:
        reports.ask(recordings[0], [f"parent {i}" for i in range(20)])
    os.write(go, b"x")
    assert ended_well(*children)
    if recordings:
        assert open_files(path) == (3 if parent == "goes on" else 0)
        recordings[0].close()
    reports.check(path)


def test_children_fork_while_threads_record(path: Path, reports: Reports) -> None:
    recording = RecordingModel(path, Parrot())
    stop = threading.Event()
    wrong: list[BaseException] = []

    def work(name: str) -> None:
        try:
            for i in itertools.count():
                reports.ask(recording, [f"{name} {i}"])
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - asserted below
            wrong.append(error)

    def fork_a_few() -> None:
        children = [
            forked(lambda i=i: reports.ask(recording, [f"child {i}.{n}" for n in range(5)]))
            for i in range(4)
        ]
        assert ended_well(*children)

    threads = [threading.Thread(target=work, args=(f"thread {i}",)) for i in range(2)]
    forking = threading.Thread(target=fork_a_few)
    for thread in (*threads, forking):
        thread.start()
    forking.join()
    stop.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    recording.close()
    assert reports.check(path) >= 22


def test_a_fork_in_the_middle_of_a_transaction(path: Path, reports: Reports) -> None:
    """The handler of a signal forks, and the child goes on where its parent was."""
    recording = RecordingModel(path, Parrot())
    parent, children, in_the_middle = os.getpid(), list[int](), [0]

    def fork(number: int, frame: Any) -> None:
        if os.getpid() != parent:
            return
        # A slow fork must not be interrupted by the next one: libraries hold locks while they fork.
        signal.setitimer(signal.ITIMER_REAL, 0)
        while frame is not None:
            in_the_middle[0] += frame.f_code.co_name == "_do"
            frame = frame.f_back
        if child := os.fork():
            children.append(child)

    before = signal.signal(signal.SIGALRM, fork)
    code = 1
    try:
        for i in range(10_000):
            reports.ask(recording, [f"{os.getpid()} {i}"])
            if os.getpid() != parent:
                code = 0
                break
            if i % 10 == 0:
                signal.setitimer(signal.ITIMER_REAL, random.Random(i).uniform(0.001, 0.02))  # noqa: S311
            if in_the_middle[0] >= 10:
                break
    finally:
        if os.getpid() != parent:
            os._exit(code)
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert in_the_middle[0] >= 10
    assert ended_well(*children)
    recording.close()
    os.close(reports.number)
    said = set(reports.path.read_text().split())
    assert said
    replay = RecordingModel(path)
    lines = sorted(set(reports.path.read_text().split("\n")[:-1]))
    assert len(replay.complete([ask(line) for line in lines])) == len(replay)
    assert list(replay._file.problems()) == []


def test_a_fork_while_rows_are_read(path: Path) -> None:
    """A statement that is not read to its end would keep the file open."""
    recording = RecordingModel(path, Parrot())
    recording.complete([ask(str(i)) for i in range(100)])
    children: list[int] = []

    def read(cursor: Any) -> list[Any]:
        rows = cursor.execute("SELECT key FROM answers")
        first = rows.fetchone()
        if not children:
            children.append(forked(lambda: None) if open_files(path) == 3 else -1)
            assert open_files(path) == 0
        return [first, *rows.fetchall()]

    assert len(recording._file._do(read)) == 100
    assert ended_well(*children)
    assert open_files(path) == 3


def test_a_fork_behind_pythons_back_is_refused(path: Path) -> None:
    """C code that forks calls no handler: the child must not even close what it inherited."""
    # In a single-threaded process: locks of other threads would never be released after a fork.
    process = multiprocessing.get_context("spawn").Process(target=fork_in_c, args=(path,))
    process.start()
    process.join(100)
    assert process.exitcode == 0


def fork_in_c(path: Path) -> None:
    recording = RecordingModel(path, Parrot())
    recording.complete([ask("a")])
    fork = ctypes.CDLL(None).fork
    fork.restype = ctypes.c_int
    child = fork()
    if child == 0:
        code = 0
        for use in (
            lambda: recording.complete([ask("b")]),
            lambda: RecordingModel(path, Parrot()),
            lambda: RecordingModel(path.with_name("other"), Parrot()),
        ):
            try:
                use()
            except RecordingFailed as error:
                code += "forked without Python's knowledge" not in str(error)
            else:
                code += 1
        recording.close()
        del recording
        gc.collect()
        code += open_files(path) != 3  # closing them would undo what the parent writes
        os._exit(code)
    assert ended_well(child)
    assert open_files(path) == 3
    recording.complete([ask("c")])
    recording.close()
    assert len(RecordingModel(path)) == 2


def record(recording: Any, name: str) -> None:
    for i in range(5):
        recording.complete([ask(f"{name} {i}")])


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_all_ways_to_start_processes(path: Path, method: str) -> None:
    recording = RecordingModel(path, Parrot())
    record(recording, "parent")
    context = multiprocessing.get_context(method)
    processes = [context.Process(target=record, args=(recording, f"p{i}")) for i in range(2)]
    for process in processes:
        process.start()
    record(recording, "meanwhile")
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(recording) == 20


def test_vector_environments_in_processes(path: Path) -> None:
    """Its first user looks at the environment before it forks; every answer is kept."""
    first = gymnasium.make("rpp_env:RPP-v0", recording=str(path), **SMALL)
    first.reset(seed=0)
    first.step([0, 2, 0, 0])
    envs = gymnasium.vector.AsyncVectorEnv([lambda: first] * 2, context="fork")
    try:
        envs.reset(seed=1)
        for i in range(4):
            envs.step([[i, 2, i, 0]] * 2)
    finally:
        envs.close()
    replay = gymnasium.make("rpp_env:RPP-v0", model=f"recording:{path}", **SMALL)
    assert len(RecordingModel(path)) >= 4
    for seed in (1, 2):
        replay.reset(seed=seed)
        for i in range(4):
            replay.step([i, 2, i, 0])  # everything that the processes were given


def test_it_is_pickled_and_copied_with_its_environment(path: Path) -> None:
    env = rpp_env.RPPEnv.make(recording=str(path), num_envs=2, **SMALL)
    env.reset(seed=0)
    actions = [[0, 2, 0, 0]] * 2
    twins = [pickle.loads(pickle.dumps(env)), copy.deepcopy(env)]  # noqa: S301
    rewards = env.step(actions).rewards.tolist()
    for twin in twins:
        model = twin.recommender.model
        assert twin.step(actions).rewards.tolist() == rewards
        assert (model.asked, model.replayed) == (0, 2)
        # Counts tokens as before, with what is its own.
        assert model.count_tokens.__self__ is model
        twin.close()
    assert len(RecordingModel(path)) == 2


def test_tables_are_made_by_processes(path: Path) -> None:
    options = {**SMALL, "rules": "RPPBandit-v0", "num_envs": 1, "max_users": 9}
    env = rpp_env.RPPEnv.make(recording=str(path), **options)
    table = rpp_env.tabulate(env, processes=2)
    replay = rpp_env.RPPEnv.make(model=f"recording:{path}", **options)
    assert (rpp_env.tabulate(replay).orders == table.orders).all()


# ------------------------------------------------------------- who comes at once, who is killed


def open_and_ask(path: Path, start: Any, name: str, found: Any) -> None:
    start.wait()
    try:
        RecordingModel(path, Parrot()).complete([ask(name)])
    except BaseException as error:  # noqa: BLE001 - it is the result
        found.put(repr(error))
    else:
        found.put("")


@pytest.mark.slow
def test_six_processes_make_one_file(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    for trial in range(15):
        path = tmp_path / f"{trial}.sqlite"
        start, found = context.Barrier(6), context.SimpleQueue()
        processes = [
            context.Process(target=open_and_ask, args=(path, start, str(i), found))
            for i in range(6)
        ]
        for process in processes:
            process.start()
        assert [found.get() for _ in processes] == [""] * 6
        for process in processes:
            process.join()
        assert len(RecordingModel(path)) == 6


def test_a_file_that_is_held_for_a_while_is_waited_for(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Longer than SQLite waits at a time; and no other recording of the process waits for it."""
    monkeypatch.setattr("rpp_env.models.database.SLICE", 0.05)
    recording = RecordingModel(path, Parrot())
    other = RecordingModel(tmp_path / "other.sqlite", Parrot())
    holder = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    holder.execute("BEGIN IMMEDIATE")
    waiting = threading.Thread(target=recording.complete, args=([ask("a")],))
    waiting.start()
    try:
        for i in range(20):
            other.complete([ask(str(i))])
        assert waiting.is_alive()
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    waiting.join()
    assert (len(recording), len(other)) == (1, 20)


def test_ctrl_c_at_any_moment_leaves_a_recording_that_works(path: Path, reports: Reports) -> None:
    recording = RecordingModel(path, Parrot())
    rng, interrupted = random.Random(0), 0  # noqa: S311

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for i in range(200):
            try:
                signal.setitimer(signal.ITIMER_REAL, rng.uniform(0.0001, 0.004))
                if i % 5 == 0:
                    recording.close()
                recording.complete([ask(f"{i}")])
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.write(reports.number, f"{i}\n".encode())
            except KeyboardInterrupt:
                interrupted += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted
    reports.ask(recording, [f"{i}" for i in range(200)])
    recording.close()
    reports.check(path)


def write_until_killed(path: Path, reports: Reports, name: str) -> Callable[[], None]:
    def work() -> None:
        recording = RecordingModel(path, Parrot())
        reports.ask(recording, [f"{name} before"])
        for fork in range(3):
            forked(
                lambda fork=fork: reports.ask(
                    recording, [f"{name}.{fork} {i}" for i in range(1000)]
                )
            )
        reports.ask(recording, [f"{name} {i}" for i in range(1000)])

    return work


def test_killed_with_their_children_they_have_lost_nothing(path: Path, reports: Reports) -> None:
    for trial in range(6):
        group = []
        for writer in range(2):
            child = os.fork()
            if child == 0:
                os.setpgid(0, 0)
                try:
                    write_until_killed(path, reports, f"{trial}.{writer}")()
                finally:
                    os._exit(0)
            os.setpgid(child, child)  # whichever of the two comes first
            group.append(child)
        wanted = reports.count() + random.Random(trial).randrange(2, 40)  # noqa: S311
        while reports.count() < wanted:
            time.sleep(0.001)
        for child in group:
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)
    os.close(reports.number)
    handed_out = reports.path.read_text().split("\n")[:-1]
    assert len(handed_out) >= 12
    replay = RecordingModel(path)
    replies = replay.complete([ask(text) for text in handed_out])
    assert [reply.text for reply in replies] == [f"said {text}" for text in handed_out]
    assert list(replay._file.problems()) == []


# ----------------------------------------------------------------------------------- closing


def makers(path: Path) -> Iterator[Callable[[], Any]]:
    options = {**SMALL, "recording": str(path)}
    yield lambda: rpp_env.RPPEnv.make(num_envs=2, **options)
    yield lambda: rpp_env.parallel_env(**options)
    yield lambda: rpp_env.env(**options)
    yield lambda: gymnasium.make("rpp_env:RPP-v0", **options)
    yield lambda: gymnasium.make_vec("rpp_env:RPP-v0", num_envs=2, **options)
    yield lambda: rpp_env.RPPEnv.make(rewrite=f"recording:{path}", num_envs=2, **options)


def test_closed_environments_hold_no_file(path: Path) -> None:
    first = rpp_env.RPPEnv.make(num_envs=2, recording=str(path), **SMALL)
    first.reset(seed=0)
    first.step([[0, 2, 0, 0]] * 2)
    first.close()
    with tempfile.TemporaryFile():  # so that the count below is one of something
        for make in makers(path):
            env = make()
            env.reset(seed=0)
            assert open_files(path) > 0
            env.close()
            assert open_files(path) == 0
            assert env is not None  # closed, not collected


def test_a_closed_environment_releases_its_models_and_ends_none() -> None:
    """Others may share them."""

    class Connected(Parrot):
        released = 0

        def release(self) -> None:
            self.released += 1

        def close(self) -> None:
            raise AssertionError("it would answer no more")

    model, rewriter = Connected(), Connected()
    env = rpp_env.RPPEnv.make(model=model, rewrite=LLMRewriter(rewriter), num_envs=1, **SMALL)
    env.close()
    env.reset(seed=0)
    env.close()
    assert (model.released, rewriter.released) == (2, 2)


def test_collected_environments_hold_no_file(path: Path) -> None:
    env: Any = rpp_env.RPPEnv.make(num_envs=2, recording=str(path), **SMALL)
    env.reset(seed=0)
    assert open_files(path) > 0
    del env
    gc.collect()
    assert open_files(path) == 0
