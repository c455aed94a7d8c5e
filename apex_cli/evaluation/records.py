"""What an evaluation writes: records of single images as JSON lines, and one `Report`. Typed both ways."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import Field, PlainSerializer, PlainValidator

from apex_cli.config import Section
from apex_cli.data.store import draft
from apex_cli.errors import StorageError

REPORT = "report.json"
SCHEMA: Final = 3
Interval = tuple[float, float]
Runs = Annotated[Sequence[int], PlainValidator(lambda runs: array("I", runs)), PlainSerializer(list)]
"""Kept in 4 bytes each instead of Python's 36: there are a thousand in a mask."""


class Box(Section):
    """One thing a detector saw, in pixels of the image."""

    label: str
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1."""
    score: float
    color: str = ""
    mask: Runs | None = None
    """Run lengths, row by row over the whole image, the background first."""


class ImageRecord(Section):
    """One judged image; the first seven fields are those of GenEval's own results."""

    filename: str
    """Relative to the folder of the evaluation, or absolute for images of other people."""
    tag: str
    prompt: str
    correct: bool
    reason: str = ""
    """A sentence; empty when correct."""
    metadata: str = "{}"
    """JSON of what the prompt asks for."""
    details: str = "{}"
    """JSON of what the judge saw."""
    item: str
    """The id of the prompt: the unit that intervals are drawn over."""
    k: int
    score: float
    """What means are taken of; 0 or 1 for a protocol of right and wrong."""
    failure: str = ""
    """The kind of failure in a word or two, for filters: missing, color, position, count, extra..."""
    margin: float | None = None
    """How far the deciding number lies above its threshold; negative when wrong."""
    boxes: tuple[Box, ...] = ()
    measures: dict[str, float | None] = Field(default_factory=dict)
    """Further numbers of this image, by name."""
    made: dict[str, Any] = Field(default_factory=dict)
    """How it was drawn: `index`, `seed`, `nfe`, `seconds`."""


class Score(Section):
    """A mean over prompts with its 95 % interval."""

    score: float
    interval: Interval | None = None
    """None where one prompt, or several that score alike, do not tell."""
    prompts: int
    images: int
    correlation: float | None = None
    """Of two images of one prompt (intra-class, one-way ANOVA); None with one image a prompt or nothing that varies."""
    any_right: float | None = None
    """Share of prompts with at least one image at 1; None with one image a prompt."""
    all_right: float | None = None


class Certificate(Section):
    """What the judge itself is worth: truth with its own prompts, and with the prompts shuffled."""

    ceiling: float
    floor: float
    images: int


class Result(Section):
    """What one protocol says of a set of images."""

    protocol: str
    status: Literal["scored", "partial", "skipped"] = "scored"
    """"partial": images are missing or unusable, named in the report's `flaws`; "skipped": see `reason`, `remedy`."""
    value: float | None = None
    interval: Interval | None = None
    higher_is_better: bool = True
    digits: int = 3
    """Decimals that a table shows."""
    tier: Literal["smoke", "lite", "standard", "paper"] = "standard"
    found: int = 0
    expected: int = 0
    tasks: dict[str, Score] = Field(default_factory=dict)
    """In the order of the paper's columns."""
    overall: Score | None = None
    """Of a protocol that scores single images: the mean of the task means."""
    weights: dict[str, float] = Field(default_factory=dict)
    """What the mean of each tag weighs in the value, where they do not weigh alike."""
    scale: float = 1
    """The value of images that all score 1: 100 where records hold shares and the value is in percent."""
    facts: dict[str, float | int | str | None] = Field(default_factory=dict)
    """Further results by the name a table shows."""
    notes: tuple[str, ...] = ()
    """Sentences a reader must know, e.g. about quirks."""
    identity: dict[str, Any] = Field(default_factory=dict)
    """Who judged: the identity of each stage."""
    certificate: Certificate | None = None
    reason: str = ""
    remedy: str = ""
    records: list[ImageRecord] = Field(default_factory=list, exclude=True)
    """Written to `PROTOCOL.jsonl`, not into the report."""


class Subject(Section):
    """Whose images these are. `weights` is the SHA-256 of a manifest; `sample` how they were drawn."""

    source: str
    weights: str = ""
    contract: dict[str, Any] = Field(default_factory=dict)
    sample: dict[str, Any] = Field(default_factory=dict)
    sigmas: tuple[float, ...] = ()


class Setting(Section):
    """What two evaluations must share to be compared."""

    prompt_set: str
    prompts: int
    prompts_sha256: str
    n: int
    """Images per prompt."""
    seed: int | None
    """None for images of other people."""


class Flaw(Section):
    """One image that is not as it should be. `kind`: missing, unreadable, unexpected (no prompt asks for it), and of
    images that are measured all the same, as RGB: greyscale, not RGB (transparent, palette, CMYK), odd size."""

    kind: Literal["missing", "unreadable", "unexpected", "greyscale", "not RGB", "odd size"]
    name: str
    detail: str = ""


class Report(Section):
    schema_version: Literal[3] = SCHEMA
    subject: Subject
    setting: Setting
    found: int
    """Sound images, of `expected`."""
    expected: int
    flaws: tuple[Flaw, ...] = ()
    results: dict[str, Result]
    """By protocol, in the order asked for."""
    diversity: float | None = None
    """Mean distance (RMS of pixels in 0..1) between the images of one prompt; None with one image a prompt."""
    pictures_sha256: str = ""
    """Of the sound images and their places: results of the same ones stand side by side."""
    nfe_counted: float | None = None
    seconds_per_image: float | None = None
    """Of drawing; the median."""
    versions: dict[str, str]
    hardware: dict[str, Any]

    def save(self, folder: Path) -> None:
        write_whole(folder / REPORT, self.model_dump_json(indent=1) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Whoever reads `path` meanwhile sees the old text or the new one."""
    write_lines(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """The same of lines that end in newlines, one at a time."""
    temporary = draft(path)
    with temporary.open("w", encoding="utf-8") as file:
        file.writelines(lines)
    temporary.replace(path)


def read_report(folder: Path) -> Report:
    """The report of a finished evaluation; raises `StorageError` where there is none."""
    try:
        return Report.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"'{folder}' holds no finished evaluation.", "Run `apex eval` for it first.") from error
    except ValueError as error:
        raise StorageError(f"'{folder / REPORT}' is not a report of this version.", "Evaluate again.") from error


def records_file(folder: Path, protocol: str) -> Path:
    return folder / f"{protocol}.jsonl"


def write_records(folder: Path, protocol: str, records: Iterable[ImageRecord]) -> None:
    write_lines(records_file(folder, protocol), (f"{record.model_dump_json()}\n" for record in records))


def read_records(folder: Path, protocol: str) -> list[ImageRecord]:
    """The judged images of a protocol; none where it judges no single images."""
    path = records_file(folder, protocol)
    if not path.is_file():
        return []
    with path.open(encoding="utf-8") as lines:
        return [ImageRecord.model_validate_json(line) for line in lines]
