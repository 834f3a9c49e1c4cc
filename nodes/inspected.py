"""What Jacobian Probe and Direction Compare are given, checked."""

import math
from typing import Any

import torch
from torch import Tensor

from .checks import check_ratio
from .heat_map import pooled
from .vae_checks import check_pictures_vae, encode


def check_latent_of(samples: Tensor, what: str) -> Tensor:
    """The first latent (1, C, h, w) of a batch."""
    if getattr(samples, "is_nested", False) or samples.ndim != 4:
        shape = "several packed latents" if getattr(samples, "is_nested", False) else f"shape {tuple(samples.shape)}"
        raise ValueError(
            f"{what}: this node looks at pictures, not at video or audio ({shape}). Give the latent of one picture."
        )
    return samples[:1].float()


def encoded(vae: Any, image: Tensor, what: str = "image") -> Tensor:
    """The latent (1, C, h, w) of the first picture."""
    check_pictures_vae(vae)
    check_ratio(what, *image.shape[1:3], vae.spacial_compression_encode())
    return check_latent_of(encode(vae, image[:1, ..., :3]), what)


def noise_level(text: str, name: str) -> float:
    try:
        level = float(text)
    except ValueError:
        raise ValueError(f"{name}: {text!r} is no number. Write levels such as 0.3, 1, 3.") from None
    if not math.isfinite(level) or level <= 0:
        raise ValueError(
            f"{name}: {level:g} is no noise level: without noise x0 is x itself. Give a level above 0, such as 1 (as "
            "much noise as signal)."
        )
    return level


def parse_levels(text: str, name: str) -> list[float]:
    """Noise-to-signal ratios, separated by commas."""
    parts = [part for part in text.replace(";", ",").split(",") if part.strip()]
    if not parts:
        raise ValueError(f"{name}: it is empty. Write one or more levels, such as 0.3, 1, 3.")
    return [noise_level(part.strip(), name) for part in parts]


def given_latent(latent: dict[str, Any] | None, image: Tensor | None, vae: Any | None) -> tuple[Tensor, list[str]]:
    """The clean latent (1, C, h, w) in the VAE's coordinates, and what is to be said about it."""
    if latent is None and image is None:
        raise ValueError("latent, image: neither is connected. Connect a latent, or a picture with its vae.")
    if vae is not None:
        check_pictures_vae(vae)
    if latent is not None:
        many, z = len(latent["samples"]), check_latent_of(latent["samples"], "latent")
    elif vae is None:
        raise ValueError("vae: it is not connected, but image must be encoded. Connect the model's VAE, or a latent.")
    else:
        many, z = len(image), encoded(vae, image)
    return z, [f"The first of {many} pictures was probed."] if many > 1 else []


def marked_cells(mask: Tensor | None, x: int, y: int, height: int, width: int) -> Tensor:
    """Weights (h, w): of the mask, else 1 at the point."""
    if mask is not None:
        weights = pooled(mask.reshape(-1, *mask.shape[-2:])[:1], height, width)
        if not weights.any():
            raise ValueError(
                "mask: it is empty, so there is nothing to probe. Paint the cells to probe (white) or disconnect it to "
                "probe the point x, y; a picture without transparency gives an empty mask."
            )
        return weights
    if x >= width or y >= height:
        raise ValueError(
            f"x, y: the point ({x}, {y}) is outside of the latent, which has {width} x {height} cells (a cell is "
            f"usually 8 pixels). Choose x from 0 to {width - 1} and y from 0 to {height - 1}."
        )
    weights = torch.zeros(height, width)
    weights[y, x] = 1
    return weights
