"""How `apex train --plan` shows a plan."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import typer

from apex_cli.commands._ui import emit, size, table

if TYPE_CHECKING:
    from apex_cli.recipe import Recipe
    from apex_cli.training.plan import Compute, Plan


def show_plan(recipe: Recipe, gpus: int, mfu: float, gpu: str | None, fit: str | None, as_json: bool) -> None:
    """Print the plan of a recipe, with the whole resolved recipe in JSON and its unusual settings in text; with `fit`,
    the changes that make it fit, and the plan with them."""
    from apex_cli import build

    found = build.fit(recipe, fit, gpus, mfu, gpu) if fit else None
    plan = found.plan if found else build.plan(recipe, gpus, mfu, gpu)
    if as_json:
        change = {"fit": {"room": found.room, "set": found.changes, "plans": found.tried}} if found else {}
        emit({"estimate": True, "recipe": recipe.sections(), **asdict(plan), "fits": plan.fits, **change})
        return
    typer.echo(_short(recipe))
    if found:
        flags = " ".join(f"--set {change}" for change in found.changes)
        typer.echo(f"Fits into {_gb(found.room)} with: {flags or 'nothing changed'}\n")
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
    table(("\nMEMORY OF A RANK (ESTIMATE)", ""), _memory(plan))
    table(("\nDISK (ESTIMATE)", ""), [(name, size(n)) for name, n in plan.disk.items()])
    t = plan.duration
    table(
        ("\nTIME (ESTIMATE)", ""),
        [
            (f"peak of {plan.gpu.name}" if plan.gpu else "matrix products here", f"{t.rate / 1e9:,.1f} GFLOP/s"),
            ("assumed efficiency", f"{t.mfu:.0%}"),
            ("step", f"{t.step:.3g} s"),
            ("all steps", f"{t.run / 3600:.2f} h"),
        ],
    )


def _compute(compute: Compute) -> list[tuple[str, str]]:
    asked = compute.evaluations
    rows = [("FLOPs", f"{compute.step:.3e}"), ("FLOPs of a sample", f"{compute.sample:.3e}")]
    rows += [(f"{name}, in forwards F", f"{units:.2f}") for name, units in compute.in_forwards.items()]
    rows += [
        ("together, in forwards F", f"{sum(compute.in_forwards.values()):.2f}"),
        ("evaluations with gradient", f"{asked.with_gradient:g}"),
        ("evaluations without gradient", f"{asked.without_gradient:g}"),
        ("graphs of a micro-batch", str(asked.graphs)),
    ]
    return rows if compute.times_fm is None else [*rows, ("times plain flow matching", f"{compute.times_fm:.3f}")]


def _memory(plan: Plan) -> list[tuple[str, str]]:
    memory, gpu = plan.memory, plan.gpu
    rows = [(name, size(n)) for name, n in memory.parts.items()]
    rows += [(f"{name}, in the machine's memory", size(n)) for name, n in memory.host.items()]
    rows.append(("peak, not all at once", f"{size(memory.peak)} ({_gb(memory.peak)})"))
    if gpu is not None:
        rows.append((f"{'fits' if plan.fits else 'does not fit'} in {gpu.name}", _gb(gpu.memory)))
    return rows


def _gb(count: int) -> str:
    return f"{count / 10**9:.4g} GB"
