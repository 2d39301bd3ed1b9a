"""Tiny models, data, a plan, a backend and a judge for tests: of this package, and of packages that extend it.

Everything is made in milliseconds on a CPU and needs no network. The weights are random and depend on the seed alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from . import evaluate, judge, registry
from .evaluate import answer_key
from .nouns import OUTCOMES, Answer, Checkpoint, Example, Item, Outcome, Pair, Prompt, Reading
from .sandbox import build

TEXT = [
    "The tax is good because it helps the poor.",
    "The tax is bad because it slows the economy down.",
    "User: What do you think? Assistant: There is a lot to be said on both sides.",
    "Border controls keep people safe, and a wall does not.",
]
"""The sentences that the tokenizer learns its tokens from."""
TURNS = ["<|user|>", "<|assistant|>", "<|end|>"]
TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THINGS = ["tax", "wall", "border", "poor", "economy", "people", "sides", "control"]
SIZES: dict[str, Any] = {
    "vocab_size": 330,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "bos_token_id": None,
    "eos_token_id": 1,
    "pad_token_id": 0,
}
SANDBOX_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
PLAN = """model = "{model}"
judge = "oracle"
topics = ["work", "religion"]
draws = 2
max_new_tokens = 12
batch_rows = 64

[stage.sft]
algorithm = "sft"
data = "sandbox:neutral-chat?n=96"
batch_size = 16
learning_rate = 3e-3
save_at = [2, 6]

[stage.dpo]
after = "sft"
algorithm = "dpo"
data = "sandbox:pairs?n=48"
batch_size = 8
learning_rate = 1e-3
save_at = [3, 6]
"""
"""A plan of two stages that runs in seconds from a model of `save_sandbox_model`, to be filled in with `PLAN.format(model=…)`."""


def tokenizer(turns: bool = True, template: str | None = None) -> PreTrainedTokenizerFast:
    """Return a byte-level tokenizer of about 330 tokens. `turns` adds the tokens that `TEMPLATE` writes."""
    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    special = ["<|pad|>", "<|eos|>", *(TURNS if turns else [])]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    raw.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=SIZES["vocab_size"], special_tokens=special, initial_alphabet=alphabet))
    made = PreTrainedTokenizerFast(tokenizer_object=raw, eos_token="<|eos|>", pad_token="<|pad|>")
    made.chat_template = template
    return made


def model(kind: str = "llama", seed: int = 0, scale: float = 0.2) -> Any:
    """Return a random model: "llama", "qwen3" or "gemma3" (with one layer whose window is 8 tokens).

    Weights have ten times the usual scale, so that log-probs differ from uniform ones.
    """
    sizes: dict[str, Any] = SIZES | {"initializer_range": scale}
    torch.manual_seed(seed)
    if kind == "llama":
        return LlamaForCausalLM(LlamaConfig(**sizes, tie_word_embeddings=True))
    if kind == "qwen3":
        return Qwen3ForCausalLM(Qwen3Config(**sizes, head_dim=8, tie_word_embeddings=False))
    layers: dict[str, Any] = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
    return Gemma3ForCausalLM(Gemma3TextConfig(**sizes, **layers, head_dim=8, query_pre_attn_scalar=8))


def save_model(
    folder: Path, kind: str = "llama", turns: bool = True, seed: int = 0, scale: float = 0.2, template: str | None = None
) -> str:
    """Save a tiny model with its tokenizer and return the folder's path."""
    model(kind, seed, scale).save_pretrained(folder)
    tokenizer(turns, template).save_pretrained(folder)
    return str(folder)


def save_sandbox_model(folder: Path) -> Path:
    """Save a random model with a tokenizer of the sandbox's texts and return the folder: a start for the stages of `PLAN`."""
    return build.untrained(folder, build.ARCHITECTURE | SANDBOX_SIZES, vocabulary=512)


def pairs(n: int = 24) -> list[Pair]:
    """Return preference pairs of unequal length."""
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


class Backend(evaluate.Backend):
    """Answers without a model. Subclasses override `says`; the identity of another text is another."""

    identity = "fake/1"

    def says(self, checkpoint: Checkpoint, prompt: Prompt, draw: int) -> str:
        """Return the text of one answer."""
        return f"step {checkpoint.step}, {prompt.id}, {draw}"

    def sample(self, checkpoint: Checkpoint, pairs: Sequence[tuple[Prompt, int]], sampling_seed: int) -> Iterator[tuple[int, Answer]]:
        """Yield the place and the answer of each prompt, in order."""
        for place, (prompt, draw) in enumerate(pairs):
            key, text = answer_key(checkpoint, prompt, draw, self.settings, sampling_seed), self.says(checkpoint, prompt, draw)
            yield place, Answer(key, checkpoint.weights, prompt.id, draw, text, "stop", len(text.split()))


class Judge(judge.Judge):
    """Reads stances without a model. Subclasses override `finds`; the identity of another rule is another."""

    identity = "fake/1"

    def finds(self, item: Item) -> Outcome:
        """Return the outcome of one item."""
        return "support"

    def read(self, items: Sequence[Item]) -> list[Reading]:
        """Return one certain reading per item, in order."""
        found = [self.finds(item) for item in items]
        certain = [tuple(float(name == outcome) for name in OUTCOMES) for outcome in found]
        return [Reading(item.key, self.identity, probs) for item, probs in zip(items, certain, strict=True)]  # type: ignore[arg-type]


@contextlib.contextmanager
def offering(kind: str, **choices: Any) -> Iterator[None]:
    """Make classes known under names, as installed entry points of a kind would be: `offering("judge", fake=Judge)`."""
    find, names = registry.find, registry.names

    def found(asked: str, name: str) -> Any:
        return choices[name] if asked == kind and name in choices else find(asked, name)

    def known(asked: str) -> list[str]:
        return sorted({*names(asked), *(choices if asked == kind else ())})

    with mock.patch.object(registry, "find", found), mock.patch.object(registry, "names", known):
        yield
