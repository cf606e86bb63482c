"""JSON over HTTP with retries, limits on size and time, and protected secrets.

Retried, after random pauses of growing length, are failures that may be temporary: a connection
that is refused or breaks, an answer that takes too long, half a body, and the statuses 408, 425,
429 and 5xx. A ``Retry-After`` header is respected. An unexpected but complete body with the status
200 has been paid for, so it is requested only `TRIES` times in all. Any other status is final, and
so is a body that is too large. Redirections are not followed.
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
"""Statuses of temporary failures."""
TRIES = 3
"""Maximum tries of a request with complete but unexpected answers."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Minimum and maximum seconds between attempts: the first pause, and where doubling ends."""
LOOK = 5.0
"""Seconds between checks that the server still exists, while waiting for an answer."""
MAX_BODY = 16 << 20
"""Maximum bytes of an answer, decompressed. A batch of 32 lists takes less than one MiB."""
ERROR_BODY = 64 << 10
"""Maximum bytes read of an answer that reports an error."""
ALONE = 1 << 20
"""Size in bytes from which answers are parsed one at a time, because parsing takes much memory."""
QUOTED = 300
"""Maximum characters of a server's message that an error quotes."""
CLIENT = frozenset({"h11", "h2", "httpcore", "socksio"})
"""Packages below httpx whose errors may be raised."""
_parsing = Lock()


class Refused(ModelUnavailable):
    """The server was reached and refuses this request; a retry would not help.

    Attributes
    ----------
    status : int or None
        The status of its answer, or the code in an error that it sent with the status 200.
    words : str
        The server's message.
    """

    status: int | None = None
    words: str = ""


class Unusable(ModelUnavailable):
    """The server answers, but not as expected.

    Attributes
    ----------
    words : str
        What was wrong with the last answer.
    """

    words: str = ""


class Busy(ModelUnavailable):
    """The server asks to wait for longer than the retries last."""


class Trouble(Exception):
    """A failed attempt: the reason, and how long the server asks to wait."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class _NotAsked(Trouble):
    """A complete answer of an unexpected shape."""


class _TooLarge(Exception):
    """An answer with more bytes than the limit."""


@dataclass(frozen=True)
class _Answer:
    status: int
    reason: str
    # It may repeat the key, and tracebacks show local variables.
    headers: httpx.Headers = field(repr=False)
    body: bytes = field(repr=False)


def is_transient(status: int) -> bool:
    """Return whether a request that failed with this status may succeed at the next try."""
    return status in AGAIN


class Transport:
    """A thread-safe client for one server. After a fork or unpickling it opens its own connections.

    The key is read from the environment variable ``OPENAI_API_KEY`` if none is given. It never
    appears in attributes, pickles, logs, errors, or the local variables of frames. A given key is
    not pickled either; the process that unpickles the client must find its own.
    `network.key_may_go` decides whether the server gets it.

    Parameters
    ----------
    base_url : str
        The address, such as ``"http://127.0.0.1:8000/v1"``.
    timeout : float
        Seconds from sending a request to the last byte of its answer, after which the attempt has
        failed.
    patience : float
        Seconds from a request's first failure to its last attempt.
    key : callable, optional
        Returns the key, sent as bearer token; see `network.keeper`.
    send_key : bool
        Whether the user named this address. If not, the key is sent only if the environment
        variable ``RPP_ENV_KEY_HOSTS`` lists the host.
    plain_http_key : bool
        Allow sending the key to another machine over plain HTTP.
    max_body : int
        Maximum bytes of an answer, decompressed.

    Raises
    ------
    MissingExtra
        Without httpx or tenacity, and for a SOCKS proxy without socksio.
    InvalidOption
        For an address that is invalid or contains a password; for a key that may not be sent there
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
        """Address of the server's endpoints outside OpenAI's interface."""
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
        """Send `body` (or only GET), and return what `read` returns for the JSON of the answer.

        Parameters
        ----------
        url : str
            The whole address.
        body : dict, optional
            Sent as JSON.
        read : callable
            Raises ValueError, KeyError, TypeError, IndexError or AttributeError if the JSON is not
            of the expected shape, `Trouble` if a retry may help, `Refused` if none can.
        stop : Event, optional
            Once it is set, there are no more retries.
        patience : float, optional
            Overrides the client's.
        timeout : float, optional
            Overrides the client's.

        Raises
        ------
        ModelUnavailable
            After the last attempt.
        Unusable
            If the server's answers are not as expected.
        Refused
            At once, if the server blames the request.
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
        # Raised out here, so that it has no reference to the client's errors: those hold headers.
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
        # Odd titles may contain half a character, which UTF-8 cannot encode but JSON's ASCII can.
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
        """Convert a status other than success to an error."""
        words = self._message(answer)
        status = f"status {answer.status} ({shorten(words, QUOTED)})"
        if answer.status in AGAIN:
            wait = _retry_after(answer.headers.get("Retry-After", ""))
            asks = f", and it asks to be left alone for {wait:.0f} s" if wait else ""
            return Trouble(f"{status}{asks}", wait)
        return self.refusal(url, answer.status, words, f"{status}{self._through()}")

    def refusal(self, url: str, status: int | None, words: str, what: str) -> Refused:
        """Make the error for a request that the server refuses, with a remedy."""
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
        """Return the answer, or a failure, also if the server has gone away silently.

        A server that is stopped (vLLM, with SIGTERM) may keep its connections open and never
        answer. So another thread waits, and this one checks from time to time that the server still
        exists, and the time; if not, it abandons the other thread.
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
        """Read an answer up to the limit, in a thread of its own."""
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
        """Convert an attempt's error to ours; the client's own refers to headers."""
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
            return False  # behind a proxy the server cannot be checked
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
        """Open the connections, before threads share them."""
        # Connections of another process are its own: two writers on one socket garble both.
        closed = self._client is None or self._client.is_closed
        if self._client is None or closed or self._process != os.getpid():
            import httpx

            secure = urlsplit(self.base_url).scheme == "https"
            trusted = certificates() if secure else None
            self._proxy = proxy_for(self.base_url)
            proxy = None if self._proxy is None else _client_proxy(self._proxy)
            if self._proxy is not None and proxy is None:
                raise InvalidOption(f"httpx cannot use the proxy {self._proxy.shown}")
            client = httpx.Client(
                # Accept only encodings that can be decompressed within a limit.
                headers={"Content-Type": "application/json", "Accept-Encoding": "gzip"},
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
                # Loading certificates takes a while, and plain HTTP needs none.
                verify=trusted or secure,
                proxy=proxy,
                # No cookies: a server could make them grow without end, and none needs any.
                cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
                # The environment's settings have been read above.
                trust_env=False,
            )
            if self._sends_key():
                client.headers["Authorization"] = f"Bearer {self._key()}"
            self._client = client
            self._process = os.getpid()
            weakref.finalize(self, client.close)
        return self._client

    def close(self) -> None:
        """Close the connections; the next request opens them again."""
        if self._client is not None and self._process == os.getpid():
            self._client.close()
        self._client = None

    def _sends_key(self) -> bool:
        """Whether there is a key, and the server may have it."""
        if not self._key():
            return False
        if not sendable(self._key):
            raise InvalidOption(f"the key in {KEY} contains characters that HTTP headers forbid")
        return key_may_go(self.base_url, named=self.send_key, plain_http=self.plain_http_key)

    def _through(self) -> str:
        return "" if self._proxy is None else f", through the proxy {self._proxy.shown}"

    def _message(self, answer: _Answer) -> str:
        """Return the server's error message, without the key if it repeats it."""
        if 300 <= answer.status < 400:
            where = shorten(self._redact(answer.headers.get("Location", "nowhere")), 200)
            return f"it points to {where}, and redirections are not followed"
        text = self._text(answer)
        try:
            message = json.loads(text)
            message = message.get("error", message)
            if not isinstance(message, str):
                message = message.get("message") or message.get("detail") or text
            text = str(message)
        except (ValueError, AttributeError, RecursionError):
            pass
        return text.strip() or answer.reason or "no message"

    def _text(self, answer: _Answer) -> str:
        """Return the body, without the key; a character that was cut in two may leave a trace."""
        return self._redact(answer.body.decode(json.detect_encoding(answer.body), "replace"))

    def _redact(self, text: str) -> str:
        # A shorter key is not a secret ("EMPTY"), and may be part of any word.
        return text.replace(self._key(), "***") if len(self._key()) >= 8 else text


def side_by_side(
    jobs: Iterable[T], do: Callable[[T, Event], Iterable[T]], width: int
) -> Exception | None:
    """Do all jobs, `width` at a time; return the first error, after which none was begun.

    Parameters
    ----------
    jobs : iterable
        The jobs.
    do : callable
        Does one job, and returns the jobs to do in its place. Its second argument is an event that
        is set when another job has failed.
    width : int
        Number of threads, including this one.
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
            except Exception as error:  # noqa: BLE001 - returned to the caller
                errors.append(error)
                stop.set()

    # Daemon threads: an interrupted program need not wait for requests in flight.
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
    """Convert the proxy for the client; None if the client does not accept the address.

    No error is raised here, because the address may contain a password.
    """
    import httpx

    try:
        return httpx.Proxy(proxy.url(), ssl_context=certificates())
    except (ValueError, httpx.InvalidURL):
        return None


def _decoded(response: httpx.Response, most: int) -> Iterator[bytes]:
    """Yield the pieces of a body as they arrive, decompressed to at most `most` bytes in all."""
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding in {"", "identity"}:
        yield from response.iter_raw()
        return
    if encoding not in {"gzip", "x-gzip", "deflate"}:
        raise Trouble(f"a body with the unrequested encoding {shorten(encoding, 40)!r}")
    inflater = zlib.decompressobj(47)  # with either header
    for piece in response.iter_raw():
        yield inflater.decompress(piece, most + 1)
        while inflater.unconsumed_tail:
            yield inflater.decompress(inflater.unconsumed_tail, most + 1)
    if not inflater.eof:
        raise Trouble("half a compressed body")


def _tls_fault(error: BaseException) -> str:
    """Return a permanent TLS fault between us and the server; "" for everything else."""
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
    """Return the seconds of a Retry-After header, which holds a number of seconds or a date."""
    try:
        if value.strip().isdecimal():
            return float(value)
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0
