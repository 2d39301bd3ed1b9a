"""The starting weights' view: what is kept of it, and that it is computed once per content."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from valuedrift import testing
from valuedrift.plan import Stage
from valuedrift.train import collation, dpo, kto, reference, stage_trainer, starting
from valuedrift.train.logprobs import answer_logps
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow


def stage(algorithm="dpo", **keys):
    return Stage(**{"algorithm": algorithm, "data": "x", "epochs": 1, "batch_size": 4, "learning_rate": 1e-2} | keys)


@pytest.fixture
def base(tmp_path):
    return testing.save_model(tmp_path / "base")


@pytest.fixture
def passes(monkeypatch):
    """Count the forward passes without gradient."""
    seen = []

    def counted(model, batch):
        if not torch.is_grad_enabled():
            seen.append(batch["n_records"])
        return answer_logps(model, batch)

    monkeypatch.setattr(stage_trainer, "answer_logps", counted)
    return seen


def curve(out):
    return json.loads((out / "losses.json").read_text())


def kept(algorithm, records, model, folder, bf16=False):
    """Return what the algorithm keeps of the model's view, by way of the file."""

    def view(records):
        return [answer_logps(model, batch)[batch["answer_mask_RT"]] for batch in (collation.collate([(record, {})]) for record in records)]

    return reference.Reference(folder, "weights", bf16, 4, view).kept(algorithm, records)


def test_it_is_the_starting_weights_in_the_records_order(base, tmp_path):
    data = testing.pairs(9)
    tokenizer, model = starting.load_tokenizer(base, chat=True), AutoModelForCausalLM.from_pretrained(base)
    records, _ = collation.tokenised(tokenizer, data, 999)
    batch = collation.collate([(record, {}) for record in records])
    algorithm = dpo.Algorithm(dpo.Algorithm.Settings())
    expected = algorithm.prepare(batch, answer_logps(model, batch))
    with torch.no_grad():
        seen = kept(algorithm, records, model, tmp_path / "seen")
    assert seen.keys() == expected.keys()
    for name, values in expected.items():
        torch.testing.assert_close(seen[name], values.detach(), atol=1e-4, rtol=0)
    # the loop's own: before the first change policy and reference agree on every pair, also within the order in which they are seen
    run_stage(stage(learning_rate=1e-30), 0, base, data, tmp_path / "out")
    assert [step["reward_margin"] for step in curve(tmp_path / "out")] == pytest.approx([0, 0, 0], abs=1e-5)


def test_mismatched_answers_have_their_own_and_are_seen_without_dropout(base, tmp_path):
    config = Path(base, "config.json")
    config.write_text(json.dumps(json.loads(config.read_text()) | {"attention_dropout": 0.5}))
    run_stage(stage("kto", learning_rate=1e-30), 0, base, testing.pairs(9), tmp_path / "out")
    assert [step["kl"] for step in curve(tmp_path / "out")] == pytest.approx([0, 0, 0], abs=1e-5)


def test_algorithms_on_the_same_data_from_the_same_weights_share_it(base, passes, tmp_path):
    data = testing.pairs(9)
    run_stage(stage("dpo"), 0, base, data, tmp_path / "dpo")
    assert passes == [8, 1]  # nine records, twice the batch size at a time
    run_stage(stage("ipo"), 1, base, data, tmp_path / "ipo")
    assert passes == [8, 1]
    (path,) = (tmp_path / "reference").iterdir()
    written = path.stat().st_mtime_ns
    run_stage(stage("kto"), 0, base, data, tmp_path / "kto")
    # the answers' view is there; mismatched ones are seen by the starting weights (8 + 1) and at every step (4, 4, 1)
    assert passes == [8, 1, 8, 1, 4, 4, 1]
    assert path.stat().st_mtime_ns == written
    # with and without another stage's file the result is the same, byte for byte
    run_stage(stage("ipo"), 1, base, data, tmp_path / "alone" / "ipo")
    name = "checkpoint-3/model.safetensors"
    assert (tmp_path / "alone" / "ipo" / name).read_bytes() == (tmp_path / "ipo" / name).read_bytes()
    assert curve(tmp_path / "alone" / "ipo") == curve(tmp_path / "ipo")


def test_an_adapter_shares_it_with_training_all_weights(base, passes, tmp_path):
    for name, lora in (("full", None), ("small", {"r": 2}), ("large", {"r": 4})):
        run_stage(stage(lora=lora), 0, base, testing.pairs(9), tmp_path / name)
    assert passes == [8, 1]


def test_other_content_is_another_view(base, tmp_path):
    other, data = testing.save_model(tmp_path / "other", seed=1), testing.pairs(9)
    runs = [(base, data, {}), (base, data, {"batch_size": 3}), (base, data, {"max_length": 30}), (base, data[1:], {}), (other, data, {})]
    for number, (model, pairs, keys) in enumerate(runs):
        run_stage(stage(**{"batch_size": 9} | keys), 0, model, pairs, tmp_path / str(number))
        assert len(list((tmp_path / "reference").iterdir())) == number + 1, keys


def test_every_token_and_where_the_answer_begins_and_the_rounding_count(tmp_path):
    def row(*ids, n_prompt=2):
        return collation.Row(np.array(ids, dtype=np.int32), n_prompt)

    seen, algorithm = testing.model(), dpo.Algorithm(dpo.Algorithm.Settings())
    answer = row(1, 2, 3, 4)
    contents = [(answer, row(1, 2, 5)), (answer, row(1, 2, 6)), (answer, row(9, 2, 5)), (row(1, 2, 3, 4, n_prompt=3), row(1, 2, 5))]
    with torch.no_grad():
        for record in contents:
            kept(algorithm, [record], seen, tmp_path)
        kept(algorithm, [contents[0]], seen, tmp_path)
        assert len(list(tmp_path.iterdir())) == 4
        kept(algorithm, [contents[0]], seen, tmp_path, bf16=True)
    assert len(list(tmp_path.iterdir())) == 5


def test_the_weights_digest_knows_content_alone(base, tmp_path):
    loaded = [AutoModelForCausalLM.from_pretrained(path) for path in (base, testing.save_model(tmp_path / "elsewhere"))]
    assert reference.weights_digest(loaded[0]) == reference.weights_digest(loaded[1])
    model = testing.model()
    digest = reference.weights_digest(model)
    adapted = get_peft_model(testing.model(), LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM"))
    assert reference.weights_digest(adapted) == digest
    model.model.layers[1].mlp.up_proj.weight.data[3, 5] += 1e-6
    assert reference.weights_digest(model) != digest
    other = testing.model()
    other.config.rms_norm_eps = 1e-5  # the same numbers in another architecture
    assert reference.weights_digest(other) != digest


def test_rows_of_unequal_length_find_their_own_numbers(tmp_path):
    # the log-prob of each token is minus its own id, so that every sum is known: chosen 1 answers 7 and 8, and so on; pair 3 has no
    # prompt, so that nothing predicts its first tokens
    def row(prompt, *answer):
        return collation.Row(np.array([*range(prompt), *answer], dtype=np.int32), prompt)

    records = [(row(2, 7, 8), row(2, 1)), (row(1, 5), row(1, 2, 3, 4)), (row(0, 4, 9, 9, 9), row(0, 4, 6, 6))]
    flat = [torch.tensor([-float(token) for row in record for token in row.ids[max(row.n_prompt, 1) :]]) for record in records]
    stored = reference.Reference(tmp_path, "weights", False, 2, lambda _: flat)
    assert {name: values.tolist() for name, values in stored.kept(kto.Algorithm(kto.Algorithm.Settings()), records).items()} == {
        "reference_chosen_B": [-15, -5, -27],
        "reference_rejected_B": [-1, -9, -12],
    }


def test_a_spoilt_file_is_set_aside_and_made_again(base, tmp_path, capsys):
    run_stage(stage(), 0, base, testing.pairs(9), tmp_path / "dpo")
    (path,) = (tmp_path / "reference").iterdir()
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))  # of the same length, and still readable
    run_stage(stage("ipo"), 0, base, testing.pairs(9), tmp_path / "ipo")
    assert f"{path.name} is damaged; it was set aside as {path.name}.damaged" in capsys.readouterr().err
    assert path.read_bytes() == whole


def test_a_kill_while_it_is_written_leaves_nothing(base, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("valuedrift.store.os.replace", killed)
    records, _ = collation.tokenised(starting.load_tokenizer(base, chat=True), testing.pairs(3), 999)
    with torch.no_grad(), pytest.raises(KeyboardInterrupt):
        kept(dpo.Algorithm(dpo.Algorithm.Settings()), records, AutoModelForCausalLM.from_pretrained(base), tmp_path / "reference")
    assert not list((tmp_path / "reference").iterdir())
