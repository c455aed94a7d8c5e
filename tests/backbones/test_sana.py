"""SANA against the stock pipeline that it wraps."""

from __future__ import annotations

import inspect

import pytest
import torch

from apex_cli.backbones import folders
from apex_cli.backbones.sana import SanaConfig
from apex_cli.errors import CheckpointError, SetupError

PROMPTS = ["a red cube", "a photo of two blue spheres and a green star"]


@pytest.mark.parametrize("instruction", [False, True])
@torch.no_grad()
def test_prompts_are_encoded_as_the_stock_pipeline_does(sana, instruction):
    sana = sana.with_config(sana.config.model_copy(update={"instruction": instruction}))
    parameters = inspect.signature(type(sana.pipeline).__call__).parameters
    text = parameters["complex_human_instruction"].default if instruction else None
    tokens, mask, *_ = sana.pipeline.encode_prompt(
        PROMPTS, do_classifier_free_guidance=False, max_sequence_length=64, complex_human_instruction=text
    )
    cond = sana.encode_prompts(PROMPTS)
    for i in range(len(PROMPTS)):
        assert cond.mask[i].sum() == mask[i].sum()
        torch.testing.assert_close(cond.tokens[i][cond.mask[i]], tokens[i][mask[i].bool()], atol=1e-5, rtol=1e-5)


def test_a_long_prompt_is_cut_where_the_stock_pipeline_cuts(sana):
    assert sana.encode_prompts(["a red cube and " * 40]).mask.sum() == sana.config.max_tokens


def test_a_pickle_is_refused(sana, tmp_path):
    sana.save(tmp_path)
    (tmp_path / "transformer" / "diffusion_pytorch_model.bin").write_bytes(b"\x80\x04")
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.bin' is a pickle"):
        folders.load(str(tmp_path), "SanaPipeline")


def test_a_truncated_file_is_named(sana, tmp_path):
    sana.save(tmp_path)
    file = tmp_path / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    with pytest.raises(CheckpointError, match="could not be read"):
        folders.load(str(tmp_path), "SanaPipeline")


def test_a_folder_of_something_else(tmp_path):
    with pytest.raises(SetupError, match="no model_index"):
        folders.load(str(tmp_path), "SanaPipeline")
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(SetupError, match="is a FluxPipeline"):
        folders.load(str(tmp_path), "SanaPipeline")
    with pytest.raises(SetupError, match="does not exist"):
        folders.locate(SanaConfig(path="./nowhere").path)
