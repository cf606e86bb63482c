"""Models behind an OpenAI-compatible server: vLLM, or any other.

The whole batch is sent at once, with an HTTP request for each conversation to
``/chat/completions``, so that the server itself fills in its chat template. Many prompts in one
request to ``/completions``, with a template that is filled in here, are no faster than that
(docs/vllm.md has the measurement).

A request that was answered is never sent again, whatever happens to the others of its batch. A
model's reply is never an error: a reply without text names nothing, and is counted.
"""

from __future__ import annotations

import json
import logging
import re
import string
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from threading import Event
from typing import Any, Literal, TypeVar

from rpp_env.errors import BrokenContract, InvalidOption, ModelUnavailable
from rpp_env.models.asking import estimated_tokens
from rpp_env.models.base import Generation, Message, Reply, Request
from rpp_env.models.checkpoints import check_single, distinct
from rpp_env.models.network import keeper, shorten
from rpp_env.models.reader import OURS, TOP, Lacking, Reader
from rpp_env.models.served import ServedChat, conversation
from rpp_env.models.transport import (
    MAX_BODY,
    Busy,
    Refused,
    Transport,
    Unusable,
    side_by_side,
)
from rpp_env.options import check_choice, nearest

__all__ = ["OpenAIModel"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

STARTUP = 10.0
"""Seconds of retries if the server is unreachable when the model is made."""
LISTING = 30.0
"""Timeout in seconds of requests for the server's own properties."""
PROBE_PATIENCE, PROBE = 2.0, 20.0
"""Seconds of retries, and timeout, of a request that tests a capability of the server."""
VLLM, OTHERS = 256, 64
"""Default of `OpenAIModel.concurrency` for vLLM and for other servers."""
DEFAULT_CONTEXT = 4096
"""Context length in tokens if neither server nor caller states it: LLaMA-2's."""
QUESTION: tuple[Message, ...] = ({"role": "user", "content": "Answer with one letter."},)
"""Prompt that tests a capability of the server."""
TEMPLATE = ("chat_template", "chat_template_kwargs")
"""Fields of a request that change what the chat template writes."""
UNLISTED = (
    "For a server that lists no models, or others than it takes, give model_options={'listed': "
    "False} (on the command line: --model-options '{\"listed\": false}')."
)


class OpenAIModel:
    """A language model on an OpenAI-compatible server.

    It is never ``"deterministic"``: the last bits of a live server's arithmetic depend on the other
    requests at the time, and between two almost equally probable tokens either may be chosen. Equal
    requests of a call are sent once if their answers should be equal (temperature 0, a seed, or
    `Request.choices`).

    **Choices.** One token is requested, and the log-probability of every choice, over the whole
    vocabulary. A choice is one letter, verified to be one token. Most tokenizers have two tokens
    for it, with and without a blank in front, and an answer may begin with either (LLaMA's
    tokenizer writes the former, GPT's the latter after a line break); a choice's probability is the
    sum of both. vLLM is sent token ids (``logprob_token_ids``, no option of the server needed). An
    older vLLM is sent a mask of all other tokens, and must be started with ``--max-logprobs 128
    --logprobs-mode processed_logprobs``. Other servers return at most their 20 most probable
    tokens; those with one text are added up, and a missing choice is an error.

    **Grammars** are in xgrammar's EBNF (``root ::= "yes" | "no"``), sent as vLLM's
    ``structured_outputs``.

    **Messages are data**: where the server is vLLM, a special token of its tokenizer that occurs
    in one (``</s>`` in a title) gets a blank after its first character, so that it stays text.

    **Replies are data**: one without text (a content filter, a refusal, reasoning that used up
    ``max_tokens``) is an empty `Reply`, counted in `oddities`, with one warning for each kind. A
    prompt that the server refuses as longer than its context is an empty reply with the
    `Reply.finish_reason` ``"too_long"``, after which `LLMRecommender` sends a shorter prompt.

    Parameters
    ----------
    base_url : str
        The address, such as ``"http://127.0.0.1:8000/v1"``.
    name : str
        Name of the model in the server's list.
    api : {"auto", "chat", "completions"}
        Whether to send conversations with the model's chat template, or the messages' texts alone
        with a blank line between them. ``"auto"``: with the template, unless vLLM reports that the
        model has none.
    context_length : int, optional
        Context length in tokens. By default the server's ``max_model_len``, or 4096 if unknown.
    concurrency : int
        Maximum requests in flight, with a thread for each; by default 256 for vLLM, which batches
        them, and 64 for another server.
    timeout : float
        Seconds from sending a request to the last byte of its reply, after which it counts as lost.
        It must be longer than the server takes for `concurrency` replies; a server that has gone
        away is noticed sooner.
    patience : float
        Seconds for which a request is retried after its first failure.
    api_key : str, optional
        The API key (default: the environment variable ``OPENAI_API_KEY``). It is not pickled: a
        process that unpickles the model reads the variable.
    send_key : bool
        Whether the user named this address. False for an address read from a file: then the key is
        sent only if the environment variable ``RPP_ENV_KEY_HOSTS`` lists the host.
    plain_http_key : bool
        Allow sending the key to another machine over plain HTTP, which is refused otherwise.
    listed : bool
        Whether the server must list the model. False sends no request for the list: for servers
        without ``/models``, or with other names in it.
    max_tokens_field : str
        The server's field for the maximum length of a reply: newer models of OpenAI need
        ``"max_completion_tokens"``.
    request_options : mapping, optional
        Fields added to every request: a value sets the field, None leaves it out, as in
        ``{"temperature": None, "reasoning_effort": "low"}``. They are part of the `id`.
    max_body : int
        Maximum bytes of a reply, decompressed; 16 MiB by default.

    Attributes
    ----------
    id : str
        Served name, weights (the ``root`` that vLLM reports; only the name of a folder), interface
        and request options; not the address.
    version : str or None
        Version of vLLM, if the server is one.
    oddities : Counter of str
        Counts of odd replies, by kind: without text and why, with an error instead of an answer,
        with impossible token counts, by another model.

    Raises
    ------
    MissingExtra
        Without httpx and tenacity.
    InvalidOption
        For a model that the server does not list, and options out of range.
    ModelUnavailable
        If the server cannot be reached or refuses.
    """

    def __init__(
        self,
        base_url: str,
        name: str,
        *,
        api: Literal["auto", "chat", "completions"] = "auto",
        context_length: int | None = None,
        concurrency: int | None = None,
        timeout: float = 600.0,
        patience: float = 600.0,
        api_key: str | None = None,
        send_key: bool = True,
        plain_http_key: bool = False,
        listed: bool = True,
        max_tokens_field: str = "max_tokens",
        request_options: Mapping[str, Any] | None = None,
        max_body: int = MAX_BODY,
    ) -> None:
        key = keeper(api_key)
        del api_key  # hidden from tracebacks that show local variables
        check_choice("api", api, ("auto", "chat", "completions"))
        _check_numbers(
            concurrency=(VLLM if concurrency is None else concurrency, int, 1),
            timeout=(timeout, float, 1e-3),
            patience=(patience, float, 0),
            max_body=(max_body, int, 1024),
        )
        self.request_options = _checked_options(request_options or {})
        self.max_tokens_field = max_tokens_field
        self._server = Transport(
            base_url,
            timeout=timeout,
            patience=patience,
            key=key,
            send_key=send_key,
            plain_http_key=plain_http_key,
            max_body=max_body,
        )
        self.name = name
        card = self._card() if listed else {}
        self._chat = self._tokenizer() if card.get("owned_by") == "vllm" else None
        """Tokenizer and template of a vLLM server."""
        self.concurrency = concurrency or (OTHERS if self._chat is None else VLLM)
        version = self._chat and self._try("/version", None, lambda answer: str(answer["version"]))
        self.version: str | None = shorten(version, 40) if version else None
        if api == "auto":
            api = "chat" if self._chat is None or self._has_template() else "completions"
        self.api = api
        self.context_length: int = _context(card.get("max_model_len"), context_length)
        root = _known_as(card.get("root"))
        self.id = f"openai-{api}:{name}" + (f"@{root}" if root not in {None, name} else "")
        if self.request_options:
            said = (f"{k}={json.dumps(v)}" for k, v in sorted(self.request_options.items()))
            self.id += f" ({', '.join(said)})"
        self._reader = Reader(self._server, name, self._chat, self.version, max_tokens_field)
        self._way: str | None = None
        self._found: dict[str, bool | str] = {}
        """Capabilities, or the error because of which they are unknown."""
        self._count()

    @property
    def oddities(self) -> Counter[str]:
        """Counts of odd replies, by kind."""
        return self._reader.oddities

    count_tokens: Callable[[str], int]
    """Number of tokens of a text alone, without the chat template; only set for a vLLM server."""

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name != "count_tokens"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._count()

    def _count(self) -> None:
        if self._chat is not None:
            self.count_tokens = lru_cache(maxsize=4096)(self._counted)

    def _counted(self, text: str) -> int:
        if self._chat is not None and "counts" not in self._found:
            try:
                return self._chat.count_tokens(text)
            except ModelUnavailable as error:
                self._found["counts"] = False
                logger.warning("tokens are estimated from now on, not counted: %s", error)
        return estimated_tokens(text)

    @property
    def capabilities(self) -> frozenset[str]:
        """``"choices"`` and ``"grammar"``, each if a test request has shown it.

        The test is made once. ``"choices"`` means that log-probabilities are returned, from vLLM
        those of all 52 letters.

        Raises
        ------
        ModelUnavailable
            If the test could not be made; at once, if it failed before.
        """
        probes = (("choices", self._chooses), ("grammar", self._obeys))
        return frozenset(name for name, probe in probes if self._shown(name, probe))

    def _shown(self, name: str, probe: Callable[[], bool]) -> bool:
        if name not in self._found:
            try:
                self._found[name] = probe()
            except ModelUnavailable as error:
                self._found[name] = str(error)
                raise
        found = self._found[name]
        if isinstance(found, str):
            raise ModelUnavailable(found)
        return found

    @property
    def continues(self) -> bool:
        """Return whether the model continues the last message, for ``rank_by="structured"``."""
        return self._chat is not None or self.api == "completions"

    def close(self) -> None:
        """Close the connections; the next call opens them again."""
        self._server.close()

    def release(self) -> None:
        """Close the connections; called when an environment is closed."""
        self.close()

    def complete(self, requests: Sequence[Request]) -> list[Reply]:
        """Answer every request; equal ones are sent once if their answers should be equal.

        Raises
        ------
        ModelUnavailable
            If the server stays unreachable, or refuses a request. `ModelUnavailable.answered` holds
            the answers until then.
        BrokenContract
            If the server returns no log-probability for a choice, or an impossible one. Its
            `answered` holds the answers until then, too.
        InvalidOption
            For choices that are not single tokens; for a grammar, or an answer that the last
            message begins, if the server is not vLLM.
        """
        self._check(requests)
        distincts, places = distinct(requests)
        if self._chat is not None and self.api == "chat":
            for request in distincts:
                self._chat.learn_words(request.messages)
        asked = [self._cleaned(request) for request in distincts]
        answers: dict[int, Reply] = {}
        error = self._answer(asked, answers)
        answers = {i: reply for i, reply in answers.items() if error is None or _is_answer(reply)}
        if error is None and not (self._reader.works or all(map(_is_answer, answers.values()))):
            # No request was ever answered: find out whether the fault is in these requests.
            self._ask(Request(QUESTION, Generation(max_tokens=1)))
            if not self._reader.works:
                error, answers = self._reader.error, {}
        if error is None:
            return [answers[place] for place in places]
        if not isinstance(error, ModelUnavailable | BrokenContract):
            raise error
        kept = {i: answers[place] for i, place in enumerate(places) if place in answers}
        kind = BrokenContract if isinstance(error, BrokenContract) else type(error)
        raised = kind(
            f"{error} Answers received: {len(kept)} of {len(requests)}; with a RecordingModel in "
            "front they are kept, and the same call resumes from them.",
            kept,
        )
        raised.__dict__ |= {k: v for k, v in error.__dict__.items() if k != "answered"}
        raise raised

    # A batch

    def _answer(self, asked: Sequence[Request], answers: dict[int, Reply]) -> Exception | None:
        """Fill in the answers by index; return the first error, after which no job is begun."""

        def do(i: int, stop: Event) -> tuple[int, ...]:
            answers[i] = self._ask(asked[i], stop)
            return ()

        self._server.open()
        return side_by_side(range(len(asked)), do, min(len(asked), self.concurrency))

    def _ask(
        self,
        request: Request,
        stop: Event | None = None,
        patience: float | None = None,
        timeout: float | None = None,
    ) -> Reply:
        """Return the reply to one HTTP request."""
        chat = self.api == "chat"
        body = self._body(request, chat=chat)
        if chat:
            url = f"{self._server.base_url}/chat/completions"
            body |= conversation(request.messages)
        else:
            url = f"{self._server.base_url}/completions"
            body["prompt"] = "\n\n".join(message["content"] for message in request.messages)
            if self._chat is not None:
                body["add_special_tokens"] = True
        read = partial(self._reader.reply, request)
        try:
            return self._server.ask(
                url, body, read=read, stop=stop, patience=patience, timeout=timeout
            )
        except Refused as refused:
            return self._reader.instead(refused, body)
        except Unusable as error:
            return self._reader.failed(error, error.words)

    # Questions

    def _body(self, request: Request, *, chat: bool) -> dict[str, Any]:
        """Return a request's fields, without its prompt."""
        drawn, grammar = request.generation, request.grammar
        body: dict[str, Any] = {"model": self.name}
        if request.choices is not None:
            body |= {"temperature": 0.0, self.max_tokens_field: 1}
            body |= self._scoring(request.choices, chat=chat)
        else:
            body |= {"temperature": drawn.temperature, self.max_tokens_field: drawn.max_tokens}
            body |= {"top_p": drawn.top_p} if drawn.temperature > 0 else {}
            body |= {"seed": drawn.seed} if drawn.seed is not None else {}
            body |= {"stop": list(drawn.stop)} if drawn.stop else {}
            body |= {"structured_outputs": {"grammar": grammar}} if grammar else {}
        for field, value in self.request_options.items():
            if value is None:
                body.pop(field, None)
            else:
                body[field] = value
        return body

    def _scoring(self, letters: Iterable[str], *, chat: bool) -> dict[str, Any]:
        """Return the fields that request log-probabilities of letters."""
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

    # What the server can do

    def _card(self) -> dict[str, Any]:
        """Return the server's description of the model."""
        url = f"{self._server.base_url}/models"
        patience = min(self._server.patience, STARTUP)
        timeout = min(self._server.timeout, LISTING)
        try:
            cards = self._server.ask(url, read=_cards, patience=patience, timeout=timeout)
        except Refused as refused:
            if refused.status not in {400, 404, 405, 501}:
                raise
            raise Refused(f"{refused} {UNLISTED}") from None
        except Unusable as unusable:
            raise Unusable(f"{unusable} {UNLISTED}") from None
        if self.name in cards:
            return cards[self.name]
        for name, card in cards.items():
            # For Ollama's names without a version, and routers that accept similar names.
            if name == f"{self.name}:latest" or ("*" in name and fnmatchcase(self.name, name)):
                return card
        close = nearest(self.name, cards)
        listed = ", ".join(shorten(repr(name), 100) for name in list(cards)[:10])
        more = " ..." if len(cards) > 10 else ""
        raise InvalidOption(
            f"{self._server.base_url} does not serve {self.name!r}, but {listed or 'nothing'}"
            f"{more}: give one of these{f' (did you mean {close!r}?)' if close else ''}, or "
            f"start the server with another --served-model-name. {UNLISTED}"
        )

    def _tokenizer(self) -> ServedChat | None:
        """Return a vLLM server's tokenizer; None for other servers and if it is disabled."""
        if not self._tokenizes({"prompt": "a"}):
            logger.warning("%s has no /tokenize: tokens are estimated", self._server.base_url)
            return None
        options = self.request_options
        template = {field: options[field] for field in TEMPLATE if field in options}
        return ServedChat(self._server, self.name, template)

    def _try(self, path: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T | None:
        """Read one of vLLM's own addresses; None if the server lacks or refuses it."""
        try:
            return self._server.ask(
                f"{self._server.root_url}{path}",
                body,
                read=read,
                patience=min(self._server.patience, PROBE_PATIENCE),
                timeout=min(self._server.timeout, LISTING),
            )
        except ModelUnavailable:
            return None

    def _tokenizes(self, what: dict[str, Any]) -> bool:
        body = {"model": self.name, **what}
        return self._try("/tokenize", body, lambda answer: len(answer["tokens"])) is not None

    def _has_template(self) -> bool:
        """Whether there is a chat template, unless vLLM reports that there is none."""
        assert self._chat is not None
        try:
            self._chat.tokens(QUESTION)
        except Refused as refused:
            return "template" not in refused.words.lower()
        except ModelUnavailable:
            pass  # the filled-in template cannot be seen, but the conversation may work
        return True

    def _check(self, requests: Sequence[Request]) -> None:
        """Raise InvalidOption for invalid requests, and for what this server cannot do."""
        if any(request.continuations is not None for request in requests):
            raise InvalidOption(
                "servers are not asked for the likelihood of given texts, since many return "
                "nothing or zeros: load the model in this process ('hf:ID', 'smollm2')"
            )
        for choices in {request.choices for request in requests if request.choices is not None}:
            if len(set(choices)) < max(1, len(choices)):
                raise InvalidOption(f"choices must be one or more, and distinct; got {choices}")
        if self._chat is None:
            begun = any(request.messages[-1]["role"] == "assistant" for request in requests)
            if self.api == "chat" and begun:
                raise InvalidOption("only vLLM continues an answer that the last message begins")
            if any(request.grammar for request in requests):
                raise InvalidOption("only vLLM holds a reply to a grammar: rank by 'generate'")
            return
        letters = {choice for request in requests for choice in request.choices or ()}
        check_single(self._chat.choice_tokens(letters))
        if letters and not self._settled():
            raise BrokenContract(
                f"{self._server.base_url} does not return log-probabilities of chosen tokens. "
                f"{self._reader.cannot()}"
            )

    def _settled(self) -> bool:
        """Find out how this vLLM returns log-probabilities of chosen tokens; whether it does."""
        if self._way is None:
            assert self._chat is not None
            tokens = self._chat.choice_tokens(string.ascii_letters)
            letters = [letter for letter, ids in tokens.items() if ids]
            found = ""
            try:
                for self._way in ("ids", "mask"):
                    if letters and self._answers(letters):
                        found = self._way
                        break
            except ModelUnavailable:
                self._way = None
                raise
            self._way = found
        return self._way != ""

    def _chooses(self) -> bool:
        """Whether log-probabilities of letters are returned."""
        return self._answers("A") if self._chat is None else self._settled()

    def _answers(self, letters: Sequence[str]) -> bool:
        """Whether a request for log-probabilities is answered with some; tested once or twice.

        A server may refuse them in its reply, leave them out, fail, or not answer at all. In the
        last two cases the request is sent without them, and then once more with them.
        """
        asked = Request(QUESTION, Generation(max_tokens=1), choices=tuple(letters))
        for last, seconds in ((False, PROBE_PATIENCE), (True, STARTUP)):
            patience = min(seconds, self._server.patience)
            try:
                reply = self._ask(asked, patience=patience, timeout=PROBE)
            except Lacking:
                return self._chat is None
            except (Refused, Unusable, BrokenContract) as error:
                why = str(error)
                break
            except ModelUnavailable as error:
                why = str(error)
                if not last:
                    self._ask(replace(asked, choices=None))
                elif isinstance(error, Busy):
                    raise
            else:
                if reply.choice_logprobs is not None:
                    return True
                why = f"{self._server.base_url} does not answer a request for them"
                break
        if self._chat is None:
            logger.warning("no ranking by letters, only by rank_by='generate': %s", why)
        return False

    def _obeys(self) -> bool:
        if self._chat is None:
            return False
        grammar = 'root ::= "yes" | "no"'
        asked = Request(QUESTION, Generation(max_tokens=8), grammar=grammar)
        try:
            text = self._ask(asked, patience=PROBE_PATIENCE, timeout=PROBE).text
        except (Refused, Unusable):
            return False
        # vLLM may hold back part of the last character if the tokenizer writes it in bytes.
        return text != "" and any(word.startswith(text) for word in ("yes", "no"))

    def _cleaned(self, request: Request) -> Request:
        """Return the request with nothing in it that is read as a special token."""
        if self._chat is None:
            return request
        said = tuple({**m, "content": self._chat.as_data(m["content"])} for m in request.messages)
        return request if said == request.messages else replace(request, messages=said)


def _context(served: Any, wanted: int | None) -> int:
    known = served if type(served) is int and served > 0 else 0
    if wanted is not None and (wanted < 1 or 0 < known < wanted):
        raise InvalidOption(f"context_length must be 1 to {known or 'any'}; got {wanted}")
    return wanted or known or DEFAULT_CONTEXT


def _known_as(root: Any) -> str | None:
    """Name of the weights; only the last part of a folder, because the id goes into tables."""
    if not isinstance(root, str):
        return None
    local = root.startswith(("/", "~", ".")) or "\\" in root
    return re.split(r"[/\\]", root.rstrip("/\\"))[-1] if local else root


def _check_numbers(**numbers: tuple[Any, type, float]) -> None:
    """Raise InvalidOption for options that are not numbers, or below the allowed minimum."""
    for name, (value, kind, least) in numbers.items():
        allowed = (int,) if kind is int else (int, float)
        if not isinstance(value, allowed) or isinstance(value, bool) or not value >= least:
            noun = "an integer" if kind is int else "a number"
            raise InvalidOption(f"{name} must be {noun} of at least {least:,}, not {value!r}")


def _checked_options(options: Mapping[Any, Any]) -> dict[str, Any]:
    """Check the fields that the user adds to requests."""
    for field in options:
        if not isinstance(field, str) or field in OURS:
            raise InvalidOption(
                f"request_options cannot set {field!r}: questions have their own "
                f"{', '.join(sorted(OURS))}"
            )
    try:
        return dict(json.loads(json.dumps(dict(options), allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise InvalidOption(f"request_options must be JSON values: {error}") from error


def _is_answer(reply: Reply) -> bool:
    """Whether a reply is the model's, rather than an error sent in its place."""
    return reply.finish_reason != "no_answer"


# Readers of server replies. Each raises for an unexpected reply, and the request is sent again.


def _cards(answer: Any) -> dict[str, dict[str, Any]]:
    cards = answer if isinstance(answer, list) else answer["data"]
    return {str(card["id"]): dict(card) for card in cards}
