"""The tokenizer of a model behind a vLLM server, asked by requests.

Like `rpp_env.models.checkpoints.Chat` for a local tokenizer, it counts tokens, knows those of
letters, and keeps the text of messages from being read as special tokens or as the template's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rpp_env.errors import ModelUnavailable
from rpp_env.models.base import Message
from rpp_env.models.transport import Transport
from rpp_env.text import broken_up, template_words, without_words

__all__ = ["ServedChat", "conversation"]

SPECIAL = re.compile(r"<[^<>\s]{1,40}>|\[[^\[\]\s]{1,40}\]")
"""Pattern of what may be a special token, such as ``</s>`` and ``[INST]``."""
QUICK, PATIENCE = 30.0, 10.0
"""Timeout and retries in seconds of a request that does not run the model."""


class ServedChat:
    """Tokenizer of a served model; what was learned by requests is kept in pickles.

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
        self._learned: set[tuple[str, ...]] = set()
        """Roles of the conversations whose template was looked at."""
        self._letters: dict[str, list[int]] = {}
        self._specials: dict[str, bool] = {}
        self._words: frozenset[str] = frozenset()

    def tokens(self, messages: Sequence[Message]) -> list[int]:
        """Return the server's own tokenisation of a conversation."""
        return self._ask({**conversation(messages), **self.template})[0]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a text alone, without a template."""
        return len(self._tokenize(self.as_data(text))[0])

    def learn_words(self, messages: Sequence[Message]) -> None:
        """Learn the template's words around conversations of these roles, by an example, once."""
        roles = tuple(message["role"] for message in messages)
        if roles in self._learned:
            return
        self._learned.add(roles)
        marks = [f"example {i} of what is said" for i in range(len(roles))]
        said = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        url = f"{self.server.root_url}/detokenize"
        patience, timeout = min(PATIENCE, self.server.patience), min(QUICK, self.server.timeout)
        try:
            text = self.server.ask(
                url,
                {"model": self.model, "tokens": self.tokens(said)},
                read=lambda answer: str(answer["prompt"]),
                patience=patience,
                timeout=timeout,
            )
        except ModelUnavailable:
            return
        self._words |= template_words(re.split("|".join(map(re.escape, marks)), text))

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

        Likewise into the words of the chat template, as far as `learn_words` has.
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

    def _ask(self, question: dict[str, Any]) -> tuple[list[int], list[str]]:
        body = {"model": self.model, "return_token_strs": True, **question}
        return self.server.ask(
            f"{self.server.root_url}/tokenize",
            body,
            read=_tokens,
            patience=min(PATIENCE, self.server.patience),
            timeout=min(QUICK, self.server.timeout),
        )


def conversation(messages: Sequence[Message]) -> dict[str, Any]:
    """Return a request's fields for a conversation; an answer begun by the last message goes on."""
    body: dict[str, Any] = {"messages": list(messages)}
    if messages[-1]["role"] == "assistant":
        body |= {"add_generation_prompt": False, "continue_final_message": True}
    return body


def _tokens(answer: Any) -> tuple[list[int], list[str]]:
    return [int(token) for token in answer["tokens"]], list(map(str, answer["token_strs"] or ()))
