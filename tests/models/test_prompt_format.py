import pytest

from valuedrift.models.chat_format import PromptFormat, format_digest, question
from valuedrift.nouns import BadInput


def ids(tokenizer, text, choice="auto"):
    return PromptFormat(tokenizer, choice).prompts([question(text)])[0]


@pytest.fixture(scope="module")
def plain(make_tokenizer):
    return make_tokenizer()


@pytest.fixture(scope="module")
def chat(make_tokenizer, template):
    return make_tokenizer(template)


def test_plain_format(plain):
    assert plain.decode(ids(plain, "Is it right?")) == "Question: Is it right?\nAnswer:"
    assert ids(plain, "Is it right?", "plain") == ids(plain, "Is it right?")


def test_chat_format(chat):
    asked = ids(chat, "Is it right?")
    assert chat.decode(asked) == "<|user|>Is it right?<|end|>\n<|assistant|>"
    assert asked[-1] == chat.convert_tokens_to_ids("<|assistant|>")
    assert ids(chat, "Is it right?", "chat") == asked
    assert chat.decode(ids(chat, "Is it right?", "plain")) == "Question: Is it right?\nAnswer:"


def test_chat_asked_of_a_model_without_template(plain):
    with pytest.raises(BadInput, match="has no chat template"):
        ids(plain, "Is it right?", "chat")


def test_thinking_is_switched_off_and_the_date_fixed(make_tokenizer):
    tokenizer = make_tokenizer("{{ date_string }}{% if enable_thinking is false %} at once{% endif %}: {{ messages[0].content }}")
    assert tokenizer.decode(ids(tokenizer, "why?", "chat")) == "26 Jul 2024 at once: why?"


def test_an_end_token_the_tokenizer_adds_is_taken_off(make_tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer = make_tokenizer()
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    asked = ids(tokenizer, "Is it right?", "plain")
    assert asked[0] == 0
    assert 1 not in asked


def test_format_digest():
    assert format_digest(None) == "plain"
    assert format_digest("a").startswith("chat-")
    assert len({format_digest("a"), format_digest("b"), format_digest(None)}) == 3


def test_reply(plain, chat):
    def reply(tokenizer, text, *more):
        return PromptFormat(tokenizer).reply([*chat(text, add_special_tokens=False)["input_ids"], *more])

    assert reply(plain, " I think so.", 1) == ("I think so.", True)
    assert reply(plain, " Yes.\n\nQuestion: Is it?\nAnswer: No") == ("Yes.", True)
    assert reply(plain, " A Question: which?\n") == ("A Question: which?", True)
    assert reply(chat, "Yes.\nQuestion: why?") == ("Yes.\nQuestion: why?", True)
