"""Known pictures through an extractor before it is trusted: a broken one is told by name, not by a strange score.

Four patterns that nothing else here uses, so that they never change, must give (1) finite features that tell them
apart, (2) the same features in any batch, and (3) the stored answers: projections of the features on fixed random
directions. Answers of weights that ship in packages are stored here; for others the CPU gives them once, in float32,
and they are kept beside the weights' cache: a kernel that is wrong on one device cannot be wrong in the same way on the
other.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from apex_cli.errors import SetupError
from apex_cli.evaluation.keeper import kept, place
from apex_cli.evaluation.observations import digest

SIDE, DIRECTIONS = 256, 8
TOLERANCE = 0.02
"""Of the distance to the answers, relative to how far the pictures lie apart; float32 on any device is within 0.005."""
STORED = Path(__file__).with_name("canaries.json")


@cache
def pictures() -> tuple[np.ndarray, ...]:
    """Blends, stripes, a disc on grass and rings, uint8 [SIDE, SIDE, 3] each: integers alone, the same everywhere."""
    y, x = np.mgrid[:SIDE, :SIDE]
    square = (x - SIDE // 2) ** 2 + (y - SIDE // 2) ** 2
    blends = np.stack([x, y, SIDE - 1 - x], 2)
    stripes = np.where(((x + y) // 32 % 2 == 0)[..., None], (200, 40, 30), (240, 240, 230))
    disc = np.where((square < 80**2)[..., None], (250, 210, 40), (40, 110, 50))
    rings = np.where((square // 2048 % 2 == 0)[..., None], (30, 60, 170), (20, 20, 20))
    return tuple(picture.astype(np.uint8) for picture in (blends, stripes, disc, rings))


def answers(
    prepare: Callable[[np.ndarray], Tensor], network: Callable[[Tensor], Tensor], device: torch.device
) -> np.ndarray:
    """[4, DIRECTIONS]; raises `SetupError` for features that are not finite, alike, or depend on the batch."""
    pixels = torch.stack([prepare(picture) for picture in pictures()]).to(device)
    with torch.inference_mode():
        together = network(pixels).double().cpu().numpy()
        alone = network(pixels[:1]).double().cpu().numpy()
    if not np.isfinite(together).all():
        raise SetupError("The extractor is broken: its features of known pictures are not finite.", REMEDY)
    spread = np.linalg.norm(together - together.mean(0))
    if spread <= 1e-6 * np.linalg.norm(together):
        raise SetupError("The extractor is broken: it cannot tell known pictures apart.", REMEDY)
    if np.linalg.norm(alone[0] - together[0]) > TOLERANCE * spread:
        raise SetupError("The extractor is broken: a known picture looks different in another batch.", REMEDY)
    directions = np.random.default_rng(0).normal(size=(together.shape[1], DIRECTIONS)) / together.shape[1] ** 0.5
    return together @ directions


REMEDY = "Try another device or another version of its library; the weights may be damaged."


def check(
    identity: Mapping[str, Any],
    prepare: Callable[[np.ndarray], Tensor],
    network: nn.Module | Callable[[Tensor], Tensor],
    device: torch.device,
) -> None:
    """Move `network` to `device` and compare what it answers there; raises `SetupError`."""
    expected = stored(identity, lambda: answers(prepare, network, torch.device("cpu")))
    if isinstance(network, nn.Module):
        network.to(device)
    found = answers(prepare, network, device)
    apart = np.linalg.norm(expected - expected.mean(0))
    if (error := np.linalg.norm(found - expected) / apart) > TOLERANCE:
        raise SetupError(
            f"The extractor is broken on {device}: known pictures give answers {error:.2f} away from the stored ones.",
            f"{REMEDY} If the answers are old, delete '{place(_name(identity))}'.",
        )


def stored(identity: Mapping[str, Any], ask: Callable[[], np.ndarray]) -> np.ndarray:
    """The answers that ship with the package, or those that are kept here; `ask` gives them where there are none."""
    shipped = json.loads(STORED.read_text())
    return np.array(shipped.get(_key(identity)) or kept(_name(identity), lambda: ask().astype(np.float32).tolist()))


@cache
def _drawn() -> str:
    return hashlib.sha256(np.stack(pictures()).tobytes()).hexdigest()


def _key(identity: Mapping[str, Any]) -> str:
    """Of the answers of an extractor to these pictures: answers to others are never compared with them."""
    return digest([dict(identity), _drawn()])[:16]


def _name(identity: Mapping[str, Any]) -> str:
    return f"features-{_key(identity)}"
