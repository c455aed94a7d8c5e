"""Qwen-Image: template and mask, the text's RMSNorm, time in bf16, what is never trained, and its own autoencoder."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKLQwenImage
from tiny_runs import APEX, LORA, manifest, metrics, own_cache, train, write_recipe  # noqa: F401

from apex_cli import build as root
from apex_cli import recipe
from apex_cli.backbones.qwen_image import QwenImage, QwenImageConfig
from apex_cli.errors import UsageError
from apex_cli.flow.condition_shift import ConditionShift, ConditionShiftConfig
from apex_cli.objectives.base import Batch, Needs, Nets
from apex_cli.objectives.reconstruction import Reconstruction, ReconstructionConfig
from apex_cli.training.parts import Parts
from apex_cli.training.settings import LoraSettings, TrainConfig
from apex_cli.worlds.shapes.pipeline import STARTERS
from apex_cli.worlds.shapes.vocabulary import WORDS

PROMPTS = ["a red cube", "a photo of two blue spheres and a green star", ""]
ALIKE = ["a photo of a red cube", "a photo of a blue cube"]


@pytest.mark.parametrize("prompts", [PROMPTS, ALIKE], ids=["padded", "of one length"])
@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_does(qwen, prompts):
    tokens, mask = qwen.pipeline.encode_prompt(prompts, max_sequence_length=64)
    assert (mask is None) == (prompts is ALIKE)
    cond = qwen.encode_prompts(prompts)
    assert torch.equal(cond.mask, torch.ones_like(cond.mask) if mask is None else mask.bool())
    torch.testing.assert_close(cond.tokens[cond.mask], tokens[cond.mask], atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_long_prompt_is_cut_where_the_stock_pipeline_cuts(qwen):
    long = ["a red cube and " * 40]
    tokens, _ = qwen.pipeline.encode_prompt(long, max_sequence_length=64)
    torch.testing.assert_close(qwen.encode_prompts(long).tokens, tokens, atol=1e-5, rtol=1e-5)


def test_a_prompt_may_hold_braces(qwen):
    assert qwen.encode_prompts(["{a red cube}"]).mask.all()


def test_the_template_is_34_tokens_and_every_word_is_one(qwen):
    head, _ = qwen.pipeline.prompt_template_encode.split("{}")
    assert len(qwen.pipeline.tokenizer.encode(head)) == qwen.pipeline.prompt_template_encode_start_idx == 34
    for word in (*STARTERS, *(f" {word}" for word in WORDS)):
        assert len(qwen.pipeline.tokenizer.encode(word)) == 1, word


def test_a_side_that_cannot_be_packed(qwen):
    with pytest.raises(UsageError, match="resolution = 72: QwenImagePipeline needs a multiple of 16"):
        qwen.with_config(qwen.config.model_copy(update={"resolution": 72}))


# ---- the condition shift ---------------------------------------------------------------------------------------


def shifted(qwen, a, b):
    x_t = torch.randn(3, *qwen.latent_shape, generator=torch.Generator().manual_seed(2))
    shift = ConditionShift(ConditionShiftConfig(a=a, b=b), qwen.cond_dim)
    return qwen.velocity(x_t, torch.tensor([0.2, 0.6, 1.0]), shift(qwen.encode_prompts(PROMPTS)))


@torch.no_grad()
def test_a_positive_scale_alone_is_invisible(qwen):
    """The text passes an RMSNorm first: of a scaled prompt only the sign is left (method.md; the paper's Table 7)."""
    assert qwen.scale_invariant_text
    same = {"atol": 1e-4, "rtol": 1e-4}  # the epsilon of the norm
    torch.testing.assert_close(shifted(qwen, 0.5, 0.0), shifted(qwen, 1.0, 0.0), **same)
    torch.testing.assert_close(shifted(qwen, -0.5, 0.0), shifted(qwen, -1.0, 0.0), **same)
    for a, b in ((-1.0, 0.0), (-0.5, 1.0), (0.5, 1.0)):
        assert (shifted(qwen, a, b) - shifted(qwen, 1.0, 0.0)).abs().max() > 1e-2


# ---- time ------------------------------------------------------------------------------------------------------


def in_bf16(qwen) -> QwenImage:
    half = copy.copy(qwen)
    half.network = copy.deepcopy(qwen.network).to(torch.bfloat16)
    return half


def at(model, t, dtype=torch.float32):
    """The velocity at one point and the times `t`."""
    x_t = torch.randn(1, *model.latent_shape, generator=torch.Generator().manual_seed(2)).to(dtype)
    cond = model.encode_prompts(["a red cube"]).expand(len(t)).to("cpu", dtype)
    return model.velocity(x_t.expand(len(t), -1, -1, -1), t, cond)


@torch.no_grad()
def test_times_that_bf16_cannot_tell_apart_are_told_apart(qwen):
    t = torch.tensor([0.999, 1.0])
    assert t.bfloat16().unique().numel() == 1
    near, far = at(in_bf16(qwen), t, torch.bfloat16)
    assert not torch.equal(near, far)


@torch.no_grad()
def test_times_of_the_bf16_grid_give_what_diffusers_gives_to_the_bit(qwen):
    half, t = in_bf16(qwen), torch.tensor([1.0, 0.75, 0.6015625, 0.00390625])
    x_t = torch.randn(4, *qwen.latent_shape, generator=torch.Generator().manual_seed(2)).bfloat16()
    cond = qwen.encode_prompts(["a red cube"]).expand(4).to("cpu", torch.bfloat16)
    patches = half.network(
        hidden_states=qwen.pipeline._pack_latents(x_t, *x_t.shape),
        encoder_hidden_states=cond.tokens,
        encoder_hidden_states_mask=cond.mask,
        timestep=t,
        img_shapes=[[(1, 4, 4)]] * 4,
        return_dict=False,
    )[0]
    expected = qwen.pipeline._unpack_latents(patches, 64, 64, 8)[:, :, 0]
    assert torch.equal(half.velocity(x_t, t, cond), expected)


@torch.no_grad()
def test_autocast_sees_the_times_of_full_precision(qwen):
    """A run under autocast is sampled without; diffusers alone would embed every time in two ways."""
    t, seen = torch.tensor([0.999, 0.3]), []
    embedder = qwen.network.time_text_embed.timestep_embedder
    hook = embedder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0].float()))
    at(qwen, t)
    with torch.autocast("cpu", torch.bfloat16):
        at(qwen, t)
    hook.remove()
    torch.testing.assert_close(seen[1], seen[0], atol=2**-8, rtol=0)
    assert not qwen.network.time_text_embed.time_proj._forward_pre_hooks


# ---- what is trained -------------------------------------------------------------------------------------------


def parts(build, **config) -> tuple[QwenImage, Parts]:
    model = build("qwen_image")
    return model, Parts(model, Needs(), TrainConfig(steps=1, **config), None)


@pytest.mark.parametrize(
    "config", [{"text_encoder": True}, {"tuning": "lora", "lora": LoraSettings(rank=2)}], ids=["full", "lora"]
)
def test_everything_that_is_trained_gets_a_gradient(build, config):
    model, trained = parts(build, **config)
    x_t = torch.randn(2, *model.latent_shape, generator=torch.Generator().manual_seed(2))
    model.velocity(x_t, torch.tensor([0.2, 1.0]), model.encode_prompts(PROMPTS[:2])).square().mean().backward()
    assert [name for name, value in trained.named.items() if value.grad is None] == []
    frozen = [name for name, value in model.network.named_parameters() if "txt_mlp" in name and not value.requires_grad]
    assert any(name.startswith("transformer_blocks.1.txt_mlp") for name in frozen)
    assert any(name.startswith("transformer.transformer_blocks.0.txt_mlp") for name in trained.named)


def test_the_autoencoder_is_trained_to_the_last_weight():
    """From nothing, on the posterior's mean: a few steps lower the error, and a pixel out of range has a gradient."""
    model = QwenImage(QwenImageConfig(tiny={"vae_width": 4}, max_tokens=64))
    needs = Reconstruction.needs
    trained = Parts(model, needs, TrainConfig(steps=1), None)
    goal, nets = Reconstruction(ReconstructionConfig()), Nets(model.velocity, None, model.encode_images, model.decode)
    x = 2 * torch.rand(2, 3, 1, 1, generator=torch.Generator().manual_seed(0)).expand(-1, -1, 64, 64) - 1
    optimizer, losses = torch.optim.AdamW(trained.named.values(), 3e-3), []
    for _ in range(12):
        loss = goal.loss(nets, Batch(x, model.encode_prompts([""])), {"seed": torch.tensor([1, 2])})
        loss.total.backward()
        assert [name for name, value in trained.named.items() if value.grad is None] == []
        optimizer.step()
        optimizer.zero_grad()
        losses.append((loss.parts["l1"] + loss.parts["l2"]).item())
    assert losses[-1] < 0.95 * losses[0]
    model.autoencoder.decoder.conv_out.bias.data.fill_(3)
    pixels = model.decode(model.encode_images(x))
    assert pixels.min() > 1
    pixels.sum().backward()
    assert model.autoencoder.decoder.conv_in.weight.grad.any()


def test_one_frame_in_two_dimensions_is_one_frame_in_three(build):
    """The same pictures, the same gradient of every weight, and the same names, as the stock autoencoder's."""
    ours = build("qwen_image")
    stock = AutoencoderKLQwenImage.from_config(ours.autoencoder.config)
    stock.load_state_dict(ours.autoencoder.state_dict())
    ours.autoencoder.requires_grad_(True)
    pixels = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    latents = ours.encode_images(pixels)
    posterior = stock.encode(pixels[:, :, None]).latent_dist.mode()
    torch.testing.assert_close(latents, posterior[:, :, 0], atol=1e-5, rtol=1e-5)
    ours.decode(latents).square().mean().backward()
    stock.decoder(stock.post_quant_conv(posterior)).square().mean().backward()
    for (name, one), three in zip(ours.autoencoder.named_parameters(), stock.parameters(), strict=True):
        if three.grad is None:  # convolutions over time, which one frame never meets
            assert one.grad is None, name
        else:
            torch.testing.assert_close(one.grad, three.grad, atol=1e-5, rtol=1e-4, msg=name)


@torch.no_grad()
def test_latents_are_normalised_per_channel(qwen, build):
    """With statistics other than 0 and 1, as the full-size autoencoder has them."""
    model = build("qwen_image")
    channels = model.latent_shape[0]
    mean, std = [0.1 * c for c in range(channels)], [1 + 0.1 * c for c in range(channels)]
    model.autoencoder.register_to_config(latents_mean=mean, latents_std=std)
    images = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    plain, latents = qwen.encode_images(images), model.encode_images(images)
    for c in range(channels):
        torch.testing.assert_close(latents[:, c], (plain[:, c] - mean[c]) / std[c])
    torch.testing.assert_close(model.decode(latents), qwen.decode(plain), atol=1e-5, rtol=1e-5)


def test_autoencoder_teacher_and_student_are_trained_by_recipes(qwen, tmp_path):
    tiny = {"name": "qwen_image", "tiny": qwen.config.tiny.model_dump(mode="json"), "max_tokens": 64}
    steps = {"steps": 2, "batch": 4, "lr": 1e-3, "log_every": 1, "save_every": 2, "sample_seeds": 1}
    coder = train(tmp_path / "coder", backbone=tiny, objective={"name": "reconstruction"}, train=steps)
    teacher = train(tmp_path / "teacher", backbone=tiny | {"path": str(coder)}, train=steps | {"text_encoder": True})
    sections = {"backbone": tiny | {"path": str(teacher)}, "objective": APEX, "train": steps | LORA}
    student = train(tmp_path / "student", **sections)
    assert {"fake", "sup", "match"} <= metrics(student)[-1]["parts"].keys()
    assert any(name.endswith("pytorch_lora_weights.safetensors") for name in manifest(student, 2))
    answers = []
    x_t, t = torch.randn(2, *qwen.latent_shape, generator=torch.Generator().manual_seed(2)), torch.tensor([0.3, 1.0])
    for run in (coder, teacher, student):
        model = root.load_model(run).backbone
        with torch.no_grad():
            answers.append(model.velocity(x_t, t, model.encode_prompts(PROMPTS[:2])))
    assert not torch.equal(answers[0], answers[1])
    assert not torch.equal(answers[1], answers[2])


def test_a_run_is_planned_without_weights(qwen, tmp_path):
    tiny = {"name": "qwen_image", "tiny": qwen.config.tiny.model_dump(mode="json"), "max_tokens": 64}
    plan = root.plan(recipe.load(write_recipe(tmp_path / "r.toml", backbone=tiny)))
    assert plan.parameters.total["transformer"] == sum(p.numel() for p in qwen.network.parameters())
    assert plan.compute.step > 0
