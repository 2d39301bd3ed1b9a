"""Tiny random models, one folder each, written by save_pretrained as any trainer would; a chat server that misbehaves; its prices."""

import sys
from pathlib import Path

import pytest
import torch

from valuedrift import testing

sys.path.append(str(Path(__file__).parents[1] / "judge"))

import misbehaving


def save(folder: Path, kind: str = "qwen3", template: str | None = None, seed: int = 0, end_bias: float = 1.0) -> Path:
    """Save a random model; `end_bias` scales the weights of the end token's logit so that answers end at spread lengths."""
    model = testing.model(kind, seed)
    with torch.no_grad():
        model.get_output_embeddings().weight[1] *= end_bias
    model.save_pretrained(folder)
    testing.tokenizer(template=template).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of three architectures; every row's end is likelier than that of another token, so lengths are ragged."""
    root = tmp_path_factory.mktemp("models")
    return {kind: save(root / kind, kind, end_bias=bias) for kind, bias in {"llama": 2.5, "qwen3": 3.0, "gemma3": 2.0}.items()}


@pytest.fixture(scope="session")
def save_model():
    """The function `save` above."""
    return save


@pytest.fixture(scope="session")
def template():
    return testing.TEMPLATE


@pytest.fixture(scope="session")
def make_tokenizer():
    """Return a function from a chat template to a tokenizer."""
    return lambda template=None: testing.tokenizer(template=template)


@pytest.fixture
def server(monkeypatch):
    """A server that the environment names, without a key."""
    with misbehaving.Server() as server:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("OPENAI_API_KEY", "VALUEDRIFT_PRICES"):
            monkeypatch.delenv(name, raising=False)
        yield server


@pytest.fixture
def prices(server, tmp_path, monkeypatch):
    """A price table, named in the environment, with the models "m" and "late" at $1000 per million tokens, in and out."""
    path = tmp_path / "prices.toml"
    path.write_text("[models]\n" + "".join(f'"{name}" = {{ input = 1000, output = 1000 }}\n' for name in ("m", "late")))
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(path))


@pytest.fixture
def made():
    """Return a function that makes an endpoint of the model "m", which hardly waits before a retry."""
    from valuedrift.models.endpoint import Endpoint

    def make(**settings):
        endpoint = Endpoint("m", **settings)
        endpoint.backoff_seconds = 0.005
        return endpoint

    return make
