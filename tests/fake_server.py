"""A scripted model server in a process of its own: ``python fake_server.py [PORT]``.

It speaks what `rpp_env.models.openai` needs of vLLM's interface, over a tokenizer with one token a
character (and two for a letter: with and without a blank before it), prints its port, and takes
instructions at ``/_script``. What was asked and answered stands at ``/_log``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

DEFAULTS: dict[str, Any] = {
    "vllm": True,  # owned_by, /version, /tokenize, token ids
    "template": True,  # whether the model has a chat template
    "ids": True,  # logprob_token_ids, as newer vLLMs have it
    "max_logprobs": 20,
    "top": {"A": -0.1, " B": -2.0, "B": -3.0, "C": -4.0, "the": -5.0},  # of another server
    "faults": [],  # one for each question that is coming, None for a good answer
    "delay": 0.0,  # seconds before an answer
    "models": ["tiny"],
    "key": None,  # the bearer token that is asked for
    "tokenizes": "all",  # "all", or what /tokenize takes: "prompts", "messages", "nothing"
    "failing": 500,  # its status where it does not
    "lifts": 0.0,  # added to each log-probability
}
state: dict[str, Any] = dict(DEFAULTS)
log: dict[str, list[Any]] = {
    "asked": [],
    "answered": [],
    "paths": [],
    "bodies": [],
    "tokenized": [],
}
lock = threading.Lock()


def tokens_of(text: str) -> list[str]:
    return re.findall(r"<s>|</s>| [A-Za-z](?![A-Za-z])|.", text, re.DOTALL)


def number(token: str) -> int:
    specials = {"<s>": 1, "</s>": 2}
    return specials.get(token) or ord(token[-1]) + (2_000_000 if len(token) == 2 else 10)


def token(number: int) -> str:
    specials = {1: "<s>", 2: "</s>"}
    if number in specials:
        return specials[number]
    return f" {chr(number - 2_000_000)}" if number >= 2_000_000 else chr(number - 10)


def ids(text: str) -> list[int]:
    return list(map(number, tokens_of(text)))


def templated(messages: list[dict[str, str]], goes_on: bool) -> str:
    text = "<s>"
    for message in messages:
        if message["role"] == "user":
            text += f"[INST] {message['content'].strip()} [/INST]"
        else:
            text += f" {message['content']}</s>"
    return text.removesuffix("</s>") if goes_on else text


def logprob(token: int) -> float:
    return -(token * 37 % 101) / 10 - 1


def scored(body: dict[str, Any]) -> dict[str, float] | None:
    """Log-probabilities of one token, by its name; None where they are more than allowed."""
    count = body.get("top_logprobs", body.get("logprobs"))
    if not state["vllm"]:
        return dict(list(state["top"].items())[: int(count)])
    named = body.get("logprob_token_ids") if state["ids"] else None
    if named is None:
        if count > state["max_logprobs"]:
            return None
        masked = body.get("allowed_token_ids") or []
        named = [*masked, *range(900, 1100)][:count]
    return {f"token_id:{i}": logprob(i) + state["lifts"] for i in [42, *named]}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # else head and body of an answer lie 40 ms apart

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path == "/_log":
            self.say(log)
        elif self.path == "/v1/models":
            self.say({"data": [self.card(name) for name in state["models"]]})
        elif self.path == "/version" and state["vllm"]:
            self.say({"version": "0.99"})
        else:
            self.refuse(404, "Not Found")

    def card(self, name: str) -> dict[str, Any]:
        more = {"root": "weights/tiny", "max_model_len": 2000}
        return {"id": name, "owned_by": "vllm", **more} if state["vllm"] else {"id": name}

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/_script":
            state.clear()
            state.update(DEFAULTS | body)
            for entries in log.values():
                entries.clear()
            return self.say({})
        if state["vllm"] and self.path in {"/tokenize", "/detokenize"}:
            return self.tokenize(body)
        if self.path not in {"/v1/completions", "/v1/chat/completions"}:
            return self.refuse(404, "Not Found")
        chat = self.path == "/v1/chat/completions"
        prompt = body["messages"][-1]["content"] if chat else body["prompt"]
        with lock:
            log["paths"].append(self.path)
            log["bodies"].append(body)
            log["asked"].append(prompt)
            fault = state["faults"].pop(0) if state["faults"] else None
        if state["key"] and self.headers.get("Authorization") != f"Bearer {state['key']}":
            # As some servers do: the key that came stands in the message.
            return self.refuse(401, f"Incorrect key provided: {self.headers.get('Authorization')}")
        if fault is not None and self.fail(fault):
            return None
        time.sleep(state["delay"])
        reply = self.chat(body, fault) if chat else self.complete(body, fault)
        if reply is not None:
            self.say(reply)
            log["answered"].append(prompt)
        return None

    def tokenize(self, body: dict[str, Any]) -> None:
        if "tokens" in body:
            return self.say({"prompt": "".join(map(token, body["tokens"]))})
        with lock:
            log["tokenized"].append(body)
        if state["tokenizes"] not in {"all", "messages" if "messages" in body else "prompts"}:
            return self.refuse(state["failing"], "fault of /tokenize")
        if "messages" in body:
            if not state["template"]:
                return self.refuse(400, "the tokenizer has no chat template")
            text = templated(body["messages"], body.get("continue_final_message", False))
        else:
            text = body["prompt"]
        names = [name.replace(" ", "\u2581") for name in tokens_of(text)]
        return self.say({"tokens": ids(text), "token_strs": names, "count": len(names)})

    def chat(self, body: dict[str, Any], fault: str | None) -> dict[str, Any] | None:
        text = templated(body["messages"], body.get("continue_final_message", False))
        row = self.answer(body, text, fault)
        if row is None:
            return None
        scores, said = row.pop("scores"), row.pop("text")
        row["message"] = {"role": "assistant", "content": said}
        if scores is not None:
            top = [{"token": name, "logprob": value} for name, value in scores.items()]
            row["logprobs"] = {"content": [{"top_logprobs": top}]}
        return {"choices": [{"index": 0, **row}], "usage": self.usage(text, row)}

    def complete(self, body: dict[str, Any], fault: str | None) -> dict[str, Any] | None:
        row = self.answer(body, body["prompt"], fault)
        if row is None:
            return None
        scores = row.pop("scores")
        if scores is not None:
            row["logprobs"] = {"top_logprobs": [scores]}
        return {"choices": [{"index": 0, **row}], "usage": self.usage(body["prompt"], row)}

    def answer(self, body: dict[str, Any], prompt: str, fault: str | None) -> Any:
        if len(tokens_of(prompt)) + body["max_tokens"] > 2000:
            return self.refuse(400, "This model's maximum context length is 2000 tokens.")
        text = "x" * 100_000 if "LONG" in prompt else f"echo {prompt[-60:]}"
        if body.get("temperature", 1.0) > 0 and "seed" not in body:
            text += f" #{len(log['answered'])}.{time.perf_counter_ns()}"
        if "structured_outputs" in body and state["vllm"]:
            text = "yes"
        cut = len(text) > body["max_tokens"] and "LONG" not in prompt
        text = text[: body["max_tokens"]] if cut else text
        scores = scored(body) if body.get("logprobs") else None
        if body.get("logprobs") and scores is None:
            return self.refuse(400, "Requested logprobs greater than max allowed: 20")
        finish = "abort" if fault == "abort" else "length" if cut else "stop"
        return {"text": text, "finish_reason": finish, "scores": scores, "token_ids": ids(text)}

    @staticmethod
    def usage(prompt: str, row: dict[str, Any]) -> dict[str, int]:
        return {
            "prompt_tokens": len(tokens_of(prompt)),
            "completion_tokens": len(row["token_ids"]),
        }

    def fail(self, fault: str) -> bool:
        kind, _, rest = fault.partition(" ")
        if kind == "stuck":
            time.sleep(float(rest))
        elif kind == "leave":  # as vLLM on SIGTERM: no new connections, no answers to open ones
            server.socket.close()
            time.sleep(float(rest))
            os._exit(0)
        elif kind == "half":
            self.send_response(200)
            self.send_header("Content-Length", "5000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"ind')
        elif kind == "text":
            self.send_body(200, rest.encode())
            return True
        elif kind.isdigit():
            self.refuse(int(kind), f"fault {kind}", rest)
            return True
        elif kind != "cut":
            return False
        self.close_connection = True
        return True

    def refuse(self, status: int, message: str, retry_after: str = "") -> None:
        body = json.dumps({"error": {"message": message, "code": status}}).encode()
        self.send_body(status, body, {"Retry-After": retry_after} if retry_after else {})

    def say(self, reply: Any) -> None:
        self.send_body(200, json.dumps(reply).encode())

    def send_body(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        # A client that has given up is gone.
        with contextlib.suppress(OSError):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)
            self.wfile.flush()


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


if __name__ == "__main__":
    server = Server(("127.0.0.1", int(sys.argv[1]) if len(sys.argv) > 1 else 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()
