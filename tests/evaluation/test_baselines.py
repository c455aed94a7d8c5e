"""Baseline recipes on tiny pipelines of the real classes: the right call, the right noise, counted evaluations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_pipelines
import torch

from apex_cli.errors import CheckpointError, SetupError, UsageError
from apex_cli.evaluation import any_step, baselines, published
from apex_cli.evaluation.baselines import StockPipeline, find, known
from apex_cli.generation import Request, generator

KINDS = {
    "flux-schnell": "flux",
    "sdxl-turbo": "sdxl",
    "sdxl-lcm": "sdxl",
    "sdxl-dmd2": "sdxl",
    "sdxl-dmd2-1step": "sdxl",
    "sdxl-pcm": "sdxl",
    "pixart-lcm": "pixart",
    "pixart-dmd": "pixart",
    "sd3.5-turbo": "sd3",
    "sana-sprint-0.6b": "sana_sprint",
    "sana-sprint-1.6b": "sana_sprint",
    "qwen-image": "qwen_image",
    "qwen-image-lightning": "qwen_image",
    "twinflow": "qwen_image",
    "rcgm": "qwen_image",
}
SIDES = {"sana_sprint": 64, "qwen_image": 64}
REQUESTS = [Request("a red cube", 3, 0), Request("three hearts", 3, 1), Request("a red cube", 3, 2)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """`folders(kind)`: a saved tiny pipeline."""
    made: dict[str, Path] = {}

    def folder(kind: str) -> Path:
        if kind not in made:
            made[kind] = tiny_pipelines.write(kind, tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder


def lora(kind: str, pipeline_folder: Path, target: Path) -> Path:
    """A LoRA file for the network of a pipeline, with weights that do something."""
    import diffusers
    from diffusers.training_utils import _collate_lora_metadata
    from peft import LoraConfig, get_peft_model_state_dict

    pipeline: Any = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder)
    part = "unet" if kind == "sdxl" else "transformer"
    network = getattr(pipeline, part)
    network.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_v"]))
    layers = {f"{part}_lora_layers": get_peft_model_state_dict(network)}
    metadata = _collate_lora_metadata({part: network})
    type(pipeline).save_lora_weights(target, weight_name="lora.safetensors", **layers, **metadata)
    return target


def network(name: str, pipeline_folder: Path, target: Path) -> Path:
    """A network for the place of a pipeline's own, of the class that the recipe asks for."""
    import diffusers

    torch.manual_seed(1)
    if KINDS[name] == "sdxl":
        made = tiny_pipelines.unet(**({"time_cond_proj_dim": 8} if name == "sdxl-lcm" else {}))
    else:
        own: Any = diffusers.DiffusionPipeline.from_pretrained(pipeline_folder).transformer
        kind = any_step.qwen_image() if name == "twinflow" else type(own)
        made = kind(**{key: value for key, value in own.config.items() if not key.startswith("_")})
    made.save_pretrained(target)
    return target


@pytest.fixture
def tiny(folders, tmp_path):
    """`tiny(name)`: a shipped recipe pointed at tiny weights, all else as it is."""

    def make(name: str, **more: Any) -> baselines.Baseline:
        kind, recipe = KINDS[name], known()[name]
        changes: dict[str, Any] = {"model": str(folders(kind)), "dtype": "fp32", "resolution": SIDES.get(kind, 16)}
        if recipe.lora:
            changes["lora"] = {"model": str(lora(kind, folders(kind), tmp_path / "lora")), "file": "lora.safetensors"}
        if recipe.components:
            place = {"model": str(network(name, folders(kind), tmp_path / "network")), "subfolder": None}
            changes["components"] = dict.fromkeys(recipe.components, place)
        if name == "qwen-image":
            more = {"steps": 3} | more
        return find(name, changes | more)

    return make


def test_every_recipe_is_tested_and_named_as_in_the_published_table():
    assert set(KINDS) == set(known())
    rows = {row.method for table in published.tables() for row in table.rows}
    assert {recipe.row for recipe in known().values() if recipe.row} <= rows


@pytest.mark.parametrize("name", KINDS)
def test_a_recipe_draws(name, tiny):
    recipe = tiny(name)
    painter = StockPipeline(recipe)
    drawn = list(painter.draw(REQUESTS[:2]))
    assert [nfe for _, nfe in drawn] == [painter.nfe] * 2
    assert all(pixels.dtype == np.uint8 and pixels.shape == (recipe.resolution,) * 2 + (3,) for pixels, _ in drawn)
    assert (drawn[0][0] != drawn[1][0]).any()
    ((again, _),) = painter.draw(REQUESTS[1:2])
    assert np.abs(again.astype(int) - drawn[1][0]).max() <= 1


def test_the_seed_and_index_decide_the_noise(tiny):
    first, _, third = StockPipeline(tiny("flux-schnell")).draw(REQUESTS)
    assert (first[0] != third[0]).any()


def test_flux_is_the_call_of_its_model_card(tiny, folders):
    from diffusers import FluxPipeline

    ((ours, _),) = StockPipeline(tiny("flux-schnell")).draw(REQUESTS[:1])
    card = FluxPipeline.from_pretrained(folders("flux"))
    card.set_progress_bar_config(disable=True)
    made = card(
        "a red cube",
        guidance_scale=0.0,
        num_inference_steps=4,
        max_sequence_length=256,
        height=16,
        width=16,
        generator=generator(3, 0),
        output_type="np",
    ).images[0]
    assert np.abs(ours - (made * 255).round()).max() <= 1


def test_dmd2_steps_along_its_own_times(tiny):
    painter = StockPipeline(tiny("sdxl-dmd2"))
    list(painter.draw(REQUESTS[:1]))
    assert type(painter.pipeline.scheduler).__name__ == "LCMScheduler"
    assert painter.pipeline.scheduler.timesteps.tolist() == [999, 749, 499, 249]


@pytest.mark.parametrize(("name", "time"), [("sdxl-dmd2-1step", 399), ("pixart-dmd", 400)])
def test_one_step_of_dmd_is_the_clean_prediction_of_its_time(name, time, tiny):
    """x0 = (x - sqrt(1 - a) e) / sqrt(a), from the network's own answer."""
    painter = StockPipeline(tiny(name))
    part = painter.pipeline.unet if name.startswith("sdxl") else painter.pipeline.transformer
    heard: list[Any] = []
    part.register_forward_hook(lambda _, args, out: heard.append((args, out[0])))
    decode, shown = painter.pipeline.vae.decode, []
    painter.pipeline.vae.decode = lambda z, *a, **k: (shown.append(z), decode(z, *a, **k))[1]
    list(painter.draw(REQUESTS[:1]))
    ((args, said),) = heard
    scheduler = painter.pipeline.scheduler
    a = scheduler.alphas_cumprod[time]
    assert scheduler.timesteps.tolist() == [time]
    clean = (args[0] - (1 - a).sqrt() * said[:, : args[0].shape[1]]) / a.sqrt()
    assert shown[0] * painter.pipeline.vae.config.scaling_factor == pytest.approx(clean, abs=1e-3)


def test_twinflow_asks_for_the_end_and_renoises(tiny):
    """Times of its README, e1(t) + t e2(0) into the blocks, and fresh noise of each picture's own generator."""
    painter = StockPipeline(tiny("twinflow"))
    network, heard = painter.pipeline.transformer, []
    network.transformer_blocks[0].register_forward_pre_hook(
        lambda _, args, named: heard.append(named.get("temb", args[3] if len(args) > 3 else None)), with_kwargs=True
    )
    list(painter.draw(REQUESTS[:1]))
    assert painter.pipeline.scheduler.sigmas.tolist() == pytest.approx([0.999, 0.6, 0])
    first, second = network.time_text_embed, network.time_text_embed_2
    with torch.no_grad():
        for t, temb in zip((0.999, 0.6), heard, strict=True):
            time = torch.tensor([t])
            expected = first.timestep_embedder(first.time_proj(time)) + t * second(torch.zeros(1), temb)
            assert temb == pytest.approx(expected, abs=1e-4)
            assert not torch.allclose(temb, first.timestep_embedder(first.time_proj(time)), atol=1e-3)
    assert StockPipeline(tiny("twinflow", steps=4)).baseline.arguments()["sigmas"][1] == pytest.approx(
        1 - 0.001 - 0.499 / 3
    )


@pytest.mark.parametrize("name", ["sdxl-dmd2-1step", "pixart-dmd", "rcgm"])
def test_weights_that_the_user_has_to_name(name):
    with pytest.raises(SetupError, match="you have to name") as caught:
        _ = StockPipeline(known()[name]).subject
    assert "--set model." in caught.value.remedy and known()[name].remedy in caught.value.remedy


def test_lightning_has_a_time_shift_of_three_at_any_size(tiny):
    painter = StockPipeline(tiny("qwen-image-lightning"))
    list(painter.draw(REQUESTS[:1]))
    even = torch.linspace(1, 1 / 4, 4)
    assert painter.pipeline.scheduler.sigmas[:-1] == pytest.approx(3 * even / (1 + 2 * even), abs=1e-4)


def test_a_lora_changes_the_picture(tiny):
    with_lora = StockPipeline(tiny("sdxl-pcm"))
    without = StockPipeline(with_lora.baseline.model_copy(update={"lora": None}))
    assert (next(with_lora.draw(REQUESTS[:1]))[0] != next(without.draw(REQUESTS[:1]))[0]).any()


def test_nfe_counts_guidance_twice(tiny):
    guided = tiny("qwen-image").with_nfe(4)
    assert guided.steps == 2
    assert next(StockPipeline(guided).draw(REQUESTS[:1]))[1] == 4


@pytest.mark.parametrize(("name", "nfe"), [("qwen-image", 3), ("sdxl-dmd2", 1), ("sdxl-pcm", 4)])
def test_an_nfe_it_was_not_made_for_is_refused(name, nfe):
    with pytest.raises(UsageError, match=f"{nfe} NFE"):
        known()[name].with_nfe(nfe)


def test_sana_sprint_takes_an_intermediate_time_at_two_steps_only():
    recipe = known()["sana-sprint-1.6b"]
    assert recipe.with_nfe(1).arguments()["intermediate_timesteps"] is None
    assert "intermediate_timesteps" not in recipe.with_nfe(2).arguments()


def test_any_folder_is_drawn_at_its_own_defaults(folders):
    recipe = find(str(folders("flux")), {"steps": 1, "dtype": "fp32", "resolution": 16})
    assert next(StockPipeline(recipe).draw(REQUESTS[:1]))[1] == 1


def test_hub_ids_find_their_recipe_and_settings_go_deep():
    recipe = find("black-forest-labs/FLUX.1-schnell", {"call": {"max_sequence_length": 64}})
    assert recipe.name == "flux-schnell"
    assert recipe.call == {"guidance_scale": 0.0, "max_sequence_length": 64}
    assert find("Qwen/Qwen-Image", {}).name == "qwen-image", "and not one that tunes it"
    assert find("stabilityai/stable-diffusion-xl-base-1.0", {}).lora is None


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("flux-schnel", {}, "no baseline"),
        ("flux-schnell", {"stepps": 1}, "stepps"),
        ("flux-schnell", {"steps": 0}, "1"),
    ],
)
def test_mistakes_are_told(name, changes, told):
    with pytest.raises(UsageError, match=told):
        find(name, changes)


def test_pickles_are_not_opened(folders, tmp_path):
    import shutil

    folder = Path(shutil.copytree(folders("flux"), tmp_path / "copy"))
    (folder / "vae" / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="pickle"):
        next(StockPipeline(find(str(folder), {"steps": 1})).draw(REQUESTS[:1]))


def test_the_weights_are_part_of_the_identity(folders):
    one = StockPipeline(find("flux-schnell", {"model": str(folders("flux"))}))
    other = StockPipeline(find("flux-schnell", {"model": str(folders("sd3"))}))
    assert len(one.subject.weights) == 64
    assert one.subject.weights != other.subject.weights
