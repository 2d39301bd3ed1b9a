"""Evaluating a checkpoint: it is loaded once, whatever is measured of it, and an engine of several slots leaves the same files."""

import pickle
from collections import Counter

import pytest

from valuedrift import distributed, pipeline, plan, registry, testing
from valuedrift.analyses import Analysis
from valuedrift.models import loading
from valuedrift.plan import EvaluationSettings
from valuedrift.store import Store

pytestmark = pytest.mark.slow
REWARD = '[stage.rm]\nafter = "sft"\nalgorithm = "reward"\ndata = "sandbox:pairs?n=24"\nsave_at = [3]\n'


class Many(distributed.Engine):
    """An engine that hands out tasks as other processes get them, and has them done in another order."""

    slots = 4

    def __init__(self):
        self.waiting = []

    def submit(self, key, resources, function, *given):
        self.waiting.append(pickle.dumps((key, function, given)))

    def next(self):
        key, function, given = pickle.loads(self.waiting.pop())
        return key, pickle.loads(pickle.dumps(function(*given)))


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tiny_model):
    """A run with a reward model, distances, and how often each of its models was loaded to be evaluated."""
    folder = tmp_path_factory.mktemp("visits")
    (folder / "plan.toml").write_text(testing.PLAN.format(model=tiny_model) + REWARD)
    loads = Counter()
    load = loading.load_model

    def counted(path, **more):
        loads[str(path)] += 1
        return load(path, **more)

    wanted = plan.load(folder / "plan.toml")
    pipeline.run(wanted.model_copy(update={"side_metrics": False, "draws": 1}), folder / "out")  # trains
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loading, "load_model", counted)
        pipeline.run(wanted, folder / "out")
    return wanted, folder / "out", loads


def held(out, kinds=("answers", "numbers")):
    return {path.relative_to(out): path.read_bytes() for kind in kinds for path in (out / kind).iterdir()}


def test_a_checkpoint_is_loaded_once(finished):
    _, out, loads = finished
    paths = {one.weights: one.path for one in Store(out).checkpoints()}
    assert len(paths) == 5
    assert loads == dict.fromkeys(paths.values(), 1)
    assert {"side_metrics"} <= set(Store(out).tables())


def test_several_checkpoints_at_a_time_leave_the_same_files(finished, tmp_path):
    _, out, _ = finished
    settings = EvaluationSettings(judge="oracle", topics=["work"], draws=2, max_new_tokens=12, batch_rows=64, side_metrics=True)
    folder = next((out / "stages").glob("dpo*"))
    with testing.offering("engine", many=Many):
        pipeline.trace_folders(settings, [folder], None, tmp_path / "many", "many")
    pipeline.trace_folders(settings, [folder], None, tmp_path / "one")
    assert held(tmp_path / "many") == held(tmp_path / "one")
    for name in ("scores", "side_metric_scores", "drifts"):
        assert Store(tmp_path / "many").read_table(name).equals(Store(tmp_path / "one").read_table(name)), name


class Counts(Analysis):
    """An analysis of a third party: the number of parameters, and nothing of the second stage."""

    title = "Counts"
    order = 90

    def collect(self, visit):
        if visit.checkpoint.stage == "dpo":
            raise RuntimeError("out of memory")
        visit.add(
            {visit.checkpoint.weights: visit.checkpoint}, lambda some: [visit.models.get(one)[0].num_parameters() for one in some], "size"
        )


def test_what_one_analysis_cannot_collect_is_said_and_the_others_go_on(finished, monkeypatch):
    wanted, out, _ = finished
    known = registry.in_order("analysis")
    monkeypatch.setattr(registry, "in_order", lambda kind: [*known, Counts()])
    result = pipeline.run(wanted, out)
    assert "Counts could not be measured: out of memory (3 of 6 checkpoints)." in result["notes"]
    sizes = {Store(out).numbers()[one.weights] for one in Store(out).checkpoints() if one.stage == "sft"}
    assert len(sizes) == 1
    assert {"side_metrics"} <= set(Store(out).tables())
