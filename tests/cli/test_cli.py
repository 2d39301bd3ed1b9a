"""The command line: fast help, one sentence for bad input, JSON on stdout alone."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

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


def test_importing_the_package_imports_no_torch():
    code = "import sys, valuedrift, valuedrift.plan, valuedrift.suites; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "nowhere.toml"], "there is no plan nowhere.toml"),
        (["check", "nowhere.toml"], "there is no plan nowhere.toml"),
        (["trace", "nowhere"], "there is no folder nowhere"),
        (["trace", ".", "--draws", "0"], "--draws: Input should be greater than 0, not 0"),
        (["trace", ".", "--topics", "abortoin"], "holds no model"),
        (["gap", "nowhere.jsonl"], "nowhere.jsonl"),
        (["gap", "sandbox:pairs?gpa=1", "--judge", "oracle"], "did you mean 'gap'?"),
        (["gap", "sandbox:pairs", "--judge", "orcale"], "unknown judge 'orcale'; did you mean 'oracle'?"),
        (["synth", "nowhere.toml"], "there is no specification nowhere.toml"),
        (["calibrate", "--judge", "cues", "--gold", "nowhere.jsonl"], "nowhere.jsonl"),
        (["report", "nowhere"], "nowhere is not a finished run folder"),
        (["compare", "nowhere", "nowhere"], "nowhere is not a finished run folder"),
        (["gate", "nowhere", "--max-drift", "work.support=0.1"], "nowhere is not a finished run folder"),
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


def test_files_of_the_wrong_kind_are_one_sentence(tmp_path):
    (tmp_path / "bytes").write_bytes(b"\xff\xfe n = 1")
    (tmp_path / "typo.toml").write_text('modle = "sandbox:base"\n')
    for arguments, sentence in (
        (["trace", "bytes"], "bytes is a file; give the folder of a checkpoint"),
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
    code += "import sys, time, valuedrift.cli as cli\nsys.argv = ['valuedrift', 'demo']\n"
    code += "cli.demo.__globals__['run'] = lambda *_, **__: time.sleep(20)\ncli.main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 130
    assert done.stderr.strip().endswith("interrupted; the same command again finishes the rest")


def test_suite_check_names_faults_and_exits_two(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"id": "a", "text": "Is tea good?"}\n{"id": "a", "text": "Is bread bad?"}\n{broken\n')
    done = valuedrift("suite", "check", "own.jsonl", cwd=tmp_path)
    assert done.returncode == 2
    assert done.stdout.splitlines()[0].startswith("own.jsonl:2: the id 'a' stands already on line 1")
    assert done.stdout.splitlines()[1].startswith("own.jsonl:3: ")
    listed = valuedrift("suite", "list", "--json")
    assert json.loads(listed.stdout)["suites"]["vaes"]["abortion"] == 50


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


@pytest.mark.skipif(not HH.exists(), reason="the shared development data is not beside this checkout")
def test_gap_reads_real_human_pairs():
    done = valuedrift("gap", HH, "--judge", "cues", "--json")
    result = json.loads(done.stdout)
    assert result["n_pairs"] == 1720
    assert set(result["topics"]["work"]) >= {"support", "neutral", "oppose", "tv"}
    assert {"length_gap", "refusal_gap", "on_topic"} <= set(result)
    assert "weak" in result["note"]
