"""FLUX.1 folded: its projections. Its modulation follows the pooled prompt, not the time alone."""

from __future__ import annotations

from torch import Tensor

from apex_cli.backbones.fast import projections
from apex_cli.backbones.fast.twin import Fast
from apex_cli.backbones.flux import Flux


class FastFlux(Fast, Flux):
    """The twin of a `Flux`."""

    def fold(self, times: tuple[float, ...]) -> list[str]:
        projections.fuse_flux(self.network)
        return ["projections"]

    def real(self, tokens: dict[str, Tensor]) -> list[int]:
        return [self.config.max_tokens] * len(tokens[""])
