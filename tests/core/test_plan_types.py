"""Every key of a plan under every type of TOML: a plan or one sentence, never a traceback, and never minutes."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from valuedrift import plan as plans
from valuedrift import verbs
from valuedrift.nouns import BadInput
from valuedrift.plan.settings import Anchor, Lora, Plan, Resources, Stage

STAGES = {
    "sft": 'algorithm = "sft"\ndata = "sandbox:neutral-chat?n=4"',
    "dpo": 'algorithm = "dpo"\nafter = "sft"\ndata = "sandbox:pairs?n=4"',
    "rm": 'algorithm = "reward"\nafter = "sft"\ndata = "sandbox:pairs?n=4"',
    "ppo": 'algorithm = "ppo"\nafter = "sft"\ndata = "sandbox:pairs?n=4"\nreward = "rm"',
    "kto": 'algorithm = "trl:KTOTrainer"\nafter = "sft"\ndata = "sandbox:pairs?n=4"',
    "grpo": 'algorithm = "trl:GRPOTrainer"\nafter = "sft"\ndata = "sandbox:pairs?n=4"\nreward = "rm"',
}


def keys() -> list[str]:
    """Return every key that a plan of these stages may have, dotted; those of its tables too."""
    found = ["derive", *Plan.model_fields, "resources.cpus", 'sweep."stage.dpo.beta"', 'sweep."stage.dpo.data.gap"']
    for name, text in STAGES.items():
        algorithm = text.split('"')[1]
        own = plans.Stage(algorithm=algorithm, data="x").own()
        tables = {"lora": Lora, "anchor": Anchor, "resources": Resources}
        inner = [f"{table}.{key}" for table, kind in tables.items() for key in kind.model_fields]
        found += [f"stage.{name}", *(f"stage.{name}.{key}" for key in ["like", *Stage.model_fields, *type(own).model_fields, *inner])]
    return list(dict.fromkeys(found))


WHOLE = [0, 1, 3, -1, 2**31, 2**63 - 1, -(2**63), 10**400, int("9" * 4000)]
TIMES = ["2020-01-01", "07:32:00", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00"]
TEXTS = [
    "",
    "x",
    "a b",
    "\\u0000",
    "é\\n",
    "log:9999999999",
    "every:1",
    "rm",
    "base",
    "sft",
    "trl:",
    "trl",
    "panel:cues",
    "y" * 5000,
    "a/b",
    "a:b",
]
LEAVES = st.one_of(
    st.booleans().map(lambda value: str(value).lower()),
    st.sampled_from(WHOLE).map(str),
    st.sampled_from(["0.0", "-0.5", "0.5", "1e308", "1e-300", "nan", "inf", "-inf"]),
    st.sampled_from(TEXTS).map(lambda text: f'"{text}"'),
    st.sampled_from(TIMES),
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda values: f"[{', '.join(values)}]"),
        st.dictionaries(st.sampled_from(["a", "n", "data", "stage", "sweep"]), inner, max_size=2).map(
            lambda table: "{" + ", ".join(f"{key} = {value}" for key, value in table.items()) + "}"
        ),
    ),
    max_leaves=4,
)


def plan_with(key: str, value: str) -> str:
    """Return a plan in which one key has this value, as inline TOML."""
    stages = {f"stage.{name}": text for name, text in STAGES.items()}
    tables = {"": 'model = "model"\nsuite = "suite.jsonl"\nmax_new_tokens = 4', **stages, "sweep": ""}
    table = next((name for name in sorted(tables, key=len, reverse=True) if name and key.startswith(f"{name}.")), "")
    inside = key.removeprefix(f"{table}.")
    if key in tables or key == "stage":  # the whole table, and all below it
        tables = {name: text for name, text in tables.items() if name != key and not name.startswith(f"{key}.")}
    lines = [line for line in tables[table].splitlines() if line.partition(" = ")[0] != inside]
    tables[table] = "\n".join([*lines, f"{inside} = {value}"])
    return "\n".join(f"[{name}]\n{text}" if name else text for name, text in sorted(tables.items()))


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tiny_model) -> Path:
    folder = tmp_path_factory.mktemp("plans")
    shutil.copytree(tiny_model, folder / "model")
    (folder / "suite.jsonl").write_text('{"id": "1", "topic": "t", "text": "Is it?", "claim": "It is."}\n')
    return folder


def sentence_of(path: Path) -> str:
    """Return what `check` finds wrong with a plan; empty if nothing is."""
    try:
        verbs.check(plans.load(path), path.parent / "out")
    except BadInput as error:
        return str(error)
    return ""


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(key=st.sampled_from(keys()), value=VALUES)
def test_any_value_at_any_key_is_a_plan_or_a_sentence(folder, key, value):
    os.chdir(folder)  # hypothesis and monkeypatch do not go together
    path = Path("plan.toml")
    path.write_text(plan_with(key, value))
    started = time.monotonic()
    said = sentence_of(path)
    assert "\n" not in said
    assert len(said) < 2000
    assert time.monotonic() - started < 5
