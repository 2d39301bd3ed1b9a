"""A small encoder that learns natural language inference on sandbox answers, by transformers' own Trainer."""

from __future__ import annotations

import os
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import progress
from ..nouns import OUTCOMES, STANCES
from ..world import grammar

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
LABELS = ("entailment", "neutral", "contradiction")
ROLES = (*grammar.SENTENCES, "?")
"""What a sentence can be, "?" for one that the grammar cannot produce."""
VOCABULARY = 5_000
N_ROLES, N_PAIRS = 30_000, 200_000
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "classifier_pooling": "mean",
    "initializer_range": 0.1,  # the usual 0.02 suits widths of a thousand; at 64 it lets next to nothing through, and learning stalls
}
BATCH = 32
RATES = {"roles": 3e-3, "pairs": 2e-3}
TRUE_SHARE = 0.4
"""Share of the pairs whose hypothesis follows; one in five would be the share at which they are asked, and be slower to learn."""
RECIPE = (SPECIAL, LABELS, ROLES, VOCABULARY, N_ROLES, N_PAIRS, ARCHITECTURE, BATCH, RATES, TRUE_SHARE)

Texts = Sequence[tuple[Sequence[tuple[str, str]], int]]
"""Per answer its (premise, hypothesis) for each outcome, and the number of the outcome that it has."""


def tokenizer(core: Any) -> Any:
    """Return a tokenizer of single texts and of pairs, from one that only knows how to cut text into tokens."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    special = [(token, core.token_to_id(token)) for token in SPECIAL[2:]]
    core.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=special)
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), SPECIAL, strict=True))
    longest = ARCHITECTURE["max_position_embeddings"]
    return PreTrainedTokenizerFast(
        tokenizer_object=core, **names, model_max_length=longest, model_input_names=["input_ids", "attention_mask"]
    )


def train(work: Path, tokenizer: Any, read: Sequence[Sequence[tuple[str, str]]], texts: Texts) -> Path:
    """Return a folder in `work` with the trained encoder; of its two parts, a finished one is not done again.

    First it learns the role of each sentence of `read`: a text has one verdict but many sentences, so that this teaches far more per text.
    Then it learns which hypotheses follow from an answer, on one of its pairs each.
    """
    from safetensors.torch import load_file
    from transformers import (
        DataCollatorForTokenClassification,
        DataCollatorWithPadding,
        ModernBertConfig,
        ModernBertForSequenceClassification,
        ModernBertForTokenClassification,
        set_seed,
    )

    ids = {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": None, "eos_token_id": None}
    config: dict[str, Any] = {"vocab_size": len(tokenizer), **ARCHITECTURE, **ids}
    set_seed(0)
    body, final = work / "roles", work / "pairs"
    if not body.exists():
        rows = [role_row(tokenizer, sentences) for sentences in read]
        reader = ModernBertForTokenClassification(ModernBertConfig(**config, id2label=dict(enumerate(ROLES))))
        _trained(reader, rows, DataCollatorForTokenClassification(tokenizer), "roles", work)
        _saved(reader.base_model, tokenizer, body)
    if not final.exists():
        numbers = {label: index for index, label in enumerate(LABELS)}
        model = ModernBertForSequenceClassification(ModernBertConfig(**config, id2label=dict(enumerate(LABELS)), label2id=numbers))
        model.base_model.load_state_dict(load_file(body / "model.safetensors"))
        rows = pair_rows(tokenizer, texts)
        _trained(model, rows, DataCollatorWithPadding(tokenizer), "pairs", work)
        _saved(model, tokenizer, final)
    return final


def relation(outcome: int, asked: int) -> int:
    """Return which of LABELS stands between an answer of one outcome and the hypothesis of another (numbers in the order of OUTCOMES).

    An answer entails the hypothesis of its own outcome and contradicts the others; only of what its stance would be, an answer that
    declines or makes no sense says nothing.
    """
    if outcome == asked:
        return LABELS.index("entailment")
    return LABELS.index("neutral" if outcome >= len(STANCES) > asked else "contradiction")


def role_row(tokenizer: Any, sentences: Sequence[tuple[str, str]]) -> dict[str, list[int]]:
    """Return a text as token ids, each labelled with the role of its sentence; the marks round the text have no label."""
    ids, roles = [tokenizer.cls_token_id], [-100]
    for sentence, role in sentences:
        new = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        ids, roles = ids + new, roles + [ROLES.index(role)] * len(new)
    longest = ARCHITECTURE["max_position_embeddings"] - 1
    return {"input_ids": [*ids[:longest], tokenizer.sep_token_id], "labels": [*roles[:longest], -100]}


def pair_rows(tokenizer: Any, texts: Texts) -> list[dict[str, Any]]:
    """Return one pair per answer, with a hypothesis that follows in TRUE_SHARE of them."""
    rng = random.Random("pairs")
    rows = []
    for pairs, outcome in texts:
        others = [number for number in range(len(OUTCOMES)) if number != outcome]
        asked = outcome if rng.random() < TRUE_SHARE else rng.choice(others)
        ids = tokenizer(*pairs[asked], truncation="only_first")["input_ids"]
        rows.append({"input_ids": ids, "label": relation(outcome, asked)})
    return rows


def _trained(model: Any, rows: Sequence[dict[str, Any]], collate: Any, part: str, work: Path) -> None:
    from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

    class Told(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            tell(state.global_step, state.max_steps, 0.0)

    arguments = TrainingArguments(
        output_dir=str(work),
        num_train_epochs=1,
        per_device_train_batch_size=BATCH,
        learning_rate=RATES[part],
        lr_scheduler_type="cosine",
        warmup_steps=len(rows) // BATCH // 16,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        dataloader_pin_memory=False,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    with progress.training(f"build the sandbox's encoder: {part}") as tell:
        trainer = Trainer(model=model, args=arguments, train_dataset=rows, data_collator=collate, callbacks=[Told()])
        trainer.remove_callback(PrinterCallback)
        trainer.train()


def _saved(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a model folder, whole or not at all."""
    from ..progress import quiet

    unfinished = folder.with_name(f".{folder.name}")
    with quiet():
        model.save_pretrained(unfinished)
    tokenizer.save_pretrained(unfinished)
    os.replace(unfinished, folder)
