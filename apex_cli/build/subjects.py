"""What `apex bench` measures, from names to objects: models with their engines, floors, and optimizer steps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from apex_cli import registry
from apex_cli.build.models import SHIPPED_STUDENT, ready
from apex_cli.build.planning import plan
from apex_cli.build.training import job
from apex_cli.errors import SetupError, UsageError
from apex_cli.evaluation.painters import version_of
from apex_cli.generation import SampleConfig
from apex_cli.recipe import Choice, Recipe
from apex_cli.registry import resolve

SHAPES, TINY_QWEN = "shapes", "shapes-qwen"
RANDOM = "random"
FAST = ("fast", "cached", "compiled", "fp8")
"""Modes that ask a fast twin."""
TINY = {"qwen-image": "qwen_image", "sana-600m": "sana", "sana-1600m": "sana", TINY_QWEN: "qwen_image"}
"""Published model -> the backbone whose tiny fresh pipeline stands for it where there is no accelerator."""
WORDS = 10
"""Of a prompt of the embedded world."""


def names() -> list[str]:
    """What --model may be."""
    from apex_cli.backbones import published

    return [SHAPES, TINY_QWEN, *published.MODELS]


class Loaded:
    """A model on its device, with the ways of asking it; see `benching.run.Subject`, which it becomes."""

    def __init__(self, name: str, weights: str, backbone: Any, sample: SampleConfig, words: int, nfes: Sequence[int]):
        import torch

        self.name, self.weights, self.backbone, self.sample, self.words = name, weights, backbone, sample, words
        self.nfes = nfes
        self.twins: dict[str, Any] = {}
        """By the modes that ask them."""
        self.cuda = torch.cuda.is_available()

    def engines(self, modes: Sequence[str]) -> Callable[[Any, Any], Mapping[str, Any]]:
        """A function of (case, laps): the engine of each mode."""
        from apex_cli.backbones.fast.twin import Fast

        if isinstance(self.backbone, Fast) and not set(modes) <= set(FAST):
            raise UsageError("A folded model knows only the fast way.", "Add --mode fast,cached.")
        if asked := [mode for mode in modes if mode in FAST]:
            self.twins = self._twins(asked)
            if len(asked) == len(modes):
                self.backbone = self.twins[modes[0]]  # what was folded away leaves the device
        return lambda case, laps: {mode: self._engine(mode, case, laps) for mode in modes}

    def _twins(self, modes: Sequence[str]) -> dict[str, Any]:
        from apex_cli.backbones.fast.fp8 import packed

        exact = self._twin()
        made: dict[str, Any] = dict.fromkeys(modes, exact)
        if "fp8" in modes:
            made["fp8"] = packed(exact)
        if "compiled" in modes:
            made["compiled"] = exact.again()
            made["compiled"].compile()
        if self.cuda:
            for twin in set(made.values()):
                twin.make_static()
        return made

    def _twin(self) -> Any:
        from apex_cli.backbones.fast.twin import Fast, make

        if isinstance(self.backbone, Fast):
            return self.backbone
        times = {sigma for nfe in self.nfes for sigma in self.sample.with_nfe(nfe).grid() if sigma > 0}
        return make(backbone_name(self.backbone), self.backbone, tuple(sorted(times, reverse=True)))

    def _engine(self, mode: str, case: Any, laps: Any) -> Any:
        from apex_cli.benching.engines import Staged, Stock

        backbone = self.twins.get(mode, self.backbone)
        if backbone.config.resolution != case.resolution:
            backbone.with_config(backbone.config.model_copy(update={"resolution": case.resolution}))
        sample = self.sample.with_nfe(case.nfe)
        if mode == "diffusers":
            return Stock(backbone, sample, laps)
        return Staged(backbone, sample, resolve("sampler", sample.sampler), laps, remembered=mode == "cached")

    def draw(self, mode: str, nfe: int, batch: int, indices: Iterable[int]) -> Iterator[list[tuple[int, Any]]]:
        """Picture i shows prompt i, from the noise of (0, i)."""
        from PIL import Image

        from apex_cli.benching.prompts import prompts
        from apex_cli.generation import Request, generate
        from apex_cli.streaming import stream

        backbone, draw = self.twins.get(mode, self.backbone), stream if mode in FAST else generate
        requests = (Request(prompts(1, self.words, index)[0], 0, index) for index in indices)
        made = draw(backbone, self.sample.with_nfe(nfe), requests, batch)
        while some := list(islice(made, batch)):
            yield [(image.request.index, Image.fromarray(image.pixels)) for image in some]

    def tokens(self, prompts: Sequence[str]) -> int:
        """Tokens that the transformer sees of `prompts`."""
        import torch

        with torch.no_grad():
            return self.backbone.encode_prompts(list(prompts)).mask.shape[1]


def subject(model: str, ckpt: str | None, weights: str | None, modes: Sequence[str], nfes: Sequence[int]) -> Any:
    """A `benching.run.Subject`: the checkpoint `ckpt`, or the model of that name with `weights` (RANDOM, or a pipeline
    folder or hub id)."""
    from apex_cli.benching.run import Subject

    start = time.perf_counter()
    loaded = load(model, ckpt, weights, nfes)
    engines = loaded.engines(modes)
    taken = time.perf_counter() - start
    parameters = sum(value.numel() for value in loaded.backbone.network.parameters())
    return Subject(
        loaded.name, loaded.weights, loaded.words, taken, engines, loaded.tokens, parameters, loaded.backbone,
        loaded.draw,
    )  # fmt: skip


def load(model: str, ckpt: str | None, weights: str | None, nfes: Sequence[int]) -> Loaded:
    """The model on the device that draws."""
    if ckpt or model == SHAPES:
        if weights:
            raise UsageError("A checkpoint has its own weights.", "Leave out --weights, or name a --model.")
        made = ready(ckpt or SHIPPED_STUDENT)
        name = model if ckpt is None else published_name(made.backbone) or made.source.name
        return Loaded(name, version_of(made.source)[:16], made.backbone, made.sample, WORDS, nfes)
    if model not in names():
        raise UsageError(f"There is no model called '{model}'.", f"Known: {', '.join(names())}; or give --ckpt.")
    return _published(model, weights or (RANDOM if model == TINY_QWEN else None), nfes)


def _published(model: str, weights: str | None, nfes: Sequence[int]) -> Loaded:
    import torch

    from apex_cli.backbones import published

    if weights is None:
        raise UsageError(f"'{model}' needs weights.", "Add --weights random, or --weights FOLDER (or a hub id).")
    if weights != RANDOM:
        row = published.MODELS[model]
        backbone = row.backbone(row.config.model_copy(update={"path": weights, "dtype": "bf16", "resolution": 512}))
        if device := torch.accelerator.current_accelerator(check_available=True):
            backbone.to(device)
        return Loaded(model, weights, backbone, SampleConfig(), row.lengths.prompt, nfes)
    if model == TINY_QWEN or not torch.accelerator.is_available():
        kind = resolve("backbone", TINY[model])
        name = model if model == TINY_QWEN else f"{model} (tiny)"
        return Loaded(name, RANDOM, kind(kind.Config()), SampleConfig(), WORDS, nfes)
    device = str(torch.accelerator.current_accelerator())
    words = published.MODELS[model].lengths.prompt
    return Loaded(model, RANDOM, published.load(model, device), SampleConfig(), words, nfes)


def backbone_name(backbone: Any) -> str:
    """The name in the registry of the class of a backbone, or of the one it is derived from."""
    for name in registry.names("backbone"):
        if isinstance(backbone, resolve("backbone", name)):
            return name
    raise SetupError(f"{type(backbone).__name__} is no backbone of the registry.", "Add it to apex_cli/registry.py.")


def published_name(backbone: Any) -> str | None:
    """Which published model has a transformer of this size; None for others."""
    from apex_cli.backbones.published import MODELS

    count = sum(value.numel() for value in backbone.network.parameters())
    return next((name for name, row in MODELS.items() if row.parameters == count), None)


def work(model: str, resolutions: Sequence[int]) -> dict[int, dict[str, Any]]:
    """What a request of a published model takes, by resolution and variant; empty for others. Loads no weights."""
    from apex_cli.backbones import published
    from apex_cli.benching.floors import variants

    if model not in published.MODELS:
        return {}
    backbone = published.load(model, "meta")
    found = {}
    for resolution in resolutions:
        backbone.with_config(backbone.config.model_copy(update={"resolution": resolution}))
        found[resolution] = variants(backbone, published.MODELS[model].lengths)
    return found


def steps(recipe: Recipe, folder: Path) -> dict[str, Callable[[], object]]:
    """Optimizer steps of a recipe and of plain flow matching on the same model, data and batch: name -> one step."""
    from apex_cli.training.steps import Steps

    return {
        recipe.objective.name: Steps(job(quiet(recipe), folder / "recipe")).step,
        "plain flow matching": Steps(job(quiet(plain(recipe)), folder / "plain")).step,
    }


def step_flops(recipe: Recipe) -> int:
    """FLOPs of one optimizer step, counted without running it."""
    return plan(recipe).compute.step


def plain(recipe: Recipe) -> Recipe:
    """The same recipe with the objective of plain flow matching."""
    return replace(recipe, objective=Choice("fm", resolve("objective", "fm").Config()))


def quiet(recipe: Recipe) -> Recipe:
    """Without what a step does only now and then."""
    return replace(recipe, train=recipe.train.model_copy(update={"telemetry_every": 10**6, "trackers": ()}))
