"""What a run is besides its step: weights, their average, and what the optimizer and its schedule remember."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from apex_cli.training import sharding
from apex_cli.training.parts import Parts
from apex_cli.training.settings import TrainConfig
from apex_cli.training.trained import Trained

OPTIMIZER, FACTS = "optimizer.safetensors", "state.json"


class State:
    """`params`: by name, what the optimizer changes. `ema`: their average, None where the run keeps none."""

    def __init__(self, parts: Parts, trained: Trained, config: TrainConfig, follower: nn.Module | None, together: bool):
        """`follower`: a transformer that carries the average. `together`: average all weights in a few launches, for
        which they are copied."""
        self.parts, self.trained, self.params, self.follower = parts, trained, trained.params, follower
        self.optimizer = torch.optim.AdamW(
            self.values, config.lr, config.betas, weight_decay=config.weight_decay, fused=True
        )
        self.scheduler = _scheduler(config, self.optimizer)
        self.ema = _average(self.values, config.ema, together) if config.ema else None

    @property
    def values(self) -> list[nn.Parameter]:
        return list(self.params.values())

    @property
    def lr(self) -> float:
        return self.optimizer.param_groups[0]["lr"]

    def advance(self) -> None:
        """Step along the gradients, which are gone then."""
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.ema is not None:
            self.ema.step(self.params.values())
            self._follow()

    def is_finite(self) -> bool:
        return all(bool(value.isfinite().all()) for value in self.values)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """The networks carry the averaged weights inside, if the run keeps an average."""
        if self.ema is None:
            yield
            return
        self.ema.store(self.values)
        self.ema.copy_to(self.values)
        try:
            yield
        finally:
            self.ema.restore(self.values)

    def average_anew(self) -> None:
        """The average is what the weights are now."""
        if self.ema is not None:
            self.ema.shadow_params = [value.detach().clone() for value in self.values]
            self._follow()

    def _follow(self) -> None:
        if self.follower is None or self.ema is None:
            return
        for name, value in zip(self.params, self.ema.shadow_params, strict=True):
            part, _, key = name.partition(".")
            if part == "transformer":
                sharding.local(self.follower.get_parameter(key)).copy_(value)

    def save(self, folder: Path | None) -> None:
        """`model/`, `ema/` and `state/`; where weights lie in shards the other ranks take part with None."""
        self.parts.save(folder and folder / "model")
        if self.ema is not None:
            with self.averaged():
                self.parts.save(folder and folder / "ema")
        names, tensors = list(self.params), {}
        for index, entry in self.optimizer.state_dict()["state"].items():
            for key, value in entry.items():
                tensors[f"{names[index]}/{key}"] = self.trained.gathered(names[index], value).contiguous()
        if folder is None:
            return
        (folder / "state").mkdir()
        save_file(tensors, folder / "state" / OPTIMIZER)
        facts: dict[str, Any] = {"scheduler": self.scheduler.state_dict()}
        if self.ema is not None:
            facts["average_steps"] = self.ema.optimization_step
        (folder / "state" / FACTS).write_text(json.dumps(facts))

    def load(self, folder: Path) -> None:
        """Inverse of `save`, into the modules that are already there."""
        facts = json.loads((folder / "state" / FACTS).read_text())
        if self.ema is not None:
            self.parts.load(folder / "ema")
            self.average_anew()
            self.ema.optimization_step = facts["average_steps"]
        self.parts.load(folder / "model")
        self.scheduler.load_state_dict(facts["scheduler"])
        names = {name: index for index, name in enumerate(self.params)}
        state: dict[int, dict[str, Tensor]] = {}
        with safe_open(folder / "state" / OPTIMIZER, "pt") as file:
            for key in file.keys():  # noqa: SIM118  # not a dict
                name, entry = key.rsplit("/", 1)
                state.setdefault(names[name], {})[entry] = self.trained.own(name, file.get_tensor(key))
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": state, "param_groups": groups})
        for group, lr in zip(self.optimizer.param_groups, self.scheduler.get_last_lr(), strict=True):
            group["lr"] = lr


def _scheduler(config: TrainConfig, optimizer: torch.optim.Optimizer) -> Any:
    from diffusers.optimization import get_scheduler

    name = {"constant": "constant_with_warmup"}.get(config.schedule, config.schedule)
    return get_scheduler(name, optimizer, num_warmup_steps=config.warmup, num_training_steps=config.steps)


def _average(values: list[nn.Parameter], decay: float, together: bool) -> Any:
    from diffusers.training_utils import EMAModel

    return EMAModel(values, decay=decay, foreach=together)
