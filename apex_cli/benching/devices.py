"""What is measured on: which device, with which software, what it did meanwhile, and who else used it.

Clocks, power, throttling, energy and other processes come from NVML (package nvidia-ml-py, extra `bench`); without it,
or without its driver, they are left out.
"""

from __future__ import annotations

import os
import platform
import resource
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from apex_cli import gpus
from apex_cli.errors import SetupError
from apex_cli.gpus import Gpu

THROTTLES = ("SwPowerCap", "HwSlowdown", "HwThermalSlowdown", "HwPowerBrakeSlowdown", "SwThermalSlowdown", "SyncBoost")
"""Reasons why a clock is lower than it could be, by the names of NVML."""


@dataclass(frozen=True)
class Device:
    """`gpu`: its row of data-sheet rates, None where it has none. `software`: versions that a time depends on."""

    kind: str
    name: str
    memory: int
    gpu: Gpu | None
    capability: str = ""
    pci: str = ""
    software: dict[str, str] = field(default_factory=dict)

    @property
    def torch(self) -> torch.device:
        return torch.device(self.kind)

    @property
    def identity(self) -> str:
        """What must be equal for two times to be compared."""
        return f"{self.name}, {round(self.memory / 2**30)} GiB"

    def record(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "gpu": self.gpu and self.gpu.name, "identity": self.identity}


def found() -> Device:
    """The CUDA device that torch would use, or the processor."""
    versions = {"python": platform.python_version(), "torch": torch.__version__}
    if not torch.cuda.is_available():
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return Device("cpu", _processor(), memory, None, software=versions | {"threads": str(torch.get_num_threads())})
    facts = torch.cuda.get_device_properties()
    versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
    pci = f"{getattr(facts, 'pci_bus_id', 0):02x}"
    gpu = gpus.identify(facts.name, facts.total_memory)
    capability = f"{facts.major}.{facts.minor}"
    return Device("cuda", facts.name, facts.total_memory, gpu, capability, pci, versions)


def _processor() -> str:
    """Model and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    models = (line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    return f"{next(models, platform.machine())}, {os.cpu_count()} cores"


def demand(wanted: str, device: Device, mismatch: bool) -> Gpu | None:
    """The row that `--gpu` is judged by, None where nothing can be said; `mismatch`: measure on another device all the
    same, without any figure to judge it by. Raises `SetupError` naming what was found."""
    if wanted == "auto":
        return device.gpu
    row = gpus.find_any(wanted)
    if fits(row, wanted, device.gpu):
        return device.gpu
    if mismatch:
        return None
    there = "but this machine has no CUDA GPU, only" if device.kind == "cpu" else "found"
    remedy = (
        f"Run it on one, or use --gpu auto; --allow-mismatch measures without reference figures, "
        f"`--analytic --gpu {wanted}` prints floors without a GPU."
    )
    raise SetupError(f"--gpu {wanted} was asked for, {there} {device.identity}.", remedy)


def fits(row: Gpu, wanted: str, gpu: Gpu | None) -> bool:
    """A family fits all its forms, a form only itself."""
    return gpu is not None and (gpu == row if wanted in gpus.GPUS else gpu.family == row.family)


class Memory:
    """Peak memory of one request, in bytes: what torch gave out and held, and what the device had in use; on a
    processor, the most that the process ever had in memory."""

    def __init__(self, device: Device):
        self.cuda = device.kind == "cuda"

    def reset(self) -> None:
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()

    def peak(self) -> dict[str, int]:
        if not self.cuda:
            unit = 1 if sys.platform == "darwin" else 1024
            return {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
        free, total = torch.cuda.mem_get_info()
        return {
            "allocated": torch.cuda.max_memory_allocated(),
            "reserved": torch.cuda.max_memory_reserved(),
            "device": total - free,
        }


class Nvml:
    """One device as the driver sees it."""

    def __init__(self, library: Any, handle: Any):
        self.library, self.handle = library, handle

    @classmethod
    def open(cls, device: Device) -> Nvml | None:
        """None without a GPU, the package or the driver."""
        if device.kind != "cuda":
            return None
        try:
            import pynvml  # pyright: ignore[reportMissingImports]
        except ImportError:
            return None
        try:
            pynvml.nvmlInit()
            uuid = str(torch.cuda.get_device_properties().uuid)
            return cls(pynvml, pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{uuid.removeprefix('GPU-')}".encode()))
        except pynvml.NVMLError:
            return None

    def state(self) -> dict[str, Any]:
        """Clocks in MHz, power in W, temperature in deg C, memory in use in bytes, and what keeps the clocks low."""
        nvml, handle = self.library, self.handle
        reasons = self._ask(lambda: nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle)) or 0
        throttled = [n for n in THROTTLES if reasons & getattr(nvml, f"nvmlClocksThrottleReason{n}", 0)]
        milliwatts = self._ask(lambda: nvml.nvmlDeviceGetPowerUsage(handle))
        return {
            "driver": self._ask(nvml.nvmlSystemGetDriverVersion),
            "sm_clock": self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM)),
            "memory_clock": self._ask(lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM)),
            "power": milliwatts and milliwatts / 1000,
            "temperature": self._ask(lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU)),
            "ecc": self._ask(lambda: nvml.nvmlDeviceGetEccMode(handle)[0]),
            "used": self._ask(lambda: nvml.nvmlDeviceGetMemoryInfo(handle).used),
            "throttled": throttled,
        }

    def joules(self) -> float | None:
        """Energy since the driver was loaded."""
        millijoules = self._ask(lambda: self.library.nvmlDeviceGetTotalEnergyConsumption(self.handle))
        return None if millijoules is None else millijoules / 1000

    def others(self) -> list[int]:
        """Processes on the device that are not this one."""
        running = self._ask(lambda: self.library.nvmlDeviceGetComputeRunningProcesses(self.handle)) or []
        return [process.pid for process in running if process.pid != os.getpid()]

    def _ask(self, question: Callable[[], Any]) -> Any:
        """None where the card does not know."""
        try:
            return question()
        except self.library.NVMLError:
            return None
