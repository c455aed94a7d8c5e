"""The fast twins of models; see docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from apex_cli.build.models import Model, load_model, placed
from apex_cli.build.origins import checkpoint_of
from apex_cli.errors import UsageError


def wanted(path: str | Path, wish: bool | None, compiled: bool) -> bool:
    """Whether `path` is drawn by its fast twin: as `wish` says; if that is None, where there is CUDA and a twin.

    Raises `UsageError` where the wish cannot be met.
    """
    import torch

    from apex_cli.backbones.fast.twin import TWINS
    from apex_cli.training import checkpoint

    contract = checkpoint.read_contract(checkpoint_of(path, verified=False))
    folded: bool = contract["tuning"] == "folded"
    if folded and wish is False:
        raise UsageError(f"'{path}' is folded; there is no plain one in it.", "Use the run it came from.")
    if wish is None:
        wish = folded or (torch.cuda.is_available() and contract["backbone"]["name"] in TWINS)
    if compiled and not wish:
        raise UsageError("--compile is for the fast path.", "Add --fast.")
    return wish


def ready(path: str | Path, nfes: Sequence[int] = (), compiled: bool = False) -> Model:
    """`build.ready` with the fast twin (see `twin`), whose weights alone go to the device; graphs on CUDA, and blocks
    `compiled` where that is asked for."""
    from apex_cli.backbones.compact import compact_layers

    model = placed(twin(load_model(path), nfes))
    if compiled:
        model.backbone.compile()
    if model.backbone.network.device.type == "cuda" and not any(compact_layers(model.backbone.network)):
        model.backbone.make_static()
    return model


def twin(model: Model, nfes: Sequence[int] = ()) -> Model:
    """The fast twin of `model`, whose weights it shares: it draws the same pictures as the contract says and, if told,
    at other numbers of evaluations (`nfes`). A folded model is one already. See docs/performance.md."""
    from apex_cli.backbones.fast.twin import Fast, make

    if isinstance(model.backbone, Fast):
        return model
    settings = [model.sample, *map(model.sample.with_nfe, nfes)]
    times = sorted({time for sample in settings for time in sample.times()}, reverse=True)
    return replace(model, backbone=make(model.contract["backbone"]["name"], model.backbone, times))


def fold(run: str | Path, folder: Path, nfes: Sequence[int] = ()) -> tuple[Model, float]:
    """What `apex ckpt fold` does: the twin it wrote, and by how much a pixel of its picture differs from the plain."""
    from apex_cli.evaluation.painters import version_of
    from apex_cli.exporting import folded

    plain = load_model(run)
    made = twin(plain, nfes)
    if made is plain:
        raise UsageError(f"'{run}' is folded already.", "Fold the run it came from.")
    return made, folded.fold(plain, made, load_model, folder, version_of(plain.source))
