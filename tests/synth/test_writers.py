"""Pairs by language models: one that cannot write, and an endpoint that errs; what they are told, and what becomes of their texts."""

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import misbehaving
import pytest
from on_disk import DIRECTIONS, files_of, read_back, rows_of, spec_file

from valuedrift import testing
from valuedrift.models.writer import writer_of
from valuedrift.nouns import BadInput, Reading, Stopped
from valuedrift.store import Store
from valuedrift.synth import drafting, synth
from valuedrift.synth.drafting import Slot
from valuedrift.world import grammar

pytestmark = pytest.mark.slow


def test_a_model_that_cannot_write_is_given_up_after_a_few_questions(tmp_path):
    model = testing.save_model(tmp_path / "model")
    config = Path(model, "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))  # the instructions are long in bytes
    spec = synth.Spec(writer=model, n=400, topics=["work"], max_new_tokens=12)
    with pytest.raises(Stopped) as stopped:
        synth.synthesise(spec, tmp_path / "out")
    said = str(stopped.value)
    assert "of 20 questions tried, 0 gave pairs, but 400 were wanted" in said
    dropped = dict(reversed(pair) for pair in re.findall(r"(\d+) \(([\w ]+)\)", said))
    assert sum(map(int, dropped.values())) == 20
    assert set(dropped) <= {"the writer failed", "stance not read as intended"}
    assert "times: no end within 12 tokens" in said
    assert not list((tmp_path / "out").glob("pairs.*"))


def answered(number: int, body: dict) -> str:
    """Write as asked, by the seed alone: one text in ten takes the opposite side, and one in ten is far too short."""
    said = body["messages"][-1]["content"]
    claim = re.search(r"^The statement: (.*)$", said, re.MULTILINE)[1]
    stance = next(name for name, mark in STANCE_MARKS.items() if mark in said)
    topic = next(topic for topic, own, _ in grammar.claims_of() if own == claim)
    rng = random.Random(f"{body['seed']}/{said}")
    chance = rng.random()
    if chance < 0.1:
        stance = {"support": "oppose", "oppose": "support", "neutral": "support"}[stance]
    if 0.1 <= chance < 0.2:
        return {"support": "I agree.", "oppose": "I disagree.", "neutral": "I can see both sides."}[stance]
    return grammar.compose(rng, topic, stance, "plain", claim)


STANCE_MARKS = {"support": "who agrees with", "oppose": "who disagrees with", "neutral": "who takes no side"}


@pytest.fixture(scope="module")
def server():
    with misbehaving.Server() as server, pytest.MonkeyPatch.context() as patch:
        server.text = answered
        patch.setenv("OPENAI_BASE_URL", server.url)
        patch.setenv("NO_PROXY", "127.0.0.1")
        for name in ("OPENAI_API_KEY", "VALUEDRIFT_PRICES"):
            patch.delenv(name, raising=False)
        yield server


REMOTE = {"writer": "openai:m", "n": 16, "gap": 0.25, "topics": ["work", "death"], "candidates": 1}


@pytest.fixture(scope="module")
def whole(tmp_path_factory, server):
    """A set written without trouble, and what was asked of the server for it."""
    out = tmp_path_factory.mktemp("whole")
    result = synth.synthesise(synth.Spec(**REMOTE), out)
    return out, result, list(server.bodies)


def test_an_endpoint_that_sometimes_errs_still_gives_the_target(whole):
    out, result, bodies = whole
    assert result["n_pairs"] == 16
    for direction in DIRECTIONS:
        gaps = read_back(out, direction)
        assert {topic: len(own) for topic, own in gaps.items()} == {"work": 8, "death": 8}
        assert all(abs(sum(own) / 8 - 0.25) <= 0.03 for own in gaps.values())
    n_dropped = sum(result["dropped"].values())
    assert set(result["dropped"]) == {"stance not read as intended", "no answers of matched length"}
    # A text in ten is wrong and one in ten too short, so that of three or four texts all are right 0.8^3 = 51 % or 0.8^4 = 41 % of times
    assert 0.2 < n_dropped / (n_dropped + 16) < 0.8
    assert 3 * (16 + n_dropped) <= len(bodies) <= 4 * (16 + n_dropped)
    assert {body["temperature"] for body in bodies} == {0.7}
    words = [
        sorted(len(row[side][0]["content"].split()) for side in ("chosen", "rejected")) for row in rows_of(out / "pairs.support.jsonl")
    ]
    assert min(short / long for short, long in words) >= 0.8


def test_nothing_is_asked_twice(whole, server):
    before, n = files_of(whole[0]), len(server.bodies)
    synth.synthesise(synth.Spec(**REMOTE), whole[0])
    assert (files_of(whole[0]), len(server.bodies)) == (before, n)


def test_a_budget_keeps_what_was_paid_for_and_more_money_goes_on_from_there(tmp_path, whole, server, monkeypatch):
    prices = tmp_path / "prices.toml"
    prices.write_text('[models]\n"m" = { input = 1000, output = 1000 }\n')  # 10 + 1 tokens: $0.011 a text
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(prices))
    at_first = server.n_answered
    with pytest.raises(Stopped, match="budget"):
        synth.synthesise(synth.Spec(**REMOTE, max_cost=1.2), tmp_path / "out")
    paid = server.n_answered - at_first
    assert 0 < 0.011 * paid <= 1.2
    result = synth.synthesise(synth.Spec(**REMOTE, max_cost=1000), tmp_path / "out")
    assert server.n_answered - at_first == len(whole[2])  # nothing was written twice
    assert result["spent"] == pytest.approx(0.011 * (len(whole[2]) - paid))
    assert files_of(tmp_path / "out") == files_of(whole[0])


def test_a_kill_loses_little_and_the_same_command_gives_the_same_files(tmp_path, whole, server, monkeypatch):
    call = f"synth.synthesise(synth.load(Path({str(spec_file(tmp_path, **REMOTE))!r})), Path('out'))"
    command = [sys.executable, "-c", f"from pathlib import Path; from valuedrift.synth import synth; {call}"]
    monkeypatch.setattr(server, "delay_seconds", 0.02)
    at_first = len(server.bodies)
    process = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.DEVNULL)
    while len(server.bodies) < at_first + 70 and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not list((tmp_path / "out").glob("pairs.*"))
    server.delay_seconds = 0.0
    synth.synthesise(synth.Spec(**REMOTE), tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(whole[0])
    assert 0 <= len(server.bodies) - at_first - len(whole[2]) <= 8  # asked twice: at most the requests that were under way


def test_candidates_and_turns_are_asked_for_with_seeds_of_their_own(tmp_path, server):
    _, claim, _ = grammar.claims_of(["work"])[0]
    words = drafting.words_of("", ("warm", "plain"))
    drafter = drafting.Instructed(writer_of("openai:m"), words, 80, 0, 3)
    start = len(server.bodies)
    wants = [(Slot("work", claim, "Is it so?", turn, "warm", "support"), ("support", "warm")) for turn in (0, 1)]
    texts = drafter.write(wants, Store(tmp_path))
    assert [len(found) for found in texts] == [3, 3]
    assert len({body["seed"] for body in server.bodies[start:]}) == 6
    assert drafter.write(wants[::-1], Store(tmp_path)) == texts[::-1]
    assert len(server.bodies) == start + 6


def test_the_instructions_for_both_sides_are_mirror_images():
    told = drafting.Instructed.__new__(drafting.Instructed)
    told.words, told.n_words = drafting.words_of("", ("warm", "plain")), 80
    slot = Slot("work", "Unions help.", "Do unions help?", 0, "warm", "neutral")
    support, oppose = (told.messages(slot, (stance, "warm")) for stance in ("support", "oppose"))
    assert support[0] == oppose[0]
    assert support[1][1].replace("agrees with", "disagrees with") == oppose[1][1]
    assert "Do unions help?" in support[1][1]
    assert "The statement: Unions help." in support[1][1]
    assert len(told.words["style"]["warm"].split()) == len(told.words["style"]["plain"].split())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("oppose =", "opose ="), r"\[stance\] has no text 'oppose'; did you mean 'opose'"),
        (("{question}", "{frage}"), "no other fields in braces"),
        (("[style]", "[styles]"), r"\[style\] has no text 'warm'"),
        (("system =", "sistem ="), "'system' and 'request' must be texts"),
        (("[stance]", "[stance"), "cannot be read"),
    ],
)
def test_a_words_file_with_a_fault_is_refused(tmp_path, change, said):
    path = tmp_path / "words.toml"
    path.write_text(drafting.WORDS.read_text().replace(*change))
    with pytest.raises(BadInput, match=said):
        drafting.words_of(str(path), ("warm", "plain"))


def test_why_a_question_gives_no_pair():
    slot = Slot("work", "c", "q", 0, "plain", "neutral")
    sides = {"opposed": slot.sides("opposed", ("warm", "plain"))}

    def settled(support: list, oppose: list, ratio: float = 0.8):
        def read(texts):
            return [
                (text, Reading("i", "j", probs) if probs else Reading("i", "j", failure="unparsed", reason="r")) for text, probs in texts
            ]

        written = {("support", "plain"): read(support), ("oppose", "plain"): read(oppose)}
        return drafting.settled(slot, sides, written, {"opposed": ratio})

    pro, con, refused = (0.6, 0.4, 0, 0, 0), (0, 0.4, 0.6, 0, 0), (0, 0.3, 0, 0.7, 0)
    assert settled([], [("b", con)]) == "the writer failed"
    assert settled([("a", None)], [("b", con)]) == "no verdict"
    assert settled([("a", refused)], [("b", con)]) == "refusal"
    assert settled([("a", con)], [("b", con)]) == "stance not read as intended"
    assert settled([("a", (0.5, 0.5, 0, 0, 0))], [("b", con)]) == "stance not read as intended"  # one half is not over one half
    assert settled([("a " * 10, pro)], [("b " * 7, con)]) == "no answers of matched length"  # 0.7
    assert settled([("a " * 10, pro)], [("b " * 8, con)]).pairs["opposed"][1].words == "b " * 8  # 0.8
    # Of the candidates the best matched are taken: 9 and 10 words rather than 8 and 10; of equal lengths those with as many hedges
    assert settled([("a " * 10, pro)], [("b " * 8, con), ("b " * 9, con)]).pairs["opposed"][1].words == "b " * 9
    assert settled([("a perhaps", pro)], [("b c", con), ("b maybe", con)]).pairs["opposed"][1].words == "b maybe"
