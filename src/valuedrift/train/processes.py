"""The processes that train one stage together, as `accelerate launch` and `torchrun` start them.

All of them run the same training. Messages between ranks here go over the CPU (gloo); the Trainer moves gradients and shards.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..nouns import BadInput

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LONGEST_WAIT = timedelta(hours=6)
"""The other ranks wait while rank 0 prepares or saves a model."""


def world_size() -> int:
    """Return the number of processes. Clusters set WORLD_SIZE for any program; only launchers also set LOCAL_RANK."""
    return int(os.environ.get("WORLD_SIZE", "1")) if {"MASTER_ADDR", "LOCAL_RANK"} <= os.environ.keys() else 1


def rank() -> int:
    """Return this process's rank."""
    return int(os.environ["RANK"]) if world_size() > 1 else 0


def sharding() -> str:
    """Return what shards the weights by the launcher's settings: "DeepSpeed", "FSDP1", "FSDP2", or "" if nothing does."""
    for kind, name in {"DEEPSPEED": "DeepSpeed", "FSDP": f"FSDP{os.environ.get('FSDP_VERSION', '1')}"}.items():
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true":
            return name
    return ""


def activation_checkpointing() -> bool:
    """Tell whether the launcher's settings ask FSDP for activation checkpointing."""
    return sharding().startswith("FSDP") and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "").lower() == "true"


def check_started_once() -> None:
    """Raise BadInput if a launcher started this command in several processes."""
    if world_size() > 1:
        raise BadInput(
            f"this command was started in {world_size()} processes, but only training uses several; start it once and give the launcher to "
            "--launch, for example: valuedrift run plan.toml --launch 'torchrun --nproc-per-node 8'"
        )


@functools.cache
def _group() -> Any:
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(hours=1))  # starts the process group by accelerate's settings
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def close() -> None:
    """End the process group."""
    if world_size() > 1:
        import torch.distributed

        _group.cache_clear()
        torch.distributed.destroy_process_group()


def device() -> torch.device:
    """Return the device of this process."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available()).device


def broadcast(make: Callable[[], Any]) -> Any:
    """Call `make` on rank 0 only and return its result on all ranks."""
    if world_size() == 1:
        return make()
    import torch.distributed

    made = [None if rank() else make()]
    torch.distributed.broadcast_object_list(made, src=0, group=_group())
    return made[0]


def all_gather(own: Any) -> list[Any]:
    """Return every rank's value, in the order of ranks."""
    if world_size() == 1:
        return [own]
    import torch.distributed

    found: list[Any] = [None] * world_size()
    torch.distributed.all_gather_object(found, own, group=_group())
    return found


def map_across(work: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
    """Split the items over the ranks, and return `work`'s result for each item, in order, on all ranks.

    Every rank gets equally many items, padded with the first one: sharded weights need equally many passes on every rank.
    """
    own = [*items[rank() :: world_size()]]
    own += [*items[:1]] * (-(-len(items) // world_size()) - len(own))
    made = all_gather(list(work(own)))
    return [made[index % world_size()][index // world_size()] for index in range(len(items))]


def broadcast_weights(model: Any) -> Any:
    """Copy rank 0's weights to all ranks and return the model; launchers may load them on rank 0 only."""
    if world_size() > 1:
        import torch.distributed

        for tensor in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(tensor.data, src=0)
    return model


def full_tensor(weights: Tensor) -> Tensor:
    """Return a tensor unsharded, if FSDP2 or DeepSpeed shards it. All ranks must call this together."""
    from torch.distributed.tensor import DTensor

    if isinstance(weights, DTensor):
        return weights.full_tensor()
    if hasattr(weights, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([weights]):
            return weights.data.clone()
    return weights


def means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return by name the mean over all entries of all parts on all ranks. A rank may have no part."""
    own = {name: (sum(part[name].sum().item() for part in parts), sum(part[name].numel() for part in parts)) for name in (parts or [{}])[0]}
    found: dict[str, tuple[float, int]] = {}
    for each in all_gather(own):
        for name, (total, count) in each.items():
            before = found.get(name, (0.0, 0))
            found[name] = before[0] + total, before[1] + count
    return {name: total / count for name, (total, count) in found.items()}


class DistributedBatchSampler:
    """Yields this rank's indices of each batch of `world_size()` * `size` samples, in order.

    All ranks yield equally many batches. A rank without a sample in the last batches yields the batch's first index and ignores its result
    (`n_local` is 0): every rank must take part in every pass.
    """

    def __init__(self, n_samples: int, size: int):
        self.n_samples, self.size = n_samples, size

    def __len__(self) -> int:
        return -(-self.n_samples // (self.size * world_size()))

    def n_local(self, batch: int) -> int:
        """Return how many samples of a batch this rank has."""
        start = (batch * world_size() + rank()) * self.size
        return max(0, min(self.n_samples - start, self.size))

    def n_global(self, batch: int) -> int:
        """Return how many samples of a batch all ranks have."""
        return min(self.n_samples - batch * world_size() * self.size, world_size() * self.size)

    def indices(self, batch: int) -> list[int]:
        """Return this rank's indices of a batch."""
        start = (batch * world_size() + rank()) * self.size
        return list(range(start, start + self.n_local(batch))) or [batch * world_size() * self.size]

    def __iter__(self) -> Iterator[list[int]]:
        yield from map(self.indices, range(len(self)))
