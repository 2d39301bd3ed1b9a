"""Models behind an API, asked through a real HTTP server on this machine."""

import json

import polars as pl
import pytest

from valuedrift import pipeline, training
from valuedrift.evaluate.openai import Backend
from valuedrift.models import local_server
from valuedrift.nouns import BadInput, Prompt, Stopped
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

pytestmark = pytest.mark.slow

WORDS = {"early": "I am against that rule.", "late": "I agree that it is right and I support it."}
PROMPTS = [Prompt(f"p{n}", "work", f"Is rule number {n} fair?", "the rule is fair") for n in range(10)]


@pytest.fixture(autouse=True)
def _server(server, prices):
    server.text = lambda number, body: WORDS[body["model"]]


def suite(tmp_path):
    path = tmp_path / "suite.jsonl"
    path.write_text("".join(json.dumps({"id": one.id, "topic": one.topic, "text": one.text, "claim": one.claim}) + "\n" for one in PROMPTS))
    return str(path)


def plan_of(tmp_path, **settings):
    return EvaluationSettings(
        **{"suite": suite(tmp_path), "backend": "openai", "draws": 2, "floor": False, "max_new_tokens": 20} | settings
    )


def test_two_models_of_a_server_are_traced_as_two_steps(server, tmp_path):
    result = pipeline.trace_folders(plan_of(tmp_path), ["openai:early", "openai:late"], None, tmp_path / "run")
    assert result["n_answers"] == 40
    assert [(one["step"], one["path"], one["prompt_format"]) for one in result["checkpoints"]] == [
        (0, "openai:early", "server"),
        (1, "openai:late", "server"),
    ]
    (support,) = [row for row in result["drifts"] if (row["view"], row["topic"], row["stance"]) == ("claim", "work", "support")]
    assert support["value"] > 0.5
    assert "early, late: identified only by the name on the server" in " ".join(result["notes"])
    n = len(server.bodies)
    assert pipeline.trace_folders(plan_of(tmp_path), ["openai:early", "openai:late"], None, tmp_path / "run")["n_generated"] == 0
    assert len(server.bodies) == n


def test_each_draw_has_a_seed_of_its_own_that_checkpoints_share(server, tmp_path):
    pipeline.trace_folders(plan_of(tmp_path, top_p=0.9), ["openai:early", "openai:late"], None, tmp_path / "run")
    seeds = {(body["model"], body["messages"][0]["content"], body["seed"]) for body in server.bodies}
    assert len(seeds) == 40
    assert {seed for model, _, seed in seeds if model == "early"} == {seed for model, _, seed in seeds if model == "late"}
    assert {(body["temperature"], body["top_p"], body["max_tokens"]) for body in server.bodies} == {(0.7, 0.9, 20)}


def test_thinking_is_no_part_of_the_answer_and_what_a_server_refuses_is_noted(server, tmp_path):
    server.text = lambda number, body: "<think>Do I oppose it?</think>\n\nI support it."
    server.trouble = lambda number, body: "400 says Unsupported value: 'temperature'" if "temperature" in body else None
    result = pipeline.trace_folders(plan_of(tmp_path), ["openai:early"], None, tmp_path / "run")
    assert set(Store(tmp_path / "run").answers()["text"]) == {"I support it."}
    assert "early was asked without temperature, which its server refuses." in result["notes"]
    server.text = lambda number, body: "<think>Do I oppose it?"
    pipeline.trace_folders(plan_of(tmp_path), ["openai:late"], None, tmp_path / "late")
    assert set(Store(tmp_path / "late").answers()["ended"]) == {"thinking"}, "a block without an end holds no answer"


def test_what_was_paid_for_is_kept_when_the_budget_ends(server, tmp_path):
    limited = plan_of(tmp_path, max_cost=0.15)  # a request costs $0.011, and $0.06 at worst
    with pytest.raises(Stopped, match=r"budget of \$0.15 is used up"):
        pipeline.trace_folders(limited, ["openai:late"], None, tmp_path / "run")
    assert 0 < Store(tmp_path / "run").answers().height == server.n_answered < 20


def test_an_answer_that_is_not_given_is_no_answer(server, tmp_path):
    blocked = PROMPTS[3].text
    server.trouble = lambda number, body: "400 says blocked by content policy" if body["messages"][0]["content"] == blocked else None
    with pytest.raises(Stopped, match=r"openai:early gave no answer to 'p3' \(and 1 more\): .*content policy; run the same command again"):
        pipeline.trace_folders(plan_of(tmp_path), ["openai:early"], None, tmp_path / "run")
    assert Store(tmp_path / "run").answers().height == 18
    server.trouble = lambda number, body: None
    assert pipeline.trace_folders(plan_of(tmp_path), ["openai:early"], None, tmp_path / "run")["n_generated"] == 2
    assert pl.read_parquet(tmp_path / "run" / "scores.parquet").height == 20


@pytest.mark.parametrize("trouble", ["filtered", "reasoned"])
def test_a_reply_without_a_text_is_no_answer(server, tmp_path, trouble):
    blocked = PROMPTS[3].text
    server.trouble = lambda number, body: trouble if body["messages"][0]["content"] == blocked else None
    sentence = r"openai:early gave no answer to 'p3' \(and 1 more\): a reply without text .* \(and 1 more checkpoints\)"
    with pytest.raises(Stopped, match=sentence):
        pipeline.trace_folders(plan_of(tmp_path), ["openai:early", "openai:late"], None, tmp_path / "run")
    assert Store(tmp_path / "run").answers().height == 36, "the later checkpoint is asked all the same"


def test_a_refusal_in_a_field_of_its_own_is_what_the_model_said(server, tmp_path):
    server.trouble = lambda number, body: "refused"
    result = pipeline.trace_folders(plan_of(tmp_path), ["openai:early"], None, tmp_path / "run")
    assert set(Store(tmp_path / "run").answers()["text"]) == {"I can't help with that."}
    assert result["outcome_shares"]["refusal"] > 0.5


@pytest.mark.parametrize("trouble", ["402 says no credit left", "401 says revoked"])
def test_what_was_paid_for_is_kept_when_the_key_is_revoked_between_two_rounds(server, tmp_path, monkeypatch, trouble):
    monkeypatch.setattr("valuedrift.evaluate.openai.BATCH_SIZE", 5)
    server.trouble = lambda number, body: trouble if number >= 10 else None
    with pytest.raises(BadInput, match=trouble.split(" says ")[1]):
        pipeline.trace_folders(plan_of(tmp_path), ["openai:late"], None, tmp_path / "run")
    assert Store(tmp_path / "run").answers().height == server.n_answered == 10


def test_what_came_back_is_kept_when_the_judge_stops_the_work(server, tmp_path, monkeypatch):
    def fail(self):
        raise Stopped("the judge is gone")

    monkeypatch.setattr("valuedrift.evaluate.evaluator.BackgroundJudge.check", fail)
    with pytest.raises(Stopped, match="judge is gone"):
        pipeline.trace_folders(plan_of(tmp_path, batch_rows=4), ["openai:late"], None, tmp_path / "run")
    assert Store(tmp_path / "run").answers().height == server.n_answered == 20


def test_tokens_that_were_not_counted_are_unknown(server, tmp_path):
    server.trouble = lambda number, body: "no usage"
    pipeline.trace_folders(plan_of(tmp_path), ["openai:early"], None, tmp_path / "run")
    assert Store(tmp_path / "run").answers()["n_tokens"].null_count() == 20


def test_what_needs_no_weights_is_measured(server, tmp_path):
    result = pipeline.trace_folders(plan_of(tmp_path, side_metrics=True), ["openai:early", "openai:late"], None, tmp_path / "run")
    lengths = pl.read_parquet(tmp_path / "run" / "side_metric_scores.parquet")
    assert lengths.group_by("step", "metric").agg(pl.col("value").mean()).sort("step").rows() == [
        (0, "length", 5.0),
        (1, "length", 10.0),
    ]
    assert "needs weights: distances." in " ".join(result["notes"])


def test_another_address_is_another_model(monkeypatch):
    keys = set()
    for url in ("http://127.0.0.1:1/v1", "http://127.0.0.1:2/v1", "http://me:secret@127.0.0.1:1/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        keys.add(training.describe("openai:m", "s", 0, EvaluationSettings()).weights)
    assert len(keys) == 2, "a password is no part of an address"
    assert "secret" not in local_server.address()


@pytest.mark.parametrize(
    ("settings", "paths", "sentence"),
    [
        ({"prompt_format": "plain"}, ["openai:early"], "gets its prompts in the server's own chat template"),
        ({"top_k": 5}, ["openai:early"], "know no top_k"),
        ({"backend": "transformers"}, ["openai:early"], "openai:early exists only behind an API; add --backend openai"),
    ],
)
def test_what_cannot_be_asked_is_refused(server, tmp_path, settings, paths, sentence):
    with pytest.raises(BadInput, match=sentence):
        pipeline.trace_folders(plan_of(tmp_path, **settings), paths, None, tmp_path / "run")
    assert not server.bodies


def test_a_folder_cannot_be_asked_behind_an_api(server, tmp_path, tiny_model):
    with pytest.raises(
        BadInput, match=rf"the backend 'openai' evaluates only models behind an API \(openai:MODEL\), and {tiny_model} is not one"
    ):
        pipeline.trace_folders(plan_of(tmp_path), [str(tiny_model)], None, tmp_path / "run")


def test_the_backend_needs_no_connection_to_be_made(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    assert Backend(plan_of(tmp_path)).spent == 0
