"""Requests to a chat endpoint: order, bounds, retries and Ctrl-C, against a real server that misbehaves."""

import asyncio
import os
import signal
import sys
import threading
import time
from email.utils import formatdate
from pathlib import Path

import pytest

from valuedrift.models import chat_api
from valuedrift.models import endpoint as _endpoint
from valuedrift.models.chat_api import Failed, Reply, Request
from valuedrift.models.endpoint import Ended, Endpoint
from valuedrift.nouns import BadInput

sys.path.append(str(Path(__file__).parents[1] / "judge"))

import misbehaving

pytestmark = pytest.mark.slow


def ask(word, **settings):
    """Return a request whose content has twenty bytes."""
    return Request((("user", f"{'say':<{19 - len(word)}}#{word}"),), max_tokens=4, **settings)


def words(n):
    return [f"word{number}" for number in range(n)]


def texts(replies):
    return [reply.texts for reply in replies]


# -- order and bounds --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("concurrency", [1, 4])
def test_replies_come_in_order_and_never_too_many_requests_at_once(server, concurrency, made):
    server.delay_seconds = 0.02
    replies = made(concurrency=concurrency).chat([ask(word) for word in words(24)])
    assert texts(replies) == [(word,) for word in words(24)]
    assert server.most_at_once == concurrency
    assert len(server.bodies) == 24


def test_what_is_sent(server, made):
    messages = (("system", "Be brief."), ("user", "Broken \ud800 text #yes"))
    [reply] = made().chat([Request(messages, max_tokens=7, temperature=0.5, top_logprobs=3, seed=11)])
    assert server.bodies == [
        {
            "model": "m",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Broken ? text #yes"}],
            "temperature": 0.5,
            "max_tokens": 7,
            "logprobs": True,
            "top_logprobs": 3,
            "seed": 11,
        }
    ]
    assert [token for token, _ in reply.top_logprobs] == ["yes", "The", "Well"]
    assert (reply.ended, reply.n_input, reply.n_output, reply.cost) == (("stop",), 10, 1, 0.0)
    assert made().chat([]) == []


def test_it_works_within_a_running_loop(server, made):
    async def notebook():
        return made().chat([ask("yes")])

    assert texts(asyncio.run(notebook())) == [("yes",)]


# -- several texts per request ---------------------------------------------------------------------------------------------------


def test_several_texts_in_one_request(server, made):
    replies = made().chat([ask("yes", n=3), ask("no", n=3)])
    assert texts(replies) == [("yes",) * 3, ("no",) * 3]
    assert [body["n"] for body in server.bodies] == [3, 3]


def test_a_server_that_ignores_n_is_asked_one_by_one(server, prices, made):
    server.heeds_n = False
    endpoint = made(concurrency=1)
    replies = endpoint.chat([ask("yes", n=3), ask("no", n=3)])
    assert texts(replies) == [("yes",) * 3, ("no",) * 3]
    # The first request asks for 3 and gets 1; from then on each text is asked for alone: 6 requests in all.
    assert [body.get("n", 1) for body in server.bodies] == [3, 1, 1, 1, 1, 1]
    assert endpoint.spent == pytest.approx(6 * 0.011)  # ten input tokens and one output token a reply, at $0.001
    assert replies[0].cost == pytest.approx(3 * 0.011)
    assert (replies[0].n_input, replies[0].n_output, len(replies[0].ended)) == (30, 3, 3)


def test_a_server_that_refuses_n_is_asked_one_by_one(server, made):
    server.trouble = lambda number, body: "400 says 'n' must be 1 for this model" if body.get("n", 1) > 1 else None
    assert texts(made(concurrency=1).chat([ask("yes", n=3)])) == [("yes",) * 3]
    assert [body.get("n", 1) for body in server.bodies] == [3, 1, 1, 1]


# -- second attempts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("trouble", ["429", "429 after 0.01", "500", "503", "408", "cut", "garbage", "html", "empty"])
def test_what_may_pass_is_tried_again(server, trouble, made):
    server.trouble = misbehaving.first_attempts(2, trouble)
    replies = made(retries=2, concurrency=2).chat([ask(word) for word in words(4)])
    assert texts(replies) == [(word,) for word in words(4)]
    assert len(server.bodies) == 4 * 3


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        ("429", "answered 429: trouble 429"),
        ("500", "answered 500: trouble 500"),
        ("cut", "the connection failed"),
        ("garbage", "not a chat completion"),
        ("html", "not a chat completion: '<html>Service is warming up</html>'"),
        ("empty", "not a chat completion"),
    ],
)
def test_what_does_not_pass_is_a_failure_with_its_reason(server, trouble, reason, made):
    server.trouble = lambda number, body: trouble if misbehaving.planted(body) == "word1" else None
    replies = made(retries=2).chat([ask(word) for word in words(3)])
    assert texts([replies[0], replies[2]]) == [("word0",), ("word2",)]
    assert isinstance(replies[1], Failed)
    assert reason in replies[1].reason
    assert "(3 attempts)" in replies[1].reason
    assert len(server.bodies) == 2 + 3


def test_a_reply_that_comes_too_late_is_a_failure(server, made):
    server.delay_seconds = 0.5
    [reply] = made(retries=1, timeout_seconds=0.1).chat([ask("yes")])
    assert reply == Failed("no reply in time (2 attempts)")


def test_pauses_double(server, monkeypatch, made):
    monkeypatch.setattr(_endpoint.random, "uniform", lambda low, high: high)
    server.trouble = lambda number, body: "500" if number < 3 else None
    endpoint = made()
    endpoint.backoff_seconds = 0.04
    endpoint.chat([ask("yes")])
    pauses = [later - earlier for earlier, later in zip(server.times, server.times[1:], strict=False)]
    for pause, least in zip(pauses, (0.04, 0.08, 0.16), strict=True):
        assert least <= pause < least + 0.08


def test_the_pause_that_a_server_asks_for_holds_for_all(server, made):
    server.delay_seconds = 0.01
    server.trouble = lambda number, body: "429 after 0.4" if number == 0 else None
    made(concurrency=2).chat([ask(word) for word in words(8)])
    # Request 0 is refused after 0.01 s; whatever was under way by then ends, and nothing new comes for 0.4 s.
    refused = server.times[0] + server.delay_seconds
    within = [moment for moment in server.times if refused + 0.1 < moment < refused + 0.4]
    assert within == []
    assert server.times[-1] > refused + 0.4


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after": "7"}, 7),
        ({"retry-after-ms": "250", "retry-after": "1"}, 0.25),
        ({"retry-after": "-3"}, 0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "inf"}, None),
        ({}, None),
    ],
)
def test_retry_after(headers, seconds):
    assert chat_api.retry_after(headers) == seconds


def test_retry_after_a_date():
    assert chat_api.retry_after({"retry-after": formatdate(time.time() + 60, usegmt=True)}) == pytest.approx(60, abs=2)


def test_a_server_that_is_gone_stops_the_work(server, made):
    server.trouble = lambda number, body: "500" if number >= 5 else None
    with pytest.raises(Ended, match=r"failed 10 requests in a row.*trouble 500.*same command again") as ended:
        made(concurrency=1, retries=0).chat([ask(word) for word in words(40)])
    replies = ended.value.replies
    assert texts(replies[:5]) == [(word,) for word in words(5)]
    assert all(isinstance(reply, Failed) for reply in replies[5:15])
    assert replies[15:] == (None,) * 25
    assert len(server.bodies) == 15


def test_failures_with_replies_between_them_do_not_stop_the_work(server, made):
    server.trouble = lambda number, body: None if number % 5 == 4 else "500"
    replies = made(concurrency=1, retries=0).chat([ask(word) for word in words(40)])
    assert sum(isinstance(reply, Failed) for reply in replies) == 32  # never more than four in a row


# -- what fails for all --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("trouble", "sentence"),
    [
        ("401 says Incorrect key", "answered 401: Incorrect key; check OPENAI_API_KEY"),
        ("403 says Not your region", "answered 403: Not your region; check OPENAI_API_KEY"),
        ("404 says No model m", "answered 404: No model m; check the model's name and OPENAI_BASE_URL"),
        ("400 says No such setting", "answered 400: No such setting; the request cannot be served like this"),
        ("402 says No credit", "answered 402: No credit; add credit"),
        ("429 after 86400", "asks for a pause of 86,400 s"),
    ],
)
def test_what_fails_for_all_is_bad_input_at_once(server, trouble, sentence, made):
    server.trouble = lambda number, body: trouble
    with pytest.raises(BadInput, match=sentence):
        made(concurrency=2).chat([ask(word) for word in words(50)])
    assert len(server.bodies) <= 2


@pytest.mark.parametrize(
    "said", ["This model's maximum context length is 8192 tokens", "prompt is too long", "flagged by the content filter"]
)
def test_one_text_that_is_refused_is_one_failure(server, said, made):
    server.trouble = lambda number, body: f"400 says {said}" if misbehaving.planted(body) == "word0" else None
    replies = made(concurrency=1).chat([ask(word) for word in words(3)])
    assert replies[0] == Failed(f"{made().host} answered 400: {said}")
    assert texts(replies[1:]) == [("word1",), ("word2",)]
    assert len(server.bodies) == 3


def test_after_a_reply_a_refused_request_is_one_failure_too(server, made):
    server.trouble = lambda number, body: "422 says something odd" if misbehaving.planted(body) == "word1" else None
    replies = made(concurrency=1).chat([ask(word) for word in words(3)])
    assert [type(reply) for reply in replies] == [Reply, Failed, Reply]


def test_a_key_that_ends_in_the_middle_keeps_the_replies(server, made):
    server.trouble = lambda number, body: "401" if number >= 3 else None
    with pytest.raises(Ended, match=r"answered 401.*check OPENAI_API_KEY") as ended:
        made(concurrency=1).chat([ask(word) for word in words(6)])
    assert texts(ended.value.replies[:3]) == [("word0",), ("word1",), ("word2",)]
    assert ended.value.replies[3:] == (None,) * 3


def test_a_fault_of_our_own_is_not_hidden(server, monkeypatch, made):
    monkeypatch.setattr(chat_api.Dialect, "arguments", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        made().chat([ask("yes")])


# -- where and who ---------------------------------------------------------------------------------------------------------------


def test_a_missing_key(monkeypatch):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BadInput, match="OPENAI_API_KEY is not set"):
        Endpoint("gpt-4o-mini")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert Endpoint("gpt-4o-mini").host == "api.openai.com"


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "ftp://host/v1", "http://host:port/v1"])
def test_a_wrong_address(monkeypatch, url):
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    with pytest.raises(BadInput, match=r"OPENAI_BASE_URL=.* is not an address; write http://HOST:PORT/v1"):
        Endpoint("m")


def test_no_model_and_no_library(server, monkeypatch):
    with pytest.raises(BadInput, match="no model is named"):
        Endpoint("")
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(BadInput, match=r"pip install 'valuedrift\[openai\]'"):
        Endpoint("m")


def test_the_name_of_the_length_depends_on_the_server(server, monkeypatch, made):
    assert made().dialect.length == "max_tokens"
    monkeypatch.delenv("OPENAI_BASE_URL")
    monkeypatch.setenv("OPENAI_API_KEY", "key")
    assert made().dialect.length == "max_completion_tokens"


# -- Ctrl-C ----------------------------------------------------------------------------------------------------------------------


def test_ctrl_c_keeps_what_was_paid(server, made):
    server.delay_seconds = 0.1
    server.trouble = misbehaving.ctrl_c_at(5)
    with pytest.raises(Ended, match="interrupted; the same command again") as ended:
        made(concurrency=2).chat([ask(word) for word in words(60)])
    replies = [reply for reply in ended.value.replies if reply is not None]
    assert 6 <= len(replies) == len(server.bodies) == server.n_answered <= 10


def test_ctrl_c_does_not_wait_for_a_server_that_hangs(server, monkeypatch, made):
    monkeypatch.setattr(_endpoint, "GRACE_SECONDS", 0.1)
    server.delay_seconds = 6
    server.trouble = misbehaving.ctrl_c_at(1)
    started = time.monotonic()
    with pytest.raises(Ended) as ended:
        made(concurrency=2).chat([ask(word) for word in words(4)])
    assert ended.value.replies == (None,) * 4
    assert time.monotonic() - started < 3


class OfACommandLine(KeyboardInterrupt):
    """What a handler of its own may raise."""


def test_a_second_ctrl_c_ends_the_wait_and_loses_nothing(server, monkeypatch, made):
    def handler(*_):
        raise OfACommandLine

    monkeypatch.setattr(_endpoint, "GRACE_SECONDS", 20)
    before = signal.signal(signal.SIGINT, handler)
    server.trouble = lambda number, body: time.sleep(5) if number >= 4 else None
    timers = [threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)) for seconds in (1.0, 1.5)]
    try:
        for timer in timers:
            timer.start()
        started = time.monotonic()
        with pytest.raises(Ended, match="interrupted; the same command again") as ended:
            made(concurrency=2).chat([ask(word) for word in words(8)])
        assert time.monotonic() - started < 4
        assert sum(reply is not None for reply in ended.value.replies) == 4
    finally:
        for timer in timers:
            timer.join()
        signal.signal(signal.SIGINT, before)


def test_ctrl_c_ends_a_pause(server, made):
    server.trouble = lambda number, body: "429 after 30"
    endpoint = made()
    threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()
    started = time.monotonic()
    with pytest.raises(Ended):
        endpoint.chat([ask("yes")])
    assert time.monotonic() - started < 3
