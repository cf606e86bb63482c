"""Hostile folders of runs, benches and studies; see `attack.py`."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from attack_count import Count, forked
from attack_tables import attempt, damages

from rpp_agents.cli import main
from rpp_agents.experiments.bench import Bench
from rpp_agents.experiments.plan import Study
from rpp_agents.experiments.run_files import FITTED, read_run, write_run
from rpp_agents.trainers import mappo
from rpp_env import RPPEnv
from rpp_env.errors import RPPError
from rpp_env.evaluation.baselines import Random

__all__ = ["reports", "run_folders"]

KEY = "sk-attacked"
MEGABYTES = 2000
SECONDS = 200
TAKEN, REFUSED = "-> taken", "-> refused"
"""What a fork prints of itself."""
PICKLE = b"\x80\x04cos\nabort\n)R."

Make = Callable[[Path, Path, str], None]
"""Puts something into a folder, given one outside it and the address of a server."""


@contextlib.contextmanager
def listening() -> Iterator[tuple[str, list[bytes]]]:
    """The address of a model server that refuses everything, and what reaches it."""
    server = socket.create_server(("127.0.0.1", 0), backlog=64)
    came: list[bytes] = []

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = server.accept()
                with peer, contextlib.suppress(OSError):
                    came.append(peer.recv(1 << 16))
                    peer.sendall(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n")

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.getsockname()[1]}/v1#stolen", came
    finally:
        server.shutdown(socket.SHUT_RDWR)
        server.close()


def world(content: Any) -> Make:
    """A ``world.json``; OUTSIDE and SERVER in its texts are filled in."""

    def make(folder: Path, outside: Path, address: str) -> None:
        text = content if isinstance(content, str) else json.dumps(content)
        text = text.replace("OUTSIDE", str(outside)).replace("SERVER", address)
        (folder / "world.json").write_text(text)

    return make


def raw(data: bytes, name: str = "world.json") -> Make:
    return lambda folder, *_: (folder / name).write_bytes(data) and None


def linked(name: str, target: str) -> Make:
    def make(folder: Path, outside: Path, _: str) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target.replace("OUTSIDE", str(outside)))

    return make


def piped(name: str) -> Make:
    def make(folder: Path, *_: Any) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return make


def sparse(name: str) -> Make:
    def make(folder: Path, *_: Any) -> None:
        with (folder / name).open("ab") as file:
            file.truncate(30 << 30)

    return make


def policy(*sizes: int) -> Make:
    def make(folder: Path, *_: Any) -> None:
        Random(sizes, seed=0).save(folder / "policy.safetensors")

    return make


def no_policy(folder: Path, *_: Any) -> None:
    (folder / "policy.safetensors").unlink()


RUNS: dict[str, Make] = {
    "a server": world({"model": "SERVER"}),
    "a rewriting server": world({"rewrite": "SERVER"}),
    "a server in capitals": world('{"model": "HTTP://127.0.0.1:9/v1#x"}'),
    "a server with a password": world({"model": "http://me:word@127.0.0.1:9/v1#x"}),
    "a server by a doubled key": world('{"model": "embedded", "model": "SERVER"}'),
    "a server by an escaped key": world('{"\\u006dodel": "SERVER"}'),
    "a server and a proxy": world(
        {"model": "SERVER", "model_options": '{"api_key": "x", "plain_http_key": true}'}
    ),
    "a server under a recording": world({"model": "SERVER", "recording": "OUTSIDE/made.sqlite"}),
    "weights of a hub": world({"model": "hf:somebody/something"}),
    "an engine": world({"model": "vllm:/somewhere"}),
    "code as model": world({"model": "os:abort"}),
    "code as dataset": world({"dataset": "os:abort"}),
    "code as rewriter": world({"rewrite": "os:abort"}),
    "code as book": world({"book": "os:abort"}),
    "a recording outside": world({"recording": "OUTSIDE/made.sqlite"}),
    "a recording above": world({"recording": "../outside/made.sqlite"}),
    "a recording to read": world({"model": "recording:/etc/passwd"}),
    "a table of a device": world({"model": "table:/dev/zero"}),
    "a table by a server": world({"model": "table:SERVER"}),
    "a data folder": world({"root": "OUTSIDE"}),
    "a dataset's path": world({"dataset": "../../../etc"}),
    "a selection": world({"negatives": "retrieved", "selection": "/etc/passwd"}),
    "a book": world({"book": "/etc/passwd.toml"}),
    "a seed of 5,000 digits": world('{"data_seed": ' + "9" * 5_000 + "}"),
    "a negative seed": world({"data_seed": -1}),
    "a billion candidates": world({"candidates": 10**9}),
    "candidates of true": world({"candidates": True}),
    "texts for numbers": world({"candidates": "20", "data_seed": [1]}),
    "numbers for texts": world({"dataset": 5, "model": None}),
    "unknown rules": world({"rules": "RPP-v9"}),
    "a key that does not exist": world({"__class__": "os:abort", "FILE": "/etc/passwd"}),
    "deep JSON": world("[" * 1_000_000),
    "deep JSON in a key": world('{"model": ' + "[" * 100_000 + "]" * 100_000 + "}"),
    "30 GB with holes": sparse("world.json"),
    "UTF-16": raw('{"model": "hf:x/y"}'.encode("utf-16")),
    "nulls": raw(b"\0" * 1000),
    "nothing": raw(b""),
    "a world that is a device": linked("world.json", "/dev/zero"),
    "a world that is a pipe": piped("world.json"),
    "a world of the system": linked("world.json", "/etc/passwd"),
    "a world that is itself": linked("world.json", "world.json"),
    "a policy of other shape": policy(3, 2),
    "a policy of a billion actions": lambda folder, *_: (
        (folder / "policy.safetensors").write_text('{"kind": "random", "nvec": [1000000000]}')
        and None
    ),
    "a policy that is a pickle": raw(PICKLE, "policy.safetensors"),
    "a policy that is a device": linked("policy.safetensors", "/dev/zero"),
    "a policy that is a pipe": piped("policy.safetensors"),
    "a policy of 30 GB": sparse("policy.safetensors"),
    "a policy that is a folder": lambda folder, *_: (
        no_policy(folder),
        (folder / "policy.safetensors").mkdir(),
    )[1],
    "no policy": no_policy,
    "a checkpoint for a policy": raw(b"\xff" * 100, "policy.safetensors"),
}
"""What `rpp-env play` and `rpp-env evaluate` are given."""

RESUMED: dict[str, Make] = {
    "resumed: progress elsewhere": linked("progress.csv", "OUTSIDE/made.csv"),
    "resumed: a file's end": linked("progress.csv", "OUTSIDE/mine"),
    "resumed: TensorBoard elsewhere": linked("tensorboard", "OUTSIDE"),
    "resumed: a picture elsewhere": linked("learning_curve.png", "OUTSIDE/made.png"),
    "resumed: a lock elsewhere": linked(".checkpoint.safetensors.lock", "OUTSIDE/made.lock"),
    "resumed: progress is a pipe": piped("progress.csv"),
    "resumed: a lock is a pipe": piped(".checkpoint.safetensors.lock"),
    "resumed: the checkpoint is a pipe": piped("checkpoint.safetensors"),
    "resumed: a checkpoint of 30 GB": sparse("checkpoint.safetensors"),
    "resumed: a checkpoint that is a policy": lambda folder, *_: Random((2, 2), seed=0).save(
        folder / "checkpoint.safetensors"
    ),
    "resumed: a checkpoint that is a pickle": raw(
        b"\x80\x04cos\nabort\n", "checkpoint.safetensors"
    ),
}
"""What a training goes on from."""


def play(*words: str) -> None:
    """Play and evaluate, as the command does."""
    for verb, *more in (["play"], ["evaluate", "--max-users", "4", "--budget", "1600"]):
        report(verb, words[0], *more, *words[1:])


def resume(run: str) -> None:
    """Go on with a training."""
    env = RPPEnv.make(num_users=60, num_items=100, num_envs=2)
    config = mappo.Config(total_steps=4, hidden=(8,))
    try:
        mappo.train(env, config, run_dir=run, resume=True, progress=False)
        print(TAKEN)
    except RPPError:
        print(REFUSED)


def report(*words: str) -> None:
    """A command of `rpp-env`."""
    code = main(list(words))
    assert code in (0, 2), code
    print(TAKEN if code == 0 else REFUSED, flush=True)


def run_folders(folder: Path) -> Count:
    """Played, evaluated and resumed: nothing asked of a server, no file outside, no key sent."""
    count = Count()
    with listening() as (address, came):
        for number, (name, make) in enumerate((RUNS | RESUMED).items()):
            root = folder / str(number)
            run, outside = root / "run", root / "outside"
            for place in (run, outside, root / "home"):
                place.mkdir(parents=True)
            (outside / "mine").write_text("mine")
            Random((5, 5, 9, 5), seed=0).save(run / "policy.safetensors")
            (run / "world.json").write_text("{}")
            make(run, outside, address)
            before = len(came)
            code = resume if name in RESUMED else play
            said = _run(count, name, code, str(run), root=root)
            if said is None:
                continue
            made = sorted(x.name for x in outside.iterdir())
            lost = ""
            if len(came) > before:
                lost = f"a server was asked: {came[before][:60]!r}"
            elif made != ["mine"] or (outside / "mine").read_text() != "mine":
                lost = f"files outside: {made}"
            count.add(name, lost=lost, wrong="it is taken" if TAKEN in said else "")
        # Confirmed servers are asked, and get no key.
        for name in ("model", "rewrite"):
            root = folder / f"trusted-{name}"
            run = root / "run"
            for place in (run, root / "home"):
                place.mkdir(parents=True)
            Random((5, 5, 9, 5), seed=0).save(run / "policy.safetensors")
            (run / "world.json").write_text(json.dumps({name: address}))
            before = len(came)
            said = _run(count, name, play, str(run), "--trust", address, root=root)
            asked = came[before:]
            if said is not None:
                lost = "the key was sent" if any(KEY.encode() in one for one in asked) else ""
                wrong = "" if asked else "a confirmed server was not asked"
                count.add(f"{name}, confirmed", lost=lost, wrong=wrong)
    return count


def _run(count: Count, name: str, work: Callable[..., None], *words: str, root: Path) -> str | None:
    """What a fork prints; None where it is counted as lost already."""
    home = root / "home"
    setting = {"OPENAI_API_KEY": KEY, "HOME": str(home), "RPP_ENV_CACHE": str(home / "cache")}
    status, shown = forked(
        lambda: work(*words), home, megabytes=MEGABYTES, seconds=SECONDS, environment=setting
    )
    if status is None:
        count.add(name, lost="no end within its time")
    elif status or "Traceback" in shown:
        count.add(name, lost=f"exit code {status}: {shown[-300:]}")
    else:
        return shown
    return None


# ---- benches and studies ----

PLAN: dict[str, Any] = {
    "seeds": [0, 1],
    "points": 3,
    "budget": 100,
    "settings": [
        {"name": "tiny", "draws": [1, 2], "options": {"num_users": 300, "num_items": 100}}
        | {"train_users": 5, "validation_users": 5, "test_users": 12}
    ],
    "methods": [
        {"label": "Manual", "method": "manual"},
        {"label": "Random", "method": "random"},
        {"label": "RPP", "method": "rpp", "config": {"trainer": "mappo"}},
    ],
}
BENCH: dict[str, Any] = {
    "total_steps": 640,
    "evaluations": 2,
    "test_users": 12,
    "seeds": [0, 1],
    "worlds": [1, 2],
    "environments": [{"name": "tiny"}],
    "algorithms": [{"label": "A", "trainer": "mappo"}, {"label": "B", "trainer": "ippo"}],
}
USERS = 12


def toml(table: Mapping[str, Any]) -> str:
    """TOML, of which JSON's lists and texts are a part."""

    def one(value: Any) -> str:
        if isinstance(value, dict):
            return "{" + ", ".join(f"{json.dumps(k)} = {one(v)}" for k, v in value.items()) + "}"
        return f"[{', '.join(map(one, value))}]" if isinstance(value, list) else json.dumps(value)

    return "".join(f"{key} = {one(value)}\n" for key, value in table.items())


def fitted(seed: int) -> dict[str, Any]:
    """What a study finds, invented."""
    rng = np.random.default_rng(seed)
    scores = {name: rng.random(USERS).round(5).tolist() for name in ("score", "first", "last")}
    shares = {
        agent: [[1 / size] * size]
        for agent, size in zip(
            ("role_playing", "history_records", "reasoning_guidance", "output_format"),
            (5, 5, 9, 5),
            strict=True,
        )
    }
    curve = [{"calls": 10 * i, "train": 0.2, "validation": 0.2, "test": 0.2} for i in range(3)]
    return {
        "training": {"calls": 30, "unique": 20, "tokens": 500, "seconds": 1.5, "users": 5},
        "testing": {"calls": 1, "different": 1.0, "tokens": 300.0, "named": 1.0},
        "curve": curve,
        "whose": "abc",
        "unsure": [2],
        "choices": {"kinds": ["all users"], "counts": [USERS], "shares": shares},
        "prompts": [[[0, 5, 0, 0]]] * USERS,
        "scores": {**scores, "merged": scores["score"]},
    }


def trained(seed: int) -> dict[str, Any]:
    """What a bench finds, invented."""
    values = np.random.default_rng(seed).random(USERS).round(5).tolist()
    return {
        "points": [320, 640],
        "played": [320, 640],
        "scores": [0.2, 0.3],
        "score": 0.3,
        "first": 0.3,
        "last": 0.3,
        "greedy": True,
        "seconds": 1.0,
        "processor_seconds": 1.0,
        "steps_per_second": 640.0,
        "tables": {"train": "a", "test": "b"},
        "whose": "abc",
        "versions": {"numpy": "2.0"},
        "users": {"mean": values, "first": values, "last": values},
    }


def study_folder(folder: Path, plan: Mapping[str, Any] = PLAN) -> list[Path]:
    """A finished study; its cells."""
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(toml(plan))
    cells = Study.parse(dict(plan), "tiny").runs()
    for number, cell in enumerate(cells):
        write_run(folder / cell.file, {"asked": cell.asked, **fitted(number)})
    return [folder / cell.file for cell in cells]


def bench_folder(folder: Path) -> list[Path]:
    """A finished bench without baselines; its cells."""
    folder.mkdir(parents=True)
    (folder / "tiny.toml").write_text(toml(BENCH))
    cells = Bench.parse(dict(BENCH), "tiny").runs()
    for number, cell in enumerate(cells):
        write_run(folder / cell.file, {"asked": cell.asked, **trained(number)})
    return [folder / cell.file for cell in cells]


def put(*keys: Any, value: Any) -> Callable[[Path], None]:
    """Change one value of a cell, and its digest with it."""

    def make(path: Path) -> None:
        found = json.loads(path.read_bytes())
        del found["sha256"]
        place = found
        for key in keys[:-1]:
            place = place[key]
        if value is None:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value
        write_run(path, found)

    return make


def _replaced(data: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(data) and None


def _hollow(path: Path) -> None:
    with path.open("ab") as file:
        file.truncate(30 << 30)


def _device(path: Path) -> None:
    path.unlink()
    path.symlink_to("/dev/zero")


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


NAN, INF = float("nan"), float("inf")
COLUMNS = ("score", "first", "last", "merged")
ANY: dict[str, Callable[[Path], None]] = {
    "nothing": _replaced(b""),
    "no JSON": _replaced(b"{"),
    "a list": _replaced(b"[]"),
    "a number": _replaced(b"5"),
    "null": _replaced(b"null"),
    "deep JSON": _replaced(b"[" * 1_000_000),
    "deep JSON, closed": _replaced(b'{"asked": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "bytes": _replaced(bytes(range(256)) * 100),
    "UTF-16": _replaced('{"asked": {}}'.encode("utf-16")),
    "five million tables": _replaced(b"[" + b"{}," * (5 << 20) + b"0]"),
    "a number of a million digits": _replaced(b'{"asked": ' + b"9" * 1_000_000 + b"}"),
    "30 GB with holes": _hollow,
    "a device": _device,
    "a pipe": _pipe,
    "asked is a list": put("asked", value=[1]),
    "asked of something else": put("asked", "seed", value=7),
    "whose of a megabyte": put("whose", value="x" * (1 << 20)),
    "whose that steers": put("whose", value="\x1b[2J\u202e"),
    "nothing of whose": put("whose", value=None),
    "a key that does not exist": put("more", value=[[]] * 1000),
}
FITS: dict[str, Callable[[Path], None]] = {
    "scores: NaN": put("scores", "score", 3, value=NAN),
    "scores: 5": put("scores", "first", 3, value=5.0),
    "scores: a text": put("scores", "last", 3, value="0.5"),
    "scores: true": put("scores", "merged", 3, value=True),
    "scores: a list": put("scores", "score", 3, value=[0.1]),
    "scores: one fewer": put("scores", "score", value=[0.1] * 11),
    "scores: another number of users": put("scores", value=dict.fromkeys(COLUMNS, [0.1] * 7)),
    "scores: none": put("scores", value={key: [] for key in COLUMNS}),
    "scores: beyond floats": put("scores", "score", 0, value=10**400),
    "unsure: far away": put("unsure", value=[10**6]),
    "unsure: other users": put("unsure", value=[1]),
    "unsure: texts": put("unsure", value=["1"]),
    "curve: a number": put("curve", value=5),
    "curve: other keys": put("curve", 0, value={"calls": 1}),
    "curve: infinite": put("curve", 0, "calls", value=INF),
    "training: a list": put("training", value=[]),
    "training: negative": put("training", "calls", value=-1),
    "testing: texts": put("testing", "calls", value="many"),
    "choices: too few counts": put("choices", "counts", value=[]),
    "choices: ragged": put("choices", "shares", "role_playing", value=[[0.1], [0.2, 0.3]]),
    "choices: other agents": put("choices", "shares", value={"x": [[1.0]]}),
    "choices: kinds of tables": put("choices", "kinds", value=[{}]),
    "prompts: of no book": put("prompts", 0, value=[[99, 5, 0, 0]]),
    "prompts: of three numbers": put("prompts", 0, value=[[0, 5, 0]]),
    "prompts: ragged": put("prompts", 0, value=[[0, 5, 0, 0]] * 2),
    "prompts: of users that are not": put("prompts", value=[[[0, 5, 0, 0]]] * 40),
    "prompts: a text": put("prompts", value="x"),
}
TRAINS: dict[str, Callable[[Path], None]] = {
    "score: NaN": put("score", value=NAN),
    "scores: too few": put("scores", value=[0.1]),
    "scores: texts": put("scores", value=["a", "b"]),
    "points: negative": put("points", value=[-1, 5]),
    "points: a table": put("points", value={}),
    "users: ragged": put("users", "first", value=[0.1]),
    "users: others": put("users", value=dict.fromkeys(("mean", "first", "last"), [0.1] * 5)),
    "users: none": put("users", value={"mean": [], "first": [], "last": []}),
    "tables: a list": put("tables", value=[]),
    "tables: other tables": put("tables", "test", value="c"),
    "versions: HTML": put("versions", value={"numpy": "<script>alert(1)</script>"}),
    "versions: ten thousand": put("versions", value={f"x{i}": "1" for i in range(10_000)}),
    "seconds: infinite": put("seconds", value=INF),
    "greedy: no": put("greedy", value=False),
}

MANY = [{"name": f"s{i}"} for i in range(300)]
PLANS: dict[str, str] = {
    "a plan of 300 settings": toml(PLAN | {"settings": MANY}),
    "a plan of ten million runs": toml(
        PLAN
        | {"seeds": list(range(1000)), "settings": MANY[:200]}
        | {"methods": [{"label": f"m{i}", "method": "manual"} for i in range(200)]}
    ),
    "a plan nested by dots": "x" + ".x" * 20_000 + " = 1\n" + toml(PLAN),
    "a plan nested by brackets": "x = " + "[" * 500 + "]" * 500 + "\n" + toml(PLAN),
    "a plan with a hexadecimal seed": toml(PLAN).replace(
        "seeds = [0, 1]", f"seeds = [0x{'f' * 9000}]"
    ),
    "a plan with a date": toml(PLAN).replace('"num_users" = 300', '"num_users" = 2026-01-01'),
    "a plan with infinite points": toml(PLAN).replace("points = 3", "points = inf"),
    "a plan of a trillion points": toml(PLAN).replace("points = 3", "points = 1_000_000_000_000"),
    "a plan with texts for numbers": toml(PLAN).replace('"num_users" = 300', '"num_users" = "x"'),
    "a plan with candidates of a text": toml(PLAN).replace(
        '"num_users" = 300', '"num_candidates" = "x"'
    ),
    "a plan with unknown rules": toml(PLAN).replace('"num_users" = 300', '"rules" = "x"'),
    "a plan of ten million users": toml(PLAN).replace(
        '"num_users" = 300', '"num_users" = 10_000_000'
    ),
    "a plan of bytes": "\x00\x01",
    "a plan of 2 MB": "# " + "x" * (2 << 20) + "\n" + toml(PLAN),
    "a plan that is code": toml(PLAN).replace('"rpp"', '"os:abort"'),
}


def reports(folder: Path) -> Count:
    """Cells, plans and folders of benches and studies, reported by `rpp-env`."""
    count = Count()

    def judge(name: str, root: Path, *words: str, wanted: str = REFUSED) -> None:
        (root / "home").mkdir(parents=True, exist_ok=True)
        said = _run(count, name, report, *words, root=root)
        if said is not None:
            count.add(name, wrong="" if wanted in said else f"not {wanted}")

    number = 0
    for kind, make_folder, changes in (
        ("study", study_folder, ANY | FITS),
        ("bench", bench_folder, ANY | TRAINS),
    ):
        for name, change in ({"as it is": lambda _: None} | changes).items():
            root = folder / str(number)
            number += 1
            place = root / "out"
            change(make_folder(place)[0])
            words = ["report", str(place)]
            if kind == "bench":
                words = ["bench", str(place / "tiny.toml"), "--report", "--out", str(place)]
            wanted = TAKEN if name == "as it is" else REFUSED
            judge(f"{kind}: {name}", root, *words, wanted=wanted)
    for name, text in PLANS.items():
        root = folder / str(number)
        number += 1
        study_folder(root / "out")
        (root / "out" / "tiny.toml").write_text(text)
        judge(name, root, "report", str(root / "out"))
    _flips(count, folder / "flips")
    return count


def _flips(count: Count, folder: Path) -> None:
    """200 flipped bits and 60 cuts of a cell."""
    path = study_folder(folder)[0]
    whole = read_run(path, FITTED)
    for name, content in damages(path.read_bytes()):
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            attempt(
                count,
                f"a cell with {name}",
                lambda: "" if read_run(path, FITTED) == whole else "it is read as another",
            )
