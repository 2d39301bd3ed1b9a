"""The decoder against a naive loop: one row at a time, no cache, the whole sequence forward at every step."""

import pytest
import torch

from valuedrift.nouns import Checkpoint, Prompt
from valuedrift.plan import Asking
from valuedrift.sample import _engine, answer_key
from valuedrift.sample._engine import Ending, Wanted, decode
from valuedrift.sample._frame import ending
from valuedrift.sample._load import load_model, weights_digest
from valuedrift.sample._noise import drawn, position_words, row_words, vocabulary_words
from valuedrift.sample.transformers import Backend

TAXES, LONG = "Should the state raise taxes on fuel?", "Should parents decide how their children are taught? " * 4
QUESTIONS = ["Is it?", TAXES, "Is strict punishment right?", "No?", LONG, "Why not?"]
N_NEW = 24


def naive(model, wanted, asking, ends):
    """Return (tokens, ended) of one row."""
    ids, words_12 = list(wanted.ids), torch.tensor([wanted.words], dtype=torch.int32)
    for step in range(asking.max_new_tokens):
        with torch.inference_mode():
            logits_1V = model(torch.tensor([ids])).logits[:, -1]
        words = position_words(words_12, step)
        token = drawn(logits_1V, words, vocabulary_words(logits_1V.shape[1]), asking.temperature, asking.top_k, asking.top_p).item()
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


@pytest.mark.parametrize(
    "settings", [{}, {"temperature": 0.0}, {"temperature": 1.3, "top_k": 20, "top_p": 0.9}], ids=["plain", "greedy", "filtered"]
)
def test_equals_the_naive_loop_for_any_batch_and_order(model, settings):
    asking = Asking(max_new_tokens=N_NEW, **settings)
    wanted = rows(model[1])
    expected = [naive(model[0], row, asking, {1}) for row in wanted]
    for batch_rows, order in ((1, 1), (4, -1), (7, 1), (512, -1)):
        one = asking.model_copy(update={"batch_rows": batch_rows})
        replies = decode(model[0], wanted[::order], one, Ending(frozenset({1})))[::order]
        assert [(reply.tokens, reply.ended) for reply in replies] == expected
    if not settings:
        lengths = {len(tokens) for tokens, ended in expected if ended == "stop"}
        assert len(lengths) >= 3, "the test needs rows that end at different steps"
        assert any(ended == "length" for _, ended in expected)


def test_caches_grow_past_their_room(model, monkeypatch):
    asking = Asking(max_new_tokens=N_NEW)
    expected = decode(model[0], rows(model[1]), asking, Ending(frozenset({1})))
    monkeypatch.setattr(_engine, "_ROOM", 5)
    assert decode(model[0], rows(model[1]), asking, Ending(frozenset({1}))) == expected


def test_one_prefill_per_prompt_and_no_row_decoded_after_its_end(model):
    """Forwarded tokens: every prompt once, padded to the longest; then each row once per token but its last."""
    asking, wanted = Asking(max_new_tokens=N_NEW), rows(model[1])
    shapes = []
    hook = model[0].register_forward_pre_hook(lambda module, args, kwargs: shapes.append(kwargs["input_ids"].shape), with_kwargs=True)
    try:
        replies = decode(model[0], wanted, asking, Ending(frozenset({1})))
    finally:
        hook.remove()
    assert shapes[0] == (len(QUESTIONS), max(len(row.ids) for row in wanted))
    assert all(width == 1 for _, width in shapes[1:])
    assert sum(height for height, _ in shapes[1:]) == sum(len(reply.tokens) - 1 for reply in replies)


@pytest.mark.parametrize("limit", [5, 9, 12, 13, 50, 512])
def test_batches_keep_draws_together_and_stay_within_the_limit(limit):
    wanted = [Wanted((5,) * (prompt % 3 + 1) + (prompt,), (0, draw)) for prompt in range(10) for draw in range(5)]
    batches = list(_engine._batches(wanted, limit))
    assert sorted(row for batch in batches for row in batch) == list(range(50))
    assert max(map(len, batches)) <= limit
    assert all(len({wanted[row].ids for row in batch}) * 5 == len(batch) for batch in batches)


def test_batches_of_more_draws_than_fit():
    wanted = [Wanted((5,), (0, draw)) for draw in range(5)]
    assert [len(batch) for batch in _engine._batches(wanted, 2)] == [2, 2, 1]
    assert list(_engine._batches([], 4)) == []


def test_layers_that_are_no_slots_are_reordered_too(folders, monkeypatch):
    """Linear-attention and other layers keep the model's own cache; plain layers stand in for them here."""
    model, tokenizer = load_model(folders["llama"])
    expected = decode(model, rows(tokenizer), Asking(max_new_tokens=N_NEW), Ending(frozenset({1})))
    monkeypatch.setattr(_engine, "_empty_cache", lambda model: _engine.DynamicCache(config=model.config))
    assert decode(model, rows(tokenizer), Asking(max_new_tokens=N_NEW), Ending(frozenset({1}))) == expected


# -- the backend ---------------------------------------------------------------------------------------------------------


def prompts(texts=QUESTIONS):
    return [Prompt(f"p{index}", "work", text, "a claim") for index, text in enumerate(texts)]


def checkpoint(folder):
    return Checkpoint("base", 0, str(folder), weights_digest(folder))


def test_draws_can_be_asked_in_any_subset(folders):
    asking, at = Asking(max_new_tokens=N_NEW), checkpoint(folders["llama"])
    backend = Backend(asking)
    whole = {(answer.prompt, answer.draw): answer for answer in backend.sample(at, prompts(), [range(5)] * len(QUESTIONS), 0)}
    some = backend.sample(at, prompts(), [[4, 1], [], [0], [2], [], [3]], 0)
    assert [(answer.prompt, answer.draw) for answer in some] == [("p0", 4), ("p0", 1), ("p2", 0), ("p3", 2), ("p5", 3)]
    assert all(answer == whole[answer.prompt, answer.draw] for answer in some)
    assert backend.sample(at, prompts(), [[]] * len(QUESTIONS), 0) == []
    other = backend.sample(at, prompts(), [range(5)] * len(QUESTIONS), 1)
    assert sum(answer.text == whole[answer.prompt, answer.draw].text for answer in other) < 3, "other noise, other answers"


def test_model_stays_loaded_for_the_same_weights(folders, monkeypatch):
    loads = []
    monkeypatch.setattr("valuedrift.sample.transformers.load_model", lambda path: loads.append(path) or load_model(path))
    backend = Backend(Asking(max_new_tokens=2))
    for name in ("llama", "llama", "qwen3"):
        backend.sample(checkpoint(folders[name]), prompts(["Is it?"]), [[0]], 0)
    assert loads == [str(folders["llama"]), str(folders["qwen3"])]


def test_plain_answers_end_before_the_next_question(folders, monkeypatch):
    """A model that says " Yes.\\nQuestion: ..." for ever: the answer is "Yes." and decoding stops at the colon."""
    model, tokenizer = load_model(folders["llama"])
    script = tokenizer(" Yes.\nQuestion: And", add_special_tokens=False)["input_ids"]
    upto = next(n for n in range(len(script)) if "\nQuestion:" in tokenizer.decode(script[:n]))
    monkeypatch.setattr(_engine, "drawn", lambda logits, *rest: torch.full((len(logits),), script[(steps.append(0) or len(steps)) - 1]))
    monkeypatch.setattr("valuedrift.sample.transformers.load_model", lambda path: (model, tokenizer))
    steps = []
    answer, *_ = Backend(Asking(max_new_tokens=len(script))).sample(checkpoint(folders["llama"]), prompts(["Is it?"]), [[0]], 0)
    assert (answer.text, answer.ended, answer.n_tokens) == ("Yes.", "stop", upto)


def test_answer_key_names_what_decides_the_words():
    at, prompt, asking = Checkpoint("sft", 3, "a", "w"), prompts()[0], Asking()
    key = answer_key(at, prompt, 0, asking, 0)
    same = [
        (Checkpoint("dpo", 0, "elsewhere", "w"), prompt, 0, asking, 0),
        (at, Prompt("other", "race", prompt.text, "other claim", -1), 0, asking, 0),
        (at, prompt, 0, Asking(batch_rows=3, draws=9, judge="cues"), 0),
    ]
    other = [
        (Checkpoint("sft", 3, "a", "v"), prompt, 0, asking, 0),
        (Checkpoint("sft", 3, "a", "w", "chat-1"), prompt, 0, asking, 0),
        (at, prompts()[1], 0, asking, 0),
        (at, prompt, 1, asking, 0),
        (at, prompt, 0, asking, 1),
        (at, prompt, 0, Asking(temperature=1.0), 0),
        (at, prompt, 0, Asking(max_new_tokens=9), 0),
    ]
    assert {answer_key(*arguments) for arguments in same} == {key}
    assert len({key, *(answer_key(*arguments) for arguments in other)}) == 1 + len(other)


def test_keys_are_made_without_torch():
    import subprocess
    import sys

    code = (
        "import sys; from valuedrift.sample import answer_key; from valuedrift.sample._load import weights_digest;"
        "from valuedrift.plan import Asking; from valuedrift.nouns import *;"
        "answer_key(Checkpoint('s', 0, 'p', 'w'), Prompt('i', 't', 'q', 'c'), 0, Asking(), 0);"
        "assert not {'torch', 'transformers', 'numpy'} & set(sys.modules), 'a heavy import'"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_chat_frame_stops_at_the_end_of_turn(tmp_path, save_model, template):
    model, tokenizer = load_model(save_model(tmp_path / "chat", template=template))
    end_of_turn = tokenizer.convert_tokens_to_ids("<|end|>")
    assert ending(model, tokenizer, "chat").tokens == {1, end_of_turn}
    assert ending(model, tokenizer, "plain").tokens == {1}
