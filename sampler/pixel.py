"""Constraints on the decoded picture, and the way from an error in pixels to one in the latent by encodings."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from .constraint import Wish
from .denoiser import max_abs, unit_max
from .noise import noise_like, sample_generators
from .operators.linear import LinearOperator

PixelMap = Callable[[Tensor], Tensor]
Pull = Callable[[Tensor, PixelMap], Tensor]


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

    def normal(self, movement: Tensor) -> Tensor:
        """A* A of a movement of the picture."""
        return self.operator.adjoint(self.operator.A(movement))


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
    """From a movement of the picture to one of x0 by forward passes only (VAE-Newton): no gradient anywhere.

    e = Enc(I + e_I) - Enc(I) for I = Dec(x0). The published form shortens e_I to a small step, for the encoder's
    derivative; at its own length the direction is better (bench/direction.py), and x0 + e is where the wish leads.

    Attributes:
        decode: x0 to a picture (B, 3, ..., H, W) in [0, 1].
        encode: a picture to x0; deterministic (the encoder's mean).
        step: h, in units of the picture: an e_I whose largest magnitude is below is lengthened to it, or it would
            drown in the encoder's rounding; e is shortened in turn.
    """

    decode: PixelMap
    encode: PixelMap
    step: float

    def __call__(self, x0: Tensor, wish: PixelMap) -> Tensor:
        picture = self.decode(x0)
        e_pixel = wish(picture)
        length = max_abs(e_pixel)
        lengthened = unit_max(e_pixel) * length.clamp(min=self.step)
        e = self.encode(picture + lengthened) - self.encode(picture)
        return e * (length / self.step).clamp(max=1)


def perturbed(pull: Pull, size: float, batch: int, seed: int = 0) -> Pull:
    """`pull` seen from around the estimate: at x0 + size n, n ~ N(0, I) anew each time, one generator per sample.

    Against blur (section 3.3): blurry pictures that satisfy the constraint are no longer at rest.
    """
    generators = sample_generators(seed, batch)
    return lambda x0, wish: pull(x0 + size * noise_like(x0, generators), wish)


@dataclass(frozen=True)
class PixelConstraint:
    """A measurement of Dec(x0), up to its noise.

    Attributes:
        misfit: r of a picture, as in `Measurement`.
        lift: from r to a movement of the picture: `Measurement.correction` before an encoder difference, `descent`
            before least squares or a gradient.
        pull: from x0 and the wished movement of a picture to e: an `EncoderDifference`, `LeastSquares`, or the
            decoder's transposed Jacobian at x0 times the wish, which together with `descent` is -grad |y - A Dec(x0)|
            up to its length.
        noise: sigma_y; r is asked to shrink to this rms, no further, so that noise is not fitted.

    The residual is the rms of r, in units of the picture.
    """

    misfit: PixelMap
    lift: PixelMap
    pull: Pull
    noise: float = 0.0

    def wish(self, x0: Tensor, sigma: float) -> Wish:
        sizes = []

        def wish(picture: Tensor) -> Tensor:
            r = self.misfit(picture)
            sizes.append(rms(r))
            share = (1 - self.noise / sizes[0].clamp(min=1e-9)).clamp(min=0)
            return self.lift(r * per_sample(share, r))

        return Wish(self.pull(x0, wish), sizes[0])

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        return self.wish(x0, sigma).e


@dataclass(frozen=True)
class Along:
    """The movement of one constraint, sought along the error direction of another on the same measurement."""

    constraint: PixelConstraint
    direction: PixelConstraint

    def wish(self, x0: Tensor, sigma: float) -> Wish:
        return self.direction.wish(x0, sigma)._replace(movement=lambda: self.constraint.error(x0, sigma))

    def error(self, x0: Tensor, sigma: float) -> Tensor:
        return self.direction.error(x0, sigma)


def rms(r: Tensor) -> Tensor:
    """Of each sample, (B,)."""
    return r.square().flatten(1).mean(1).sqrt()


def back_project(measurement: Measurement, picture: Tensor, noise: float = 0.0, rounds: int = 50) -> Tensor:
    """The picture (B, 3, ..., H, W) changed until it satisfies the measurement, as far as its noise asks.

    Alternates I + A+ (y - A I) with the limits of pictures, [0, 1]. Where that leaves more than before, because the
    two contradict or A+ is truncated, I + A* (y - A I) takes its place, which cannot if |A| <= 1.
    """
    r = measurement.misfit(picture)
    for _ in range(rounds):
        before = rms(r)
        share = per_sample((1 - noise / before.clamp(min=1e-9)).clamp(min=0), picture)
        best, left = picture, r
        for move in (measurement.descent, measurement.correction):
            tried = (picture + share * move(r)).clamp(0, 1)
            found = measurement.misfit(tried)
            closer = rms(found) < before
            best = torch.where(per_sample(closer, best), tried, best)
            left = torch.where(per_sample(closer, left), found, left)
        if torch.equal(left, r):
            break
        picture, r = best, left
    return picture


def per_sample(value: Tensor, like: Tensor) -> Tensor:
    """(B,) to (B, 1, ...)."""
    return value.reshape(-1, *(1,) * (like.ndim - 1))
