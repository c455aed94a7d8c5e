"""The training loop: one optimizer step after another, on any number of ranks, resumable to the bit.

Everything random is a function of (seed, step): the rows, the noise, the times. The state of a run is therefore its
weights, its averages, its optimizer and one integer; the same command again continues from the newest checkpoint.
"""

from __future__ import annotations

import copy
import json
import signal
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from datetime import timedelta
from math import isfinite
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from accelerate.utils import AutocastKwargs, InitProcessGroupKwargs, set_seed
from torch import Tensor

from apex_cli import __version__
from apex_cli.backbones.compiling import compile_blocks
from apex_cli.backbones.fast.graphs import mapped
from apex_cli.data.ahead import ahead
from apex_cli.errors import CheckpointError, NumericalError, Stopped, UsageError
from apex_cli.flow.condition import Cond
from apex_cli.generation import SampleConfig, generator
from apex_cli.objectives.base import Batch, Draws, Loss, Nets, Objective
from apex_cli.records import METRICS, Metrics, Progress, StepRecord
from apex_cli.training import checkpoint, lora, recorded, runs, sharding, trackers
from apex_cli.training.inputs import Inputs
from apex_cli.training.interruption import Interruption
from apex_cli.training.parts import Parts
from apex_cli.training.schedule import micro_slices
from apex_cli.training.settings import TrainConfig
from apex_cli.training.state import State
from apex_cli.training.telemetry import Telemetry
from apex_cli.training.trained import Trained

Micro = tuple[Batch, Draws]
PATIENCE = timedelta(hours=3)
"""How long ranks wait for each other: one of them reads the whole data set while the others do nothing."""


@dataclass
class Job:
    """A run, fully built. `identity`: what contract.json says about the backbone; `recipe`: the resolved TOML."""

    backbone: Any
    objective: Objective
    data: Any
    config: TrainConfig
    sample: SampleConfig
    folder: Path
    recipe: str
    identity: dict[str, Any]
    initial: Path | None = None
    """Weights to begin with, as `Parts.load_networks` reads them; None: those the backbone has."""
    warnings: tuple[str, ...] = ()
    """What the user should know before the first step."""
    on_sample: Callable[[Any, int], dict[str, float]] | None = None
    """(backbone, step): draws the fixed-seed grid of the current weights; returns facts for the telemetry. Where
    weights lie in shards all ranks call it, and the main process writes."""
    on_report: Callable[[], object] | None = None
    """Writes the page of the run; called after every grid and at the end."""
    tell: Callable[[str], object] = lambda _: None
    """Says a sentence to the user; it may be called from a signal handler."""


class Trainer:
    """Owns the state of one run; `run()` drives it."""

    def __init__(self, job: Job):
        self.job, self.config = job, job.config
        self.backbone, self.objective = job.backbone, job.objective
        if self.config.batch % (ranks := _ranks()):
            raise UsageError(f"train.batch = {self.config.batch} cannot be shared by {ranks} ranks.", "Change either.")
        self.sharded = sharding.wanted(self.config, self.objective.needs, _ranks())
        set_seed(self.config.seed)
        torch.set_float32_matmul_precision("high" if self.config.precision == "tf32" else "highest")
        self.accelerator = Accelerator(
            # Named, because without it accelerate runs torchrun's ranks on CPU as strangers.
            cpu=not torch.accelerator.is_available(),
            mixed_precision="bf16" if self.config.precision == "bf16" else "no",
            log_with=list(self.config.trackers) or None,
            project_dir=job.folder,
            kwargs_handlers=[
                AutocastKwargs(cache_enabled=sharding.shares_casts(self.config, self.sharded)),
                InitProcessGroupKwargs(timeout=PATIENCE),
            ],
        )
        self.parts = Parts(job.backbone, job.objective.needs, self.config, job.objective.modules)
        self.frozen = self._frozen()
        self._place()
        self.trained = Trained(self.parts.named, self.accelerator)
        recording = self.config.graphs and self.accelerator.device.type == "cuda"
        follower = self.frozen.network if self.objective.needs.real == "ema" else None
        self.state = State(self.parts, self.trained, self.config, follower, recording)
        self.nets = Nets(
            job.backbone.velocity, self._real(), getattr(job.backbone, "encode_images", None), job.backbone.decode
        )
        self.step = 0
        self.telemetry = Telemetry()
        about = _names(job.identity)
        self.inputs = Inputs(
            job.backbone, job.data, self.objective.needs, self.parts, self.config, self.accelerator, about, job.folder
        )
        self.recorded: recorded.Recorded | None = None
        """What answers for the forwards and backward of a step, where they are replayed."""
        if recording:
            recorded.check(self.config, self.backbone.network, self.sharded, self.inputs.live)
            self.recorded = recorded.Recorded(self._backward, self.state.values)
        self.fingerprint: str | None = None
        """Of the data set, once the run has begun."""
        self.interruption = Interruption(job.tell)

    # ---- one step ----------------------------------------------------------------------------------------------

    def _frozen(self) -> Any:
        """A backbone with a copy of the network, where v_real is neither the student nor its base."""
        kind = self.objective.needs.real
        if kind == "ema" and not self.config.ema:
            raise UsageError("objective.real = 'ema' asks for a weight average.", "Set train.ema, e.g. to 0.999.")
        if kind not in ("base", "ema") or (kind == "base" and self.parts.lora):
            return None
        frozen = copy.copy(self.backbone)
        frozen.network = copy.deepcopy(self.backbone.network).requires_grad_(False)
        return frozen

    def _place(self) -> None:
        """Bring everything to the accelerator; what is sharded never lies there whole."""
        device, copies = self.accelerator.device, [] if self.frozen is None else [self.frozen.network]
        if self.sharded:
            self.parts.shard(device, *copies)
        self.backbone.to(device)
        for module in copies:
            module.to(device)
            sharding.forget_forwards(module)
        if self.config.compile:
            for network in (self.backbone.network, *copies):
                compile_blocks(network, device, "Set train.compile = false.")
        if self.objective.modules is not None:
            self.objective.modules.to(device)

    def _real(self):
        """v_real as the objective wants it: the student itself is asked by the objective, so None for "self"."""
        if self.frozen is not None:
            return self.frozen.velocity
        return self._without_adapters if self.objective.needs.real == "base" else None

    def _without_adapters(self, x_t: Tensor, t: Tensor, cond: Cond) -> Tensor:
        with lora.disabled(self.backbone.network):
            return self.backbone.velocity(x_t, t, cond)

    def _ahead(self) -> Generator[Iterable[Micro]]:
        """What each of the remaining steps reads; beside CUDA a little ahead, in memory that it reads by itself."""
        steps = range(self.step, self.config.steps)
        if self.accelerator.device.type != "cuda" or self.inputs.live:
            yield from map(self._micros, steps)
        else:
            yield from ahead(lambda step: [_pinned(micro) for micro in self._micros(step)], steps, window=2, workers=1)

    def _micros(self, step: int) -> Iterator[Micro]:
        """The micro-batches of this rank at `step`, on the host."""
        config, accelerator = self.config, self.accelerator
        rows = self.inputs.order.rows(step)
        shape = (config.batch, *self.inputs.latent_shape(rows))
        draws = self.objective.draw(shape, generator(config.seed, step, 1), step / config.steps)
        for micro in micro_slices(
            config.batch, accelerator.num_processes, accelerator.process_index, config.micro_batch
        ):
            batch = self.inputs.batch(rows[micro].tolist())
            if self.recorded is not None and self.backbone.masks_text:
                batch = recorded.rounded(batch)
            yield batch, {key: value[micro] for key, value in draws.items()}

    def _placed(self, micro: Micro) -> Micro:
        """On the device; what was pinned travels while the kernels before it run."""
        return mapped(lambda tensor: tensor.to(self.accelerator.device, non_blocking=True), micro)

    def _share(self, batch: Batch) -> float:
        """Of a micro-batch in the mean over the global batch, times the number of ranks."""
        return len(batch) * self.accelerator.num_processes / self.config.batch

    def _backward(self, batch: Batch, draws: Draws, measure: bool = False) -> Loss:
        with self.accelerator.autocast(), self.parts.recompute.step():
            loss = self.objective.loss(self.nets, batch, draws)
        if measure:
            self.telemetry.measure(loss, self.trained.norm_of)
        loss.backward(self._share(batch))
        return loss

    def _optimize(self, micros: Iterable[Micro] | None = None) -> tuple[float, dict[str, float], float]:
        """One optimizer step on `micros`, or on those made now; returns the loss, its parts and the gradient norm,
        averaged over the global batch."""
        config, accelerator = self.config, self.accelerator
        measure = self.step % config.telemetry_every == 0
        sums: dict[str, Tensor] = {}
        terms: list[tuple[str, Sequence, Tensor]] = []
        replayed = None if measure else self.recorded  # a measured step is an ordinary one
        if replayed is not None:
            replayed.begin()
        for batch, draws in map(self._placed, self._micros(self.step) if micros is None else micros):
            loss = replayed(batch, draws) if replayed is not None else self._backward(batch, draws, measure)
            measure = False
            terms += [(name, batch.ids, part.detach().clone()) for name, part in loss.parts.items()]
            self.telemetry.watch(loss)
            for name, value in {"loss": loss.total, **loss.parts}.items():
                sums[name] = sums.get(name, 0) + value.detach() * self._share(batch)
        self.trained.reduce()
        if accelerator.num_processes > 1:
            sums = {name: cast(Tensor, accelerator.reduce(value, "mean")) for name, value in sums.items()}
        norm = self.trained.norm()
        values = self._look(terms, {"norm": norm, **sums})
        self.trained.clip(norm, config.clip)
        self.state.advance()
        self.step += 1
        return values.pop("loss"), values, values.pop("norm")

    def _look(self, terms: list[tuple[str, Sequence, Tensor]], facts: dict[str, Tensor]) -> dict[str, float]:
        """`facts` as numbers; raises for the first of `terms` (name, rows of its forward, value) that is not finite, or
        for the gradient. One look at all of it: each waits for the device."""
        asked = [*facts.values(), *(term for *_, term in terms)]
        looked = iter(torch.stack([value.float() for value in asked]).tolist())
        values = {name: next(looked) for name in facts}
        for (name, rows, _), value in zip(terms, looked, strict=True):
            if not isfinite(value):
                raise self._not_finite(f"The term '{name}'", list(rows))
        if not isfinite(values["norm"]):
            raise self._not_finite("The gradient", self.inputs.order.rows(self.step).tolist())
        return values

    def _not_finite(self, what: str, rows: list) -> NumericalError:
        return NumericalError(
            f"{what} is not finite at step {self.step}; no weight was changed. Rows of the data: {rows}.",
            "Lower train.lr or set train.precision = 'fp32', with a new --out.",
        )

    # ---- the run -----------------------------------------------------------------------------------------------

    def run(self) -> Iterator[Progress]:
        """Resume if there is a checkpoint, then train to `config.steps`; yields what a display needs."""
        config, main = self.config, self.accelerator.is_main_process
        with self.interruption, ExitStack() as stack:
            self.fingerprint = self.inputs.once.fingerprint(self.job.data)
            self._resume()
            yield from self._encode()
            metrics = Metrics(self.job.folder / METRICS, self.step) if main else None
            if config.trackers:
                self.accelerator.init_trackers(self.job.folder.name, trackers.settings(self.job.recipe))
            if self.step == 0:
                self._sample()
                self._report()
            busy, since = 0.0, self.step
            micros = stack.enter_context(closing(self._ahead()))
            while self.step < config.steps:
                began = time.perf_counter()
                loss, parts, norm = self._optimize(next(micros))
                busy += time.perf_counter() - began
                last = self.step == config.steps
                if sampling := self.step % config.sample_every == 0 or last:
                    yield Progress("sample", self.step, config.steps)
                    self._sample()
                if self.step % config.log_every == 0 or last:
                    record = StepRecord(
                        self.step, loss, parts, norm, self.state.lr,
                        busy / (self.step - since), *self.telemetry.collect(self._sum),
                    )  # fmt: skip
                    busy, since = 0.0, self.step
                    if metrics is not None:
                        metrics.append(record)
                    if config.trackers:
                        self.accelerator.log(trackers.values(record), self.step)
                    yield Progress("train", self.step, config.steps, record)
                stopping = self._stopping()
                if self.step % config.save_every == 0 or last or stopping:
                    yield Progress("save", self.step, config.steps)
                    self.save()
                if stopping and not last:
                    self._report()
                    number = self.interruption.signal or signal.SIGTERM
                    raise Stopped(number, f"Stopped at step {self.step}; everything is saved.", "Run the same command.")
                if sampling and not last:
                    self._report()
            self._report()
            self.accelerator.end_training()

    def _stopping(self) -> bool:
        """Whether any rank was told to stop."""
        return self._any(self.interruption.signal is not None)

    def _any(self, fact: bool) -> bool:
        """Whether it is so on any rank; all ranks answer alike."""
        if self.accelerator.num_processes == 1:  # which has no device to wait for
            return fact
        return float(self._sum(torch.tensor(float(fact), device=self.accelerator.device))) > 0

    def _sum(self, value: Tensor) -> Tensor:
        """Over the ranks."""
        return value if self.accelerator.num_processes == 1 else cast(Tensor, self.accelerator.reduce(value, "sum"))

    def _encode(self) -> Iterator[Progress]:
        """Prepare the inputs of all steps; then the encoders leave the accelerator to the steps."""
        for event in self.inputs.prepare():
            if self.interruption.signal is not None:
                remedy = "Run the same command: it goes on encoding where this one stopped."
                raise Stopped(self.interruption.signal, "Stopped before the first step.", remedy)
            yield event
        self.inputs.place("cpu")
        self.telemetry.note({"left_out": len(self.inputs.left_out)} if self.inputs.left_out else {})

    def _sample(self) -> None:
        if self.job.on_sample is not None and (self.sharded or self.accelerator.is_main_process):
            self.inputs.place(self.accelerator.device)
            with self.state.averaged():
                self.telemetry.note(self.job.on_sample(self.backbone, self.step))
            self.inputs.place("cpu")
        self.accelerator.wait_for_everyone()

    def _report(self) -> None:
        if self.job.on_report is not None and self.accelerator.is_main_process:
            self.job.on_report()

    # ---- state -------------------------------------------------------------------------------------------------

    def save(self) -> None:
        """Write checkpoint `step` and delete those beyond `keep`; weights that are not finite are not saved."""
        if self._any(not self.state.is_finite()):
            raise NumericalError(
                f"A weight is not finite after step {self.step}; nothing was saved.",
                "Lower train.lr, with a new --out.",
            )
        if self.accelerator.is_main_process:
            checkpoint.write(checkpoint.step_folder(self.job.folder, self.step), self._fill)
            checkpoint.prune(self.job.folder, self.config.keep)
        elif self.sharded:
            self.state.save(None)
        self.accelerator.wait_for_everyone()

    def _fill(self, folder: Path) -> None:
        self.state.save(folder)
        (folder / "recipe.toml").write_text(self.job.recipe)
        contract = {
            "format": checkpoint.FORMAT,
            "apex": __version__,
            "step": self.step,
            "weights": "model" if self.state.ema is None else "ema",
            "tuning": self.config.tuning,
            "sample": self.job.sample.model_dump(),
            "data_fingerprint": self.fingerprint,
            **self.job.identity,
        }
        (folder / "contract.json").write_text(json.dumps(contract, indent=1))

    def _begin(self) -> None:
        """Start from the weights of another run, if the job says so."""
        if self.job.initial is None:
            return
        try:
            self.parts.load_networks(self.job.initial)
        except RuntimeError as error:  # torch's and peft's, of keys or shapes that are not there
            told = f"The weights in '{self.job.initial}', which train.init_from names, do not fit the student."
            raise CheckpointError(
                told, "Name a run of the same sizes; of LoRA, of the same rank and targets."
            ) from error
        self.state.average_anew()

    def _resume(self) -> None:
        folder = self.inputs.once(lambda: checkpoint.newest(self.job.folder))
        if folder is None:
            self._begin()
            return
        contract = checkpoint.read_contract(folder)
        runs.check_data(self.job.folder, contract, self.fingerprint)
        self.state.load(folder)
        self.step = contract["step"]
        self.job.tell(f"Continues at step {self.step} of {self.config.steps}.")


def _pinned(micro: Micro) -> Micro:
    """In memory that CUDA reads by itself."""
    return mapped(lambda tensor: tensor.contiguous().pin_memory(), micro)


def _names(identity: dict[str, Any]) -> dict[str, Any]:
    """What a run's data and model are called."""
    backbone = identity["backbone"]
    return {"data": identity["data"], "model": backbone["config"].get("path") or backbone["name"]}


def _ranks() -> int:
    import os

    return int(os.environ.get("WORLD_SIZE", 1))
