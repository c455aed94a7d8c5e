"""torchvision imports beside a torch that cannot load its operators, and with it all that looks at it."""

from __future__ import annotations

import subprocess
import sys

import pytest


def python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.slow
def test_libraries_that_look_at_torchvision_import_after_apex():
    code = (
        "import apex_cli, torchvision, open_clip, torch_fidelity, torchmetrics.image.fid\n"
        "from transformers import CLIPModel\n"
        "from torchvision import transforms as t, extension, ops\n"
        "import torch\n"
        "print(t.Resize(8)(torch.zeros(3, 16, 16)).shape[-1])\n"
        "print(hasattr(extension, '_apex_library') != extension._has_ops())"
    )
    assert python(code).split() == ["8", "True"]


def test_nothing_is_declared_where_the_operators_are_there(monkeypatch):
    from apex_cli import torchvision_guard

    torchvision_guard.import_torchvision()
    from torchvision import extension

    monkeypatch.setattr(extension, "_has_ops", lambda: True)
    assert torchvision_guard.declare_missing() is False


def test_the_guard_leaves_after_its_work_and_imports_no_torch():
    code = (
        "import sys, apex_cli\n"
        "from apex_cli.torchvision_guard import Guard\n"
        "standing = lambda: any(isinstance(f, Guard) for f in sys.meta_path)\n"
        "print(standing(), 'torch' in sys.modules)\n"
        "import torchvision\n"
        "print(standing())"
    )
    assert python(code).split() == ["True", "False", "False"]
