"""Names of colours on a tiny random CLIP: against its own forward, and on crops whose pixels are known."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import clip

from apex_cli.errors import SetupError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.geneval import canary
from apex_cli.evaluation.geneval.colors import BATCH, ColorNamer, crop
from apex_cli.evaluation.geneval.seen import Seen, run_lengths
from apex_cli.evaluation.geneval.stages import Colors
from apex_cli.evaluation.geneval_prompts import COLORS
from apex_cli.evaluation.resizing import CLIP_MEAN, CLIP_STD
from apex_cli.torchvision_guard import import_torchvision


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return clip(tmp_path_factory.mktemp("clip"))


@pytest.fixture(scope="module")
def namer(folder):
    return ColorNamer(folder)


def test_outside_the_mask_is_grey_and_the_box_is_rounded():
    pixels = np.full((20, 30, 3), (10, 200, 30), np.uint8)
    mask = np.zeros((20, 30), bool)
    mask[5:15, 10:12] = True
    made = np.asarray(crop(pixels, Seen("dog", (7.6, 4.4, 14.4, 15.6), 0.9, run_lengths(torch.from_numpy(mask)))))
    assert made.shape == (12, 6, 3)
    assert tuple(made[5, 2]) == (10, 200, 30) and tuple(made[5, 0]) == (0x99,) * 3 == tuple(made[0, 2])
    whole = np.asarray(crop(pixels, Seen("dog", (7.6, 4.4, 14.4, 15.6), 0.9)))
    assert (whole == (10, 200, 30)).all()


def test_a_box_thinner_than_a_pixel_is_the_pixel_it_begins_in():
    pixels = np.arange(20 * 30 * 3).reshape(20, 30, 3).astype(np.uint8)
    made = np.asarray(crop(pixels, Seen("dog", (29.6, 4, 29.9, 8), 0.9)))
    assert np.array_equal(made, pixels[4:8, 29:30])
    made = np.asarray(crop(pixels, Seen("dog", (3, 2.2, 5, 2.4), 0.9)))
    assert np.array_equal(made, pixels[2:3, 3:5])


def test_the_classifier_is_the_mean_of_three_templates(namer, folder):
    """By hand with the library's own forward: cosine, times 100, softmax."""
    from transformers import CLIPModel, CLIPTokenizer

    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    (found,) = namer.name([(pixels, Seen("bench", (0, 0, 32, 32), 0.9))])
    model, tokenizer = CLIPModel.from_pretrained(folder).eval(), CLIPTokenizer.from_pretrained(folder)
    mean, std = np.array([0.48145466, 0.4578275, 0.40821073]), np.array([0.26862954, 0.26130258, 0.27577711])
    ready = torch.from_numpy(((pixels / 255 - mean) / std).transpose(2, 0, 1)[None].astype(np.float32))
    cosines = []
    with torch.no_grad():
        image = model.get_image_features(pixel_values=ready).pooler_output[0]
        for color in COLORS:
            texts = [
                f"a photo of a {color} bench",
                f"a photo of a {color}-colored bench",
                f"a photo of a {color} object",
            ]
            rows = [model.get_text_features(**tokenizer(t, return_tensors="pt")).pooler_output[0] for t in texts]
            text = sum(row / row.norm() for row in rows) / 3
            cosines.append(float(text @ image / text.norm() / image.norm()))
    expected = np.exp(100 * (np.array(cosines) - max(cosines)))
    assert list(found.values()) == pytest.approx((expected / expected.sum()).tolist(), abs=1e-4)
    assert (
        list(found) == list(COLORS)
        and Seen("bench", (0, 0, 1, 1), 1, colors=found).color == COLORS[int(np.argmax(cosines))]
    )


@pytest.mark.parametrize("size", [(31, 52), (40, 69), (69, 40)])
def test_objects_are_resized_as_open_clip_does(namer, size):
    """Of margins of 10.5 and 11.5 pixels: the processor of transformers cuts the latter ones a pixel beside it."""
    import_torchvision()
    from torchvision import transforms as t

    side = namer.clip.side
    stages = [t.Resize(side, t.InterpolationMode.BICUBIC), t.CenterCrop(side), t.ToTensor()]
    ready = t.Compose([*stages, t.Normalize(CLIP_MEAN, CLIP_STD)])
    shown = Image.fromarray(np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8))
    with torch.no_grad():
        made = namer.clip.model.get_image_features(pixel_values=ready(shown)[None].to(namer.device)).pooler_output[0]
    whole = Seen("bench", (0, 0, *shown.size), 0.9)
    found = namer._features([namer._prepare((np.asarray(shown), whole))])[0]
    assert torch.allclose(found, made / made.norm(), atol=1e-6)


def test_the_class_word_matters(namer):
    pixels = np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)
    dog, kite = namer.name([(pixels, Seen(kind, (0, 0, 32, 32), 0.9)) for kind in ("dog", "kite")])
    assert dog != kite


def test_objects_of_several_pictures_share_a_forward_and_are_named_as_alone(namer, monkeypatch):
    rng = np.random.default_rng(2)
    things = [
        (rng.integers(0, 256, (40, 30 + i, 3), np.uint8), Seen(("dog", "kite")[i % 2], (i, 2, 30, 30), 0.9))
        for i in range(BATCH + 4)
    ]
    alone = [namer.name([thing])[0] for thing in things]
    sizes, features = [], namer._features
    monkeypatch.setattr(namer, "_features", lambda crops: sizes.append(len(crops)) or features(crops))
    for found, expected in zip(namer.name(things), alone, strict=True):
        assert found == pytest.approx(expected, abs=1e-5)
    assert sizes == [BATCH, 4]


def test_each_picture_is_told_the_colors_of_its_own_objects():
    """One of which nothing is asked, one that could not be detected, and two with objects, one of them of two."""
    asked = {"include": [{"class": "dog", "count": 1, "color": "red"}]}
    metas = [asked, {"include": [{"class": "dog", "count": 1}]}, asked, asked]
    shown = [Picture(Item(str(i), "colors", "", meta), 0, Path(), "", (9, 9)) for i, meta in enumerate(metas)]

    def seen(*confidences: float):
        kinds = ("dog", "cat", "dog")
        return {"objects": [Seen(kind, (0, 0, 9, 9), c).to_json() for kind, c in zip(kinds, confidences, strict=False)]}

    stage = Colors(Path(), "off")
    stage.namer = SimpleNamespace(name=lambda things: [{pixels: thing.confidence} for pixels, thing in things])
    said = [seen(0.9, 0.8, 0.7), seen(0.6), {"error": "broken"}, seen(0.5)]
    assert stage.observe(shown, ["a", None, "c", "d"], {"detections": said}) == [
        {"colors": {"0": {"a": 0.9}, "2": {"a": 0.7}}},
        {"colors": {}},
        {"error": "no detections"},
        {"colors": {"0": {"d": 0.5}}},
    ]


def test_a_model_without_quick_gelu_is_refused(tmp_path):
    with pytest.raises(SetupError, match="with gelu instead of quick_gelu"):
        ColorNamer(clip(tmp_path, "gelu"))


def test_the_canary_stops_a_namer_that_knows_no_colors(namer, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path))
    canary.check_namer(namer, folder, "weights", "agreement")
    with pytest.raises(SetupError, match=r"names \d of 10 plain discs right"):
        canary.check_namer(namer, folder, "weights", "known")
    with torch.no_grad():
        namer.classifiers["sports ball"] = -namer.classifiers["sports ball"]
    with pytest.raises(SetupError, match="disc looks otherwise"):
        canary.check_namer(namer, folder, "weights", "agreement")
