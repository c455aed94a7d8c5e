"""Stock diffusers pipelines as they are meant to be run: the baselines of the paper's Table 1, or any other.

`baselines/NAME.toml` says for each what model, scheduler, steps and guidance; a hub id or folder without one is called
with the defaults of its pipeline. TOML has no None, so the word "None" stands for it. Network evaluations are counted
at the network.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from apex_cli.backbones import folders
from apex_cli.config import Section, merged
from apex_cli.errors import SetupError, UsageError
from apex_cli.evaluation import any_step
from apex_cli.evaluation.painters import Painter, version_of
from apex_cli.evaluation.records import Subject
from apex_cli.generation import Request, generator

RECIPES = Path(__file__).parent / "baselines"
OURS: dict[str, Callable[[], Any]] = {"AnyStepQwenImage": any_step.qwen_image}
"""Networks that diffusers has no class for."""


class Component(Section):
    """A part that takes the place of the pipeline's own, e.g. a distilled network."""

    kind: str
    """Its class in diffusers, or of `OURS`."""
    model: str = ""
    """Hub id or folder; empty where the user has to name it, as the recipe's `remedy` says."""
    subfolder: str | None = None


class Lora(Section):
    model: str = ""
    """Likewise."""
    file: str


class Scheduler(Section):
    kind: str
    """Its class in diffusers, made from the configuration of the pipeline's own."""
    config: dict[str, Any] = Field(default_factory=dict)
    """Values over that configuration."""


class Baseline(Section):
    """How a published model is drawn from."""

    name: str
    row: str = ""
    """The name of its row in the published tables."""
    model: str
    """Hub id or folder."""
    pipeline: str | None = None
    """Its class in diffusers; None is the one that the model names."""
    steps: int | None = Field(default=None, ge=1)
    """None is the pipeline's default."""
    steps_allowed: tuple[int, ...] = ()
    """What it was distilled for; empty for any number."""
    evaluations_per_step: int = Field(default=1, ge=1)
    """2 with guidance that runs the network for an empty prompt."""
    resolution: int | None = Field(default=None, ge=1)
    dtype: Literal["fp32", "bf16"] = "bf16"
    call: dict[str, Any] = Field(default_factory=dict)
    """Further arguments of the pipeline's call."""
    call_at: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Number of steps -> arguments that only this number takes."""
    scheduler: Scheduler | None = None
    components: dict[str, Component] = Field(default_factory=dict)
    lora: Lora | None = None
    note: str = ""
    """What a reader must know about this row."""
    remedy: str = ""
    """How to come by what the user has to name."""

    @property
    def unnamed(self) -> list[str]:
        """Settings of the parts that the user has to name and has not."""
        lora = ["lora.model"] * (self.lora is not None and not self.lora.model)
        return [f"components.{name}.model" for name, part in self.components.items() if not part.model] + lora

    def with_nfe(self, nfe: int) -> Baseline:
        """The same at another number of evaluations."""
        steps, rest = divmod(nfe, self.evaluations_per_step)
        if rest or not steps or (self.steps_allowed and steps not in self.steps_allowed):
            known = ", ".join(str(s * self.evaluations_per_step) for s in self.steps_allowed)
            known = known or f"multiples of {self.evaluations_per_step}"
            raise UsageError(f"'{self.name}' cannot be drawn at {nfe} NFE.", f"It knows: {known}.")
        return self.model_copy(update={"steps": steps})

    def arguments(self) -> dict[str, Any]:
        """Keyword arguments of the call, but for prompts and generators."""
        given: dict[str, Any] = {}
        if self.steps is not None:
            given["num_inference_steps"] = self.steps
        if self.resolution is not None:
            given |= {"height": self.resolution, "width": self.resolution}
        return given | _with_none(self.call | self.call_at.get(str(self.steps), {}))


def _with_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: None if value == "None" else value for name, value in values.items()}


def known() -> dict[str, Baseline]:
    """The shipped recipes by name."""
    return {path.stem: _read(path) for path in sorted(RECIPES.glob("*.toml"), key=lambda path: path.stem)}


def _read(path: Path) -> Baseline:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    values["name"] = path.stem
    return Baseline(**values)


def find(name: str, changes: dict[str, Any]) -> Baseline:
    """The recipe called `name`, or of the model with this hub id; any other pipeline at its own defaults."""
    recipes = known()
    by_model = {r.model: r for r in recipes.values() if r.lora is None and not r.components}
    recipe = recipes.get(name) or by_model.get(name)
    if recipe is None:
        if "/" not in name and not Path(name).is_dir():
            told = f"There is no baseline called '{name}'."
            raise UsageError(told, f"Known: {', '.join(recipes)}; or give a hub id or a folder.")
        recipe = Baseline(name=Path(name).name, model=name)
    try:
        return Baseline(**merged(recipe.model_dump(), changes))
    except ValidationError as error:
        first = error.errors()[0]
        told = f"--set model.{'.'.join(map(str, first['loc']))}: {first['msg']}."
        raise UsageError(told, f"Keys: {', '.join(Baseline.model_fields)}.") from error


@dataclass(frozen=True)
class StockPipeline(Painter):
    """A `Painter` that calls a diffusers pipeline; picture and noise depend on (seed, index) as with our models."""

    baseline: Baseline

    @cached_property
    def pipeline(self) -> Any:
        """Loaded when the first picture is drawn."""
        import diffusers
        import torch

        b = self.baseline
        if b.unnamed:
            told = f"'{b.name}' draws with weights that you have to name."
            raise SetupError(told, " ".join([b.remedy, *(f"Then --set model.{key}=FOLDER." for key in b.unnamed)]))
        parts = {name: _component(part, b.dtype) for name, part in b.components.items()}
        pipeline = folders.load(b.model, _pipeline_class(b), b.dtype, b.dtype, **parts)
        if b.lora is not None:
            pipeline.load_lora_weights(b.lora.model, weight_name=b.lora.file)
        if b.scheduler is not None:
            kind = getattr(diffusers, b.scheduler.kind)
            pipeline.scheduler = kind.from_config(pipeline.scheduler.config, **_with_none(b.scheduler.config))
        pipeline.set_progress_bar_config(disable=True)
        if device := torch.accelerator.current_accelerator(check_available=True):
            pipeline.to(device)
        return pipeline

    @cached_property
    def subject(self) -> Subject:
        b = self.baseline
        sample = b.model_dump(mode="json", exclude={"name", "row", "note", "remedy"})
        if not (weights := version_of(Path(b.model))):  # a hub repository that is not here yet has no commit
            _, weights = self.pipeline, version_of(Path(b.model))
        return Subject(source=b.model, weights=weights, contract={"baseline": b.name}, sample=sample)

    @property
    def nfe(self) -> int:
        return (self.baseline.steps or 0) * self.baseline.evaluations_per_step

    @property
    def unusual(self) -> list[str]:
        return [f"{self.baseline.resolution}px"] if self.baseline.resolution else []

    def draw(self, requests: Sequence[Request]) -> Iterator[tuple[np.ndarray, float]]:
        import torch

        generators = [generator(request.seed, request.index) for request in requests]
        scheduler = self.pipeline.scheduler
        if scheduler.config.get("stochastic_sampling"):  # not every pipeline hands its generators on
            scheduler.step = partial(type(scheduler).step, scheduler, generator=generators)
        rows: list[int] = []
        network = getattr(self.pipeline, "transformer", None) or self.pipeline.unet
        counter = network.register_forward_pre_hook(
            lambda _, args, named: rows.append(_rows(args, named)), with_kwargs=True
        )
        try:
            with torch.no_grad():
                made = self.pipeline(
                    prompt=[request.prompt for request in requests],
                    generator=generators,
                    output_type="np",
                    **self.baseline.arguments(),
                )
        except TypeError as error:
            told = f"{type(self.pipeline).__name__} does not take these arguments: {error}."
            raise UsageError(told, "Correct [call] of the baseline.") from error
        finally:
            counter.remove()
        nfe = sum(rows) / len(requests)
        for image in made.images:
            yield (np.asarray(image) * 255).round().astype("uint8"), nfe


def _rows(args: tuple, named: dict[str, Any]) -> int:
    """The batch of a call of the network: a tensor, or a list of tensors."""
    first = args[0] if args else next(named[key] for key in ("hidden_states", "sample", "x") if key in named)
    return len(first)


def _component(part: Component, dtype: str) -> Any:
    import diffusers

    where = {"subfolder": part.subfolder} if part.subfolder else {}
    kind = OURS[part.kind]() if part.kind in OURS else getattr(diffusers, part.kind)
    form = folders.torch_dtype(dtype)
    try:
        return kind.from_pretrained(folders.locate(part.model), use_safetensors=True, torch_dtype=form, **where)
    except OSError as error:
        told = f"'{part.model}' could not be read: {str(error).splitlines()[0]}"
        raise SetupError(told, "Check the folder, or the network (HF_HUB_OFFLINE=1 forbids downloads).") from error


def _pipeline_class(baseline: Baseline) -> str:
    index = Path(baseline.model) / "model_index.json"
    if baseline.pipeline is None and index.is_file():
        return json.loads(index.read_text())["_class_name"]
    return baseline.pipeline or "DiffusionPipeline"
