"""What cannot be asked is refused in one sentence before anything is sampled; what ends an answer early is reported."""

import json
import sys
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

sys.path.append(str(Path(__file__).parent))

from test_engine import naive

from valuedrift import pipeline
from valuedrift.models import checks
from valuedrift.models.chat_format import PromptFormat, question
from valuedrift.models.decoder import Decoder, Ending, Wanted, decode
from valuedrift.models.loading import load_model, weights_digest
from valuedrift.models.sampling_noise import row_words
from valuedrift.nouns import BadInput, Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

QUESTIONS = ["Should the state raise taxes on fuel?", "Is strict punishment right?"]


def run_of(root, save_model, template=None):
    """Return a folder of two checkpoints."""
    for step in (1, 2):
        save_model(root / f"run/checkpoint-{step}", template=template, seed=step)
    return root / "run"


def traced(run, **more):
    suite = run.parent / "suite.jsonl"
    rows = [{"id": f"q{n}", "topic": "work", "text": text, "claim": "It is right."} for n, text in enumerate(QUESTIONS)]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = EvaluationSettings(suite=str(suite), draws=2, floor=False, **{"max_new_tokens": 8} | more)
    return pipeline.trace_folders(settings, [run], None, run.parent / "out")


def changed(folder, change):
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_that_are_no_numbers_are_named_before_any_checkpoint_is_asked(tmp_path, save_model):
    run = run_of(tmp_path, save_model)
    changed(run / "checkpoint-2", lambda weights: weights["model.layers.1.mlp.up_proj.weight"].fill_(torch.nan))
    with pytest.raises(BadInput, match=r"checkpoint-2 gives logits that are not numbers: its weight model.layers.1.mlp.up_proj.weight"):
        traced(run)
    assert Store(tmp_path / "out").answers().height == 0


def test_a_weight_that_is_no_number_and_is_not_used_stops_nothing(tmp_path, save_model):
    folder = save_model(tmp_path / "model")
    changed(folder, lambda weights: weights["model.embed_tokens.weight"][2].fill_(torch.inf))  # of the padding
    checks.folders([Checkpoint("s", 0, str(folder), weights_digest(folder))], [Prompt("q", "t", QUESTIONS[0], "")], "auto")


TURN = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
FAULTS = {
    "{% if messages[0].role != 'system' %}{{ raise_exception('A system message. First. Always') }}{% endif %}" + TURN: (
        r"of .*checkpoint-1 fails on the messages user: A system message\. First\. Always; "
    ),
    "{% for m in messages %}{{ m['content'] }": r"of .*checkpoint-1 fails on the messages user: unexpected '}' \(line 1\)",
    "{{ messages[0].tools.names }}": r"checkpoint-1 fails on the messages user: 'dict object' has no attribute 'tools'",
    "{{ messages[0].content[:9] }}<|assistant|>": r"checkpoint-1 leaves out words of the question 'Should the state raise taxes on fuel\?'",
    "{{ range(10 ** 5) | random }}" + TURN: r"checkpoint-1 writes the same question differently each time",
}


@pytest.mark.parametrize("template", FAULTS)
def test_faults_of_a_template_are_told_in_its_own_words(template, tmp_path, save_model):
    with pytest.raises(BadInput, match=FAULTS[template]):
        traced(run_of(tmp_path, save_model, template))
    assert Store(tmp_path / "out").answers().height == 0


def test_named_templates_without_a_default_are_refused_and_can_be_left_aside(tmp_path, save_model):
    run = run_of(tmp_path, save_model)
    for folder in run.iterdir():
        settings = json.loads((folder / "tokenizer_config.json").read_text())
        named = [{"name": name, "template": TURN} for name in ("rag", "tool_use")]
        (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"chat_template": named}))
    with pytest.raises(BadInput, match="checkpoint-1 has chat templates named rag, tool_use and none named 'default'"):
        traced(run)
    assert traced(run, prompt_format="plain")["n_answers"] == 8


def test_a_token_without_an_embedding_is_named(tmp_path, save_model):
    model, tokenizer = load_model(save_model(tmp_path / "model"))
    n = len(tokenizer)
    tokenizer.add_tokens(["<new>"])
    ids = {"Is <new> right?": PromptFormat(tokenizer).prompts([question("Is <new> right?")])[0]}
    with pytest.raises(
        BadInput, match=f"m: the question 'Is <new> right\\?' holds the token '<new>', number {n}, and the model has {n} emb"
    ):
        checks.fits(model, PromptFormat(tokenizer, name="m"), ids)


@pytest.mark.parametrize("kind", ["GPT2", "OPT", "GPTNeo"])
def test_an_answer_ends_at_the_context(kind):
    """Learned positions: each row by its own room, and what is said before is what the naive loop says."""
    more = {
        "GPTNeo": {"attention_types": [[["global"], 2]], "intermediate_size": 64, "num_heads": 4},
        "OPT": {"ffn_dim": 64, "word_embed_proj_dim": 32},
    }
    sizes = {
        "vocab_size": 90,
        "hidden_size": 32,
        "num_attention_heads": 4,
        "max_position_embeddings": 20,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    config = getattr(transformers, f"{kind}Config")(
        **sizes, **{"num_layers" if kind == "GPTNeo" else "num_hidden_layers": 2}, **more.get(kind, {})
    )
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    wanted = [Wanted(tuple(range(5, 5 + n)), row_words(0, str(n), 0)) for n in (3, 12, 12, 18, 19)]
    settings, ending = EvaluationSettings(max_new_tokens=12, temperature=1), Ending(frozenset())
    room = [12, 8, 8, 2, 1]
    expected = [naive(model, row, settings.model_copy(update={"max_new_tokens": n}), ()) for row, n in zip(wanted, room, strict=True)]
    slow = dict(Decoder(model).generated(wanted, settings, ending))
    for replies in (decode(model, wanted, settings, ending), [slow[place] for place in range(len(wanted))]):
        assert [(reply.tokens, reply.ended) for reply in replies] == expected
    with pytest.raises(BadInput, match=r"m reads 20 tokens, and the question 'why\?' takes 20, which leaves no room"):
        checks.fits(model, PromptFormat(None, name="m"), {"why?": range(20)})


def test_answers_that_end_early_are_reported(tmp_path, save_model):
    """A template opens a thinking block that the model does not close: nothing is judged, and the answers are invalid."""
    opens = TURN + "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
    result = traced(run_of(tmp_path, save_model, opens))
    assert result["outcome_shares"]["invalid"] == 1
    assert "8 of 8 answers end inside a thinking block and count as invalid; raise max_new_tokens." in result["notes"]
    answers = Store(tmp_path / "out").answers()
    assert set(answers["ended"]) == {"thinking"}
    assert set(answers["text"]) == {""}


def test_half_of_a_surrogate_pair_is_asked_as_an_unknown_character(make_tokenizer):
    tokenizer = make_tokenizer()
    half, whole = (PromptFormat(tokenizer).prompts([question(text)]) for text in ("a\ud83d b \U0001f600", "a\ufffd b \U0001f600"))
    assert half == whole
    assert row_words(0, "a\ud83d", 0) != row_words(0, "a", 0)
