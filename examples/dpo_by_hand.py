"""DPO by hand: a tiny random model learns to prefer the sandbox's chosen answers, with a loop of a dozen lines.

python examples/dpo_by_hand.py [steps]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from valuedrift import testing
from valuedrift.models.loading import load_model
from valuedrift.train.collation import collate, tokenised
from valuedrift.train.dpo import dpo_loss
from valuedrift.train.logprobs import answer_logps
from valuedrift.world import sets

BETA = 0.1
BATCH_SIZE = 8


def logps_of(model: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, ...]:
    """Return the summed log-probs of the chosen and of the rejected answers."""
    return answer_logps(model, batch).sum(1).chunk(2)


def train(folder: str, n_steps: int) -> list[float]:
    """Train the model of a folder on sandbox pairs and return the loss of every step."""
    model, tokenizer = load_model(folder, "cpu", "float32")
    reference, _ = load_model(folder, "cpu", "float32")
    tokenizer.chat_template = testing.TEMPLATE
    pairs = sets.pairs({"n": str(BATCH_SIZE * 4), "gap": "1"})
    records, _ = tokenised(tokenizer, pairs, max_length=256)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    losses = []
    for step in range(n_steps):
        start = step * BATCH_SIZE % len(records)
        batch = collate([(record, {}) for record in records[start : start + BATCH_SIZE]])
        with torch.no_grad():
            reference_logps = logps_of(reference, batch)
        loss = dpo_loss(*logps_of(model, batch), *reference_logps, BETA).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as root:
        losses = train(testing.save_model(Path(root)), int(sys.argv[1]) if len(sys.argv) > 1 else 20)
    print(f"loss {losses[0]:.3f} (ln 2, as model and reference are equal), then {losses[-1]:.3f} after {len(losses)} steps")
