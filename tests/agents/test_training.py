"""The one interface of all trainers, and the run that they share."""

from __future__ import annotations

import contextlib
import errno
import importlib
import inspect
import itertools
import json
import math
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from power_cut import Disk, restore

import rpp_agents
import rpp_env
from rpp_agents import a2c, iql, load_policy, mappo, search_fixed
from rpp_agents.policy import read_tensors, write_tensors
from rpp_agents.runs import read_progress
from rpp_agents.training import RunConfig, check_numbers
from rpp_env.errors import (
    BrokenContract,
    InvalidData,
    InvalidOption,
    RPPWarning,
    WriteFailed,
)

SMALL: dict[str, Any] = {
    "total_steps": 64 * 5 * 4,
    "checkpoint_every": 2,
    "evaluations": 2,
    "eval_episodes": 64,
    "hidden": (16,),
    "tensorboard": False,
    "threads": 1,
}


@pytest.fixture(params=rpp_agents.TRAINERS)
def algorithm(request: pytest.FixtureRequest) -> Any:
    return importlib.import_module(f"rpp_agents.trainers.{request.param}")


def test_every_trainer_has_the_same_interface(algorithm: Any) -> None:
    config = algorithm.Config()
    assert isinstance(config, RunConfig)
    assert inspect.signature(algorithm.train).parameters.keys() == (
        inspect.signature(mappo.train).parameters.keys()
    )
    assert algorithm.train.__doc__
    assert {"Parameters", "Returns", "Raises"} <= set(algorithm.train.__doc__.split())
    assert getattr(rpp_agents, algorithm.__name__.rpartition(".")[2]) is algorithm


def test_every_trainer_returns_a_policy_that_can_be_saved(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    env, held_out = toys.Contextual(64), toys.Contextual(64, seed=1)
    policy = algorithm.train(
        env, algorithm.Config(**SMALL), run_dir=tmp_path, eval_env=held_out, progress=False
    )
    observations, _ = held_out.reset(seed=0)
    masks = held_out.action_masks()
    expected, _ = policy.act(observations, masks, greedy=True)
    assert expected.shape == (64, 4)
    assert (expected < held_out.nvec).all()
    again = load_policy(tmp_path / "policy.safetensors")
    np.testing.assert_array_equal(again.act(observations, masks, greedy=True)[0], expected)
    assert (tmp_path / "learning_curve.png").stat().st_size > 1000


def test_the_same_seed_gives_the_same_run_whatever_torch_drew_before(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    kept = []
    for name, before in (("one", 1), ("two", 2)):
        torch.manual_seed(before)
        algorithm.train(
            toys.Contextual(64),
            algorithm.Config(**SMALL, seed=3),
            run_dir=tmp_path / name,
            progress=False,
        )
        kept.append(read_tensors(tmp_path / name / "checkpoint.safetensors")[0])
    assert kept[0].keys() == kept[1].keys()
    assert all(torch.equal(kept[0][key], kept[1][key]) for key in kept[0])


class Stop:
    """Interrupts a run as Ctrl-C would, after some iterations."""

    def __init__(self, after: int) -> None:
        self.after = after

    def __call__(self, row: Any, policy: Any) -> None:
        if row["iteration"] == self.after:
            raise KeyboardInterrupt


@pytest.mark.parametrize("stop", [1, 3])
def test_every_trainer_resumes_bit_for_bit(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any, stop: int
) -> None:
    def train(name: str, **options: Any) -> Any:
        config = algorithm.Config(**SMALL)
        env = toys.Contextual(64)
        folder = tmp_path / name
        return algorithm.train(env, config, run_dir=folder, progress=False, **options)

    train("whole")
    with pytest.raises(KeyboardInterrupt):
        train("parts", callbacks=[Stop(stop)])
    left = read_tensors(tmp_path / "parts" / "checkpoint.safetensors")[1]
    assert left["iteration"] == stop // 2 * 2
    train("parts", resume=True)
    whole, parts = (
        read_tensors(tmp_path / name / "checkpoint.safetensors")[0] for name in ("whole", "parts")
    )
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[key], parts[key]) for key in whole)


def test_a_checkpoint_of_another_layout_is_refused(
    toys: SimpleNamespace, algorithm: Any, tmp_path: Any
) -> None:
    config = algorithm.Config(**SMALL)
    algorithm.train(toys.Contextual(64), config, run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    write_tensors(path, {f"old.{name}": tensor for name, tensor in tensors.items()}, about)
    with pytest.raises(InvalidData, match="of this version"):
        algorithm.train(toys.Contextual(64), config, run_dir=tmp_path, resume=True, progress=False)


def test_the_default_discount_is_that_of_the_id(toys: SimpleNamespace, tmp_path: Path) -> None:
    def trained(env: Any, folder: str, **changes: Any) -> dict[str, Any]:
        small = SMALL | {"total_steps": 320, "evaluations": 0} | changes
        mappo.train(env, mappo.Config(**small), run_dir=tmp_path / folder, progress=False)
        tensors, _ = read_tensors(tmp_path / folder / "policy.safetensors")
        config = json.loads((tmp_path / folder / "config.json").read_text())
        return {"gamma": config["gamma"], "weights": {k: x.tolist() for k, x in tensors.items()}}

    env = rpp_env.RPPEnv.make(split="train", num_envs=32, max_users=32)
    default, zero = trained(env, "default"), trained(env, "zero", gamma=0.0)
    assert default == zero
    assert default["gamma"] == 0.0
    assert trained(env, "other", gamma=0.95)["weights"] != zero["weights"]
    assert trained(toys.Contextual(64), "toy")["gamma"] == 0.95
    theirs = SimpleNamespace(episode="theirs")
    assert mappo.Config().in_episode(theirs.episode).gamma == 0.95


def test_the_released_learner_has_the_discount_of_the_paper() -> None:
    episode = rpp_env.Episode("mine-v0", 5, discount=0.5)
    assert a2c.Config().in_episode(episode).gamma == 0.5
    assert a2c.Config(gamma=0.0).in_episode(episode).gamma == 0.0
    assert a2c.Config.paper().in_episode(episode).gamma == 0.95
    assert a2c.Config(released=True).in_episode(episode).gamma == 0.95


def test_divergence_is_an_error(toys: SimpleNamespace, algorithm: Any) -> None:
    with pytest.raises(FloatingPointError, match="try a lower learning_rate"):
        algorithm.train(
            toys.Contextual(64), algorithm.Config(**SMALL, learning_rate=1e30), progress=False
        )


@pytest.mark.parametrize("paid", [np.inf, -np.inf, np.nan, 1e300])
def test_rewards_that_are_not_finite_are_refused(
    toys: SimpleNamespace, algorithm: Any, paid: float
) -> None:
    class Broken(toys.Contextual):  # type: ignore[misc, name-defined]
        def step(self, actions: Any) -> Any:
            step = super().step(actions)
            step.rewards[3] = paid
            return step

    with pytest.raises(BrokenContract, match=r"environment 3 paid .*: rewards must be finite"):
        algorithm.train(Broken(64), algorithm.Config(**SMALL), progress=False)


def test_a_configs_errors_state_the_allowed_numbers() -> None:
    config = mappo.Config()
    with pytest.raises(InvalidOption, match=r"gamma must lie in 0\.\.1, not 1\.5"):
        replace(config, gamma=1.5)
    with pytest.raises(InvalidOption, match="total_steps must be 1 or more, not 0"):
        replace(config, total_steps=0)
    with pytest.raises(InvalidOption, match="learning_rate must be above 0, not 0"):
        replace(config, learning_rate=0)
    with pytest.raises(InvalidOption, match="seed must be 0 or more, not nan"):
        check_numbers(SimpleNamespace(seed=float("nan")), 0, "seed")


def test_every_field_of_every_config_is_explained(algorithm: Any) -> None:
    for config in (RunConfig, algorithm.Config):
        lines = inspect.getsource(config).splitlines()
        own = [field.name for field in fields(config) if field.name in config.__annotations__]
        for name in own:
            at = next(i for i, line in enumerate(lines) if line.startswith(f"    {name}:"))
            said = next(line for line in lines[at + 1 :] if line.lstrip().startswith('"""'))
            assert len(said) > 15, name


def test_who_played_is_not_averaged(algorithm: Any) -> None:
    rows: list[Any] = []
    algorithm.train(
        rpp_env.RPPEnv.make(num_users=120, num_items=100, num_envs=16),
        replace(algorithm.Config(**SMALL), total_steps=80),
        callbacks=[lambda row, _: rows.append(row)],
        progress=False,
    )
    assert "info/rank" in rows[0]
    assert "info/user" not in rows[0]


def test_training_is_as_long_whatever_was_played_before(toys: SimpleNamespace) -> None:
    env = rpp_env.RPPEnv.make(num_users=120, num_items=100, num_envs=16)
    rows: list[float] = []
    env.reset(options={"users": [0, 1, 2]})
    mappo.train(
        env,
        mappo.Config(total_steps=160),
        callbacks=[lambda row, _: rows.append(row["steps"])],
        progress=False,
    )
    assert rows == [80.0, 160.0]
    assert env.num_envs == 16
    search_fixed(env, budget=1_600)
    assert env.num_envs == 16


def test_the_ends_of_episodes_are_played_however_short_an_iteration_is(
    toys: SimpleNamespace,
) -> None:
    env = toys.Contextual(4, horizon=15)
    step, clocks = env.step, []

    def noted(actions: Any) -> Any:
        clocks.extend(env._clock.tolist())
        return step(actions)

    env.step = noted
    # Segments of 25 steps would end in every second episode's tenth.
    config = a2c.Config.paper(total_steps=4 * 150, checkpoint_every=25)
    a2c.train(env, config, progress=False)
    assert set(np.bincount(clocks)) == {40}


def test_training_and_evaluation_need_separate_environments(toys: SimpleNamespace) -> None:
    env = toys.Contextual(4)
    with pytest.raises(InvalidOption, match="make another"):
        mappo.train(env, mappo.Config(total_steps=20), eval_env=env, progress=False)


def test_another_problem_of_the_same_shape_is_not_resumed(tmp_path: Path) -> None:
    world: dict[str, Any] = {"num_users": 120, "num_items": 100, "num_envs": 8}
    config = mappo.Config(total_steps=40, tensorboard=False)
    mappo.train(rpp_env.RPPEnv.make(**world), config, run_dir=tmp_path, progress=False)
    for changed in ({"observe": "private"}, {"max_users": 50}, {"task_seed": 1}):
        with pytest.raises(InvalidOption, match="another environment: plays was 'RPP-v0, "):
            mappo.train(
                rpp_env.RPPEnv.make(**world, **changed),
                config,
                run_dir=tmp_path,
                resume=True,
                progress=False,
            )


@pytest.mark.parametrize("about", [{"kind": "checkpoint"}, ["checkpoint"]])
def test_a_checkpoint_with_an_incomplete_header_is_refused(
    toys: SimpleNamespace, tmp_path: Path, about: Any
) -> None:
    write_tensors(tmp_path / "checkpoint.safetensors", {"x": torch.zeros(1)}, about)
    with pytest.raises(InvalidData, match=r"not a checkpoint of this version|not written by"):
        mappo.train(
            toys.Contextual(4),
            mappo.Config(total_steps=20),
            run_dir=tmp_path,
            resume=True,
            progress=False,
        )


def test_a_checkpoint_without_moments_is_refused(toys: SimpleNamespace, tmp_path: Path) -> None:
    config = mappo.Config(total_steps=40, tensorboard=False)
    mappo.train(toys.Contextual(4), config, run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    bare = {name: x for name, x in tensors.items() if not name.startswith("optimizer.")}
    write_tensors(path, bare, about)
    with pytest.raises(InvalidData, match="moments"):
        mappo.train(toys.Contextual(4), config, run_dir=tmp_path, resume=True, progress=False)


def test_half_written_files_of_a_killed_run_are_deleted(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    left = tmp_path / ".checkpoint.safetensors-4242-0a1b2c3d.part"
    left.write_bytes(b"half")
    mappo.train(
        toys.Contextual(4),
        mappo.Config(total_steps=20, tensorboard=False),
        run_dir=tmp_path,
        progress=False,
    )
    assert not list(tmp_path.glob(".*part"))


@pytest.mark.parametrize("damage", ["epsilon", "network", "tensors"])
def test_a_damaged_policy_of_values_gets_a_sentence(
    toys: SimpleNamespace, tmp_path: Path, damage: str
) -> None:
    policy = iql.train(toys.Contextual(4), iql.Config(total_steps=20, batch=4), progress=False)
    policy.save(tmp_path / "q.safetensors")
    tensors, about = read_tensors(tmp_path / "q.safetensors")
    if damage == "epsilon":
        del about["epsilon"]
    elif damage == "network":
        about["network"]["unknown"] = 1
    else:
        tensors.pop(next(iter(tensors)))
    write_tensors(tmp_path / "q.safetensors", tensors, about)
    with pytest.raises(InvalidData, match="another version"):
        load_policy(tmp_path / "q.safetensors")


@pytest.mark.slow
def test_a_run_resumes_after_a_power_cut_with_the_same_results(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    config = mappo.Config(
        total_steps=60, checkpoint_every=1, hidden=(8,), threads=1, tensorboard=False
    )

    def train(folder: Path, **options: Any) -> Any:
        env = toys.Contextual(4, users=20)
        return mappo.train(env, config, run_dir=folder, progress=False, **options)

    def rows(folder: Path) -> list[list[str]]:
        lines = (folder / "progress.csv").read_text().splitlines()
        at = [i for i, key in enumerate(lines[0].split(",")) if not key.startswith("seconds")]
        at = [i for i in at if lines[0].split(",")[i] != "steps_per_second"]
        return [[line.split(",")[i] for i in at] for line in lines]

    root = tmp_path / "at work"
    root.mkdir()
    reached = 0

    def progress(row: Any, _: Any) -> None:
        nonlocal reached
        reached = int(row["iteration"])

    disk = Disk(root, note=lambda: reached)
    with disk.watch():
        train(root / "run", callbacks=[progress])
    assert reached == 3
    whole = read_tensors(root / "run" / "checkpoint.safetensors")[0]
    for i, (state, said) in enumerate(disk.cuts):
        left = restore(state, tmp_path / str(i)) / "run"
        if said:  # its checkpoint is safe
            assert read_tensors(left / "checkpoint.safetensors")[1]["iteration"] >= said
        train(left, resume=True)
        again = read_tensors(left / "checkpoint.safetensors")[0]
        assert all(torch.equal(whole[key], again[key]) for key in whole)
        assert rows(left) == rows(root / "run")
        assert not list(left.glob(".*"))


@pytest.mark.parametrize(("kilobytes", "reached"), [(2, None), (120, 0)])
def test_a_full_disk_ends_a_run_in_a_sentence_and_a_checkpoint_that_loads(
    tmp_path: Path, kilobytes: int, reached: int | None
) -> None:
    """No checkpoint fits; only the first one does, which holds no moments yet."""
    file = tmp_path / "script.py"
    file.write_text(f"""
import resource
import rpp_env
from rpp_agents import mappo
from rpp_env.errors import WriteFailed

env = rpp_env.RPPEnv.make(num_users=60, num_items=100, num_envs=4)
limit = {kilobytes * 1000}
try:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    mappo.train(
        env,
        mappo.Config(total_steps=60, checkpoint_every=1, hidden=(16,)),
        run_dir={str(tmp_path / "run")!r},
        progress=False,
    )
except WriteFailed as error:
    print(error)
""")
    ended = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "checkpoint.safetensors cannot be written: File too large; what was" in ended.stdout
    assert not ended.stderr
    kept = tmp_path / "run" / "checkpoint.safetensors"
    assert kept.exists() == (reached is not None)
    if reached is not None:
        assert read_tensors(kept)[1]["iteration"] == reached
    assert not list((tmp_path / "run").glob(".*"))


@pytest.mark.parametrize("after", [0, 2, 30])
def test_a_disk_that_is_full_for_tensorboard_ends_a_run_in_a_sentence(
    toys: SimpleNamespace,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    after: int,
) -> None:
    from tensorboard.summary.writer.record_writer import RecordWriter

    real, written = RecordWriter.write, itertools.count()

    def write(self: Any, data: bytes) -> None:
        if next(written) >= after:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(self, data)

    monkeypatch.setattr(RecordWriter, "write", write)
    config = mappo.Config(total_steps=80, checkpoint_every=1, hidden=(8,))
    with pytest.raises(WriteFailed, match="run cannot be written: No space left on device"):
        mappo.train(toys.Contextual(4), config, run_dir=tmp_path / "run", progress=False)
    assert capfd.readouterr() == ("", "")
    monkeypatch.undo()
    mappo.train(toys.Contextual(4), config, run_dir=tmp_path / "run", resume=True, progress=False)
    assert len(read_progress(tmp_path / "run")["steps"]) == 4


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_an_interrupt_that_a_library_catches_ends_the_training_at_that_iteration(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    steps = itertools.count()

    class Catching(toys.Contextual):  # type: ignore[misc, name-defined]
        def step(self, actions: Any) -> Any:
            if next(steps) == 12:
                with contextlib.suppress(KeyboardInterrupt):
                    signal.raise_signal(signal.SIGINT)
            return super().step(actions)

    config = mappo.Config(total_steps=4_000, hidden=(8,), rollout_steps=5, tensorboard=False)
    with pytest.raises(KeyboardInterrupt):
        mappo.train(Catching(4), config, run_dir=tmp_path, progress=False)
    assert len(read_progress(tmp_path)["steps"]) == 2
    mappo.train(Catching(4), config, run_dir=tmp_path, resume=True, progress=False)
    assert len(read_progress(tmp_path)["steps"]) == 200


def test_damage_of_a_checkpoint_is_detected(toys: SimpleNamespace, tmp_path: Path) -> None:
    config = mappo.Config(total_steps=40, tensorboard=False, hidden=(16,), threads=1)

    def train(**options: Any) -> Any:
        env = toys.Contextual(4, users=20)
        return mappo.train(env, config, run_dir=tmp_path, progress=False, **options)

    train()
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    damaged = [whole[: int(size)] for size in np.linspace(0, len(whole) - 1, 60)]
    edges = np.linspace(0, len(whole), 161).astype(int)
    header = 8 + int.from_bytes(whole[:8], "little")
    places = [int(rng.integers(*pair)) for pair in itertools.pairwise(edges)]
    for place in [*places, *rng.integers(header, size=60).tolist()]:
        content = bytearray(whole)
        content[place] ^= 1 << int(rng.integers(8))
        damaged.append(bytes(content))
    for i, content in enumerate(damaged):
        path.write_bytes(content)
        with pytest.raises(InvalidData, match=r"damaged|not written by"):
            read_tensors(path)
        if i % 40 == 0:
            with pytest.raises(InvalidData, match=r"damaged|not written by"):
                train(resume=True)
            with pytest.raises(InvalidData, match=r"damaged|not written by"):
                load_policy(path)
    path.write_bytes(whole)
    train(resume=True)


def test_files_without_digests_are_read_with_a_warning(
    toys: SimpleNamespace, tmp_path: Path
) -> None:
    from safetensors.torch import save_file

    policy = mappo.train(toys.Contextual(4), mappo.Config(total_steps=20), progress=False)
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    tensors, about = read_tensors(path)
    save_file(tensors, path, metadata={"rpp_agents": json.dumps(about)})
    with pytest.warns(RPPWarning, match=r"policy\.safetensors has no digest"):
        load_policy(path)
    # A file whose digest's key was damaged does not pass for one without a digest.
    save_file(tensors, path, metadata={"rpp_agents": json.dumps(about), "sha257": "0" * 64})
    with pytest.raises(InvalidData, match="its header holds sha257"):
        load_policy(path)


HUGE: dict[str, Any] = {
    "nvec": [10**9],
    "hidden": [10**9],
    "width": 10**12,
    "visible": [0] * 100_000,
    "encoder": {
        "kind": "ranking",
        "width": 10**9,
        "start": 0,
        "places": 1,
        "item": 10**6,
        "readers": [0],
        "agents": 4,
        "hidden": 10**6,
    },
}


@pytest.mark.parametrize("field", HUGE)
def test_a_policy_cannot_ask_for_more_memory_than_its_file_fills(
    toys: SimpleNamespace, tmp_path: Path, field: str
) -> None:
    policy = mappo.train(toys.Contextual(4), mappo.Config(total_steps=20), progress=False)
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    tensors, about = read_tensors(path)
    about["actor"][field] = HUGE[field]
    write_tensors(path, tensors, about)
    with peak_below(200_000_000), pytest.raises(InvalidData, match="another version"):
        load_policy(path)


def test_many_agents_of_few_weights_ask_for_no_square_of_memory(tmp_path: Path) -> None:
    count = 40_000
    tensors = {
        "net.layers.0.weight": torch.zeros(1, count + 1, 1),
        "net.layers.0.bias": torch.zeros(1, 1, 1),
        "net.layers.1.weight": torch.zeros(1, 1, count),
        "net.layers.1.bias": torch.zeros(1, 1, count),
    }
    actor = {"width": 1, "nvec": [count] * count, "hidden": [1]}
    about = {"kind": "network", "choice": "independent", "actor": actor}
    write_tensors(tmp_path / "p", tensors, about)
    with peak_below(200_000_000), pytest.raises(InvalidData, match="numbers besides its tensors"):
        load_policy(tmp_path / "p")


@contextlib.contextmanager
def peak_below(most: int) -> Iterator[None]:
    """Refuse memory beyond what the process has and so much more."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


def test_weights_that_are_not_finite_are_refused(toys: SimpleNamespace, tmp_path: Path) -> None:
    policy = mappo.train(toys.Contextual(4), mappo.Config(total_steps=20), progress=False)
    path = tmp_path / "policy.safetensors"
    policy.save(path)
    tensors, about = read_tensors(path)
    name = next(iter(tensors))
    tensors[name].view(-1)[0] = float("nan")
    write_tensors(path, tensors, about)
    with pytest.raises(InvalidData, match=f"{name} is not finite"):
        load_policy(path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("iteration", "3"),
        ("iteration", -1),
        ("iteration", 2.5),
        ("steps", None),
        ("seconds", math.inf),
        ("seconds", math.nan),
        ("config", []),
        ("environment", "x"),
        ("rng", 5),
        ("rng", {"bit_generator": "PCG64", "state": {"state": "x", "inc": 1}}),
        ("rng", {"bit_generator": "PCG64", "state": {"state": 2**200, "inc": -1}}),
        ("rng", {"bit_generator": "MT19937"}),
        ("algorithm", ["MAPPO"]),
    ],
)
def test_a_header_of_odd_values_is_a_sentence(
    toys: SimpleNamespace, tmp_path: Path, key: str, value: Any
) -> None:
    config = mappo.Config(total_steps=40, tensorboard=False)
    mappo.train(toys.Contextual(4), config, run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    if value == 5:
        value = about["rng"] | {"state": 5}
    write_tensors(path, tensors, about | {key: value})
    with pytest.raises(InvalidData, match="of this version"):
        mappo.train(toys.Contextual(4), config, run_dir=tmp_path, resume=True, progress=False)


@pytest.mark.parametrize("algorithm", [mappo, iql])
def test_tensors_of_other_shapes_are_a_sentence(
    toys: SimpleNamespace, tmp_path: Path, algorithm: Any
) -> None:
    config = algorithm.Config(total_steps=40, tensorboard=False)
    algorithm.train(toys.Contextual(4), config, run_dir=tmp_path, progress=False)
    path = tmp_path / "checkpoint.safetensors"
    tensors, about = read_tensors(path)
    for name, tensor in tensors.items():
        if tensor.ndim == 0:
            continue
        write_tensors(path, {**tensors, name: torch.zeros(*tensor.shape, 2)}, about)
        with pytest.raises(InvalidData, match="of this version"):
            algorithm.train(
                toys.Contextual(4), config, run_dir=tmp_path, resume=True, progress=False
            )


@pytest.mark.parametrize("content", [b"\xff\xfe", b"steps,reward\n1,x\n", b'a\n"\0\n', b"a\n\0"])
def test_damaged_progress_is_a_sentence(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "progress.csv").write_bytes(content)
    try:
        read_progress(tmp_path)
    except InvalidData as error:
        assert "progress.csv is damaged" in str(error)  # noqa: PT017 - or it can be read


def test_two_runs_in_one_folder_are_refused(toys: SimpleNamespace, tmp_path: Path) -> None:
    config = mappo.Config(total_steps=20, tensorboard=False)

    def another(*_: Any) -> None:
        mappo.train(toys.Contextual(4), config, run_dir=tmp_path, resume=True, progress=False)

    with pytest.raises(InvalidOption, match="another process is training in"):
        mappo.train(
            toys.Contextual(4), config, run_dir=tmp_path, callbacks=[another], progress=False
        )
    another()
    assert not list(tmp_path.glob(".*"))
