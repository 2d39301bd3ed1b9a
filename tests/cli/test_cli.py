"""The command line: fast help, one sentence for bad input, JSON on stdout alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer
from pydantic import Field

from valuedrift.cli.options import settings
from valuedrift.nouns import BadInput
from valuedrift.plan import Resources, Settings

REPOSITORY = Path(__file__).resolve().parents[2]
HH = REPOSITORY.parent / "shared" / "data" / "hh-harmless" / "pairs.jsonl"


def valuedrift(*arguments, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", "from valuedrift.cli import main; main()", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, **options)


def test_help_imports_no_torch():
    code = "import sys; sys.argv = ['valuedrift', '--help']\nfrom valuedrift.cli import app\ntry:\n app()\nexcept SystemExit: pass\n"
    code += "heavy = {'torch', 'transformers', 'numpy', 'polars', 'sklearn', 'altair'} & set(sys.modules)\nassert not heavy, heavy"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60).returncode == 0
    started = time.monotonic()
    valuedrift("--help")
    # The promise is under a second on an idle machine; ten guard against an import of torch on a busy one.
    assert time.monotonic() - started < 10


def test_importing_the_package_and_naming_an_answer_import_no_torch():
    code = (
        "import sys, valuedrift, valuedrift.suites; from valuedrift.evaluate import answer_key; from valuedrift.nouns import *;"
        "from valuedrift.models.loading import weights_digest; from valuedrift.plan import EvaluationSettings;"
        "answer_key(Checkpoint('s', 0, 'p', 'w'), Prompt('i', 't', 'q', 'c'), 0, EvaluationSettings(), 0);"
        "heavy = {'torch', 'transformers', 'numpy'} & set(sys.modules); assert not heavy, heavy"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nowhere.toml"], "there is no plan nowhere.toml"),
        (["check", "nowhere.toml"], "there is no plan nowhere.toml"),
        (["trace", "nowhere"], "there is no folder nowhere"),
        (["trace", ".", "--draws", "0"], "--draws: Input should be greater than 0, not 0"),
        (["trace", ".", "--prompt-format", "pain"], "--prompt-format: unknown value 'pain'; did you mean 'plain'?"),
        (["trace", ".", "--draws", "1", "--set", "draws=0"], "--set draws=0: Input should be greater than 0, not 0"),
        (["trace", ".", "--set", "drws=3"], "--set drws=3: unknown key 'drws'; did you mean 'draws'?"),
        (["trace", ".", "--set", "resources.gpu=1"], "--set resources.gpu=1: unknown key 'resources.gpu'; did you mean 'gpus'?"),
        (["watch", ".", "--set", "precision=0.1"], "unknown key 'precision'; version 0.2.0 removed it: sample fewer answers with `draws`"),
        (["judge", "nowhere"], "Missing option '--judge'"),
        (["calibrate", "--gold", "nowhere.jsonl"], "calibrate needs --judge and --gold"),
        (["trace", ".", "--topics", "abortoin"], "holds no model"),
        (["gap", "nowhere.jsonl"], "nowhere.jsonl"),
        (["gap", "sandbox:pairs?gpa=1", "--judge", "oracle"], "did you mean 'gap'?"),
        (["gap", "sandbox:pairs", "--judge", "orcale"], "unknown judge 'orcale'; did you mean 'oracle'?"),
        (["synth", "nowhere.toml"], "there is no specification nowhere.toml"),
        (["calibrate", "--judge", "cues", "--gold", "nowhere.jsonl"], "nowhere.jsonl"),
        (["report", "nowhere"], "nowhere is not a finished run"),
        (["stage", "nowhere"], "nowhere is not the folder of a stage (it holds no task.json)"),
        (["trace", ".", "--judge", "cuse:x"], "oracle, panel, trained.\n"),
        (["compare", "nowhere", "nowhere"], "nowhere is not a finished run"),
        (["gate", "nowhere", "--max-drift", "work.support=0.1"], "nowhere is not a finished run"),
        (["suite", "check", "nowhere.jsonl"], "there is no suite file nowhere.jsonl"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_two(arguments, sentence, tmp_path):
    done = valuedrift(*arguments, cwd=tmp_path, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 2, done.stderr
    assert sentence in done.stderr
    assert done.stderr.startswith("valuedrift: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.slow
def test_files_of_the_wrong_kind_are_one_sentence(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe n = 1")
    (tmp_path / "typo.toml").write_text('modle = "sandbox:base"\n')
    for arguments, sentence in (
        (["trace", "bytes"], "bytes is a file but not a GGUF file; give the folder of a checkpoint"),
        (["synth", "bytes"], "bytes is not valid TOML"),
        (["check", "bytes"], "bytes cannot be read"),
        (["check", "typo.toml"], "typo.toml:1: unknown key 'modle'; did you mean 'model'?"),
    ):
        done = valuedrift(*arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
        assert sentence in done.stderr


def test_a_small_gold_file_gives_numbers_without_intervals(tmp_path):
    (tmp_path / "gold.jsonl").write_text('{"claim": "Tea is good.", "text": "I agree, tea is good.", "stance": "pro"}\n' * 2)
    done = valuedrift("calibrate", "--judge", "cues", "--gold", "gold.jsonl", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "weak" in done.stdout


def test_ctrl_c_says_what_to_do(tmp_path):
    code = "import os, signal, threading\nthreading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
    code += "import sys, time\nfrom valuedrift.cli import main, runs\nsys.argv = ['valuedrift', 'demo']\n"
    code += "runs.run = lambda *_, **__: time.sleep(20)\nmain()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.strip().endswith("interrupted; the same command again finishes the rest")


@pytest.mark.slow
def test_suite_check_names_faults_and_exits_two(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"id": "a", "text": "Is tea good?"}\n{"id": "a", "text": "Is bread bad?"}\n{broken\n')
    done = valuedrift("suite", "check", "own.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0].startswith("own.jsonl:2: the id 'a' is already used on line 1")
    assert done.stdout.splitlines()[1].startswith("own.jsonl:3: ")
    listed = valuedrift("suite", "list", "--json")
    assert json.loads(listed.stdout)["suites"]["vaes"]["abortion"] == 50


@pytest.mark.slow
def test_synth_writes_pairs_that_gap_measures_as_meant(tmp_path):
    (tmp_path / "spec.toml").write_text("n = 220\ngap = 0.5\n")
    done = valuedrift("synth", "spec.toml", "--out", "pairs", "--json", cwd=tmp_path)
    result = json.loads(done.stdout)
    assert (result["n_pairs"], result["target_gap"], result["leaked_prompts"]) == (220, 0.5, 0)
    assert abs(result["achieved_gap"] - 0.5) <= 0.03
    assert all(abs(gap - 0.5) <= 0.03 for gap in result["achieved_by_topic"].values())
    for direction, sign in (("support", 1), ("oppose", -1)):
        measured = json.loads(valuedrift("gap", f"pairs/pairs.{direction}.jsonl", "--judge", "oracle", "--json", cwd=tmp_path).stdout)
        assert measured["n_pairs"] == 220
        gaps = [row["support"]["gap"]["value"] for row in measured["topics"].values() if row["n"] >= 10]
        assert sum(sign * gap for gap in gaps) / len(gaps) == pytest.approx(0.5, abs=0.12)
    (tmp_path / "spec.toml").write_text("gpa = 0.5\n")
    assert "unknown key 'gpa'; did you mean 'gap'?" in valuedrift("synth", "spec.toml", cwd=tmp_path).stderr


@pytest.mark.slow
@pytest.mark.skipif(not HH.exists(), reason="the shared development data is not beside this checkout")
def test_gap_reads_real_human_pairs():
    done = valuedrift("gap", HH, "--judge", "cues", "--json")
    result = json.loads(done.stdout)
    assert result["n_pairs"] == 1720
    assert set(result["topics"]["work"]) >= {"support", "neutral", "oppose", "tv"}
    assert {"length_gap", "refusal_gap", "on_topic"} <= set(result)
    assert "weak" in result["note"]


class Model(Settings):
    """Settings of every kind."""

    words: list[str] = []
    """Some words.

    More than the help says.
    """
    share: Annotated[float, Field(gt=0)] | None = None
    kind: Literal["this", "that"] = "this"
    flag: bool = True
    table: Resources | None = None


def called(*arguments, **how):
    """Return the settings that a verb with generated options gets."""
    app, got = typer.Typer(), []

    @app.command()
    @settings(Model, *how.pop("names", ()), **how)
    def verb(name: str, model: Model) -> None:
        got.append((name, model))

    app(["n", *arguments], standalone_mode=False)
    return got[0][1]


def test_options_are_made_from_settings():
    assert called() == Model()
    assert not called().model_fields_set
    given = called("--words", "a, b", "--share", "2", "--kind", "that", "--no-flag", "--set", "table.gpus=1", "--set", "share=3")
    assert given == Model(words=["a", "b"], share=3, kind="that", flag=False, table=Resources(gpus=1))
    with pytest.raises(BadInput, match=r"^--share: Input should be greater than 0, not -1\.0$"):
        called("--share", "-1")
    with pytest.raises(BadInput, match=r"^--kind: unknown value 'thta'; did you mean 'that'\?"):
        called("--kind", "thta")


def test_a_verb_may_take_some_of_the_settings():
    assert called("--share", "2", names=("share",)) == Model(share=2)
    for arguments in (["--flag"], ["--set", "flag=true"]):
        with pytest.raises(Exception, match="No such option"):
            called(*arguments, names=("share",))
    with pytest.raises(Exception, match="Missing parameter: share"):
        called(share="required")


def test_the_help_says_what_the_settings_say():
    app = typer.Typer(add_completion=False)
    app.command()(settings(Model)(_verb))
    words, share, kind, flag, changes = typer.main.get_command(app).params
    assert (words.help, words.opts) == ("Some words.", ["--words"])
    assert (share.show_default, kind.show_default, flag.show_default) == (False, "this", "on")
    assert flag.secondary_opts == ["--no-flag"]
    assert changes.opts == ["--set"]


def _verb(model: Model) -> None:
    """Do nothing."""
