"""Known values held through the noise levels, and what they leave open drawn anew until it fits."""

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from .constraint import Constraint, Term, WeightedSum
from .denoiser import Denoiser, Scales, max_abs
from .operators.mask import LatentMask
from .renoise import renoise

# Largest factor of nu e / data in a move of x: near s = 0, where x0(x) has slope 1, more would diverge.
GAIN = 2.0
# Noise levels s / (alpha data) at which resampling pays: above them little is decided, below them little is open.
OPEN = 1.5, 3.0

Known = tuple[Tensor, Tensor]  # weights W and values y


def is_open(here: Scales) -> bool:
    """Whether held masks are resampled at this noise level."""
    return OPEN[0] < here.s / max(here.alpha * here.data, 1e-30) < OPEN[1]


def without_masks(constraint: Constraint) -> Constraint:
    """What is left for Newton steps where latent masks are held."""
    if isinstance(constraint, LatentMask):
        return WeightedSum(())
    if isinstance(constraint, WeightedSum):
        return WeightedSum(tuple(t for t in constraint.terms if not isinstance(t.constraint, LatentMask)))
    return constraint


@dataclass(frozen=True)
class Hold:
    """Replacement whose noise learns: known values are alpha y + s n, and every level corrects n by its error.

    Stock replacement leaves n as it was drawn, and the denoiser does not believe the known values. Here x moves along
    the error e = W (y - x0) itself, by at most `rate` nu as a Newton step does, until x0 says y by itself; the rest of
    x0 then belongs to an x that explains y. The step itself is the perturbation: the next level's only call applies J
    to it in passing.

    Under guidance e is the error of the estimate before it: guidance overshoots, and noise that learnt to make up for
    that would spoil the rest of x0. What is open stays guided.

    Several masks share what they both know by their weights.

    Attributes:
        constraint: the masks, and others that are passed over.
        rate: step length lambda, in units of the noisy input's standard deviation.
    """

    constraint: Constraint
    rate: float

    def known(self, sigma: float) -> Known | None:
        """W and y at a noise level, or None where no mask is active."""
        terms = self.constraint if isinstance(self.constraint, WeightedSum) else WeightedSum((Term(self.constraint),))
        masks = [(t.weight, t.constraint) for t in terms.active(sigma) if isinstance(t.constraint, LatentMask)]
        if not masks:
            return None
        weights = [mask.weights_now(sigma) for _, mask in masks]
        shares = [a * w for (a, _), w in zip(masks, weights, strict=True)]
        total = sum(shares)
        y = sum(share * mask.y for share, (_, mask) in zip(shares, masks, strict=True))
        return functools.reduce(torch.maximum, weights), y / torch.where(total > 0, total, 1.0)

    def correct(
        self, x: Tensor, x0: Tensor, guidance: Tensor | float, known: Known, here: Scales
    ) -> tuple[Tensor, Tensor, Tensor]:
        """x moved along e, x0 with the known values, and e, all (B, C, ..., H, W); per sample.

        Args:
            guidance: what guidance added to x0, of its shape, or 0.
        """
        weights, y = known
        off = weights * (y - x0)
        e = off + weights * guidance
        length = (self.rate / max_abs(e).clamp(min=1e-30)).clamp(max=GAIN / here.data)
        return x + length * here.nu * e, x0 + off, e

    def resample(self, denoise: Denoiser, x: Tensor, sigma: float, known: Known, noise: Tensor) -> Tensor:
        """One call: x corrected, and what is not known noised anew from x0, at the same noise level, W by W.

        Its noise was drawn at higher levels, before it could fit the known values. RePaint (arXiv 2201.09865, section
        4.2) does this by going back to a higher level; there, known values take fresh noise as well. x0 is the estimate
        before guidance, which would otherwise add up.
        """
        here, weights = denoise.scales(sigma), known[0].to(x)
        x0 = denoise(x, sigma)
        x, x0, _ = self.correct(x, x0, denoise.guidance, known, here)
        x0 = unguided(x0, denoise.guidance, known)
        fresh = (1 - weights**2).sqrt()  # noise keeps its variance where weights are soft
        return here.alpha * x0 + weights * (x - here.alpha * x0) + fresh * here.s * noise


def unguided(x0: Tensor, guidance: Tensor | float, known: Known) -> Tensor:
    """x0 (B, C, ..., H, W), which has the known values, without what guidance added to what is open."""
    return x0 - (1 - known[0].to(x0)) * guidance


def stepped(x: Tensor, x0: Tensor, here: Scales, there: Scales) -> Tensor:
    """Known values at the next level: no fresh noise, or what n has learnt would be lost."""
    return renoise(x, x0, here, there, 0.0, torch.zeros_like(x))
