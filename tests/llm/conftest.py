"""A real vLLM on this machine's CPU: its engine in this process, and a server beside it.

`make test-llm` runs these tests in an environment of their own; elsewhere they are skipped.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tiny_llama import random_llama

import rpp_env
from rpp_agents.commands import serve
from rpp_env.errors import ModelUnavailable
from rpp_env.sentences.prompt import Prompt
from rpp_env.testing import example_prompts

HERE = Path(__file__).parent
CHECKPOINT = HERE.parents[1] / "checkpoints" / "movieworld-llama"
NAME = "movieworld-llama"
WITHOUT = frozenset({"test_likelihood.py"})
"""Files that need transformers and no vLLM."""
PATIENCE = 600.0
"""Seconds that a server may take to come up: 30 on an idle machine."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    # Threads that are bound to a core starve where another process has it.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # One core is left for the scheduler, as vLLM itself does.
    "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 2) - 1)),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    absent = importlib.util.find_spec("vllm") is None
    for item in items:
        if item.path.is_relative_to(HERE):
            item.add_marker(pytest.mark.timeout(2 * PATIENCE))
            if absent and item.path.name not in WITHOUT:
                item.add_marker(pytest.mark.skip(reason="vLLM is not installed: make test-llm"))


@pytest.fixture(scope="session", autouse=True)
def quiet_engines() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        yield


# ---- the checkpoint and what it is asked ----


@pytest.fixture(scope="session")
def trained() -> bool:
    """Whether the checkpoint is a trained one."""
    return CHECKPOINT.is_dir()


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, trained: bool) -> Path:
    """The repository's checkpoint; where it is not (an sdist), a random one of the same kind."""
    if trained:
        return CHECKPOINT
    folder = tmp_path_factory.mktemp("checkpoints") / NAME
    random_llama(folder, [prompt.text for prompt in example_prompts()])
    return folder


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Of 120 users that no training saw: any sentences, any lengths of history."""
    env = rpp_env.RPPEnv.make(dataset="movieworld", model="embedded", split="test", max_users=120)
    rng = np.random.default_rng(0)
    actions = rng.integers(env.book.sizes, size=(len(env.tasks), len(env.book.sizes)))
    tasks = [env.tasks.task(i) for i in range(len(env.tasks))]
    return [
        Prompt(task, choice, int(rng.integers(1, min(len(task.history), 20) + 1)))
        for task, choice in zip(tasks, env.book.choose(actions), strict=True)
    ]


# ---- the server ----


@dataclass(frozen=True)
class Server:
    """vLLM on this machine, as ``rpp-env serve`` would start it."""

    url: str
    """With the model's name: what ``model=`` takes."""
    name: str
    process: subprocess.Popen[bytes]

    def stop(self) -> None:
        """End it, with all of its children; once more does no harm."""
        serve.stop(self.process)


@pytest.fixture(scope="session")
def server(checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words, environment = serve.command(str(checkpoint), name=NAME, port=port, device="cpu")
    log = tmp_path_factory.mktemp("server") / "vllm.log"
    with log.open("wb") as out:
        process = serve.start([sys.executable, *words[1:]], environment, out)
    running = Server(f"http://127.0.0.1:{port}/v1#{NAME}", NAME, process)
    try:
        serve.wait(process, running.url, PATIENCE)
    except ModelUnavailable as error:
        running.stop()
        pytest.fail(f"{error}\n{log.read_text(errors='replace')[-6000:]}")
    yield running
    running.stop()
