"""Training: one loop that knows no algorithm, and one file per algorithm.

An algorithm is a file of this folder with a class `Algorithm` (third parties: an entry point `valuedrift.algorithm`):

* `eats` says which records of data it learns from: "examples" (`nouns.Example`, one row each) or "pairs" (`nouns.Pair`, two rows each:
  in a batch of B pairs the chosen answers are rows 0 … B-1 and the rejected ones rows B … 2B-1).
* `needs` says what the loop must provide. "reference": before the first step the loop runs the starting weights over all data without
  gradient and hands each batch's log-probs to `prepare`.
* `averages` says what the loss is a mean of: "tokens" (of the answers) or "records". The loop divides by the count of the whole
  optimiser step, so that `accumulate` changes memory and never the result.
* `Settings` are its own keys in a plan, `settings` their values.
* `prepare(batch, logps_RT)` returns, without gradient, what to keep of the starting weights' view: tensors with one entry per record.
  They are stored once, and every later batch carries them under the same names.
* `loss(batch, logps_RT)` returns one loss per token or per record (what `averages` says) and the metrics to log, each a vector that the
  loop averages. It calls the formula, which is a pure function of the module.

A batch holds `answer_mask_RT`, 1 where the next token belongs to an answer, and `logps_RT`, the log-probability of that next token there
and 0 elsewhere: R rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

from .. import plan

if TYPE_CHECKING:
    from torch import Tensor

Eats = Literal["examples", "pairs"]
Averages = Literal["tokens", "records"]
Batch = Mapping[str, Any]


class Algorithm(Protocol):
    """What the loop asks of an algorithm; see above."""

    eats: ClassVar[Eats]
    needs: ClassVar[frozenset[str]]
    averages: ClassVar[Averages]
    Settings: ClassVar[type[plan.Settings]]

    def __init__(self, settings: Any) -> None: ...

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]: ...

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]: ...
