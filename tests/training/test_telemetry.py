"""What a run tells of itself: norms, errors by time, and the warning that it collapses."""

from __future__ import annotations

import pytest
import torch
from accelerate import Accelerator

from apex_cli.objectives.base import Loss
from apex_cli.training.telemetry import COLLAPSED, NAMES, Telemetry, time_bin
from apex_cli.training.trained import Trained


def alone(value: torch.Tensor) -> torch.Tensor:
    """The sum over one rank."""
    return value


def facts(**noted: float) -> tuple[dict[str, float], tuple[str, ...]]:
    telemetry = Telemetry()
    telemetry.note(noted)
    return telemetry.collect(alone)


def test_seeds_that_agree_far_more_than_those_of_the_teacher_are_a_collapse():
    _, (warning,) = facts(diversity=0.9 * COLLAPSED * 0.2, teacher_diversity=0.2)
    assert "collapse" in warning
    assert "train.lr" in warning


@pytest.mark.parametrize("noted", [{"diversity": 1.1 * COLLAPSED * 0.2, "teacher_diversity": 0.2}, {"diversity": 0.0}])
def test_no_warning_otherwise(noted):
    """Fresh training has no teacher to fall short of."""
    assert facts(**noted) == (noted, ())


@pytest.mark.parametrize(("t", "name"), [(0.0, "t0.0"), (0.19, "t0.0"), (0.2, "t0.2"), (0.999, "t0.8"), (1.0, "t1")])
def test_pure_noise_has_a_bin_of_its_own(t, name):
    assert NAMES[int(time_bin(torch.tensor([t])))] == name


def test_errors_are_averaged_in_the_bin_of_their_time():
    telemetry = Telemetry()
    for errors in ((1.0, 2.0, 5.0), (3.0, 4.0, 5.0)):
        telemetry.watch(Loss({}, {}, {"t": torch.tensor([0.1, 1.0, 0.9]), "error": torch.tensor(errors)}))
    found, _ = telemetry.collect(alone)
    assert found == {"error.t0.0": 2.0, "error.t1": 3.0, "error.t0.8": 5.0}
    assert telemetry.collect(alone) == ({}, ())


def test_every_sample_counts_once_whoever_computed_it():
    """Two ranks, one of them with micro-batches of 3 and 1, and one rank with all eight samples."""
    times, errors = torch.tensor([0.0, 0.5, 0.5, 1.0, 0.5, 0.9, 1.0, 1.0]), torch.arange(8.0)

    def watched(*parts: slice) -> Telemetry:
        telemetry = Telemetry()
        for part in parts:
            telemetry.watch(Loss({}, {}, {"t": times[part], "error": errors[part], "shift_distance": errors[part]}))
        return telemetry

    first, second = watched(slice(0, 3), slice(3, 4)), watched(slice(4, 8))
    other: list[torch.Tensor] = []
    second.collect(lambda value: other.append(value) or value)
    together, _ = first.collect(lambda value: value + other[0])
    assert together == watched(slice(0, 8)).collect(alone)[0]
    assert together == {"error.t0.0": 0.0, "error.t0.4": 7 / 3, "error.t0.8": 5.0, "error.t1": 16 / 3,
                        "shift_distance": 3.5}  # fmt: skip


def test_watching_waits_for_nothing():
    """On the meta device a look at a value is an error, as it is a halt on a GPU."""
    where = torch.device("meta")
    telemetry, sample = Telemetry(), torch.empty(4, device=where)
    telemetry.watch(Loss({}, {}, {"t": sample, "error": sample, "shift_distance": sample}))
    assert telemetry.sums["error"].device == where


def test_the_norm_of_each_unweighted_term():
    weight = torch.nn.Parameter(torch.tensor([1.0, 1.0]))
    loss = Loss({"one": 3 * weight[0] + 4 * weight[1], "two": weight[0]}, {"one": 0.1, "two": 7.0})
    telemetry = Telemetry()
    telemetry.measure(loss, Trained({"weight": weight}, Accelerator(cpu=True)).norm_of)
    assert telemetry.collect(alone)[0] == {"gradient.one": 5.0, "gradient.two": 1.0}
    assert weight.grad is None
