"""What a measurement operator is: y = A x, with its adjoint and a pseudo-inverse. Names as in deepinv."""

from dataclasses import fields, replace
from typing import Any, Protocol

import torch
from torch import Tensor


class LinearOperator(Protocol):
    """Linear map from pictures x (B, C, ..., H, W) to measurements y (B, C', ..., h, w).

    Channels are dimension 1, the last two dimensions are spatial, anything between them (video frames) is a batch.
    Any value range; single and double precision are kept, half precision is computed in single and returned in half.
    The tensors that define an operator are made on the CPU in double precision; `to` gives an operator whose tensors
    are where the pictures are, for one run.
    """

    def A(self, image: Tensor) -> Tensor:
        """The measurement of `image`."""
        ...

    def A_adjoint(self, y: Tensor) -> Tensor:
        """A* with <A x, y> = <x, A* y>, in the shape of the picture."""
        ...

    def A_dagger(self, y: Tensor) -> Tensor:
        """A picture that measures as `y`: A A_dagger(A x) = A x, exactly or up to the cut-off the operator states."""
        ...

    def to(self, device: torch.device) -> "LinearOperator":
        """The same on a device, in single precision: not every device has double."""
        ...


def on_device(operator: Any, device: torch.device) -> Any:
    """A copy of an operator, a dataclass, with its tensors in single precision on a device."""
    tensors = {f.name: t for f in fields(operator) if isinstance(t := getattr(operator, f.name), Tensor)}
    return replace(operator, **{name: t.float().to(device) for name, t in tensors.items()})  # precision first


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
