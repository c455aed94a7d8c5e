"""The judge over HTTP, against a real server: good answers, nonsense, silence, refusals, and money."""

from __future__ import annotations

import base64
import json

import pytest
from looking import look
from tiny_judges import picture

from apex_cli.errors import SetupError, UsageError
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.judges.asking import READINGS, Answers, tokens
from apex_cli.evaluation.judges.base import Query
from apex_cli.evaluation.judges.choice import JudgeConfig, choose
from apex_cli.evaluation.judges.endpoint import Endpoint, EndpointConfig
from apex_cli.evaluation.judges.recorded import Recorded

ITEM = Item("7", "culture", "a fruit")


def endpoint(server, **settings):
    base = {"url": server.url, "model": "judge-1", "timeout": 5, "wait": 0.01, "key_variable": "APEX_TEST_KEY"}
    return Endpoint(EndpointConfig(**{**base, **settings}))


@pytest.fixture
def queries(tmp_path):
    return [Query(picture(tmp_path, ITEM, k), f"question {k}", "be strict") for k in range(5)]


def test_the_request_is_openais(serve, queries, monkeypatch):
    monkeypatch.setenv("APEX_TEST_KEY", "secret")
    server = serve(lambda n, body: f"to {body['messages'][1]['content'][0]['text']}")
    answers = endpoint(server, extra={"seed": 3}).ask(queries)
    assert [a.text for a in answers] == [f"to question {k}" for k in range(5)], "in order, though asked in parallel"
    assert answers[0].tokens == (1_000, 10) and not any(a.error for a in answers)
    body, headers = server.requests[0], server.headers[0]
    assert (body["model"], body["temperature"], body["seed"]) == ("judge-1", 0, 3)
    assert body["messages"][0] == {"role": "system", "content": "be strict"}
    sent = base64.b64decode(
        body["messages"][1]["content"][1]["image_url"]["url"].removeprefix("data:image/png;base64,")
    )
    assert sent in [q.picture.path.read_bytes() for q in queries]
    assert headers["Authorization"] == "Bearer secret"
    assert "secret" not in json.dumps(endpoint(server).identity)


@pytest.mark.parametrize("trouble", [500, 429, b"<html>", b'{"choices": []}', "  ", 1.0])
def test_trouble_is_tried_again(serve, queries, trouble):
    server = serve(lambda n, body: trouble if n == 0 else "fine")
    (answer,) = endpoint(server, timeout=0.4).ask(queries[:1])
    assert (answer.text, answer.attempts, answer.error) == ("fine", 2, "")


def test_lasting_trouble_is_an_error_of_the_answer_and_not_of_the_run(serve, queries):
    server = serve(lambda n, body: 503 if "question 1" in str(body) else "fine")
    answers = endpoint(server, attempts=3).ask(queries[:3])
    assert [a.text for a in answers] == ["fine", "", "fine"]
    assert answers[1].error == "no answer in 3 attempts: HTTP 503 Service Unavailable" and answers[1].attempts == 3


def test_silence_is_named(serve, queries):
    (answer,) = endpoint(serve(lambda n, body: 1.0), attempts=2, timeout=0.2).ask(queries[:1])
    assert "no answer in 2 attempts" in answer.error and "imeout" in answer.error + "timeout" * (
        "timed out" in answer.error
    )


def test_nobody_at_home(queries):
    gone = Endpoint(EndpointConfig(url="http://127.0.0.1:9/v1", model="m", attempts=2, wait=0))
    assert "refused" in gone.ask(queries[:1])[0].error.lower()


def test_a_wrong_key_stops_the_run(serve, queries):
    with pytest.raises(SetupError, match=r"refuses: HTTP 401") as caught:
        endpoint(serve(lambda n, body: 401)).ask(queries)
    assert "APEX_TEST_KEY" in caught.value.remedy


def test_the_budget_is_kept_with_many_at_a_time(serve, queries):
    server = serve(lambda n, body: "fine")
    judge = endpoint(server, price_read=1_000, price_written=1_000, budget=2.5, workers=5, max_tokens=10)
    estimate = judge.estimate(queries, "wise")
    assert (estimate.calls, estimate.written) == (5, 50) and 5_000 < estimate.read < 5_100
    assert estimate.dollars == pytest.approx((estimate.read + estimate.written) / 1_000) and estimate.passes_budget
    answers = judge.ask(queries)
    assert len(server.requests) == 2 and judge.spent == pytest.approx(2 * 1.01)
    assert sum("the budget of $2.5 is spent" in a.error for a in answers) == 3


def digits(text):
    return int(text) if text.isdigit() else None


def stage(judge, record=None):
    return Answers(judge, lambda item: [("", "how many?"), ("", "how old?")], digits, record=record)


def test_nonsense_is_asked_again_and_then_reported(serve, tmp_path):
    server = serve(lambda n, body: "hm" if "how old" in str(body) else "12")
    one = picture(tmp_path, ITEM)
    (said,) = look(stage(endpoint(server)), [one])
    assert said["answers"] == [[12, None]] and said["error"] == "unreadable after 3 answers: 'hm'"
    assert [a["text"] for a in said["raw"][1]] == ["hm"] * READINGS and len(server.requests) == 1 + READINGS
    assert tokens([said]) == (4_000, 40)


def test_nonsense_once_is_forgiven(serve, tmp_path):
    server = serve(lambda n, body: "hm" if n == 0 else "12")
    (said,) = look(stage(endpoint(server, workers=1)), [picture(tmp_path, ITEM)])
    assert said["answers"] == [[12, 12]] and "error" not in said and [a["text"] for a in said["raw"][0]] == ["hm", "12"]


def test_what_was_recorded_is_replayed_without_a_server(serve, tmp_path):
    server = serve(lambda n, body: str(40 + n))
    pictures = [picture(tmp_path, ITEM, k) for k in range(2)]
    first = look(stage(endpoint(server), tmp_path / "raw.jsonl"), pictures)
    judge = Recorded(tmp_path / "raw.jsonl", "judge-1")
    judge.open()
    again = look(stage(judge), pictures)
    assert [said["answers"] for said in again] == [said["answers"] for said in first] and len(server.requests) == 4
    (unknown,) = look(stage(judge), [picture(tmp_path, Item("8", "", ""))])
    assert "2 questions without an answer, the first: raw.jsonl has no answer" in unknown["error"]


def test_answers_of_others_are_found_by_place(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"item": "7", "k": 0, "question": "how many?", "answer": "3"}\n')
    judge = Recorded(tmp_path / "a.jsonl", "people")
    judge.open()
    assert judge.ask([Query(picture(tmp_path, ITEM), "how many?")])[0].text == "3"


def test_one_judge_at_a_time(tmp_path):
    assert choose(JudgeConfig()) is None
    with pytest.raises(UsageError, match="answers, endpoint"):
        choose(JudgeConfig(answers=tmp_path, endpoint=EndpointConfig(model="m")))
