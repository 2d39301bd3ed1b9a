"""Lets the tests import the harness, and the server that counts."""

import sys
from pathlib import Path

import pytest

sys.path += [str(Path(__file__).parent), str(Path(__file__).parents[1] / "judge")]


@pytest.fixture(scope="session")
def harness(tmp_path_factory):
    """Return the world and the launcher, which start once for all tests."""
    from killing import prepared

    with prepared(tmp_path_factory.mktemp("world")) as found:
        yield found
