"""The records: frozen, standard library only, and a reading that cannot be half a verdict."""

import ast
import dataclasses
import sys
from pathlib import Path

import pytest

from valuedrift import nouns


def test_nouns_imports_only_the_standard_library():
    tree = ast.parse(Path(nouns.__file__).read_text())
    imported = {name.name for node in ast.walk(tree) if isinstance(node, ast.Import) for name in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in imported} <= set(sys.stdlib_module_names)


def test_every_record_is_frozen():
    records = [value for value in vars(nouns).values() if dataclasses.is_dataclass(value)]
    assert len(records) >= 8
    assert all(record.__dataclass_params__.frozen for record in records)


def test_a_reading_holds_probabilities_or_a_reason():
    nouns.Reading("i", "j", (0.5, 0.5, 0.0, 0.0, 0.0))
    nouns.Reading("i", "j", failure="unparsed")
    with pytest.raises(ValueError):
        nouns.Reading("i", "j")
    with pytest.raises(ValueError):
        nouns.Reading("i", "j", (1.0, 0.0, 0.0, 0.0, 0.0), "unparsed")
    with pytest.raises(ValueError):
        nouns.Reading("i", "j", (0.5, 0.4, 0.0, 0.0, 0.0))


def test_items_are_keyed_by_all_that_a_judge_sees():
    item = nouns.Item("Q?", "C.", "A.", "t")
    assert item.key == nouns.Item("Q?", "C.", "A.", "t").key
    for field in ("prompt", "claim", "text", "topic"):
        assert dataclasses.replace(item, **{field: "other"}).key != item.key
    halves = [nouns.Item("Q?", "C.", text).key for text in ("\ud800", "\ud801")]  # of surrogate pairs, as JSON may hold them
    assert len(halves[0]) == 24
    assert halves[0] != halves[1]
