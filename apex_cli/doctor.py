"""What this machine has, what it lacks, and the command that mends it.

Required versions are those that the package declares, tested ones those of constraints-cpu.txt, which is shipped.
A `problem` keeps the embedded world from working; a `note` is what only larger models or single recipes need.
"""

from __future__ import annotations

import importlib
import os
import platform
import shutil
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from apex_cli.errors import ApexError
from apex_cli.extras import CHECKOUT, PACKAGE, install

CONSTRAINTS = "constraints-cpu.txt"
GIB = 2**30
ROOM = GIB
"""Free bytes that a run of the embedded world may use."""
PATIENCE = 3.0
"""Seconds to wait for the hub."""


@dataclass(frozen=True)
class Finding:
    """`fix`: the command or setting that mends it, empty where nothing is to be done."""

    topic: str
    name: str
    state: Literal["ok", "note", "problem"]
    found: str
    fix: str = ""


def examine() -> list[Finding]:
    """Everything `apex doctor` looks at."""
    wanted, groups = declared()
    tested = tested_versions()
    libraries = [library(r, tested.get(canonicalize_name(r.name))) for r in groups.pop("")]
    first = [python(wanted), *libraries, *broken(), *extras(groups)]
    if any(finding.state == "problem" for finding in first):
        return first  # what follows imports them
    from huggingface_hub import constants

    return [
        *first,
        device(),
        *storage(Path(constants.HF_HUB_CACHE)),
        hub(constants.ENDPOINT, constants.HF_HUB_OFFLINE),
        *shipped_models(),
        *recipes(),
    ]


def declared() -> tuple[str, dict[str, list[Requirement]]]:
    """The Python versions we allow, and what we require by extra ("" is required always)."""
    if (CHECKOUT / "pyproject.toml").is_file():
        project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        groups = {"": project["dependencies"], **project["optional-dependencies"]}
        return project["requires-python"], {name: [Requirement(text) for text in g] for name, g in groups.items()}
    facts, required = metadata.metadata(PACKAGE), [Requirement(text) for text in metadata.requires(PACKAGE) or []]
    extras = facts.get_all("Provides-Extra") or []
    groups = {"": [r for r in required if r.marker is None]}
    groups |= {name: [r for r in required if r.marker and r.marker.evaluate({"extra": name})] for name in extras}
    return facts["Requires-Python"], groups


def python(wanted: str) -> Finding:
    version = platform.python_version()
    if version in SpecifierSet(wanted):
        return Finding("machine", "python", "ok", version)
    return Finding("machine", "python", "problem", f"{version}, needs {wanted}", "PYTHON=python3.11 scripts/setup")


def device() -> Finding:
    """The accelerator with its free memory, or the processor."""
    import torch

    if torch.cuda.is_available():
        free, total = torch.cuda.mem_get_info()
        found = f"{torch.cuda.get_device_name()}, {free / GIB:.1f} of {total / GIB:.1f} GiB free"
        return Finding("machine", "device", "ok", f"{torch.cuda.device_count()} x {found}, CUDA {torch.version.cuda}")
    if torch.accelerator.is_available():
        return Finding("machine", "device", "ok", str(torch.accelerator.current_accelerator()))
    if shutil.which("nvidia-smi"):
        fix = "pip install --force-reinstall torch, in a build for the driver's CUDA"
        return Finding("machine", "device", "note", f"an NVIDIA GPU that torch {torch.__version__} cannot use", fix)
    return Finding("machine", "device", "ok", f"CPU, {os.cpu_count()} cores, {memory() / GIB:.1f} GiB")


def memory() -> int:
    """Bytes of the first GPU, or of the machine."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.mem_get_info()[1]
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def tested_versions() -> dict[str, str]:
    """Canonical name -> version of `constraints-cpu.txt`: inside an installed wheel, or at the root of a checkout."""
    file = next(p / CONSTRAINTS for p in (CHECKOUT / PACKAGE, CHECKOUT) if (p / CONSTRAINTS).is_file())
    pins = (line.split("==") for line in file.read_text().splitlines() if "==" in line and not line.startswith("#"))
    return {canonicalize_name(name): version.strip() for name, version in pins}


def library(required: Requirement, tested: str | None) -> Finding:
    """Whether a needed package is there, in a version we allow, in the version we tested."""
    fix = f"pip install '{required.name}{required.specifier}'"
    try:
        version = metadata.version(required.name)
    except metadata.PackageNotFoundError:
        return Finding("library", required.name, "problem", "not installed", fix)
    if not required.specifier.contains(version, prereleases=True):
        return Finding("library", required.name, "problem", f"{version}, needs {required.specifier}", fix)
    if tested and version.split("+")[0] != tested:
        return Finding("library", required.name, "note", f"{version}, tested with {tested}")
    return Finding("library", required.name, "ok", version)


def broken() -> Iterator[Finding]:
    """Compiled libraries that do not load. A torchvision that was built for another torch keeps nearly every model of
    diffusers and transformers from being imported."""
    for name in filter(_installed, ("torch", "torchvision")):
        try:
            importlib.import_module(name)
        except (ImportError, RuntimeError, OSError) as error:
            fix = "pip uninstall torchvision" if name == "torchvision" else f"pip install --force-reinstall {name}"
            yield Finding("library", name, "problem", f"does not load: {error}", fix)


def extras(groups: dict[str, list[Requirement]]) -> Iterator[Finding]:
    """Optional groups of packages; that of developers is theirs to care for."""
    for extra, required in groups.items():
        missing = [r.name for r in required if not _installed(r.name)]
        found = f"without {', '.join(missing)}" if missing else "all installed"
        if extra != "dev":
            yield Finding("extra", extra, "note" if missing else "ok", found, install(extra) if missing else "")


def _installed(name: str) -> bool:
    return any(metadata.distributions(name=name))


def storage(hub_cache: Path) -> Iterator[Finding]:
    """Free space and the right to write where runs, latents and downloaded models go."""
    from apex_cli.data.store import cache_folder

    places = {"here": (Path(), ""), "latents": (cache_folder(), "APEX_CACHE"), "models": (hub_cache, "HF_HOME")}
    for name, (folder, setting) in places.items():
        there = next(place for place in (folder.absolute(), *folder.absolute().parents) if place.exists())
        free = shutil.disk_usage(there).free
        found, fix = f"{free / GIB:.1f} GiB free in {folder.absolute()}", ""
        if not os.access(there, os.W_OK):
            found, fix = (
                f"{there} cannot be written",
                f"Set {setting} to another folder." if setting else "cd elsewhere",
            )
        elif free < ROOM:
            fix = f"Free some space{f', or set {setting} to another disk' if setting else ''}."
        state = "ok" if not fix else "note" if name == "models" else "problem"
        yield Finding("disk", name, state, found, fix)


def hub(address: str, offline: bool) -> Finding:
    """Whether the hub answers at all; the embedded world does not need it."""
    if offline:
        return Finding("hub", address, "note", "switched off by HF_HUB_OFFLINE", "unset HF_HUB_OFFLINE")
    try:
        with urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=PATIENCE):
            pass
    except urllib.error.HTTPError as error:
        return Finding("hub", address, "ok" if error.code < 500 else "note", f"answers with {error.code}")
    except OSError as error:
        reason = str(getattr(error, "reason", error))
        return Finding(
            "hub", address, "note", f"no answer: {reason}", "Check HTTPS_PROXY, or HF_ENDPOINT for a mirror."
        )
    return Finding("hub", address, "ok", "answers")


def shipped_models() -> Iterator[Finding]:
    from apex_cli.backbones.folders import ASSETS
    from apex_cli.training import checkpoint

    for folder in sorted(path for path in ASSETS.iterdir() if path.is_dir()):
        try:
            checkpoint.verify(folder)
            yield Finding("model", folder.name, "ok", "complete and unaltered")
        except ApexError as error:
            yield Finding("model", folder.name, "problem", error.message, "Install apex again.")


def recipes() -> Iterator[Finding]:
    """What each shipped recipe would miss here."""
    from apex_cli.recipe import load, recipe_names

    for name in recipe_names("train"):
        try:
            recipe = load(name)
        except ApexError as error:
            yield Finding("recipe", name, "problem", error.message, error.remedy)
            continue
        missing = [Finding("recipe", name, "note", *told) for told in _misses(recipe)]
        yield from missing or [Finding("recipe", name, "ok", "can run")]


def _misses(recipe: Any) -> Iterator[tuple[str, str]]:
    """(what is missing, what to do) of a recipe on this machine."""
    from apex_cli import build

    try:
        build.data(recipe)
    except ApexError as error:
        yield error.message, error.remedy
    for tracker in recipe.train.trackers:
        if not _installed(tracker):
            yield f"the tracker {tracker} is not installed", install("trackers")
    absent = _absent_model(getattr(recipe.backbone.config, "path", None))
    if absent:
        yield absent
    elif "/" in (recipe.backbone.config.path or ""):
        yield from _memory_short(recipe)


def _absent_model(path: str | None) -> tuple[str, str] | None:
    """The same for the model that a recipe starts from."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    from apex_cli.backbones import folders
    from apex_cli.recipe import trained_by

    if path is None or Path(path).is_dir():
        return None
    if name := trained_by(path):
        return f"it starts from {path}, which is not there", f"apex train {name}"
    try:
        place = folders.locate(path)
        if not Path(place).is_dir():
            place = snapshot_download(place, local_files_only=True)
    except LocalEntryNotFoundError:
        return f"{path} is not in the local cache", f"hf download {path}"
    except ApexError as error:
        return error.message, error.remedy
    whole = any(Path(place).glob("transformer/*.safetensors"))
    return None if whole else (f"{path} is in the local cache without its weights", f"hf download {path}")


def _memory_short(recipe: Any) -> Iterator[tuple[str, str]]:
    """Planned without any weights; not for the shipped models, which fit anywhere."""
    from apex_cli import build

    try:
        needed, there = build.plan(recipe).memory.peak, memory()
    except ApexError as error:
        yield error.message, error.remedy
        return
    if needed > there:
        told = f"needs about {needed / GIB:.0f} GiB without sharding, this device has {there / GIB:.0f}"
        yield told, f"apex train {recipe.name} --plan --fit {there / GIB:.0f}GiB"
