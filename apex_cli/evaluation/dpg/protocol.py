"""DPG-Bench (Hu et al. 2024, arXiv:2403.05135): long prompts, a question for each thing they say.

`dpg@official` does what the published script does on one process: the first row of the CSV is lost, categories come
from the last picture of a prompt, and a prompt that raises is dropped (N is printed). `dpg@fixed` keeps every row and
every picture. What the script's default of eight processes does to the categories (the labels are mixed by the order
of a set of strings, which differs from process to process) is not reproduced.

The benchmark's judge is mPLUG-large; answers of another one stand under its name: `dpg@official+blip-vqa-base`.
"""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

from PIL import Image
from pydantic import Field

from apex_cli.config import Section
from apex_cli.errors import DataError
from apex_cli.evaluation.base import Item, Need, Observation, Observed, Picture, PromptSet
from apex_cli.evaluation.dpg import propositions as files
from apex_cli.evaluation.dpg.propositions import Proposition
from apex_cli.evaluation.dpg.scoring import (
    PERCENT,
    cascade,
    categories,
    percent,
    pooled_score,
    without_lost_parents,
)
from apex_cli.evaluation.judges.asking import Answers
from apex_cli.evaluation.judges.base import Judge
from apex_cli.evaluation.judges.choice import AnyJudge, JudgeConfig, choose
from apex_cli.evaluation.judges.official import Official
from apex_cli.evaluation.needs import Named
from apex_cli.evaluation.records import ImageRecord, Result
from apex_cli.evaluation.scores import score

CSV = "dpg_bench.csv"
IMAGES = 4
PROMPTS = 1_065
MODEL_ID = "mplug_visual-question-answering_coco_large_en"
"""Of mPLUG-large at ModelScope, once damo's and now iic's."""
MPLUG = Official(("mplug-large", f"damo/{MODEL_ID}", f"iic/{MODEL_ID}"))
PLEASE = "Answer the question about the picture with yes or no, in one word.\n{}"


class DpgConfig(Section):
    folder: Path | None = None
    """`dpg_bench` of ELLA's repository: dpg_bench.csv and prompts/ID.txt."""
    judge: JudgeConfig = Field(default_factory=JudgeConfig)
    grid: int | None = Field(default=None, ge=1)
    """Each picture is a grid of 2 x 2 cells of so many pixels, as the official layout has them."""


class Dpg:
    Config = DpgConfig
    base: str
    official: bool

    def __init__(self, config: DpgConfig):
        self.config = config
        self.judge: Judge | None = choose(config.judge, MPLUG)

    @property
    def by_mplug(self) -> bool:
        return self.judge is None or MPLUG.is_called(self.judge.name)

    @property
    def name(self) -> str:
        return "+".join([self.base, *(MPLUG.label(self.judge) if self.judge else [])])

    @property
    def needs(self) -> Sequence[Need]:
        path = self.config.folder / CSV if self.config.folder else None
        how = "git clone https://github.com/TencentQQGYLab/ELLA (its folder dpg_bench)"
        return (
            Named(CSV, f"{self.base}.folder", how, path, 3_000_000, "Apache-2.0"),
            AnyJudge(self.base, self.config.judge),
        )

    @cached_property
    def prompts(self) -> PromptSet:
        texts = files.texts(self._folder)
        if not texts:
            raise DataError(
                f"'{self._folder}' has no prompts/*.txt.", "Take the folder dpg_bench of ELLA's repository."
            )
        if lost := sorted(self.asked.keys() - texts.keys()):
            told = f"'{self._folder}' is not whole: {len(lost)} of the {len(self.asked)} prompts in {CSV} have no text"
            raise DataError(f"{told}, the first: prompts/{lost[0]}.txt.", "Take the folder dpg_bench as it is.")
        items = tuple(Item(id=name, tag="dpg", prompt=text) for name, text in texts.items())
        return PromptSet("dpg", items, IMAGES // self.cells)

    @cached_property
    def stages(self) -> Sequence[Answers]:
        assert self.judge is not None, "needs come first"
        read = exact if self.by_mplug else yes_or_no
        return (Answers(self.judge, self._texts, read, self._views, self.cells, self.config.judge.record),)

    @property
    def cells(self) -> int:
        return 1 if self.config.grid is None else IMAGES

    @property
    def _folder(self) -> Path:
        assert self.config.folder is not None, "needs come first"
        return self.config.folder

    @cached_property
    def asked(self) -> files.Propositions:
        """Every row: what is asked does not depend on how it is scored, so that both protocols share the answers."""
        return files.read(self._folder / CSV, official=False)

    @cached_property
    def scored(self) -> files.Propositions:
        return files.read(self._folder / CSV, official=self.official)

    def _texts(self, item: Item) -> list[tuple[str, str]]:
        wording = "{}" if self.by_mplug else PLEASE
        return [("", wording.format(p.question)) for p in self.asked.get(item.id, {}).values()]

    def _views(self, picture: Picture) -> list[Picture]:
        return [picture] if self.config.grid is None else cells(picture, self.config.grid, self._drafts)

    @cached_property
    def _drafts(self) -> Path:
        self._temporary = tempfile.TemporaryDirectory()
        return Path(self._temporary.name)

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        answered: dict[str, list[dict[int, bool]]] = {}
        records: list[ImageRecord] = []
        dropped: dict[str, str] = {}
        for picture in pictures:
            views = self._answers(picture.item, seen["answers"][picture])
            try:
                records += [self._record(picture, k, yes) for k, yes in enumerate(views)]
                answered.setdefault(picture.item.id, []).extend(views)
            except LookupError as error:
                dropped[picture.item.id] = str(error)
        if not records:
            item, why = next(iter(dropped.items()))
            told = f"every prompt was dropped, the first: {item} ({why})"
            remedy = f"look at {CSV}" + ", or use dpg@fixed" * self.official
            return Result(protocol=self.name, status="skipped", reason=told, remedy=remedy)
        overall = percent(score(records))
        pooled = categories(answered, {item: self._wanted(item) for item in answered}, last_only=self.official)
        return Result(
            protocol=self.name,
            digits=2,
            tier="paper" if self._is_official(pictures) else "standard",
            value=overall.score,
            interval=overall.interval,
            tasks={name: pooled_score(prompts, len(records)) for name, prompts in pooled.items()},
            overall=overall,
            scale=PERCENT,
            facts={"prompts scored": len(answered), "prompts asked": len(answered) + len(dropped)},
            notes=tuple(self._notes(dropped)),
            records=records,
        )

    def _is_official(self, pictures: Sequence[Picture]) -> bool:
        whole = len(self.asked) == PROMPTS and self.prompts.has_all(pictures)
        return self.name == OfficialDpg.base and whole

    def _notes(self, dropped: Mapping[str, str]) -> list[str]:
        count = len(self.asked)
        other = [f"a set of {count:,} prompts, where DPG-Bench has {PROMPTS:,}"] * (count != PROMPTS)
        quirks = ["quirks of the official script: first row lost, categories from the last picture"] * self.official
        lost = [f"{len(dropped)} prompts dropped: {', '.join(f'{i} ({why})' for i, why in dropped.items())}"]
        return other + quirks + lost * bool(dropped)

    def _wanted(self, item: str) -> dict[int, Proposition]:
        rows = self.scored.get(item, {})
        return dict(rows) if self.official else without_lost_parents(rows)

    def _answers(self, item: Item, said: Observation) -> list[dict[int, bool]]:
        """For each view: id -> whether the answer was yes."""
        ids = list(self.asked.get(item.id, {}))
        return [dict(zip(ids, row, strict=True)) for row in said["answers"]]

    def _record(self, picture: Picture, view: int, yes: Mapping[int, bool]) -> ImageRecord:
        item, wanted = picture.item, self._wanted(picture.item.id)
        if not wanted:
            raise LookupError("no propositions")
        for id_, proposition in wanted.items():
            if lost := [parent for parent in proposition.parents if parent not in wanted]:
                raise LookupError(f"question {id_} hangs on {lost[0]}, which is not there")
        scores = cascade(wanted, {id_: yes[id_] for id_ in wanted})
        refused = [wanted[id_].question for id_ in wanted if not yes[id_]]
        return ImageRecord(
            filename=str(picture.path),
            tag=item.tag,
            prompt=item.prompt,
            correct=all(scores.values()),
            reason=f"not so: {'; '.join(refused)}" if refused else "",
            failure=next((wanted[id_].level1 for id_ in wanted if not yes[id_]), ""),
            details=json.dumps({wanted[id_].question: "yes" if yes[id_] else "no" for id_ in wanted}),
            item=item.id,
            k=picture.k + view,
            score=sum(scores.values()) / len(scores),
            made=dict(picture.made),
        )

    def certify(self, items: Sequence[Item]) -> None:
        """Nobody can draw perfect pictures of these prompts."""


class OfficialDpg(Dpg):
    base, official = "dpg@official", True


class FixedDpg(Dpg):
    base, official = "dpg@fixed", False


def exact(text: str) -> bool:
    """mPLUG's answer has to be "yes" to the letter; anything else is no."""
    return text == "yes"


def yes_or_no(text: str) -> bool | None:
    """The first word of a judge that talks; None where it is neither."""
    word = re.match(r"[\W_]*([a-z]+)", text.lower())
    return {"yes": True, "no": False}.get(word.group(1)) if word else None


def cells(picture: Picture, side: int, folder: Path) -> list[Picture]:
    """The four cells of a grid, row by row, as files in `folder`; another size is a `ValueError`: cutting it would
    pad with black, and nobody would see."""
    if picture.size != (2 * side, 2 * side):
        raise ValueError(f"is {picture.size[0]} x {picture.size[1]}, no grid of 2 x 2 cells of {side}")
    made = []
    for k, (row, column) in enumerate(((0, 0), (0, 1), (1, 0), (1, 1))):
        cell = picture.pixels()[row * side : (row + 1) * side, column * side : (column + 1) * side]
        sha = hashlib.sha256(cell.tobytes()).hexdigest()
        path = folder / f"{sha}.png"
        Image.fromarray(cell).save(path)
        made.append(Picture(picture.item, k, path, sha, (side, side), picture.made))
    return made
