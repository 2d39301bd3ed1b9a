"""Training: one loop that knows no algorithm, and one file per algorithm.

An algorithm is a file of this folder with a class `Algorithm` that derives from `BaseAlgorithm` (third parties: an entry point
`valuedrift.algorithm`). It sets:

* `data_format`, the records it learns from. "examples" (`nouns.Example`) are one row each. "pairs" (`nouns.Pair`) are two rows each: in a
  batch of B pairs the chosen answers are rows 0 … B-1 and the rejected ones rows B … 2B-1. "prompts" takes examples or pairs and ignores
  their replies.
* `needs`, what the loop must provide:
  "reference": before the first step the loop runs the starting weights over all data without gradient and passes the log-probs to
  `prepare`, batch by batch. They are stored in the folder `reference` beside the stage's, named by content, so that every stage with the
  same starting weights and data reads them.
  "kl_batch": before each optimiser step the loop runs the current weights, without gradient, over the step's prompts, each with the answer
  of another record, and passes the log-probs to `kl_estimate`.
  "score": the model has one number as its output. `loss` gets one score per row, `scores_R`, instead of log-probs. Checkpoints of such a
  model are not evaluated.
  "rollouts": the data are the current weights' own answers to the prompts; see below. `Settings` then derives from `Rollout`.
* `loss_reduction`, what the loss is a mean of: "tokens" of the answers, or "records". The loop divides by the count of the whole optimiser
  step, so that `gradient_accumulation_steps` changes memory and never the result.
* `Settings`, its own keys in a plan; `settings` are their values.

An algorithm has these methods:

* `loss(batch, logps_RT)` returns one loss per token or per record (as `loss_reduction` says) and the metrics to log, each a vector that the
  loop averages. It calls the formula, a pure function of the module.
* `prepare(batch, logps_RT)` gets the starting weights' log-probs and returns tensors with one entry per record. Every later batch carries
  them under the same names.
* `kl_estimate(batch, logps_RT)`, if `needs` has "kl_batch", returns vectors. Every batch of the step carries their means over the whole
  step under the same names. If there is a reference, `batch` carries it for the mismatched answers.

With "rollouts" the steps come in iterations. Each iteration samples an answer to each of the next prompts and passes all of them to
`prepare` with the starting weights' log-probs. That batch holds `old_logps_RT`, `old_values_RT` (of the value head), `scores_R` (of the
reward model), `ended_R` (false if an answer was cut off), and as `before` what `prepare` returned last, {} at first. The iteration's steps
then go through the answers `num_ppo_epochs` times. Their batches hold what `prepare` returned and, under the current weights, `values_RT`
(with gradient) and `entropy_RT` (without). Log-probs are those at the sampling temperature.

An algorithm with its own loop (`trl`) has two more: `run`, with the arguments and the contract of `stage.run_stage`, which trains
the stage, and `course(stage, n_records)`, as `step_counts.course`. One that makes a class of what follows the colon in its name
("trl:KTOTrainer") has `named(argument)`.

A batch holds `answer_mask_RT`, 1 if the next token belongs to an answer, and `logps_RT`, the log-probability of that next token there and
0 elsewhere: R rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from .. import plan

if TYPE_CHECKING:
    from torch import Tensor

DataFormat = Literal["examples", "pairs", "prompts"]
LossReduction = Literal["tokens", "records"]
Batch = Mapping[str, Any]


class BaseAlgorithm:
    """What the training loop needs from an algorithm; see above."""

    data_format: ClassVar[DataFormat]
    needs: ClassVar[frozenset[str]] = frozenset()
    loss_reduction: ClassVar[LossReduction] = "records"
    truncates: ClassVar[bool] = True
    """Whether texts longer than `max_length` are truncated, or left out."""
    Settings: ClassVar[type[plan.Settings]] = plan.Settings

    def __init__(self, settings: Any):
        self.settings = settings

    def prepare(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return what to keep of the starting weights' log-probs, one entry per record: nothing without a reference."""
        return {}

    def loss(self, batch: Batch, logps_RT: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Return one loss per token or per record, and the metrics to log."""
        raise NotImplementedError

    def kl_estimate(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]:
        """Return what the step's KL is estimated from, one entry per record."""
        raise NotImplementedError


class Rollout(plan.Settings):
    """The settings of every algorithm whose `needs` hold "rollouts".

    An iteration samples `num_mini_batches` * batch_size * gradient_accumulation_steps answers and takes `num_ppo_epochs` *
    `num_mini_batches` optimiser steps. The defaults of these and of the temperature are those of Ziegler et al. (2019, their code).
    """

    reward: str = ""
    """The reward model: a stage of the plan that trains one, a folder, or a hub id with its revision."""
    num_ppo_epochs: Annotated[int, Field(gt=0)] = 4
    """Passes over each iteration's answers."""
    num_mini_batches: Annotated[int, Field(gt=0)] = 1
    """Optimiser steps per pass."""
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    """Longest sampled answer, in tokens."""
    temperature: Annotated[float, Field(gt=0)] = 0.7
    """Sampling temperature."""
