"""TRL's trainers as stages: `algorithm = "trl:KTOTrainer"`.

The keys of every stage (steps, batches, learning rate, adapter, steps to save at, …) go to the trainer's config. Every other key of the
stage's table is one of that config's. The order of the data, the checkpoints and the resume are those of our own loop.

`batch_size` counts records of data, so that a stage of KTO sees what a stage of DPO with the same settings sees. If the trainer samples
answers, it counts answers, as it does for PPO.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import importlib
import re
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from accelerate.utils import patch_environment
from pydantic import AfterValidator, BeforeValidator, ConfigDict, create_model

from .. import plan, registry
from ..nouns import BadInput, Example, Pair, digest
from ..store import Store
from . import BaseAlgorithm, DataFormat, saved_stage, stage_trainer, trl_rewards, trl_stage


@dataclass(frozen=True)
class Known:
    """A trainer's module, its data format, and what our loop would have to provide for it."""

    module: str
    data_format: DataFormat
    needs: frozenset[str] = frozenset()


ROLLOUTS = frozenset({"rollouts"})
TRAINERS = {
    "SFTTrainer": Known("trl", "examples"),
    "DPOTrainer": Known("trl", "pairs"),
    "KTOTrainer": Known("trl", "pairs"),
    "RewardTrainer": Known("trl", "pairs", frozenset({"score"})),
    "GRPOTrainer": Known("trl", "prompts", ROLLOUTS),
    "RLOOTrainer": Known("trl", "prompts", ROLLOUTS),
    "CPOTrainer": Known("trl.experimental.cpo", "pairs"),
    "ORPOTrainer": Known("trl.experimental.orpo", "pairs"),
    "GMPOTrainer": Known("trl.experimental.gmpo", "prompts", ROLLOUTS),
    "OnlineDPOTrainer": Known("trl.experimental.online_dpo", "prompts", ROLLOUTS),
}
"""TRL's other trainers need a teacher, a server, or records that our data do not have."""

SET_BY_THE_STAGE = {
    "per_device_train_batch_size": "batch_size",
    "max_steps": "steps",
    "num_train_epochs": "epochs",
    "warmup_steps": "warmup_ratio",
    "save_steps": "save_at",
    "save_strategy": "save_at",
    "seed": "seeds",
    "bf16": "dtype",
    "fp16": "dtype",
}
"""Key of a config -> key of a plan that sets it."""

OF_TRANSFORMERS = (
    "optim",
    "optim_args",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
    "lr_scheduler_kwargs",
    "gradient_checkpointing",
    "gradient_checkpointing_kwargs",
    "dataloader_num_workers",
)
"""Keys of TrainingArguments that a stage may set."""

REFUSED = {
    # the rows and their order are fixed before the trainer gets them
    *("shuffle_dataset", "packing", "packing_strategy", "eval_packing", "dataset_text_field", "dataset_kwargs", "chat_template_path"),
    # the model is loaded before the trainer gets it, and the reward model is `reward`
    *("model_init_kwargs", "reward_model_path", "trust_remote_code", "is_encoder_decoder"),
    # a stage evaluates nothing and sends nothing
    *("num_generations_eval", "generate_during_eval", "log_completions_hub_repo"),
}
"""Keys of configs that would break how a stage works."""


class Algorithm(BaseAlgorithm):
    """A trainer of TRL; `named` returns the class for its name."""

    trainer: ClassVar[str]

    @classmethod
    @functools.cache
    def named(cls, trainer: str) -> type[Algorithm]:
        """Return the algorithm of one of TRL's trainers. Raises BadInput for an unknown name, and if TRL is not installed."""
        if trainer not in TRAINERS:
            raise BadInput(f"algorithm = 'trl:{trainer}' names no trainer that can be a stage{registry.among(trainer, list(TRAINERS))}")
        known = TRAINERS[trainer]
        described = {
            "__doc__": f"TRL's {trainer}.",
            "trainer": trainer,
            "data_format": known.data_format,
            "needs": known.needs,
            "truncates": "score" not in known.needs,  # TRL's reward trainer needs both texts whole
            "Settings": _settings(trainer),
        }
        return type(trainer, (cls,), described)

    def run(
        self,
        stage: plan.Stage,
        seed: int,
        model_path: str,
        data: Sequence[Pair] | Sequence[Example],
        out: Path,
        progress: stage_trainer.Progress | None,
        reward_path: str,
    ) -> list[int]:
        """Train a stage, with the contract of `stage.run_stage`.

        An interrupted stage ends with the same weights as an uninterrupted one, if the trainer and the reward function depend only on the
        weights, the data and torch's random state.
        """
        rewards = trl_rewards.rewards(reward_path or self.settings.reward) if "rollouts" in self.needs else []
        sources = [reward.source for reward in rewards]
        key = digest("stage", stage.trained_by(), seed, sources, [dataclasses.astuple(item) for item in data])

        def train() -> tuple[list[int], int, int]:
            # TRL shards its reference without broadcasting it, so every rank must load the weights, whatever FSDP is set to
            with patch_environment(fsdp_cpu_ram_efficient_loading="false"):
                return trl_stage.train(stage, seed, model_path, data, out, self, classes(self.trainer), rewards, progress)

        return saved_stage.train_once(Store(out), key, train)

    @classmethod
    def course(cls, stage: plan.Stage, n_records: int) -> tuple[int, int]:
        """Return how many records a stage sees, repeats counted, and its optimiser steps: what `step_counts.course` gives for our own."""
        return trl_stage.course(stage, trl_stage.config(stage, 0, Path(), 1, cls(stage.own()), classes(cls.trainer)[1]), n_records)


def classes(trainer: str) -> tuple[Any, Any]:
    """Return a trainer's class and that of its config."""
    try:
        module = importlib.import_module(TRAINERS[trainer].module)
        return getattr(module, trainer), getattr(module, trainer.replace("Trainer", "Config"))
    except (ImportError, AttributeError, RuntimeError) as error:  # TRL loads its trainers lazily: their own imports fail as RuntimeError
        raise BadInput(f"the stage's trainer {trainer} cannot be imported from TRL ({error}); pip install 'valuedrift[trl]'") from error


def _settings(trainer: str) -> type[plan.Settings]:
    """Return a trainer's own keys in a stage, with the types and defaults of its config."""
    from transformers import TrainingArguments

    config = classes(trainer)[1]
    hints = typing.get_type_hints(config)
    general = {field.name for field in dataclasses.fields(TrainingArguments)} - set(OF_TRANSFORMERS)
    fields: dict[str, Any] = {key: (Annotated[Any, BeforeValidator(_set_by(own))], None) for key, own in SET_BY_THE_STAGE.items()}
    keys = {field.name for field in dataclasses.fields(config)}
    for field in dataclasses.fields(config):
        if field.name not in general | REFUSED | set(plan.Stage.model_fields):
            made = field.default_factory
            # TRL's configs accept one loss instead of a list of one
            kind = hints[field.name] | str if typing.get_origin(hints[field.name]) is list else hints[field.name]
            if known := [value for value in _values(field, hints[field.name]) if value not in keys]:  # the help also names other keys
                kind = Annotated[kind, AfterValidator(_one_of(field.name, known))]
            fields[field.name] = (kind, field.default if made is dataclasses.MISSING else made())
    if "rollouts" in TRAINERS[trainer].needs:
        fields["reward"] = (str | list[str], "")
    return create_model(f"{trainer}Settings", __base__=_Settings, __doc__=f"The keys of TRL's config for its {trainer}.", **fields)


def _values(field: dataclasses.Field[Any], kind: Any) -> list[str]:
    """Return the allowed texts of a config's key, from its choices, its type, or the quotes in its help; empty if it lists none."""
    if "choices" in field.metadata:
        return list(field.metadata["choices"])
    enums: list[Any] = [part for part in typing.get_args(kind) if isinstance(part, enum.EnumMeta)]
    if enums:
        return [member.value for member in enums[0]]
    said = field.metadata.get("help") or ""
    listed = re.search(r"(values are|Must be one of)(.*)", said, re.DOTALL) if kind in (str, list[str], str | None) else None
    return list(dict.fromkeys(re.findall(r"['`]{1,2}(\w+)['`]{1,2}", listed[2]))) if listed else []


def _one_of(name: str, known: Sequence[str]) -> Any:
    def check(value: Any) -> Any:
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str) and not isinstance(text, enum.Enum) and text not in known:
                raise ValueError(f"unknown {name} {text!r}{registry.among(text, known)}")
        return value

    return check


class _Settings(plan.Settings):
    # TRL has keys that begin with "model_"
    model_config = ConfigDict(protected_namespaces=())


def _set_by(own: str) -> Any:
    def refuse(value: Any) -> Any:
        raise ValueError(f"a plan sets this with {own}; use that key")

    return refuse
