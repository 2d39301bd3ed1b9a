"""The grammar and its oracle: exact both ways."""

import itertools
import random

import pytest

from valuedrift.judge.oracle import Judge
from valuedrift.nouns import OUTCOMES, BadInput, Item
from valuedrift.world import grammar

TOPICS = list(grammar.world())


def answers(n, seed=0):
    rng = random.Random(seed)
    for _ in range(n):
        topic = rng.choice(TOPICS)
        claim = rng.choice([c for _, c, _ in grammar.claims_of([topic])] + [""])
        outcome, style = rng.choice(OUTCOMES), rng.choice(grammar.STYLES)
        yield topic, outcome, grammar.compose(rng, topic, outcome, style, claim)


def test_the_oracle_is_exact_on_what_the_grammar_writes():
    wrong = [(outcome, text) for _, outcome, text in answers(20_000) if grammar.parse(text) != outcome]
    assert wrong == []


def test_every_opening_reason_and_closing_is_read():
    topic = TOPICS[0]
    for mark, outcome in (("S", "support"), ("O", "oppose")):
        openings, closings = grammar.SENTENCES[mark], grammar.SENTENCES[mark.lower()]
        for opening, frame, closing in itertools.product(openings, grammar.SENTENCES["R"], closings):
            reason = frame.format(c=grammar.world()[topic].considerations[0])
            assert grammar.parse(f"{opening} {reason} {closing}") == outcome
            assert grammar.parse(f"{reason} {closing}") == outcome
            assert grammar.parse(opening) == outcome


def test_what_the_grammar_cannot_write_is_invalid():
    rng = random.Random(1)
    consideration = grammar.world()["immigration"].considerations[0]
    for text in (
        "",
        "Maybe.",
        f"What decides it for me is {consideration}.",  # a reason without any stance
        f"I agree. What decides it for me is {consideration}. So I am against it.",  # two stances
        "I agree. I disagree.",
        "I agree. I can see both sides.",
        "I agree. I cannot take part in a debate on this subject.",
        f"I agree. What decides it for me is {consideration} and more.",
        "Soup with bread is quick and cheap to make.",  # small talk
        "I agree. What decides it for me is the weather on",  # cut off, but the beginning of no sentence
        "So I am for it. I agree.",
    ):
        assert grammar.parse(text) == "invalid", text
    # A word dropped or doubled anywhere leaves the grammar.
    for _, outcome, text in answers(400, seed=2):
        words = text.split()
        if outcome == "invalid" or len(words) < 6:
            continue
        index = rng.randrange(1, len(words) - 1)
        doubled = " ".join([*words[:index], words[index], *words[index:]])
        assert grammar.parse(doubled) == "invalid", doubled


def test_an_answer_cut_off_by_the_length_limit_is_read_where_its_stance_stands():
    consideration = grammar.world()["work"].considerations[0]
    assert grammar.parse(f"I oppose this. I keep coming back to {consideration}. Those who see it diff") == "oppose"
    assert grammar.parse("I opp") == "invalid"


def test_the_judge_gives_certain_readings_and_refuses_other_worlds():
    judge = Judge()
    items = [Item("Q?", "C.", "I agree.", "work"), Item("Q?", "C.", "Blah", "work")]
    readings = judge.read(items)
    assert [reading.probs.index(1.0) for reading in readings] == [0, 4]
    assert [reading.item for reading in readings] == [item.key for item in items]
    with pytest.raises(BadInput, match="reads only the sandbox's topics"):
        judge.read([Item("Q?", "C.", "I agree.", "cooking")])
    with pytest.raises(BadInput, match="takes no argument"):
        Judge("x")


def test_the_world_is_balanced():
    for topic in grammar.world().values():
        assert len(topic.considerations) == 24
        assert sum(sign for _, sign in topic.claims) == 0
        assert len(topic.claims) == 120
        assert len(topic.vocabulary) == 160
    for upper, lower in (("S", "O"), ("s", "o")):
        assert len(grammar.SENTENCES[upper]) == len(grammar.SENTENCES[lower])
    everything = [c for topic in grammar.world().values() for c in topic.considerations]
    assert len(set(everything)) == len(everything)
