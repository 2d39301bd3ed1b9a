"""The forms that the chat templates of real families take, written for the tests, with a tokenizer and tiny models for each."""

import functools
from dataclasses import dataclass

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

TEXT = [
    "Should the state raise taxes on fuel? Yes, I agree: the climate cannot wait. No, I do not, it is wrong and unfair.",
    "support neutral oppose refusal invalid stance claim text question writer one of the labels, towards it [INST] [/INST]",
]
RAISE = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}"
    "{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Roles must alternate') }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Form:
    template: str | dict[str, str]
    special: tuple[str, ...] = ()
    ordinary: tuple[str, ...] = ()
    metaspace: bool = False
    parts: bool = False
    """Whether the template wants a message's content as a list of parts."""
    says: str = "{reply}"
    """What a model of this family writes for a reply: with its reasoning before it."""


def roles(user, assistant, ask, before="", content="m['content']"):
    """Return a template of what it writes for a user's message (@ stands for its text), for a reply, and before a reply."""

    def written(text):
        return "{{ " + f" + {content} + ".join(repr(piece) for piece in text.split("@")) + " }}"

    turn = "{% if m['role'] == 'user' %}" + written(user) + "{% else %}" + written(assistant) + "{% endif %}"
    before = "".join(part if part.startswith("{") else written(part) for part in [before] if part)
    return before + "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}" + written(ask) + "{% endif %}"


def chatml(opens="", behind="", **more):
    start = "<|im_start|>{}\n{}@<|im_end|>\n"
    return roles(start.format("user", ""), start.format("assistant", behind), f"<|im_start|>assistant\n{opens}", **more)


IM = ("<|im_start|>", "<|im_end|>")
LLAMA3 = "<|start_header_id|>{}<|end_header_id|>\n\n@<|eot_id|>"
DATE = "{% if date_string is defined %}{{ date_string }}{% else %}{{ strftime_now('%d %b %Y') }}{% endif %}"
COHERE = "<|START_OF_TURN|><|{}|>@<|END_OF_TURN|>"
EMPTY = "<think>\n\n</think>\n\n"
THOUGHT = "Some say no, it is wrong.{}\n\n{{reply}}"
FORMS = {
    "chatml": Form(chatml(), IM),
    "chatml, end of turn as an ordinary token": Form(chatml(), ordinary=IM),
    "chatml, end of turn in pieces": Form(chatml()),
    "zephyr": Form(roles("<|user|>\n@</s>\n", "<|assistant|>\n@</s>\n", "<|assistant|>\n")),
    "llama 2": Form(roles("<s>[INST] @ [/INST]", " @ </s>", ""), metaspace=True),
    "mistral": Form(RAISE + roles("[INST] @ [/INST]", " @</s>", "", "<s>"), metaspace=True),
    "llama 3": Form(
        "{{ '<s>Today: ' }}"
        + DATE
        + roles(*map(LLAMA3.format, ("user", "assistant")), LLAMA3.format("assistant").partition("@")[0], content="m['content'] | trim"),
        ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    ),
    "gemma": Form(
        RAISE + roles(*(f"<start_of_turn>{role}\n@<end_of_turn>\n" for role in ("user", "model")), "<start_of_turn>model\n", "<s>"),
        ("<start_of_turn>", "<end_of_turn>"),
    ),
    "phi": Form(roles("<|user|>\n@<|end|>\n", "<|assistant|>\n@<|end|>\n", "<|assistant|>\n"), ("<|user|>", "<|assistant|>", "<|end|>")),
    "command r": Form(
        roles(*map(COHERE.format, ("USER", "CHATBOT")), "<|START_OF_TURN|><|CHATBOT|>", "<s>"),
        ("<|START_OF_TURN|>", "<|END_OF_TURN|>", "<|USER|>", "<|CHATBOT|>"),
    ),
    "deepseek": Form(roles("<｜User｜>@", "<｜Assistant｜>@</s>", "<｜Assistant｜>", "<s>"), ("<｜User｜>", "<｜Assistant｜>")),
    "deepseek, bars as ordinary text": Form(roles("<｜User｜>@", "<｜Assistant｜>@<｜end｜>", "<｜Assistant｜>")),
    "thinking": Form(chatml("<think>\n"), IM, ("<think>", "</think>"), says=THOUGHT.format("</think>")),
    "thinking under a name of its own": Form(chatml("<plan>\n"), IM, says=THOUGHT.format("</plan>")),
    "thinking in special tokens": Form(
        chatml("<|START_THINKING|>"), (*IM, "<|START_THINKING|>", "<|END_THINKING|>"), says=THOUGHT.format("<|END_THINKING|>")
    ),
    "thoughts that the model opens": Form(chatml(), IM, says="<think>\n" + THOUGHT.format("</think>")),
    "thoughts switched off": Form(
        chatml(EMPTY, EMPTY).replace(
            repr("<|im_start|>assistant\n" + EMPTY) + " }}{% endif",
            "'<|im_start|>assistant\\n' + (" + repr(EMPTY) + " if enable_thinking is false else '') }}{% endif",
        ),
        IM,
    ),
    "channels": Form(
        roles(
            "<|start|>user<|message|>@<|end|>",
            "<|start|>assistant<|channel|>final<|message|>@<|return|>",
            "<|start|>assistant",
        ),
        ("<|start|>", "<|message|>", "<|end|>", "<|return|>", "<|channel|>"),
        says="<|channel|>analysis<|message|>Some say no.<|end|><|start|>assistant<|channel|>final<|message|>{reply}",
    ),
    "alpaca": Form(roles("### Instruction:\n@\n\n", "### Response:\n@\n\n", "### Response:\n", "Below is an instruction.\n\n")),
    "roles as words": Form(roles("### User\n@\n", "### Assistant\n@\n", "### Assistant\n")),
    "vicuna": Form(roles("USER: @ ", "ASSISTANT: @</s>", "ASSISTANT:", "A chat. ")),
    "a space that ends the prompt": Form(roles("Human: @\n", "Assistant: @\n", "Assistant: ")),
    "a separator": Form(roles("@\n\n###\n\n", "@ END\n", "")),
    "content in parts": Form(chatml(content="m['content'][0]['text']"), IM, parts=True),
    "named templates": Form({"default": chatml(), "tool_use": "{{ raise_exception('no tools') }}"}, IM),
    "the clock": Form("{{ 'Today is ' + strftime_now('%d %B %Y, %H:%M:%S') + '.\\n' }}" + chatml(), IM),
}


@functools.cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    form, core = FORMS[name], Tokenizer(models.BPE(unk_token="<unk>"))
    if form.metaspace:
        core.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
        core.decoder = decoders.Metaspace(prepend_scheme="first")
    else:
        core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = [] if form.metaspace else pre_tokenizers.ByteLevel.alphabet()
    special = ["<unk>", "<s>", "</s>", *form.special]
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    core.train_from_iterator([*TEXT * 20, "".join(map(chr, range(32, 127)))], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.add_special_tokens({"additional_special_tokens": list(form.special)})
    made.add_tokens(list(form.ordinary))
    made.chat_template = form.template
    return made


def reciting(tokenizer, said: list[int], start: int) -> GPT2LMHeadModel:
    """Return a model whose likeliest token at position `start - 1 + n` is `said[n]`, whatever it reads."""
    n = start + len(said)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=n, n_embd=n, n_layer=1, n_head=1, tie_word_embeddings=False, bos_token_id=1, eos_token_id=2
    )
    model = GPT2LMHeadModel(config).eval()
    with torch.no_grad():
        for weights in model.parameters():
            weights.zero_()
        model.transformer.wpe.weight.copy_(torch.eye(n))
        model.transformer.ln_f.weight.fill_(1.0)
        for place, token in enumerate(said):
            model.lm_head.weight[token, start - 1 + place] = 1.0
    return model


def random_model(tokenizer) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.3}
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **sizes, bos_token_id=1, eos_token_id=2, pad_token_id=None)).eval()
