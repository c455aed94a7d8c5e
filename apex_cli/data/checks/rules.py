"""What one sample can have wrong by itself. A rule more is a function more in `RULES`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from apex_cli.data.checks.samples import Sample
from apex_cli.data.checks.seen import Seen
from apex_cli.data.flaws import Flaw


@dataclass(frozen=True)
class Limits:
    """`side`: pixels of the shorter side below which a picture is tiny; `tokens`: of a caption, more are cut off.

    `count`: how many a caption has; without it words are counted, each of which is a token or more.
    """

    side: int = 64
    tokens: int = 300
    count: Callable[[str], int] | None = None


def packing(sample: Sample, seen: Seen | Flaw | None, limits: Limits) -> Iterator[Flaw]:
    """What reading the set has told, and why the picture was refused."""
    yield from sample.flaws
    if isinstance(seen, Flaw):
        yield seen


def caption(sample: Sample, seen: Seen | Flaw | None, limits: Limits) -> Iterator[Flaw]:
    count = limits.count or (lambda text: len(text.split()))
    if sample.caption is not None and (found := count(sample.caption)) > limits.tokens:
        unit = "tokens" if limits.count else "words"
        yield Flaw("caption-long", f"has a caption of {found} {unit}, of which {limits.tokens} tokens are kept")


def picture(sample: Sample, seen: Seen | Flaw | None, limits: Limits) -> Iterator[Flaw]:
    if not isinstance(seen, Seen):
        return
    width, height = seen.size
    if min(width, height) < limits.side:
        yield Flaw("picture-tiny", f"has {width} x {height} pixels, under {limits.side}")
    if seen.animated:
        yield Flaw("picture-mode", "is animated: its first frame is used")
    if seen.mode != "RGB":
        yield Flaw("picture-mode", f"is stored as {MODES.get(seen.mode, seen.mode)}: it is converted to RGB")


MODES = {
    "1": "black and white",
    "L": "greyscale",
    "LA": "greyscale with alpha",
    "P": "a palette",
    "PA": "a palette with alpha",
    "RGBA": "RGB with alpha, which is composed on white",
    "I": "16-bit greyscale",
    "I;16": "16-bit greyscale",
}
RULES = (packing, caption, picture)
