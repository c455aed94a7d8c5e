"""How a stock diffusers pipeline is called to draw what `generation.generate` draws: its scheduler and arguments.

`FlowMatchEulerDiscreteScheduler` at shift 1 steps along the sigmas it is given; with `stochastic_sampling` it is our
renoise sampler. Without `sigmas` it ends its grid at 0.001 instead of 0, which only a single step does not notice.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

RESCALED_GUIDANCE = {"QwenImagePipeline"}
"""Pipelines that give the guided velocity v_uncond + g (v_cond - v_uncond) the length of v_cond in each patch."""


def scheduler_arguments(sampler: str) -> dict[str, Any]:
    """Keyword arguments of `FlowMatchEulerDiscreteScheduler`."""
    return {"shift": 1.0, "stochastic_sampling": sampler == "renoise"}


def scheduler(sampler: str) -> Any:
    from diffusers import FlowMatchEulerDiscreteScheduler

    return FlowMatchEulerDiscreteScheduler(**scheduler_arguments(sampler))


def call_arguments(backbone: Any, sample: Any) -> dict[str, Any]:
    """Keyword arguments of the pipeline's call; `sample`: a `generation.SampleConfig`."""
    sigmas: Sequence[float] = sample.grid()
    config, parameters = backbone.config, inspect.signature(type(backbone.pipeline).__call__).parameters
    wanted = {
        "num_inference_steps": len(sigmas) - 1,
        "sigmas": [round(sigma, 9) for sigma in sigmas[:-1]],
        **_guidance(backbone, sample, "true_cfg_scale" in parameters),
        "height": config.resolution,
        "width": config.resolution,
        "max_sequence_length": config.max_tokens,
        "use_resolution_binning": False,
        "clean_caption": False,
    }
    if tuple(sigmas) == (1.0, 0.0):
        del wanted["sigmas"]
    if not getattr(config, "instruction", False):
        wanted["complex_human_instruction"] = None
    return {name: value for name, value in wanted.items() if name in parameters}


def _guidance(backbone: Any, sample: Any, named_true: bool) -> dict[str, Any]:
    guidance, negative = sample.guidance, sample.negative_prompt
    wanted: dict[str, Any] = {"negative_prompt": negative} if negative and guidance != 1 else {}
    if backbone.pipeline_class == "ZImagePipeline":  # v_cond + g (v_cond - v_uncond)
        return wanted | {"guidance_scale": guidance - 1}
    if not named_true:
        return wanted | {"guidance_scale": guidance}
    wanted = {"true_cfg_scale": guidance, **({"negative_prompt": negative or ""} if guidance != 1 else {})}
    embedded = getattr(backbone.config, "embedded_guidance", None)
    return wanted if embedded is None else wanted | {"guidance_scale": embedded}


def same_picture(backbone: Any, sample: Any) -> bool:
    """Whether that call computes what our sampler computes: not Heun's method, and not renoise over several steps in a
    pipeline that keeps its generator from the scheduler."""
    seeded = hasattr(backbone.pipeline, "prepare_extra_step_kwargs")
    single = len(sample.grid()) == 2
    steps = single or sample.sampler == "euler" or (sample.sampler == "renoise" and seeded)
    rescaled = backbone.pipeline_class in RESCALED_GUIDANCE
    guided = sample.guidance > 1 and rescaled == (sample.guidance_rescale is not None)
    return steps and (sample.guidance == 1 or guided)
