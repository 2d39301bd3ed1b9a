"""Texts from outside reach the terminal through one place, and cannot act on it."""

import json
import re
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import valuedrift
from valuedrift import cli, progress

NASTY = "a\x1b]0;owned\x07b [red]x[/red] \u202egnp\x00\x9b2J\ud800\ufffe\r"
SAFE = r"a\u001b]0;owned\u0007b [red]x[/red] \u202egnp\u0000\u009b2J\ud800\ufffe\u000d"


def acts(text):
    return {each for each in text if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set("\n\t\u200c\u200d")


def test_by_hand():
    assert progress.shown(NASTY) == SAFE
    assert progress.shown("مرحبا — 支持 👩\u200d🔬\n\tx") == "مرحبا — 支持 👩\u200d🔬\n\tx"
    assert progress.shown("\U000e0041") == r"\udb40\udc41"


@given(st.text(st.characters(), max_size=30))
def test_nothing_that_acts_is_left_and_json_stays_the_same(text):
    assert not acts(progress.shown(text))
    content = json.dumps({text: text}, ensure_ascii=False)
    assert json.loads(progress.shown(content)) == {text: text}


@pytest.mark.parametrize("url", ["http://me:hunter2@host/v1", "s3://me:hunter2@bucket/run", "see (https://:hunter2@host:80/v1?x=1)"])
def test_no_password_of_an_address_is_shown(url):
    assert "hunter2" not in progress.shown(url)
    assert progress.shown("mail me@host about http://host/a:b@c") == "mail me@host about http://host/a:b@c"


def test_only_one_module_writes_to_the_terminal():
    root = Path(valuedrift.__file__).parent
    writes = re.compile(r"(?<![\w.])print\(|sys\.std(out|err)\.write|\.print_exception\(|typer\.echo")
    found = {path.relative_to(root).as_posix() for path in root.rglob("*.py") if writes.search(path.read_text())}
    assert found == {"progress.py"}


def test_a_topic_of_the_data_is_shown_harmlessly_and_drawn(tmp_path, capsys):
    row = {
        "topic": NASTY.replace("\ud800", ""),
        "claim": "It is so.",
        "chosen": "Yes, I fully support this.",
        "rejected": "No. I oppose this.",
    }
    lines = [json.dumps(row | {"prompt": f"Is it so, {number}?"}) for number in range(4)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    for options in ([], ["--json"], ["--out", str(tmp_path / "out")]):
        cli.app(["gap", str(tmp_path / "pairs.jsonl"), *options], standalone_mode=False)
        printed = capsys.readouterr()
        assert not acts(printed.out + printed.err)
        assert "[red]x[/red]" in printed.out
    assert (tmp_path / "out" / "gap.html").exists()


def test_bad_input_is_shown_harmlessly(capsys):
    with pytest.raises(SystemExit):
        cli.program.leave(f"{NASTY} cannot be read", 2)
    assert not acts(capsys.readouterr().err)


def test_a_bar_reads_no_markup(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with progress.task(f"judge {NASTY} [/nothing]", 2, "verdicts") as advance:
        advance(1)
        progress.say(f"[bold]{NASTY}")
    assert "\x1b]0;owned" not in capsys.readouterr().err
