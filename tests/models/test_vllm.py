"""The vLLM backend on its real engine (the CPU build will do); without the package, only what it says then."""

import importlib.util
import shutil

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM

from valuedrift.evaluate import vllm as module
from valuedrift.evaluate.transformers import Backend as Plain
from valuedrift.evaluate.vllm import Backend
from valuedrift.models import loading
from valuedrift.nouns import OUTCOMES, BadInput, Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings

installed = importlib.util.find_spec("vllm") is not None
real = pytest.mark.skipif(not installed, reason="vllm is not installed")
PROMPTS = [Prompt(f"p{n}", "work", f"Should the state raise taxes on fuel number {n}?", "") for n in range(6)]
LONG = [Prompt("long", "work", "Should the state raise taxes on fuel, and who is to pay them? " * 20, "")]
"""Several blocks of vLLM's cache of prefixes, which keeps whole blocks only (128 tokens on a CPU)."""
PAIRS = [(prompt, draw) for prompt in PROMPTS + LONG for draw in range(3)]


@pytest.mark.skipif(installed, reason="vllm is installed")
def test_a_missing_package_is_named(folders):
    backend = Backend(EvaluationSettings(backend="vllm"))
    with pytest.raises(BadInput, match=r"the backend vllm needs the package vllm; install it with: pip install 'valuedrift\[vllm\]'"):
        list(backend.sample(checkpoint(folders["qwen3"]), PAIRS, 0))


def checkpoint(folder, step=0):
    return Checkpoint("s", step, str(folder), loading.weights_digest(folder))


def said(backend, folder, pairs=PAIRS, sampling_seed=0):
    answers = dict(backend.sample(checkpoint(folder), pairs, sampling_seed))
    return [answers[place].text for place in range(len(pairs))]


@pytest.fixture(scope="module")
def model(folders, tmp_path_factory):
    """A Qwen3 whose heads are wide enough for vLLM's attention on a CPU."""
    folder = shutil.copytree(folders["qwen3"], tmp_path_factory.mktemp("wide") / "model")
    config = AutoConfig.from_pretrained(folder)
    config.head_dim, config.max_position_embeddings = 32, 2048
    torch.manual_seed(3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def other(model, tmp_path_factory):
    """The same architecture with other weights."""
    folder = shutil.copytree(model, tmp_path_factory.mktemp("other") / "model")
    torch.manual_seed(5)
    weights = {name: values + 0.1 * torch.randn_like(values) for name, values in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def backend():
    made = Backend(EvaluationSettings(backend="vllm", max_new_tokens=12, batch_rows=7, temperature=1.0))
    yield made
    made.close()


@real
def test_equal_weights_answer_alike_whatever_is_asked_beside_them(backend, model):
    whole = said(backend, model)
    assert said(backend, model) == whole
    assert said(backend, model, PAIRS[5:6]) == whole[5:6]
    assert len(set(whole)) > len(PROMPTS), "draws differ"
    assert said(backend, model, sampling_seed=1) != whole


@real
def test_a_question_longer_than_the_context_is_named(backend, model):
    long = Prompt("long", "work", "Is it so? " * 400, "")
    with pytest.raises(BadInput, match=r"vLLM reads 2,048 tokens .* which leaves no room for an answer"):
        said(backend, model, [(long, 0)])


@real
def test_greedy_answers_are_those_of_transformers(model, other):
    greedy = {"max_new_tokens": 12, "temperature": 0.0, "batch_rows": 7}
    pairs = [(prompt, 0) for prompt in PROMPTS]
    fast = Backend(EvaluationSettings(backend="vllm", **greedy))
    try:
        for folder in (model, other):
            assert said(fast, folder, pairs) == said(Plain(EvaluationSettings(**greedy)), folder, pairs)
    finally:
        fast.close()


@real
def test_after_a_switch_the_new_weights_answer(backend, model, other, monkeypatch):
    """One engine; what it says after the switch is what an engine says that never held the first weights, cached prefixes included."""
    first = said(backend, model)
    engine = backend.engine
    second = said(backend, other)
    assert backend.engine is engine
    assert second != first
    fresh = Backend(backend.settings)
    try:
        assert second == said(fresh, other)
    finally:
        fresh.close()
    assert said(backend, model) == first


@real
def test_weights_that_did_not_arrive_are_noticed(backend, model, other, monkeypatch, capsys):
    said(backend, model)
    engine = backend.engine
    monkeypatch.setattr(engine, "collective_rpc", lambda *_, **__: None)
    second = said(backend, other)
    assert backend.engine is not engine
    assert "did not change what the engine says: it is restarted" in capsys.readouterr().err
    fresh = Backend(backend.settings)
    try:
        assert second == said(fresh, other)
    finally:
        fresh.close()


@real
def test_adapters_share_an_engine(model, tmp_path):
    greedy = {"max_new_tokens": 12, "temperature": 0.0}
    pairs = [(prompt, 0) for prompt in PROMPTS]
    places = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        adapted = get_peft_model(
            AutoModelForCausalLM.from_pretrained(model), LoraConfig(r=4, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
        )
        places.append(tmp_path / f"adapter-{seed}")
        adapted.save_pretrained(places[-1])
    backend = Backend(EvaluationSettings(backend="vllm", **greedy))
    try:
        engines = set()
        for place in places:
            assert said(backend, place, pairs) == said(Plain(EvaluationSettings(**greedy)), place, pairs)
            engines.add(id(backend.engine))
        assert len(engines) == 1
        assert said(backend, model, pairs) == said(Plain(EvaluationSettings(**greedy)), model, pairs), "none of them stays active"
    finally:
        backend.close()


@real
def test_labels_are_read_alike_by_both_engines(model):
    from valuedrift.judge import make
    from valuedrift.nouns import Item

    items = [Item("Is it fair?", "It is fair.", text) for text in ("Yes, I support it.", "No, it is not fair at all.", "")]
    plain, fast = make(f"labels:{model}"), make(f"labels:{model}?engine=vllm")
    assert plain.identity != fast.identity
    labels = plain.model.label_ids(plain.wording, OUTCOMES)
    assert any(len(ids) > 1 for ids in labels), "labels of several tokens are part of the test"
    for one, other in zip(
        plain.model.scores(plain.wording, OUTCOMES, items[:2]), fast.model.scores(fast.wording, OUTCOMES, items[:2]), strict=True
    ):
        assert one == pytest.approx(other, abs=1e-3)
    fast.model.loaded[0].llm_engine.engine_core.shutdown()


def test_ranks_that_vllm_has_room_for(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"r": 24}')
    assert next(rank for rank in module.RANKS if rank >= module.rank_of(tmp_path)) == 32
