"""Which card is which, and what is said where the wanted one is not there."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest
import torch

from apex_cli import gpus
from apex_cli.benching.devices import Device, Memory, Nvml, demand, found
from apex_cli.errors import SetupError, UsageError

GIB = 2**30


@pytest.mark.parametrize(
    ("name", "gib", "row"),
    [
        ("NVIDIA A100-SXM4-80GB", 79.25, "a100-80gb"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 79.1, "a100-80gb-pcie"),
        ("NVIDIA A100-PCIE-40GB", 39.4, "a100-40gb-pcie"),
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-80gb"),
        ("NVIDIA H100 PCIe", 79.1, "h100-80gb-pcie"),
        ("NVIDIA H200", 139.8, "h200-141gb"),
        ("NVIDIA L4", 22.0, "l4-24gb"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx4090-24gb"),
        ("NVIDIA A100-SXM4-80GB MIG 3g.40gb", 39.5, None),
        ("NVIDIA H100 NVL", 93.1, None),
        ("Tesla T4", 14.6, None),
    ],
)
def test_a_card_is_known_by_what_its_driver_says(name, gib, row):
    gpu = gpus.identify(name, int(gib * GIB))
    assert (gpu and gpu.name) == row


def card(name: str, gib: float) -> Device:
    return Device("cuda", name, int(gib * GIB), gpus.identify(name, int(gib * GIB)))


SXM, PCIE = card("NVIDIA A100-SXM4-80GB", 79.25), card("NVIDIA A100 80GB PCIe", 79.1)
SMALL = card("NVIDIA A100-SXM4-40GB", 39.4)
PROCESSOR = Device("cpu", "Intel Xeon, 2 cores", 24 * GIB, None)


@pytest.mark.parametrize("device", [SXM, PCIE, SMALL])
def test_a_family_takes_all_its_forms_and_judges_each_by_its_own_rates(device):
    assert demand("a100", device, mismatch=False) == device.gpu


def test_a_form_takes_only_itself():
    assert demand("a100-80gb", SXM, mismatch=False) == SXM.gpu
    for other in (PCIE, SMALL):
        with pytest.raises(SetupError, match=r"--gpu a100-80gb was asked for, found NVIDIA A100"):
            demand("a100-80gb", other, mismatch=False)


def test_a_processor_is_named_where_a_card_is_wanted():
    with pytest.raises(SetupError) as told:
        demand("a100", PROCESSOR, mismatch=False)
    assert told.value.exit_code == 4
    assert "but this machine has no CUDA GPU, only Intel Xeon, 2 cores, 24 GiB" in told.value.message
    assert "--allow-mismatch" in told.value.remedy


def test_another_device_is_measured_without_anything_to_judge_it_by():
    assert demand("a100", PROCESSOR, mismatch=True) is None
    assert demand("auto", PROCESSOR, mismatch=False) is None
    assert demand("auto", SXM, mismatch=False) == SXM.gpu


def test_a_wrong_name_is_told():
    with pytest.raises(UsageError, match="There is no GPU called 'a1000'"):
        demand("a1000", SXM, mismatch=True)


@pytest.mark.skipif(torch.cuda.is_available(), reason="describes a processor")
def test_the_processor_here():
    device = found()
    assert device.kind == "cpu" and device.gpu is None and "cores" in device.name
    assert device.record()["identity"] == device.identity
    assert Nvml.open(device) is None
    assert Memory(device).peak()["process"] > 50 * 2**20


class NotKnown(Exception):
    pass


def library(**changes):
    """The functions of pynvml that are asked, as a card would answer them."""

    def unknown(*_):
        raise NotKnown

    answers = {
        "NVMLError": NotKnown,
        "NVML_CLOCK_SM": 1, "NVML_CLOCK_MEM": 2, "NVML_TEMPERATURE_GPU": 0,
        "nvmlClocksThrottleReasonSwPowerCap": 4, "nvmlClocksThrottleReasonHwSlowdown": 8,
        "nvmlDeviceGetCurrentClocksThrottleReasons": lambda _: 4 | 1,
        "nvmlDeviceGetPowerUsage": lambda _: 399_500,
        "nvmlSystemGetDriverVersion": lambda: "550.1",
        "nvmlDeviceGetClockInfo": lambda _, kind: {1: 1410, 2: 1593}[kind],
        "nvmlDeviceGetTemperature": lambda *_: 61,
        "nvmlDeviceGetEccMode": unknown,
        "nvmlDeviceGetMemoryInfo": lambda _: SimpleNamespace(used=7 * GIB),
        "nvmlDeviceGetTotalEnergyConsumption": lambda _: 12_500,
        "nvmlDeviceGetComputeRunningProcesses": lambda _: [SimpleNamespace(pid=1), SimpleNamespace(pid=PID)],
    }  # fmt: skip
    return SimpleNamespace(**(answers | changes))


PID = __import__("os").getpid()


def test_what_the_driver_tells_in_our_units():
    nvml = Nvml(library(), handle=object())
    state = nvml.state()
    assert state["throttled"] == ["SwPowerCap"]
    assert (state["sm_clock"], state["memory_clock"], state["power"], state["ecc"]) == (1410, 1593, 399.5, None)
    assert nvml.joules() == 12.5
    assert nvml.others() == [1]


def test_the_package_is_not_needed(monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Nvml.open(SXM) is None
