"""`apex eval`: what a model or a folder of images scores, alone or against another one on the same prompts."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._eval_assets import bring_in, make_reference, prepare
from apex_cli.commands._eval_settings import Set, settings
from apex_cli.commands._eval_tables import plan, show_table
from apex_cli.commands._options import checked
from apex_cli.commands._ui import Json, emit, say

if TYPE_CHECKING:
    from apex_cli.errors import ApexError
    from apex_cli.evaluation.jobs import Source
    from apex_cli.evaluation.ledger import Shard

app = typer.Typer(
    invoke_without_command=True,
    rich_markup_mode=None,
)

app.command("table")(show_table)
app.command("plan")(plan)
app.command("prepare")(prepare)
app.command("import")(bring_in)
app.command("reference")(make_reference)


@app.callback()
def evaluate(
    ctx: typer.Context,
    ckpt: Annotated[
        str | None, typer.Option(help="Run, checkpoint, or assets:NAME.  [default: the shipped one-step student]")
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Instead: a baseline such as flux-schnell, or any diffusers hub id or folder.")
    ] = None,
    images: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Instead: images that are there, ID.png or as GenEval's.")
    ] = None,
    suite: Annotated[str, typer.Option(help="Protocols, separated by commas, e.g. shapes,kid,ocr.")] = "shapes",
    split: Annotated[
        str | None, typer.Option(help="Of shapes: iid, compose (held-out pairs), long, alias or train.  [default: iid]")
    ] = None,
    nfe: Annotated[
        list[int] | None, typer.Option(help="Evaluations per image; may be repeated.  [default: the model's]")
    ] = None,
    sampler: Annotated[str | None, typer.Option(help="euler, heun or renoise.  [default: the checkpoint's]")] = None,
    guidance: Annotated[float | None, typer.Option(help="Guidance scale, 1 for none.  [default: likewise]")] = None,
    n: Annotated[int | None, typer.Option("--n", help="Images per prompt.  [default: the suite's]")] = None,
    prompts: Annotated[int | None, typer.Option(help="Only so many prompts, spread over the tasks.")] = None,
    seed: Annotated[int, typer.Option(help="Image k of prompt i depends on (seed, i n + k), so on --n too.")] = 0,
    batch: Annotated[int, typer.Option(help="Images per forward; they are the same but for rounding.")] = 32,
    shard: Annotated[
        str | None,
        typer.Option(metavar="I/N", help="Worker I of N, from 1/N to N/N, on one storage.  [default: torchrun's rank]"),
    ] = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="OTHER", help="Another checkpoint as it is sampled, or an evaluation's folder."),
    ] = None,
    certify: Annotated[bool, typer.Option("--certify", help="Also score truth and shuffled prompts.")] = False,
    min_overall: Annotated[float | None, typer.Option(help="Exit with 9 if an overall score is below.")] = None,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no network; what lacks a file is skipped.")] = False,
    require: Annotated[str | None, typer.Option(help="Suites, by commas, whose being skipped is an error (4).")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder for evaluations.  [default: RUN/evals or evals]")] = None,
    overrides: Set = None,
    as_json: Json = False,
) -> None:
    """Draw or read images, judge them under named protocols and report. The same command again continues.

    A suite that gives up leaves the others alone, and its own exit code in the end. Further codes: 3 if every suite was
    skipped, 4 if one of --require was, 9 below --min-overall.
    """
    if ctx.invoked_subcommand is not None:
        return
    if offline:  # before any library reads them
        os.environ |= dict.fromkeys(("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE"), "1")
    from apex_cli.build import evaluation
    from apex_cli.commands import _evaluation as shown
    from apex_cli.errors import UsageError
    from apex_cli.evaluation.settings import EvalConfig

    config = checked(EvalConfig, suite=suite, n=n, prompts=prompts, seed=seed, batch=batch)
    changes = settings([*(overrides or []), *([f"shapes.split={split}"] if split else [])])
    of_model = changes.pop("model", {})
    asked = evaluation.protocols(config.names, changes)
    protocols = evaluation.distinct(asked)
    required = evaluation.required(require or "", asked)
    if compare:
        evaluation.require_comparable(compare)
    sources = _sources(ckpt, model, images, nfe, sampler, guidance, of_model, out)
    worker = _worker(shard)
    done = [e for source in sources for e in shown.run(source, protocols, config, worker, certify)]
    if not done:
        say("This worker is done; the others are not. The last one, or the same command without --shard, reports.")
        return
    others = shown.others(compare, protocols, config, out, certify) if compare else []
    errors: list[ApexError] = [failure.error for e in (*done, *others) for failure in e.failures]
    comparisons = []
    try:
        comparisons = shown.compared(done, others)
    except UsageError as error:  # told after the numbers
        errors.append(error)
    verdict = shown.verdict(done, errors, min_overall, required)
    if as_json:
        emit(shown.document([*done, *others], comparisons, verdict))
    else:
        shown.show([*done, *others], comparisons)
    verdict.leave(quiet=as_json)


def _sources(
    ckpt: str | None,
    model: str | None,
    images: Path | None,
    nfe: list[int] | None,
    sampler: str | None,
    guidance: float | None,
    of_model: dict[str, Any],
    out: Path | None,
) -> list[Source]:
    """One source for each number of evaluations."""
    from dataclasses import replace

    from apex_cli.build import evaluation
    from apex_cli.errors import UsageError
    from apex_cli.evaluation.baselines import StockPipeline, find
    from apex_cli.evaluation.jobs import Source
    from apex_cli.evaluation.painters import Checkpoint

    if sum(given is not None for given in (ckpt, model, images)) > 1:
        raise UsageError("Images come from one place.", "Give one of --ckpt, --model and --images.")
    if of_model and model is None:
        raise UsageError("--set model.KEY changes a --model, and there is none.", "Give --model too.")
    if (images or model) and (sampler or guidance is not None):
        raise UsageError(
            "--sampler and --guidance are for checkpoints.", "Use --set model.call.KEY=VALUE for a --model."
        )
    if images is not None:
        if nfe:
            raise UsageError("--nfe does not change images that are there.", "Leave it out.")
        images = images.resolve()
        return [Source(images.name, images, out or Path("evals"))]
    if model is not None:
        recipe = find(model, of_model)
        drawn = [recipe if count is None else recipe.with_nfe(count) for count in nfe or [None]]
        return [Source(one.name, StockPipeline(one), out or Path("evals")) for one in drawn]
    source = evaluation.source(ckpt, out)
    loaded = source.pictures.model
    samples = [loaded.sample.changed(count, sampler, guidance) for count in nfe or [None]]
    return [replace(source, pictures=Checkpoint(replace(loaded, sample=sample))) for sample in samples]


def _worker(shard: str | None) -> Shard:
    from apex_cli.evaluation.ledger import Shard, parse_shard

    if shard is not None:
        return parse_shard(shard)
    return Shard(int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1)))
