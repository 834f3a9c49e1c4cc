"""What a latent's noise mask (1 = generate) says about its cells, wherever it comes from."""

from collections.abc import Callable
from typing import Any

import comfy.utils
import torch
from torch import Tensor

from ...sampler import frame_weights, interpolated_weights, known_weights

WeightsAt = Callable[[Tensor, float], Tensor]


# Pictures in a latent frame of the usual video VAEs; by this order where a host does not tell the model's.
RATIOS = 4, 8, 6


def packed_pictures(latent_format: Any, pictures: int, frames: int) -> int:
    """How many pictures a latent frame of the model's VAE holds, given that so many make up these frames."""
    told = getattr(latent_format, "temporal_downscale_ratio", None)
    fitting = (r for r in RATIOS if 1 + (pictures - 1) // r == frames)
    return told or next(fitting, RATIOS[0])


def raw_weights(mask: Tensor, shape: torch.Size, latent_format: Any) -> Tensor:
    """Weights W (B, 1, ..., h, w) in [0, 1], 1 = keep, of the cells of a latent of `shape` (B, C, ..., h, w).

    A cell is known if all pixels of the mask that touch it are.

    Args:
        mask: as a LATENT holds it, in [0, 1] and of any size: (H, W), (N, H, W) or (N, 1, H, W), for a video one for
            all frames, for each latent frame or for each picture, or (N, 1, T, H, W). N is repeated to B as the host
            does.
        latent_format: of the model.
    """
    video = len(shape) == 5
    if video and mask.ndim == 5:
        clips = list(mask[:, 0])  # (T, H, W) each
    elif video and shape[2] > 1:
        clips = [mask.reshape(-1, *mask.shape[-2:])]
    else:
        clips = list(mask.reshape(-1, 1, *mask.shape[-2:]))
    weights = [known_weights(clip, height=shape[-2], width=shape[-1]) for clip in clips]
    if video:
        ratio = packed_pictures(latent_format, len(weights[0]), shape[2])
        weights = [frame_weights(w, shape[2], ratio) for w in weights]
    whole = torch.cat(weights)
    return comfy.utils.repeat_to_batch_size(whole, shape[0])


def weights_over_time(model_options: dict[str, Any], guider: Any, sigmas: Tensor) -> WeightsAt | None:
    """How DifferentialDiffusion on the model turns soft weights of a mask into weights at each noise level."""
    denoise_mask_at = model_options.get("denoise_mask_function")
    if denoise_mask_at is None:
        return None
    run = {"model": guider, "sigmas": sigmas}
    return lambda weights, sigma: 1 - denoise_mask_at(weights.new_tensor([sigma]), 1 - weights, extra_options=run)


def noise_mask_weights(
    raw: Tensor | None,
    interpolated: Tensor | None,
    shape: torch.Size,
    weights_at: WeightsAt | None,
    latent_format: Any,
) -> Tensor | None:
    """Weights of the cells of the latent being sampled, broadcastable to its `shape`; None without a mask.

    Args:
        raw: the mask as the LATENT holds it, where it is within reach: nothing thin is lost then. Like `interpolated`
            it may overshoot [0, 1], as resizing does.
        interpolated: what the host makes of it for a sampler, (B, C, ..., h, w); a cell next to a touched one is not
            known for sure, see `interpolated_weights`.
        weights_at: a schedule for soft values, which does without that caution.
        latent_format: of the model.
    """
    if raw is not None:
        return raw_weights(raw.clamp(0, 1), shape, latent_format)
    if interpolated is None:
        return None
    interpolated = interpolated.clamp(0, 1)
    return interpolated_weights(interpolated) if weights_at is None else 1 - interpolated
