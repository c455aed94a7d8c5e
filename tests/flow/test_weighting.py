"""One convention: w(t) multiplies the squared error of the velocity."""

from __future__ import annotations

from typing import get_args

import pytest
import torch

from apex_cli.flow.weighting import Weighting, weight

T = torch.linspace(0, 1, 101, dtype=torch.float64)


@pytest.mark.parametrize("name", get_args(Weighting))
def test_finite_and_not_negative_everywhere(name):
    w = weight(name, T)
    assert w.shape == T.shape
    assert bool(w.isfinite().all())
    assert bool((w >= 0).all())


def test_paper_is_t_squared_over_omega():
    inside = T[1:-1]
    torch.testing.assert_close(weight("paper", inside), inside**2 / (inside / (1 - inside)))
    assert weight("paper", T)[[0, -1]].tolist() == [0, 0]


def test_endpoint_is_t_squared():
    assert torch.equal(weight("endpoint", T), T**2)
