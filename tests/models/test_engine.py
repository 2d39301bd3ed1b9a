"""The decoder against a naive loop: one row at a time, no cache, the whole sequence forward at every step."""

import random

import pytest
import torch
import torch.nn.functional as F
import transformers

from valuedrift.evaluate import answer_key
from valuedrift.evaluate.transformers import Backend
from valuedrift.models import decoder as decoder_module
from valuedrift.models import packed
from valuedrift.models.chat_format import PromptFormat
from valuedrift.models.decoder import Decoder, Ending, Wanted, decode
from valuedrift.models.loading import load_model, weights_digest
from valuedrift.models.sampling_noise import drawn, position_words, row_words, vocabulary_words
from valuedrift.nouns import Checkpoint, Prompt
from valuedrift.plan import EvaluationSettings

pytestmark = pytest.mark.slow

TAXES, LONG = "Should the state raise taxes on fuel?", "Should parents decide how their children are taught? " * 4
QUESTIONS = ["Is it?", TAXES, "Is strict punishment right?", "No?", LONG, "Why not?"]
N_NEW = 24


def naive(model, wanted, settings, ends):
    """Return (tokens, ended) of one row."""
    ids, words_12 = list(wanted.ids), torch.tensor([wanted.words], dtype=torch.int32)
    for step in range(settings.max_new_tokens):
        with torch.inference_mode():
            logits_1V = model(torch.tensor([ids])).logits[:, -1]
        words = position_words(words_12, torch.tensor([step]))
        token = drawn(logits_1V, words, vocabulary_words(logits_1V.shape[1]), settings.temperature, settings.top_k, settings.top_p).item()
        ids.append(token)
        if token in ends:
            return ids[len(wanted.ids) :], "stop"
    return ids[len(wanted.ids) :], "length"


def rows(tokenizer, n_draws=3):
    asked = [(question, draw) for question in QUESTIONS for draw in range(n_draws)]
    return [Wanted(tuple(tokenizer(question)["input_ids"]), row_words(0, question, draw)) for question, draw in asked]


@pytest.fixture(scope="module", params=["llama", "qwen3", "gemma3"])
def model(request, folders):
    return load_model(folders[request.param])


SETTINGS = {"plain": {}, "greedy": {"temperature": 0.0}, "filtered": {"temperature": 1.3, "top_k": 20, "top_p": 0.9}}
END = Ending(frozenset({1}))


@pytest.fixture(scope="module", params=SETTINGS)
def case(request, model):
    """(model, its settings, rows, what the naive loop says)."""
    settings = EvaluationSettings(max_new_tokens=N_NEW, **SETTINGS[request.param])
    wanted = rows(model[1])
    return model[0], settings, wanted, [naive(model[0], row, settings, {1}) for row in wanted]


def test_equals_the_naive_loop_for_any_batch_and_order(case):
    model, settings, wanted, expected = case
    decoder = Decoder(model)
    for batch_rows, order in ((1, 1), (4, -1), (7, 1), (512, -1)):
        replies = dict(decoder.decode(wanted[::order], settings.model_copy(update={"batch_rows": batch_rows}), END))
        assert [(replies[place].tokens, replies[place].ended) for place in range(len(wanted))][::order] == expected
    assert decoder.why == ""


def test_rows_end_at_many_steps(case):
    """What the tests above rest on."""
    _, settings, _, expected = case
    if settings.temperature:
        assert len({len(tokens) for tokens, ended in expected if ended == "stop"}) >= 3
        assert any(ended == "length" for _, ended in expected)


def test_generate_draws_the_same(case):
    """What architectures fall back to that cannot be driven."""
    model, settings, wanted, expected = case
    for batch_rows in (4, 512):
        replies = dict(Decoder(model).generated(wanted, settings.model_copy(update={"batch_rows": batch_rows}), END))
        assert [(replies[place].tokens, replies[place].ended) for place in range(len(wanted))] == expected


def test_slots_grow_and_prefills_split(model, monkeypatch):
    settings = EvaluationSettings(max_new_tokens=N_NEW, batch_rows=8)
    expected = decode(model[0], rows(model[1]), settings, END)
    for module, name, value in ((packed, "ROOM", 1), (decoder_module, "POSITIONS", 20), (decoder_module, "REFILL", 0.9)):
        monkeypatch.setattr(module, name, value)
        assert decode(model[0], rows(model[1]), settings, END) == expected


def test_threads_share_the_rows(case, monkeypatch):
    """Each row is decoded by one of three threads, whichever has room, and what one of them raises is raised."""
    model, settings, wanted, expected = case
    monkeypatch.setattr(decoder_module, "LANE", 1)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        for batch_rows in (3, 9, 512):
            decoder = Decoder(model)
            replies = dict(decoder.decode(wanted, settings.model_copy(update={"batch_rows": batch_rows}), END))
            assert [(replies[place].tokens, replies[place].ended) for place in range(len(wanted))] == expected
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(decoder_module, "drawn", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            list(decoder.decode(wanted, settings, END))
        assert model.config._attn_implementation != packed.ATTENTION
    finally:
        torch.set_num_threads(before)


def test_the_attention_that_plans_anew_for_every_shape_is_left_out(model, monkeypatch):
    allowed, attend = [], F.scaled_dot_product_attention

    def watched(*given, **more):
        allowed.append(torch.backends.cuda.cudnn_sdp_enabled())
        return attend(*given, **more)

    before = torch.backends.cuda.cudnn_sdp_enabled()
    decoder = Decoder(model[0])
    monkeypatch.setattr(packed.F, "scaled_dot_product_attention", watched)
    list(decoder.decode([Wanted((5, 6), row_words(0, "x", 0))], EvaluationSettings(max_new_tokens=3), Ending(frozenset())))
    assert allowed
    assert not any(allowed)
    assert torch.backends.cuda.cudnn_sdp_enabled() == before


def test_a_decoder_serves_again_after_its_weights_changed(folders):
    model, tokenizer = load_model(folders["llama"])
    decoder, settings = Decoder(model), EvaluationSettings(max_new_tokens=N_NEW)
    list(decoder.decode(rows(tokenizer), settings, END))
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight.mul_(1.5)
    wanted = rows(tokenizer)
    after = dict(decoder.decode(wanted, settings, END))
    expected = [naive(model, row, settings, {1}) for row in wanted]
    assert [(after[place].tokens, after[place].ended) for place in range(len(wanted))] == expected


def test_prompts_are_read_once_and_ended_rows_no_more(model):
    """One padded pass over the prompts, all but their last tokens; then every row reads its tokens but the last."""
    settings, wanted = EvaluationSettings(max_new_tokens=N_NEW), rows(model[1])
    decoder, shapes = Decoder(model[0]), []

    def see(module, args, kwargs):
        shapes.append(tuple(kwargs["input_ids"].shape))

    hook = model[0].register_forward_pre_hook(see, with_kwargs=True)
    try:
        replies = [reply for _, reply in decoder.decode(wanted, settings, END)]
    finally:
        hook.remove()
    prompts = {row.ids for row in wanted}
    assert shapes[0] == (len(prompts), max(map(len, prompts)) - 1)
    assert {length for _, length in shapes[1:]} == {1}
    assert sum(n for n, _ in shapes[1:]) == sum(len(reply.tokens) for reply in replies)
    assert len(shapes) - 1 == N_NEW


@pytest.mark.parametrize(
    ("name", "drives"),
    [("GPT2", True), ("Qwen2", True), ("Mistral", True), ("GPTNeoX", True), ("Gemma2", False), ("Bloom", False), ("Mamba", False)],
)
def test_other_architectures_are_driven_or_say_why_not(name, drives):
    """Learned positions, windows, soft caps, ALiBi, a recurrent state: what cannot be driven says why, and draws the same tokens."""
    sizes = {"vocab_size": 400, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "initializer_range": 0.2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    more = {
        "Qwen2": {"num_key_value_heads": 2},
        "Mistral": {"sliding_window": 8, "num_key_value_heads": 2},
        "Gemma2": {"head_dim": 16, "sliding_window": 8},
    }.get(name, {})
    if name not in ("GPT2", "Bloom", "Mamba"):
        more = {"intermediate_size": 96, "num_key_value_heads": 2} | more
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, f"{name}Config")(**sizes, **ends, **more)).eval()
    rng, settings = random.Random(0), EvaluationSettings(max_new_tokens=12)
    prompts = [tuple(rng.randrange(3, 330) for _ in range(n)) for n in (3, 9, 14)]
    wanted = [Wanted(ids, row_words(0, str(ids), draw)) for ids in prompts for draw in range(2)]
    decoder = Decoder(model)
    replies = dict(decoder.decode(wanted, settings, END))
    assert [(replies[place].tokens, replies[place].ended) for place in range(6)] == [naive(model, row, settings, {1}) for row in wanted]
    assert (decoder.why == "") == drives, decoder.why


# -- the backend ---------------------------------------------------------------------------------------------------------


def prompts(texts=QUESTIONS):
    return [Prompt(f"p{index}", "work", text, "a claim") for index, text in enumerate(texts)]


def sampled(backend, at, pairs, sampling_seed=0):
    """Return the answers in the order of the pairs."""
    found = dict(backend.sample(at, pairs, sampling_seed))
    return [found[place] for place in range(len(pairs))]


def checkpoint(folder):
    return Checkpoint("base", 0, str(folder), weights_digest(folder))


def test_draws_can_be_asked_in_any_subset(folders):
    settings, at = EvaluationSettings(max_new_tokens=N_NEW), checkpoint(folders["llama"])
    backend = Backend(settings)
    pairs = [(prompt, draw) for prompt in prompts() for draw in range(5)]
    whole = {(answer.prompt, answer.draw): answer for answer in sampled(backend, at, pairs)}
    some = sampled(backend, at, [pairs[place] for place in (4, 1, 10, 17, 28)])
    assert [(answer.prompt, answer.draw) for answer in some] == [("p0", 4), ("p0", 1), ("p2", 0), ("p3", 2), ("p5", 3)]
    assert all(answer == whole[answer.prompt, answer.draw] for answer in some)
    assert sampled(backend, at, []) == []
    other = sampled(backend, at, pairs, sampling_seed=1)
    assert sum(answer.text == whole[answer.prompt, answer.draw].text for answer in other) < 3, "other seed, other answers"


def test_model_stays_loaded_for_the_same_weights(folders, monkeypatch):
    loads = []
    monkeypatch.setattr("valuedrift.models.loading.load_model", lambda path, **how: loads.append(path) or load_model(path, **how))
    backend = Backend(EvaluationSettings(max_new_tokens=2))
    for name in ("llama", "llama", "qwen3"):
        sampled(backend, checkpoint(folders[name]), [(prompts(["Is it?"])[0], 0)])
    assert loads == [str(folders["llama"]), str(folders["qwen3"])]


def test_plain_answers_end_before_the_next_question(folders, monkeypatch):
    """A model that says " Yes.\\nQuestion: ..." for ever: the answer is "Yes." and decoding stops at the colon."""
    model, tokenizer = load_model(folders["llama"])
    script = tokenizer(" Yes.\nQuestion: And", add_special_tokens=False)["input_ids"]
    upto = next(n for n in range(len(script)) if "\nQuestion:" in tokenizer.decode(script[:n]))
    monkeypatch.setattr(
        decoder_module, "drawn", lambda logits, *rest: torch.full((len(logits),), script[(steps.append(0) or len(steps)) - 1])
    )
    monkeypatch.setattr("valuedrift.models.loading.load_model", lambda path, **how: (model, tokenizer))
    steps = []
    asked = [(prompts(["Is it?"])[0], 0)]
    (answer,) = sampled(Backend(EvaluationSettings(max_new_tokens=len(script))), checkpoint(folders["llama"]), asked)
    assert (answer.text, answer.ended, answer.n_tokens) == ("Yes.", "stop", upto)


def test_answer_key_names_what_decides_the_words():
    at, prompt, settings = Checkpoint("sft", 3, "a", "w"), prompts()[0], EvaluationSettings()
    key = answer_key(at, prompt, 0, settings, 0)
    old = answer_key(Checkpoint("sft", 3, "a", "w", "chat-1"), Prompt("i", "t", "q", "c"), 2, EvaluationSettings(temperature=0.5), 7)
    assert old == "5c9059c125739750130fff23", "answers of version 0.1.0 are sampled again"
    same = [
        (Checkpoint("dpo", 0, "elsewhere", "w"), prompt, 0, settings, 0),
        (at, Prompt("other", "race", prompt.text, "other claim", -1), 0, settings, 0),
        (at, prompt, 0, EvaluationSettings(batch_rows=3, draws=9, judge="cues"), 0),
    ]
    other = [
        (Checkpoint("sft", 3, "a", "v"), prompt, 0, settings, 0),
        (Checkpoint("sft", 3, "a", "w", "chat-1"), prompt, 0, settings, 0),
        (at, prompts()[1], 0, settings, 0),
        (at, prompt, 1, settings, 0),
        (at, prompt, 0, settings, 1),
        (at, prompt, 0, EvaluationSettings(temperature=1.0), 0),
        (at, prompt, 0, EvaluationSettings(max_new_tokens=9), 0),
    ]
    assert {answer_key(*arguments) for arguments in same} == {key}
    assert len({key, *(answer_key(*arguments) for arguments in other)}) == 1 + len(other)


def test_chat_format_stops_at_the_end_of_turn(tmp_path, save_model, template):
    model, tokenizer = load_model(save_model(tmp_path / "chat", template=template))
    end_of_turn = tokenizer.convert_tokens_to_ids("<|end|>")
    assert PromptFormat(tokenizer).ending(model).tokens == {1, end_of_turn, tokenizer.convert_tokens_to_ids("<|user|>")}
    assert PromptFormat(tokenizer, "plain").ending(model).tokens == {1}
