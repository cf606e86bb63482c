"""vLLM's engine in this process: the whole batch at once, without a server."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from functools import cached_property
from multiprocessing.util import Finalize
from typing import Any

import numpy as np

from rpp_env.errors import BrokenContract, InvalidOption, MissingExtra, ModelUnavailable
from rpp_env.models.base import Reply, Request
from rpp_env.models.checkpoints import (
    Chat,
    check_continued,
    check_length,
    checkpoint_id,
    continuing,
    distinct,
)
from rpp_env.models.likelihoods import Branches, Tree

__all__ = ["VLLMModel"]

CPU_DEFAULTS = {
    "dtype": "float32",  # halves are slower there, and lose bits
    "enforce_eager": True,  # up in seconds, and no compiler needed
    # A prompt that is read in two parts ends the engine if it is sampled with a seed (0.32.0: "CPU
    # Generator does not use offset").
    "enable_chunked_prefill": False,
    # Prompts share whole blocks of the prefix cache, and vLLM's own have 128 tokens on a CPU.
    "block_size": 32,
}
"""Engine options if vLLM runs on a CPU; the caller's options come first."""
CPU_CACHE = 2 << 30
"""Bytes of the KV cache on a CPU, if neither the caller nor VLLM_CPU_KVCACHE_SPACE sets it; vLLM
itself would take nearly all of the memory."""
MOST_TOKENS = 128
"""Tokens whose log-probabilities vLLM returns at one place, at most."""
MATTERS_NOT = frozenset(
    "block_size disable_log_stats dtype enable_chunked_prefill enable_prefix_caching enforce_eager "
    "gpu_memory_utilization kv_cache_memory_bytes max_logprobs max_model_len "
    "max_num_batched_tokens max_num_seqs seed swap_space tensor_parallel_size".split()
)
"""Engine options that change only speed and last bits (or, like the dtype, are in the id anyway);
all others become part of `VLLMModel.id`."""


class VLLMModel:
    """A language model in vLLM's engine, in this process.

    Replies are those of ``vllm serve`` for the same checkpoint and options. At temperature 0 they
    are not ``"deterministic"``: vLLM adds in an order that depends on the other requests, and
    between two almost equally probable tokens either may be chosen.

    With `Request.choices` one token is requested, and the log-probabilities of exactly the choices'
    tokens (vLLM's ``logprob_token_ids``), over the whole vocabulary, before any sampling option;
    see `Chat.choice_tokens` for which tokens count as a choice. With `Request.grammar` the reply is
    held to it by vLLM's structured outputs. With `Request.continuations` the tokens that may come
    next are asked for in the same way, at every place of the continuations' tree, so that prompts
    and the beginnings of titles come from the prefix cache (which vLLM's ``prompt_logprobs`` does
    not use); if a probe has shown that their log-probabilities are returned.

    Parameters
    ----------
    path_or_id : str or path
        A folder with a checkpoint, or a model's name on the Hugging Face hub.
    **options
        Options of ``vllm.LLM``, such as ``dtype``, ``max_model_len``, ``gpu_memory_utilization`` or
        ``tensor_parallel_size``. On a CPU, `CPU_DEFAULTS` and a cache of 2 GiB are the
        defaults.

    Raises
    ------
    MissingExtra
        Without vLLM.
    InvalidOption
        If vLLM refuses the options or finds no such checkpoint.
    """

    def __init__(self, path_or_id: str | os.PathLike[str], **options: Any) -> None:
        if "chat_template" in options:
            raise InvalidOption("a chat template belongs into the checkpoint's folder, not here")
        try:
            import vllm
            from vllm.platforms import current_platform
        except ImportError as error:
            raise MissingExtra(f"{error.name}, which vllm: models need,", "vllm") from error
        checkpoint_id(path_or_id)  # refuses a folder without one, before an engine starts
        given = set(options) - MATTERS_NOT
        settings = {"disable_log_stats": True, **options}
        if current_platform.is_cpu():
            settings = CPU_DEFAULTS | settings
            if not os.environ.get("VLLM_CPU_KVCACHE_SPACE"):
                settings.setdefault("kv_cache_memory_bytes", CPU_CACHE)
        try:
            # vLLM raises a ValueError for what it cannot read, an OSError for a missing file.
            self._engine: Any = vllm.LLM(model=os.fspath(path_or_id), **settings)
        except (ValueError, TypeError, OSError) as error:
            raise InvalidOption(f"vLLM cannot load {path_or_id}: {error}") from error
        # A process started by multiprocessing waits for its children before it ends, and the engine
        # does not end by itself.
        stop = self._engine.llm_engine.engine_core.shutdown
        self._stop = Finalize(self, stop, exitpriority=1)
        self._process = os.getpid()
        config = self._engine.model_config
        self.context_length: int = config.max_model_len
        self._chat = Chat(_tokenizer(path_or_id, options))
        said = [f"{name}={settings[name]!r}" for name in sorted(given)]
        facts = [f"vllm {vllm.__version__}", str(config.dtype).removeprefix("torch."), *said]
        commit = getattr(config.hf_config, "_commit_hash", None)
        self.id = f"vllm:{checkpoint_id(path_or_id, commit)} ({', '.join(facts)})"

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """``"choices"`` and ``"grammar"``; ``"likelihood"`` if a probe has shown it."""
        return frozenset({"choices", "grammar", *(["likelihood"] if self._likely() else [])})

    def __reduce__(self) -> tuple[Any, ...]:
        raise InvalidOption(
            "vLLM's engine cannot be sent to another process: use it in this one (processes=1: "
            "it uses all of the machine), or start a server (`rpp-env serve`) and give its address"
        )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text alone, without the chat template."""
        return self._chat.count_tokens(text)

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; equal ones once if their answers would be equal.

        Raises
        ------
        InvalidOption
            For choices that are not single tokens, a grammar that vLLM cannot read, and a prompt
            that with its reply is longer than `context_length`; then no request is run.
        ModelUnavailable
            If the engine has ended.
        BrokenContract
            If it answers another prompt.
        """
        if not requests:
            return []
        if os.getpid() != self._process:
            raise InvalidOption("vLLM's engine lives in the process that started it, not in a fork")
        asked, index = distinct(requests)
        continued = {
            i: self._chat.continued(request.messages, request.continuations)
            for i, request in enumerate(asked)
            if request.continuations is not None
        }
        written = [i for i in range(len(asked)) if i not in continued]
        prompts = self._chat.encode([asked[i].messages for i in written])
        for i, prompt in zip(written, prompts, strict=True):
            check_length(self, len(prompt), asked[i])
        for i, (prompt, rests) in continued.items():
            check_continued(self, prompt, rests)
            if not rests:
                raise InvalidOption(f"request {i} asks for no continuation: give one or more")
        replies: dict[int, Reply] = {}
        made = self._run(prompts, [self._sampling(asked[i]) for i in written])
        for i, prompt, output in zip(written, prompts, made, strict=True):
            replies[i] = self._reply(asked[i], prompt, output.outputs[0])
        scores = self._scores(list(continued.values()))
        for (i, (prompt, rests)), found in zip(continued.items(), scores, strict=True):
            replies[i] = continuing(asked[i].continuations or (), found, prompt, rests)
        return [replies[place] for place in index]

    def _scores(self, branches: Sequence[Branches]) -> list[list[float]]:
        """Return each continuation's sum of token log-probabilities, for each prompt.

        Raises
        ------
        BrokenContract
            If a log-probability is missing.
        """
        tree = Tree()
        for branch in branches:
            tree.add(*branch)
        asked = [
            (place, nodes[i : i + MOST_TOKENS])
            for place, nodes in tree.following().items()
            for i in range(0, len(nodes), MOST_TOKENS)
        ]
        outputs = self._run(
            [tree.text(place) for place, _ in asked],
            [_next([tree.tokens[node] for node in nodes]) for _, nodes in asked],
        )
        found = {}
        for (_, nodes), output in zip(asked, outputs, strict=True):
            given = (output.outputs[0].logprobs or [{}])[0]
            for node in nodes:
                if tree.tokens[node] not in given:
                    raise BrokenContract(
                        "vLLM returned no log-probability of a token that was asked for: use "
                        "rank_by='logprobs', or 'hf:' instead of 'vllm:'"
                    )
                found[node] = float(given[tree.tokens[node]].logprob)
        return tree.sums(found)

    def _likely(self) -> bool:
        """Whether log-probabilities of given texts are returned, and are not all 0."""
        example = ({"role": "text", "content": "One, two,"},)
        try:
            (scores,) = self._scores([self._chat.continued(example, (" three", " banana"))])
        except (BrokenContract, InvalidOption, KeyError, TypeError):
            return False
        return all(math.isfinite(score) and score < 0 for score in scores)

    def _run(self, prompts: Sequence[list[int]], settings: Sequence[Any]) -> list[Any]:
        """Return the engine's outputs for prompts of tokens, in their order."""
        if not prompts:
            return []
        from vllm.exceptions import VLLMClientError
        from vllm.v1.engine.exceptions import EngineDeadError

        # Prompts with a common beginning stay together for the prefix cache; sorting also makes the
        # results independent of the order of the requests.
        order = sorted(range(len(prompts)), key=prompts.__getitem__)
        try:
            made = self._engine.generate(
                [{"prompt_token_ids": prompts[i]} for i in order],
                [settings[i] for i in order],
                use_tqdm=False,
            )
        except (ValueError, VLLMClientError) as error:
            raise InvalidOption(f"vLLM refuses a request: {error}") from error
        except EngineDeadError as error:
            raise ModelUnavailable("vLLM's engine has ended: its output says why") from error
        except BaseException:
            # After an interrupt these replies would otherwise appear among the next call's.
            engine = self._engine.llm_engine
            engine.abort_request(list(engine.output_processor.request_states), internal=True)
            raise
        outputs = dict(zip(order, made, strict=True))
        if any(outputs[i].prompt_token_ids != prompt for i, prompt in enumerate(prompts)):
            raise BrokenContract("vLLM's engine gave an answer to another prompt of the batch")
        return [outputs[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Stop the engine's processes and free its memory; the model cannot be used afterwards."""
        self._stop()

    def _sampling(self, request: Request) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import StructuredOutputsParams

        if request.choices is not None:
            tokens = self._chat.choice_tokens(request.choices)
            return _next([token for ids in tokens for token in ids])
        drawn = request.generation
        held = request.grammar and StructuredOutputsParams(grammar=request.grammar)
        return SamplingParams(
            temperature=drawn.temperature,
            top_p=drawn.top_p,
            max_tokens=drawn.max_tokens,
            seed=drawn.seed,
            stop=list(drawn.stop) or None,
            structured_outputs=held,
            # Texts are decoded once at the end; only stop texts must be looked for on the way.
            detokenize=bool(drawn.stop),
        )

    def _reply(self, request: Request, prompt: list[int], said: Any) -> Reply:
        if request.choices is not None:
            scores = {token: entry.logprob for token, entry in said.logprobs[0].items()}
            tokens = self._chat.choice_tokens(request.choices)
            sums = [float(np.logaddexp.reduce([scores[token] for token in ids])) for ids in tokens]
            return Reply.choosing(request.choices, sums, len(prompt))
        return Reply(
            said.text if request.generation.stop else self._chat.decode(prompt, said.token_ids),
            len(prompt),
            len(said.token_ids),
            "length" if said.finish_reason == "length" else "stop",
        )


def _next(tokens: list[int]) -> Any:
    """Ask for one token, and for the log-probabilities of exactly these."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=1, logprob_token_ids=tokens, detokenize=False)


def _tokenizer(path_or_id: str | os.PathLike[str], options: dict[str, Any]) -> Any:
    # Not the engine's own, which is wrapped in a pool of threads.
    from transformers import AutoTokenizer

    revision = options.get("tokenizer_revision", options.get("revision"))
    return AutoTokenizer.from_pretrained(
        options.get("tokenizer") or path_or_id,
        revision=revision,
        trust_remote_code=bool(options.get("trust_remote_code")),
    )
