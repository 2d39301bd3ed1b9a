import pytest

from valuedrift.nouns import BadInput
from valuedrift.sample._frame import frame_digest, framed, reply_text


@pytest.fixture(scope="module")
def plain(make_tokenizer):
    return make_tokenizer()


@pytest.fixture(scope="module")
def chat(make_tokenizer, template):
    return make_tokenizer(template)


def test_plain_frame(plain):
    assert plain.decode(framed(plain, "Is it right?", "auto")) == "Question: Is it right?\nAnswer:"
    assert framed(plain, "Is it right?", "plain") == framed(plain, "Is it right?", "auto")


def test_chat_frame(chat):
    ids = framed(chat, "Is it right?", "auto")
    assert chat.decode(ids) == "<|user|>Is it right?<|end|>\n<|assistant|>"
    assert ids[-1] == chat.convert_tokens_to_ids("<|assistant|>")
    assert framed(chat, "Is it right?", "chat") == ids
    assert chat.decode(framed(chat, "Is it right?", "plain")) == "Question: Is it right?\nAnswer:"


def test_chat_asked_of_a_model_without_template(plain):
    with pytest.raises(BadInput, match="has no chat template"):
        framed(plain, "Is it right?", "chat")


def test_thinking_is_switched_off_and_the_date_fixed(make_tokenizer):
    tokenizer = make_tokenizer("{{ date_string }}{% if enable_thinking is false %} at once{% endif %}: {{ messages[0].content }}")
    assert tokenizer.decode(framed(tokenizer, "why?", "chat")) == "26 Jul 2024 at once: why?"


def test_an_end_token_the_tokenizer_adds_is_taken_off(make_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    ids = framed(tokenizer, "Is it right?", "plain")
    assert ids[0] == 0
    assert 1 not in ids


def test_frame_digest():
    assert frame_digest(None) == "plain"
    assert frame_digest("a").startswith("chat-")
    assert len({frame_digest("a"), frame_digest("b"), frame_digest(None)}) == 3


def test_reply_text(plain, chat):
    def ids(text):
        return chat(text, add_special_tokens=False)["input_ids"]

    assert reply_text(plain, [*ids(" I think so."), 1], "auto") == "I think so."
    assert reply_text(plain, ids(" Yes.\n\nQuestion: Is it?\nAnswer: No"), "auto") == "Yes."
    assert reply_text(plain, ids(" A Question: which?\n"), "auto") == "A Question: which?"
    assert reply_text(chat, ids("Yes.\nQuestion: why?"), "chat") == "Yes.\nQuestion: why?"
