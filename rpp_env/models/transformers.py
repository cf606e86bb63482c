"""Causal language models of Hugging Face's transformers, in this process.

Slow and simple, and a check of the fast engine: `rpp_env.models.vllm` gives the same replies.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rpp_env.errors import InvalidOption, MissingExtra
from rpp_env.models.base import Generation, Reply, Request
from rpp_env.models.checkpoints import (
    Chat,
    check_continued,
    check_length,
    checkpoint_id,
    continuing,
    distinct,
    without_bars,
)
from rpp_env.models.likelihoods import Branches, Tree, passes, scores_alone, scores_of

__all__ = ["Read", "TransformersModel"]

PASS = 512
"""Maximum tokens of a pass over a tree of continuations. Attention costs their square, the rest is
in proportion to them: SmolLM2 in bfloat16 on one core read 439 tokens of RPPLikelihood-v0's prompts
a second in passes of 512, 344 in 1,024 and 266 in 2,048, which share 3% more of them."""
LOGITS = 1 << 26
"""Maximum numbers in the logits of such a pass: 256 MiB in float32."""
NEAR = 0.02
"""Tolerance between log-probabilities of a few tokens and the same by brute force: rounding, in
bfloat16 too, but no error of the arrangement."""


@dataclass
class Read:
    """Numbers of tokens of prompts and continuations requested, and computed."""

    asked: int = 0
    """Count if each continuation were read together with its whole prompt."""
    computed: int = 0

    @property
    def shared(self) -> float:
        """Share of the tokens that did not have to be computed; 0 if none were requested."""
        return 1 - self.computed / self.asked if self.asked else 0.0


class TransformersModel:
    """A causal language model, run in batches of about equal length.

    Prompts are padded on the left. The checkpoint's own ``generation_config`` is ignored, except
    for its end-of-text tokens. With `Request.choices` the reply is one
    forward pass; see `Chat.choice_tokens` for which tokens count as a choice. With
    `Request.continuations` all continuations of a prompt, and of prompts that begin alike, share
    one pass that reads no token twice: `rpp_env.models.likelihoods`. `read` counts the savings.

    Unpickling loads the model again from `path_or_id`, so that every worker process has its own
    weights.

    Parameters
    ----------
    path_or_id : str or path
        A folder with a checkpoint, or a model's name on the Hugging Face hub.
    device : str, optional
        Torch device; by default a GPU if there is one.
    dtype : str, optional
        Torch dtype. By default ``"float32"`` on a CPU, elsewhere the checkpoint's own.
    batch_size : int
        Prompts in one forward pass. With 1, replies do not depend on the other requests, to the
        last bit; then, on a CPU, the model is ``"deterministic"``. Larger batches add in other
        orders, and between two almost equally probable tokens either may be chosen.

    Raises
    ------
    MissingExtra
        Without transformers and torch.
    InvalidOption
        If there is no such checkpoint.
    """

    def __init__(
        self,
        path_or_id: str | os.PathLike[str],
        *,
        device: str | None = None,
        dtype: str | None = None,
        batch_size: int = 16,
    ) -> None:
        if batch_size < 1:
            raise InvalidOption(f"batch_size must be at least 1, not {batch_size}")
        try:
            import torch
            import transformers
        except ImportError as error:
            raise MissingExtra(f"{error.name}, which hf: models need,", "transformers") from error
        checkpoint_id(path_or_id)  # refuses a folder without one
        self._arguments = (path_or_id, device, dtype, batch_size)
        self.batch_size = batch_size
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        wanted = dtype or ("float32" if self.device == "cpu" else "auto")
        if wanted != "auto" and not isinstance(getattr(torch, wanted, None), torch.dtype):
            raise InvalidOption(f"dtype {dtype!r} is not one of torch's: 'float32', 'bfloat16' ...")
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(path_or_id)
            with without_bars():
                model = transformers.AutoModelForCausalLM.from_pretrained(path_or_id, dtype=wanted)
        except (OSError, ValueError) as error:
            raise InvalidOption(f"no model can be loaded from {path_or_id}: {error}") from error
        self._chat = Chat(tokenizer)
        self._model: Any = model.to(self.device).eval()
        self._ends = _ends(model.generation_config.eos_token_id, tokenizer.eos_token_id)
        # A checkpoint's recommendations (temperature, penalties) would affect each request.
        model.generation_config = transformers.GenerationConfig()
        self.context_length: int = _context(model.config, tokenizer)
        name = checkpoint_id(path_or_id, getattr(model.config, "_commit_hash", None))
        self.id = (
            f"hf:{name} (transformers {transformers.__version__}, torch {torch.__version__}, "
            f"{str(model.dtype).removeprefix('torch.')}, {self.device})"
        )
        alone = batch_size == 1 and self.device == "cpu"
        self.capabilities: frozenset[str] = frozenset(
            {"choices", "likelihood", *(["deterministic"] if alone else [])}
        )
        self.read = Read()

    def __reduce__(self) -> tuple[Callable[..., TransformersModel], tuple[Any, ...]]:
        return _load, self._arguments

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text alone, without the chat template."""
        return self._chat.count_tokens(text)

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; equal ones once if their answers would be equal.

        Raises
        ------
        InvalidOption
            For a grammar, for choices that are not single tokens, and for a prompt that with its
            reply is longer than `context_length`.
        """
        asked, index = distinct(requests)
        replies = self._continue(asked)
        written = [i for i in range(len(asked)) if i not in replies]
        encoded = self._chat.encode([asked[i].messages for i in written])
        prompts = dict(zip(written, encoded, strict=True))
        # Requests of one pass have the same sampling options.
        groups: dict[Generation | None, list[int]] = {}
        for i in written:
            request = asked[i]
            if request.grammar is not None:
                raise InvalidOption(
                    "transformers cannot hold a reply to a grammar: use vLLM, or rank by "
                    "'generate' or 'logprobs'"
                )
            check_length(self, len(prompts[i]), request)
            groups.setdefault(None if request.choices else request.generation, []).append(i)
        for generation, members in groups.items():
            # The longest first, so that a lack of memory shows at once.
            members.sort(key=lambda i: (-len(prompts[i]), prompts[i]))
            for start in range(0, len(members), self.batch_size):
                rows = members[start : start + self.batch_size]
                batch = [prompts[i] for i in rows]
                if generation is None:
                    choices = [asked[i].choices or () for i in rows]
                    answered = self._choose(batch, choices)
                else:
                    answered = self._write(batch, generation)
                replies.update(zip(rows, answered, strict=True))
        return [replies[place] for place in index]

    def _continue(self, asked: Sequence[Request]) -> dict[int, Reply]:
        """Return the replies to those of the requests that ask for continuations."""
        wanted = {
            i: self._chat.continued(request.messages, request.continuations)
            for i, request in enumerate(asked)
            if request.continuations is not None
        }
        if not wanted:
            return {}
        for prompt, continuations in wanted.values():
            check_continued(self, prompt, continuations)
        numbers, branches = list(wanted), list(wanted.values())
        ends = max(1, LOGITS // self._model.get_output_embeddings().weight.shape[0])
        replies = {}
        for group in passes(branches, PASS, ends, alone=self.batch_size == 1):
            for i, scores in zip(group, self._scores([branches[j] for j in group]), strict=True):
                texts = asked[numbers[i]].continuations or ()
                replies[numbers[i]] = continuing(texts, scores, *branches[i])
        return replies

    def _scores(self, branches: Sequence[Branches]) -> list[list[float]]:
        alone = sum(len(p) + len(rest) for p, many in branches for rest in many)
        self.read.asked += alone
        deepest = max(len(p) + max(map(len, many), default=0) for p, many in branches)
        if not self._reads_trees or (self._window and deepest > self._window):
            self.read.computed += alone
            return [scores_alone(self._model, one, self.device) for one in branches]
        tree = Tree()
        for prompt, continuations in branches:
            tree.add(prompt, continuations)
        self.read.computed += len(tree.tokens)
        return scores_of(self._model, tree, self.device)

    @cached_property
    def _window(self) -> int:
        """Number of tokens that its layers attend back to, if limited; else 0."""
        return int(getattr(self._model.config, "sliding_window", None) or 0)

    @cached_property
    def _reads_trees(self) -> bool:
        """Whether the model obeys our attention mask, by a small example against brute force."""
        example: list[Branches] = [([3, 4, 5, 6], [[7, 8], [7, 9, 10], [11]]), ([3, 4], [[12, 3]])]
        tree = Tree()
        for one in example:
            tree.add(*one)
        try:
            found = scores_of(self._model, tree, self.device)
        except (TypeError, ValueError, RuntimeError, AttributeError):
            return False  # another architecture, which takes no such mask, or no positions
        alone = [scores_alone(self._model, one, self.device) for one in example]
        gaps = [
            abs(a - b) / max(1.0, abs(b))
            for row, other in zip(found, alone, strict=True)
            for a, b in zip(row, other, strict=True)
        ]
        return max(gaps) < NEAR

    def _choose(self, prompts: list[list[int]], choices: Sequence[tuple[str, ...]]) -> list[Reply]:
        import torch

        made = self._generate(prompts, max_new_tokens=1, output_logits=True)
        logprobs = torch.log_softmax(made.logits[0].float(), dim=-1)
        replies = []
        for row, prompt, names in zip(logprobs, prompts, choices, strict=True):
            tokens = self._chat.choice_tokens(names)
            sums = [torch.logsumexp(row[ids], dim=0).item() for ids in tokens]
            replies.append(Reply.choosing(names, sums, len(prompt)))
        return replies

    def _write(self, prompts: list[list[int]], generation: Generation) -> list[Reply]:
        sampled = generation.temperature > 0
        processors = [_Sampler(generation, len(prompts), self.device)] if sampled else []
        made = self._generate(
            prompts,
            processors,
            max_new_tokens=generation.max_tokens,
            stop_strings=list(generation.stop) or None,
        )
        width = max(map(len, prompts))
        written = made.sequences[:, width:].tolist()
        return [
            self._reply(prompt, tokens, generation)
            for prompt, tokens in zip(prompts, written, strict=True)
        ]

    def _reply(self, prompt: list[int], tokens: list[int], generation: Generation) -> Reply:
        end = next((i for i, token in enumerate(tokens) if token in self._ends), None)
        text = self._chat.decode(prompt, tokens[:end])
        stops = [at for stop in generation.stop if (at := text.find(stop)) >= 0]
        if stops:
            # Replies that end before their batch are padded with end-of-text tokens.
            count = len(tokens) if end is None else end
            return Reply(text[: min(stops)], len(prompt), count)
        if end is not None:
            return Reply(text, len(prompt), end + 1)
        return Reply(text, len(prompt), len(tokens), finish_reason="length")

    def _generate(
        self, prompts: list[list[int]], processors: Iterable[Any] = (), **settings: Any
    ) -> Any:
        import torch
        from transformers import GenerationConfig, LogitsProcessorList

        width = max(map(len, prompts))
        fill = min(self._ends, default=0)
        ids = torch.tensor([[fill] * (width - len(p)) + p for p in prompts], device=self.device)
        mask = torch.tensor(
            [[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=self.device
        )
        with torch.inference_mode():
            return self._model.generate(
                ids,
                attention_mask=mask,
                logits_processor=LogitsProcessorList(processors),
                tokenizer=self._chat.tokenizer,
                generation_config=GenerationConfig(
                    do_sample=False,
                    pad_token_id=fill,
                    eos_token_id=sorted(self._ends) or None,
                    return_dict_in_generate=True,
                    **settings,
                ),
            )


class _Sampler:
    """Draws every row's next token with its own generator, so that seeds hold in any batch.

    It is a processor of logits that leaves each row one token, which greedy decoding then takes.
    """

    def __init__(self, generation: Generation, rows: int, device: str) -> None:
        import torch

        self.generation = generation
        self.generators: list[torch.Generator | None] = [None] * rows
        if generation.seed is not None:
            self.generators = [
                torch.Generator(device).manual_seed(generation.seed) for _ in range(rows)
            ]

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        import torch

        del input_ids
        chances = torch.softmax(scores / self.generation.temperature, dim=-1)
        if self.generation.top_p < 1:
            ordered, order = chances.sort(dim=-1, descending=True)
            before = ordered.cumsum(dim=-1) - ordered
            ordered = ordered.masked_fill(before >= self.generation.top_p, 0.0)
            chances = torch.zeros_like(chances).scatter(-1, order, ordered)
        only = torch.full_like(scores, -torch.inf)
        for row, generator in enumerate(self.generators):
            only[row, torch.multinomial(chances[row], 1, generator=generator)] = 0.0
        return only


def _load(
    path_or_id: str | os.PathLike[str], device: str | None, dtype: str | None, batch_size: int
) -> TransformersModel:
    return TransformersModel(path_or_id, device=device, dtype=dtype, batch_size=batch_size)


def _ends(*ids: int | Sequence[int] | None) -> frozenset[int]:
    """Return the tokens at which a reply ends."""
    found: set[int] = set()
    for some in ids:
        found |= set() if some is None else {some} if isinstance(some, int) else set(some)
    return frozenset(found)


def _context(config: Any, tokenizer: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "seq_length"):
        length = getattr(config, name, None)
        if isinstance(length, int):
            return length
    # Without a limit of the model's own: the tokenizer's, or its stand-in for infinity.
    return min(int(tokenizer.model_max_length), 1 << 31)
