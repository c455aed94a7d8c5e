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


def report(
    protocol: str,
    found: int = 2212,
    identity: str = "a",
    prompts: str = "p",
    n: int = 4,
    expected: int | None = None,
    whose: str = "x",
    tier: str = "standard",
    file: str = "",
) -> Report:
    value = 0.5
    tasks = {t: Score(score=value, interval=(0.4, 0.6), prompts=9, images=36) for t in TASKS}
    whole = tasks["counting"]
    judged = tables.family(protocol) == "geneval"
    result = Result(
        protocol=protocol,
        value=value,
        interval=(0.4, 0.6),
        found=found,
        expected=expected or found,
        status="partial" if expected else "scored",
        tier=tier,
        tasks=tasks if judged else {},
        overall=whole if judged else None,
        identity={"detections": {"detector": identity, "file": file}},
    )
    return Report(
        subject=Subject(source=whose),
        setting=Setting(prompt_set="s", prompts=553, prompts_sha256=prompts, n=n, seed=0),
        found=found,
        expected=expected or found,
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
        (report("geneval@hf", found=2200), r"images \(2212 of 2212 and 2200 of 2200\)"),
        (report("geneval@hf", expected=2213), r"images \(2212 of 2212 and 2212 of 2213\)"),
        (report("geneval@hf", n=2), r"images per prompt \(4 and 2\)"),
        (report("geneval@hf", identity="b"), "judge"),
        (report("geneval@hf", prompts="q"), "prompts"),
        (report("geneval@official"), r"protocol \(geneval@hf and geneval@official\)"),
    ],
)
def test_what_differs_shares_no_table(other, told):
    both = {"m": report("geneval@hf"), "other": other}
    for make in (lambda: tables.protocol_table(both, "geneval"), lambda: tables.summary_table(both)):
        with pytest.raises(UsageError, match=f"m and other share no column: they differ in {told}"):
            make()


def test_a_whole_name_is_that_protocol_alone():
    with pytest.raises(UsageError, match="other: no score of 'geneval@hf'"):
        tables.protocol_table({"m": report("geneval@hf"), "other": report("geneval@official")}, "geneval@hf")


def test_recorded_detections_are_of_other_pictures_and_not_of_another_judge():
    both = {name: report("geneval@official", file=name) for name in ("m", "other")}
    assert len(tables.protocol_table(both, "geneval@official").rows) == 2


def test_a_suite_is_called_as_its_user_calls_it():
    own = report("kid@effnet-lite0")
    for suite in ("kid", "kid@effnet-lite0"):
        assert tables.protocol_table({"m": own}, suite).columns == ("Model", "kid@effnet-lite0")
    other = report("wise@legacy+my-judge")
    assert tables.protocol_table({"m": other}, "wise@legacy").columns[-1] == "wise@legacy+my-judge"
    for wrong in ("ki", "kid@inception", "wise"):
        with pytest.raises(UsageError, match="no score"):
            tables.protocol_table({"m": own}, wrong)


def test_one_protocol_in_two_settings_has_a_table_each(tmp_path):
    both = report("geneval@hf")
    both.results["geneval@hf+threshold0.2"] = report("geneval@hf+threshold0.2").results["geneval@hf+threshold0.2"]
    tables.write(tmp_path, "m", both)
    assert {path.stem for path in tmp_path.glob("*.csv")} == set(both.results)
    assert tables.protocol_table({"m": both}, "geneval@hf").notes[0].startswith("geneval@hf (")
    with pytest.raises(UsageError, match=r"'geneval' is geneval@hf and geneval@hf\+threshold0.2 here"):
        tables.protocol_table({"m": both}, "geneval")


def test_a_column_holds_one_protocol_and_one_number():
    rows = {"a": report("fid@sana-512", 30_000), "b": report("clip@sana", 30_000), "c": report("geneval@hf")}
    table = tables.summary_table(rows)
    assert table.columns == ("Methods", "NFEs", "FID", "CLIP", "GenEval")
    assert [row[:2] for row in table.rows] == [("a + b + c", "1")], "the same model"
    assert "FID: fid@sana-512 (FID-30K), tier: standard" in table.notes
    for other in (report("fid@clean", 30_000), report("fid@sana-512", 29_999)):
        with pytest.raises(UsageError, match="a and d share no column"):
            tables.summary_table({**rows, "d": other})


def test_no_row_and_no_number_is_lost():
    rows = {
        "a": report("fid@clean", 30_000),
        "b": report("fid@clean", 30_000),  # of another seed
        "c": report("clip@sana", 30_000, whose="y"),
        "d": report("geneval@hf"),
    }
    assert [[name, *(cell != "-" for cell in cells)] for name, _, *cells in tables.summary_table(rows).rows] == [
        ["a + d", True, False, True],
        ["b", True, False, False],
        ["c", False, True, False],
    ]
    both = rows["a"].results | report("fid@sana-512", 30_000).results
    with pytest.raises(UsageError, match="'fid' is fid@clean and fid@sana-512 here"):
        tables.summary_table({"a": rows["a"].model_copy(update={"results": both})})
    with pytest.raises(UsageError, match="m: no score of FID, CLIP or GenEval"):
        tables.summary_table({**rows, "m": report("ocr")})


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


def test_csv_says_what_the_notes_say():
    table = tables.protocol_table({"m": report("kid@effnet-lite0", 50, expected=52, tier="lite")}, "kid")
    assert table.notes[0] == "kid@effnet-lite0 (N = 50), tier: lite, not comparable, partial: 50 of 52"
    (row,) = csv.DictReader(io.StringIO(tables.to_csv(table)))
    assert {key: row[key] for key in ("protocol", "N", "expected", "tier")} == {
        "protocol": "kid@effnet-lite0",
        "N": "50",
        "expected": "52",
        "tier": "lite, not comparable",
    }
    rows = {"a": report("fid@clean", 30_000), "b": report("geneval@hf", tier="paper")}
    (row,) = csv.DictReader(io.StringIO(tables.to_csv(tables.summary_table(rows))))
    assert row["FID N"] == "30000" and row["GenEval protocol"] == "geneval@hf" and row["GenEval tier"] == "paper"


def test_rewritten_prompts_are_told():
    (runs,) = [t for t in published.of("geneval") if any(row.rewritten for row in t.rows)]
    names = [name for name, *_ in tables.published_table(runs).rows]
    assert "Qwen-Image (plain prompts) [published]" in names
    assert "Qwen-Image (rewritten prompts) [published]" in names
    assert len(set(names)) == len(names)


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


def test_the_command_tells_equal_names_apart(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place in ("before", "after"):
        (tmp_path / place / "X").mkdir(parents=True)
        report("geneval@hf", whose=place).save(tmp_path / place / "X")
    for suite in ([], ["--suite", "geneval"]):
        assert app.main(["eval", "table", "before/X", "after/X", *suite, "--json"]) == 0
        (table,) = json.loads(capsys.readouterr().out)
        assert [row[0] for row in table["rows"]] == ["before/X", "after/X"]
        assert table["rows"][0][-1] == "0.500 [0.400, 0.600]"
    assert app.main(["eval", "table", "before/X", "before/../before/X"]) == 2
    assert app.main(["eval", "table", "before/X"]) == 0


def test_the_command_plans(capsys):
    assert app.main(["eval", "plan", "0.02"]) == 0
    assert "553 prompts x 4" in capsys.readouterr().out
    assert app.main(["eval", "plan", "0.02", "--suite", "shapes", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert sum(document["design"]["prompts"].values()) == 260
    assert all(choice["detectable"] <= 0.02 for choice in document["choices"])
