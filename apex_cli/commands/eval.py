"""`apex eval`: what a model scores, alone or against another one on the same prompts and seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._options import checked, sampling
from apex_cli.commands._ui import Json, emit, say, stderr, table

if TYPE_CHECKING:
    from apex_cli.build import Model
    from apex_cli.evaluation.compare import Comparison
    from apex_cli.evaluation.records import Report
    from apex_cli.evaluation.settings import EvalConfig


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: `name` for people, e.g. `shapes_student 1 NFE`."""

    name: str
    folder: Path
    report: Report


def evaluate(
    ckpt: Annotated[
        str | None, typer.Option(help="Run, checkpoint, or assets:NAME.  [default: the shipped one-step student]")
    ] = None,
    suite: Annotated[str, typer.Option(help="What to evaluate on.")] = "shapes",
    split: Annotated[str, typer.Option(help="iid, compose (held-out pairs), long, alias or train.")] = "iid",
    nfe: Annotated[
        list[int] | None, typer.Option(help="Evaluations per image; may be repeated.  [default: the checkpoint's]")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun or renoise.  [default: the checkpoint's]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 for none.  [default: likewise]")] = None,
    images: Annotated[int, typer.Option(help="Images per prompt.")] = 4,
    prompts: Annotated[int | None, typer.Option(help="Only so many prompts, spread over the tasks.")] = None,
    seed: Annotated[int, typer.Option(help="Image k of prompt i depends on (seed, i, k) alone.")] = 0,
    batch: Annotated[int, typer.Option(help="Images per forward; does not change the images.")] = 32,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER", help="Another model at its own settings, or an evaluation's folder.")
    ] = None,
    certify: Annotated[bool, typer.Option("--certify", help="Also score truth and shuffled prompts.")] = False,
    min_overall: Annotated[float | None, typer.Option(help="Exit with 9 if an overall score is below.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluations.  [default: RUN/evals or evals]")] = None,
    as_json: Json = False,
) -> None:
    """Generate, judge and report. The same command again continues where it was stopped."""
    from apex_cli import build
    from apex_cli.evaluation.settings import EvalConfig
    from apex_cli.registry import resolve

    resolve("suite", suite)  # so that a mistyped name gets a suggestion
    config = checked(EvalConfig, suite=suite, split=split, images=images, prompts=prompts, seed=seed, batch=batch)
    model = build.ready(ckpt or build.SHIPPED_STUDENT)
    samples = [sampling(model.sample, n, sampler, guidance) for n in nfe or [None]]
    done = [_run(replace(model, sample=sample), config, out, certify) for sample in samples]
    other = _other(compare, config, out, certify) if compare else None
    comparisons = [_compare(one, other) for one in done] if other else []
    missed = [e.name for e in done if min_overall is not None and e.report.overall.score < min_overall]
    if as_json:
        emit(_document([*done, other] if other else done, comparisons, missed))
        if missed:
            raise typer.Exit(9)
        return
    _show([*done, other] if other else done, comparisons)
    if missed:
        from apex_cli.errors import RegressionFound

        raise RegressionFound(
            f"Overall is below {min_overall:g}: {', '.join(missed)}.", "Look at the failures in gallery.html."
        )


def _other(place: str, config: EvalConfig, out: Path | None, certify: bool) -> Evaluated:
    """The second side of a comparison: read where it is an evaluation, made where it is a model."""
    from apex_cli import build
    from apex_cli.evaluation.records import REPORT, read_report

    folder = Path(place)
    if (folder / REPORT).is_file():
        return Evaluated(folder.name, folder, read_report(folder))
    return _run(build.ready(place), config, out, certify)


def _run(model: Model, config: EvalConfig, out: Path | None, certify: bool) -> Evaluated:
    """One evaluation with its progress on stderr."""
    from apex_cli.evaluation import gallery, run
    from apex_cli.registry import resolve

    label, home = _home(model.source)
    folder = (out or home) / run.folder_name(label, model.sample, config)
    name = f"{label} {model.sample.nfe} NFE"
    say(f"{name}: {folder}")
    suite = resolve("suite", config.suite)(config)
    report = _follow(run.evaluate(model, suite, config, folder, certify), name)
    gallery.write_gallery(folder)
    return Evaluated(name, folder, report)


def _home(source: Path) -> tuple[str, Path]:
    """A short name of a checkpoint, and where its evaluations go: into its run, never into the package."""
    from apex_cli.backbones.folders import ASSETS

    in_run = source.name.startswith("step-")
    label = f"{source.absolute().parent.name}-{source.name}" if in_run else source.name
    return label, source.parent / "evals" if in_run and ASSETS not in source.parents else Path("evals")


def _follow(events: Iterator[Any], name: str) -> Report:
    """Draw the progress and return the report, which comes last."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    live, event = stderr().is_terminal, None
    with Progress(*columns, console=stderr(), transient=True, disable=not live) as bar:
        task = bar.add_task(name, total=None)
        for event in events:
            if not hasattr(event, "phase"):
                continue
            bar.update(task, description=f"{name} · {event.phase}", completed=event.done, total=event.total)
            if not live and event.phase == "judge" and event.done * 4 % event.total < 4:
                say(f"{name}: {event.done}/{event.total} images")
    return event  # type: ignore[return-value]


def _compare(first: Evaluated, second: Evaluated) -> tuple[str, Comparison, Path]:
    from apex_cli.evaluation import compare, gallery

    comparison = compare.compare(first.folder, second.folder)
    page = gallery.write_comparison(comparison, (first.name, second.name))
    return f"{first.name} against {second.name}", comparison, page


def _document(
    evaluations: list[Evaluated], comparisons: list[tuple[str, Comparison, Path]], missed: list[str]
) -> dict[str, Any]:
    """The JSON document; `below` names the evaluations under --min-overall."""
    from apex_cli.evaluation.gallery import GALLERY

    return {
        "evaluations": [
            {
                "name": e.name,
                "folder": str(e.folder),
                "gallery": str(e.folder / GALLERY),
                **e.report.model_dump(mode="json"),
            }
            for e in evaluations
        ],
        "comparisons": [
            {"name": name, "gallery": str(page), **comparison.model_dump(mode="json")}
            for name, comparison, page in comparisons
        ],
        "below": missed,
    }


def _show(evaluations: list[Evaluated], comparisons: list[tuple[str, Comparison, Path]]) -> None:
    """One table with a column for each evaluation, a line for each comparison, and the paths."""
    from apex_cli.evaluation.gallery import GALLERY
    from apex_cli.evaluation.records import REPORT

    columns = [_column(e.report) for e in evaluations]
    rows = list(dict.fromkeys(name for column in columns for name in column))
    table(["", *(e.name for e in evaluations)], [[row, *(column.get(row, "-") for column in columns)] for row in rows])
    for name, comparison, page in comparisons:
        o = comparison.overall
        typer.echo(
            f"{name}: {o.difference:+.3f} [{o.interval[0]:+.3f}, {o.interval[1]:+.3f}], p = {o.p:.4f}; {o.wins} won, "
            f"{o.losses} lost, {o.ties} tied; differences from {comparison.detectable:.3f} can be seen\n{page}"
        )
    for e in evaluations:
        typer.echo(f"{e.folder / REPORT}\n{e.folder / GALLERY}")


def _column(report: Report) -> dict[str, str]:
    """What the table shows of a report: row -> cell."""
    scores = {**report.tasks, "overall": report.overall}
    cells = {name: f"{s.score:.3f} [{s.interval[0]:.3f}, {s.interval[1]:.3f}]" for name, s in scores.items()}
    cells["overall, GenEval rule"] = f"{report.overall.geneval:.3f}"
    if report.certificate:
        cells["truth / shuffled"] = f"{report.certificate.ceiling:.3f} / {report.certificate.floor:.3f}"
    measured = {"kernel distance": (report.kernel_distance, ".1f"), "seed diversity": (report.diversity, ".3f")}
    cells |= {name: "-" if value is None else format(value, spec) for name, (value, spec) in measured.items()}
    return cells | {
        "seconds per image": f"{report.seconds_per_image:.4f}",
        "NFE, counted": f"{report.nfe_counted:g}",
        "images": f"{report.found}/{report.expected}",
    }
