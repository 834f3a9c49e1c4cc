"""Replacement of known values with an error-driven update of their noise, and resampling of what is unknown."""

import functools

import torch
from torch import Tensor

from .constraint import Constraint, Term, WeightedSum, residual
from .denoiser import Denoiser, Level, max_abs
from .newton import Steps
from .noise import noise_like
from .operators.mask import LatentMask
from .plan import Plan
from .step import ddim_step

# Largest factor of nu e / sigma_data in an update of x: near s = 0, where x0(x) has slope 1, more would diverge.
GAIN = 2.0


class Replacement:
    """Known values are alpha y + s n, and every level corrects n by the error e = W (y - x0).

    Stock replacement leaves n as it was drawn, and the denoiser does not believe the known values. Here x moves along e
    itself, by at most lambda nu as a Newton step does, until x0 says y by itself; the rest of x0 then belongs to an x
    that explains y. The step itself is the perturbation: the next level's only call applies J to it in passing.

    Under guidance e is the error of the conditional estimate: guidance overshoots, and noise that made up for that
    would spoil the rest of x0. What is unknown stays guided.

    Several masks share what they both know by their weights.

    Args:
        constraint: the masks, and others that are passed over.
        rate: step length lambda, in units of the noisy input's standard deviation.
        plan: says which levels are resampled.
        generators: of the noise of resampling, one per sample.

    Attributes:
        known: W and y at the present level, or None where no mask is active.
    """

    def __init__(self, constraint: Constraint, rate: float, plan: Plan, generators: list[torch.Generator]):
        terms = constraint if isinstance(constraint, WeightedSum) else WeightedSum((Term(constraint),))
        self.masks = WeightedSum(tuple(t for t in terms.terms if isinstance(t.constraint, LatentMask)))
        self.rate, self.plan, self.generators = rate, plan, generators
        self.known: tuple[Tensor, Tensor] | None = None

    def begin(self, denoise: Denoiser, x: Tensor, cur: Level) -> Tensor:
        """x (B, C, ..., H, W) at the start of a level: resampled where the plan has it."""
        self.known = self.known_at(cur.sigma)
        self.guidance: Tensor | float = 0.0
        self.resampled = self.known is not None and self.plan.do_resample(cur.i)
        return self.resample(denoise, x, cur, noise_like(x, self.generators)) if self.resampled else x

    def __call__(
        self, denoise: Denoiser, x: Tensor, x0: Tensor, cur: Level, info: Steps
    ) -> tuple[Tensor, Tensor, Steps]:
        """x with corrected noise, x0 with the known values, and what was done."""
        if self.known is None:
            return x, x0, info
        x, x0, e = self.correct(x, x0, denoise.guidance, cur)
        self.guidance = (1 - self.known[0].to(x0)) * denoise.guidance
        return x, x0, info.with_held(residual(e), self.resampled)

    def keep(self, x_next: Tensor, x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
        """The next level's x, in which known values take no fresh noise, or what n has gained would be lost."""
        if self.known is None:
            return x_next
        return torch.lerp(x_next, ddim_step(x, x0, cur, nxt), self.known[0].to(x_next))

    def x0_cond(self, x0: Tensor) -> Tensor:
        """x0, which has the known values, without what guidance added to what is unknown."""
        return x0 - self.guidance

    def known_at(self, sigma: float) -> tuple[Tensor, Tensor] | None:
        masks = [(t.weight, t.constraint) for t in self.masks.active(sigma)]
        if not masks:
            return None
        weights = [mask.weights_now(sigma) for _, mask in masks]
        shares = [a * w for (a, _), w in zip(masks, weights, strict=True)]
        total = sum(shares)
        y = sum(share * mask.y for share, (_, mask) in zip(shares, masks, strict=True))
        return functools.reduce(torch.maximum, weights), y / torch.where(total > 0, total, 1.0)

    def correct(self, x: Tensor, x0: Tensor, guidance: Tensor | float, cur: Level) -> tuple[Tensor, Tensor, Tensor]:
        """x moved along e, x0 with the known values, and e, all (B, C, ..., H, W); per sample.

        Args:
            guidance: what guidance added to x0, of its shape, or 0.
        """
        weights, y = self.known
        off = weights * (y - x0)
        e = off + weights * guidance
        length = (self.rate / max_abs(e).clamp(min=1e-30)).clamp(max=GAIN / cur.scales.data)
        return x + length * cur.scales.nu * e, x0 + off, e

    def resample(self, denoise: Denoiser, x: Tensor, cur: Level, noise: Tensor) -> Tensor:
        """One call: x corrected, and what is unknown noised anew from x0, at the same noise level, W by W.

        Its noise was drawn at higher levels, before it could fit the known values. RePaint (arXiv 2201.09865, section
        4.2) does this by going back to a higher level; there, known values take fresh noise as well. x0 is the
        conditional estimate: guidance would add up.
        """
        alpha, s, _ = cur.scales
        weights = self.known[0].to(x)
        x0 = denoise(x, cur.sigma)
        x, x0, _ = self.correct(x, x0, denoise.guidance, cur)
        x0 = x0 - (1 - weights) * denoise.guidance
        fresh = (1 - weights**2).sqrt()  # noise keeps its variance where weights are soft
        return alpha * x0 + weights * (x - alpha * x0) + fresh * s * noise
