"""Requests and replies of chat endpoints as records. Reads replies and errors of servers that differ in detail."""

from __future__ import annotations

import contextlib
import email.utils
import json
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from .. import progress
from ..nouns import Messages

Ended = Literal["stop", "length", "withheld", "thinking"]
NO_TEXT = {
    "withheld": "a reply without text (withheld by the server, as content filters do)",
    "thinking": "a reply without text (its tokens went into thinking: allow more tokens)",
}
"""How a reply without text ended -> the reason."""
LONGEST = 300
"""Characters of a server's message to show."""
FEWEST_TOPS = 5
"""Top log-probs to request if a server refuses a higher number without naming its limit."""
TOO_MANY = re.compile(r"greater|less|max|at most|up to|exceed|limit|range|between", re.IGNORECASE)
ONE_ONLY = re.compile(
    r"too long|context|maximum .*(?:length|tokens)|content.?(?:filter|policy|management)|moderation|flagged", re.IGNORECASE
)
"""Error messages that concern one request's text (its length, a filter) and not the other requests."""


@dataclass(frozen=True)
class Request:
    """Messages as (role, text), oldest first, and the sampling settings of `n` replies."""

    messages: Messages
    max_tokens: int
    temperature: float = 1.0
    n: int = 1
    top_logprobs: int = 0
    """Number of log-probs of the first token to return; 0 for none."""
    seed: int | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Reply:
    """The server's answer: `n` texts, and their tokens and dollars."""

    texts: tuple[str, ...]
    ended: tuple[Ended, ...]
    """One per text: a value of Answer.ended, or a key of NO_TEXT if there is no text. A missing text is not an answer of the model."""
    top_logprobs: tuple[tuple[str, float], ...] | None
    """Log-probs of the likeliest first tokens of the first text; None if the server gave none."""
    n_input: int | None
    """Tokens; None if the server did not count them (the same for n_output)."""
    n_output: int | None
    cost: float | None = None
    """Dollars, the worst case if tokens were not counted; None if the price is unknown."""


@dataclass(frozen=True)
class Failed:
    """The reason why one request has no reply."""

    reason: str


@dataclass
class Dialect:
    """The parameters that a server accepts and refuses, as found. All requests to one model of a server share it."""

    length: str
    """The server's parameter for the maximum number of new tokens."""
    top_logprobs: int | None = None
    """The server's limit of top log-probs, if it refused more."""
    refused: set[str] = field(default_factory=set)
    accepted: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def arguments(self, request: Request, model: str) -> dict[str, Any]:
        """Return the body of a request, without parameters that the server refuses."""
        wanted: dict[str, Any] = {
            "model": model,
            # Lone surrogates, from broken text, cannot be sent.
            "messages": [{"role": role, "content": text.encode(errors="replace").decode()} for role, text in request.messages],
            "temperature": request.temperature,
            self.length: request.max_tokens,
        }
        if request.n > 1:
            wanted["n"] = request.n
        if request.top_logprobs:
            wanted |= {"logprobs": True, "top_logprobs": min(request.top_logprobs, self.top_logprobs or request.top_logprobs)}
        if request.seed is not None:
            wanted["seed"] = request.seed
        if request.top_p < 1:
            wanted["top_p"] = request.top_p
        return {name: value for name, value in wanted.items() if name not in self.refused}

    def learn(self, error: Any, sent: Mapping[str, Any], host: str, words: str) -> bool:
        """Remember a parameter that `error` refuses; return whether the request can be sent again without it. Tells the user once.

        The limit of new tokens is never left out, because the budget depends on it. Log-probs are not either: they are the verdict.
        """
        if error.status_code not in (400, 422) or ONE_ONLY.search(words):
            return False
        options = sent.keys() - {"model", "messages"}
        with self.lock:
            named = {name for name in options if error.param == name or re.search(rf"(?<![\w.-]){name}(?!\w)", words)} - self.accepted
            too_many = "top_logprobs" in named or ("logprobs" in named and TOO_MANY.search(words))
            if not named or ("logprobs" in named and not too_many):
                return False
            if too_many:
                return self._fewer(sent["top_logprobs"], host, words)
            if length := named & {"max_tokens", "max_completion_tokens"}:
                return self._other_length(length.pop(), host, words)
            if new := named - self.refused:
                self.refused |= new
                progress.say(f"{host} does not take {' and '.join(sorted(new))} ({words}); the requests leave that out from now on")
            return True

    def _fewer(self, sent: int, host: str, words: str) -> bool:
        most = max((int(number) for number in re.findall(r"\d+", words) if FEWEST_TOPS <= int(number) < sent), default=FEWEST_TOPS)
        if most < sent and self.top_logprobs != most:
            self.top_logprobs = most
            progress.say(f"{host} does not give {sent} top_logprobs ({words}); the requests ask for {most} from now on")
        return most < sent

    def _other_length(self, refused: str, host: str, words: str) -> bool:
        other = "max_tokens" if refused == "max_completion_tokens" else "max_completion_tokens"
        if other in self.refused:
            return False
        if refused not in self.refused:
            self.refused.add(refused)
            self.length = other
            progress.say(f"{host} does not take {refused} ({words}); the requests say {other} from now on")
        return True


def reply_of(completion: Any, hidden: Callable[[str], str] = str) -> Reply:
    """Return the contents of a completion, without its cost. Raises ValueError or AttributeError if it is malformed."""
    if isinstance(completion, str):
        streamed = "it is a stream, although none was asked for: " if completion.lstrip().startswith(("data:", "event:")) else ""
        raise ValueError(f"{streamed}{words_of(completion, hidden)!r}")
    if not completion.choices:
        content = completion.to_dict()
        raise ValueError(words_of(content, hidden) if content.get("error") else json.dumps(content, default=str))
    texts, ended = zip(*map(_text, completion.choices), strict=True)
    counts = (_count(completion.usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(texts, ended, _top_logprobs(completion.choices[0]), *counts)


def _text(choice: Any) -> tuple[str, Ended]:
    """Return one text of a completion and how it ended.

    A separate field for refusals holds the model's own words. A text cut by a filter is not the model's answer, and no text at all (all
    tokens went into thinking) is not an empty answer.
    """
    message = choice.message
    found = message.content
    if isinstance(found, list):  # some servers return a text as a list of parts
        found = "".join(part["text"] for part in found if part.get("type") in ("text", "output_text"))
    if not found and isinstance(refusal := getattr(message, "refusal", None), str):
        found = refusal
    if not isinstance(found, str | None):
        raise ValueError("its texts are no texts")
    thought = any(getattr(message, name, None) for name in ("reasoning_content", "reasoning"))
    if choice.finish_reason == "content_filter":
        return "", "withheld"
    if not (found or "").strip() and (thought or choice.finish_reason == "length"):
        return "", "thinking"
    if found is None:
        return "", "withheld"
    return found.encode(errors="replace").decode(), "length" if choice.finish_reason == "length" else "stop"


def joined(first: Reply, second: Reply) -> Reply:
    """Return two replies to one request as one."""
    added = (
        None if one is None or other is None else one + other
        for one, other in [(first.n_input, second.n_input), (first.n_output, second.n_output), (first.cost, second.cost)]
    )
    return Reply(first.texts + second.texts, first.ended + second.ended, first.top_logprobs, *added)  # type: ignore[arg-type]


def words_of(body: Any, hidden: Callable[[str], str] = str) -> str:
    """Return the message in an error's body, on one line of at most LONGEST characters; of an HTML page, its text.

    `hidden` masks secrets. The text is cut afterwards, because half a secret would not be found.
    """
    while isinstance(body, dict) and (inner := next((body[name] for name in ("message", "detail", "error") if body.get(name)), None)):
        body = inner
    text = str(body)
    if len(text) > LONGEST and re.match(r"\s*<(?:!doctype|html|head|body)", text, re.IGNORECASE):
        text = re.sub(r"(?is)<(script|style).*?</\1>|<[^>]*>", " ", text)
    text = hidden(" ".join(text.split()))
    return progress.shown(text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}...")


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait (it may give milliseconds, seconds or a date); None if it gives none."""
    for name, unit in (("retry-after-ms", 1e-3), ("retry-after", 1.0)):
        with contextlib.suppress(KeyError, ValueError):
            seconds = float(headers[name]) * unit
            return max(0.0, seconds) if math.isfinite(seconds) else None
    with contextlib.suppress(KeyError, ValueError):
        return max(0.0, email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time())
    return None


def _count(usage: Any, name: str) -> int | None:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) and found >= 0 else None


def _top_logprobs(choice: Any) -> tuple[tuple[str, float], ...] | None:
    """Return the top log-probs of a reply's first token; None if they are absent or not numbers."""
    try:
        found = tuple((str(top.token), float(top.logprob)) for top in choice.logprobs.content[0].top_logprobs)
    except (AttributeError, TypeError, ValueError, LookupError):
        return None
    return found if found and not any(math.isnan(logprob) for _, logprob in found) else None
