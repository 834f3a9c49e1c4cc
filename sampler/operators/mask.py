"""Inpainting: some latent cells are known."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


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


@dataclass(frozen=True)
class LatentMask:
    """e = W (y - x0).

    Attributes:
        y: known clean latent, broadcastable to x0 (B, C, ..., H, W).
        weights: W in [0, 1], broadcastable to x0; 1 = keep, 0 = generate freely.
    """

    y: Tensor
    weights: Tensor

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        return self.weights * (self.y - x0)
