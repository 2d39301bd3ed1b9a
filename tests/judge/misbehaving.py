"""A real HTTP server in a thread that speaks like a chat endpoint, and fails like one on demand."""

from __future__ import annotations

import json
import math
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKENS = (10, 1)
"""Input tokens per request and output tokens per text that the server reports."""

WITHHELD = {
    "filtered": ("content_filter", {"content": "I think that"}),
    "refused": ("stop", {"content": None, "refusal": "I can't help with that."}),
    "reasoned": ("length", {"content": None, "reasoning_content": "The user asks whether"}),
}


def planted(body: dict) -> str:
    """Return the word that the last message plants: "#support" in it is answered with "support", as is a message without one."""
    return ["support", *re.findall(r"#(\w+)", body["messages"][-1]["content"])][-1]


def first_attempts(n: int, *troubles: str) -> Callable[[int, dict], str | None]:
    """Return a `trouble` that meets the first n attempts of each message, with the named ones in turn."""
    attempts: Counter[str] = Counter()

    def of(number: int, body: dict) -> str | None:
        message = body["messages"][-1]["content"]
        attempts[message] += 1
        return troubles[number % len(troubles)] if attempts[message] <= n else None

    return of


def ctrl_c_at(at: int) -> Callable[[int, dict], None]:
    """Return a `trouble` that interrupts this process while request `at` is under way.

    The signal goes to a thread other than the main one, as the kernel sometimes does it: it then wakes nobody up.
    """
    return lambda number, body: signal.pthread_kill(threading.get_ident(), signal.SIGINT) if number == at else None


def certain(word: str) -> dict[str, float]:
    """Return first tokens with 0.9 on a word and 0.1 on words that are no label."""
    return {word: 0.9, "The": 0.04, "Well": 0.03, "#": 0.02, "</s>": 0.01}


class Server:
    """What the server does, and what it saw. `trouble(number, body)` may name a trouble for a request, counted from 0:

    a status ("500"), a status with seconds to wait ("429 after 0.3") or with a message ("400 says TEXT"), "cut", "garbage", "html",
    "empty" (no choices), "no usage", "no logprobs", "filtered" (a text cut by a filter), "refused" (words in the field for refusals),
    "reasoned" (all tokens spent before the text), a (status, bytes) to send as it is, or None.
    """

    def __init__(self) -> None:
        self.trouble: Callable[[int, dict], str | tuple | None] = lambda number, body: None
        self.text: Callable[[int, dict], str] = lambda number, body: planted(body)
        self.first_tokens: Callable[[dict], dict[str, float]] = lambda body: certain(planted(body))
        self.gives_logprobs = True
        self.heeds_n = True
        self.delay_seconds = 0.0
        self.bodies: list[dict] = []
        self.headers: list[dict] = []
        self.times: list[float] = []
        self.n_answered = 0
        self.n_paid_tokens = 0
        self.now, self.most_at_once = 0, 0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"server_of_test": self}))
        self._http.daemon_threads = True
        self._http.handle_error = lambda *_: None  # a client that was killed
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"

    def __enter__(self) -> Server:
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._http.shutdown()
        self._http.server_close()

    def arrived(self, body: dict) -> int:
        with self._lock:
            self.bodies.append(body)
            self.times.append(time.monotonic())
            self.now += 1
            self.most_at_once = max(self.most_at_once, self.now)
            return len(self.bodies) - 1

    def left(self, n_texts: int) -> None:
        with self._lock:
            self.now -= 1
            self.n_answered += n_texts > 0
            self.n_paid_tokens += (TOKENS[0] + TOKENS[1] * n_texts) if n_texts else 0

    def completion(self, number: int, body: dict) -> dict:
        texts = [self.text(number, body) for _ in range(body.get("n", 1) if self.heeds_n else 1)]
        choices = [
            {"index": index, "finish_reason": "stop", "message": {"role": "assistant", "content": text}} for index, text in enumerate(texts)
        ]
        if self.gives_logprobs and body.get("logprobs"):
            tops = [{"token": token, "logprob": math.log(p), "bytes": None} for token, p in self.first_tokens(body).items()]
            choices[0]["logprobs"] = {"content": [{**tops[0], "top_logprobs": tops[: body["top_logprobs"]]}], "refusal": None}
        usage = {"prompt_tokens": TOKENS[0], "completion_tokens": TOKENS[1] * len(texts), "total_tokens": sum(TOKENS)}
        return {"id": str(number), "object": "chat.completion", "created": 0, "model": body["model"], "choices": choices, "usage": usage}


class Handler(BaseHTTPRequestHandler):
    server_of_test: Server
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # head and body leave together: apart, each reply takes 40 ms more
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        server = self.server_of_test
        number = server.arrived(body)
        n_texts = 0
        try:
            trouble = server.trouble(number, body) or ""
            server.headers.append(dict(self.headers))
            time.sleep(server.delay_seconds)
            completion = server.completion(number, body)
            if isinstance(trouble, tuple):
                self._send(*trouble)
            elif re.match(r"\d", trouble):
                self._refuse(trouble)
            elif trouble in ("cut", "garbage", "html", "empty"):
                self._break(trouble, completion)
            else:
                if trouble == "no usage":
                    del completion["usage"]
                if trouble == "no logprobs":
                    completion["choices"][0].pop("logprobs", None)
                if trouble in WITHHELD:
                    reason, message = WITHHELD[trouble]
                    completion["choices"][0] |= {"finish_reason": reason, "message": {"role": "assistant"} | message}
                n_texts = len(completion["choices"])
                self._send(200, json.dumps(completion).encode())
        except (BrokenPipeError, ConnectionResetError):
            n_texts = 0  # the client did not wait
        finally:
            server.left(n_texts)

    def _refuse(self, trouble: str) -> None:
        status, _, rest = trouble.partition(" ")
        kind, _, words = rest.partition(" ")
        error = {"message": words if kind == "says" else f"trouble {status}", "type": "trouble", "param": None}
        self._send(int(status), json.dumps({"error": error}).encode(), {"Retry-After": words} if kind == "after" else {})

    def _break(self, trouble: str, completion: dict) -> None:
        if trouble == "cut":
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"ind')
            self.close_connection = True
        elif trouble == "garbage":
            self._send(200, b'{"choices": [{"index": 0, "mess')
        elif trouble == "html":
            self._send(200, b"<html>Service is warming up</html>", {"content-type": "text/html"})
        else:
            self._send(200, json.dumps(completion | {"choices": []}).encode())

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"content-type": "application/json"} | (headers or {})).items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing on stderr."""
