"""Servers differ: what one refuses is left out from then on, what is no completion is said, and no secret is ever shown."""

import json
from dataclasses import replace

import pytest

from valuedrift.models import endpoint as _endpoint
from valuedrift.models import local_server
from valuedrift.models.chat_api import LONGEST, Failed, Request
from valuedrift.nouns import BadInput

# Ten input tokens and one output token a reply, at $1000 per million: $0.011. At worst: 20 bytes + 16 for the frame + 4 = 40 tokens, $0.04.
PAID, WORST = 0.011, 0.04
ASK = Request((("user", f"{'say':<16}#yes"),), max_tokens=4)
VLLM = "Requested sample logprobs of 20, which is greater than max allowed: 7"
FULL = replace(ASK, temperature=0.5, n=2, seed=3, top_p=0.9)
SENT = {"temperature", "max_tokens", "n", "seed", "top_p"}


def texts(replies):
    return [reply.texts for reply in replies]


def sent(body):
    return set(body) - {"model", "messages"}


def refuses(*names, says=""):
    """Return a server that answers 400 to a request with one of the parameters, and names the first of them."""

    def trouble(number, body):
        found = [name for name in names if name in body and (name != "n" or body["n"] > 1)]
        return f"400 says {says or 'Unsupported parameter: NAME is not supported'}".replace("NAME", repr(found[0])) if found else None

    return trouble


@pytest.mark.parametrize("name", ["temperature", "seed", "top_p", "n"])
def test_what_a_server_refuses_is_left_out_and_said_once(server, capsys, name, made):
    server.trouble = refuses(name)
    assert texts(made(concurrency=1, retries=0).chat([FULL, FULL])) == [("yes", "yes")] * 2
    assert [sent(body) for body in server.bodies[:2]] == [SENT, SENT - {name}]
    assert sum(name in body for body in server.bodies) == 1
    assert capsys.readouterr().err.count(f"does not take {name} (Unsupported parameter: '{name}' is not supported)") == 1
    made().chat([FULL])  # another judge, writer or model of the same server
    assert sum(name in body for body in server.bodies) == 1


def test_many_threads_that_are_refused_at_once_all_get_their_reply(server, capsys, made):
    server.delay_seconds = 0.02
    server.trouble = refuses("temperature", "max_tokens", "seed")
    assert texts(made(concurrency=8, retries=0).chat([FULL] * 8)) == [("yes", "yes")] * 8
    assert sent(server.bodies[-1]) == {"max_completion_tokens", "n", "top_p"}
    assert capsys.readouterr().err.count("from now on") == 3


@pytest.mark.parametrize(("refused", "taken"), [("max_tokens", "max_completion_tokens"), ("max_completion_tokens", "max_tokens")])
def test_either_name_of_the_length(server, refused, taken, made):
    endpoint = made(retries=0)
    endpoint.dialect.length = refused
    server.trouble = refuses(refused, says="Unsupported parameter: NAME. Use the other one instead.")
    assert texts(endpoint.chat([ASK])) == [("yes",)]
    assert [body.get(taken) for body in server.bodies] == [None, 4]


def test_the_length_is_never_left_out(server, made):
    server.trouble = refuses("max_tokens", "max_completion_tokens")
    with pytest.raises(BadInput, match="answered 400: Unsupported parameter: 'max_completion_tokens'"):
        made().chat([ASK])
    assert len(server.bodies) == 2


def test_a_refusal_is_no_reason_to_go_beyond_the_budget(server, prices, made):
    server.trouble = refuses("max_tokens", "temperature")
    endpoint = made(max_cost=WORST)
    assert texts(endpoint.chat([ASK])) == [("yes",)]
    assert (endpoint.spent, endpoint.budget.unclear) == (pytest.approx(PAID), 0)


@pytest.mark.parametrize(("says", "most"), [("top_logprobs must be at most 8, got 20", 8), ("bad top_logprobs", 5), (VLLM, 7)])
def test_fewer_first_tokens(server, says, most, made):
    server.trouble = lambda number, body: f"400 says {says}" if body["top_logprobs"] > most else None
    [reply] = made(retries=0).chat([replace(ASK, top_logprobs=20)])
    assert [body["top_logprobs"] for body in server.bodies] == [20, most]
    assert len(reply.top_logprobs) == 5


def test_what_was_accepted_before_is_not_left_out_for_one_refusal(server, made):
    server.trouble = lambda number, body: "400 says your seed and temperature are odd words" if number == 1 else None
    replies = made(concurrency=1).chat([FULL, FULL, FULL])
    assert [isinstance(reply, Failed) for reply in replies] == [False, True, False]
    assert sent(server.bodies[-1]) == SENT


def test_a_context_that_is_too_short_is_not_taken_for_a_refused_parameter(server, made):
    said = "'max_tokens' is too large: 4. This model's maximum context length is 8 tokens"
    server.trouble = lambda number, body: f"400 says {said}"
    assert made().chat([ASK]) == [Failed(f"{made().host} answered 400: {said}")]
    assert len(server.bodies) == 1


def test_details_of_a_validation_name_the_parameter(server, made):
    detail = {"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 3}]}
    server.trouble = lambda number, body: (422, json.dumps(detail).encode()) if "seed" in body else None
    assert texts(made(retries=0).chat([FULL])) == [("yes", "yes")]
    assert sent(server.bodies[-1]) == SENT - {"seed"}


# -- what is no completion -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error": {"message": "Provider returned error", "code": 502}}', "not a chat completion: Provider returned error"),
        (b'data: {"choices": [{"delta": {"content": "yes"}}]}\n\n', "it is a stream, although none was asked for"),
        (b"\xff\xfe no text", "not a chat completion"),
    ],
)
def test_a_200_that_is_no_completion(server, body, reason, made):
    kind = "text/event-stream" if body.startswith(b"data:") else "application/json"
    server.trouble = lambda number, _: (200, body, {"content-type": kind})
    [failed] = made(retries=0).chat([ASK])
    assert reason in failed.reason


def test_a_page_with_an_error_is_shown_by_its_text(server, made):
    page = f"<!DOCTYPE html><html><head><style>{'a' * 400}</style><title>502 Bad Gateway</title></head><body><h1>nginx</h1></body></html>"
    server.trouble = lambda number, body: (502, page.encode(), {"content-type": "text/html"})
    [failed] = made(retries=0).chat([ASK])
    assert failed.reason.endswith("answered 502: 502 Bad Gateway nginx (1 attempts)")


def choice(finish="stop", **message):
    content = {"choices": [{"index": 0, "finish_reason": finish, "message": {"role": "assistant", **message}}]}
    return 200, json.dumps({"id": "x", "object": "chat.completion", "created": 0, "model": "m"} | content).encode()


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        (choice(content=[{"type": "text", "text": "ye"}, {"type": "text", "text": "s"}]), ("yes", "stop")),
        (choice(content="\ud800yes"), ("?yes", "stop")),
        (choice("length", content=""), ("", "thinking")),
        (choice("stop", content="", reasoning_content="Well"), ("", "thinking")),
        (choice("length", content=None, reasoning="Well"), ("", "thinking")),
        (choice("stop", content=None), ("", "withheld")),
        (choice("stop", content=""), ("", "stop")),
    ],
)
def test_replies_in_other_shapes(server, reply, expected, made):
    server.trouble = lambda number, body: reply
    [found] = made(retries=0).chat([ASK])
    assert (found.texts[0], found.ended[0]) == expected


# -- secrets -------------------------------------------------------------------------------------------------------------------

SECRETS = ("k3y-of-mine-123", "pass w0rd", "pass%20w0rd", "api-s3cret")


@pytest.fixture
def secret(server, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SECRETS[0])
    monkeypatch.setenv("OPENAI_BASE_URL", server.url.replace("://", "://me:pass%20w0rd@") + "?api-key=api-s3cret")
    return server


def test_user_and_password_are_sent_and_shown_nowhere(secret, made):
    endpoint = made(retries=0)
    assert texts(endpoint.chat([ASK])) == [("yes",)]
    assert secret.headers[0]["authorization"] == "Basic bWU6cGFzcyB3MHJk"  # me:pass w0rd
    assert endpoint.address == secret.url
    shown = repr(vars(endpoint)) + local_server.address() + repr(list(_endpoint.DIALECTS))
    assert not [word for word in (*SECRETS, "bWU6cGFzcyB3MHJk") if word in shown]


@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_secret_that_a_server_repeats_is_hidden(secret, status, made):
    says = f"wrong: {' '.join(SECRETS)} sk-abcdefghijklmnopqrst"
    secret.trouble = lambda number, body: (status, json.dumps({"error": {"message": says}}).encode())
    try:
        [failed] = made(retries=0).chat([ASK])
        words = failed.reason
    except BadInput as error:
        words = str(error)
    assert "wrong: *** *** *** *** ***" in words


@pytest.mark.parametrize("shift", range(16))
def test_no_part_of_a_secret_is_left_where_a_message_is_cut(secret, shift, made):
    says = "x" * (LONGEST - shift - 3) + f" {SECRETS[0]} and so on"
    secret.trouble = lambda number, body: (500, json.dumps({"error": {"message": says}}).encode())
    [failed] = made(retries=0).chat([ASK])
    assert SECRETS[0][:3] not in failed.reason


def test_a_secret_in_an_answer_is_hidden(secret, made):
    secret.trouble = lambda number, body: choice(content=f"support {SECRETS[0]}")
    assert texts(made().chat([ASK])) == [("support ***",)]
    secret.trouble, secret.first_tokens = (lambda number, body: None), (lambda body: {SECRETS[0]: 0.9, "The": 0.06, "Well": 0.04})
    [reply] = made().chat([replace(ASK, top_logprobs=3)])
    assert [token for token, _ in reply.top_logprobs] == ["***", "The", "Well"]


def test_a_wrong_address_is_refused_without_its_password(monkeypatch, made):
    for url in ("htp://me:hunter2@host/v1", "http://me:hunter2@host:port/v1", "me:hunter2@host/v1?key=hunter2", "http://me:hunter2@/v1"):
        monkeypatch.setenv("OPENAI_BASE_URL", url)
        with pytest.raises(BadInput, match="is not an address") as error:
            made()
        assert "hunter2" not in str(error.value)
