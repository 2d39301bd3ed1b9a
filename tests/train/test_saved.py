"""What a stage saved is believed while it is as it was saved; what cannot be saved is one sentence."""

import resource

import pytest

from valuedrift import testing
from valuedrift.nouns import BadInput
from valuedrift.plan import Stage
from valuedrift.train.stage import run_stage

pytestmark = pytest.mark.slow

STAGE = Stage(algorithm="sft", data="x", steps=2, batch_size=3, learning_rate=1e-3, save_at=[1])


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return testing.save_model(tmp_path_factory.mktemp("base"))


def train(base, out, progress=None):
    return run_stage(STAGE, 5, base, testing.examples(9), out, progress)


def weights(out):
    return [path.read_bytes() for path in sorted(out.glob("checkpoint-*/*.safetensors"))]


def flip(path, place=-9):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def stopped_after(step):
    def progress(now, *_):
        if now > step:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("name", ["checkpoint-1/model.safetensors", "checkpoint-2/tokenizer.json", "checkpoint-1/complete.json"])
def test_a_stage_with_a_flipped_bit_is_set_aside_and_trained_again(base, tmp_path, capsys, name):
    out = tmp_path / "stage"
    train(base, out)
    whole = weights(out)
    flip(out / name, 40 if name.endswith("complete.json") else -9)
    assert train(base, out) == [1, 2]
    assert f"{out / name} is not as it was" in capsys.readouterr().err
    assert weights(out) == whole
    assert (tmp_path / "stage.damaged" / name).exists()
    train(base, out, lambda *_: pytest.fail("nothing is left to train"))


@pytest.mark.parametrize("name", ["optimizer.pt", "model.safetensors"])
def test_a_damaged_checkpoint_is_not_resumed_from(base, tmp_path, capsys, name):
    out, seen = tmp_path / "stage", []
    with pytest.raises(KeyboardInterrupt):
        train(base, out, stopped_after(1))
    flip(out / "checkpoint-1" / name, 5000)
    train(base, out, lambda step, *_: seen.append(step))
    assert seen == [1, 2]
    assert f"{name} is not as it was saved; the folder of its stage was set aside" in capsys.readouterr().err
    train(base, tmp_path / "whole")
    assert weights(out) == weights(tmp_path / "whole")


@pytest.mark.parametrize("content", [None, b"[]", b'{"steps": "all"}', b""])
def test_a_damaged_record_is_written_again_from_the_checkpoints(base, tmp_path, content):
    out = tmp_path / "stage"
    train(base, out)
    record = (out / "done.json").read_bytes()
    (out / "done.json").write_bytes(record.replace(b'"total": 2', b'"total": 3') if content is None else content)
    assert train(base, out, lambda *_: pytest.fail("nothing is left to train")) == [1, 2]
    assert (out / "done.json").read_bytes() == record


@pytest.mark.parametrize("share", [0.6, 1.5])  # the weights do not fit, or the optimizer alone, which is twice as large
def test_a_file_that_cannot_be_saved_is_one_sentence_and_the_same_command_goes_on(base, tmp_path, share):
    out, (soft, hard) = tmp_path / "stage", resource.getrlimit(resource.RLIMIT_FSIZE)
    size = max(path.stat().st_size for path in tmp_path.parent.glob("base*/*.safetensors"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(share * size), hard))
    try:
        with pytest.raises(
            BadInput, match=rf"cannot write {out}/checkpoint-1: [^\n]+; .* and run the same command again \(finished parts are"
        ):
            train(base, out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not (out / "checkpoint-1").exists()  # its space is free again
    assert train(base, out) == [1, 2]
