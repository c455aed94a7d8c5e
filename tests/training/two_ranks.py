"""Several `apex` commands on the ranks of one torchrun, so that the libraries are imported once.

    torchrun --nproc_per_node 2 two_ranks.py PORT '[["train", RECIPE, "--out", FOLDER], ...]'

Command i meets at PORT + i. Every command must succeed; each network that is sharded says how much of it lies here.
"""

from __future__ import annotations

import json
import os
import sys

import torch
from tiny_runs import apex

from apex_cli.training import sharding

shard = sharding.shard


def telling_shard(network: torch.nn.Module, *rest: object) -> None:
    shard(network, *rest)
    here = sum(sharding.local(value).numel() for value in network.parameters())
    print(f"sharded: {here / sum(value.numel() for value in network.parameters()):.2f}", file=sys.stderr)


if __name__ == "__main__":
    torch.set_num_threads(1)
    sharding.shard = telling_shard
    del os.environ["TORCHELASTIC_USE_AGENT_STORE"]  # its keys would meet those of the command before
    for port, command in enumerate(json.loads(sys.argv[2]), int(sys.argv[1])):
        os.environ["MASTER_PORT"] = str(port)
        if code := apex(*command):
            sys.exit(code)
