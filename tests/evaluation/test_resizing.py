"""Each resize stage against the library it follows, pixel by pixel: its own calls of torchvision and torch, arithmetic
written out, and the library itself where it is installed."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from apex_cli.evaluation import resizing
from apex_cli.torchvision_guard import import_torchvision
from apex_cli.worlds.shapes.grammar import example
from apex_cli.worlds.shapes.renderer import render

SINGLE = 5e-4
"""Of -1..1, a sixteenth of a grey level: torch places its samples in float32."""
SIZES = [(640, 640), (700, 431), (331, 600), (512, 512), (200, 224)]


def picture(height: int, width: int) -> np.ndarray:
    """Edges of the shapes world, enlarged, and noise over them."""
    scene = Image.fromarray(render(example("train", 0, height)[1])).resize((width, height), Image.Resampling.NEAREST)
    noise = np.random.default_rng(width).normal(0, 25, (height, width, 3))
    return (np.asarray(scene) + noise).clip(0, 255).astype(np.uint8)


@pytest.fixture(params=SIZES, ids=str)
def pixels(request) -> np.ndarray:
    return picture(*request.param)


def transforms():
    import_torchvision()
    from torchvision import transforms

    return transforms


def half_pixels(size: int) -> np.ndarray:
    """Bilinear without antialiasing, half-pixel centres: [299, size]."""
    centres = np.clip((np.arange(299) + 0.5) * size / 299 - 0.5, 0, size - 1)
    return np.clip(1 - np.abs(centres[:, None] - np.arange(size)), 0, None)


def keys(size: int) -> np.ndarray:
    """Pillow's bicubic: Keys' kernel with a = -0.5, as wide as an output pixel where that is wider: [299, size]."""
    scale = size / 299
    width = max(scale, 1)
    x = np.abs(np.arange(size) + 0.5 - (np.arange(299)[:, None] + 0.5) * scale) / width
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    weights = np.where(x < 1, near, np.where(x < 2, far, 0))
    return weights / weights.sum(1, keepdims=True)


def resized(kernel, pixels: np.ndarray) -> torch.Tensor:
    """Rows and columns of [H, W, 3] in float64: [3, 299, 299]."""
    height, width = pixels.shape[:2]
    scaled = np.einsum("yh,hwc,xw->cyx", kernel(height), pixels.astype(np.float64), kernel(width), optimize=True)
    return torch.from_numpy(scaled)


def into_pytorch_fid(batch: torch.Tensor) -> torch.Tensor:
    """What the network of pytorch-fid 0.3.0 does to pictures in 0..1 before its first block."""
    return 2 * torch.nn.functional.interpolate(batch, size=(299, 299), mode="bilinear", align_corners=False) - 1


def sana_toolkit(pixels: np.ndarray, side: int) -> torch.Tensor:
    """The transform of Sana's toolkit, whose network is pytorch-fid's."""
    t = transforms()
    bilinear = t.InterpolationMode.BILINEAR
    stage = t.Compose([t.Resize(side, bilinear), t.CenterCrop(side), t.ToTensor()])
    return into_pytorch_fid(stage(Image.fromarray(pixels))[None])[0]


@pytest.mark.parametrize("side", [512, 1024])
def test_sana_is_the_transform_of_its_toolkit(pixels, side):
    assert torch.equal(resizing.sana(pixels, side), sana_toolkit(pixels, side))


def test_sana_after_its_cut_is_bilinear_between_half_pixels(pixels):
    cut = np.asarray(transforms().CenterCrop(512)(transforms().Resize(512)(Image.fromarray(pixels))))
    expected = 2 * resized(half_pixels, cut) / 255 - 1
    assert torch.allclose(resizing.sana(pixels, 512).double(), expected, atol=SINGLE)


def test_pytorch_fid_resizes_inside_its_network(pixels):
    expected = into_pytorch_fid(transforms().ToTensor()(Image.fromarray(pixels))[None])
    assert torch.equal(resizing.pytorch_fid(pixels), expected[0])
    assert torch.allclose(expected[0].double(), 2 * resized(half_pixels, pixels) / 255 - 1, atol=SINGLE)


def test_clean_fid_is_an_antialiased_bicubic_in_floats(pixels):
    """As clean-fid 0.1.35: not rounded to bytes between, cut to 0..255 at the end, then (x - 128) / 128."""
    expected = (resized(keys, pixels).clip(0, 255) - 128) / 128
    assert torch.allclose(resizing.clean_fid(pixels).double(), expected, atol=1e-5)


def test_the_network_of_pytorch_fid_where_it_is_installed(pixels):
    reference = pytest.importorskip("pytorch_fid.inception")
    network = reference.InceptionV3.__new__(reference.InceptionV3)
    torch.nn.Module.__init__(network)
    network.resize_input, network.normalize_input, network.output_blocks = True, True, [0]
    network.blocks, network.last_needed_block = torch.nn.ModuleList([torch.nn.Identity()]), 0
    batch = transforms().ToTensor()(Image.fromarray(pixels))[None]
    assert torch.equal(into_pytorch_fid(batch), network(batch)[0])


def test_the_resizer_of_clean_fid_where_it_is_installed(pixels):
    cleanfid = pytest.importorskip("cleanfid.resize")
    expected = (torch.from_numpy(cleanfid.build_resizer("clean")(pixels)).permute(2, 0, 1) - 128) / 128
    assert torch.equal(resizing.clean_fid(pixels), expected)


def test_clip_is_openais_transform(pixels):
    t = transforms()
    bicubic = t.InterpolationMode.BICUBIC
    stage = t.Compose(
        [
            t.Resize(224, bicubic),
            t.CenterCrop(224),
            t.ToTensor(),
            t.Normalize(resizing.CLIP_MEAN, resizing.CLIP_STD),
        ]
    )
    assert torch.allclose(resizing.clip(pixels, 224), stage(Image.fromarray(pixels)), atol=1e-6)


def test_clip_is_the_pillow_processor_of_transformers():
    """Of squares; elsewhere that one rounds an odd margin down where OpenAI's rounds to even."""
    from transformers import CLIPImageProcessorPil

    pixels = picture(640, 640)
    expected = CLIPImageProcessorPil()(Image.fromarray(pixels), return_tensors="pt")["pixel_values"][0]
    assert torch.allclose(resizing.clip(pixels, 224), expected, atol=1e-5)


def test_hpsv2_fits_the_longer_side_and_pads_with_black(pixels):
    t = transforms()
    height, width = pixels.shape[:2]
    scale = 224 / max(height, width)
    size = [round(height * scale), round(width * scale)]
    whole = t.functional.resize(
        t.ToTensor()(Image.fromarray(pixels)), size, t.InterpolationMode.BICUBIC, antialias=True
    )
    down, right = 224 - size[0], 224 - size[1]
    padded = t.functional.pad(whole, [right // 2, down // 2, right - right // 2, down - down // 2])
    expected = t.functional.normalize(padded, resizing.CLIP_MEAN, resizing.CLIP_STD)
    assert torch.allclose(resizing.hpsv2(pixels, 224), expected, atol=1e-6)


def test_cmmd_cuts_before_it_scales():
    pixels = picture(331, 600)
    square = pixels[:, 134 : 134 + 331]
    assert torch.equal(resizing.cmmd(pixels, 336), resizing.cmmd(square, 336))
    assert torch.equal(resizing.cmmd(square, 336), resizing.clip(square, 336))
    assert not torch.allclose(resizing.cmmd(pixels, 224), resizing.clip(pixels, 224), atol=1e-2)


def test_dinov2_sees_the_whole_picture_and_cuts_no_overshoot():
    edge = np.zeros((448, 448, 3), np.uint8)
    edge[:, 224:] = 255
    scaled = resizing.dinov2(edge, 224)
    brightest = (1 - resizing.IMAGENET_MEAN[0]) / resizing.IMAGENET_STD[0]
    assert scaled.shape == (3, 224, 224) and scaled[0].max() > brightest + 0.01
    whole = resizing.normalise(resizing.unit(edge), resizing.IMAGENET_MEAN, resizing.IMAGENET_STD)
    assert torch.allclose(scaled.mean((1, 2)), whole.mean((1, 2)), atol=1e-3)


def test_the_protocols_differ_from_each_other():
    pixels = picture(1024, 1024)
    stages = [resizing.sana(pixels, 512), resizing.sana(pixels, 1024), resizing.clean_fid(pixels)]
    levels = [(a - b).square().mean().sqrt() * 127.5 for i, a in enumerate(stages) for b in stages[:i]]
    assert min(levels) > 1, "less than one grey level between two protocols"


def test_sana_1024_of_a_square_of_1024_is_pytorch_fid():
    pixels = picture(1024, 1024)
    assert torch.equal(resizing.sana(pixels, 1024), resizing.pytorch_fid(pixels))
