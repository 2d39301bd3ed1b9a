"""What every judge must do: a stable identity, one reading per item in order, and no fall over a bad item."""

import pytest

from valuedrift import registry
from valuedrift.nouns import Item

ARGUMENTS: dict[str, str] = {"panel": "oracle,cues"}
"""What a judge needs after its colon to be made here; judges that need nothing are not listed."""

ITEMS = [
    Item("Should it be allowed?", "It should be allowed.", text, "abortion")
    for text in ("Yes, I agree.", "", "   \n", "No, this is wrong.", "\x00\ufffd 𝔘 ☃", "well " * 50_000, "I cannot answer that.", "?")
]


@pytest.fixture(params=registry.names("judge"))
def judge(request):
    return registry.find("judge", request.param)(ARGUMENTS.get(request.param, ""))


def test_identity_is_stable_and_names_the_judge(judge):
    name = type(judge).__module__.rpartition(".")[2]
    assert type(judge)(ARGUMENTS.get(name, "")).identity == judge.identity
    assert judge.identity.startswith(f"{name}/")
    assert isinstance(judge.note, str)


def test_one_reading_per_item_in_order(judge):
    readings = judge.read(ITEMS)
    assert [reading.item for reading in readings] == [item.key for item in ITEMS]
    assert {reading.judge for reading in readings} == {judge.identity}


def test_probabilities_are_probabilities(judge):
    for reading in judge.read(ITEMS):
        if reading.probs is not None:
            assert sum(reading.probs) == pytest.approx(1, abs=1e-6)
            assert min(reading.probs) >= 0


def test_no_text_is_never_a_stance(judge):
    for reading in judge.read(ITEMS[1:3]):
        assert reading.failure is not None or max(reading.probs) == reading.probs[4]


def test_a_reading_does_not_depend_on_its_neighbours(judge):
    assert judge.read(ITEMS)[::-1] == judge.read(ITEMS[::-1])
    assert judge.read(ITEMS[3:4]) == judge.read(ITEMS)[3:4]


def test_nothing_to_read(judge):
    assert judge.read([]) == []
