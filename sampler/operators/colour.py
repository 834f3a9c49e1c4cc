"""Colourisation and other mixtures of the colour channels."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import computed, on_device

# Luma of ITU-R Rec. 601 on gamma-encoded R, G, B: what Pillow's convert("L") and most photo programs call grey.
REC_601 = (0.299, 0.587, 0.114)


@dataclass(frozen=True)
class ChannelMix:
    """Mixes the channels of (B, C, ..., H, W) to (B, c, ..., H, W); A_dagger is the exact pseudo-inverse.

    Attributes:
        matrix: (c, C), one row per measured channel.
        inverse: its pseudo-inverse, (C, c).
    """

    matrix: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, matrix: Tensor) -> "ChannelMix":
        """From (c, C) finite weights, not all zero."""
        if matrix.ndim != 2 or not torch.isfinite(matrix).all() or not matrix.any():
            raise ValueError(
                f"matrix: shape {tuple(matrix.shape)} with values {matrix.tolist()} measures no channels; "
                "give finite numbers, not all zero, one row per measured and one column per picture channel."
            )
        return cls(matrix, torch.linalg.pinv(matrix.double()))

    def A(self, image: Tensor) -> Tensor:
        return mixed(self.matrix, image)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return mixed(self.matrix.T, y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return mixed(self.inverse, y)

    def to(self, device: torch.device) -> "ChannelMix":
        return on_device(self, device)


def grey() -> ChannelMix:
    """One channel of grey from red, green and blue."""
    return ChannelMix.of(torch.tensor([REC_601], dtype=torch.float64))


def mixed(matrix: Tensor, image: Tensor) -> Tensor:
    x = computed(image)
    if x.shape[1] != matrix.shape[1]:
        raise ValueError(
            f"image: it has {x.shape[1]} channels where {matrix.shape[1]} are expected; "
            "drop an alpha channel, and put the channels second: (batch, channels, ..., height, width)."
        )
    return torch.einsum("dc,bc...->bd...", matrix.to(x), x).to(image.dtype)
