"""How `apex train --plan` shows a plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from apex_cli.commands._ui import emit, size, table

if TYPE_CHECKING:
    from apex_cli.recipe import Recipe
    from apex_cli.training.plan import Compute, Plan


def show_plan(recipe: Recipe, ranks: int, mfu: float, as_json: bool) -> None:
    """Print the plan of a recipe, with the whole resolved recipe in JSON and its unusual settings in text."""
    from apex_cli import build

    plan = build.plan(recipe, ranks, mfu)
    if as_json:
        emit({"estimate": True, "recipe": recipe.sections(), **asdict(plan)})
        return
    typer.echo(_short(recipe))
    _tables(plan)
    for line in plan.assumptions:
        typer.echo(f"* {line}")


def _short(recipe: Recipe) -> str:
    """The settings that the recipe names, as TOML."""
    import tomli_w

    def named(section: Any) -> dict[str, Any]:
        return section.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    chosen = {kind: getattr(recipe, kind) for kind in ("backbone", "objective", "data")}
    tables = {kind: {"name": choice.name, **named(choice.config)} for kind, choice in chosen.items()}
    return tomli_w.dumps({**tables, "train": named(recipe.train), "sample": named(recipe.sample)})


def _tables(plan: Plan) -> None:
    g, p = plan.geometry, plan.parameters
    typer.echo(f"Batch {g.batch} = {g.ranks} rank(s) x {g.forwards} x {g.micro_batch}, {g.tokens} prompt tokens\n")
    rows = [(name, f"{count:,}") for name, count in p.total.items()]
    table(("PARAMETERS", ""), [*rows, ("all", f"{sum(p.total.values()):,}"), ("trained", f"{p.trainable:,}")])
    table(("\nCOMPUTE OF A STEP", ""), _compute(plan.compute))
    memory = [(name, size(n)) for name, n in plan.memory.items()]
    table(("\nMEMORY OF A RANK (ESTIMATE)", ""), [*memory, ("all", size(sum(plan.memory.values())))])
    table(("\nDISK (ESTIMATE)", ""), [(name, size(n)) for name, n in plan.disk.items()])
    t = plan.duration
    table(
        ("\nTIME (ESTIMATE)", ""),
        [
            ("matrix products here", f"{t.rate / 1e9:,.1f} GFLOP/s"),
            ("assumed efficiency", f"{t.mfu:.0%}"),
            ("step", f"{t.step:.3g} s"),
            ("all steps", f"{t.run / 3600:.2f} h"),
        ],
    )


def _compute(compute: Compute) -> list[tuple[str, str]]:
    asked = compute.evaluations
    rows = [("FLOPs", f"{compute.step:.3e}")]
    rows += [(f"{name}, in forwards F", f"{units:.2f}") for name, units in compute.in_forwards.items()]
    rows += [
        ("together, in forwards F", f"{sum(compute.in_forwards.values()):.2f}"),
        ("evaluations with gradient", f"{asked.with_gradient:g}"),
        ("evaluations without gradient", f"{asked.without_gradient:g}"),
    ]
    return rows if compute.times_fm is None else [*rows, ("times plain flow matching", f"{compute.times_fm:.3f}")]
