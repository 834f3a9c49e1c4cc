"""The scales of a model's noisy input."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch

from ...sampler import Scales

# Families of the host whose noisy input is not alpha x0 + s n by its own account: two that turn one picture into
# another without noise, and one whose network is handed x without the scaling it was trained with.
UNDESCRIBED = {
    "IMG_TO_IMG": "it turns one picture into another without noise levels",
    "IMG_TO_IMG_FLOW": "it turns one picture into another without noise",
    "V_PREDICTION_DDPM": "its network reads x without the scaling that goes with the noise (CogVideoX)",
}


def refuse(model_sampling: Any, reason: str) -> None:
    raise ValueError(
        f"model: {type(model_sampling).__name__} is not supported by constrained sampling: {reason}. Use a diffusion "
        "or flow model (eps, v-prediction, EDM, SD3, Flux, Wan, Cosmos, ...)."
    )


def measured_scales(model_sampling: Any) -> Callable[[float], Scales]:
    """alpha and s of any model family, read off the host's linear `noise_scaling`."""
    for base in type(model_sampling).__mro__:
        if base.__name__ in UNDESCRIBED:
            refuse(model_sampling, UNDESCRIBED[base.__name__])

    @cache
    def scales(sigma: float) -> Scales:
        # Fresh tensors each time: some families write into them.
        level = torch.tensor(sigma)
        alpha = model_sampling.noise_scaling(level, torch.zeros(1, 1), torch.ones(1, 1), False)
        s = model_sampling.noise_scaling(level, torch.ones(1, 1), torch.zeros(1, 1), False)
        if sigma > 0 and float(s) == 0:
            refuse(model_sampling, "it adds no noise to the latent, so there is nothing to correct")
        return Scales(float(alpha), float(s), getattr(model_sampling, "sigma_data", 1.0))

    return scales


def check_latent(shape: torch.Size, latent_format: Any) -> None:
    if len(shape) == 3 or "Audio" in type(latent_format).__name__:
        raise ValueError(
            f"latent_image: its shape {tuple(shape)} is that of an audio latent or of audio and video packed together; "
            "constrained sampling works on pictures (B, C, H, W) and video (B, C, T, H, W). Sample "
            "this one with a node of the host."
        )
