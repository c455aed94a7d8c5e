"""WISE under both meanings, on files of its shape: arithmetic by hand, and a real judge that does not always behave."""

from __future__ import annotations

import json
import re
from statistics import fmean

import numpy as np
import pytest
from looking import look
from PIL import Image
from tiny_judges import picture

from apex_cli import registry
from apex_cli.errors import DataError, SetupError
from apex_cli.evaluation import run
from apex_cli.evaluation.base import PromptSet
from apex_cli.evaluation.jobs import Job
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.statistics import interval, overall
from apex_cli.evaluation.wise.instructions import ScriptWording
from apex_cli.evaluation.wise.scoring import LEGACY, VERIFIED, read_legacy, read_verified, wiscore

SCRIPT = '''
import openai
raise RuntimeError("never run")
def build_evaluation_messages(prompt_data, image_base64):
    return [
        {"role": "system", "content": [{"type": "text", "text": "Be strict."}]},
        {"role": "user", "content": [
            {"type": "text", "text": f"""Marks for PROMPT: "{prompt_data['Prompt']}\\
" of "{prompt_data['Explanation']}"."""},
            {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{image_base64}"}},
        ]},
    ]
'''
IDS = {"cultural_common_sense": (1, 2), "spatio-temporal_reasoning": (401, 568), "natural_science": (701, 801, 901)}


@pytest.fixture
def clone(tmp_path):
    (tmp_path / "data").mkdir()
    for name, ids in IDS.items():
        rows = [{"prompt_id": i, "Prompt": f"thing {i}", "Explanation": f"it is {i}", "Subcategory": "x"} for i in ids]
        (tmp_path / "data" / f"{name}.json").write_text(json.dumps(rows))
    (tmp_path / "gpt_eval.py").write_text(SCRIPT)
    return tmp_path


def protocol(name, folder, **judge):
    kind = registry.resolve("protocol", name)
    return kind(kind.Config(folder=folder, judge=judge))


def test_the_score_of_a_picture():
    marks = {"consistency": 2, "realism": 1, "aesthetic_quality": 0}
    assert wiscore(marks) == pytest.approx(0.8)
    assert wiscore(dict.fromkeys(marks, 2)) == pytest.approx(1) and wiscore(dict.fromkeys(marks, 0)) == 0


def test_both_maps_of_ids():
    def edges(edition):
        return [
            edition.category(i) for i in (1, 400, 401, 520, 521, 567, 568, 640, 641, 700, 701, 760, 761, 800, 801, 1000)
        ]

    assert edges(LEGACY) == ["cultural"] * 2 + ["time"] * 4 + ["space"] * 4 + ["biology"] * 4 + ["physics", "chemistry"]
    assert edges(VERIFIED) == (
        ["cultural"] * 2 + ["time"] * 2 + ["space"] * 4 + ["biology"] * 4 + ["physics"] * 3 + ["chemistry"]
    )
    for wrong in (0, 1001):
        with pytest.raises(LookupError):
            LEGACY.category(wrong)


def test_both_weightings():
    means = dict(
        zip(("cultural", "time", "space", "biology", "physics", "chemistry"), (1, 0.5, 0.25, 0, 1, 0.5), strict=True)
    )
    ones = {name: [mean] for name, mean in means.items()}
    assert overall(ones, LEGACY.weights) == pytest.approx(0.4 + 0.0835 + 0.03325 + 0.1 + 0.05)
    assert overall(ones, VERIFIED.weights) == pytest.approx(0.4 + 0.12 * 2.25)
    rng = np.random.default_rng(0)
    sizes = dict(zip(means, (400, 167, 133, 100, 100, 100), strict=True))
    values = {name: rng.random(size).tolist() for name, size in sizes.items()}
    everything = [v for own in values.values() for v in own]
    value = overall(values, LEGACY.weights)
    assert value == pytest.approx(fmean(everything)), "the legacy weights are the shares of the prompts"
    low, high = interval(values, LEGACY.weights)
    assert low < value < high and high - low == pytest.approx(4 * np.std(everything) / 1000**0.5, rel=0.15)
    assert overall({"time": [0.5], "space": [0.5]}, LEGACY.weights) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("text", "marks"),
    [
        ("Consistency: 2\nRealism: 1\nAesthetic Quality: 0", (2, 1, 0)),
        ("**Consistency**: 1\n**Realism:** 2\n**Aesthetic Quality** 2", (1, 2, 2)),
        ("consistency 0 realism 0 aesthetic quality 1", (0, 0, 1)),
        ("Consistency: 2\nRealism: 1", None),
        ("Consistency: 3\nRealism: 1\nAesthetic Quality: 0", None),
        ("Consistency: 25\nRealism: 1\nAesthetic Quality: 0", None),
        ("I cannot judge this picture.", None),
    ],
)
def test_marks_are_read_or_refused(text, marks):
    found = read_legacy(text)
    assert found == (
        None if marks is None else dict(zip(("consistency", "realism", "aesthetic_quality"), marks, strict=True))
    )


def test_the_binary_score():
    assert [read_verified(t) for t in ("1", "Score: 0", '{"score": 1}', "**Score**: 1 (of 1, as asked in rule 3)")] == [
        {"score": 1}, {"score": 0}, {"score": 1}, {"score": 1}]  # fmt: skip
    assert [read_verified(t) for t in ("2", "0 or 1", "none", "Score: 0.5", '{"mark": 1}', "true")] == [None] * 6


def test_the_judge_is_told_the_scripts_words_and_the_script_is_not_run(clone):
    system, text = ScriptWording(clone / "gpt_eval.py").messages({"Prompt": "a fruit", "Explanation": "an apple"})
    assert (system, text) == ("Be strict.", 'Marks for PROMPT: "a fruit" of "an apple".')
    (clone / "other.py").write_text("x = [1, 2]")
    with pytest.raises(SetupError, match="builds no list of messages"):
        ScriptWording(clone / "other.py").messages({})
    (clone / "other.py").write_bytes(b"what is this?\xff")
    with pytest.raises(SetupError, match="no Python script"):
        ScriptWording(clone / "other.py").messages({})


def test_names_say_who_judged_and_in_whose_words(clone):
    official = {"endpoint": {"model": "gpt-4o-2024-05-13"}}
    assert protocol("wise@legacy", clone, **official).name == "wise@legacy"
    assert protocol("wise@legacy", clone, endpoint={"model": "o/judge"}).name == "wise@legacy+o-judge"
    warm = {"endpoint": {"model": "gpt-4o-2024-05-13", "temperature": 0.7}}
    assert protocol("wise@legacy", clone, **warm).name == "wise@legacy+temperature0.7"
    (clone / "gpt_eval.py").unlink()
    assert protocol("wise@legacy", clone, **official).name == "wise@legacy+own-wording"


def test_the_papers_tier_is_the_own_judge_over_all_prompts(clone, monkeypatch):
    def tier(model, left_out=0):
        own = protocol("wise@legacy", clone, endpoint={"model": model})
        shown = [picture(clone, item) for item in own.prompts.items[left_out:]]
        marks = {"consistency": 2, "realism": 1, "aesthetic_quality": 2}
        return own.summarise(shown, {"answers": {one: {"answers": [[marks]], "raw": []} for one in shown}}).tier

    assert tier("gpt-4o-2024-05-13") == "standard", "of a part of the benchmark"
    monkeypatch.setattr("apex_cli.evaluation.wise.protocol.PROMPTS", sum(map(len, IDS.values())))
    assert tier("gpt-4o-2024-05-13") == "paper"
    assert tier("gpt-4o-2024-05-13", left_out=1) == tier("o/judge") == "standard"
    (clone / "gpt_eval.py").unlink()
    assert tier("gpt-4o-2024-05-13") == "standard"


@pytest.mark.parametrize(
    ("model", "thinking", "label", "sent"),
    [
        ("Qwen3.5-35B-A3B", None, "", False),
        ("Qwen/Qwen3.5-35B-A3B", None, "", False),
        ("Qwen3.5-35B-A3B", True, "+thinking", True),
        ("Qwen3.5-35B-A3B-AWQ", None, "+Qwen3.5-35B-A3B-AWQ", None),
        ("gpt-4o-2024-05-13", None, "+gpt-4o-2024-05-13", None),
    ],
)
def test_the_verified_judge_does_not_think_and_no_other_takes_its_name(clone, serve, model, thinking, label, sent):
    (clone / "data").rename(clone / "data_verified")
    for path in (clone / "data_verified").iterdir():
        path.rename(path.with_stem(f"{path.stem}_verified"))
    (clone / "gpt_eval.py").rename(clone / "vllm_eval.py")
    server = serve(lambda n, body: "Score: 1")
    own = protocol("wise@verified", clone, endpoint={"url": server.url, "model": model, "thinking": thinking})
    assert own.name == f"wise@verified{label}"
    (said,) = look(own.stages[0], [picture(clone, own.prompts.items[0])])
    assert said["answers"] == [[{"score": 1}]]
    assert server.requests[0].get("chat_template_kwargs") == (None if sent is None else {"enable_thinking": sent})


def test_needs_are_named(clone, tmp_path):
    here = {"model": "m", "url": "http://localhost/v1"}
    assert all(need.find() is not None for need in protocol("wise@legacy", clone, endpoint=here).needs)
    kind = registry.resolve("protocol", "wise@legacy")
    _, script, _ = kind(kind.Config(folder=clone, script=clone / "gone.py", judge={"endpoint": here})).needs
    assert script.find() is None and "wise@legacy.script=PATH" in script.remedy
    prompts, judge = protocol("wise@verified", clone).needs
    assert prompts.find() is None and judge.find() is None, "a clone of the legacy files alone"
    assert "wise@verified.judge.endpoint.model=NAME" in judge.remedy


def test_from_pictures_and_a_judge_to_a_report(clone, serve):
    """One answer never comes, one is never readable, one is readable the second time: all are told."""

    def script(number, body):
        prompt = int(re.search(r"thing (\d+)", str(body)).group(1))
        if prompt == 2:
            return 503
        if prompt == 401:
            return "what a lovely picture"
        seen = sum(f"thing {prompt}" in str(other) for other in server.requests)
        if prompt == 568 and seen == 1:
            return "hm"
        return f"Consistency: {2 if prompt < 800 else 1}\nRealism: 2\nAesthetic Quality: 2"

    server = serve(script)
    endpoint = {"url": server.url, "model": "gpt-4o-2024-05-13", "attempts": 2, "wait": 0.01, "timeout": 5}
    own = protocol("wise@legacy", clone, endpoint=endpoint, record=clone / "raw.jsonl")
    for item in own.prompts.items:
        Image.fromarray(np.full((8, 8, 3), int(item.id) % 256, np.uint8)).save(_made(clone) / f"{item.id}.png")
    job = Job(_made(clone), [own], PromptSet("wise", own.prompts.items, 1), EvalConfig(), clone / "out")
    made = list(run.evaluate(job))[-1].results["wise@legacy"]
    assert (made.status, made.found, made.expected) == ("partial", 5, 7)
    assert made.tasks["cultural"].score == 1 and made.tasks["space"].score == 1 and "time" not in made.tasks
    assert made.tasks["physics"].score == pytest.approx(0.65)
    assert made.value == pytest.approx((0.4 + 0.133 + 0.1 + 0.65 * 0.2) / (1 - 0.167))
    told = " ".join(made.notes)
    assert "2 images could not be judged" in told and "503" in told and "unreadable after 3 answers" in told
    assert "a set of 7 prompts, where WISE has 1,000" in told
    assert "no picture of time" in told and made.facts["tokens read"] > 0

    rows = (clone / "raw.jsonl").read_text().splitlines()
    assert sum("lovely" in row for row in rows) == 3, "every raw answer is on record"
    asked = len(server.requests)
    again = list(run.evaluate(job))[-1].results["wise@legacy"]
    assert again.value == made.value
    assert {m for b in server.requests[asked:] for m in re.findall(r"thing (\d+)", str(b))} == {"2", "401"}, (
        "the rest is kept"
    )

    replayed = protocol("wise@legacy", clone, answers=clone / "raw.jsonl", answers_by="gpt-4o-2024-05-13")
    job = Job(_made(clone), [replayed], PromptSet("wise", own.prompts.items, 1), EvalConfig(), clone / "replay")
    assert list(run.evaluate(job))[-1].results["wise@legacy"].value == made.value


def _made(clone):
    (clone / "made").mkdir(exist_ok=True)
    return clone / "made"


def test_a_prompt_of_no_category_and_a_file_of_another_kind(clone):
    path = clone / "data" / "natural_science.json"
    path.write_text('[{"prompt_id": 1001, "Prompt": "x", "Explanation": "y"}]')
    with pytest.raises(DataError, match="prompt 1001 is of no category"):
        _ = protocol("wise@legacy", clone).prompts
    path.write_text(json.dumps([{"prompt_id": 701, "Prompt": text, "Explanation": "y"} for text in "xz"]))
    with pytest.raises(DataError, match="1 prompts are there twice, the first: 701"):
        _ = protocol("wise@legacy", clone).prompts
    for wrong in ('[{"prompt": "x"}]', '[{"prompt_id": "one", "Prompt": "x", "Explanation": "y"}]'):
        path.write_text(wrong)
        with pytest.raises(DataError, match=r"natural_science.json', entry 1: this is no file of WISE's prompts"):
            _ = protocol("wise@legacy", clone).prompts


def test_verified_counts_right_and_wrong(clone):
    own = protocol("wise@verified", clone, endpoint={"model": "m"})
    items = protocol("wise@legacy", clone).prompts.items
    shown = [picture(clone, item) for item in items[:2]]
    said = [{"answers": [[{"score": s}]], "raw": []} for s in (1, 0)]
    made = own.summarise(shown, {"answers": dict(zip(shown, said, strict=True))})
    assert made.tasks["cultural"].score == 0.5 and [r.correct for r in made.records] == [True, False]
    assert made.records[1].reason == "the judge took marks off for score"
