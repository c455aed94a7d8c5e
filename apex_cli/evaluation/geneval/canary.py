"""Known pictures through detector and colour namer before any score: a broken judge stops here, not at 0.033 overall.

Two questions are asked.

1. Does this device say what a CPU says? The same weights look at the same pictures in fp32 on a CPU once; the answers
   are kept in `$APEX_CACHE/canaries/`, and every later run, on any device and library version, is held against them.
2. Does it know what nobody can miss? A drawn stop sign, and ten discs in the ten colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from apex_cli.errors import SetupError
from apex_cli.evaluation.geneval.colors import ColorNamer
from apex_cli.evaluation.geneval.mask2former import Mask2Former
from apex_cli.evaluation.geneval.seen import Seen
from apex_cli.evaluation.geneval_prompts import COLORS
from apex_cli.evaluation.keeper import kept
from apex_cli.worlds.shapes.vocabulary import COLORS as PALETTE

Strictness = Literal["known", "agreement", "off"]
"""Both questions, the first alone, or none."""
SIDE = 320
SIGN = "stop sign"
LEAST = 0.3  # confidence in the stop sign
COLORS_RIGHT = 7  # of ten
SCORE_TOLERANCE = 0.02
PROBABILITY_TOLERANCE = 0.05  # fp16 autocast against fp32


def stop_sign() -> np.ndarray:
    """A red octagon with white rim and letters on a pole before sky and grass, uint8 [320, 320, 3]."""
    image = Image.new("RGB", (SIDE, SIDE), (150, 190, 230))
    draw = ImageDraw.Draw(image)
    draw.rectangle((0, 260, SIDE, SIDE), fill=(90, 140, 60))
    draw.rectangle((153, 180, 167, 300), fill=(120, 120, 125))
    for radius, color in ((92, (250, 250, 250)), (84, (190, 20, 30))):
        draw.regular_polygon((160, 120, radius), 8, rotation=22.5, fill=color)
    draw.text((160, 120), "STOP", fill=(250, 250, 250), anchor="mm", font=ImageFont.load_default(52))
    return np.asarray(image)


def disc(color: str) -> np.ndarray:
    """A disc of one of the ten colours on grey, uint8 [320, 320, 3]."""
    image = Image.new("RGB", (SIDE, SIDE), (150, 150, 150))
    ImageDraw.Draw(image).ellipse((60, 60, 260, 260), fill=PALETTE[color])
    return np.asarray(image)


def ask_detector(detector: Mask2Former) -> dict[str, float]:
    """Class -> best confidence in the drawn stop sign's picture."""
    best: dict[str, float] = {}
    for seen in detector.detect([stop_sign()])[0]:
        best.setdefault(seen.kind, round(seen.confidence, 4))
    return best


def ask_namer(namer: ColorNamer) -> dict[str, dict[str, float]]:
    """Colour of a disc -> how probable each colour word is."""
    thing = Seen("sports ball", (60.0, 60.0, 260.0, 260.0), 1.0)
    return dict(zip(COLORS, namer.name([(disc(color), thing) for color in COLORS]), strict=True))


def check_detector(detector: Mask2Former, folder: Path, weights: str, strictness: Strictness) -> None:
    """Raises `SetupError` with what a broken detector said."""
    if strictness == "off":
        return
    found = ask_detector(detector)
    known = kept(f"detector-{weights[:24]}", lambda: ask_detector(_on_cpu(detector, folder)))
    for kind in sorted(found.keys() | known.keys()):
        here, there = found.get(kind, 0.0), known.get(kind, 0.0)
        if abs(here - there) > SCORE_TOLERANCE and max(here, there) > LEAST / 2:
            _broken("detector", f"it gives '{kind}' {here:.3f} where these weights gave {there:.3f} on a CPU")
    if strictness == "known" and found.get(SIGN, 0.0) <= LEAST:
        _broken("detector", f"it finds no stop sign in the drawing of one ({found.get(SIGN, 0.0):.3f})")


def check_namer(namer: ColorNamer, folder: Path, weights: str, strictness: Strictness) -> None:
    """The same for the colours."""
    if strictness == "off":
        return
    found = ask_namer(namer)
    known = kept(f"colors-{weights[:24]}", lambda: ask_namer(_on_cpu(namer, folder)))
    for color, row in found.items():
        if max(abs(row[c] - known[color][c]) for c in row) > PROBABILITY_TOLERANCE:
            _broken("colour namer", f"a {color} disc looks otherwise to these weights than it did on a CPU")
    right = [color for color, row in found.items() if max(row, key=row.__getitem__) == color]
    if strictness == "known" and len(right) < COLORS_RIGHT:
        _broken("colour namer", f"it names {len(right)} of {len(found)} plain discs right")


def _on_cpu(judge: Any, folder: Path) -> Any:
    return judge if judge.device.type == "cpu" else type(judge)(folder, "cpu")


def _broken(what: str, told: str) -> None:
    remedy = "Get the weights again (apex eval prepare mask2former, clip), or see what another device says."
    raise SetupError(f"Your {what} is broken, so nothing was scored: {told}.", remedy)
