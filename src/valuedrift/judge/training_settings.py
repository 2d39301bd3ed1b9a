"""The settings of `valuedrift train-judge`, apart from its code so that `--help` imports nothing heavy."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from ..plan import Settings


class TrainingSettings(Settings):
    """How a judge is trained."""

    num_train_epochs: Annotated[float, Field(gt=0)] = 4.0
    """Epochs at most; training stops earlier if the validation part gets no better."""
    learning_rate: Annotated[float, Field(gt=0)] = 3e-5
    """Peak of the linear schedule, after a warm-up of 10 % of the steps."""
    batch_size: Annotated[int, Field(gt=0)] = 16
    """Texts per step."""
    max_length: Annotated[int, Field(gt=0)] = 320
    """Tokens per text; the end of a longer answer is cut off."""
    rows_per_file: Annotated[int, Field(ge=0)] = 0
    """Most training texts of one file, drawn by the seed, so that a large file does not outweigh the others; 0 takes all."""
    held_out: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the prompts that is not trained on: half of it stops the training, half of it measures the judge."""
    seed: int = 0
    """Seed of the split, the new layer and the order of the texts."""
