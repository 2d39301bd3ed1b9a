"""Frames: how a question becomes token ids, and how an answer's token ids become text.

plain   for models without a chat template: `PLAIN`, tokenised as the tokenizer does running text (with its BOS where it has one).
        An answer ends at an end token, or where the model goes on to ask itself the next question: at a newline followed by
        "Question:", which is cut off.
chat    the checkpoint's own template, one user message and the generation prompt. An answer ends at an end token, or at the token
        with which the template ends a turn. Templates that think aloud or print today's date are told not to.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal

from ..nouns import BadInput, digest

if TYPE_CHECKING:
    from ._engine import Ending

PLAIN = "Question: {question}\nAnswer:"
_NEXT_QUESTION = re.compile(r"\n\s*Question:")
_TEMPLATE_SETTINGS = {"enable_thinking": False, "date_string": "26 Jul 2024"}
"""Qwen3: the answer, not the reasoning, within the new tokens. Llama 3.1 and later: the template's own default, not the day of the run."""

Frame = Literal["auto", "plain", "chat"]


def frame_digest(template: str | None) -> str:
    """Return the name of a frame by content: "plain", or "chat-" and the digest of the template."""
    return "plain" if template is None else f"chat-{digest(template)}"


def is_chat(tokenizer: Any, frame: Frame) -> bool:
    """Return whether questions are put in the chat template. Raises BadInput where it is asked for and there is none."""
    if frame == "chat" and not tokenizer.chat_template:
        raise BadInput(f"{tokenizer.name_or_path} has no chat template; set frame to 'auto' or 'plain', or give the checkpoint a template")
    return frame == "chat" or (frame == "auto" and bool(tokenizer.chat_template))


def framed(tokenizer: Any, question: str, frame: Frame) -> list[int]:
    """Return the token ids a model is given for one question. Raises BadInput where "chat" is asked of a model without template."""
    return _ids(tokenizer, _asked(tokenizer, question, frame), frame)


def answered(tokenizer: Any, question: str, text: str, frame: Frame) -> tuple[list[int], int]:
    """Return the token ids of a question with a stored answer behind it, and how many of them are the question.

    The words are tokenised anew: where a model wrote them in other tokens than its tokenizer would, the ids differ from what it wrote.
    """
    asked = _asked(tokenizer, question, frame)
    joint = " " if text and asked.endswith(":") else ""  # answers are stored without the space that follows "Answer:"
    given, whole = _ids(tokenizer, asked, frame), _ids(tokenizer, asked + joint + text, frame)
    return whole, next((n for n, (a, b) in enumerate(zip(given, whole, strict=False)) if a != b), min(len(given), len(whole)))


def _asked(tokenizer: Any, question: str, frame: Frame) -> str:
    if not is_chat(tokenizer, frame):
        return PLAIN.format(question=question)
    return chat_text(tokenizer, [{"role": "user", "content": question}], add_generation_prompt=True)


def _ids(tokenizer: Any, text: str, frame: Frame) -> list[int]:
    if is_chat(tokenizer, frame):
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    ids = tokenizer(text)["input_ids"]
    return ids[:-1] if ids and ids[-1] == tokenizer.eos_token_id else ids


def ending(model: Any, tokenizer: Any, frame: Frame) -> Ending:
    """Return what ends an answer in this frame."""
    from ._engine import Ending

    configured = getattr(model.generation_config, "eos_token_id", None)
    ends = {tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
    if is_chat(tokenizer, frame):
        return Ending(frozenset(ends | _end_of_turn(tokenizer)))
    # The mark ends in a colon, so only a token with a colon can complete it; "<0x3A>" is the colon of byte-fallback vocabularies
    colons = {index for token, index in tokenizer.get_vocab().items() if ":" in token or token == "<0x3A>"}
    return Ending(frozenset(ends), frozenset(colons), lambda tokens: bool(_NEXT_QUESTION.search(_text(tokenizer, tokens))))


def reply_text(tokenizer: Any, tokens: list[int], frame: Frame) -> str:
    """Return an answer's words, without special tokens, outer space and (plain) the next question."""
    text = _text(tokenizer, tokens)
    return (text if is_chat(tokenizer, frame) else _NEXT_QUESTION.split(text)[0]).strip()


def _text(tokenizer: Any, tokens: list[int]) -> str:
    return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)


def chat_text(tokenizer: Any, messages: list[dict[str, str]], **settings: Any) -> str:
    return tokenizer.apply_chat_template(messages, tokenize=False, **_TEMPLATE_SETTINGS, **settings)


def _end_of_turn(tokenizer: Any) -> set[int]:
    """Return the special token, if any, that the template puts right behind the assistant's words."""
    mark = "REPLY"
    text = chat_text(tokenizer, [{"role": "user", "content": "?"}, {"role": "assistant", "content": mark}])
    ids = tokenizer(text.rpartition(mark)[2].lstrip(), add_special_tokens=False)["input_ids"]
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    return set(ids[:1]) & special
