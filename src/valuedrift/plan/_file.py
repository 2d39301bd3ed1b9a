"""Reads a plan's TOML file into a checked `Plan`. Every fault is one sentence with the file, the line and the nearest known word."""

from __future__ import annotations

import contextlib
import json
import os.path
import re
import tomllib
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from .. import registry
from ..nouns import BadInput
from .graph import BASE, in_order
from .settings import REMOVED, RENAMED, TABLES, Plan, Settings, Stage

Tables = dict[str, Any]
LONGEST = 1_000
"""Most characters of a text in a plan: texts are names and paths."""


@dataclass(frozen=True)
class _Source:
    """What a plan was read from: its file, and the --set options that change it."""

    path: Path
    text: str
    changes: Sequence[str]

    def at(self, key: str) -> str:
        """Return the --set option that sets a dotted key, else the file with the line that sets it."""
        return set_by(key, self.changes) or f"{self.path}{_line(self.text, key)}"


def load(path: Path | str, changes: Sequence[str] = ()) -> Plan:
    """Read a plan and change it by KEY=VALUE settings. Raises BadInput naming the file, the line and the nearest known key."""
    try:
        return _loaded(Path(path), changes)
    except RecursionError:
        raise BadInput(f"{path} nests its tables, or chains stages that are like each other, too deeply; write it flatter") from None


def set_by(key: str, changes: Sequence[str]) -> str:
    """Return the --set option that sets a dotted key; "" if none does."""
    setting = (change for change in reversed(changes) if f"{key}.".startswith(f"{_dotted(change.partition('=')[0])}."))
    return next((f"--set {change}" for change in setting), "")


def changed(tables: Tables, changes: Sequence[str]) -> Tables:
    """Return tables changed by KEY=VALUE settings; a value is written as in TOML, and a text needs no quotes."""
    for change in changes:
        key, _, value = change.partition("=")
        assigned: Tables = {}
        for line in (change, f"{key}={json.dumps(value, ensure_ascii=False)}") if key and "=" in change else ():
            with contextlib.suppress(ValueError):
                assigned = assigned or tomllib.loads(line)
        if not assigned:
            raise BadInput(f"--set {change} sets nothing; write KEY=VALUE, for example draws=3 or judge=cues")
        stages, named = tables.get("stage"), assigned.get("stage")
        if isinstance(stages, dict) and isinstance(named, dict) and (unknown := [name for name in named if name not in stages]):
            raise BadInput(f"--set {change}: there is no stage {unknown[0]!r}{registry.among(unknown[0], list(stages))}")
        tables = _merged(tables, assigned)
    return tables


def _loaded(path: Path, changes: Sequence[str]) -> Plan:
    tables, text = _derived(path, ())
    source = _Source(path, text, changes)
    tables = changed(tables, changes)
    _refuse_unusable(tables, "", source)
    if isinstance(tables.get("stage"), dict):
        tables["stage"] = {name: _like(tables["stage"], name, path, ()) for name in tables["stage"]}
        _check_algorithms(tables["stage"], source)
    try:
        plan = Plan.model_validate(tables)
    except ValidationError as error:
        raise fault(error, source.at) from error
    for name, stage in plan.stage.items():
        if not re.fullmatch(r"[a-z0-9_-]+", name) or name == BASE:
            raise BadInput(f"{path}: stage name {name!r} must be lower-case letters, digits, - or _, and not 'base'")
        _check_own(stage, name, source)
    try:
        in_order(plan.stage)
        _check_rewards(plan.stage)
        _check_sweep(plan, source)
        plan.nodes()
    except BadInput as error:
        raise BadInput(str(error) if str(error).startswith((str(path), "--set ")) else f"{path}: {error}") from error
    return plan


def _derived(path: Path, seen: tuple[Path, ...]) -> tuple[Tables, str]:
    """Return a plan's tables merged over those of the plan that it derives from, and the text of its own file."""
    if path.resolve() in seen:
        raise BadInput(f"{path}: plans derive from each other in a circle; remove one 'derive'")
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadInput(f"there is no plan {path}; give the path of a TOML file") from None
    except (OSError, ValueError) as error:
        raise BadInput(f"{path} cannot be read: {error}; give the path of a TOML file") from error
    try:
        tables = tomllib.loads(text)
    except ValueError as error:  # also raised for a number of thousands of digits
        raise BadInput(f"{path} is not valid TOML: {error}") from error
    source = _Source(path, text, ())
    _refuse_unusable(tables, "", source)
    parent = tables.pop("derive", None)
    if parent is None:
        return tables, text
    if not isinstance(parent, str):
        raise BadInput(f"{source.at('derive')}: derive is the path of another plan, not {_shown(parent)}")
    inherited, _ = _derived(path.parent / parent, (*seen, path.resolve()))
    return _merged(inherited, tables), text


def _refuse_unusable(value: Any, key: str, source: _Source) -> None:
    """Raise BadInput for values that TOML allows and no setting can have."""
    nested = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, entry in nested:
        _refuse_unusable(entry, f"{key}.{name}".lstrip(".") if isinstance(value, dict) else key, source)
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise BadInput(f"{source.at(key)}: {key}: {_shown(value)} has more than 64 bits; give a smaller number")
    texts = [key.rpartition(".")[2], value if isinstance(value, str) else ""]
    if control := next((one for text in texts for one in text if unicodedata.category(one) == "Cc"), None):
        raise BadInput(f"{source.at(key)}: {_shown(key)} contains the control character {control!r}; remove it")
    if (n := max(map(len, texts))) > LONGEST:
        raise BadInput(f"{source.at(key)}: {_shown(key)} contains a text of {n:,} characters; names and paths have at most {LONGEST:,}")


def _merged(below: Tables, above: Tables) -> Tables:
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, dict) and isinstance(result.get(key), dict)
        result[key] = _merged(result[key], value) if both else value
    return result


def _like(stages: Tables, name: str, path: Path, seen: tuple[str, ...]) -> Any:
    """Return a stage's table merged over that of the stage it is `like`."""
    table = stages[name]
    if not isinstance(table, dict) or "like" not in table:
        return table
    other = table["like"]
    if not isinstance(other, str) or other not in stages:
        raise BadInput(f"{path}: stage {name!r} is like {_shown(other)}, which is no stage{registry.nearest(str(other), list(stages))}")
    if other in (*seen, name):
        raise BadInput(f"{path}: the stages {' -> '.join([*seen, name, other])} are like each other in a circle; write one of them out")
    own, whole = {key: value for key, value in table.items() if key != "like"}, _like(stages, other, path, (*seen, name))
    return _merged(whole, own) if isinstance(whole, dict) else whole


# -- checks that ask a stage's algorithm ------------------------------------------------------------------------------------


def _check_algorithms(stages: Tables, source: _Source) -> None:
    """Raise BadInput for an unknown algorithm, with file and line; later checks that look it up know neither."""
    for name, table in stages.items():
        if isinstance(table, dict) and isinstance(table.get("algorithm"), str):
            try:
                registry.algorithm(table["algorithm"])
            except BadInput as error:
                raise BadInput(f"{source.at(f'stage.{name}.algorithm')}: {error}") from error


def _check_own(stage: Stage, name: str, source: _Source, at: str = "") -> None:
    """Refuse unknown keys and values of the algorithm, and a missing reward. The message names the line of the key `at`, if given."""
    algorithm = registry.algorithm(stage.algorithm)
    known = sorted({*Stage.model_fields, *algorithm.Settings.model_fields})
    for key in stage.model_extra or {}:
        if key not in algorithm.Settings.model_fields:
            hint = _hint(key, known) or f"; it knows {', '.join(known)}"
            where = source.at(at or f"stage.{name}.{key}")
            raise BadInput(f"{where}: unknown key {key!r} in [stage.{name}] ({stage.algorithm}){hint}")
    try:
        own = stage.own()
    except ValidationError as error:
        raise fault(error, source.at, prefix=f"stage.{name}.", line_of=at) from error
    if "rollouts" in algorithm.needs and not own.reward:
        raise BadInput(
            f"{source.at(at or f'stage.{name}')}: stage {name!r} ({stage.algorithm}) has no reward; set `reward` to a stage with "
            "algorithm = 'reward', or to a reward model's folder"
        )


def _check_rewards(stages: Mapping[str, Stage]) -> None:
    """Refuse a stage that starts from a reward model, and a `reward` that names no reward model."""
    scorers = [name for name, stage in stages.items() if stage.scores]
    for name, stage in stages.items():
        if stage.after in scorers:
            raise BadInput(
                f"stage {name!r} comes after {stage.after!r}, which trains a reward model, not a language model; name another stage"
            )
        if "rollouts" not in registry.algorithm(stage.algorithm).needs:
            continue
        given = (stage.model_extra or {}).get("reward")
        for reward in [given] if isinstance(given, str) else given or []:
            if reward in stages and reward not in scorers:
                raise BadInput(f'the reward of stage {name!r} is {reward!r}, which trains no reward model; give it algorithm = "reward"')
            if reward in stages and isinstance(given, list):
                raise BadInput(f"the rewards of stage {name!r} name the stage {reward!r}, which must be the only one: reward = {reward!r}")
            if reward not in stages and not re.search("[/:]", reward) and not os.path.exists(reward):
                hint = registry.nearest(reward, scorers)
                raise BadInput(f"the reward of stage {name!r} is {reward!r}, which is no stage and no folder{hint}")


def _check_sweep(plan: Plan, source: _Source) -> None:
    """Refuse a swept key that is not a setting of a stage, and a value that the setting cannot have."""
    for key, values in plan.sweep.items():
        if not re.fullmatch(r"stage\.[a-z0-9_-]+\.(?!after$)(\w+|(data|lora|anchor)\.\w+)", key) or key.split(".")[1] not in plan.stage:
            stages = ", ".join(plan.stage)
            raise BadInput(
                f"sweep key {key!r} does not name a setting of a stage; write stage.NAME.SETTING (not after), NAME one of {stages}"
            )
        _, name, *keys = key.split(".")
        for value in values:
            try:
                stage = plan.stage[name].changed(keys, value)
            except ValidationError as error:
                raise fault(error, source.at, prefix=f"stage.{name}.", line_of=f"sweep.{key}") from error
            _check_own(stage, name, source, f"sweep.{key}")
            _check_rewards({**plan.stage, name: stage})


# -- sentences ---------------------------------------------------------------------------------------------------------------


def fault(error: ValidationError, at: Callable[[str], str], model: type[Settings] = Plan, prefix: str = "", line_of: str = "") -> BadInput:
    """Return the sentence for a pydantic error in a `model`.

    `at` maps a dotted key to where it is set. `line_of` is the key to look up if it differs from the refused one.
    """
    # A misspelt key also counts as missing; the message about the misspelling helps more.
    first = min(error.errors(), key=lambda found: found["type"] != "extra_forbidden")
    parts = [str(part) for part in first["loc"] if not re.fullmatch(r"str|list\[.*|function-.*|literal\[.*", str(part))]
    key = prefix + ".".join(parts)
    where = at(line_of or key)
    if first["type"] == "extra_forbidden":
        known = {"derive", *next((kind for table, kind in TABLES.items() if table in parts), model).model_fields} - {key}
        hint = _hint(parts[-1], sorted(known))
        return BadInput(f"{where}: unknown key {key!r}{hint or '; see docs/run.md for the keys of a plan'}")
    if first["type"] == "missing":
        return BadInput(f"{where}: the key {key!r} is missing; add it")
    return BadInput(f"{where}: {sentence(first)}" if where.startswith("--") else f"{where}: {key}: {sentence(first)}")


def _hint(key: str, known: Sequence[str]) -> str:
    """Return the end of a sentence about an unknown key: what replaced it if it was removed or renamed, else the nearest known key."""
    if key in REMOVED:
        return f"; version 0.2.0 removed it: {REMOVED[key]}"
    return f"; it is called {RENAMED[key]!r} now" if RENAMED.get(key) in known else registry.nearest(key, known)


def sentence(fault: ErrorDetails) -> str:
    """Return what is wrong with one value: the nearest allowed word if there are few, else the expected kind."""
    value = fault["input"]
    if fault["type"] == "literal_error":
        known = re.findall(r"'([^']*)'", fault["ctx"]["expected"])
        return f"unknown value {_shown(value)}{registry.among(str(value), known)}"
    said = re.sub(r"a valid dictionary( or instance of \w+)?$", "a table", fault["msg"].removeprefix("Value error, "))
    names_it = fault["type"] == "value_error" and (repr(value) in said or said.endswith("."))  # a whole sentence names the word itself
    return said if names_it else f"{said}, not {_shown(value)}"


def _shown(value: Any) -> str:
    """Return a value as the plan writes it, shortened to fit a sentence."""
    if isinstance(value, dict):
        return "a table"
    shown = str(value).lower() if isinstance(value, bool) else str(value) if hasattr(value, "isoformat") else repr(value)
    return shown if len(shown) <= 60 else f"{shown[:60]}…"


def _line(text: str, key: str) -> str:
    """Return ":LINE" of a dotted key, or of the nearest table around it; "" if the file has neither."""
    table, best, found = "", "", ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := re.match(r"\s*\[\[?\s*([^\]]+?)\s*\]", line):
            table = at = _dotted(header[1])
        elif assigned := re.match(r"""\s*((?:[\w.-]|\s(?=[.\s]*\.)|"[^"]*"|'[^']*')+)\s*=""", line):
            at = ".".join(filter(None, (table, _dotted(assigned[1]))))
        else:
            continue
        if len(at) > len(best) and (key == at or key.startswith(f"{at}.")):
            best, found = at, f":{number}"
    return found


def _dotted(key: str) -> str:
    """Return a TOML key without quotes and spaces."""
    return re.sub(r"[\"'\s]", "", key)
