"""What a trainer holds between two steps, and what torch's allocator gives to a step, by its own record."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

from apex_cli.training.loop import Trainer
from apex_cli.training.sharding import local


@dataclass(frozen=True)
class Given:
    """Memory that the allocator gave (`size` > 0) or got back."""

    address: int
    size: int
    inside: tuple[str, ...]
    """Names of what was running, the outermost first."""


def state(made: Trainer) -> int:
    """Bytes that the loop holds between two steps on this rank."""
    return size(held(made))


def size(tensors: Iterable[Tensor]) -> int:
    """Bytes of what lies here of `tensors`, each storage counted once."""
    storages = [local(tensor).untyped_storage() for tensor in tensors]
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def held(made: Trainer) -> Iterator[Tensor]:
    networks = [part for part in made.backbone.pipeline.components.values() if isinstance(part, nn.Module)]
    networks += [network for network in (made.objective.modules, copied(made)) if network is not None]
    for network in networks:
        yield from (*network.parameters(), *network.buffers())
    for entry in made.state.optimizer.state.values():
        yield from entry.values()
    yield from made.state.ema.shadow_params if made.state.ema is not None else ()


def copied(made: Trainer) -> nn.Module | None:
    """The second network behind `v_real`, if there is one."""
    owner = getattr(made.nets.real, "__self__", None)
    return None if owner in (None, made) else owner.network


def record(made: Trainer) -> list[Given]:
    """What one step asks of the allocator, in order."""
    from torch._C._profiler import _EventType

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        made._optimize()
    found: list[tuple[int, Given]] = []
    waiting: list[tuple[Any, tuple[str, ...]]] = [
        (event, ()) for event in recorded.profiler.kineto_results.experimental_event_tree()
    ]
    while waiting:
        event, inside = waiting.pop()
        if event.tag == _EventType.Allocation:
            fields = event.extra_fields
            found.append((event.start_time_ns, Given(fields.ptr, fields.alloc_size, inside)))
        waiting += [(child, (*inside, event.name)) for child in event.children]
    return [given for _, given in sorted(found, key=lambda row: row[0])]


def most(given: Iterable[Given]) -> int:
    """The most bytes at once."""
    now = peak = 0
    for one in given:
        now += one.size
        peak = max(peak, now)
    return peak


def parted(given: Iterable[Given], *prefixes: str) -> tuple[list[Given], list[Given]]:
    """(Memory that was asked for inside of something whose name starts so, all other), each with when it went back."""
    alive: set[int] = set()
    inside: list[Given] = []
    others: list[Given] = []
    for one in given:
        if one.size > 0 and any(name.startswith(prefixes) for name in one.inside):
            alive.add(one.address)
            inside.append(one)
        elif one.address in alive:
            alive.remove(one.address)
            inside.append(one)
        else:
            others.append(one)
    return inside, others
