"""The number of cores changes no result: the same bytes with one thread and with two."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from threadpoolctl import threadpool_info

from rpp_agents import mappo
from rpp_env.threads import one_thread

NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

# Wide enough that BLAS and torch do share their work between threads.
TRAINING = """
from pathlib import Path
import torch
from rpp_agents.trainers import {name}
from rpp_env import RPPEnv
from safetensors.numpy import load_file

assert torch.get_num_threads() == {threads}
env = RPPEnv.make(num_envs=512, max_users=200, seed=0)
config = {name}.Config(total_steps=2_560, hidden=(256, 256), tensorboard=False, evaluations=0)
policy = {name}.train(env, config, progress=False)
assert torch.get_num_threads() == {threads}
policy.save("policy.safetensors")
weights = load_file("policy.safetensors")  # the order of its header's keys is arbitrary
Path("weights").write_bytes(b"".join(weights[name].tobytes() for name in sorted(weights)))
"""
REFERENCE = """
import numpy as np
from rpp_env import RPPEnv
from rpp_env.evaluation.diagnose import fit_reference
from rpp_env.table import tabulate

env = RPPEnv.make(rules="RPPBandit-v0", max_users=60)
replayed = RPPEnv.make(rules="RPPBandit-v0", max_users=60, model=tabulate(env))
reference = fit_reference(replayed)
observations, _ = replayed.reset(seed=0)
np.save("predicted.npy", reference.rewards(observations))
"""


def made(code: str, file: str, folder: Path, threads: int) -> bytes:
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=os.environ | dict.fromkeys(NAMES, str(threads)),
        check=True,
        timeout=250,
    )
    return (folder / file).read_bytes()


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["mappo", "qmix"])
def test_a_policy_has_the_same_bytes_with_one_thread_and_with_two(
    name: str, tmp_path: Path
) -> None:
    one, two = (
        made(
            TRAINING.format(name=name, threads=threads),
            "weights",
            tmp_path / str(threads),
            threads,
        )
        for threads in (1, 2)
    )
    assert one == two


@pytest.mark.slow
@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
@pytest.mark.timeout(600)
def test_a_reference_predicts_the_same_with_one_thread_and_with_two(tmp_path: Path) -> None:
    one, two = (
        made(REFERENCE, "predicted.npy", tmp_path / str(threads), threads) for threads in (1, 2)
    )
    assert one == two


def test_training_leaves_torch_as_it_was(toys: SimpleNamespace) -> None:
    before, seen = torch.get_num_threads(), set()

    def look(*_: Any) -> None:
        seen.add(torch.get_num_threads())

    torch.set_num_threads(3)
    try:
        for threads in (1, 2, 0):
            config = mappo.Config(total_steps=40, hidden=(8,), threads=threads, evaluations=0)
            mappo.train(toys.Contextual(4), config, callbacks=[look], progress=False)
            assert seen == {threads or 3}
            assert torch.get_num_threads() == 3
            seen.clear()
        with pytest.raises(ZeroDivisionError):
            mappo.train(toys.Contextual(4), config, callbacks=[lambda *_: 1 // 0], progress=False)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)


def test_one_thread_is_for_the_block_and_what_it_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    def counts() -> set[int]:
        return {library["num_threads"] for library in threadpool_info()}

    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    before = counts()
    with one_thread():
        assert counts() == {1}
        assert {os.environ[name] for name in NAMES} == {"1"}
    assert counts() == before
    assert os.environ["OMP_NUM_THREADS"] == "2"
    assert "MKL_NUM_THREADS" not in os.environ
