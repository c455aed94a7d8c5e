"""`[train]`: everything a training run may be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from apex_cli.config import Section

Share = Annotated[float, Field(ge=0, le=1)]


class LoraSettings(Section):
    rank: int = Field(default=64, ge=1)
    alpha: float | None = None
    """Scale numerator; None means alpha = rank (scale 1)."""
    targets: tuple[str, ...] | None = None
    """Module-name suffixes; None takes the backbone's own list."""


class TrainConfig(Section):
    steps: int = Field(ge=1)
    batch: int = Field(default=64, ge=1)
    """Images per optimizer step over all ranks."""
    micro_batch: int | None = Field(default=None, ge=1)
    """Images per forward on one rank; smaller than its share of `batch` means gradient accumulation."""
    tuning: Literal["full", "lora"] = "full"
    lora: LoraSettings = LoraSettings()
    init_from: str | None = None
    """Run, checkpoint, export or assets:NAME whose weights the student begins with, e.g. an earlier one-step run: full
    weights for full tuning, adapters for LoRA. None: those of `backbone.path`, which stays the base of v_real."""
    text_encoder: bool = False
    """Train the text encoder together with the transformer (for a fresh tiny pipeline)."""
    lr: float = Field(default=1e-4, gt=0)
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = Field(default=0.0, ge=0)
    clip: float = Field(default=1.0, gt=0)
    """Largest norm of the gradient."""
    warmup: int = Field(default=0, ge=0)
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    ema: float = Field(default=0.0, ge=0, lt=1)
    """Decay of the weight average that is sampled and exported; 0 keeps none."""
    precision: Literal["fp32", "tf32", "bf16"] = "fp32"
    """fp32: all of it; tf32: float32 whose products a GPU rounds to 10 bits; bf16: products and what lies between them
    in half precision, the trained weights in float32."""
    gradient_checkpointing: Share | tuple[Share, ...] = 0.0
    """Share of the transformer's blocks that are computed again in the backward and keep nothing: 0 none, 1 all. A list
    has one share for each forward with gradient of a step, in their order."""
    compile: bool = False
    """Compile the transformer's repeated blocks (torch.compile); the first steps take minutes longer."""
    graphs: bool = False
    """Record forwards and backward of a micro-batch as one CUDA graph for each set of shapes: for networks or batches
    so small that launching their kernels takes longer than running them. Without CUDA steps run as always."""
    sharding: Literal["none", "fsdp"] = "none"
    """fsdp: the transformer's weights, and what full tuning keeps for each, lie in shards, one on each rank."""
    seed: int = 0
    save_every: int = Field(default=500, ge=1)
    keep: int = Field(default=2, ge=1)
    """Checkpoints kept; older ones are deleted."""
    log_every: int = Field(default=10, ge=1)
    telemetry_every: int = Field(default=100, ge=1)
    """Steps between measurements of the gradient norm of every term and the distance of v(c) and v(c_fake)."""
    sample_every: int = Field(default=500, ge=1)
    sample_prompts: tuple[str, ...] = Field(default=("a photo of a red cube",), min_length=1)
    sample_seeds: int = Field(default=2, ge=1)
    """Seeds drawn for each of `sample_prompts`."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()

    @model_validator(mode="after")
    def _one_tuning(self) -> TrainConfig:
        if self.text_encoder and self.tuning == "lora":
            raise ValueError('tuning = "lora" trains adapters of the transformer alone; set text_encoder = false')
        return self

    @property
    def recomputed(self) -> tuple[float, ...]:
        """`gradient_checkpointing` as shares, one for all graphs or one for each."""
        shares = self.gradient_checkpointing
        return shares if isinstance(shares, tuple) else (shares,)
