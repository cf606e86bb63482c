"""Tables, parts, checkpoints and policies: damaged, swapped and hostile; see `attack.py`."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from attack_count import Count, bounded

from rpp_agents import mappo
from rpp_agents.policy import read_tensors, write_tensors
from rpp_env import Prompt, Ranking, RPPEnv
from rpp_env.errors import RPPError, RPPWarning
from rpp_env.sentences import SentenceCatalog
from rpp_env.table import RewardTable, tabulate

__all__ = ["checkpoints", "parts", "policies", "tables", "tabulation_kills"]

FLIPS, TRUNCATIONS, KILLS = 200, 60, 20
ARRAYS = ("orders", "named", "completion", "prompt", "trimmed", "positions", "keys")


class Judge:
    """A recommender whose answers depend on the prompt, and that counts its prompts."""

    def __init__(self) -> None:
        self.asked = 0

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        self.asked += len(prompts)
        rankings = []
        for prompt in prompts:
            rng = np.random.default_rng(sum(prompt.text.encode()))
            order = rng.permutation(len(prompt.task.candidates))
            rankings.append(Ranking(tuple(order.tolist()), int(rng.integers(21)), "", 7, 3, 0))
        return rankings


class Stopped(Judge):
    """One that is interrupted after two calls."""

    def rank(self, prompts: Sequence[Prompt]) -> list[Ranking]:
        if self.asked >= 2 * 8 * 7 * 8:
            raise KeyboardInterrupt
        return super().rank(prompts)


Stopped.__name__ = "Judge"  # which a table keeps


def small(model: Any, users: int = 20) -> RPPEnv:
    book = SentenceCatalog.load("movies")
    few = {
        name: getattr(book, name)[:2]
        for name in ("role_playing", "reasoning_guidance", "output_format")
    }
    return RPPEnv.make(
        model=model,
        book=replace(book, **few),
        max_users=users,
        num_users=60,
        num_items=100,
        num_envs=4,
    )


def damages(content: bytes) -> Iterator[tuple[str, bytes]]:
    """A flipped bit in each of 200 pieces of a file, and 60 truncations."""
    rng = np.random.default_rng(0)
    edges = np.linspace(0, len(content), FLIPS + 1).astype(int)
    for begin, end in itertools.pairwise(edges.tolist()):
        place, bit = int(rng.integers(begin, end)), int(rng.integers(8))
        flipped = bytearray(content)
        flipped[place] ^= 1 << bit
        yield f"bit {bit} of byte {place:,}", bytes(flipped)
    for size in np.linspace(0, len(content) - 1, TRUNCATIONS).astype(int).tolist():
        yield f"cut to {size:,} bytes", content[:size]


def same(one: RewardTable, two: RewardTable) -> bool:
    equal = all((getattr(one, name) == getattr(two, name)).all() for name in ARRAYS)
    return equal and one.embeddings.digest == two.embeddings.digest


def attempt(count: Count, name: str, work: Callable[[], str]) -> None:
    """Count one input: a sentence of ours holds, `work` says what is wrong otherwise."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RPPWarning)
            count.add(name, wrong=work())
    except RPPError:
        count.add(name)
    except Exception as error:  # noqa: BLE001 - that is what is counted
        count.add(name, lost=repr(error)[:200])


# ---- tables ----


def tables(folder: Path) -> Count:
    """Damaged tables, tables of impossible answers, and archives that ask for memory."""
    count, path = Count(), folder / "t.rpptable"
    whole = tabulate(small(Judge()), path)

    def load() -> str:
        return "" if same(RewardTable.load(path), whole) else "it is read as another table"

    for name, content in damages(path.read_bytes()):
        path.write_bytes(content)
        attempt(count, name, load)
    for name, table in impossible(whole):
        table.save(path)
        attempt(count, name, lambda: small(RewardTable.load(path)) and "it is played")
    whole.save(path)
    for name, content in archives(path.read_bytes()):
        path.write_bytes(content)
        status, out, err = bounded(LOAD, str(path), megabytes=1000)
        lost = "" if status == 0 else f"exit code {status}: {err.decode()[-200:]}"
        count.add(name, lost=lost, wrong=b"taken" in out and "it is taken")
    return count


def impossible(table: RewardTable) -> Iterator[tuple[str, RewardTable]]:
    """Tables whose digests are right, and whose numbers cannot be."""

    def put(array: Any, value: Any, *at: int) -> Any:
        changed = array.copy()
        changed[at] = value
        return changed

    about = table.provenance
    yield "all orders 0", replace(table, orders=np.zeros_like(table.orders))
    yield "one place twice", replace(table, orders=put(table.orders, 7, 3, 1, 0, slice(0, 2)))
    yield "place 255", replace(table, orders=put(table.orders, 255, 0, 0, 0, 5))
    yield "orders too short", replace(table, orders=table.orders[..., :10])
    yield "orders of floats", replace(table, orders=table.orders.astype(np.float32))
    yield "21 named", replace(table, named=put(table.named, 21, 0, 0, 0))
    yield "targets moved", replace(table, positions=(table.positions + 1) % 20)
    yield "target 20", replace(table, positions=put(table.positions, 20, 4))
    yield "too few keys", replace(table, keys=table.keys[:3])
    yield "no tasks", table.subset([])
    yield "200 items trimmed", replace(table, trimmed=put(table.trimmed, 200, 0, 0))
    yield "other sizes", replace(table, sizes=(7, 2, 4, 1))
    yield "negative sizes", replace(table, sizes=(7, -2, -2, 2))
    for key, value in (
        ("shown", [1, 2]),
        ("shown", "1"),
        ("samples", 10**12),
        ("num_candidates", True),
        ("format", 99),
        ("embeddings", ""),
    ):
        yield f"{key}={value!r}", replace(table, provenance={**about, key: value})
    for name in ("items", "content", "popularity"):
        array = getattr(table.embeddings, name)
        for value in (np.nan, np.inf):
            odd = replace(table.embeddings, **{name: put(array, value, 1)})
            named = {**about, "embeddings": odd.digest}
            yield f"{value} in {name}", replace(table, embeddings=odd, provenance=named)


def archives(content: bytes) -> Iterator[tuple[str, bytes]]:
    """Files that claim to be larger than they are, or are no tables."""
    import gzip
    import io
    import pickle
    import zipfile

    header = "{'descr': '|u1', 'fortran_order': False, 'shape': (%d,), }\n"
    for size in (10**10, 10**15, -1):
        text = (header % size).encode()
        member = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr("orders.npy", member)
        yield f"{size:,} orders", file.getvalue()
    file = io.BytesIO()
    np.savez_compressed(file, orders=np.zeros(3_000_000_00, np.uint8))
    yield "300 MB in a small archive", file.getvalue()
    yield "a pickle", pickle.dumps({"orders": 1})
    yield "gzip", gzip.compress(content)
    yield "an archive of nothing", b"PK\x05\x06" + b"\0" * 18
    yield "nothing", b""


LOAD = """
import sys
from rpp_env.table import RewardTable
from rpp_env.errors import TableMismatch
try:
    RewardTable.load(sys.argv[1])
    print("taken")
except TableMismatch as error:
    assert len(str(error)) < 1000
"""


# ---- parts ----


def parts(folder: Path) -> Count:
    """Damaged, swapped and foreign parts and notes of a tabulation that was stopped."""
    count, path = Count(), folder / "t.rpptable"
    whole = tabulate(small(Judge()))
    env = small(Stopped())
    with contextlib.suppress(KeyboardInterrupt):
        tabulate(env, path)
    place = Path(f"{path}.parts")
    kept = {file.name: file.read_bytes() for file in place.iterdir()}
    missing = 4 * 7 * 8  # prompts of the last four users

    def resume(changed: Mapping[str, bytes], lost: int) -> Callable[[], str]:
        def work() -> str:
            shutil.rmtree(place, ignore_errors=True)
            path.unlink(missing_ok=True)
            place.mkdir()
            for name, content in {**kept, **changed}.items():
                (place / name).write_bytes(content)
            env.recommender = judge = Judge()
            if not same(tabulate(env, path), whole):
                return "it became part of another table"
            most = missing + lost * 8 * 7 * 8
            return f"{judge.asked} prompts were asked" if judge.asked > most else ""

        return work

    first, second, note = "000000.npz", "000001.npz", "provenance.json"
    for name, content in damages(kept[first]):
        attempt(count, name, resume({first: content}, 1))
    swapped = {first: kept[second], second: kept[first]}
    attempt(count, "swapped", resume(swapped, 2))
    attempt(count, "one twice", resume({second: kept[first]}, 1))
    other = small(Stopped(), users=19)
    with contextlib.suppress(KeyboardInterrupt):
        tabulate(other, folder / "other")
    foreign = (folder / "other.parts" / first).read_bytes()
    attempt(count, "of another table", resume({first: foreign}, 1))
    for content in (b"", b"{", b"[]", b"\xff\xfe", b"[" * 100_000, kept[note][:50]):
        attempt(count, f"note {content[:9]!r}", resume({note: content}, 0))
    return count


KILLED = """
import sys
from attack_tables import Judge, small
from rpp_env.table import tabulate

if __name__ == "__main__":
    def progress(done, total):
        print(done, flush=True)

    tabulate(small(Judge(), 40), sys.argv[1], processes=int(sys.argv[2]), progress=progress)
"""


def tabulation_kills(folder: Path) -> Count:
    """Tabulations that are killed at any moment lose no answer that was reported."""
    count, rng = Count(), np.random.default_rng(0)
    whole = tabulate(small(Judge(), 40))
    script = folder / "killed.py"
    script.write_text(KILLED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for number in range(KILLS):
        path = folder / f"{number}.rpptable"
        command = [sys.executable, str(script), str(path), str(1 + number % 2)]
        child = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert child.stdout is not None
        reported, wanted = 0, int(rng.integers(0, 6)) * 8
        for line in child.stdout:
            reported = int(line)
            if reported >= wanted:
                time.sleep(rng.uniform(0, 0.05))
                child.send_signal(signal.SIGKILL)
                break
        reported = max([reported, *map(int, child.stdout.read().split())])
        child.wait()

        def resume(path: Path = path, reported: int = reported) -> str:
            env = small(Judge(), 40)
            if not same(tabulate(env, path), whole):
                return "it became another table"
            asked, most = env.recommender.asked, (40 - reported) * 7 * 8
            return f"{asked} prompts were asked, of {most}" if asked > most else ""

        attempt(count, f"after {reported} of 40 users", resume)
    return count


# ---- checkpoints and policies ----


def checkpoints(folder: Path) -> Count:
    """Trainings that go on from damaged checkpoints."""
    count = Count()
    env = small(tabulate(small(Judge(), 12)), 12)
    config = mappo.Config(
        total_steps=240, checkpoint_every=2, hidden=(16,), threads=1, tensorboard=False
    )

    class Stop(Exception):
        pass

    def stop(row: Mapping[str, float], _: Any) -> None:
        if row["iteration"] == 6:
            raise Stop

    def train(run: Path, **options: Any) -> dict[str, torch.Tensor]:
        mappo.train(env, config, run_dir=run, progress=False, **options)
        return read_tensors(run / "checkpoint.safetensors")[0]

    whole = train(folder / "whole")
    with contextlib.suppress(Stop):
        train(folder / "stopped", callbacks=[stop])
    content = (folder / "stopped" / "checkpoint.safetensors").read_bytes()

    def resume(damaged: bytes) -> Callable[[], str]:
        def work() -> str:
            with tempfile.TemporaryDirectory(dir=folder) as place:
                run = shutil.copytree(folder / "stopped", Path(place) / "run")
                (run / "checkpoint.safetensors").write_bytes(damaged)
                found = train(run, resume=True)
            equal = all(torch.equal(whole[name], found[name]) for name in whole)
            return "" if equal else "it ended elsewhere"

        return work

    attempt(count, "nothing", resume(content))
    if count.held != 1:
        count.notes.append("an undamaged checkpoint does not go on as it should")
    for name, damaged in damages(content):
        attempt(count, name, resume(damaged))
    return count


POLICY = """
import sys
from rpp_agents import load_policy
from rpp_env.errors import RPPError
try:
    load_policy(sys.argv[1])
    print("taken")
except RPPError as error:
    assert len(str(error)) < 2000
"""


def policies(folder: Path) -> Count:
    """Policies that ask for memory, or hold what nobody can play."""
    count, path = Count(), folder / "policy"
    env = small(Judge(), 12)
    config = mappo.Config(total_steps=20, hidden=(16,), threads=1)
    mappo.train(env, config, progress=False).save(path)
    tensors, about = read_tensors(path)
    first = next(iter(tensors))
    huge: dict[str, Any] = {
        "nvec": [10**9],
        "hidden": [10**9],
        "width": 10**12,
        "visible": [0] * 10**5,
        "encoder": {"kind": "ranking", "width": 9, "hidden": 10**6, "item": 10**6, "places": 1}
        | {"start": 0, "readers": [0], "agents": 4},
        "unknown": 1,
    }
    files: dict[str, Callable[[], None]] = {
        f"{key} {str(value)[:20]}": lambda key=key, value=value: write_tensors(
            path, tensors, {**about, "actor": {**about["actor"], key: value}}
        )
        for key, value in huge.items()
    }
    for key, value in (("kind", ["network"]), ("choice", 3), ("actor", None), ("kind", "values")):
        files[f"{key}={value}"] = lambda key=key, value=value: write_tensors(
            path, tensors, {**about, key: value}
        )
    files["not a number"] = lambda: write_tensors(
        path, {**tensors, first: tensors[first] * float("nan")}, about
    )
    files["no tensors"] = lambda: write_tensors(path, {}, about)
    for text in (
        {"kind": "random", "nvec": [10**9]},
        {"kind": "random", "nvec": [1e9]},
        {"kind": "random", "nvec": [-1]},
        {"kind": "fixed", "plan": [["a"]]},
        {"kind": "fixed", "plan": [[1], [2, 3]]},
        {"kind": "fixed"},
        {"kind": {}},
    ):
        files[str(text)] = lambda text=text: path.write_text(json.dumps(text)) and None
    files["nested"] = lambda: path.write_text('{"kind":' + "[" * 200_000) and None
    for name, write in files.items():
        write()
        status, out, err = bounded(POLICY, str(path), megabytes=3000)
        lost = "" if status == 0 else f"exit code {status}: {err.decode()[-200:]}"
        count.add(name, lost=lost, wrong=b"taken" in out and "it is taken")
    return count
