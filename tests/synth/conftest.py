"""Lets the tests import what they share: `on_disk`, and the server that misbehaves."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "judge")]
