"""What the report says, read as text: from stored rows, escaped, within its size."""

from __future__ import annotations

import dataclasses
import html
import importlib.util
import itertools
import json
import re
import struct
from pathlib import Path

import polars as pl
import pytest

from valuedrift.analyses import answers, drift, overview, provenance
from valuedrift.nouns import BadInput
from valuedrift.report.chart import PAGE, svg, trajectory
from valuedrift.report.page import picture, write_report
from valuedrift.report.run import places, read
from valuedrift.report.words import embedded, estimate, interval, listed, number

spec = importlib.util.spec_from_file_location("made_run", Path(__file__).resolve().parent / "made.py")
made = importlib.util.module_from_spec(spec)
spec.loader.exec_module(made)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return made.make_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def run(store):
    return read(store)


def text_of(html: str) -> str:
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", "", html))


def test_numbers_read_the_same_everywhere_and_an_absent_one_is_no_number():
    assert number(0.12345) == "0.123"
    assert number(-0.5, sign=True) == "−0.500"
    assert number(None) == "no evidence"
    assert interval(0.1, None) == "no interval"
    assert estimate({"value": 0.1, "low": -0.05, "high": 0.25}, sign=True) == "+0.100 [−0.050, +0.250]"
    assert estimate({"value": None, "low": None, "high": None}) == "no evidence"
    assert listed("abc") == "a, b and c"


def test_embedded_json_cannot_end_its_element_and_reads_back():
    content = {"text": made.HOSTILE + "<!-- \u2028"}
    assert "<" not in embedded(content)
    assert json.loads(embedded(content)) == content


def test_places_are_logarithmic_for_log_spaced_steps_and_else_linear():
    # log1p(3) / log1p(99) = 1.3863 / 4.6052 = 0.3010; with no margin
    assert places({"steps": [0, 3, 99], "total_steps": 99}, margin=0) == pytest.approx([0, 0.30103, 1], abs=1e-5)
    # (1000 - 500) / (2500 - 500) = 0.25; the first measured step starts the axis, the stage's last step ends it
    assert places({"steps": [500, 1000, 1500], "total_steps": 2500}, margin=0) == [0, 0.25, 0.5]
    assert places({"steps": [700], "total_steps": 700}) == [0.5]


def test_chains_run_from_the_base_to_every_last_stage(run):
    assert [[stage["name"] for stage in chain] for chain in run.chains] == [["sft", "dpo-support"], ["sft", "dpo-oppose"]]


def test_several_seeds_of_a_stage_are_one_stage(store, tmp_path):
    again = made.make_run(tmp_path)
    stages = again.read_json("stages.json")
    again.write_json("stages.json", [stage | {"seed": seed} for seed in (0, 1) for stage in stages])
    assert [(stage["name"], stage["seeds"]) for stage in read(again).stages] == [(name, [0, 1]) for name, _ in made.BRANCHED]


def test_chart_has_one_hit_per_checkpoint_and_only_the_colours_of_the_page(run):
    drawn = svg(trajectory(run, run.chains[0], "climate", PAGE, (300, 170)))
    hits = re.search(r'class="[^"]*hits_marks">(.*?)</g>', drawn)[1]
    assert hits.count("<path") == 10  # two stages of five checkpoints
    assert not re.search(r"#[0-9a-f]{3,6}\b", drawn)
    assert 'stroke="var(--support)"' in drawn


def test_findings_name_the_largest_resolved_drifts_of_the_stored_rows(run):
    sentences = drift.Analysis().findings(run.tables, "claim")
    stances = pl.col("stance").is_in(["support", "neutral", "oppose"])
    groups = itertools.product(run.drifts["stage"].unique(maintain_order=True), made.VIEWS)
    for sentence, (stage, view) in zip(sentences, groups, strict=True):
        assert sentence.startswith(f"{stage}, {view} ("), sentence
        rows = run.drifts.filter((pl.col("stage") == stage) & pl.col("resolved") & (pl.col("topic") != "all") & stances, view=view)
        rows = rows.sort(pl.col("value").abs(), descending=True)
        assert f"; {rows.height} of 9 topic-stance drifts resolved" in sentence
        if rows.height:
            largest = f"the largest {rows['topic'][0]} {rows['stance'][0]} {rows['value'][0]:+.2f} [{rows['low'][0]:+.2f}, "
            assert largest in sentence
        assert sentence in html.unescape(overview.Analysis().panel(run))


def test_refusals_that_moved_are_named_once(run):
    refused = pl.col("stance") == "refusal"
    row = {"resolved": True, "value": 0.2, "low": 0.1, "high": 0.3}
    moved = run.drifts.with_columns(**{name: pl.when(refused).then(pl.lit(value)).otherwise(pl.col(name)) for name, value in row.items()})
    sentences = drift.Analysis().findings({"drifts": moved}, "axis")
    said = "Answers without a stance: refusal +0.20 [+0.10, +0.30]."
    assert [said in sentence for sentence in sentences] == [", axis (" in sentence for sentence in sentences]


def test_a_one_sided_swing_is_named_in_the_headline_and_any_view_can_come_first(store, tmp_path):
    swung = made.make_run(tmp_path, branches=(("sft", "base"),))
    still = (pl.col("view") == "claim") | (pl.col("stance") == "neutral") | (pl.col("topic") == "silent")
    swung.publish(
        {
            "drifts.parquet": swung.read_table("drifts").with_columns(
                resolved=~still, value=pl.when(still).then("value").when(pl.col("stance") == "support").then(0.51).otherwise(-0.51)
            )
        }
    )
    claim, axis = drift.Analysis().findings(read(swung).tables, "claim")
    assert claim.startswith("sft, claim (agreement with what is claimed): over all topics no drift is resolved; 0 of 9")
    assert axis.startswith("sft, axis (movement towards one side of each topic's axis): over all topics ")
    assert re.search(r"support \+0\.51 \[.*; oppose -0\.51|oppose -0\.51 \[.*; support \+0\.51", axis)
    assert read(store, "axis").profiles["view"].unique().to_list() == ["axis"]
    with pytest.raises(BadInput, match=r"profiles\.parquet has no view 'paper', only claim and axis; take one of these"):
        read(store, "paper")


def test_headline_shows_the_judges_note_the_notes_and_the_counts(run):
    html = overview.Analysis().panel(run)
    assert "About the judge.</strong> It is weak." in html
    assert "The chat template changed between sft step 0 and step 1." in html
    # 3 stages x 5 steps x 9 prompts x 2 draws = 270 answers, a third of them (topic silent) without a verdict
    tiles = dict(re.findall(r"<dt>([^<]*)</dt><dd>([^<]*)</dd>", html))
    assert (tiles["answers"], tiles["verdicts"], tiles["answers without a verdict"]) == ("270", "180", "90")


def test_answers_keep_within_the_budget_every_topic_alike(run, monkeypatch):
    full = answers.blocks_of(run)
    size = len(embedded(full[0]).encode())
    monkeypatch.setattr(answers, "BUDGET", size * 4)
    kept, left_out = answers.within_budget(full)
    assert 3 <= len(kept) <= 5
    assert {block["topic"] for block in kept} == set(made.TOPICS)
    assert len(kept) + left_out == 9
    assert [block["id"] for block in answers.within_budget(full[::-1])[0]] == [block["id"] for block in kept][::-1]
    assert f"This page shows {len(kept)} of 9 prompts" in answers.Analysis().panel(run)


def test_answers_hold_what_the_judge_read_or_why_it_did_not(run):
    blocks = {block["id"]: block for block in answers.blocks_of(run)}
    row = run.scores.row(by_predicate=(pl.col("answer") == "sft-4-work-1-1"), named=True)
    seed, draw, cells = blocks["work-1"]["draws"][1]
    text, outcome, percent = cells[2]  # step 4 is the third of the first stage
    assert (seed, draw, percent) == (0, 1, 90)
    assert row[("support", "neutral", "oppose", "refusal", "invalid")[outcome]] == 0.9
    assert blocks["work-1"]["texts"][text] == dict(run.answers.iter_rows())["sft-4-work-1-1"]
    assert blocks["silent-0"]["draws"][0][2][0][1] == "unparsed"


def test_repeats_for_the_noise_floor_are_not_browsed(run):
    repeats = run.scores.with_columns(repeat=pl.lit(True), draw=pl.col("draw") + 10)
    both = dataclasses.replace(run, scores=pl.concat([run.scores, repeats]))
    assert answers.blocks_of(both) == answers.blocks_of(run)


def test_provenance_shows_the_plan_as_it_was_written_and_every_digest(run):
    plan = 'model = "sandbox:base" # <b>'
    html = provenance.Analysis().panel(dataclasses.replace(run, provenance={"plan": plan}))
    assert "model = &quot;sandbox:base&quot; # &lt;b&gt;" in html
    assert dataclasses.replace(run, provenance={"plan": plan}).plan == {"model": "sandbox:base"}
    assert "weights-dpo-oppose-100" in html


@pytest.mark.slow
def test_same_rows_give_the_same_page(store):
    first = write_report(store).read_bytes()
    assert write_report(store).read_bytes() == first
    assert len(first) < 500_000


def test_picture_is_a_wide_png(store, tmp_path):
    path = picture(store, tmp_path / "picture.png")
    width, height = struct.unpack(">II", path.read_bytes()[16:24])
    assert path.read_bytes().startswith(b"\x89PNG")
    assert 1450 <= width <= 1750
    assert height > 400


def test_folder_that_is_no_finished_run_is_refused_with_what_to_do(tmp_path):
    half = made.make_run(tmp_path)
    half.publish({"drifts.parquet": half.read_table("drifts").drop("floor", "time")})
    with pytest.raises(BadInput, match=r"drifts\.parquet lacks the columns floor, time; run"):
        write_report(half)
    (tmp_path / "provenance.json").unlink()
    with pytest.raises(BadInput, match=r"is not a finished run"):
        write_report(half)
    assert not (tmp_path / "report.html").exists()
