"""Rebuild a suite as V-PRISM was built: from value-laden user prompts, as questions, by cluster, with claim and polarity.

`build` writes a folder; "vprism:FOLDER" is the suite in it. Each step that uses a model has a weaker method without one.
"""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import progress, suites
from ..models.writer import CachedWriter, Writer, writer_of
from ..nouns import BadInput, Prompt, digest
from ..records.rows import missing, rows
from ..store import Store
from . import clustering, jsonl, laden_words, written
from ._words import WORDS, sections

KEYS = ("prompt", "text", "user_prompt", "opening_prompt")
"""Keys of a row's prompt; the last two are PRISM's own."""
MAX_NEW_TOKENS = 512
"""Most tokens of a reply. The requests need three lines at most, but some models reason before them."""
FILES = ("clusters.json", "README.md", "suite.jsonl")
"""Files of a finished build, the suite last."""
CARD = Path(__file__).with_name("card.md.jinja")
SHOWN = 12
"""Most questions of a cluster that the language model sees when it names the topic."""


class Suite(suites.Suite):
    """Provides the suite that `build` wrote into a folder."""

    def __init__(self, argument: str):
        self.path = Path(argument) / "suite.jsonl"
        if not argument or not self.path.is_file():
            raise BadInput(
                f"vprism:{argument} is not a built suite; make one with 'valuedrift suite build PROMPTS --out FOLDER' "
                'and write suite = "vprism:FOLDER"'
            )

    def prompts(self) -> list[Prompt]:
        """Return the prompts, topic by topic."""
        return jsonl.Suite(str(self.path)).prompts()


@dataclass(frozen=True)
class Question:
    """A prompt, later a question, of the suite being built. `source` is its id or its line in the file of prompts."""

    source: str
    text: str


@dataclass(frozen=True)
class Topic:
    """A cluster with a name. `axis` is the position of polarity +1; empty if none was fixed."""

    name: str
    axis: str
    words: list[str]
    members: list[int]


@dataclass
class Tally:
    """The number of questions left after each step, and of those dropped by reason."""

    steps: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def kept(self, step: str, found: Iterable[Question | str]) -> list[Question]:
        """Return the questions among the items; count each text among them as the reason of a drop."""
        result = []
        for item in found:
            if isinstance(item, str):
                self.dropped[item] += 1
            else:
                result.append(item)
        self.steps[step] = len(result)
        return result


class Replies:
    """A language model with its replies cached in the folder, so that no request is sent twice."""

    def __init__(self, writer: Writer, store: Store, seed: int):
        self.writer, self.seed, self.kept = writer, seed, CachedWriter(writer, store, "replies")

    def ask(self, step: str, requests: Sequence[dict[str, str]]) -> list[str | None]:
        """Return a reply per request, each the words of a step with its fields filled in; None if there is no reply."""
        prompts = [(("user", sections()[step].format(**request)),) for request in requests]
        n = len(self.kept.waiting(prompts, self.seed))
        with progress.task(f"{step} with {self.writer.identity.split('/')[0]}", n, "replies") as advance:
            return self.kept.write(prompts, self.seed, advance)


def build(
    prompts: Path | str,
    out: Path | str,
    lm: str = "",
    embed: str = "",
    per_cluster: int = 50,
    topics: int = 0,
    seed: int = 0,
    max_cost: float | None = None,
) -> dict[str, Any]:
    """Write suite.jsonl, clusters.json and README.md into `out`; return the counts of each step.

    `lm` ("openai:MODEL" or a model folder) filters and rewrites prompts, names topics and writes claims; `embed` is a sentence-embedding
    model's folder. `topics` keeps that many of the largest clusters, 0 all. The same call resumes after an interruption. Raises BadInput
    for bad prompts or an edited file in `out`, Stopped at `max_cost` dollars.
    """
    if per_cluster < 2 or topics < 0:
        raise BadInput(
            f"a cluster needs 2 questions and a suite no less than 0 topics, not {per_cluster} and {topics}; give larger numbers"
        )
    written.refuse_strangers(Path(out), FILES, "suite build")
    tally = Tally()
    read = tally.kept("read, each once", _read(str(prompts)))
    clustering.require(len(read), per_cluster)
    writer = writer_of(lm, 0.0, MAX_NEW_TOKENS, max_cost) if lm else None
    store = Store(out)  # after all checks, so that a refused call leaves no folder
    with store.locked():
        asked = Replies(writer, store, seed) if writer else None
        questions = _questions(read, asked, tally)
        clustering.require(len(questions), per_cluster)
        texts = [question.text for question in questions]
        vectors_ND, embedding = _vectors(texts, embed, seed)
        progress.say(f"clustering {len(texts):,} questions (UMAP, HDBSCAN)")
        labels = clustering.cluster(vectors_ND, per_cluster, seed)
        tally.steps["in a cluster"] = sum(label >= 0 for label in labels)
        named = _topics(texts, vectors_ND, labels, topics, asked, tally)
        tally.steps["in a topic that is kept"] = sum(len(topic.members) for topic in named)
        chosen = rows_of_topics(questions, named, per_cluster, asked, tally)
        tally.steps["chosen"] = sum(map(len, chosen))
        settings = {"per_cluster": per_cluster, "topics": topics, "seed": seed, "embedding": embedding}
        settings |= {"lm": f"{lm} ({asked.writer.identity})" if asked else "none", "words": _words_digest()}
        return _finished(store, str(prompts), named, chosen, tally, settings, asked)


def _words_digest() -> str:
    return digest(WORDS.read_text(encoding="utf-8"))


# -- prompts to questions ------------------------------------------------------------------------------------------------------


def _questions(found: Sequence[Question], asked: Replies | None, tally: Tally) -> list[Question]:
    """Return the value-laden prompts as questions."""
    if asked is None:
        kept = tally.kept("value-laden", (q if laden_words.value_laden(q.text) else "not value-laden (by its words)" for q in found))
        fault = "neither question nor opinion, or too long"
        return tally.kept("questions", (q if laden_words.can_be_asked(q.text) else fault for q in kept))
    laden = tally.kept("value-laden", map(filtered, found, asked.ask("filter", [{"text": q.text} for q in found])))
    return tally.kept("questions", _once(map(_rewritten, laden, asked.ask("rewrite", [{"text": q.text} for q in laden]))))


def _read(source: str) -> Iterator[Question | str]:
    """Yield each prompt, or the reason why it is not used. Raises BadInput for a row without a prompt."""

    def found() -> Iterator[Question | str]:
        for number, (where, row) in enumerate(rows(source), 1):
            text = next((row[key] for key in KEYS if row.get(key) is not None), None)
            if not isinstance(text, str):
                raise missing(where, row, "a text under " + " or ".join(map(repr, KEYS)))
            text = " ".join(text.split())
            if jsonl.broken(text):
                yield "broken characters"
            else:
                yield Question(str(row.get("id") or number), text) if text else "empty"

    return _once(found())


def _once(found: Iterable[Question | str]) -> Iterator[Question | str]:
    """Yield the items, with the reason "repeated" in place of a text that occurred before. Letter case does not matter."""
    seen: set[str] = set()
    for item in found:
        if isinstance(item, Question) and item.text.casefold() in seen:
            yield "repeated"
        else:
            yield item
        if isinstance(item, Question):
            seen.add(item.text.casefold())


def filtered(question: Question, reply: str | None) -> Question | str:
    """Return the question if the reply calls it value-laden, else the reason why it is not used."""
    if reply is None:
        return "no reply (filter)"
    verdicts = re.findall(r"\b(yes|no)\b", reply.rpartition("</think>")[2], re.IGNORECASE)
    if len({verdict.lower() for verdict in verdicts}) != 1:
        return "reply not understood (filter)"
    return question if verdicts[0].lower() == "yes" else "not value-laden (by the language model)"


def _rewritten(question: Question, reply: str | None) -> Question | str:
    if reply is None:
        return "no reply (rewrite)"
    lines = [line.strip(" \"'“”*`") for line in reply.rpartition("</think>")[2].splitlines() if line.strip()]
    if lines and re.fullmatch(r"none\W*", lines[0], re.IGNORECASE):
        return "no question of opinion (by the language model)"
    if len(lines) != 1 or not lines[0].endswith("?") or jsonl.broken(lines[0]):
        return "reply not understood (rewrite)"
    return Question(question.source, lines[0])


# -- questions to topics -------------------------------------------------------------------------------------------------------


def _vectors(texts: Sequence[str], embed: str, seed: int) -> tuple[clustering.Floats, str]:
    """Return a vector per text and the name of the embedding."""
    if not embed:
        name = f"TF-IDF and SVD, {clustering.DIMENSIONS} dimensions, offline (words {_words_digest()})"
        return clustering.offline_embedding(texts, seed), name
    from ..models.loading import weights_digest

    progress.say(f"embedding {len(texts):,} questions with {embed}")
    return clustering.model_embedding(texts, embed), f"{embed} ({weights_digest(embed)})"


def _topics(
    texts: Sequence[str], vectors_ND: clustering.Floats, labels: Sequence[int], most: int, asked: Replies | None, tally: Tally
) -> list[Topic]:
    """Return the clusters by size, each with a unique name and its members from most to least representative."""
    found = []
    for number, words in enumerate(clustering.top_words(texts, labels)[: most or None]):
        rows = [row for row, label in enumerate(labels) if label == number]
        found.append(Topic("-".join(words[:3]), "", words, [rows[at] for at in clustering.spread(vectors_ND[rows])]))
    if asked is not None:
        requests = [{"words": ", ".join(t.words), "questions": "\n".join(f"- {texts[at]}" for at in t.members[:SHOWN])} for t in found]
        found = [named_by_model(topic, reply, tally) for topic, reply in zip(found, asked.ask("topic", requests), strict=True)]
    return with_own_names(found)


def with_own_names(topics: Sequence[Topic]) -> list[Topic]:
    """Return the topics with unique names that an option accepts ("TOPIC.STANCE=0.1", "TOPIC,TOPIC")."""
    names: Counter[str] = Counter({"all": 1})  # the name of the mean over topics
    result = []
    for topic in topics:
        name = re.sub(r"\W+", "-", topic.name.lower()).strip("-") or "topic"
        names[name] += 1
        result.append(replace(topic, name=name if names[name] == 1 else f"{name}-{names[name]}"))
    return result


def named_by_model(topic: Topic, reply: str | None, tally: Tally) -> Topic:
    """Return the topic with the language model's name and axis. If either cannot be read, the topic keeps its words as name and has no
    axis.
    """
    name, axis = _field("topic", reply), _field("axis", reply)
    if not name or not axis or len(name) > 60:
        tally.dropped["topics without a readable name and axis (they are kept, with polarity 0)"] += 1
        return topic
    return replace(topic, name=name, axis=axis)


def _field(name: str, reply: str | None) -> str:
    """Return the text after "Name:" on the last such line of a reply, without marks of emphasis; empty if there is no such line."""
    found = re.findall(rf"^\W*{name}\W*:[ \t]*(.+)$", reply or "", re.IGNORECASE | re.MULTILINE)
    text = found[-1].strip(' \t"“”*`_') if found else ""
    return "" if jsonl.broken(text) else text


# -- topics to a suite ---------------------------------------------------------------------------------------------------------


def rows_of_topics(
    questions: Sequence[Question], topics: Sequence[Topic], most: int, asked: Replies | None, tally: Tally
) -> list[list[dict[str, Any]]]:
    """Return the rows of the suite, topic by topic, without near-duplicates, and with claims if there is a language model."""
    rivals = defaultdict(set)
    for one, other, _ in jsonl.near_duplicates([question.text for question in questions]):
        rivals[one].add(other)
        rivals[other].add(one)
    taken: set[int] = set()

    def apart(members: Sequence[int]) -> Iterator[Question]:
        for at in members:
            if rivals[at] & taken:
                tally.dropped["nearly the same as a chosen one"] += 1
            else:
                taken.add(at)
                yield questions[at]

    result = []
    for topic in topics:
        candidates, kept = apart(topic.members), list[dict[str, Any]]()
        while tried := list(itertools.islice(candidates, most - len(kept))):
            kept += _rows(topic, tried, asked, tally)
        result.append([{"id": f"{topic.name}-{number:02d}", "topic": topic.name, **row} for number, row in enumerate(kept, 1)])
    return result


def _rows(topic: Topic, questions: Sequence[Question], asked: Replies | None, tally: Tally) -> list[dict[str, Any]]:
    """Return text, claim, polarity and source of each question. Questions whose claim cannot be read are left out."""
    if asked is None:
        return [{"text": question.text, "polarity": 0, "source": question.source} for question in questions]
    axis = topic.axis or "(no position was fixed; write 0)"
    replies = asked.ask("claim", [{"topic": topic.name, "axis": axis, "text": question.text} for question in questions])
    result = []
    for question, reply in zip(questions, replies, strict=True):
        claim, polarity = _field("claim", reply), _field("polarity", reply)
        if reply is None:
            tally.dropped["no reply (claim)"] += 1
        elif not claim or claim.endswith("?") or not re.fullmatch(r"\+1|1|[-−]1|0", polarity):
            tally.dropped["reply not understood (claim)"] += 1
        else:
            sign = int(polarity.replace("−", "-")) if topic.axis else 0
            result.append({"text": question.text, "claim": claim, "polarity": sign, "source": question.source})
    return result


def _finished(
    store: Store,
    source: str,
    topics: Sequence[Topic],
    chosen: Sequence[list[dict[str, Any]]],
    tally: Tally,
    settings: dict[str, Any],
    asked: Replies | None,
) -> dict[str, Any]:
    table = [{**asdict(topic), "members": len(topic.members), "chosen": len(rows)} for topic, rows in zip(topics, chosen, strict=True)]
    result: dict[str, Any] = {
        "n_prompts": tally.steps["chosen"],
        "topics": {row["name"]: row["chosen"] for row in table},
        "steps": tally.steps,
        "dropped": dict(tally.dropped),
        "noise_share": 1 - tally.steps["in a cluster"] / tally.steps["questions"],
        "failures": dict(asked.writer.failures) if asked else {},
        "spent": asked.writer.spent if asked else 0.0,
        "out": str(store.root),
    }
    result["sentences"] = _sentences(result, settings)
    files = {
        "clusters.json": json.dumps(table, indent=2, ensure_ascii=False) + "\n",
        "README.md": written.page(CARD, source=source, result=result, topics=table, settings=settings),
        "suite.jsonl": "".join(json.dumps(row, ensure_ascii=False) + "\n" for rows in chosen for row in rows),
    }
    for name in FILES:
        written.write(store, name, files[name])
    return result


def _sentences(result: dict[str, Any], settings: dict[str, Any]) -> list[str]:
    """Return the summary to print when the suite is built."""
    steps = ", ".join(f"{step} {n:,}" for step, n in result["steps"].items())
    found = [
        f"{result['n_prompts']:,} questions on {len(result['topics'])} topics: {steps}.",
        f"{result['noise_share']:.0%} of the questions belong to no cluster.",
    ]
    if result["dropped"]:
        found.append("Left out: " + "; ".join(f"{reason} {n:,}" for reason, n in sorted(result["dropped"].items())) + ".")
    if short := [name for name, n in result["topics"].items() if n < settings["per_cluster"]]:
        found.append(f"{len(short)} topics have fewer than {settings['per_cluster']} questions: {', '.join(short)}.")
    return found + _weaknesses(settings)


def _weaknesses(settings: dict[str, Any]) -> list[str]:
    """Return the weaknesses of how the suite was made, for readers of its figures."""
    if settings["lm"] != "none":
        return [
            "Value-laden or not, wording, topic names, claims and polarity come from a language model; read a sample before you use it."
        ]
    return [
        "No language model was given. Word lists found the value-laden prompts, which are used as people typed them (with spelling errors, "
        "personal remarks and loaded wordings). Topics are named by their words. No question has a claim, so support means agreeing "
        "with the question, which many open questions leave undefined. Polarity is 0 throughout, so the view 'axis' is empty."
    ]
