"""Reference log-probs: computed once per weights and data, and shared by the stages of a run folder."""

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
from ..nouns import digest
from ..parts import file_digest
from ..store import Store, set_aside
from . import BaseAlgorithm, collation, processes

FORMULA = 1
"""Raise this with every change of how log-probs are computed, so that stored ones are not reused."""

View = Callable[[Sequence[collation.Record]], list[Tensor]]
"""Returns the current weights' log-probs of each record's answer tokens, row after row."""


class Reference:
    """The starting weights' log-probs of any records, for any algorithm.

    `folder` holds the log-prob of each answer token, in a file named by the weights, the tokens, and what decides the rounding (bfloat16
    autocast, and the number of records per pass).
    """

    def __init__(self, folder: Path, weights: str, bf16: bool, batch_size: int, view: View):
        self.store, self.batch_size, self.view = Store(folder), batch_size, view
        self.key = ("reference", FORMULA, weights, bf16, batch_size)

    def kept(self, algorithm: BaseAlgorithm, records: Sequence[collation.Record]) -> dict[str, Tensor]:
        """Return what the algorithm keeps, one entry per record, in the records' order; nothing if it needs no reference."""
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
        """Return the stored file whose bytes match the digest in its name. A damaged file is set aside."""
        for path in sorted(self.store.root.glob(f"{stem}-*.safetensors")):
            if file_digest(path).startswith(path.stem.partition("-")[2]):
                return path
            progress.say(f"{path} is damaged; it was set aside as {set_aside(path).name} and is computed again")
        return None


def weights_digest(model: Any) -> str:
    """Return the digest of a model's weights and architecture, wherever they were loaded from.

    An adapter is left out: before the first step it changes no output, whatever its random weights.
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
