"""A judge whose replies cannot be read stops after the first twenty; what was paid for is kept, and read again by a better rule."""

import itertools

import polars as pl
import pytest

from valuedrift import judge as judges
from valuedrift import verbs
from valuedrift.judge import openai
from valuedrift.judge.cache import CachedJudge, unread_notes
from valuedrift.nouns import Item, Reading, Stopped
from valuedrift.store import Store

ITEMS = [Item("Is it so?", "It is so.", f"text {number} #support") for number in range(60)]


def kept(folder, spec="openai:m?mode=votes&votes=1"):
    return CachedJudge(judges.make(spec), Store(folder))


class Odd(judges.Judge):
    """Reads the texts that `reads` names, and fails on the others."""

    identity, note = "odd/1", ""

    def __init__(self, reads=()):
        self.reads, self.seen = reads, []

    def read(self, items):
        self.seen += items
        verdict = {"failure": "unparsed", "reason": "the model's logits are not numbers"}
        return [Reading(item.key, "odd/1", **({"probs": (1, 0, 0, 0, 0)} if item.text in self.reads else verdict)) for item in items]


def test_it_stops_after_twenty_and_quotes_one(server, tmp_path):
    server.text = lambda number, body: "The \x1b[31mtext"
    with pytest.raises(Stopped, match=r"none of the first 20 replies of the judge 'openai' could be read") as stopped:
        kept(tmp_path).read(ITEMS)
    assert r"one was 'The \x1b[31mtext'" in str(stopped.value)
    assert "larger max_tokens" in str(stopped.value)
    assert len(server.bodies) == 20
    rows = Store(tmp_path).readings()
    assert (rows.height, set(rows["reply"])) == (20, {'{"texts": ["The \\u001b[31mtext"], "ended": ["stop"]}'})


def test_a_better_rule_reads_what_was_paid_for(server, tmp_path, monkeypatch):
    server.text = lambda number, body: "<hm>support"
    with pytest.raises(Stopped):
        kept(tmp_path).read(ITEMS[:20])
    monkeypatch.setattr(openai, "label_of", lambda text, labels: labels[text.removeprefix("<hm>")])
    for _ in range(2):  # the second time the new verdicts are stored themselves
        judge = kept(tmp_path)
        assert {reading.probs for reading in judge.read(ITEMS[:20])} == {(1, 0, 0, 0, 0)}
        assert judge.n_new == 0
    monkeypatch.setitem(openai.RULES, "votes", (*openai.RULES["votes"], 99))
    again = kept(tmp_path)
    assert again.identity != judge.identity
    assert {(reading.judge, reading.probs) for reading in again.read(ITEMS[:20])} == {(again.identity, (1, 0, 0, 0, 0))}
    assert len(server.bodies) == 20
    stored = Store(tmp_path).readings().filter(pl.col("judge") == again.identity)
    assert stored["support"].to_list() == [1.0] * 20


def test_one_reply_that_is_read_lets_it_go_on(server, tmp_path):
    server.text = lambda number, body: "support" if number == 19 else "nonsense"
    judge = kept(tmp_path)
    assert sum(reading.probs is not None for reading in judge.read(ITEMS)) == 1
    assert len(server.bodies) == 60
    unread = judge.unread()
    assert (unread["n"], unread["of"], unread["example"]) == (59, 60, "only 0 of 1 votes are a label; one was 'nonsense'")
    assert unread_notes(unread, "texts")[0].startswith("59 of 60 texts have no verdict (98.3%;")


def test_the_twenty_are_counted_over_several_calls_and_without_blank_texts(tmp_path):
    odd = Odd()
    judge = CachedJudge(odd, Store(tmp_path))
    judge.read([*ITEMS[:15], Item("p", "c", " ")])
    with pytest.raises(Stopped, match=r"first 20 replies of the judge 'odd' could be read \(the model's logits are not numbers\); check"):
        judge.read(ITEMS[15:])
    assert len(odd.seen) == 21


def test_every_judge_is_stopped_also_without_a_store():
    odd = Odd()
    with pytest.raises(Stopped, match="none of the first 20"):
        CachedJudge(odd, None).read(ITEMS)
    assert len(odd.seen) == 20
    reads = Odd({ITEMS[7].text})
    assert sum(reading.probs is not None for reading in CachedJudge(reads, None).read(ITEMS[:20] + ITEMS)) == 2  # twice the same text


def test_replies_without_log_probs_stop_it_too(server, tmp_path):
    judge = kept(tmp_path, "openai:m?mode=logprobs")
    server.gives_logprobs = False
    with pytest.raises(Stopped, match="returned no log-probs"):
        judge.read(ITEMS)
    assert len(server.bodies) == 20


def test_a_model_that_thinks_is_told_from_one_that_says_nothing(server, tmp_path):
    server.trouble = lambda number, body: "reasoned"
    [reading] = judges.make("openai:m?mode=votes&votes=1").read(ITEMS[:1])
    assert reading.reason.endswith("1 of 1: a reply without text (its tokens went into thinking: allow more tokens)")
    assert (reading.failure, reading.missing) == ("unparsed", 1.0)


def test_first_tokens_that_are_no_label_make_it_votes(server, capsys):
    server.first_tokens = lambda body: {"<think>": 0.96, "support": 0.01, "The": 0.01, "a": 0.01, "b": 0.01}
    assert judges.make("openai:m").mode == "votes"
    assert "its first tokens are no label" in capsys.readouterr().err
    assert len(server.bodies) == 1


def test_gap_says_what_was_not_read(server, tmp_path, capsys):
    words = itertools.cycle(["support", "支持"])
    server.text = lambda number, body: next(words)
    rows = [{"prompt": f"Should abortion be legal {n}?", "chosen": f"Yes {n}", "rejected": f"No {n}"} for n in range(10)]
    pl.DataFrame(rows).write_ndjson(tmp_path / "pairs.jsonl")
    result = verbs.gap([str(tmp_path / "pairs.jsonl")], "vaes", "openai:m?mode=votes&votes=1&concurrency=1", tmp_path / "out")
    assert (result["unread"]["n"], result["unread"]["of"], result["unread"]["share"]) == (10, 20, 0.5)
    assert "支持" in result["unread"]["example"]
    assert "10 of 20 different texts have no verdict (50.0%" in (tmp_path / "out" / "gap.html").read_text()
