"""``rpp-env serve``: the command, the check, and starting and stopping a server."""

from __future__ import annotations

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from rpp_agents.cli import main
from rpp_agents.commands import serve
from rpp_env.models import echo

pytest.importorskip("httpx", reason="the client of servers needs the extra 'llm'")

RUN = "import sys; from rpp_agents.cli import main; sys.exit(main())"
FAKE = '''#!{python}
"""A fake vLLM: it records its arguments and processes, then answers."""
import json, os, subprocess, sys, time
from http.server import BaseHTTPRequestHandler, HTTPServer

words = sys.argv
option = lambda name: words[words.index(name) + 1]
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
with open({recorded!r}, "w") as file:
    json.dump({{"words": words, "cache": os.environ.get("VLLM_CPU_KVCACHE_SPACE"),
               "processes": [os.getpid(), child.pid]}}, file)
if "--broken" in words:
    child.kill()
    sys.exit(3)
name = option("--served-model-name")

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.answer({{"data": [{{"id": name}}]}} if self.path.endswith("/models") else {{}})

    def do_POST(self):
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text = "1. Silent Garden\\n2. Silent River"
        row = {{"index": 0, "message": {{"content": text}}, "finish_reason": "stop"}}
        if asked.get("logprobs"):
            letters = [{{"token": chr(65 + i), "logprob": -1.0 - i}} for i in range(20)]
            row["logprobs"] = {{"content": [{{"token": "A", "top_logprobs": letters}}]}}
            if "--no-letters" in words:
                self.send_error(400, "log-probabilities are not for you")
                return
        self.answer({{"choices": [row], "usage": {{"prompt_tokens": 9, "completion_tokens": 7}}}})

    def answer(self, body):
        data = json.dumps(body).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass

time.sleep(0.2)
HTTPServer(("127.0.0.1", int(option("--port"))), Handler).serve_forever()
'''


@pytest.fixture
def recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A ``vllm`` on PATH, and the file in which it records how it was started."""
    folder, recorded = tmp_path / "bin", tmp_path / "recorded.json"
    folder.mkdir()
    for name in ("vllm", "python"):
        (folder / name).write_text(FAKE.format(python=sys.executable, recorded=str(recorded)))
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=os.pathsep)
    return recorded


@pytest.fixture
def port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def option(words: list[str], name: str) -> str:
    return words[words.index(name) + 1]


# ---- the command ----


def test_the_command_fits_our_use() -> None:
    words, environment = serve.command("meta-llama/Llama-2-7b-chat-hf", device="gpu")
    assert words[:3] == ["vllm", "serve", "meta-llama/Llama-2-7b-chat-hf"]
    assert option(words, "--served-model-name") == "Llama-2-7b-chat-hf"
    assert option(words, "--max-logprobs") == "52"
    assert option(words, "--generation-config") == "vllm"
    assert option(words, "--dtype") == "auto"
    assert option(words, "--max-model-len") == "4096"
    assert "--enable-prefix-caching" in words
    assert "--enforce-eager" not in words
    assert environment == {}


def test_a_cpu_has_its_own_flags(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    words, environment = serve.command("m", device="cpu", more=["--seed", "1"])
    assert words[:5] == ["python", "-m", "vllm.entrypoints.openai.api_server", "--model", "m"]
    assert option(words, "--dtype") == "float32"
    assert words[-4:] == ["--enforce-eager", "--no-enable-chunked-prefill", "--seed", "1"]
    assert environment == {"VLLM_CPU_KVCACHE_SPACE": "2"}
    monkeypatch.setenv("PATH", str(tmp_path))
    assert serve.command("m") == serve.command("m", device="cpu")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    assert serve.command("m") == serve.command("m", device="gpu")
    assert option(serve.command("m", device="cpu", dtype="bfloat16")[0], "--dtype") == "bfloat16"


def test_a_checkpoints_config_gives_its_context_length(tmp_path: Path) -> None:
    folder = tmp_path / "small"
    folder.mkdir()
    words, _ = serve.command(str(folder))
    assert option(words, "--served-model-name") == "small"
    assert option(words, "--max-model-len") == "4096"
    for own, length in ((1024, "1024"), (131072, "4096")):
        (folder / "config.json").write_text(json.dumps({"max_position_embeddings": own}))
        assert option(serve.command(str(folder))[0], "--max-model-len") == length
    assert option(serve.command(str(folder), max_model_len=99)[0], "--max-model-len") == "99"


def test_printed_it_can_be_pasted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "a/b c", "--device", "cpu", "--port", "81", "--host", "::"]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    out = out.replace("\\\n", " ").splitlines()  # as a shell reads it
    words, environment = serve.command("a/b c", device="cpu", port=81, host="::")
    assert shlex.split(out[0]) == [*(f"{k}={v}" for k, v in environment.items()), *words]
    assert "rpp-env serve --check 'http://127.0.0.1:81/v1#b c'" in out[3]


# ---- the check ----


def test_a_check_reports_the_models_capabilities() -> None:
    said = serve.check("here", echo())
    assert "here answers" in said
    assert "understood  10 of 10 titles" in said
    assert "tokens/s alone" in said
    assert "tokens/s with 11 prompts at once" in said
    assert "rank_by     generate\n" in said
    assert "not logprobs: rank_by='logprobs' needs log-probabilities of letters" in said


# ---- refusals ----


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("serve", "which model?"),
        ("serve m --check http://127.0.0.1:1/v1#m", "takes no model"),
        ("serve --check http://127.0.0.1:1/v1", "needs '#'"),
    ],
)
def test_missing_parts_are_reported(
    words: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(words.split()) == 2
    assert said in capsys.readouterr().err


def test_without_vllm_the_error_states_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    assert main(["serve", "m", "--start"]) == 2
    out, err = capsys.readouterr()
    assert "--served-model-name m" in out
    assert "pip install 'vllm>=" in err


# ---- a server ----


@contextmanager
def started(*words: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, "serve", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=60)


def gone(processes: list[int]) -> bool:
    """Whether none of them runs any more."""
    until = time.monotonic() + 20
    left = list(processes)
    while left and time.monotonic() < until:
        for one in list(left):
            with suppress(FileNotFoundError):
                if Path(f"/proc/{one}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
                    continue
            left.remove(one)
        time.sleep(0.05)
    return not left


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    ("device", "sent"), [("cpu", signal.SIGINT), ("gpu", signal.SIGTERM)], ids=["cpu", "gpu"]
)
def test_a_server_is_started_checked_and_stopped(
    recorded: Path, port: int, device: serve.Device, sent: int
) -> None:
    with started("m/one", "--start", "--device", device, "--port", str(port)) as process:
        assert process.stdout is not None
        lines = []
        for line in process.stdout:
            lines.append(line)
            if "serving until Ctrl-C" in line:
                break
        out = "".join(lines)
        process.send_signal(sent)
        rest, _ = process.communicate(timeout=60)
    how = json.loads(recorded.read_text())
    words, _ = serve.command("m/one", device=device, port=port)
    assert how["words"] == [str(recorded.parent / "bin" / words[0]), *words[1:]]
    assert how["cache"] == ("2" if device == "cpu" else None)
    assert f"http://127.0.0.1:{port}/v1#one answers" in out
    assert "  | 1. Silent Garden" in out
    # It is no vLLM, which alone continues an answer.
    assert "rank_by     generate, logprobs\n            not structured:" in out
    assert process.returncode == (130 if sent == signal.SIGINT else 143)
    assert ("the server is stopped" in rest) == (sent == signal.SIGINT)
    assert gone(how["processes"])


def test_a_server_that_does_not_come_up_is_an_error(
    recorded: Path, port: int, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["serve", "m", "--start", "--port", str(port)]
    assert main([*words, "--vllm=--broken"]) == 2
    assert "ended before it served (exit code 3)" in capfd.readouterr().err
    assert main([*words, "--patience", "0"]) == 2
    assert "give it more --patience" in capfd.readouterr().err


def test_without_letters_there_is_one_way_to_rank(recorded: Path, port: int) -> None:
    words = ("m", "--start", "--port", str(port), "--vllm=--no-letters")
    with started(*words) as process:
        assert process.stdout is not None
        out = ""
        for line in process.stdout:
            out += line
            if "serving until Ctrl-C" in line:
                break
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert "rank_by     generate\n" in out
