"""A small model, and the same model after some training."""

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZES = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2}


def tokenizer():
    core = Tokenizer(models.WordLevel({"[UNK]": 0, "</s>": 1, "Question": 2, "Answer": 3, "yes": 4, "no": 5}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", unk_token="[UNK]")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model") / "base"
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=64, eos_token_id=1, tie_word_embeddings=False, **SIZES)).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture
def trained(base):
    """The model after some training: weights that no other checkpoint has."""
    model = AutoModelForCausalLM.from_pretrained(base)
    with torch.no_grad():
        for values in model.parameters():
            values += 0.01
    return model
