"""Constraints on the decoded picture, and the maps from an error in pixels to one in the latent."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import torch
from torch import Tensor

from .constraint import Update, rms
from .denoiser import beyond_noise, max_abs, per_sample, unit_max
from .operators.linear import LinearOperator

PixelMap = Callable[[Tensor], Tensor]


class Backprojection(Protocol):
    """From a residual r to a change of the picture, (B, 3, ..., H, W)."""

    def A_dagger(self, r: Tensor) -> Tensor:
        """A change of the picture that undoes r."""
        ...

    def A_adjoint(self, r: Tensor) -> Tensor:
        """The change of the picture that lowers |r| fastest."""
        ...


class Measurement(Backprojection, Protocol):
    """What is asked of a picture I, (B, 3, ..., H, W) in [0, 1]."""

    def data_residual(self, picture: Tensor) -> Tensor:
        """r, zero where the picture satisfies what is asked, in units of the picture."""
        ...

    def to(self, device: torch.device) -> "Measurement":
        """The same in single precision on a device."""
        ...


class Estimate:
    """x0 (B, C, ..., H, W) and its picture, which is decoded once, where it is asked for."""

    def __init__(self, x0: Tensor, decode: PixelMap):
        self.x0, self.decode = x0, decode

    @cached_property
    def picture(self) -> Tensor:
        return self.decode(self.x0)


LatentMap = Callable[[Estimate, PixelMap, Any], Tensor]
"""From x0, the residual r of a picture, and the `Backprojection` that belongs to r, to e in x0 space."""


@dataclass(frozen=True)
class LinearMeasurement:
    """A I = y, (B or 1, C', ..., h, w)."""

    operator: LinearOperator
    y: Tensor

    def data_residual(self, picture: Tensor) -> Tensor:
        return self.y.to(picture) - self.operator.A(picture)

    def A_dagger(self, r: Tensor) -> Tensor:
        return self.operator.A_dagger(r)

    def A_adjoint(self, r: Tensor) -> Tensor:
        return self.operator.A_adjoint(r)

    def A_adjoint_A(self, change: Tensor) -> Tensor:
        """A* A of a change of the picture."""
        return self.operator.A_adjoint(self.operator.A(change))

    def to(self, device: torch.device) -> "LinearMeasurement":
        return type(self)(self.operator.to(device), self.y.to(device, torch.float32))


class Identity:
    """Whatever is asked is a change of the picture itself."""

    def A_dagger(self, r: Tensor) -> Tensor:
        return r

    def A_adjoint(self, r: Tensor) -> Tensor:
        return r


@dataclass(frozen=True)
class FixedPoint(Identity):
    """I = T(I), for a T that need not be differentiable."""

    target: PixelMap

    def data_residual(self, picture: Tensor) -> Tensor:
        return self.target(picture) - picture

    def to(self, device: torch.device) -> "FixedPoint":
        return self


@dataclass(frozen=True)
class EncoderDifference:
    """e = Enc(I + e_I) - Enc(I) for I = Dec(x0) and e_I = A+ r: forward passes only (VAE-Newton), no gradient anywhere.

    The published form shortens e_I to a small step, for the encoder's derivative; at its own length the direction is
    better (bench/direction.py), and x0 + e is where A+ r leads.

    Attributes:
        encode: a picture (B, 3, ..., H, W) in [0, 1] to x0; deterministic (the encoder's mean).
        step: h, in units of the picture: an e_I whose largest magnitude is below is lengthened to it, or it would
            drown in the encoder's rounding; e is shortened in turn.
    """

    encode: PixelMap
    step: float

    def __call__(self, estimate: Estimate, residual: PixelMap, measurement: Backprojection) -> Tensor:
        picture = estimate.picture
        e_pixel = measurement.A_dagger(residual(picture))
        length = max_abs(e_pixel)
        lengthened = unit_max(e_pixel) * length.clamp(min=self.step)
        e = self.encode(picture + lengthened) - self.encode(picture)
        return e * (length / self.step).clamp(max=1)


@dataclass(frozen=True)
class PixelConstraint:
    """A measurement of Dec(x0), up to its noise; the residual is the rms of r.

    Attributes:
        decode: x0 to a picture (B, 3, ..., H, W) in [0, 1].
        to_latent: makes the direction e: `least_squares`, an `EncoderDifference`, or the decoder's vector-Jacobian
            product with A* r, which is -grad |y - A Dec(x0)| up to its length.
        noise: sigma_y; r is asked to shrink to this rms, no further, so that noise is not fitted.
        to_x0: makes the step of x0 with which it satisfies the measurement; None where only the direction is known.
    """

    measurement: Measurement
    decode: PixelMap
    to_latent: LatentMap
    noise: float = 0.0
    to_x0: LatentMap | None = None
    unit = "rms in the picture, white = 1"
    spatial = True

    def update(self, x0: Tensor, sigma: float) -> Update:
        estimate, sizes, to_x0 = Estimate(x0, self.decode), [], self.to_x0

        def residual(picture: Tensor) -> Tensor:
            r = self.measurement.data_residual(picture)
            sizes.append(rms(r))
            return r * beyond_noise(sizes[0], self.noise, r)

        e = self.to_latent(estimate, residual, self.measurement)
        return Update(e, sizes[0], to_x0 and (lambda: to_x0(estimate, residual, self.measurement)))

    def residual(self, x0: Tensor, sigma: float) -> Tensor:
        return rms(self.measurement.data_residual(self.decode(x0)))


def back_project(measurement: Measurement, picture: Tensor, noise: float = 0.0, rounds: int = 50) -> Tensor:
    """The picture (B, 3, ..., H, W) changed until it satisfies the measurement, as far as its noise asks.

    Alternates I + A+ (y - A I) with the limits of pictures, [0, 1]. Where that leaves more than before, because the
    two contradict or A+ is truncated, I + A* (y - A I) takes its place, which cannot if |A| <= 1.
    """
    r = measurement.data_residual(picture)
    for _ in range(rounds):
        before = rms(r)
        share = beyond_noise(before, noise, picture)
        best, left = picture, r
        for backprojection in (measurement.A_adjoint, measurement.A_dagger):
            tried = (picture + share * backprojection(r)).clamp(0, 1)
            found = measurement.data_residual(tried)
            closer = rms(found) < before
            best = torch.where(per_sample(closer, best), tried, best)
            left = torch.where(per_sample(closer, left), found, left)
        if torch.equal(left, r):
            break
        picture, r = best, left
    return picture
