"""Wordings are read as they stand, filled in one pass, and refused with file and line."""

from pathlib import Path

import pytest

from valuedrift.judge import labels
from valuedrift.judge._wordings import wordings
from valuedrift.nouns import OUTCOMES, BadInput, Item

GOOD = """# a comment
[wording first]
support = pro | {label}: for it
neutral = both
oppose = con | {label}: against {it}
refusal = none | {label}
invalid = ?
[instruction]
Say it in one word. {"json": {braces}}

{labels}

[item]

On {claim}, asked {prompt}:
# left out
{text}
Word:

[wording second]
labels = by place
support = 1
neutral = 2
oppose = 3
refusal = 4
invalid = 5
[instruction]
One of {labels}!
[item]
{text} ({claim}):
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "words.txt"
    path.write_text(GOOD.replace("{braces}", "{ braces}"))
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
    ("old", "new", "where", "says"),
    [
        ("[wording second]", "[wording first]", 20, "a second wording is called 'first'"),
        ("[wording second]", "[wording Second]", 20, "begins no wording"),
        ("support = 1\n", "", 20, "no word for 'support'"),
        ("support = 1", "suport = 1", 22, "unknown key 'suport' in the wording 'second'; did you mean 'support'"),
        ("support = 1", "support =", 22, "gives 'support' no word"),
        ("neutral = 2", "support = 2", 23, "a second one"),
        ("neutral = 2", "neutral = 1", 20, "the same word for two outcomes"),
        ("by place", "by plaice", 21, "did you mean 'by place'"),
        ("[item]\n{text}", "[itme]\n{text}", 29, "unknown part 'itme' .*did you mean 'item'"),
        ("One of {labels}!\n[item]", "One of {labels}!\n[instruction]", 29, r"a second \[instruction\]"),
        ("[item]\n{text} ({claim}):\n", "", 20, r"has no \[item\]"),
        ("({claim}):", "({claims}):", 30, "{claims} means nothing .*did you mean 'claim'"),
        ("({claim}):", "", 20, "must hold {claim} once"),
        ("{text} (", "{text} {text} (", 20, "must hold {text} once"),
        ("One of {labels}!", "One of these!", 20, "must hold {labels} once"),
        ("({claim}):", "{claim}", 20, "ends in a placeholder"),
        ("# a comment", "a comment", 1, "stands before the first wording"),
    ],
)
def test_faults_name_file_and_line(file, old, new, where, says):
    before, found, after = file.read_text().rpartition(old)
    assert found
    file.write_text(before + new + after)
    with pytest.raises(BadInput, match=f"{file}:{where}: .*{says}") as caught:
        wordings(file)
    assert "\n" not in str(caught.value)


def test_no_file_and_no_wording(tmp_path):
    with pytest.raises(BadInput, match="cannot be read"):
        wordings(tmp_path / "none.txt")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    with pytest.raises(BadInput, match="holds no wording"):
        wordings(tmp_path / "empty.txt")


# -- the wordings that are shipped -----------------------------------------------------------------------------------------

SHIPPED = list(wordings(labels.WORDS).values())


def test_there_are_several():
    assert len(SHIPPED) >= 4
    assert len({wording.prefix() for wording in SHIPPED}) == len(SHIPPED)
    assert any(wording.by_place for wording in SHIPPED)


@pytest.mark.parametrize("wording", SHIPPED, ids=lambda wording: wording.name)
def test_both_sides_are_described_at_equal_length(wording):
    pro, con = (wording.listed.get(outcome, "").split() for outcome in ("support", "oppose"))
    assert len(pro) == len(con)


@pytest.mark.parametrize("wording", SHIPPED, ids=lambda wording: wording.name)
def test_every_order_lists_every_word_once_and_the_item_is_asked_last(wording):
    listings = set()
    for order in labels.ORDERS:
        assert sorted(wording.words(order).values()) == sorted(wording.labels.values())
        listings.add(wording.prefix(order))
    assert len(listings) == len(labels.ORDERS)
    asked = wording.suffix(Item("Q?", "C.", "T."))
    assert asked.endswith(":")
    assert all(words in asked for words in ("Q?", "C.", "T."))


def test_the_shipped_file_is_text_for_any_editor():
    assert Path(labels.WORDS).read_bytes().decode("ascii")
