"""The detector's code on a tiny random Mask2Former; its post-processing against a slow direct computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from tiny_judges import mask2former

from apex_cli.errors import SetupError
from apex_cli.evaluation.geneval import canary
from apex_cli.evaluation.geneval.mask2former import FLOOR, MEAN, PAD, STD, Mask2Former, instances, prepare, scaled_size
from apex_cli.evaluation.geneval.seen import Seen, from_runs, run_lengths
from apex_cli.evaluation.geneval_prompts import CLASSES

NARROW = np.random.default_rng(0).integers(0, 256, (12, 500, 3), np.uint8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return mask2former(tmp_path_factory.mktemp("mask2former"))


@pytest.fixture(scope="module")
def detector(folder):
    return Mask2Former(folder)


def test_pictures_keep_their_ratio_within_1333_by_800():
    assert scaled_size(1024, 1024) == (800, 800)
    assert scaled_size(512, 1024) == (667, 1333)
    assert scaled_size(1080, 1920) == (750, 1333)


def test_the_input_is_padded_with_grey_and_normalised():
    pixels = torch.full((1, 3, 12, 500), 200, dtype=torch.uint8)
    made = prepare(pixels)
    assert tuple(made.shape) == (1, 3, 32, 1344)
    mean, std = torch.tensor(MEAN), torch.tensor(STD)
    assert torch.allclose(made[0, :, 5, 5], (200 - mean) / std)
    assert torch.allclose(made[0, :, 31, 1343], (PAD - mean) / std)


def slow(logits, masks, padded, size):
    """Every pair, every pixel, with numpy and the standard library."""
    resize = torch.nn.functional.interpolate
    full = resize(masks[None], padded, mode="bilinear", align_corners=False)
    height, width = scaled_size(*size)
    full = resize(full[..., :height, :width], size, mode="bilinear", align_corners=False)[0].numpy().astype(float)
    pairs = []
    for query, row in enumerate(logits.tolist()):
        total = sum(math.exp(v) for v in row)
        pairs += [(math.exp(v) / total, query, label) for label, v in enumerate(row[:-1])]
    found = []
    for chance, query, label in sorted(pairs, reverse=True)[:100]:
        inside = [(y, x) for y in range(size[0]) for x in range(size[1]) if full[query, y, x] > 0]
        if not inside:
            continue
        sure = sum(1 / (1 + math.exp(-full[query, y, x])) for y, x in inside) / (len(inside) + 1e-6)
        ys, xs = [y for y, _ in inside], [x for _, x in inside]
        if chance * sure > FLOOR:
            found.append((CLASSES[label], (min(xs), min(ys), max(xs) + 1, max(ys) + 1), chance * sure))
    return sorted(found, key=lambda row: -row[2])


def test_post_processing_is_that_of_a_slow_computation():
    gen = torch.Generator().manual_seed(3)
    logits = 4 * torch.randn(9, 81, generator=gen)
    logits[0, 3] = logits[0, 7] = 9.0  # one mask under two classes
    masks = 3 * torch.randn(9, 8, 24, generator=gen)
    made = instances(logits, masks, (800, 1344), (10, 16))
    expected = slow(logits, masks, (800, 1344), (10, 16))
    assert [(s.kind, s.box) for s in made] == [(kind, tuple(map(float, box))) for kind, box, _ in expected]
    assert [s.confidence for s in made] == pytest.approx([score for *_, score in expected], abs=1e-5)
    assert len(made) >= 4
    twice = [s for s in made if s.kind in (CLASSES[3], CLASSES[7])]
    assert any(a.mask == b.mask and a.kind != b.kind for a in twice for b in twice)


def test_boxes_are_the_extent_of_the_masks():
    gen = torch.Generator().manual_seed(4)
    for seen in instances(
        6 * torch.randn(4, 81, generator=gen), torch.randn(4, 8, 24, generator=gen), (800, 1344), (10, 16)
    ):
        rows, columns = np.nonzero(from_runs(seen.mask, (16, 10)))
        assert seen.box == (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)


def test_masks_survive_their_run_lengths():
    rng = np.random.default_rng(0)
    for mask in (rng.random((7, 5)) > 0.5, np.ones((2, 3), bool), np.zeros((2, 3), bool)):
        assert (from_runs(run_lengths(torch.from_numpy(mask)), (mask.shape[1], mask.shape[0])) == mask).all()


def test_a_picture_is_seen_alike_alone_and_in_company(detector):
    other = np.random.default_rng(1).integers(0, 256, (12, 400, 3), np.uint8)
    (alone,) = detector.detect([NARROW])
    first, _, last = detector.detect([NARROW, other, NARROW[:, ::-1].copy()])
    assert alone, "the tiny model sees something"
    assert [(s.kind, s.box) for s in alone] == [(s.kind, s.box) for s in first]
    assert [s.confidence for s in alone] == pytest.approx([s.confidence for s in first], abs=1e-4)
    assert [s.confidence for s in last] != pytest.approx([s.confidence for s in first], abs=1e-6)
    assert Seen.from_json(alone[0].to_json()) == alone[0]


def test_the_canary_stops_a_broken_detector(detector, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path))
    monkeypatch.setattr(canary, "stop_sign", lambda: NARROW)
    canary.check_detector(detector, folder, "weights", "agreement")
    kept = next((tmp_path / "canaries").glob("detector-*.json"))
    canary.check_detector(detector, folder, "weights", "agreement")
    with pytest.raises(SetupError, match="finds no stop sign"):
        canary.check_detector(detector, folder, "weights", "known")
    kept.write_text('{"dog": 0.93}')
    with pytest.raises(SetupError, match=r"broken.*it gives '.*' 0\.\d+ where these weights gave 0\.\d+ on a CPU"):
        canary.check_detector(detector, folder, "weights", "agreement")
    canary.check_detector(detector, folder, "weights", "off")


def test_the_drawn_sign_is_red_on_sky():
    drawn = canary.stop_sign()
    assert (
        drawn.shape == (320, 320, 3)
        and tuple(drawn[45, 160]) == (190, 20, 30)
        and tuple(drawn[10, 10]) == (150, 190, 230)
    )


def test_other_models_are_refused(tmp_path):
    with pytest.raises(SetupError, match="could not be read"):
        Mask2Former(tmp_path)
    with pytest.raises(SetupError, match="knows 5 classes"):
        Mask2Former(mask2former(tmp_path, labels=5))
