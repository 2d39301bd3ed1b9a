"""Length, readability, hedging and lists by hand."""

import math

import pytest

from valuedrift.stats import text_style


def test_readability_by_hand():
    # 9 words of 1 + 5 + 4 + 2 + 5 + 3 + 3 + 2 + 5 = 30 letters in 2 sentences: 4.71 * 30 / 9 + 0.5 * 9 / 2 - 21.43.
    assert text_style.readability("A quick test is never bad. Why is never?") == pytest.approx(4.71 * 30 / 9 + 0.5 * 9 / 2 - 21.43)
    # Line ends close sentences, dots inside a word do not, and marks alone are no words: 4 words of 19 letters and digits in 2 sentences.
    assert text_style.readability("Version 3.11 -\nworks fine") == pytest.approx(4.71 * 19 / 4 + 0.5 * 4 / 2 - 21.43)
    assert math.isnan(text_style.readability(" … !"))


def test_hedging_by_hand():
    # "perhaps", "might", "it depends" of 9 words; "mighty" and "maypole" are none.
    assert text_style.hedging("Perhaps it might rain; it depends. Mighty maypole, no.") == pytest.approx(100 * 3 / 9)
    assert text_style.hedging("I’m not sure") == pytest.approx(100 / 3)
    assert text_style.hedging("It is so.") == 0
    assert math.isnan(text_style.hedging(""))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Buy:\n- milk\n- bread", True),
        ("1. Rise\n2) Shine", True),
        ("  * a\n  • b", True),
        ("- only one", False),
        ("1990 was so\n1991 was not", False),
        ("-5 degrees\n-7 degrees", False),
        ("a - b\nc - d", False),
    ],
)
def test_lists(text, found):
    assert text_style.has_list(text) is found


def test_features_are_in_the_order_of_their_units():
    row = text_style.features(["Perhaps so.\n- a\n- b", ""])
    assert list(text_style.UNITS) == ["length", "readability", "hedging", "lists"]
    assert row[0, [0, 2, 3]] == pytest.approx([6, 100 / 6, 1])
    assert (row[1, 0], row[1, 3]) == (0, 0)
    assert text_style.features([]).shape == (0, 4)
