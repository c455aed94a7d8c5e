"""GenEval (Ghosh et al. 2023, arXiv:2310.11513): six tasks, four pictures a prompt, Overall = mean of the six.

`geneval@hf` sees through the Mask2Former of transformers, which is another training run than the benchmark's own;
`geneval@official` through what mmdet found, read from a file. Colours are CLIP's for both. The columns of the paper's
Table 2 are the tasks in their order and Overall.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any, Literal

from pydantic import Field

from apex_cli.evaluation import catalog, geneval_prompts
from apex_cli.evaluation.assets import Asset, file_sha256
from apex_cli.evaluation.base import Item, Need, Observed, Picture, PromptSet, Stage
from apex_cli.evaluation.geneval.canary import Strictness
from apex_cli.evaluation.geneval.mmdet import RecordedDetections
from apex_cli.evaluation.geneval.scoring import Thresholds, record
from apex_cli.evaluation.geneval.stages import WEIGHTS_FILE, Colors, Detections, seen
from apex_cli.evaluation.needs import Named
from apex_cli.evaluation.records import ImageRecord, Result
from apex_cli.evaluation.scores import by_prompt, score, task_scores
from apex_cli.worlds.shapes.grammar import TASKS

IMAGES = 4
Tier = Literal["standard", "paper"]


class GenEvalConfig(Thresholds):
    prompt_seed: int = Field(default=geneval_prompts.SEED, ge=0)
    """43 gives the official prompts; any other a fresh suite of the same distribution."""
    clip: Path | None = None
    """Folder of a CLIP model with QuickGELU.  [default: openai/clip-vit-large-patch14 where the hub's cache has it]"""
    canary: Strictness = "known"
    """What is asked of the judges before any score: that they know a stop sign and ten colours and agree with a CPU
    ("known"), the agreement alone, or nothing ("off")."""


class HfConfig(GenEvalConfig):
    detector: Path | None = None
    """Folder of a Mask2Former for COCO.  [default: facebook/mask2former-swin-small-coco-instance]"""
    batch: int = Field(default=4, ge=1)
    """Pictures of one size that share a forward of the detector."""


class OfficialConfig(GenEvalConfig):
    detections: Path | None = None
    """JSON lines of what mmdet 2.x found in each picture."""


class GenEval:
    """What both have in common; they differ in who detects."""

    base: str

    def __init__(self, config: Any):
        self.config = config

    @property
    def name(self) -> str:
        """Everything that is not official is said."""
        defaults = Thresholds()
        changed = [
            f"+{key.replace('_', '-')}{value:g}"
            for key in Thresholds.model_fields
            if (value := getattr(self.config, key)) != getattr(defaults, key)
        ]
        fresh = [f"+seed{self.config.prompt_seed}"] * (self.config.prompt_seed != geneval_prompts.SEED)
        return "".join([self.base, *fresh, *changed])

    @cached_property
    def prompts(self) -> PromptSet:
        """553 prompts at seed 43, checked against the official file's SHA-256."""
        seed = self.config.prompt_seed
        if seed == geneval_prompts.SEED:
            geneval_prompts.prompts()
        items = tuple(
            Item(f"{i:05d}", row["tag"], row["prompt"], {k: row[k] for k in ("include", "exclude") if k in row})
            for i, row in enumerate(geneval_prompts.suite(seed))
        )
        return PromptSet("geneval" if seed == geneval_prompts.SEED else f"geneval-seed{seed}", items, IMAGES)

    @property
    def detections(self) -> Stage:
        raise NotImplementedError

    @cached_property
    def stages(self) -> Sequence[Stage]:
        folder = place(catalog.CLIP, self.config.clip)
        return self.detections, Colors(folder, self.config.canary)

    @property
    def clip(self) -> Need:
        return need(catalog.CLIP, f"{self.base}.clip", self.config.clip)

    def summarise(self, pictures: Sequence[Picture], observed: Mapping[str, Observed]) -> Result:
        records = [
            record(picture, seen(observed["detections"][picture], observed["colors"][picture]), self.config)
            for picture in pictures
        ]
        return result(self.name, records, self.tier(pictures))

    def tier(self, pictures: Sequence[Picture]) -> Tier:
        return "standard"

    def certify(self, items: Sequence[Item]) -> None:
        """Nobody can draw perfect pictures of COCO's classes."""


class HfGenEval(GenEval):
    Config, base = HfConfig, "geneval@hf"

    @property
    def needs(self) -> Sequence[Need]:
        detector = need(catalog.MASK2FORMER, f"{self.base}.detector", self.config.detector)
        return detector, self.clip

    @cached_property
    def detections(self) -> Stage:
        folder = place(catalog.MASK2FORMER, self.config.detector)
        return Detections(folder, self.config.batch, self.config.canary)


class OfficialGenEval(GenEval):
    Config, base = OfficialConfig, "geneval@official"

    @property
    def needs(self) -> Sequence[Need]:
        how, path = "write it where mmdet 2.x runs (docs/evaluation.md)", self.config.detections
        found = path if path and path.is_file() else None
        return Named("the detections of mmdet", "geneval@official.detections", how, found), self.clip

    @cached_property
    def detections(self) -> Stage:
        return RecordedDetections(self.config.detections)

    def tier(self, pictures: Sequence[Picture]) -> Tier:
        """The paper's: nothing in the name, all pictures, and colours of the published CLIP after the whole canary."""
        whole = self.name == self.base and self.prompts.has_all(pictures)
        return "paper" if whole and self.config.canary == "known" and self._sees_as_published() else "standard"

    def _sees_as_published(self) -> bool:
        weights = place(catalog.CLIP, self.config.clip) / WEIGHTS_FILE
        return file_sha256(weights) == catalog.CLIP.files[0].sha256


def need(asset: Asset, setting: str, chosen: Path | None) -> Need:
    """The published asset, or the folder that a user names instead."""
    if chosen is None:
        return asset
    return Named(WEIGHTS_FILE, setting, "name a folder that has it", chosen / WEIGHTS_FILE)


def place(asset: Asset, chosen: Path | None) -> Path:
    return chosen or asset.require().folder


def result(name: str, records: Sequence[ImageRecord], tier: Tier = "standard") -> Result:
    """Tasks in the paper's order, Overall as their plain mean, and what the official summary prints beside it."""
    records = sorted(records, key=lambda r: (TASKS.index(r.tag), r.item, r.k))
    overall, tasks = score(records), task_scores(records)
    absent = [tag for tag in TASKS if tag not in tasks]
    return Result(
        protocol=name,
        tier=tier,
        value=overall.score,
        interval=overall.interval,
        tasks=tasks,
        overall=overall,
        facts={
            "correct images": fmean(r.score for r in records),
            "prompts with a correct image": fmean(max(images) for images in by_prompt(records).values()),
            "mean margin": fmean(r.margin or 0.0 for r in records),
        },
        notes=(f"no picture of {', '.join(absent)}: Overall is the mean of the other tasks",) if absent else (),
        records=list(records),
    )
