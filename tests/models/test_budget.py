"""A budget that holds: what is paid, reserved and perhaps billed, against a real server that misbehaves; the price table."""

import pytest

from valuedrift.models.budget import Price, price_of, price_table
from valuedrift.models.chat_api import Request
from valuedrift.models.endpoint import Ended
from valuedrift.nouns import BadInput

# Ten input tokens and one output token a reply, at $1000 per million: $0.011. At worst: 20 bytes + 16 for the frame + 4 = 40 tokens, $0.04.
PAID, WORST = 0.011, 0.04


def asks(n_requests, **settings):
    """Return requests whose contents have twenty bytes."""
    return [Request((("user", f"{'say':<13}#word{number:02}"),), max_tokens=4, **settings) for number in range(n_requests)]


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_holds_and_keeps_what_was_paid(server, prices, concurrency, made):
    # A request is sent while 0.011 k + 0.04 <= 0.1 for k replies before it: k <= 5.45, so six replies, $0.066.
    server.delay_seconds = 0.02
    endpoint = made(concurrency=concurrency, max_cost=0.1)
    with pytest.raises(
        Ended, match=r"the budget of \$0\.1 is used up: \$0\.0660 spent, and the next .* \$0\.040000; raise --max-cost"
    ) as ended:
        endpoint.chat(asks(40))
    replies = [reply for reply in ended.value.replies if reply is not None]
    assert len(replies) == len(server.bodies) == 6
    assert all(reply.cost == pytest.approx(PAID) for reply in replies)
    assert endpoint.spent == pytest.approx(6 * PAID) == pytest.approx(server.n_paid_tokens * 1e-3)


def test_a_budget_for_exactly_one_request(server, prices, made):
    assert [reply.texts for reply in made(max_cost=WORST).chat(asks(1))] == [("word00",)]
    with pytest.raises(Ended):
        made(max_cost=WORST - 1e-6).chat(asks(1))
    assert len(server.bodies) == 1


def test_the_texts_of_one_request_are_paid_for_all_or_none(server, prices, made):
    # Three votes may cost 3 * 0.04. After the first request for all three (0.12 <= 0.13) there is 0.13 - 0.033 = 0.097 left: too little.
    server.heeds_n = False
    with pytest.raises(Ended) as ended:
        made(concurrency=3, max_cost=0.13).chat(asks(9, n=3))
    assert sum(reply is not None for reply in ended.value.replies) == 1
    assert len(server.bodies) == 3


def test_a_lost_reply_may_have_been_billed(server, prices, made):
    # Two lost replies may have cost 0.08, the third attempt is paid with 0.011; 0.13 - 0.091 leaves no room for another 0.04.
    server.trouble = lambda number, body: "cut" if number < 2 else None
    endpoint = made(concurrency=1, max_cost=0.13)
    with pytest.raises(Ended, match=r"\$0\.0110 spent, and up to \$0\.0800 more for replies that were lost"):
        endpoint.chat(asks(9))
    assert len(server.bodies) == 3


def test_a_late_reply_may_have_been_billed_and_a_missed_server_has_not(server, prices, monkeypatch, made):
    server.delay_seconds = 0.5
    late = made(timeout_seconds=0.1, retries=1)
    late.chat(asks(1))
    assert (late.spent, late.budget.unclear) == (0, pytest.approx(2 * WORST))
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    missed = made(retries=1)
    assert "the connection failed" in missed.chat(asks(1))[0].reason
    assert (missed.spent, missed.budget.unclear) == (0, 0)


def test_refusals_cost_nothing(server, prices, made):
    server.trouble = lambda number, body: "429" if number < 4 else None
    endpoint = made(concurrency=1, max_cost=WORST)
    assert [reply.texts for reply in endpoint.chat(asks(1))] == [("word00",)]
    assert endpoint.spent == pytest.approx(PAID)


def test_uncounted_tokens_cost_the_worst(server, prices, made):
    server.trouble = lambda number, body: "no usage"
    endpoint = made()
    [reply] = endpoint.chat(asks(1))
    assert (reply.n_input, reply.n_output, reply.cost) == (None, None, pytest.approx(WORST))
    assert endpoint.spent == pytest.approx(WORST)


def test_an_unknown_price(server, monkeypatch, capsys, made):
    endpoint = made(max_cost=1.0)  # on this machine a model that is not listed costs nothing
    assert endpoint.price == Price(0, 0)
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.test/v1")
    with pytest.raises(BadInput, match=r"the price of 'm' is not known.*copy .*prices\.toml.*VALUEDRIFT_PRICES"):
        made(max_cost=1.0)
    endpoint.max_cost = None
    endpoint.price = None
    assert [reply.cost for reply in endpoint.chat(asks(1)) + endpoint.chat(asks(1))] == [None, None]
    assert capsys.readouterr().err.count("what it costs is not counted") == 1


def test_the_price_table(tmp_path, monkeypatch):
    # 2,000 input tokens at $0.15 and 500 output tokens at $0.60 per million: 0.0003 + 0.0003.
    assert price_of("gpt-4o-mini-2024-07-18").of(2000, 500) == pytest.approx(0.0006)
    assert price_of("gpt-4o") != price_of("gpt-4o-2024-05-13")  # the first pattern that fits counts
    assert price_of("gpt-4o-realtime-preview") is None
    copy = tmp_path / "mine.toml"
    copy.write_text('[models]\n"org/*" = { input = 1, output = 2 }\n')
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(copy))
    assert price_of("org/model") == Price(1, 2)
    assert price_of("gpt-4o") is None


@pytest.mark.parametrize(
    "content", ["models = 3", '[models]\n"m" = 3', '[models]\n"m" = { input = 1 }', "[", '[models]\n"m" = { input = -1, output = 1 }', ""]
)
def test_a_wrong_price_table(tmp_path, monkeypatch, content):
    path = tmp_path / "mine.toml"
    monkeypatch.setenv("VALUEDRIFT_PRICES", str(path))
    with pytest.raises(BadInput, match="cannot be read"):
        price_table()
    path.write_text(content)
    with pytest.raises(BadInput, match=str(path)):
        price_table()
