"""The tokenizer and the chat template of a model behind a vLLM server, learned by requests.

Like `rpp_env.models.checkpoints.Chat` for a local tokenizer, it fills in the chat template, knows
the tokens of letters, and keeps the text of messages from being read as special tokens.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from threading import Event
from typing import Any

from rpp_env.errors import ModelUnavailable
from rpp_env.models.base import Message
from rpp_env.models.transport import Refused, Transport, Unusable
from rpp_env.text import broken_up, template_words, without_words

__all__ = ["Form", "ServedChat", "conversation", "form"]

Form = tuple[tuple[str, str, str], ...]
"""Form of a conversation: each message's role, and the blanks before and after its text. Templates
may strip those, so they belong to the form and not to the text."""
SPECIAL = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
"""Pattern of what may be a special token, such as ``</s>`` and ``[INST]``."""
QUICK, PATIENCE = 30.0, 10.0
"""Timeout and retries in seconds of a request that does not run the model."""
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class ServedChat:
    """Tokenizer and template of a served model, learned by requests once and kept in pickles.

    Parameters
    ----------
    server : Transport
        The client of a vLLM server.
    model : str
        The served name.
    template : mapping
        Fields of a request that change what its template writes, such as ``chat_template_kwargs``.
    """

    def __init__(
        self, server: Transport, model: str, template: Mapping[str, Any] | None = None
    ) -> None:
        self.server = server
        self.model = model
        self.template = dict(template or {})
        self._templates: dict[Form, tuple[str, ...] | None] = {}
        self._letters: dict[str, list[int]] = {}
        self._specials: dict[str, bool] = {}
        self._words: frozenset[str] = frozenset()
        self._pieces: dict[int, str] = {}
        """Letters and digits of the tokens seen so far."""

    def tokens(self, messages: Sequence[Message], stop: Event | None = None) -> list[int]:
        """Return the server's own tokenisation of a conversation."""
        return self._ask({**conversation(messages), **self.template}, stop)[0]

    def text_tokens(self, text: str, stop: Event | None = None) -> list[int]:
        """Return the server's own tokenisation of a text."""
        return self._ask({"prompt": text, "add_special_tokens": True}, stop)[0]

    def spells(self, tokens: Sequence[int], text: str) -> bool:
        """Whether tokens that are all known have the letters and digits of a text.

        False means unknown: a token may be new, or the tokenizer may change letters. Then `tokens`
        or `text_tokens` asks the server, and the tokens seen are known from then on.
        """
        try:
            said = "".join(map(self._pieces.__getitem__, tokens))
        except (KeyError, TypeError):
            return False
        wanted = text.translate(_SPOKEN)
        # A text on its own may have a beginning-of-text token in front.
        return said == wanted or (bool(tokens) and said == self._pieces[tokens[0]] + wanted)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text alone, without a template."""
        return len(self._tokenize(self.as_data(text))[0])

    # The template

    def fills(self, messages: Sequence[Message]) -> bool:
        """Whether `text` is known for conversations of this form; the server is asked once."""
        shape = form(messages)
        if shape not in self._templates:
            learned = self._templates[shape] = self._learn(shape)
            self._words |= template_words(learned or ())
        return self._templates[shape] is not None

    def text(self, messages: Sequence[Message]) -> str:
        """Fill in the chat template: the text that the model reads."""
        between = self._templates[form(messages)]
        assert between is not None
        said = [message["content"].strip() for message in messages]
        return between[0] + "".join(map("".join, zip(said, between[1:], strict=True)))

    def distrust(self, messages: Sequence[Message]) -> None:
        """Make `fills` False for conversations of this form, after `text` was wrong for one."""
        self._templates[form(messages)] = None

    def _learn(self, shape: Form) -> tuple[str, ...] | None:
        """Find the text that the template writes around the messages, by an example."""
        marks = [f"example {i} of what is said" for i in range(len(shape))]
        messages = [
            {"role": role, "content": f"{before}{mark}{after}"}
            for (role, before, after), mark in zip(shape, marks, strict=True)
        ]
        settings = {"temperature": 0.0, "max_tokens": 8, "return_prompt_text": True}
        body = {"model": self.model, **settings, **conversation(messages), **self.template}
        try:
            tokens = self.tokens(messages)
        except ModelUnavailable:
            return None
        try:
            url = f"{self.server.base_url}/chat/completions"
            text = self.server.ask(url, body, read=_prompt_text)
            if text == "":
                # An older vLLM. The check is needed because not every tokenizer is lossless.
                url = f"{self.server.root_url}/detokenize"
                body = {"model": self.model, "tokens": tokens}
                text = self.server.ask(url, body, read=lambda answer: str(answer["prompt"]))
            if text is None or any(text.count(mark) != 1 for mark in marks):
                return None
            settings = {"max_tokens": 1, "add_special_tokens": False, "return_token_ids": True}
            url = f"{self.server.base_url}/completions"
            body = {"model": self.model, "prompt": text, **settings}
            if self.server.ask(url, body, read=_prompt_tokens) != tokens:
                return None
        except (Refused, Unusable):
            return None
        return tuple(re.split("|".join(map(re.escape, marks)), text))

    # Letters

    def choice_tokens(self, choices: Iterable[str]) -> dict[str, list[int]]:
        """Return every choice's tokens, with and without a blank in front; empty if it has none.

        An answer may begin with either, so the choice's probability is their sum.
        """
        wanted = list(choices)
        new = sorted(set(wanted) - set(self._letters))
        if new:
            # As in the middle of a text: at its front some tokenizers add a blank of their own.
            tokens, names = self._tokenize(f" {' '.join(new)}\n" + "\n".join(new))
            bare = [name.strip(" \u0120\u2581") for name in names]
            # Without the tokens' names no token can be identified.
            pairs = sorted(set(zip(tokens, bare, strict=False)))
            for letter in new:
                self._letters[letter] = [token for token, name in pairs if name == letter]
        return {choice: self._letters[choice] for choice in wanted}

    # Messages are data

    def as_data(self, text: str) -> str:
        """Insert a blank into every word that the tokenizer would read as a special token.

        Likewise into the words of the chat template, as far as `fills` has learned it.
        """
        text = without_words(text, self._words)
        return SPECIAL.sub(
            lambda found: broken_up(found[0]) if self._is_special(found[0]) else found[0], text
        )

    def _is_special(self, word: str) -> bool:
        # Joined to letters, an ordinary word falls apart into tokens; a special token does not.
        if word not in self._specials:
            try:
                self._specials[word] = word in self._tokenize(f"a{word}a")[1]
            except ModelUnavailable:
                self._specials[word] = True  # an unnecessary blank does no harm
        return self._specials[word]

    def _tokenize(self, text: str) -> tuple[list[int], list[str]]:
        return self._ask({"prompt": text, "add_special_tokens": False})

    def _ask(
        self, question: dict[str, Any], stop: Event | None = None
    ) -> tuple[list[int], list[str]]:
        body = {"model": self.model, "return_token_strs": True, **question}
        tokens, names = self.server.ask(
            f"{self.server.root_url}/tokenize",
            body,
            read=_tokens,
            stop=stop,
            patience=min(PATIENCE, self.server.patience),
            timeout=min(QUICK, self.server.timeout),
        )
        if len(names) == len(tokens):
            new = set(tokens) - self._pieces.keys()
            self._pieces.update(
                (token, _spoken(name))
                for token, name in zip(tokens, names, strict=True)
                if token in new
            )
        return tokens, names


def conversation(messages: Sequence[Message]) -> dict[str, Any]:
    """Return a request's fields for a conversation; an answer begun by the last message goes on."""
    body: dict[str, Any] = {"messages": list(messages)}
    if messages[-1]["role"] == "assistant":
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


def form(messages: Sequence[Message]) -> Form:
    """Return the form of a conversation."""
    found = []
    for message in messages:
        text = message["content"]
        start = len(text) - len(text.lstrip())
        found.append((message["role"], text[:start], text[len(text.rstrip()) :]))
    return tuple(found)


def _spoken(piece: str) -> str:
    """Return the letters and digits of a token as the tokenizer writes it."""
    byte = _BYTE.fullmatch(piece)
    return (chr(int(byte[1], 16)) if byte else piece).translate(_SPOKEN)


class _Spoken(dict[int, str | None]):
    """A table for `str.translate` that keeps only letters and digits."""

    def __missing__(self, code: int) -> str | None:
        character = chr(code)
        self[code] = character if character.isascii() and character.isalnum() else None
        return self[code]


_SPOKEN = _Spoken()


def _tokens(answer: Any) -> tuple[list[int], list[str]]:
    return [int(token) for token in answer["tokens"]], list(map(str, answer["token_strs"] or ()))


def _prompt_text(answer: Any) -> str | None:
    """Return the prompt's text, "" if it is missing.

    None if the reply holds only part of the model's text, because the reasoning was removed.
    """
    message = answer["choices"][0]["message"]
    thinks = message.get("reasoning") or message.get("reasoning_content")
    if thinks or not isinstance(message.get("content"), str):
        return None
    return str(answer.get("prompt_text") or "")


def _prompt_tokens(answer: Any) -> list[int]:
    return list(answer["choices"][0].get("prompt_token_ids") or ())
