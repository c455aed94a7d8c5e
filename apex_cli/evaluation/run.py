"""One evaluation, end to end: generate, judge, measure. Its folder is all there is to know about it.

    evaluation.json      what was asked: the subject and the suite's settings
    images/00007.png     every image
    images.jsonl         every judgement, a line each, written once its image is on disk
    report.json          the numbers, made from the files above

So an evaluation that was killed goes on where it stood, and ends in the same report.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch
from PIL import Image

from apex_cli import __version__
from apex_cli.config import Section
from apex_cli.errors import StorageError, UsageError
from apex_cli.evaluation.base import Model, Suite
from apex_cli.evaluation.kernel_distance import kernel_distance
from apex_cli.evaluation.records import (
    Certificate,
    ImageRecord,
    Report,
    Score,
    Setting,
    Subject,
    append_record,
    read_records,
)
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.evaluation.statistics import interval, overall
from apex_cli.generation import Request, SampleConfig, diversity, generate
from apex_cli.records import Progress

IDENTITY = "evaluation.json"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "pillow")


class Identity(Section):
    """What the images of a folder depend on."""

    subject: Subject
    setting: Setting


def evaluate(
    model: Model, suite: Suite, config: EvalConfig, folder: Path, certify: bool = False
) -> Iterator[Progress | Report]:
    """Yield progress, and last the `Report`, which is in `folder` by then. Images that lie there already are kept."""
    subject = describe(model)
    records = _open(folder, subject, suite.setting)
    wanted = {request.index for request in suite.requests}
    missing = [request for request in suite.requests if request.index not in records]
    for record in _judged(model, suite, missing, config.batch, folder):
        records[record.index] = record
        yield Progress("judge", len(wanted & records.keys()), len(wanted))
    yield Progress("certify" if certify else "measure", len(wanted), len(wanted))
    certificate = suite.certify() if certify else None
    report = measure(subject, suite, [records[r.index] for r in suite.requests], folder, certificate)
    report.save(folder)
    yield report


def describe(model: Model) -> Subject:
    """Which model, and how it is sampled."""
    return Subject(
        source=str(model.source),
        weights=weights_hash(model.source),
        contract=dict(model.contract),
        sample=model.sample.model_dump(mode="json"),
        sigmas=model.sample.grid(),
    )


def weights_hash(source: Path) -> str:
    """SHA-256 of a checkpoint's manifest, which holds the hash of each of its files; without one, of the weights."""
    manifest = source / "manifest.json"
    files = [manifest] if manifest.is_file() else sorted(source.rglob("*.safetensors"))
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.read_bytes())
    return digest.hexdigest()


def folder_name(model: str, sample: SampleConfig, config: EvalConfig) -> str:
    """The name of an evaluation under `evals/`, e.g. `step-000200-iid-nfe1-seed0`; what is usual is not said."""
    parts = [model, config.split, f"nfe{sample.nfe}", f"seed{config.seed}"]
    parts += [sample.sampler] * (sample.sampler != "renoise")
    parts += [f"guidance{sample.guidance:g}"] * (sample.guidance != 1)
    parts += [f"{config.prompts}prompts"] * (config.prompts is not None)
    return "-".join(parts)


def _open(folder: Path, subject: Subject, setting: Setting) -> dict[int, ImageRecord]:
    """The judgements that `folder` already holds for this subject; another one's folder is refused."""
    identity = Identity(subject=subject, setting=setting)
    try:
        (folder / "images").mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        raise StorageError(
            f"'{folder}' cannot hold an evaluation: a file is in the way.", "Choose another --out."
        ) from error
    path = folder / IDENTITY
    if path.is_file() and (different := _differences(json.loads(path.read_text()), identity.model_dump(mode="json"))):
        raise UsageError(
            f"'{folder}' holds another evaluation: it differs in {', '.join(different)}.",
            "Choose another --out, or delete the folder.",
        )
    path.write_text(identity.model_dump_json(indent=1) + "\n")
    return read_records(folder)


def _differences(stored: dict[str, dict], asked: dict[str, dict]) -> list[str]:
    """Names of the entries that differ; where the model lies does not matter."""
    return [
        key
        for part in asked
        for key in asked[part]
        if key != "source" and stored.get(part, {}).get(key) != asked[part][key]
    ]


def _judged(model: Model, suite: Suite, requests: Sequence[Request], batch: int, folder: Path) -> Iterator[ImageRecord]:
    """Make and judge the images of `requests`; each is on disk before its line is."""
    for start in range(0, len(requests), batch):
        chunk = requests[start : start + batch]
        began = time.perf_counter()
        samples = list(generate(model.backbone, model.sample, chunk, batch))
        seconds = (time.perf_counter() - began) / len(chunk)
        for sample in samples:
            record = suite.score(sample).model_copy(update={"seconds": seconds})
            Image.fromarray(sample.pixels).save(folder / record.filename)
            append_record(folder, record)
            yield record


def measure(
    subject: Subject, suite: Suite, records: Sequence[ImageRecord], folder: Path, certificate: Certificate | None
) -> Report:
    """The report on images that are judged."""
    images = np.stack([np.asarray(Image.open(folder / record.filename)) for record in records])
    return Report(
        subject=subject,
        setting=suite.setting,
        found=len(records),
        expected=len(suite.requests),
        tasks={tag: score(group) for tag, group in by_task(records).items()},
        overall=score(records),
        diversity=diversity(images, suite.setting.images_per_prompt),
        kernel_distance=kernel_distance(images, suite.truth(records)) if len(images) > 1 else None,
        certificate=certificate,
        nfe_counted=fmean(record.nfe for record in records),
        seconds_per_image=median(record.seconds for record in records),
        versions={"apex": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        hardware=hardware(),
    )


def by_task(records: Sequence[ImageRecord]) -> dict[str, list[ImageRecord]]:
    """Task -> its records, in the order of the split."""
    groups: dict[str, list[ImageRecord]] = {}
    for record in records:
        groups.setdefault(record.tag, []).append(record)
    return groups


def prompt_means(records: Sequence[ImageRecord], rule: str = "correct") -> dict[str, list[float]]:
    """Task -> the share of correct images of each prompt, under the rule `correct` or `correct_geneval`."""
    means: dict[str, list[float]] = {}
    for tag, group in by_task(records).items():
        prompts: dict[int, list[bool]] = {}
        for record in group:
            prompts.setdefault(record.prompt_id, []).append(getattr(record, rule))
        means[tag] = [fmean(images) for images in prompts.values()]
    return means


def score(records: Sequence[ImageRecord]) -> Score:
    """Mean of the task means of `records`, under both rules; for one task, its mean."""
    strict, geneval = prompt_means(records), prompt_means(records, "correct_geneval")
    return Score(
        score=overall(strict),
        interval=interval(strict),
        geneval=overall(geneval),
        geneval_interval=interval(geneval),
        prompts=sum(map(len, strict.values())),
        images=len(records),
    )


def hardware() -> dict[str, str | int]:
    """The processor and how much of it torch may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
