"""GPUs a run can be planned for without one: memory and peak rates from the makers' data sheets.

Memory is the advertised size in units of 10^9 bytes; the device has about 6 % more, which the CUDA context and the
allocator take. Rates are dense (no sparsity), of the SXM form where there are several; bf16 with fp32 accumulation;
fp32 outside the tensor cores, as torch multiplies unless told otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from apex_cli.errors import UsageError
from apex_cli.mistakes import did_you_mean, nearest

GB = 10**9
TFLOPS = 1e12


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes, rates in FLOP/s."""

    name: str
    memory: int
    bf16: float
    fp32: float

    def rate(self, dtype: torch.dtype) -> float:
        return self.bf16 if dtype == torch.bfloat16 else self.fp32


GPUS = {
    name: Gpu(name, memory * GB, bf16 * TFLOPS, fp32 * TFLOPS)
    for name, memory, bf16, fp32 in (
        ("a100-40gb", 40, 312, 19.5),  # NVIDIA A100 data sheet
        ("a100-80gb", 80, 312, 19.5),  # the same
        ("h100-80gb", 80, 989, 67),  # H100 data sheet, SXM
        ("h200-141gb", 141, 989, 67),  # H200 data sheet, SXM
        ("h800-80gb", 80, 989, 67),  # an H100 with slower NVLink and fp64
        ("l4-24gb", 24, 121, 30.3),  # L4 data sheet
        ("l40s-48gb", 48, 362, 91.6),  # L40S data sheet
        ("rtx3090-24gb", 24, 71, 35.6),  # GA102 whitepaper
        ("rtx4090-24gb", 24, 165, 82.6),  # Ada whitepaper
        ("rtx5090-32gb", 32, 209, 104.8),  # RTX Blackwell whitepaper
    )
}


def find(name: str) -> Gpu:
    """The row of `name`; a wrong name raises `UsageError` with the nearest ones."""
    if name not in GPUS:
        starts = [known for known in GPUS if known.startswith(name.lower())]
        near = starts or nearest(name.lower(), GPUS)
        raise UsageError(f"There is no GPU called '{name}'.{did_you_mean(near)}", f"Known: {', '.join(GPUS)}.")
    return GPUS[name]
