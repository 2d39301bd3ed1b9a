"""A sample of the damages of `make harness`."""

import pytest
from corrupting import corrupted

pytestmark = pytest.mark.slow


def test_damaged_files_are_made_again_or_refused_in_one_sentence(harness):
    found = corrupted(*harness, ["trace", "gap", "synth"], 4, 1)
    outcomes = [outcome for of_verb in found.values() for outcome in of_verb.values()]
    assert not [outcome for outcome in outcomes if outcome.startswith("FAULT")], found
    assert "healed" in outcomes
