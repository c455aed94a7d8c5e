"""The shipped recipes: each can be read and says what it takes; one whose model is missing says so in a sentence."""

from __future__ import annotations

import pytest
from huggingface_hub import constants
from PIL import Image
from tiny_runs import apex, own_cache  # noqa: F401

from apex_cli import recipe
from apex_cli.backbones.folders import ASSETS
from apex_cli.objectives.apex import Apex

NAMES = recipe.recipe_names("train")


def hub_id(name: str) -> str | None:
    """The hub model that a recipe starts from."""
    path = getattr(recipe.load(name).backbone.config, "path", None)
    return path if path and not path.startswith(("assets:", "runs/")) else None


def reads_pictures(read: recipe.Recipe) -> bool:
    return Apex(read.objective.config, cond_dim=1).needs.images


HUB = [name for name in NAMES if hub_id(name)]


@pytest.mark.parametrize("name", NAMES)
def test_it_is_read_and_its_start_exists(name):
    read = recipe.load(name)
    assert read.name == name
    for path in (getattr(read.backbone.config, "path", None) or "", read.train.init_from or ""):
        if path.startswith("assets:"):
            assert (ASSETS / path.removeprefix("assets:")).is_dir()
        if path.startswith("runs/"):
            assert path.removeprefix("runs/") in NAMES


@pytest.mark.parametrize("name", recipe.recipe_names())
def test_it_is_the_same_when_written_and_read_again(name, tmp_path):
    load = recipe.load if name in NAMES else recipe.load_synth
    read, file = load(name), tmp_path / "again.toml"
    file.write_text(read.to_toml())
    assert load(str(file)) == read


@pytest.mark.parametrize("name", NAMES)
def test_its_header_says_what_it_takes(name):
    title, *lines = recipe.header(recipe.recipe_folder() / f"{name}.toml")
    assert title.endswith(".")
    told = {line.split()[0] for line in lines if line}
    assert {"Hardware", "Ours"} | ({"Command", "Hours", "Paper"} if name in HUB else set()) <= told


@pytest.mark.parametrize("name", HUB)
def test_a_large_model_is_trained_as_the_paper_trains(name):
    read = recipe.load(name)
    assert read.train.batch == 64
    assert read.train.precision == "bf16"
    assert read.backbone.config.resolution == 512
    assert read.data.name == ("folder" if reads_pictures(read) else "prompts")
    assert (read.objective.config.condition_shift.a, read.objective.config.condition_shift.b) == (-0.5, 1.0)
    if read.train.tuning == "lora":
        assert read.train.lora.alpha == read.train.lora.rank == int(name.rpartition("_r")[2])


@pytest.mark.parametrize(("name", "flag"), [("qwen_lora_r64", []), *((name, ["--plan"]) for name in HUB)])
def test_a_hub_model_that_is_not_here(name, flag, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a black square")
    (tmp_path / "prompts.txt").write_text("a black square")
    monkeypatch.chdir(tmp_path)
    pictures = ["--set", "data.path='.'"] if reads_pictures(recipe.load(name)) else []
    assert apex("train", name, *pictures, "--out", tmp_path / "run", *flag) == 4
    err = capsys.readouterr().err.replace(f"Run folder: {tmp_path / 'run'}\n", "")
    assert hub_id(name) in err
    assert "Traceback" not in err
    message, remedy = err.strip().split("\n-> ")
    assert "\n" not in message
    assert remedy


@pytest.mark.parametrize("name", recipe.recipe_names("synth-data"))
def test_a_recipe_of_a_training_set(name):
    read = recipe.load_synth(name)
    assert (read.name, read.sample.sampler) == (name, "euler")
    title, *lines = recipe.header(recipe.recipe_folder() / f"{name}.toml")
    assert title.endswith(".")
    assert {"Command", "Hardware", "Ours"} <= {line.split()[0] for line in lines if line}


def test_qwen_image_draws_as_its_pipeline_does():
    read = recipe.load_synth("synth_qwen_image")
    assert len(read.sample.grid()) == 51
    assert (read.sample.guidance, read.sample.guidance_rescale, read.sample.negative_prompt) == (4, "patch", " ")
    assert read.backbone.config.resolution == 512
    assert {source.limit for source in read.prompts.sources} == {600_000, 200_000}


@pytest.mark.parametrize("name", ["qwen_lora_r32", "qwen_lora_r64"])
def test_v_real_of_qwen_image_is_guided_as_it_is_drawn(name):
    objective, drawn = recipe.load(name).objective.config, recipe.load_synth("synth_qwen_image").sample
    assert (objective.guidance, objective.guidance_rescale) == (drawn.guidance, drawn.guidance_rescale)


def test_a_recipe_may_list_the_values_of_a_condition_shift():
    """They stand below a section that fills in its defaults first, where a strict list would fill no tuple."""
    shift = "objective.condition_shift"
    flags = [f'{shift}.kind="diagonal"', f"{shift}.a=[1, -0.5]", f"{shift}.pooled_b=[0.5]"]
    read = recipe.load("shapes_full", flags).objective.config.condition_shift
    assert (read.a, read.b, read.pooled_b) == ((1.0, -0.5), 1.0, (0.5,))
