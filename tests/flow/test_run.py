"""The whole flow on a tiny model: train, ask, judge, measure, report; done work is skipped, changed work is not."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import torch

from valuedrift import pipeline, plan, resolve, testing, training, verbs
from valuedrift.analyses import drift
from valuedrift.nouns import BadInput, Stopped
from valuedrift.records import digest_of
from valuedrift.store import Store
from valuedrift.train.task import records_of

pytestmark = pytest.mark.slow

SAME = ("answers", "readings", "profiles.parquet", "drifts.parquet", "scores.parquet", "checkpoints.json", "stages.json", "prompts.json")
"""What an interrupted and continued run must leave exactly as an uninterrupted one does (timings live in provenance.json)."""


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    folder = tmp_path_factory.mktemp("run")
    path = folder / "plan.toml"
    path.write_text(testing.PLAN.format(model=tiny_model))
    return path, folder / "out", pipeline.run(plan.load(path), folder / "out")


@pytest.fixture(scope="module")
def untouched(finished):
    """The files of a run that nothing interrupted and that no other test has changed."""
    path, out, _ = finished
    pipeline.run(plan.load(path), out)
    return contents(out)


@pytest.fixture
def plan_file(finished, tmp_path) -> Path:
    """A plan of half the prompts and answers, beside a run folder that holds its two stages and their answers already."""
    path, out, _ = finished
    shutil.copytree(out, tmp_path / "out")
    (tmp_path / "plan.toml").write_text(small(path.read_text()))
    return tmp_path / "plan.toml"


def small(text: str) -> str:
    return text.replace('["work", "religion"]', '["work"]').replace("draws = 2", "draws = 1\nfloor = false\nside_metrics = false")


def contents(out: Path) -> dict[str, bytes]:
    """Return every file that must be equal, without the run folder's own name and the seconds a stage took."""
    files = [file for name in SAME for file in ([out / name] if (out / name).is_file() else sorted((out / name).iterdir()))]
    files += sorted(out.glob("stages/*/checkpoint-*/model.safetensors"))
    stages = json.loads((out / "stages.json").read_text())
    texts = {file.relative_to(out).as_posix(): file.read_bytes().replace(str(out).encode(), b"") for file in files}
    return texts | {"stages.json": json.dumps([{k: v for k, v in stage.items() if k != "seconds"} for stage in stages]).encode()}


def test_a_run_holds_every_table_and_a_report(finished):
    _, out, result = finished
    assert [(stage["name"], stage["steps"]) for stage in result["stages"]] == [("sft", [0, 2, 6]), ("dpo", [0, 3, 6])]
    # 100 prompts x 2 draws; sft 0,2,6 and dpo 3,6 are distinct models (dpo 0 is sft 6), and two stages end with a repeat.
    assert result["n_generated"] == 100 * 2 * (5 + 2)
    assert result["n_answers"] == 100 * 2 * 5  # distinct ones, without the repeats of the noise floor
    assert pl.read_parquet(out / "scores.parquet").height == 100 * 2 * (6 + 2)
    assert Store(out).answers().height == result["n_generated"]
    for name in ("profiles.parquet", "drifts.parquet", "scores.parquet", "provenance.json", "report.html"):
        assert (out / name).stat().st_size > 0
    drifts = pl.read_parquet(out / "drifts.parquet")
    assert set(drifts["stage"]) == {"sft", "dpo"}
    assert set(drifts["topic"]) == {"work", "religion", "all"}
    assert sum(result["outcome_shares"].values()) == pytest.approx(1)
    assert [sentence.split(" (")[0] for sentence in result["findings"]] == ["sft, claim", "sft, axis", "dpo, claim", "dpo, axis"]


def test_the_change_of_prompt_format_is_reported(finished):
    _, out, result = finished
    assert any("prompt format changes in sft between step 0 (plain)" in note for note in result["notes"])
    assert "prompt format changes" in (out / "report.html").read_text()


def test_provenance_says_where_the_figures_came_from(finished):
    path, out, _ = finished
    record = json.loads((out / "provenance.json").read_text())
    assert record["plan"] == plan.load(path).model_dump()
    assert {"torch", "transformers", "python"} <= set(record["versions"])
    assert {"train", "evaluate", "judge", "analyse"} <= set(record["timings"])
    assert record["judge"]["identity"].startswith("oracle/")


def test_the_same_command_again_does_nothing_twice(finished):
    path, out, first = finished
    before = contents(out)
    again = pipeline.run(plan.load(path), out)
    assert (again["n_generated"], again["n_judged"]) == (0, 0)
    assert again["drifts"] == first["drifts"]
    assert contents(out) == before


KILLS = """
import os, signal, sys, time
from pathlib import Path
from valuedrift import registry
from valuedrift.cli import main
import valuedrift.evaluate.transformers, valuedrift.pipeline, valuedrift.report.page, valuedrift.train.stage, valuedrift.train.reward_model

registry.in_order("analysis")  # imported once here, not in every child

path, out, *signs = sys.argv[1:]
kills = 0
for sign in [*signs, ""]:
    child = os.fork()
    if not child:
        sys.argv = ["valuedrift", "run", path, "--out", out, "--json"]
        main()
        sys.stdout.flush()
        os._exit(0)
    deadline, ended = time.monotonic() + 120, 0
    while sign and not ended and not list(Path(out).glob(sign)) and time.monotonic() < deadline:
        time.sleep(0.002)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        if sign:
            os.kill(child, signal.SIGKILL)
        kills += os.WIFSIGNALED(os.waitpid(child, 0)[1])
print(kills, file=sys.stderr)
"""


def test_a_killed_run_is_finished_by_the_same_command(finished, untouched, tmp_path):
    """kill -9 in the middle of training, of sampling, and of judging or later; then compare every file with an uninterrupted run."""
    path, _, _ = finished
    out = tmp_path / "killed"
    signs = ("stages/sft-*/checkpoint-2/complete.json", "answers/*.parquet", "readings/*.parquet")
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # another count of threads adds in another order
    command = [sys.executable, "-c", KILLS, str(path), str(out), *signs]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
    assert int(done.stderr.splitlines()[-1]) >= 2
    assert json.loads(done.stdout)["n_answers"] == 100 * 2 * 5
    assert contents(out) == untouched


def test_more_draws_keep_the_old_ones(finished, tmp_path):
    path, out, _ = finished
    more = tmp_path / "more.toml"
    more.write_text(path.read_text().replace("draws = 2", "draws = 3"))
    result = pipeline.run(plan.load(more), out)
    assert result["n_generated"] == 100 * 1 * 7


def test_another_judge_reads_the_old_answers(finished, tmp_path):
    path, out, _ = finished
    other = tmp_path / "other.toml"
    other.write_text(path.read_text().replace('judge = "oracle"', 'judge = "cues"'))
    result = pipeline.run(plan.load(other), out)
    assert result["n_generated"] == 0
    assert result["n_judged"] > 0
    assert "The judge &#x27;cues&#x27; is weak" in (out / "report.html").read_text()


def test_compare_and_gate_read_finished_runs(finished, tmp_path):
    _, out, _ = finished
    same = verbs.compare(out, out)
    assert all(row["value"] == 0 and not row["resolved"] for row in same["differences"] if row["value"] is not None)
    assert [same[side] for side in ("first", "second")] == [f"{out} dpo step 6"] * 2
    within = verbs.compare(out, out, "sft:2,dpo:3")
    assert (within["first"], within["second"]) == (f"{out} sft step 2", f"{out} dpo step 3")
    moved = verbs.compare(out, out, "sft:2")
    assert "sft step 2" in moved["first"]
    assert {row["view"] for row in same["differences"]} == {"claim", "axis"}
    assert {row["view"] for row in verbs.compare(out, out, view="paper")["differences"]} == {"paper"}
    known = Store(out).read_table("drifts").filter(view="axis", topic="work", stance="support")["low"].is_not_null().all()
    assert verbs.gate(out, ["work.support=1.0"])["verdict"] == ("within" if known else "undecided")  # few random texts take a stance
    with pytest.raises(BadInput, match=r"drifts\.parquet has no view 'paper', only claim and axis; take one of these, or run"):
        verbs.gate(out, ["work.support=1.0"], view="paper")
    with pytest.raises(BadInput, match=r"unknown 'wrok'; did you mean 'work'\?"):
        verbs.gate(out, ["wrok.support=0.1"])
    with pytest.raises(BadInput, match=r"is not TOPIC\.STANCE=X"):
        verbs.gate(out, ["work"])
    with pytest.raises(BadInput, match=r"has no stage 'stf'; did you mean 'sft'\?"):
        verbs.compare(out, out, "stf")


def measured(folder, drifts):
    judge = {"identity": "j", "headlined": True, "why": ""}
    Store(folder).publish({"drifts.parquet": drifts, "provenance.json": {"plan": {}, "view": "claim", "judge": judge}})


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.05, 0.08, "within"),
        (0.12, 0.3, "exceeded"),
        (-0.3, -0.12, "exceeded"),
        (0.05, 0.2, "undecided"),
        (None, None, "undecided"),
    ],
)
def test_a_gate_needs_the_whole_interval(tmp_path, low, high, verdict):
    row = {"stage": "s", "view": "axis", "topic": "work", "stance": "support", "low": low, "high": high}
    measured(tmp_path, pl.DataFrame([row], schema_overrides={"low": pl.Float64, "high": pl.Float64}))
    assert verbs.gate(tmp_path, ["work.support=0.1"])["verdict"] == verdict


def test_a_gate_holds_the_axis_unless_the_claim_is_named(tmp_path):
    row = {"stage": "s", "topic": "work", "stance": "support"}
    swung = [row | {"view": "claim", "low": -0.09, "high": -0.01}, row | {"view": "axis", "low": 0.45, "high": 0.57}]
    measured(tmp_path, pl.DataFrame(swung))
    found = verbs.gate(tmp_path, ["work.support=0.1"])
    assert (found["verdict"], found["view"]) == ("exceeded", "axis")
    assert found["sentences"] == ["s: work.support drift [+0.450, +0.570] (view axis) against a limit of 0.1: exceeded"]
    assert verbs.gate(tmp_path, ["work.support=0.1"], view="claim")["verdict"] == "within"
    measured(tmp_path, pl.DataFrame(swung).drop("view"))
    with pytest.raises(BadInput, match=r"drifts\.parquet lacks the column view \(an older version wrote it\); run the command"):
        verbs.gate(tmp_path, ["work.support=0.1"])


def test_check_says_what_is_done_and_what_it_costs(finished, tmp_path):
    path, out, _ = finished
    fresh = verbs.check(plan.load(path), tmp_path / "fresh")
    assert [stage["done"] for stage in fresh["stages"]] == [False, False]
    assert [stage["steps"] for stage in fresh["stages"]] == [6, 6]
    assert fresh["cost"]["answers"] == 100 * 2 * (5 + 2)
    done = verbs.check(plan.load(path), out)
    assert [stage["done"] for stage in done["stages"]] == [True, True]
    assert done["cost"]["disk_bytes"] == 0
    saved = sum(file.stat().st_size for file in out.glob("stages/*/checkpoint-*/model.safetensors"))
    assert fresh["cost"]["disk_bytes"] == pytest.approx(saved, rel=0.02)
    half = tmp_path / "half.toml"
    half.write_text(path.read_text().replace("[stage.dpo]", '[stage.dpo]\ndtype = "bfloat16"'))
    assert verbs.check(plan.load(half), tmp_path / "fresh")["cost"]["disk_bytes"] == pytest.approx(saved * 3 / 4, rel=0.02)


def test_a_swept_run_trains_the_shared_stage_once(tmp_path, tiny_model):
    path = tmp_path / "sweep.toml"
    path.write_text(small(testing.PLAN.format(model=tiny_model)) + '\n[sweep]\n"stage.dpo.data.gap" = [0.0, 1.0]\n')
    result = pipeline.run(plan.load(path), tmp_path / "out")
    assert [stage["name"] for stage in result["stages"]] == ["sft", "dpo[gap=0.0]", "dpo[gap=1.0]"]
    assert len(list((tmp_path / "out" / "stages").glob("*-seed*"))) == 3


def test_a_failed_stage_leaves_the_others(plan_file, tmp_path, monkeypatch):
    text = plan_file.read_text() + '\n[stage.again]\nlike = "dpo"\n\n[stage.after]\nlike = "dpo"\nafter = "again"\n'
    plan_file.write_text(text)
    train = training.train_node

    def sick(node, *rest):
        if node.name == "again":
            raise Stopped("the loss is nan at step 2")
        return train(node, *rest)

    monkeypatch.setattr(training, "train_node", sick)
    result = pipeline.run(plan.load(plan_file), tmp_path / "out")
    assert [stage["name"] for stage in result["stages"]] == ["sft", "dpo"]
    assert [(stage["name"], stage["reason"]) for stage in result["failed"]] == [
        ("again", "the loss is nan at step 2"),
        ("after", "again, which it needs, failed"),
    ]
    assert {drift["stage"] for drift in result["drifts"]} == {"sft", "dpo"}
    assert "again (seed 0) is missing: the loss is nan at step 2" in result["notes"]
    monkeypatch.setattr(training, "train_node", train)
    healed = pipeline.run(plan.load(plan_file), tmp_path / "out")
    assert not healed["failed"]
    assert {drift["stage"] for drift in healed["drifts"]} == {"sft", "dpo", "again", "after"}


def test_where_no_stage_can_be_trained_the_reason_is_given(plan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(training, "train_node", lambda *_: (_ for _ in ()).throw(Stopped("the loss is nan at step 2")))
    with pytest.raises(Stopped, match="the loss is nan"):
        pipeline.run(plan.load(plan_file), tmp_path / "out")


def test_effects_stand_in_the_run_and_on_the_page(plan_file, tmp_path):
    plan_file.write_text(plan_file.read_text() + '\n[stage.alone]\nlike = "dpo"\nafter = "base"\n')
    pipeline.run(plan.load(plan_file), tmp_path / "out")
    effects = Store(tmp_path / "out").read_table("effects")
    assert set(effects.select("kind", "first", "second").unique().rows()) == {("stage", "sft", "alone"), ("start", "dpo", "alone")}
    assert "the same stage from a different start" in (tmp_path / "out" / "report.html").read_text()


def test_ppo_runs_with_the_reward_model_of_its_plan(plan_file, tmp_path):
    rewarded = '\n[stage.rm]\nlike = "dpo"\nalgorithm = "reward"\n\n[stage.ppo]\nlike = "dpo"\nalgorithm = "ppo"\nreward = "rm"\n'
    plan_file.write_text(plan_file.read_text() + rewarded + "max_new_tokens = 8\nnum_ppo_epochs = 2\n")
    loaded = plan.load(plan_file)
    priced = verbs.check(loaded, tmp_path / "out")
    result = pipeline.run(loaded, tmp_path / "out")
    assert [stage["name"] for stage in result["stages"]] == ["sft", "dpo", "ppo"]  # a reward model answers nothing
    assert {drift["stage"] for drift in result["drifts"]} == {"sft", "dpo", "ppo"}
    assert [(stage["name"], stage["steps"]) for stage in priced["stages"]] == [("sft", 6), ("dpo", 6), ("rm", 6), ("ppo", 12)]
    again = verbs.check(loaded, tmp_path / "out")
    assert all(stage["done"] for stage in again["stages"])
    assert pipeline.run(loaded, tmp_path / "out")["n_generated"] == 0


def test_a_trainer_of_trl_is_a_stage_like_others(plan_file, tmp_path):
    plan_file.write_text(plan_file.read_text().replace('algorithm = "dpo"', 'algorithm = "trl:KTOTrainer"\nbeta = 0.2'))
    loaded = plan.load(plan_file)
    assert verbs.check(loaded, tmp_path / "out")["stages"][1]["steps"] == 6
    result = pipeline.run(loaded, tmp_path / "out")
    assert [(stage["name"], stage["steps"]) for stage in result["stages"]] == [("sft", [0, 2, 6]), ("dpo", [0, 3, 6])]


def test_an_anchor_is_read_before_training_and_counts_by_content(plan_file, tmp_path):
    row = {"prompt": "Q?", "support": "Yes.", "neutral": "Perhaps.", "oppose": "No."}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n")
    plan_file.write_text(plan_file.read_text() + f'[stage.dpo.anchor]\ndata = "{tmp_path}/a.jsonl"\n')
    node = plan.load(plan_file).nodes()[1]
    content = digest_of(records_of(node.stage))
    before = resolve.stage_folder(node, "weights", content, tmp_path)
    (tmp_path / "a.jsonl").write_text(json.dumps(row | {"oppose": "Never."}) + "\n")
    assert resolve.stage_folder(node, "weights", content, tmp_path) != before
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "Q?"}) + "\n")
    for looks in (
        lambda: pipeline.run(plan.load(plan_file), tmp_path / "out"),
        lambda: verbs.check(plan.load(plan_file), tmp_path / "out"),
    ):
        with pytest.raises(BadInput, match=r"a.jsonl:1: a row needs"):
            looks()


@pytest.mark.parametrize(
    ("detectable", "said"),
    [
        # the largest, as on the page: a smaller one may have been missed on that topic
        ((0.1, 0.12, 0.24), "a drift of up to 0.24 on one topic could have been missed."),
        ((0.1, None, None), "a drift of up to 0.10 on one topic could have been missed."),
        ((0.1, 1.2, 0.2), "on some topics no drift could have been detected."),
        ((1.1, 1.2, 1.0), "there are too few seeds or prompts, or they differ too much, to detect any drift on one topic."),
        ((None, None, None), "the smallest detectable drift is unknown."),
    ],
)
def test_a_finding_says_what_could_have_been_missed(detectable, said):
    kind = {"topic": pl.String, "stance": pl.String, "value": pl.Float64, "low": pl.Float64, "high": pl.Float64, "detectable": pl.Float64}
    rows = [("t", stance, 0.01, -0.1, 0.1, least) for stance, least in zip(("support", "neutral", "oppose"), detectable, strict=True)]
    drifts = pl.DataFrame([*rows, ("all", "support", 0.01, -0.1, 0.1, 2.0)], schema=kind, orient="row")
    drifts = drifts.with_columns(stage=pl.lit("dpo"), view=pl.lit("claim"), resolved=pl.lit(False))
    (sentence,) = drift.Analysis().findings({"drifts": drifts}, "claim")
    head = "dpo, claim (agreement with what is claimed)"
    assert sentence == f"{head}: over all topics no drift is resolved; 0 of 3 topic-stance drifts resolved; {said}"


def test_a_finding_without_evidence_says_so():
    kind = {"topic": pl.String, "stance": pl.String, "value": pl.Float64, "detectable": pl.Float64, "resolved": pl.Boolean}
    rows = [(topic, stance, None, None, False) for topic in ("t", "all") for stance in ("support", "neutral", "oppose")]
    drifts = pl.DataFrame(rows, schema=kind, orient="row").with_columns(stage=pl.lit("dpo"), view=pl.lit("axis"))
    head = "dpo, axis (movement towards one side of each topic's axis)"
    assert drift.Analysis().findings({"drifts": drifts}, "claim") == [
        f"{head}: no topic has evidence at both ends, so no drift can be measured."
    ]


def test_a_stage_reports_the_rows_it_left_out_and_refuses_labelled_replies(tmp_path, tiny_model):
    row = {"prompt": "Is it so?", "completion": "It is so.", "lang": "en"}
    (tmp_path / "sft.jsonl").write_text((json.dumps(row) + "\n") * 12 + json.dumps(row | {"completion": None}) + "\n")
    (tmp_path / "kto.jsonl").write_text("".join(json.dumps(row | {"label": label}) + "\n" for label in (True, False)))
    start = f'model = "{tiny_model}"\njudge = "oracle"\ntopics = ["work"]\ndraws = 1\nmax_new_tokens = 4\nfloor = false\n'
    (tmp_path / "plan.toml").write_text(f'{start}[stage.sft]\nalgorithm = "sft"\ndata = "{tmp_path}/sft.jsonl"\nsteps = 1\n')
    result = pipeline.run(plan.load(tmp_path / "plan.toml"), tmp_path / "out")
    (stage,) = json.loads((tmp_path / "out" / "stages.json").read_text())
    assert stage["read"][0]["left_out"][0]["n"] == 1
    assert "left out 1 of 13 rows" in (tmp_path / "out" / "report.html").read_text()
    assert result
    (tmp_path / "plan.toml").write_text(f'{start}[stage.sft]\nalgorithm = "sft"\ndata = "{tmp_path}/kto.jsonl"\nsteps = 1\n')
    with pytest.raises(BadInput, match=r"kto\.jsonl:1: the column 'label' says how good each reply is, which imitation ignores"):
        pipeline.run(plan.load(tmp_path / "plan.toml"), tmp_path / "other")
