"""A stage's start: weights, tokenizer and chat template."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model

from ..models import loading
from ..models.adapters import is_adapter
from ..nouns import BadInput
from ..plan import Lora, Stage
from . import saved_stage

TEMPLATES = Path(__file__).parent
TURN_TOKENS = ("<|user|>", "<|assistant|>", "<|end|>")
DTYPES = {"auto": torch.float32, "float32": torch.float32, "bfloat16": torch.bfloat16}
"""auto trains float32 weights, with bfloat16 autocast if the device supports it."""


def load_tokenizer(model_path: str, chat: bool) -> Any:
    """Return the model's tokenizer. For a `chat` without a template it gets the default one for its vocabulary."""
    return templated(loading.load_tokenizer(model_path), model_path, chat)


def templated(tokenizer: Any, model_path: str, chat: bool) -> Any:
    """Return the tokenizer. For a `chat` without a template it gets the default one for its vocabulary."""
    if chat and not tokenizer.chat_template:
        known = tokenizer.get_vocab()
        name = "chat_template.jinja" if all(token in known for token in TURN_TOKENS) else "chat_template_words.jinja"
        if name == "chat_template_words.jinja" and tokenizer.eos_token is None:
            raise BadInput(f"the tokenizer of {model_path} has no end-of-text token, so answers would never end; give it an eos_token")
        tokenizer.chat_template = (TEMPLATES / name).read_text()
    return tokenizer


def load_model(model_path: str, stage: Stage, tokenizer: Any) -> Any:
    """Return the model to train, with the stage's adapter if it has one. Its generation stops where the template ends a turn."""
    model = loading.load_to_train(model_path, DTYPES[stage.dtype])
    if (end := _end_of_turn(tokenizer)) is not None:
        ends = model.generation_config.eos_token_id
        known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
        model.generation_config.eos_token_id = sorted({*known, end})
    return model if stage.lora is None else adapted(model, stage.lora, "CAUSAL_LM")


def load_scorer(model_path: str, stage: Stage, pad: int) -> Any:
    """Return the model to train as a scorer: with a new layer of one output, read at the last token that is not `pad`."""
    model = loading.load_to_train(model_path, DTYPES[stage.dtype], n_scores=1)
    model.config.get_text_config().pad_token_id = pad
    return model if stage.lora is None else adapted(model, stage.lora, "SEQ_CLS")


def padding(tokenizer: Any, last_tokens: set[int]) -> int:
    """Return the tokenizer's padding token, and set one if it has none.

    A scorer reads the last token that is not padding, so that no text may end with the padding token.
    """
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id in last_tokens:
        free = next(index for index in range(len(tokenizer)) if index not in last_tokens)
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(free)
    return tokenizer.pad_token_id


def merged(model_path: str, out: Path) -> str:
    """Return a local folder of full weights. An adapter is merged into its base, once, as `out`/start."""
    folder = loading.local_folder(model_path)
    if not is_adapter(folder):
        return str(folder.resolve())
    start = out / "start"
    if not (start.exists() and saved_stage.is_whole(start)):
        shutil.rmtree(start, ignore_errors=True)
        unfinished = out / ".start"
        shutil.rmtree(unfinished, ignore_errors=True)
        model, tokenizer = loading.load_model(folder, "cpu", dtype="float32")
        with saved_stage.whole(unfinished):
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
        saved_stage.seal(unfinished)
        os.replace(unfinished, start)
    return str(start.resolve())


def adapted(model: Any, lora: Lora, task: str, **options: Any) -> Any:
    """Return the model with a new adapter. Raises BadInput if the model lacks the adapter's modules."""
    try:
        return get_peft_model(model, adapter(lora, task), **options)
    except (ValueError, TypeError, re.error) as error:
        raise BadInput(f"no adapter fits the model: {str(error).rstrip('.')}; correct lora.target_modules") from error


def adapter(lora: Lora, task: str) -> LoraConfig:
    """Return peft's description of a plan's adapter."""
    return LoraConfig(task_type=task, **lora.model_dump())


def _end_of_turn(tokenizer: Any) -> int | None:
    end = TURN_TOKENS[2]
    return tokenizer.convert_tokens_to_ids(end) if tokenizer.chat_template and end in tokenizer.chat_template else None
