"""The script that made the checkpoint: each of its stages, for seconds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rpp_env.models import Request
from rpp_env.models.transformers import TransformersModel
from rpp_env.sentences.prompt import LETTERS, Prompt, as_messages

SCRIPT = Path(__file__).parents[2] / "examples" / "distill_llama.py"


def run(*options: str) -> str:
    command = [sys.executable, str(SCRIPT), *options]
    environment = {**os.environ, "RPP_ENV_FAST": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    return done.stdout


def test_it_trains_resumes_and_writes_a_checkpoint(tmp_path: Path, prompts: list[Prompt]) -> None:
    torch = pytest.importorskip("torch")
    out = str(tmp_path)
    run("--out", out)
    first = torch.load(tmp_path / "state.pt", weights_only=True)
    assert first["step"] >= 4
    assert min(first["done"].values()) > 0
    # What is finished is not trained again; more time is.
    run("--out", out)
    second = torch.load(tmp_path / "state.pt", weights_only=True)
    assert second["step"] == first["step"]
    for name, value in first["model"].items():
        assert torch.equal(value, second["model"][name])
    # Twice what was spent, on however slow a machine: some stage goes on.
    run("--out", out, "--hours", str(2 * sum(first["done"].values()) / 3600))
    assert torch.load(tmp_path / "state.pt", weights_only=True)["step"] > first["step"]

    model = TransformersModel(tmp_path / "checkpoint", device="cpu")
    assert model.count_tokens("The Witch's Attic III") <= 3
    assert model.context_length == 4096
    request = Request(as_messages(prompts[0].lettered()), choices=tuple(LETTERS[:20]))
    (reply,) = model.complete([request])
    assert reply.choice_logprobs is not None
    assert len(reply.choice_logprobs) == 20
    weights = tmp_path / "checkpoint" / "model.safetensors"
    assert weights.stat().st_size < 8e6
