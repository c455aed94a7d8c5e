"""What is to be evaluated: protocols grouped by the pictures that they look at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from apex_cli.errors import ApexError, DataError, SetupError, UsageError
from apex_cli.evaluation import mjhq, pictures
from apex_cli.evaluation.assets import people_size
from apex_cli.evaluation.base import Item, Need, PromptSet, Protocol
from apex_cli.evaluation.guests import Guest
from apex_cli.evaluation.ledger import Shard
from apex_cli.evaluation.painters import Painter
from apex_cli.evaluation.pictures import File
from apex_cli.evaluation.records import Result, Setting, Subject
from apex_cli.evaluation.settings import EvalConfig

OF_ONE = (UsageError, DataError, SetupError)
"""Errors that end one protocol and not the others."""


@dataclass(frozen=True)
class Job:
    """Some protocols over one set of images: drawn by a painter, or lying in a folder."""

    source: Painter | Path
    protocols: Sequence[Protocol]
    prompts: PromptSet | None
    """None only for a folder whose images nobody's prompts are known for."""
    config: EvalConfig
    folder: Path
    shard: Shard = field(default_factory=Shard)
    certify: bool = False
    broken: Mapping[str, Result] = field(default_factory=dict)
    """Results of protocols whose prompts cannot be read."""

    @cached_property
    def found(self) -> list[File]:
        """The files of a folder of other people."""
        ids = {item.id for item in self.prompts.items} if self.prompts else set()
        return pictures.files(self.source, ids) if isinstance(self.source, Path) else []

    @cached_property
    def whole(self) -> PromptSet:
        if self.prompts is not None:
            return self.prompts
        if not isinstance(self.source, Path):
            return PromptSet("none", ())
        items, n = pictures.items_of(self.found)
        return PromptSet(Path(str(self.source)).name, items, n)

    @property
    def n(self) -> int:
        return self.config.n or self.whole.n

    @cached_property
    def chosen(self) -> list[tuple[int, Item]]:
        """(place in the whole set, prompt) of the prompts that are evaluated."""
        tags = [item.tag for item in self.whole.items]
        few = range(len(tags))[: self.config.prompts]
        places = few if self.whole.in_order else spread(tags, self.config.prompts)
        return [(place, self.whole.items[place]) for place in places]

    @cached_property
    def items(self) -> tuple[Item, ...]:
        return tuple(item for _, item in self.chosen)

    @cached_property
    def places(self) -> dict[str, int]:
        """Prompt id -> place among the evaluated ones."""
        return {item.id: place for place, item in enumerate(self.items)}

    @property
    def seed(self) -> int | None:
        return None if isinstance(self.source, Path) else self.config.seed

    @cached_property
    def setting(self) -> Setting:
        asked = PromptSet(self.whole.name, self.items, self.n)
        return Setting(
            prompt_set=asked.name,
            prompts=len(asked.items),
            prompts_sha256=asked.sha256,
            n=self.n,
            seed=self.seed,
        )

    @cached_property
    def subject(self) -> Subject:
        return Subject(source=str(self.source)) if isinstance(self.source, Path) else self.source.subject

    @cached_property
    def skipped(self) -> dict[str, Result]:
        """A result for each protocol that cannot measure these pictures, with what to do about it."""
        return {p.name: refused for p in self.protocols if (refused := self._refusal(p))}

    def _refusal(self, protocol: Protocol) -> Result | None:
        if protocol.name in self.broken:
            return self.broken[protocol.name]
        drawn = not isinstance(self.source, Path)
        needs = list(protocol.needs)
        if drawn and isinstance(protocol, Guest) and protocol.usual and self._lacks_usual(protocol):
            needs.append(protocol.usual)
        if missing := lacking(needs):
            files = ", ".join(f"{n.name} ({people_size(n.size)})" if n.size else n.name for n in missing)
            return skipped(protocol, f"needs {files}", "; ".join(dict.fromkeys(need.remedy for need in missing)))
        if drawn and self.prompts is None:
            return skipped(protocol, "has no prompts of its own, and those that have are skipped", "see theirs")
        if isinstance(protocol, Guest) and (unfit := protocol.unfit(self.prompts, self.items)):
            return skipped(protocol, unfit.reason, unfit.remedy)
        return None

    def _lacks_usual(self, guest: Guest) -> bool:
        """Whether its usual prompts would be drawn, and are not those of this job."""
        if self.prompts is None:
            return guest.exclusive or _are_guests(self.protocols)
        return guest.exclusive and self.prompts.name != mjhq.NAME


def lacking(needs: Sequence[Need]) -> list[Need]:
    return [need for need in needs if need.find() is None]


def skipped(protocol: Protocol, reason: str, remedy: str) -> Result:
    return Result(protocol=protocol.name, status="skipped", reason=reason, remedy=remedy)


def given_up(protocol: Protocol, error: ApexError) -> Result:
    return skipped(protocol, error.message.rstrip("."), error.remedy)


@dataclass(frozen=True)
class Source:
    """Where pictures come from, its name in tables and folders, and where its evaluations go."""

    label: str
    pictures: Painter | Path
    home: Path

    def folder(self, prompts: PromptSet | None, config: EvalConfig) -> Path:
        """`step-000200-iid-nfe1-seed0`; what is usual is not said."""
        parts = [self.label, *([prompts.name] if prompts else [])]
        if not isinstance(self.pictures, Path):
            parts += [f"nfe{self.pictures.nfe}", f"seed{config.seed}", *self.pictures.unusual]
        parts += [f"{config.prompts}prompts"] * (config.prompts is not None)
        parts += [f"n{config.n}"] * (config.n is not None)
        return self.home / "-".join(parts)

    @property
    def name(self) -> str:
        """For people, e.g. `shapes_student 1 NFE`."""
        return self.label if isinstance(self.pictures, Path) else f"{self.label} {self.pictures.nfe} NFE"


def group(
    source: Source, protocols: Sequence[Protocol], config: EvalConfig, shard: Shard = Shard(), certify: bool = False
) -> list[Job]:
    """One job a prompt set. A protocol without prompts joins its usual ones or else the first, or takes a folder as it
    is; one that is to be skipped, e.g. as its prompts cannot be read, is skipped there."""
    drawn = not isinstance(source.pictures, Path)
    ready = [p for p in protocols if not lacking(p.needs)]
    brought, broken = _brought(ready, lambda p: p.prompts or (_usual(p) if drawn and _is_exclusive(p) else None))
    if drawn and not any(brought.values()) and _are_guests(protocols):
        brought, broken = _brought(ready, _usual)
    sets = {prompts.sha256: prompts for prompts in brought.values() if prompts}
    if alike := [name for name, count in Counter(prompts.name for prompts in sets.values()).items() if count > 1]:
        told = f"Two suites bring different prompts that are both called '{alike[0]}'."
        raise UsageError(told, "Give them the same files with --set, or evaluate them one by one, each with its --out.")
    if drawn and not sets and len(brought) == len(protocols) and not any(_has_usual(p) for p in ready):
        told = f"{', '.join(p.name for p in ready)}: no prompts to draw."
        raise UsageError(told, "Name a suite with prompts first, e.g. --suite shapes,kid, or give --images FOLDER.")
    first = next(iter(sets), None)
    usual = next((key for key, prompts in sets.items() if prompts.name == mjhq.NAME), first)
    homes = {p.name: usual if _has_usual(p) else first for p in protocols}
    homes |= {name: prompts.sha256 for name, prompts in brought.items() if prompts}
    jobs = []
    for key, prompts in (sets or {None: None}).items():
        members = [p for p in protocols if homes[p.name] == key]
        folder = source.folder(prompts, config)
        jobs.append(Job(source.pictures, members, prompts, config, folder, shard, certify, broken))
    return jobs


def _brought(
    protocols: Sequence[Protocol], find: Callable[[Protocol], PromptSet | None]
) -> tuple[dict[str, PromptSet | None], dict[str, Result]]:
    """What `find` says of each by name, and a result of each that it gives up on."""
    brought: dict[str, PromptSet | None] = {}
    broken: dict[str, Result] = {}
    for protocol in protocols:
        try:
            brought[protocol.name] = find(protocol)
        except OF_ONE as error:
            broken[protocol.name] = given_up(protocol, error)
    return brought, broken


def _are_guests(protocols: Sequence[Protocol]) -> bool:
    """Whether none would bring prompts, had it all that it needs."""
    return all(isinstance(protocol, Guest) for protocol in protocols)


def _has_usual(protocol: Protocol) -> bool:
    return isinstance(protocol, Guest) and protocol.usual is not None


def _is_exclusive(protocol: Protocol) -> bool:
    return isinstance(protocol, Guest) and protocol.exclusive


def _usual(protocol: Protocol) -> PromptSet | None:
    """The usual prompts of a guest, where their file is."""
    asset = protocol.usual if isinstance(protocol, Guest) else None
    path = asset.find() if asset else None
    return mjhq.prompt_set(path) if path else None


def spread(tags: Sequence[str], limit: int | None) -> list[int]:
    """Places of at most `limit` items: as many of each tag as of any other, evenly spaced within it, in order."""
    places: dict[str, list[int]] = {}
    for place, tag in enumerate(tags):
        places.setdefault(tag, []).append(place)
    total = min(len(tags), limit or len(tags))
    # In rounds, one item a tag, so that a small task leaves its share to the others.
    rounds = sorted((turn, tag) for tag, group in places.items() for turn in range(len(group)))[:total]
    shares = {tag: sum(name == tag for _, name in rounds) for tag in places}
    return sorted(
        places[tag][turn * len(places[tag]) // share] for tag, share in shares.items() for turn in range(share)
    )
