"""The same command continues a run, and the end is the same to the last bit however often it was cut off."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from tiny_runs import APEX, LORA, apex, manifest, metrics, train, write_recipe

from apex_cli.records import Metrics
from apex_cli.worlds.shapes.questions import ANSWERS

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {"steps": 8, "save_every": 3, "warmup": 2}
RUNS = {
    "teacher": {
        "objective": {"name": "fm", "caption_dropout": 0.3},
        "train": TRAIN | {"text_encoder": True, "ema": 0.9, "micro_batch": 3, "schedule": "cosine"},
    },
    "full": {"objective": APEX | {"real": "self"}, "train": TRAIN | {"schedule": "linear"}},
    "average": {"objective": APEX | {"real": "ema"}, "train": TRAIN | {"ema": 0.5}},
    "lora": {
        "objective": APEX | {"condition_shift": {"kind": "low_rank", "learned": True, "rank": 2}},
        "train": TRAIN | LORA | {"ema": 0.9, "micro_batch": 5},
    },
    "autoencoder": {"objective": {"name": "reconstruction"}, "train": TRAIN | {"precision": "bf16", "ema": 0.9}},
    "reader": {"objective": {"name": "reading", "answers": ANSWERS}, "train": TRAIN},
}
"""What a run may keep: averages, accumulation, a trained text encoder, adapters, learned tensors of the objective."""


def power_cut() -> None:
    raise RuntimeError("power cut")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


CUTS = {1: power_cut, 2: stop, 4: power_cut, 5: stop, 7: power_cut}
"""What happens as each of these steps is written down, the first time."""


@pytest.fixture
def cut_off(monkeypatch):
    """`cut_off({step: action})`: the action happens when the record of that step is written, once."""

    def install(cuts: dict[int, Callable[[], None]]) -> None:
        left, append = dict(cuts), Metrics.append

        def appended(self, record):
            append(self, record)
            left.pop(record.step, lambda: None)()

        monkeypatch.setattr(Metrics, "append", appended)

    return install


@pytest.mark.parametrize("name", RUNS)
def test_a_run_cut_off_anywhere_ends_the_same(name, tmp_path, cut_off):
    whole = train(tmp_path / name, **RUNS[name])
    recipe, run = tmp_path / f"{name}.toml", tmp_path / "again"
    cut_off(CUTS)
    codes = [apex("train", recipe, "--out", run) for _ in CUTS]
    assert codes == [{power_cut: 1, stop: 143}[cut] for cut in CUTS.values()]
    assert apex("train", recipe, "--out", run) == 0
    assert manifest(run, 8) == manifest(whole, 8)
    assert any(file.startswith("state/optimizer") for file in manifest(run, 8))
    records = [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in metrics(run)]
    assert records == [(r["step"], r["loss"], r["grad_norm"], r["lr"]) for r in metrics(whole)]


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_run_has_saved(tmp_path, capsys, cut_off, number, code):
    recipe, run = write_recipe(tmp_path / "run.toml", train={"save_every": 100}), tmp_path / "run"
    cut_off({2: lambda: os.kill(os.getpid(), number)})
    before = signal.getsignal(number)
    assert apex("train", recipe, "--out", run) == code
    assert "Stopped at step 2; everything is saved.\n-> Run the same command." in capsys.readouterr().err
    assert (run / "step-000002" / "manifest.json").is_file()
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_aborts(tmp_path, capsys, cut_off):
    """The first one answers at once, though the step may take a minute."""
    recipe, run = write_recipe(tmp_path / "run.toml", train={"save_every": 100}), tmp_path / "run"

    def twice() -> None:
        os.kill(os.getpid(), signal.SIGINT)
        assert "Saving after this step. Press Ctrl-C again to abort at once." in capsys.readouterr().err
        os.kill(os.getpid(), signal.SIGINT)

    cut_off({2: twice})
    of_the_worker = signal.signal(signal.SIGINT, signal.default_int_handler)  # pytest-xdist's ignores Ctrl-C
    try:
        assert apex("train", recipe, "--out", run) == 130
        assert signal.getsignal(signal.SIGINT) == signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, of_the_worker)
    assert "Interrupted." in capsys.readouterr().err
    assert not list(run.glob("step-*"))


def test_a_second_sigterm_does_not(tmp_path, capsys, cut_off):
    """Launchers send it to every process of a group, and again."""
    recipe, run = write_recipe(tmp_path / "run.toml", train={"save_every": 100}), tmp_path / "run"
    cut_off({2: lambda: [stop(), stop()]})
    assert apex("train", recipe, "--out", run) == 143
    assert (run / "step-000002" / "manifest.json").is_file()


@pytest.mark.parametrize("name", ["teacher", "average", "lora"])
def test_a_run_may_be_given_more_steps(name, tmp_path):
    """It ends as one that was given them at once; what it shows of itself may change on the way."""
    sections = RUNS[name] | {"train": RUNS[name]["train"] | {"schedule": "constant"}}
    whole = train(tmp_path / name, **sections)
    recipe, run = tmp_path / f"{name}.toml", tmp_path / "again"
    other = ["sample_every=2", "sample_seeds=2", "telemetry_every=2", 'sample_prompts=["two stars"]']
    first = [word for value in ("steps=3", *other) for word in ("--set", f"train.{value}")]
    assert apex("train", recipe, "--out", run, *first) == 0
    assert apex("train", recipe, "--out", run) == 0
    assert manifest(run, 8) == manifest(whole, 8)


def test_a_signal_while_encoding(tmp_path, capsys, monkeypatch):
    from apex_cli.backbones.sana import Sana

    encode = Sana.encode_images
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(Sana, "encode_images", lambda self, pixels: (stop(), encode(self, pixels))[1])
    recipe = write_recipe(tmp_path / "run.toml", data={"name": "shapes", "size": 200})
    assert apex("train", recipe, "--out", tmp_path / "run") == 143
    assert "Stopped before the first step" in capsys.readouterr().err


def test_a_finished_run_stays_as_it_is(once, capsys):
    run = once("finished")
    before = {path: path.stat().st_mtime_ns for path in run.glob("step-*/**/*")}
    assert apex("train", run.with_suffix(".toml"), "--out", run) == 0
    assert {path: path.stat().st_mtime_ns for path in run.glob("step-*/**/*")} == before
    assert [record["step"] for record in metrics(run)] == [1, 2, 3, 4]


def pictures(folder: Path, *names: str) -> None:
    folder.mkdir(exist_ok=True)
    for number, name in enumerate(names):
        Image.new("RGB", (64, 64), (40 * number, 90, 90)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a red cube")


def test_a_run_goes_on_only_over_the_data_it_began_with(tmp_path, capsys):
    """One more picture would put another one in the place of most of those that were still to come."""
    pictures(tmp_path / "pictures", *"abcde")
    recipe, run = write_recipe(tmp_path / "run.toml"), tmp_path / "run"
    command = ["train", recipe, "--out", run, "--set", f'data={{ name = "folder", path = "{tmp_path / "pictures"}" }}']
    assert apex(*command) == 0
    shutil.rmtree(run / "step-000004")
    pictures(tmp_path / "pictures", *"abcdef")
    assert apex(*command) == 2
    assert f"The data set is not the one that '{run}' saw up to step 2" in capsys.readouterr().err
    for ending in ("png", "txt"):
        (tmp_path / "pictures" / f"f.{ending}").unlink()
    assert apex(*command) == 0


def test_half_a_line_of_metrics_is_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    Metrics(path, step=2)
    assert path.read_text() == '{"step": 1}\n{"step": 2}\n'
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_sigkill_at_random_moments(tmp_path):
    script = [ROOT / "scripts" / "reproduce-kill-resume", "--kills", "2", "--steps", "12", "--out", tmp_path]
    done = subprocess.run([sys.executable, *script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "bit-identical" in done.stdout
