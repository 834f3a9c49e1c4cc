"""Layers in pixels: they must give the image again."""

import torch
import torch.nn.functional as F
from torch import Tensor

# Variance of colours below which an area counts as flat.
FLAT = 1e-4


def harden_mask(m: Tensor, certain: float) -> Tensor:
    """The mask with what is nearly certain made certain: where one layer alone is seen, the other one is free.

    Args:
        certain: how close to 0 or 1 that is, in (0, 1/2).
    """
    return ((m - certain) / (1 - 2 * certain)).clamp(0, 1)


def guided_filter(m: Tensor, picture: Tensor, radius: int) -> Tensor:
    """The mask that follows the edges of the picture: He, Sun, Tang, Guided Image Filtering, TPAMI 2013, in colour.

    In each window it is the affine function of the colours that fits m best, and windows that overlap are averaged.

    Args:
        m: mask, (B, 1, H, W).
        picture: (B, C, H, W) in [0, 1].
        radius: of the square windows, in pixels.
    """

    def mean(t: Tensor) -> Tensor:
        across = F.avg_pool2d(t, (1, 2 * radius + 1), 1, (0, radius), count_include_pad=False)
        return F.avg_pool2d(across, (2 * radius + 1, 1), 1, (radius, 0), count_include_pad=False)

    def covariance(a: Tensor, b: Tensor) -> Tensor:
        return mean(a * b) - mean(a) * mean(b)

    channels = picture.shape[1]
    own = torch.stack([covariance(picture, picture[:, [k]]) for k in range(channels)], -1).movedim(1, -2)
    with_mask = covariance(picture, m).movedim(1, -1).unsqueeze(-1)
    slope = torch.linalg.solve(own + FLAT * torch.eye(channels).to(own), with_mask).squeeze(-1).movedim(-1, 1)
    offset = mean(m) - (slope * mean(picture)).sum(1, keepdim=True)
    return (mean(slope) * picture).sum(1, keepdim=True) + mean(offset)


def recompose(first: Tensor, second: Tensor, m: Tensor) -> Tensor:
    """m x_1 + (1 - m) x_2; pictures (B, C, H, W), m (B, 1, H, W), all in [0, 1]."""
    return m * first + (1 - m) * second


def exact_layers(image: Tensor, first: Tensor, second: Tensor, m: Tensor) -> tuple[Tensor, Tensor]:
    """The layers with m x_1 + (1 - m) x_2 = image, changed where their mask is decisive, and still in [0, 1].

    The smallest change, m r / (m^2 + (1 - m)^2) and (1 - m) r / (m^2 + (1 - m)^2) for the residual r, where that stays
    within [0, 1]; elsewhere on the border of [0, 1]. One exists: both layers equal to the image.
    """
    share = (image - recompose(first, second, m)) / (m**2 + (1 - m) ** 2)
    first, second = first + m * share, second + (1 - m) * share
    # The layer that counts less is bounded so that the other one, solved for, lies within [0, 1].
    less, minor, major = torch.minimum(m, 1 - m), *ordered(m, first, second)
    safe = torch.where(less > 0, less, 1.0)
    low = torch.where(less > 0, (image - 1 + less) / safe, 0.0).clamp(0, 1)
    high = torch.where(less > 0, image / safe, 1.0).clamp(0, 1)
    minor = torch.minimum(torch.maximum(minor, low), high)
    major = ((image - less * minor) / (1 - less)).clamp(0, 1)
    return ordered(m, minor, major)


def ordered(m: Tensor, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """The layer of the smaller weight before that of the larger one; applied twice it changes nothing."""
    swap = m > 0.5
    return torch.where(swap, second, first), torch.where(swap, first, second)
