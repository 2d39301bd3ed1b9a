"""The contract of every engine, on the one that needs nothing."""

import pytest

from valuedrift.distributed import Failed
from valuedrift.distributed.local import Engine


def test_tasks_are_carried_out_in_order_and_a_failure_names_its_task():
    engine = Engine()
    engine.submit("a", None, max, 1, 2)
    engine.submit("b", None, int, "x")
    engine.submit("c", None, max, 3, 4)
    assert engine.next() == ("a", 2)
    with pytest.raises(Failed, match="invalid literal") as failed:
        engine.next()
    assert (failed.value.key, type(failed.value.error)) == ("b", ValueError)
    assert engine.next() == ("c", 4)
