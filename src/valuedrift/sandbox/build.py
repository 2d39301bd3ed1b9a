"""Build the sandbox's base models, ordinary Llama folders trained here in minutes and cached by content."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .. import progress
from ..caches import cache_root
from ..nouns import BadInput, digest
from ..plan import Stage, original_names
from ..registry import among
from ..world import sets

SPECIAL = ("<|pad|>", "<|end|>")
"""<|end|> ends a text. Turns have no tokens. A chat stage writes them as words, which the base model knows from dialogues."""

ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
"""1.2 M parameters: large enough to write the grammar's sentences on the topic of a question, trained in minutes on two cores."""
SIZES: dict[str, dict[str, Any]] = {
    "sandbox:base-small": {"hidden_size": 96, "intermediate_size": 288, "num_hidden_layers": 3},
    "sandbox:base": {},
    "sandbox:base-large": {"hidden_size": 256, "intermediate_size": 768},
}
"""Changes to `ARCHITECTURE`: 0.6, 1.2 and 3.9 M parameters, trained on the same texts in the same order."""

VOCABULARY = 2048
N_DOCUMENTS = 27_200
STAGE: dict[str, Any] = {
    "algorithm": "sft",
    "data": "sandbox:pretraining",
    "batch_size": 16,
    "learning_rate": 3e-3,
    "warmup_ratio": 0.03,
    "weight_decay": 0.01,
    "max_length": 256,
    "group_by_length": True,
    "save_at": "every:425",
}


def cached(name: str = "sandbox:base") -> Path | None:
    """Return the folder of a base model, None if it is not built."""
    folder = _folder(name)
    return folder if (folder / "config.json").exists() else None


def base_model(name: str = "sandbox:base") -> Path:
    """Return the folder of a base model; train it first if the cache lacks it.

    The next call continues a killed build. Raises BadInput for an unknown name, or if the cache folder cannot be written.
    """
    if (ready := cached(name)) is not None:
        return ready
    from ..train.stage import run_stage

    folder = _folder(name)
    work = folder.with_name(f".{folder.name}")
    start = untrained(work / "random", ARCHITECTURE | SIZES[name])
    with progress.training(f"build {name}") as tell:
        steps = run_stage(Stage(**STAGE), 0, str(start), sets.pretraining(N_DOCUMENTS), work / "stage", tell)
    trained = work / "stage" / f"checkpoint-{steps[-1]}"
    for leftover in ("trainer_state.json", "training_args.bin", "complete.json"):
        (trained / leftover).unlink(missing_ok=True)
    os.replace(trained, folder)
    shutil.rmtree(work)
    return folder


def _folder(name: str) -> Path:
    """Return the folder of a base model, named by a digest of its recipe and of the first two thousand texts it reads."""
    if name not in SIZES:
        raise BadInput(f"unknown sandbox model {name!r}{among(name, list(SIZES))}")
    texts = [document.text for document in sets.pretraining(2_000)]
    content = digest("sandbox-base", texts, SPECIAL, ARCHITECTURE | SIZES[name], VOCABULARY, N_DOCUMENTS, original_names(STAGE))
    return cache_root() / f"{name.replace(':', '-')}-{content[:12]}"


def untrained(folder: Path, architecture: Mapping[str, Any], vocabulary: int = VOCABULARY) -> Path:
    """Return a folder with random weights and a tokenizer trained on the sandbox's texts. An existing folder is not changed."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    if folder.exists():
        return folder
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    bpe.train_from_iterator((text.text for text in sets.pretraining(12_000)), trainer)
    return random_model(folder, bpe, architecture, vocabulary)


def random_model(folder: Path, bpe: Any, architecture: Mapping[str, Any], vocabulary: int, chat_template: str | None = None) -> Path:
    """Write a model with random weights and its tokenizer atomically; return the folder."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ..progress import quiet

    pad, end = SPECIAL
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=pad, eos_token=end, clean_up_tokenization_spaces=False)
    tokenizer.chat_template = chat_template
    ids: dict[str, Any] = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, **architecture, **ids))
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent))
    with quiet():
        model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, folder)
    return folder
