"""`fid@pytorch-fid`: the resize of pytorch-fid, torch's bilinear from the native size without antialiasing."""

from __future__ import annotations

from apex_cli.evaluation import resizing
from apex_cli.evaluation.fid import Fid


class FidPytorch(Fid):
    base = "fid@pytorch-fid"
    resize = staticmethod(resizing.pytorch_fid)
