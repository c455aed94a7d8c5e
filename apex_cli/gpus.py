"""GPUs that runs are planned for and benchmarks judged by: memory, rates and bandwidth of the makers' data sheets.

Memory is the advertised size in units of 10^9 bytes; the device has about 6 % more, which the CUDA context and the
allocator take. Rates are dense (no sparsity), bf16 with fp32 accumulation; fp32 outside the tensor cores, as torch
multiplies unless told otherwise. A row without "pcie" is the SXM form where there are several. A family (`a100`) stands
for all its forms: it is what floors without a device are computed for.
"""

from __future__ import annotations

from dataclasses import dataclass

from apex_cli.errors import UsageError
from apex_cli.mistakes import did_you_mean, nearest

GB = 10**9
TFLOPS = 1e12
ADVERTISED = (0.85, 1.10)
"""What a driver reports as total memory, as a share of the advertised size."""


@dataclass(frozen=True)
class Gpu:
    """`memory` in bytes, rates in FLOP/s, `bandwidth` of the device memory in bytes/s."""

    name: str
    memory: int
    bf16: float
    fp32: float
    bandwidth: float

    def rate(self, precision: str) -> float:
        """FLOP/s of `train.precision`; in tf32, on every card of the table, half of bf16."""
        return {"bf16": self.bf16, "tf32": self.bf16 / 2, "fp32": self.fp32}[precision]

    @property
    def family(self) -> str:
        return self.name.split("-")[0]

    @property
    def pcie(self) -> bool:
        return self.name.endswith("-pcie")


def _table(*rows: tuple[str, int, float, float, float]) -> dict[str, Gpu]:
    return {n: Gpu(n, memory * GB, bf16 * TFLOPS, fp32 * TFLOPS, speed * GB) for n, memory, bf16, fp32, speed in rows}


GPUS = _table(
    ("a100-40gb", 40, 312, 19.5, 1555),  # NVIDIA A100 data sheet
    ("a100-80gb", 80, 312, 19.5, 2039),  # the same
    ("a100-40gb-pcie", 40, 312, 19.5, 1555),  # the same
    ("a100-80gb-pcie", 80, 312, 19.5, 1935),  # the same
    ("h100-80gb", 80, 989, 67, 3350),  # H100 data sheet, SXM
    ("h100-80gb-pcie", 80, 756, 51, 2000),  # the same, PCIe
    ("h200-141gb", 141, 989, 67, 4800),  # H200 data sheet, SXM
    ("h800-80gb", 80, 989, 67, 3350),  # an H100 with slower NVLink and fp64
    ("l4-24gb", 24, 121, 30.3, 300),  # L4 data sheet
    ("l40s-48gb", 48, 362, 91.6, 864),  # L40S data sheet
    ("rtx3090-24gb", 24, 71, 35.6, 936),  # GA102 whitepaper
    ("rtx4090-24gb", 24, 165, 82.6, 1008),  # Ada whitepaper
    ("rtx5090-32gb", 32, 209, 104.8, 1792),  # RTX Blackwell whitepaper
)
FAMILIES = {
    **{gpu.family: gpu for gpu in GPUS.values() if not gpu.pcie},
    **_table(("a100", 80, 312, 19.5, 2000)),  # between the PCIe and the SXM form of 80 GB
}
"""Family -> the roofline it is judged by when no device says which form it is."""


def find(name: str) -> Gpu:
    """The row of `name`; a wrong name raises `UsageError` with the nearest ones."""
    return _find(name, GPUS)


def find_any(name: str) -> Gpu:
    """The row of a device or of a whole family, such as `a100`."""
    return _find(name, FAMILIES | GPUS)


def _find(name: str, rows: dict[str, Gpu]) -> Gpu:
    if name not in rows:
        starts = [known for known in rows if known.startswith(name.lower())]
        near = starts or nearest(name.lower(), rows)
        raise UsageError(f"There is no GPU called '{name}'.{did_you_mean(near)}", f"Known: {', '.join(rows)}.")
    return rows[name]


def identify(device: str, memory: int) -> Gpu | None:
    """The row of a device by the name its driver gives ("NVIDIA A100-SXM4-80GB") and its bytes; None without one, also
    for a slice of a card (MIG), which has neither its rates nor its bandwidth."""
    words = device.upper().replace("GEFORCE RTX ", "RTX").replace("-", " ").split()
    if "MIG" in words:
        return None
    for gpu in GPUS.values():
        share = memory / gpu.memory
        if gpu.family.upper() in words and ("PCIE" in words) == gpu.pcie and ADVERTISED[0] < share < ADVERTISED[1]:
            return gpu
    return None
