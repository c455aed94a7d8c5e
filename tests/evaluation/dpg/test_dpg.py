"""DPG-Bench on a made-up CSV of its shape: every number here is worked out by hand."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from looking import look
from PIL import Image
from tiny_judges import picture

from apex_cli import registry
from apex_cli.errors import DataError
from apex_cli.evaluation.base import Item, Picture
from apex_cli.evaluation.dpg import propositions as files
from apex_cli.evaluation.dpg.propositions import Proposition
from apex_cli.evaluation.dpg.protocol import cells, exact, yes_or_no
from apex_cli.evaluation.dpg.scoring import cascade

ROOT = Path(__file__).parents[3]
HEADER = (
    "item_id,text,keywords,proposition_id,dependency,category_broad,category_detailed,tuple,question_natural_language"
)
ROWS = (
    # item, id, parents, tuple, question: the first row is a parent of "a", so that its loss breaks that prompt
    ("a", 1, "0", "entity - whole (dog)", "Is there a dog?"),
    ("a", 2, "1", "attribute - color (dog, red)", "Is the dog red?"),
    ("b", 1, "0", "entity - whole (cat)", "Is there a cat?"),
    ("b", 2, "1", "entity - part (cat, hat)", "Has the cat a hat?"),
    ("b", 3, "2", "attribute - color (hat, blue)", "Is the hat blue?"),
    ("b", 4, "0", "global (photo)", "Is it a photo?"),
    ("c", 1, "0", "relation - spatial (cup, table, on)", "Is the cup on the table?"),
    ("c", 2, "0", "other - count (cup==2)", "Are there two cups?"),
)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "prompts").mkdir()
    with (tmp_path / "dpg_bench.csv").open("w", newline="") as file:
        file.write(HEADER + "\n")
        writer = csv.writer(file)
        writer.writerows([item, "text", "", id_, parents, "", "", tuple_, q] for item, id_, parents, tuple_, q in ROWS)
    for name in "abc":
        (tmp_path / "prompts" / f"{name}.txt").write_text(f"a long prompt, {name}\n")
    (tmp_path / "answers.jsonl").write_text("")
    return tmp_path


def protocol(name, folder, by="mplug-large", **settings):
    kind = registry.resolve("protocol", name)
    judge = {"answers": folder / "answers.jsonl", "answers_by": by}
    return kind(kind.Config(folder=folder, judge=judge, **settings))


def summarise(name, folder, answers):
    """`answers`: prompt -> for each picture the answers to its questions, in the order of the file."""
    own = protocol(name, folder)
    items = {item.id: item for item in own.prompts.items}
    pictures = [picture(folder, items[i], k) for i, views in answers.items() for k in range(len(views))]
    said = {p: {"answers": [[bool(a) for a in answers[p.item.id][p.k]]]} for p in pictures}
    return own.summarise(pictures, {"answers": said})


ANSWERS = {
    "a": [[1, 1], [1, 1]],
    "b": [[0, 1, 1, 1], [1, 0, 1, 1]],
    "c": [[1, 0], [0, 0]],
}
# b, first picture: no cat, so neither hat nor its colour: (0 + 0 + 0 + 1) / 4; second: no hat, so no colour: 2 / 4.


def test_zeros_run_on_in_the_order_of_the_file():
    p = {i: Proposition(i, parents, "entity", "") for i, parents in ((1, ()), (2, (1,)), (3, (2,)), (4, ()))}
    assert cascade(p, {1: False, 2: True, 3: True, 4: True}) == {1: False, 2: False, 3: False, 4: True}
    backwards = {i: p[i] for i in (3, 2, 1, 4)}
    assert cascade(backwards, {1: False, 2: True, 3: True, 4: True})[3], "the child came before its parent fell"


def test_fixed_keeps_every_row_and_every_picture(folder):
    made = summarise("dpg@fixed", folder, ANSWERS)
    assert made.value == pytest.approx(100 * (1 + 0.375 + 0.25) / 3)
    shares = {name: score.score for name, score in made.tasks.items()}
    assert list(shares) == ["global", "entity", "attribute", "relation", "other"]
    assert shares["entity"] == pytest.approx(100 * 4 / 6), "before the zeros: of a 1 1, of b 0 1 and 1 0"
    assert shares["attribute"] == pytest.approx(100 * 4 / 4)
    assert (shares["global"], shares["relation"], shares["other"]) == pytest.approx((100, 50, 0))
    assert made.facts["prompts scored"] == 3
    assert made.notes == ("a set of 3 prompts, where DPG-Bench has 1,065",)
    reasons = {(r.item, r.k): (r.reason, r.failure, r.score) for r in made.records}
    assert reasons["b", 0] == ("not so: Is there a cat?", "entity", 0.25)


def test_official_loses_the_first_row_and_with_it_its_prompt(folder):
    made = summarise("dpg@official", folder, ANSWERS)
    assert made.value == pytest.approx(100 * (0.375 + 0.25) / 2)
    assert made.facts == {"prompts scored": 2, "prompts asked": 3}
    assert "a (question 2 hangs on 1, which is not there)" in made.notes[2]
    shares = {name: score.score for name, score in made.tasks.items()}
    assert shares["entity"] == pytest.approx(50), "of the last picture of b alone: 1 0"
    assert (shares["relation"], shares["attribute"]) == pytest.approx((0, 100))


def test_the_papers_tier_is_the_official_script_on_all_pictures(folder, monkeypatch):
    whole = {item: views * 2 for item, views in ANSWERS.items()}
    assert summarise("dpg@official", folder, whole).tier == "standard", "of a part of the benchmark"
    monkeypatch.setattr("apex_cli.evaluation.dpg.protocol.PROMPTS", len(ANSWERS))
    tiers = [
        summarise(name, folder, answers).tier for name in ("dpg@official", "dpg@fixed") for answers in (whole, ANSWERS)
    ]
    assert tiers == ["paper", "standard", "standard", "standard"]


def test_nothing_but_dropped_prompts_is_no_score(folder):
    made = summarise("dpg@official", folder, {"a": ANSWERS["a"]})
    assert (made.status, made.value) == ("skipped", None)
    assert made.reason == "every prompt was dropped, the first: a (question 2 hangs on 1, which is not there)"
    assert made.remedy == "look at dpg_bench.csv, or use dpg@fixed"


def test_one_prompt_is_no_interval(folder):
    made = summarise("dpg@fixed", folder, {"c": ANSWERS["c"]})
    assert made.interval is None and all(score.interval is None for score in made.tasks.values())
    right = summarise(
        "dpg@fixed", folder, {item: [[1] * len(view) for view in views] for item, views in ANSWERS.items()}
    )
    low, high = right.interval
    assert high == 100 and 30 < low < 50, "three of three"
    assert right.tasks["entity"].interval == pytest.approx((100 * 2 / (2 + 1.96**2), 100), abs=0.01), "two of two"


def test_official_keeps_a_prompt_that_does_not_hang_on_the_lost_row(folder):
    path = folder / "dpg_bench.csv"
    path.write_text(path.read_text().replace(",2,1,,,attribute - color (dog", ",2,0,,,attribute - color (dog").replace(
        '2,1,,,"attribute - color (dog', '2,0,,,"attribute - color (dog'))  # fmt: skip
    made = summarise("dpg@official", folder, ANSWERS)
    assert made.facts["prompts scored"] == 3 and made.value == pytest.approx(100 * (1 + 0.375 + 0.25) / 3)


def test_official_forgets_an_earlier_run_of_a_prompts_rows(folder):
    with (folder / "dpg_bench.csv").open("a") as file:
        file.write('b,text,,9,0,,,"global (late)",Is it late?\n')
    assert list(files.read(folder / "dpg_bench.csv", official=True)["b"]) == [9]
    assert list(files.read(folder / "dpg_bench.csv", official=False)["b"]) == [1, 2, 3, 4, 9]


def test_both_share_prompts_and_questions(folder):
    official, fixed = (protocol(name, folder) for name in ("dpg@official", "dpg@fixed"))
    assert official.prompts.sha256 == fixed.prompts.sha256 and official.prompts.n == 4
    for a, b in zip(official.prompts.items, fixed.prompts.items, strict=True):
        assert official.stages[0].question(a) == fixed.stages[0].question(b)
    assert official.stages[0].identity == fixed.stages[0].identity


def test_other_judges_have_another_name(folder):
    for own in ("mplug-large", "mPLUG-large", "iic/mplug_visual-question-answering_coco_large_en"):
        assert protocol("dpg@fixed", folder, by=own).name == "dpg@fixed"
    for other in ("mPLUG-Owl3", "mplug-base", "not-mplug-large", "Salesforce/blip"):
        assert protocol("dpg@fixed", folder, by=other).name == f"dpg@fixed+{other.replace('/', '-')}"
    assert (exact("yes"), exact("Yes"), exact("maybe")) == (True, False, False)
    assert [yes_or_no(t) for t in ("Yes.", " **No**, it is not", "maybe", "", "yesterday")] == [
        True,
        False,
        None,
        None,
        None,
    ]


def test_a_prompt_without_a_text_is_named_and_nothing_is_scored(folder):
    (folder / "prompts" / "b.txt").unlink()
    with pytest.raises(DataError, match=r"1 of the 3 prompts in dpg_bench.csv have no text, the first: prompts/b.txt"):
        _ = protocol("dpg@fixed", folder).prompts


CATEGORIES = """
import json, pathlib, sys
from apex_cli.evaluation.dpg.propositions import read
from apex_cli.evaluation.dpg.scoring import categories, pooled_score
asked = read(pathlib.Path(sys.argv[1]), official=False)
answered = {item: [{id_: (id_ + k) % 2 == 0 for id_ in own} for k in range(4)] for item, own in asked.items()}
pooled = categories(answered, asked, last_only=False)
print(json.dumps([list(set(pooled)), {name: pooled_score(own, 4).score for name, own in pooled.items()}]))
"""


def test_categories_do_not_depend_on_the_order_of_a_set_of_strings(folder):
    """The official script's do, on several processes: each has another order."""

    def scored(seed):
        command = [sys.executable, "-c", CATEGORIES, str(folder / "dpg_bench.csv")]
        environment = {**os.environ, "PYTHONHASHSEED": seed}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
        assert not done.returncode, done.stderr
        return json.loads(done.stdout)

    orders, scores = zip(*(scored(seed) for seed in ("0", "1", "2")), strict=True)
    assert orders[0] != orders[1] != orders[2], "the seeds do change the order of a set"
    assert list(scores[0]) == ["global", "entity", "attribute", "relation", "other"]
    assert scores[0] == scores[1] == scores[2] and list(scores[0]) == list(scores[1]) == list(scores[2])


def test_an_official_grid_is_cut_and_a_wrong_size_refused(folder, tmp_path):
    quarters = np.array([[10, 20], [30, 40]], np.uint8)
    grid = np.repeat(np.repeat(quarters, 8, 0), 8, 1)[..., None].repeat(3, 2)
    item = Item("b", "dpg", "")
    made = cells(picture(tmp_path, item, pixels=grid), 8, tmp_path)
    assert [int(np.asarray(Image.open(p.path)).mean()) for p in made] == [10, 20, 30, 40] and [p.k for p in made] == [
        0,
        1,
        2,
        3,
    ]
    with pytest.raises(ValueError, match="16 x 16, no grid of 2 x 2 cells of 16"):
        cells(picture(tmp_path, item, pixels=grid), 16, tmp_path)
    own = protocol("dpg@official", folder, grid=16)
    (said,) = look(own.stages[0], [picture(tmp_path, item, pixels=grid)])
    assert own.prompts.n == 1 and "no grid" in said["error"]


def test_a_file_that_is_not_the_benchmarks(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1,2\n")
    with pytest.raises(DataError, match="no column 'item_id'"):
        files.read(tmp_path / "x.csv", official=False)
    (tmp_path / "x.csv").write_text(HEADER + "\na,t,,one,0,,,entity (x),Is it?\n")
    with pytest.raises(DataError, match="line 2: no proposition"):
        files.read(tmp_path / "x.csv", official=False)


def test_answers_come_from_a_record(folder):
    rows = ['{"item": "c", "question": "Is the cup on the table?", "answer": "yes"}',
            '{"item": "c", "question": "Are there two cups?", "answer": "two"}']  # fmt: skip
    (folder / "answers.jsonl").write_text("\n".join(rows) + "\n")
    own = protocol("dpg@fixed", folder)
    (stage,) = own.stages
    stage.open()
    shown: Picture = picture(folder, next(i for i in own.prompts.items if i.id == "c"))
    (said,) = look(stage, [shown])
    assert said["answers"] == [[True, False]] and own.summarise([shown], {"answers": {shown: said}}).value == 50
