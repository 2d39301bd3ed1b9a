"""What goes to a chat endpoint and what comes back, as records; reading replies and errors of servers that differ in the details."""

from __future__ import annotations

import email.utils
import json
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Ended = Literal["stop", "length", "withheld"]


@dataclass(frozen=True)
class Request:
    """What is asked: messages as (role, text), oldest first, and how to sample `n` replies."""

    messages: tuple[tuple[str, str], ...]
    max_tokens: int
    temperature: float = 1.0
    n: int = 1
    top_logprobs: int = 0
    """How many of the likeliest first tokens to return; 0 asks for none."""
    seed: int | None = None
    top_p: float = 1.0


@dataclass(frozen=True)
class Reply:
    """What the server answered: `n` texts, and the tokens and dollars they took."""

    texts: tuple[str, ...]
    ended: tuple[Ended, ...]
    """One per text, as in Answer, or "withheld": the server gave no text, which says nothing about the model's."""
    top_logprobs: tuple[tuple[str, float], ...] | None
    """Log-probs of the likeliest first tokens of the first text; None where the server gave none."""
    n_input: int | None
    """Tokens; None where the server did not count them, as in n_output."""
    n_output: int | None
    cost: float | None = None
    """Dollars, at worst where the tokens were not counted; None where the model's price is not known."""


@dataclass(frozen=True)
class Failed:
    """Why one request has no reply."""

    reason: str


def arguments(request: Request, model: str, length: str) -> dict[str, Any]:
    """Return the body of a request; `length` is the server's name for the most tokens of a reply."""
    found: dict[str, Any] = {
        "model": model,
        # Lone surrogates, which broken text can hold, cannot be sent.
        "messages": [{"role": role, "content": text.encode(errors="replace").decode()} for role, text in request.messages],
        "temperature": request.temperature,
        length: request.max_tokens,
    }
    if request.n > 1:
        found["n"] = request.n
    if request.top_logprobs:
        found |= {"logprobs": True, "top_logprobs": request.top_logprobs}
    if request.seed is not None:
        found["seed"] = request.seed
    if request.top_p < 1:
        found["top_p"] = request.top_p
    return found


def reply_of(completion: Any) -> Reply:
    """Return what a completion holds, without its cost. Raises ValueError or AttributeError where it is none: nothing is taken on trust."""
    if isinstance(completion, str):
        raise ValueError(repr(completion[:80]))
    if not completion.choices:
        raise ValueError(json.dumps(completion.to_dict(), default=str))
    texts, ended = zip(*map(_text, completion.choices), strict=True)
    counts = (_count(completion.usage, name) for name in ("prompt_tokens", "completion_tokens"))
    return Reply(texts, ended, _top_logprobs(completion.choices[0]), *counts)


def _text(choice: Any) -> tuple[str, Ended]:
    """Return one text of a completion and how it ended.

    A field of its own for refusals holds the model's own words. A filter's cut text is not what the model said, and no text at all (all
    tokens went into reasoning) is no empty answer.
    """
    found = choice.message.content
    if not found and isinstance(refusal := getattr(choice.message, "refusal", None), str):
        found = refusal
    if not isinstance(found, str | None):
        raise ValueError("its texts are no texts")
    if choice.finish_reason == "content_filter" or found is None:
        return "", "withheld"
    if choice.finish_reason == "length":
        return found, "length" if found.strip() else "withheld"
    return found, "stop"


def joined(first: Reply, second: Reply) -> Reply:
    """Return two replies to one request as one."""
    added = (
        None if one is None or other is None else one + other
        for one, other in [(first.n_input, second.n_input), (first.n_output, second.n_output), (first.cost, second.cost)]
    )
    return Reply(first.texts + second.texts, first.ended + second.ended, first.top_logprobs, *added)  # type: ignore[arg-type]


def said(error: Any) -> str:
    """Return what a server said with an HTTP error, in one line."""
    body = error.body
    for name in ("message", "detail", "error"):
        if isinstance(body, dict) and body.get(name):
            return short(str(body[name]))
    return short(str(body or error.message))


def short(text: str) -> str:
    """Return a text in one line of at most 300 characters."""
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that a server asks to wait: milliseconds, seconds or a date; None where it says nothing readable."""
    if "retry-after-ms" in headers:
        seconds = _number(headers["retry-after-ms"]) / 1000
    else:
        seconds = _number(headers.get("retry-after", ""))
    if math.isnan(seconds):
        try:
            seconds = email.utils.parsedate_to_datetime(headers["retry-after"]).timestamp() - time.time()
        except (KeyError, ValueError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _count(usage: Any, name: str) -> int | None:
    found = getattr(usage, name, None)
    return found if isinstance(found, int) and found >= 0 else None


def _top_logprobs(choice: Any) -> tuple[tuple[str, float], ...] | None:
    """Return the likeliest first tokens of a reply with their log-probs; None where they are not there or are no numbers."""
    try:
        found = tuple((str(top.token), float(top.logprob)) for top in choice.logprobs.content[0].top_logprobs)
    except (AttributeError, TypeError, ValueError, LookupError):
        return None
    return found if found and not any(math.isnan(logprob) for _, logprob in found) else None
