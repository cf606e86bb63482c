"""RewardTable: no repeated request, no lost answer, exact replay."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from power_cut import Disk, restore

from rpp_env import RULES, InvalidOption, Prompt, Ranking, RPPEnv, Rules, TableMismatch
from rpp_env.data.arrays import write_arrays
from rpp_env.errors import BrokenContract, RPPWarning
from rpp_env.metrics import ndcg
from rpp_env.models import echo
from rpp_env.sentences import SentenceCatalog
from rpp_env.sentences.catalog import history_labels
from rpp_env.table import RewardTable, _permutations, tabulate

SMALL: dict[str, Any] = {"num_users": 60, "num_items": 100, "num_envs": 4}


class Counting:
    """Ranks by a digest of the prompt, counts what it is asked, and can die on the way."""

    def __init__(self, dies_after: int | None = None) -> None:
        self.asked: list[str] = []
        self.dies_after = dies_after
        self.calls = 0

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        self.calls += 1
        if self.dies_after is not None and self.calls > self.dies_after:
            raise KeyboardInterrupt
        self.asked += [p.text for p in prompts]
        rankings = []
        for prompt in prompts:
            rng = np.random.default_rng(sum(prompt.text.encode()))
            order = rng.permutation(len(prompt.task.candidates))
            rankings.append(Ranking(tuple(order.tolist()), int(rng.integers(21)), "", 7, 3, 0))
        return rankings


def small_book() -> SentenceCatalog:
    book = SentenceCatalog.load("movies")
    return SentenceCatalog(
        domain="movies",
        role_playing=book.role_playing[:2],
        history_records=book.history_records,
        reasoning_guidance=book.reasoning_guidance[:2],
        output_format=book.output_format[:2],
        history_lead=book.history_lead,
        candidates_lead=book.candidates_lead,
    )


def make(recommender: Any, **options: Any) -> RPPEnv:
    return RPPEnv.make(model=recommender, book=small_book(), **{**SMALL, **options})


def test_every_distinct_prompt_is_requested_once() -> None:
    recommender = Counting()
    env = make(recommender)
    table = tabulate(env)
    assert len(recommender.asked) == len(set(recommender.asked)) == len(env.tasks) * 7 * 2 * 2 * 2
    assert table.orders.shape == (len(env.tasks), 7 * 8, 1, 20)


def test_short_histories_share_their_cells() -> None:
    recommender = Counting()
    env = make(recommender, dataset="movieworld")
    short = env.tasks.subset([0])
    history = short.history_items[-4:]
    few = type(short)(
        dataset=short.dataset,
        users=short.users,
        draw=short.draw,
        history_indptr=np.array([0, 4]),
        history_items=history,
        candidates=short.candidates,
        position=short.position,
    )
    env = RPPEnv(few, book=env.book, embeddings=env.embeddings, recommender=recommender, num_envs=1)
    table = tabulate(env)
    # Rungs 1, 2, 3 and 5 show 1, 2, 3 and 4 items; 8, 13 and 20 show the same 4.
    assert len(recommender.asked) == 4 * 8
    rewards = table.rewards()[0]
    for level in (4, 5, 6):
        assert (rewards[level] == rewards[3]).all()


def test_rewards_are_the_ndcg_of_named_candidates() -> None:
    env = make(Counting())
    table = tabulate(env)
    rewards = table.rewards()
    for row in range(0, len(env.tasks), 7):
        for cell in range(0, 56, 5):
            order = table.orders[row, cell, 0].tolist()
            place = order.index(int(env.tasks.position[row]))
            named = place < table.named[row, cell, 0]
            wanted = float(ndcg(place + 1)) if named else 0.0
            assert rewards[row].ravel()[cell] == pytest.approx(wanted)


def test_a_stopped_tabulation_resumes(tmp_path: Path) -> None:
    whole = tabulate(make(Counting()))
    path = tmp_path / "t.rpptable"
    with pytest.raises(KeyboardInterrupt):
        tabulate(make(Counting(dies_after=2)), path)
    assert not path.exists()
    rest = Counting()
    table = tabulate(make(rest), path)
    assert rest.calls == -(-40 // 8) - 2
    assert (table.orders == whole.orders).all()
    assert list(tmp_path.iterdir()) == [path]
    again = Counting()
    assert (tabulate(make(again), path).orders == whole.orders).all()
    assert again.calls == 0


def test_a_killed_tabulation_resumes(tmp_path: Path) -> None:
    """SIGKILL without clean-up, in the middle of writing a part."""
    path = tmp_path / "t.rpptable"
    script = f"""
import os, signal
import rpp_env.table
from test_table import Counting, make

class Killed(Counting):
    def rank(self, prompts):
        if self.calls == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().rank(prompts)

Killed.__name__ = "Counting"  # which a table keeps
rpp_env.table.tabulate(make(Killed()), {str(path)!r})
"""
    ended = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parent, check=False)
    assert ended.returncode == -signal.SIGKILL
    assert not path.exists()
    torn = Path(f"{path}.parts") / "000003.npz.tmp"
    torn.write_bytes(b"half a part")
    rest = Counting()
    table = tabulate(make(rest), path)
    assert rest.calls == -(-40 // 8) - 3
    whole = tabulate(make(Counting()))
    for name in ("orders", "named", "completion", "prompt", "trimmed", "keys"):
        assert (getattr(table, name) == getattr(whole, name)).all(), name
    assert list(tmp_path.iterdir()) == [path]


def test_a_power_cut_loses_no_answer_that_was_reported(tmp_path: Path) -> None:
    done = 0

    def progress(tasks: int, _: int) -> None:
        nonlocal done
        done = tasks

    folder = tmp_path / "at work"
    folder.mkdir()
    disk = Disk(folder, note=lambda: done)
    with disk.watch():
        whole = tabulate(make(Counting(), max_users=20), folder / "t.rpptable", progress=progress)
    assert {said for _, said in disk.cuts} == {0, 8, 16, 20}
    for i, (state, said) in enumerate(disk.cuts):
        left = restore(state, tmp_path / str(i))
        rest = Counting()
        table = tabulate(make(rest, max_users=20), left / "t.rpptable")
        assert len(rest.asked) <= (20 - said) * 56
        for name in ("orders", "named", "completion", "prompt", "trimmed", "positions", "keys"):
            assert (getattr(table, name) == getattr(whole, name)).all(), name
        names = {path.name for path in left.iterdir()}
        assert names - {".t.rpptable.lock"} == {"t.rpptable"}


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_ends_a_tabulation_in_a_sentence(tmp_path: Path, processes: int) -> None:
    script = f"""
import resource
from test_table import Counting, make
from rpp_env.errors import WriteFailed
from rpp_env.table import tabulate

if __name__ == "__main__":
    env = make(Counting())
    # A part fits, and the table does not.
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    try:
        tabulate(env, {str(tmp_path / "t.rpptable")!r}, processes={processes})
    except WriteFailed as error:
        print(error)
"""
    file = tmp_path.parent / f"{tmp_path.name}.py"
    file.write_text(script)
    ended = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "t.rpptable cannot be written: File too large; what was there before is kept" in (
        ended.stdout
    )
    assert [path.name for path in tmp_path.iterdir()] == ["t.rpptable.parts"]
    rest = Counting()
    tabulate(make(rest), tmp_path / "t.rpptable")
    assert rest.calls == 0


def test_two_processes_make_one_table_between_them(tmp_path: Path) -> None:
    """The second waits, and then asks nothing."""
    path = tmp_path / "t.rpptable"
    script = f"""
import sys, time
from test_table import Counting, make
from rpp_env.table import tabulate

class Slow(Counting):
    def rank(self, prompts):
        time.sleep(0.3)
        return super().rank(prompts)

Slow.__name__ = "Counting"  # which a table keeps
slow = Slow()
print(len(tabulate(make(slow, max_users=30), {str(path)!r})), slow.calls)
"""
    environment = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONPATH": environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    said = [child.communicate() for child in children]
    assert sorted(out for out, _ in said) == ["30 0\n", "30 0\n", "30 4\n"]
    assert sum("waiting for another process" in error for _, error in said) >= 1
    assert [file.name for file in tmp_path.iterdir()] == ["t.rpptable"]


def test_tables_of_train_validation_and_test_users_are_apart() -> None:
    envs = {name: make(Counting(), split=name) for name in ("train", "validation", "test")}
    tables = {name: tabulate(env) for name, env in envs.items()}
    keys = np.concatenate([table.keys for table in tables.values()])
    assert len(np.unique(keys)) == len(keys)
    for mine, table in tables.items():
        for other, env in envs.items():
            if mine == other:
                assert tabulated(env, table).table is table
                continue
            with pytest.raises(TableMismatch, match="none of the"):
                make(table, split=other)
            with pytest.raises(TableMismatch, match="tasks are not the environment's"):
                tabulated(env, table)


def test_parts_and_files_of_another_environment_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.rpptable"
    with pytest.raises(KeyboardInterrupt):
        tabulate(make(Counting(dies_after=1)), path)
    with pytest.raises(TableMismatch, match="parts of another table"):
        tabulate(make(Counting(), task_seed=1), path)
    tabulate(make(Counting()), path)
    with pytest.raises(TableMismatch, match="holds other answers"):
        tabulate(make(Counting(), task_seed=1), path)


class Resting(Counting):
    """Says which process it works in, and takes its time."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        (self.folder / str(os.getpid())).touch()
        time.sleep(0.2)
        return super().rank(prompts)


def lives(pid: str) -> bool:
    """Whether a process runs; a zombie does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_end_with_a_killed_parent(tmp_path: Path) -> None:
    script = f"""
from pathlib import Path
from test_table import Resting, make
from rpp_env.table import tabulate

if __name__ == "__main__":
    tabulate(make(Resting(Path({str(tmp_path)!r})), max_users=30), processes=2)
"""
    file = tmp_path.parent / f"{tmp_path.name}.py"
    file.write_text(script)
    parent = subprocess.Popen(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])},
    )
    try:
        wait_for(lambda: len(list(tmp_path.iterdir())) == 2)
        workers = [path.name for path in tmp_path.iterdir()]
        assert all(map(lives, workers))
        assert str(parent.pid) not in workers
    finally:
        parent.kill()
        parent.wait()
    wait_for(lambda: not any(map(lives, workers)))


def wait_for(condition: Callable[[], bool], seconds: float = 60.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def test_processes_give_the_same_table() -> None:
    env = RPPEnv.make(model="embedded", book=small_book(), max_users=20, **SMALL)
    one, two = tabulate(env), tabulate(env, processes=2)
    for name in ("orders", "named", "completion", "prompt", "trimmed", "keys"):
        assert (getattr(one, name) == getattr(two, name)).all(), name


def test_a_file_restores_the_table_and_holds_no_titles(tmp_path: Path) -> None:
    env = make(Counting())
    table = tabulate(env, tmp_path / "t.rpptable")
    again = RewardTable.load(tmp_path / "t.rpptable")
    assert again.provenance == table.provenance
    assert (again.orders == table.orders).all()
    assert (again.embeddings.items == env.embeddings.items).all()
    content = (tmp_path / "t.rpptable").read_bytes()
    assert not any(title.encode() in content for title in env.tasks.dataset.titles)


def test_a_portable_file_holds_answers_alone_and_plays_alike(tmp_path: Path) -> None:
    env, path = make(Counting()), tmp_path / "t.rpptable"
    tabulate(env).portable(env.tasks.dataset).save(path)
    with np.load(path) as kept:
        assert not [name for name in kept.files if kept[name].dtype.kind == "f"]
        assert kept["provenance"].tobytes().find(env.embeddings.digest.encode()) == -1
    replay = make(f"table:{path}")
    assert replay.embeddings is env.embeddings
    rng = np.random.default_rng(0)
    env.reset(seed=0)
    replay.reset(seed=0)
    for _ in range(3):
        actions = rng.integers(0, env.nvec, (4, 4))
        live, again = env.step(actions), replay.step(actions)
        assert live.observations.tobytes() == again.observations.tobytes()
        assert (live.rewards == again.rewards).all()
    assert make(f"table:{path}", dim=8).embeddings.items.shape[1] == 8
    with pytest.raises(InvalidOption, match="a table has its own embeddings"):
        make(tabulate(env), dim=8)


def test_another_copy_of_the_dataset_plays_the_users_whose_history_is_the_same() -> None:
    env = make(Counting())
    data = env.tasks.dataset
    whole, portable = tabulate(env), tabulate(env).portable(data)
    first = env.tasks.users[0]
    moved = data.items.copy()
    begin = data.indptr[first + 1] - 3
    moved[begin : begin + 2] = moved[begin : begin + 2][::-1]  # two clicks within one second
    copy = replace(data, items=moved)
    unsized = {"num_users": None, "num_items": None}
    with pytest.raises(TableMismatch, match="dataset_digest"):
        make(whole, dataset=copy, **unsized)
    with pytest.warns(RPPWarning, match=f"{len(whole) - 1} of its {len(whole)} tasks are played"):
        some = make(portable, dataset=copy, **unsized)
    assert some.table is not None
    assert some.tasks.users.tolist() == env.tasks.users[1:].tolist()
    assert (some.table.rewards() == whole.rewards()[1:]).all()
    other = replace(data, titles=("Another film", *data.titles[1:]))
    with pytest.raises(TableMismatch, match="titles_digest"):
        make(portable, dataset=other, **unsized)
    with pytest.raises(TableMismatch, match="another copy of movieworld"):
        whole.portable(copy)


def test_a_file_with_some_of_the_embeddings_is_refused(small: RewardTable, tmp_path: Path) -> None:
    small.save(path := tmp_path / "t.rpptable")
    with np.load(path) as kept:
        arrays = dict(kept)
    del arrays["embeddings_items"]
    write_arrays(path, arrays)
    with pytest.raises(TableMismatch, match="its arrays are not a table's: embeddings_items"):
        RewardTable.load(path)


def test_a_file_whose_levels_are_not_those_it_names_is_refused(tmp_path: Path) -> None:
    table = tabulate(make(Counting(), max_users=2))
    few = replace(table, provenance={**table.provenance, "shown": list(table.shown[:-1])})
    few.save(tmp_path / "t.rpptable")
    with pytest.raises(TableMismatch, match="7 levels, but items shown are"):
        RewardTable.load(tmp_path / "t.rpptable")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no archive", b"text"])
def test_a_broken_file_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "t.rpptable"
    path.write_bytes(content)
    with pytest.raises(TableMismatch, match=r"t\.rpptable is not a reward table.*make it again"):
        RewardTable.load(path)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> RewardTable:
    return tabulate(make(Counting(), max_users=3))


def damages(content: bytes) -> Iterator[bytes]:
    """A flip somewhere in each of 200 pieces of a file, and 60 truncations."""
    rng = np.random.default_rng(0)
    edges = np.linspace(0, len(content), 201).astype(int)
    for begin, end in itertools.pairwise(edges.tolist()):
        flipped = bytearray(content)
        flipped[int(rng.integers(begin, end))] ^= 1 << int(rng.integers(8))
        yield bytes(flipped)
    yield from (content[: int(size)] for size in np.linspace(0, len(content) - 1, 60))


def test_damage_of_a_table_is_detected(tmp_path: Path, small: RewardTable) -> None:
    path = tmp_path / "t.rpptable"
    small.save(path)
    for content in damages(path.read_bytes()):
        path.write_bytes(content)
        with pytest.raises(TableMismatch, match="delete it and make it again"):
            RewardTable.load(path)


def test_damage_of_a_part_is_detected(tmp_path: Path) -> None:
    path, part = tmp_path / "t.rpptable", tmp_path / "t.rpptable.parts" / "000000.npz"
    env = make(Counting(dies_after=1), max_users=9)
    with pytest.raises(KeyboardInterrupt):
        tabulate(env, path)
    kept = {file: file.read_bytes() for file in part.parent.iterdir()}
    whole = tabulate(make(Counting(), max_users=9))
    for content in list(damages(part.read_bytes()))[::10]:
        part.write_bytes(content)
        env.recommender = rest = Counting()
        with pytest.warns(RPPWarning, match=r"000000\.npz cannot be used \(.*asked again"):
            table = tabulate(env, path)
        assert rest.calls == 2
        assert (table.orders == whole.orders).all()
        path.unlink()
        part.parent.mkdir()
        for file, before in kept.items():
            file.write_bytes(before)


def stopped(folder: Path) -> tuple[Path, Path]:
    """A tabulation that was stopped after three of five parts: the table's path, its first part."""
    path = folder / "t.rpptable"
    with pytest.raises(KeyboardInterrupt):
        tabulate(make(Counting(dies_after=3)), path)
    return path, Path(f"{path}.parts") / "000000.npz"


def test_swapped_parts_are_detected_and_made_again(tmp_path: Path) -> None:
    path, first = stopped(tmp_path)
    second = first.with_name("000001.npz")
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    rest = Counting()
    with pytest.warns(RPPWarning, match="its answers are about other tasks") as warned:
        table = tabulate(make(rest), path)
    assert len(warned) == 2
    assert rest.calls == 4  # one part was kept
    assert (table.orders == tabulate(make(Counting())).orders).all()


def test_a_part_of_another_table_is_noticed(tmp_path: Path) -> None:
    """Of the same tasks, from another model: only the provenance tells."""

    class Other(Counting):
        pass

    path, first = stopped(tmp_path)
    with pytest.raises(KeyboardInterrupt):
        tabulate(make(Other(dies_after=1)), tmp_path / "other")
    first.write_bytes((tmp_path / "other.parts" / "000000.npz").read_bytes())
    with pytest.warns(RPPWarning, match="part of another table"):
        tabulate(make(Counting()), path)


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b"\xff", b"[" * 100_000])
def test_a_damaged_note_costs_nothing(tmp_path: Path, note: bytes) -> None:
    path, part = stopped(tmp_path)
    part.with_name("provenance.json").write_bytes(note)
    rest = Counting()
    with pytest.warns(RPPWarning, match=r"provenance\.json is damaged .* written again"):
        tabulate(make(rest), path)
    assert rest.calls == 2


def test_a_damaged_note_gives_no_other_table_away(tmp_path: Path) -> None:
    path, part = stopped(tmp_path)
    part.with_name("provenance.json").write_bytes(b"")
    before = part.read_bytes()
    with pytest.raises(TableMismatch, match="parts of another table"):
        tabulate(make(Counting(), task_seed=1), path)
    assert part.read_bytes() == before


def test_parts_and_tables_without_digests_are_read_with_a_warning(tmp_path: Path) -> None:
    path, first = stopped(tmp_path)
    for part in first.parent.glob("*.npz"):
        with np.load(part) as file:
            kept = {name: file[name] for name in file.files if name not in ("keys", "table")}
        np.savez(part, **kept)
    rest = Counting()
    with pytest.warns(RPPWarning, match="has no digest") as warned:
        table = tabulate(make(rest), path)
    assert len(warned) == 3
    assert rest.calls == 2
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    with path.open("wb") as opened:
        np.savez(opened, **kept)
    with pytest.warns(RPPWarning, match="has no digest"):
        again = RewardTable.load(path)
    assert (again.orders == table.orders).all()
    again.save(path)
    RewardTable.load(path)


def rewritten(table: RewardTable, name: str, change: Callable[[Any], Any]) -> RewardTable:
    """A table with one array or one word of its provenance changed, and a digest that fits."""
    if name in table.provenance:
        return replace(table, provenance={**table.provenance, name: change(table.provenance[name])})
    if name.startswith("embeddings_"):
        inner = name.removeprefix("embeddings_")
        changed = replace(
            table.embeddings, **{inner: change(getattr(table.embeddings, inner).copy())}
        )
        return replace(
            table,
            embeddings=changed,
            provenance={**table.provenance, "embeddings": changed.digest},
        )
    value = getattr(table, name)
    return replace(
        table, **{name: change(value.copy() if isinstance(value, np.ndarray) else value)}
    )


def put(value: Any, *index: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("orders", np.zeros_like, "not all permutations"),
        ("orders", put(20, 1, 2, 0, 3), "not all permutations"),
        ("orders", put(255, 2, 55, 0, 19), "not all permutations"),
        ("orders", lambda x: x[..., :19], "orders are uint8 of shape"),
        ("orders", lambda x: x.astype(np.int16), "orders are int16"),
        ("orders", lambda x: x[:, :-1], "orders are uint8 of shape"),
        ("named", put(21, 0, 0, 0), "name more than 20 candidates"),
        ("named", lambda x: x[:2], "named are uint8 of shape"),
        ("completion", lambda x: x.astype(np.float32), "completion are float32"),
        ("prompt", lambda x: x.astype(np.int16), "prompt are int16"),
        ("trimmed", put(2, 0, 0), "lost more history items than were shown"),
        ("positions", put(20, 1), "targets outside"),
        ("positions", lambda x: x[:0], "positions are uint8 of shape"),
        ("keys", lambda x: x[:0], "for 0 tasks"),
        ("keys", lambda x: x[:2], "of shape"),
        ("sizes", lambda x: (7, 2, 2, 3), "of shape"),
        ("sizes", lambda x: (7, -2, -2, 2), "four numbers from 1"),
        ("sizes", lambda x: (7, 8), "four numbers from 1"),
        ("shown", lambda x: [*x[:-1], "20"], "items shown are"),
        ("shown", lambda x: 7, "items shown are 7"),
        ("shown", lambda x: [True, *x[1:]], "items shown are"),
        ("shown", lambda x: [-1, *x[1:]], "items shown are"),
        ("samples", lambda x: "1", "holds 1 answers"),
        ("samples", lambda x: 2, "of shape"),
        ("num_candidates", lambda x: None, "about None candidates"),
        ("format", lambda x: 2, "format 2, and this version reads 1"),
        ("embeddings", lambda x: "0" * 64, "do not match the digest"),
        ("embeddings_items", put(np.nan, 3, 1), "items are not all finite"),
        ("embeddings_content", put(np.inf, 3, 1), "content are not all finite"),
        ("embeddings_popularity", put(-np.inf, 3), "popularity are not all finite"),
        ("embeddings_items", lambda x: x[0], r"items are float32 of shape \(32,\)"),
        ("embeddings_content", lambda x: x[:5], "content are of 5 items"),
        ("embeddings_items", lambda x: x.astype(np.int64), "items are int64"),
    ],
)
def test_impossible_answers_in_a_file_are_refused(
    tmp_path: Path,
    small: RewardTable,
    name: str,
    change: Callable[[Any], Any],
    message: str,
) -> None:
    rewritten(small, name, change).save(tmp_path / "t.rpptable")
    with pytest.raises(TableMismatch, match=message):
        RewardTable.load(tmp_path / "t.rpptable")


@pytest.mark.parametrize("candidates", [2, 31, 32, 33, 64, 65, 100])
def test_permutations_of_any_length_are_recognised(candidates: int) -> None:
    rng = np.random.default_rng(0)
    orders = np.array([rng.permutation(candidates) for _ in range(200)], dtype=np.uint8)
    assert _permutations(orders)
    for _ in range(100):
        row, column = int(rng.integers(200)), int(rng.integers(candidates))
        wrong = orders.copy()
        wrong[row, column] = (wrong[row, column] + rng.integers(1, 256)) % 256
        assert not _permutations(wrong)


def test_arrays_of_another_number_or_names_are_refused(tmp_path: Path, small: RewardTable) -> None:
    path = tmp_path / "t.rpptable"
    small.save(path)
    with np.load(path) as file:
        kept = {name: file[name] for name in file.files}
    for arrays in (kept | {"more": np.zeros(1)}, {k: x for k, x in kept.items() if k != "named"}):
        write_arrays(path, arrays)
        with pytest.raises(TableMismatch, match=r"its arrays are not a table's: (more|named)"):
            RewardTable.load(path)
    for provenance in (b"", b"[]", b"\xff", b"[" * 100_000, b"1" * 5000):
        write_arrays(path, kept | {"provenance": np.frombuffer(provenance, np.uint8)})
        with pytest.raises(TableMismatch, match=r"t\.rpptable is not a reward table"):
            RewardTable.load(path)


def test_targets_and_items_must_be_the_datasets(small: RewardTable) -> None:
    env = make(small, max_users=3)
    moved = rewritten(small, "positions", lambda x: (x + 1) % 20)
    with pytest.raises(TableMismatch, match="targets of 3 of the 3 tasks are not where"):
        tabulated(env, moved)
    with pytest.raises(TableMismatch, match="targets of 3"):
        make(moved, max_users=3)
    with pytest.raises(
        TableMismatch,
        match=r"prompts of shape \(7, 2, 4, 1\), and the environment's have \(7, 2, 2, 2\)",
    ):
        make(replace(small, sizes=(7, 2, 4, 1)), max_users=3)
    few = replace(
        small.embeddings,
        items=small.embeddings.items[:90],
        content=small.embeddings.content[:90],
        popularity=small.embeddings.popularity[:90],
    )
    with pytest.raises(TableMismatch, match="embeddings are of 90 items, and the dataset has 100"):
        make(replace(small, embeddings=few), max_users=3)


def test_a_recommender_that_breaks_its_contract_makes_no_table(tmp_path: Path) -> None:
    class Short(Counting):
        def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
            return [Ranking((1, 0), 2) for _ in super().rank(prompts)]

    class Few(Counting):
        def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
            return super().rank(prompts)[1:]

    for broken in (Short(), Few()):
        with pytest.raises(BrokenContract, match="must return one per prompt, over all"):
            tabulate(make(broken), tmp_path / type(broken).__name__)
    negative = Counting()
    negative.rank = lambda prompts: [  # type: ignore[method-assign]
        Ranking(tuple(range(20)), 20, prompt_tokens=-1) for _ in prompts
    ]
    with pytest.raises(InvalidOption, match="0 to 65,535 tokens per text, not -1 to 20"):
        tabulate(make(negative), tmp_path / "t.rpptable")


def test_a_table_aligns_itself_with_other_orders_of_its_tasks() -> None:
    env = make(Counting())
    table = tabulate(env)
    wanted = env.tasks.subset([9, 3, 17])
    tasks, part = table.select(wanted)
    assert tasks.users.tolist() == env.tasks.users[[9, 3, 17]].tolist()
    assert (part.rewards() == table.rewards()[[9, 3, 17]]).all()
    with pytest.raises(TableMismatch, match="none of the"):
        table.select(make(Counting(), task_seed=5).tasks)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 0}, "at least 1"),
        ({"processes": 0}, "at least 1"),
        ({"samples": "1"}, "samples must be a whole number"),
        ({"processes": True}, "processes must be a whole number"),
    ],
)
def test_bad_options_are_refused(options: dict[str, int], message: str) -> None:
    with pytest.raises(InvalidOption, match=message):
        tabulate(make(Counting()), **options)


def tabulated(env: RPPEnv, table: RewardTable, **options: Any) -> RPPEnv:
    return RPPEnv(
        env.tasks,
        rules=env.rules,
        book=env.book,
        embeddings=table.embeddings,
        table=table,
        num_envs=env.num_envs,
        **options,
    )


def labelled(rules: Rules) -> SentenceCatalog:
    labels = history_labels(rules.history, rules.history_options)
    return replace(small_book(), history_records=labels)


UNION = (1, 2, 3, 5, 8, 10, 13, 20)


def test_one_table_serves_several_rules(tmp_path: Path) -> None:
    mine = replace(RULES["RPP-v0"], id="mine", rungs=(13, 2, 8), start=0)
    union = tabulate(make(Counting()), tmp_path / "t.rpptable", shown=UNION[::-1])
    assert RewardTable.load(tmp_path / "t.rpptable").shown == union.shown == UNION
    for rules in (RULES["RPP-v0"], RULES["RPPBandit-v0"], mine):
        book = labelled(rules)
        live = RPPEnv.make(model=Counting(), book=book, rules=rules, **SMALL)
        dead = tabulated(live, union)
        rng = np.random.default_rng(0)
        for episode in range(3):
            observations, _ = live.reset(seed=episode)
            assert observations.tobytes() == dead.reset(seed=episode)[0].tobytes()
            for _ in range(rules.max_cycles):
                actions = rng.integers(0, live.nvec, (4, 4))
                said, kept = live.step(actions), dead.step(actions)
                assert said.observations.tobytes() == kept.observations.tobytes()
                assert said.rewards.tobytes() == kept.rewards.tobytes()
                assert (said.infos["shown"] == kept.infos["shown"]).all()
        assert dead.table is not None
        own = tabulate(live)
        assert dead.table.shown == own.shown
        assert (dead.table.rewards() == own.rewards()).all()
    all_of_it = replace(mine, rungs=UNION)
    whole = RPPEnv.make(model=Counting(), book=labelled(all_of_it), rules=all_of_it, **SMALL)
    assert union.for_space(whole.space) is union
    live = make(Counting())
    with pytest.raises(TableMismatch, match="holds other answers"):
        tabulate(live, tmp_path / "t.rpptable")


def test_untabulated_history_lengths_are_named() -> None:
    env = make(Counting(), max_users=2)
    table = tabulate(env)
    bandit = RULES["RPPBandit-v0"]
    other = RPPEnv.make(model=Counting(), rules=bandit, book=labelled(bandit), **SMALL)
    wanted = r"10 history items can be shown here.* --shown 1 2 3 5 8 10 13 20`"
    for call in (
        lambda: table.for_space(other.space),
        lambda: table.check(env.tasks, other.space),
        lambda: RPPEnv.make(model=table, rules=bandit, book=labelled(bandit), **SMALL),
    ):
        with pytest.raises(TableMismatch, match=wanted):
            call()
    for shown in ([], [1, 2, 3], [0, *UNION], [1.5, *UNION]):
        with pytest.raises(InvalidOption, match="include 1, 2, 3, 5, 8, 13, 20, the lengths"):
            tabulate(env, shown=shown)


def test_environments_that_no_table_can_hold_are_refused() -> None:
    with pytest.raises(InvalidOption, match="reorders the candidates"):
        tabulate(RPPEnv.make(model=echo(), rules="RPPPaper-v0", **SMALL))
    with pytest.raises(InvalidOption, match="depend on more than the actions"):
        tabulate(RPPEnv.make(model=echo(), rewrite=lambda prompts: prompts, **SMALL))


def test_a_script_without_a_guard_ends_in_an_error_and_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from rpp_env import RPPEnv\n"
        "from rpp_env.table import tabulate\n"
        "env = RPPEnv.make(rules='RPPBandit-v0', max_users=40, num_users=200, num_items=100)\n"
        "tabulate(env, 'mine.rpptable', processes=2)\n"
    )
    ended = subprocess.run(
        [sys.executable, "mine.py"],
        check=False,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert ended.returncode == 1
    assert 'put its work under `if __name__ == "__main__":`' in ended.stderr
    assert not (tmp_path / "mine.rpptable").exists()
