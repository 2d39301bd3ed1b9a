"""A real Ray cluster of several raylets on this machine: the same results as here, one of them killed or not."""

import contextlib
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from valuedrift import pipeline, testing
from valuedrift.distributed import Failed
from valuedrift.nouns import BadInput
from valuedrift.plan import load

ray = pytest.importorskip("ray", reason="ray is not installed")

PLAN = testing.PLAN.replace("draws = 2\n", "draws = 2\nseeds = [0, 1]\n") + "resources = {{ cpus = 0.5 }}\n"
TABLES = ("scores", "profiles", "drifts", "side_metrics")


@pytest.fixture(scope="module")
def plan(tiny_model, tmp_path_factory):
    file = tmp_path_factory.mktemp("plan") / "plan.toml"
    file.write_text(PLAN.format(model=tiny_model))
    return load(file)


@pytest.fixture(scope="module")
def here(plan, tmp_path_factory):
    out = tmp_path_factory.mktemp("here") / "run"
    pipeline.run(plan, out)
    return out


@pytest.fixture(scope="module")
def cluster():
    """A head that carries out nothing, and two nodes with one core each."""
    from ray.cluster_utils import Cluster

    found = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
    for _ in range(2):
        found.add_node(num_cpus=1, object_store_memory=100 << 20)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


def equal(one: Path, other: Path) -> None:
    for name in TABLES:
        assert (one / f"{name}.parquet").read_bytes() == (other / f"{name}.parquet").read_bytes(), name
    parts = [sorted(path.name for path in (folder / "answers").iterdir()) for folder in (one, other)]
    assert parts[0] == parts[1]


def test_a_run_on_two_machines_is_the_run_on_one(plan, here, cluster, tmp_path):
    result = pipeline.run(plan, tmp_path / "run", "ray")
    equal(here, tmp_path / "run")
    assert [stage["name"] for stage in result["stages"]] == ["sft", "dpo", "sft", "dpo"]
    assert pipeline.run(plan, tmp_path / "run", "ray")["n_generated"] == 0


def at_work(raylet):
    """Return what the workers of a raylet are doing, by process: Ray names them by it."""
    found = {}
    for children in Path(f"/proc/{raylet}/task").glob("*/children"):
        for worker in children.read_text().split():
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{worker}/cmdline").read_bytes().partition(b"\0")[0].decode()
                found |= {int(worker): title} if title.startswith("ray::") and "IDLE" not in title else {}
    return found


@pytest.mark.parametrize("killed", ["raylet", "worker"])
@pytest.mark.parametrize("moment", ["stages/*/checkpoint-*/complete.json", "answers/*.parquet"], ids=["training", "asking"])
def test_a_process_killed_in_the_middle_changes_nothing(plan, here, cluster, tmp_path, moment, killed):
    victim = cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
    doing = []

    def kill():
        (raylet,) = (process.process.pid for process in victim.all_processes["raylet"])
        while not any((tmp_path / "run").glob(moment)) or not (working := at_work(raylet)):
            time.sleep(0.002)
        doing.extend(working.values())
        os.kill(raylet if killed == "raylet" else next(iter(working)), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    pipeline.run(plan, tmp_path / "run", "ray")
    assert doing, "the raylet had work when it or its worker was killed"
    equal(here, tmp_path / "run")


def fails(text):
    raise BadInput(text)


def dies(marks):
    """End the worker as a lost machine would, the first time."""
    (mark,) = [Path(marks) / "died"]
    if not mark.exists():
        mark.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "done"


def test_a_tasks_own_error_is_told_and_a_lost_worker_is_not(cluster, tmp_path):
    from valuedrift.distributed.ray import Engine

    engine = Engine()
    engine.submit("bad", None, fails, "the data are empty")
    with pytest.raises(Failed) as failed:
        engine.next()
    assert isinstance(failed.value.error, BadInput)
    assert str(failed.value.error) == "the data are empty"
    engine.submit("lost", None, dies, str(tmp_path))
    assert engine.next() == ("lost", "done")
