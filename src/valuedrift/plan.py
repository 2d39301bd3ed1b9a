"""A plan: one TOML file is one experiment. Unknown keys stop it with the nearest known key; a plan may derive from another."""

from __future__ import annotations

import itertools
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import parse_qsl, urlencode

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
)

from . import registry
from .nouns import BadInput

BASE = "base"
LEAST_AGREEMENT = 0.7
"""Macro-F1 with people: published language models reach 0.73 and more on IssueBench (docs/calibrate.md)."""


class Settings(BaseModel):
    """What every table of a plan is: frozen, and without unknown keys."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Lora(Settings):
    """A low-rank adapter in place of full fine-tuning (peft)."""

    r: Annotated[int, Field(gt=0)] = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    target: str | list[str] = "all-linear"


class Anchor(Settings):
    """A pull of the model's stances towards target shares, added to the loss of a stage's algorithm (train/_anchor.py)."""

    data: str
    weight: Annotated[float, Field(gt=0)] = 1.0
    target: str = "start"
    """"start": what the stage's starting weights say to each question; "uniform"; or a survey's file."""
    temperature: Annotated[float, Field(gt=0)] = 0.03
    """Nats per token. Measured on eight checkpoints of the sandbox's demo, against the stances read in sampled answers: the mean total
    variation is 0.46 at 1, 0.25 at 0.05, 0.20 at 0.03 and 0.16 at 0.01, where one stance has over 99 % on half of the questions and the
    gradient is gone (at 0.03, on a tenth). It is near one over the tokens of an answer: a temperature of 1 for the whole text."""


class Resources(Settings):
    """What one task takes of the machines of `--engine ray`. It decides where something is done and never what comes out."""

    cpus: Annotated[float, Field(gt=0)] = 1.0
    gpus: Annotated[float, Field(ge=0)] = 0.0
    memory_gb: Annotated[float, Field(gt=0)] | None = None


TABLES: dict[str, type[Settings]] = {"lora": Lora, "anchor": Anchor, "resources": Resources}


class Stage(Settings):
    """One stage of training. Keys beyond these belong to its algorithm and are checked by it."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    algorithm: str
    data: str
    after: str = BASE
    epochs: Annotated[float, Field(gt=0)] = 1.0
    steps: Annotated[int, Field(gt=0)] | None = None
    """Optimiser steps; where given, `epochs` is ignored."""
    batch_size: Annotated[int, Field(gt=0)] = 8
    accumulate: Annotated[int, Field(gt=0)] = 1
    learning_rate: Annotated[float, Field(gt=0)] = 2e-5
    schedule: str = "cosine"
    warmup: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the steps. As in transformers, the first step of a warm-up has learning rate 0."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    clip: Annotated[float, Field(gt=0)] = 1.0
    max_length: Annotated[int, Field(gt=1)] = 1024
    """Tokens of prompt and answer; longer examples are cut at the end."""
    group_by_length: bool = False
    """Put records of like length into one batch: less padding, at the price of batches that are less alike in length."""
    save_at: str | list[int] = "log:8"
    lora: Lora | None = None
    anchor: Anchor | None = None
    resources: Resources | None = None
    """Of the stage's training; one core, and one GPU where there are any, if left out."""
    dtype: str = "auto"

    @field_validator("anchor")
    @classmethod
    def _can_be_anchored(cls, value: Anchor | None, info: ValidationInfo) -> Anchor | None:
        if value is None or "algorithm" not in info.data:
            return value
        name = info.data["algorithm"]
        algorithm = registry.algorithm(name)
        if "score" in algorithm.needs:
            raise ValueError(f"{name!r} trains a model that gives a score and no answers, so there is no stance to anchor; take it out")
        if hasattr(algorithm, "run"):
            raise ValueError(f"{name!r} brings a loop of its own, which takes no anchor; take it out or name one of our own algorithms")
        return value

    @model_serializer(mode="wrap")
    def _as_before(self, written: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out what there is none of: stages trained before there was such a thing keep the names they have by their settings."""
        return {key: value for key, value in written(self).items() if key not in ("anchor", "resources") or value is not None}

    @field_validator("save_at")
    @classmethod
    def _known_schedule(cls, value: str | list[int]) -> str | list[int]:
        if isinstance(value, str) and not re.fullmatch(r"(log|every):[1-9]\d*", value):
            raise ValueError('save_at is "log:COUNT", "every:STEPS" or a list of steps')
        if isinstance(value, list) and any(step < 1 for step in value):
            raise ValueError("save_at lists steps from 1 on (step 0 is always measured)")
        return value

    def own(self) -> Any:
        """Return the algorithm's own settings, validated by the algorithm's `Settings`."""
        return registry.algorithm(self.algorithm).Settings(**(self.model_extra or {}))

    def trained_by(self) -> dict[str, Any]:
        """Return all settings that decide what is trained, the algorithm's own among them. Data count by content: they are left out."""
        return (
            self.model_dump(exclude={"after": True, "data": True, "resources": True, "anchor": {"data", "target"}})
            | self.own().model_dump()
        )

    @property
    def scores(self) -> bool:
        """Tell whether the stage trains a reward model, which cannot be asked anything."""
        return "score" in registry.algorithm(self.algorithm).needs

    def reward_stage(self, stages: Mapping[str, Stage]) -> str:
        """Return the stage that trains this one's reward model; "" where it needs none or the model stands elsewhere."""
        reward = (self.model_extra or {}).get("reward")
        return reward if isinstance(reward, str) and reward in stages and "rollouts" in registry.algorithm(self.algorithm).needs else ""


class Asking(Settings):
    """How checkpoints are asked and read: the part of a plan that `trace` needs too.

    The defaults are the paper's protocol: 5 answers per prompt, temperature 0.7, 256 new tokens.
    """

    suite: str = "vaes"
    topics: list[str] = []
    """Only these topics of the suite; all where empty."""
    judge: str = "cues"
    """A list of judges is read as a panel of them: ["a", "b"] is "panel:a,b"."""
    max_cost: Annotated[float, Field(ge=0)] | None = None
    """Dollars that models behind an API, asked or judging, may cost; the work stops before they cost more."""
    gold: str = ""
    """A file of human labels: the judge is compared with it, and labels of this run's own answers correct its figures."""
    min_agreement: Annotated[float, Field(ge=0, le=1)] = LEAST_AGREEMENT
    """Macro-F1 against human labels under which a judge's findings are reported but not headlined."""
    backend: str = "transformers"
    draws: Annotated[int, Field(gt=0)] = 5
    temperature: Annotated[float, Field(ge=0)] = 0.7
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    """0 keeps the whole vocabulary."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 256
    frame: Annotated[str, Field(pattern="^(auto|plain|chat)$")] = "auto"
    """auto: a checkpoint's own chat template where it has one, else the plain frame."""
    noise: int = 0
    """Seed of the sampling noise: the same noise gives the same answers."""
    batch_rows: Annotated[int, Field(gt=0)] = 512
    """Answers decoded side by side; changes speed and memory, never results."""
    floor: bool = True
    """Ask the last checkpoint of each stage a second time with other noise: the noise floor."""
    companions: bool = True
    """Also measure how far each checkpoint has moved from its reference (KL), and how long and how rewarded its answers are."""
    proxy: bool = False
    """Also tell from likelihoods of written answers, without generating any, which stance every saved checkpoint takes."""
    capability: list[str] = []
    """Tasks of lm-evaluation-harness that every asked checkpoint is also put: names, or YAML files."""
    capability_limit: Annotated[int, Field(gt=0)] | None = None
    """Items of each task; all where there is none."""
    precision: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Ask no more than it takes: until every drift's 95 % interval reaches at most this far to each side, at most `draws` per prompt, and
    only the checkpoints between which a share moves by more than this. Everything is asked where neither this nor `budget` is given."""
    budget: Annotated[int, Field(gt=0)] | None = None
    """Answers asked for at most, those at hand included; the most needed first."""
    resources: Resources | None = None
    """Of the asking of one checkpoint; as in a stage."""
    view: Annotated[str, Field(pattern="^(claim|axis|paper)$")] = "claim"
    """The view to show first. claim: agreement with what is claimed; axis: movement towards one side of each topic's axis; both are always
    measured. paper: measured too if named; as claim, each answer that takes a stance being one vote and answers that take none left out."""

    @field_validator("judge", mode="before")
    @classmethod
    def _panel(cls, value: Any) -> Any:
        """Read a list of judges as a panel."""
        if isinstance(value, list) and value and all(isinstance(spec, str) for spec in value):
            return value[0] if len(value) == 1 else f"panel:{','.join(value)}"
        return value

    def decoding(self) -> dict[str, Any]:
        """Return the settings that decide what is sampled (part of every answer's key)."""
        names = ("backend", "temperature", "top_p", "top_k", "max_new_tokens")
        return {name: getattr(self, name) for name in names}


class Plan(Asking):
    """One experiment: a model, its stages, and how every checkpoint is asked and read."""

    model: str
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)] = [0]
    stage: Annotated[dict[str, Stage], Field(min_length=1)]
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}

    def ablated(self, without: Sequence[str] = (), only: Sequence[str] = ()) -> Plan:
        """Return the plan without some stages, or with some alone; what came after a stage that is gone comes after the one before it.

        Everything else is held fixed: data, settings, order and seeds. Raises BadInput for an unknown stage and where none is left.
        """
        for name in (*without, *only):
            if name not in self.stage:
                raise BadInput(f"there is no stage {name!r} to keep or leave out{registry.among(name, list(self.stage))}")
        kept = {name for name in self.stage if name not in without and (not only or name in only)}
        for name in list(kept):
            if reward := self.stage[name].reward_stage(self.stage):
                if reward in without:
                    raise BadInput(f"stage {name!r} needs the reward model of {reward!r}, which cannot be left out alone; leave out both")
                kept.add(reward)
        if not kept:
            raise BadInput("no stage is left of the plan; keep at least one")
        stages = {}
        for name in [name for name in self.stage if name in kept]:
            after = self.stage[name].after
            while after != BASE and after not in kept:
                after = self.stage[after].after
            stages[name] = self.stage[name].model_copy(update={"after": after})
        sweep = {key: values for key, values in self.sweep.items() if key.split(".")[1] in kept}
        return self.model_copy(update={"stage": stages, "sweep": sweep})

    def nodes(self) -> list[Node]:
        """Return the stages to train, parents first, one per seed and sweep value that reaches them."""
        order = _topological(self.stage)
        nodes: dict[tuple[str, int], Node] = {}
        for values in itertools.product(*self.sweep.values()):
            setting = dict(zip(self.sweep, values, strict=True))
            for seed in self.seeds:
                names = {BASE: BASE}
                for name in order:
                    stage = self.stage[name]
                    touched = _on_path(self.stage, name, setting)
                    swept = {_short(key, name): value for key, value in touched.items()}
                    names[name] = name + "".join(f"[{key}={value}]" for key, value in swept.items())
                    for key, value in touched.items():
                        if key.split(".")[1] == name:
                            stage = _with(stage, key.split(".")[2:], value)
                    reward = stage.reward_stage(self.stage)
                    node = Node(names[name], names[stage.after], stage, seed, names[reward] if reward else "", swept)
                    nodes.setdefault((node.name, seed), node)
        return list(nodes.values())


@dataclass(frozen=True)
class Node:
    """One stage to train: a stage of the plan under one seed and one setting of the sweep."""

    name: str
    parent: str
    stage: Stage
    seed: int
    reward: str = ""
    """The node that trains its reward model, where one does."""
    sweep: Mapping[str, Any] = field(default_factory=dict)
    """The swept values that reach it, by the names that stand in its own."""


def load(path: Path | str) -> Plan:
    """Read a plan. Raises BadInput naming the file, the line and the nearest known key."""
    tables, source = _derived(Path(path), ())
    if isinstance(tables.get("stage"), dict):
        tables["stage"] = {name: _like(tables["stage"], name, path, ()) for name in tables["stage"]}
        _check_algorithms(tables["stage"], source, Path(path))
    try:
        plan = Plan(**tables)
    except ValidationError as error:
        raise _fault(error, source, Path(path)) from error
    for name, stage in plan.stage.items():
        if not re.fullmatch(r"[a-z0-9_-]+", name) or name == BASE:
            raise BadInput(f"{path}: stage name {name!r} must be lower-case letters, digits, - or _, and not 'base'")
        _check_own(stage, name, source, Path(path))
    _topological(plan.stage, str(path))
    _check_rewards(plan.stage, str(path))
    for key in plan.sweep:
        if not re.fullmatch(r"stage\.[a-z0-9_-]+\.(?!after$)(\w+|(data|lora|anchor)\.\w+)", key) or key.split(".")[1] not in plan.stage:
            stages = ", ".join(plan.stage)
            raise BadInput(
                f"{path}: sweep key {key!r} does not name a setting of a stage; write stage.NAME.SETTING (not after), NAME one of {stages}"
            )
    try:
        nodes = plan.nodes()
    except ValidationError as error:
        raise _fault(error, source, Path(path), "sweep.") from error
    for node in nodes:
        _check_own(node.stage, node.name, source, Path(path))
    return plan


def _derived(path: Path, seen: tuple[Path, ...]) -> tuple[dict[str, Any], str]:
    if path.resolve() in seen:
        raise BadInput(f"{path}: plans derive from each other in a circle; take one 'derive' out")
    try:
        source = path.read_text()
        tables = tomllib.loads(source)
    except FileNotFoundError:
        raise BadInput(f"there is no plan {path}; give the path of a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}") from error
    except tomllib.TOMLDecodeError as error:
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    parent = tables.pop("derive", None)
    if parent is None:
        return tables, source
    inherited, _ = _derived(path.parent / str(parent), (*seen, path.resolve()))
    return _merged(inherited, tables), source


def _merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _like(stages: dict[str, Any], name: str, path: Path | str, seen: tuple[str, ...]) -> Any:
    """Return a stage's table with what it takes over from the stage it is `like`."""
    table = stages[name]
    if not isinstance(table, dict) or "like" not in table:
        return table
    other = table["like"]
    if other not in stages:
        raise BadInput(f"{path}: stage {name!r} is like {other!r}, which is no stage{registry.nearest(str(other), list(stages))}")
    if other in (*seen, name):
        raise BadInput(f"{path}: the stages {' -> '.join([*seen, name, other])} are like each other in a circle; write one of them out")
    own = {key: value for key, value in table.items() if key != "like"}
    return _merged(_like(stages, other, path, (*seen, name)), own)


def _check_algorithms(stages: dict[str, Any], source: str, path: Path) -> None:
    """Raise BadInput for an unknown algorithm before anything is asked of it: what asks knows neither file nor line."""
    for name, table in stages.items():
        if isinstance(table, dict) and isinstance(table.get("algorithm"), str):
            try:
                registry.algorithm(table["algorithm"])
            except BadInput as error:
                raise BadInput(f"{path}{_line(source, 'algorithm', f'stage.{name}')}: {error}") from error


def _check_own(stage: Stage, name: str, source: str, path: Path) -> None:
    algorithm = registry.algorithm(stage.algorithm)
    known = sorted({*Stage.model_fields, *algorithm.Settings.model_fields})
    for key in stage.model_extra or {}:
        if key not in algorithm.Settings.model_fields:
            hint = registry.nearest(key, known) or f"; it knows {', '.join(known)}"
            raise BadInput(f"{path}{_line(source, key, f'stage.{name}')}: unknown key {key!r} in [stage.{name}] ({stage.algorithm}){hint}")
    try:
        stage.own()
    except ValidationError as error:
        raise _fault(error, source, path, f"stage.{name}.") from error


def _fault(error: ValidationError, source: str, path: Path, prefix: str = "") -> BadInput:
    # A misspelt key is a missing one too: the misspelling says more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    parts = [str(part) for part in first["loc"] if part not in ("str", "list[int]")]
    key = prefix + ".".join(parts)
    where = f"{path}{_line(source, parts[-1] if parts else '', '.'.join(key.split('.')[:-1]))}"
    if first["type"] == "extra_forbidden":
        hint = registry.nearest(parts[-1], ["derive", *next((kind for table, kind in TABLES.items() if table in parts), Plan).model_fields])
        return BadInput(f"{where}: unknown key {key!r}{hint or '; see docs/run.md for the keys of a plan'}")
    if first["type"] == "missing":
        return BadInput(f"{where}: the key {key!r} is missing; add it")
    shown = "" if isinstance(first["input"], dict) else f", not {first['input']!r}"
    return BadInput(f"{where}: {key}: {first['msg'].removeprefix('Value error, ')}{shown}")


def _line(source: str, key: str, table: str) -> str:
    """Return ":LINE" where the key is set, looking inside its own table first; empty where it was inherited."""
    current, fallback = "", ""
    for number, line in enumerate(source.splitlines(), 1):
        if header := re.match(r"\s*\[\s*([^\]]+?)\s*\]", line):
            current = header.group(1)
        if re.match(rf"\s*[\"']?{re.escape(key)}[\"']?\s*=", line):
            if current == table:
                return f":{number}"
            fallback = fallback or f":{number}"
    return fallback


def _needed(stages: dict[str, Stage], name: str) -> list[str]:
    """Return what must be trained before a stage: the one it comes after, and the one that trains its reward model."""
    return [stages[name].after, *([reward] if (reward := stages[name].reward_stage(stages)) else [])]


def _topological(stages: dict[str, Stage], where: str = "plan") -> list[str]:
    order: list[str] = []

    def visit(name: str, chain: list[str]) -> None:
        if name == BASE or name in order:
            return
        if name not in stages:
            raise BadInput(f"{where}: stage {chain[-1]!r} comes after {name!r}, which is no stage{registry.nearest(name, [BASE, *stages])}")
        if name in chain:
            raise BadInput(
                f"{where}: the stages {' -> '.join([*chain, name])} wait for each other in a circle; start one of them at 'base'"
            )
        for before in _needed(stages, name):
            visit(before, [*chain, name])
        order.append(name)

    for name in stages:
        visit(name, [])
    return order


def _check_rewards(stages: dict[str, Stage], where: str) -> None:
    """Refuse what a reward model cannot be, and what cannot be one."""
    for name, stage in stages.items():
        if stage.after in stages and stages[stage.after].scores:
            raise BadInput(
                f"{where}: stage {name!r} comes after {stage.after!r}, which trains a reward model and no language model; name another"
            )
        needs = registry.algorithm(stage.algorithm).needs
        reward = (stage.model_extra or {}).get("reward")
        if "rollouts" not in needs or not isinstance(reward, str):
            continue
        if reward in stages and not stages[reward].scores:
            raise BadInput(
                f'{where}: the reward of stage {name!r} is {reward!r}, which trains no reward model; give it algorithm = "reward"'
            )
        if reward not in stages and not Path(reward).exists() and not re.search("[/:]", reward):
            known = [other for other, one in stages.items() if one.scores]
            raise BadInput(
                f"{where}: the reward of stage {name!r} is {reward!r}, which is no stage and no folder{registry.nearest(reward, known)}"
            )


def _on_path(stages: dict[str, Stage], name: str, setting: dict[str, Any]) -> dict[str, Any]:
    """Return the swept values that this stage or one before it depends on."""
    path, waiting = set(), [name]
    while waiting:
        at = waiting.pop()
        if at != BASE and at not in path:
            path.add(at)
            waiting += _needed(stages, at)
    return {key: value for key, value in setting.items() if key.split(".")[1] in path}


def _short(key: str, name: str) -> str:
    own = key.split(".", 2)
    return own[2].removeprefix("data.") if own[1] == name else f"{own[1]}.{own[2]}"


def _with(stage: Stage, keys: list[str], value: Any) -> Stage:
    """Return the stage with one setting changed; `data.gap` changes the parameter `gap` of the data's address."""
    if len(keys) == 1:
        return Stage(**stage.model_dump() | {keys[0]: value})
    if keys[0] == "data":
        address, _, query = stage.data.partition("?")
        return _with(stage, ["data"], f"{address}?{urlencode(dict(parse_qsl(query)) | {keys[1]: value})}")
    table = dict(stage.model_dump().get(keys[0]) or {})
    return Stage(**stage.model_dump() | {keys[0]: table | {keys[1]: value}})
