"""`apex train` with bad input: one clear sentence, the remedy, the documented exit code, and nothing is lost."""

from __future__ import annotations

import json
import shutil

import pytest
import tomli_w
from filelock import FileLock
from tiny_runs import LORA, TINY, apex, metrics, train, write_recipe

from apex_cli import build
from apex_cli.worlds.shapes.questions import ANSWERS

SHORT = LORA | {"steps": 1}
READING = {"name": "reading", "answers": ANSWERS}


def told(capsys) -> str:
    """What stands on stderr, which must be a message and its remedy and nothing else."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "bug of apex" not in err
    assert err.count("\n-> ") == 1
    return err


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"stpes": 3}}, ["train.stpes: unknown key", "Did you mean 'steps'?"]),
        ({"train": {"steps": "many"}}, ["train.steps: needs a whole number", '"many"']),
        ({"train": {"lr": -1.0}}, ["train.lr", "greater than 0"]),
        ({"objective": {"name": "apx"}}, ["there is no objective called", "Did you mean 'apex'?"]),
        ({"backbone": {"name": "flx"}}, ["there is no backbone called"]),
        ({"sample": {"nfe": 0}}, ["sample.nfe", "greater than or equal to 1"]),
        ({"sample": {"nfe": 3, "guidance": 2.0}}, ["set nfe = 2"]),
        (
            {"train": LORA | {"text_encoder": True}},
            ["adapters of the transformer alone", "text_encoder = false"],
        ),
        ({"extra": {"a": 1}}, ["extra: unknown section"]),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_mistakes_in_a_recipe(tmp_path, capsys, sections, words):
    recipe = write_recipe(tmp_path / "run.toml", **sections)
    assert apex("train", recipe, "--out", tmp_path / "run") == 2
    err = told(capsys)
    for word in words:
        assert word in err
    assert f"{recipe}:" in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("argv", "code", "words"),
    [
        (["nowhere.toml"], 2, "There is no recipe file 'nowhere.toml'."),
        (["shapes_teachr"], 2, "Did you mean 'shapes_teacher'?"),
        (["run.toml", "--set", "train.lr"], 2, "write section.key=value"),
        (["run.toml", "--set", "sample.nfe=0"], 2, "sample.nfe"),
        (["run.toml", "--set", "backbone.path=nowhere"], 4, "The model folder 'nowhere' does not exist."),
        (["run.toml", "--out", "file"], 7, "a file is in the way"),
        (["run.toml", "--out", "file/run"], 7, "a file is in the way"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path, capsys, monkeypatch, argv, code, words):
    monkeypatch.chdir(tmp_path)
    write_recipe(tmp_path / "run.toml")
    (tmp_path / "file").write_text("mine")
    assert apex("train", *argv) == code
    assert words in told(capsys)
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("made", [None, "runs", "runs/modes_2d_teacher"])
@pytest.mark.parametrize("flags", [[], ["--plan"]])
def test_a_recipe_that_starts_from_another_one(made, flags, tmp_path, capsys, monkeypatch):
    """With no folder its `path` looks like a hub id, with an empty one like a broken pipeline."""
    monkeypatch.chdir(tmp_path)
    if made:
        (tmp_path / made).mkdir(parents=True)
    assert apex("train", "modes_2d", *flags) == 4
    err = told(capsys)
    assert "'runs/modes_2d_teacher' is not trained yet." in err
    assert "Train it first: apex train modes_2d_teacher" in err


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        (
            {"objective": READING | {"answers": [2, 3]}},
            ["does not fit the questions of 'shapes'", "[9, 11, 5, 9, 11, 5]"],
        ),
        ({"objective": READING, "train": SHORT}, ["trains the whole text_encoder", 'train.tuning = "full"']),
        ({"objective": {"name": "reconstruction"}, "train": SHORT}, ["trains the whole autoencoder"]),
        ({"backbone": {"name": "mlp"}, "data": {"name": "modes"}, "train": SHORT}, ["has no LoRA"]),
    ],
    ids=["questions", "reading", "reconstruction", "modes"],
)
def test_parts_that_do_not_fit_together(tmp_path, capsys, sections, words):
    recipe = tmp_path / "run.toml"
    tables = {"objective": {"name": "fm"}, "backbone": {"name": "sana", "tiny": TINY, "max_tokens": 64}}
    recipe.write_text(tomli_w.dumps(tables | {"data": {"name": "shapes"}, "train": {"steps": 1}} | sections))
    assert apex("train", recipe, "--out", tmp_path / "run") == 2
    err = told(capsys)
    for word in words:
        assert word in err


def test_errors_as_json(tmp_path, capsys):
    assert apex("train", tmp_path / "nowhere.toml", "--json") == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["error"]["exit_code"] == 2
    assert err == ""


def test_a_folder_in_use(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "run.toml")
    (tmp_path / "run").mkdir()
    with FileLock(tmp_path / "run" / ".lock"):
        assert apex("train", recipe, "--out", tmp_path / "run") == 7
    assert "Another process is training in" in told(capsys)


def test_a_folder_of_another_recipe(once, capsys):
    run = once("plain")
    capsys.readouterr()
    assert apex("train", run.with_suffix(".toml"), "--out", run, "--set", "train.lr=1e-4") == 2
    assert "holds a run of another recipe" in told(capsys)


def test_a_damaged_checkpoint_is_not_passed_over(tmp_path, capsys):
    run = train(tmp_path / "run")
    file = run / "step-000004" / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    capsys.readouterr()
    assert apex("train", tmp_path / "run.toml", "--out", run) == 8
    assert "model/transformer/diffusion_pytorch_model.safetensors" in told(capsys)


@pytest.mark.parametrize("name", ["diffusion_pytorch_model.bin", "weights.pt"])
def test_a_model_folder_with_a_pickle(once, tmp_path, capsys, name):
    pipeline = tmp_path / "pipeline"
    assert apex("ckpt", "export", once("plain"), pipeline) == 0
    for file in ("contract.json", "manifest.json"):
        (pipeline / file).unlink()  # as any folder of stock diffusers
    (pipeline / "transformer" / name).write_bytes(b"\x80\x04")
    recipe = write_recipe(tmp_path / "run.toml", backbone={"path": str(pipeline)})
    capsys.readouterr()
    assert apex("train", recipe, "--out", tmp_path / "run") == 8
    assert f"{name}' is a pickle and will not be opened" in told(capsys)


def test_a_run_says_where_it_stands(tmp_path, capsys, monkeypatch):
    """Cut off, it says where it continues; complete, it says so, and loads nothing to find that out."""
    recipe, run = write_recipe(tmp_path / "run.toml"), tmp_path / "run"
    assert apex("train", recipe, "--out", run) == 0
    err = capsys.readouterr().err
    assert "Continues" not in err
    assert "complete" not in err
    shutil.rmtree(run / "step-000004")
    assert apex("train", recipe, "--out", run) == 0
    assert "Continues at step 2 of 4." in capsys.readouterr().err
    monkeypatch.setattr(build, "job", None)
    assert apex("train", recipe, "--out", run, "--json") == 0
    out, err = capsys.readouterr()
    assert "Already complete: 4 steps." in err
    assert json.loads(out)["loss"] == metrics(run)[-1]["loss"]


def test_results_and_progress(tmp_path, capsys):
    recipe = write_recipe(tmp_path / "run.toml", train={"steps": 2})
    assert apex("train", recipe, "--out", tmp_path / "run", "--json") == 0
    out, err = capsys.readouterr()
    result = json.loads(out)
    assert result["run"] == str(tmp_path / "run")
    assert result["step"] == 2
    assert "step 1/2 · loss" in err
    assert "step 2/2 · loss" in err
    assert "shards" not in err  # no bars of the libraries


def test_a_run_may_go_on_computing_in_another_way(tmp_path, capsys):
    """What does not change the result may change; the rest is named."""
    run = train(tmp_path / "run", train={"steps": 2})
    shown = {"sample_every": 1, "sample_prompts": ["a green star"], "sample_seeds": 3, "telemetry_every": 1}
    file = write_recipe(tmp_path / "run.toml", train={"steps": 2, "sharding": "fsdp", "gradient_checkpointing": 1.0,
                                                      "micro_batch": 2, "keep": 5} | shown)  # fmt: skip
    assert apex("train", file, "--out", run) == 0
    assert "gradient_checkpointing = 1.0" in (run / "recipe.toml").read_text()
    capsys.readouterr()
    assert apex("train", file, "--out", run, "--set", "train.lr=1e-4", "--set", "train.ema=0.5") == 2
    assert "train.ema, train.lr differs" in told(capsys)


SHIFTING = {"kind": "mixture", "parts": [{"kind": "point"}, {"kind": "uniform"}], "weights": [1, 1],
            "weights_at_end": [0, 1]}  # fmt: skip


@pytest.mark.parametrize(
    ("sections", "steps"),
    [
        ({"train": {"schedule": "cosine", "steps": 2}}, 3),
        ({"objective": {"name": "fm", "times": SHIFTING}, "train": {"steps": 2}}, 3),
        ({"train": {"steps": 2}}, 1),
    ],
    ids=["schedule", "times", "fewer"],
)
def test_a_run_that_knows_its_end_keeps_it(tmp_path, capsys, sections, steps):
    run = train(tmp_path / "run", **sections)
    capsys.readouterr()
    assert apex("train", tmp_path / "run.toml", "--out", run, "--set", f"train.steps={steps}") == 2
    assert "train.steps differs" in told(capsys)


@pytest.mark.parametrize(("shares", "code"), [("[1.0]", 0), ("[1.0, 0.5]", 2), ("true", 2), ("1.5", 2)])
def test_shares_of_gradient_checkpointing(tmp_path, capsys, shares, code):
    file = write_recipe(tmp_path / "run.toml", train={"steps": 1})
    assert apex("train", file, "--out", tmp_path / "run", "--set", f"train.gradient_checkpointing={shares}") == code
    if code:
        assert "train.gradient_checkpointing" in told(capsys)
