"""Floors: what is counted on modules whose cost is known, and the published models against published counts.

Published: forward passes in TFLOP (2 per multiply-add), weights in GB of bf16, floors in ms on an A100 of 312 TFLOP/s
and 2.0 TB/s; a figure of so many digits is met if ours rounds to it, or within 0.1 %.
The published floors of SANA take the longer of computing and reading for a whole stage. Ours take it for every module,
which is never less, and here at most 0.2 % more.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from apex_cli import gpus
from apex_cli.benching.cells import Case
from apex_cli.benching.counting import count
from apex_cli.benching.floors import AS_WRITTEN, FOLDED, KNOWN, PREFIX, Work, seconds
from apex_cli.benching.judgement import LABEL, Yardsticks, analytic
from apex_cli.build import subjects

A100 = gpus.find_any("a100")
CARD = gpus.Gpu("card-1gb", 10**9, bf16=1000.0, fp32=1.0, bandwidth=10.0)
"""1000 FLOP/s and 10 bytes/s."""


def test_a_module_costs_its_products_or_its_weights_whichever_takes_longer():
    with torch.device("meta"):
        module = nn.Sequential(
            nn.Linear(4, 8, bias=False, dtype=torch.bfloat16), nn.ReLU(), nn.Linear(8, 1, bias=False)
        )
        x = torch.empty(5, 4, dtype=torch.bfloat16)
    found = count(module, lambda: module[2](module[1](module[0](x)).float()))
    assert found.parts["0"].flops == 2 * 5 * 4 * 8 and found.parts["0"].weights == 2 * 4 * 8
    assert (found.flops, found.weights) == (320 + 80, 64 + 32)
    assert seconds(found, CARD, 1) == pytest.approx(6.4 + 3.2)  # both wait for their weights
    assert seconds(found, CARD, 100) == pytest.approx(32 + 8)  # both compute
    assert found.without("0").flops == 80
    assert found.kernels == 4  # two products, a ReLU, a cast


def test_attention_has_no_weights_and_an_embedding_reads_a_row():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.table = nn.Embedding(1000, 8)

        def forward(self, ids):
            x = self.table(ids)[:, None]
            return nn.functional.scaled_dot_product_attention(x, x, x)

    with torch.device("meta"):
        model, ids = Model(), torch.zeros(2, 6, dtype=torch.int64)
    found = count(model, lambda: model(ids))
    assert found.weights == 0
    assert found.flops == 2 * 2 * (2 * 6 * 6 * 8)


def test_a_convolution_over_frames_of_zeros_is_its_last_slice():
    with torch.device("meta"):
        module = nn.Sequential(nn.Conv3d(2, 3, 3, bias=False), nn.Conv2d(3, 3, 1, bias=False))
        x = torch.empty(1, 2, 3, 10, 10)
    found = count(module, lambda: module[1](module[0](x)[:, :, 0]))
    flat = found.single_frame()
    assert found.parts["0"].flops == 2 * 3 * 8 * 8 * 2 * 27
    assert flat.parts["0"].flops == found.parts["0"].flops / 3
    assert flat.parts["0"].weights == found.parts["0"].weights / 3
    assert flat.parts["1"] == found.parts["1"]


def meets(found: float, published: str) -> bool:
    """Rounds to the published digits, or is within 0.1 % of them."""
    digits = len(published.partition(".")[2])
    return abs(found - float(published)) <= max(0.5 * 10**-digits, 1e-3 * float(published)) + 1e-12


@pytest.fixture(scope="module")
def sana():
    return subjects.work("sana-600m", (512, 1024))


@pytest.fixture(scope="module")
def qwen():
    return subjects.work("qwen-image", (512,))


def ms(model: str, work, variant: str, batch: int, resolution: int = 512) -> float:
    rows = analytic(Yardsticks(A100, work), [Case(model, resolution, batch, 1)])
    assert all(row["label"] == LABEL for row in rows)
    return next(1000 * row["seconds"] for row in rows if row["variant"] == variant)


@pytest.mark.slow
def test_sana_600m_is_counted_as_published(sana):
    small, large = sana[512], sana[1024]
    for stage, published in (
        (small[AS_WRITTEN].text, "2.08"), (small[PREFIX].text, "0.26"), (small[AS_WRITTEN].transformer, "0.316"),
        (small[AS_WRITTEN].vae, "2.09"), (large[AS_WRITTEN].transformer, "1.12"), (large[AS_WRITTEN].vae, "8.37"),
    ):  # fmt: skip
        assert meets(stage.flops / 1e12, published), (stage.flops, published)
    assert meets(small[AS_WRITTEN].transformer.weights / 1e9, "1.2")
    assert small[PREFIX].vae == small[AS_WRITTEN].vae  # nothing in it spans frames


def by_stage(work: Work) -> float:
    """The floor at batch 1 in ms if each stage computes while it reads all its weights."""
    return sum(1000 * max(stage.flops / A100.bf16, stage.weights / A100.bandwidth) for stage in vars(work).values())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("variant", "resolution", "published"),
    [(AS_WRITTEN, 512, "14.4"), (PREFIX, 512, "9.7"), (AS_WRITTEN, 1024, "37"), (PREFIX, 1024, "32")],
)
def test_sana_600m_has_the_published_floors(sana, variant, resolution, published):
    coarse = by_stage(sana[resolution][variant])
    assert meets(coarse, published)
    assert coarse <= ms("sana-600m", sana, variant, 1, resolution) <= 1.002 * coarse


@pytest.mark.slow
def test_sana_600m_has_the_published_rates(sana):
    assert round(10_000 / ms("sana-600m", sana, AS_WRITTEN, 10)) == 70
    assert round(10_000 / ms("sana-600m", sana, PREFIX, 10)) == 117


@pytest.mark.slow
def test_qwen_image_is_counted_as_published(qwen):
    written, folded = qwen[512][AS_WRITTEN], qwen[512][FOLDED]
    for stage, published in (
        (written.text, "1.28"), (written.transformer, "15.67"), (written.vae, "2.84"), (folded.vae, "1.10"),
    ):  # fmt: skip
        assert meets(stage.flops / 1e12, published), (stage.flops, published)
    assert meets(written.transformer.weights / 1e9, "40.9") and meets(written.text.weights / 1e9, "13")
    gone = (written.transformer.weights - folded.transformer.weights) / 1e9
    assert meets(gone, "13.6") or meets(gone, "13.7")  # the modulation, and what embeds the time


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "published"), [(AS_WRITTEN, "77"), (FOLDED, "64"), (PREFIX, "64"), (KNOWN, "58")])
def test_qwen_image_has_the_published_floors(qwen, variant, published):
    assert meets(ms("qwen-image", qwen, variant, 1), published)


@pytest.mark.slow
@pytest.mark.parametrize(("variant", "published"), [(AS_WRITTEN, "15.6"), (FOLDED, "17.3"), (KNOWN, "18.6")])
def test_qwen_image_has_the_published_rates(qwen, variant, published):
    assert meets(10_000 / ms("qwen-image", qwen, variant, 10), published)
