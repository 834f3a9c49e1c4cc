"""The scales of a model's noisy input."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ...sampler import Scales


def measured_scales(model_sampling: Any) -> Callable[[float], Scales]:
    """alpha and s of any model family, read off the host's linear `noise_scaling`."""

    @cache
    def scales(sigma: float) -> Scales:
        # Fresh tensors each time: some families write into them.
        level = torch.tensor(sigma)
        alpha = model_sampling.noise_scaling(level, torch.zeros(1, 1), torch.ones(1, 1), False)
        s = model_sampling.noise_scaling(level, torch.ones(1, 1), torch.zeros(1, 1), False)
        if sigma > 0 and float(s) == 0:
            raise ValueError(
                f"model: {type(model_sampling).__name__} adds no noise to the latent, so there is nothing to correct. "
                "Image-to-image models without a noise schedule are not supported; use a diffusion or flow model."
            )
        return Scales(float(alpha), float(s))

    return scales


def check_latent(shape: torch.Size) -> None:
    if len(shape) == 3:
        raise ValueError(
            f"latent_image: its shape {tuple(shape)} is that of an audio latent or a packed audio-video latent; "
            "constrained sampling works on pictures (B, C, H, W) and video (B, C, T, H, W)."
        )
