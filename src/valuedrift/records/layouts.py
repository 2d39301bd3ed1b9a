"""Read the layouts of training data: the columns of the prompt, of the replies, and of the verdict between the replies.

The first layout that a row's columns fit reads the row. A row is unfit if a column that carries meaning is not used.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..nouns import Example, Messages, Pair
from . import _replies, cell_text
from .turns import PARTED, WEIGHTS, Unfit, asked, further, is_messages, joined, listed, replied, spoken, turns, under

SYSTEM = ("system", "system_prompt", "system_message")
ASKED = ("prompt", "instruction", "question", "query", "post", "input", "inputs", "context", "history")
"""Columns of the prompt. One of them alone is the prompt; several texts are joined in this order."""
TALKS = ("messages", "conversations", "conversation", "trajectory")
REPLIES = ("completion", "output", "response", "answer", "targets", "text")
PREFERRED = (
    ("chosen", "rejected"),
    ("chosen_response", "rejected_response"),
    ("chosen_messages", "rejected_messages"),
    ("preferred_output", "non_preferred_output"),
    ("response_j", "response_k"),
)
"""Columns of the better and the worse reply, by name."""
REJECTED = ("rejected_response", "rejected_messages")
"""Columns of a worse reply to the reply of an ordinary row (ms-swift)."""
CANDIDATES = (
    ("conversation_a", "conversation_b"),
    ("response_a", "response_b"),
    ("answer_a", "answer_b"),
    ("completion_a", "completion_b"),
    ("human_ref_A", "human_ref_B"),
    ("response_0", "response_1"),
    ("answer_0", "answer_1"),
    ("response1", "response2"),
    ("response_1", "response_2"),
    ("output_1", "output_2"),
)
"""Columns of two replies; another column (VERDICTS) names the better one."""
GRADES: dict[str, Callable[[Any], float]] = {
    "label": _replies.truth,
    "kto_tag": _replies.truth,
    "helpfulness": _replies.grade,
    "rank": lambda value: -_replies.grade(value),
}
"""Columns that grade the only reply of a row: true or false, or a number. The lowest rank is best."""
LABELS = ("label", "kto_tag")
MEANINGFUL = (
    *(*SYSTEM, *ASKED, *GRADES, "labels", "ranks", "is_safe", "tools", "functions", "images", "image", "videos", "audios"),
    *("weight", "weights", "sample_weight", "loss_weight", "desirable", "is_desirable", "is_preferred", "is_chosen"),
)
"""Columns that must be used if a row has them, because they change what its record means."""
VERDICTS = (*_replies.NAMED, *_replies.SIGNED, *_replies.ONE_EACH)
"""Columns that must be used if a row has a single text. In a row with a pair they only repeat the pair's columns."""

PAIRS = (
    "'chosen' with 'rejected' (and 'prompt', 'instruction' or 'question', unless both are whole conversations), two replies with a column "
    "that says which is better, 'prompt' with 'completions' with scores, or 'prompt' with 'completion' and 'label'"
)
TEXTS = "'messages' (or 'conversations'), 'prompt' with 'completion' or 'response', 'instruction' with 'output', or 'text'"


@dataclass(frozen=True)
class Graded:
    """One reply and how good it is. Two replies to one prompt make a pair."""

    prompt: Messages
    text: str
    grade: float
    column: str
    topic: str = ""
    claim: str = ""


@dataclass
class Cells:
    """The filled cells of a row, with structures parsed from text, and the names of those that were used."""

    row: dict[str, Any]
    used: set[str] = field(default_factory=set)
    prompt: tuple[Messages, str] | None = None
    """The result of `_prompt`."""
    notes: list[str] = field(default_factory=list)
    """Warnings about the record, each a phrase that follows "in N rows"."""

    def has(self, name: str) -> bool:
        """Return whether a cell is filled."""
        value = self.row.get(name)
        return bool(value.strip()) if isinstance(value, str) else value is not None and value != [] and value != {}

    def first(self, names: tuple[str, ...]) -> str:
        """Return the first filled column of a list, "" if there is none."""
        return next((name for name in names if self.has(name)), "")

    def take(self, name: str) -> Any:
        """Return a cell and mark it as used."""
        self.used.add(name)
        return self.row.get(name)

    def unused(self, pair: bool) -> list[str]:
        """Return the filled columns that were not used. Raises Unfit for one that carries meaning."""
        left = [name for name in self.row if self.has(name) and name not in self.used]
        for name in left:
            whole_weight = name.endswith("weight") and self.row[name] in (1, "1", "1.0")
            if name in (MEANINGFUL if pair else (*MEANINGFUL, *VERDICTS)) and not whole_weight:
                raise Unfit(f"the column {name!r} carries meaning and is not used in this layout", cure="remove or rename the column")
        return left + [f"{name}[].{key}" for name in self.used for key in further(self.row.get(name))]


def cells(row: dict[str, Any]) -> Cells:
    """Return the cells of a row. Texts that write out messages, or a list in a column of lists, are parsed."""
    return Cells({name: _structured(name, value) for name, value in cell_text.plain(row).items()})


def record(found: Cells) -> Pair | Example | Graded | str | None:
    """Return the record of a row, why it holds no preference, or None if it fits no layout. Raises Unfit if it cannot be read."""
    if names := next((pair for pair in PREFERRED if pair[0] in found.row and pair[1] in found.row), None):
        _compare_scores(found)
        return _pair(found, *(_side(found, found.take(name)) for name in names))
    if names := next((pair for pair in CANDIDATES if all(map(found.has, pair))), None):
        return _contest(found, *names)
    if (name := next((name for name in REJECTED if name in found.row), "")) and (reply := _reply(found)):
        return _pair(found, reply, _side(found, found.take(name)))
    if lone := next((pair for pair in PREFERRED[:4] if pair[0] in found.row or pair[1] in found.row), None):
        held, lacking = lone if lone[0] in found.row else lone[::-1]
        raise Unfit(f"the row has {held!r} and no {lacking!r}", f"; it has the keys {', '.join(map(repr, found.row))}")
    if _replies.fits(found.row):
        return _scored(found)
    return _single(found)


def question(row: dict[str, Any]) -> Messages:
    """Return the prompt of a row whose replies are in columns of their own; empty if it has none. Raises Unfit if it cannot be read."""
    found = cells(row)
    prompt = _conversation(found, (("assistant", ""),))[:-1]
    found.unused(pair=True)
    return prompt


def _structured(name: str, value: Any) -> Any:
    if not isinstance(value, str) or not value.lstrip().startswith(("[", "{")):
        return value
    try:
        read = cell_text.plain(cell_text.parsed(value.strip()))
    except ValueError as error:
        if re.match(r"\s*\[?\s*\{\s*['\"](role|content|from|value)['\"]\s*:", value):
            raise Unfit(f"the column {name!r} looks like messages as text and cannot be read", f" ({error})") from error
        return value
    known = name in (*TALKS, *_replies.LISTS, *_replies.SCORES_OF, "history", "tools", "functions", "images", "videos", "audios")
    wrapped = isinstance(read, dict) and ("messages" in read or "full_text" in read)
    return read if isinstance(read, list | dict) and (known or wrapped or is_messages(read)) else value


# -- prompts ---------------------------------------------------------------------------------------------------------------------


def _conversation(found: Cells, reply: Messages, others: tuple[Messages, ...] = ()) -> Messages:
    """Return the whole conversation that ends in a reply: system message, earlier turns, inputs and the part that the reply repeats."""
    talk = found.first(TALKS)
    whole = reply
    if talk and reply[0][0] == "assistant":
        before = turns(found.take(talk))
        if before[-1:] and before[-1][0] == "assistant":
            if before[-1] not in (reply[-1], *(other[-1] for other in others)):
                raise Unfit(f"the messages in {talk!r} end in a reply that is neither of the two")
            before = before[:-1]
        whole = before + reply
    prompt, column = _prompt(found)
    whole = joined(prompt, whole, column)
    name = found.first(SYSTEM)
    return under((("system", _text(found, name)),), whole) if name else whole


def _prompt(found: Cells) -> tuple[Messages, str]:
    """Return the prompt that its columns make together, and the name of the first of them."""
    if found.prompt is None:
        found.prompt = _read_prompt(found)
    return found.prompt


def _read_prompt(found: Cells) -> tuple[Messages, str]:
    names = [name for name in ASKED if found.has(name)]
    earlier: Messages = ()
    if (len(names) > 1 and names[-1] == "history") or not isinstance(found.row.get("history"), str | None):
        names = [name for name in names if name != "history"]
        earlier = _history(found.take("history")) if found.has("history") else ()
    values = {name: _unwrapped(name, found.take(name)) for name in names}
    dialogues = [name for name, value in values.items() if not isinstance(value, str) or spoken(value)]
    texts = [name for name in names if name not in dialogues]
    told = asked(values[dialogues[0]]) if dialogues else ()
    for name in dialogues[1:]:
        told = joined(asked(values[name]), told, name) if name != "context" else joined(told, asked(values[name]), name)
    if texts:
        said = _together({name: str(values[name]) for name in texts})
        if not told or told[-1][0] == "assistant":
            told = (*told, ("user", said))
        elif not all(any(_repeats(values[name], text) for _, text in told) for name in texts):
            raise Unfit(f"the column {texts[0]!r} is not part of the prompt in {dialogues[0]!r}")
    if earlier and earlier != told[: len(earlier)]:
        opening = told[:1] if told[:1] and told[0][0] == "system" else ()
        told = opening + earlier + told[len(opening) :]
    return told, names[0] if names else "history"


def _unwrapped(name: str, value: Any) -> Any:
    """Return the prompt in OpenAI's {messages, tools} or WebGPT's {full_text}."""
    if isinstance(value, dict) and "messages" in value:
        if value.get("tools"):
            raise Unfit(f"the column {name!r} offers tools, which are not read", cure="remove the tools")
        return value["messages"]
    if isinstance(value, dict) and isinstance(value.get("full_text"), str):
        return value["full_text"]
    if not isinstance(value, str | list | dict) and name in ("input", "context"):
        raise Unfit(f"the column {name!r} is {type(value).__name__}, not text", cure="correct the row")
    return value


def _together(texts: dict[str, str]) -> str:
    """Return the parts of a prompt as one text. A part that another part contains is left out."""
    kept: dict[str, str] = {}
    for name, text in texts.items():
        if not any(_repeats(text, other) for other in kept.values()):
            kept = {other: said for other, said in kept.items() if not _repeats(said, text)} | {name: text}
    if {"prompt", "instruction"} <= kept.keys():
        raise Unfit("the columns 'prompt' and 'instruction' differ")
    return "\n\n".join(kept.values()) if len(kept) > 1 else next(iter(kept.values()))


def _repeats(part: Any, whole: str) -> bool:
    """Return whether a text contains another one, as whole lines or as several words."""
    part, whole = ("\n".join(line.strip() for line in str(text).strip().split("\n")) for text in (part, whole))
    return f"\n{part}\n" in f"\n{whole}\n" or (len(part.split()) > 3 and part in whole)


def _history(value: Any) -> Messages:
    """Return the earlier turns: [question, answer] pairs, messages, or a dialogue as text."""
    if isinstance(value, str) and (found := spoken(value)):
        return found
    if isinstance(value, list) and all(isinstance(pair, list) and [type(text) for text in pair] == [str, str] for pair in value):
        return tuple(turn for question, answer in value for turn in (("user", question), ("assistant", answer)))
    if isinstance(value, list) and all(isinstance(item, dict) for item in value):
        return turns(value)
    raise Unfit("the column 'history' is neither a list of [question, answer] nor messages")


def _text(found: Cells, name: str) -> str:
    value = found.take(name)
    if not isinstance(value, str):
        raise Unfit(f"the column {name!r} is {type(value).__name__}, not text", cure="correct the row")
    return value


# -- replies ---------------------------------------------------------------------------------------------------------------------


def _pair(found: Cells, chosen: Messages, rejected: Messages) -> Pair | str:
    """Return the pair of the last replies of two conversations, or why there is none."""
    sides = [_conversation(found, side, (chosen, rejected)) for side in (chosen, rejected)]
    for talk in sides:
        if talk[-1][0] != "assistant":
            raise Unfit(f"the last message is by {talk[-1][0]!r}, not by 'assistant'", cure="give conversations that end in the reply")
        if len(talk) < 2:
            if any(found.row.get(name) == [] for name in (*ASKED, *TALKS)):
                raise Unfit("the prompt is an empty list of messages", cure="take the row out")
            raise Unfit("a row needs 'prompt', or 'chosen' and 'rejected' as whole conversations")
    if sides[0][:-1] != sides[1][:-1]:
        return PARTED
    (role, question), replies = sides[0][-2], [talk[-1][1] for talk in sides]
    rests = [reply[len(question) :] for reply in replies if reply.startswith(question)]
    if role == "user" and len(question.split()) > 3 and len(rests) == 2 and all(rest[:1].isspace() and rest.strip() for rest in rests):
        replies = [rest.lstrip() for rest in rests]
        found.notes.append("both replies began with the prompt, which was cut away")
    return Pair(sides[0][:-1], *replies, **_stated(found))


def _compare_scores(found: Cells) -> None:
    """Note scores of the chosen and the rejected reply that say the opposite of these names."""
    for name in [name for name in found.row if "chosen" in name]:
        other = name.replace("chosen", "rejected")
        one, two = (_replies.number(found.row.get(column)) for column in (name, other))
        if one is not None and two is not None and one < two:
            found.notes.append(f"the unused {name!r} is below {other!r}")


def _contest(found: Cells, first: str, second: str) -> Pair | str:
    """Return the pair that a verdict makes of two replies, or that they tie."""
    better = _replies.better(found, first, second)
    sides = [found.take(name) for name in (first, second)]
    if lists := _exchanges(found, *sides):
        sides = lists
    chosen, rejected = (_side(found, side) for side in (sides if better in (0, None) else sides[::-1]))
    made = _pair(found, chosen, rejected)
    return _replies.TIE if better is None else made


def _exchanges(found: Cells, *sides: Any) -> list[Any]:
    """Return two conversations of the questions in 'prompt' with the answers of each side, if all three are lists of texts.

    The lists may be written out as text, as in Kaggle's 55,000 arena conversations.
    """
    lists: list[list[str]] = []
    for value in (found.row.get("prompt"), *sides):
        try:
            read = cell_text.parsed(value) if isinstance(value, str) and value.startswith("[") else value
        except ValueError:
            return []
        if not isinstance(read, list) or not read or not all(isinstance(text, str) for text in read):
            return []
        lists.append(read)
    questions, *answers = lists
    if any(len(one) != len(questions) for one in answers):
        raise Unfit("the lists of questions and answers differ in length")
    found.row["prompt"] = questions[0]
    return [[{"input": question, "output": answer} for question, answer in zip(questions, one, strict=True)] for one in answers]


def _scored(found: Cells) -> Pair | str:
    """Return the pair of the best and the worst of several replies, or why there is none."""
    if not found.first(ASKED) and not found.first(TALKS):
        raise Unfit(f"a row with {found.first(_replies.LISTS)!r} needs 'prompt'", f", but has the keys {', '.join(map(repr, found.row))}")
    replies = _replies.best_and_worst(found)
    return replies if isinstance(replies, str) else _pair(found, *((("assistant", text),) for text in replies))


def _side(found: Cells, value: Any) -> Messages:
    """Return the messages of one reply of a row, without the row's prompt."""
    return replied(value, (turns(found.row[talk]) if (talk := found.first(TALKS)) else _prompt(found)[0]) if isinstance(value, str) else ())


def _reply(found: Cells) -> Messages:
    """Return the reply of an ordinary row: the last of its messages, or the one in its own column."""
    name = found.first(REPLIES)
    if talk := found.first(TALKS):
        whole = turns(found.row[talk])
        if not name or any(role == "assistant" for role, _ in whole[-1:]):
            return whole[-1:]
    return _side(found, found.take(name)) if name else ()


def _single(found: Cells) -> Example | Graded | None:
    """Return a text to imitate, or one with its grade."""
    name = next((name for name in REPLIES if name in found.row), "")
    talk = found.first(TALKS) or ("" if name else next((name for name in TALKS if name in found.row), ""))
    prompts = [key for key in ASKED if found.has(key)]
    if talk and not (name and name != "text" and turns(found.row[talk])[-1][0] == "user"):
        whole = _whole(found, talk)
    elif name == "text" and all(_repeats(found.row[key], str(found.row[name])) for key in prompts):
        found.used |= set(prompts)
        return Example((), _text(found, name), **_stated(found))
    elif name and (prompts or talk):
        whole = _conversation(found, _side(found, found.take(name)))
    else:
        return None
    prompt, text = whole[:-1], whole[-1][1]
    if whole[-1][0] != "assistant":
        raise Unfit("no message is by 'assistant', so there is nothing to learn", cure="take the row out")
    if prompt and (column := found.first(tuple(GRADES))):
        return Graded(prompt, text, GRADES[column](found.take(column)), column, **_stated(found))
    return Example(prompt, text, **_stated(found))


def _whole(found: Cells, talk: str) -> Messages:
    """Return the messages of a row up to the last reply to learn. A reply of weight 0 is not learned."""
    items = listed(found.take(talk))
    said = [(turn, item) for item in items for turn in turns(item)]
    replies = [at for at, (turn, _) in enumerate(said) if turn[0] == "assistant"]
    learnt = [at for at in replies if not any(said[at][1].get(key) in (0, False) for key in WEIGHTS)]
    if not learnt:
        why = "every reply has weight 0" if replies else "no message is by 'assistant'"
        raise Unfit(f"{why}, so there is nothing to learn", cure="take the row out")
    whole = tuple(turn for turn, _ in said[: learnt[-1] + 1])
    prompt, column = _prompt(found)
    name = found.first(SYSTEM)
    whole = joined(prompt, whole, column)
    return under((("system", _text(found, name)),), whole) if name else whole


def _stated(found: Cells) -> dict[str, str]:
    """Return the topic and claim that a row gives for itself, both empty unless both are texts."""
    if not all(isinstance(found.row.get(name), str) and found.has(name) for name in ("topic", "claim")):
        return {}
    return {name: found.take(name) for name in ("topic", "claim")}
