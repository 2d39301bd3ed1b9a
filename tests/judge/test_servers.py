"""Other people's real servers: transformers' own, which ignores log-probs and `n`, and vLLM's, which gives them."""

import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from valuedrift import judge as judges
from valuedrift import pipeline
from valuedrift.judge import openai
from valuedrift.nouns import Item
from valuedrift.plan import EvaluationSettings

TEMPLATE = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
ITEMS = [Item("Is it fair?", "It is fair.", text) for text in ("Yes, I support it.", "No, I am against it.")]


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A random chat model whose heads are wide enough for vLLM's attention on a CPU."""
    folder = tmp_path_factory.mktemp("served") / "model"
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["</s>", "<|user|>", "<|assistant|>", "<|end|>"]
    core.train_from_iterator(
        ["Is the tax fair? Yes."], trainers.BpeTrainer(special_tokens=special, initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    )
    words = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>")
    words.chat_template = TEMPLATE
    words.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}
    Qwen3ForCausalLM(Qwen3Config(vocab_size=len(words), head_dim=32, eos_token_id=0, **sizes)).save_pretrained(folder)
    return folder


def transformers_serve(model, port):
    code = "import sys; from transformers.cli.transformers import main; sys.exit(main())"
    return [sys.executable, "-c", code, "serve", str(model), "--host", "127.0.0.1", "--port", str(port), "--device", "cpu"], "/health"


def vllm_serve(model, port):
    options = ["--dtype", "float32", "--enforce-eager", "--max-model-len", "2048", "--gpu-memory-utilization", "0.25"]
    module = "vllm.entrypoints.openai.api_server"
    return [sys.executable, "-m", module, "--model", str(model), "--host", "127.0.0.1", "--port", str(port), *options], "/health"


SERVERS = {"fastapi": transformers_serve, "vllm": vllm_serve}
"""By the package without which they cannot start."""


@pytest.fixture(scope="module", params=list(SERVERS))
def server(request, model, tmp_path_factory):
    """Return (package, model's name) of a server that answers, its address in the environment."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"the package {request.param} is not installed")
    if request.param == "fastapi" and importlib.util.find_spec("vllm"):
        pytest.skip("transformers' server is tried in an environment without vllm")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command, health = SERVERS[request.param](model, port)
    log = tmp_path_factory.mktemp("log") / "server.log"
    with log.open("w") as said, pytest.MonkeyPatch.context() as patch:
        process = subprocess.Popen(command, stdout=said, stderr=said, env=os.environ | {"TRANSFORMERS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"})
        patch.setenv("OPENAI_BASE_URL", f"http://127.0.0.1:{port}/v1")
        patch.setenv("NO_PROXY", "127.0.0.1")
        patch.delenv("OPENAI_API_KEY", raising=False)
        patch.setattr(openai, "PROBED", {})
        try:
            for _ in range(240):
                assert process.poll() is None, log.read_text()[-2000:]
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}{health}", timeout=1)
                    break
                except OSError:
                    time.sleep(0.5)
            else:
                pytest.fail(f"the server did not come up:\n{log.read_text()[-2000:]}")
            yield request.param, str(model)
        finally:
            process.terminate()
            process.wait(30)


def test_a_server_that_hides_log_probs_is_read_by_votes(server, capsys):
    package, name = server
    judge = judges.make(f"openai:{name}?votes=3")
    assert judge.mode == ("votes" if package == "fastapi" else "logprobs")
    if package == "fastapi":
        assert "counts votes, because the endpoint gives no log-probs" in capsys.readouterr().err
    [reply] = judge.endpoint.chat([judge.request(ITEMS[0], "votes")])
    assert len(reply.texts) == len(reply.ended) == 3, "also where one request gives one text"
    readings = judge.read(ITEMS)
    assert [reading.item for reading in readings] == [item.key for item in ITEMS]
    assert {reading.failure for reading in readings} <= {None, "unparsed"}, "a random model may give no label, but it is asked"


def test_a_served_model_is_traced(server, tmp_path):
    _, name = server
    suite = Path(shutil.copy(Path(__file__).parents[1] / "judge" / "served.jsonl", tmp_path))
    settings = EvaluationSettings(suite=str(suite), backend="openai", draws=2, max_new_tokens=8, floor=False, judge="cues")
    result = pipeline.trace_folders(settings, [f"openai:{name}"], None, tmp_path / "run")
    assert result["n_generated"] == 6
