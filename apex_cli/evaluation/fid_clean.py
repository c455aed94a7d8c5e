"""`fid@clean`: clean-fid's resize (Parmar et al. 2022, arXiv:2104.11222), an antialiased bicubic in floats.

clean-fid runs NVIDIA's TorchScript of the same graph; here the same 2015 weights run in plain modules.
"""

from __future__ import annotations

from apex_cli.evaluation import resizing
from apex_cli.evaluation.fid import Fid


class FidClean(Fid):
    base = "fid@clean"
    resize = staticmethod(resizing.clean_fid)
