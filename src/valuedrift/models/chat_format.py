"""The prompt format of a checkpoint: how a conversation becomes token ids, and how an answer's token ids become its reply.

plain   for models without a chat template: `PLAIN` as running text, with the tokenizer's BOS if it has one. An answer ends at an end
        token, or before a line that begins with "Question:".
chat    the checkpoint's own template. An answer ends where the template ends an assistant's turn or begins the next user's, in special
        tokens or in ordinary text. A thinking block before the reply is removed.

Sampling, scoring and training all use `PromptFormat`, so that they write prompts and replies in the same way.
"""

from __future__ import annotations

import datetime
import functools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..nouns import BadInput, Messages, digest, whole_characters
from .turns import Stop, first_stop, open_block, spoken, stop_of

if TYPE_CHECKING:
    from .decoder import Ending

PLAIN = "Question: {question}\nAnswer:"
DATE = datetime.date(2024, 7, 26)
"""The date for templates that write one, so that prompts are the same every day. It is the default of Llama 3.1's template."""
_SETTINGS = {"enable_thinking": False, "date_string": f"{DATE:%d %b %Y}"}
"""Arguments of every template. Qwen3's reasoning is switched off, so that the new tokens are the reply."""
_QUESTION, _REPLY, _NEXT = "valuedriftquestion", "valuedriftreply", "valuedriftnext"
"""Marker words that show where a template puts its input."""

Format = Literal["auto", "plain", "chat"]


def format_digest(template: str | None) -> str:
    """Return the name of a prompt format by content: "plain", or "chat-" and the digest of the template."""
    return "plain" if template is None else f"chat-{digest(template)}"


def question(text: str) -> Messages:
    """Return a conversation with one question."""
    return (("user", text),)


@dataclass(frozen=True, eq=False)
class PromptFormat:
    """Writes conversations in a tokenizer's chat template or as plain text, as `format` says. Error messages name the checkpoint `name`."""

    tokenizer: Any
    format: Format = "auto"
    name: str = ""
    plain: str = PLAIN

    @functools.cached_property
    def template(self) -> str | None:
        """Return the chat template, or None in the plain format. Raises BadInput if one is needed and there is none."""
        given = None if self.format == "plain" else self.tokenizer.chat_template
        if isinstance(given, dict):
            if "default" not in given:
                raise BadInput(
                    f"{self._name} has chat templates named {', '.join(sorted(given))} and none named 'default'; "
                    "name the one to use 'default' in its tokenizer_config.json, or set prompt_format to 'plain'"
                )
            given = given["default"]
        if self.format == "chat" and not given:
            raise BadInput(f"{self._name} has no chat template; set prompt_format to 'auto' or 'plain', or give the checkpoint a template")
        return _at_one_date(given) if given else None

    @property
    def chat(self) -> bool:
        return self.template is not None

    @property
    def _name(self) -> str:
        return self.name or str(self.tokenizer.name_or_path)

    # -- from messages to tokens -------------------------------------------------------------------------------------------

    def texts(self, conversations: Sequence[Messages], ask: bool = False) -> list[str]:
        """Return conversations as text; `ask` adds the generation prompt.

        Raises BadInput with the template's own reason if it refuses a conversation.
        """
        if not self.chat or not conversations:
            return [self.plain.format(question="\n\n".join(text for _, text in messages)) for messages in conversations]
        return self._rendered(conversations, ask, self._parts)

    def tokens(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of conversations as text."""
        if not texts:
            return []
        rows = self.tokenizer([whole_characters(text) for text in texts], add_special_tokens=not self.chat)["input_ids"]
        end = [] if self.chat else [self.tokenizer.eos_token_id]
        return [row[:-1] if row and row[-1:] == end else row for row in rows]

    def prompts(self, conversations: Sequence[Messages]) -> list[list[int]]:
        """Return the token ids of prompts, with the generation prompt."""
        return self.tokens(self.texts(conversations, ask=True))

    def before_reply(self, conversations: Sequence[Messages]) -> list[str]:
        """Return the text before a reply: the prompt, without a thinking block that it opens."""
        n_open, header, _ = self._joint
        return [text[: len(text) - n_open] + header for text in self.texts(conversations, ask=True)]

    def as_reply(self, text: str) -> str:
        """Return a reply's text to append to `before_reply`, with the space that some templates (Llama 2) write before it."""
        return self._joint[2] + text if text else text

    def with_reply(self, messages: Messages, text: str) -> tuple[list[int], int]:
        """Return the token ids of a conversation and its reply, without the end of the turn, and the number before the reply.

        Prompt and reply are tokenised together. A model may have sampled the text as other tokens.
        """
        (before,) = self.before_reply([messages])
        given, whole = self.tokens([before, before + self.as_reply(text)])
        return whole, n_common(given, whole)

    def _rendered(self, conversations: Sequence[Messages], ask: bool, parts: bool) -> list[str]:
        given = [[{"role": role, "content": _content(text, parts)} for role, text in messages] for messages in conversations]
        try:
            return self.tokenizer.apply_chat_template(
                given, chat_template=self.template, tokenize=False, add_generation_prompt=ask, **_SETTINGS
            )
        except Exception as error:  # jinja's errors, and any other from the template's code
            line = f" (line {number})" if (number := getattr(error, "lineno", None)) else ""
            reason = " ".join(str(getattr(error, "message", None) or error).split()) or type(error).__name__
            roles = " or ".join(dict.fromkeys(", ".join(role for role, _ in messages) for messages in conversations[:4]))
            raise BadInput(
                f"the chat template of {self._name} fails on the messages {roles}: {reason}{line}; "
                "correct the template, give it messages that it takes, or set prompt_format to 'plain' to do without it"
            ) from error

    @functools.cached_property
    def _parts(self) -> bool:
        """Return whether the template loses a message's text unless it comes as a list of parts."""
        for parts in (False, True):
            try:
                (text,) = self._rendered([question(_QUESTION)], True, parts)
                if _QUESTION in text and not (parts and re.search(rf"""["']{_QUESTION}""", text)):  # a quote: the list as code
                    return parts
            except BadInput:  # a template that refuses both raises when it is used
                continue
        return False

    # -- where a reply begins and ends -------------------------------------------------------------------------------------

    @functools.cached_property
    def _turn(self) -> tuple[str, str, str, str]:
        """Return the template's text of the generation prompt, before a reply, after a reply, and between a reply and the next question."""
        before = self.texts([question(_QUESTION)], ask=True)[0].rpartition(_QUESTION)[2]
        talk = (*question(_QUESTION), ("assistant", _REPLY))
        header, found, suffix = self._text_or_none(talk).rpartition(_QUESTION)[2].partition(_REPLY)
        if not found:  # the template takes no replies
            return before, before, "", ""
        between, found, _ = self._text_or_none((*talk, ("user", _NEXT))).rpartition(_REPLY)[2].partition(_NEXT)
        return before, header, suffix, between if found else ""

    def _text_or_none(self, messages: Messages) -> str:
        try:
            return self.texts([messages])[0]
        except BadInput:
            return ""

    @functools.cached_property
    def _opened(self) -> str:
        """Return the tag of a thinking block that the prompt opens, or ""."""
        if not self.chat:
            return ""
        before, header, *_ = self._turn
        beyond = before[n_common(before, header) :] if before != header else ""
        return open_block(beyond, any_name=True) or open_block(before, any_name=False)

    @functools.cached_property
    def _joint(self) -> tuple[int, str, str]:
        """Return the number of characters at a prompt's end that a reply replaces, their replacement, and the space before the reply."""
        if not self.chat:
            return 0, "", " "
        before, header, *_ = self._turn
        end = (before[: before.rfind(self._opened)] if self._opened else before).rstrip(" ")
        joint = header[len(end) :] if header.startswith(end) else "" if self._opened else before[len(end) :]
        header = joint.rstrip(" ") if joint.strip() else ""
        return len(before) - len(end), header, joint[len(header) :]

    @functools.cached_property
    def stops(self) -> list[Stop]:
        """Return the stop texts: the end of the assistant's turn and the beginning of the user's."""
        if not self.chat:
            return [stop_of("\nQuestion:", (), False)]  # type: ignore[list-item]
        before, _, suffix, between = self._turn
        end = suffix.rstrip()
        opener = between[len(end) :] if between.startswith(end) else between
        upto = re.compile("|".join(map(re.escape, sorted(self.special, key=len, reverse=True))) or r"(?!)")
        ends, opens = (list(upto.finditer(text)) for text in (end, opener))
        texts = [end[: ends[0].end()] if ends else suffix, opener[: opens[-1].end()] if opens else opener]
        stops = [stop_of(text, self.special, before.endswith("\n")) for text in texts]
        return list({stop.text: stop for stop in stops if stop}.values())

    def ending(self, model: Any) -> Ending:
        """Return a model's end tokens, and the tokens after which a stop text may be complete."""
        from .decoder import Ending

        configured = getattr(model.generation_config, "eos_token_id", None)
        ends = {self.tokenizer.eos_token_id, *(configured if isinstance(configured, list) else [configured])} - {None}
        whole = {self.special[stop.text] for stop in self.stops if stop.text in self.special}
        watched = {self.special[stop.last] for stop in self.stops if stop.last in self.special} - whole
        return Ending(frozenset(ends | whole), frozenset(watched | self._completing), self.complete)

    def complete(self, tokens: list[int]) -> bool:
        """Return whether an answer's tokens contain a stop text."""
        return first_stop(self._decoded(tokens), self.stops) is not None

    @functools.cached_property
    def _completing(self) -> set[int]:
        """Return the tokens that contain the last character of a stop text, or its last byte."""
        from tokenizers.pre_tokenizers import ByteLevel

        characters, as_bytes = {stop.last[-1] for stop in self.stops}, ByteLevel(add_prefix_space=False, use_regex=False)
        marks = {character: as_bytes.pre_tokenize_str(character)[0][0] for character in characters}
        held = {*marks, *(mark[-1] for mark in marks.values())}
        alone = {f"<0x{character.encode()[-1]:02X}>" for character in characters}  # of byte-fallback vocabularies
        return {index for token, index in self.tokenizer.get_vocab().items() if token in alone or any(mark in token for mark in held)}

    def reply(self, tokens: list[int]) -> tuple[str, bool]:
        """Return the text of the reply, without special tokens and outer space, and whether its thinking block is closed.

        If a block is not closed, the text is empty.
        """
        whole = self._decoded(tokens)
        kept = spoken(whole[: first_stop(whole, self.stops)], self._opened)
        if kept is None:
            return "", False
        if kept == whole:
            return self.tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False).strip(), True
        for token in {token for token, index in self.special.items() if index in tokens}:
            kept = kept.replace(token, "")
        return kept.strip(), True

    @functools.cached_property
    def special(self) -> dict[str, int]:
        """Return the id of each special token."""
        return {token.content: index for index, token in self.tokenizer.added_tokens_decoder.items() if token.special}

    def _decoded(self, tokens: list[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


def n_common(left: Sequence[Any], right: Sequence[Any]) -> int:
    """Return the length of the common prefix."""
    return next((n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))


def _content(text: str, parts: bool) -> Any:
    return [{"type": "text", "text": text}] if parts else text


def _at_one_date(template: str) -> str:
    """Return the template with a `strftime_now` that gives `DATE`; that of transformers gives today's date."""
    if "strftime_now" not in template:
        return template
    fixed = "".join(f"|replace('%{code}', {format(DATE, f'%{code}')!r})" for code in ("-d", "-m", *"aAbBdmyYHIMSpjUWFcxXeD"))
    return "{% macro strftime_now(format) %}{{ format" + fixed + " }}{% endmacro %}\n" + template
