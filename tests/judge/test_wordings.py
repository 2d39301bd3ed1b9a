"""Wordings are read as they stand, filled in one pass, and refused in one sentence."""

import re

import pytest

from valuedrift.judge import labels
from valuedrift.judge.wordings import wordings
from valuedrift.nouns import OUTCOMES, BadInput, Item

GOOD = """# a comment
[first]
labels = { support = "pro", neutral = "both", oppose = "con", refusal = "none", invalid = "?" }
listed = { support = "{label}: for it", oppose = "{label}: against {it}" }
instruction = '''
Say it in one word. {"json": { braces}}

{labels}'''
item = '''
On {claim}, asked {prompt}:
{text}
Word:'''

[second]
by_place = true
labels = { support = "1", neutral = "2", oppose = "3", refusal = "4", invalid = "5" }
instruction = "One of {labels}!"
item = "{text} ({claim}):"
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.toml"
    path.write_text(GOOD)
    return path


def test_a_wording_stands_as_written(file):
    first = wordings(file)["first"]
    assert first.labels == dict(zip(OUTCOMES, ["pro", "both", "con", "none", "?"], strict=True))
    # The list has a line of its own: one entry a line. Outcomes without a text are listed by their word.
    assert first.prefix() == 'Say it in one word. {"json": { braces}}\n\npro: for it\nboth\ncon: against {it}\nnone\n?\n\n'
    assert first.suffix(Item("Why?", "X is", "Yes.")) == "On X is, asked Why?:\nYes.\nWord:"


def test_the_order_moves_outcomes_or_words(file):
    first, second = wordings(file).values()
    turned = (*OUTCOMES[3:], *OUTCOMES[:3])  # refusal, invalid, support, neutral, oppose
    assert first.prefix(turned).endswith("none\n?\npro: for it\nboth\ncon: against {it}\n\n")
    assert first.words(turned)["support"] == "pro"
    # By place: the list reads 1, 2, 3, 4, 5 in every order, and support, now third, is 3.
    assert second.prefix(turned) == second.prefix() == "One of 1, 2, 3, 4, 5!\n\n"
    assert second.words() == dict(zip(OUTCOMES, "12345", strict=True))
    assert second.words(turned) == {"refusal": "1", "invalid": "2", "support": "3", "neutral": "4", "oppose": "5"}


def test_braces_in_an_item_are_ordinary_characters(file):
    item = Item("{text} {0}", "{prompt}", "{claim} {{text}} {")
    assert wordings(file)["second"].suffix(item) == "{claim} {{text}} { ({prompt}):"
    assert wordings(file)["first"].suffix(item) == "On {prompt}, asked {text} {0}:\n{claim} {{text}} {\nWord:"


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("[second]", "[first]", "line 14"),
        ('support = "1", ', "", "the wording 'second' cannot be used: labels has no word for 'support'"),
        ('support = "1"', 'suport = "1"', "second.labels.suport"),
        ('support = "1"', 'support = " "', "labels has no word for 'support'"),
        ('support = "1"', "support = 1", "second.labels.support"),
        ('neutral = "2"', 'neutral = "1"', "the same word for two outcomes"),
        ("by_place = true", "by_plaice = true", "second.by_plaice"),
        ('item = "{text} ({claim}):"', "", "second.item"),
        ("({claim}):", "({claims}):", "item holds {claims}, which means nothing there"),
        ("({claim}):", ":", "item must hold {claim} exactly once"),
        ("{text} (", "{text} {text} (", "item must hold {text} exactly once"),
        ("One of {labels}!", "One of these!", "instruction must hold {labels} exactly once"),
        ("({claim}):", "{claim}", "ends in a placeholder"),
        (GOOD, "first = 3", "cannot be read as a TOML file of wordings"),
        (GOOD, "# nothing", "holds no wording"),
    ],
)
def test_faults_name_the_file_and_what_is_wrong(file, old, new, says):
    before, found, after = file.read_text().rpartition(old)
    assert found
    file.write_text(before + new + after)
    with pytest.raises(BadInput, match=re.escape(says)) as caught:
        wordings(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


# -- the wordings that are shipped -----------------------------------------------------------------------------------------

SHIPPED = list(wordings(labels.WORDS).values())


@pytest.mark.parametrize("wording", SHIPPED, ids=lambda wording: wording.name)
def test_every_order_lists_every_word_once_and_the_item_is_asked_last(wording):
    pro, con = (wording.listed.get(outcome, "").split() for outcome in ("support", "oppose"))
    assert len(pro) == len(con), "both sides are described at equal length"
    listings = set()
    for order in labels.ORDERS:
        assert sorted(wording.words(order).values()) == sorted(wording.labels.values())
        listings.add(wording.prefix(order))
    assert len(listings) == len(labels.ORDERS)
    asked = wording.suffix(Item("Q?", "C.", "T."))
    assert asked.endswith(":")
    assert all(words in asked for words in ("Q?", "C.", "T."))
