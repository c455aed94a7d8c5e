"""Regional torch.compile: the numbers of eager mode, and no new graph once each kind of call has been met."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_runs import LORA, TINY, ready_trainer

from apex_cli.backbones import compiling
from apex_cli.errors import SetupError

TWO = {"tiny": TINY | {"layers": 2}, "max_tokens": 64}
STEPS = {"steps": 4, "batch": 4, "telemetry_every": 10**6}
needs_compiler = pytest.mark.skipif(compiling.compiler() is None, reason="there is no C++ compiler")


def losses(folder, **sections) -> tuple[list[float], list[int]]:
    """(loss of each step, graphs compiled by then)."""
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    trainer = ready_trainer(folder, **sections)
    found, graphs = [], []
    for _ in range(STEPS["steps"]):
        found.append(trainer._optimize()[0])
        graphs.append(torch._dynamo.utils.counters["stats"]["unique_graphs"])
    return found, graphs


@needs_compiler
@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize(
    ("train", "kinds"),
    [({}, 1), (LORA, 2), (LORA | {"gradient_checkpointing": 1.0}, 2)],
    ids=["full", "lora", "checkpointed"],
)
def test_losses_are_those_of_eager_mode(tmp_path, train, kinds):
    """Two blocks of one class are one graph; under LoRA two, because the first one's input needs no gradient."""
    sections = {"backbone": TWO, "objective": {"name": "fm"}}
    eager, none = losses(tmp_path, **sections, train=STEPS | train)
    compiled, graphs = losses(tmp_path, **sections, train=STEPS | train | {"compile": True})
    np.testing.assert_allclose(compiled, eager, rtol=1e-5)
    assert none[-1] == 0
    assert graphs[0] >= kinds
    assert graphs[0] == kinds or graphs[1] == graphs[-1]  # a second prompt length makes graphs for any length
    assert graphs[1] == graphs[-1]


def test_without_a_compiler_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(compiling, "compiler", lambda: None)
    with pytest.raises(SetupError, match=r"needs a C\+\+ compiler"):
        losses(tmp_path, backbone=TWO, objective={"name": "fm"}, train=STEPS | {"compile": True})
