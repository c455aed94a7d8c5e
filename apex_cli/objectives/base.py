"""What an objective is: it asks the networks for velocities and returns a loss; it owns no weights and no random state.

Every random number of a step comes from `draw`, for the whole global batch at once. The loop slices the draws by rank
and micro-batch, so a result depends neither on the number of ranks nor on gradient accumulation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, cast

from torch import Generator, Tensor, nn

from apex_cli.flow.condition import Cond

Velocity = Callable[[Tensor, Tensor, Cond], Tensor]
Draws = dict[str, Tensor]
Real = Literal["self", "base", "ema"]


@dataclass(frozen=True)
class Batch:
    """`x`: what the objective's `needs.inputs` says; `uncond`: B empty prompts; `noise`: what each x was made from.

    latents [B, C, h, w] clean; pixels [B, 3, H, W] in [-1, 1] (the prompts are empty then); answers [B, Q] int64, the
    number of the right answer to each question about the caption.
    """

    x: Tensor
    cond: Cond
    uncond: Cond | None = None
    ids: Sequence[str | int] = ()
    noise: Tensor | None = None

    def __len__(self) -> int:
        return self.x.shape[0]

    @staticmethod
    def of_pixels(x: Tensor, ids: Sequence[str | int] = ()) -> Batch:
        """Pixels without prompts."""
        empty = x.new_zeros(len(x), 1, 1)
        return Batch(x, Cond(empty, empty[..., 0] > 0), ids=ids)


@dataclass(frozen=True)
class Nets:
    """The networks an objective may ask. `real` never carries a gradient; `encode`/`decode` are the autoencoder."""

    student: Velocity
    real: Velocity | None = None
    encode: Callable[[Tensor], Tensor] | None = None
    decode: Callable[[Tensor], Tensor] | None = None


@dataclass(frozen=True)
class Needs:
    """What the loop must prepare: which part is trained, on what, and which network is v_real (None: no such call)."""

    trains: Literal["transformer", "autoencoder", "text_encoder"] = "transformer"
    inputs: Literal["latents", "pixels", "answers"] = "latents"
    real: Real | None = None
    uncond: bool = False
    images: bool = True
    """Whether it reads `x`; otherwise that is zeros of the right shape, and prompts are data enough."""
    noise: bool = False
    """Whether the data must say from which noise each of its images was made."""


@dataclass
class Loss:
    """`parts`: unweighted differentiable scalars, means over the batch; `weights`: their factors in the total."""

    parts: dict[str, Tensor]
    weights: dict[str, float]
    watch: dict[str, Tensor] = field(default_factory=dict)
    """Per-sample facts without gradient for telemetry, e.g. `t` [B] and `error` [B]."""
    apart: tuple[str, ...] = ()
    """Parts whose graphs share nothing with another's."""

    @property
    def total(self) -> Tensor:
        return self._sum(self.parts)

    def backward(self, factor: float = 1.0) -> None:
        """Add the gradient of `factor` times the total, one graph after the other: autograd holds the whole gradient of
        a weight until all graphs it is in are done, which is all weights at once where there are two graphs."""
        together = [name for name in self.parts if name not in self.apart]
        for names in (*([name] for name in self.parts if name in self.apart), together):
            if names:
                (factor * self._sum(names)).backward()

    def _sum(self, names: Iterable[str]) -> Tensor:
        return cast(Tensor, sum(self.weights[name] * self.parts[name] for name in names))


class Objective(Protocol):
    """One paper, one file. `modules` holds what is learned besides the network (e.g. a learned condition shift)."""

    needs: Needs
    modules: nn.Module | None

    def draw(self, shape: Sequence[int], gen: Generator, progress: float = 0.0) -> Draws:
        """Every random number of a step for a global batch of `shape`; `progress`: share of the run that is done."""
        ...

    def loss(self, nets: Nets, batch: Batch, draws: Draws) -> Loss: ...
