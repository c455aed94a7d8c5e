"""What a protocol is: prompts, stages that look at pictures, and a summary that is pure arithmetic.

    generate or read  ->  Picture  ->  stages: Observation per picture, kept on disk  ->  summarise: Result

A stage's observation is stored under the content of the picture, the question asked of it and the identity of the
stage. So a killed run goes on where it stood, several ranks share the work, and scoring again needs no model.
A new protocol is one file with a class of this shape and one line of kind "protocol" in the registry.
"""

from __future__ import annotations

import hashlib
import json
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from apex_cli.config import Section
from apex_cli.evaluation.records import Certificate, Result

if TYPE_CHECKING:
    import numpy as np

Observation = Mapping[str, Any]
"""What a stage says of one picture: JSON values and numpy arrays by name. One with the name "error" (a sentence) is
counted and reported, and asked again by the next run."""


@dataclass(frozen=True)
class Item:
    """One prompt. `tag` is its task, `meta` what a judge needs to know (GenEval's fields or the like, JSON)."""

    id: str
    """Unique in its set; the name of its pictures in a folder: `ID/samples/00000.png` or `ID.png`."""
    tag: str
    prompt: str
    meta: Mapping[str, Any] = field(default_factory=dict)
    spoken: str = ""
    """What the model is told where that differs from the prompt, e.g. without synonyms it does not know."""

    @property
    def text(self) -> str:
        return self.spoken or self.prompt


@dataclass(frozen=True)
class PromptSet:
    """The prompts of a benchmark in order; picture k of prompt i has the noise of (seed, i * n + k)."""

    name: str
    """Stands in the name of the folder of an evaluation: `iid`, `geneval`, `mjhq`."""
    items: tuple[Item, ...]
    n: int = 1
    """Pictures of each prompt, unless the user says otherwise."""
    in_order: bool = False
    """Whether fewer prompts are the first ones, as in published numbers; else they are spread over the tags."""

    @property
    def sha256(self) -> str:
        """Of ids, tags, prompts and demands."""
        rows = [[item.id, item.tag, item.prompt, dict(item.meta)] for item in self.items]
        return hashlib.sha256(json.dumps(rows, sort_keys=True).encode()).hexdigest()

    def has_all(self, pictures: Sequence[Picture]) -> bool:
        """Whether these are as many as the benchmark asks for."""
        return len(pictures) == len(self.items) * self.n


@dataclass(frozen=True, eq=False)
class Picture:
    """One sound image on disk: picture `k` of `item`, with the SHA-256 of its file."""

    item: Item
    k: int
    path: Path
    sha256: str
    size: tuple[int, int]
    """Width and height in pixels, upright."""
    made: Mapping[str, Any] = field(default_factory=dict)
    """What is known of its making: `index`, `seed`, `nfe`, `seconds`; empty for a picture of other people."""

    def pixels(self) -> np.ndarray:
        """uint8 [H, W, 3], upright as EXIF says, read anew each time: nobody keeps ten thousand pictures in memory.
        Raises `ValueError` where the file cannot be decoded."""
        import numpy as np
        from PIL import Image

        from apex_cli.evaluation.decoding import BROKEN, decode

        try:
            with Image.open(self.path) as image:
                decode(image)
                return np.array(image.convert("RGB"))
        except BROKEN as error:
            raise ValueError(f"cannot be decoded: {error}") from error


class Need(typing.Protocol):
    """A file that a protocol cannot run without; `evaluation.assets` has the real ones."""

    @property
    def name(self) -> str:
        """As a user knows it: the name of the file."""
        ...

    @property
    def size(self) -> int | None:
        """Bytes, where known."""
        ...

    @property
    def remedy(self) -> str:
        """How to get it, e.g. "get it with: apex eval prepare fid"."""
        ...

    def find(self) -> Path | None:
        """Where it lies, without asking any network; None where it is missing."""
        ...


class Stage(typing.Protocol):
    """One pass over the pictures, e.g. a detector."""

    name: str
    """`features`, `detections`, `answers`..."""
    batch: int
    """Pictures it wants at a time; must not change what it says."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """JSON: what its observations depend on, e.g. SHA-256 of the weights, settings, version; needs no model."""
        ...

    @property
    def uses(self) -> Sequence[str]:
        """Names of the earlier stages of its protocol that it builds on; empty for most."""
        ...

    def question(self, item: Item) -> str:
        """What an observation depends on besides the pixels; "" for nothing."""
        ...

    def open(self) -> None:
        """Load the model and try it on known pictures; a broken judge raises `SetupError`. Called only if needed."""
        ...

    def prepare(self, picture: Picture) -> Any:
        """What `observe` takes of a picture, e.g. its pixels; called by threads, ahead of it. A `ValueError` says that
        the picture cannot be judged, and why: that is its "error" then."""
        ...

    def observe(
        self, pictures: Sequence[Picture], prepared: Sequence[Any], before: Mapping[str, Sequence[Observation]]
    ) -> list[Observation]:
        """One observation a picture. `prepared`: what `prepare` made of each; `before`: what the stages in `uses` said
        of the same pictures."""
        ...


class Observed(typing.Protocol):
    """What a stage said, looked up by picture."""

    def __getitem__(self, picture: Picture) -> Observation: ...


class Protocol(typing.Protocol):
    """One way to measure. Its constructor takes its `Config`; `--set NAME.KEY=VALUE` changes that."""

    Config: ClassVar[type[Section]]
    name: str
    """The name in every table; protocols never mix."""
    needs: Sequence[Need]

    @property
    def prompts(self) -> PromptSet | None:
        """Its own prompts; None if it measures whatever pictures there are. Asked only when no need is missing."""
        ...

    @property
    def stages(self) -> Sequence[Stage]:
        """In the order they run; likewise."""
        ...

    def summarise(self, pictures: Sequence[Picture], seen: Mapping[str, Observed]) -> Result:
        """The scores of the pictures that were observed without error, with a record of each; no model runs here.
        `found`, `expected` and `status` are filled in by the caller."""
        ...

    def certify(self, items: Sequence[Item]) -> Certificate | None:
        """What perfect and shuffled pictures of these prompts score; None where nobody can draw such."""
        ...
