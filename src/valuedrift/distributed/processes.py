"""Several processes that train together, as `accelerate launch` and `torchrun` start them: all were given one command, the first carries it
out, and the others wait until it trains a stage, train it with it, and wait again.

What they tell each other here goes over the CPU; gradients and shards are the Trainer's.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from ..nouns import BadInput, Stopped

if TYPE_CHECKING:
    import torch
    from torch import Tensor

LONGEST_WAIT = timedelta(days=30)
"""The others wait while the first asks every checkpoint of a grid."""


def n() -> int:
    """Return how many processes there are. Only launchers number those of a machine: clusters set the rest for whatever is run on them."""
    return int(os.environ.get("WORLD_SIZE", "1")) if {"MASTER_ADDR", "LOCAL_RANK"} <= os.environ.keys() else 1


def number() -> int:
    """Return this process's number; the first is 0."""
    return int(os.environ["RANK"]) if n() > 1 else 0


def shards() -> str:
    """Return by what the launcher was told to cut weights into shards: DeepSpeed, FSDP1 or FSDP2; empty where it was not."""
    for kind, name in {"DEEPSPEED": "DeepSpeed", "FSDP": f"FSDP{os.environ.get('FSDP_VERSION', '1')}"}.items():
        if os.environ.get(f"ACCELERATE_USE_{kind}", "").lower() == "true":
            return name
    return ""


def checkpoints() -> bool:
    """Tell whether the launcher was told to have FSDP keep no activations of layers and compute them twice."""
    return shards().startswith("FSDP") and os.environ.get("FSDP_ACTIVATION_CHECKPOINTING", "").lower() == "true"


@contextlib.contextmanager
def reading_all() -> Iterator[None]:
    """Have every process read the weights of models, where FSDP was told to spare the others that."""
    key = "FSDP_CPU_RAM_EFFICIENT_LOADING"
    before = os.environ.get(key)
    try:
        os.environ[key] = "false"
        yield
    finally:
        os.environ.pop(key)
        if before is not None:
            os.environ[key] = before


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Let the first process do what stands in the block; the others help it to train and then leave the program.

    Where the block raises, the first process leaves too, and the launcher ends the others, wherever they wait.
    """
    if n() == 1:
        yield
        return
    import torch.distributed

    _group()
    if number():
        code = _follow()
    else:
        yield
        _tell(None)
    _group.cache_clear()
    torch.distributed.destroy_process_group()
    if number():
        sys.exit(code)


def _follow() -> int:
    """Do what the first process does with the others, until it has nothing more; return the exit code. Bad input is said by the first."""
    waiting = True
    try:
        while (told := _tell(None)) is not None:
            waiting, (function, given) = False, told
            _done(function, *given)
            waiting = True
    except (BadInput, Stopped, KeyboardInterrupt):
        return 1
    except BaseException:
        if not waiting:  # while it waits, only the first can have gone, and that one says why
            traceback.print_exc()
        return 1
    return 0


def with_all(function: Callable[..., Any], *given: Any, **here: Any) -> Any:
    """Call a function in all processes at once, and return what it returns in the first, which alone is given what is named.

    The function and the other arguments can be pickled.
    """
    _tell((function, given))
    return _done(function, *given, **here)


def _done(function: Callable[..., Any], *given: Any, **here: Any) -> Any:
    """Return what a function returns; DeepSpeed's settings do not outlive it, because one process alone cannot read a model in shards."""
    try:
        return function(*given, **here)
    finally:
        if shards() == "DeepSpeed":
            from transformers.integrations.deepspeed import unset_hf_deepspeed_config

            unset_hf_deepspeed_config()


def _tell(told: tuple[Callable[..., Any], tuple[Any, ...]] | None) -> Any:
    """Return what the first process tells: what to call with which arguments, or None where there is nothing more to do."""
    return first(lambda: told)


@functools.cache
def _group() -> Any:
    import torch.distributed
    from accelerate import PartialState

    PartialState(cpu=not torch.accelerator.is_available(), timeout=timedelta(hours=1))  # meets the others, as accelerate's settings say
    return torch.distributed.new_group(backend="gloo", timeout=LONGEST_WAIT)


def device() -> torch.device:
    """Return the device of this process."""
    import torch
    from accelerate import PartialState

    return PartialState(cpu=not torch.accelerator.is_available()).device


def first(make: Callable[[], Any]) -> Any:
    """Return in all processes what `make` returns in the first; the others do not call it."""
    if n() == 1:
        return make()
    import torch.distributed

    made = [None if number() else make()]
    torch.distributed.broadcast_object_list(made, src=0, group=_group())
    return made[0]


def gathered(own: Any) -> list[Any]:
    """Return what each process gives, in the order of their numbers."""
    if n() == 1:
        return [own]
    import torch.distributed

    found: list[Any] = [None] * n()
    torch.distributed.all_gather_object(found, own, group=_group())
    return found


def shared(work: Callable[[Sequence[Any]], Sequence[Any]], items: Sequence[Any]) -> list[Any]:
    """Return what `work` makes of all items, one of each, in their order; each process does a part.

    All are given equally many, some the first item once more: sharded weights need equally many passes.
    """
    own = [*items[number() :: n()]]
    own += [*items[:1]] * (-(-len(items) // n()) - len(own))
    made = gathered(list(work(own)))
    return [made[place % n()][place // n()] for place in range(len(items))]


def alike(model: Any) -> Any:
    """Give a model in all processes the weights that it has in the first, and return it; launchers may have the others read none."""
    if n() > 1:
        import torch.distributed

        for tensor in [*model.parameters(), *model.buffers()]:
            torch.distributed.broadcast(tensor.data, src=0)
    return model


def whole(weights: Tensor) -> Tensor:
    """Return weights that all processes may hold in shards (FSDP2, DeepSpeed) as they are together; all ask for them at once."""
    from torch.distributed.tensor import DTensor

    if isinstance(weights, DTensor):
        return weights.full_tensor()
    if hasattr(weights, "ds_id"):
        import deepspeed

        with deepspeed.zero.GatheredParameters([weights]):
            return weights.data.clone()
    return weights


def means(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, float]:
    """Return the mean over all entries of all parts of all processes, by name; a process may have no part."""
    own = {name: (sum(part[name].sum().item() for part in parts), sum(part[name].numel() for part in parts)) for name in (parts or [{}])[0]}
    found: dict[str, tuple[float, int]] = {}
    for each in gathered(own):
        for name, (total, count) in each.items():
            before = found.get(name, (0.0, 0))
            found[name] = before[0] + total, before[1] + count
    return {name: total / count for name, (total, count) in found.items()}


class Places:
    """The places of the records that this process learns from, batch by batch: its share of each batch of `n()` * `size` places.

    All processes have equally many batches. Where the last ones are too short for all, a process without a share gets the batch's first
    place, which counts for nothing (`share` is 0): every process must take part in every pass.
    """

    def __init__(self, n_places: int, size: int):
        self.n_places, self.size = n_places, size

    def __len__(self) -> int:
        return -(-self.n_places // (self.size * n()))

    def share(self, batch: int) -> int:
        """Return how many records of a batch are this process's."""
        start = (batch * n() + number()) * self.size
        return max(0, min(self.n_places - start, self.size))

    def together(self, batch: int) -> int:
        """Return how many records of a batch all processes have."""
        return min(self.n_places - batch * n() * self.size, n() * self.size)

    def of(self, batch: int) -> list[int]:
        """Return the places of a batch."""
        start = (batch * n() + number()) * self.size
        return list(range(start, start + self.share(batch))) or [batch * n() * self.size]

    def __iter__(self) -> Iterator[list[int]]:
        yield from map(self.of, range(len(self)))
