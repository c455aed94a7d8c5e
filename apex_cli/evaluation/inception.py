"""TensorFlow's Inception of 2015, the network of every FID here: 2048 features of a picture of 299 x 299.

The blocks are torch-fidelity's: unlike torchvision's they average without the padding and end in a max pool. Its own
class resizes inside and opens weights as a pickle; here both are done outside.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import nn

from apex_cli.evaluation.weights import read_pth
from apex_cli.torchvision_guard import import_torchvision

PACKAGES = ("torchvision", "torch_fidelity")


def inception() -> nn.Module:
    """[B, 3, 299, 299] in -1..1 -> [B, 2048], with the module names of the published file; random weights."""
    import_torchvision()
    from torch_fidelity import feature_extractor_inceptionv3 as blocks

    conv, pool = blocks.BasicConv2d, lambda: nn.MaxPool2d(3, stride=2)
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        Conv2d_1a_3x3=conv(3, 32, kernel_size=3, stride=2),
        Conv2d_2a_3x3=conv(32, 32, kernel_size=3),
        Conv2d_2b_3x3=conv(32, 64, kernel_size=3, padding=1),
        MaxPool_1=pool(),
        Conv2d_3b_1x1=conv(64, 80, kernel_size=1),
        Conv2d_4a_3x3=conv(80, 192, kernel_size=3),
        MaxPool_2=pool(),
        Mixed_5b=blocks.InceptionA(192, pool_features=32),
        Mixed_5c=blocks.InceptionA(256, pool_features=64),
        Mixed_5d=blocks.InceptionA(288, pool_features=64),
        Mixed_6a=blocks.InceptionB(288),
        Mixed_6b=blocks.InceptionC(768, channels_7x7=128),
        Mixed_6c=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6d=blocks.InceptionC(768, channels_7x7=160),
        Mixed_6e=blocks.InceptionC(768, channels_7x7=192),
        Mixed_7a=blocks.InceptionD(768),
        Mixed_7b=blocks.InceptionE_1(1280),
        Mixed_7c=blocks.InceptionE_2(2048),
        AvgPool=nn.AdaptiveAvgPool2d(1),
        flat=nn.Flatten(),
    )
    return nn.Sequential(layers).eval().requires_grad_(False)


def load(path: Path) -> nn.Module:
    """With the published weights; its classifier `fc` is not used."""
    network = inception()
    weights = {name: value for name, value in read_pth(path).items() if not name.startswith("fc.")}
    network.load_state_dict(weights)
    return network
