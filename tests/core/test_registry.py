"""The folder is the registry."""

import importlib
import importlib.metadata

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


@pytest.mark.parametrize("kind", registry.DERIVED)
def test_a_third_party_choice_derives_from_its_base(kind, monkeypatch):
    folder, name = registry.KINDS[kind]
    base = getattr(importlib.import_module(f"valuedrift.{folder}"), name)
    assert issubclass(registry.find(kind, registry.names(kind)[0]), base)
    points = [importlib.metadata.EntryPoint(called, f"{__name__}:{called}", f"valuedrift.{kind}") for called in ("Duck", "derived")]
    monkeypatch.setattr(registry, "third_party", lambda of: {point.name: point for point in points} if of == kind else {})
    monkeypatch.setitem(globals(), "derived", type(name, (base,), {}))
    registry.find.cache_clear()
    assert registry.find(kind, "derived") is globals()["derived"]
    with pytest.raises(
        BadInput, match=rf"the {kind} 'Duck' \(.*:Duck\) does not derive from valuedrift\.{folder}\.{name}; make it a subclass$"
    ):
        registry.find(kind, "Duck")
    registry.find.cache_clear()


class Duck:
    """Has the methods, perhaps, and not the base."""
