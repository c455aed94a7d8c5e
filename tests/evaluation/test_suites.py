"""Several suites over the same images, suites that are skipped, images of other people, and the exit codes of each."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import meters
import pytest
from PIL import Image

from apex_cli import app, build
from apex_cli.commands import _ui
from apex_cli.errors import SetupError
from apex_cli.evaluation.jobs import Source, group
from apex_cli.evaluation.painters import Checkpoint
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.shapes import Shapes
from apex_cli.generation import SampleConfig
from apex_cli.registry import TABLE


class Twin(Shapes):
    name = "twin"


FEW = ["--prompts", "6", "--n", "2", "--out", "e"]


@pytest.fixture(autouse=True)
def registered(tmp_path, monkeypatch, oracle):
    _ui.stdout.cache_clear()
    _ui.stderr.cache_clear()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(meters.Mean, "broken", "")
    for name in ("Brightness", "Lacking"):
        monkeypatch.setitem(TABLE["protocol"], name.lower(), f"meters:{name}")
    monkeypatch.setitem(TABLE["protocol"], "twin", f"{__name__}:Twin")

    def load_model(path: str) -> build.Model:
        return build.Model(oracle(shift=path == "wrong").backbone, SampleConfig(), {}, Path(f"{path}/step-000010"))

    monkeypatch.setattr(build.models, "load_model", load_model)
    monkeypatch.setattr("apex_cli.build.evaluation.checkpoint_of", lambda place, verified: Path(place))


def run(capsys, *argv: str, code: int = 0) -> dict:
    assert app.main(["eval", *FEW, *argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_two_suites_share_the_images(capsys):
    (one,) = run(capsys, "--suite", "shapes,brightness", "--set", "brightness.scale=2")["evaluations"]
    assert one["found"] == 12
    assert one["results"]["shapes"]["value"] == 1
    assert 200 < one["results"]["brightness"]["value"] < 400
    assert one["results"]["brightness"]["found"] == 12
    assert len(list(Path(one["folder"]).glob("observations/*"))) == 3


def test_a_second_suite_draws_nothing_anew(capsys, monkeypatch):
    run(capsys)
    drawn = sorted(path.stat().st_mtime_ns for path in Path("e").rglob("*.png"))
    run(capsys, "--suite", "shapes,brightness")
    assert sorted(path.stat().st_mtime_ns for path in Path("e").rglob("*.png")) == drawn


def test_a_missing_file_skips_its_suite_and_no_other(capsys):
    (one,) = run(capsys, "--suite", "lacking,shapes")["evaluations"]
    assert one["results"]["shapes"]["status"] == "scored"
    skipped = one["results"]["lacking"]
    assert (skipped["status"], skipped["value"]) == ("skipped", None)
    assert skipped["reason"] == "needs weights-inception-2015-12-05.pth (91 MB)"
    assert app.main(["eval", *FEW, "--suite", "shapes,lacking"]) == 0
    assert "skipped: needs weights-inception-2015-12-05.pth (91 MB); get it with: apex eval prep" in (
        " ".join(capsys.readouterr().out.split())
    )


def test_all_skipped_is_3_and_required_is_4(capsys):
    document = run(capsys, "--suite", "lacking", code=3)
    assert document["evaluations"][0]["results"]["lacking"]["status"] == "skipped"
    assert run(capsys, "--suite", "shapes,lacking", "--require", "lacking", code=4)["required_but_skipped"] == [
        "lacking"
    ]
    assert app.main(["eval", *FEW, "--suite", "lacking", "--offline"]) == 3
    assert "Every suite was skipped" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["lacking@one", "lack", " lack", "lacking@one,shapes"])
def test_a_suite_is_required_by_any_of_its_names(name, capsys, monkeypatch):
    monkeypatch.setitem(TABLE["protocol"], "lack", "meters:Lacking")
    monkeypatch.setattr(meters.Lacking, "name", "lacking@one")
    document = run(capsys, "--suite", "shapes,lack", "--require", name, code=4)
    assert document["required_but_skipped"] == ["lacking@one"]


@pytest.mark.parametrize(("kind", "step"), [(meters.Mean, "open"), (meters.Brightness, "summarise")])
def test_a_suite_that_gives_up_leaves_the_others_alone(kind, step, capsys, monkeypatch):
    def give_up(*_):
        raise SetupError("The meter is broken.", "Mend it.")

    monkeypatch.setattr(kind, step, give_up)
    document = run(capsys, "--suite", "shapes,brightness", code=4)
    (one,) = document["evaluations"]
    assert one["results"]["shapes"]["status"] == "scored"
    row = one["results"]["brightness"]
    assert (row["status"], row["reason"], row["remedy"]) == ("skipped", "The meter is broken", "Mend it.")
    assert document["failed"] == ["brightness"]


def test_what_was_judged_before_a_suite_gave_up_is_a_partial_result(capsys, monkeypatch):
    looked, observe = [], meters.Mean.observe

    def once(self, pictures, prepared, before):
        looked.append(pictures)
        if len(looked) > 1:
            raise SetupError("The judge has gone.", "Call it back.")
        return observe(self, pictures, prepared, before)

    monkeypatch.setattr(meters.Mean, "observe", once)
    (one,) = run(capsys, "--suite", "brightness,shapes", code=4)["evaluations"]
    result = one["results"]["brightness"]
    assert (result["status"], result["found"], result["expected"]) == ("partial", meters.Mean.batch, 12)
    assert "8 images could not be judged" in result["notes"][0] and "The judge has gone." in result["notes"][0]
    assert one["results"]["shapes"]["status"] == "scored"
    monkeypatch.setattr(meters.Mean, "observe", observe)
    (again,) = run(capsys, "--suite", "brightness,shapes")["evaluations"]
    assert again["results"]["brightness"]["status"] == "scored"


def test_a_worker_whose_suite_gives_up_says_so_and_nobody_reports_without_it(capsys, monkeypatch):
    def give_up(*_):
        raise SetupError("The meter is broken.", "Mend it.")

    both = ["eval", *FEW, "--batch", "4", "--suite", "shapes,brightness"]
    with monkeypatch.context() as broken:
        broken.setattr(meters.Mean, "open", give_up)
        assert app.main([*both, "--shard", "1/2"]) == 4
    assert "The meter is broken." in capsys.readouterr().err
    assert app.main([*both, "--shard", "2/2"]) == 0
    assert "This worker is done" in capsys.readouterr().err
    assert not list(Path("e").rglob("report.json"))
    (one,) = run(capsys, "--batch", "4", "--suite", "shapes,brightness", "--shard", "1/2")["evaluations"]
    assert {result["status"] for result in one["results"].values()} == {"scored"}


def test_a_suite_that_one_side_lacks_is_not_compared(capsys, monkeypatch):
    (first,) = run(capsys, "--suite", "shapes,twin")["evaluations"]
    with monkeypatch.context() as broken:
        broken.setattr(Twin, "needs", (meters.Weights(),))
        document = run(capsys, "--suite", "shapes,twin", "--compare", "wrong")
        assert [one["protocol"] for one in document["comparisons"]] == ["shapes"]
        assert document["evaluations"][0]["results"]["twin"]["status"] == "skipped"
    assert not list(Path(first["folder"]).glob("twin.*"))


def test_offline_asks_no_network(capsys, monkeypatch):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.delenv("HF_HUB_OFFLINE")
    run(capsys, "--suite", "shapes,lacking", "--offline")
    assert os.environ["HF_HUB_OFFLINE"] == "1"


def test_images_of_other_people(capsys):
    drawn = run(capsys)["evaluations"][0]
    images = str(Path(drawn["folder"]) / "images")
    theirs = run(capsys, "--images", images, "--suite", "shapes,brightness")["evaluations"][0]
    assert theirs["results"]["shapes"]["tasks"] == drawn["results"]["shapes"]["tasks"]
    alone = run(capsys, "--images", images, "--suite", "brightness")["evaluations"][0]
    assert alone["results"]["brightness"]["value"] == theirs["results"]["brightness"]["value"]
    assert alone["setting"]["prompts"] == 6


def test_a_relative_folder_of_images_and_its_failures(capsys):
    drawn = run(capsys, "--ckpt", "wrong")["evaluations"][0]
    theirs = run(capsys, "--images", f"{drawn['folder']}/images")["evaluations"][0]
    assert theirs["results"]["shapes"]["overall"]["score"] < 1
    assert "data:image/" in Path(theirs["gallery"]).read_text()


def test_results_of_other_suites_on_the_same_pictures_stay(capsys):
    (both,) = run(capsys, "--suite", "shapes,brightness")["evaluations"]
    (one,) = run(capsys, "--suite", "shapes")["evaluations"]
    assert list(one["results"]) == ["shapes"]
    report = Path(one["folder"]) / "report.json"
    assert json.loads(report.read_text())["results"]["brightness"] == both["results"]["brightness"]
    for picture in report.parent.rglob("*.png"):
        Image.new("RGB", (64, 64)).save(picture)
    run(capsys, "--suite", "shapes")
    assert list(json.loads(report.read_text())["results"]) == ["shapes"]


def test_folders_of_one_name_are_two_evaluations(capsys):
    images = Path(run(capsys)["evaluations"][0]["folder"]) / "images"
    for place in ("a", "b"):
        shutil.copytree(images, Path(place, "images"))
    run(capsys, "--images", "a/images", "--suite", "brightness")
    run(capsys, "--images", "./a/../a/images", "--suite", "brightness")
    assert app.main(["eval", *FEW, "--images", "b/images", "--suite", "brightness"]) == 2
    assert "holds another evaluation: it differs in source" in capsys.readouterr().err


def test_an_evaluation_is_not_compared_with_itself(capsys):
    images = str(Path(run(capsys)["evaluations"][0]["folder"]) / "images")
    own = run(capsys, "--images", images)["evaluations"][0]["folder"]
    assert app.main(["eval", *FEW, "--images", images, "--compare", own]) == 2
    assert "compared with itself" in capsys.readouterr().err
    document = run(capsys, "--ckpt", "perfect", "--nfe", "1", "--nfe", "2", "--compare", "perfect")
    assert len(document["comparisons"]) == 1, "of 2 NFE against the 1 of the model, not of 1 against itself"


def test_failed_judgements_are_reported_and_tried_again(capsys, monkeypatch):
    monkeypatch.setattr(meters.Mean, "broken", "0000")
    (first,) = run(capsys, "--suite", "shapes,brightness")["evaluations"]
    result = first["results"]["brightness"]
    assert result["status"] == "partial"
    assert result["found"] < result["expected"] == 12
    assert "no answer" in result["notes"][0]
    monkeypatch.setattr(meters.Mean, "broken", "")
    (again,) = run(capsys, "--suite", "shapes,brightness")["evaluations"]
    assert again["results"]["brightness"]["status"] == "scored"
    assert again["results"]["brightness"]["notes"] == []


def test_a_model_is_opened_only_where_something_is_to_be_observed(capsys):
    run(capsys, "--suite", "shapes,brightness")
    before = meters.Mean.opened
    run(capsys, "--suite", "shapes,brightness")
    assert meters.Mean.opened == before


@pytest.mark.parametrize(
    ("argv", "told"),
    [
        (["--suite", "brightness"], "no prompts to draw"),
        (["--suite", "shapes,fod"], "no protocol called 'fod'"),
        (["--set", "brightness.scale=2"], "not a suite of this evaluation"),
        (["--suite", "shapes,brightness", "--set", "brightness.scales=2"], "Keys of brightness: scale"),
        (["--suite", "fid,fid@sana-512", "--set", "fid.forward=3"], "fid and fid@sana-512 are one suite"),
        (["--set", "scale"], "NAME.KEY=VALUE"),
        (["--images", "nowhere", "--ckpt", "x"], "one place"),
        (["--images", "nowhere"], "does not exist"),
        (["--images", ".", "--nfe", "1"], "does not change images"),
        (["--model", "flux-schnel"], "no baseline"),
        (["--set", "model.steps=1"], "--model"),
        (["--shard", "4/3"], "no worker"),
        (["--require", "shaeps"], "--require shaeps: not a suite of this evaluation"),
    ],
    ids=str,
)
def test_mistakes_are_told(argv, told, capsys):
    assert app.main(["eval", *FEW, *argv]) in (2, 3)
    assert told in capsys.readouterr().err


def test_shards_by_command(capsys):
    assert app.main(["eval", *FEW, "--batch", "4", "--shard", "1/2"]) == 0
    out, err = capsys.readouterr()
    assert out == ""
    assert "This worker is done" in err
    (one,) = run(capsys, "--batch", "4", "--shard", "2/2")["evaluations"]
    assert one["found"] == 12


def test_suites_with_other_prompts_are_evaluations_of_their_own(oracle, tmp_path, config):
    from apex_cli.evaluation.shapes import ShapesConfig

    class Hard(Shapes):
        name = "hard"

    source = Source("m", Checkpoint(oracle()), tmp_path)
    protocols = [Shapes(ShapesConfig()), meters.Brightness(meters.BrightnessConfig()), Hard(ShapesConfig(split="long"))]
    jobs = group(source, protocols, config)
    assert [[p.name for p in job.protocols] for job in jobs] == [["shapes", "brightness"], ["hard"]]
    assert [job.folder.name.split("-")[1] for job in jobs] == ["iid", "long"]
    *_, report = evaluate(jobs[0])
    assert list(report.results) == ["shapes", "brightness"]


def pictures(folder: Path) -> dict[str, bytes]:
    """Files by their places in an evaluation."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.png")}


@pytest.mark.slow
@pytest.mark.dist
def test_torchrun_shares_one_evaluation(tmp_path):
    """Two real processes and the shipped student, against one process."""
    argv = ["apex_cli.app", "eval", "--prompts", "6", "--n", "1", "--batch", "2", "--json", "--out"]
    environment = {**os.environ, "PYTHONPATH": str(Path(app.__file__).parents[1])}
    alone = subprocess.run(
        [sys.executable, "-m", *argv, "one"], capture_output=True, text=True, check=True, env=environment
    )
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "--"]
    subprocess.run([*launcher, *argv, "two"], capture_output=True, text=True, check=True, env=environment)
    (first,) = json.loads(alone.stdout)["evaluations"]
    second = json.loads((next(Path("two").iterdir()) / "report.json").read_text())
    one, two = (pictures(next(Path(name).iterdir())) for name in ("one", "two"))
    assert one == two
    # Features are read by whom drew, in batches of other sizes, whose sums end in other bits.
    distances = [results["results"]["shapes"]["facts"].pop("kernel distance") for results in (first, second)]
    assert distances[0] == pytest.approx(distances[1], rel=1e-5)
    assert second["results"] == first["results"]
    assert len(list(next(Path("two").iterdir()).glob("drawn-*.jsonl"))) == 2
