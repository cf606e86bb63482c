"""JSON over HTTP that survives a bad day: bounded retries, and no secret in anything it says.

Asked again, after pauses that grow and are drawn at random, is whatever may go better next time: a
connection that is refused or breaks, a read that takes too long, half a body, a body that is not
JSON or not what was asked for, and the statuses 408, 425, 429 and 5xx. A ``Retry-After`` is heeded.
Any other status is the server's last word.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import time
import weakref
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

from rpp_env.errors import InvalidOption, MissingExtra, ModelUnavailable

if TYPE_CHECKING:
    import httpx

__all__ = ["Refused", "Transport", "shorten", "side_by_side"]

T = TypeVar("T")
logger = logging.getLogger(__name__)

KEY = "OPENAI_API_KEY"
"""The environment variable that holds the key."""
AGAIN = frozenset({408, 425, 429, *range(500, 600)} - {501, 505})
"""Statuses that may be another one next time."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 20.0
"""Seconds between attempts, at most: the first pause, and where doubling ends."""
LOOK = 5.0
"""Seconds between looks whether there is still a server, while an answer is waited for."""
QUOTED = 300
"""Characters of a server's message that an error repeats."""
LOCAL = frozenset({"127.0.0.1", "::1", "localhost"})


class Refused(ModelUnavailable):
    """The server was reached and will not answer this question; asking again would not help."""


class _Trouble(Exception):
    """What was wrong with one attempt, in words, and how long the server asks us to wait."""

    def __init__(self, what: str, wait: float = 0.0) -> None:
        super().__init__(what)
        self.wait = wait


class Transport:
    """A client of one server; of any number of threads, and after a fork or pickling of its own.

    The key is read from the environment variable ``OPENAI_API_KEY`` where none is given, and is
    nowhere to be seen: not in attributes, pickles, logs or errors. A key that was given does not
    travel with a pickle either; the process that unpickles it must find its own.

    Parameters
    ----------
    base_url : str
        Such as ``"http://127.0.0.1:8000/v1"``.
    api_key : str, optional
        Sent as bearer token.
    timeout : float
        Seconds without a byte from the server, after which an attempt has failed.
    patience : float
        Seconds from a question's first failure to its last attempt.

    Raises
    ------
    MissingExtra
        Without httpx or tenacity.
    InvalidOption
        For an address that is none, or that has a password in it.
    """

    def __init__(
        self, base_url: str, *, api_key: str | None, timeout: float, patience: float
    ) -> None:
        self._key = _keeper(api_key)
        # Tracebacks that show local variables must not show this one.
        del api_key
        try:
            import httpx  # noqa: F401
            import tenacity  # noqa: F401
        except ImportError as error:
            raise MissingExtra(f"{error.name}, which http(s): models need,", "llm") from error
        self.base_url = _checked(base_url)
        self.timeout = timeout
        self.patience = patience
        self._client: httpx.Client | None = None
        self._process = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_key": None, "_client": None, "_process": 0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _key=_keeper(None))

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
            not of the expected shape.
        stop : Event, optional
            Once it is set, nothing is asked again.
        patience : float, optional
            Where it shall differ from the client's.

        Raises
        ------
        ModelUnavailable
            After the last attempt.
        Refused
            At once, where the server says that the question is at fault.
        """
        import tenacity

        stop = Event() if stop is None else stop
        bound = self.patience if patience is None else patience
        began, failed = time.monotonic(), list[float]()
        growing = tenacity.wait_random_exponential(FIRST_PAUSE, LONGEST_PAUSE, min=0.05)

        def pause(state: tenacity.RetryCallState) -> float:
            trouble = state.outcome and state.outcome.exception()
            asked = trouble.wait if isinstance(trouble, _Trouble) else 0.0
            return float(growing(state)) + asked

        def enough(state: tenacity.RetryCallState) -> bool:
            failed.append(time.monotonic())
            return stop.is_set() or failed[-1] - failed[0] + state.upcoming_sleep > bound

        def say(state: tenacity.RetryCallState) -> None:
            trouble = state.outcome and state.outcome.exception()
            level = logging.WARNING if len(failed) == 1 else logging.INFO
            logger.log(level, "%s: %s; asking again in %.1f s", url, trouble, state.upcoming_sleep)

        def sleep(seconds: float) -> None:
            if stop.wait(seconds):
                raise _Trouble("given up because another question failed")

        attempts = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_Trouble),
            wait=pause,
            stop=enough,
            before_sleep=say,
            sleep=sleep,
            reraise=True,
        )
        try:
            answer: T = attempts(self._once, url, body, read)
        except _Trouble as trouble:
            what = str(trouble)
        else:
            return answer
        # Raised out here, so that no error of the client hangs on it: those hold headers.
        times = f"{len(failed)} times" if len(failed) > 1 else "once"
        raise ModelUnavailable(
            f"{url} gave no usable answer, asked {times} in {time.monotonic() - began:.0f} s; at "
            f"last: {what}. Is the server up, and the address right?"
        )

    def _once(self, url: str, body: dict[str, Any] | None, read: Callable[[Any], T]) -> T:
        # Half a character, as odd titles have them, is none in UTF-8 and one in JSON's ASCII.
        response = self._send(url, None if body is None else json.dumps(body))
        if not response.is_success:
            status = f"status {response.status_code} ({self._message(response)})"
            if response.status_code not in AGAIN:
                raise Refused(f"{url} refuses: {status}.{_remedy(response.status_code)}")
            wait = _retry_after(response.headers.get("Retry-After", ""))
            asks = f", and it asks to be left alone for {wait:.0f} s" if wait else ""
            raise _Trouble(f"{status}{asks}", wait)
        try:
            return read(response.json())
        except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError) as e:
            what = f"{type(e).__name__}: {shorten(self._redact(str(e)), 80)}"
        said = shorten(self._redact(response.text), 80)
        raise _Trouble(f"a body that is not what was asked for ({what}): {said!r}")

    def _send(self, url: str, content: str | None) -> httpx.Response:
        """The response; or trouble, which may be that the server has gone away in silence.

        A server that is told to stop (vLLM, with SIGTERM) may hold on to its connections and never
        answer. So another thread does the waiting, and this one looks from time to time whether
        there is still a server; if not, it leaves the other one behind.
        """
        import httpx

        client = self.open()
        came: SimpleQueue[httpx.Response | Exception] = SimpleQueue()

        def wait() -> None:
            try:
                came.put(client.request("GET" if content is None else "POST", url, content=content))
            except Exception as error:  # noqa: BLE001 - looked at below
                came.put(error)

        Thread(target=wait, daemon=True).start()
        while True:
            try:
                answer = came.get(timeout=LOOK)
                break
            except Empty:
                if self._gone():
                    answer = httpx.ReadError("the server has gone away without an answer")
                    break
        if isinstance(answer, httpx.TimeoutException):
            raise _Trouble(f"nothing came for {self.timeout:g} s ({type(answer).__name__})")
        if isinstance(answer, httpx.RequestError):
            raise _Trouble(f"{type(answer).__name__}: {self._redact(str(answer))}")
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _gone(self) -> bool:
        from urllib.request import getproxies

        address = urlsplit(self.base_url)
        if address.hostname not in LOCAL and getproxies():
            return False  # behind a proxy nothing is to be seen of the server
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
        if self._client is None or self._process != os.getpid():
            import httpx

            key, address = self._key(), urlsplit(self.base_url)
            self._client = httpx.Client(
                headers={"Content-Type": "application/json"}
                | ({"Authorization": f"Bearer {key}"} if key else {}),
                timeout=httpx.Timeout(self.timeout, connect=min(self.timeout, 10.0), pool=None),
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
                # Certificates take a while to load, and plain HTTP has none.
                verify=address.scheme == "https",
                # A proxy is of no use on the way to this machine itself.
                trust_env=address.hostname not in LOCAL,
            )
            self._process = os.getpid()
            weakref.finalize(self, self._client.close)
        return self._client

    def close(self) -> None:
        """Close the connections; the next question opens them again."""
        if self._client is not None and self._process == os.getpid():
            self._client.close()
        self._client = None

    def _message(self, response: httpx.Response) -> str:
        """What the server says is wrong, shortened, and without the key should it repeat it."""
        text = response.text
        try:
            told = json.loads(text)
            told = told.get("error", told)
            if not isinstance(told, str):
                told = told.get("message") or told.get("detail") or text
            text = str(told)
        except (ValueError, AttributeError, RecursionError):
            pass
        return shorten(self._redact(text), QUOTED) or response.reason_phrase or "no message"

    def _redact(self, text: str) -> str:
        key = self._key()
        # A shorter one is no secret ("EMPTY"), and may be part of any word.
        return text.replace(key, "***") if len(key) >= 8 else text


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


def shorten(text: str, length: int) -> str:
    """`text` on one line and not longer than that."""
    text = " ".join(text.split())
    return text if len(text) <= length else f"{text[: length - 4]} ..."


def _keeper(key: str | None) -> Callable[[], str]:
    """A function that knows the key; what shows its variables does not show it."""

    def tell() -> str:
        found = (os.environ.get(KEY, "") if key is None else key).strip()
        if not (found.isascii() and found.isprintable()):
            raise InvalidOption(f"the key in {KEY} has characters that no HTTP header may have")
        return found

    return tell


def _checked(base_url: str) -> str:
    if "@" in base_url:
        raise InvalidOption(
            "the server's address has a name or password in it, which would show in logs: set "
            f"{KEY} instead"
        )
    try:
        parts = urlsplit(base_url)
        fits = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        fits = False
    if not fits or parts.query or parts.fragment:
        raise InvalidOption(
            f"{shorten(base_url, 200)!r} is no address of a server: give one such as "
            "'http://127.0.0.1:8000/v1'"
        )
    return base_url.rstrip("/")


def _retry_after(value: str) -> float:
    """Seconds that a Retry-After header asks for: it holds a number of them, or a date."""
    try:
        if value.strip().isdigit():
            return float(value)
        when = parsedate_to_datetime(value)
        when = when if when.tzinfo else when.replace(tzinfo=UTC)
        return max(0.0, (when - datetime.now(UTC)).total_seconds())
    except (ValueError, OverflowError):
        return 0.0


def _remedy(status: int) -> str:
    if status in {401, 403}:
        return f" Set {KEY} to a key that this server takes."
    if status == 404:
        return " Is the address right, /v1 included, and the model still served?"
    return ""
