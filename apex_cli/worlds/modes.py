"""A world that can be seen whole: points in the plane, 4 conditions of 6 modes each.

24 narrow Gaussians stand on one circle of radius sqrt(2) (unit scale per axis, as latents have); condition k owns modes
k, k + 4, k + 8, ... All conditions share the mean 0, so a model that answers with a mean lands where no data is.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from torch import Generator, Tensor

from apex_cli.errors import DataError

CONDITIONS, MODES = 4, 6
RADIUS, STD = math.sqrt(2), 0.1
PROMPTS: tuple[str, ...] = tuple(f"condition {k}" for k in range(CONDITIONS))


def condition_of(prompt: str) -> int:
    """Index of the condition a prompt names; raises `DataError` for anything else."""
    if prompt not in PROMPTS:
        raise DataError(f"The 2-D world has no prompt '{prompt}'.", f"Use one of: {', '.join(PROMPTS)}.")
    return PROMPTS.index(prompt)


def centres(condition: Tensor) -> Tensor:
    """Mode centres of each condition: [n] int -> [n, MODES, 2]."""
    place = condition[:, None] + CONDITIONS * torch.arange(MODES)
    angle = 2 * math.pi * place / (CONDITIONS * MODES)
    return RADIUS * torch.stack([angle.cos(), angle.sin()], dim=-1)


def draw(condition: Tensor, gen: Generator) -> Tensor:
    """One data point for each condition: [n] int -> [n, 2, 1, 1]."""
    mode = torch.randint(MODES, condition.shape, generator=gen)
    points = centres(condition)[torch.arange(len(condition)), mode]
    return (points + STD * torch.randn(points.shape, generator=gen))[..., None, None]


def energy_distance(samples: Tensor, data: Tensor) -> float:
    """2 E|x - y| - E|x - x'| - E|y - y'| of two point sets [n, ...], [m, ...]; unbiased, so it may be just below 0."""
    x, y = samples.flatten(1), data.flatten(1)

    def within(points: Tensor) -> Tensor:
        return torch.cdist(points, points).sum() / (len(points) * (len(points) - 1))

    return float(2 * torch.cdist(x, y).mean() - within(x) - within(y))


def in_mode(samples: Tensor, condition: Tensor) -> float:
    """Share of samples [n, 2, 1, 1] within 3 standard deviations of a mode of their own condition [n]."""
    distance = (samples.flatten(1)[:, None] - centres(condition)).norm(dim=-1)
    return float((distance.amin(1) < 3 * STD).float().mean())


def score(samples: Tensor, condition: Tensor, seed: int = 0) -> dict[str, float]:
    """`energy` (to fresh data, mean over conditions) and `in_mode` of samples [n, 2, 1, 1] under `condition` [n]."""
    data = draw(condition, Generator().manual_seed(seed))
    energies = [energy_distance(samples[condition == k], data[condition == k]) for k in condition.unique()]
    return {"energy": sum(energies) / len(energies), "in_mode": in_mode(samples, condition)}


def scatter(panels: dict[str, Tensor], condition: Tensor, path: Path) -> Path:
    """One plot per named sample set [n, 2, 1, 1], coloured by condition [n], with the mode centres; returns `path`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    marks = centres(torch.arange(CONDITIONS)).flatten(0, 1)
    figure, axes = plt.subplots(1, len(panels), figsize=(4 * len(panels), 4), squeeze=False)
    for axis, (title, samples) in zip(axes[0], panels.items(), strict=True):
        axis.scatter(*marks.T, s=120, facecolors="none", edgecolors="0.7")
        axis.scatter(*samples.flatten(1).T, s=3, c=condition, cmap="tab10", vmin=0, vmax=9)
        axis.set(title=title, aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    plt.close(figure)
    return path
