"""The folder of an evaluation: reports that come back, resume after a kill, and comparisons that refuse nonsense."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import numpy as np
import pytest

from apex_cli.errors import StorageError, UsageError
from apex_cli.evaluation import compare, gallery
from apex_cli.evaluation.records import Report, read_records, read_report
from apex_cli.evaluation.run import diversity, evaluate, folder_name, weights_hash
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.shapes import ShapesSuite
from apex_cli.generation import SampleConfig
from apex_cli.records import Progress

TIMED = {"seconds_per_image", "hardware", "versions"}


def finish(model, config, folder) -> Report:
    *_, report = evaluate(model, ShapesSuite(config), config, folder)
    return report


def test_progress_then_report(oracle, config, tmp_path):
    *events, report = evaluate(oracle(), ShapesSuite(config), config, tmp_path / "e")
    assert all(isinstance(event, Progress) for event in events)
    assert [event.done for event in events if event.phase == "judge"] == list(range(1, 25))
    assert isinstance(report, Report)
    assert report.found == report.expected == 24
    assert read_report(tmp_path / "e") == report
    assert 0 < report.diversity < 1
    assert report.certificate is None


def test_images_and_lines_are_written(oracle, config, tmp_path):
    finish(oracle(), config, tmp_path / "e")
    records = read_records(tmp_path / "e")
    assert len(records) == len(list((tmp_path / "e" / "images").iterdir())) == 24
    line = json.loads((tmp_path / "e" / "images.jsonl").read_text().splitlines()[0])
    assert {"filename", "tag", "prompt", "correct", "reason", "seed", "index", "nfe"} <= line.keys()


def test_resume_gives_the_same_report(oracle, config, tmp_path):
    whole = finish(oracle(), config, tmp_path / "whole")
    events = evaluate(oracle(), ShapesSuite(config), config, tmp_path / "cut")
    for _ in range(9):
        next(events)
    events.close()
    with (tmp_path / "cut" / "images.jsonl").open("a") as file:
        file.write('{"filename": "images/000')  # what a kill in the middle of a line leaves
    model = oracle()
    resumed = finish(model, config, tmp_path / "cut")
    assert model.backbone.drawn == 24 - 9
    assert resumed.model_dump(exclude=TIMED) == whole.model_dump(exclude=TIMED)
    model = oracle()
    assert finish(model, config, tmp_path / "cut").overall == whole.overall
    assert model.backbone.drawn == 0


def test_batches_do_not_change_the_report(oracle, config, tmp_path):
    one = finish(oracle(), config, tmp_path / "a")
    other = finish(oracle(), config.model_copy(update={"batch": 24}), tmp_path / "b")
    assert one.model_dump(exclude=TIMED) == other.model_dump(exclude=TIMED)


def test_a_folder_belongs_to_one_evaluation(oracle, config, tmp_path):
    finish(oracle(), config, tmp_path / "e")
    guided = replace(oracle(), sample=SampleConfig(nfe=2))
    with pytest.raises(UsageError, match="sample"):
        finish(guided, config, tmp_path / "e")
    with pytest.raises(UsageError, match="seed"):
        finish(oracle(), config.model_copy(update={"seed": 5}), tmp_path / "e")


def test_changed_weights_are_noticed(oracle, config, tmp_path):
    model = oracle()
    model.source.mkdir()
    (model.source / "manifest.json").write_text("{}")
    before = weights_hash(model.source)
    finish(model, config, tmp_path / "e")
    (model.source / "manifest.json").write_text('{"model": "other"}')
    assert weights_hash(model.source) != before
    with pytest.raises(UsageError, match="weights"):
        finish(model, config, tmp_path / "e")


def test_nfe_is_counted(oracle, config, tmp_path):
    model = replace(oracle(), sample=SampleConfig(sampler="heun", nfe=3))
    assert finish(model, config.model_copy(update={"prompts": 2}), tmp_path / "e").nfe_counted == 3


def test_one_image_is_an_evaluation_too(oracle, tmp_path):
    report = finish(oracle(), EvalConfig(prompts=1, images=1), tmp_path / "e")
    assert report.diversity is None
    assert report.kernel_distance is None


def test_a_file_in_the_way(oracle, config, tmp_path):
    (tmp_path / "e").write_text("")
    with pytest.raises(StorageError, match="in the way"):
        finish(oracle(), config, tmp_path / "e")


def test_diversity_is_the_distance_between_seeds():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    assert diversity(images, 2) == 0
    images[1::2] = 255
    assert diversity(images, 2) == pytest.approx(1)
    assert diversity(images[::2], 2) == 0


def test_folder_names_tell_what_is_unusual():
    assert folder_name("m", SampleConfig(), EvalConfig()) == "m-iid-nfe1-seed0"
    unusual = SampleConfig(sampler="euler", nfe=50, guidance=4.5)
    config = EvalConfig(prompts=12, split="compose", seed=3)
    assert folder_name("m", unusual, config) == "m-compose-nfe50-seed3-euler-guidance4.5-12prompts"


@pytest.fixture
def pair(oracle, config, tmp_path):
    """A perfect model and one that draws the next prompt."""
    folders = tmp_path / "right", tmp_path / "wrong"
    finish(oracle(), config, folders[0])
    finish(replace(oracle(shift=1), contract={"format": 1, "name": "<b>wrong</b>"}), config, folders[1])
    return folders


def test_compare(pair):
    result = compare.compare(*pair)
    assert result.overall.difference > 0.7
    assert result.overall.p < 0.01
    assert result.overall.losses == 0
    assert result.overall.wins + result.overall.ties == 24
    assert sum(task.wins for task in result.tasks.values()) == result.overall.wins
    back = compare.compare(*reversed(pair))
    assert back.overall.difference == pytest.approx(-result.overall.difference)
    assert (back.overall.wins, back.overall.losses) == (result.overall.losses, result.overall.wins)


def test_compare_with_itself(pair):
    result = compare.compare(pair[0], pair[0])
    assert result.overall.difference == 0
    assert result.overall.p == 1


def test_compare_refuses_unequal_settings(pair, oracle, config, tmp_path):
    finish(oracle(), config.model_copy(update={"seed": 7, "images": 1}), tmp_path / "other")
    with pytest.raises(UsageError, match=r"seed \(0 and 7\), images_per_prompt \(2 and 1\)"):
        compare.compare(pair[0], tmp_path / "other")
    with pytest.raises(StorageError, match="no finished evaluation"):
        compare.compare(pair[0], tmp_path / "nothing")


def is_self_contained(html: str) -> bool:
    outside = re.findall(r"https?:|<link|@import|url\(|<script[^>]*src", html)
    return not outside and all(src.startswith("data:image/png;base64,") for src in re.findall(r'src="([^"]*)', html))


def test_gallery_shows_every_failure(pair):
    html = gallery.write_gallery(pair[1]).read_text()
    failures = [record for record in read_records(pair[1]).values() if not record.correct]
    assert is_self_contained(html)
    assert html.count("<article") == len(failures) > 0
    assert failures[0].prompt in html
    assert failures[0].reason in html
    assert 'data-tag="counting"' in html


def test_gallery_escapes(pair):
    path = pair[1] / "images.jsonl"
    path.write_text(path.read_text().replace("a photo of", "<script>alert(1)</script>"))
    assert "<script>alert" not in gallery.write_gallery(pair[1]).read_text()


def test_gallery_of_a_perfect_model(pair):
    html = gallery.write_gallery(pair[0]).read_text()
    assert "<article" not in html
    assert "0 failures" in html


def test_comparison_page_puts_disagreement_first(pair):
    page = gallery.write_comparison(compare.compare(*pair), ("right", "wrong"))
    html = page.read_text()
    assert page == pair[0] / "comparison-wrong.html"
    assert is_self_contained(html)
    assert html.count("<article") == 24
    first = html[html.index("<article") :].split("</article>")[0]
    assert 'class="right"' in first
    assert 'class="wrong"' in first
