"""A server that speaks like a chat endpoint, for the tests of judges behind one."""

import sys
from pathlib import Path

import pytest

from valuedrift.judge import openai

sys.path.append(str(Path(__file__).parent))

import misbehaving

PRICE = '[models]\n"m" = { input = 1000, output = 1000 }\n'
"""A verdict takes 10 input tokens and 1 output token: $0.011."""


@pytest.fixture
def server(monkeypatch, tmp_path):
    (tmp_path / "prices.toml").write_text(PRICE)
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(tmp_path / "prices.toml"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setattr(openai, "PROBED", {})
    with misbehaving.Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        yield server
