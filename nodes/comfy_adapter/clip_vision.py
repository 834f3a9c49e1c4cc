"""Feature tokens of the host's image encoders, with gradients."""

import copy
from collections.abc import Callable
from math import ceil, isqrt
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

from ...sampler import Features

# Where the encoders that can be stopped at a block keep their blocks: CLIP and SigLIP; DINOv2.
BLOCKS = ("vision_model.encoder.layers", "encoder.layer")


def block_features(clip_vision: Any, block: int) -> Callable[[torch.device], Features]:
    """The patch tokens after a block (0 = the first) of a CLIP_VISION, as the host's `intermediate_output` gives them.

    Returns:
        A function that copies the weights up to that block to a device, for one run: the host may move its own at any
        time, and those are inference tensors, which autograd refuses.

    Raises:
        ValueError: an encoder that cannot be stopped at a block, or has no such block.
    """
    model = clip_vision.model
    path = next((p for p in BLOCKS if has_submodule(model, p)), None)
    if path is None or clip_vision.image_size <= 0:
        raise ValueError(
            f"clip_vision: this image encoder ({type(model).__name__}, picture size {clip_vision.image_size}) is not "
            "supported: style needs one of fixed size that can be stopped at a block. Load CLIP ViT-L, ViT-H or ViT-G, "
            "SigLIP or DINOv2; DINOv3 and variable-size SigLIP 2 do not work."
        )
    count = len(model.get_submodule(path))
    if block >= count:
        raise ValueError(f"block: there is no block {block}; this image encoder has {count}. Set 0 to {count - 1}.")
    head = up_to_block(model, path.split("."), block)

    def load(device: torch.device) -> Features:
        with torch.inference_mode(False):
            weights = {k: v.detach().to(device, copy=True) for k, v in head.named_parameters()}

        def features(pictures: Tensor) -> Tensor:
            views = square_views(pictures, clip_vision.image_size)  # (B V, 3, S, S)
            pixels = normalised(views, clip_vision.image_mean, clip_vision.image_std)
            # The host's blocks add to their input in place, after the layer norm has saved it.
            with torch.autograd.graph.saved_tensors_hooks(lambda t: t if t.is_leaf else t.clone(), lambda t: t):
                tokens = functional_call(head, weights, (), {"pixel_values": pixels, "intermediate_output": block})[1]
            patches = isqrt(tokens.shape[1]) ** 2  # all but a class token in front, where there is one
            return tokens[:, -patches:].reshape(len(pictures), -1, tokens.shape[-1])

        return features

    return load


def has_submodule(model: torch.nn.Module, path: str) -> bool:
    return path in dict(model.named_modules())


def up_to_block(module: Any, path: list[str], block: int) -> torch.nn.Module:
    """A shallow copy of an encoder without the blocks after `block`; the original stays as it is."""
    if not path:
        return module[: block + 1]
    module = copy.copy(module)
    module._modules = module._modules | {path[0]: up_to_block(module.get_submodule(path[0]), path[1:], block)}
    return module


def square_views(pictures: Tensor, size: int) -> Tensor:
    """Pictures (B, 3, H, W) as squares (B V, 3, size, size), resized as the host does it, values within [0, 1].

    The host keeps the centre of a portrait or landscape; here as many squares as it takes cover all of it. The limits
    let the gradient pass: white must be able to turn darker.
    """
    height, width = pictures.shape[-2:]
    if (height, width) != (size, size):
        scale = size / min(height, width)
        height, width = round(scale * height), round(scale * width)
        pictures = F.interpolate(pictures, size=(height, width), mode="bicubic", antialias=True)
    pictures = pictures + (pictures.clamp(0, 1) - pictures).detach()
    long, count = max(height, width), ceil(max(height, width) / size)
    starts = [i * (long - size) // max(count - 1, 1) for i in range(count)]
    views = [pictures.narrow(-2 if height > width else -1, start, size) for start in starts]
    return torch.stack(views, 1).flatten(0, 1)


def normalised(pixels: Tensor, mean: list[float], std: list[float]) -> Tensor:
    m, s = (pixels.new_tensor(v).reshape(3, 1, 1) for v in (mean, std))
    return (pixels - m) / s
