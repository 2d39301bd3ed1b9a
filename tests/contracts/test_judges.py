"""What every judge must do: a stable identity, one reading per item in order, and no fall over a bad item."""

import sys
from pathlib import Path

import pytest

from valuedrift import registry
from valuedrift.nouns import OUTCOMES, Item

pytestmark = pytest.mark.slow

sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

ARGUMENTS: dict[str, str] = {"panel": "oracle,cues", "openai": "m?mode=logprobs"}
"""What a judge needs after its colon to be made here; judges that need nothing are not listed. Models and a server are made below."""


@pytest.fixture(scope="session", autouse=True)
def parts(tmp_path_factory, tiny_model):
    """Make what judges read with: two random models that know all words, and a real server."""
    import misbehaving
    from test_nli import save
    from test_trained import save as trained

    with misbehaving.Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_BASE_URL", server.url)
        ARGUMENTS["labels"] = f"{tiny_model}?prompt_format=plain"
        ARGUMENTS["nli"] = str(save(tmp_path_factory.mktemp("nli") / "model"))
        ARGUMENTS["trained"] = str(trained(tmp_path_factory.mktemp("trained") / "model"))
        yield


ITEMS = [
    Item("Should it be allowed?", "It should be allowed.", text, "abortion")
    for text in ("Yes, I agree.", "", "   \n", "No, this is wrong.", "\x00\ufffd 𝔘 ☃", "well " * 50_000, "I cannot answer that.", "?")
]


@pytest.fixture(params=registry.names("judge"))
def judge(request, parts):
    return registry.find("judge", request.param)(ARGUMENTS.get(request.param, ""))


def test_identity_is_stable_and_names_the_judge(judge):
    name = type(judge).__module__.rpartition(".")[2]
    assert type(judge)(ARGUMENTS.get(name, "")).identity == judge.identity
    assert judge.identity.startswith(f"{name}/")
    assert isinstance(judge.note, str)


def test_there_is_one_sound_reading_per_item_in_order(judge):
    readings = judge.read(ITEMS)
    assert [reading.item for reading in readings] == [item.key for item in ITEMS]
    assert {reading.judge for reading in readings} == {judge.identity}
    for reading in readings:
        assert bool(reading.reason) == (reading.failure is not None)
        assert reading.missing is None or -1e-6 <= reading.missing <= 1 + 1e-6
        if reading.probs is not None:
            assert len(reading.probs) == len(OUTCOMES)
            assert sum(reading.probs) == pytest.approx(1, abs=1e-6)
            assert min(reading.probs) >= 0
    for reading in (*readings[1:3], readings[-1]):
        assert reading.failure is not None or max(reading.probs) == reading.probs[4], "a text without words is never a stance"
    assert judge.read([]) == []


def test_a_reading_does_not_depend_on_its_neighbours(judge):
    whole = judge.read(ITEMS)
    for readings, same in ((whole[::-1], judge.read(ITEMS[::-1])), (whole[3:4], judge.read(ITEMS[3:4]))):
        for one, other in zip(readings, same, strict=True):
            assert (one.item, one.failure) == (other.item, other.failure)
            if one.probs is not None:  # a batch adds up in another order
                assert one.probs == pytest.approx(other.probs, abs=1e-5)
