"""Training a small judge from labels: `valuedrift train-judge` (docs/train-judge.md)."""

from __future__ import annotations

import hashlib
import math
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax
from sklearn.metrics import f1_score
from torch import Tensor
from transformers import DataCollatorWithPadding, EarlyStoppingCallback, PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from .. import progress
from ..models import loading, precision
from ..nouns import OUTCOMES, BadInput
from ..records.gold import Gold
from ..store import Store
from ..train.saved_stage import whole
from .trained import CARD, TEMPLATE, encoded
from .training_settings import TrainingSettings

PARTS = ("train", "validation", "test")
LEAST = 20
"""Labels in the training part below which nothing is trained."""
MOST_WEIGHT = 4.0
"""The largest weight of a class in the loss; a class of three labels would otherwise decide every step."""


def split(gold: Sequence[Gold], held_out: float, seed: int) -> list[str]:
    """Return the part of PARTS of each text. Texts that share a prompt, a claim or an issue are in one part.

    The part of a group is decided by a digest of its words, so that more labels move no group to another part.
    """
    first: dict[tuple[str, str], int] = {}
    root = list(range(len(gold)))

    def top(place: int) -> int:
        while root[place] != place:
            place = root[place]
        return place

    for place, row in enumerate(gold):
        for key in (("prompt", row.item.prompt), ("claim", row.item.claim), ("group", row.group)):
            root[top(place)] = top(first.setdefault(key, place))
    names: dict[int, str] = {}
    for place, row in enumerate(gold):
        names[top(place)] = min(names.get(top(place), row.group), row.group)
    parts = {}
    for place, name in names.items():
        share = int.from_bytes(hashlib.sha256(f"{seed} {name}".encode()).digest()[:8]) / 2**64
        parts[place] = "test" if share < held_out / 2 else "validation" if share < held_out else "train"
    return [parts[top(place)] for place in range(len(gold))]


def train(files: Mapping[str, Sequence[Gold]], base: str, out: Path, settings: TrainingSettings) -> dict[str, list[Gold]]:
    """Train a classifier of OUTCOMES on labelled texts and save it in `out`; return the test part of every file.

    The loss is the cross-entropy with weights n / (classes x n of the class), at most MOST_WEIGHT. The checkpoint with the best macro-F1 on
    the validation part is kept, and its logits are divided by the temperature that gives that part the least log loss (Guo et al. 2017).
    Raises BadInput if there are too few labels.
    """
    rows = [(name, row) for name, gold in files.items() for row in gold if row.outcome is not None]
    parts = split([row for _, row in rows], settings.held_out, settings.seed)
    by_part: dict[str, list[tuple[str, Gold]]] = {part: [] for part in PARTS}
    for part, named in zip(parts, rows, strict=True):
        by_part[part].append(named)
    chosen = _at_most(by_part["train"], settings.rows_per_file, settings.seed)
    validation = _at_most(by_part["validation"], settings.rows_per_file, settings.seed)
    n_classes = Counter(row.outcome for row in chosen)
    if len(chosen) < LEAST or len(n_classes) < 2 or not validation:
        raise BadInput(
            f"{len(chosen)} labelled texts in the training part and {len(validation)} in the validation part, with "
            f"{len(n_classes)} different labels; label more texts of more prompts"
        )
    torch.manual_seed(settings.seed)
    model, tokenizer = _model(base)
    length = min(settings.max_length, loading.context_of(model) or settings.max_length)
    data = [[_row(tokenizer, row, length) for row in some] for some in (chosen, validation)]
    balanced = [len(chosen) / (len(n_classes) * max(1, n_classes[name])) for name in OUTCOMES]
    weights = torch.tensor([min(weight, MOST_WEIGHT) for weight in balanced])
    arguments = _arguments(settings, str(out / "checkpoints"), len(chosen), precision.autocasts(base))
    with whole(Path(str(arguments.output_dir))):
        temperature = _fitted(model, tokenizer, data, weights, arguments)
        model.save_pretrained(out)
        tokenizer.save_pretrained(out)
    card = {
        "template": TEMPLATE,
        "temperature": temperature,
        "max_length": length,
        "agreement": None,
        "weights": loading.weights_digest(str(out)),
        "base": {"path": base, "weights": loading.weights_digest(base)},
        "settings": settings.model_dump(),
        "labels": {part: dict(Counter(f"{row.outcome}" for _, row in by_part[part])) for part in PARTS},
    }
    Store(out).write_json(CARD, card)
    test: dict[str, list[Gold]] = {name: [] for name in files}
    for name, row in by_part["test"]:
        test[name].append(row)
    return test


def _fitted(model: Any, tokenizer: Any, data: list[Any], weights_O: Tensor, arguments: TrainingArguments) -> float:
    """Train the model on the first part of the data and keep the best by the second; return the temperature that fits the second."""

    def loss(outputs: Any, labels: Tensor, num_items_in_batch: Any = None) -> Tensor:
        return F.cross_entropy(outputs.logits.float(), labels, weights_O.to(outputs.logits.device))

    shutil.rmtree(str(arguments.output_dir), ignore_errors=True)  # of a command that was killed
    try:
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=data[0],
            eval_dataset=data[1],
            data_collator=DataCollatorWithPadding(tokenizer),
            compute_loss_func=loss,
            compute_metrics=_macro_f1,
            callbacks=[EarlyStoppingCallback(early_stopping_patience=3)],
        )
        trainer.remove_callback(PrinterCallback)  # it writes to stdout, which belongs to the result
        with progress.training("train the judge") as tell:
            trainer.add_callback(_Progress(tell))
            trainer.train()
        found: Any = trainer.predict(data[1])  # in an order of its own, by length
    finally:
        shutil.rmtree(str(arguments.output_dir), ignore_errors=True)
    return fitted_temperature(np.asarray(found.predictions, float), np.asarray(found.label_ids))


class _Progress(TrainerCallback):
    """Shows the progress of the training."""

    def __init__(self, tell: Any):
        self.tell, self.loss = tell, math.nan

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self.loss = (logs or {}).get("loss", self.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.tell(state.global_step, state.max_steps, float(self.loss))


def _at_most(rows: Sequence[tuple[str, Gold]], most: int, seed: int) -> list[Gold]:
    """Return the texts, at most so many of one file."""
    by_file: dict[str, list[Gold]] = {}
    for name, row in rows:
        by_file.setdefault(name, []).append(row)
    rng = np.random.default_rng(seed)
    found = []
    for some in by_file.values():
        places = range(len(some)) if not most or len(some) <= most else sorted(rng.choice(len(some), most, replace=False))
        found += [some[place] for place in places]
    return found


def _model(base: str) -> tuple[Any, Any]:
    """Return the base with a new layer for the outcomes, in float32, and its tokenizer."""
    tokenizer = loading.load_tokenizer(base)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    model = loading.load_to_train(str(loading.local_folder(base)), torch.float32, n_scores=len(OUTCOMES))
    model.config.id2label = dict(enumerate(OUTCOMES))
    model.config.label2id = {outcome: number for number, outcome in enumerate(OUTCOMES)}
    model.config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def _row(tokenizer: Any, row: Gold, length: int) -> dict[str, Any]:
    assert row.outcome is not None
    ids = encoded(tokenizer, row.item, TEMPLATE, length)
    return ids | {"labels": OUTCOMES.index(row.outcome), "length": len(ids["input_ids"])}


def _arguments(settings: TrainingSettings, work: str, n: int, bf16: bool) -> TrainingArguments:
    steps = max(1, n // settings.batch_size)
    return TrainingArguments(
        output_dir=work,
        num_train_epochs=settings.num_train_epochs,
        learning_rate=settings.learning_rate,
        warmup_steps=max(1, int(0.1 * steps * settings.num_train_epochs)),
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        train_sampling_strategy="group_by_length",
        max_grad_norm=1.0,
        weight_decay=0.01,
        use_cpu=not torch.accelerator.is_available(),
        bf16=bf16,
        eval_strategy="steps",
        eval_steps=max(1, steps // 2),
        save_strategy="best",
        save_total_limit=1,
        save_only_model=True,
        load_best_model_at_end=True,
        metric_for_best_model="macro_f1",
        logging_steps=max(1, steps // 10),
        report_to=[],
        disable_tqdm=True,
        seed=settings.seed,
        data_seed=settings.seed,
        dataloader_pin_memory=False,
    )


def _macro_f1(predicted: Any) -> dict[str, float]:
    labels_N, logits_NO = predicted.label_ids, predicted.predictions
    return {"macro_f1": float(f1_score(labels_N, logits_NO.argmax(-1), labels=np.unique(labels_N), average="macro"))}


def fitted_temperature(logits_NO: np.ndarray, labels_N: np.ndarray) -> float:
    """Return the temperature with the least log loss, between 0.2 and 5."""

    def log_loss(log_temperature: float) -> float:
        logp_NO = log_softmax(logits_NO / np.exp(log_temperature), axis=1)
        return float(-logp_NO[np.arange(len(labels_N)), labels_N].mean())

    return round(float(np.exp(minimize_scalar(log_loss, bounds=(np.log(0.2), np.log(5.0)), method="bounded").x)), 4)
