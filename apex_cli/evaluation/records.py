"""What an evaluation writes: one `ImageRecord` a line in images.jsonl, one `Report` in report.json. Typed both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apex_cli.config import Section
from apex_cli.errors import StorageError

REPORT, IMAGES = "report.json", "images.jsonl"
Interval = tuple[float, float]


class ImageRecord(Section):
    """One judged image; `filename`, `tag`, `prompt`, `correct`, `reason` are GenEval's own result fields."""

    filename: str
    prompt: str
    prompt_id: int
    """Place of the prompt in its split; the unit that intervals are drawn over."""
    tag: str
    index: int
    """With `seed` it decides the noise: equal for every model."""
    seed: int
    correct: bool
    """Under the strict rule: nothing else in the picture."""
    correct_geneval: bool
    """Under GenEval's own rule: extra objects are allowed where the task does not count."""
    reason: str
    """Empty when correct."""
    confidence: float
    color_distance: float | None
    position_margin: float | None
    nfe: float
    """Network evaluations counted for this image."""
    seconds: float = 0.0
    """Generation only: the time of its batch over the images of the batch."""


class Score(Section):
    """A mean with its 95 % interval over prompts, under both rules."""

    score: float
    interval: Interval
    geneval: float
    geneval_interval: Interval
    prompts: int
    images: int


class Certificate(Section):
    """What the suite itself scores: truth with its own prompts, and with the prompts shuffled."""

    ceiling: float
    floor: float
    images: int


class Subject(Section):
    """Which model made the images and how; `weights` is the SHA-256 of its manifest."""

    source: str
    weights: str
    contract: dict[str, Any]
    sample: dict[str, Any]
    sigmas: tuple[float, ...]


class Setting(Section):
    """What two evaluations must share to be compared."""

    suite: str
    split: str
    seed: int
    images_per_prompt: int
    prompts: int
    prompts_sha256: str


class Report(Section):
    schema_version: int = 1
    subject: Subject
    setting: Setting
    found: int
    """Images judged, of `expected`."""
    expected: int
    tasks: dict[str, Score]
    overall: Score
    """Mean of the task means."""
    diversity: float | None
    """Mean distance (RMS of pixels in 0..1) between the images of one prompt; None with one image a prompt."""
    kernel_distance: float | None
    """x 1000, to renders of the same prompts; near or below 0 is perfect. None for a single image."""
    certificate: Certificate | None = None
    nfe_counted: float
    seconds_per_image: float
    versions: dict[str, str]
    hardware: dict[str, Any]

    def save(self, folder: Path) -> None:
        (folder / REPORT).write_text(self.model_dump_json(indent=1) + "\n", encoding="utf-8")


def read_report(folder: Path) -> Report:
    """The report of a finished evaluation; raises `StorageError` where there is none."""
    try:
        return Report.model_validate_json((folder / REPORT).read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StorageError(f"'{folder}' holds no finished evaluation.", "Run `apex eval` for it first.") from error
    except ValueError as error:
        raise StorageError(f"'{folder / REPORT}' is not a report of this version.", "Evaluate again.") from error


def read_records(folder: Path) -> dict[int, ImageRecord]:
    """Image index -> record. Half a last line, as a kill may leave it, is cut off the file."""
    path = folder / IMAGES
    if not path.is_file():
        return {}
    text = path.read_text(encoding="utf-8")
    whole = text[: text.rfind("\n") + 1]
    if whole != text:
        path.write_text(whole, encoding="utf-8")
    return {record.index: record for record in map(ImageRecord.model_validate_json, whole.splitlines())}


def append_record(folder: Path, record: ImageRecord) -> None:
    with (folder / IMAGES).open("a", encoding="utf-8") as file:
        file.write(record.model_dump_json() + "\n")
