"""Tiny random models, one folder each, written by save_pretrained as any trainer would."""

from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoModelForCausalLM, Gemma3TextConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerFast, Qwen3Config

SENTENCES = [
    "Question: Should the state raise taxes on fuel?\nAnswer: I think it should, because the climate cannot wait.",
    "Question: Is strict punishment right?\nAnswer: No. I would rather see people helped: that is what works.",
    "Should parents decide how their children are taught? It depends on the family, and on the school.",
]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def build_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<s>", "</s>", "<pad>", "<|user|>", "<|assistant|>", "<|end|>"]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    core.train_from_iterator(SENTENCES, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.add_special_tokens({"additional_special_tokens": special[3:]})
    tokenizer.chat_template = template
    return tokenizer


def make_config(kind: str, vocab: int) -> PreTrainedConfig:
    sizes = {"vocab_size": vocab, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.2}
    if kind == "qwen3":
        return Qwen3Config(**sizes, **ends, num_key_value_heads=2, head_dim=16)
    if kind == "gemma3":  # one layer sees 8 positions only
        layers = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
        return Gemma3TextConfig(**sizes, **ends, **layers, num_key_value_heads=2, head_dim=16, query_pre_attn_scalar=16)
    return LlamaConfig(**sizes, **ends, num_key_value_heads=4)


def save(folder: Path, kind: str = "llama", template: str | None = None, seed: int = 0, end_bias: float = 0.0) -> Path:
    """Save a random model; `end_bias` scales the weights of the end token's logit so that answers end at spread lengths."""
    tokenizer = build_tokenizer(template)
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(make_config(kind, len(tokenizer)))
    with torch.no_grad():
        model.lm_head.weight[1] *= end_bias or 1.0
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of three architectures; every row's end is likelier than that of another token, so lengths are ragged."""
    root = tmp_path_factory.mktemp("models")
    return {kind: save(root / kind, kind, end_bias=3.0) for kind in ("llama", "qwen3", "gemma3")}


@pytest.fixture(scope="session")
def save_model():
    """The function `save` above."""
    return save


@pytest.fixture(scope="session")
def template():
    return TEMPLATE


@pytest.fixture(scope="session")
def make_tokenizer():
    """The function `build_tokenizer` above."""
    return build_tokenizer
