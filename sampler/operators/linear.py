"""What a measurement operator is: y = A x, with its adjoint and a pseudo-inverse. Names as in deepinv."""

from typing import Protocol

import torch
from torch import Tensor


class LinearOperator(Protocol):
    """Linear map from pictures x (B, C, ..., H, W) to measurements y (B, C', ..., h, w).

    Channels are dimension 1, the last two dimensions are spatial, anything between them (video frames) is a batch.
    Any value range; single and double precision are kept, half precision is computed in single and returned in half.
    Pictures and measurements may be on any device; the tensors that define an operator stay on the CPU.
    """

    def A(self, image: Tensor) -> Tensor:
        """The measurement of `image`."""
        ...

    def adjoint(self, y: Tensor) -> Tensor:
        """A* with <A x, y> = <x, A* y>, in the shape of the picture."""
        ...

    def pinv(self, y: Tensor) -> Tensor:
        """A picture that measures as `y`: A pinv(A x) = A x, exactly or up to the cut-off the operator states."""
        ...


def computed(image: Tensor) -> Tensor:
    """`image` in the precision operators compute in; a ValueError for what is no (B, C, ..., H, W) float image."""
    if not image.is_floating_point():
        raise ValueError(f"image: its type is {image.dtype}; divide 8-bit levels by 255 to give floating-point values.")
    if image.ndim < 4:
        raise ValueError(
            f"image: {image.ndim} dimensions {tuple(image.shape)} are too few; give (batch, channels, height, width), "
            "or (batch, channels, frames, height, width) for video."
        )
    return image if image.dtype == torch.float64 else image.float()
