"""A training script of a user: the Trainer of transformers with the callback, resumed from its newest checkpoint if it was killed."""

from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainingArguments

import valuedrift

TEXTS = ["I agree that the tax is fair.", "No, I am against that rule.", "There are two sides to this question.", "I can't help with that."]


def train(model, out, run, suite, judge):
    """Train six steps; save and measure after steps 2, 4 and 6."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(model)
    rows = [(tokenizer(text)["input_ids"] * 12)[:12] for text in TEXTS]
    arguments = {"max_steps": 6, "per_device_train_batch_size": 2, "learning_rate": 1e-2, "report_to": "none", "seed": 3, "save_steps": 2}
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32),
        args=TrainingArguments(output_dir=out, use_cpu=True, disable_tqdm=True, **arguments),
        train_dataset=[{"input_ids": torch.tensor(row), "labels": torch.tensor(row)} for row in rows],
        processing_class=tokenizer,
        callbacks=[valuedrift.ValueDriftCallback(run, [2, 4], suite=suite, judge=judge, max_new_tokens=6)],
    )
    # The state is the last file that the Trainer writes; a folder without it was being written when the process was killed.
    saved = sorted(path.parent for path in Path(out).glob("checkpoint-*/trainer_state.json"))
    trainer.train(resume_from_checkpoint=str(saved[-1]) if saved else None)
