"""Inpainting: some latent cells are known."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..constraint import Update
from ..denoiser import beyond_noise


def known_weights(mask: Tensor, height: int, width: int, erode: int = 0, partial: bool = False) -> Tensor:
    """Weights W of latent cells, (B, 1, height, width), from a pixel mask.

    A cell is known (W = 1) only if all its pixels are; a soft mask gives soft weights, one minus the largest mask
    value under the cell.

    Args:
        mask: (H, W), (B, H, W) or (B, 1, H, W) in [0, 1], 1 = regenerate. H and W need not be multiples
            of height and width: a pixel that touches a cell counts for it.
        erode: shrink the known region by this many cells, so that cells whose encoding saw unknown pixels are free.
        partial: cells that the mask cuts through count by the share of their known pixels. Right where the picture
            was filled sensibly before encoding; elsewhere what is to be hidden would shine through.
    """
    mask = mask.reshape(-1, 1, *mask.shape[-2:]).float()
    unknown = (F.adaptive_avg_pool2d if partial else F.adaptive_max_pool2d)(mask, (height, width))
    if erode:
        unknown = F.max_pool2d(unknown, 2 * erode + 1, stride=1, padding=erode)
    return 1 - unknown


def frame_weights(weights: Tensor, frames: int, ratio: int) -> Tensor:
    """Weights (1, 1, T, h, w) of a video latent of T frames from those of its pictures, (F, 1, h, w).

    A video VAE packs the first picture alone and the others in groups of `ratio`; a cell counts by the least known of
    its pictures. Pictures that fill no group are left out, as by the VAE. F = T gives every latent frame its own
    weights, F = 1 the same to all.

    Raises:
        ValueError: F is none of these.
    """
    if len(weights) == 1:
        return weights.unsqueeze(2).expand(-1, -1, frames, -1, -1)
    if len(weights) == frames:
        return weights.unsqueeze(0).movedim(2, 1)
    pictures = 1 + ratio * (frames - 1)
    if len(weights) < pictures:
        raise ValueError(
            f"mask: {len(weights)} masks do not suffice for a video of {frames} latent frames. Give one mask for all, "
            f"one for each latent frame, or one for each of its {pictures} pictures."
        )
    groups = [weights[:1], *weights[1:pictures].split(ratio)][:frames]
    return torch.stack([g.amin(0) for g in groups], 1).unsqueeze(0)


def interpolated_weights(mask: Tensor) -> Tensor:
    """Weights W of latent cells from a mask that was already interpolated to their grid, of the shape of `mask`.

    Only untouched cells are known for sure (W = 1). A touched one may hide the largest value next to it, so at a hard
    edge it is free, and where the mask is soft W is one minus that value.

    Args:
        mask: (..., H, W) in [0, 1], 1 = regenerate.
    """
    largest = F.max_pool2d(mask.reshape(-1, 1, *mask.shape[-2:]), 3, stride=1, padding=1).reshape(mask.shape)
    return torch.where(mask == 0, 1.0, 1 - largest)


def masked_rms(e: Tensor) -> Tensor:
    """Root mean square of each sample over the elements that are not 0, (B,)."""
    spoken = (e != 0).flatten(1).sum(1).clamp(min=1)
    return (e.square().flatten(1).sum(1) / spoken).sqrt()


@dataclass(frozen=True)
class LatentMask:
    """e = W (y - x0), up to the noise of y; the residual is its rms over known elements, in units of the latent.

    Attributes:
        y: known clean latent, broadcastable to x0 (B, C, ..., H, W).
        weights: W in [0, 1], broadcastable to x0; 1 = keep, 0 = generate freely.
        weights_at: from W and a noise level to the weights there; None: W at every level.
        noise: sigma_y of y, (1,), (B,) or a number; e is asked to shrink to this rms, no further, so that noise is not
            kept.
    """

    y: Tensor
    weights: Tensor
    weights_at: Callable[[Tensor, float], Tensor] | None = None
    noise: float | Tensor = 0.0
    unit = "rms in the latent"
    spatial = True

    def weights_now(self, sigma: float) -> Tensor:
        return self.weights if self.weights_at is None else self.weights_at(self.weights, sigma)

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        return self.weights_now(sigma) * (self.y - x0)

    def update(self, x0: Tensor, sigma: float) -> Update:
        e = self.error(x0, sigma)
        size = masked_rms(e)
        return Update(e * beyond_noise(size, self.noise, e), size)

    def residual(self, x0: Tensor, sigma: float) -> Tensor:
        return masked_rms(self.error(x0, sigma))
