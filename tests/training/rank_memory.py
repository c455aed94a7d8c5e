"""What one rank holds and what a step asks of its allocator, for several recipes on the ranks of one torchrun.

    torchrun --nproc_per_node 2 rank_memory.py PORT '[[RECIPE, FOLDER], ...]'

Recipe i meets at PORT + i and leaves FOLDER/RANK.json. What the transport takes for itself is left
out: gloo gathers into a tensor of its own, NCCL works in place.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import allocator
import torch
from accelerate.state import AcceleratorState
from torch.distributed.fsdp._fully_shard._fsdp_collectives import DefaultAllGather, DefaultReduceScatter

from apex_cli import build, recipe
from apex_cli.training.loop import Trainer
from apex_cli.training.sharding import local

STEPS = 3
"""That are recorded; the one with the least counts."""
LATE = 0.005
"""Seconds in which a thread of gloo lets go of what it has sent."""


def punctual(collective: Callable[..., Any]) -> Callable[..., Any]:
    """`collective`, over when its threads have let go of its buffers, which else count beside those that follow."""

    def done(*args: Any, **kwargs: Any) -> Any:
        work = collective(*args, **kwargs)
        if work is not None:
            work.wait()
        time.sleep(LATE)
        return work

    return done


def measured(read: recipe.Recipe, folder: Path) -> dict[str, int]:
    """Bytes of this rank, by the names that a plan gives them."""
    made = Trainer(build.job(read, folder))
    deque(made._encode(), maxlen=0)
    made._optimize()
    before, gradients, values = allocator.state(made), [], made.state.values
    made.state.optimizer.register_step_pre_hook(lambda *_: gradients.append(_bytes(p.grad for p in values)))
    taken = [allocator.parted(allocator.record(made), "gloo:", "c10d::")[1] for _ in range(STEPS)]
    gathered = [allocator.parted(step, "FSDP::all_gather")[0] for step in taken]
    network = list(made.backbone.network.parameters())
    return {
        "weights": _bytes(network),
        "optimizer": _bytes(v for entry in made.state.optimizer.state.values() for v in entry.values()),
        "gradients": gradients[0],
        "gathered weights": min(map(allocator.most, gathered)),
        "peak": before + min(map(allocator.most, taken)),
    }


def _bytes(values: Any) -> int:
    return sum(local(value).nbytes for value in values if value is not None)


if __name__ == "__main__":
    torch.set_num_threads(1)
    for kind in (DefaultAllGather, DefaultReduceScatter):
        kind.__call__ = punctual(kind.__call__)
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]  # its keys would meet those of the recipe before
    for port, (file, folder) in enumerate(json.loads(sys.argv[2]), int(sys.argv[1])):
        os.environ["MASTER_PORT"] = str(port)
        AcceleratorState._reset_state(reset_partial_state=True)
        found = measured(recipe.load(file), Path(folder))
        (Path(folder) / f"{os.environ['RANK']}.json").write_text(json.dumps(found))
