"""GenEval's verdicts and summary, and both protocols from a folder of pictures to a report."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from looking import look
from PIL import Image
from tiny_judges import clip, mask2former, picture

from apex_cli import registry
from apex_cli.errors import DataError
from apex_cli.evaluation import catalog, run
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.geneval import canary, mmdet
from apex_cli.evaluation.geneval.mask2former import Mask2Former
from apex_cli.evaluation.geneval.protocol import result
from apex_cli.evaluation.geneval.scoring import Thresholds, judge, record
from apex_cli.evaluation.geneval.seen import Seen
from apex_cli.evaluation.geneval_prompts import COLORS
from apex_cli.evaluation.jobs import Job, PromptSet
from apex_cli.evaluation.records import read_records, write_records
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.worlds.shapes import grammar, scoring
from apex_cli.worlds.shapes.detector import detect
from apex_cli.worlds.shapes.renderer import render


def protocol(name, **settings_):
    kind = registry.resolve("protocol", name)
    return kind(kind.Config(**settings_))


def certain(color):
    return {name: 0.91 if name == color else 0.01 for name in COLORS}


def test_rendered_shapes_are_judged_as_by_their_own_world(tmp_path):
    """The same rules serve both: GenEval's verdict on what the exact detector saw is the shapes world's."""
    rng = np.random.default_rng(0)
    asked = grammar.prompts("iid")[::9]
    found = [detect(render(grammar.scene_for(prompt, rng))) for prompt in asked]
    right = 0
    for i, prompt in enumerate(asked):
        item = Item(f"{i:05d}", prompt.tag, prompt.text, {"include": prompt.include, "exclude": prompt.exclude})
        for seen in (found[i], found[i - 1]):
            things = [Seen(d.kind, d.box, d.confidence, colors=certain(d.color)) for d in seen if d.color in COLORS]
            own = record(picture(tmp_path, item), things, Thresholds(counting_threshold=0.3))
            shapes = scoring.judge(prompt, seen, strict=False)
            assert (own.correct, own.failure) == (shapes.correct, shapes.failure)
            right += own.correct
    assert len(asked) <= right <= len(asked) + 4


kinds, confidences = st.sampled_from(["dog", "cat"]), st.floats(0.11, 0.99)
corner = st.integers(0, 80).map(float)
seen_things = st.lists(
    st.builds(
        lambda kind, x, y, c, color: Seen(kind, (x, y, x + 12, y + 12), c, colors=certain(color)),
        kinds, corner, corner, confidences, st.sampled_from(["red", "blue"]),
    ),
    max_size=5,
)  # fmt: skip
demands = st.sampled_from(
    [
        ("counting", [{"class": "dog", "count": 2}], [{"class": "dog", "count": 3}]),
        ("two_object", [{"class": "dog", "count": 1}, {"class": "cat", "count": 1}], []),
        (
            "color_attr",
            [{"class": "dog", "count": 1, "color": "red"}, {"class": "cat", "count": 1, "color": "blue"}],
            [],
        ),
        ("position", [{"class": "cat", "count": 1}, {"class": "dog", "count": 1, "position": ["above", 0]}], []),
    ]
)


@settings(max_examples=200, deadline=None)
@given(demands, seen_things)
def test_the_margin_is_positive_where_the_picture_is_right(asked, things):
    tag, include, exclude = asked
    _, findings, margin = judge(Item("0", tag, "", {"include": include, "exclude": exclude}), things, Thresholds())
    assert (margin > 0) == (not findings.told) or abs(margin) < 1e-6


def test_counting_asks_for_more_confidence():
    item = Item(
        "0", "counting", "", {"include": [{"class": "dog", "count": 2}], "exclude": [{"class": "dog", "count": 3}]}
    )
    dogs = [Seen("dog", (i, 0, i + 5, 5), c) for i, c in ((0, 0.99), (20, 0.91), (40, 0.89))]
    assert judge(item, dogs, Thresholds())[1].told == []
    assert judge(item, dogs, Thresholds(counting_threshold=0.3))[1].told == [("count", "asked for 2 dogs, found 3")]


def official_summary(path):
    """What GenEval's own summary script computes of a file of results: the mean over tags of the mean of `correct`."""
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    groups = {key: {value: [] for value in {row[key] for row in rows}} for key in ("tag", "metadata")}
    for row in rows:
        for key, group in groups.items():
            group[row[key]].append(row["correct"])
    prompts = fmean(any(correct) for correct in groups["metadata"].values())
    return fmean(map(fmean, groups["tag"].values())), fmean(row["correct"] for row in rows), prompts


def test_the_official_summary_of_our_lines_is_our_overall(tmp_path):
    """Tasks of unequal size, so that the mean over images would be another number."""
    rng = np.random.default_rng(0)
    items = protocol("geneval@hf").prompts.items
    chosen = [item for tag, n in zip(grammar.TASKS, (5, 3, 2, 4, 1, 6), strict=True) for item in _of(items, tag, n)]
    records = []
    for item in chosen:
        for k in range(4):
            wanted = [
                Seen(c["class"], (40.0 * i, 0, 40 * i + 20, 20), 0.95, colors=certain(c.get("color", "red")))
                for c in item.meta["include"]
                for i in range(c["count"])
            ]
            records.append(record(picture(tmp_path, item, k), wanted if rng.random() < 0.6 else [], Thresholds()))
    made = result("geneval@hf", records)
    write_records(tmp_path, "geneval@hf", made.records)
    overall, images, prompts = official_summary(tmp_path / "geneval@hf.jsonl")
    assert 0 < overall < 1 and overall != pytest.approx(images)
    assert made.value == pytest.approx(overall)
    assert made.facts["correct images"] == pytest.approx(images)
    assert made.facts["prompts with a correct image"] == pytest.approx(prompts)


def _of(items, tag, n):
    return [item for item in items if item.tag == tag][:n]


def test_overall_is_the_mean_of_the_tasks_and_not_of_the_images(tmp_path):
    include = {"include": [{"class": "dog", "count": 1}]}
    dog = [Seen("dog", (0, 0, 5, 5), 0.9)]
    single = [Item(str(i), "single_object", "a photo of a dog", include) for i in range(6)]
    two = Item("9", "two_object", "a photo of a dog", include)
    records = [record(picture(tmp_path, item), dog, Thresholds()) for item in single]
    records.insert(0, record(picture(tmp_path, two), [], Thresholds()))
    made = result("geneval@hf", records)
    assert made.value == 0.5 != fmean(r.score for r in records)
    assert list(made.tasks) == ["single_object", "two_object"], "the paper's order, whatever the files' order"
    assert made.facts["correct images"] == pytest.approx(6 / 7)
    assert "no picture of counting" in made.notes[0]


def test_names_say_what_is_not_official():
    assert protocol("geneval@hf").name == "geneval@hf"
    assert protocol("geneval@hf", prompt_seed=0, threshold=0.2).name == "geneval@hf+seed0+threshold0.2"
    fresh = protocol("geneval@official", prompt_seed=42)
    assert len(fresh.prompts.items) == 559 and fresh.prompts.name == "geneval-seed42"
    official = protocol("geneval@hf").prompts
    assert len(official.items) == 553 and official.n == 4


def test_the_papers_tier_is_the_official_rules_on_all_pictures(tmp_path, monkeypatch):
    published, other = tmp_path / "published", tmp_path / "other"
    for folder in (published, other):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(folder.name.encode())
    weights = replace(catalog.CLIP.files[0], sha256=hashlib.sha256(b"published").hexdigest())
    monkeypatch.setattr(catalog, "CLIP", replace(catalog.CLIP, files=(weights, *catalog.CLIP.files[1:])))

    def tier(name, count=2212, **settings_):
        own = protocol(name, **{"clip": published, **settings_})
        shown = [
            Picture(item, k, Path(item.id), f"{item.id}-{k}", (9, 9)) for item in own.prompts.items for k in range(4)
        ]
        said = {one: {"objects": [], "colors": []} for one in shown}
        return own.summarise(shown[:count], {"detections": said, "colors": said}).tier

    assert tier("geneval@official") == "paper"
    assert tier("geneval@official", 2211) == tier("geneval@official", threshold=0.2) == "standard"
    assert tier("geneval@official", canary="off") == tier("geneval@official", clip=other) == "standard"
    assert tier("geneval@hf") == "standard"


def test_missing_files_are_needs_with_a_remedy(monkeypatch, tmp_path):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path))
    needs = protocol("geneval@official").needs
    assert needs[0].find() is None and "geneval@official.detections=PATH" in needs[0].remedy
    told = [need.remedy for need in protocol("geneval@hf").needs]
    assert told == [f"get it with: apex eval prepare {name}" for name in ("mask2former", "clip")]
    named = protocol("geneval@hf", detector=tmp_path, clip=tmp_path / "gone").needs
    assert [need.find() for need in named] == [None, None]
    assert [need.name for need in named] == ["model.safetensors"] * 2 and "geneval@hf.clip=PATH" in named[1].remedy
    assert protocol("geneval@official", detections=tmp_path).needs[0].find() is None, "a folder is no file of lines"


@pytest.fixture
def official(tmp_path):
    """Pictures of three prompts in GenEval's layout, what mmdet saw in all but one, and a tiny CLIP."""
    rows = protocol("geneval@hf").prompts.items
    chosen = [rows[0], next(i for i in rows if i.tag == "counting"), next(i for i in rows if i.tag == "colors")]
    lines = []
    for number, item in enumerate(chosen):
        for k in range(2):
            path = tmp_path / "pictures" / item.id / "samples" / f"{k:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            noise = np.random.default_rng([number, k]).integers(0, 256, (40, 40, 3), np.uint8)
            Image.fromarray(noise).save(path)
            (clause,) = item.meta["include"]
            one = {"kind": clause["class"], "box": [2, 2, 30, 30], "confidence": 0.95}
            lines.append({"filename": str(path), "objects": [one] * clause["count"] if k == 0 else []})
    (tmp_path / "mmdet.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines[:-1]))
    return tmp_path, chosen


def test_from_what_mmdet_saw_to_a_report(official):
    folder, chosen = official
    own = protocol("geneval@official", detections=folder / "mmdet.jsonl", clip=clip(folder / "clip"), canary="off")
    job = Job(folder / "pictures", [own], PromptSet("geneval", tuple(chosen), 2), EvalConfig(), folder / "out")
    report = list(run.evaluate(job))[-1]
    made = report.results["geneval@official"]
    assert (made.status, made.found, made.expected) == ("partial", 5, 6)
    assert made.tasks["single_object"].score == 0.5 and made.tasks["counting"].score == 0.5
    assert any("not in mmdet.jsonl" in note for note in made.notes)
    rows = [json.loads(line) for line in (folder / "out" / "geneval@official.jsonl").read_text().splitlines()]
    assert {"filename", "tag", "prompt", "correct", "reason", "metadata", "details"} <= rows[0].keys()
    assert rows[1]["reason"].startswith("asked for a") and rows[1]["failure"] == "missing"
    again = list(run.evaluate(job))[-1]
    assert again.results["geneval@official"] == made.model_copy(update={"records": []})


def test_a_line_that_is_no_detection_is_named(tmp_path):
    file = tmp_path / "mmdet.jsonl"
    file.write_text('{"filename": "00000/samples/00000.png", "objects": []}\n{"filename": "x"}\n')
    with pytest.raises(DataError, match=r"line 2: no detections"):
        mmdet.read(file)
    thing = {"kind": "dog", "box": [0, 0, 9, 9], "confidence": 1}
    for wrong, told in (
        ({"kind": "unicorn"}, "no class 'unicorn'"),
        ({"box": [3, 2, 7, 2]}, "the box of the dog has no area"),
        ({"box": [7, 0, 3, 9]}, "the box of the dog has no area"),
        ({"box": [0, 0, float("nan"), 9]}, "the box of the dog has no area"),
        ({"box": [0, 0, float("inf"), 9]}, "the box of the dog has no area"),
        ({"box": [0, 0, 10**400, 9]}, "OverflowError"),
        ({"mask": [5, -2, 3]}, "not made of run lengths"),
        ({"mask": [5, 2.5]}, "not made of run lengths"),
    ):
        file.write_text(json.dumps({"filename": "00000/samples/00000.png", "objects": [thing | wrong]}))
        with pytest.raises(DataError, match=f"line 1: .*{told}"):
            mmdet.read(file)
    file.write_text(json.dumps({"filename": "00000/samples/00000.png", "objects": [thing | {"box": [3, 2, 7, 2.1]}]}))
    assert list(mmdet.read(file)) == [("00000", 0)], "a thin box is one"


def test_detections_of_another_picture_are_refused(tmp_path):
    item = Item("00000", "single_object", "", {"include": [{"class": "dog", "count": 1}]})
    one = picture(tmp_path, item)
    thing = {"kind": "dog", "box": [0, 0, 9, 9], "confidence": 1}

    def said(sha256="", mask=(0, 16 * 16)):
        row = {"filename": "00000/samples/00000.png", "objects": [thing | {"mask": mask}]}
        (tmp_path / "mmdet.jsonl").write_text(json.dumps(row | ({"sha256": sha256} if sha256 else {})))
        stage = mmdet.RecordedDetections(tmp_path / "mmdet.jsonl")
        stage.open()
        return look(stage, [one])[0]

    assert "error" not in said() and "error" not in said(one.sha256)
    assert said("0" * 64)["error"] == "what mmdet.jsonl says is of another picture"
    assert said(mask=(0, 15 * 16))["error"] == "the masks in mmdet.jsonl are not of 16 x 16 pixels"


def test_from_pictures_to_a_report_through_mask2former_and_clip(tmp_path, monkeypatch):
    """Tiny random models of the real classes: every stage, the canary, the records, and nothing to do the second
    time."""
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    narrow = np.random.default_rng(0).integers(0, 256, (12, 500, 3), np.uint8)
    monkeypatch.setattr(canary, "stop_sign", lambda: narrow)
    own = protocol(
        "geneval@hf",
        detector=mask2former(tmp_path / "detector"),
        clip=clip(tmp_path / "clip"),
        canary="agreement",
        threshold=0.1,
    )
    seen = Mask2Former(tmp_path / "detector").detect([narrow])[0][0].kind
    asked = {"single_object": {}, "colors": {"color": "red"}}
    items = [
        Item(f"{i:05d}", tag, f"a photo of a {seen}", {"include": [{"class": seen, "count": 1, **color}]})
        for i, (tag, color) in enumerate(asked.items())
    ]
    for item in items:
        for k, shown in enumerate((narrow, np.zeros_like(narrow))):
            path = tmp_path / "pictures" / item.id / "samples" / f"{k:05d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(shown).save(path)
    job = Job(tmp_path / "pictures", [own], PromptSet("tiny", tuple(items), 2), EvalConfig(), tmp_path / "out")
    made = list(run.evaluate(job))[-1].results[own.name]
    assert own.name == "geneval@hf+threshold0.1"
    assert (made.status, made.found, list(made.tasks)) == ("scored", 4, ["single_object", "colors"])
    assert len(list((tmp_path / "cache" / "canaries").iterdir())) == 2
    rows = read_records(tmp_path / "out", own.name)
    assert rows[0].correct and rows[0].boxes[0].label == seen and rows[0].boxes[0].mask
    colored = [box for box in rows[2].boxes if box.label == seen]
    assert all(box.color in COLORS for box in colored) and rows[2].failure in ("", "color")
    assert made.value == pytest.approx(fmean(fmean(r.score for r in rows if r.tag == tag) for tag in asked))
    monkeypatch.setattr(Mask2Former, "detect", lambda *_: pytest.fail("looked again"))
    assert list(run.evaluate(job))[-1].results[own.name] == made


def test_the_bare_name_is_the_protocol_that_runs_everywhere():
    assert registry.resolve("protocol", "geneval") is registry.resolve("protocol", "geneval@hf")
