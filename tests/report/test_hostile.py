"""Texts from outside stay texts in a whole run: on the terminal, in the page, in the logs. The key of a server is written nowhere."""

from __future__ import annotations

import json
import sys
import unicodedata
from html.parser import HTMLParser
from pathlib import Path

import pytest

from valuedrift import cli
from valuedrift.store import Store

sys.path.append(str(Path(__file__).parents[1] / "judge"))

import misbehaving

KEY = "k3y-of-mine-1234567890"
ACTIVE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">=1+1@A{{7*7}}\u202eevil"
ACTING = ACTIVE + "\x1b]0;owned\x07\x9b2J"
CLAIMS = ["Taxes on land should rise", "Every citizen must serve in an army", "Zoos keep animals from harm", "The moon must not be mined"]
SUITE = [
    {
        "id": f"{k}{ACTIVE}",
        "topic": f"topic {k % 2} {ACTIVE}",
        "text": f"{claim}, or not? {ACTIVE * (k == 0)}",
        "claim": f"{claim} {ACTIVE}",
    }
    for k, claim in enumerate(CLAIMS)
]


@pytest.fixture(scope="module")
def traced(tmp_path_factory):
    """Return the folder of a run in which all that can have a name or a text is hostile, and what the terminal got."""
    root = tmp_path_factory.mktemp("hostile")
    suite, out = root / "su<b>[it]*e\x1b[31m.jsonl", root / "run\x1b[31m<i>[0-9]*\n=1"
    suite.write_text("\n".join(map(json.dumps, SUITE)))
    with misbehaving.Server() as server, pytest.MonkeyPatch.context() as monkeypatch, pytest.MonkeyPatch.context() as fast:
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        monkeypatch.setenv("OPENAI_API_KEY", KEY)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        fast.setattr("valuedrift.models.endpoint.LONGEST_BACKOFF_SECONDS", 0.01)
        server.text = lambda number, body: "support" if body["model"] == "j" else f"support {ACTING} Bearer {KEY}"
        server.first_tokens = lambda body: {"support": 0.8, KEY: 0.1, "\x1b[31m": 0.05}
        echo = json.dumps({"error": {"message": f"content filter {'x' * (300 - 3 - 15 - 10)} {KEY} {ACTING}"}}).encode()  # cut in the key
        server.trouble = lambda number, body: (500, b"oops \x1b[2J " + KEY.encode()) if number % 5 == 2 else None
        trace = ["trace", f"openai:m<script>{ACTING}", "--backend", "openai", "--suite", str(suite), "--draws", "2", "--out", str(out)]
        cli.app([*trace, "--judge", "openai:j"], standalone_mode=False)
        server.trouble = lambda number, body: (400, echo) if "Bearer" in json.dumps(body) else None
        cli.app(["judge", str(out), "--judge", f"openai:{ACTING}"], standalone_mode=False)
    return out


def test_a_second_command_reads_all_parts_of_a_folder_whose_name_is_a_pattern(traced):
    store = Store(traced)
    assert store.answers().height == 16
    assert not list(traced.rglob("*.damaged*"))


def test_the_key_is_nowhere_in_the_folder(traced):
    kept = [path.read_bytes() for path in traced.rglob("*") if path.is_file() and path.suffix != ".parquet"]
    tables = [Store(traced).answers(), Store(traced).readings(), *map(Store(traced).read_table, Store(traced).tables())]
    assert not [content for content in (*kept, *(repr(table.to_dicts()).encode() for table in tables)) if KEY[:8].encode() in content]
    assert any("content filter" in reason for reason in Store(traced).readings()["reason"].drop_nulls())


def test_the_page_has_no_element_and_no_handler_of_a_text(traced):
    class Tags(HTMLParser):
        scripts = 0

        def handle_starttag(self, tag, attributes):
            self.scripts += tag == "script"
            assert tag != "img"
            assert not [name for name, _ in attributes if name.startswith("on")]

    page, tags = (traced / "report.html").read_text(), Tags()
    tags.feed(page)
    assert tags.scripts == 2  # the page's own, and the answers as JSON
    acting = {each for each in page if unicodedata.category(each) in ("Cc", "Cf", "Cs", "Zl", "Zp")} - set("\n\t")
    assert not acting


@pytest.mark.parametrize("verb", [["report"], ["compare"], ["calibrate", "--sample"], ["gate", "--max-drift", "x.support=0.1"], ["export"]])
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_the_terminal_gets_nothing_that_acts(traced, tmp_path, capsys, monkeypatch, verb, options):
    rest = {"compare": [str(traced)], "calibrate": ["--out", str(tmp_path / "gold")], "export": ["--out", str(tmp_path / "logs")]}
    monkeypatch.setattr("sys.argv", ["valuedrift", *verb, str(traced), *rest.get(verb[0], []), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    printed = capsys.readouterr()
    assert ended.value.code in (0, 2)
    assert not {each for each in printed.out + printed.err if unicodedata.category(each) in ("Cc", "Cf", "Cs")} - set("\n\t")
    assert KEY[:8] not in printed.out + printed.err


def test_logs_stay_in_their_folder(traced, tmp_path):
    pytest.importorskip("inspect_ai", reason="inspect-ai is not installed")
    from inspect_ai.log import read_eval_log

    from valuedrift.integrations.inspect import export

    paths = [Path(path) for path in export(traced, tmp_path / "logs")]
    assert {path.parent for path in paths} == {tmp_path / "logs"}
    assert any(ACTIVE in sample.input for sample in read_eval_log(str(paths[0])).samples)


@pytest.mark.slow
def test_no_script_of_a_text_runs_in_a_browser(traced, driver):
    driver.get((traced / "report.html").as_uri())
    driver.execute_script("document.querySelectorAll('button').forEach(button => button.click())")
    assert driver.title.endswith("· valuedrift")
    assert driver.get_log("browser") == []
    assert "document.title='owned'" in driver.find_element("id", "texts").text
    assert not driver.execute_script(r"return /[\u202e\u001b]/.test(document.documentElement.textContent)")
