"""Scoring as a ratio against the bare judge, in alternating passes of one process over the same pictures.

Bare: the judge on what it takes, which lies in memory already, in the batches of its stage. Scoring: `observe` as
`apex eval` does it, from the files to the observations on disk. "With inspection" adds the pass before it, which opens
every picture once to name the broken ones. Judges: EfficientNet-Lite0 and rapidocr with their real weights; CLIP (sizes
of ViT-B/32) and Inception with random weights, for the rate does not depend on them. Mask2Former, with random weights
too, sees ten objects everywhere; its network is so much smaller than Swin-S that what comes after it weighs more.

Memory: resident bytes of a whole `evaluate` of a folder, with networks so small that only the pipeline is measured: in
each phase, from a tenth of its pictures on, and the most of the whole run, summary included.
"""

from __future__ import annotations

import argparse
import json
import os
import string
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from apex_cli.benching.flatness import Memory, resident
from apex_cli.evaluation import effnet, inception, resizing
from apex_cli.evaluation.assets import Found
from apex_cli.evaluation.base import Item, Observation, Picture, Stage
from apex_cli.evaluation.catalog import EFFNET
from apex_cli.evaluation.clip import Clip
from apex_cli.evaluation.distances import DistanceConfig
from apex_cli.evaluation.features import Extractor, FeatureStage
from apex_cli.evaluation.geneval import mask2former
from apex_cli.evaluation.geneval.stages import Detections
from apex_cli.evaluation.geneval_prompts import CLASSES
from apex_cli.evaluation.jobs import Job
from apex_cli.evaluation.kid import KidEffnetLite0
from apex_cli.evaluation.observations import observe, open_stores
from apex_cli.evaluation.ocr import Ocr, OcrConfig, written
from apex_cli.evaluation.pairs import PairScorer, PairStage
from apex_cli.evaluation.pictures import Inspector
from apex_cli.evaluation.run import evaluate
from apex_cli.evaluation.settings import EvalConfig
from apex_cli.records import Progress
from apex_cli.worlds.shapes.grammar import prompts

EXPECTED = 0.9
"""Of the bare rate."""
FORWARD = 32
MEMORY_SIDE = 64


@dataclass(frozen=True)
class Judge:
    """`bare`: a pass over the pictures, made of what the judge takes."""

    stage: Stage
    bare: Callable[[Sequence[Picture]], Callable[[], Any]]


def features(extractor: Extractor) -> Judge:
    stage = FeatureStage(extractor, FORWARD)

    def bare(pictures: Sequence[Picture]) -> Callable[[], Any]:
        batches = torch.stack([extractor.prepare(picture.pixels()) for picture in pictures]).split(FORWARD)
        return torch.inference_mode()(lambda: [stage.network(batch) for batch in batches])

    return Judge(stage, bare)


def judge_effnet(folder: Path) -> Judge:
    return features(effnet.extractor(EFFNET.require().verify()))


def judge_inception(folder: Path) -> Judge:
    return features(Extractor({"network": "inception"}, lambda pixels: resizing.sana(pixels, 512), random_inception))


def judge_clip(folder: Path) -> Judge:
    random_clip(folder)
    scorer = PairScorer({"network": "clip"}, lambda pixels: resizing.clip(pixels, 224), lambda: Clip(folder))
    stage = PairStage(scorer, FORWARD)

    def bare(pictures: Sequence[Picture]) -> Callable[[], Any]:
        batches = torch.stack([scorer.prepare(picture.pixels()) for picture in pictures]).split(FORWARD)
        texts = [[p.item.prompt for p in pictures[i : i + FORWARD]] for i in range(0, len(pictures), FORWARD)]
        pairs = [(batch, stage.model.tokens(own)) for batch, own in zip(batches, texts, strict=True)]
        return torch.inference_mode()(
            lambda: [stage.model.model(pixel_values=batch, **tokens) for batch, tokens in pairs]
        )

    return Judge(stage, bare)


def judge_ocr(folder: Path) -> Judge:
    (stage,) = Ocr(OcrConfig()).stages

    def bare(pictures: Sequence[Picture]) -> Callable[[], Any]:
        arrays = [picture.pixels()[:, :, ::-1] for picture in pictures]
        return lambda: [stage.engine(pixels) for pixels in arrays]

    return Judge(stage, bare)


def judge_mask2former(folder: Path) -> Judge:
    stage = Detections(random_mask2former(folder), 4, "off")

    def bare(pictures: Sequence[Picture]) -> Callable[[], Any]:
        pixels = torch.from_numpy(np.stack([picture.pixels() for picture in pictures])).permute(0, 3, 1, 2)
        batches = mask2former.prepare(pixels).split(stage.batch)
        return torch.inference_mode()(lambda: [stage.detector.model(pixel_values=batch) for batch in batches])

    return Judge(stage, bare)


JUDGES = {
    "effnet": judge_effnet,
    "ocr": judge_ocr,
    "clip": judge_clip,
    "inception": judge_inception,
    "mask2former": judge_mask2former,
}


def random_inception() -> nn.Module:
    """With weights that keep the size of what passes: those of torch let it fade through so many layers to nothing."""
    network = inception.inception()
    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight)
    return network


def random_clip(folder: Path, **towers: Any) -> Path:
    """A `CLIPModel` with random weights, and a tokenizer of letters."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    letters = string.ascii_lowercase + string.digits
    words = ["<|startoftext|>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    text = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 1, "vocab_size": len(words)}
    CLIPModel(CLIPConfig(text_config=text | towers, vision_config=towers)).save_pretrained(folder)
    CLIPTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[]).save_pretrained(folder)
    return folder


def random_mask2former(folder: Path) -> Path:
    """A Mask2Former for COCO's classes over a Swin, with ten queries that are all likely."""
    from transformers import Mask2FormerConfig, Mask2FormerForUniversalSegmentation, SwinConfig

    stages = [f"stage{n}" for n in range(1, 5)]
    swin = SwinConfig(image_size=800, embed_dim=32, depths=[1, 1, 2, 1], num_heads=[1, 2, 4, 8], out_features=stages)
    sizes = dict.fromkeys(("feature_size", "mask_feature_size", "hidden_dim"), 64)
    torch.manual_seed(0)
    layers = {"encoder_layers": 2, "decoder_layers": 3, "num_attention_heads": 4, "num_queries": 10}
    model = Mask2FormerForUniversalSegmentation(
        Mask2FormerConfig(
            backbone_config=swin,
            **sizes,
            **layers,
            encoder_feedforward_dim=256,
            dim_feedforward=512,
            num_labels=len(CLASSES),
        )
    )
    model.class_predictor.weight.data *= 40
    model.save_pretrained(folder)
    return folder


def draw(folder: Path, count: int, side: int) -> list[Picture]:
    """Smooth pictures with a line of writing, as PNG, and prompts of the shapes world beside them."""
    folder.mkdir(parents=True)
    asked, pictures = prompts("iid"), []
    with (folder / "metadata.jsonl").open("w") as rows:
        for i in range(count):
            cells = np.random.default_rng(i).integers(0, 256, (8, 8, 3), np.uint8)
            image = Image.fromarray(cells).resize((side, side), Image.Resampling.BICUBIC)
            if side >= 256:
                image.paste(
                    Image.fromarray(written(f"Sale {i}")).resize((side // 2, side // 10)), (side // 4, side // 3)
                )
            path = folder / f"{i:06d}.png"
            image.save(path)
            prompt = asked[i % len(asked)].text
            rows.write(json.dumps({"file_name": path.name, "prompt": prompt}) + "\n")
            pictures.append(Picture(Item(path.stem, "all", prompt), 0, path, f"{i:064d}", (side, side)))
    return pictures


def seconds(work: Callable[[], Any]) -> np.ndarray:
    """Of the wall, and those that the threads of the process computed together."""
    began = time.perf_counter(), time.process_time()
    work()
    return np.subtract((time.perf_counter(), time.process_time()), began)


def rates(judge: Judge, pictures: Sequence[Picture], repeats: int, folder: Path) -> dict[str, float]:
    """Pictures a second, medians of alternating passes after one that is not counted. `of the work`: the share of the
    judge in all that the processor does, which a busy machine does not change; no machine without an accelerator and
    without a core to spare can have a better ratio."""
    judge.stage.open()
    forward = judge.bare(pictures)
    times: dict[str, list[np.ndarray]] = {"bare": [], "scoring": [], "inspection": []}
    for n in range(repeats + 1):
        place = folder / f"{n}"
        times["inspection"].append(seconds(lambda: list(Inspector(place).look_at([p.path for p in pictures]))))  # noqa: B023
        times["bare"].append(seconds(forward))
        times["scoring"].append(
            seconds(lambda: list(observe(open_stores(place, [judge.stage]), pictures)))  # noqa: B023
        )
    bare, scoring, look = (np.stack(times[name][1:]) for name in ("bare", "scoring", "inspection"))
    alone, inspected = np.median(bare / scoring, 0), np.median(bare / (scoring + look), 0)
    return {
        "bare pictures/s": len(pictures) / np.median(bare[:, 0]),
        "pictures/s": len(pictures) / np.median(scoring[:, 0]),
        "ratio": alone[0],
        "ratio with inspection": inspected[0],
        "of the work": alone[1],
        "of the work with inspection": inspected[1],
    }


class Cells(KidEffnetLite0):
    """The kernel distance with 1,200 means of cells in the place of the network."""

    name = "cells"

    def extractor(self, found: Found) -> Extractor:
        return Extractor(
            {"network": "cells"}, effnet.prepare, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(20), nn.Flatten())
        )


class Masks:
    """Says of every picture what a detector would of one of 1,024 px: four masks of some 1,400 runs."""

    name, uses, batch, identity = "detections", (), FORWARD, {"detector": "none"}

    def question(self, item: Item) -> str:
        return ""

    def open(self) -> None: ...

    def prepare(self, picture: Picture) -> None: ...

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        rng = np.random.default_rng(len(pictures))
        return [{"objects": rng.integers(1, 1024, (4, 1400)).tolist()} for _ in pictures]


def memory(count: int, folder: Path) -> dict[str, Any]:
    """Of `evaluate` over so many pictures of `MEMORY_SIDE` px."""
    draw(folder / "many", count, MEMORY_SIDE)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = random_clip(folder / "small", **small)
    scorer = PairScorer({"network": "small"}, lambda pixels: resizing.clip(pixels, 224), lambda: Clip(clip))
    pairs = Cells(DistanceConfig())
    pairs._stages = (*pairs.stages, PairStage(scorer, FORWARD), Masks())
    job = Job(folder / "many", [pairs], None, EvalConfig(), folder / "evaluation")
    most, stop = [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.02):
            most[0] = max(most[0], resident())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        phases = _phases(event for event in evaluate(job) if isinstance(event, Progress))
    finally:
        stop.set()
        watcher.join()
    return {"phases": phases, "most": most[0]}


def _phases(events: Iterator[Progress]) -> dict[str, Memory]:
    found: dict[str, Memory] = {}
    for event in events:
        found.setdefault(event.phase, Memory(event.total)).take(event.done)
    return found


def show_rates(name: str, row: dict[str, float]) -> None:
    told = "  ".join(f"{key} {value:.2f}" for key, value in row.items())
    verdict = "as asked" if row["ratio"] >= EXPECTED else "LOW"
    print(f"{name:10} {told}  (asked for: {EXPECTED}, {verdict})", flush=True)


def show_memory(found: dict[str, Any]) -> None:
    for name, held in found["phases"].items():
        print(f"{name:18} {held}")
    print(f"most of the run    {found['most'] / 2**20:.0f} MiB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=256)
    parser.add_argument("--side", type=int, default=512)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--judges", default=",".join(JUDGES), help="empty for none")
    parser.add_argument("--memory-samples", type=int, default=10_000, help="0 for none")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-eval-") as place:
        folder = Path(place)
        os.environ["APEX_CACHE"] = str(folder / "cache")  # for the answers of the canaries
        many = options.memory_samples
        found: dict[str, Any] = {
            "asked": {name: value for name, value in vars(options).items() if name != "json"},
            "memory": memory(many, folder) if many else {},  # first, in a process that has held nothing large yet
            "rates": {},
        }
        if many:
            show_memory(found["memory"])
        pictures = draw(folder / "pictures", options.samples, options.side)
        for name in filter(None, options.judges.split(",")):
            found["rates"][name] = rates(
                JUDGES[name](folder / name), pictures, options.repeats, folder / f"{name}-passes"
            )
            show_rates(name, found["rates"][name])
    if options.json:
        options.json.write_text(json.dumps(found, indent=1, default=Memory.record) + "\n")


if __name__ == "__main__":
    main()
