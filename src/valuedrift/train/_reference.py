"""The starting weights' view of the answers: computed once per content, and shared by stages whose folders lie side by side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import Tensor

from .. import progress
from ..distributed import processes
from ..nouns import digest
from ..parts import file_digest
from ..store import Store, set_aside
from . import BaseAlgorithm, collation

FORMULA = 1
"""To be raised with every change of how log-probs are computed: stored ones are then not taken for new ones."""

View = Callable[[Sequence[collation.Record]], list[Tensor]]
"""Gives the log-probs of each record's answer tokens, row after row, under the weights at hand."""


class Reference:
    """The starting weights' view of any records, for any algorithm.

    What is stored in `folder` knows no algorithm: the log-prob of each answer token, in a file named by the weights, by what decides the
    rounding (bfloat16 autocast, and how many records share a pass), and by the tokens.
    """

    def __init__(self, folder: Path, weights: str, bf16: bool, batch_size: int, view: View):
        self.store, self.batch_size, self.view = Store(folder), batch_size, view
        self.key = ("reference", FORMULA, weights, bf16, batch_size)

    def kept(self, algorithm: BaseAlgorithm, records: Sequence[collation.Record]) -> dict[str, Tensor]:
        """Return what the algorithm keeps, one entry per record, in the records' order: nothing where it needs no reference."""
        if "reference" not in algorithm.needs:
            return {}
        rows = self._stored(records).split([row.n_answer for record in records for row in record])
        width, parts = len(records[0]), []
        for start in range(0, len(records), self.batch_size):
            batch = collation.collate([(record, {}) for record in records[start : start + self.batch_size]])
            own = rows[start * width : (start + self.batch_size) * width]
            logps_RT = torch.zeros(batch["answer_mask_RT"].shape)
            logps_RT[batch["answer_mask_RT"]] = torch.cat([row_N for kind in range(width) for row_N in own[kind::width]])
            parts.append(algorithm.prepare(batch, logps_RT))
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _stored(self, records: Sequence[collation.Record]) -> Tensor:
        stem = digest(*self.key, _tokens_digest(records))
        path = processes.broadcast(lambda: self._whole(stem))
        if path is None:
            written = save({"logps_N": torch.cat(self.view(records))})
            name = f"{stem}-{hashlib.sha256(written).hexdigest()[:16]}.safetensors"
            path = processes.broadcast(lambda: self.store.write_bytes(name, written))
        return load_file(path)["logps_N"]

    def _whole(self, stem: str) -> Path | None:
        """Return the file of some log-probs, which carries the digest of its bytes in its name; a damaged one is set aside."""
        for path in sorted(self.store.root.glob(f"{stem}-*.safetensors")):
            if file_digest(path).startswith(path.stem.partition("-")[2]):
                return path
            progress.say(f"{path} is damaged; it was set aside as {set_aside(path).name} and is made again")
        return None


def weights_digest(model: Any) -> str:
    """Return the digest of a model's weights and architecture, wherever they were read from.

    An adapter counts for nothing: before the first step it changes no output, whatever random numbers it holds.
    """
    state = hashlib.sha256(str(sorted(model.config.to_diff_dict().items(), key=lambda entry: entry[0])).encode())
    for name, values in model.state_dict().items():
        if "lora_" not in name:
            state.update(f"{values.dtype}{tuple(values.shape)}".encode())
            state.update(values.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return state.hexdigest()


def _tokens_digest(records: Sequence[collation.Record]) -> str:
    state = hashlib.sha256()
    for record in records:
        for row in record:
            state.update(np.array([len(record), row.n_prompt, len(row.ids)]).tobytes())
            state.update(row.ids.tobytes())
    return state.hexdigest()
