"""Every suite derives from the base class, and returns the same valid prompts each time."""

import json

import pytest

from valuedrift import registry, suites
from valuedrift.nouns import BadInput


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> dict[str, str]:
    """Return what a suite needs after its colon; suites that need nothing are not listed."""
    folder = tmp_path_factory.mktemp("suite")
    (folder / "suite.jsonl").write_text(json.dumps({"id": "1", "text": "Is tea good?", "claim": "Tea is good.", "topic": "tea"}) + "\n")
    return {"jsonl": str(folder / "suite.jsonl"), "vprism": str(folder)}


@pytest.mark.parametrize("name", registry.names("suite"))
def test_a_suite_returns_the_same_valid_prompts(name, arguments):
    kind = registry.find("suite", name)
    assert issubclass(kind, suites.Suite)
    prompts = kind(arguments.get(name, "")).prompts()
    assert prompts == kind(arguments.get(name, "")).prompts()
    assert len({prompt.id for prompt in prompts}) == len(prompts) > 0
    for prompt in prompts:
        assert all(words.strip() for words in (prompt.text, prompt.claim, prompt.topic))
        assert prompt.polarity in (-1, 0, 1)


@pytest.mark.parametrize("name", registry.names("suite"))
def test_a_wrong_argument_is_one_sentence(name):
    with pytest.raises(BadInput, match="no-such-file") as error:
        registry.find("suite", name)("no-such-file").prompts()
    assert "\n" not in str(error.value)
