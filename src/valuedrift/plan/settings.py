"""The settings of a plan, as frozen records."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal
from urllib.parse import parse_qsl, urlencode

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from .. import registry
from ..nouns import BadInput
from .graph import BASE, Node, in_order, path, short

LEAST_AGREEMENT = 0.7
"""Macro-F1 with people: published language models reach 0.73 and more on IssueBench (docs/calibrate.md)."""
MOST_TRAININGS = 2_000
"""Most trainings of one plan. A plan with more has a slip in its sweep or seeds, and `check` would take minutes."""

Count = Annotated[int, Field(gt=0, lt=2**31)]
Tokens = Annotated[int, Field(gt=0, le=1_000_000)]
"""Beyond the context of every model."""
Seed = Annotated[int, Field(ge=0, lt=2**32)]
"""The range that numpy accepts."""


Dtype = Literal["auto", "float32", "bfloat16", "float16"]


def _named(kind: str) -> AfterValidator:
    """Return a validator that refuses a name unknown among this kind of choice."""

    def known(spec: str) -> str:
        names = registry.names(kind)
        for part in spec.partition(":")[2].split(",") if spec.startswith("panel:") else [spec]:
            if (name := part.strip().partition(":")[0]) not in names:
                raise ValueError(f"unknown {kind} {name!r}{registry.among(name, names)}")
        return spec

    return AfterValidator(known)


def _scheduled(name: str) -> str:
    """Refuse a name that transformers does not know as a learning-rate schedule."""
    from transformers.trainer_utils import SchedulerType

    known = [kind.value for kind in SchedulerType]
    if name not in known:
        raise ValueError(f"unknown lr_scheduler_type {name!r}{registry.among(name, known)}")
    return name


class Settings(BaseModel):
    """A table of a plan: frozen, without unknown keys, and without conversions (true is not 1, and "1" is not 1)."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, strict=True, use_attribute_docstrings=True)
    # The text below a field becomes its description.


RENAMED = {
    "frame": "prompt_format",
    "noise": "sampling_seed",
    "companions": "side_metrics",
    "accumulate": "gradient_accumulation_steps",
    "clip": "max_grad_norm",
    "schedule": "lr_scheduler_type",
    "warmup": "warmup_ratio",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target": "target_modules",
    "passes": "num_ppo_epochs",
    "minibatches": "num_mini_batches",
    "beta": "kl_coef",
    "clip_ratio": "cliprange",
    "clip_value": "cliprange_value",
    "value_weight": "vf_coef",
    "missing_end_penalty": "missing_eos_penalty",
    "center_weight": "center_rewards_coefficient",
}
"""Name of a setting up to version 0.1.0 -> its name today. A table of a plan may still know the old name (`beta` of dpo)."""

REMOVED = {
    "precision": "sample fewer answers with `draws`, and fewer checkpoints with `save_at`",
    "budget": "sample fewer answers with `draws`, and fewer checkpoints with `save_at`",
    "proxy": "sample answers at every checkpoint with `draws = 1`",
}
"""Setting that version 0.2.0 removed -> what to do instead."""


def original_names(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under their names of version 0.1.0. Digests are taken of these, so that a rename retrains nothing."""
    old = {new: old for old, new in RENAMED.items()}
    return {old.get(key, key): original_names(value) if isinstance(value, dict) else value for key, value in settings.items()}


class Lora(Settings):
    """A low-rank adapter in place of full fine-tuning, by the names of peft's `LoraConfig`."""

    r: Annotated[int, Field(gt=0, le=2**16)] = 16
    """Rank."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32
    """Scale; the update is multiplied by lora_alpha / r."""
    lora_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """The modules that get an adapter: a name that peft knows, or a list of names."""


class Anchor(Settings):
    """A term added to the algorithm's loss that pulls the model's stances towards target shares (train/anchor.py)."""

    data: str
    """Questions with an authored answer of every stance (docs/run.md#data)."""
    weight: Annotated[float, Field(gt=0)] = 1.0
    """The factor of the anchor's loss, which is added to the algorithm's."""
    target: str = "start"
    """start: the shares that the stage's starting weights give to the three answers; uniform: a third each; or the path of a survey."""
    temperature: Annotated[float, Field(gt=0)] = 0.03
    """Nats per token; the higher, the less a difference in likelihood counts.

    Measured on eight checkpoints of the sandbox's demo, against the stances read in sampled answers: the mean total
    variation is 0.46 at 1, 0.25 at 0.05, 0.20 at 0.03 and 0.16 at 0.01, where one stance has over 99 % on half of the questions and the
    gradient is gone (at 0.03, on a tenth). It is near one over the tokens of an answer: a temperature of 1 for the whole text.
    """


class Resources(Settings):
    """The resources that one task reserves with `--engine ray`. They decide where a task runs, never its result."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    """CPU cores."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs."""
    memory_gb: Annotated[float, Field(gt=0)] | None = None
    """Memory in GB."""


TABLES: dict[str, type[Settings]] = {"lora": Lora, "anchor": Anchor, "resources": Resources}


class Stage(Settings):
    """One stage of training. Any other key belongs to its algorithm, which checks it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False, strict=True)

    algorithm: str
    """An algorithm of the table below (docs/run.md#settings-of-an-algorithm), sft, or one from an installed package."""
    data: str
    """The training data (docs/run.md#data)."""
    after: str = BASE
    """The stage whose last checkpoint is the start; base is the plan's model."""
    epochs: Annotated[float, Field(gt=0, le=1e6)] = 1.0
    """Passes over the data."""
    steps: Count | None = None
    """Optimiser steps; if given, `epochs` is ignored."""
    batch_size: Count = 8
    """Records per forward pass."""
    gradient_accumulation_steps: Count = 1
    """Forward passes per optimiser step, which sees `batch_size` times as many records."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    """The highest learning rate."""
    lr_scheduler_type: Annotated[str, AfterValidator(_scheduled)] = "cosine"
    """A schedule of transformers that needs no settings and no evaluation, for example linear or constant."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps in which the learning rate rises from 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """Weight decay of AdamW."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Largest norm of the gradient."""
    max_length: Annotated[Tokens, Field(gt=1)] = 1024
    """Tokens of prompt and answer; longer examples are cut at the end."""
    max_bad_rows: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of unreadable rows (docs/gap.md#layouts) that may be left out; the stage stops if there are more."""
    group_by_length: bool = False
    """Put records of similar length into one batch: less padding, but batches that differ more in length."""
    save_at: str | list[int] = "log:8"
    """"log:COUNT" (log-spaced), "every:STEPS", or a list of steps; step 0 and the last step are always measured."""
    lora: Lora | None = None
    """A table [stage.NAME.lora], which may be empty, trains an adapter instead of all weights."""
    anchor: Anchor | None = None
    """A table [stage.NAME.anchor] holds the model's stances at a target, or steers them to one."""
    resources: Resources | None = None
    """Resources for the training, with --engine ray (docs/scale.md); by default one core, and one GPU if there are any."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """float32, bfloat16, or auto: float32 weights, computing in bfloat16 if the machine multiplies it fast (docs/trace.md#precision)."""

    @field_validator("anchor")
    @classmethod
    def _can_be_anchored(cls, value: Anchor | None, info: ValidationInfo) -> Anchor | None:
        if value is None or "algorithm" not in info.data:
            return value
        name = info.data["algorithm"]
        algorithm = registry.algorithm(name)
        if "score" in algorithm.needs:
            raise ValueError(
                f"{name!r} trains a model that gives scores and no answers, so that there is no stance to anchor; remove the anchor"
            )
        if hasattr(algorithm, "run"):
            raise ValueError(f"{name!r} has its own training loop, which takes no anchor; remove the anchor or choose a built-in algorithm")
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit unset tables, so that the digests of older stages stay valid."""
        return {key: value for key, value in written(self).items() if key not in ("anchor", "resources") or value is not None}

    @field_validator("save_at")
    @classmethod
    def _known_schedule(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, str) and not re.fullmatch(r"(log|every):[1-9]\d{0,9}", value):
            raise ValueError('save_at is "log:COUNT", "every:STEPS" or a list of steps')
        if isinstance(value, list) and any(step < 1 for step in value):
            raise ValueError("save_at lists steps from 1 on (step 0 is always measured)")
        return value

    def changed(self, keys: Sequence[str], value: Any) -> Stage:
        """Return the stage with one setting changed; `data.gap` changes the parameter `gap` of the data's address."""
        if len(keys) == 1:
            return Stage.model_validate(self.model_dump() | {keys[0]: value})
        if keys[0] == "data":
            address, _, query = self.data.partition("?")
            return self.changed(["data"], f"{address}?{urlencode(dict(parse_qsl(query)) | {keys[1]: value})}")
        return self.changed([keys[0]], dict(self.model_dump().get(keys[0]) or {}) | {keys[1]: value})

    def own(self) -> Any:
        """Return the algorithm's own settings, validated by the algorithm's `Settings`."""
        return registry.algorithm(self.algorithm).Settings(**(self.model_extra or {}))

    def trained_by(self) -> dict[str, Any]:
        """Return all settings that decide the trained weights, the algorithm's own included. Data are left out: their content counts."""
        left_out: Any = {"after": True, "data": True, "max_bad_rows": True, "resources": True, "anchor": {"data", "target"}}
        return original_names(self.model_dump(exclude=left_out) | self.own().model_dump())

    @property
    def effective_batch_size(self) -> int:
        """Return the number of records per optimiser step."""
        return self.batch_size * self.gradient_accumulation_steps

    @property
    def scores(self) -> bool:
        """Tell whether the stage trains a reward model, which gives scores and no answers."""
        return "score" in registry.algorithm(self.algorithm).needs

    def reward_stage(self, stages: Mapping[str, Stage]) -> str:
        """Return the stage that trains this one's reward model; "" if it needs none or names a folder."""
        reward = (self.model_extra or {}).get("reward")
        return reward if isinstance(reward, str) and reward in stages and "rollouts" in registry.algorithm(self.algorithm).needs else ""


class EvaluationSettings(Settings):
    """How checkpoints are sampled and judged: the part of a plan that `trace` needs too.

    The defaults are the paper's protocol: 5 answers per prompt, temperature 0.7, 256 new tokens.
    """

    suite: str = "vaes"
    """A suite's name, or a JSONL file of prompts (docs/suite.md)."""
    topics: list[str] = []
    """Only these topics; all topics if empty."""
    judge: Annotated[str, _named("judge")] = "cues"
    """The judge: labels:PATH_OR_ID, nli:PATH_OR_ID, openai:MODEL, panel:A,B, cues (weak) or oracle (sandbox only), see docs/judge.md.

    In a plan, a list of judges is a panel of them: ["a", "b"] is "panel:a,b".
    """
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Limit in dollars for models behind an API, judges included; work that would cost more stops (exit code 3) and keeps its results."""
    gold: str = ""
    """A file of human labels (docs/calibrate.md): the judge is compared with it, and labels of this run's answers correct the figures."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = LEAST_AGREEMENT
    """Macro-F1 against human labels below which a judge's findings are reported but not headlined."""
    backend: Annotated[str, _named("backend")] = "transformers"
    """What runs the model: transformers, vllm (docs/vllm.md) or openai (docs/endpoint.md)."""
    draws: Count = 5
    """Answers per prompt."""
    temperature: Annotated[float, Field(ge=0)] = 0.7
    """Sampling temperature; 0 takes the most likely token."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus sampling; 1 keeps all tokens."""
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Sample from this many of the most likely tokens; 0 keeps the whole vocabulary."""
    max_new_tokens: Tokens = 256
    """Longest answer, in tokens."""
    prompt_format: Literal["auto", "plain", "chat"] = "auto"
    """Prompt format: plain, chat (the checkpoint's chat template), or auto: chat if there is a template, else plain (docs/trace.md)."""
    dtype: Dtype = "auto"
    """Precision of the model: float32, bfloat16, float16, or auto, the best for the machine and the model (docs/trace.md#precision)."""
    sampling_seed: int = 0
    """Sampling seed: the same seed gives the same answers."""
    batch_rows: Count = 512
    """Answers decoded in one batch; changes speed and memory, and never results in float32 (docs/trace.md)."""
    floor: bool = True
    """Evaluate the last checkpoint of each stage a second time with another sampling seed: the noise floor."""
    side_metrics: bool = True
    """Also measure how far each checkpoint moved (KL), and the length and reward of its answers (docs/measures.md#side-metrics)."""
    capability: list[str] = []
    """Tasks of lm-evaluation-harness that every evaluated checkpoint also takes: names or YAML files (docs/capability.md)."""
    capability_limit: Count | None = None
    """Items of each of these tasks; all items if not given."""
    resources: Resources | None = None
    """Resources to evaluate one checkpoint, with --engine ray (docs/scale.md)."""
    view: Literal["claim", "axis", "paper"] = "claim"
    """The view to show first (docs/measures.md): claim or axis, which are always measured, or paper, which is measured only if named.

    claim: agreement with the claim. axis: movement towards one side of the topic's axis. paper: as claim, but each answer that takes a
    stance is one vote, and answers that take none are left out.
    """

    @field_validator("judge", mode="before")
    @classmethod
    def _panel(cls, value: Any) -> Any:
        """Read a list of judges as a panel."""
        if isinstance(value, list) and value and all(isinstance(spec, str) for spec in value):
            return value[0] if len(value) == 1 else f"panel:{','.join(value)}"
        return value

    def decoding(self) -> dict[str, Any]:
        """Return the settings that decide the sampled text. They are part of every answer's key."""
        names = ("backend", "temperature", "top_p", "top_k", "max_new_tokens")
        return {name: getattr(self, name) for name in names}


class Plan(EvaluationSettings):
    """One experiment: a model, its stages, and how every checkpoint is sampled and judged."""

    model: str
    """Where the stages start: a folder, a hub id (org/name@revision), sandbox:base (-small, -large), or random:FOLDER (random weights)."""
    seeds: Annotated[list[Seed], Field(min_length=1)] = [0]
    """Each stage is trained once per seed; seeds are pooled in the tables."""
    stage: Annotated[dict[str, Stage], Field(min_length=1)]
    """One table [stage.NAME] per stage; names are lower-case letters, digits, - and _, and not base."""
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    """"stage.NAME.SETTING" = [values]: all combinations are trained; stages before a swept one are trained once."""

    def ablated(self, without: Sequence[str] = (), only: Sequence[str] = ()) -> Plan:
        """Return the plan without some stages, or with only some. A stage after a removed one then starts from the one before that.

        Everything else is held fixed: data, settings, order and seeds. Raises BadInput for an unknown stage, and if no stage is left.
        """
        for name in (*without, *only):
            if name not in self.stage:
                raise BadInput(f"the plan has no stage {name!r} to keep or leave out{registry.among(name, list(self.stage))}")
        kept = {name for name in self.stage if name not in without and (not only or name in only)}
        for name in list(kept):
            if reward := self.stage[name].reward_stage(self.stage):
                if reward in without:
                    raise BadInput(f"stage {name!r} needs the reward model of {reward!r}, which cannot be left out alone; leave out both")
                kept.add(reward)
        if not kept:
            raise BadInput("the plan has no stage left; keep at least one")
        stages = {}
        for name in [name for name in self.stage if name in kept]:
            after = self.stage[name].after
            while after != BASE and after not in kept:
                after = self.stage[after].after
            stages[name] = self.stage[name].model_copy(update={"after": after})
        sweep = {key: values for key, values in self.sweep.items() if key.split(".")[1] in kept}
        return self.model_copy(update={"stage": stages, "sweep": sweep})

    def nodes(self) -> list[Node]:
        """Return the stages to train, parents first, one per seed and sweep value that reaches them.

        Raises BadInput for more than MOST_TRAININGS.
        """
        order = in_order(self.stage)
        reaching = {name: [key for key in self.sweep if key.split(".")[1] in path(self.stage, name)] for name in order}
        n = len(self.seeds) * sum(math.prod(len(self.sweep[key]) for key in keys) for keys in reaching.values())
        n_settings = math.prod(len(values) for values in self.sweep.values())
        if n > MOST_TRAININGS or n_settings > MOST_TRAININGS:
            raise BadInput(
                f"the seeds and the sweep make {max(n, n_settings):,} trainings, and one plan has at most {MOST_TRAININGS:,}; "
                "shorten `seeds` or the lists of [sweep], or write several plans"
            )
        nodes: dict[tuple[str, int], Node] = {}
        for values in itertools.product(*self.sweep.values()):
            setting = dict(zip(self.sweep, values, strict=True))
            swept = {name: {short(key, name): setting[key] for key in reaching[name]} for name in order}
            names = {BASE: BASE} | {name: name + "".join(f"[{key}={value}]" for key, value in swept[name].items()) for name in order}
            for seed, name in itertools.product(self.seeds, order):
                if (names[name], seed) in nodes:
                    continue
                stage = self.stage[name]
                for key in reaching[name]:
                    if key.split(".")[1] == name:
                        stage = stage.changed(key.split(".")[2:], setting[key])
                reward = stage.reward_stage(self.stage)
                nodes[names[name], seed] = Node(names[name], names[stage.after], stage, seed, names[reward] if reward else "", swept[name])
        return list(nodes.values())
