"""The command line in a process on a CPU that accelerate takes for one of a GPU: it cuts weights into shards there only."""

import os

import torch.distributed
from accelerate import state
from accelerate.utils import DistributedType

from valuedrift.cli import main

os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
state.PartialState._prepare_backend = lambda self, *given: ("gloo", DistributedType.MULTI_GPU)
torch.distributed.init_process_group("gloo")
main()
