"""JSON over HTTP that survives a bad day: retries, size and time are bounded, secrets kept.

Asked again, after pauses that grow and are drawn at random, is whatever may go better next time: a
connection that is refused or breaks, an answer that takes too long, half a body, and the statuses
408, 425, 429 and 5xx. A ``Retry-After`` is heeded. A whole body with the status 200 that is not
what was asked for has been paid for; it is asked for `TRIES` times in all. Any other status is the
server's last word, and so is a body that is too large. Redirections are not followed.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import ssl
import time
import weakref
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from queue import Empty, SimpleQueue
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rpp_env.errors import InvalidOption, MissingExtra, ModelUnavailable
from rpp_env.models.network import (
    KEY,
    KEY_HOSTS,
    Key,
    Proxy,
    certificates,
    checked_address,
    keeper,
    key_may_go,
    proxy_for,
    sendable,
    shorten,
)

if TYPE_CHECKING:
    import httpx

__all__ = [
    "MAX_BODY",
    "Busy",
    "Refused",
    "Transport",
    "Trouble",
    "Unusable",
    "is_transient",
    "side_by_side",
]

T = TypeVar("T")
logger = logging.getLogger(__name__)

AGAIN = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})
"""Statuses that may be another one next time."""
TRIES = 3
"""How often a question is asked whose answers come whole and are not what was asked for."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds between attempts, at most: the first pause, and where doubling ends."""
LOOK = 5.0
"""Seconds between looks whether there is still a server, while an answer is waited for."""
MAX_BODY = 16 << 20
"""Bytes of an answer, decompressed. A batch of 32 lists in words takes less than one MiB."""
ERROR_BODY = 64 << 10
"""Bytes that are read of an answer which reports an error."""
ALONE = 1 << 20
"""Bytes from which an answer is parsed by one thread at a time: JSON takes many times as much."""
QUOTED = 300
"""Characters of a server's message that an error repeats."""
CLIENT = frozenset({"h11", "h2", "httpcore", "socksio"})
"""Packages below httpx whose errors may come through."""
_parsing = Lock()


class Refused(ModelUnavailable):
    """The server was reached and will not answer this question; asking again would not help.

    Attributes
    ----------
    status : int or None
        The status of its answer, or the code in an error that it sent with the status 200.
    words : str
        What it said is wrong.
    """

    status: int | None = None
    words: str = ""


class Unusable(ModelUnavailable):
    """The server answers, and what it answers is not what was asked for.

    Attributes
    ----------
    words : str
        What was wrong with the last answer.
    """

    words: str = ""


class Busy(ModelUnavailable):
    """The server asks to be left alone for longer than patience lasts."""


class Trouble(Exception):
    """What was wrong with one attempt, in words, and how long the server asks us to wait."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class _NotAsked(Trouble):
    """A whole answer that is not what was asked for."""


class _TooLarge(Exception):
    """An answer with more bytes than are read."""


@dataclass(frozen=True)
class _Answer:
    status: int
    reason: str
    # They may repeat the key, and tracebacks show local variables.
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)


def is_transient(status: int) -> bool:
    """Whether a question that failed with this status may be answered next time."""
    return status in AGAIN


class Transport:
    """A thread-safe client for one server. After a fork or unpickling it opens its own connections.

    The key is read from the environment variable ``OPENAI_API_KEY`` where none is given, and is
    nowhere to be seen: not in attributes, pickles, logs, errors, or the local variables of frames.
    A key that was given does not travel with a pickle either; the process that unpickles it must
    find its own. `network.key_may_go` decides whether the server gets it.

    Parameters
    ----------
    base_url : str
        Such as ``"http://127.0.0.1:8000/v1"``.
    timeout : float
        Seconds from sending a question to the last byte of its answer, after which the attempt has
        failed.
    patience : float
        Seconds from a question's first failure to its last attempt.
    key : callable, optional
        Returns the key, sent as bearer token; see `network.keeper`.
    send_key : bool
        Whether the user has named this address. If not, the key goes there only if the environment
        variable ``RPP_ENV_KEY_HOSTS`` lists the host.
    plain_http_key : bool
        Let the key go to another machine over plain HTTP.
    max_body : int
        Bytes of an answer at most, decompressed.

    Raises
    ------
    MissingExtra
        Without httpx or tenacity, and for a SOCKS proxy without socksio.
    InvalidOption
        For an address that is none, or that has a password in it; for a key that may not go there
        over plain HTTP; and for proxies and certificates of the environment that cannot be used.
    """

    def __init__(
        self,
        base_url: str,
        *,
        timeout: float,
        patience: float,
        key: Key | None = None,
        send_key: bool = True,
        plain_http_key: bool = False,
        max_body: int = MAX_BODY,
    ) -> None:
        try:
            import httpx  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"{error.name}, which http(s): models need,", "llm") from error
        self._key = keeper(None) if key is None else key
        self.base_url = checked_address(base_url)
        self.timeout = timeout
        self.patience = patience
        self.send_key = send_key
        self.plain_http_key = plain_http_key
        self.max_body = max_body
        self._client: httpx.Client | None = None
        self._proxy: Proxy | None = None
        self._process = 0
        self._sends_key()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_key": None, "_client": None, "_proxy": None, "_process": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _key=keeper(None))

    @property
    def root_url(self) -> str:
        """Where the server has what OpenAI's interface lacks."""
        return self.base_url.removesuffix("/v1")

    def ask(
        self,
        url: str,
        body: dict[str, Any] | None = None,
        *,
        read: Callable[[Any], T],
        stop: Event | None = None,
        patience: float | None = None,
        timeout: float | None = None,
    ) -> T:
        """Send `body` (or only GET), and return what `read` makes of the JSON that comes back.

        Parameters
        ----------
        url : str
            The whole address.
        body : dict, optional
            Sent as JSON.
        read : callable
            Raises ValueError, KeyError, TypeError, IndexError or AttributeError where the JSON is
            not of the expected shape, `Trouble` where it may be next time, `Refused` where it
            never will be.
        stop : Event, optional
            Once it is set, nothing is asked again.
        patience : float, optional
            Overrides the client's.
        timeout : float, optional
            Overrides the client's.

        Raises
        ------
        ModelUnavailable
            After the last attempt.
        Unusable
            Where the server's answers are not what was asked for.
        Refused
            At once, where the server says that the question is at fault.
        """
        import tenacity

        stop = Event() if stop is None else stop
        bound = self.patience if patience is None else patience
        limit = self.timeout if timeout is None else timeout
        began, failed, unusable = time.monotonic(), list[float](), list[Trouble]()
        growing = tenacity.wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE, min=0.05)

        def pause(state: tenacity.RetryCallState) -> float:
            trouble = state.outcome and state.outcome.exception()
            asked = trouble.wait if isinstance(trouble, Trouble) else 0.0
            return float(growing(state)) + asked

        def enough(state: tenacity.RetryCallState) -> bool:
            failed.append(time.monotonic())
            trouble = state.outcome and state.outcome.exception()
            unusable.extend([trouble] if isinstance(trouble, _NotAsked) else [])
            late = failed[-1] - failed[0] + state.upcoming_sleep > bound
            return stop.is_set() or late or len(unusable) >= TRIES

        def say(state: tenacity.RetryCallState) -> None:
            trouble = state.outcome and state.outcome.exception()
            level = logging.WARNING if len(failed) == 1 else logging.INFO
            logger.log(level, "%s: %s; asking again in %.1f s", url, trouble, state.upcoming_sleep)

        def sleep(seconds: float) -> None:
            if stop.wait(seconds):
                raise Trouble("given up because another question failed")

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(Trouble),
            wait=pause,
            stop=enough,
            before_sleep=say,
            sleep=sleep,
            reraise=True,
        )
        try:
            answer: T = attempts(self._once, url, body, read, limit)
        except Trouble as trouble:
            what, asked_to_wait = str(trouble), trouble.wait > 0
        else:
            return answer
        # Raised out here, so that no error of the client hangs on it: those hold headers.
        times = f"{len(failed)} times" if len(failed) > 1 else "once"
        error = (
            Unusable if len(unusable) >= TRIES else Busy if asked_to_wait else ModelUnavailable
        )(
            f"{url} gave no usable answer, asked {times} in {time.monotonic() - began:.0f} s"
            f"{self._through()}; at last: {what}. Is the server up, and the address right?"
        )
        if isinstance(error, Unusable):
            error.words = what
        raise error

    def _once(
        self, url: str, body: dict[str, Any] | None, read: Callable[[Any], T], limit: float
    ) -> T:
        # Half a character, as odd titles have them, is none in UTF-8 and one in JSON's ASCII.
        answer = self._send(url, None if body is None else json.dumps(body), limit)
        if not 200 <= answer.status < 300:
            raise self._failure(url, answer)
        with _parsing if len(answer.body) > ALONE else nullcontext():
            try:
                return read(json.loads(self._text(answer)))
            except (ValueError, KeyError, TypeError, IndexError, AttributeError) as e:
                what = f"{type(e).__name__}: {shorten(str(e), 80)}"
            except RecursionError:
                what = "nested too deeply"
        said = shorten(self._text(answer), 80)
        raise _NotAsked(f"a body that is not what was asked for ({what}): {said!r}")

    def _failure(self, url: str, answer: _Answer) -> Exception:
        """What a status that is no success comes to."""
        words = self._message(answer)
        status = f"status {answer.status} ({shorten(words, QUOTED)})"
        if answer.status in AGAIN:
            wait = _retry_after(answer.headers.get("Retry-After", ""))
            asks = f", and it asks to be left alone for {wait:.0f} s" if wait else ""
            return Trouble(f"{status}{asks}", wait)
        return self.refusal(url, answer.status, words, f"{status}{self._through()}")

    def refusal(self, url: str, status: int | None, words: str, what: str) -> Refused:
        """The error for a question that the server refuses, with what can be done about it."""
        refused = Refused(f"{url} refuses: {what}.{self._remedy(status)}")
        refused.status, refused.words = status, words
        return refused

    def _remedy(self, status: int | None) -> str:
        if status in {401, 403}:
            if self._key() and not self._sends_key():
                host = urlsplit(self.base_url).netloc
                return (
                    " It was sent no key, because its address comes from a file: name the address "
                    f"yourself, or set {KEY_HOSTS}={host} in the environment."
                )
            return f" Set {KEY} to a key that this server takes."
        if status == 404:
            return " Is the address right, /v1 included, and the model still served?"
        return ""

    def _send(self, url: str, content: str | None, limit: float) -> _Answer:
        """The answer; or trouble, which may be that the server has gone away in silence.

        A server that is stopped (vLLM, with SIGTERM) may hold on to its connections and never
        answer. So another thread does the waiting, and this one looks from time to time whether
        there is still a server, and at the clock; if not, it leaves the other one behind.
        """
        client = self.open()
        came: SimpleQueue[_Answer | Exception] = SimpleQueue()
        left = Event()

        def wait() -> None:
            try:
                came.put(self._fetch(client, url, content, limit, left))
            except Exception as error:  # noqa: BLE001 - looked at below
                came.put(error)

        until = time.monotonic() + limit
        Thread(target=wait, daemon=True).start()
        while True:
            try:
                answer = came.get(timeout=max(0.0, min(LOOK, until - time.monotonic())))
                break
            except Empty:
                if time.monotonic() >= until:
                    answer = Trouble(f"no whole answer came within {limit:g} s")
                elif self._gone():
                    answer = Trouble("ReadError: the server has gone away without an answer")
                else:
                    continue
                left.set()
                break
        if isinstance(answer, Exception):
            raise self._explained(url, answer, limit)
        return answer

    def _fetch(
        self, client: httpx.Client, url: str, content: str | None, limit: float, left: Event
    ) -> _Answer:
        """Read an answer as far as it may go; in a thread of its own."""
        import httpx

        with client.stream(
            "GET" if content is None else "POST",
            url,
            content=content,
            timeout=httpx.Timeout(limit, connect=min(limit, 10.0), pool=None),
        ) as response:
            most = self.max_body if response.is_success else ERROR_BODY
            body = bytearray()
            for piece in _decoded(response, most):
                if left.is_set():
                    break
                body += piece
                if len(body) > most:
                    if response.is_success:
                        raise _TooLarge
                    break
            return _Answer(
                response.status_code, response.reason_phrase, response.headers, bytes(body)
            )

    def _explained(self, url: str, error: Exception, limit: float) -> Exception:
        """What an attempt that ended in an error comes to; the client's own leads to headers."""
        import httpx

        if isinstance(error, Trouble):
            return error
        if isinstance(error, _TooLarge):
            return self.refusal(
                url,
                None,
                "",
                f"its answer is larger than {self.max_body:,} bytes, the limit that the option "
                "max_body sets",
            )
        if isinstance(error, httpx.TimeoutException):
            return Trouble(f"nothing came for {limit:g} s ({type(error).__name__})")
        fault = _tls_fault(error)
        if fault:
            return self.refusal(url, None, fault, f"{fault}{self._through()}")
        what = f"{type(error).__name__}: {shorten(self._redact(str(error)), QUOTED)}"
        if isinstance(error, zlib.error):
            return _NotAsked(f"a body that cannot be decompressed ({what})")
        if self._client is None or self._client.is_closed:
            return Trouble("the connections were closed")
        below = type(error).__module__.partition(".")[0] in CLIENT
        if below or isinstance(error, (httpx.HTTPError, OSError, UnicodeError)):
            return Trouble(what)
        error.__traceback__ = error.__context__ = error.__cause__ = None
        return error

    def _gone(self) -> bool:
        if self._proxy is not None:
            return False  # behind a proxy nothing is to be seen of the server
        address = urlsplit(self.base_url)
        port = address.port or (443 if address.scheme == "https" else 80)
        try:
            socket.create_connection((address.hostname or "", port), timeout=LOOK).close()
        except ConnectionRefusedError:
            return True
        except OSError:
            return False
        return False

    def open(self) -> httpx.Client:
        """The connections; before threads use them, so that they share them."""
        # Those of another process are its own: two writers on one socket garble both.
        closed = self._client is None or self._client.is_closed
        if self._client is None or closed or self._process != os.getpid():
            import httpx

            secure = urlsplit(self.base_url).scheme == "https"
            trusted = certificates() if secure else None
            self._proxy = proxy_for(self.base_url)
            proxy = None if self._proxy is None else _client_proxy(self._proxy)
            if self._proxy is not None and proxy is None:
                raise InvalidOption(f"the proxy {self._proxy.shown} is none that httpx can use")
            client = httpx.Client(
                # Only what can be decompressed within a limit is asked for.
                headers={"Content-Type": "application/json", "Accept-Encoding": "gzip"},
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                # Certificates take a while to load, and plain HTTP has none.
                verify=trusted or secure,
                proxy=proxy,
                # A server could have them grow without end, and none needs any.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                # What the environment says has been read, above.
                trust_env=False,
            )
            if self._sends_key():
                client.headers["Authorization"] = f"Bearer {self._key()}"
            self._client = client
            self._process = os.getpid()
            weakref.finalize(self, client.close)
        return self._client

    def close(self) -> None:
        """Close the connections; the next question opens them again."""
        if self._client is not None and self._process == os.getpid():
            self._client.close()
        self._client = None

    def _sends_key(self) -> bool:
        """Whether there is a key, and the server may have it."""
        if not self._key():
            return False
        if not sendable(self._key):
            raise InvalidOption(f"the key in {KEY} has characters that no HTTP header may have")
        return key_may_go(self.base_url, named=self.send_key, plain_http=self.plain_http_key)

    def _through(self) -> str:
        return "" if self._proxy is None else f", through the proxy {self._proxy.shown}"

    def _message(self, answer: _Answer) -> str:
        """What the server says is wrong, without the key should it repeat it."""
        if 300 <= answer.status < 400:
            where = shorten(self._redact(answer.headers.get("Location", "nowhere")), 200)
            return f"it points to {where}, and redirections are not followed"
        text = self._text(answer)
        try:
            told = json.loads(text)
            told = told.get("error", told)
            if not isinstance(told, str):
                told = told.get("message") or told.get("detail") or text
            text = str(told)
        except (ValueError, AttributeError, RecursionError):
            pass
        return text.strip() or answer.reason or "no message"

    def _text(self, answer: _Answer) -> str:
        """The body, without the key; of a character that was cut in two, something is left."""
        return self._redact(answer.body.decode(json.detect_encoding(answer.body), "replace"))

    def _redact(self, text: str) -> str:
        # A shorter one is no secret ("EMPTY"), and may be part of any word.
        return text.replace(self._key(), "***") if len(self._key()) >= 8 else text


def side_by_side(
    jobs: Iterable[T], do: Callable[[T, Event], Iterable[T]], width: int
) -> Exception | None:
    """Do all jobs, `width` at a time; the first error, after which no more was begun.

    Parameters
    ----------
    jobs : iterable
        What to do.
    do : callable
        Does one, and returns those that are to be done in its place. Its second argument is set
        when another one has failed.
    width : int
        How many threads, this one among them.
    """
    todo: SimpleQueue[T] = SimpleQueue()
    for job in jobs:
        todo.put(job)
    stop, errors = Event(), list[Exception]()

    def work() -> None:
        while not stop.is_set():
            try:
                for job in do(todo.get_nowait(), stop):
                    todo.put(job)
            except Empty:
                return
            except Exception as error:  # noqa: BLE001 - whoever called is told
                errors.append(error)
                stop.set()

    # Daemons: who interrupts the program need not wait for what is under way.
    threads = [Thread(target=work, daemon=True) for _ in range(width - 1)]
    for thread in threads:
        thread.start()
    try:
        work()
        for thread in threads:
            thread.join()
    finally:
        stop.set()
    return errors[0] if errors else None


def _client_proxy(proxy: Proxy) -> httpx.Proxy | None:
    """The proxy as the client takes it; None where it takes no such address.

    No error is raised here, for the address may hold a password.
    """
    import httpx

    try:
        return httpx.Proxy(proxy.url(), ssl_context=certificates())
    except (ValueError, httpx.InvalidURL):
        return None


def _decoded(response: httpx.Response, most: int) -> Iterator[bytes]:
    """The pieces of a body as they come, each of them decompressed no further than `most` bytes."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"", "identity"}:
        yield from response.iter_raw()
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise Trouble(
            f"a body that is encoded as {shorten(encoding, 40)!r}, which nobody asked for"
        )
    inflater = zlib.decompressobj(47)  # with either header
    for piece in response.iter_raw():
        yield inflater.decompress(piece, most + 1)
        while inflater.unconsumed_tail:
            yield inflater.decompress(inflater.unconsumed_tail, most + 1)
    if not inflater.eof:
        raise Trouble("half a compressed body")


def _tls_fault(error: BaseException) -> str:
    """What is wrong between us and the server that will not mend itself; "" for all else."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return (
                f"its certificate is not trusted ({shorten(cause.verify_message, 200)}): name a "
                "file with the authority that signed it in SSL_CERT_FILE"
            )
        if isinstance(cause, ssl.SSLError) and cause.reason in {
            "WRONG_VERSION_NUMBER",
            "HTTP_REQUEST",
            "RECORD_LAYER_FAILURE",
        }:
            return "it does not speak TLS, so its address may be one with http://"
        cause = cause.__cause__ or cause.__context__
    return ""


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: it holds a number of them, or a date."""
    try:
        if value.strip().isdecimal():
            return float(value)
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
