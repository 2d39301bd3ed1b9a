"""A suite is built from prompts: by rules, by a language model's replies, again after a kill, and the same each time."""

import contextlib
import json
import os
import re
import signal
from collections import Counter
from multiprocessing import get_context

import pytest
from five_topics import questions

from valuedrift import suites
from valuedrift.models.writer import Unfinished
from valuedrift.nouns import BadInput, Stopped
from valuedrift.suites import jsonl, vprism

pytestmark = pytest.mark.slow

pytest.importorskip("umap")

WORDS = {"religion": "faith", "climate": "climate", "immigrants": "migration", "police": "punishment", "parents": "family"}


class Scripted:
    """Answers the requests of vprism.txt as a careful model would; `spoil` replaces some replies."""

    identity = "scripted/1"
    batch_size = 16
    spent = 0.0
    keeping = contextlib.nullcontext

    def __init__(self, spoil=lambda request: None):
        self.spoil, self.failures, self.asked = spoil, Counter(), []

    def write(self, prompts, seed):
        replies = []
        for ((role, request),) in prompts:
            assert role == "user"
            self.asked.append(request)
            replies.append(self.spoil(request) or self.reply(request))
        return replies

    def reply(self, request):
        if "Is it about a value question?" in request:
            return "No." if "cake" in request else "Yes."
        text = re.search(r"^(?:Message|Question): (.+)$", request, re.MULTILINE)
        if "Turn the message below" in request:
            return f'"{text[1].removeprefix("Hello! ")}"'
        if "Below are questions" in request:
            counts = Counter({name: request.lower().count(word) for word, name in WORDS.items()})
            return f"**Topic:** {counts.most_common(1)[0][0].title()}\n**Axis:** More of it is needed."
        return (
            f"<think>Topic and polarity?</think>\nClaim: {text[1].rstrip('?')}, it is so.\nPolarity: {'-1' if ' ban ' in text[1] else '+1'}"
        )


def prompts_file(folder, n_each=24):
    """Write the questions of five topics, among cakes, a repeat, a blank and a garbled one."""
    texts = [text for _, text in questions(n_each)]
    rows = [{"id": f"p-{number}", "prompt": text} for number, text in enumerate(texts)]
    rows += [{"prompt": "How do I bake a cake?"}, {"prompt": texts[0].upper()}, {"prompt": "  "}, {"prompt": "Should cafÃ©s close?"}]
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def scripted(monkeypatch):
    """Return a function that puts a scripted model in the place of every language model."""

    def install(spoil=lambda request: None):
        writer = Scripted(spoil)
        monkeypatch.setattr(vprism, "writer_of", lambda spec, temperature, max_new_tokens, max_cost: writer)
        return writer

    return install


def files_of(folder):
    return {name: (folder / name).read_bytes() for name in ("suite.jsonl", "clusters.json", "README.md")}


def test_without_models(tmp_path):
    path = prompts_file(tmp_path)
    result = vprism.build(path, tmp_path / "a", per_cluster=10)
    # 5 topics of 24 and one cake are read; the repeat, the blank and the garbled one are not.
    assert result["steps"]["read, each once"] == 121
    assert result["steps"]["value-laden"] == result["steps"]["questions"] == 120
    assert result["dropped"]["repeated"] == result["dropped"]["empty"] == result["dropped"]["broken characters"] == 1
    assert result["dropped"]["not value-laden (by its words)"] == 1
    assert result["noise_share"] == 1 - result["steps"]["in a cluster"] / 120
    prompts = suites.load(f"vprism:{tmp_path / 'a'}")
    assert len(prompts) == result["n_prompts"] == sum(result["topics"].values())
    assert Counter(prompt.topic for prompt in prompts) == result["topics"]
    assert max(result["topics"].values()) <= 10
    assert {(prompt.claim == prompt.text, prompt.polarity) for prompt in prompts} == {(True, 0)}
    assert any("No language model was given" in sentence for sentence in result["sentences"])
    assert jsonl.check(tmp_path / "a" / "suite.jsonl") == []
    assert vprism.build(path, tmp_path / "b", per_cluster=10) | {"out": ""} == result | {"out": ""}
    assert files_of(tmp_path / "b") == files_of(tmp_path / "a")
    vprism.build(path, tmp_path / "b", per_cluster=8)  # what nobody edited can be made again
    assert files_of(tmp_path / "b") != files_of(tmp_path / "a")
    edited = tmp_path / "b" / "suite.jsonl"
    edited.write_text(edited.read_text().replace("Should", "Must"))
    before = files_of(tmp_path / "b")
    for seed in (0, 1):
        with pytest.raises(BadInput, match=r"suite\.jsonl is not as 'valuedrift suite build' wrote it .* move it away, or use another"):
            vprism.build(path, tmp_path / "b", per_cluster=8, seed=seed)
    assert files_of(tmp_path / "b") == before


def test_with_a_language_model(tmp_path, scripted):
    writer = scripted()
    result = vprism.build(prompts_file(tmp_path), tmp_path / "out", lm="openai:some", per_cluster=8, topics=3)
    prompts = suites.load(f"vprism:{tmp_path / 'out'}")
    assert result["dropped"]["not value-laden (by the language model)"] == 1
    assert set(result["topics"]) <= set(WORDS.values())
    assert list(result["topics"].values()) == [8, 8, 8]
    assert all(prompt.claim == prompt.text.rstrip("?") + ", it is so." for prompt in prompts)
    assert {prompt.polarity for prompt in prompts if " ban " in prompt.text} <= {-1}
    assert {prompt.polarity for prompt in prompts if " ban " not in prompt.text} == {1}
    assert prompts[0].id == f"{prompts[0].topic}-01"
    assert "More of it is needed." in (tmp_path / "out" / "README.md").read_text()
    n_asked = len(writer.asked)
    assert n_asked == 121 + 120 + 3 + 24  # filter, rewrite, three names, three times eight claims
    before = files_of(tmp_path / "out")
    assert vprism.build(tmp_path / "prompts.jsonl", tmp_path / "out", lm="openai:some", per_cluster=8, topics=3)["n_prompts"] == 24
    assert len(writer.asked) == n_asked  # nothing is asked again
    assert files_of(tmp_path / "out") == before


def test_replies_that_cannot_be_read_are_counted_and_others_take_their_place(tmp_path, scripted):
    def spoil(request):
        if "Should police" in request and "Turn the message" in request:
            return "I would rather not." if "villages" in request else None
        if "First write the claim" in request and "islands" in request:
            return "Claim: Is it so?\nPolarity: +1"
        return "Here you are." if "Below are questions" in request and request.count("carbon") > 8 else None

    scripted(spoil)
    result = vprism.build(prompts_file(tmp_path), tmp_path / "out", lm="openai:some", per_cluster=8)
    rows = [json.loads(line) for line in (tmp_path / "out" / "suite.jsonl").read_text().splitlines()]
    assert result["dropped"]["reply not understood (rewrite)"] == 121 - 1 - result["steps"]["questions"]
    assert result["dropped"]["reply not understood (claim)"] > 0
    assert not [row for row in rows if "islands" in row["text"]]
    assert set(result["topics"].values()) == {8}
    assert result["dropped"]["topics without a readable name and axis (they are kept, with polarity 0)"] == 1
    assert {row["polarity"] for row in rows if "Should climate" in row["text"]} == {0}
    assert {row["polarity"] for row in rows if "Should parents" in row["text"]} == {1}


@pytest.mark.parametrize(
    ("reply", "verdict"),
    [("Yes", True), ("no.", False), ("<think>yes or no?</think> **No**", False), ("Yes and no", None), ("Perhaps", None), (None, None)],
)
def test_a_verdict_is_one_word(reply, verdict):
    question = vprism.Question("1", "Is tea good?")
    found = vprism.filtered(question, reply)
    assert (found is question) is (verdict is True)
    assert (found == "not value-laden (by the language model)") is (verdict is False)


def test_nearly_equal_questions_are_chosen_once():
    texts = ["Should bread be free for all?", "should bread be free, for all", "Is tea good?"]
    found = [vprism.Question(str(number), text) for number, text in enumerate(texts)]
    tally = vprism.Tally()
    topics = [vprism.Topic("food", "", [], [0, 1]), vprism.Topic("drink", "", [], [1, 2])]
    rows = vprism.rows_of_topics(found, topics, 5, None, tally)
    assert [[row["source"] for row in part] for part in rows] == [["0"], ["2"]]
    assert tally.dropped == {"nearly the same as a chosen one": 2}


def test_topics_have_names_of_their_own():
    replies = ["Topic: All\nAxis: A.", "Topic: or this?\nAxis: No.\n\nTopic: Work & Pay\nAxis: B.", "Topic: work, pay\nAxis: C."]
    tally = vprism.Tally()
    found = [vprism.named_by_model(vprism.Topic("words", "", [], []), reply, tally) for reply in replies]
    assert [topic.name for topic in vprism.with_own_names(found)] == ["all-2", "work-pay", "work-pay-2"]


def _killed_after(path, out, n):
    class Killed(Scripted):
        def write(self, prompts, seed):
            if len(self.asked) >= n:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().write(prompts, seed)

    vprism.writer_of = lambda *_: Killed()
    vprism.build(path, out, lm="openai:some", per_cluster=8)


def test_a_killed_build_goes_on_where_it_was(tmp_path, scripted):
    path = prompts_file(tmp_path)
    # Not by fork: the child of a process in which polars has threads waits for them for ever.
    process = get_context("spawn").Process(target=_killed_after, args=(path, tmp_path / "out", 64))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    with pytest.raises(BadInput, match="is not a built suite; make one with 'valuedrift suite build PROMPTS --out FOLDER'"):
        suites.load(f"vprism:{tmp_path / 'out'}")
    writer = scripted()
    vprism.build(path, tmp_path / "out", lm="openai:some", per_cluster=8)
    assert sum("Is it about a value question?" in request for request in writer.asked) == 121 - 64
    scripted()
    vprism.build(path, tmp_path / "whole", lm="openai:some", per_cluster=8)
    assert files_of(tmp_path / "out") == files_of(tmp_path / "whole")


def test_what_was_paid_for_stays_when_the_budget_ends(tmp_path, scripted):
    path = prompts_file(tmp_path)
    writer = scripted()

    def stop(prompts, seed):
        raise Unfinished("the budget of 1 dollar is spent", [*Scripted.write(writer, prompts[:5], seed), *[None] * (len(prompts) - 5)])

    writer.write = stop
    with pytest.raises(Stopped, match="budget"):
        vprism.build(path, tmp_path / "out", lm="openai:some", per_cluster=8)
    again = scripted()
    vprism.build(path, tmp_path / "out", lm="openai:some", per_cluster=8)
    assert sum("Is it about a value question?" in request for request in again.asked) == 121 - 5


def test_bad_input_is_one_sentence(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text('{"prompt": "Should bread be free?"}\n{"words": "Is tea good?"}\n')
    with pytest.raises(BadInput, match=r"prompts.jsonl:2: a row needs a text under 'prompt' or 'text'"):
        vprism.build(path, tmp_path / "out")
    path.write_text('{"prompt": "Should taxes be cut?"}\n' * 3)
    with pytest.raises(BadInput, match="1 questions are too few"):
        vprism.build(path, tmp_path / "out")
    with pytest.raises(BadInput, match="a cluster needs 2 questions"):
        vprism.build(path, tmp_path / "out", per_cluster=1)
    assert not (tmp_path / "out").exists()
    for spec in ("vprism", "vprism:", f"vprism:{tmp_path}"):
        with pytest.raises(BadInput, match="valuedrift suite build"):
            suites.load(spec)
