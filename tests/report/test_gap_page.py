"""The page of a data set prints the stored numbers, keeps hostile texts texts, and works offline at every width."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from valuedrift import verbs
from valuedrift.judge import Judge
from valuedrift.judge.oracle import Judge as Oracle
from valuedrift.nouns import BadInput, Example, Pair, Prompt, Reading
from valuedrift.report.gap_page import page, write_gap_page
from valuedrift.stats.gap import value_gap
from valuedrift.store import Store

spec = importlib.util.spec_from_file_location("made_run", Path(__file__).resolve().parent / "made.py")
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

SUITE = [
    Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed."),
    Prompt("s1", "silent", "Should whaling stop?", "Whaling should stop."),
]
ANSWERS = {"yes": (0.9, 0.1, 0, 0, 0), "no": (0, 0.1, 0.9, 0, 0), "pass": (0, 0, 0, 1, 0)}


class Scripted(Judge):
    identity, note = "scripted/1", "It reads one word."

    def read(self, items):
        return [Reading(item.key, self.identity, ANSWERS[item.text.split()[0]]) for item in items]


def asked(number):
    return (("system", f"Number {number}."), ("user", f"Should coal power stations be closed? {made.HOSTILE}"))


@pytest.fixture(scope="module")
def results():
    """Return a result per kind: a clear gap with hostile topics, few pairs, texts to imitate, and nothing on a topic."""
    replies = [("yes " + made.HOSTILE, "no")] * 30 + [("no", "yes")] * 6
    pairs = [Pair(asked(number), *reply) for number, reply in enumerate(replies)]
    hostile = [Pair(asked(number), "yes", "no", made.HOSTILE, made.HOSTILE) for number in range(8)]
    few = [Pair(asked(99), "yes", "no", f"few {made.HOSTILE}", made.HOSTILE)]
    texts = [Example(asked(number), reply) for number, reply in enumerate(["yes"] * 9 + ["pass"] * 3)]
    texts.append(Example(asked(99), "yes", made.HOSTILE, made.HOSTILE))
    return {
        "clear": value_gap(pairs + hostile + few, SUITE, Scripted()),
        "few": value_gap(pairs[:2], SUITE, Scripted()),
        "texts": value_gap(texts, SUITE, Scripted()),
        "none": value_gap([Pair((("user", "Bread?"),), "yes", "no")], SUITE, Scripted()),
    }


def test_the_page_prints_what_the_file_holds(tmp_path, results):
    path = write_gap_page(Store(tmp_path), results["clear"], ["prefs.jsonl"])
    stored = json.loads((tmp_path / "gap.json").read_text())
    assert stored == results["clear"]
    text = path.read_text()
    gap = stored["topics"]["climate"]["support"]["gap"]
    shown = [f"{gap[name]:+.3f}".replace("-", "−") for name in ("value", "low", "high")]
    assert f"{shown[0]} [{shown[1]}, {shown[2]}]" in text
    assert "Could move a model" in text
    for sentence in (stored["topics"]["climate"]["conclusion"], stored["note"]):
        assert sentence.replace("'", "&#x27;") in text
    assert text.index("Conclusions") < text.index("By topic") < text.index("Content warning")
    assert "No readable text touches silent: no evidence." in text


def test_the_page_shows_the_axis_view_and_says_once_that_a_weak_judge_concludes_nothing():
    class Weak(Scripted):
        agreement = {"macro_f1": 0.5, "n": 220, "intervals": {"macro_f1": [0.4, 0.6]}, "n_failed": 0, "n_read": 220}

    suite = [Prompt("c1", "climate", "Should coal power stations be closed?", "Coal power stations should be closed.", -1)]
    result = value_gap([Pair(asked(number), "yes", "no") for number in range(8)], suite, Weak())
    text = page(result, ["x.jsonl"])
    assert "<td>climate</td><td>axis</td>" in text
    assert text.count("<figcaption>gap, chosen − rejected</figcaption>") == 2
    assert "(against the topic's axis)" in text
    assert text.count(result["validity"]["why"]) == 1
    assert "No conclusion: the judge is too weak" in text
    assert "Could move a model" not in text


def test_texts_get_shares_and_no_gap(results):
    text = page(results["texts"], ["sft.jsonl"])
    share = results["texts"]["topics"]["climate"]["support"]
    assert f"{share['value']:.3f} [{share['low']:.3f}, {share['high']:.3f}]" in text
    assert "rejected" not in text.split("<main")[1]


def test_nothing_on_a_topic_is_no_evidence(results):
    text = page(results["none"], ["x.jsonl"])
    assert "No readable text touches climate, silent: no evidence." in text
    assert "Content warning" not in text


def test_hostile_texts_are_escaped_everywhere(results):
    for result in results.values():
        text = page(result, [made.HOSTILE])
        assert "<img" not in text
        assert text.count("<script>") == 1


def test_a_sandbox_result_makes_a_page(tmp_path):
    from valuedrift.records import records

    suite = [Prompt("w1", "work", "Is work good?", "Work is good.")]
    result = value_gap(records.read("sandbox:pairs?n=40"), suite, Oracle())
    assert write_gap_page(Store(tmp_path), result, ["sandbox:pairs?n=40"]).exists()


# -- in a browser ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["clear", "few", "texts", "none"])
def test_offline_quiet_and_never_wider_than_the_window(driver, tmp_path, results, name):
    path = write_gap_page(Store(tmp_path), results[name], ["a-rather-long-name-of-a-file-of-preference-pairs.jsonl"])
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.get(path.as_uri())
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    for width in (360, 1280):
        size = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        assert driver.execute_script("return document.documentElement.scrollWidth") <= width
        assert driver.execute_script("return [...document.querySelectorAll('svg')].every(e => e.getBoundingClientRect().height > 40)")
    driver.find_element("css selector", "#theme").click()
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))] == [driver.current_url]
    assert driver.get_log("browser") == []
    assert driver.find_elements("css selector", "img") == []


def test_halves_of_surrogate_pairs_in_the_data_are_shown_as_marks(tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text(r'{"prompt": "Should abortion be legal? \ud800", "chosen": "I agree.", "rejected": "No, I disagree."}')
    verbs.gap([str(file)], "vaes", "cues", tmp_path / "out")
    assert "be legal? ?" in (tmp_path / "out" / "gap.html").read_text()


def test_columns_and_rows_left_out_stand_in_the_json_and_on_the_page(tmp_path):
    row = '{"id": 1, "prompt": "Should abortion be legal?", "chosen": "I agree.", "rejected": "No, I disagree."}\n'
    (tmp_path / "pairs.jsonl").write_text(row * 11 + '{"prompt": "Why?", "chosen": null, "rejected": "No."}\n')
    result = verbs.gap([str(tmp_path / "pairs.jsonl")], "vaes", "cues", tmp_path / "out")
    (data,) = result["data"]
    assert (data["n_rows"], data["n_records"], data["columns_not_used"]) == (12, 11, ["id"])
    assert [(left["n"], left["bad"], left["first"][-3:]) for left in data["left_out"]] == [(1, True, ":12")]
    text = (tmp_path / "out" / "gap.html").read_text()
    assert "columns used: chosen, prompt, rejected; not used: id" in text
    assert "left out 1 of 12 rows where the row has &#x27;rejected&#x27; and no &#x27;chosen&#x27;" in text
    with pytest.raises(BadInput, match=r"pairs\.jsonl:12: the row has 'rejected' and no 'chosen'"):
        verbs.gap([str(tmp_path / "pairs.jsonl")], "vaes", "cues", max_bad_rows=0)
