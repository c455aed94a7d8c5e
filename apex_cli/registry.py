"""Names a recipe may use, and where each lives: something new is one new file and one line here."""

from __future__ import annotations

import difflib
import importlib
from typing import Any

from apex_cli.errors import UsageError

TABLE: dict[str, dict[str, str]] = {
    "backbone": {
        "sana": "apex_cli.backbones.sana:Sana",
        "qwen_image": "apex_cli.backbones.qwen_image:QwenImage",
        "zimage": "apex_cli.backbones.zimage:ZImage",
        "flux": "apex_cli.backbones.flux:Flux",
        "sd3": "apex_cli.backbones.sd3:Sd3",
        "mlp": "apex_cli.backbones.mlp:Mlp",
    },
    "objective": {
        "fm": "apex_cli.objectives.fm:FlowMatching",
        "apex": "apex_cli.objectives.apex:Apex",
        "reading": "apex_cli.objectives.reading:Reading",
        "reconstruction": "apex_cli.objectives.reconstruction:Reconstruction",
    },
    "sampler": {
        "euler": "apex_cli.samplers.euler:sample",
        "heun": "apex_cli.samplers.heun:sample",
        "renoise": "apex_cli.samplers.renoise:sample",
    },
    "data": {
        "shapes": "apex_cli.data.shapes:ShapesData",
        "modes": "apex_cli.data.modes:ModesData",
        "shards": "apex_cli.data.shard_set:ShardSet",
        "prompts": "apex_cli.data.prompt_list:PromptList",
        "folder": "apex_cli.data.folder:FolderData",
        "parquet": "apex_cli.data.parquet:ParquetData",
        "webdataset": "apex_cli.data.webdataset:WebDataset",
        "datasets": "apex_cli.data.hugging_face:DatasetsData",
        "sharegpt_4o_image": "apex_cli.data.share_gpt_4o_image:ShareGpt4oImage",
        "mixture": "apex_cli.data.mixture:Mixture",
    },
    "protocol": {
        "shapes": "apex_cli.evaluation.shapes:Shapes",
        "geneval": "apex_cli.evaluation.geneval.protocol:HfGenEval",
        "geneval@hf": "apex_cli.evaluation.geneval.protocol:HfGenEval",
        "geneval@official": "apex_cli.evaluation.geneval.protocol:OfficialGenEval",
        "dpg": "apex_cli.evaluation.dpg.protocol:OfficialDpg",
        "dpg@official": "apex_cli.evaluation.dpg.protocol:OfficialDpg",
        "dpg@fixed": "apex_cli.evaluation.dpg.protocol:FixedDpg",
        "wise": "apex_cli.evaluation.wise.protocol:VerifiedWise",
        "wise@legacy": "apex_cli.evaluation.wise.protocol:LegacyWise",
        "wise@verified": "apex_cli.evaluation.wise.protocol:VerifiedWise",
        "fid": "apex_cli.evaluation.fid_sana:FidSana512",
        "fid@sana-512": "apex_cli.evaluation.fid_sana:FidSana512",
        "fid@sana-1024": "apex_cli.evaluation.fid_sana:FidSana1024",
        "fid@clean": "apex_cli.evaluation.fid_clean:FidClean",
        "fid@pytorch-fid": "apex_cli.evaluation.fid_pytorch:FidPytorch",
        "kid": "apex_cli.evaluation.kid:Kid",
        "kid@inception": "apex_cli.evaluation.kid:KidInception",
        "kid@effnet-lite0": "apex_cli.evaluation.kid:KidEffnetLite0",
        "cmmd": "apex_cli.evaluation.cmmd:Cmmd",
        "fd-dinov2": "apex_cli.evaluation.fd_dinov2:FdDinov2",
        "clip": "apex_cli.evaluation.clip_sana:ClipSana",
        "clip@sana": "apex_cli.evaluation.clip_sana:ClipSana",
        "pickscore": "apex_cli.evaluation.pickscore:PickScore",
        "hpsv2": "apex_cli.evaluation.hpsv2:HpsV2",
        "imagereward": "apex_cli.evaluation.imagereward:ImageReward",
        "vqascore@instructblip-flan-t5-xl": "apex_cli.evaluation.vqascore:VqaScore",
        "ocr": "apex_cli.evaluation.ocr:Ocr",
    },
    "scorer": {
        "shapes": "apex_cli.evaluation.scorers:ShapesScorer",
        "clip": "apex_cli.evaluation.scorers:ClipScorer",
    },
}


def names(kind: str) -> list[str]:
    """All names of one kind, in the order of the table."""
    return list(TABLE[kind])


def resolve(kind: str, name: str) -> Any:
    """Import and return the object behind `name`; a wrong name raises `UsageError` with the nearest matches."""
    rows = TABLE[kind]
    if name not in rows:
        near = difflib.get_close_matches(name, rows, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise UsageError(f"There is no {kind} called '{name}'.", f"{hint}Known: {', '.join(rows)}.")
    module, attribute = rows[name].split(":")
    return getattr(importlib.import_module(module), attribute)
