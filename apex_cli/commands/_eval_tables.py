"""`apex eval table` and `apex eval plan`: numbers beside each other, and how many of them one needs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._ui import Json, emit, table

if TYPE_CHECKING:
    from apex_cli.evaluation.tables import Table

FORMS = "text, csv, md or tex"


def show_table(
    folders: Annotated[list[Path] | None, typer.Argument(help="Finished evaluations.", show_default=False)] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            help="One, e.g. geneval or fid@clean.  [default: FID, CLIP and GenEval, as the paper's Table 1]",
        ),
    ] = None,
    published: Annotated[
        bool, typer.Option("--published", help="Also what others published, in its own block.")
    ] = False,
    form: Annotated[str, typer.Option(help=f"{FORMS}; the columns are the paper's.")] = "text",
    as_json: Json = False,
) -> None:
    """Put evaluations into one table. Unequal protocols, judges, prompts or numbers of images are refused."""
    from dataclasses import asdict

    from apex_cli.errors import UsageError
    from apex_cli.evaluation import tables
    from apex_cli.evaluation.records import read_report

    if form not in ("text", *tables.FORMS):
        raise UsageError(f"--form: there is no '{form}'.", f"Choose {FORMS}.")
    reports = {name: read_report(folder) for name, folder in told_apart(folders or []).items()}
    drawn = []
    if reports:
        drawn.append(tables.protocol_table(reports, suite) if suite else tables.summary_table(reports))
    if published:
        drawn += _published(suite)
    if not drawn:
        raise UsageError("There is nothing to show.", "Give folders of evaluations, or --published.")
    if as_json:
        emit([asdict(one) for one in drawn])
        return
    for one in drawn:
        _print(one) if form == "text" else typer.echo(tables.FORMS[form](one))


def told_apart(folders: Sequence[Path]) -> dict[str, Path]:
    """Each by as many of its last parts as tell all of them apart."""
    from apex_cli.errors import UsageError

    paths = [folder.resolve() for folder in folders]
    if len(set(paths)) < len(paths):
        raise UsageError("An evaluation is named twice.", "Name each once.")
    parts = next(n for n in count(1) if len({path.parts[-n:] for path in paths}) == len(paths))
    return {str(Path(*path.parts[-parts:])): folder for path, folder in zip(paths, folders, strict=True)}


def _published(suite: str | None) -> list[Table]:
    from apex_cli.errors import UsageError
    from apex_cli.evaluation import published, tables

    name = tables.family(suite) if suite else "table1"
    found = published.of(name)
    if not found:
        known = ", ".join(dict.fromkeys(t.name for t in published.tables()))
        raise UsageError(f"Nothing published is known of '{suite}'.", f"Known: {known}.")
    return [tables.published_table(one) for one in found]


def _print(one: Table) -> None:
    table(one.columns, one.rows)
    for note in one.notes:
        typer.echo(note)
    typer.echo()


def plan(
    difference: Annotated[float, typer.Argument(help="The difference of two models that is to be seen, e.g. 0.02.")],
    suite: Annotated[str, typer.Option(help="Whose prompts: shapes or geneval.")] = "geneval",
    score: Annotated[float, typer.Option(min=0.01, max=0.99, help="About what the models score.")] = 0.8,
    correlation: Annotated[
        float, typer.Option(min=0, max=1, help="Of two images of one prompt; an evaluation measures it.")
    ] = 0.5,
    shared: Annotated[
        float, typer.Option(min=0, max=0.99, help="Of the two models over prompts; 0 if prompts or seeds differ.")
    ] = 0.2,
    like: Annotated[
        Path | None, typer.Option(metavar="EVALUATION", help="Take tasks, scores and correlation from this one.")
    ] = None,
    as_json: Json = False,
) -> None:
    """How many prompts and images a wanted difference needs, and what the benchmark as it is can see."""
    from dataclasses import asdict, replace

    from apex_cli.errors import UsageError
    from apex_cli.evaluation.power import choices

    if difference <= 0:
        raise UsageError("The wanted difference must be above 0.", "Try: apex eval plan 0.02")
    design = _design(suite, score, correlation, shared, like)
    found = choices(design, difference)
    asked = {"detectable": design.detectable(), "power": design.power(difference)}
    if as_json:
        rows = [asdict(choice) | {"images": choice.images} for choice in found]
        emit({"difference": difference, "design": asdict(design), "as_it_is": asked, "choices": rows})
        return
    prompts, error = sum(design.prompts.values()), design.standard_error()
    typer.echo(
        f"{like or suite} as it is, {prompts} prompts x {design.n}: a score has a standard error of {error:.4f} "
        f"(95 % interval +-{1.96 * error:.3f})."
    )
    typer.echo(
        f"Two models on the same prompts show differences from {asked['detectable']:.3f} in 80 % of cases, "
        f"and {difference:g} in {asked['power']:.0%}."
    )
    alone = replace(design, shared=0.0)
    typer.echo(f"Without pairing (other prompts or seeds): from {alone.detectable():.3f}.\n")
    columns = (f"TO SEE {difference:g}", "IMAGES EACH", "IMAGES", "DETECTABLE", "POWER")
    table(columns, [(f"{c.prompts} prompts", c.n, c.images, f"{c.detectable:.4f}", f"{c.power:.0%}") for c in found])


def _design(suite: str, score: float, correlation: float, shared: float, like: Path | None) -> Any:
    from apex_cli.errors import UsageError
    from apex_cli.evaluation.power import Design
    from apex_cli.evaluation.records import read_report

    if like is not None:
        results = [(r, r.overall) for r in read_report(like).results.values() if r.overall]
        if not results:
            raise UsageError(f"'{like}' has no scores of single images.", "Give an evaluation of shapes or geneval.")
        first, overall = results[0]
        parted = sum(s.prompts for s in first.tasks.values()) == overall.prompts
        tasks = first.tasks if parted else {first.protocol: overall}  # a category of DPG-Bench is no task
        prompts = {tag: s.prompts for tag, s in tasks.items()}
        scores = {tag: s.score / first.scale for tag, s in tasks.items()}
        n = round(overall.images / overall.prompts)
        measured = overall.correlation
        found = correlation if measured is None else max(measured, 0.0)
        return Design(prompts, n, score, found, shared, scores, first.weights)
    return Design(_tasks(suite), 4, score, correlation, shared)


def _tasks(suite: str) -> dict[str, int]:
    """Task -> prompts."""
    from collections import Counter

    from apex_cli.errors import UsageError
    from apex_cli.evaluation.geneval_prompts import suite as geneval
    from apex_cli.worlds.shapes.grammar import prompts

    if suite == "geneval":
        return dict(Counter(row["tag"] for row in geneval()))
    if suite == "shapes":
        return dict(Counter(prompt.tag for prompt in prompts("iid")))
    raise UsageError(f"--suite: no plan for '{suite}'.", "Choose geneval or shapes, or give --like EVALUATION.")
