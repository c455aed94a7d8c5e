"""Eq 1, 3, 5, 10 and Prop 3, 4, in float64."""

from __future__ import annotations

import pytest
import torch

from apex_cli.flow import path
from apex_cli.flow.weighting import squared_error

SHAPE = (5, 3, 4, 4)


@pytest.fixture
def point():
    """x, noise, x_t, t in the open interval."""
    gen = torch.Generator().manual_seed(0)
    x, noise = torch.randn(2, *SHAPE, generator=gen, dtype=torch.float64)
    t = torch.rand(SHAPE[0], generator=gen, dtype=torch.float64) * 0.98 + 0.01
    return x, noise, path.interpolate(x, noise, t), t


def test_path_ends_at_data_and_noise(point):
    x, noise, _, _ = point
    assert torch.equal(path.interpolate(x, noise, torch.zeros(5, dtype=x.dtype)), x)
    assert torch.equal(path.interpolate(x, noise, torch.ones(5, dtype=x.dtype)), noise)


def test_velocity_is_the_time_derivative(point):
    x, noise, _, t = point
    _, derivative = torch.func.jvp(lambda t: path.interpolate(x, noise, t), (t,), (torch.ones_like(t),))
    torch.testing.assert_close(derivative, path.velocity_target(x, noise))


def test_true_velocity_has_both_ends(point):
    x, noise, x_t, t = point
    velocity = path.velocity_target(x, noise)
    torch.testing.assert_close(path.endpoint(velocity, x_t, t), x)
    torch.testing.assert_close(path.noise_endpoint(velocity, x_t, t), noise)


def test_score_velocity_duality_on_a_gaussian():
    """x ~ N(m, S) gives x_t ~ N((1-t) m, t^2 I + (1-t)^2 S), so velocity and score are known (Eq 5, Prop 1)."""
    gen = torch.Generator().manual_seed(1)
    mean = torch.randn(3, generator=gen, dtype=torch.float64)
    root = torch.randn(3, 3, generator=gen, dtype=torch.float64)
    cov, eye = root @ root.T + 0.1 * torch.eye(3, dtype=torch.float64), torch.eye(3, dtype=torch.float64)
    for time in (0.05, 0.5, 0.99):
        t = torch.full((7,), time, dtype=torch.float64)
        x_t = torch.randn(7, 3, generator=gen, dtype=torch.float64)
        residual = torch.linalg.solve(time**2 * eye + (1 - time) ** 2 * cov, (x_t - (1 - time) * mean).T).T
        velocity = time * residual - (mean + (1 - time) * residual @ cov)
        torch.testing.assert_close(path.score(velocity, x_t, t), -residual)


def test_proposition_3_endpoint_error_is_t_squared_velocity_error(point):
    """|| f_x(F) - x ||^2 = t^2 || F - v_data ||^2 (Eq 18)."""
    x, noise, x_t, t = point
    velocity = torch.randn_like(x)
    endpoint_error = squared_error(path.endpoint(velocity, x_t, t), x)
    torch.testing.assert_close(endpoint_error, t**2 * squared_error(velocity, path.velocity_target(x, noise)))


def test_proposition_4_distance_of_two_endpoints(point):
    """|| f_x(F) - f_x(v_fake) ||^2 = t^2 || F - v_fake ||^2 (Eq 19)."""
    x, _, x_t, t = point
    velocity, v_fake = torch.randn(2, *SHAPE, dtype=x.dtype)
    endpoint_error = squared_error(path.endpoint(velocity, x_t, t), path.endpoint(v_fake, x_t, t))
    torch.testing.assert_close(endpoint_error, t**2 * squared_error(velocity, v_fake))
