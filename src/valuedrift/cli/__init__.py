"""The command line: verbs that read what the verb before wrote, one file per group of them.

Every verb takes --json (one object on stdout, progress on stderr) and exits 0 done, 2 bad input, 3 stopped at a threshold, 4 undecided.
Heavy packages are imported inside the verbs, so that `valuedrift --help` answers at once.
"""

import os

# Before any import of torch: two spinning OpenMP threads on a busy machine run several times slower than one.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

from . import runs, results, data, forecast, suites, doctor  # noqa: I001  (the order of the verbs in the help)
from .program import app, main

__all__ = ["app", "data", "doctor", "forecast", "main", "results", "runs", "suites"]
