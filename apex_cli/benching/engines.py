"""The ways a request is answered: our own pipeline, stage by stage, and the stock pipeline of diffusers.

An engine tells its `laps` where it is and returns pictures. Prompts are read anew in each request, but by the engine
that remembers them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor, nn

from apex_cli.backbones import one_frame
from apex_cli.backbones.pipelines import holding
from apex_cli.benching.laps import Laps
from apex_cli.errors import ApexError
from apex_cli.generation import CountedVelocity, SampleConfig, generator, to_pixels


class Engine(Protocol):
    def __call__(self, prompts: Sequence[str], seed: int) -> list[Image.Image]:
        """Pictures of `prompts`, picture k from the noise of (seed, k)."""
        ...

    def prepare(self, prompts: Sequence[str]) -> None:
        """What has to be done before `prompts` are asked, outside of the time."""
        ...

    def watched(self) -> AbstractContextManager[object]:
        """Around a request: what tells `laps` its stages where the engine's own code does not."""
        ...


class Staged:
    """Our own way, of a plain or a fast backbone; `remembered`: through the backbone's memory of prompts."""

    def __init__(
        self, backbone: Any, sample: SampleConfig, sampler: Callable[..., Tensor], laps: Laps, remembered: bool = False
    ):
        self.backbone, self.sample, self.sampler, self.laps = backbone, sample, sampler, laps
        self.remembered = remembered
        self.uncond = None
        if sample.guidance != 1:
            with torch.no_grad():
                self.uncond = backbone.encode_prompts([sample.negative_prompt or ""])

    def prepare(self, prompts: Sequence[str]) -> None:
        if self.remembered:
            with torch.no_grad():
                self.backbone.encode_prompts(list(prompts))

    def watched(self) -> AbstractContextManager[object]:
        return nullcontext()

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seed: int) -> list[Image.Image]:
        laps, backbone = self.laps, self.backbone
        cond = self._known(prompts) if self.remembered else self._read(prompts)
        laps.to("sampler")
        gens = [generator(seed, k) for k in range(len(prompts))]
        noise = torch.stack([torch.randn(backbone.latent_shape, generator=g) for g in gens]).to(cond.tokens.device)
        counted = CountedVelocity(backbone, self.sample.guidance, self.uncond, self.sample.guidance_rescale)
        latents = self.sampler(self._watched(counted), noise, self.sample.grid(), cond, gens)
        laps.to("vae")
        images = backbone.decode(latents)
        laps.to("to host")
        pixels = to_pixels(images)
        laps.to("pil")
        made = [Image.fromarray(array) for array in pixels]
        if counted.rows != self.sample.nfe * len(prompts):
            raise ApexError(f"{counted.rows} evaluations for {len(prompts)} pictures at NFE {self.sample.nfe}.")
        return made

    def _read(self, prompts: Sequence[str]) -> Any:
        tokens = self.backbone.tokenise(list(prompts))
        self.laps.to("text")
        return self.backbone.embed(tokens)

    def _known(self, prompts: Sequence[str]) -> Any:
        memory = self.backbone.memory
        misses = memory.misses
        cond = self.backbone.encode_prompts(list(prompts))
        if memory.misses != misses:
            raise ApexError("A prompt that was read before is not remembered.", "Raise the memory's limit.")
        return cond

    def _watched(self, velocity: CountedVelocity) -> Callable[..., Tensor]:
        def watched(x_t: Tensor, t: Tensor, cond: Any) -> Tensor:
            self.laps.to("transformer")
            answer = velocity(x_t, t, cond)
            self.laps.to("sampler")
            return answer

        return watched


class Stock:
    """The pipeline of diffusers as its documentation calls it, without guidance; hooks on its modules mark the stages.

    `to host` is the post-processing up to numpy, where diffusers has its own code for it.
    """

    def __init__(self, backbone: Any, sample: SampleConfig, laps: Laps):
        self.pipeline = holding(backbone.pipeline, vae=one_frame.stock(backbone.pipeline.vae))
        self.laps, self.steps = laps, sample.nfe
        self.side = backbone.config.resolution
        self.arguments = stock_arguments(backbone)
        self.pipeline.set_progress_bar_config(disable=True)

    def prepare(self, prompts: Sequence[str]) -> None:
        pass

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str], seed: int) -> list[Image.Image]:
        return self.pipeline(
            prompt=list(prompts),
            num_inference_steps=self.steps,
            height=self.side,
            width=self.side,
            generator=[generator(seed, k) for k in range(len(prompts))],
            output_type="pil",
            **self.arguments,
        ).images

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Hooks on the modules, which other engines ask too."""
        handles = self._hooks()
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()
            del self.pipeline.image_processor.numpy_to_pil

    def _hooks(self) -> list[Any]:
        pipeline, to = self.pipeline, self.laps.to
        decoder = pipeline.vae.decoder

        def around(module: nn.Module, stage: str, after: str) -> list[Any]:
            return [
                module.register_forward_pre_hook(lambda *_: to(stage)),
                module.register_forward_hook(lambda *_: to(after)),
            ]

        convert = type(pipeline.image_processor).numpy_to_pil

        def numpy_to_pil(images: Any) -> Any:
            to("pil")
            return convert(images)

        pipeline.image_processor.numpy_to_pil = numpy_to_pil
        return [
            *around(pipeline.text_encoder, "text", "sampler"),
            *around(pipeline.transformer, "transformer", "sampler"),
            *around(decoder, "vae", "to host"),
        ]


def stock_arguments(backbone: Any) -> dict[str, Any]:
    """What the stock call needs beyond prompt, size and steps to run without guidance."""
    config = backbone.config
    if backbone.pipeline_class == "SanaPipeline":
        instruction = {} if config.instruction else {"complex_human_instruction": None}
        return {
            "guidance_scale": 1.0,
            "use_resolution_binning": False,
            "max_sequence_length": config.max_tokens,
            **instruction,
        }
    if backbone.pipeline_class == "QwenImagePipeline":
        return {"true_cfg_scale": 1.0, "max_sequence_length": config.max_tokens}
    return {"guidance_scale": 1.0, "max_sequence_length": config.max_tokens}
