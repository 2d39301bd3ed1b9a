"""Kills verbs at random moments, lets the same command finish, and compares what it leaves with an undisturbed run.

`python tests/harness/killing.py --kills 200 --out build/harness.json` is `make harness`. The results are written as they come.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import fnmatch
import importlib.util
import itertools
import json
import os
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

from misbehaving import Server
from table import VERBS, Verb, World

HERE = Path(__file__).parent
CONCURRENCY = 8
"""Requests that are under way at a time, so that a kill may repeat as many."""
KILLS_PER_TRIAL = 2


class Launcher:
    """The process that starts commands (launcher.py)."""

    def __init__(self, root: Path, server: Server):
        self.said = root / "said"
        own = {"OPENAI_BASE_URL": server.url, "NO_PROXY": "127.0.0.1", "VALUEDRIFT_CACHE": str(root / "cache"), "OMP_NUM_THREADS": "1"}
        own["TMPDIR"] = str(root / "tmp")
        (root / "tmp").mkdir()
        gone = ("OPENAI_API_KEY", "VALUEDRIFT_PRICES")
        environment = {name: value for name, value in os.environ.items() if name not in gone} | own
        command = [sys.executable, str(HERE / "launcher.py")]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment, cwd=root)
        self._answer()

    def run(self, argv: list[str], kill_after: float | None = None, heeds_modes: bool = False, clock: float = 0.0) -> tuple[int, float]:
        """Return the exit code (-9 if killed) and the seconds of a command; launcher.py says what the other arguments mean."""
        assert self._process.stdin
        order = {"argv": argv, "said": str(self.said), "kill_after": kill_after, "heeds_modes": heeds_modes, "clock": clock}
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        found = json.loads(self._answer())
        return found["code"], found["seconds"]

    def _answer(self) -> str:
        assert self._process.stdout
        if line := self._process.stdout.readline():
            return line
        raise RuntimeError("the launcher ended")

    def close(self) -> None:
        """End the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()


@contextlib.contextmanager
def prepared(root: Path) -> Iterator[tuple[World, Launcher]]:
    """Make the world and start the server and the launcher."""
    with Server() as server:
        server.delay_seconds = 0.004
        world, launcher = World(root, server), Launcher(root, server)
        try:
            trace = world.argv(VERBS["trace"].words.replace("{out}/run", "{traced}").replace("{paid}", "cues"))
            code, _ = launcher.run(trace)
            assert code == 0, launcher.said.read_text()
            code, _ = launcher.run(world.argv("run {plan} --out {trained}/run --set judge=cues"))
            assert code == 0, launcher.said.read_text()
            yield world, launcher
        finally:
            launcher.close()


# -- what must be equal --------------------------------------------------------------------------------------------------------

EXCEPTIONS = {
    "*/provenance.json": (
        ("timings", "generated", "judged"),
        "seconds of each step, and how many answers and verdicts the last command made",
    ),
    "*/tables.json": (("provenance.json", "stages.json", "evaluation.json"), "digests of files that hold seconds"),
    "*/stages.json": (("seconds",), "seconds of training"),
    "*/complete.json": (("seconds", "digest"), "seconds of training, and the digest of a record that holds them"),
    "*/done.json": (("seconds", "digest"), "the same"),
    "*/attached.json": (("spent",), "seconds of the evaluations"),
}
"""Names of JSON fields by file that may differ between two undisturbed runs too, with the reason."""
TIMES = re.compile(
    r"(?:train|evaluate|judge|analyse): [\d.]+(?=</li>)"  # on the page, and missing there for a step that the last command left out
    r"|<dd>[\d,]+ s</dd>"  # of a stage's training
    r"|<div><dt>(?:generated|judged)</dt><dd>[\d,]+</dd></div>"
    r"|(?<=steps), in [\d.]+ s(?: beside [\d.]+ s of training)?"  # the callback's note; the time before a resume is unknown
)
"""What the exceptions look like in pages and notes."""


def contents(folder: Path) -> dict[str, Any]:
    """Return what a verb left, by name, without the exceptions."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.is_dir():
            found[f"{name}/"] = None
            continue
        found[name] = path.read_bytes()
        if keys := next((keys for pattern, (keys, _) in EXCEPTIONS.items() if fnmatch.fnmatch(name, pattern)), None):
            with contextlib.suppress(ValueError):  # damaged, and not read by the command
                found[name] = without(json.loads(found[name]), keys)
        elif name.endswith((".html", "evaluation.json")):
            found[name] = TIMES.sub("", found[name].decode())
    return found


def without(content: Any, keys: tuple[str, ...]) -> Any:
    """Return JSON content without some keys, at any depth."""
    if isinstance(content, str):
        return TIMES.sub("", content)
    if isinstance(content, dict):
        return {key: without(value, keys) for key, value in content.items() if key not in keys}
    return [without(value, keys) for value in content] if isinstance(content, list) else content


# -- trials --------------------------------------------------------------------------------------------------------------------


@dataclass
class Undisturbed:
    """What a verb leaves, takes and asks if nothing disturbs it."""

    left: dict[str, Any]
    seconds: float
    asked: set[str]


@dataclass
class Found:
    """The results of one verb."""

    kills: int = 0
    trials: int = 0
    repeated: int = 0
    """Paid requests that were sent a second time."""
    most_repeated: int = 0
    """Of one trial, by kill."""
    faults: list[str] = field(default_factory=list)


def undisturbed(world: World, launcher: Launcher, verb: Verb) -> Undisturbed:
    """Return what a verb leaves; it must pay for nothing twice and leave no temporary file."""
    world.begin(verb)
    since = len(world.server.bodies)
    code, seconds = launcher.run(world.argv(verb.words))
    assert code == 0, launcher.said.read_text()
    asked = Counter(json.dumps(body, sort_keys=True) for body in world.server.bodies[since:])
    left = contents(world.out)
    assert not [name for name in left if re.search(r"(^|/)\.(?!lock$|written\.json$)|tmp", name)], list(left)
    assert max(asked.values(), default=1) == 1
    return Undisturbed(left, seconds, set(asked))


def trial(world: World, launcher: Launcher, verb: Verb, whole: Undisturbed, moments: list[float], found: Found) -> None:
    """Kill a verb at some moments (shares of its duration), finish it, and add what differs to `found`."""
    world.begin(verb)
    since, kills, at = len(world.server.bodies), 0, []
    for moment in moments:
        code, seconds = launcher.run(world.argv(verb.words), kill_after=moment * whole.seconds)
        if code != -9:
            break
        kills += 1
        at.append(f"{seconds:.3f} s")
    code, _ = launcher.run(world.argv(verb.words))
    said = launcher.said.read_text()
    while_settling(world)
    found.kills, found.trials = found.kills + kills, found.trials + 1
    after = f"killed after {', '.join(at)} of {whole.seconds:.3f} s: "
    if code and not (verb.finished and verb.finished in said):
        found.faults.append(after + f"exit code {code}: {said[-600:]}")
        return
    left = contents(world.out)
    names = left.keys() | whole.left.keys()
    if differ := sorted(name for name in names if left.get(name, "gone") != whole.left.get(name, "new")):
        found.faults.append(after + f"differ: {', '.join(differ)}" + _shown(whole.left.get(differ[0]), left.get(differ[0])))
    if leftover := [str(path) for path in (world.root / "tmp").iterdir()]:
        found.faults.append(after + f"left over: {', '.join(leftover)}")
        for path in leftover:
            shutil.rmtree(path, ignore_errors=True)
    asked = Counter(json.dumps(body, sort_keys=True) for body in world.server.bodies[since:])
    repeated = asked.total() - len(asked)
    found.repeated += repeated
    found.most_repeated = max(found.most_repeated, -(-repeated // max(1, kills)))
    if repeated > kills * CONCURRENCY or asked.keys() != whole.asked:
        found.faults.append(after + f"{repeated} requests were paid twice, {len(asked.keys() ^ whole.asked)} are others")


def _shown(one: Any, other: Any) -> str:
    """Return the first lines of two texts that differ; "" if they are no texts."""
    if not (isinstance(one, str) and isinstance(other, str)):
        return ""
    lines = difflib.unified_diff(one.splitlines(), other.splitlines(), "undisturbed", "killed", lineterm="", n=0)
    return "".join(f"\n        {line[:200]}" for line in itertools.islice(lines, 12))


def while_settling(world: World) -> None:
    """Wait until the server has noticed that killed clients are gone."""
    while world.server.now:
        time.sleep(0.001)


def usable() -> dict[str, Verb]:
    """Return the verbs whose packages are installed."""
    return {name: verb for name, verb in VERBS.items() if not verb.needs or importlib.util.find_spec(verb.needs)}


def killed(
    world: World, launcher: Launcher, verbs: dict[str, Verb], kills: int, per_trial: int, seed: int, out: Path | None = None
) -> dict[str, Found]:
    """Kill each verb about equally often; return the results by verb, and write them to `out` as they come."""
    results: dict[str, Found] = {}
    for number, (name, verb) in enumerate(verbs.items()):
        results[name] = found = Found()
        whole, wanted = (
            undisturbed(world, launcher, verb),
            -(-(kills - sum(one.kills for one in results.values())) // (len(verbs) - number)),
        )
        rng = random.Random(f"{seed}/{name}")
        while found.kills < wanted and found.trials < 2 * wanted:
            trial(world, launcher, verb, whole, [rng.random() for _ in range(min(per_trial, wanted - found.kills))], found)
            if out:
                out.write_text(json.dumps({one: asdict(row) for one, row in results.items()}, indent=1) + "\n")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", help="names of verbs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, prepared(Path(root)) as (world, launcher):
        verbs = {name: verb for name, verb in usable().items() if not given.only or name in given.only}
        results = killed(world, launcher, verbs, given.kills, KILLS_PER_TRIAL, given.seed, given.out)
    for name, row in results.items():
        print(f"{name}: {row.kills} kills in {row.trials} trials, {row.repeated} requests repeated (at most {row.most_repeated} by a kill)")
        print("".join(f"    {fault}\n" for fault in row.faults), end="")
    sys.exit(any(row.faults for row in results.values()))
