"""The judge over HTTP, against a real server: good answers, nonsense, silence, refusals, and money."""

from __future__ import annotations

import base64
import json

import pytest
from huggingface_hub import constants
from looking import look
from PIL import Image
from pydantic import ValidationError
from scripted_judge import CUT, GARBLED
from tiny_judges import picture

from apex_cli.errors import DataError, SetupError, UsageError
from apex_cli.evaluation.base import Item
from apex_cli.evaluation.judges.asking import Answers, estimates, tokens
from apex_cli.evaluation.judges.base import Query
from apex_cli.evaluation.judges.choice import AnyJudge, JudgeConfig, choose
from apex_cli.evaluation.judges.endpoint import READINGS, Endpoint, EndpointConfig
from apex_cli.evaluation.judges.official import Official
from apex_cli.evaluation.judges.recorded import Recorded
from apex_cli.evaluation.observations import Store

ITEM = Item("7", "culture", "a fruit")


def endpoint(server, **settings):
    base = {"url": server.url, "model": "judge-1", "timeout": 5, "wait": 0.01, "key_variable": "APEX_TEST_KEY"}
    return Endpoint(EndpointConfig(**{**base, **settings}))


def ask(judge, queries):
    """The answers in the order of the queries."""
    got = dict(judge.ask(queries))
    return [got[query] for query in queries]


@pytest.fixture
def queries(tmp_path):
    return [Query(picture(tmp_path, ITEM, k), f"question {k}", "be strict") for k in range(5)]


def test_the_request_is_openais(serve, queries, monkeypatch):
    monkeypatch.setenv("APEX_TEST_KEY", "secret")
    server = serve(lambda n, body: f"to {body['messages'][1]['content'][0]['text']}")
    answers = ask(endpoint(server, extra={"seed": 3}), queries)
    assert [a.text for a in answers] == [f"to question {k}" for k in range(5)], "each its own, though asked in parallel"
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


@pytest.mark.parametrize("trouble", [500, 429, b"<html>", b'{"choices": []}', "  ", 1.0, CUT, GARBLED])
def test_trouble_is_tried_again(serve, queries, trouble):
    server = serve(lambda n, body: trouble if n == 0 else "fine")
    (answer,) = ask(endpoint(server, timeout=0.4), queries[:1])
    assert (answer.text, answer.attempts, answer.error) == ("fine", 2, "")


def test_lasting_trouble_is_an_error_of_the_answer_and_not_of_the_run(serve, queries):
    server = serve(lambda n, body: 503 if "question 1" in str(body) else "fine")
    answers = ask(endpoint(server, attempts=3), queries[:3])
    assert [a.text for a in answers] == ["fine", "", "fine"]
    assert answers[1].error == "no answer in 3 attempts: HTTP 503 Service Unavailable" and answers[1].attempts == 3


def test_silence_is_named(serve, queries):
    (answer,) = ask(endpoint(serve(lambda n, body: 1.0), attempts=2, timeout=0.2), queries[:1])
    assert "no answer in 2 attempts" in answer.error and "imeout" in answer.error + "timeout" * (
        "timed out" in answer.error
    )


def test_nobody_at_home(queries):
    gone = Endpoint(EndpointConfig(url="http://127.0.0.1:9/v1", model="m", attempts=2, wait=0))
    assert "refused" in ask(gone, queries[:1])[0].error.lower()


@pytest.mark.parametrize(("raw", "told"), [(CUT, "IncompleteRead"), (GARBLED, "BadStatusLine")])
def test_a_response_that_is_cut_or_garbled_each_time_is_an_error_of_the_answer(serve, queries, raw, told):
    (answer,) = ask(endpoint(serve(lambda n, body: raw), attempts=2), queries[:1])
    assert told in answer.error and answer.attempts == 2


def test_a_wrong_key_stops_the_run(serve, queries):
    with pytest.raises(SetupError, match=r"refuses: HTTP 401") as caught:
        ask(endpoint(serve(lambda n, body: 401)), queries)
    assert "APEX_TEST_KEY" in caught.value.remedy


def test_a_picture_that_the_endpoint_does_not_like_is_an_error_of_its_answer(serve, queries):
    server = serve(lambda n, body: 400 if "question 1" in str(body) else "fine")
    answers = ask(endpoint(server), queries[:3])
    assert [a.text for a in answers] == ["fine", "", "fine"] and len(server.requests) == 3, "not asked again"
    assert answers[1].error.startswith("HTTP 400 Bad Request: ") and answers[1].attempts == 1


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_the_picture_is_sent_as_what_it_is(serve, tmp_path, suffix):
    """Whatever its name says."""
    one = picture(tmp_path, ITEM)
    with Image.open(one.path) as image:
        image.save(tmp_path / f"made.{suffix}")
    (tmp_path / f"made.{suffix}").replace(one.path)
    server = serve(lambda n, body: "fine")
    ask(endpoint(server), [Query(one, "what?")])
    kind = {"jpg": "jpeg"}.get(suffix, suffix)
    url = server.requests[0]["messages"][0]["content"][1]["image_url"]["url"]
    assert url.startswith(f"data:image/{kind};base64,")


@pytest.mark.parametrize("thinking", [None, False, True])
def test_thinking_is_told_and_named(serve, queries, thinking):
    server = serve(lambda n, body: "fine")
    judge = endpoint(server, thinking=thinking, temperature=0.5, extra={"seed": 1})
    ask(judge, queries[:1])
    asked = {} if thinking is None else {"chat_template_kwargs": {"enable_thinking": thinking}}
    assert {k: v for k, v in server.requests[0].items() if k == "chat_template_kwargs"} == asked
    assert judge.unusual == ["temperature0.5", *["thinking"] * (thinking is True), "seed"]


def test_an_address_without_a_scheme_is_refused():
    with pytest.raises(ValidationError, match="url"):
        EndpointConfig(url="localhost:8000/v1")


def test_the_budget_is_kept_with_many_at_a_time(serve, queries):
    server = serve(lambda n, body: "fine")
    judge = endpoint(server, price_read=1_000, price_written=1_000, budget=2.5, workers=5, max_tokens=10)
    estimate = judge.estimate(queries, "wise")
    assert (estimate.calls, estimate.written) == (5, 50) and 5_000 < estimate.read < 5_100
    assert estimate.dollars == pytest.approx((estimate.read + estimate.written) / 1_000) and estimate.passes_budget
    answers = ask(judge, queries)
    assert len(server.requests) == 2 and judge.spent == pytest.approx(2 * 1.01)
    assert sum("the budget of $2.5 is spent" in a.error for a in answers) == 3


def test_several_workers_share_the_budget(serve, queries, tmp_path):
    judge = endpoint(serve(lambda n, body: "1"), price_read=1_000, price_written=1_000, budget=12, max_tokens=10)
    (estimate,) = estimates("wise", {"answers": Store(tmp_path, stage(judge), {})}, [picture(tmp_path, ITEM)], 4)
    assert "this worker's share of the budget of $12.00 is $3.00" in str(estimate)
    answers = ask(judge, queries)
    assert sum(a.error == "this worker's share of the budget of $12 is spent" for a in answers) == 3


def test_what_was_spent_before_is_no_longer_there(serve, queries, tmp_path):
    """A judge serves several sets of pictures in turn."""
    server = serve(lambda n, body: "1")
    judge = endpoint(server, price_read=1_000, price_written=1_000, budget=6, max_tokens=10)
    ask(judge, queries)
    stores = {"answers": Store(tmp_path, stage(judge), {})}
    with pytest.raises(UsageError, match=r"Nothing was asked.*budget \$6.00, \$5.05 of it spent"):
        list(estimates("wise", stores, [picture(tmp_path, ITEM)]))
    assert len(server.requests) == 5


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


def test_what_is_paid_before_a_refusal_is_kept(serve, tmp_path):
    """The key runs out while a batch is under way, and one of its answers cannot be read."""
    server = serve(lambda n, body: ("12", "12", "hm", 401)[min(n, 3)])
    pictures = [picture(tmp_path, ITEM, k) for k in range(4)]
    own = stage(endpoint(server, workers=1), tmp_path / "raw.jsonl")
    said = look(own, pictures)
    assert said[0]["answers"] == [[12, 12]] and "error" not in said[0]
    assert said[1]["error"].startswith("2 questions without an answer, the first: unreadable")
    assert "refuses: HTTP 401" in said[2]["error"] and len(server.requests) == 4
    rows = [json.loads(row) for row in (tmp_path / "raw.jsonl").read_text().splitlines()]
    assert [row["text"] for row in rows][:3] == ["12", "12", "hm"]
    with pytest.raises(SetupError, match="refuses: HTTP 401"):
        look(own, pictures)
    assert len(server.requests) == 4


def test_nobody_waits_for_a_slow_answer(serve, tmp_path):
    """So that those of a batch that is killed are on record."""
    server = serve(lambda n, body: 1.0 if "how many" in str(body) else "12")
    asked = [Query(picture(tmp_path, ITEM), text) for text in ("how many?", "how old?")]
    answers = endpoint(server, attempts=1, timeout=0.4).ask(asked)
    query, answer = next(answers)
    assert (query, answer.text) == (asked[1], "12")
    answers.close()


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
    assert ask(judge, [Query(picture(tmp_path, ITEM), "how many?")])[0].text == "3"


def test_a_recorded_answer_is_a_text(tmp_path):
    first = json.dumps({"item": "7", "question": "how many?", "answer": "two\u2028or three"}, ensure_ascii=False)
    for answer in ("true", "3", "null", '["yes"]'):
        row = f'{{"item": "7", "question": "how old?", "answer": {answer}}}'
        (tmp_path / "a.jsonl").write_text(f"{first}\n{row}\n", encoding="utf-8")
        with pytest.raises(DataError, match=r"a\.jsonl, line 2: no answer .*is no text"):
            Recorded(tmp_path / "a.jsonl", "people").open()


def test_what_cannot_change_is_asked_once(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"item": "7", "question": "how many?", "answer": "hm"}\n')
    judge = Recorded(tmp_path / "a.jsonl", "people")
    judge.open()
    (said,) = look(Answers(judge, lambda item: [("", "how many?")], digits), [picture(tmp_path, ITEM)])
    assert said["error"] == "unreadable: 'hm'" and len(said["raw"][0]) == 1


@pytest.mark.parametrize(
    ("url", "there"),
    [
        ("https://api.openai.com/v1", False),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://192.168.0.7:8000/v1", False),
        ("http://127.0.0.1:8000/v1", True),
        ("http://localhost:8000/v1", True),
        ("http://[::1]:8000/v1", True),
    ],
)
def test_offline_a_judge_elsewhere_is_a_missing_need(monkeypatch, url, there):
    need = AnyJudge("wise@legacy", JudgeConfig(endpoint=EndpointConfig(model="m", url=url)))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert (need.find() is not None) == there and (url in need.name) != there and ("--offline" in need.remedy) != there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert need.find() is not None


def test_one_judge_at_a_time(tmp_path):
    assert choose(JudgeConfig(), Official(("m",))) is None
    with pytest.raises(UsageError, match="answers, endpoint"):
        choose(JudgeConfig(answers=tmp_path, endpoint=EndpointConfig(model="m")), Official(("m",)))
