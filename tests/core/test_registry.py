"""The folder is the registry."""

import pytest

from valuedrift import registry
from valuedrift.nouns import BadInput


@pytest.mark.parametrize("kind", registry.KINDS)
def test_every_file_of_a_kind_can_be_found(kind):
    found = registry.names(kind)
    assert found
    for name in found:
        choice = registry.find(kind, name)
        assert choice.__doc__, f"{kind} {name} has no docstring"


def test_an_unknown_name_gets_the_nearest_known_one():
    with pytest.raises(BadInput, match=r"unknown algorithm 'doo'; did you mean 'dpo'\? Known: dpo, .*simpo"):
        registry.find("algorithm", "doo")


def test_a_choice_may_have_an_argument():
    assert registry.split("labels:some/path:x") == ("labels", "some/path:x")
    assert registry.split("oracle") == ("oracle", "")
