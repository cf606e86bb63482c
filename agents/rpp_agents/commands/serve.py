"""``rpp-env serve``."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Annotated, Any, Literal

import tyro

from rpp_agents.commands.console import say
from rpp_env.errors import BrokenContract, InvalidOption, ModelUnavailable
from rpp_env.models.base import Generation, LanguageModel
from rpp_env.models.names import checkpoint, open_model, parse_options
from rpp_env.recommenders.llm import LLMRecommender
from rpp_env.sentences.prompt import LETTERS, Prompt
from rpp_env.testing import example_prompts

__all__ = ["check", "command", "run", "start", "stop", "wait"]

CONTEXT = 4096
"""Tokens of prompt and reply together: as LLaMA-2; more than 20 candidates need."""
CPU_WORDS = ("python", "-m", "vllm.entrypoints.openai.api_server", "--model")
"""Equivalent to ``vllm serve``, which fails if the distribution is called vllm-cpu, because it
looks up the version of one called vllm (0.32.0)."""
CPU_FLAGS = ("--enforce-eager", "--no-enable-chunked-prefill")
"""Options for a CPU: no compiler is needed; and a prompt that is read in two parts would end the
engine if it is sampled with a seed (0.32.0: "CPU Generator does not use offset")."""
CPU_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "2"}
ACCELERATORS = ("nvidia-smi", "rocm-smi", "xpu-smi")
"""Commands that exist only on a machine with a GPU."""
CHECKING = 20.0
"""Seconds of retries when a server is checked."""
GRACE = 20.0
"""Seconds for a server to end by itself."""

Device = Literal["auto", "gpu", "cpu"]


def run(
    model: Annotated[str, tyro.conf.arg(metavar="[FOLDER|HUB_ID]")] = "",
    /,
    start_it: Annotated[bool, tyro.conf.arg(name="start"), tyro.conf.FlagCreatePairsOff] = False,
    check_url: Annotated[str | None, tyro.conf.arg(name="check", metavar="URL#NAME")] = None,
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Device = "auto",
    dtype: Annotated[str | None, tyro.conf.arg(metavar="DTYPE")] = None,
    max_model_len: Annotated[int | None, tyro.conf.arg(metavar="INT")] = None,
    vllm: Annotated[str, tyro.conf.arg(metavar="'OPTIONS'")] = "",
    model_options: Annotated[str | None, tyro.conf.arg(metavar="JSON")] = None,
    patience: float = 1200.0,
) -> None:
    """Print or run the vLLM command for a model; check a server.

    The server's address is then what --model takes:

        rpp-env serve meta-llama/Llama-2-7b-chat-hf           # print the command
        rpp-env serve meta-llama/Llama-2-7b-chat-hf --start   # run it until Ctrl-C
        rpp-env serve --check 'http://HOST:8000/v1#NAME'      # check one that runs
        rpp-env train mappo --model 'http://HOST:8000/v1#NAME'

    Parameters
    ----------
    model
        Folder of a checkpoint, a name that `rpp-env model list` shows, or a model's name on the
        Hugging Face hub.
    start_it
        Run the command here, check the server once, and serve until Ctrl-C.
    check_url
        Check a running server: its answer to a question, its speed, how it can rank.
    name
        Name that the model is served under; by default the last part of the model's name.
    host
        Address to listen on; 0.0.0.0 admits other machines (then set VLLM_API_KEY).
    port
        Port to listen on.
    device
        Device that vLLM runs on; auto takes a GPU if there is one.
    dtype
        Number format of the weights; by default the checkpoint's own on a GPU, float32 on a CPU.
    max_model_len
        Tokens of prompt and reply together; by default 4096, or less if the checkpoint has less.
    vllm
        More options for vLLM, as one quoted word: --vllm '--tensor-parallel-size 2'
    model_options
        Options for asking the server that is checked, such as '{"timeout": 60}'.
    patience
        Seconds to wait for the server to start; a 7B model takes minutes to load.
    """
    options = {"patience": CHECKING, **(parse_options(model_options) or {})}
    if check_url is not None:
        if model or start_it:
            raise InvalidOption("--check asks a server that runs: it takes no model and no --start")
        say(check(check_url, open_model(check_url, **options)))
        return
    if not model:
        raise InvalidOption(
            "which model? rpp-env serve FOLDER|HUB_ID, or rpp-env serve --check URL#NAME"
        )
    words, environment = command(
        model,
        name=name,
        host=host,
        port=port,
        device=device,
        dtype=dtype,
        max_model_len=max_model_len,
        more=shlex.split(vllm),
    )
    served = words[words.index("--served-model-name") + 1]
    shown = "127.0.0.1" if host in ("0.0.0.0", "::") else f"[{host}]" if ":" in host else host  # noqa: S104 - compared
    url = f"http://{shown}:{port}/v1#{served}"
    assigned = [f"{key}={value}" for key, value in environment.items()]
    say(_shell([*assigned, *words]))
    if not start_it:
        say(f"\nCheck it when it runs:\n    rpp-env serve --check {shlex.quote(url)}")
        say(f"Let it rank:\n    rpp-env train mappo --model {shlex.quote(url)}")
        return
    process = start([_executable(words[0]), *words[1:]], environment)
    former = signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        wait(process, url, patience)
        say(check(url, open_model(url, **options)))
        say("\nserving until Ctrl-C", flush=True)
        code = process.wait()
    except KeyboardInterrupt:
        raise KeyboardInterrupt("the server is stopped") from None
    finally:
        signal.signal(signal.SIGTERM, former)
        stop(process)
    raise ModelUnavailable(f"vLLM ended by itself (exit code {code}): its last lines say why")


def command(
    model: str,
    *,
    name: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    device: Device = "auto",
    dtype: str | None = None,
    max_model_len: int | None = None,
    more: list[str] | None = None,
) -> tuple[list[str], dict[str, str]]:
    """Return the command line that starts vLLM's server, and additional environment variables."""
    model = checkpoint(model)
    folder = Path(model).is_dir()
    served = name or (Path(model).resolve().name if folder else model.rpartition("/")[2])
    on_cpu = device == "cpu" or (device == "auto" and not any(map(shutil.which, ACCELERATORS)))
    length = max_model_len or min(CONTEXT, _own_length(model) or CONTEXT)
    words = [*(CPU_WORDS if on_cpu else ("vllm", "serve")), model, "--served-model-name", served]
    words += ["--host", host, "--port", str(port)]
    words += ["--dtype", dtype or ("float32" if on_cpu else "auto")]
    words += ["--max-model-len", str(length)]
    # So that each of 52 letters has its log-probability, and a checkpoint's own temperature is not
    # mixed into requests. Prefix caching is vLLM's default; here nothing may turn it off.
    words += ["--max-logprobs", str(len(LETTERS)), "--generation-config", "vllm"]
    words += ["--enable-prefix-caching", *(CPU_FLAGS if on_cpu else ()), *(more or ())]
    return words, dict(CPU_ENVIRONMENT) if on_cpu else {}


def check(url: str, model: LanguageModel) -> str:
    """Check a running model: its answer, its speed, and how it can be made to rank."""
    prompts = example_prompts()
    generation = Generation(max_tokens=min(256, model.context_length // 2))
    recommender = LLMRecommender(model, generation=generation)
    began = time.perf_counter()
    (ranking,) = recommender.rank(prompts[:1])
    alone = time.perf_counter() - began
    began = time.perf_counter()
    rankings = recommender.rank(prompts[1:])
    together = time.perf_counter() - began
    written = sum(one.completion_tokens for one in rankings)
    candidates = prompts[0].task.candidates
    ways, lacking = _ways(model, prompts[0])
    odd: Mapping[str, int] = getattr(model, "oddities", {})
    version = getattr(model, "version", None)
    lines = [
        f"{url} answers{f' (vLLM {version})' if version else ''}",
        f"context     {model.context_length:,} tokens",
        f"asked       for a ranking of {len(candidates)} titles, in {ranking.prompt_tokens} tokens",
        *(f"  | {line}" for line in ranking.text.strip().splitlines() or ["(nothing)"]),
        f"understood  {ranking.named} of {len(candidates)} titles",
        f"speed       {_speed(ranking.completion_tokens, alone)} alone",
        f"            {_speed(written, together)} with {len(rankings)} prompts at once",
        *(f"odd         {count} of the replies: {kind}" for kind, count in odd.items()),
        f"rank_by     {', '.join(ways)}",
        *(f"            not {way}: {why}" for way, why in lacking.items()),
    ]
    return "\n".join(lines)


def _ways(model: LanguageModel, prompt: Prompt) -> tuple[list[str], dict[str, str]]:
    """Return the ways to rank that work, each tried on one prompt, and why others do not."""
    ways, lacking = ["generate"], {}
    for way in ("logprobs", "structured"):
        try:
            LLMRecommender(model, way).rank([prompt])
            ways.append(way)
        except (InvalidOption, BrokenContract, ModelUnavailable) as error:
            lacking[way] = str(error)
            if way == "logprobs":
                lacking["structured"] = "it needs the same"
                break
    return ways, lacking


def _shell(words: Sequence[str]) -> str:
    """Format a shell's command line; a long one continues on further lines."""
    lines = [shlex.quote(words[0])]
    for word in map(shlex.quote, words[1:]):
        if len(lines[-1]) + 1 + len(word) + 2 > 80:
            lines[-1] += " \\"
            lines.append(f"    {word}")
        else:
            lines[-1] += f" {word}"
    return "\n".join(lines)


def _speed(tokens: int, seconds: float) -> str:
    return f"{tokens:,} tokens in {seconds:.2f} s = {tokens / seconds:,.0f} tokens/s"


def _own_length(model: str) -> int | None:
    """Return the longest context of the checkpoint in a folder, if its config states it."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return None
    try:
        config: Any = json.loads(path.read_text(encoding="utf-8"))
        length = config.get("max_position_embeddings")
    except (ValueError, AttributeError) as error:
        raise InvalidOption(f"{path} is not a model's config: {error}") from error
    return length if isinstance(length, int) else None


def _executable(name: str) -> str:
    """Return the path of `name`, or of the Python that it is installed for."""
    found = shutil.which("vllm") or shutil.which("vllm", path=str(Path(sys.executable).parent))
    if found is None:
        raise InvalidOption(
            "vllm is not installed here. It is best kept in an environment of its own: "
            "`python -m venv vllm && vllm/bin/pip install 'vllm>=0.32'` where a GPU is, or "
            "`make vllm-cpu` in our repository for a CPU (Linux); put its bin folder on PATH, or "
            "run the command above there"
        )
    return str(Path(found).with_name(name))


# The server's processes


def start(
    words: Sequence[str], environment: Mapping[str, str], out: IO[bytes] | None = None
) -> subprocess.Popen[bytes]:
    """Start the process of `command`; its output goes to `out`, or to our own output."""
    # A group of its own: Ctrl-C reaches us alone, and we end the engine's processes with it.
    return subprocess.Popen(  # noqa: S603 - the command that was printed
        words,
        env={**environment, **os.environ},
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out and subprocess.STDOUT,
        start_new_session=True,
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to end, and then kill it with all of its children."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, sent)
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE)


def wait(process: subprocess.Popen[bytes], url: str, patience: float) -> None:
    """Wait until the server reports that it is healthy.

    Raises
    ------
    ModelUnavailable
        If it ends, or takes longer.
    """
    health = url.partition("/v1")[0] + "/health"
    # No proxy of the environment on the way from this machine to itself.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    until = time.monotonic() + patience
    while process.poll() is None and time.monotonic() < until:
        try:
            with direct.open(health, timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.25)
    if process.poll() is not None:
        raise ModelUnavailable(
            f"vLLM ended before it served (exit code {process.returncode}): its last lines say why"
        )
    raise ModelUnavailable(f"vLLM does not serve after {patience:.0f} s: give it more --patience")
