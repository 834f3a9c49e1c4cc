"""Constraints on the decoded picture, followed with forward passes of the autoencoder only (VAE-Newton)."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraint import with_residual
from .denoiser import unit_max
from .operators.linear import LinearOperator


@dataclass(frozen=True)
class PixelConstraint:
    """A(Dec(x0)) = y up to measurement noise.

    The pixel error e_I = A+ (y - A I) of the picture I = Dec(x0) becomes a latent direction by a forward difference of
    the encoder, e = Enc(I + h e_I) - Enc(I), with e_I scaled to largest magnitude 1: no gradient anywhere. Its residual
    is the rms of y - A I, in the picture's units.

    Attributes:
        operator: A.
        y: measurement (B or 1, C', ..., h, w), in the picture's units.
        decode: x0 to a picture (B, 3, ..., H, W) in [0, 1].
        encode: a picture to x0; deterministic (the encoder's mean).
        step: h, in units of the picture.
        noise: sigma_y; a sample whose residual is at this level is left alone, so that noise is not fitted.
    """

    operator: LinearOperator
    y: Tensor
    decode: Callable[[Tensor], Tensor]
    encode: Callable[[Tensor], Tensor]
    step: float
    noise: float = 0.0

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        picture = self.decode(x0)
        residual = self.y - self.operator.A(picture)
        e_pixel = self.operator.pinv(residual)
        e = self.encode(picture + self.step * unit_max(e_pixel)) - self.encode(picture)
        rms = residual.square().flatten(1).mean(1).sqrt()
        return with_residual(e, torch.where(rms > self.noise, rms, 0.0))
