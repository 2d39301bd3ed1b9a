"""Ask a chat model behind an OpenAI-compatible address: concurrent requests with retries, within a budget.

The address and the key come from OPENAI_BASE_URL and OPENAI_API_KEY, so that no plan holds them (see local_server.py).
"""

from __future__ import annotations

import contextlib
import queue
import random
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import progress
from ..nouns import BadInput, Stopped
from .budget import PRICES, VARIABLE, Budget, Price, common, price_of
from .chat_api import ONE_ONLY, Dialect, Failed, Reply, Request, joined, reply_of, retry_after, words_of
from .local_server import DEFAULT_URL, client, server
from .replies import Replies

LONGEST_BACKOFF_SECONDS = 30.0
LONGEST_RETRY_AFTER_SECONDS = 300.0
"""Requests fail at once if the server asks for a longer pause, because a quota is used up."""
GRACE_SECONDS = 5.0
"""Seconds that Ctrl-C waits for pending replies, because they are paid for."""
LOOK_SECONDS = 0.1
"""Seconds between checks of the main thread, because the kernel may deliver Ctrl-C to another thread."""
FRAMING_TOKENS = 16
"""Most tokens that a chat template may put around one message."""
DIALECTS: dict[tuple[str, str], Dialect] = {}
"""(address, model) -> its dialect, so that each process finds it out once."""


class Refused(BadInput):
    """The server refused the request itself (400, 413, 422), not the key or the address."""


class Ended(Stopped):
    """The work ended early: `replies` holds replies and failures, and None for each request without either."""

    def __init__(self, sentence: str, replies: Sequence[Reply | Failed | None]):
        super().__init__(sentence)
        self.replies = tuple(replies)


@dataclass(frozen=True)
class _Again:
    """A request that may succeed if it is sent again; `unclear` if it may have been billed."""

    reason: str
    unclear: bool = False
    after_seconds: float | None = None


class _Batch:
    """One call of `chat`: the requests to send, the results, whether to stop, and whether all threads have ended.

    Thread.join cannot tell the last: up to Python 3.12, a join interrupted by Ctrl-C marks a running thread as ended.
    """

    def __init__(self, requests: Sequence[Request], n_threads: int):
        self.replies: list[Reply | Failed | None] = [None] * len(requests)
        self.waiting: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
        for numbered in enumerate(requests):
            self.waiting.put(numbered)
        self.error: BaseException | None = None
        self.stopping = threading.Event()
        self.ended = threading.Event()
        self._n_threads = n_threads
        self._lock = threading.Lock()

    def stop(self, error: BaseException) -> None:
        """Send nothing more, and keep the first error to raise."""
        if not self.stopping.is_set():
            self.error = error
            self.stopping.set()

    def leave(self) -> None:
        """Count one thread as ended."""
        with self._lock:
            self._n_threads -= 1
            if not self._n_threads:
                self.ended.set()


class Endpoint:
    """One model of one server, for judges, writers and sampled models: replies, failures and costs of concurrent requests."""

    def __init__(
        self,
        model: str,
        concurrency: int = 8,
        timeout_seconds: float = 60.0,
        retries: int = 6,
        max_cost: float | None = None,
        budget: Budget | None = None,
    ):
        if not model:
            raise BadInput("no model is named; write openai:MODEL, for example openai:gpt-4o-mini")
        self.model, self.concurrency, self.retries = model, concurrency, retries
        self._server = server()
        self.address, self.host = self._server.address, self._server.host
        self.backoff_seconds = 0.5
        """Seconds before the first retry; they double each time."""
        self.price = price_of(model) or (Price(0.0, 0.0) if self._server.is_here else None)
        self.budget = budget or common() or Budget()
        """Shared with the other endpoints made in the same `limited` block."""
        self.max_cost = self.budget.limit if max_cost is None else max_cost
        # OpenAI's newer models accept only the one, many other servers only the other.
        length = "max_completion_tokens" if self.address == DEFAULT_URL else "max_tokens"
        self.dialect = DIALECTS.setdefault((self.address, model), Dialect(length))
        self._client = client(self._server, timeout_seconds)
        self._paid: list[float] = []  # dollars per reply; the threads append
        self._one_by_one = False
        self._answered = False
        self._n_failed = 0
        self._said_unknown = False
        self._pause_until = 0.0
        self._batch: _Batch | None = None
        self._replies: Replies | None = None

    @property
    def spent(self) -> float:
        """Return the dollars that this object spent; 0 if the price is unknown."""
        return sum(self._paid)

    @property
    def max_cost(self) -> float | None:
        """Return the dollars that this object may spend. Setting it raises BadInput if the model has no price."""
        return self.budget.limit

    @max_cost.setter
    def max_cost(self, dollars: float | None) -> None:
        if dollars is not None and self.price is None:
            raise BadInput(
                f"the price of {self.model!r} is not known, so that --max-cost cannot be kept: copy {PRICES}, add the line "
                f'"{self.model}" = {{ input = DOLLARS, output = DOLLARS }} per million tokens, and name the copy in {VARIABLE}'
            )
        self.budget.limit = dollars

    def chat(self, requests: Sequence[Request]) -> list[Reply | Failed]:
        """Return a reply or a failure per request, in order.

        Raises Ended with the results so far at the budget, on Ctrl-C, and if the server no longer answers. Raises BadInput if no request
        can succeed (a wrong key, model or address).
        """
        if self.price is None and not self._said_unknown:
            self._said_unknown = True
            progress.say(f"the price of {self.model!r} is not known ({PRICES.name}): what it costs is not counted")
        if not requests:
            return []
        n_threads = min(self.concurrency, len(requests))
        batch = self._batch = _Batch(requests, n_threads)
        try:
            for _ in range(n_threads):
                threading.Thread(target=self._work, args=(batch,), daemon=True).start()
            while not batch.ended.wait(LOOK_SECONDS):
                pass
        except KeyboardInterrupt:
            self.stop()
            with contextlib.suppress(KeyboardInterrupt):  # a second Ctrl-C ends the wait
                batch.ended.wait(GRACE_SECONDS)
        return self._result(batch)

    @contextlib.contextmanager
    def keeping(self, path: Path) -> Iterator[None]:
        """Write every reply of the block to a file as it comes, and take from it what a killed command left. The block stores all replies,
        even if it raises Stopped; then the file is deleted.
        """
        self._replies = Replies(path, self.address, self.model)
        try:
            yield
        except BaseException as error:
            if isinstance(error, Stopped):
                self._replies.delete()
            raise
        else:
            self._replies.delete()
        finally:
            self._replies = None

    def stop(self) -> None:
        """Send nothing more; a `chat` under way raises Ended once pending requests are answered."""
        if self._batch:
            self._batch.stop(Stopped("interrupted; the same command again does the rest"))

    def _result(self, batch: _Batch) -> list[Reply | Failed]:
        error, replies = batch.error, list(batch.replies)
        if isinstance(error, Stopped) or (isinstance(error, BadInput) and any(isinstance(reply, Reply) for reply in replies)):
            raise Ended(str(error), replies) from error
        if error is not None:
            raise error
        return [reply for reply in replies if reply is not None]

    # -- one thread --------------------------------------------------------------------------------------------------------------

    def _work(self, batch: _Batch) -> None:
        """Send requests until none is left or the batch is stopped."""
        try:
            while not batch.stopping.is_set():
                index, request = batch.waiting.get_nowait()
                batch.replies[index] = kept = self._replies.take(request) if self._replies else None
                if kept is None:
                    batch.replies[index] = reply = self._answer(request, batch)
                    if self._replies and isinstance(reply, Reply):
                        self._replies.add(request, reply)
        except queue.Empty:
            pass
        except BaseException as error:  # a thread cannot raise to its caller
            batch.stop(error)
        finally:
            batch.leave()

    def _answer(self, request: Request, batch: _Batch) -> Reply | Failed | None:
        """Return the result of a request, or None if the batch stopped first. Its worst-case cost stays reserved throughout."""
        worst = self.worst(request)
        got: Reply | None = None
        tries, held = 0, 0.0
        try:
            while (n_left := request.n - (len(got.texts) if got else 0)) > 0:
                held = held or self._hold(worst * n_left, batch)
                self._wait_for_server(batch)
                if batch.stopping.is_set():
                    return None
                n = 1 if self._one_by_one else n_left
                part = self._once(replace(request, n=n, top_logprobs=0 if got else request.top_logprobs))
                if isinstance(part, Failed):
                    return part
                if isinstance(part, Reply):
                    self._one_by_one = self._one_by_one or len(part.texts) < n
                    got = part if got is None else joined(got, part)
                    n_left = max(0, request.n - len(got.texts))
                    held = self.book(part.cost or 0.0, held, keep=worst * n_left)
                    continue
                tries += 1
                held = self.budget.settle(held, unclear=worst * n if part.unclear else 0.0, keep=worst * n_left)
                if tries > self.retries:
                    return self._gave_up(part.reason, tries, batch)
                self._pause(part, tries, batch)
            assert got is not None
            return replace(got, texts=got.texts[: request.n], ended=got.ended[: request.n])
        finally:
            self.budget.settle(held)

    def book(self, cost: float, held: float = 0.0, keep: float = 0.0) -> float:
        """Count dollars as spent by this object; return what stays reserved (see Budget.settle)."""
        self._paid.append(cost)
        return self.budget.settle(held, cost, keep=keep)

    def _hold(self, cost: float, batch: _Batch) -> float:
        """Reserve and return `cost`; stop the batch if the budget has no room for it."""
        if self.budget.hold(cost, batch.stopping.is_set):
            return cost
        unclear = f", and up to ${self.budget.unclear:.4f} more for replies that were lost" if self.budget.unclear else ""
        batch.stop(
            Stopped(
                f"the budget of ${self.max_cost:g} is used up: ${self.budget.spent:.4f} spent{unclear}, and the next request to "
                f"{self.model!r} may cost ${cost:.6f}; raise --max-cost and run the same command again to go on"
            )
        )
        return 0.0

    def worst(self, request: Request) -> float:
        """Return the most dollars that one text can cost: no tokenizer makes more tokens than bytes."""
        n_input = sum(len(text.encode(errors="replace")) + FRAMING_TOKENS for _, text in request.messages)
        return self.price.of(n_input, request.max_tokens) if self.price else 0.0

    def _gave_up(self, reason: str, tries: int, batch: _Batch) -> Failed:
        """Return the failure of a request. If many fail in a row the server is gone, and the batch stops."""
        self._n_failed += 1
        if self._n_failed >= max(10, 2 * self.concurrency):
            batch.stop(
                Stopped(
                    f"{self.host} failed {self._n_failed} requests in a row (last: {reason}); run the same command again when it is back"
                )
            )
        return Failed(f"{reason} ({tries} attempts)")

    def _pause(self, again: _Again, tries: int, batch: _Batch) -> None:
        """Wait before a retry: as long as the server says, else twice as long each time, with jitter."""
        if again.after_seconds is None:
            seconds = min(self.backoff_seconds * 2 ** (tries - 1), LONGEST_BACKOFF_SECONDS)
            batch.stopping.wait(seconds * random.uniform(0.5, 1.0))
        else:
            pause = max(again.after_seconds, self.backoff_seconds)
            self._pause_until = max(self._pause_until, time.monotonic() + pause)

    def _wait_for_server(self, batch: _Batch) -> None:
        """Wait until the end of a pause that the server asked of any thread. Jitter spreads the requests after it."""
        if (seconds := self._pause_until - time.monotonic()) > 0:
            batch.stopping.wait(seconds + self.backoff_seconds * random.random())

    # -- one request -------------------------------------------------------------------------------------------------------------

    def _once(self, request: Request) -> Reply | Failed | _Again:
        """Return the outcome of one HTTP request. Raises BadInput if every request would fail like it."""
        import openai

        try:
            reply = self._completed(request)
        except openai.APIStatusError as error:
            return self._status(error)
        except openai.APITimeoutError:
            return _Again("no reply in time", unclear=True)
        except openai.APIConnectionError as error:
            reason = words_of(str(error.__cause__ or error), self._server.hidden)
            return _Again(f"the connection failed: {reason}", unclear=not _never_connected(error))
        except (ValueError, TypeError, AttributeError, LookupError, openai.APIError) as error:
            return _Again(f"the reply is not a chat completion: {words_of(str(error), self._server.hidden)}", unclear=True)
        self._answered, self._n_failed = True, 0
        texts = tuple(self._server.hidden(text, in_answer=True) for text in reply.texts)
        tops = reply.top_logprobs and tuple((self._server.hidden(token, in_answer=True), logprob) for token, logprob in reply.top_logprobs)
        return replace(reply, texts=texts, top_logprobs=tops, cost=self._cost(request, reply))

    def _completed(self, request: Request) -> Reply:
        """Return the reply to a request, sent without parameters that the server refuses (Dialect)."""
        import openai

        while True:
            sent = self.dialect.arguments(request, self.model)
            try:
                reply = reply_of(self._client.chat.completions.create(**sent), self._server.hidden)
            except openai.APIStatusError as error:
                if not self.dialect.learn(error, sent, self.host, words_of(error.body or error.message, self._server.hidden)):
                    raise
            else:
                self.dialect.accepted.update(sent)
                return reply

    def _cost(self, request: Request, reply: Reply) -> float | None:
        """Return the dollars of a reply, the worst case if tokens were not counted; None if the price is unknown."""
        if self.price is None:
            return None
        if reply.n_input is None or reply.n_output is None:
            return self.worst(request) * len(reply.texts)
        return self.price.of(reply.n_input, reply.n_output)

    def _status(self, error: Any) -> Failed | _Again:
        """Return whether an HTTP error calls for a retry or is a failure. Raises BadInput if every request would fail."""
        status, words = error.status_code, words_of(error.body or error.message, self._server.hidden)
        reason = f"{self.host} answered {status}: {words}"
        if error.code == "insufficient_quota" or status == 402:
            raise BadInput(f"{reason}; add credit to the account and run the same command again")
        if status in (408, 409, 429) or status >= 500:
            after = retry_after(error.response.headers)
            if after is not None and after > LONGEST_RETRY_AFTER_SECONDS:
                raise BadInput(f"{reason}; it asks for a pause of {after:,.0f} s: run the same command again after that")
            return _Again(reason, unclear=status in (408, 504, 524), after_seconds=after)  # a gateway gave up waiting
        if status in (400, 403, 413, 422) and (ONE_ONLY.search(words) or (self._answered and status != 403)):
            return Failed(reason)
        if status in (400, 413, 422):
            raise Refused(f"{reason}; the request cannot be served like this: check the model's name and the settings")
        if status in (401, 403):
            raise BadInput(f"{reason}; check OPENAI_API_KEY, and that it belongs to OPENAI_BASE_URL")
        raise BadInput(f"{reason}; check the model's name and OPENAI_BASE_URL (most end in /v1)")


def _never_connected(error: BaseException) -> bool:
    """Return whether a request certainly did not reach the server and cannot have been billed."""
    return type(error.__cause__).__name__ in ("ConnectError", "ConnectTimeout", "UnsupportedProtocol")
