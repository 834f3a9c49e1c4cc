"""Layers in pixels: they must give the image again."""

import torch
from torch import Tensor

# A mask value this close to 0 or 1 counts as certain.
CERTAIN = 0.2


def harden_mask(m: Tensor) -> Tensor:
    """The mask with what is nearly certain made certain: where one layer alone is seen, the other one is free."""
    return ((m - CERTAIN) / (1 - 2 * CERTAIN)).clamp(0, 1)


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
