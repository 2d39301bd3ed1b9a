"""Damages files as a power cut, a bad disk or a person does; runs the same command again; and compares what it leaves.

A command heals the damage (exit code 0, and all is as without it but for files that were set aside), or refuses it in one sentence (exit
code 2), or does not read the file and leaves it as it is. `gate` stands for the verbs that only read: it must say the same as before, or
refuse.
`python tests/harness/corrupting.py --out build/corruption.json` is a part of `make harness`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1] / "judge"))

from killing import Launcher, contents, prepared
from table import VERBS, World

GATE = "gate {out}/run --max-drift all.support=0.9 --json"


def _changed(change: Callable[[bytearray], bytes | bytearray]) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(change(bytearray(path.read_bytes())))


def _flipped(content: bytearray) -> bytearray:
    content[len(content) // 2] ^= 0b100
    return content


DAMAGES: dict[str, Callable[[Path], object]] = {
    "truncated": _changed(lambda content: content[: len(content) * 2 // 3]),
    "zeroed": _changed(lambda content: bytes(len(content))),
    "bit flipped": _changed(_flipped),
    "deleted": Path.unlink,
    "unreadable": lambda path: path.chmod(0),
}
DAMAGED = {
    "trace": "run",
    "run": "run",
    "gap": "gap",
    "synth": "pairs",
    "calibrate --keep": "kept",
    "train-judge": "judge",
    "callback": "run",
}
"""The verbs whose files are damaged, and their folders in {out}."""


class Damaged:
    """The files that one verb left, to be damaged one after the other."""

    def __init__(self, world: World, launcher: Launcher, name: str):
        self.world, self.launcher, self.name, self.verb = world, launcher, name, VERBS[name]
        world.begin(self.verb)
        assert self._run(self.verb.words)[0] == 0, launcher.said.read_text()
        self.kept = world.root / "kept whole"
        shutil.rmtree(self.kept, ignore_errors=True)
        shutil.copytree(world.out, self.kept, symlinks=True)
        self.whole = contents(world.out)
        self.has_run = (world.out / "run" / "drifts.parquet").exists()
        self.gate = self._run(GATE)[1] if self.has_run else ""

    def files(self) -> list[str]:
        """Return the files that may be damaged."""
        folder = self.kept / DAMAGED[self.name]
        return [str(path.relative_to(self.kept)) for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock"]

    def outcome(self, file: str, damage: str) -> str:
        """Damage a file and return what came of it: "healed", "refused: …" or "FAULT: …"."""
        shutil.rmtree(self.world.out)
        shutil.copytree(self.kept, self.world.out, symlinks=True)
        DAMAGES[damage](self.world.out / file)
        if self.has_run:
            code, said = self._run(GATE)
            if not (code == 0 and said == self.gate) and not one_sentence(code, said):
                return f"FAULT: gate, exit code {code}: {said[-500:]}"
        code, said = self._run(self.verb.words)
        if one_sentence(code, said) or "valuedrift stops evaluating, and training goes on: " in said:
            return f"refused: {said.strip()[-300:]}"
        if code:
            return f"FAULT: exit code {code}: {said[-800:]}"
        left = {name: value for name, value in contents(self.world.out).items() if ".damaged" not in name}
        differ = sorted(name for name in left.keys() | self.whole.keys() if left.get(name, "gone") != self.whole.get(name, "new"))
        if differ == [file]:
            return "not read"  # as the reference of a stage that is trained, or a state of the Trainer
        return f"FAULT: differ: {', '.join(differ)}" if differ else "healed"

    def _run(self, words: str) -> tuple[int, str]:
        code, _ = self.launcher.run(self.world.argv(words), heeds_modes=True)
        return code, self.launcher.said.read_text()


def one_sentence(code: int, said: str) -> bool:
    """Return whether a command ended in one sentence with exit code 2, or 3 if a stage of several failed."""
    lines = [line for line in said.splitlines() if line.startswith("valuedrift: ")]
    return code in (2, 3) and len(lines) == 1 and said.rstrip().endswith(lines[0]) and "Traceback" not in said


def corrupted(
    world: World, launcher: Launcher, names: Sequence[str], n: int | None, seed: int, out: Path | None = None
) -> dict[str, dict[str, str]]:
    """Damage n files of each verb (all of them with every damage if n is None); return what came of it by verb and damaged file."""
    results: dict[str, dict[str, str]] = {}
    for name in names:
        damaged = Damaged(world, launcher, name)
        cases = [(file, damage) for file in damaged.files() for damage in DAMAGES]
        if n is not None:
            cases = random.Random(f"{seed}/{name}").sample(cases, n)
        results[name] = {}
        for file, damage in cases:
            results[name][f"{file} {damage}"] = damaged.outcome(file, damage)
            if out:
                out.write_text(json.dumps(results, indent=1) + "\n")
    return results


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--files", type=int, help="damaged files per verb; all by default")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="*", default=list(DAMAGED), help="names of verbs")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as root, prepared(Path(root)) as (world, launcher):
        found = corrupted(world, launcher, given.only, given.files, given.seed, given.out)
    for name, outcomes in found.items():
        print(f"{name}: {dict(Counter(outcome.partition(':')[0] for outcome in outcomes.values()))}")
        print("".join(f"    {case}: {outcome}\n" for case, outcome in outcomes.items() if outcome.startswith("FAULT")), end="")
    sys.exit(any(outcome.startswith("FAULT") for outcomes in found.values() for outcome in outcomes.values()))
