"""Sets that the shipped teacher draws, and what lies in them."""

from __future__ import annotations

import hashlib

from safetensors.torch import load

from apex_cli.data.synth import synthesise

PROMPTS = ["a red cube", "a photo of a blue sphere and a green star", "a photo of three hearts", "a ring", "a star"]


def run(order, folder, part=0, parts=1):
    return [event.done for event in synthesise(order, folder, part, parts)]


def hashes(folder):
    files = (file for file in sorted(folder.rglob("*")) if file.is_file())
    return {str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def stored(folder, row):
    """What is stored beside a picture."""
    with (folder / row["shard"]).open("rb") as file:
        file.seek(row["extras_offset"])
        return load(file.read(row["extras_size"]))
