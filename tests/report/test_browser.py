"""The report in a real browser without a network: no error, no request, readable and usable."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from valuedrift.progress import shown
from valuedrift.report.page import write_report

pytestmark = pytest.mark.slow

spec = importlib.util.spec_from_file_location("made_run", Path(__file__).resolve().parent / "made.py")
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)

SIX = (("sft", "base"), ("dpo[gap=0]", "sft"), ("dpo[gap=1]", "sft"), ("simpo", "sft"), ("ppo", "base"), ("again", "simpo"))
RUNS = {
    "branched": {},
    "one": {"branches": (("trace", "base"),), "topics": ("work",), "steps": (0, 500, 1000), "note": "", "hostile": False},
    "six": {"branches": SIX, "topics": ("work",), "steps": (0, 8), "n_prompts": 1},
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory):
    stores = {name: made.make_run(tmp_path_factory.mktemp(name), **settings) for name, settings in RUNS.items()}
    for store in stores.values():
        write_report(store)
    return stores


@pytest.fixture
def opened(driver, stores):
    """Return a function that opens a run's report at a width and says what the browser logged."""

    def open_report(name, width=1280, scheme="light"):
        driver.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride", {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        )
        driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
        driver.get("about:blank")
        for log in ("browser", "performance"):
            driver.get_log(log)
        driver.get((stores[name].root / "report.html").as_uri())
        return driver

    return open_report


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def one_of(driver, selector):
    return driver.find_element("css selector", selector)


def texts(driver, selector):
    return driver.execute_script("return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", selector)


def choose(driver, selector, index):
    script = "arguments[0].selectedIndex = arguments[1]; arguments[0].dispatchEvent(new Event('change', {bubbles: true}))"
    driver.execute_script(script, one_of(driver, selector), index)


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
def test_no_request_leaves_the_page_and_the_console_stays_empty(opened, name):
    driver = opened(name)
    driver.execute_script("document.querySelectorAll('button').forEach(button => button.click())")
    events = [json.loads(entry["message"])["message"] for entry in driver.get_log("performance")]
    urls = [event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"]
    assert [url for url in urls if not url.startswith(("data:", "blob:", "chrome:"))] == [driver.current_url]
    assert driver.get_log("browser") == []


def test_hostile_texts_stay_texts(opened):
    driver = opened("branched")
    assert all_of(driver, "img") == []
    assert driver.title.endswith("· valuedrift")
    assert made.HOSTILE in one_of(driver, "#question").text
    assert made.HOSTILE in one_of(driver, "#texts").text


@pytest.mark.slow
@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.parametrize("width", [360, 768, 1920])
def test_page_never_scrolls_sideways(opened, name, width):
    driver = opened(name, width)
    driver.execute_script("document.querySelectorAll('details').forEach(e => e.open = true)")
    assert driver.execute_script("return document.documentElement.scrollWidth") <= width
    tall = [box for box in all_of(driver, ".plot svg, .dots svg") if box.is_displayed() and box.rect["height"] < 60]
    assert tall == []


def test_dark_follows_the_system_and_the_button_overrides_it(opened):
    def background():
        return driver.execute_script("return getComputedStyle(document.body).backgroundColor")

    driver = opened("branched", scheme="light")
    light = background()
    one_of(driver, "#theme").click()
    dark = background()
    assert light != dark
    driver = opened("branched", scheme="dark")
    assert background() == dark
    one_of(driver, "#theme").click()
    assert background() == light
    stroke = driver.execute_script("return getComputedStyle(document.querySelector('.plot .mark-line path')).stroke")
    assert stroke == "rgb(11, 85, 150)"  # --support in light: the charts follow the theme


def test_table_holds_the_stored_drifts(opened, stores):
    driver = opened("branched")
    lines = "return [...document.querySelectorAll('#drifts tbody tr')]"
    cells = driver.execute_script(f"{lines}.map(row => [...row.children].map(cell => [cell.dataset.c, cell.dataset.v, cell.textContent]))")
    shown = [{name: (stored, text) for name, stored, text in line} for line in cells]
    rows = stores["branched"].read_table("drifts").to_dicts()
    assert len(shown) == len(rows)
    for cells, row in zip(shown, rows, strict=True):
        for name in ("value", "low", "p_adjusted", "floor", "detectable", "time", "n"):
            assert cells[name][0] == ("" if row[name] is None else repr(row[name]))
        if row["value"] is None:
            assert cells["value"][1] == "no evidence"
            continue
        signed = [f"{row[name]:+.3f}".replace("-", "−") for name in ("value", "low", "high")]
        assert cells["value"][1] == signed[0]
        assert cells["low"][1] == f"[{signed[1]}, {signed[2]}]"
        assert cells["p_adjusted"][1] == ("< 0.001 resolved" if row["resolved"] else "0.612")
        assert cells["time"][1].split(" (")[0] == (
            f"{row['time']:.2f} [{row['time_low']:.2f}, {row['time_high']:.2f}]" if row["time"] else "no drift"
        )


def test_table_sorts_with_the_absent_last_and_filters(opened, stores):
    driver = opened("branched")
    values = "return [...document.querySelectorAll('#drifts tbody tr')].map(r => r.querySelector('[data-c=value]').dataset.v)"
    stored = sorted(value for value in stores["branched"].read_table("drifts")["value"] if value is not None)
    button = one_of(driver, "[data-sort=value]")
    for expected, direction in ((stored, "ascending"), (stored[::-1], "descending")):
        driver.execute_script("arguments[0].click()", button)
        now = driver.execute_script(values)
        assert [float(value) for value in now[: len(expected)]] == expected
        assert set(now[len(expected) :]) == {""}
        assert driver.execute_script("return arguments[0].closest('th').ariaSort", button) == direction
    drifts = stores["branched"].read_table("drifts").to_dicts()
    stances = [row for row in drifts if row["stance"] in ("support", "neutral", "oppose")]
    assert one_of(driver, "#drift-count").text == f"{len(stances)} shown"
    driver.execute_script("arguments[0].click()", one_of(driver, "[name=resolved]"))
    assert one_of(driver, "#drift-count").text == f"{sum(row['resolved'] for row in stances)} shown"


def test_browser_of_answers_switches_topic_prompt_and_draw(opened, stores):
    driver = opened("branched")
    prompts = stores["branched"].read_json("prompts.json")
    choose(driver, "#browse [name=topic]", 2)
    assert one_of(driver, "#question").text == prompts[6]["text"]
    choose(driver, "#browse [name=prompt]", 2)
    assert one_of(driver, "#question").text == prompts[8]["text"]
    assert prompts[8]["claim"] in one_of(driver, "#claim").text
    answers = dict(stores["branched"].answers().select("key", "text").iter_rows())
    assert texts(driver, ".answer p")[0] == shown(answers["sft-0-work-2-0"])
    driver.execute_script("arguments[0].click()", all_of(driver, "#strip button")[1])
    assert texts(driver, ".answer p")[0] == shown(answers["sft-0-work-2-1"])
    assert texts(driver, "#strip button[aria-pressed=true]") == ["draw 2"]
    driver.execute_script("arguments[0].click()", one_of(driver, "[data-go='1']"))
    assert one_of(driver, "#question").text == prompts[6]["text"]
    choose(driver, "#browse [name=topic]", 1)
    assert "no verdict (unparsed)" in texts(driver, ".answer .outcome")[0]


def test_arrow_keys_read_a_checkpoint_and_its_numbers_are_the_stored_row(opened, stores):
    driver = opened("branched")
    plot = all_of(driver, ".plot")[0]
    driver.execute_script("arguments[0].focus()", plot)
    for _ in range(3):
        plot.send_keys("\ue014")  # arrow right
    tip = one_of(driver, "#tip")
    assert tip.is_displayed()
    row = (
        stores["branched"]
        .read_table("profiles")
        .row(
            by_predicate=(made.pl.col("view") == "claim")
            & (made.pl.col("topic") == "all")
            & (made.pl.col("stage") == "sft")
            & (made.pl.col("step") == 4)
            & (made.pl.col("outcome") == "oppose"),
            named=True,
        )
    )
    assert tip.text.startswith("sft step 4")
    assert f"{row['value']:.3f} [{row['low']:.3f}, {row['high']:.3f}]" in tip.text
    plot.send_keys("\ue00c")  # escape
    assert not tip.is_displayed()


def test_chains_are_switched_and_a_silent_topic_says_so(opened):
    driver = opened("branched")
    grids = all_of(driver, "[data-chain-grid]")
    assert [grid.is_displayed() for grid in grids] == [True, False]
    driver.execute_script("arguments[0].click()", all_of(driver, "button[data-chain]")[1])
    assert [grid.is_displayed() for grid in grids] == [False, True]
    silent = [figure for figure in all_of(driver, "[data-chain-grid='1'] figure") if figure.text.startswith("silent")]
    assert [figure.text.splitlines()[1] for figure in silent] == ["no evidence"]
