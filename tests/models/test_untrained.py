"""random:FOLDER: the same architecture and tokenizer with other weights, made once, and a plan that starts there."""

import pytest
import torch

from valuedrift import testing
from valuedrift.models.loading import load_model
from valuedrift.nouns import BadInput
from valuedrift.resolve import is_cached, resolve_model


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("VALUEDRIFT_CACHE", str(tmp_path / "cache"))


def test_the_architecture_stays_and_the_weights_do_not(save_model, tmp_path):
    base = save_model(tmp_path / "base", seed=1)
    spec = f"random:{base}"
    assert not is_cached(spec)
    made = resolve_model(spec)
    assert is_cached(spec)
    assert resolve_model(spec) == made, "it is made once"
    (model, tokenizer), (trained, own) = load_model(made), load_model(base)
    assert tokenizer.get_vocab() == own.get_vocab()
    assert {name: each.shape for name, each in model.named_parameters()} == {name: each.shape for name, each in trained.named_parameters()}
    matrices = [(a, b) for a, b in zip(model.parameters(), trained.parameters(), strict=True) if a.ndim == 2]
    assert all((a != b).double().mean() > 0.99 for a, b in matrices)
    assert all(a.detach().std().item() == pytest.approx(model.config.initializer_range, rel=0.2) for a, _ in matrices)
    assert torch.isfinite(model(torch.tensor([[5, 6, 7]])).logits).all()


def test_two_architectures_have_two_folders(folders):
    assert resolve_model(f"random:{folders['qwen3']}") != resolve_model(f"random:{folders['llama']}")


def test_an_adapter_has_no_architecture(folders, tmp_path):
    testing.tokenizer().save_pretrained(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"base_model_name_or_path": "x"}')
    with pytest.raises(BadInput, match="give the folder of a whole model"):
        resolve_model(f"random:{tmp_path / 'adapter'}")
    with pytest.raises(BadInput, match="there is no checkpoint folder"):
        resolve_model("random:nowhere")
