"""Models behind a server that speaks OpenAI's interface: vLLM, or any other.

The whole batch is under way at once. A server of the vLLM family gets many prompts in one HTTP
request, by ``/completions``, with the chat template filled in here: one request a prompt costs it
more time than a short answer does. The template's text is learned from the server, by an example of
each form of conversation, and the first prompt of every request is checked: unless the server's own
``/tokenize`` makes the same tokens of its messages, the answers are thrown away and conversations
of that form are asked one by one, by ``/chat/completions``. So are all conversations where the
server is another one.

A question that was answered is never asked again, whatever happens to the others of its batch.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property, lru_cache, partial
from threading import Event
from typing import Any, Literal, TypeVar

import numpy as np

from rpp_env.errors import BrokenContract, InvalidOption, ModelUnavailable
from rpp_env.models.base import Generation, Message, Reply, Request
from rpp_env.models.checkpoints import check_single, distinct
from rpp_env.models.served import ServedChat, conversation, form
from rpp_env.models.transport import Refused, Transport, side_by_side

__all__ = ["OpenAIModel"]

T = TypeVar("T")

STARTUP = 10.0
"""Seconds of patience with a server that is not there when the model is made."""
THREADS = 64
"""HTTP requests under way at most, where each carries one prompt."""
DEFAULT_CONTEXT = 4096
"""Tokens, where neither server nor caller says: LLaMA-2's."""
TOP = 20
"""Log-probabilities that a server other than vLLM gives at most."""
PROBE: tuple[Message, ...] = ({"role": "user", "content": "Answer with one letter."},)


class OpenAIModel:
    """A model that a server offers.

    It is never ``"deterministic"``: the last bits of a live server's arithmetic depend on what else
    is asked at the time, and where two tokens are as good as equally probable, another one may win.
    Equal requests of a call are asked once where the answer is meant to be the same (temperature 0,
    a seed, or `Request.choices`).

    **Choices.** One token is asked for, and the log-probability of every choice, over the whole
    vocabulary. A choice is one letter, verified to be one token. Most tokenizers have two for it,
    with and without a blank in front, and either begins an answer with that letter (LLaMA's writes
    the one, GPT's the other after a line break); a choice's probability is the sum of both. vLLM is
    asked by token ids (``logprob_token_ids``, no option of the server needed); an older one, by
    masking all other tokens, for which it must be started with ``--max-logprobs 128
    --logprobs-mode processed_logprobs``; any other server can only be asked for its 20 most
    probable tokens, and a choice that is not among them is an error.

    **Grammars** are in xgrammar's EBNF (``root ::= "yes" | "no"``), sent as vLLM's
    ``structured_outputs``.

    **Messages are data**: where the server is vLLM, a special token of its tokenizer that occurs
    in one (``</s>`` in a title) gets a blank after its first character, so that it stays text.

    Parameters
    ----------
    base_url : str
        Such as ``"http://127.0.0.1:8000/v1"``.
    name : str
        Of the model, as the server lists it.
    api : {"auto", "chat", "completions"}
        Conversations by the model's chat template, or the messages' texts alone with a blank line
        between them. ``"auto"`` takes the template unless vLLM says that the model has none.
    context_length : int, optional
        In tokens. The server's ``max_model_len`` by default, or 4096 where it tells none.
    concurrency : int
        Prompts under way at most. A server other than vLLM has at most 64 of them.
    batch_size : int
        Prompts in one HTTP request to vLLM. What a lost request loses is as much.
    timeout : float
        Seconds without a byte from the server, after which a request counts as lost. It must be
        longer than the server takes for `concurrency` replies; a server that is gone is noticed
        sooner.
    patience : float
        Seconds for which a question is asked again after its first failure.
    api_key : str, optional
        Else the environment variable ``OPENAI_API_KEY``, if it is set. Not kept in pickles: a
        process that unpickles the model reads the variable.

    Attributes
    ----------
    id : str
        Served name, weights (the ``root`` that vLLM tells; of a folder its name) and interface; not
        where the server is.
    version : str or None
        vLLM's.

    Raises
    ------
    MissingExtra
        Without httpx and tenacity.
    InvalidOption
        For a model that the server does not serve, and options out of range.
    ModelUnavailable
        Where the server cannot be reached or refuses.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        api: Literal["auto", "chat", "completions"] = "auto",
        context_length: int | None = None,
        concurrency: int = 256,
        batch_size: int = 32,
        timeout: float = 600.0,
        patience: float = 600.0,
        api_key: str | None = None,
    ) -> None:
        self._server = Transport(base_url, api_key=api_key, timeout=timeout, patience=patience)
        del api_key  # out of sight of tracebacks that show local variables
        if api not in {"auto", "chat", "completions"}:
            raise InvalidOption(f"api must be 'auto', 'chat' or 'completions', not {api!r}")
        if min(concurrency, batch_size) < 1 or timeout <= 0 or patience < 0:
            raise InvalidOption(
                "concurrency and batch_size must be at least 1, timeout above 0 and patience not "
                f"negative; got {concurrency}, {batch_size}, {timeout} and {patience}"
            )
        self.name = name
        self.concurrency = concurrency
        self.batch_size = batch_size
        card = self._card()
        self.version: str | None = None
        self._chat: ServedChat | None = None
        """Of a vLLM server."""
        if card.get("owned_by") == "vllm" and self._tokenizes({"prompt": "a"}):
            self._chat = ServedChat(self._server, name)
            self.version = self._try("/version", None, lambda told: str(told.get("version")))
        if api == "auto":
            without = self._chat and not self._tokenizes(conversation(PROBE))
            api = "completions" if without else "chat"
        self.api = api
        self.context_length: int = _context(card.get("max_model_len"), context_length)
        root = _known_as(card.get("root"))
        self.id = f"openai-{api}:{name}" + (f"@{root}" if root not in {None, name} else "")
        self._way: str | None = None
        self._count()

    count_tokens: Callable[[str], int]
    """Tokens of a text alone, without the chat template's. Only there where vLLM is."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "count_tokens"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._count()

    def _count(self) -> None:
        if self._chat is not None:
            self.count_tokens = lru_cache(maxsize=4096)(self._chat.count_tokens)

    @cached_property
    def capabilities(self) -> frozenset[str]:
        """``"choices"`` and ``"grammar"``, each where the server has just shown it.

        vLLM is asked about all 52 letters, another server about 20.
        """
        chooses = self._settled() if self._chat else self._chooses(string.ascii_uppercase[:20])
        shown = (("choices", chooses), ("grammar", self._chat is not None and self._obeys()))
        return frozenset(name for name, works in shown if works)

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._server.close()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; equal ones once where the answer would be the same.

        Raises
        ------
        ModelUnavailable
            Where the server stays away, or refuses a question. `ModelUnavailable.answered` holds
            what was answered until then.
        BrokenContract
            Where the server keeps a choice's log-probability to itself.
        InvalidOption
            For choices that are not single tokens; for a grammar, or an answer that is begun by the
            last message, where the server is not vLLM.
        """
        self._check(requests)
        distincts, places = distinct(requests)
        asked = [self._cleaned(request) for request in distincts]
        answers: dict[int, Reply] = {}
        error = self._answer(asked, answers)
        if error is None:
            return [answers[place] for place in places]
        if not isinstance(error, ModelUnavailable):
            raise error
        kept = {i: answers[place] for i, place in enumerate(places) if place in answers}
        raise type(error)(
            f"{error} Answers that came: {len(kept)} of {len(requests)}; with a RecordingModel in "
            "front they are kept, and the same call goes on from there.",
            kept,
        )

    # A batch

    def _answer(self, asked: Sequence[Request], answers: dict[int, Reply]) -> Exception | None:
        """Fill in the answers, by place; the first error, after which nothing more was begun."""

        def do(job: list[int], stop: Event) -> list[list[int]]:
            replies = self._ask([asked[i] for i in job], stop)
            if replies is None:
                return [[i] for i in job]
            answers.update(zip(job, replies, strict=True))
            return []

        parts = self._parts(asked)
        largest = max(map(len, parts), default=1)
        width = min(len(parts), THREADS, max(1, self.concurrency // largest))
        self._server.open()
        return side_by_side(parts, do, width)

    def _parts(self, asked: Sequence[Request]) -> list[list[int]]:
        """What goes into one HTTP request: prompts of one form that are sampled in one way."""
        if self._chat is None:
            return [[i] for i in range(len(asked))]
        groups: dict[Any, list[int]] = {}
        for i, request in enumerate(asked):
            drawn = None if request.choices else request.generation
            key = (form(request.messages), drawn, request.grammar, request.choices is None)
            groups.setdefault(key, []).append(i)
        parts = []
        for members in groups.values():
            size = min(self.batch_size, len(members))
            if size > 1 and self.api == "chat" and not self._chat.fills(asked[members[0]].messages):
                size = 1
            parts += [members[at : at + size] for at in range(0, len(members), size)]
        return parts

    def _ask(self, part: Sequence[Request], stop: Event | None = None) -> list[Reply] | None:
        """The replies of one HTTP request; None where each must be asked by itself."""
        first = part[0].messages
        if self.api == "chat" and len(part) == 1:
            body = self._body(part, chat=True) | conversation(first)
            url = f"{self._server.base_url}/chat/completions"
            return self._server.ask(url, body, read=partial(self._read_chat, part[0]), stop=stop)
        body = self._body(part, chat=False)
        chat = self._chat if self.api == "chat" else None
        if chat is None:
            said = ([message["content"] for message in request.messages] for request in part)
            body["prompt"] = ["\n\n".join(texts) for texts in said]
        elif chat.fills(first):
            body["prompt"] = [chat.text(request.messages) for request in part]
        else:
            return None
        if self._chat is not None:
            body |= {"add_special_tokens": chat is None, "return_token_ids": True}
        url, read = f"{self._server.base_url}/completions", partial(self._read_texts, part)
        try:
            replies, tokens = self._server.ask(url, body, read=read, stop=stop)
        except Refused:
            # One that is too long spoils the request for all; asked alone, it alone is refused.
            if len(part) == 1:
                raise
            return None
        if chat is not None and tokens != chat.tokens(first, stop):
            chat.distrust(first)
            return None
        return replies

    # Questions

    def _body(self, part: Sequence[Request], *, chat: bool) -> dict[str, Any]:
        """A request's fields, its prompts aside."""
        drawn, grammar = part[0].generation, part[0].grammar
        body: dict[str, Any] = {"model": self.name}
        if part[0].choices is not None:
            letters = {choice for request in part for choice in request.choices or ()}
            return body | {"temperature": 0.0, "max_tokens": 1} | self._scoring(letters, chat=chat)
        body |= {"temperature": drawn.temperature, "max_tokens": drawn.max_tokens}
        body |= {"top_p": drawn.top_p} if drawn.temperature > 0 else {}
        body |= {"seed": drawn.seed} if drawn.seed is not None else {}
        body |= {"stop": list(drawn.stop)} if drawn.stop else {}
        return body | ({"structured_outputs": {"grammar": grammar}} if grammar else {})

    def _scoring(self, letters: Iterable[str], *, chat: bool) -> dict[str, Any]:
        """The fields that ask for log-probabilities of letters."""
        ids: list[int] = []
        if self._chat is not None:
            ids = sorted({i for found in self._chat.choice_tokens(letters).values() for i in found})
        count = len(ids) or TOP
        body: dict[str, Any] = (
            {"logprobs": True, "top_logprobs": count} if chat else {"logprobs": count}
        )
        if ids:
            name = "allowed_token_ids" if self._way == "mask" else "logprob_token_ids"
            body |= {name: ids, "return_tokens_as_token_ids": True}
        return body

    # Answers

    def _read_chat(self, request: Request, told: Any) -> list[Reply]:
        row = told["choices"][0]
        scores: dict[str, float] = {}
        if request.choices is not None:
            top = row["logprobs"]["content"][0]["top_logprobs"]
            scores = {entry["token"]: float(entry["logprob"]) for entry in top}
        text = row["message"]["content"]
        return [self._reply(request, row, "" if text is None else text, _usage(told), scores)]

    def _read_texts(self, part: Sequence[Request], told: Any) -> tuple[list[Reply], list[int]]:
        """The replies, and the tokens of the first prompt."""
        rows = sorted(told["choices"], key=lambda row: int(row["index"]))
        if [row["index"] for row in rows] != list(range(len(part))):
            raise ValueError(f"{len(rows)} answers to {len(part)} prompts")
        replies = []
        for row, request in zip(rows, part, strict=True):
            counts = _usage(told)
            if len(part) > 1:
                counts = len(row["prompt_token_ids"]), len(row["token_ids"])
            scored = request.choices is not None
            scores = row["logprobs"]["top_logprobs"][0] if scored else {}
            replies.append(self._reply(request, row, row["text"], counts, scores))
        return replies, rows[0].get("prompt_token_ids") or []

    def _reply(
        self,
        request: Request,
        row: Mapping[str, Any],
        text: Any,
        counts: tuple[int, int],
        scores: Mapping[str, float],
    ) -> Reply:
        finish = row.get("finish_reason") or "stop"
        if not isinstance(text, str) or finish in {"abort", "error"}:
            # A server that is going down hands out what it has.
            raise ValueError(f"a reply that ended by {finish!r}")
        if request.choices is None:
            return Reply(text, *counts, finish_reason=str(finish))
        logprobs = [self._score(choice, scores) for choice in request.choices]
        pairs = zip(request.choices, logprobs, strict=True)
        lacking = [choice for choice, value in pairs if value == -math.inf]
        if lacking:
            raise BrokenContract(
                f"{self._server.base_url} gave no log-probability for {', '.join(lacking)}, of "
                f"{len(request.choices)} choices. {self._cannot()}"
            )
        return Reply.choosing(request.choices, logprobs, *counts)

    def _score(self, choice: str, scores: Mapping[str, float]) -> float:
        """The sum over all tokens that are this choice; -inf where one is not told."""
        if self._chat is None:
            values = [value for token, value in scores.items() if token.strip() == choice]
        else:
            ids = self._chat.choice_tokens([choice])[choice]
            values = [scores.get(f"token_id:{token}", -math.inf) for token in ids]
        if min(values, default=-math.inf) == -math.inf:
            return -math.inf
        return float(np.logaddexp.reduce(values))

    def _cannot(self) -> str:
        if self._chat is not None:
            return (
                f"This vLLM ({self.version}) does not know logprob_token_ids: take vLLM 0.32 or "
                "later, or start it with --max-logprobs 128 --logprobs-mode processed_logprobs"
            )
        return (
            f"A server other than vLLM gives those of its {TOP} most probable tokens at most: rank "
            "fewer candidates, take vLLM, or rank by 'generate'"
        )

    # What the server can do

    def _card(self) -> dict[str, Any]:
        """What the server says of the model."""
        url = f"{self._server.base_url}/models"
        patience = min(self._server.patience, STARTUP)
        cards = self._server.ask(url, read=_cards, patience=patience)
        if self.name not in cards:
            names = ", ".join(map(repr, list(cards)[:10])) + (" ..." if len(cards) > 10 else "")
            raise InvalidOption(
                f"{self._server.base_url} does not serve {self.name!r}, but {names or 'nothing'}: "
                "give one of these, or start the server with another --served-model-name"
            )
        return cards[self.name]

    def _try(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T | None:
        """What one of vLLM's own addresses says; None where the server lacks or refuses it."""
        patience = min(self._server.patience, STARTUP)
        try:
            url = f"{self._server.root_url}{path}"
            return self._server.ask(url, body, read=read, patience=patience)
        except Refused:
            return None

    def _tokenizes(self, what: dict[str, Any]) -> bool:
        body = {"model": self.name, **what}
        return self._try("/tokenize", body, lambda told: len(told["tokens"])) is not None

    def _check(self, requests: Sequence[Request]) -> None:
        """Refuse what nobody could answer, and what this server cannot do."""
        for choices in {request.choices for request in requests if request.choices is not None}:
            if len(set(choices)) < max(1, len(choices)):
                raise InvalidOption(f"choices must be one or more, and distinct; got {choices}")
        if self._chat is None:
            begun = any(request.messages[-1]["role"] == "assistant" for request in requests)
            if self.api == "chat" and begun:
                raise InvalidOption("only vLLM goes on with an answer that the last message begins")
            if any(request.grammar for request in requests):
                raise InvalidOption("only vLLM holds a reply to a grammar: rank by 'generate'")
            return
        letters = {choice for request in requests for choice in request.choices or ()}
        check_single(self._chat.choice_tokens(letters))
        if letters and not self._settled():
            raise BrokenContract(
                f"{self._server.base_url} does not tell the log-probabilities of chosen tokens. "
                f"{self._cannot()}"
            )

    def _settled(self) -> bool:
        """Find out how this vLLM tells the log-probabilities of chosen tokens; whether it does."""
        if self._way is None:
            assert self._chat is not None
            tokens = self._chat.choice_tokens(string.ascii_letters)
            letters = [letter for letter, ids in tokens.items() if ids]
            for self._way in ("ids", "mask"):
                if letters and self._chooses(letters):
                    break
            else:
                self._way = ""
        return self._way != ""

    def _chooses(self, letters: Sequence[str]) -> bool:
        try:
            self._ask([Request(PROBE, Generation(max_tokens=1), choices=tuple(letters))])
        except (Refused, BrokenContract):
            return False
        return True

    def _obeys(self) -> bool:
        grammar = 'root ::= "yes" | "no"'
        try:
            replies = self._ask([Request(PROBE, Generation(max_tokens=8), grammar=grammar)])
        except Refused:
            return False
        text = replies[0].text if replies else ""
        # Of the last character vLLM may hold back a part that the tokenizer wrote in bytes.
        return text != "" and any(word.startswith(text) for word in ("yes", "no"))

    def _cleaned(self, request: Request) -> Request:
        """The request, with nothing in it that the tokenizer would read as a special token."""
        if self._chat is None:
            return request
        said = tuple({**m, "content": self._chat.as_data(m["content"])} for m in request.messages)
        return request if said == request.messages else replace(request, messages=said)


def _context(served: Any, wanted: int | None) -> int:
    if wanted is not None and (wanted < 1 or (isinstance(served, int) and wanted > served)):
        raise InvalidOption(f"context_length must be 1 to {served or 'any'}; got {wanted}")
    return wanted or (served if isinstance(served, int) and served > 0 else DEFAULT_CONTEXT)


def _known_as(root: Any) -> Any:
    """The weights' name; of a folder its own alone, for an id goes into tables that others read."""
    local = isinstance(root, str) and (root.startswith(("/", "~", ".")) or "\\" in root)
    return re.split(r"[/\\]", root.rstrip("/\\"))[-1] if local else root


# What servers tell. Each raises where it is not what was asked for, and is then asked again.


def _cards(told: Any) -> dict[str, dict[str, Any]]:
    return {str(card["id"]): dict(card) for card in told["data"]}


def _usage(told: Any) -> tuple[int, int]:
    usage = told.get("usage") or {}
    return int(usage.get("prompt_tokens") or 0), int(usage.get("completion_tokens") or 0)
