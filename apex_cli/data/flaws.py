"""What can be wrong with a sample: every reason has a name; `broken` ones keep it out of training, others are told."""

from __future__ import annotations

from dataclasses import dataclass

from apex_cli.errors import DataError


@dataclass(frozen=True)
class Reason:
    broken: bool
    meaning: str


REASONS = {
    "picture-missing": Reason(True, "A caption without its picture."),
    "picture-unreadable": Reason(True, "Not a regular file, or the system does not let it be read."),
    "picture-empty": Reason(True, "A file without a byte."),
    "picture-format": Reason(True, "Not JPEG, PNG, WebP, BMP or GIF, whatever it is called."),
    "picture-bomb": Reason(True, "More than 64 megapixels by its header; never decoded."),
    "picture-truncated": Reason(True, "The file ends before the picture does."),
    "picture-corrupt": Reason(True, "The decoder does not understand the bytes."),
    "caption-missing": Reason(True, "A picture without a caption."),
    "caption-empty": Reason(True, "A caption without a letter."),
    "caption-unreadable": Reason(True, "A caption that is not text in UTF-8, not JSON, or longer than 1 MiB."),
    "key-duplicate": Reason(True, "One name for two samples, or for two members of a sample."),
    "altered": Reason(True, "Not what index.parquet lists: other bytes, or another place."),
    "shard-missing": Reason(True, "A shard that the manifest lists and the folder does not have."),
    "shard-truncated": Reason(True, "A shard that ends before its last sample, or without its end mark."),
    "shard-corrupt": Reason(True, "A shard that is no plain tar, or stops being one."),
    "member-link": Reason(True, "A link in a shard; never followed."),
    "member-device": Reason(True, "A device or pipe in a shard; never opened."),
    "member-outside": Reason(True, "A name that leads out of the set; never followed."),
    "member-sparse": Reason(True, "A sparse file in a shard, which may claim any size; never read."),
    "member-large": Reason(True, "A member of more than 256 MiB; never read."),
    "member-pickle": Reason(False, "A member that may run code when it is loaded; never loaded."),
    "interleaved": Reason(False, "Members that do not lie together: readers of streams see half samples."),
    "unlisted": Reason(False, "A sample that index.parquet does not list, so that training does not see it."),
    "caption-long": Reason(False, "The end of the caption is cut off."),
    "caption-duplicate": Reason(False, "The caption of an earlier sample."),
    "picture-tiny": Reason(False, "Enlarged for training."),
    "picture-mode": Reason(False, "Not 8-bit RGB of one frame: converted, transparency on white, first frame."),
    "picture-duplicate": Reason(False, "The same bytes as an earlier picture."),
    "picture-near": Reason(False, "Looks like an earlier picture."),
}
"""In the order of reports."""


@dataclass(frozen=True)
class Flaw:
    """`reason`: a row of `REASONS`; `told`: what is said of the sample, behind its name and a colon."""

    reason: str
    told: str

    @property
    def broken(self) -> bool:
        return REASONS[self.reason].broken


class Refused(DataError):
    """A picture, caption or shard that is not taken; `flaw` says why."""

    def __init__(self, reason: str, told: str):
        super().__init__(f"{told}.", "`apex data check` names all that is broken in a set.")
        self.flaw = Flaw(reason, told)
