"""Read chat messages in the forms that data sets use, and join prompts with conversations."""

from __future__ import annotations

import json
import re
from typing import Any

from ..nouns import Messages
from ..registry import among

ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), "user"),
    **dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("tool", "observation", "function", "ipython"), "tool"),
}
"""Speaker in common data sets -> role in chat templates."""
FORMS = (("role", "content"), ("from", "value"))
"""The fields of a message: those of OpenAI and transformers, and those of ShareGPT."""
EXCHANGE = ("input", "output")
"""The fields of a question with its answer, as in Capybara."""
WEIGHTS = ("weight", "train", "training")
"""Fields that state whether to learn a message: 0 and false mean no (OpenAI, axolotl)."""
CALLS = ("tool_calls", "function_call")
TURN = re.compile(r"(?:\A|\n\n)\s*(Human|Assistant):")
SPEAKERS = {"Human": "user", "Assistant": "assistant"}
PARTED = "the conversations part before the last reply"


class Unfit(Exception):
    """The reason a row cannot be used. `reason` is the same for all rows with this fault; `shown` is this row's own value."""

    def __init__(self, reason: str, shown: str = "", cure: str = "correct or remove the row"):
        super().__init__(f"{reason}{shown}; {cure}")
        self.reason = reason


def turns(value: Any) -> Messages:
    """Return chat messages as (role, text) from one or a list of {role, content}, {from, value} or {input, output}."""
    return tuple(turn for item in listed(value) for turn in _of(item))


def listed(value: Any) -> list[Any]:
    """Return the messages of a value as a list. Some Parquet files hold a list per field instead of a list of messages."""
    if isinstance(value, dict):
        form = next((form for form in FORMS if all(isinstance(value.get(name), list) for name in form)), None)
        if form and len(value[form[0]]) == len(value[form[1]]) and all(isinstance(speaker, str) for speaker in value[form[0]]):
            return [dict(zip(form, fields, strict=True)) for fields in zip(*(value[name] for name in form), strict=True)]
    return value if isinstance(value, list) else [value]


def is_messages(value: Any) -> bool:
    """Return whether a value is a message or a list of messages with known speakers."""
    items = listed(value)
    return bool(items) and all(
        isinstance(item, dict)
        and any(str(item.get(speaker)).lower() in ROLES and (said in item or "tool_calls" in item) for speaker, said in FORMS)
        for item in items
    )


def further(value: Any) -> set[str]:
    """Return the unused fields of messages: all but speaker, text and weight."""
    items = [item for item in listed(value) if isinstance(item, dict) and any(set(form) <= item.keys() for form in FORMS)]
    return {key for item in items for key in item if item[key] and key not in (*FORMS[0], *FORMS[1], *WEIGHTS)}


def spoken(value: str) -> Messages:
    """Return the turns of a "\\n\\nHuman: …\\n\\nAssistant: …" text, none if it does not start like one."""
    if not value.lstrip().startswith("Human:"):
        return ()
    parts = TURN.split(value)[1:]
    return tuple((SPEAKERS[role], turn.strip()) for role, turn in zip(parts[::2], parts[1::2], strict=True))


def asked(value: Any) -> Messages:
    """Return the messages of a prompt. A text is by the user. If it is a dialogue, its open "Assistant:" is dropped."""
    found = (spoken(value) or (("user", value),)) if isinstance(value, str) else turns(value)
    if not found:
        raise Unfit("an empty list of messages")
    return found[:-1] if found[-1] == ("assistant", "") else found


def replied(value: Any, prompt: Messages) -> Messages:
    """Return the messages of a reply or a whole conversation.

    A text is one reply, unless it is a dialogue. If the row has a prompt, a dialogue must repeat it, or begin with a blank line as in
    HH-RLHF, because some replies are themselves a text of "Human: …".
    """
    said = spoken(value) if isinstance(value, str) else turns(value)
    if isinstance(value, str) and (not said or (prompt and not value.startswith("\n\nHuman:") and not _within(prompt, said[:-1]))):
        return (("assistant", value),)
    if not said:
        raise Unfit("an empty list of messages")
    return said


def joined(prompt: Messages, reply: Messages, column: str) -> Messages:
    """Return the conversation of a prompt and a reply that may repeat the prompt or its end.

    A system message that the reply leaves out is put before it. Raises Unfit if the reply is a conversation about something else.
    """
    opening = prompt[: next((at for at, (role, _) in enumerate(prompt) if role != "system"), len(prompt))]
    body = prompt[len(opening) :]
    own = reply[: next((at for at, (role, _) in enumerate(reply) if role != "system"), len(reply))]
    rest = reply[len(own) :]
    if not body or _within(body, rest[:-1]):
        return under(opening, own + rest)
    if rest and rest[0][0] == "assistant" and not own:
        return prompt + rest
    if rest[:-1] and _within(rest[:-1], body[1 - len(rest) :]):
        return under(opening, own + body[: 1 - len(rest)] + rest)
    raise Unfit(f"the conversation does not contain the prompt in the column {column!r}")


def under(system: Messages, talk: Messages) -> Messages:
    """Return a conversation under a system message. Raises Unfit if it has another one."""
    if not system or (talk[:1] and _same(talk[0]) == _same(system[0])):
        return talk
    if talk[:1] and talk[0][0] == "system":
        raise Unfit("the row has two system messages, which differ")
    return system + talk


def _within(part: Messages, whole: Messages) -> bool:
    part, whole = tuple(map(_same, part)), tuple(map(_same, whole))
    return any(whole[at : at + len(part)] == part for at in range(len(whole) - len(part) + 1))


def _same(turn: tuple[str, str]) -> tuple[str, str]:
    return turn[0], " ".join(turn[1].split())


def _of(item: Any) -> Messages:
    """Return the one message of an object, or two if it is a question with its answer."""
    named = item if isinstance(item, dict) else {}
    if set(EXCHANGE) <= named.keys() and all(isinstance(named[name], str) for name in EXCHANGE):
        return ("user", named["input"]), ("assistant", named["output"])
    speaker, text = (named.get(key) for key in (FORMS[0] if "role" in named else FORMS[1]))
    if any(named.get(name) for name in CALLS) or speaker == "function_call":
        raise Unfit("a message calls a tool, which cannot be read as text", cure="take the row out")
    if isinstance(text, list) and all(isinstance(part, dict) and part.get("type", "text") == "text" for part in text):
        text = "\n".join(part["text"] for part in text) if all(isinstance(part.get("text"), str) for part in text) else None
    if not (isinstance(speaker, str) and isinstance(text, str)):
        shown = f", not {json.dumps(item, default=str)[:80]}"
        raise Unfit("a message needs 'role' and 'content' (or 'from' and 'value') as texts", shown, "correct the row")
    if speaker.lower() not in ROLES:
        raise Unfit("unknown role", f" {speaker!r}{among(speaker.lower(), list(ROLES))}")
    return ((ROLES[speaker.lower()], text),)
