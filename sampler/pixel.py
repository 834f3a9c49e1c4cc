"""Constraints on the decoded picture, and the forward-only way from an error in pixels to one in the latent."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from .constraint import with_residual
from .denoiser import unit_max
from .operators.linear import LinearOperator

PixelMap = Callable[[Tensor], Tensor]


class Measurement(Protocol):
    """What is asked of a picture I, (B, 3, ..., H, W) in [0, 1]."""

    def misfit(self, picture: Tensor) -> Tensor:
        """r, zero where the picture satisfies what is asked, in units of the picture."""
        ...

    def correction(self, r: Tensor) -> Tensor:
        """A movement of the picture that undoes r: A+ r."""
        ...

    def descent(self, r: Tensor) -> Tensor:
        """The movement of the picture that lowers |r| fastest: A* r."""
        ...


@dataclass(frozen=True)
class Measured:
    """A I = y, (B or 1, C', ..., h, w)."""

    operator: LinearOperator
    y: Tensor

    def misfit(self, picture: Tensor) -> Tensor:
        return self.y.to(picture) - self.operator.A(picture)

    def correction(self, r: Tensor) -> Tensor:
        return self.operator.pinv(r)

    def descent(self, r: Tensor) -> Tensor:
        return self.operator.adjoint(r)


@dataclass(frozen=True)
class Target:
    """I = T(I), for a T that names what the picture should be and need not be differentiable."""

    target: PixelMap

    def misfit(self, picture: Tensor) -> Tensor:
        return self.target(picture) - picture

    def correction(self, r: Tensor) -> Tensor:
        return r

    def descent(self, r: Tensor) -> Tensor:
        return r


@dataclass(frozen=True)
class EncoderDifference:
    """From a movement of the picture to one of x0 by forward passes only (VAE-Newton).

    e = Enc(I + h e_I) - Enc(I) for I = Dec(x0), with e_I scaled to largest magnitude 1: no gradient anywhere.

    Attributes:
        decode: x0 to a picture (B, 3, ..., H, W) in [0, 1].
        encode: a picture to x0; deterministic (the encoder's mean).
        step: h, in units of the picture.
    """

    decode: PixelMap
    encode: PixelMap
    step: float

    def __call__(self, x0: Tensor, wish: PixelMap) -> Tensor:
        picture = self.decode(x0)
        return self.encode(picture + self.step * unit_max(wish(picture))) - self.encode(picture)


@dataclass(frozen=True)
class PixelConstraint:
    """A measurement of Dec(x0), up to its noise.

    Attributes:
        misfit: r of a picture, as in `Measurement`.
        lift: from r to a movement of the picture: `Measurement.correction` before an encoder difference, `descent`
            before a gradient.
        pull: from x0 and the wished movement of a picture to e: an `EncoderDifference`, or the decoder's transposed
            Jacobian at x0 times the wish, which together with `descent` is -grad |y - A Dec(x0)| up to its length.
        noise: sigma_y; a sample whose r has this rms or less is left alone, so that noise is not fitted.

    The residual of its e is the rms of r, in units of the picture.
    """

    misfit: PixelMap
    lift: PixelMap
    pull: Callable[[Tensor, PixelMap], Tensor]
    noise: float = 0.0

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        sizes = []

        def wish(picture: Tensor) -> Tensor:
            r = self.misfit(picture)
            sizes.append(rms(r))
            return self.lift(r * (sizes[0] > self.noise).reshape(-1, *(1,) * (r.ndim - 1)))

        e = self.pull(x0, wish)
        return with_residual(e, sizes[0])


def rms(r: Tensor) -> Tensor:
    """Of each sample, (B,)."""
    return r.square().flatten(1).mean(1).sqrt()


def back_project(measurement: Measurement, picture: Tensor, noise: float = 0.0, rounds: int = 20) -> Tensor:
    """Alternate I + A+ (y - A I), as far as the noise asks, with the limits of pictures, [0, 1]."""
    for _ in range(rounds):
        r = measurement.misfit(picture)
        share = (1 - noise / rms(r).clamp(min=1e-9)).clamp(min=0)
        picture = (picture + share.reshape(-1, *(1,) * (r.ndim - 1)) * measurement.correction(r)).clamp(0, 1)
    return picture
