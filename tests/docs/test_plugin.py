"""The package in examples/plugin, installed as a stranger would and used for real; CONTRIBUTING shows it as it is."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

pytestmark = pytest.mark.slow
REPO = Path(__file__).resolve().parents[2]
PLUGIN = REPO / "examples" / "plugin"
FILES = sorted(
    path
    for path in (PLUGIN / "pyproject.toml", *(PLUGIN / "valuedrift_example").iterdir())
    if path.suffix in (".toml", ".py", ".jsonl") and path.name != "__init__.py"
)

PLAN = """model = "{model}"
suite = "dilemmas"
judge = "keywords:{words}"
draws = 2
max_new_tokens = 6
floor = false

[stage.tuned]
algorithm = "hinge"
data = "{pairs}"
delta = 20
steps = 2
batch_size = 2
learning_rate = 1e-2
warmup_ratio = 0
save_at = [1, 2]
"""

MODEL = """
import sys
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
letters = sorted(pre_tokenizers.ByteLevel.alphabet())
raw = Tokenizer(models.BPE({token: index for index, token in enumerate(["<|pad|>", "<|end|>", *letters])}, []))
raw.pre_tokenizer, raw.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
PreTrainedTokenizerFast(tokenizer_object=raw, pad_token="<|pad|>", eos_token="<|end|>").save_pretrained(sys.argv[1])
sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
LlamaForCausalLM(LlamaConfig(vocab_size=258, **sizes, pad_token_id=0, eos_token_id=1, bos_token_id=None)).save_pretrained(sys.argv[1])
from valuedrift.cli import main
sys.argv[1:] = sys.argv[2:]
main()
"""


def run(installed: Path, *command: str) -> str:
    """Return what a command prints with the installed plug-in on the path."""
    path = os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path, "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment, cwd=REPO)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """The folder that pip installed the plug-in into, built from a copy so that the checkout stays clean."""
    root = tmp_path_factory.mktemp("plugin")
    source = shutil.copytree(PLUGIN, root / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__"))
    options = ["--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check"]
    run(root, "-m", "pip", "install", *options, "--target", str(root / "site"), str(source))
    return root / "site"


@pytest.fixture(scope="module")
def finished(installed, tmp_path_factory) -> tuple[Path, dict]:
    """A run folder made with all four extensions at once, and the JSON object that the run printed."""
    root = tmp_path_factory.mktemp("run")
    (root / "words.txt").write_text("+e +a -o\n")
    rows = [{"prompt": f"Is {n} even?", "chosen": "Yes, it is, as all can see.", "rejected": "No."} for n in range(4)]
    (root / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plan = root / "plan.toml"
    plan.write_text(PLAN.format(model=root / "model", words=root / "words.txt", pairs=root / "pairs.jsonl"))
    out = run(installed, "-c", MODEL, str(root / "model"), "run", str(plan), "--out", str(root / "out"), "--json")
    return root / "out", json.loads(out)


def test_the_registry_finds_the_four_extensions(installed):
    pairs = {"algorithm": "hinge", "judge": "keywords", "suite": "dilemmas", "analysis": "lengths"}
    code = (
        f"from valuedrift import registry; print([registry.find(k, n).__module__ for k, n in {pairs!r}.items() if n in registry.names(k)])"
    )
    assert run(installed, "-c", code).strip() == str([f"valuedrift_example.{name}" for name in pairs.values()])


def test_algorithm_and_analysis_keep_the_contracts(installed):
    contracts = [f"tests/contracts/test_{kind}.py" for kind in ("algorithms", "analyses")]
    printed = run(installed, "-m", "pytest", *contracts, "-k", "hinge or lengths", "-p", "no:cacheprovider")
    assert re.search(r"\b8 passed", printed), printed


def test_the_algorithm_moves_the_weights(finished):
    """The loss has a gradient: every saved step holds other weights. The chosen answer is the longer and so the less likely one."""
    out, result = finished
    assert [checkpoint["step"] for checkpoint in result["checkpoints"]] == [0, 1, 2]
    assert len({checkpoint["weights"] for checkpoint in result["checkpoints"]}) == 3
    (losses,) = out.glob("stages/*/losses.json")
    for logged in json.loads(losses.read_text()):
        assert logged["loss"] > 20
        assert logged["grad_norm"] > 0
        assert logged["margin_reached"] == 0


def test_the_judge_read_the_answers_to_the_suite(finished):
    out, result = finished
    assert result["n_answers"] == 3 * 12 * 2
    readings = pl.concat(pl.read_parquet(part) for part in (out / "readings").glob("*.parquet"))
    assert readings["judge"].str.starts_with("keywords/").all()
    assert set(pl.read_parquet(out / "profiles.parquet")["topic"]) == {"honesty", "helping", "all"}


def test_the_panel_stands_in_the_report(finished):
    out, result = finished
    page = (out / "report.html").read_text()
    section = page.split("Answer length</h2>")[1].split("</section>")[0]
    assert re.findall(r"tuned step (\d)</th>", section) == ["0", "1", "2"]
    assert "was never compared with people" in page
    table = pl.read_parquet(out / "answer_length.parquet")
    assert table["step"].to_list() == [0, 1, 2]
    said = f"Answers have {table['words'].min():.1f} to {table['words'].max():.1f} words on average, by checkpoint."
    assert said in page
    assert said in result["findings"]


# -- the formulas, by hand -----------------------------------------------------------------------------------------------------


def module(name: str):
    spec = importlib.util.spec_from_file_location(f"example_{name}", PLUGIN / "valuedrift_example" / f"{name}.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def test_hinge_by_hand():
    """1 - (-4) + (-2) = 3, and 1 - (-1) + (-3) = -1, which is no loss."""
    assert module("hinge").hinge_loss(torch.tensor([-4.0, -1.0]), torch.tensor([-2.0, -3.0]), 1.0).tolist() == [3.0, 0.0]


def test_keywords_by_hand(tmp_path):
    (tmp_path / "words.txt").write_text("+good\n+fair\n-bad\n")
    judge = module("keywords").Judge(str(tmp_path / "words.txt"))
    # two words for, one against, and 1 for neutral: 2/4, 1/4, 1/4
    assert judge.probabilities("Good and FAIR, if a bad habit.") == (0.5, 0.25, 0.25, 0.0, 0.0)
    assert judge.probabilities("Goodness knows.") == (0.0, 1.0, 0.0, 0.0, 0.0)
    assert judge.probabilities(" …") == (0.0, 0.0, 0.0, 0.0, 1.0)
    before = judge.identity
    (tmp_path / "words.txt").write_text("+good\n-fair\n-bad\n")
    assert module("keywords").Judge(str(tmp_path / "words.txt")).identity != before


# -- CONTRIBUTING ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_contributing_shows_the_file_as_it_is(path):
    text = (REPO / "CONTRIBUTING.md").read_text()
    name = path.relative_to(REPO).as_posix()
    shown = re.search(rf"^`{re.escape(name)}`:\n\n```\w*\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    assert shown, f"CONTRIBUTING.md does not show {name}"
    assert shown[1] == path.read_text()
