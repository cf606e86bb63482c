"""What the models that run here have in common: weights have a digest, and messages become tokens.

Both engines (`rpp_env.models.vllm`, `rpp_env.models.transformers`) tokenise, read letters and write
texts by `Chat`, so that they differ in their arithmetic alone.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
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
"""Files of a checkpoint on which its answers depend; not its card."""


def checkpoint_id(path_or_id: str | os.PathLike[str], commit: str | None = None) -> str:
    """A name for a checkpoint: its folder's and a digest of what is in it, or the hub's.

    Parameters
    ----------
    path_or_id : str or path
        A folder, or a model's name on the Hugging Face hub.
    commit : str, optional
        The hub's commit, where it is known.
    """
    folder = Path(path_or_id)
    if folder.is_dir():
        return f"{folder.resolve().name}@{weights_digest(folder)[:12]}"
    return f"{path_or_id}@{commit[:12]}" if commit else str(path_or_id)


def weights_digest(folder: Path) -> str:
    """Digest of the names and contents of a checkpoint's files; 64 hexadecimal digits."""
    found = sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})
    if not found:
        raise InvalidOption(
            f"{folder} holds no checkpoint: a folder as Hugging Face's save_pretrained writes it "
            "is needed, with config.json, weights and tokenizer"
        )
    whole = hashlib.sha256()
    for path in found:
        facts = path.stat()
        whole.update(f"{path.name} {_digest(path, facts.st_size, facts.st_mtime_ns)}\n".encode())
    return whole.hexdigest()


@lru_cache(maxsize=4096)
def _digest(path: Path, size: int, modified: int) -> str:
    """Of one file; read once as long as it has this size and this time."""
    del modified
    with path.open("rb") as file:
        return f"{size} {hashlib.file_digest(file, 'sha256').hexdigest()}"


def distinct(requests: Sequence[Request]) -> tuple[list[Request], list[int]]:
    """The requests that need an answer of their own, and for every request the place of its own.

    Equal requests are one where the answer is the same every time: decoded greedily, sampled with a
    seed, or a choice's log-probabilities.
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
    """Refuse a prompt of so many tokens that leaves no room for its reply."""
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
    reply: int = 0,
) -> None:
    """Refuse a prompt that with its longest continuation and a reply exceeds the context."""
    length = len(prompt) + max(map(len, continuations), default=0)
    if length + reply > model.context_length:
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
    """The reply to a request for continuations: their scores, and the most probable as its text."""
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
    """Refuse choices that are no single token of the tokenizer: those without any."""
    split = sorted(choice for choice, ids in tokens.items() if not ids)
    if split:
        raise InvalidOption(
            f"{', '.join(map(repr, split))}: not a single token of this model's tokenizer; "
            "choose other identifiers, or rank by 'generate'"
        )


class Chat:
    """A Hugging Face tokenizer, and the model's chat template where it has one.

    A message is data: what it says is never read as one of the tokenizer's special tokens, nor as
    what the chat template writes around messages. A title such as ``</s>`` or ``[INST]`` gets a
    blank after its first character.

    Parameters
    ----------
    tokenizer : PreTrainedTokenizerBase
        As ``AutoTokenizer.from_pretrained`` loads it.
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
        """Tokens of each conversation, up to where the model's reply goes on.

        Where the last message is the assistant's, the reply has begun with it. Without a template
        messages stand below each other, with a blank line between them.
        """
        if not conversations:
            return []
        texts, begun = zip(*map(self._rendered, conversations), strict=True)
        # A template writes the token of the beginning itself.
        prompts = self.tokenizer(list(texts), add_special_tokens=not self.templated)["input_ids"]
        return [
            [*ids, *(self.tokenizer.encode(start, add_special_tokens=False) if start else ())]
            for ids, start in zip(prompts, begun, strict=True)
        ]

    def continued(
        self, messages: Sequence[Message], continuations: Sequence[str]
    ) -> tuple[list[int], list[list[int]]]:
        """Tokens of a prompt, and of each text as it goes on from the prompt.

        Prompt and continuation are tokenised as one text, as a model has read such texts, and split
        where the prompt ends. Blanks at the prompt's end are counted to the continuations: most
        tokenizers make one token of a blank and the word behind it.

        Raises
        ------
        InvalidOption
            Where a token stands across the end of the prompt, a continuation becomes no token, or
            two of them become the same tokens.
        """
        plain = [message["role"] for message in messages] == ["text"]
        parts = [self._as_data(messages[0]["content"])] if plain else self._rendered(messages)
        text = "".join(parts)
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
                    f"before {said!r:.60}: a token stands across the boundary, so that the "
                    "likelihood of what follows is not defined. Let the prompt end in a letter, a "
                    "colon or a line break"
                )
            rest = row[len(prompt) :]
            if not rest:
                raise InvalidOption(f"{said!r:.60} becomes no token of this model's tokenizer")
            other = known.setdefault(tuple(rest), said)
            if other != said:
                raise InvalidOption(
                    f"{said!r:.60} and {other!r:.60} become the same tokens of this model's "
                    "tokenizer, which cannot tell them apart"
                )
            found.append(rest)
        return prompt, found

    def _rendered(self, messages: Sequence[Message]) -> tuple[str, str]:
        """What a conversation is to the model, and what of its reply has begun already."""
        said = [{**m, "content": self._as_data(m["content"])} for m in messages]
        if not self.templated:
            return "\n\n".join(message["content"] for message in said), ""
        # Tokens of its own, after the prompt's: as the model would have written it. Templates may
        # trim what an assistant said.
        start = said.pop()["content"] if said[-1]["role"] == "assistant" else ""
        whole = self.tokenizer.apply_chat_template(said, tokenize=False, add_generation_prompt=True)
        return str(whole), start

    def count_tokens(self, text: str) -> int:
        """Tokens of a text alone, without a template's."""
        return len(self.tokenizer.encode(self._as_data(text), add_special_tokens=False))

    def decode(self, prompt: Sequence[int], reply: Sequence[int]) -> str:
        """The reply's text as it goes on from the prompt.

        Not as it would stand alone: tokenizers of the LLaMA family drop a text's first blank.
        """
        tail = list(prompt[-8:])
        before = self._text(tail)
        text = self._text([*tail, *reply])
        # A character that was cut off in the middle of its bytes is none.
        return text[len(before) :].rstrip("\ufffd")

    def choice_tokens(self, choices: Sequence[str]) -> list[list[int]]:
        """For every choice its tokens: the identifier, and the identifier after a blank.

        Both are ways to begin an answer with it (LLaMA's tokenizer writes "A" as the second), so
        that the choice's probability is their sum.

        Raises
        ------
        InvalidOption
            Where a choice is not a single token, or two of them share one.
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
        # The tokenizer hides one of both where it adds a blank of its own to every text's front.
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
        """What the template writes around messages, by examples that it takes."""
        if not self.templated:
            return
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user")):
            marks = [f"example {i} of what is said" for i in range(len(roles))]
            said = [{"role": r, "content": m} for r, m in zip(roles, marks, strict=True)]
            try:
                text = self.tokenizer.apply_chat_template(
                    said, tokenize=False, add_generation_prompt=True
                )
            except Exception:  # noqa: BLE001, S112 - templates raise what they like for roles that they lack
                continue
            yield from re.split("|".join(map(re.escape, marks)), text)
