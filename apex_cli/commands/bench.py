"""`apex bench`: latency and throughput against the floor of the device, the stock pipeline, and the paper."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from apex_cli.commands._ui import Json, Overrides
from apex_cli.errors import UsageError

if TYPE_CHECKING:
    pass

app = typer.Typer(invoke_without_command=True, no_args_is_help=False)


@app.callback()
def bench(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help="shapes, shapes-qwen (both tiny), qwen-image, sana-600m or sana-1600m.")
    ] = "shapes",
    ckpt: Annotated[str | None, typer.Option(help="Run, checkpoint, or assets:NAME, instead of --model.")] = None,
    weights: Annotated[
        str | None,
        typer.Option(
            help="Of a published --model: a pipeline folder, a hub id, or `random`, which takes as long as trained "
            "ones (tiny sizes of the same classes where there is no accelerator)."
        ),
    ] = None,
    nfe: Annotated[str, typer.Option(help="Evaluations, e.g. 1,2,4.")] = "1",
    batch: Annotated[str, typer.Option(help="Pictures of a request, e.g. 1,10.")] = "1,10",
    resolution: Annotated[
        str | None, typer.Option(help="Pixels of a side, e.g. 512,1024.  [default: the model's]")
    ] = None,
    mode: Annotated[
        str,
        typer.Option(
            help="plain: as trained; fast: exact foldings; cached: that, for prompts read before; compiled: "
            "fast with compiled blocks; diffusers: the stock pipeline; fp8, LOSSY: fast with the transformer's weights "
            "in 8 bits. All are measured in turn in one process."
        ),
    ] = "plain,fast,diffusers",
    gpu: Annotated[
        str,
        typer.Option(help="auto, or the GPU that must be here: a family (a100) or a form (a100-80gb-pcie)."),
    ] = "auto",
    allow_mismatch: Annotated[
        bool, typer.Option("--allow-mismatch", help="Measure on another device than --gpu, without floors and figures.")
    ] = False,
    analytic: Annotated[
        bool, typer.Option("--analytic", help="Only print floors for --gpu, counted; needs no GPU and no weights.")
    ] = False,
    runs: Annotated[
        int | None, typer.Option(min=1, help="Counted runs of each mode at least.  [default: 50; batches 20]")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0, help="Seconds by --clock of a case at least.")] = 30.0,
    warmup: Annotated[
        int, typer.Option(min=1, help="Runs of the warm-up at most; it ends when three in a row agree within 2 %.")
    ] = 25,
    clock: Annotated[
        str, typer.Option(help="wall, or on a processor cpu: seconds computed, which a busy machine disturbs little.")
    ] = "wall",
    images: Annotated[
        int | None,
        typer.Option(
            min=1, help="Instead: draw so many pictures into --out, by the first --mode and the largest --batch."
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder for bench.json, .md, .csv and .png, or for the pictures.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Keep the result as a baseline.")] = None,
    compare: Annotated[
        Path | None, typer.Option(help="Exit with 9 if a case became slower than in this baseline.")
    ] = None,
    judge: Annotated[
        str,
        typer.Option(
            help="What must not grow. ratio: time over diffusers in the same job, by 5 %; seconds: by 10 %; both."
        ),
    ] = "both",
    as_json: Json = False,
) -> None:
    """Measure latency (batch 1) and throughput (batch 10), stage by stage, with 95 % intervals.

    The last line printed is the whole result as JSON.
    """
    if context.invoked_subcommand:
        return
    from apex_cli.commands import _bench

    nfes, batches, sides = _numbers("nfe", nfe), _numbers("batch", batch), _numbers("resolution", resolution)
    if analytic:
        _bench.floors(model, nfes, batches, sides, gpu, as_json)
        return
    asked = _bench.Asked(model, ckpt, weights, nfes, batches, sides, _modes(mode), gpu, allow_mismatch, clock, as_json)
    if images is not None:
        _bench.long(asked, images, out)
        return
    _bench.measure(asked, _bench.patience(runs or 0, seconds, warmup), out, save, compare, _judges(judge))


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of a shipped one (`apex recipes ls`).")],
    overrides: Overrides = [],  # noqa: B006
    runs: Annotated[int, typer.Option(min=2, help="Counted steps of each kind.")] = 10,
    clock: Annotated[str, typer.Option(help="wall or cpu, as in `apex bench`.")] = "wall",
    as_json: Json = False,
) -> None:
    """Time optimizer steps of a recipe against plain flow matching, in turn, on the same model and batch."""
    from apex_cli.commands import _bench

    _bench.train(recipe, overrides, runs, clock, as_json)


def _numbers(option: str, text: str | None) -> tuple[int, ...]:
    """`1,2,4` as numbers; none for None."""
    try:
        found = tuple(int(part) for part in text.split(",")) if text is not None else ()
    except ValueError as error:
        raise UsageError(f"--{option} {text}: numbers with commas between them are wanted.", "Try 1,2,4.") from error
    if any(number < 1 for number in found):
        raise UsageError(f"--{option} {text}: must be at least 1.", "Try 1,2,4.")
    return tuple(dict.fromkeys(found))


def _modes(text: str) -> tuple[str, ...]:
    from apex_cli.benching.run import MODES

    found = tuple(dict.fromkeys(text.split(",")))
    if wrong := [mode for mode in found if mode not in MODES]:
        raise UsageError(f"There is no mode called '{wrong[0]}'.", f"Known: {', '.join(MODES)}.")
    return found


def _judges(text: str) -> tuple[str, ...]:
    known: dict[str, tuple[str, ...]] = {
        "ratio": ("over diffusers",),
        "seconds": ("seconds",),
        "both": ("over diffusers", "seconds"),
    }
    if text not in known:
        raise UsageError(f"--judge {text}: there is no such question.", f"Known: {', '.join(known)}.")
    return known[text]
