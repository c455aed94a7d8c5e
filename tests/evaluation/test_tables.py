"""Tables in the paper's columns; what must not share one is refused; numbers of others carry their source."""

from __future__ import annotations

import csv
import io
import json
import re

import pytest

from apex_cli import app
from apex_cli.errors import UsageError
from apex_cli.evaluation import published, tables
from apex_cli.evaluation.records import Report, Result, Score, Setting, Subject

TASKS = ("single_object", "two_object", "counting", "colors", "position", "color_attr")


def report(protocol: str, found: int = 2212, identity: str = "a", prompts: str = "p", value: float = 0.5) -> Report:
    tasks = {t: Score(score=value, interval=(0.4, 0.6), prompts=9, images=36) for t in TASKS}
    whole = tasks["counting"]
    judged = tables.family(protocol) == "geneval"
    result = Result(
        protocol=protocol,
        value=value,
        interval=(0.4, 0.6),
        found=found,
        expected=found,
        tasks=tasks if judged else {},
        overall=whole if judged else None,
        identity={"detector": identity},
    )
    return Report(
        subject=Subject(source="x"),
        setting=Setting(prompt_set="s", prompts=553, prompts_sha256=prompts, n=4, seed=0),
        found=found,
        expected=found,
        results={protocol: result},
        nfe_counted=1,
        versions={},
        hardware={},
    )


def test_columns_are_those_of_the_paper():
    table = tables.protocol_table({"m": report("geneval@hf")}, "geneval@hf")
    assert table.columns == ("Model", "Single Object", "Two Object", "Counting", "Colors", "Position",
                             "Attribute Binding", "Overall")  # fmt: skip
    assert table.rows == (("m", *("0.500",) * 6, "0.500 [0.400, 0.600]"),)
    (paper,) = [t for t in published.of("geneval") if t.label == "paper"]
    assert tables.published_table(paper).columns == table.columns


@pytest.mark.parametrize(
    ("other", "told"),
    [
        (report("geneval@official"), "no score of 'geneval@hf'"),
        (report("geneval@hf", found=2200), "images"),
        (report("geneval@hf", identity="b"), "judge"),
        (report("geneval@hf", prompts="q"), "prompts"),
    ],
)
def test_what_differs_shares_no_table(other, told):
    with pytest.raises(UsageError, match=told):
        tables.protocol_table({"m": report("geneval@hf"), "other": other}, "geneval@hf")


def test_a_column_holds_one_protocol_and_one_number():
    rows = [("a", report("fid@sana-512", 30_000)), ("a", report("clip@sana", 30_000)), ("a", report("geneval@hf"))]
    table = tables.summary_table(rows)
    assert table.columns == ("Methods", "NFEs", "FID", "CLIP", "GenEval")
    assert [row[:2] for row in table.rows] == [("a", "1")]
    assert "FID: fid@sana-512 (FID-30K)" in table.notes
    for other in (report("fid@clean", 30_000), report("fid@sana-512", 29_999)):
        with pytest.raises(UsageError, match="share no column"):
            tables.summary_table([*rows, ("b", other)])


def test_below_30000_images_nothing_is_fid_30k():
    assert "30K" not in tables.title("fid@sana-512", 29_999)
    assert tables.title("fid@sana-512", 29_999) == "fid@sana-512 (N = 29,999)"
    assert "30K" in tables.title("fid@sana-512", 30_000)
    assert "30K" not in tables.title("kid", 30_000)


def test_forms_hold_the_same_cells():
    table = tables.Table(("a & b", "c"), (("x|y", "1_0"), ("z", "50 %")), ("a note",))
    assert list(csv.reader(io.StringIO(tables.to_csv(table)))) == [["a & b", "c"], ["x|y", "1_0"], ["z", "50 %"]]
    assert "| x\\|y | 1_0 |" in tables.to_markdown(table)
    latex = tables.to_latex(table).splitlines()
    assert latex == ["% a note", r"a \& b & c \\", r"\midrule", r"x|y & 1\_0 \\", r"z & 50 \% \\"]


def test_every_published_number_has_a_source_and_no_other_label():
    for table in published.tables():
        assert table.source
        assert table.protocol
        assert table.label in ("paper", "published")
        assert all(row.values.keys() <= set(table.columns) for row in table.rows)


def test_rows_of_the_paper():
    (one,) = published.of("table1")
    assert len(one.rows) == 33
    apex = {(row.method, row.nfe): row.values for row in one.rows if row.method.startswith("APEX")}
    assert apex["APEX 0.6B", 1] == {"fid": 6.99, "clip": 28.36, "geneval": 0.84}
    assert apex["APEX 20B", 1]["geneval"] == 0.89
    (geneval,) = [t for t in published.of("geneval") if t.label == "paper"]
    for row in geneval.rows:
        tasks = [row.values.get(task) for task in TASKS]
        if None not in tasks:
            assert sum(tasks) / 6 == pytest.approx(row.values["overall"], abs=0.0151), row.method


def test_doubtful_cells_are_flagged():
    doubts = {(t.name, row.method) for t in published.tables() for row in t.rows if row.doubt}
    assert {("wise", "Show-o"), ("wise", "VILA-U"), ("dpg", "SD3.5-Medium"), ("dpg", "Playground v3")} <= doubts
    (wise,) = [t for t in published.of("wise") if t.label == "paper"]
    show_o = next(row for row in wise.rows if row.method == "Show-o")
    other = next(row for t in published.of("geneval") for row in t.rows if row.method == "Show-o")
    assert list(show_o.values.values()) == list(other.values.values())


def test_the_command_shows_the_published_block(capsys):
    assert app.main(["eval", "table", "--published", "--suite", "geneval@hf", "--form", "md"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"APEX 0\.6B \(1-NFE\) \[paper\].*0\.84", out)
    assert app.main(["eval", "table", "--published", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["columns"][:2] == ["Methods", "NFEs"]
    assert app.main(["eval", "table"]) == 2
    assert app.main(["eval", "table", "--published", "--suite", "nothing"]) == 2


def test_the_command_plans(capsys):
    assert app.main(["eval", "plan", "0.02"]) == 0
    assert "553 prompts x 4" in capsys.readouterr().out
    assert app.main(["eval", "plan", "0.02", "--suite", "shapes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(document["design"]["prompts"].values()) == 260
    assert all(choice["detectable"] <= 0.02 for choice in document["choices"])
