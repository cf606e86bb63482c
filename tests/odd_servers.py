"""OpenAI-compatible servers with scripted answers, in threads of the test's process."""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

Answer = tuple[int, Any] | tuple[int, Any, dict[str, str]]
"""Status, body (bytes, or what becomes JSON) and headers."""
MODELS: Answer = (200, {"object": "list", "data": [{"id": "odd"}]})


@dataclass
class OddServer:
    """A running server, and what it was asked."""

    port: int
    scheme: str = "http"
    questions: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    """Of every request, also those for the list of models."""

    @property
    def url(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.port}/v1"

    def keys(self) -> list[str | None]:
        """The keys that came, one for each request."""
        return [headers.get("Authorization") for headers in self.headers]


@contextlib.contextmanager
def odd_server(
    answer: Callable[[dict[str, Any]], Answer] | Answer,
    *,
    models: Answer = MODELS,
    host: str = "127.0.0.1",
    certificate: Path | None = None,
) -> Iterator[OddServer]:
    """Serve until the block ends; `answer` makes the answer to a question, or is it."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            served.headers.append(dict(self.headers))
            self.say(*models)

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            served.headers.append(dict(self.headers))
            served.questions.append(body)
            self.say(*(answer(body) if callable(answer) else answer))

        def say(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            data = body if isinstance(body, bytes) else json.dumps(body).encode()
            with contextlib.suppress(OSError):
                self.send_response(status)
                for name, value in (headers or {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        def handle(self) -> None:
            with contextlib.suppress(OSError):
                super().handle()

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server((host, 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    served = OddServer(server.server_address[1], "http" if certificate is None else "https")
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def raw_server(write: Callable[[socket.socket], None]) -> Iterator[str]:
    """The address of a server that lists its model, and then writes what it likes."""
    listening = socket.create_server(("127.0.0.1", 0))
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n"
    models = json.dumps(MODELS[1]).encode()

    def answer(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            asked = connection.recv(1 << 16)
            if asked.startswith(b"GET"):
                connection.sendall(head % len(models) + models)
            else:
                write(connection)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listening.accept()
                threading.Thread(target=answer, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
    finally:
        # A thread in accept() keeps the socket; a last visit lets it see that it is closed.
        listening.shutdown(socket.SHUT_RDWR)
        listening.close()


def said(text: Any = "a reply", finish: Any = "stop", **more: Any) -> dict[str, Any]:
    """A chat server's reply."""
    return chosen(
        {"message": {"role": "assistant", "content": text}, "finish_reason": finish}, **more
    )


def chosen(row: Any, **more: Any) -> dict[str, Any]:
    """A reply with this as its only choice."""
    return {"choices": [row], "usage": {"prompt_tokens": 7, "completion_tokens": 2}, **more}


def scored(*pairs: tuple[Any, Any]) -> dict[str, Any]:
    """A reply with the log-probabilities of its first token's alternatives."""
    tops = [{"token": token, "logprob": value} for token, value in pairs]
    row = {"message": {"content": "A"}, "finish_reason": "length"}
    return chosen({**row, "logprobs": {"content": [{"token": "A", "top_logprobs": tops}]}})
