"""Each resize stage against the library it follows, pixel by pixel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from apex_cli.evaluation import resizing
from apex_cli.torchvision_guard import import_torchvision
from apex_cli.worlds.shapes.grammar import example
from apex_cli.worlds.shapes.renderer import render

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


def inside_pytorch_fid(batch: torch.Tensor) -> torch.Tensor:
    """What the network of pytorch-fid does to its input before its first block, by its own code."""
    reference = pytest.importorskip("pytorch_fid.inception")
    network = reference.InceptionV3.__new__(reference.InceptionV3)
    torch.nn.Module.__init__(network)
    network.resize_input, network.normalize_input, network.output_blocks = True, True, [0]
    network.blocks, network.last_needed_block = torch.nn.ModuleList([torch.nn.Identity()]), 0
    return network(batch)[0]


def test_sana_is_torchvisions_resize_and_the_network_of_pytorch_fid(pixels):
    t = transforms()
    stage = t.Compose([t.Resize(512), t.CenterCrop(512), t.ToTensor()])
    expected = inside_pytorch_fid(stage(Image.fromarray(pixels))[None])
    assert torch.equal(resizing.sana(pixels, 512), expected[0])


def test_pytorch_fid_resizes_inside_its_network(pixels):
    expected = inside_pytorch_fid(transforms().ToTensor()(Image.fromarray(pixels))[None])
    assert torch.equal(resizing.pytorch_fid(pixels), expected[0])


def test_clean_fid_resizes_by_its_own_function(pixels):
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
