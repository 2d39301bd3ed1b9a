"""Starts commands in processes of their own, without the seconds that imports take: it imports once and forks for each line on stdin.

A line is JSON: `argv` (the words after "valuedrift", or "callback" and its words), `said` (the file for what the command prints),
`kill_after` (seconds until SIGKILL, or null), `heeds_modes` (root gives up its right to read and write any file), and `clock` (seconds by
which the wall clock goes back with every look). The answer is a line of JSON: `code` (exit code, -9 if killed) and `seconds`.
"""

import ctypes
import json
import os
import signal
import sys
import time

import openai  # noqa: F401
import transformers  # noqa: F401

import valuedrift.evaluate.openai
import valuedrift.evaluate.transformers
import valuedrift.integrations.callback
import valuedrift.integrations.watch
import valuedrift.judge.training
import valuedrift.report.gap_page
import valuedrift.report.page
import valuedrift.stats.agreement
import valuedrift.stats.gap
import valuedrift.synth.synth
import valuedrift.train.reward_model
import valuedrift.train.stage
import valuedrift.verbs  # noqa: F401
from valuedrift import registry
from valuedrift.cli import main

registry.in_order("analysis")
for judge in ("cues", "oracle", "openai", "trained"):
    registry.find("judge", judge)


def heed_modes():
    """Give up CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH."""
    libc, header, data = ctypes.CDLL(None), (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert not libc.capget(header, data)
    data[0] &= ~0b110
    data[1] &= ~0b110
    assert not libc.capset(header, data)


def go_back(seconds):
    """Make the wall clock go back with every look."""
    now = [time.time()]

    def earlier():
        now[0] -= seconds
        return now[0]

    time.time = earlier


def child(order):
    os.setsid()
    if order["heeds_modes"]:
        heed_modes()
    if order["clock"]:
        go_back(order["clock"])
    said = os.open(order["said"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(said, 1)
    os.dup2(said, 2)
    code = 70
    try:
        if order["argv"][0] == "callback":
            from training import train

            train(*order["argv"][1:])
            code = 0
        else:
            sys.argv = ["valuedrift", *order["argv"]]
            main()
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def carried_out(order):
    started, killed = time.monotonic(), False
    pid = os.fork()
    if not pid:
        child(order)
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        seconds = time.monotonic() - started
        if ended:
            return {"code": os.waitstatus_to_exitcode(status), "seconds": seconds}
        if order["kill_after"] is not None and seconds >= order["kill_after"] and not killed:
            os.killpg(pid, signal.SIGKILL) if os.getpgid(pid) == pid else os.kill(pid, signal.SIGKILL)
            killed = True
        time.sleep(0.001)


print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(carried_out(json.loads(line))), flush=True)
