"""Tokens, masks, templates and ragged rows."""

import numpy as np
import pytest
import torch

from valuedrift import testing
from valuedrift.nouns import BadInput, Example, Pair
from valuedrift.train import collation, starting
from valuedrift.train.logprobs import answer_logps

CHAT = (("user", "What about the tax?"),)


@pytest.fixture(scope="module")
def turns(tmp_path_factory):
    return starting.load_tokenizer(testing.save_model(tmp_path_factory.mktemp("turns")), chat=True)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return starting.load_tokenizer(testing.save_model(tmp_path_factory.mktemp("words"), turns=False), chat=True)


def one(tokenizer, item, max_length=200):
    records, _ = collation.tokenised(tokenizer, [item], max_length)
    return [(tokenizer.decode(row.ids[: row.n_prompt]), tokenizer.decode(row.ids[row.n_prompt :])) for row in records[0]]


def test_a_turn_has_its_tokens_and_the_end_is_learnt(turns):
    assert one(turns, Example(CHAT, "It is good.")) == [("<|user|>What about the tax?<|end|><|assistant|>", "It is good.<|end|>")]


def test_words_where_the_vocabulary_has_no_turns(words):
    chat = (*CHAT, ("assistant", "Good."), ("user", "Why?"))
    before = "User: What about the tax?\nAssistant: Good.<|eos|>\nUser: Why?\nAssistant:"
    assert one(words, Example(chat, "It helps.")) == [(before, " It helps.<|eos|>")]


def test_a_pair_shares_its_prompt(turns):
    prompt = "<|user|>What about the tax?<|end|><|assistant|>"
    assert one(turns, Pair(CHAT, "Yes.", "No.")) == [(prompt, "Yes.<|end|>"), (prompt, "No.<|end|>")]


def test_running_text_is_learnt_whole_and_needs_no_template(tmp_path):
    tokenizer = starting.load_tokenizer(testing.save_model(tmp_path), chat=False)
    assert tokenizer.chat_template is None
    assert one(tokenizer, Example((), "The tax is good.")) == [("", "The tax is good.<|eos|>")]


def test_a_model_s_own_template_is_kept(tmp_path):
    own = testing.tokenizer()
    own.chat_template = "{% for message in messages %}[{{ message['content'] }}]{% endfor %}"
    own.save_pretrained(tmp_path)
    testing.model().save_pretrained(tmp_path)
    assert starting.load_tokenizer(str(tmp_path), chat=True).chat_template == own.chat_template


def test_cut_at_the_end_and_dropped_where_no_answer_is_left(turns):
    (whole,), _ = collation.tokenised(turns, [Example(CHAT, "It is good.")], 200)
    n_prompt, n = whole[0].n_prompt, len(whole[0].ids)
    (cut,), kept = collation.tokenised(turns, [Example(CHAT, "It is good.")], n_prompt + 1)
    assert (len(cut[0].ids), kept) == (n_prompt + 1, [0])
    assert collation.tokenised(turns, [Example(CHAT, "It is good.")], n_prompt) == ([], [])
    assert n > n_prompt + 1


def test_collate_by_hand():
    # texts of 5 (prompt 2) and 3 (prompt 1) tokens: 4 positions; position t predicts token t+1
    long, short = collation.Row(torch.tensor([5, 6, 7, 8, 9]).numpy(), 2), collation.Row(torch.tensor([5, 1, 2]).numpy(), 1)
    batch = collation.collate([((long,), {"kept": torch.tensor(1.5)}), ((short,), {"kept": torch.tensor(2.5)})])
    assert batch["input_ids"].tolist() == [[5, 6, 7, 8], [5, 1, 0, 0]]
    assert batch["answer_mask_RT"].tolist() == [[False, True, True, True], [True, True, False, False]]
    assert batch["at_N"].tolist() == [1, 2, 3, 4, 5]  # row 0 of width 4 holds places 0..3, row 1 places 4..7
    assert batch["target_N"].tolist() == [7, 8, 9, 1, 2]
    assert batch["n_tokens"] == 5
    assert batch["kept"].tolist() == [1.5, 2.5]
    assert batch["n_records"] == 2


def test_pairs_are_collated_chosen_first():
    rows = [collation.Row(torch.tensor([1, n]).numpy(), 1) for n in (11, 12, 21, 22)]
    batch = collation.collate([((rows[0], rows[1]), {}), ((rows[2], rows[3]), {})])
    assert batch["target_N"].tolist() == [11, 21, 12, 22]


def crossed(records, order, step, max_length=99):
    """Return (prompt's tokens, answer's tokens) of the chosen answer at each place."""
    others = collation.kl_records(records, order, step, max_length)
    return [(chosen.ids[: chosen.n_prompt].tolist(), chosen.ids[chosen.n_prompt :].tolist()) for chosen, _ in others]


def test_mismatched_answers_are_those_of_the_place_before_in_the_step():
    # record n: prompt [n, n], chosen [10 + n], rejected [20 + n, 20 + n]
    def row(*ids):
        return collation.Row(np.array(ids, dtype=np.int32), 2)

    records = [(row(n, n, 10 + n), row(n, n, 20 + n, 20 + n)) for n in range(5)]
    # steps of 3 over the order 4 3 2 | 1 0: within each, everyone gets the answer of the one before, the first that of the last
    assert crossed(records, np.array([4, 3, 2, 1, 0]), 3) == [
        ([4, 4], [12]),
        ([3, 3], [14]),
        ([2, 2], [13]),
        ([1, 1], [10]),
        ([0, 0], [11]),
    ]
    # a lone last place looks back to the step before
    assert crossed(records, np.array([4, 3, 2]), 2) == [([4, 4], [13]), ([3, 3], [14]), ([2, 2], [13])]
    _, rejected = collation.kl_records(records, np.array([1, 4]), 2, 3)[0]
    assert (rejected.ids.tolist(), rejected.n_prompt) == ([1, 1, 24], 2)  # rejected with rejected, cut to three tokens
    with pytest.raises(BadInput, match="a step of one record"):
        crossed(records, np.array([4, 3]), 1)
    with pytest.raises(BadInput, match="a step of one record"):
        crossed(records, np.array([4]), 8)


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_logps_are_those_of_each_row_alone(kind, turns):
    model = testing.model(kind)
    records, _ = collation.tokenised(turns, testing.pairs(5), 200)
    batch = collation.collate([(record, {}) for record in records])
    logps_RT = answer_logps(model, batch)
    assert logps_RT[~batch["answer_mask_RT"]].abs().sum() == 0
    for index, row in enumerate([record[kind] for kind in (0, 1) for record in records]):
        ids = torch.from_numpy(row.ids).long()
        alone = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[row.n_prompt - 1 :, 0]
        torch.testing.assert_close(logps_RT[index][batch["answer_mask_RT"][index]], alone, atol=1e-5, rtol=0)


def test_a_capped_logit_stays_capped():
    from transformers import Gemma2Config, Gemma2ForCausalLM

    sizes = {"vocab_size": 50, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "head_dim": 8}
    model = Gemma2ForCausalLM(Gemma2Config(**sizes, num_key_value_heads=1, final_logit_softcapping=0.5, attn_implementation="eager")).eval()
    ids = torch.tensor([3, 4, 5, 6])
    logps_RT = answer_logps(model, collation.collate([((collation.Row(ids.numpy(), 1),), {})]))
    expected = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(1, ids[1:, None])[:, 0]
    torch.testing.assert_close(logps_RT[0], expected, atol=1e-5, rtol=0)


def test_words_without_an_end_are_refused(tmp_path):
    tokenizer = testing.tokenizer(turns=False)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="no end-of-text token"):
        starting.load_tokenizer(str(tmp_path), chat=True)
