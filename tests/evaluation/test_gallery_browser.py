"""The pages in a real browser: a click on a filter hides cards, boxes lie on the pictures, A/B flips."""

from __future__ import annotations

from pathlib import Path

import chromium
import numpy as np
import pytest
from PIL import Image

from apex_cli.evaluation import gallery
from apex_cli.evaluation.records import Box, read_records, write_records
from apex_cli.evaluation.run import evaluate

pytestmark = pytest.mark.skipif(chromium.PROGRAM is None, reason="no chromium or google-chrome on the PATH")
SHOWN = "[...document.querySelectorAll('article')].filter(a => a.offsetParent).map(a => a.dataset.%s)"
VISIBLE = SHOWN % "tag"
CHOOSE = """(() => { const s = document.querySelector('select[data-key=%s]');
  s.selectedIndex = 1; s.onchange(); return s.value; })()"""


@pytest.fixture(scope="module")
def pages(job, oracle, config, tmp_path_factory) -> tuple[Path, Path]:
    """The gallery of a model that draws the next prompt, and its comparison with a perfect one."""
    folder = tmp_path_factory.mktemp("pages")
    for name, shift in (("wrong", 1), ("right", 0)):
        list(evaluate(job(oracle(shift=shift), config, folder / name)))
    records = read_records(folder / "wrong", "shapes")
    mask = (64 * 32, 64 * 32)  # the lower half
    masked = [r.model_copy(update={"boxes": (*r.boxes, Box(label="half", box=(0, 32, 64, 64), score=1, mask=mask))})
              for r in records]  # fmt: skip
    write_records(folder / "wrong", "shapes", masked)
    page = gallery.write_gallery(folder / "wrong")
    return page, gallery.write_comparison(folder / "wrong", folder / "right", ("wrong", "right"))


def test_a_click_filters(pages, tmp_path):
    with chromium.Page(pages[0].as_uri(), tmp_path / "profile") as page:
        before = page.script(VISIBLE)
        page.click("button[data-tag=colors]")
        after = page.script(VISIBLE)
        assert set(after) == {"colors"}
        assert len(after) == before.count("colors") < len(before)
        assert page.script("document.getElementById('count').textContent") == f"{len(after)} shown"
        shot = np.asarray(Image.open(page.screenshot(tmp_path / "filtered.png")).convert("RGB"))
        page.click("button[data-tag='']")
        assert page.script(VISIBLE) == before
        whole = np.asarray(Image.open(page.screenshot(tmp_path / "whole.png")).convert("RGB"))
    assert shot.shape == whole.shape
    assert (shot != whole).any()
    assert shot.std() > 10


def test_reasons_and_classes_are_filters(pages, tmp_path):
    with chromium.Page(pages[0].as_uri(), tmp_path / "profile") as page:
        failure = page.script(CHOOSE % "failure")
        found = page.script(SHOWN % "failure")
        assert set(found) == {failure}
        kind = page.script(CHOOSE % "class")
        both = page.script(SHOWN % "classes")
        assert len(both) <= len(found)
        assert all(kind in classes.split("|") for classes in both)


def test_boxes_and_masks_lie_on_the_picture(pages, tmp_path):
    corners = """(() => { const s = document.querySelector('.shown');
      const i = s.querySelector('img').getBoundingClientRect();
      const g = s.querySelector('svg').getBoundingClientRect();
      return [i.x - g.x, i.y - g.y, i.width - g.width]; })()"""
    with chromium.Page(pages[0].as_uri(), tmp_path / "profile") as page:
        assert page.script(corners) == pytest.approx([0, 0, 0], abs=1)
        assert page.script("document.querySelectorAll('svg image').length") > 0
        page.click("#boxes")
        assert page.script("getComputedStyle(document.querySelector('.shown svg')).display") == "none"


def test_flip_shows_one_of_two(pages, tmp_path):
    shown = "[...document.querySelector('article').querySelectorAll('figure')].map(f => f.offsetParent !== null)"
    with chromium.Page(pages[1].as_uri(), tmp_path / "profile") as page:
        assert page.script(shown) == [True, True]
        page.click("#flip")
        assert page.script(shown) == [True, False]
        page.click("article .pictures")
        assert page.script(shown) == [False, True]
        page.screenshot(tmp_path / "flipped.png")
