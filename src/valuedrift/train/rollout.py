"""Rollouts: answers sampled from the current weights, scored by a reward model, and trained on in several passes.

A sample is a function of the weights, the seed, the iteration and the prompt. A checkpoint also holds the iteration's answers and the value
head, so that a stage killed in the middle of an iteration ends with the same bytes.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..models.chat_format import PromptFormat
from ..models.decoder import Reply, Wanted, decode
from ..models.sampling_noise import row_words
from ..nouns import Example, digest
from ..plan import EvaluationSettings, Stage
from . import Batch, Rollout, collation, processes
from .logprobs import answer_outputs, placed
from .reward_model import RewardModel
from .saved_stage import ROLLOUTS, VALUE_HEAD

HEAD = "value_head"


class Rollouts:
    """The answers of the current iteration. `model` gets a value head, which is trained with it and not saved with its weights.

    `asked` are the prompts of the whole stage in the order of sampling. Sharded weights cannot sample, so each process then holds a full
    copy on its `device`.
    """

    def __init__(
        self,
        algorithm: Any,
        stage: Stage,
        seed: int,
        asked: Sequence[collation.Asked],
        model: Any,
        tokenizer: Any,
        reward: str,
        device: Any,
    ):
        self.algorithm, self.settings, self.stage, self.seed = algorithm, cast(Rollout, algorithm.settings), stage, seed
        self.asked, self.model, self.rewarder = asked, model, RewardModel(reward, device)
        self.prompt_format = PromptFormat(tokenizer, "chat")
        width = model.get_output_embeddings().weight.shape[1]
        self.head = nn.Linear(width, 1, device=model.device)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        model.add_module(HEAD, self.head)
        self.sampler = processes.broadcast_weights(copy.deepcopy(model).to(device)) if processes.sharding() else model
        # With an adapter, the reference is the model without it; else the reference is a copy of the model.
        self.reference = None if isinstance(model, PeftModel) else copy.deepcopy(self.sampler).eval().requires_grad_(False)
        self.iteration = -1
        self.records: list[collation.Record] = []
        self.kept: dict[str, Tensor] = {}

    @property
    def n_answers(self) -> int:
        """Return the number of answers per iteration."""
        return self.stage.effective_batch_size * self.settings.num_mini_batches

    def batch(self, indices: Sequence[int]) -> dict[str, Any]:
        """Return the batch for some sample indices of the stage. Samples new answers at the start of an iteration.

        Each iteration goes `num_ppo_epochs` times through its answers, each time in another order.
        """
        n, n_samples = self.n_answers, self.n_answers * self.settings.num_ppo_epochs
        iteration = indices[0] // n_samples
        if iteration != self.iteration:
            self._sample(iteration, self.asked[iteration * n : (iteration + 1) * n])
        number, first = divmod(indices[0] % n_samples, n)
        rows = np.random.default_rng((self.seed, iteration, number)).permutation(n)[first : first + len(indices)]
        records = [self.records[row] for row in rows]
        length = max(collation.length(record) for record in records) - 1
        kept = {name: values[rows, :length] if values.ndim == 2 else values[rows] for name, values in self.kept.items()}
        return collation.collate([(record, {}) for record in records]) | kept

    def seen(self, model: Any, batch: Batch) -> tuple[dict[str, Any], Tensor]:
        """Return the batch with the current weights' values and entropies, and their log-probs, all RxT. `model` may be wrapped."""
        head = getattr(getattr(model, "module", model), HEAD)
        values_N, logits_NV = answer_outputs(model, batch, lambda hidden_ND: head(hidden_ND.to(head.weight.dtype))[:, 0].float())
        logps_N, entropy_N = logps_and_entropy(logits_NV, batch["target_N"], self.settings.temperature)
        placed_RT = {"values_RT": placed(values_N, batch), "entropy_RT": placed(entropy_N, batch)}
        return {**batch, **placed_RT}, placed(logps_N, batch)

    # -- an iteration's answers --------------------------------------------------------------------------------------------

    def _sample(self, iteration: int, asked: Sequence[collation.Asked]) -> None:
        if self.sampler is not self.model:
            for own, weights in zip(self.sampler.parameters(), self.model.parameters(), strict=True):
                if weights.requires_grad:
                    own.data.copy_(processes.full_tensor(weights))
        replies = self.sampled(iteration, asked)
        records: list[collation.Record] = [
            (collation.Row(np.array([*prompt.ids, *reply.tokens], dtype=np.int32), len(prompt.ids)),)
            for prompt, reply in zip(asked, replies, strict=True)
        ]
        said = [self.prompt_format.reply(reply.tokens) for reply in replies]
        answers = [Example(prompt.messages, text) for prompt, (text, _) in zip(asked, said, strict=True)]
        batch, reference_RT = self._views(records)
        batch |= {
            "scores_R": torch.tensor(processes.map_across(self._scores, answers)),
            "ended_R": torch.tensor([reply.ended == "stop" and closed for reply, (_, closed) in zip(replies, said, strict=True)]),
            "before": self.kept,
        }
        self.kept = self.algorithm.prepare(batch, reference_RT)
        self.iteration, self.records = iteration, records

    def _scores(self, answers: Sequence[Example]) -> list[float]:
        return self.rewarder.scores(answers, 2 * self.stage.batch_size).tolist()

    def sampled(self, iteration: int, asked: Sequence[collation.Asked]) -> list[Reply]:
        settings = EvaluationSettings(temperature=self.settings.temperature, max_new_tokens=self.settings.max_new_tokens)
        seen: dict[tuple[int, ...], int] = {}
        wanted = []
        for prompt in asked:
            draw = seen[prompt.ids] = seen.get(prompt.ids, -1) + 1
            wanted.append(Wanted(prompt.ids, row_words(self.seed, digest("rollout", iteration, prompt.ids), draw)))
        inner = self.sampler.get_base_model() if isinstance(self.sampler, PeftModel) else self.sampler
        ends = self.prompt_format.ending(inner)
        return processes.map_across(lambda part: decode(inner.eval(), part, settings, ends), wanted)

    @torch.no_grad()
    def _views(self, records: Sequence[collation.Record]) -> tuple[dict[str, Any], Tensor]:
        """Return all answers as one batch with the current weights' log-probs and values, and the starting weights' log-probs."""
        whole = collation.collate([(record, {}) for record in records])
        shape_RT, size = whole["input_ids"].shape, 2 * self.stage.batch_size
        logps_RT, values_RT, reference_RT = (torch.zeros(shape_RT) for _ in range(3))
        starts = range(0, len(records), size)
        views = processes.map_across(functools.partial(self._views_of, records, size), starts)
        for start, parts in zip(starts, views, strict=True):
            place = (slice(start, start + size), slice(parts[0].shape[1]))
            logps_RT[place], values_RT[place], reference_RT[place] = parts
        return whole | {"old_logps_RT": logps_RT, "old_values_RT": values_RT}, reference_RT

    def _views_of(self, records: Sequence[collation.Record], size: int, starts: Sequence[int]) -> list[tuple[Tensor, ...]]:
        """Return log-probs, values and reference log-probs of the `size` records from each start."""
        found: list[tuple[Tensor, ...]] = []
        for start in starts:
            batch = collation.collate([(record, {}) for record in records[start : start + size]])
            batch = {name: values.to(self.sampler.device) if isinstance(values, Tensor) else values for name, values in batch.items()}
            now, now_RT = self.seen(self.sampler, batch)
            found.append((now_RT.cpu(), now["values_RT"].cpu(), self._reference(batch).cpu()))
        return found

    def _reference(self, batch: Batch) -> Tensor:
        if self.reference is None:
            with self.sampler.disable_adapter():
                _, logits_NV = answer_outputs(self.sampler, batch)
        else:
            _, logits_NV = answer_outputs(self.reference.to(self.sampler.device), batch)
        return placed(logps_and_entropy(logits_NV, batch["target_N"], self.settings.temperature)[0], batch)

    # -- resume ------------------------------------------------------------------------------------------------------------

    def save(self, checkpoint: Path) -> None:
        """Write the value head and the iteration's answers, which a resume needs, into a checkpoint. All processes call it."""
        head = {name: processes.full_tensor(weights).detach().cpu() for name, weights in self.head.named_parameters()}
        if processes.rank():
            return
        rows = [row for record in self.records for row in record]
        tensors = {
            "iteration": torch.tensor(self.iteration),
            "ids": torch.from_numpy(np.concatenate([row.ids for row in rows])),
            "n_ids": torch.tensor([len(row.ids) for row in rows]),
            "n_prompt": torch.tensor([row.n_prompt for row in rows]),
        }
        save_file(tensors | {f"kept.{name}": values.contiguous() for name, values in self.kept.items()}, checkpoint / ROLLOUTS)
        save_file(head, checkpoint / VALUE_HEAD)

    def load(self, checkpoint: Path) -> None:
        """Load what `save` wrote. Call it before the weights are sharded."""
        tensors = load_file(checkpoint / ROLLOUTS)
        self.iteration = int(tensors["iteration"])
        ids = tensors["ids"].split(tensors["n_ids"].tolist())
        self.records = [(collation.Row(row.numpy(), n),) for row, n in zip(ids, tensors["n_prompt"].tolist(), strict=True)]
        self.kept = {name.removeprefix("kept."): values for name, values in tensors.items() if name.startswith("kept.")}
        self.head.load_state_dict(load_file(checkpoint / VALUE_HEAD))


def logps_and_entropy(logits_NV: Tensor, target_N: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Return log π of each token, and the entropy in nats without gradient, both at the sampling temperature."""
    logps_NV = torch.log_softmax(logits_NV.float() / temperature, -1)
    with torch.no_grad():
        entropy_N = -(logps_NV.exp() * logps_NV).sum(-1)
    return logps_NV.gather(1, target_N[:, None])[:, 0], entropy_N
