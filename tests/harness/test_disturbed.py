"""A full disk, two processes in one folder, folders that may not be written, and a clock that goes backwards."""

import os
import subprocess
import threading

import pytest
from corrupting import one_sentence
from killing import Launcher, contents, undisturbed
from table import VERBS

from valuedrift.store import Store

pytestmark = pytest.mark.slow
MANY = bool(os.environ.get("VALUEDRIFT_HARNESS"))
"""`make harness` sets it; without it, a few of the moments are tried."""


def size_of(folder):
    """Return the bytes that a folder takes on a tmpfs."""
    return sum(-(-path.stat().st_size // 4096) * 4096 + 4096 for path in folder.rglob("*"))


def mounted(*options):
    done = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a small tmpfs cannot be mounted here: {done.stderr.strip()}")


@pytest.mark.parametrize("name", ["run", "trace", "synth", "train-judge"] if MANY else ["synth"])
def test_a_full_disk_is_one_sentence_and_more_room_is_enough(harness, name):
    world, launcher = harness
    verb, n_refused = VERBS[name], 0
    whole = undisturbed(world, launcher, verb)
    size, n = size_of(world.out), 10 if MANY else 3
    for moment in range(n):
        world.begin(verb)
        mounted("-t", "tmpfs", "-o", f"size={int(size * (moment + 0.5) / n) // 4096 * 4096}", "tmpfs", str(world.out))
        try:
            code, _ = launcher.run(world.argv(verb.words))
            said = launcher.said.read_text()
            n_refused += code != 0
            assert code == 0 or (one_sentence(code, said) and "free some space" in said), (moment, code, said[-1500:])
            mounted("-o", "remount,size=100M", str(world.out))
            assert launcher.run(world.argv(verb.words))[0] == 0 or verb.finished in launcher.said.read_text(), launcher.said.read_text()
            left = contents(world.out)
            assert {key for key in left.keys() | whole.left.keys() if left.get(key, "gone") != whole.left.get(key, "new")} == set()
        finally:
            subprocess.run(["umount", str(world.out)], check=True)
    assert n_refused >= n // 2


def folder_of(argv):
    """Return the folder that a command works in."""
    return next((argv[argv.index(option) + 1] for option in ("--out", "--keep") if option in argv), argv[1])


IN_FOLDERS = [name for name in VERBS if name not in ("callback", "calibrate --sample", "report", "export")]
"""The callback lets the training go on without it; a sample is a file; `report` names its folder otherwise."""


@pytest.mark.parametrize("name", IN_FOLDERS if MANY else ["trace", "gap"])
def test_a_second_process_is_refused(harness, name):
    world, launcher = harness
    verb = VERBS[name]
    world.begin(verb)
    argv = world.argv(verb.words)
    with Store(folder_of(argv)).locked():
        before = contents(world.out)
        code, _ = launcher.run(argv)
        assert one_sentence(code, said := launcher.said.read_text()), said
        assert "another valuedrift process is working in" in said
        assert contents(world.out) == before
    assert launcher.run(argv)[0] == 0, launcher.said.read_text()


def test_of_two_processes_that_start_together_one_works(harness, tmp_path_factory):
    """One of them is refused, or both work after another; the folder is that of one."""
    world, launcher = harness
    verb = VERBS["calibrate --keep"]
    whole = undisturbed(world, launcher, verb)
    world.begin(verb)
    root = tmp_path_factory.mktemp("second")
    second, codes = Launcher(root, world.server), []
    thread = threading.Thread(target=lambda: codes.append(second.run(world.argv(verb.words))[0]))
    thread.start()
    codes.append(launcher.run(world.argv(verb.words))[0])
    thread.join()
    second.close()
    assert sorted(codes) in ([0, 0], [0, 2])
    assert contents(world.out) == whole.left


@pytest.mark.parametrize("name", ["run", "trace", "gap", "synth"] if MANY else ["synth"])
def test_a_folder_that_may_not_be_written_is_one_sentence(harness, name):
    world, launcher = harness
    world.begin(VERBS[name])
    world.out.chmod(0o500)
    try:
        code, _ = launcher.run(world.argv(VERBS[name].words), heeds_modes=True)
        assert one_sentence(code, said := launcher.said.read_text()), said
        assert "Permission denied" in said
    finally:
        world.out.chmod(0o700)


@pytest.mark.parametrize("name", ["run", "trace", "watch", "gap", "synth", "train-judge"] if MANY else ["watch"])
def test_a_clock_that_goes_backwards_changes_nothing(harness, name):
    world, launcher = harness
    verb = VERBS[name]
    whole = undisturbed(world, launcher, verb)
    world.begin(verb)
    for path in [*world.root.rglob("*"), *world.out.rglob("*")]:
        os.utime(path, (4e9, 4e9))  # all that is read comes from the future
    code, _ = launcher.run(world.argv(verb.words), clock=100.0)
    assert code == 0, launcher.said.read_text()
    left = contents(world.out)
    assert {key for key in left.keys() | whole.left.keys() if left.get(key, "gone") != whole.left.get(key, "new")} == set()
