"""The server that the environment names: its address and key. Secrets are never printed or stored."""

from __future__ import annotations

import base64
import os
import re
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlsplit

from ..nouns import BadInput

DEFAULT_URL = "https://api.openai.com/v1"
NO_KEY = "none"
"""The key for servers that need none."""
SHORTEST, SHORTEST_IN_ANSWER = 4, 8
"""Minimum length of a secret to mask in a server's message and in a model's answer; shorter ones may be ordinary words."""
LIKE_A_KEY = re.compile(r"\bsk-[\w-]{16,}")


@dataclass(frozen=True)
class Server:
    """The server that the environment names."""

    address: str
    """The base URL without user, password and query, which may be secrets."""
    host: str
    """With its port."""
    query: dict[str, str] = field(repr=False)
    key: str = field(repr=False)
    login: str = field(repr=False)
    """The authorization header for user and password; empty without them."""
    secrets: tuple[str, ...] = field(repr=False)

    @property
    def is_here(self) -> bool:
        """Return whether the server runs on this machine."""
        name = urlsplit(self.address).hostname or ""
        return name in ("localhost", "0.0.0.0", "::1") or bool(re.fullmatch(r"127(\.\d+){3}", name))

    def hidden(self, words: str, in_answer: bool = False) -> str:
        """Return a text from the server with *** for secrets, which a server or a proxy may repeat."""
        for secret in self.secrets:
            if len(secret) >= (SHORTEST_IN_ANSWER if in_answer else SHORTEST):
                words = words.replace(secret, "***")
        return words if in_answer else LIKE_A_KEY.sub("***", words)


def address() -> str:
    """Return the server's base URL, without secrets."""
    return server().address


def server() -> Server:
    """Return the server. Raises BadInput for a wrong address, without printing what may be a password."""
    url, key = (os.environ.get("OPENAI_BASE_URL") or DEFAULT_URL).rstrip("/"), os.environ.get("OPENAI_API_KEY") or ""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = SplitResult("", "", "", "", ""), None, None
    if not host or parts.scheme not in ("http", "https"):
        safe = re.sub(r"^(.*://)?.*@|\?.*$", r"\1", url)
        raise BadInput(f"OPENAI_BASE_URL={safe!r} is not an address; write http://HOST:PORT/v1 or https://HOST/v1")
    host = f"[{host}]" if ":" in host else host
    at, query = f"{host}:{port}" if port else host, dict(parse_qsl(parts.query))
    user, password = (unquote(part or "") for part in (parts.username, parts.password))
    login = base64.b64encode(f"{user}:{password}".encode()).decode() if user or password else ""
    found = {key, password or user, login, *query.values()}
    found |= {quote(word, safe="") for word in found}
    secrets = tuple(sorted(found - {"", NO_KEY}, key=len, reverse=True))  # one may hold another
    return Server(f"{parts.scheme}://{at}{parts.path.rstrip('/')}", at, query, key, f"Basic {login}" if login else "", secrets)


def client(where: Server, timeout_seconds: float) -> Any:
    """Return openai's client without its own retries: each may be billed, and only ours count against the budget."""
    try:
        import openai
    except ImportError as error:
        raise BadInput("an endpoint needs the package openai; install it with: pip install 'valuedrift[openai]'") from error
    if not where.key and where.address == DEFAULT_URL:
        raise BadInput("OPENAI_API_KEY is not set; set it, or set OPENAI_BASE_URL to a server of your own, which needs no key")
    return openai.OpenAI(
        api_key=where.key or NO_KEY,
        base_url=where.address,
        default_query=where.query,
        default_headers={"Authorization": where.login} if where.login else {},
        timeout=timeout_seconds,
        max_retries=0,
    )
