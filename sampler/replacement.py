"""Replacement of known values with an error-driven update of their noise, and resampling of what is unknown."""

import functools
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .constraint import WeightedSum, by_term
from .denoiser import Denoiser, Level, Scales, max_abs, per_sample
from .newton import LevelInfo
from .noise import noise_like
from .operators.mask import LatentMask, masked_rms
from .plan import Plan
from .step import ddim_step

# Largest factor of nu e / sigma_data in an update of x: near s = 0, where x0(x) has slope 1, more would diverge.
GAIN = 2.0
# Cells from the nearest known one over which guidance comes in.
FADE = 3


class Known(NamedTuple):
    """What is known at a level, broadcastable to x0.

    Attributes:
        weights, y: W, and the values to take; where they are noisy, as far towards them as their noise allows.
        in_y: share of the next level's noise that those values have already.
        residual: violation of each mask, (T, B).
    """

    weights: Tensor
    y: Tensor
    in_y: Tensor
    residual: Tensor


class Replacement:
    """Known values are alpha y + s n, and every level corrects n by the error e = W (y - x0).

    Stock replacement leaves n as it was drawn, and the denoiser does not believe the known values. Here x moves along e
    itself, by at most lambda nu as a Newton step does, until x0 says y by itself; the rest of x0 then belongs to an x
    that explains y. The step itself is the perturbation: the next level's only call applies J to it in passing.

    Under guidance e is the error of the conditional estimate: guidance overshoots, and noise that made up for that
    would spoil the rest of x0. What is unknown stays guided, the less the nearer it is to known values, which are not:
    else the overshoot ends in a seam.

    Noisy values are followed as far as their noise fits into the next level's: DDNM+, arXiv 2212.00490, section 3.3.

    Several masks share what they both know by their weights. Samples within a mask's target are left alone.

    Args:
        masks: the latent masks.
        rate: step length lambda, in units of the noisy input's standard deviation.
        plan: says which levels are resampled.
        generators: of the noise of resampling, one per sample.

    Attributes:
        known: at the present level; None where no mask is active.
    """

    def __init__(self, masks: WeightedSum, rate: float, plan: Plan, generators: list[torch.Generator]):
        self.masks, self.rate, self.plan, self.generators = masks, rate, plan, generators
        self.known: Known | None = None

    def begin(self, denoise: Denoiser, x: Tensor, cur: Level) -> Tensor:
        """x (B, C, ..., H, W) at the start of a level: resampled where the plan has it."""
        self.guidance: Tensor | float = 0.0
        self.resampled = self.plan.do_resample(cur.i)
        return self.resample(denoise, x, cur, noise_like(x, self.generators)) if self.resampled else x

    def __call__(
        self, denoise: Denoiser, x: Tensor, x0: Tensor, cur: Level, info: LevelInfo
    ) -> tuple[Tensor, Tensor, LevelInfo]:
        """x with corrected noise, x0 with the known values, and what was done."""
        self.known = known = self.known_at(x0 - denoise.guidance, cur, self.plan.levels[cur.i + 1])
        if known is None:
            residual = torch.cat([info.residual, self.masks.no_residual(x0)])
            return x, x0, info._replace(residual=residual)
        x, x0 = self.correct(x, x0, known, denoise.guidance, cur)
        weights = known.weights.to(x0)
        self.guidance = fade(weights) * denoise.guidance
        x0 = x0 - ((1 - weights) * denoise.guidance - self.guidance)
        stop = info.stop
        if stop == "silent":
            targets = any(t.target for t in self.masks.terms)  # else the host does not wait for the device
            stop = "target" if targets and not self.masks.unsatisfied(known.residual) else "held"
        residual = torch.cat([info.residual, known.residual])
        return x, x0, info._replace(residual=residual, stop=stop, resampled=self.resampled)

    def keep(self, x_next: Tensor, x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
        """The next level's x, in which known values take no fresh noise, or what n has gained would be lost.

        Where weights are soft two noises are mixed, (1 - W) n' + W n, and the mixture is brought back to the noise
        level: its variance is W^2 + (1 - W)^2 + 2 W (1 - W) rho, rho being their correlation, which the sampler that
        made x_next decides.
        """
        if self.known is None:
            return x_next
        weights, clean = self.known.weights.to(x_next), nxt.scales.alpha * x0
        kept = ddim_step(x, x0, cur, nxt)
        kept = kept - (1 - (1 - self.known.in_y**2).sqrt()).to(kept) * (kept - clean)
        mixed, rho = torch.lerp(x_next, kept, weights), correlation(x_next - clean, kept - clean)
        variance = weights**2 + (1 - weights) ** 2 + 2 * weights * (1 - weights) * rho
        return mixed + (variance.rsqrt() - 1) * (mixed - clean)

    def x0_cond(self, x0: Tensor) -> Tensor:
        """x0, which has the known values, without what guidance added to what is unknown."""
        return x0 - self.guidance

    def known_at(self, x0_cond: Tensor, cur: Level, nxt: Level) -> Known | None:
        """What the active masks know, for x at `nxt`, and their violation at the conditional estimate."""
        residuals, active = [], []
        for term in self.masks.terms:
            if not term.active(cur.sigma):
                residuals.append(None)
                continue
            mask = term.constraint
            assert isinstance(mask, LatentMask)
            w, off = mask.weights_now(cur.sigma), mask.y - x0_cond
            residuals.append(masked_rms(w * off))
            share, in_y = (per_sample(t, off) for t in follow(mask.noise, nxt.scales, off))
            if term.target:
                w = w * per_sample(residuals[-1] > term.target, x0_cond)
            active.append((term.weight * w, w, mask.y - (1 - share) * off, in_y))
        if not active:
            return None
        parts, weights, y, in_y = zip(*active, strict=True)
        total = functools.reduce(torch.add, parts)

        def mean(values: tuple[Tensor, ...]) -> Tensor:
            return functools.reduce(torch.add, map(torch.mul, parts, values)) / torch.where(total > 0, total, 1.0)

        residual = by_term(residuals, x0_cond)
        return Known(functools.reduce(torch.maximum, weights), mean(y), mean(in_y), residual)

    def correct(
        self, x: Tensor, x0: Tensor, known: Known, guidance: Tensor | float, cur: Level
    ) -> tuple[Tensor, Tensor]:
        """x moved along e and x0 with the known values, (B, C, ..., H, W) both; per sample.

        Args:
            guidance: what guidance added to x0, of its shape, or 0.
        """
        off = known.weights * (known.y - x0)
        e = off + known.weights * guidance
        length = (self.rate / max_abs(e).clamp(min=1e-30)).clamp(max=GAIN / cur.scales.sigma_data)
        return x + length * cur.scales.nu * e, x0 + off

    def resample(self, denoise: Denoiser, x: Tensor, cur: Level, noise: Tensor) -> Tensor:
        """One call: x corrected, and what is unknown noised anew from x0, at the same noise level, W by W.

        Its noise was drawn at higher levels, before it could fit the known values. RePaint (arXiv 2201.09865, section
        4.2) does this by going back to a higher level; there, known values take fresh noise as well. x0 is the
        conditional estimate: guidance would add up.
        """
        alpha, s, _ = cur.scales
        x0 = denoise(x, cur.sigma)
        known = self.known_at(x0 - denoise.guidance, cur, cur)
        assert known is not None  # the plan resamples where a mask is active
        weights = known.weights.to(x)
        corrected, x0 = self.correct(x, x0, known, denoise.guidance, cur)
        x0 = x0 - (1 - weights) * denoise.guidance
        fresh = (1 - weights**2).sqrt()  # noise keeps its variance where weights are soft
        drawn = alpha * x0 + weights * (corrected - alpha * x0) + fresh * s * noise
        return torch.where(max_abs(weights) > 0, drawn, x)


def follow(noise: float | Tensor, nxt: Scales, like: Tensor) -> tuple[Tensor, Tensor]:
    """How far to follow values with noise sigma_y, and the share of the level's noise that is theirs then.

    Args:
        noise: sigma_y >= 0, a number, (1,) or (B,).
        nxt: the level that x is made for.
        like: gives dtype and device.

    Returns:
        Both in [0, 1], (1,) or (B,).
    """
    sigma_y = torch.as_tensor(noise, dtype=like.dtype, device=like.device).reshape(-1)
    ratio = sigma_y * nxt.alpha / max(nxt.s, 1e-30)
    return 1 / ratio.clamp(min=1), ratio.clamp(max=1)


def fade(weights: Tensor) -> Tensor:
    """Share of guidance in [0, 1] by the weights W of what is known, (B, C or 1, ..., h, w) in [0, 1] both.

    0 where W = 1, 1 from FADE cells away: for W of 0 and 1 min(1, d / FADE), d cells (Chebyshev) to the nearest known
    one. Continuous in W, never more than 1 - W.
    """
    planes = weights.reshape(-1, 1, *weights.shape[-2:])
    near = [F.max_pool2d(planes, 2 * k + 1, stride=1, padding=k) for k in range(FADE)]
    return 1 - (functools.reduce(torch.add, near) / FADE).reshape(weights.shape)


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Of two noises of each sample, shaped (B, 1, ...); 0 where one of them is 0."""
    products = [(p * q).flatten(1).sum(1) for p, q in ((a, b), (a, a), (b, b))]
    return per_sample(products[0] / (products[1] * products[2]).sqrt().clamp(min=1e-30), a)
