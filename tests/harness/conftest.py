"""Lets the tests import the harness, and the server that counts."""

import sys
from pathlib import Path

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "judge")]
