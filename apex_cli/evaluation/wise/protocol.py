"""WISE (Niu et al. 2025, arXiv:2503.07265): prompts that name a thing only through what one must know of the world.

The benchmark changed under its name in April 2026: `wise@legacy` is what papers before report (gpt-4o-2024-05-13, three
marks), `wise@verified` the present one (Qwen3.5-35B-A3B, a binary score, other prompts, ids and weights). Other judges
and our own wording stand in the name: `wise@legacy+my-judge+own-wording`. Only the prompt is drawn; the explanation is
for the judge.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import DataError
from apex_cli.evaluation.base import Item, Need, Observed, Picture, PromptSet
from apex_cli.evaluation.judges.asking import Answers, tokens
from apex_cli.evaluation.judges.base import Judge
from apex_cli.evaluation.judges.choice import AnyJudge, JudgeConfig, choose
from apex_cli.evaluation.judges.official import Official
from apex_cli.evaluation.needs import UNLICENSED, Named
from apex_cli.evaluation.records import ImageRecord, Result
from apex_cli.evaluation.scores import score, task_scores
from apex_cli.evaluation.wise.instructions import Instructions, OwnWording, ScriptWording
from apex_cli.evaluation.wise.scoring import (
    CATEGORIES,
    HIGHEST,
    LEGACY,
    VERIFIED,
    Edition,
    read_legacy,
    read_verified,
    wiscore,
)

PROMPTS = 1_000
FILES = ("cultural_common_sense", "spatio-temporal_reasoning", "natural_science")


class WiseConfig(Section):
    folder: Path | None = None
    """A clone of PKU-YuanGroup/WISE, or the folder with its three files of prompts."""
    script: Path | None = None
    """The script whose words the judge is told.  [default: gpt_eval.py or vllm_eval.py of the clone]"""
    judge: JudgeConfig = Field(default_factory=JudgeConfig)


class Wise:
    """What both editions have in common."""

    Config = WiseConfig
    base: str
    edition: Edition
    official: Official
    script: str
    data: str
    suffix: str
    read: Callable[[str], Any]
    highest: int
    """The best mark."""

    def __init__(self, config: WiseConfig):
        self.config = config
        self.judge: Judge | None = choose(config.judge, self.official)

    @property
    def name(self) -> str:
        judge = self.official.label(self.judge) if self.judge else []
        return "+".join([self.base, *judge, *["own-wording"] * self.instructions.own])

    @property
    def needs(self) -> Sequence[Need]:
        how = "git clone https://github.com/PKU-YuanGroup/WISE"
        folder, script = self.config.folder if self._files() else None, self.config.script
        prompts = Named("WISE's prompts", f"{self.base}.folder", how, folder, 400_000, UNLICENSED)
        found = script if script and script.is_file() else None
        words = Named("the script", f"{self.base}.script", how, found, licence=UNLICENSED)
        return prompts, *([words] if script else []), AnyJudge(self.base, self.config.judge)

    def _files(self) -> list[Path]:
        """The three files, in the clone or right in the folder; none unless all are there."""
        if self.config.folder is None:
            return []
        for place in (self.config.folder / self.data, self.config.folder):
            paths = [place / f"{name}{self.suffix}.json" for name in FILES]
            if all(path.is_file() for path in paths):
                return paths
        return []

    @cached_property
    def prompts(self) -> PromptSet:
        rows = [row for path in self._files() for row in _rows(path)]
        items = tuple(sorted(map(self._item, rows), key=lambda item: int(item.id)))
        if twice := [a.id for a, b in pairwise(items) if a.id == b.id]:
            told = f"{self.base}: {len(twice)} prompts are there twice, the first: {twice[0]}."
            raise DataError(told, "Take the files of the clone as they are.")
        return PromptSet(self.base.replace("@", "-"), items, 1)

    def _item(self, row: Mapping[str, Any]) -> Item:
        number = row["prompt_id"]
        try:
            tag = self.edition.category(number)
        except LookupError as error:
            raise DataError(f"{self.base}: {error}.", "Take the files of one edition of WISE.") from error
        return Item(str(number), tag, row["Prompt"], {"Explanation": row["Explanation"]})

    @cached_property
    def instructions(self) -> Instructions:
        path = self.config.script or (self.config.folder / self.script if self.config.folder else None)
        named = path is not None and (path.is_file() or self.config.script is not None)
        return ScriptWording(path) if named else OwnWording(self.base.split("@")[1])  # type: ignore[arg-type]

    @cached_property
    def stages(self) -> Sequence[Answers]:
        assert self.judge is not None, "needs come first"
        return (Answers(self.judge, self._texts, type(self).read, record=self.config.judge.record),)

    def _texts(self, item: Item) -> list[tuple[str, str]]:
        return [self.instructions.messages({"Prompt": item.prompt, "Explanation": item.meta["Explanation"]})]

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        said = [seen["answers"][picture] for picture in pictures]
        records = [self.record(p, one["answers"][0][0]) for p, one in zip(pictures, said, strict=True)]
        records.sort(key=lambda r: (CATEGORIES.index(r.tag), int(r.item), r.k))
        tasks = task_scores(records)
        overall = score(records, weights=self.edition.weights)
        read, written = tokens(said)
        absent = [name for name in CATEGORIES if name not in tasks]
        return Result(
            protocol=self.name,
            tier="paper" if self._is_official(pictures) else "standard",
            value=overall.score,
            interval=overall.interval,
            tasks=tasks,
            overall=overall,
            weights=self.edition.weights,
            facts={"judge": self.judge.name if self.judge else "", "tokens read": read, "tokens written": written},
            notes=tuple(self._notes(absent)),
            records=records,
        )

    def _is_official(self, pictures: Sequence[Picture]) -> bool:
        whole = len(self.prompts.items) == PROMPTS and self.prompts.has_all(pictures)
        return self.name == self.base and whole

    def _notes(self, absent: Sequence[str]) -> Iterator[str]:
        if (count := len(self.prompts.items)) != PROMPTS:
            yield f"a set of {count:,} prompts, where WISE has {PROMPTS:,}"
        if absent:
            yield f"no picture of {', '.join(absent)}: their weight is the others'"

    def value(self, marks: Mapping[str, int]) -> float:
        raise NotImplementedError

    def record(self, picture: Picture, marks: Mapping[str, int]) -> ImageRecord:
        item, value = picture.item, self.value(marks)
        lost = [name.replace("_", " ") for name, mark in marks.items() if mark < self.highest]
        return ImageRecord(
            filename=str(picture.path),
            tag=item.tag,
            prompt=item.prompt,
            correct=value == 1,
            reason=f"the judge took marks off for {', '.join(lost)}" if value < 1 else "",
            failure=lost[0] if value < 1 else "",
            metadata=json.dumps({"prompt_id": int(item.id), "Prompt": item.prompt, **item.meta}),
            details=json.dumps(dict(marks)),
            item=item.id,
            k=picture.k,
            score=value,
            measures={name: float(mark) for name, mark in marks.items()},
            made=dict(picture.made),
        )

    def certify(self, items: Sequence[Item]) -> None:
        """Nobody can draw perfect pictures of these prompts."""


class LegacyWise(Wise):
    base, edition = "wise@legacy", LEGACY
    official = Official(("gpt-4o-2024-05-13", "openai/gpt-4o-2024-05-13"))
    script, data, suffix = "gpt_eval.py", "data", ""
    read = staticmethod(read_legacy)
    highest = HIGHEST

    def value(self, marks: Mapping[str, int]) -> float:
        return wiscore(marks)


class VerifiedWise(Wise):
    base, edition = "wise@verified", VERIFIED
    official = Official(("qwen3.5-35b-a3b", "qwen/qwen3.5-35b-a3b"), thinking=False)
    script, data, suffix = "vllm_eval.py", "data_verified", "_verified"
    read = staticmethod(read_verified)
    highest = 1

    def value(self, marks: Mapping[str, int]) -> float:
        return float(marks["score"])


def _rows(path: Path) -> Sequence[Mapping[str, Any]]:
    rows: list[Mapping[str, Any]] = []
    where = ""
    try:
        for number, row in enumerate(json.loads(path.read_text(encoding="utf-8")), start=1):
            where = f", entry {number}"
            texts = {key: row[key] for key in ("Prompt", "Explanation")}
            rows.append({"prompt_id": int(row["prompt_id"]), **texts})
    except (ValueError, KeyError, TypeError) as error:
        told = f"'{path}'{where}: this is no file of WISE's prompts ({type(error).__name__}: {error})."
        raise DataError(told, "Take the files of the clone as they are.") from error
    return rows
