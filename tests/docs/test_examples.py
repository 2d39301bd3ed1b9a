"""The examples run, and do what they say."""

import importlib.util
import math
from pathlib import Path

import pytest

from valuedrift import testing

REPO = Path(__file__).resolve().parents[2]


def test_dpo_by_hand(tmp_path):
    """The loss starts at ln 2, because model and reference are equal, and falls once the pairs are seen again."""
    path = REPO / "examples" / "dpo_by_hand.py"
    assert len(path.read_text().splitlines()) <= 60
    spec = importlib.util.spec_from_file_location("dpo_by_hand", path)
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    losses = example.train(testing.save_model(tmp_path), 12)
    assert losses[0] == pytest.approx(math.log(2), abs=1e-5)
    assert max(losses[8:]) < math.log(2) - 0.1
