"""`apex recipes`: list, print and copy the recipes that ship with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from apex_cli.commands._ui import Json, emit, table

app = typer.Typer(help="List, print and copy the shipped recipes.", no_args_is_help=True, rich_markup_mode=None)

Name = Annotated[str, typer.Argument(help="Name of a shipped recipe, or a file.")]


@app.command()
def ls(as_json: Json = False) -> None:
    """List the shipped recipes with what each is for."""
    from apex_cli.recipe import header, recipe_folder, recipe_names

    rows = [(name, next(iter(header(recipe_folder() / f"{name}.toml")), "")) for name in recipe_names()]
    if as_json:
        emit([{"name": name, "description": description} for name, description in rows])
    else:
        table(("RECIPE", "DESCRIPTION"), rows)


@app.command()
def show(name: Name) -> None:
    """Print a recipe."""
    from apex_cli.recipe import find

    typer.echo(find(name).read_text(encoding="utf-8"), nl=False)


@app.command()
def cp(
    name: Name,
    dest: Annotated[Path, typer.Argument(help="File or folder to copy to.")] = Path(),
    force: Annotated[bool, typer.Option("--force", help="Write over an existing file.")] = False,
) -> None:
    """Copy a recipe, to change it."""
    from apex_cli.errors import UsageError
    from apex_cli.recipe import find

    source = find(name)
    target = dest / source.name if dest.is_dir() else dest
    if target.exists() and not force:
        raise UsageError(f"'{target}' exists already.", "Choose another name, or add --force to write over it.")
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(source.read_bytes())
    typer.echo(target)
