"""A script of this folder on two gloo ranks of one torchrun."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

HERE = Path(__file__).resolve().parent


def on_two_ranks(script: str, tasks: Sequence[Sequence[object]]) -> str:
    """Run `script PORT TASKS`, the tasks as JSON, on both ranks; what they wrote to stderr. Task i may meet at
    PORT + i."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = json.dumps([[str(word) for word in words] for words in tasks])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    path = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*launch, str(HERE / script), str(port), told],
        cwd=HERE.parents[1], capture_output=True, text=True, check=False, env=os.environ | {"PYTHONPATH": path},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stderr
