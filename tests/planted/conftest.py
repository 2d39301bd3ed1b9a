"""Lets the tests import the tiny models of `tests/train`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "train"))
