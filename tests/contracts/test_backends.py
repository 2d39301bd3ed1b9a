"""Every backend answers each (prompt, sample number) once, under its content key, and the same again where it can."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from valuedrift import registry
from valuedrift.evaluate import Backend, answer_key
from valuedrift.models import loading
from valuedrift.nouns import Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings

sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

ASKED = [(Prompt(f"p{n}", "work", f"Is rule {n} fair?", f"Rule {n} is fair."), draw) for n in range(3) for draw in range(2)]


@pytest.fixture(params=registry.names("backend"))
def made(request, monkeypatch, tiny_model):
    """A backend, a function that makes another like it, and the checkpoint that it can ask."""
    import misbehaving

    if request.param == "vllm" and not importlib.util.find_spec("vllm"):
        pytest.skip("vllm is not installed")
    settings = EvaluationSettings(backend=request.param, max_new_tokens=8)
    make = registry.find("backend", request.param)
    with misbehaving.Server() as server:
        server.text = lambda number, body: "I agree."
        monkeypatch.setenv("OPENAI_BASE_URL", server.url)
        if make.is_remote:
            checkpoint = Checkpoint("trace", 0, "openai:m", "m", "server")
        else:
            checkpoint = Checkpoint("trace", 0, str(tiny_model), loading.weights_digest(tiny_model))
        yield make(settings), lambda: make(settings), checkpoint


def answers(backend, checkpoint, asked=ASKED, sampling_seed=7):
    return dict(backend.sample(checkpoint, asked, sampling_seed))


@pytest.mark.parametrize("name", registry.names("backend"))
def test_a_backend_derives_from_the_base_and_needs_no_torch_for_keys(name):
    found = registry.find("backend", name)
    assert issubclass(found, Backend)
    assert found.identity.startswith(f"{name}/")
    code = f"import sys, valuedrift.registry as r; r.find('backend', {name!r}).identity; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_pair_is_answered_once_under_its_key(made):
    backend, _, checkpoint = made
    backend.check([checkpoint], [prompt for prompt, _ in ASKED])
    places = [place for place, _ in backend.sample(checkpoint, ASKED, 7)]
    assert sorted(places) == list(range(len(ASKED)))
    for place, answer in answers(backend, checkpoint).items():
        prompt, draw = ASKED[place]
        assert answer.key == answer_key(checkpoint, prompt, draw, backend.settings, 7)
        assert (answer.checkpoint, answer.prompt, answer.draw) == (checkpoint.weights, prompt.id, draw)
        assert answer.ended in ("stop", "length", "thinking")
    assert isinstance([*backend.notes], list)
    assert backend.spent >= 0


def test_another_backend_answers_the_same_whatever_else_is_asked(made):
    backend, make, checkpoint = made
    whole, part = answers(backend, checkpoint), answers(make(), checkpoint, ASKED[3:])
    assert [whole[place].text for place in range(3, 6)] == [part[place].text for place in range(3)]


def test_nothing_asked_is_nothing_answered(made):
    backend, _, checkpoint = made
    assert answers(backend, checkpoint, []) == {}


def test_a_stopped_backend_does_not_raise(made):
    backend, _, checkpoint = made
    backend.stop()
    assert len(answers(backend, checkpoint)) in (0, len(ASKED))
