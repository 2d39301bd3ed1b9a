"""`judge` and `report` killed by SIGKILL while they write: no figure is taken for another judge's or view's."""

import shutil
import signal
import subprocess
import sys

import pytest

from valuedrift import pipeline, verbs
from valuedrift.nouns import BadInput
from valuedrift.plan import EvaluationSettings
from valuedrift.report import page
from valuedrift.store import Store

pytestmark = pytest.mark.slow
LIMIT = ["all.support=0.9", "all.oppose=0.9"]

KILLS = """
import os, shutil, signal, sys
from valuedrift import pipeline, registry, verbs
import valuedrift.report.page

verb, run, step, n = sys.argv[1], sys.argv[2], int(sys.argv[3]), 1
if verb == "judge":
    import valuedrift.evaluate.transformers, valuedrift.judge.cues, valuedrift.suites.vaes, valuedrift.train.reward_model
    registry.in_order("analysis")  # all are imported once here, not in every child
    valuedrift.report.page.page = lambda run: ""  # drawing takes most of the time, and what is drawn is not compared
while True:
    folder = f"{run}-{verb}-{n}"
    shutil.copytree(run, folder)
    child = os.fork()
    if not child:
        replace, left = os.replace, [n]
        def counted(*names):
            left[0] -= 1
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            replace(*names)
        os.replace = counted
        pipeline.rejudge(folder, {"judge": "cues"}) if verb == "judge" else verbs.report(folder, "axis")
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    print(folder, status, flush=True)
    if not status:
        break
    n += step
"""


@pytest.fixture(scope="module")
def run(tiny_model, tmp_path_factory):
    out = tmp_path_factory.mktemp("killed") / "run"
    settings = EvaluationSettings(topics=["work"], judge="oracle", draws=1, max_new_tokens=8)
    pipeline.trace_folders(settings, [tiny_model, tiny_model], None, out)
    return out


def killed(verb, run, step):
    """Return the folders that a killed command left, and the one that it was let finish."""
    done = subprocess.run([sys.executable, "-c", KILLS, verb, str(run), str(step)], capture_output=True, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    assert [int(status) for _, status in lines] == [signal.SIGKILL] * (len(lines) - 1) + [0], done.stderr
    return [folder for folder, _ in lines[:-1]], lines[-1][0]


def tables(folder):
    """Return what the derived files hold; of provenance.json what does not tell how, and with how many threads, the commands worked."""
    store = Store(folder)
    names = {name.partition(".")[::2] for name in store.manifest["files"]} - {("provenance", "json")}
    held = {name: store.read_table(name).write_ndjson() if kind == "parquet" else store.read_json(f"{name}.json") for name, kind in names}
    return held | {key: value for key, value in store.provenance().items() if key not in ("timings", "judged", "devices")}


def test_a_killed_judge_leaves_one_judges_tables(run, monkeypatch):
    folders, whole = killed("judge", run, 3)
    monkeypatch.setattr(page, "page", lambda run: "")
    assert len(folders) > 5
    old, new, readings = tables(run), tables(whole), Store(whole).readings().sort("item", "judge")
    assert old["scores"] != new["scores"]
    refused = 0
    for folder in folders:
        try:
            said = verbs.gate(folder, LIMIT)
        except BadInput:
            refused += 1
        else:
            expected = new if Store(folder).provenance()["judge"]["identity"].startswith("cues") else old
            assert tables(folder) == expected, folder
            assert said == verbs.gate(whole if expected is new else run, LIMIT)
        pipeline.rejudge(folder, {"judge": "cues"})
        assert tables(folder) == new, folder
        assert Store(folder).readings().sort("item", "judge").equals(readings), folder
        assert not [path for path in Store(folder).root.rglob(".*") if path.name != ".lock"], folder
        shutil.rmtree(folder)
    assert refused  # verdicts that no table knows yet


def test_a_killed_report_leaves_the_page_of_before(run):
    before = (run / "report.html").read_bytes()
    folders, whole = killed("report", run, 1)
    assert len(folders) == 1
    assert (Store(folders[0]).root / "report.html").read_bytes() == before
    verbs.report(folders[0], "axis")
    name = [folder.rpartition("/")[2] for folder in (folders[0], whole)]
    pages = [(Store(folder).root / "report.html").read_text() for folder in (folders[0], whole)]
    assert pages[0].replace(name[0], "") == pages[1].replace(name[1], "")
    with Store(whole).locked(), pytest.raises(BadInput, match="another valuedrift process is working in"):
        verbs.report(whole, "axis")
