"""The planned peak against what the allocator really gave to a real step of the loop."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import pytest
from accelerate.state import AcceleratorState
from tiny_runs import LORA, TINY, write_recipe
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from apex_cli import build, recipe
from apex_cli.training.loop import Trainer

DEEP = {"tiny": TINY | {"layers": 4}}
STEPS = {"steps": 4, "batch": 16, "telemetry_every": 1000}
CONFIGURATIONS = {
    "full": {"objective": {"name": "fm"}, "train": STEPS},
    "base with average": {"objective": {"name": "apex", "real": "base"}, "train": STEPS | {"ema": 0.9}},
    "lora in pieces": {
        "objective": {"name": "apex", "lambda_g": 0},
        "train": STEPS | LORA | {"micro_batch": 8, "gradient_checkpointing": 1.0},
    },
    "bf16": {"objective": {"name": "apex"}, "train": STEPS | {"precision": "bf16"}},
}


def state(made: Trainer) -> int:
    """Bytes that the loop holds between two steps."""
    storages = [tensor.untyped_storage() for tensor in held(made)]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(made: Trainer) -> Iterator[Tensor]:
    networks = [part for part in made.backbone.pipeline.components.values() if isinstance(part, nn.Module)]
    networks += [network for network in (made.objective.modules, copied(made)) if network is not None]
    for network in networks:
        yield from (*network.parameters(), *network.buffers())
    for entry in made.optimizer.state.values():
        yield from entry.values()
    yield from made.ema.shadow_params if made.ema is not None else ()


def copied(made: Trainer) -> nn.Module | None:
    """The second network behind `v_real`, if there is one."""
    owner = getattr(made.nets.real, "__self__", None)
    return None if owner in (None, made) else owner.network


def highest(made: Trainer) -> int:
    """The most bytes that a step takes at once on top of the state, by the allocator's own record."""
    from torch._C._profiler import _EventType

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        made._optimize()
    events, waiting = [], list(record.profiler.kineto_results.experimental_event_tree())
    while waiting:
        event = waiting.pop()
        waiting += event.children
        if event.tag == _EventType.Allocation:
            events.append((event.start_time_ns, event.extra_fields.alloc_size))
    now = peak = 0
    for _, size in sorted(events, key=lambda event: event[0]):
        now += size
        peak = max(peak, now)
    return peak


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_the_planned_peak_is_the_measured_one(name, tmp_path):
    read = recipe.load(write_recipe(tmp_path / "r.toml", backbone={**DEEP, "max_tokens": 64}, **CONFIGURATIONS[name]))
    AcceleratorState._reset_state(reset_partial_state=True)
    made = Trainer(build.job(read, tmp_path / "run"))
    deque(made._encode(), maxlen=0)
    made._optimize()
    before = state(made)
    measured, planned = before + highest(made), build.plan(read).memory
    print(f"\n{name}: planned {planned.peak:,}, measured {measured:,}, state {before:,}; {planned}")
    assert measured > 1.2 * before
    assert planned.peak == pytest.approx(measured, rel=0.1)
