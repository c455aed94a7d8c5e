"""What a judge will cost is told before it is asked, and nothing is asked that the budget does not cover."""

from __future__ import annotations

import json

import numpy as np
import pytest
from huggingface_hub import constants
from PIL import Image

from apex_cli import app
from apex_cli.commands import _ui

IDS = {"cultural_common_sense": (1, 2), "spatio-temporal_reasoning": (401,), "natural_science": (701, 801)}
FINE = "Consistency: 2\nRealism: 2\nAesthetic Quality: 2"


@pytest.fixture
def ask(tmp_path, serve, monkeypatch):
    """`ask("endpoint.KEY=VALUE", ...)`: five pictures before a judge who takes $1 for 1,000 tokens; exit code."""
    _ui.stdout.cache_clear()
    _ui.stderr.cache_clear()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "made").mkdir()
    for name, ids in IDS.items():
        rows = [{"prompt_id": i, "Prompt": f"thing {i}", "Explanation": f"it is {i}"} for i in ids]
        (tmp_path / f"{name}.json").write_text(json.dumps(rows))
        for i in ids:
            Image.fromarray(np.full((8, 8, 3), i % 256, np.uint8)).save(tmp_path / "made" / f"{i}.png")
    server = serve(lambda n, body: FINE)

    def run(*settings, model="judge-1"):
        base = (f"endpoint.url={server.url}", f"endpoint.model={model}", "endpoint.wait=0", "endpoint.max_tokens=100")
        prices = ("endpoint.price_read=1000", "endpoint.price_written=1000")
        given = [f"--set=wise@legacy.judge.{text}" for text in (*base, *prices, *settings)]
        return app.main(
            ["eval", "--images", "made", "--suite", "wise@legacy", "--set=wise@legacy.folder=.", *given, "--json"]
        )

    run.server = server
    return run


def estimate(out):
    (made,) = json.loads(out)["evaluations"][0]["estimates"]
    return made


def test_the_estimate_is_told_before_the_first_question(ask, capsys):
    assert ask("endpoint.budget=7") == 0
    out, err = capsys.readouterr()
    made = estimate(out)
    assert (made["calls"], made["written"], made["budget"]) == (5, 500, 7) and made["protocol"].startswith(
        "wise@legacy"
    )
    words = sum(len(text) for body in ask.server.requests for text in _texts(body))
    assert made["read"] == pytest.approx(5_000 + words / 4, abs=5)
    assert made["dollars"] == pytest.approx((made["read"] + 500) / 1_000)
    told = next(line for line in err.splitlines() if "questions to judge-1" in line)
    assert "at most 500 to write" in told and f"${made['dollars']:.2f}, budget $7.00" in told
    assert err.index(told) < err.index("answers ")


def _texts(body):
    for message in body["messages"]:
        parts = message["content"] if isinstance(message["content"], list) else [{"text": message["content"]}]
        yield from (part["text"] for part in parts if "text" in part)


def test_nothing_is_asked_beyond_the_budget_unless_told_otherwise(ask, capsys):
    assert ask("endpoint.budget=3") == 2
    out, _ = capsys.readouterr()
    assert not ask.server.requests
    (row,) = json.loads(out)["evaluations"][0]["results"].values()
    assert row["status"] == "skipped" and "until_spent" in row["remedy"]
    assert "5 questions to judge-1" in row["reason"] and "budget $3.00" in row["reason"]
    assert ask("endpoint.budget=3", "endpoint.until_spent=true") == 0
    document = json.loads(capsys.readouterr().out)["evaluations"][0]
    (result,) = document["results"].values()
    assert len(ask.server.requests) == 2 and (result["status"], result["found"]) == ("partial", 2)


def test_a_judge_elsewhere_is_not_asked_offline(ask, capsys):
    assert constants.HF_HUB_OFFLINE and ask("endpoint.url=http://192.0.2.1/v1") == 3
    (result,) = json.loads(capsys.readouterr().out)["evaluations"][0]["results"].values()
    assert (result["status"], result["reason"]) == ("skipped", "needs the network, for http://192.0.2.1/v1")


def test_only_what_is_left_is_estimated(ask, capsys):
    assert ask("endpoint.budget=3", "endpoint.until_spent=true") == 0
    capsys.readouterr()
    assert ask("endpoint.budget=4") == 0
    assert estimate(capsys.readouterr().out)["calls"] == 3 and len(ask.server.requests) == 5
    assert ask("endpoint.budget=4") == 0
    assert json.loads(capsys.readouterr().out)["evaluations"][0]["estimates"] == []


def test_recorded_answers_cost_nothing(ask, capsys, tmp_path):
    assert ask("record=raw.jsonl") == 0
    capsys.readouterr()
    assert ask("answers=raw.jsonl", "answers_by=judge-2", model="") == 0
    document = json.loads(capsys.readouterr().out)["evaluations"][0]
    assert document["estimates"] == [] and next(iter(document["results"].values()))["status"] == "scored"
