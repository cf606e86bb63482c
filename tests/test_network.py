"""Connections to servers: proxies, certificates, the API key, and limits of size."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import traceback
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("httpx", reason="the llm extra is not installed")
pytest.importorskip("tenacity", reason="the llm extra is not installed")

import rpp_env
from rpp_env.errors import InvalidOption, MissingExtra, ModelUnavailable, RPPError
from rpp_env.models import Generation, Request, network, transport
from rpp_env.models.names import open_model
from rpp_env.models.openai import OpenAIModel
from tests.odd_servers import MODELS, Answer, odd_server, raw_server, said

SECRET = "sk-Tell-no-one-7421"  # noqa: S105 - made up
ASKED = Request(({"role": "user", "content": "rank"},), Generation())
FAR = "http://far.example:8000/v1"
"""Address of another machine, never contacted: `network` decides before anything is sent."""


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transport, "FIRST_PAUSE", 0.02)
    for name in ("OPENAI_API_KEY", network.KEY_HOSTS, "SSL_CERT_DIR", *network.CERTIFICATE_FILES):
        monkeypatch.delenv(name, raising=False)
    for name in list(os.environ):
        if name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


def shown(error: BaseException) -> str:
    """Everything that a traceback shows with its local variables, this file's own aside."""
    texts, left = (
        [str(error)],
        [traceback.TracebackException.from_exception(error, capture_locals=True)],
    )
    while left:
        one = left.pop()
        texts += [str(frame.locals) for frame in one.stack if frame.filename != __file__]
        left += [other for other in (one.__cause__, one.__context__) if other is not None]
    return "\n".join(texts)


# ---- who gets the key ----


@pytest.mark.parametrize(
    ("host", "local"),
    [
        ("127.0.0.1", True),
        ("127.8.9.1", True),
        ("localhost", True),
        ("LOCALHOST.", True),
        ("gpu.localhost", True),
        ("0.0.0.0", True),  # noqa: S104 - asked, not listened on
        ("::1", True),
        ("::", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("localhost.example", False),
        ("127.0.0.1.example", False),
        ("fe80::1", False),
    ],
)
def test_addresses_of_this_machine(host: str, local: bool) -> None:
    assert network.is_local(host) == local


LISTS = [
    ("far.example", "https://far.example/v1", True),
    ("FAR.example.", "https://far.example/v1", True),
    ("other, far.example:443", "https://far.example/v1", True),
    ("far.example:8443", "https://far.example/v1", False),
    ("https://far.example/v1", "https://far.example/v1", True),
    ("http://far.example", "https://far.example/v1", False),
    ("http://far.example", "http://far.example:8000/v1", True),
    ("http://far.example:8000", "http://far.example:8000/v1", True),
    ("http://far.example:80", "http://far.example:8000/v1", False),
    ("example", "https://far.example/v1", False),
    ("*.example", "https://far.example/v1", True),
    ("*.example", "https://example/v1", False),
    ("r.example", "https://far.example/v1", False),
    ("[fe80::1]:9", "https://[fe80::1]:9/v1", True),
    ("127.0.0.1", "http://127.0.0.1:8000/v1", True),
    ("", "https://far.example/v1", False),
]


@pytest.mark.parametrize(("listed", "address", "goes"), LISTS)
def test_an_address_out_of_a_file_gets_the_key_only_if_it_is_listed(
    monkeypatch: pytest.MonkeyPatch, listed: str, address: str, goes: bool
) -> None:
    monkeypatch.setenv(network.KEY_HOSTS, listed)
    assert network.key_may_go(address, named=False, plain_http=False) == goes
    if address.startswith("https"):
        assert network.key_may_go(address, named=True, plain_http=False)


def test_over_plain_http_the_key_stays_here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with pytest.raises(InvalidOption, match=r"plain HTTP.*RPP_ENV_KEY_HOSTS=http://far.example:8"):
        OpenAIModel(FAR, "odd")
    monkeypatch.setenv(network.KEY_HOSTS, "far.example")
    with pytest.raises(InvalidOption, match=r"plain_http_key=True among the model's options"):
        OpenAIModel(FAR, "odd", send_key=False)
    assert network.key_may_go(FAR, named=True, plain_http=True)
    for entry in ("ftp://far.example", "far.example:port", "me@far.example", "http://"):
        monkeypatch.setenv(network.KEY_HOSTS, entry)
        with pytest.raises(InvalidOption, match=r"RPP_ENV_KEY_HOSTS holds .* not a host"):
            OpenAIModel(FAR, "odd")


@pytest.mark.parametrize("send", [True, False])
def test_servers_named_by_a_file_get_no_key(monkeypatch: pytest.MonkeyPatch, send: bool) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    wanted = f"Bearer {SECRET}" if send else None
    with odd_server((200, said())) as server:
        name = f"{server.url}#odd"
        open_model(name, send_key=send).complete([ASKED])
        rpp_env.RPPEnv.make("movieworld", name, model_options={"send_key": send}, num_envs=1)
    assert server.keys() == [wanted] * 3
    assert open_model("recording:" + _recording(monkeypatch), send_key=send).id == "x"


def _recording(monkeypatch: pytest.MonkeyPatch) -> str:
    """A name that `RecordingModel` is asked for, and answered without a file."""
    monkeypatch.setattr("rpp_env.models.recording.RecordingModel", _Nameless)
    return "a.sqlite"


class _Nameless:
    id = "x"

    def __init__(self, path: str) -> None:
        self.path = path


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirection_takes_no_key_along(status: int) -> None:
    with odd_server((200, said())) as other:
        elsewhere: Answer = (status, b"", {"Location": f"{other.url}/chat/completions?k={SECRET}"})
        with odd_server(elsewhere) as server:
            model = OpenAIModel(server.url, "odd", api_key=SECRET)
            with pytest.raises(ModelUnavailable, match=r"points to .* are not followed"):
                model.complete([ASKED])
        with (
            odd_server((200, said()), models=elsewhere) as server,
            pytest.raises(ModelUnavailable, match="redirections are not followed") as caught,
        ):
            OpenAIModel(server.url, "odd", api_key=SECRET)
    assert other.headers == []
    assert SECRET not in shown(caught.value)


def test_a_refused_key_states_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    with odd_server((401, {"error": "no"})) as server:
        for options, remedy in (
            ({}, "Set OPENAI_API_KEY to a key"),
            ({"send_key": False}, f"comes from a file.*RPP_ENV_KEY_HOSTS=127.0.0.1:{server.port}"),
        ):
            with pytest.raises(ModelUnavailable, match=remedy):
                OpenAIModel(server.url, "odd", **options).complete([ASKED])  # type: ignore[arg-type]


# ---- secrets in tracebacks ----


def _interrupted(*_: Any, **__: Any) -> None:
    raise RuntimeError("odd")


Wrong = Callable[[str, pytest.MonkeyPatch], Any]
WRONG: dict[str, Wrong] = {
    "address": lambda _, __: OpenAIModel("http://a b/v1", "odd", api_key=SECRET),
    "option": lambda url, _: OpenAIModel(url, "odd", api_key=SECRET, timeout=0),
    "request option": lambda url, _: OpenAIModel(
        url, "odd", api_key=SECRET, request_options={"x": {1}}
    ),
    "plain HTTP": lambda _, __: OpenAIModel(FAR, "odd", api_key=SECRET),
    "control character": lambda url, _: OpenAIModel(url, "odd", api_key=f"{SECRET}\x07"),
    "beyond ASCII": lambda url, _: OpenAIModel(url, "odd", api_key=f"{SECRET}\u00e9"),
    "no such model": lambda url, _: OpenAIModel(url, "even", api_key=SECRET),
    "no server": lambda _, __: OpenAIModel(
        "http://127.0.0.1:9/v1", "odd", api_key=SECRET, patience=0
    ),
    "no TLS": lambda url, _: OpenAIModel(url.replace("http:", "https:"), "odd", api_key=SECRET),
    "repeated in an error": lambda url, _: OpenAIModel(url, "odd", api_key=SECRET).complete(
        [ASKED]
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_no_frame_shows_the_key(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def repeats(body: dict[str, Any]) -> Answer:
        return (200, {"error": {"message": f"your key {SECRET} is odd", "code": 401}, **body})

    with odd_server(repeats) as server:
        try:
            WRONG[kind](server.url, monkeypatch)
        except RPPError as error:
            text = shown(error)
        else:
            pytest.fail("no error")
    assert len(text) > 100
    assert SECRET not in text


@pytest.mark.parametrize("variable", ["OPENAI_API_KEY", "HTTPS_PROXY", "SSL_CERT_FILE", "client"])
def test_no_frame_shows_a_secret_of_the_environment(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", SECRET)
    if variable == "OPENAI_API_KEY":
        monkeypatch.setenv(variable, f"{SECRET}\n\x07")
    elif variable == "HTTPS_PROXY":
        for value in (
            f"odd://me:{SECRET}@host:1",
            f"http://me:{SECRET}@host:port",
            f"me:{SECRET}@",
        ):
            monkeypatch.setenv(variable, value)
            with pytest.raises(InvalidOption, match="HTTPS_PROXY names") as caught:
                OpenAIModel("https://far.example/v1", "odd")
            assert SECRET not in shown(caught.value)
        monkeypatch.setenv(variable, f"http://me:{SECRET}@127.0.0.1:9")
    elif variable == "SSL_CERT_FILE":
        monkeypatch.setenv(variable, "/no/such.pem")
    else:
        # What is no trouble of the network is an error of ours, and shows itself.
        monkeypatch.setattr("h11.Connection.send", _interrupted)
    with odd_server((200, said())) as server:
        address = server.url if variable == "client" else "https://far.example/v1"
        with pytest.raises((RPPError, RuntimeError)) as caught:
            OpenAIModel(address, "odd", patience=0)
    assert SECRET not in shown(caught.value)


# ---- proxies ----


PROXIES = [
    ({"http_proxy": "P"}, "http://far.example/v1", "http_proxy"),
    ({"HTTP_PROXY": "http://P"}, "http://far.example/v1", "HTTP_PROXY"),
    ({"ALL_PROXY": "http://P"}, "http://far.example/v1", "ALL_PROXY"),
    (
        {"HTTP_PROXY": " http://P ", "ALL_PROXY": "socks5://x"},
        "http://far.example/v1",
        "HTTP_PROXY",
    ),
    ({"HTTPS_PROXY": "http://P"}, "http://far.example/v1", None),
    ({"HTTPS_PROXY": "http://P"}, "https://far.example/v1", "HTTPS_PROXY"),
    ({"HTTP_PROXY": ""}, "http://far.example/v1", None),
    ({"HTTP_PROXY": "P"}, "http://127.0.0.1/v1", None),
    ({"ALL_PROXY": "socks://P"}, "http://0.0.0.0/v1", None),
    ({"HTTP_PROXY": "P"}, "http://[::1]/v1", None),
]


@pytest.mark.parametrize(("environment", "address", "variable"), PROXIES)
def test_the_proxy_of_a_url(
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    address: str,
    variable: str | None,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("P", "proxy.example:3128"))
    proxy = network.proxy_for(address)
    if variable is None:
        assert proxy is None
    else:
        assert proxy is not None
        assert proxy.url() == "http://proxy.example:3128"
        assert proxy.shown == f"http://proxy.example:3128 ({variable})"


NO_PROXY = [
    ("far.example", "far.example", True),
    ("other, far.example", "far.example", True),
    ("other far.example", "far.example", True),
    (".example", "far.example", True),
    ("*.example", "far.example", True),
    ("example", "far.example", True),
    ("r.example", "far.example", False),
    ("far.example:8000", "far.example", True),
    ("far.example:80", "far.example", False),
    ("http://far.example", "far.example", True),
    ("*", "far.example", True),
    ("10.0.0.0/8", "10.1.2.3", True),
    ("10.0.0.0/8", "11.1.2.3", False),
    ("10.1.2.3", "10.1.2.3", True),
    ("10.0.0.0/8", "far.example", False),
    ("fe80::/10", "[fe80::7]", True),
    ("fe80::/10", "[2001:db8::7]", False),
    ("[fe80::7]", "[fe80::7]", True),
    ("[fe80::7]:8000", "[fe80::7]", True),
    ("[fe80::7]:80", "[fe80::7]", False),
    ("fe80:0:0::7", "[fe80::7]", True),
    ("localhost,[::1],fe80::/10,:,[,1.2.3.4/99", "far.example", False),
]


@pytest.mark.parametrize(("entries", "host", "without"), NO_PROXY)
def test_hosts_that_are_reached_without_a_proxy(
    monkeypatch: pytest.MonkeyPatch, entries: str, host: str, without: bool
) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://proxy.example:3128")
    monkeypatch.setenv("NO_PROXY", entries)
    assert (network.proxy_for(f"http://{host}:8000/v1") is None) == without


@pytest.mark.parametrize(
    "value", ["socks://P:1", "socks4://P:1", "ftp://P", "http://", "http://P:x"]
)
def test_a_proxy_that_cannot_be_spoken_to_is_a_sentence(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("ALL_PROXY", value)
    with pytest.raises(InvalidOption, match=r"ALL_PROXY names .* as proxy.*or socks5://HOST:PORT"):
        OpenAIModel(FAR, "odd")
    monkeypatch.setenv("NO_PROXY", "far.example")
    assert network.proxy_for(FAR) is None


def test_a_socks_proxy_names_the_extra_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda _: None)
    monkeypatch.setenv("ALL_PROXY", "socks5h://P:1080")
    with pytest.raises(MissingExtra, match=r"ALL_PROXY.*pip install 'rpp-env\[socks\]'"):
        OpenAIModel(FAR, "odd")
    monkeypatch.setattr(network.importlib.util, "find_spec", lambda _: True)
    proxy = network.proxy_for(FAR)
    assert proxy is not None
    assert proxy.url() == "socks5://P:1080"


def test_the_proxy_is_used_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    busy: Answer = (407, b"")
    with odd_server((200, said()), models=busy) as proxy:
        monkeypatch.setenv("HTTP_PROXY", f"http://me:{SECRET}@127.0.0.1:{proxy.port}")
        with pytest.raises(ModelUnavailable, match=r"status 407 .*\(HTTP_PROXY\)") as caught:
            OpenAIModel(FAR, "odd")
    assert proxy.headers[0]["Host"] == "far.example:8000"
    assert SECRET not in shown(caught.value)
    with pytest.raises(ModelUnavailable, match=r"through the proxy .*\(HTTP_PROXY\).*refused"):
        OpenAIModel(FAR, "odd", patience=0)


def test_a_local_server_needs_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    with odd_server((200, said()), host="0.0.0.0") as server:  # noqa: S104 - as vLLM prints it
        for host in ("127.0.0.1", "localhost", "0.0.0.0"):  # noqa: S104
            url = f"http://{host}:{server.port}/v1"
            assert OpenAIModel(url, "odd").complete([ASKED])[0].text == "a reply"


# ---- certificates ----


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unsigned certificate with its key."""
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    folder = tmp_path_factory.mktemp("certificate")
    command = (
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=odd -keyout key.pem -out "
        "only.pem -addext subjectAltName=DNS:localhost,IP:127.0.0.1"
    )
    subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    both = folder / "both.pem"
    both.write_bytes((folder / "only.pem").read_bytes() + (folder / "key.pem").read_bytes())
    return both


def test_certificates_of_the_environment_hold_for_this_machine_too(
    certificate: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    only = certificate.with_name("only.pem")
    with odd_server((200, said()), certificate=certificate) as server:
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"not trusted \(self-signed.*SSL_CERT_FILE"):
            OpenAIModel(server.url, "odd", patience=600.0)
        assert time.monotonic() - began < 5
        for variable in network.CERTIFICATE_FILES:
            with monkeypatch.context() as patch:
                patch.setenv(variable, str(only))
                for host in ("127.0.0.1", "localhost"):
                    url = f"https://{host}:{server.port}/v1"
                    assert OpenAIModel(url, "odd").complete([ASKED])[0].text == "a reply"
        hashed = subprocess.run(
            ["openssl", "x509", "-hash", "-noout", "-in", str(only)],  # noqa: S607
            check=True,
            capture_output=True,
            text=True,
        )
        shutil.copy(only, tmp_path / f"{hashed.stdout.strip()}.0")
        monkeypatch.setenv("SSL_CERT_DIR", str(tmp_path))
        assert OpenAIModel(server.url, "odd").complete([ASKED])[0].text == "a reply"


@pytest.mark.parametrize("variable", ["SSL_CERT_DIR", *network.CERTIFICATE_FILES])
def test_certificates_that_are_not_there_are_a_sentence(
    variable: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "text.pem").write_text("no certificate")
    (tmp_path / "empty.pem").touch()
    (tmp_path / "folder").mkdir()
    for name in ("absent.pem", "text.pem", "empty.pem", "folder"):
        monkeypatch.setenv(variable, str(tmp_path / name))
        with pytest.raises(InvalidOption, match=f"{variable} names .*{name}.*, which .*unset it"):
            OpenAIModel("https://far.example/v1", "odd")
    # Plain HTTP has none.
    with odd_server((200, said())) as server:
        OpenAIModel(server.url, "odd")


# ---- how much is read, and for how long ----


def _drip(piece: bytes, pause: float) -> Callable[[socket.socket], None]:
    def write(connection: socket.socket) -> None:
        while True:
            connection.sendall(piece)
            time.sleep(pause)

    return write


def _after(head: bytes, piece: bytes, pause: float = 0.0) -> Callable[[socket.socket], None]:
    def write(connection: socket.socket) -> None:
        connection.sendall(head)
        _drip(piece, pause)(connection)

    return write


OK = b"HTTP/1.1 200 OK\r\n"
SLOW = {
    "a body": _after(OK + b"Content-Length: 99999\r\n\r\n", b" ", 0.05),
    "chunks": _after(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\n \r\n", 0.05),
    "a header": _after(OK + b"X-Odd: ", b"a", 0.05),
    "headers": _after(OK, b"X-Odd: a\r\n", 0.05),
    "promises": _drip(b"HTTP/1.1 100 Continue\r\n\r\n", 0.05),
    "nothing": _drip(b"", 0.05),
}


@pytest.mark.parametrize("kind", SLOW)
def test_an_answer_that_drips_is_given_up(kind: str) -> None:
    with raw_server(SLOW[kind]) as url:
        model = OpenAIModel(url, "odd", timeout=0.5, patience=0.2)
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"within 0\.5 s|nothing came for 0\.5 s"):
            model.complete([ASKED])
        assert time.monotonic() - began < 3


def test_blanks_that_keep_a_connection_alive_are_no_harm() -> None:
    """As some servers send them, while the model works."""

    def write(connection: socket.socket) -> None:
        body = json.dumps(said("at last")).encode()
        connection.sendall(OK + b"Content-Length: %d\r\n\r\n" % (len(body) + 5))
        for _ in range(5):
            connection.sendall(b"\n")
            time.sleep(0.05)
        connection.sendall(body)

    with raw_server(write) as url:
        assert OpenAIModel(url, "odd", timeout=5.0).complete([ASKED])[0].text == "at last"


HUGE = {
    "an endless body": _after(OK + b"Connection: close\r\n\r\n", b" " * 65536),
    "endless chunks": _after(
        OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65536 + b"\r\n"
    ),
    "an endless error": _after(b"HTTP/1.1 400 No\r\nConnection: close\r\n\r\n", b"x" * 65536),
    "endless headers": _after(OK, b"X-Odd: aaaaaaaaaaaaaaaaaaaaaaaa\r\n" * 1000),
}


@pytest.mark.parametrize("kind", HUGE)
def test_an_answer_without_end_is_given_up(kind: str) -> None:
    with raw_server(HUGE[kind]) as url:
        model = OpenAIModel(url, "odd", timeout=20.0, patience=0.1, max_body=1 << 20)
        began = time.monotonic()
        with pytest.raises(ModelUnavailable, match=r"max_body|status 400|Receive buffer|header"):
            model.complete([ASKED])
        assert time.monotonic() - began < 10


def test_a_reply_as_long_as_the_limit_is_complete() -> None:
    body = json.dumps(said("x" * 5000)).encode()
    with odd_server((200, body)) as server:
        assert (
            len(OpenAIModel(server.url, "odd", max_body=len(body)).complete([ASKED])[0].text)
            == 5000
        )
        with pytest.raises(
            ModelUnavailable, match=f"larger than {len(body) - 1:,} bytes.*max_body"
        ):
            OpenAIModel(server.url, "odd", max_body=len(body) - 1).complete([ASKED])
    assert len(server.questions) == 2


@pytest.mark.parametrize(
    ("encoding", "encode"),
    [("gzip", gzip.compress), ("x-gzip", gzip.compress), ("deflate", zlib.compress), ("", bytes)],
)
def test_compressed_replies(encoding: str, encode: Callable[[bytes], bytes]) -> None:
    body = json.dumps(said("packed " * 10_000)).encode()
    headers = {"Content-Encoding": encoding} if encoding else {}
    with odd_server((200, encode(body), headers)) as server:
        assert OpenAIModel(server.url, "odd").complete([ASKED])[0].text == "packed " * 10_000
        with pytest.raises(ModelUnavailable, match="max_body"):
            OpenAIModel(server.url, "odd", max_body=50_000).complete([ASKED])
    assert {headers["Accept-Encoding"] for headers in server.headers} == {"gzip"}


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        ("gzip", b"not packed"),
        ("gzip", gzip.compress(b"x" * 9000)[:30]),
        ("br", b"odd"),
        ("gzip, gzip", b"odd"),
    ],
    ids=["not packed", "cut off", "unknown", "twice"],
)
def test_badly_compressed_replies_are_no_crash(encoding: str, body: bytes) -> None:
    with odd_server((200, body, {"Content-Encoding": encoding})) as server:
        model = OpenAIModel(server.url, "odd", patience=0.3)
        with pytest.raises(ModelUnavailable, match=r"decompressed|compressed body|encoding"):
            model.complete([ASKED])


MEMORY = """
import resource, sys
from rpp_env.models import Generation, Request
from rpp_env.models.openai import OpenAIModel
from rpp_env.errors import ModelUnavailable
model = OpenAIModel(sys.argv[1], "odd", patience=0.0, timeout=60.0)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    messages = [({"role": "user", "content": str(i)},) for i in range(4)]
    model.complete([Request(message, Generation()) for message in messages])
except ModelUnavailable as error:
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print((after - before) // 1024, "MiB", error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="reads the memory that a process has used")
@pytest.mark.parametrize("kind", ["gzip bomb", "gzip bomb in an error", "JSON bomb", "endless"])
def test_memory_is_bounded(kind: str) -> None:
    """Four at once, each of which would take 256 MiB or more."""
    packer = zlib.compressobj(6, wbits=31)
    bomb = b"".join(packer.compress(b" " * (1 << 22)) for _ in range(64)) + packer.flush()
    assert len(bomb) < 1 << 19
    packed = {"Content-Encoding": "gzip"}
    answers: dict[str, Answer] = {
        "gzip bomb": (200, bomb, packed),
        "gzip bomb in an error": (500, bomb, packed),
        "JSON bomb": (200, b"[" + b"{}," * (5 << 20) + b"0]"),
    }
    if kind == "endless":
        with raw_server(_after(OK + b"Connection: close\r\n\r\n", b" " * 65536)) as url:
            out = _run(url)
    else:
        with odd_server(answers[kind]) as server:
            out = _run(server.url)
    used = re.match(r"(\d+) MiB", out)
    assert used is not None, out
    # Four bodies of 16 MiB, each for a moment there twice; of JSON, one that is parsed.
    assert int(used[1]) < (700 if kind == "JSON bomb" else 200), out


def _run(url: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, url],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
    )
    return done.stdout + done.stderr


def test_server_messages_are_quoted_in_printable_characters() -> None:
    words = "\x1b[31mred\x1b[0m \u202e backwards \u2028 line \ud800" + "x" * 5000
    with (
        odd_server((400, {"error": {"message": words}})) as server,
        pytest.raises(ModelUnavailable, match=r"red .*backwards line") as caught,
    ):
        OpenAIModel(server.url, "odd").complete([ASKED])
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_cookies_are_not_kept() -> None:
    cookies = (200, said(), {"Set-Cookie": "odd=1; Path=/"})
    with odd_server(cookies, models=(*MODELS[:2], cookies[2])) as server:
        OpenAIModel(server.url, "odd").complete([ASKED])
    assert ["Cookie" in headers for headers in server.headers] == [False, False]
