"""One evaluation, end to end: draw or find, inspect, observe, summarise. Its folder is all there is to know about it.

    evaluation.json                   whose images these are, and the prompts and seeds
    images/00007/samples/00000.png    every picture, in GenEval's layout, beside 00007/metadata.jsonl
    drawn.jsonl, pictures.jsonl       how each was drawn; its SHA-256, size and flaws
    observations/STAGE-ID/            what each stage of a protocol said of each picture
    PROTOCOL.jsonl                    every judgement, a line each, in GenEval's field names
    report.json                       the numbers, made from the files above

So an evaluation that was killed goes on where it stood, several workers share it, and both end in the same report.
"""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, median

import numpy as np
import torch

from apex_cli import __version__
from apex_cli.config import Section
from apex_cli.data.ahead import ahead
from apex_cli.errors import ApexError, StorageError, UsageError
from apex_cli.evaluation import painters, pictures
from apex_cli.evaluation.base import Picture, Protocol
from apex_cli.evaluation.jobs import OF_ONE, Job, given_up, skipped
from apex_cli.evaluation.judges.asking import estimates
from apex_cli.evaluation.judges.base import Estimate
from apex_cli.evaluation.observations import digest, observe, open_stores
from apex_cli.evaluation.painters import Drawing
from apex_cli.evaluation.pictures import Collection, File, Inspector
from apex_cli.evaluation.records import (
    REPORT,
    Flaw,
    ImageRecord,
    Report,
    Result,
    Setting,
    Subject,
    read_report,
    records_file,
    write_records,
    write_whole,
)
from apex_cli.generation import chunks
from apex_cli.generation.diversity import diversity
from apex_cli.records import Progress

IDENTITY = "evaluation.json"
IMAGES = "images"
PACKAGES = ("torch", "diffusers", "transformers", "numpy", "scipy", "pillow")


@dataclass(frozen=True)
class Failure:
    """Why a protocol gave up. What it has judged by then is reported as partial."""

    protocol: str
    error: ApexError


class Identity(Section):
    """What the images of a folder depend on."""

    subject: Subject
    setting: Setting


def evaluate(job: Job) -> Iterator[Progress | Estimate | Failure | Report]:
    """Yield progress, what a paid judge will cost before it is asked, the protocols that give up, and last the
    `Report`, which is in the folder by then; none while other shards are at work, or where one's protocol gave up."""
    results = dict(job.skipped)
    ready = [p for p in job.protocols if p.name not in results]
    if not ready:
        yield _report(job, Collection([], [], job.items, 0), results, None)
        return
    _open(job)
    yield from _draw(job)
    yield from _inspect(job)
    own = [picture for picture in _collect(job).pictures if _is_mine(job, picture.item.id, picture.k)]
    failures: dict[str, ApexError] = {}
    for protocol in ready:
        try:
            yield from _observe(job, protocol, own)
        except OF_ONE as error:
            failures[protocol.name] = error
            yield Failure(protocol.name, error)
    there = _collect(job)  # and what other shards have done meanwhile
    if job.shard.count > 1 and (failures or _is_unfinished(job, ready, there)):
        return
    for done, protocol in enumerate(ready):
        yield Progress(f"summarise {protocol.name}", done, len(ready))
        failure = failures.get(protocol.name)
        try:
            results[protocol.name] = summarise(job, protocol, there, failure)
        except OF_ONE as error:
            results[protocol.name] = given_up(protocol, failure or error)
            if failure is None:
                yield Failure(protocol.name, error)
    for name in (name for name, result in results.items() if result.status == "skipped"):
        records_file(job.folder, name).unlink(missing_ok=True)
    report = _report(job, there, results, (yield from _seed_diversity(there.pictures)))
    _beside(job.folder, report).save(job.folder)
    yield report


def _beside(folder: Path, report: Report) -> Report:
    """With the results that the folder holds of other suites on the same pictures."""
    if not (folder / REPORT).is_file():
        return report
    try:
        before = read_report(folder)
    except StorageError:  # of another version
        return report
    if before.pictures_sha256 != report.pictures_sha256:
        return report
    kept = {name: r for name, r in before.results.items() if name not in report.results and r.status != "skipped"}
    return report.model_copy(update={"results": kept | report.results})


def _observe(job: Job, protocol: Protocol, own: Sequence[Picture]) -> Iterator[Progress | Estimate]:
    stores = open_stores(job.folder, protocol.stages, job.shard)
    yield from estimates(protocol.name, stores, own, job.shard.count)
    for stage, done, total in observe(stores, own):
        yield Progress(f"{protocol.name}: {stage}", done, total)


def _open(job: Job) -> None:
    """Make the folder; one that holds another evaluation is refused."""
    identity = Identity(subject=job.subject, setting=job.setting)
    try:
        job.folder.mkdir(parents=True, exist_ok=True)
    except (NotADirectoryError, FileExistsError) as error:
        told = f"'{job.folder}' cannot hold an evaluation: a file is in the way."
        raise StorageError(told, "Choose another --out.") from error
    path = job.folder / IDENTITY
    if path.is_file() and (different := _differences(json.loads(path.read_text()), identity.model_dump(mode="json"))):
        raise UsageError(
            f"'{job.folder}' holds another evaluation: it differs in {', '.join(different)}.",
            "Choose another --out, or delete the folder.",
        )
    write_whole(path, identity.model_dump_json(indent=1) + "\n")


def _differences(stored: dict[str, dict], asked: dict[str, dict]) -> list[str]:
    """Names of the entries that differ; where a model of known weights lies does not matter."""
    ignored = ["source"] * bool(asked["subject"]["weights"])
    return [
        key
        for part in asked
        for key in asked[part]
        if key not in ignored and stored.get(part, {}).get(key) != asked[part][key]
    ]


def _drawings(job: Job) -> list[Drawing]:
    return painters.drawings(job.folder / IMAGES, job.chosen, job.n, job.config.seed)


def _draw(job: Job) -> Iterator[Progress]:
    if isinstance(job.source, Path):
        return
    rows = painters.drawn(job.folder)
    own = [drawing for drawing in _drawings(job) if _is_mine(job, drawing.item.id, drawing.k)]
    have = {drawing.path for drawing in own if (drawing.item.id, drawing.k) in rows and drawing.path.is_file()}
    for done in painters.paint(job.source, chunks(own, job.config.batch), have, job.folder, job.shard):
        yield Progress("draw", len(have) + done, len(own))


def _slots(job: Job) -> tuple[dict[tuple[str, int], File], list[Flaw]]:
    """(prompt id, k) -> file of every picture that is there, and what lies there beside them."""
    if isinstance(job.source, Path):
        slots, flaws = pictures.match(job.found, job.whole.items, job.n)
        return {slot: file for slot, file in slots.items() if slot[0] in job.places}, flaws
    wanted = _drawings(job)
    return {(d.item.id, d.k): File(d.path, d.item.id, d.k, {}) for d in wanted if d.path.is_file()}, []


def _inspect(job: Job) -> Iterator[Progress]:
    inspector = Inspector(job.folder, job.shard)
    slots, _ = _slots(job)
    own = [file.path for slot, file in slots.items() if _is_mine(job, *slot)]
    for done, _ in enumerate(inspector.look_at(own), start=1):
        yield Progress("inspect", done, len(own))


def _collect(job: Job) -> Collection:
    """Every picture that has been inspected, by whomever."""
    inspector = Inspector(job.folder)
    slots, flaws = _slots(job)
    known = {slot: file for slot, file in slots.items() if inspector.find(file.path) is not None}
    rows = painters.drawn(job.folder)
    made = {str(file.path): rows.get(slot, {}) for slot, file in known.items()}
    found = pictures.collect(known, job.items, job.n, inspector, made)
    return Collection(found.pictures, [*flaws, *found.flaws], found.items, found.n)


def _is_mine(job: Job, item: str, k: int) -> bool:
    """Shards take whole batches in turn."""
    return (job.places[item] * job.n + k) // job.config.batch % job.shard.count == job.shard.index


def _is_unfinished(job: Job, ready: Sequence[Protocol], there: Collection) -> bool:
    """Whether other shards have pictures to draw, inspect or observe."""
    slots, _ = _slots(job)
    bad = sum(flaw.kind == "unreadable" for flaw in there.flaws)
    drawn = isinstance(job.source, Path) or len(slots) == there.expected
    stores = [store for p in ready for store in open_stores(job.folder, p.stages).values()]
    seen = all(picture in store for store in stores for picture in there.pictures)
    return not (drawn and len(slots) == len(there.pictures) + bad and seen)


def summarise(job: Job, protocol: Protocol, there: Collection, failure: ApexError | None = None) -> Result:
    """The result of a protocol on what was observed without error, with its counts, and its records on disk. `failure`:
    why it gave up before it had seen all."""
    stores = open_stores(job.folder, protocol.stages)
    unseen = failure.message if failure else ""
    errors = {
        p: [told for store in stores.values() if (told := store.failed(p) or (unseen if p not in store else ""))]
        for p in there.pictures
    }
    sound = [picture for picture, told in errors.items() if not told]
    if not sound and failure:
        return given_up(protocol, failure)
    if not sound:
        first = next((f", the first: {told[0]}" for told in errors.values()), "")
        return skipped(protocol, f"no usable image among {there.expected}{first}", "see the flaws in the report")
    result = protocol.summarise(sound, stores)
    if result.status == "skipped":
        return result
    failed = [f"{picture.path.name} of '{picture.item.id}': {told[0]}" for picture, told in errors.items() if told]
    notes = (*result.notes, *([f"{len(failed)} images could not be judged: {'; '.join(failed[:3])}"] if failed else []))
    write_records(job.folder, protocol.name, (_relative(record, job.folder) for record in result.records))
    return result.model_copy(
        update={
            "found": len(sound),
            "expected": there.expected,
            "status": "scored" if len(sound) == there.expected else "partial",
            "notes": notes,
            "identity": result.identity | {name: dict(store.stage.identity) for name, store in stores.items()},
            "certificate": protocol.certify(job.items) if job.certify else None,
            "records": [],
        }
    )


def _relative(record: ImageRecord, folder: Path) -> ImageRecord:
    path = Path(record.filename)
    return record.model_copy(update={"filename": str(path.relative_to(folder))}) if folder in path.parents else record


def _report(job: Job, there: Collection, results: Mapping[str, Result], apart: float | None) -> Report:
    made = [picture.made for picture in there.pictures if picture.made]
    return Report(
        subject=job.subject,
        setting=job.setting,
        found=len(there.pictures),
        expected=there.expected,
        flaws=tuple(there.flaws),
        results={p.name: results[p.name] for p in job.protocols},
        diversity=apart,
        pictures_sha256=digest([[p.item.id, p.k, p.sha256] for p in there.pictures]),
        nfe_counted=fmean(row["nfe"] for row in made) if made else None,
        seconds_per_image=median(row["seconds"] for row in made) if made else None,
        versions={"apex": __version__, "python": platform.python_version(), **{p: version(p) for p in PACKAGES}},
        hardware=hardware(),
    )


def _seed_diversity(found: Sequence[Picture]) -> Generator[Progress, None, float | None]:
    """Returns the mean over prompts of the mean RMS distance between their images; None where no prompt has two of one
    size."""
    groups: dict[str, list[Picture]] = {}
    for picture in found:
        groups.setdefault(picture.item.id, []).append(picture)
    alike = [group for group in groups.values() if len(group) > 1 and len({p.size for p in group}) == 1]
    values = []
    for done, value in enumerate(ahead(_distance, alike), start=1):
        values += [] if value is None else [value]
        yield Progress("compare images of a prompt", done, len(alike))
    return fmean(values) if values else None


def _distance(group: Sequence[Picture]) -> float | None:
    try:
        return diversity(np.stack([picture.pixels() for picture in group]), len(group))
    except ValueError:  # one that cannot be decoded; the stages that look at it tell why
        return None


def hardware() -> dict[str, str | int]:
    """The processor and how much of it torch may use."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cpu = names[0] if names else platform.processor() or platform.machine()
    return {"cpu": cpu, "cores": os.cpu_count() or 1, "threads": torch.get_num_threads()}
