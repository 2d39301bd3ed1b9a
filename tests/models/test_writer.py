"""Writers: one text per prompt whatever else is asked, failures counted and never taken for texts, money kept."""

import json
import random
from pathlib import Path

import pytest

from valuedrift.models.chat_format import PromptFormat
from valuedrift.models.loading import load_model
from valuedrift.models.writer import Unfinished, prompt_ids, writer_of
from valuedrift.nouns import BadInput, Stopped

ASKED = [(("system", "Be brief."), ("user", f"Is {thing} good?")) for thing in ("tea", "bread", "rain")]


# -- a model of this machine ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(save_model, tmp_path_factory):
    """A random model whose answers mostly end within a few tokens."""
    return str(save_model(tmp_path_factory.mktemp("writer") / "model", end_bias=8.0))


def test_a_text_depends_on_its_prompt_and_the_seed_alone(model):
    writer = writer_of(model, temperature=1.5, max_new_tokens=160)
    together = writer.write(ASKED, 3)
    assert together == [writer.write([prompt], 3)[0] for prompt in ASKED]
    assert together == writer_of(model, 1.5, 160).write(ASKED, 3)
    assert together != writer.write(ASKED, 4)
    assert sum(text is not None for text in together) >= 2


def test_equal_prompts_get_different_texts_and_the_first_stays_the_same(model):
    writer = writer_of(model, 1.5, 40)
    texts = writer.write(ASKED[:1] * 6, 3)
    assert texts[:1] == writer.write(ASKED[:1], 3)
    assert len(set(texts)) > 3


def test_a_text_without_an_end_is_a_failure_with_its_reason(model):
    writer = writer_of(model, 1.5, 2)
    texts = writer.write(ASKED * 20, 0)
    failed = texts.count(None)
    assert 0 < failed <= 60
    assert sum(writer.failures.values()) == failed
    assert writer.failures["no end within 2 tokens"] > 0
    assert all(n > 0 for n in writer.failures.values())


def test_a_prompt_that_does_not_fit_fails_alone(folders, tmp_path, save_model):
    folder = save_model(tmp_path / "short")
    config = folder / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 200}))
    writer = writer_of(str(folder), 1.0, 4)
    long = (("user", "tea and bread and rain " * 50),)
    writer.write([long, ASKED[0]], 0)
    assert writer.failures["the prompt is too long for the model"] == 1


def test_identity_names_weights_and_sampling_and_not_the_folder(model, folders, tmp_path):
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(model).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    same = writer_of(model, 0.7, 9).identity
    assert writer_of(str(copy), 0.7, 9).identity == same
    others = [writer_of(model, 0.8, 9), writer_of(model, 0.7, 8), writer_of(str(folders["qwen3"]), 0.7, 9)]
    assert len({same, *(writer.identity for writer in others)}) == 4


def test_messages_become_the_chat_template_or_one_plain_question(tmp_path, model, save_model, template):
    _, plain = load_model(model)
    assert plain.decode(prompt_ids(PromptFormat(plain), ASKED[0])) == "Question: Be brief.\n\nIs tea good?\nAnswer:"
    _, chat = load_model(save_model(tmp_path / "chat", template=template))
    assert chat.decode(prompt_ids(PromptFormat(chat), ASKED[0])) == "<|system|>Be brief.<|end|>\n<|user|>Is tea good?<|end|>\n<|assistant|>"


def test_a_template_without_a_system_role_gets_its_words_in_the_users(tmp_path, save_model, template):
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + template
    _, chat = load_model(save_model(tmp_path / "chat", template=refusing))
    assert chat.decode(prompt_ids(PromptFormat(chat), ASKED[0])) == "<|user|>Be brief.\n\nIs tea good?<|end|>\n<|assistant|>"


def test_a_folder_that_is_none_is_refused():
    with pytest.raises(BadInput, match="there is no checkpoint folder nowhere"):
        writer_of("nowhere")


# -- an endpoint ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _answers(server):
    server.text = lambda number, body: f" {random.Random(body['seed']).random()} "


def test_an_endpoint_is_told_messages_settings_and_a_seed_per_text(server):
    writer = writer_of("openai:m", 0.3, 12)
    texts = writer.write([*ASKED, ASKED[0]], 5)
    assert len(set(texts)) == 4
    assert texts[1:2] == writer.write(ASKED[1:2], 5)
    assert all(text == text.strip() for text in texts)
    body = next(body for body in server.bodies if "bread" in body["messages"][1]["content"])
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is bread good?"}]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.3, 12)
    assert writer.identity.startswith("openai/")


def test_what_an_endpoint_cuts_off_or_refuses_is_no_text(server):
    original = server.completion

    def completion(number, body):
        found = original(number, body)
        if "tea" in body["messages"][1]["content"]:
            found["choices"][0]["finish_reason"] = "length"
        return found

    server.completion = completion
    server.text = lambda number, body: "" if "rain" in body["messages"][1]["content"] else "words"
    server.trouble = lambda number, body: "400 says flagged by the content filter" if "salt" in body["messages"][1]["content"] else None
    writer = writer_of("openai:m", max_new_tokens=12)
    salt = (("system", "Be brief."), ("user", "Is salt good?"))
    assert writer.write([*ASKED, salt], 0) == [None, "words", None, None]
    assert writer.failures["no end within 12 tokens"] == writer.failures["an empty text"] == 1
    assert any("flagged" in reason for reason in writer.failures)


def test_at_the_budget_what_was_paid_for_comes_along(server, prices):
    writer = writer_of("openai:m", max_new_tokens=12, max_cost=0.15)
    with pytest.raises(Unfinished, match="budget") as stopped:
        writer.write(ASKED * 20, 0)
    assert isinstance(stopped.value, Stopped)
    assert len(stopped.value.texts) == 60
    n_written = sum(text is not None for text in stopped.value.texts)
    assert n_written == server.n_answered > 0
    assert writer.spent == pytest.approx(0.011 * n_written)  # 10 + 1 tokens at $0.001
    assert writer.spent <= 0.15
