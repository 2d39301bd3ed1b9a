"""Trains the stages of a run again in the processes of a launcher: `train_again.py RUN OUT`.

The processes are on a CPU. With an accelerate configuration that shards weights, accelerate takes them for processes on GPUs, because it
shards nothing else.
"""

import os
import shutil
import sys
from pathlib import Path

import torch.distributed
from accelerate import state
from accelerate.utils import DistributedType

from valuedrift.train import processes, task

if processes.sharding():
    os.environ["ACCELERATE_TORCH_DEVICE"] = "cpu"
    state.PartialState._prepare_backend = lambda self, *given: ("gloo", DistributedType.MULTI_GPU)
    torch.distributed.init_process_group("gloo")
run, out = map(Path, sys.argv[1:])
for file in sorted(run.glob("stages/*/task.json")):
    again = out / "stages" / file.parent.name
    if not processes.rank():
        again.mkdir(parents=True)
        shutil.copy(file, again)
    processes.broadcast(lambda: None)
    task.train_folder(again)
    if processes.sharding() == "DeepSpeed":
        from transformers.integrations.deepspeed import unset_hf_deepspeed_config

        unset_hf_deepspeed_config()
processes.close()
