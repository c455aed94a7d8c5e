"""A judge that runs here: a tiny random BLIP, against the library's own generation."""

from __future__ import annotations

import pytest
from PIL import Image
from tiny_judges import blip, clip, picture

from apex_cli.errors import SetupError
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.judges.base import Query
from apex_cli.evaluation.judges.choice import JudgeConfig, choose
from apex_cli.evaluation.judges.local import Local
from apex_cli.evaluation.judges.official import Official


def test_blip_answers_as_it_does_in_the_library(tmp_path):
    from transformers import BlipForQuestionAnswering, BlipProcessor

    folder = blip(tmp_path / "blip")
    judge = Local(folder, max_tokens=6)
    judge.open()
    queries = [
        Query(picture(tmp_path, Item("1", "", ""), k), text) for k, text in enumerate(("is it a cat?", "a dog?"))
    ]
    model, processor = BlipForQuestionAnswering.from_pretrained(folder).eval(), BlipProcessor.from_pretrained(folder)
    for query, answer in judge.ask(queries):
        inputs = processor(images=Image.open(query.picture.path), text=query.text, return_tensors="pt")
        written = model.generate(**inputs, max_new_tokens=6, do_sample=False)
        expected = processor.batch_decode(written, skip_special_tokens=True)[0].strip()
        assert answer.text == expected and bool(answer.error) == (not expected)
        assert answer.tokens[0] == inputs["input_ids"].shape[1]
    assert judge.name == "blip" and judge.identity["weights"]


def test_a_picture_that_cannot_be_decoded_is_an_error_of_its_answer(tmp_path):
    judge = choose(JudgeConfig(local=blip(tmp_path / "blip"), local_max_tokens=7), Official(("blip-vqa",)))
    assert isinstance(judge, Local) and judge.max_tokens == judge.identity["max_tokens"] == 7
    judge.open()
    one = picture(tmp_path, Item("1", "", ""))
    one.path.write_bytes(one.path.read_bytes()[:60])
    ((_, answer),) = judge.ask([Query(one, "is it a cat?")])
    assert "cannot be decoded" in answer.error


def test_a_folder_that_is_no_judge(tmp_path):
    with pytest.raises(SetupError, match="could not be read"):
        Local(clip(tmp_path), max_tokens=6).open()
