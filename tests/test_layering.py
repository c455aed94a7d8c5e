"""Who may import whom, read from the source: every import counts, also those inside functions."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "apex_cli"
FILES = sorted((ROOT / PACKAGE).rglob("*.py"))

BASE = {"errors", "config", "extras"}
PARTS = {"objectives", "backbones", "samplers", "worlds"}
MAKERS = {"data", "generation"}
ENGINE = {"training", "evaluation", "benching", "exporting"} | MAKERS
ALLOWED: dict[str, set[str]] = {
    "errors": set(),
    "config": set(),
    "extras": set(),
    "registry": {"errors"},
    "torchvision_guard": set(),
    "mistakes": BASE,
    "records": BASE,
    "pages": set(),
    "gpus": BASE | {"mistakes"},
    "flops": set(),
    "bootstrap": set(),
    "flow": BASE,
    **{part: BASE | {"flow"} for part in PARTS},
    "backbones": BASE | {"flow", "worlds"},  # the tiny networks of the embedded worlds
    "samplers": BASE | {"flow", "objectives"},  # the type Velocity
    **{maker: BASE | {"flow", "records", "pages"} | PARTS | MAKERS for maker in MAKERS},
    "data": BASE | {"flow", "records", "pages", "registry"} | PARTS | MAKERS,  # a mixture names its sources
    "generation": BASE | {"flow", "records", "registry"} | PARTS,  # a checkpoint names its sampler
    **{
        room: BASE | {"flow", "records", "pages", "mistakes", "gpus", "flops", "bootstrap"} | PARTS | MAKERS
        for room in ENGINE - MAKERS
    },
    "benching": BASE
    | {"flow", "records", "pages", "mistakes", "gpus", "flops", "bootstrap", "streaming"}
    | PARTS
    | MAKERS,
    "exporting": BASE | PARTS | MAKERS | {"training"},
    "streaming": BASE | {"backbones", "generation"},
    "drafts": BASE | {"registry", "mistakes"},
    "recipe": BASE | ENGINE | {"drafts", "mistakes"},
    "build": BASE | ENGINE | PARTS | {"flow", "streaming", "records", "registry", "recipe", "gpus"},
    "doctor": BASE | ENGINE | PARTS | {"recipe", "build"},
    "commands": BASE
    | ENGINE
    | PARTS
    | {"flow", "streaming", "records", "registry", "drafts", "recipe", "build", "doctor", "gpus"},
    "app": {"errors", "commands"},
}
"""Room (a folder or file of the package) -> rooms it may import; itself and the version are always allowed."""

SHELL = ("app", "commands")
MODEL_LIBRARIES = ("backbones", "evaluation", "worlds.shapes.pipeline", "worlds.shapes.qwen_pipeline", "training.lora")
ONLY_IN = {
    "typer": SHELL,
    "rich": SHELL,
    "diffusers": (*MODEL_LIBRARIES, "training.state"),  # its learning-rate schedules and EMA
    "transformers": MODEL_LIBRARIES,
    "open_clip": MODEL_LIBRARIES,
    "torchvision": (*MODEL_LIBRARIES, "torchvision_guard"),
    "peft": MODEL_LIBRARIES,
}
LAZY = {"diffusers", "transformers", "open_clip", "peft", "torchvision"}
"""Imported inside functions only."""
SAFE_READER = "evaluation.weights"
"""The one module that opens published `.pth` files, with `weights_only=True`."""
LIGHT = ("app", "commands", "registry", "errors", "config", "recipe", "drafts", "mistakes", "records", "pages")
HEAVY = {"torch", "numpy", "scipy", "PIL", "matplotlib", "accelerate", "safetensors", "datasets", "rich", *LAZY}
MATHEMATICS = {
    "torch",
    "pydantic",
    "__future__",
    "math",
    "collections",
    "dataclasses",
    "typing",
    "functools",
    "itertools",
}
FORBIDDEN = {"pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve", "joblib"}


def module_of(path: Path) -> str:
    """`apex_cli/flow/path.py` -> `flow.path`; the package itself is the empty string."""
    parts = path.relative_to(ROOT / PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def inside(module: str, place: str) -> bool:
    return module == place or module.startswith(place + ".")


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")


def imports(node: ast.AST, path: Path, at_top: bool = True) -> Iterator[tuple[int, str, bool]]:
    """(line, full dotted name, whether it runs when the module is imported) of every import below `node`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from ((child.lineno, alias.name, at_top) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            package = (PACKAGE, *path.relative_to(ROOT / PACKAGE).parts[:-1])
            base = ".".join(package[: len(package) - child.level + 1]) if child.level else ""
            source = ".".join(filter(None, (base, child.module)))
            yield from ((child.lineno, f"{source}.{alias.name}", at_top) for alias in child.names)
        else:
            function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(child, path, at_top and not function and not is_type_checking(child))


def room_of(name: str) -> str | None:
    """The room a dotted import of our own package leads to; None for the package itself (`__version__`)."""
    room = name.split(".")[1]
    own = (ROOT / PACKAGE / room).is_dir() or (ROOT / PACKAGE / f"{room}.py").is_file()
    return room if own else None


@pytest.fixture(params=FILES, ids=lambda path: module_of(path) or PACKAGE)
def source(request) -> tuple[Path, ast.Module]:
    return request.param, ast.parse(request.param.read_text(encoding="utf-8"))


def test_rooms_import_downwards_only(source):
    path, tree = source
    room = module_of(path).split(".")[0]
    assert not room or room in ALLOWED, f"{room} is not in the table of rooms: say who it may import"
    for line, name, _ in imports(tree, path):
        if name.split(".")[0] == PACKAGE:
            target = room_of(name)
            allowed = target in (None, room, "torchvision_guard") or target in ALLOWED.get(room, set())
            assert allowed, f"{path.name}:{line}: {room or PACKAGE} may not import {target}"


def test_libraries_stay_in_their_rooms(source):
    path, tree = source
    module = module_of(path)
    for line, name, at_top in imports(tree, path):
        library = name.split(".")[0]
        homes = ONLY_IN.get(library)
        assert homes is None or any(inside(module, home) for home in homes), (
            f"{path.name}:{line}: {library} in {module}"
        )
        assert not (at_top and library in LAZY), (
            f"{path.name}:{line}: import {library} inside the function that needs it"
        )
        light = any(inside(module, home) for home in LIGHT)
        assert not (at_top and light and library in HEAVY), f"{path.name}:{line}: {library} makes `apex --help` slow"
        pure = inside(module, "flow") or inside(module, "objectives")
        assert not pure or library in MATHEMATICS | {PACKAGE}, f"{path.name}:{line}: {library} is not mathematics"


def test_nothing_unpickles(source):
    path, tree = source
    for line, name, _ in imports(tree, path):
        named = name == "pickle.UnpicklingError"  # an error that is caught, not a reader
        assert named or name.split(".")[0] not in FORBIDDEN, f"{path.name}:{line}: {name}"
        assert name not in ("torch.load", "torch.serialization.load"), f"{path.name}:{line}: {name}"
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in (
            "torch.load",
            "torch.save",
            "torch.serialization.load",
        ):
            if module_of(path) == SAFE_READER and "weights_only=True" in ast.unparse(tree):
                continue
            pytest.fail(f"{path.name}:{node.lineno}: {ast.unparse(node)} reads or writes pickles; use safetensors")


def test_the_walk_sees_nested_and_relative_imports():
    path = ROOT / PACKAGE / "flow" / "example.py"
    tree = ast.parse("from ..errors import ApexError\ndef f():\n    import torch.nn\n    from apex_cli import build\n")
    assert list(imports(tree, path)) == [
        (1, "apex_cli.errors.ApexError", True),
        (3, "torch.nn", False),
        (4, "apex_cli.build", False),
    ]
