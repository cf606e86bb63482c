"""Hostile model servers, each called by a separate process; see `attack.py`."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from attack_count import Count, bounded

__all__ = ["MEBIBYTES", "servers"]

MEBIBYTES = 1024
"""Limit on the client's additional memory while eight answers arrive."""
SECONDS = 60
FAKE = Path(__file__).parents[1] / "tests" / "fake_server.py"

OK = b"HTTP/1.1 200 OK\r\n"
JSON = OK + b"Content-Type: application/json\r\n"
CHUNKED = JSON + b"Transfer-Encoding: chunked\r\n\r\n"
CLOSE = JSON + b"Connection: close\r\n\r\n"

Write = Callable[[socket.socket], None]


@dataclass(frozen=True)
class Server:
    """What a server writes in reply to a request, and the expected outcome."""

    write: Write
    wanted: str = "refused"
    """``"refused"``; ``"noticed"``: used, and counted as odd; ``"taken"``: used as it is."""


def body(text: Any = "1. Owl", finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """A good reply."""
    row = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": finish}
    usage = {"prompt_tokens": 7, "completion_tokens": 2}
    return {"object": "chat.completion", "model": "odd", "choices": [row], "usage": usage} | more


def sent(content: bytes | dict[str, Any], head: bytes = JSON, length: int | None = None) -> Write:
    data = content if isinstance(content, bytes) else json.dumps(content).encode()
    size = len(data) if length is None else length
    return lambda peer: peer.sendall(head + b"Content-Length: %d\r\n\r\n" % size + data)


def dripping(head: bytes, piece: bytes, pause: float = 0.0) -> Write:
    def write(peer: socket.socket) -> None:
        peer.sendall(head)
        while True:
            peer.sendall(piece)
            time.sleep(pause)

    return write


def half_closed(peer: socket.socket) -> None:
    peer.sendall(JSON + b'Content-Length: 500\r\n\r\n{"choices": [')
    peer.shutdown(socket.SHUT_WR)
    time.sleep(SECONDS)


def reset(peer: socket.socket) -> None:
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    peer.sendall(JSON + b"Content-Length: 500\r\n\r\n{")


def silent(_: socket.socket) -> None:
    time.sleep(SECONDS)


def packed(size: int, wbits: int = 31) -> bytes:
    """So many mebibytes of blanks in a few kilobytes."""
    packer = zlib.compressobj(6, wbits=wbits)
    return b"".join(packer.compress(b" " * (1 << 20)) for _ in range(size)) + packer.flush()


GZIP = JSON + b"Content-Encoding: gzip\r\n"
REPLY = json.dumps(body()).encode()


def odd(**more: Any) -> Server:
    """A reply in which something is odd, but whose text can be read."""
    return Server(sent(body(**more)), "noticed")


SERVERS: dict[str, Server] = {
    # Without end, or too large.
    "gzip bomb": Server(sent(packed(1024), GZIP)),
    "deflate bomb": Server(sent(packed(1024, 15), JSON + b"Content-Encoding: deflate\r\n")),
    "gzip bomb in an error": Server(
        sent(packed(1024), b"HTTP/1.1 400 No\r\nContent-Encoding: gzip\r\n")
    ),
    "endless body": Server(dripping(CLOSE, b" " * 65536)),
    "endless chunks": Server(dripping(CHUNKED, b"10000\r\n" + b" " * 65536 + b"\r\n")),
    "endless error": Server(dripping(b"HTTP/1.1 500 No\r\n\r\n", b"x" * 65536)),
    "endless headers": Server(dripping(OK, b"X-Odd: aaaaaaaaaaaaaaaaaaa\r\n" * 1000)),
    "one endless header": Server(dripping(OK + b"X-Odd: ", b"a" * 65536)),
    "endless chunk extension": Server(dripping(CHUNKED + b"5;", b"x" * 65536)),
    "endless trailers": Server(dripping(CHUNKED + b"0\r\n", b"X-Odd: a\r\n" * 1000)),
    "100 Continue without end": Server(dripping(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100)),
    "103 Early Hints without end": Server(
        dripping(b"", b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 100)
    ),
    "a length of 10 exabytes": Server(sent(REPLY, length=10**19)),
    # A byte now and then.
    "a byte now and then": Server(dripping(JSON + b"Content-Length: 99999\r\n\r\n", b" ", 0.1)),
    "a chunk now and then": Server(dripping(CHUNKED, b"1\r\n \r\n", 0.1)),
    "a header now and then": Server(dripping(OK, b"X-Odd: a\r\n", 0.1)),
    "nothing at all": Server(silent),
    # Not what HTTP says.
    "half closed": Server(half_closed),
    "reset": Server(reset),
    "closed at once": Server(lambda peer: peer.close()),
    "shorter than its length": Server(sent(REPLY, length=len(REPLY) + 10)),
    "two lengths": Server(
        lambda peer: peer.sendall(JSON + b"Content-Length: 5\r\nContent-Length: 9\r\n\r\n" + REPLY)
    ),
    "a negative length": Server(sent(REPLY, length=-5)),
    "no HTTP": Server(lambda peer: peer.sendall(b"SSH-2.0-OpenSSH_9.9\r\n")),
    "no gzip": Server(sent(b"not packed", GZIP)),
    "gzip cut off": Server(sent(gzip.compress(REPLY)[:30], GZIP)),
    "gzip in gzip": Server(
        sent(gzip.compress(gzip.compress(REPLY)), JSON + b"Content-Encoding: gzip, gzip\r\n")
    ),
    "a redirection": Server(
        sent(b"", b"HTTP/1.1 307 No\r\nLocation: http://127.0.0.1:9/v1/chat/completions\r\n")
    ),
    "a redirection to itself": Server(
        sent(b"", b"HTTP/1.1 308 No\r\nLocation: /v1/chat/completions\r\n")
    ),
    "a redirection to a file": Server(
        sent(b"", b"HTTP/1.1 301 No\r\nLocation: file:/etc/passwd\r\n")
    ),
    "come back in a year": Server(sent(b"", b"HTTP/1.1 429 No\r\nRetry-After: 31536000\r\n")),
    "switching protocols": Server(
        lambda peer: peer.sendall(b"HTTP/1.1 101 No\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n")
    ),
    # Not what JSON or the interface says.
    "deep JSON": Server(sent(b"[" * 2_000_000)),
    "deep JSON, closed": Server(sent(b'{"a":' * 100_000 + b"1" + b"}" * 100_000)),
    "five million tables": Server(sent(b"[" + b"{}," * (5 << 20) + b"0]")),
    "a number of a million digits": Server(sent(b'{"choices": ' + b"9" * 1_000_000 + b"}")),
    "wrong charset": Server(
        sent(json.dumps(body()).encode("utf-16"), JSON[:-2] + b"; charset=latin-1\r\n"), "taken"
    ),
    "no UTF-8": Server(sent(b'{"choices": [{"message": {"content": "\xff\xfe\x80"}}]}'), "taken"),
    "a lone surrogate": Server(sent(body("1. \ud800Owl")), "taken"),
    "escapes": Server(sent(body("\x1b[2J\x1b]0;x\x07\u202e1. Owl")), "taken"),
    "an error of escapes": Server(
        sent({"error": {"message": "\x1b[2J\u202e" + "x" * 100_000}}, b"HTTP/1.1 400 No\r\n")
    ),
    "a reply of 15 MB": Server(sent(body("1. Owl " * 2_000_000)), "taken"),
    "120,000 combining marks": Server(sent(body("1. Z" + "\u0301" * 120_000)), "taken"),
    "no text": Server(sent(body(None)), "noticed"),
    "a text that is a number": Server(sent(body(5)), "noticed"),
    "no choices": Server(sent({"choices": []}), "noticed"),
    "a list": Server(sent(b"[]")),
    "nothing": Server(sent(b"")),
    "HTML": Server(sent(b"<html>login</html>")),
    "two answers": odd(choices=body()["choices"] * 2),
    "another model's name": odd(model="other"),
    "tokens: NaN": Server(
        sent(REPLY.replace(b'"prompt_tokens": 7', b'"prompt_tokens": NaN')), "noticed"
    ),
    "tokens: negative": odd(usage={"prompt_tokens": -7, "completion_tokens": 2}),
    "tokens: huge": odd(usage={"prompt_tokens": 7, "completion_tokens": 10**400}),
    "tokens: texts": odd(usage={"prompt_tokens": "7", "completion_tokens": []}),
    "a finish of a megabyte": Server(sent(body(finish="x" * (1 << 20))), "taken"),
}
"""Servers by name; each lists its model, and then writes this."""

PLAY = """
import json, os, sys
from pathlib import Path
from rpp_env import RPPEnv
from rpp_env.errors import RPPError
import rpp_env.models.transport

rpp_env.models.transport.FIRST_PAUSE = 0.02
# What is loaded on the way is no part of the answers.
RPPEnv.make("movieworld", num_users=60, num_items=100, num_envs=1).reset(seed=0)

def kibibytes(name):
    status = Path("/proc/self/status").read_text()
    return int(status.partition(name + ":")[2].split()[0])

name, options = sys.argv[1], {"timeout": 4.0, "patience": 1.0}
try:
    env = RPPEnv.make(
        "movieworld", name, model_options=options, num_users=60, num_items=100, num_envs=8
    )
    env.reset(seed=0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    before = kibibytes("VmRSS")
    step = env.step([[0, 3, 0, 0]] * 8)
    for ranking in step.rankings:
        assert sorted(ranking.order) == list(range(20)), "no permutation"
    assert ((step.rewards >= 0) & (step.rewards <= 1)).all()
    print("taken", int(step.infos["named"].sum()), dict(env.recommender.model.oddities))
except RPPError as error:
    assert len(str(error)) < 3000, "an endless sentence"
    assert str(error).isprintable(), "a sentence that steers a terminal"
    assert os.environ["OPENAI_API_KEY"] not in str(error), "the key"
    print("refused", ascii(str(error))[:300])
finally:
    print("used", (kibibytes("VmHWM") - before) // 1024)
"""

LETTERS = """
import sys
from rpp_env.errors import RPPError
from rpp_env.models import Generation, Request
from rpp_env.models.openai import OpenAIModel

model = OpenAIModel(sys.argv[1], "tiny", patience=1.0, timeout=4.0)
messages = [({"role": "user", "content": f"surprise {i}"},) for i in range(6)]
try:
    choices = tuple("ABCD") if sys.argv[2] == "letters" else None
    replies = model.complete([Request(message, Generation(), choices) for message in messages])
    for i, reply in enumerate(replies):
        assert choices or f"surprise {i}" in reply.text, "an answer to another prompt"
    print("taken 0", dict(model.oddities))
except RPPError as error:
    print("refused", ascii(str(error))[:300])
finally:
    print("used 0")
"""

BATCHES: dict[str, tuple[dict[str, Any], str, str]] = {
    "vLLM: positive log-probabilities": ({"lifts": 50.0}, "letters", "refused"),
}
"""Faults of `tests/fake_server.py`, which answers as vLLM does."""


@contextlib.contextmanager
def _listening(server: Server, keys: list[bytes]) -> Iterator[str]:
    """The address of a hostile server; `keys` takes the keys that reach it."""
    listening = socket.create_server(("127.0.0.1", 0), backlog=64)
    models = json.dumps({"object": "list", "data": [{"id": "odd"}]}).encode()

    def answer(peer: socket.socket) -> None:
        with peer, contextlib.suppress(OSError):
            asked = b""
            while b"\r\n\r\n" not in asked:
                asked += peer.recv(1 << 16)
            keys.extend(re.findall(rb"Bearer [^\r]*", asked))
            if asked.startswith(b"GET"):
                sent(models, OK + b"Connection: close\r\n")(peer)
                return
            head, _, begun = asked.partition(b"\r\n\r\n")
            size = re.search(rb"content-length: (\d+)", head, re.IGNORECASE)
            left = int(size[1]) - len(begun) if size else 0
            while left > 0:
                left -= len(peer.recv(1 << 16))
            server.write(peer)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                peer, _ = listening.accept()
                threading.Thread(target=answer, args=(peer,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def servers(folder: Path) -> Count:
    """Servers that answer wrongly, each played by a process with a limit on its memory."""
    count = Count()
    for name, server in SERVERS.items():
        with _listening(server, keys := []) as address:
            _judge(count, name, PLAY, f"{address}#odd", folder=folder, wanted=server.wanted)
        if set(keys) - {b"Bearer sk-attacked"}:
            count.notes.append(f"{name}: other keys came: {keys}")
    command = [sys.executable, str(FAKE)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        address = f"http://127.0.0.1:{int(running.stdout.readline())}"
        for name, (script, what, wanted) in BATCHES.items():
            script_request = Request(f"{address}/_script", json.dumps(script).encode())  # noqa: S310
            urlopen(script_request, timeout=10).close()  # noqa: S310 - this machine's
            _judge(count, name, LETTERS, f"{address}/v1", what, folder=folder, wanted=wanted)
        running.terminate()
    return count


def _judge(
    count: Count, name: str, code: str, *words: str, folder: Path, wanted: str = "refused"
) -> None:
    code = "import os; os.environ['OPENAI_API_KEY'] = 'sk-attacked'\n" + code
    status, out, err = bounded(code, *words, megabytes=8000, seconds=SECONDS, folder=folder)
    said = out.decode(errors="replace")
    used = re.search(r"^used (\d+)", said, re.MULTILINE)
    if status is None:
        count.add(name, lost="no end within its time")
    elif status or used is None:
        count.add(name, lost=f"exit code {status}: {err.decode(errors='replace')[-300:]}")
    elif int(used[1]) > MEBIBYTES:
        count.add(name, lost=f"{int(used[1]):,} MiB of memory")
    else:
        silent = said.startswith("taken") and (
            wanted == "refused" or (wanted == "noticed" and said.startswith("taken 0 {}"))
        )
        count.add(name, wrong="it is taken without a word" if silent else "")
