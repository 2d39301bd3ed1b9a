"""Training: one loop that knows no algorithm, and one file per algorithm.

An algorithm is a file of this folder with a class `Algorithm` (third parties: an entry point `valuedrift.algorithm`):

* `eats` says which records of data it learns from: "examples" (`nouns.Example`, one row each), "pairs" (`nouns.Pair`, two rows each:
  in a batch of B pairs the chosen answers are rows 0 … B-1 and the rejected ones rows B … 2B-1) or "prompts" (of either; the replies are
  not looked at).
* `needs` says what the loop must provide. "reference": before the first step the loop runs the starting weights over all data without
  gradient and hands the log-probs to `prepare`, batch by batch. They are stored in the folder `reference` beside the stage's, named by
  content, so that every stage that starts from these weights with these data finds them there. "mismatched": before each optimiser step
  the loop runs the current weights, without gradient, over the step's prompts, each with the answers of another record of the step, and
  hands the log-probs to `mismatched`. "score": what is trained is a model with one number as its output, and `loss` gets that number for
  each row, `scores_R`, in place of log-probs; its checkpoints cannot be asked. "rollouts": what is learnt from is what the current weights
  answer to the prompts; see below. `Settings` then derives from `Rollout`.
* `averages` says what the loss is a mean of: "tokens" (of the answers) or "records". The loop divides by the count of the whole
  optimiser step, so that `gradient_accumulation_steps` changes memory and never the result.
* `Settings` are its own keys in a plan, `settings` their values.
* `prepare(batch, logps_RT)` returns, without gradient, what to keep of the starting weights' view: tensors with one entry per record.
  Every later batch carries them under the same names.
* `mismatched(batch, logps_RT)`, asked for where `needs` holds "mismatched", returns vectors; every batch of the step carries their means
  over the whole step under the same names. Where there is a reference, `batch` carries it, of the mismatched answers.
* `loss(batch, logps_RT)` returns one loss per token or per record (what `averages` says) and the metrics to log, each a vector that the
  loop averages. It calls the formula, which is a pure function of the module.

With "rollouts" the steps come in iterations. At the start of each the loop samples an answer to each of the next prompts and hands all of
them to `prepare`, with the starting weights' log-probs: the batch holds `old_logps_RT`, `old_values_RT` (of the value head), `scores_R` (of
the reward model), `ended_R` (false where an answer was cut off), and as `before` what `prepare` returned last, {} at first. The steps of
the iteration then go through the answers `num_ppo_epochs` times. Their batches hold what `prepare` returned, and, under the current
weights, `values_RT` (with gradient) and `entropy_RT` (without). Log-probs are those at the sampling temperature.

An algorithm that brings a loop of its own (`trl`) has two more: `run`, with the arguments and the contract of
`stage_trainer.run_stage`, which hands the stage over to it, and `course(stage, n_records)` as `step_counts.course`. One that makes a
class of what follows the colon in its name ("trl:KTOTrainer") has `named(argument)`.

A batch holds `answer_mask_RT`, 1 where the next token belongs to an answer, and `logps_RT`, the log-probability of that next token there
and 0 elsewhere: R rows, T positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Protocol

from pydantic import Field

from .. import plan

if TYPE_CHECKING:
    from torch import Tensor

Eats = Literal["examples", "pairs", "prompts"]
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


class Mismatching(Algorithm, Protocol):
    """An algorithm whose `needs` hold "mismatched"."""

    def mismatched(self, batch: Batch, logps_RT: Tensor) -> dict[str, Tensor]: ...


class Rollout(plan.Settings):
    """The settings of every algorithm whose `needs` hold "rollouts".

    An iteration samples `num_mini_batches` * batch_size * gradient_accumulation_steps answers and takes `num_ppo_epochs` *
    `num_mini_batches` optimiser steps. The defaults of these and of the temperature are those of Ziegler et al. (2019, their code).
    """

    reward: str = ""
    """The reward model: a stage of the plan that trains one, a folder, or a hub id with its revision."""
    num_ppo_epochs: Annotated[int, Field(gt=0)] = 4
    num_mini_batches: Annotated[int, Field(gt=0)] = 1
    max_new_tokens: Annotated[int, Field(gt=0)] = 128
    temperature: Annotated[float, Field(gt=0)] = 0.7
