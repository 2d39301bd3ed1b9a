"""Every engine carries out each task once and raises what a task raised."""

import pytest

from valuedrift import registry
from valuedrift.distributed import Engine, Failed


@pytest.fixture(params=registry.names("engine"))
def engine(request):
    if request.param == "ray":
        pytest.importorskip("ray")  # tests/distributed runs this one on a cluster of its own
    found = registry.find("engine", request.param)()
    yield found
    found.stop()


def test_each_task_is_carried_out_once_under_its_key(engine):
    assert isinstance(engine, Engine)
    assert engine.slots >= 1
    for number in (4, -9, 16):
        engine.submit(number, None, abs, number)
    assert sorted(engine.next() for _ in range(3)) == [(-9, 9), (4, 4), (16, 16)]


def test_what_a_task_raises_comes_back_with_its_key(engine):
    engine.submit("bad", None, int, "seven")
    with pytest.raises(Failed, match="seven") as failure:
        engine.next()
    assert failure.value.key == "bad"
    assert isinstance(failure.value.error, ValueError)


def test_a_stopped_engine_takes_new_tasks(engine):
    engine.submit("old", None, abs, 1)
    engine.stop()
    engine.submit("new", None, abs, -2)
    assert engine.next() == ("new", 2)
