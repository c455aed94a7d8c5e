"""`apex data`: look at a data set before training does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from apex_cli.commands._ui import Json, Overrides, emit, say, table

if TYPE_CHECKING:
    from apex_cli.data.checks.rules import Limits
    from apex_cli.data.checks.samples import Source
    from apex_cli.recipe import Recipe

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def data() -> None:
    """Check a data set."""


@app.command()
def check(
    path: Annotated[
        Path | None,
        typer.Argument(
            help="A folder of pictures with captions, of tar shards or of Parquet files, a Parquet file, or what "
            "`datasets` saved.  [default: what [data] of --recipe reads]"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the report.  [default: checks/NAME]")] = None,
    column: Annotated[
        str | None, typer.Option(help="Captions in a table or metadata file.  [default: the recipe's, text or prompt]")
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(help="Count tokens with it: a pipeline or tokenizer folder, assets:NAME or a hub id."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a caption that are kept.  [default: the recipe's, or 300]")
    ] = None,
    min_side: Annotated[
        int | None, typer.Option(min=1, help="Tiny is a shorter side below.  [default: the recipe's resolution, or 64]")
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(help="Take tokenizer, length, resolution and column from this recipe, without PATH the set too."),
    ] = None,
    overrides: Overrides = [],  # noqa: B006
    as_json: Json = False,
) -> None:
    """Read every sample of a set as training would, and name what is broken, odd or repeated; exits with 3 if a sample
    is broken.

    Writes report.json, quarantine.jsonl (all that is broken), remarks.jsonl and index.html (thumbnails by reason). The
    set is not touched. Without a tokenizer words are counted, each of which is a token or more.
    """
    from apex_cli.commands._progress import show
    from apex_cli.data.checks import report, run
    from apex_cli.errors import DataError, UsageError

    if overrides and not recipe:
        raise UsageError("--set changes a recipe.", "Give one: --recipe.")
    read = _load(recipe, overrides) if recipe else None
    limits = _limits(read, tokenizer, max_tokens, min_side)
    source, name = _source(path, column, read)
    folder = out or Path("checks") / (Path(name).resolve().name or "root")
    if path and folder.resolve().is_relative_to(path.resolve()):
        raise UsageError(f"'{folder}' lies inside the set, which a check leaves as it is.", "Choose another --out.")
    show(run.check(source, name, folder, limits))
    found = report.read_report(folder)
    if as_json:
        emit(found | {"page": str(folder / report.PAGE), "quarantine": str(folder / report.QUARANTINE)})
    else:
        _show(found)
        typer.echo(folder / report.PAGE)
    if found["broken"]:
        if not as_json:
            say(f"-> Mend or remove what {folder / report.QUARANTINE} names.")
        raise typer.Exit(DataError.exit_code)


def _load(recipe: str, overrides: list[str]) -> Recipe:
    from apex_cli import recipe as recipes

    return recipes.load(recipe, overrides)


def _source(path: Path | None, column: str | None, recipe: Recipe | None) -> tuple[Source, str]:
    """What is checked, and its name."""
    from apex_cli.errors import UsageError

    if path:
        from apex_cli.data.checks.sources import open_source

        named = recipe and getattr(recipe.data.config, "caption_column", None)
        return open_source(path, column or named), str(path)
    if recipe is None:
        raise UsageError("There is nothing to check.", "Give a folder or file, or --recipe with [data].")
    if column:
        raise UsageError("--column is for a path.", "With a recipe alone: --set data.caption_column=NAME.")
    from apex_cli import build

    return build.checked(recipe), recipe.name


def _limits(recipe: Recipe | None, tokenizer: str | None, tokens: int | None, side: int | None) -> Limits:
    """Those of the options over those of the recipe over the defaults."""
    from apex_cli.data.checks.rules import Limits

    given: dict[str, Any] = {}
    if recipe:
        from apex_cli import build
        from apex_cli.backbones import tokenizers

        model = build.skeleton(recipe.backbone.name, recipe.backbone.config)
        given |= {"side": model.config.resolution, "tokens": model.config.max_tokens}
        given["count"] = tokenizers.counter(tokenizers.longest(model.pipeline))
    if tokenizer:
        from apex_cli.backbones import tokenizers

        given["count"] = tokenizers.counter(tokenizers.load(tokenizer))
    chosen: dict[str, Any] = {"side": side, "tokens": tokens}
    return Limits(**given | {name: value for name, value in chosen.items() if value is not None})


def _show(found: dict[str, Any]) -> None:
    rows = [
        ("broken" if row["broken"] else "remark", reason, row["count"], ", ".join(row["first"][:3]))
        for reason, row in found["reasons"].items()
    ]
    if rows:
        table(("", "REASON", "SAMPLES", "FIRST"), rows)
    typer.echo(f"{found['broken']} of {found['samples']} samples are broken ({found['share']:.2%}).")
