"""Inpainting of single pixels: random or thin masks that a mask of latent cells would lose."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .linear import computed, on_device


@dataclass(frozen=True)
class PixelMask:
    """Keeps the known pixels of (B, C, ..., H, W) and zeroes the others; A is its own adjoint and pseudo-inverse.

    Attributes:
        known: broadcastable to the image, usually (H, W) or (B, 1, H, W); 1 = known, 0 = unknown, nothing between.
    """

    known: Tensor

    @classmethod
    def of(cls, known: Tensor) -> "PixelMask":
        """From a mask of 0 and 1."""
        if not ((known == 0) | (known == 1)).all():
            raise ValueError(
                "known: the mask has values other than 0 and 1, which makes no pixel known for certain; "
                "threshold it, or use a latent mask for soft weights."
            )
        return cls(known)

    def A(self, image: Tensor) -> Tensor:
        computed(image)
        try:
            shape = torch.broadcast_shapes(self.known.shape, image.shape)
        except RuntimeError:
            shape = None
        if shape != image.shape:
            raise ValueError(
                f"known: a mask of shape {tuple(self.known.shape)} does not fit images of shape {tuple(image.shape)}; "
                "resize the mask to the picture, and give one mask or as many as there are pictures."
            )
        return image * self.known.to(image)

    def A_adjoint(self, y: Tensor) -> Tensor:
        return self.A(y)

    def A_dagger(self, y: Tensor) -> Tensor:
        return self.A(y)

    def to(self, device: torch.device) -> "PixelMask":
        return on_device(self, device)
