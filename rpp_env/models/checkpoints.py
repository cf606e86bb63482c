"""Shared parts of locally run models: digests of weights, and tokenisation of messages.

Both engines (`rpp_env.models.vllm`, `rpp_env.models.transformers`) tokenise, read letters and
decode texts with `Chat`, so that they differ only in their arithmetic.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

from rpp_env.errors import InvalidOption
from rpp_env.models.base import LanguageModel, Message, Reply, Request
from rpp_env.text import template_words, without_words

__all__ = [
    "Chat",
    "check_continued",
    "check_length",
    "check_single",
    "checkpoint_id",
    "continuing",
    "distinct",
    "weights_digest",
    "without_bars",
]

FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "*.bin",
    "*.pt",
    "*.gguf",
    "config.json",
    "generation_config.json",
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "chat_template*",
)
"""Files of a checkpoint that its answers depend on; not its model card."""


@contextmanager
def without_bars() -> Iterator[None]:
    """Load a model without transformers' progress bars; its warnings still show."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


def checkpoint_id(path_or_id: str | os.PathLike[str], commit: str | None = None) -> str:
    """Name a checkpoint: by its folder and a digest of the content, or by its name on the hub.

    Parameters
    ----------
    path_or_id : str or path
        A folder, or a model's name on the Hugging Face hub.
    commit : str, optional
        The hub's commit, if known.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return f"{folder.resolve().name}@{weights_digest(folder)[:12]}"
    return f"{path_or_id}@{commit[:12]}" if commit else str(path_or_id)


def weights_digest(folder: Path) -> str:
    """Digest the names and contents of a checkpoint's files; 64 hexadecimal digits."""
    found = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    if not found:
        raise InvalidOption(
            f"{folder} holds no checkpoint: give a folder as Hugging Face's save_pretrained writes "
            "it, with config.json, weights and tokenizer"
        )
    whole = hashlib.sha256()
    for path in found:
        facts = path.stat()
        whole.update(f"{path.name} {_digest(path, facts.st_size, facts.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified: int) -> str:
    """Digest one file; cached as long as it has this size and modification time."""
    del modified
    with path.open("rb") as file:
        return f"{size} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def distinct(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """Return the requests without repeats, and for every request the index of its answer.

    Equal requests are merged if their answers are always equal: decoded greedily, sampled with a
    seed, or the log-probabilities of choices.
    """
    places: dict[Any, int] = {}
    asked: list[Request] = []
    index = []
    for request in requests:
        drawn = request.generation
        key: Any = object()
        measured = request.choices is not None or request.continuations is not None
        if measured or drawn.temperature == 0 or drawn.seed is not None:
            said = tuple((m["role"], m["content"]) for m in request.messages)
            key = said, drawn, request.choices, request.grammar, request.continuations
        if key not in places:
            places[key] = len(asked)
            asked.append(request)
        index.append(places[key])
    return asked, index


def check_length(model: LanguageModel, length: int, request: Request) -> None:
    """Raise InvalidOption for a prompt of this length that leaves no room for its reply."""
    reply = 1 if request.choices is not None else request.generation.max_tokens
    if length + reply > model.context_length:
        raise InvalidOption(
            f"a prompt of {length} tokens and a reply of {reply} do not fit into the "
            f"{model.context_length} of {model.id}: shorten the prompt or lower max_tokens"
        )


def check_continued(
    model: LanguageModel,
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
) -> None:
    """Raise InvalidOption if a prompt with its longest continuation exceeds the context."""
    length = len(prompt) + max(map(len, continuations), default=0)
    if length > model.context_length:
        raise InvalidOption(
            f"a prompt with its longest continuation has {length} tokens, and {model.id} reads "
            f"{model.context_length}: shorten the prompt"
        )


def continuing(
    texts: Sequence[str],
    scores: Sequence[float],
    prompt: Sequence[int],
    continuations: Sequence[Sequence[int]],
) -> Reply:
    """Make the reply to a request for continuations: scores, and the most probable as text."""
    lengths = tuple(map(len, continuations))
    best = max(range(len(texts)), key=scores.__getitem__, default=None)
    return Reply(
        "" if best is None else texts[best],
        len(prompt),
        sum(lengths),
        choice_logprobs=tuple(scores),
        choice_tokens=lengths,
    )


def check_single(tokens: Mapping[str, Sequence[int]]) -> None:
    """Raise InvalidOption for choices that are not a single token of the tokenizer."""
    split = sorted(choice for choice, ids in tokens.items() if not ids)
    if split:
        raise InvalidOption(
            f"{', '.join(map(repr, split))}: not a single token of this model's tokenizer; "
            "choose other identifiers, or rank by 'generate'"
        )


class Chat:
    """A Hugging Face tokenizer, with the model's chat template if it has one.

    A message is data: nothing in it is read as one of the tokenizer's special tokens, nor as what
    the chat template writes around messages. A title such as ``</s>`` or ``[INST]`` gets a blank
    after its first character.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        A tokenizer loaded by ``AutoTokenizer.from_pretrained``.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.templated = bool(getattr(tokenizer, "chat_template", None))
        added = getattr(tokenizer, "added_tokens_decoder", {}).values()
        special = {token.content for token in added if token.special}
        special |= set(tokenizer.all_special_tokens)
        words = {word for word in special if len(word) > 1}
        self._words = frozenset(words) | template_words(self._pieces())
        self._choices: dict[tuple[str, ...], list[list[int]]] = {}

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int]]:
        """Tokenise each conversation, up to where the model's reply continues.

        If the last message is the assistant's, the reply has begun with it. Without a template the
        messages are joined with a blank line between them.
        """
        if not conversations:
            return []
        texts, begun = zip(*map(self._rendered, conversations), strict=True)
        # A template writes the beginning-of-text token itself.
        prompts = self.tokenizer(list(texts), add_special_tokens=not self.templated)["input_ids"]
        return [
            [*ids, *(self.tokenizer.encode(start, add_special_tokens=False) if start else ())]
            for ids, start in zip(prompts, begun, strict=True)
        ]

    def continued(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Tokenise a prompt, and each text as its continuation.

        Prompt and continuation are tokenised as one text, as a model has seen such texts, and split
        where the prompt ends. Blanks at the prompt's end belong to the continuations: most
        tokenizers make one token of a blank and the word behind it. Without a template the
        continuation is one more message, behind a blank line, unless the reply has begun.

        Raises
        ------
        InvalidOption
            If a token crosses the end of the prompt, a continuation has no token, or two of them
            have the same tokens.
        """
        plain = [message["role"] for message in messages] == ["text"]
        parts = [self._as_data(messages[0]["content"])] if plain else self._rendered(messages)
        text = "".join(parts)
        if not (plain or self.templated or messages[-1]["role"] == "assistant"):
            text += "\n\n"  # what joins messages without a template
        shorter = text.rstrip(" ")
        gap = text[len(shorter) :]
        whole = [shorter + gap + self._as_data(one) for one in continuations]
        marked = plain or not self.templated
        prompt, *rows = self.tokenizer([shorter, *whole], add_special_tokens=marked)["input_ids"]
        if not prompt:
            raise InvalidOption("an empty prompt has no continuations: begin it with a word")
        known: dict[tuple[int, ...], str] = {}
        found = []
        for row, said in zip(rows, continuations, strict=True):
            if row[: len(prompt)] != prompt:
                raise InvalidOption(
                    f"this model's tokenizer does not split {shorter[-12:] + gap + said!r:.80} "
                    f"before {said!r:.60}: a token crosses the boundary, so the likelihood of what "
                    "follows is not defined. Let the prompt end in a letter, a "
                    "colon or a line break"
                )
            rest = row[len(prompt) :]
            if not rest:
                raise InvalidOption(f"{said!r:.60} has no token of this model's tokenizer")
            other = known.setdefault(tuple(rest), said)
            if other != said:
                raise InvalidOption(
                    f"{said!r:.60} and {other!r:.60} have the same tokens of this model's "
                    "tokenizer, which cannot tell them apart"
                )
            found.append(rest)
        return prompt, found

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, str]:
        """Return a conversation's text, and the part of the reply that it begins with."""
        said = [{**m, "content": self._as_data(m["content"])} for m in messages]
        if not self.templated:
            return "\n\n".join(message["content"] for message in said), ""
        # Tokenised apart from the prompt, as the model would have written it. Templates may
        # trim an assistant's message.
        start = said.pop()["content"] if said[-1]["role"] == "assistant" else ""
        whole = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return str(whole), start

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text alone, without a template."""
        return len(self.tokenizer.encode(self._as_data(text), add_special_tokens=False))

    def decode(self, prompt: Sequence[int], reply: Sequence[int]) -> str:
        """Decode a reply as the continuation of its prompt.

        Decoded alone it may differ: tokenizers of the LLaMA family drop a text's first blank.
        """
        tail = list(prompt[-8:])
        before = self._text(tail)
        text = self._text([*tail, *reply])
        # A character cut off in the middle of its bytes is dropped.
        return text[len(before) :].rstrip("\ufffd")

    def choice_tokens(self, choices: Sequence[str]) -> list[list[int]]:
        """Return every choice's tokens: of the identifier, and of the identifier after a blank.

        An answer may begin with either (LLaMA's tokenizer writes "A" as the second), so the
        choice's probability is their sum.

        Raises
        ------
        InvalidOption
            If a choice is not a single token, or two choices share one.
        """
        key = tuple(choices)
        if key not in self._choices:
            tokens = [self._single_tokens(choice) for choice in key]
            check_single(dict(zip(key, tokens, strict=True)))
            if len({token for ids in tokens for token in ids}) < sum(map(len, tokens)):
                raise InvalidOption(f"choices must be distinct tokens; got {', '.join(key)}")
            self._choices[key] = tokens
        return self._choices[key]

    def _single_tokens(self, choice: str) -> list[int]:
        found = set()
        for text in (choice, f" {choice}"):
            ids = self.tokenizer.encode(text, add_special_tokens=False)
            if len(ids) == 1:
                found.add(int(ids[0]))
        # A tokenizer that puts a blank of its own before every text hides one of the two.
        known = self.tokenizer.convert_tokens_to_ids([choice, f"\u2581{choice}", f"\u0120{choice}"])
        found |= {int(i) for i in known if i is not None and i != self.tokenizer.unk_token_id}
        return sorted(i for i in found if self.tokenizer.decode([i]).strip() == choice)

    def _text(self, ids: list[int]) -> str:
        # Tidying up blanks before punctuation would change titles.
        return str(
            self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        )

    def _as_data(self, text: str) -> str:
        return without_words(text, self._words)

    def _pieces(self) -> Iterator[str]:
        """Yield the texts that the template writes around messages, found by examples."""
        if not self.templated:
            return
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user")):
            marks = [f"example {i} of what is said" for i in range(len(roles))]
            said = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
            try:
                text = self.tokenizer.apply_chat_template(
                    said, tokenize=False, add_generation_prompt=True
                )
            except Exception:  # noqa: BLE001, S112 - templates raise any error for unknown roles
                continue
            yield from re.split("|".join(map(re.escape, marks)), text)
