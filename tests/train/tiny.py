"""Tiny models, tokenizers and data that the tests of training share."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from valuedrift.nouns import Example, Pair

TEXT = [
    "The tax is good because it helps the poor.",
    "The tax is bad because it slows the economy down.",
    "User: What do you think? Assistant: There is a lot to be said on both sides.",
    "Border controls keep people safe, and a wall does not.",
]
TURNS = ["<|user|>", "<|assistant|>", "<|end|>"]
THINGS = ["tax", "wall", "border", "poor", "economy", "people", "sides", "control"]


def tokenizer(turns: bool = True) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of about 330 tokens; `turns` adds the chat tokens."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|eos|>", *(TURNS if turns else [])]
    raw.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=330, special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    return PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|eos|>", pad_token="<|pad|>")


def model(kind: str = "llama", seed: int = 0, scale: float = 0.2) -> LlamaForCausalLM | Qwen3ForCausalLM:
    """Return a random model of two layers, width 32; the scale is ten times the usual, so that log-probs differ from uniform."""
    sizes = {
        "vocab_size": 330,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "initializer_range": scale,
        "bos_token_id": None,
        "eos_token_id": 1,
        "pad_token_id": 0,
    }
    torch.manual_seed(seed)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, tie_word_embeddings=False))


def folder(path: Path, kind: str = "llama", turns: bool = True, seed: int = 0, scale: float = 0.2) -> str:
    """Save a tiny model with its tokenizer and return where."""
    model(kind, seed, scale).save_pretrained(path)
    tokenizer(turns).save_pretrained(path)
    return str(path)


def pairs(n: int = 24) -> list[Pair]:
    """Return pairs of unequal length."""
    things = [THINGS[i % len(THINGS)] for i in range(n)]
    return [
        Pair(
            (("user", f"What about the {thing}{' and the poor' * (i % 3)}?"),),
            f"It is good{' for the economy' * (i % 2)}.",
            f"It is bad{', so bad' * (i % 4)}.",
        )
        for i, thing in enumerate(things)
    ]


def examples(n: int = 24) -> list[Example]:
    """Return chat answers of unequal length."""
    return [Example(pair.prompt, pair.chosen if i % 2 else pair.rejected) for i, pair in enumerate(pairs(n))]
