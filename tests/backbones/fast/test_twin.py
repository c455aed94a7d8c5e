"""The fast twin against the plain backbone it shares weights with: the same numbers, each folding by itself and all."""

from __future__ import annotations

import copy

import pytest
import torch

from apex_cli.backbones import compact
from apex_cli.backbones.fast import channels, fp8, frame, modulation, projections
from apex_cli.backbones.fast.memory import PromptMemory
from apex_cli.backbones.fast.twin import TWINS, make
from apex_cli.backbones.sharing import shared
from apex_cli.errors import UsageError
from apex_cli.flow.condition import Cond
from apex_cli.generation import CountedVelocity, Request, SampleConfig, generate
from apex_cli.registry import resolve
from apex_cli.samplers import euler, heun, renoise
from apex_cli.training import lora
from apex_cli.training.settings import LoraSettings

TIMES = (1.0, 0.6)
CLOSE = {"atol": 1e-5, "rtol": 1e-5}
FOLDED = {
    "qwen_image": ("modulation", "projections", "frame", "prefix"),
    "sana": ("modulation", "projections", "channels", "prefix"),
    "flux": ("projections",),
    "sd3": (),
    "zimage": (),
}


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(params=TWINS)
def pair(request, cases):
    """A backbone under test with its inputs, and its twin."""
    case = cases(request.param)
    return case, make(case.name, case.model, TIMES)


def on_grid(case) -> tuple[torch.Tensor, torch.Tensor]:
    return case.inputs()[0], torch.tensor([1.0, 0.6, 1.0])


def test_text_velocity_and_pictures_are_those_of_the_plain_backbone(pair):
    case, twin = pair
    x_t, t = on_grid(case)
    plain, fast = case.model.encode_prompts(case.prompts), twin.encode_prompts(case.prompts)
    assert twin.folded == FOLDED[case.name]
    assert torch.equal(plain.mask, fast.mask)
    torch.testing.assert_close(fast.tokens[fast.mask], plain.tokens[plain.mask], **CLOSE)
    torch.testing.assert_close(twin.velocity(x_t, t, fast), case.model.velocity(x_t, t, plain), **CLOSE)
    torch.testing.assert_close(twin.decode(x_t), case.model.decode(x_t), **CLOSE)
    pixels = torch.rand(2, 3, case.model.config.resolution, case.model.config.resolution) * 2 - 1
    torch.testing.assert_close(twin.encode_images(pixels), case.model.encode_images(pixels), **CLOSE)


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_bf16_differs_by_its_own_rounding_only(name, build):
    plain = build(name, dtype="bf16")
    twin, config = make(name, plain, TIMES), SampleConfig(nfe=2)
    requests = [Request("a photo of a red cube", seed) for seed in range(3)]
    pairs = zip(generate(plain, config, requests), generate(twin, config, requests), strict=True)
    for a, b in pairs:
        error = (plain.decode(a.latent[None]) - twin.decode(b.latent[None])) / 2
        assert -10 * error.square().mean().log10() >= 40


def test_an_autoencoder_in_half_precision_decodes_in_it(build):
    """As that of random full-size weights is; those that are loaded stay in float32."""
    plain = build("qwen_image")
    plain.autoencoder.to(torch.bfloat16)
    twin, latents = make("qwen_image", plain, TIMES), torch.randn(2, *plain.latent_shape)
    torch.testing.assert_close(twin.decode(latents), plain.decode(latents), atol=0.05, rtol=0.05)


def test_adapters_are_merged_and_the_plain_backbone_keeps_its_own(build):
    plain = build("qwen_image")
    lora.add(plain.network, LoraSettings(rank=4, alpha=6.0), plain.lora_targets, seed=0)
    for name, value in plain.network.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(value, std=0.2)
    cond, x_t, t = plain.encode_prompts(["a red cube"]), torch.randn(1, *plain.latent_shape), torch.ones(1)
    with lora.disabled(plain.network):
        base = plain.velocity(x_t, t, cond)
    expected = plain.velocity(x_t, t, cond)
    twin = make("qwen_image", plain, TIMES)
    assert twin.folded[0] == "lora"
    assert not any("lora" in name for name in twin.network.state_dict())
    torch.testing.assert_close(twin.velocity(x_t, t, cond), expected, **CLOSE)
    assert torch.equal(plain.velocity(x_t, t, cond), expected)
    assert (expected - base).abs().max() > 1e-2


def test_the_twin_shares_its_weights_and_changes_nothing(cases):
    case = cases("qwen_image")
    before = {name: value.clone() for name, value in case.model.network.state_dict().items()}
    twin = make(case.name, case.model, TIMES)
    assert all(torch.equal(value, before[name]) for name, value in case.model.network.state_dict().items())
    own, mine = (model.network.transformer_blocks[0].img_mlp.net[2].weight for model in (case.model, twin))
    assert own.data_ptr() == mine.data_ptr()
    parts = [name for part in twin.parts() for name, _ in part.named_modules()]
    assert not any("visual" in name or "lm_head" in name or "time_conv" in name for name in parts)


# ---- single foldings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_a_time_outside_the_grid_is_refused(name, cases):
    case = cases(name)
    twin, (x_t, _) = make(name, case.model, TIMES), case.inputs()
    cond = twin.encode_prompts(case.prompts)
    with pytest.raises(UsageError, match=r"folded at the noise levels 1, 0.6; asked: 0.5"):
        twin.velocity(x_t, torch.tensor([1.0, 0.5, 0.6]), cond)
    with pytest.raises(UsageError, match=r"folded at the noise levels 1, 0.6, and NFE 4 asks at 1, 0.83, 0.67, 0.5"):
        next(generate(twin, SampleConfig(nfe=4), [Request("a red cube")]))


def test_where_the_host_may_not_look_a_wrong_time_gives_no_picture():
    rows = modulation.Rows(torch.ones(2, 3))
    assert rows(torch.tensor([2])).isnan().all()
    assert not rows(torch.tensor([0, 1])).isnan().any()


def test_neighbouring_times_of_bf16_have_rows_of_their_own():
    row = modulation.TimeRow((1.0, 0.999, 0.5)).bfloat16()
    assert row(torch.tensor([0.5, 0.999, 1.0])).tolist() == [2, 1, 0]


def test_the_modulation_of_the_full_size_model_leaves():
    """6.80 of 20.43 billion parameters, for 4.4 MB in bf16 (docs/performance.md)."""
    from accelerate import init_empty_weights
    from diffusers import QwenImageTransformer2DModel

    with init_empty_weights():
        network = QwenImageTransformer2DModel()
    before = sum(value.numel() for value in network.parameters())
    modulation.fold_qwen(network, (1.0,))
    left = sum(value.numel() for value in network.parameters())
    tables = [part.rows for part in network.modules() if isinstance(part, modulation.Rows)]
    assert before == 20_430_401_088
    assert left == before - 120 * 3073 * 18432 - 3073 * 6144 - (257 + 3073) * 3072
    assert len(tables) == 121
    assert sum(2 * table[0].numel() for table in tables) == 4_435_968  # the row of NaN not counted


def test_a_video_autoencoder_of_one_frame_is_two_dimensional(build):
    """Also where it halves time, as the full-size one does."""
    from diffusers import AutoencoderKLQwenImage

    coder = AutoencoderKLQwenImage(base_dim=4, z_dim=4, dim_mult=[1, 2, 4], temperal_downsample=[False, True]).eval()
    flat = shared(coder)
    frame.fold(flat)
    pixels, latents = torch.rand(2, 3, 1, 16, 16), torch.randn(2, 4, 1, 4, 4)
    torch.testing.assert_close(flat.decoder(latents), coder.decoder(latents), **CLOSE)
    moments = flat.quant_conv(flat.encoder(pixels))
    torch.testing.assert_close(moments[:, :4], coder.encode(pixels).latent_dist.mode(), **CLOSE)
    assert not any(isinstance(part, torch.nn.Conv3d) for part in flat.modules())
    assert any(isinstance(part, torch.nn.Conv3d) for part in coder.modules())


def test_a_convolution_of_1_x_1_is_a_product_on_the_same_memory():
    conv = torch.nn.Conv2d(6, 4, 1)
    made = channels.Pointwise.of(conv)
    tokens = torch.randn(2, 15, 6)
    x = tokens.unflatten(1, (3, 5)).permute(0, 3, 1, 2)
    torch.testing.assert_close(made(x), conv(x), **CLOSE)
    assert made.weight.data_ptr() == conv.weight.data_ptr()
    assert made(x).permute(0, 2, 3, 1).is_contiguous()


def test_the_autoencoder_of_sana_keeps_channels_last_and_its_own_memory():
    """With the layers of the full-size one that the shapes world's lacks: attention over several scales."""
    from diffusers import AutoencoderDC

    coder = AutoencoderDC(
        latent_channels=4, attention_head_dim=8, encoder_block_out_channels=(8, 16), decoder_block_out_channels=(8, 16),
        encoder_layers_per_block=(1, 1), decoder_layers_per_block=(1, 1), encoder_qkv_multiscales=((), (5,)),
        decoder_qkv_multiscales=((), (5,)), encoder_block_types=("ResBlock", "EfficientViTBlock"),
        decoder_block_types=("ResBlock", "EfficientViTBlock"),
    ).eval()  # fmt: skip
    kernels = [part.weight for part in coder.modules() if isinstance(part, torch.nn.Conv2d)]
    made = shared(coder)
    channels.fold_all(made)
    latents = torch.randn(2, 4, 8, 8)
    torch.testing.assert_close(made.decoder(latents), coder.decoder(latents), **CLOSE)
    torch.testing.assert_close(made.encoder(torch.ones(1, 3, 16, 16)), coder.encoder(torch.ones(1, 3, 16, 16)), **CLOSE)
    assert made.decoder(latents).is_contiguous(memory_format=torch.channels_last)
    assert sum(isinstance(part, channels.Pointwise) for part in made.modules()) >= 4
    assert all(kernel.is_contiguous() for kernel in kernels)  # the plain one's are as they were


def test_the_joint_mask_hides_padding(cases):
    case = cases("qwen_image")
    network = shared(case.model.network)
    projections.fuse_qwen(network)
    twin = make(case.name, case.model, TIMES)
    cond, (x_t, t) = twin.encode_prompts(case.prompts), on_grid(case)
    noisy = Cond(torch.where(cond.mask[..., None], cond.tokens, 9.0), cond.mask)
    torch.testing.assert_close(twin.velocity(x_t, t, noisy), twin.velocity(x_t, t, cond), **CLOSE)


def test_the_human_instruction_is_read_once(build):
    plain = build("sana", instruction=True)
    twin = make("sana", plain, TIMES)
    prompts, seen = ["a red cube", "two blue stars"], []
    reader = twin.text_encoder
    hook = reader.model.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    fast = twin.encode_prompts(prompts)
    hook.remove()
    expected = plain.encode_prompts(prompts)
    assert len(reader.prefix) > 500
    assert seen == [expected.tokens.shape[1] - 1]
    torch.testing.assert_close(fast.tokens[fast.mask], expected.tokens[expected.mask], **CLOSE)


def test_a_prompt_that_melts_into_the_beginning_is_read_whole(qwen):
    """Two newlines are one token of the real tokenizer; here an id is changed."""
    twin = make("qwen_image", qwen, TIMES)
    tokens = twin.tokenise(["a red cube"])
    other = copy.deepcopy(tokens)
    other["input_ids"][0, twin.head - 1] += 1
    assert twin.text_encoder.follows(tokens.input_ids)
    assert not twin.text_encoder.follows(other.input_ids)
    torch.testing.assert_close(twin.embed(other).tokens, qwen.embed(copy.deepcopy(other)).tokens, **CLOSE)


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
def test_fp8_is_the_twin_with_rounded_weights_and_leaves_it_as_it_was(name, build):
    plain = build(name, dtype="bf16")
    twin, rounded = make(name, plain, TIMES), make(name, copy.deepcopy(plain), TIMES)
    lossy = fp8.packed(twin)
    compact.round_weights(rounded.network, "fp8")
    cond, x_t, t = twin.encode_prompts(["a red cube"]), torch.randn(1, *plain.latent_shape), torch.ones(1)
    before = twin.velocity(x_t, t, cond)
    found = lossy.velocity(x_t, t, cond)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(found, rounded.velocity(x_t, t, cond).to(x_t.dtype))
    assert torch.equal(twin.velocity(x_t, t, cond), before) and not torch.equal(found, before)
    layers = list(compact.compact_layers(lossy.network))
    assert layers and all(layer.values.element_size() == 1 for layer in layers)
    assert not list(compact.compact_layers(twin.network))


# ---- prompts that are remembered -------------------------------------------------------------------------------


def test_a_repeated_prompt_is_a_hit(cases):
    case = cases("sana")
    twin = make("sana", case.model, TIMES)
    first = twin.encode_prompts(case.prompts)
    assert (twin.memory.hits, twin.memory.misses) == (0, 3)
    again = twin.encode_prompts(case.prompts[::-1])
    assert (twin.memory.hits, twin.memory.misses) == (3, 3)
    assert torch.equal(again.tokens.flip(0)[first.mask], first.tokens[first.mask])
    twin.encode_prompts(["a blue star", case.prompts[0]])
    assert (twin.memory.hits, twin.memory.misses) == (4, 4)


def test_the_memory_forgets_what_was_longest_unused():
    memory, asked = PromptMemory(limit=2), []

    def read(prompts):
        asked.extend(prompts)
        return Cond(torch.ones(len(prompts), 2, 1), torch.ones(len(prompts), 2, dtype=torch.bool)), [2] * len(prompts)

    for prompt in ("a", "b", "a", "c", "a", "b"):
        memory.read([prompt], read)
    assert asked == ["a", "b", "c", "b"]
    memory.limit = 0
    memory.clear()
    for _ in range(2):
        memory.read(["a"], read)
    assert (memory.hits, memory.misses, len(memory.rows)) == (0, 2, 0)


# ---- nothing waits for the device ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["qwen_image", "sana"])
@pytest.mark.parametrize("sampler", [euler, heun, renoise], ids=lambda module: module.__name__.split(".")[-1])
def test_a_sampler_never_asks_for_a_value(name, sampler, cases):
    """On meta tensors every look at a value raises."""
    kind, config = resolve("backbone", name), cases(name).model.config
    with torch.device("meta"):
        plain = kind(config)
    twin = make(name, plain, TIMES)
    cond = Cond(torch.empty(2, 7, twin.cond_dim, device="meta"), torch.ones(2, 7, dtype=torch.bool, device="meta"))
    noise = torch.empty(2, *twin.latent_shape, device="meta")
    gens = [torch.Generator().manual_seed(seed) for seed in range(2)]
    latents = sampler.sample(CountedVelocity(twin, 1.0, None), noise, (*TIMES, 0.0), cond, gens)
    assert twin.decode(latents).shape == (2, 3, 64, 64)
