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
from real_models import real_model

import rpp_env
from rpp_agents.commands import serve
from rpp_env.errors import ModelUnavailable
from rpp_env.sentences.prompt import Prompt

HERE = Path(__file__).parent
NAME = "smollm2"
WITHOUT = frozenset({"test_likelihood.py"})
"""Files that need transformers and no vLLM."""
PATIENCE = 600.0
"""Seconds that a server may take to come up: 30 on an idle machine."""
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_CPU_KVCACHE_SPACE": "2",
    # A step of a real model on a machine that others use too; after 300 s the engine would end.
    "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": str(round(PATIENCE)),
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
def checkpoint() -> Path:
    """SmolLM2-135M-Instruct, as `rpp-env model get smollm2` writes it."""
    return real_model(NAME)


@pytest.fixture(scope="session")
def prompts() -> list[Prompt]:
    """Of 12 users, with any sentences; short lists, because the model is read by two cores."""
    env = rpp_env.RPPEnv.make("movieworld", "embedded", "test", max_users=12, num_candidates=6)
    rng = np.random.default_rng(0)
    actions = rng.integers(env.book.sizes, size=(len(env.tasks), len(env.book.sizes)))
    tasks = [env.tasks.task(i) for i in range(len(env.tasks))]
    return [
        Prompt(task, choice, int(rng.integers(1, min(len(task.history), 5) + 1)))
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
