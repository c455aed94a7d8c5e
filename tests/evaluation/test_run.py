"""The folder of an evaluation: reports that come back, resume after a kill, and comparisons that refuse nonsense."""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from apex_cli.errors import StorageError, UsageError
from apex_cli.evaluation import compare, gallery
from apex_cli.evaluation.jobs import Source
from apex_cli.evaluation.ledger import Ledger, Shard
from apex_cli.evaluation.painters import Checkpoint
from apex_cli.evaluation.records import Report, read_records, read_report, write_lines
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.generation import SampleConfig
from apex_cli.generation.diversity import diversity
from apex_cli.records import Progress

VARYING = {"seconds_per_image": True, "subject": {"source"}}


@pytest.fixture(scope="module")
def finish(job):
    """The report of an evaluation."""

    def run(*arguments, **options) -> Report:
        *_, report = evaluate(job(*arguments, **options))
        return report

    return run


@pytest.fixture(scope="module")
def pair(finish, oracle, config, tmp_path_factory):
    """Finished evaluations of a perfect model and of one that draws the next prompt."""
    folder = tmp_path_factory.mktemp("pair")
    finish(oracle(), config, folder / "right")
    finish(replace(oracle(shift=1), contract={"format": 1, "name": "wrong"}), config, folder / "wrong")
    return folder / "right", folder / "wrong"


def test_progress_then_report(job, oracle, config, tmp_path):
    *events, report = evaluate(job(oracle(), config, tmp_path / "e"))
    assert all(isinstance(event, Progress) for event in events)
    for phase in ("draw", "inspect"):
        assert [event.done for event in events if event.phase == phase] == list(range(1, 25))
    assert [event.done for event in events if event.phase == "shapes: detections"] == [16, 24]
    assert isinstance(report, Report)
    assert report.found == report.expected == 24
    assert read_report(tmp_path / "e") == report
    assert 0 < report.diversity < 1
    assert report.results["shapes"].certificate is None


def test_images_and_lines_are_written(pair):
    records = read_records(pair[0], "shapes")
    assert len(records) == len(list((pair[0] / "images").rglob("*.png"))) == 24
    line = json.loads((pair[0] / "shapes.jsonl").read_text().splitlines()[0])
    assert {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"} <= line.keys()
    assert line["made"].keys() == {"seed", "index", "nfe", "seconds"}
    assert (pair[0] / line["filename"]).is_file()
    asked = json.loads((pair[0] / "images" / line["item"] / "metadata.jsonl").read_text())
    assert asked == json.loads(line["metadata"])


def test_resume_gives_the_same_report(finish, job, pair, oracle, config, tmp_path):
    whole = read_report(pair[0])
    events = evaluate(job(oracle(), config, tmp_path / "cut"))
    for _ in range(9):
        next(events)
    events.close()
    with (tmp_path / "cut" / "drawn.jsonl").open("a") as file:
        file.write('{"item": "000')  # what a kill in the middle of a line leaves
    model = oracle()
    resumed = finish(model, config, tmp_path / "cut")
    assert model.backbone.drawn == 24 - 5  # a batch that was begun is drawn whole
    assert resumed.model_dump(exclude=VARYING) == whole.model_dump(exclude=VARYING)
    model = oracle()
    assert finish(model, config, tmp_path / "cut").results == whole.results
    assert model.backbone.drawn == 0


def test_scoring_again_looks_at_no_picture_twice(finish, job, pair, oracle, config, shapes, tmp_path, monkeypatch):
    folder = Path(shutil.copytree(pair[0], tmp_path / "copy"))
    for stage in shapes.stages:
        monkeypatch.setattr(type(stage), "observe", lambda *_: pytest.fail("observed again"))
    assert finish(oracle(), config, folder).results == read_report(pair[0]).results


def test_a_changed_picture_is_looked_at_again(finish, pair, oracle, config, tmp_path):
    folder = Path(shutil.copytree(pair[0], tmp_path / "copy"))
    record = next(r for r in read_records(folder, "shapes") if r.correct)
    Image.new("RGB", (64, 64), (150, 150, 150)).save(folder / record.filename)
    finish(oracle(), config, folder)
    again = {r.filename: r for r in read_records(folder, "shapes")}
    assert not again[record.filename].correct
    assert sum(r.correct for r in again.values()) == sum(r.correct for r in read_records(pair[0], "shapes")) - 1


def test_shards_give_the_same_report(job, pair, oracle, config, tmp_path):
    reports = []
    for index in (2, 0, 1):
        *_, last = evaluate(job(oracle(), config, tmp_path / "e", Shard(index, 3)))
        reports.append(last)
    assert [isinstance(last, Report) for last in reports] == [False, False, True]
    assert reports[-1].model_dump(exclude=VARYING) == read_report(pair[0]).model_dump(exclude=VARYING)
    drawn = [{(row["item"], row["k"]) for row in Ledger(tmp_path / "e", f"drawn-{i}-of-3")} for i in (1, 2, 3)]
    assert [len(rows) for rows in drawn] == [10, 9, 5]
    assert len(set().union(*drawn)) == 24


def test_workers_that_write_one_file_at_the_same_time(tmp_path, monkeypatch):
    path = tmp_path / "report.json"

    def lines():
        yield "one\n"
        monkeypatch.setattr(os, "getpid", lambda: 7)
        write_lines(path, ["other\n"])
        yield "two\n"

    write_lines(path, lines())
    assert path.read_text() == "one\ntwo\n"
    assert list(tmp_path.iterdir()) == [path]


def test_batches_do_not_change_the_report(finish, pair, oracle, config, tmp_path):
    report = finish(oracle(), config.model_copy(update={"batch": 24}), tmp_path / "b")
    assert report.model_dump(exclude=VARYING) == read_report(pair[0]).model_dump(exclude=VARYING)


def test_a_folder_belongs_to_one_evaluation(finish, pair, oracle, config):
    with pytest.raises(UsageError, match="sample"):
        finish(replace(oracle(), sample=SampleConfig(nfe=2)), config, pair[0])
    with pytest.raises(UsageError, match="seed"):
        finish(oracle(), config.model_copy(update={"seed": 5}), pair[0])


def test_changed_weights_are_noticed(finish, pair, oracle, config):
    model = oracle()
    model.source.mkdir()
    (model.source / "manifest.json").write_text('{"model": "other"}')
    with pytest.raises(UsageError, match="weights"):
        finish(model, config, pair[0])


def test_nfe_is_counted(finish, oracle, config, tmp_path):
    model = replace(oracle(), sample=SampleConfig(sampler="heun", nfe=3))
    assert finish(model, config.model_copy(update={"prompts": 2}), tmp_path / "e").nfe_counted == 3


def test_one_image_is_an_evaluation_too(finish, oracle, tmp_path):
    report = finish(oracle(), EvalConfig(prompts=1, n=1), tmp_path / "e")
    assert report.diversity is None
    assert report.results["shapes"].facts["kernel distance"] is None
    assert report.results["shapes"].overall.correlation is None


def test_a_file_in_the_way(finish, oracle, config, tmp_path):
    (tmp_path / "e").write_text("")
    with pytest.raises(StorageError, match="in the way"):
        finish(oracle(), config, tmp_path / "e")


def test_diversity_is_the_distance_between_seeds():
    images = np.zeros((4, 2, 2, 3), np.uint8)
    assert diversity(images, 2) == 0
    images[1::2] = 255
    assert diversity(images, 2) == pytest.approx(1)
    assert diversity(images[::2], 2) == 0


def test_folder_names_tell_what_is_unusual(oracle, shapes, tmp_path):
    def name(config: EvalConfig, **sample) -> str:
        model = replace(oracle(), sample=SampleConfig(**sample))
        return Source("m", Checkpoint(model), tmp_path).folder(shapes.prompts, config).name

    assert name(EvalConfig()) == "m-iid-nfe1-seed0"
    unusual = EvalConfig(prompts=12, seed=3, n=2)
    assert name(unusual, sampler="euler", nfe=50, guidance=4.5) == "m-iid-nfe50-seed3-euler-guidance4.5-12prompts-n2"


def test_compare(pair):
    (result,) = compare.compare(*pair)
    assert result.overall.difference > 0.7
    assert result.overall.p < 0.01
    assert result.overall.losses == 0
    assert result.overall.wins + result.overall.ties == 24
    assert sum(task.wins for task in result.tasks.values()) == result.overall.wins
    (back,) = compare.compare(*reversed(pair))
    assert back.overall.difference == pytest.approx(-result.overall.difference)
    assert (back.overall.wins, back.overall.losses) == (result.overall.losses, result.overall.wins)


def test_compare_with_itself(pair):
    (result,) = compare.compare(pair[0], pair[0])
    assert result.overall.difference == 0
    assert result.overall.p == 1


def test_compare_refuses_unequal_settings(finish, pair, oracle, config, tmp_path):
    finish(oracle(), config.model_copy(update={"seed": 7, "n": 1, "prompts": 2}), tmp_path / "other")
    with pytest.raises(UsageError, match=r"prompts \(12 and 2\), .*n \(2 and 1\), seed \(0 and 7\)"):
        compare.compare(pair[0], tmp_path / "other")
    with pytest.raises(StorageError, match="no finished evaluation"):
        compare.compare(pair[0], tmp_path / "nothing")


def is_self_contained(html: str) -> bool:
    outside = re.findall(r"https?:|<link|@import|url\(|<script[^>]*src", html)
    links = re.findall(r'(?:src|href)="([^"]*)', html)
    return not outside and all(link.startswith("data:image/png;base64,") for link in links)


def test_gallery_shows_every_failure(pair):
    html = gallery.write_gallery(pair[1]).read_text()
    failures = [record for record in read_records(pair[1], "shapes") if not record.correct]
    assert is_self_contained(html)
    assert html.count("<article") == len(failures) > 0
    assert html.count("<rect") == sum(len(record.boxes) for record in failures) > 0
    assert failures[0].prompt in html
    assert failures[0].reason in html
    assert 'data-tag="counting" data-failure="' in html


def test_gallery_escapes(pair, tmp_path):
    folder = Path(shutil.copytree(pair[1], tmp_path / "copy"))
    path = folder / "shapes.jsonl"
    path.write_text(path.read_text().replace("a photo of", "<script>alert(1)</script>"))
    assert "<script>alert" not in gallery.write_gallery(folder).read_text()


def test_gallery_of_a_perfect_model(pair):
    html = gallery.write_gallery(pair[0]).read_text()
    assert "<article" not in html
    assert "0 failures" in html


def test_comparison_page_puts_disagreement_first(pair):
    page = gallery.write_comparison(*pair, ("right", "wrong"))
    html = page.read_text()
    assert page == pair[0] / "comparison-wrong.html"
    assert is_self_contained(html)
    assert html.count("<article") == 24
    first = html[html.index("<article") :].split("</article>")[0]
    assert 'class="right"' in first
    assert 'class="wrong"' in first
