"""The judge behind an endpoint: verdicts by hand and by planted stances, one mode per judge, and no paid verdict lost."""

import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import misbehaving
import pytest

from valuedrift import judge as judges
from valuedrift.judge import openai
from valuedrift.judge.cache import CachedJudge
from valuedrift.judge.wordings import wordings
from valuedrift.nouns import OUTCOMES, BadInput, Item, Stopped
from valuedrift.store import Store

pytestmark = pytest.mark.slow

LABELS = {"support": "support", "neutral": "neutral", "oppose": "oppose", "refusal": "refusal", "unreadable": "invalid"}


def made(settings="", max_cost=None):
    judge = judges.make(f"openai:m{settings}", max_cost)
    judge.endpoint.backoff_seconds = 0.005
    return judge


def planted(n, words=tuple(LABELS)):
    """Return n items whose texts plant the words in turn."""
    return [
        Item("Is it so?", "It is so.", f"text {number} #{word}") for number, word in zip(range(n), itertools.cycle(words), strict=False)
    ]


def verdicts(readings):
    return [OUTCOMES[reading.probs.index(max(reading.probs))] if reading.probs else reading.failure for reading in readings]


# -- replies become verdicts -----------------------------------------------------------------------------------------------------


def logs(**probs):
    return [(token, math.log(p)) for token, p in probs.items()]


def test_logprobs_by_hand():
    # " support" 0.5 and "Supp" 0.1 begin "support"; "**neutral" 0.2 is "neutral" in bold; "The" begins nothing: 0.8 on labels.
    tops = logs(**{" support": 0.5, "Supp": 0.1, "**neutral": 0.2, "The": 0.1})
    probs, missing, reason = openai.from_logprobs(tops, LABELS)
    assert probs == pytest.approx((0.75, 0.25, 0, 0, 0))  # 0.6 / 0.8 and 0.2 / 0.8
    assert missing == pytest.approx(0.2)
    assert reason == ""
    # "unreadable" is the word for invalid, and stands last.
    probs, _, _ = openai.from_logprobs(logs(Opp=0.3, un=0.1, ref=0.4), LABELS)
    assert probs == pytest.approx((0, 0, 0.375, 0.5, 0.125))


@pytest.mark.parametrize("token", ["supports", "supportive", "</s>", "", " ", "**", "t", "upport", "<support>", "s/", "I", "in"])
def test_tokens_that_are_no_beginning_of_a_label_count_as_missing(token):
    probs, missing, _ = openai.from_logprobs([(token, math.log(0.6)), ("neutral", math.log(0.4))], LABELS)
    assert probs == pytest.approx((0, 1, 0, 0, 0))
    assert missing == pytest.approx(0.6)


def test_little_mass_on_the_labels_is_no_verdict():
    probs, missing, reason = openai.from_logprobs(logs(The=0.95, support=0.049), LABELS)
    assert probs is None
    assert missing == pytest.approx(0.951)
    assert reason == "only 0.049 of the probability is on the labels; the likeliest first token is 'The'"
    assert openai.from_logprobs(logs(The=0.9, support=0.051), LABELS)[0] == pytest.approx((1, 0, 0, 0, 0))
    assert openai.from_logprobs([("The", -9999.0)], LABELS)[0] is None
    assert "sum to 2" in openai.from_logprobs([("support", 0.0), ("oppose", 0.0)], LABELS)[2]


def test_votes_by_hand():
    probs, missing, reason = openai.from_votes(["support", "Support.", " **OPPOSE**\n", "I think support", "support"], LABELS)
    assert probs == pytest.approx((3 / 4, 0, 1 / 4, 0, 0))
    assert missing == pytest.approx(1 / 5)
    assert reason == ""
    # Half of the votes is enough, fewer are not.
    assert openai.from_votes(["neutral", "what?"], LABELS)[:2] == ((0, 1, 0, 0, 0), 0.5)
    assert openai.from_votes(["neutral", "what?", "sup"], LABELS) == (
        None,
        pytest.approx(2 / 3),
        "only 1 of 3 votes are a label; one was 'what?'",
    )


@pytest.mark.parametrize("mode", ["logprobs", "votes"])
@pytest.mark.parametrize("wording", wordings(openai.WORDS))
def test_planted_stances_are_read_under_every_wording(server, mode, wording):
    judge = made(f"?mode={mode}&wording={wording}")
    word_of = {outcome: word for word, outcome in judge.labels.items()}
    readings = judge.read(planted(10, [word_of[outcome] for outcome in OUTCOMES]))
    assert verdicts(readings) == list(OUTCOMES) * 2
    assert {round(reading.missing, 6) for reading in readings} == {0.1 if mode == "logprobs" else 0.0}
    item = planted(1, [word_of["support"]])[0]
    sent = [body["messages"][0]["content"] for body in server.bodies]
    assert judge.wording.prefix() + judge.wording.suffix(item) in sent
    assert not any("{" in text for text in sent)


def test_labels_of_a_wording_must_begin_differently():
    alike = openai.wordings(openai.WORDS)["plain"]
    alike.labels["oppose"] = "no"
    with pytest.raises(BadInput, match=r"begin with the same letter .*neutral, no"):
        openai.labels(alike)


def test_what_is_sent(server):
    made("?mode=logprobs").read(planted(1))
    made("?mode=votes&votes=3&max_tokens=5").read(planted(1))
    settings = [{key: value for key, value in body.items() if key not in ("messages", "model")} for body in server.bodies]
    assert settings == [
        {"temperature": 1.0, "max_tokens": 1, "logprobs": True, "top_logprobs": 20},
        {"temperature": 1.0, "max_tokens": 5, "n": 3},
    ]


# -- one mode per judge ----------------------------------------------------------------------------------------------------------


def test_one_request_finds_out_the_mode(server, capsys):
    judge = made()
    assert server.bodies == [], "making a judge costs nothing"
    assert (judge.mode, len(server.bodies)) == ("logprobs", 1)
    assert judge.spent == pytest.approx(0.011)
    assert "by the probabilities of its first token" in judge.note
    server.gives_logprobs = False
    openai.PROBED.clear()
    votes = made()
    assert (votes.mode, len(server.bodies)) == ("votes", 4)
    assert capsys.readouterr().err.count("gives no log-probs") == 1
    assert "by 5 votes per text" in votes.note
    assert (made("?mode=logprobs").identity, made("?mode=votes").identity) == (judge.identity, votes.identity)
    assert len(server.bodies) == 4, "a mode that is named is not probed"


@pytest.mark.parametrize(("n_without", "mode"), [(1, "logprobs"), (2, "logprobs"), (3, "votes")])
def test_one_reply_without_logprobs_does_not_make_it_votes(server, n_without, mode):
    server.trouble = lambda number, body: "no logprobs" if number < n_without else None
    judge = made()
    assert (judge.mode, len(server.bodies)) == (mode, 3 if mode == "votes" else n_without + 1)
    assert judge.spent == pytest.approx(0.011 * len(server.bodies))


def test_a_judge_made_twice_is_probed_once_and_its_cost_counted(server):
    first, again = made(), made("?wording=letters")
    assert (first.mode, again.mode, len(server.bodies)) == ("logprobs", "logprobs", 1)
    assert first.spent == again.spent == pytest.approx(0.011)
    other = first.reworded("letters")
    assert (other.identity, other.spent) == (again.identity, pytest.approx(0.011))
    [reading] = other.read(planted(1, ["A"]))
    assert (reading.judge, verdicts([reading])) == (again.identity, ["support"])
    assert first.spent == pytest.approx(0.022), "one endpoint for both wordings"
    assert judges.make("openai:m2").mode == "logprobs"
    assert [body["model"] for body in server.bodies] == ["m", "m", "m2"]


def test_the_probe_is_within_the_budget(server):
    judge = made(max_cost=0.0)
    with pytest.raises(Stopped, match=r"budget of \$0 is used up"):
        _ = judge.identity
    with pytest.raises(Stopped):
        judge.read(planted(1))
    assert server.bodies == []


def test_what_it_costs_at_most_is_said_without_a_request(server):
    worst = [made(f"?mode={mode}").worst_cost(planted(3)) for mode in ("auto", "logprobs", "votes")]
    assert worst[0] == worst[2] > worst[1] > 0
    assert server.bodies == []


def test_a_panel_has_one_budget(server):
    # Both models probed: 0.022. From then on a request is sent while its worst case fits beside all that both have paid.
    prices = Path(os.environ["VALUEDRIFT_PRICES"])
    prices.write_text(prices.read_text().replace('"m"', '"m*"'))
    single = made("?mode=logprobs")
    worst = single.endpoint.worst(single.request(planted(1)[0], "logprobs"))
    panel = judges.make("panel:openai:m?concurrency=1,openai:m2?concurrency=1", max_cost=worst + 0.011 * 12.5)
    assert panel.identity.startswith("panel/")  # it asks its members, who then ask their server
    assert len(server.bodies) == 2
    with pytest.raises(Stopped, match="is used up"):
        panel.read(planted(10, ["support"]))
    by_model = Counter(body["model"] for body in server.bodies)
    assert by_model == {"m": 11, "m2": 2}  # 12 replies are paid when the 13th is sent, and 13 leave too little for a 14th
    assert sum(member.spent for member in panel.members) == pytest.approx(0.011 * 13) == pytest.approx(server.n_paid_tokens * 1e-3)
    openai.PROBED.clear()
    with pytest.raises(Stopped, match="is used up"):
        _ = judges.make("panel:openai:m,openai:m2", max_cost=0.0).identity
    assert len(server.bodies) == 13


@pytest.mark.parametrize("first_tokens", [{"support": 1.0}, {"a": 0.5, "b": 0.2, "c": 0.2, "d": 0.1}])
def test_too_few_first_tokens_are_as_good_as_none(server, first_tokens):
    server.first_tokens = lambda body: first_tokens
    assert made().mode == "votes"


def test_an_endpoint_that_refuses_logprobs_is_asked_for_votes(server, capsys):
    server.trouble = lambda number, body: "400 says logprobs are not supported" if body.get("logprobs") else None
    judge = made()
    assert judge.mode == "votes"
    assert "refused to give log-probs" in capsys.readouterr().err
    assert verdicts(judge.read(planted(5))) == list(OUTCOMES)
    with pytest.raises(BadInput, match="logprobs are not supported"):
        made("?mode=logprobs").read(planted(1))


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("404 says no model m", "no model m; check"),
        ("429 after 9999", "pause of 9,999 s"),
        ("garbage", r"does not answer \(the reply is not a chat completion.*\(7 attempts\)\); check OPENAI_BASE_URL"),
    ],
)
def test_a_probe_that_fails_is_bad_input(server, trouble, sentence):
    server.trouble = lambda number, body: trouble
    with pytest.raises(BadInput, match=sentence):
        _ = made().identity


def test_a_reply_without_logprobs_is_a_failure_and_never_a_vote(server):
    judge = made()
    assert judge.mode == "logprobs"
    server.trouble = lambda number, body: "no logprobs" if number % 3 == 0 else None
    readings = judge.read(planted(30))
    failed = [reading for reading in readings if reading.failure]
    assert len(failed) == 10  # requests 1-30, after the probe: 3, 6, ..., 30
    assert {(reading.failure, reading.reason) for reading in failed} == {
        ("judge_error", "the endpoint returned no log-probs for this reply")
    }
    assert all(max(reading.probs) == 1 and reading.missing == pytest.approx(0.1) for reading in readings if reading.probs)
    assert all("n" not in body for body in server.bodies)


def test_what_decides_a_verdict_is_in_the_identity(server, monkeypatch):
    votes = "?mode=votes"
    base = made(votes).identity
    assert base.startswith("openai/")
    assert base == made(f"{votes}&votes=5&max_tokens=8&concurrency=2&timeout=3&wording=plain").identity
    others = [f"{votes}&votes=3", f"{votes}&max_tokens=9", f"{votes}&wording=letters", "?mode=logprobs"]
    identities = {base, *(made(settings).identity for settings in others), judges.make("openai:m2?mode=votes").identity}
    assert made("?mode=logprobs&votes=3").identity in identities, "votes mean nothing to log-probs"
    monkeypatch.setitem(openai.RULES, "votes", (2, 99))
    identities.add(made(votes).identity)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:1/v1")
    identities.add(made(votes).identity)
    assert len(identities) == 8


def test_the_identity_names_the_whole_address_without_its_secrets(server, monkeypatch):
    found = {}
    for at in ("127.0.0.1:1/v1", "127.0.0.1:1/other/v1", "127.0.0.1:1/v1/", "127.0.0.1:1/v1?api-key=secret", "me:secret@127.0.0.1:1/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", f"http://{at}")
        found[at] = made("?mode=votes").identity
    first, other, *same = found.values()
    assert other != first
    assert set(same) == {first}
    assert made().endpoint.address == "http://127.0.0.1:1/v1"


# -- failures --------------------------------------------------------------------------------------------------------------------


def test_nonsense_is_counted_and_not_guessed(server):
    server.text = lambda number, body: next(numbers) or misbehaving.planted(body)
    numbers = itertools.cycle(["I support oppose"] + [None] * 9)
    readings = made("?mode=votes&votes=10&concurrency=1").read(planted(20))
    assert verdicts(readings) == [LABELS[word] for word in LABELS] * 4
    assert all(reading.missing == pytest.approx(0.1) and max(reading.probs) == 1 for reading in readings)
    numbers = itertools.cycle(["nonsense"] * 6 + [None] * 4)
    readings = made("?mode=votes&votes=10").read(planted(2))
    assert verdicts(readings) == ["unparsed"] * 2
    assert {(reading.missing, reading.reason) for reading in readings} == {(0.6, "only 4 of 10 votes are a label; one was 'nonsense'")}


def test_one_bad_item_is_one_failure(server):
    judge = made()
    server.trouble = lambda number, body: (
        "400 says maximum context length is 8192" if "#refusal" in body["messages"][0]["content"] else None
    )
    readings = judge.read(planted(5))
    assert verdicts(readings) == ["support", "neutral", "oppose", "judge_error", "invalid"]
    assert "maximum context length" in readings[3].reason


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ("?mod=votes", "unknown setting 'mod'; did you mean 'mode'"),
        ("?mode=vote", "unknown mode 'vote'; did you mean 'votes'"),
        ("?wording=plane", "unknown wording 'plane'; did you mean 'plain'"),
        ("?votes=0", "votes='0' is no whole number above 0"),
        ("?votes=2.5", "votes='2.5' is no whole number above 0"),
        ("?timeout=soon", "timeout='soon' is no number above 0"),
        ("?timeout=nan", "timeout='nan' is no number above 0"),
    ],
)
def test_wrong_settings(server, settings, sentence):
    with pytest.raises(BadInput, match=sentence):
        made(settings)
    assert server.bodies == []


def test_a_budget_without_a_price_is_refused_at_once(server, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.test/v1")
    with pytest.raises(BadInput, match="the price of 'x' is not known"):
        judges.make("openai:x?mode=votes", max_cost=1.0)
    assert "What it costs is not known." in judges.make("openai:x?mode=votes").note


# -- no paid verdict is lost -----------------------------------------------------------------------------------------------------


def stored(store):
    return set(store.readings()["item"])


@pytest.mark.parametrize("mode", ["logprobs", "votes"])
def test_the_budget_stops_and_the_next_run_pays_only_the_rest(server, tmp_path, mode):
    store, items = Store(tmp_path / "run"), planted(200)
    verdict = 0.011 if mode == "logprobs" else 0.015  # 10 + 1 or 10 + 5 tokens
    first = made(f"?mode={mode}")
    request = first.request(items[-1], mode)
    first.max_cost = 100 * verdict + request.n * first.endpoint.worst(request)  # enough for 101, or one more of shorter texts
    with pytest.raises(Stopped, match="raise --max-cost"):
        CachedJudge(first, store).read(items)
    assert 101 <= len(stored(store)) == server.n_answered <= 102
    assert first.spent == pytest.approx(server.n_paid_tokens * 1e-3)
    judge = CachedJudge(made(f"?mode={mode}"), store)
    assert verdicts(judge.read(items)) == list(OUTCOMES) * 40
    assert server.n_answered == 200, "nothing is paid for twice"
    assert first.spent + judge.spent == pytest.approx(200 * verdict)


def test_ctrl_c_in_the_command_line(server, tmp_path):
    rows = [json.dumps({"claim": "c", "text": f"text {number} #oppose", "stance": "oppose"}) for number in range(200)]
    (tmp_path / "gold.jsonl").write_text("\n".join(rows))
    server.delay_seconds = 0.05
    command = [sys.executable, "-c", "from valuedrift.cli import main; main()", "calibrate", "--judge", "openai:m?concurrency=4"]
    command += ["--gold", str(tmp_path / "gold.jsonl"), "--keep", str(tmp_path / "kept")]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while len(server.bodies) < 90 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        said = process.communicate(timeout=30)[1]
    assert (process.returncode, said.splitlines()[-1]) == (3, "valuedrift: interrupted; the same command again does the rest")
    n_kept = len(stored(Store(tmp_path / "kept")))
    assert 80 < n_kept == server.n_answered - 1 < 200  # all but the probe
    again = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (again.returncode, server.n_answered) == (0, 202), "the rest, and a probe of its own"


SCRIPT = """
import sys
from valuedrift import judge
from valuedrift.judge.cache import CachedJudge
from valuedrift.nouns import Item
from valuedrift.store import Store
items = [Item("p", "c", f"text {number} #oppose") for number in range(300)]
CachedJudge(judge.make("openai:m?mode=logprobs"), Store(sys.argv[1])).read(items)
"""


def test_kill_9_loses_at_most_the_requests_that_were_under_way(server, tmp_path):
    server.delay_seconds = 0.005
    process = subprocess.Popen([sys.executable, "-c", SCRIPT, str(tmp_path / "run")], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.bodies) < 180 and time.monotonic() < deadline:
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)  # what was under way has arrived
    store, judge = Store(tmp_path / "run"), made("?mode=logprobs")
    n_asked, n_stored = len(server.bodies), len(stored(store))
    assert 0 < n_stored < 300
    readings = CachedJudge(judge, store).read([Item("p", "c", f"text {number} #oppose") for number in range(300)])
    assert verdicts(readings) == ["oppose"] * 300
    assert 0 <= len(server.bodies) - 300 <= judge.settings.concurrency == 8
    assert len(server.bodies) - n_asked < 300 - n_stored  # replies that no part held yet
    assert [path.name for path in store.root.iterdir()] == ["readings"]
