"""`apex doctor`: what it finds on this machine, and what it says where something is missing."""

from __future__ import annotations

import json
import shutil
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from tiny_runs import apex, write_recipe

from apex_cli import doctor, recipe
from apex_cli.backbones import folders


def findings(capsys, code: int = 0) -> dict[tuple[str, str], dict]:
    capsys.readouterr()
    assert apex("doctor", "--json") == code
    told = json.loads(capsys.readouterr().out)
    assert told["ok"] == (code == 0)
    return {(finding["topic"], finding["name"]): finding for finding in told["findings"]}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """An empty folder in place of the shipped recipes, an empty hub cache, and a working folder without runs."""
    monkeypatch.setattr(recipe, "recipe_folder", lambda: tmp_path / "shelf")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


def test_this_machine_can_run_the_embedded_world(capsys):
    found = findings(capsys)
    assert {finding["state"] for finding in found.values()} <= {"ok", "note"}
    assert found["machine", "python"]["found"].startswith("3.")
    assert found["library", "torch"]["found"] == metadata.version("torch")
    assert found["model", "shapes_student"]["state"] == "ok"
    assert found["recipe", "shapes_student"] == {
        "topic": "recipe", "name": "shapes_student", "state": "ok", "found": "can run", "fix": ""
    }  # fmt: skip
    assert {name for topic, name in found if topic == "recipe"} == set(recipe.recipe_names("train"))
    assert next(f for (topic, _), f in found.items() if topic == "hub")["fix"] == "unset HF_HUB_OFFLINE"
    assert all(finding["fix"] for (topic, _), finding in found.items() if finding["state"] == "note" != topic)


def test_the_table(capsys):
    assert apex("doctor") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["STATE", "WHAT", "FOUND", "FIX"]
    assert any(line.split()[:3] == ["ok", "recipe", "shapes_lora_r8"] for line in lines)


def test_recipes_that_miss_something(shelf, capsys):
    write_recipe(shelf / "begins.toml")
    write_recipe(shelf / "follows.toml", backbone={"path": "runs/begins"})
    write_recipe(shelf / "large.toml", backbone={"path": "apex-tests/is-on-no-hub"})
    write_recipe(shelf / "watched.toml", train={"trackers": ["wandb"]})
    (shelf / "wrong.toml").write_text("nmae = 1")
    found = {name: f for (topic, name), f in findings(capsys, code=4).items() if topic == "recipe"}
    assert found["begins"]["state"] == "ok"
    assert found["follows"]["fix"] == "apex train begins"
    assert found["large"]["fix"] == "hf download apex-tests/is-on-no-hub"
    assert "trackers" in found["watched"]["fix"]
    assert {name: f["state"] for name, f in found.items()} == {
        "begins": "ok", "follows": "note", "large": "note", "watched": "note", "wrong": "problem"
    }  # fmt: skip


def test_a_model_too_large_for_the_device(once, shelf, monkeypatch, capsys):
    write_recipe(shelf / "mine.toml", backbone={"path": str(once("plain"))})
    assert findings(capsys)["recipe", "mine"]["state"] == "ok"
    monkeypatch.setattr(doctor, "memory", lambda: 2**10)
    assert "without sharding, this device has 0" in findings(capsys)["recipe", "mine"]["found"]


def test_libraries():
    version = metadata.version("numpy")
    assert doctor.library(Requirement("numpy>=1"), version).state == "ok"
    assert doctor.library(Requirement("numpy>=1"), "0.1").found == f"{version}, tested with 0.1"
    wrong = doctor.library(Requirement("numpy>=99"), version)
    assert (wrong.state, wrong.fix) == ("problem", "pip install 'numpy>=99'")
    assert doctor.library(Requirement("apex-tests-nowhere"), None).found == "not installed"


def test_every_library_we_need_has_a_tested_version():
    needed = {requirement.name for requirement in doctor.declared()[1][""]}
    assert {"torch", "diffusers"} <= needed <= set(doctor.tested_versions())


def test_an_installed_wheel_declares_the_same(tmp_path, monkeypatch):
    python, groups = doctor.declared()
    lines = ["Metadata-Version: 2.4", "Name: apex_cli", "Version: 0", f"Requires-Python: {python}"]
    lines += [f"Requires-Dist: {requirement}" for requirement in groups[""]]
    for extra in set(groups) - {""}:
        lines += [f"Provides-Extra: {extra}"] + [f'Requires-Dist: {r}; extra == "{extra}"' for r in groups[extra]]
    (tmp_path / "apex_cli-0.dist-info").mkdir()
    (tmp_path / "apex_cli-0.dist-info" / "METADATA").write_text("\n".join(lines))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(doctor, "CHECKOUT", tmp_path)
    names = {extra: [r.name for r in required] for extra, required in groups.items()}
    told, found = doctor.declared()
    assert (told, {extra: [r.name for r in required] for extra, required in found.items()}) == (python, names)


def test_a_library_that_is_missing_is_told_before_it_is_imported(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "declared", lambda: (">=3.11", {"": [Requirement("apex-tests-nowhere>=1")]}))
    found = findings(capsys, code=4)
    assert found["library", "apex-tests-nowhere"]["fix"] == "pip install 'apex-tests-nowhere>=1'"
    assert not any(topic == "recipe" for topic, _ in found)


def test_a_damaged_shipped_model(tmp_path, monkeypatch):
    shutil.copytree(folders.ASSETS / "shapes_student", tmp_path / "shapes_student")
    monkeypatch.setattr(folders, "ASSETS", tmp_path)
    assert [finding.state for finding in doctor.shipped_models()] == ["ok"]
    (tmp_path / "shapes_student" / "model_index.json").write_text("{}")
    (finding,) = doctor.shipped_models()
    assert (finding.state, finding.fix) == ("problem", "Install apex again.")


def test_disk(tmp_path, monkeypatch):
    found = {finding.name: finding for finding in doctor.storage(tmp_path / "not" / "yet")}
    assert found["models"].state == "ok"
    assert str(tmp_path / "not" / "yet") in found["models"].found
    monkeypatch.setattr(doctor, "ROOM", 2**70)
    states = {finding.name: (finding.state, finding.fix) for finding in doctor.storage(tmp_path)}
    assert states["models"] == ("note", "Free some space, or set HF_HOME to another disk.")
    assert states["here"] == ("problem", "Free some space.")


class Answers(BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/" else 503)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""


def test_the_hub(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    server = HTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    assert doctor.hub(f"{address}/", offline=False).found == "answers"
    assert doctor.hub(f"{address}/busy", offline=False).found == "answers with 503"
    server.shutdown()
    server.server_close()
    silent = doctor.hub(address, offline=False)
    assert (silent.state, silent.fix) == ("note", "Check HTTPS_PROXY, or HF_ENDPOINT for a mirror.")
