"""Metrics without prompts of their own: what they are measured on, what is refused, and how their files travel."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_judges import clip

from apex_cli import app, build
from apex_cli.build.evaluation import protocols, required
from apex_cli.commands import _ui
from apex_cli.commands._eval_settings import settings
from apex_cli.errors import DataError, UsageError
from apex_cli.evaluation import mjhq
from apex_cli.evaluation.catalog import ASSETS, INCEPTION, MJHQ
from apex_cli.evaluation.clip_sana import ClipSana, ClipSanaConfig
from apex_cli.evaluation.distances import DistanceConfig
from apex_cli.evaluation.fid_clean import FidClean
from apex_cli.evaluation.fid_sana import FidSana512
from apex_cli.evaluation.geneval.protocol import HfConfig, HfGenEval
from apex_cli.evaluation.hpsv2 import HpsV2
from apex_cli.evaluation.jobs import Job, Source, group
from apex_cli.evaluation.kid import Kid, KidInception
from apex_cli.evaluation.painters import Checkpoint
from apex_cli.evaluation.pairs import PairConfig
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.generation import SampleConfig

ROWS = {f"{i:032x}": {"category": ("people", "food")[i % 2], "prompt": f"thing {'abcdef'[i]}"} for i in range(6)}


@pytest.fixture(autouse=True)
def caches(tmp_path, monkeypatch):
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "apex"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def ready(caches) -> None:
    """The files of FID and CLIP, as far as anybody looks before anything runs."""
    put(caches / "torch/hub/checkpoints" / INCEPTION.name)
    for suite in ("fid@sana-512", "kid@inception"):
        put(caches / f"apex/stats/{suite}/mjhq-30k.safetensors")
    for file in ClipSana.asset.files:
        put(caches / "apex/weights/clip" / file.name)


@pytest.fixture
def prompts(caches) -> Path:
    place = caches / "hub/datasets--playgroundai--MJHQ-30K/snapshots/0f/meta_data.json"
    return put(place, json.dumps(ROWS))


@pytest.fixture
def drawn(oracle, tmp_path) -> Source:
    return Source("m", Checkpoint(oracle()), tmp_path / "evals")


FID, CLIP = FidSana512(DistanceConfig()), ClipSana(ClipSanaConfig())


def told(jobs: list[Job]) -> list[tuple[str, list[str], list[str]]]:
    """(prompt set, protocols that run, protocols that do not) of each job."""
    return [
        (
            job.prompts.name if job.prompts else "",
            [p.name for p in job.protocols if p.name not in job.skipped],
            list(job.skipped),
        )
        for job in jobs
    ]


def test_the_prompts_of_mjhq_in_their_order(prompts, drawn):
    found = mjhq.prompt_set(prompts)
    assert [(item.id, item.tag, item.prompt) for item in found.items] == [
        (id, row["category"], row["prompt"]) for id, row in ROWS.items()
    ]
    job = Job(drawn.pictures, [FID], found, EvalConfig(prompts=3), Path("e"))
    assert [item.prompt for item in job.items] == ["thing a", "thing b", "thing c"], "not spread over categories"
    with pytest.raises(DataError, match="holds no prompts of MJHQ-30K"):
        mjhq.prompt_set(put(Path("meta_data.json"), "[]"))


def test_fid_and_clip_draw_the_prompts_of_mjhq(ready, prompts, drawn, shapes):
    config = EvalConfig()
    assert told(group(drawn, [FID], config)) == [("mjhq", ["fid@sana-512"], [])]
    assert told(group(drawn, [CLIP], config)) == [("mjhq", ["clip@sana"], [])]
    assert told(group(drawn, [CLIP, shapes], config)) == [("iid", ["clip@sana", "shapes"], [])]
    assert told(group(drawn, [shapes, CLIP, FID], config)) == [
        ("iid", ["shapes"], []),
        ("mjhq", ["clip@sana", "fid@sana-512"], []),
    ]


def test_without_their_file_a_row_says_what_is_missing(ready, drawn, shapes):
    (job,) = group(drawn, [shapes, FID, CLIP], EvalConfig())
    assert told([job]) == [("iid", ["shapes", "clip@sana"], ["fid@sana-512"])]
    assert job.skipped["fid@sana-512"].reason == "needs meta_data.json (10 MB)"
    assert job.skipped["fid@sana-512"].remedy == "get it with: apex eval prepare mjhq"
    (alone,) = group(drawn, [CLIP], EvalConfig())
    assert alone.skipped["clip@sana"].reason == "needs meta_data.json (10 MB)"
    assert "--repo-type dataset" in MJHQ.command and "hf download playgroundai/MJHQ-30K meta_data.json" in MJHQ.command


def test_prompts_of_others_are_not_drawn_in_place_of_those_that_lack_a_file(ready, prompts, drawn):
    (job,) = group(drawn, [HfGenEval(HfConfig()), CLIP], EvalConfig())
    assert told([job]) == [("", [], ["geneval@hf", "clip@sana"])]
    assert job.skipped["clip@sana"].reason == "has no prompts of its own, and those that have are skipped"


def test_prompts_that_cannot_be_read_skip_their_suite_alone(ready, prompts, drawn, shapes):
    broken = FidClean(DistanceConfig(prompts=put(Path("broken/meta_data.json"), "[]").parent))
    put(Path("apex/stats/fid@clean/mjhq-30k.safetensors"))
    (job,) = group(drawn, [broken, shapes], EvalConfig())
    assert told([job]) == [("iid", ["shapes"], ["fid@clean"])]
    assert job.skipped["fid@clean"].reason.startswith("'broken/meta_data.json' holds no prompts of MJHQ-30K")
    assert job.skipped["fid@clean"].remedy == "Get meta_data.json again: apex eval prepare mjhq."
    assert told(group(drawn, [broken], EvalConfig())) == [("", [], ["fid@clean"])]


def test_two_suites_share_the_prompts_that_one_of_them_brings(ready, drawn):
    rows = {"one": ROWS, "other": dict([*ROWS.items()][:4])}
    one, other = (put(Path(name, "meta_data.json"), json.dumps(kept)) for name, kept in rows.items())
    named, unnamed = FidSana512(DistanceConfig(prompts=one)), FidClean(DistanceConfig())
    put(Path("apex/stats/fid@clean/mjhq-30k.safetensors"))
    for both in ([named, unnamed], [unnamed, named]):
        assert told(group(drawn, both, EvalConfig())) == [("mjhq", [p.name for p in both], [])]
    with pytest.raises(UsageError, match="Two suites bring different prompts that are both called 'mjhq'"):
        group(drawn, [named, FidClean(DistanceConfig(prompts=other))], EvalConfig())


def test_another_reference_set_is_for_any_pictures(ready, prompts, drawn, shapes, tmp_path):
    own = FidSana512(DistanceConfig(reference=put(tmp_path / "own.safetensors")))
    assert told(group(drawn, [shapes, own], EvalConfig())) == [("iid", ["shapes", "fid@sana-512+own"], [])]
    assert told(group(drawn, [own], EvalConfig())) == [("mjhq", ["fid@sana-512+own"], [])]


def test_kid_looks_at_what_others_draw(ready, prompts, drawn, shapes, caches):
    (job,) = group(drawn, [shapes, KidInception(DistanceConfig())], EvalConfig())
    assert told([job]) == [("iid", ["shapes"], ["kid@inception"])]
    assert "these are pictures of the prompts of 'iid'" in job.skipped["kid@inception"].reason
    assert "--set kid@inception.reference=" in job.skipped["kid@inception"].remedy
    assert Kid(DistanceConfig()).name == "kid@inception"
    shutil.rmtree(caches / "apex/stats/kid@inception")
    assert told(group(drawn, [shapes, Kid(DistanceConfig())], EvalConfig())) == [
        ("iid", ["shapes", "kid@effnet-lite0"], [])
    ]


def images(folder: Path, count: int = 4) -> Path:
    folder.mkdir()
    for i in range(count):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    return folder


def test_a_folder_is_what_its_user_says(ready, shapes, tmp_path):
    folder = Source("x", images(tmp_path / "x"), tmp_path)
    assert told(group(folder, [FID], EvalConfig())) == [("", ["fid@sana-512"], [])]
    (job,) = group(folder, [shapes, FID], EvalConfig())
    assert told([job]) == [("iid", ["shapes"], ["fid@sana-512"])], "a suite knows them to be other pictures"


def test_pictures_without_prompts_have_no_score_of_pairs(ready, tmp_path):
    folder = images(tmp_path / "x")
    source = Source("x", folder, tmp_path)
    (job,) = group(source, [CLIP], EvalConfig())
    assert job.skipped["clip@sana"].reason == "needs prompts"
    assert "metadata.jsonl with rows of file_name and prompt" in job.skipped["clip@sana"].remedy
    put(folder / "metadata.jsonl", json.dumps({"file_name": "0.png", "prompt": "a cube"}))
    (job,) = group(source, [CLIP], EvalConfig())
    assert not job.skipped


def test_a_missing_package_is_a_row(ready, prompts, drawn, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    put(Path("HPS_v2.1_compressed.pt"))
    hps = HpsV2(PairConfig(weights=Path("HPS_v2.1_compressed.pt")))
    (job,) = group(drawn, [FID, CLIP, hps], EvalConfig())
    assert [job.skipped[name].reason for name in (FID.name, hps.name)] == ["needs torch_fidelity", "needs open_clip"]
    assert job.skipped[FID.name].remedy == "get it with: scripts/setup eval"


def test_nothing_to_draw(drawn):
    from apex_cli.evaluation.ocr import Ocr, OcrConfig

    with pytest.raises(UsageError, match="no prompts to draw"):
        group(drawn, [Ocr(OcrConfig())], EvalConfig())


@pytest.fixture
def models(monkeypatch, oracle):
    _ui.stdout.cache_clear()
    _ui.stderr.cache_clear()

    def load_model(path: str) -> build.Model:
        return build.Model(oracle().backbone, SampleConfig(), {}, Path(f"{path}/step-000010"))

    monkeypatch.setattr(build.models, "load_model", load_model)


def run(capsys, *argv: str, code: int = 0) -> dict:
    assert app.main(["eval", *argv, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def tiny_vision(folder: Path) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = CLIPVisionConfig(**sizes, image_size=28, patch_size=14, projection_dim=8)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    return folder


def test_from_nothing_to_two_rows_and_to_another_machine(models, capsys, tmp_path, monkeypatch):
    """CMMD and the CLIP score on tiny models of their classes: a reference set, an evaluation, an archive."""
    from transformers import CLIPTokenizer

    unknown = tuple(replace(file, sha256=None) for file in ClipSana.asset.files)
    asset = replace(ClipSana.asset, files=unknown)
    monkeypatch.setattr(ClipSana, "asset", asset)
    monkeypatch.setitem(ASSETS, "clip", asset)
    weights, text = tiny_vision(tmp_path / "vision"), clip(tmp_path / "clip")
    put(text / "vocab.json", json.dumps(CLIPTokenizer.from_pretrained(text).get_vocab()))
    put(text / "merges.txt", "#version: 0.2\n")
    put(tmp_path / "meta_data.json", json.dumps(ROWS))
    places = ["--set", f"cmmd.weights={weights}", "--set", f"cmmd.prompts={tmp_path}"]
    truth = str(images(tmp_path / "truth"))
    run(capsys, "reference", truth, "--for", "cmmd", "--name", "mjhq-30k", *places)
    places += ["--set", f"clip@sana.weights={text}"]
    asked = ["--ckpt", "m", "--suite", "cmmd,clip", "--prompts", "4", "--require", "cmmd,clip"]
    (one,) = run(capsys, *asked, *places, "--out", "e")["evaluations"]
    assert (one["setting"]["prompt_set"], one["found"]) == ("mjhq", 4)
    cmmd, score = one["results"]["cmmd"], one["results"]["clip@sana"]
    assert cmmd["identity"]["reference"]["name"] == "mjhq-30k" and cmmd["facts"]["reference images"] == 4
    assert score["status"] == "scored"

    packed = run(capsys, "prepare", "cmmd", "clip", *places, "--pack", "all.tar")["packed"]
    assert {"stats/cmmd/mjhq-30k.safetensors", "weights/mjhq/meta_data.json"} <= set(packed)
    monkeypatch.setenv("APEX_CACHE", str(tmp_path / "elsewhere"))
    assert run(capsys, *asked, "--out", "f", code=4)["required_but_skipped"] == ["cmmd", "clip@sana"]
    run(capsys, "import", "all.tar")
    (other,) = run(capsys, *asked, "--out", "f")["evaluations"]
    assert {name: result["value"] for name, result in other["results"].items()} == {
        "cmmd": cmmd["value"],
        "clip@sana": score["value"],
    }


def test_every_file_is_listed_with_its_size_and_hash(models, capsys, tmp_path):
    put(tmp_path / "apex/stats/fid@sana-512/mjhq-30k.safetensors")
    folder = put(tmp_path / "dpg_bench/dpg_bench.csv", "rows").parent
    place = f"dpg@fixed.folder={folder}"
    document = run(capsys, "prepare", "fid@sana-512", "dpg@fixed", "--set", place, "--pack", "all.tar")
    rows = {row["name"]: row for row in document["others"]}
    csv, stats = rows["dpg@fixed: dpg_bench.csv"], rows["fid@sana-512: reference set mjhq-30k"]
    assert (csv["size"], csv["licence"]) == (4, "Apache-2.0") and len(csv["sha256"]) == len(stats["sha256"]) == 64
    assert "named/dpg@fixed.folder/dpg_bench/dpg_bench.csv" in document["packed"]
    assert app.main(["eval", "import", "all.tar"]) == 0
    assert f"--set dpg@fixed.folder={tmp_path}/apex/named/dpg@fixed.folder/dpg_bench" in capsys.readouterr().out


def test_only_settings_that_are_paths_are_packed(models, capsys, tmp_path):
    for name in ("dpg_bench.csv", "answers.jsonl", "gpt"):
        put(tmp_path / "here" / name)
    given = [
        "dpg.folder=here",
        'dpg.judge.answers="here/answers.jsonl"',
        "dpg.judge.answers_by=here/gpt",
        "dpg.judge.endpoint.extra.x=here/gpt",
        "dpg.judge.record=",
    ]
    packed = run(capsys, "prepare", "dpg", *(part for text in given for part in ("--set", text)), "--pack", "all.tar")
    assert packed["packed"] == [
        *(f"named/dpg.folder/here/{name}" for name in ("answers.jsonl", "dpg_bench.csv", "gpt")),
        "named/dpg.judge.answers/answers.jsonl",
    ]
    with pytest.raises(UsageError, match="'judge' is set to a value too"):
        settings(["dpg.judge=x", "dpg.judge.local=y"])


def test_short_names(capsys, models):
    suites = protocols(["fid", "clip", "dpg"], {"fid@sana-512": {"forward": 3}, "clip": {"forward": 4}})
    assert {name: p.name for name, p in suites.items()} == {
        "fid": "fid@sana-512",
        "clip": "clip@sana",
        "dpg": "dpg@official",
    }
    assert (suites["fid"].config.forward, suites["clip"].config.forward) == (3, 4)
    deep = {"dpg": {"judge": {"local": Path("j")}}, "dpg@official": {"judge": {"record": Path("r")}}}
    judge = protocols(["dpg"], deep)["dpg"].config.judge
    assert (judge.local, judge.record) == (Path("j"), Path("r"))
    wise = protocols(["wise"], {})
    for name in ("wise", "wise@verified", "wise@verified+own-wording"):
        assert required(name, wise) == ["wise@verified+own-wording"]
    assert run(capsys, "--suite", "shapes,fid", "--prompts", "6", "--n", "1", "--require", "fid", code=4)[
        "required_but_skipped"
    ] == ["fid@sana-512"]
    assert app.main(["eval", "--suite", "shapes", "--require", "fid"]) == 2
    assert "--require fid: not a suite of this evaluation" in capsys.readouterr().err
