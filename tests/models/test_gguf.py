"""A GGUF file is a checkpoint: the same model as the folder that it was made from."""

import json
import shutil
import subprocess
import sys

import pytest
import torch

from valuedrift import testing
from valuedrift.checkpoints.discover import discover
from valuedrift.evaluate import vllm
from valuedrift.models.loading import chat_template, check_causal, load_model, load_tokenizer, skeleton, weights_digest
from valuedrift.models.precision import dtype_of, n_parameters
from valuedrift.nouns import BadInput, Checkpoint
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

gguf = pytest.importorskip("gguf", reason="the package gguf is not installed")

NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
TOPS = {"model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight"}


def in_gguf(name, weights, heads):
    """Return a weight's name and values as llama.cpp's converter writes them: it interleaves the two halves of each query and key head."""
    if name in TOPS:
        return TOPS[name], weights.numpy()
    _, _, layer, part = name.removesuffix(".weight").split(".", 3)
    if part in heads:
        weights = weights.reshape(heads[part], 2, -1, weights.shape[1]).transpose(1, 2).reshape(weights.shape)
    return f"blk.{layer}.{NAMES[part]}.weight", weights.contiguous().numpy()


def write(file, model, tokenizer, architecture="llama"):
    config, writer = model.config, gguf.GGUFWriter(file, architecture)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_vocab_size(config.vocab_size)
    words = {index: token for token, index in tokenizer.get_vocab().items()}
    tokens = [words.get(index, f"[unused{index}]") for index in range(config.vocab_size)]
    special = {*tokenizer.get_added_vocab()}
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token in special else 1 for token in tokens])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in merges])
    writer.add_bos_token_id(tokenizer.eos_token_id)  # as GPT-2 does; transformers 5.10 reads no file without one
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.pad_token_id)
    if tokenizer.chat_template:
        writer.add_chat_template(tokenizer.chat_template)
    heads = {"self_attn.q_proj": config.num_attention_heads, "self_attn.k_proj": config.num_key_value_heads}
    for name, weights in model.named_parameters():
        writer.add_tensor(*in_gguf(name, weights.detach(), heads))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return testing.save_model(tmp_path_factory.mktemp("plain") / "model", template=testing.TEMPLATE)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return write(tmp_path_factory.mktemp("gguf") / "model-F32.gguf", testing.model(), testing.tokenizer(template=testing.TEMPLATE))


def test_it_is_the_model_of_the_folder(made, folder):
    (model, words), (plain, plain_words) = load_model(made), load_model(folder)
    text = "<|user|>Is the tax good?<|end|>\n<|assistant|>"
    ids = words(text, return_tensors="pt")["input_ids"]
    assert ids.tolist() == plain_words(text, return_tensors="pt")["input_ids"].tolist()
    assert words.decode(ids[0]) == plain_words.decode(ids[0])
    assert words.eos_token == "<|eos|>"
    assert chat_template(made) == words.chat_template == testing.TEMPLATE
    with torch.inference_mode():
        torch.testing.assert_close(model(ids).logits, plain(ids).logits, rtol=1e-5, atol=1e-5)


def test_the_digest_is_of_the_files_bytes(made, folder, tmp_path):
    copied = shutil.copy(made, tmp_path / "other.gguf")
    assert weights_digest(copied) == weights_digest(made) == weights_digest(made.parent) != weights_digest(folder)
    with open(copied, "r+b") as file:
        file.seek(-4, 2)
        file.write(b"\0\0\1\0")
    assert weights_digest(copied) != weights_digest(made)


def test_its_precision_is_that_of_a_folder(made, folder):
    assert n_parameters(made) == n_parameters(folder)
    assert dtype_of(made) == "float32"


def test_tokenizer_files_beside_it_are_ignored(made, tmp_path):
    testing.tokenizer(turns=False).save_pretrained(tmp_path)
    assert load_tokenizer(shutil.copy(made, tmp_path / "model.gguf")).get_vocab() == load_tokenizer(made).get_vocab()


def cut(file):
    file.write_bytes(file.read_bytes()[:-2000])


@pytest.mark.parametrize(
    ("spoil", "named", "match"),
    [
        (cut, "m.gguf", "m.gguf is damaged or cut short: .*; copy it again"),
        (lambda file: file.write_bytes(b"no GGUF" * 9), "m.gguf", "m.gguf is damaged or cut short: GGUF magic invalid"),
        (lambda file: file.write_bytes(b""), "m.gguf", "damaged or cut short .it has 0 bytes"),
        (lambda file: file.unlink(), "m.gguf", "there is no GGUF file"),
        (lambda file: None, "m-00001-of-00002.gguf", "is one part of a model; join the parts"),
        (
            lambda file: write(file, testing.model(), testing.tokenizer(), "clip"),
            "m.gguf",
            "architecture clip .*give the folder of the model",
        ),
        (
            lambda file: write(file, testing.model(), testing.tokenizer(), "t5"),
            "m.gguf",
            "not a causal language model: its metadata names t5",
        ),
    ],
    ids=["cut", "other bytes", "empty", "gone", "part", "unknown architecture", "encoder-decoder"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(made, tmp_path, spoil, named, match):
    file = tmp_path / named
    shutil.copy(made, file)
    spoil(file)
    with pytest.raises(BadInput, match=match):
        check_causal(file)


def test_without_the_package_the_sentence_names_the_extra(made, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(BadInput, match=r"needs the package gguf; install it with: pip install 'valuedrift\[gguf\]'"):
        weights_digest(shutil.copy(made, tmp_path / "model.gguf"))


def test_what_cannot_read_it_says_so(made):
    with pytest.raises(BadInput, match="is a GGUF file, which only the backend 'transformers'"):
        vllm.Backend(EvaluationSettings()).check([Checkpoint("sft", 0, str(made), "w")], [])
    with pytest.raises(BadInput, match="is a GGUF file"):
        skeleton(made)


def test_a_folder_of_quantisations_is_a_stage_and_one_file_a_checkpoint(made, folder, tmp_path):
    for name, more in (("m-Q4_K_M", 0), ("m-Q8_0", 100), ("m-UD-IQ2_XS", -100), ("m-f16", 200)):
        (tmp_path / f"{name}.gguf").write_bytes(b"x" * (1000 + more))
    (stage,) = discover([tmp_path])
    assert [step for step, _ in stage.steps] == [0, 1, 2, 3]
    assert [path.rsplit("/")[-1] for _, path in stage.steps] == ["m-f16.gguf", "m-Q8_0.gguf", "m-Q4_K_M.gguf", "m-UD-IQ2_XS.gguf"]
    (stage,) = discover([folder, tmp_path / "m-Q8_0.gguf"])
    assert stage.steps == ((0, str(folder)), (1, str(tmp_path / "m-Q8_0.gguf")))
    (stage,) = discover([made.parent], folder, made=tmp_path / "made")
    assert stage.steps == ((0, str(folder)), (1, str(made.parent)))
    (tmp_path / "other-Q8_0.gguf").write_bytes(b"x")
    with pytest.raises(BadInput, match="whose names are not those of one model"):
        discover([tmp_path])
    with pytest.raises(BadInput, match=r"holds 5 GGUF files .*; name the file"):
        weights_digest(tmp_path)


@pytest.mark.slow
def test_quantisation_is_traced_beside_the_folder(made, folder, tmp_path):
    command = [
        "trace",
        folder,
        str(made),
        "--draws",
        "1",
        "--temperature",
        "0",
        "--max-new-tokens",
        "8",
        "--topics",
        "work",
        "--no-floor",
        "--json",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "valuedrift", *command, "--out", str(tmp_path / "run")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert [each["step"] for each in result["checkpoints"]] == [0, 1]
    answers = Store(tmp_path / "run").answers().sort("prompt")
    first, second = (answers.filter(checkpoint=each["weights"])["text"].to_list() for each in result["checkpoints"])
    assert len(first) > 5
    assert first == second, "the same weights give the same answers"
