"""Run folders in shared storage: in memory, behind a file address by the real command, and in S3 where a server for it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import fsspec
import polars as pl
import pytest

from valuedrift import testing
from valuedrift.distributed import storage
from valuedrift.nouns import BadInput


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Make this process another machine: one with a cache of its own."""

    def be(name):
        monkeypatch.setenv("VALUEDRIFT_CACHE", str(tmp_path / name))
        storage.MIRRORS.clear()

    be("one")
    yield be
    storage.MIRRORS.clear()


@pytest.fixture
def address():
    memory = fsspec.filesystem("memory")
    yield "memory://runs/mine"
    memory.store.clear()
    memory.pseudo_dirs[:] = [""]


def test_what_one_machine_does_another_finds(machine, address):
    with storage.sending():
        run = storage.here(address)
        (run / "answers").mkdir()
        (run / "answers" / "part.parquet").write_bytes(b"answers")
        (run / "plan.json").write_text("{}")
        (run / ".tmp-half").write_text("unfinished")
        (run / ".lock").write_text("")
    machine("two")
    with storage.sending():
        other = storage.here(address)
        assert other != run
        assert sorted(path.name for path in other.rglob("*") if path.is_file()) == [".mirrored.json", "part.parquet", "plan.json"]
        assert (other / "answers" / "part.parquet").read_bytes() == b"answers"
        (other / "plan.json").unlink()
        (other / "drifts.parquet").write_bytes(b"drifts")
    machine("one")
    again = storage.here(address)
    assert again == run
    assert (again / "drifts.parquet").read_bytes() == b"drifts"
    assert not (again / "plan.json").exists(), "what was taken away there is gone here"


def test_only_what_changed_is_sent(machine, address, monkeypatch):
    run = storage.here(address)
    (run / "a").write_text("1")
    (run / "b").write_text("1")
    mirror = storage.MIRRORS[address]
    mirror.push()
    sent = []
    monkeypatch.setattr(mirror.storage, "put_file", lambda here, there, **_: sent.append(there.rpartition("/")[2]) or there, raising=False)
    mirror.push()
    assert sent == []
    (run / "b").write_text("22")
    mirror.push()
    assert sent == ["b"]


def test_what_was_done_is_sent_when_the_work_fails(machine, address):
    def fails():
        with storage.sending():
            (storage.here(address) / "done.json").write_text("{}")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fails()
    assert fsspec.filesystem("memory").exists("/runs/mine/done.json")


def test_storage_that_cannot_be_used_is_said(machine, address, monkeypatch):
    with pytest.raises(BadInput, match=r"nowhere://x cannot be used as storage: Protocol not known: nowhere"):
        storage.here("nowhere://x")
    storage.here(address)
    mirror = storage.MIRRORS[address]
    (mirror.folder / "a").write_text("1")

    def gone(*_, **__):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(mirror.storage, "put_file", gone, raising=False)
    with pytest.raises(BadInput, match=r"memory://runs/mine cannot be reached: the server is gone; the finished work is in"):
        mirror.push()


def test_paths_of_this_machine_stay_what_they_are(tmp_path):
    assert storage.here(str(tmp_path)) == tmp_path
    assert storage.here(tmp_path) == tmp_path
    assert not storage.MIRRORS


# -- the real command ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return Path(testing.save_model(tmp_path_factory.mktemp("model") / "checkpoint-1"))


def traced(target, out, cache, **more):
    command = [sys.executable, "-m", "valuedrift", "trace", str(target), "--topics", "work", "--draws", "1", "--max-new-tokens", "4"]
    environment = os.environ | {"VALUEDRIFT_CACHE": str(cache)} | more
    return subprocess.run([*command, "--no-floor", "--out", out], env=environment, capture_output=True, text=True, timeout=120)


@pytest.mark.slow
def test_a_trace_of_checkpoints_in_storage_into_storage(model, tmp_path):
    out = f"file://{tmp_path}/store/run"
    first = traced(f"file://{model.parent}/checkpoint-1", out, tmp_path / "one")
    assert first.returncode == 0, first.stderr
    assert pl.read_parquet(tmp_path / "store" / "run" / "scores.parquet").height == 50
    again = traced(f"file://{model.parent}/checkpoint-1", out, tmp_path / "two")
    assert again.returncode == 0, again.stderr
    assert "(0 new;" in again.stdout


@pytest.mark.skipif(not (importlib.util.find_spec("s3fs") and importlib.util.find_spec("moto")), reason="s3fs and moto are not installed")
def test_a_trace_into_s3(model, tmp_path):
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(port=0)
    server.start()
    _, port = server.get_host_and_port()
    secrets = {"AWS_ACCESS_KEY_ID": "x", "AWS_SECRET_ACCESS_KEY": "x", "AWS_DEFAULT_REGION": "us-east-1"}
    secrets |= {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "NO_PROXY": "127.0.0.1"}
    try:
        boto3.client(
            "s3",
            endpoint_url=secrets["AWS_ENDPOINT_URL"],
            aws_access_key_id="x",
            aws_secret_access_key="x",
            region_name="us-east-1",
        ).create_bucket(Bucket="runs")
        first = traced(model, "s3://runs/mine", tmp_path / "one", **secrets)
        assert first.returncode == 0, first.stderr
        again = traced(model, "s3://runs/mine", tmp_path / "two", **secrets)
        assert "(0 new;" in again.stdout, again.stderr
    finally:
        server.stop()
