"""The inexact Newton step and its settings."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from .constraint import Constraint, WeightedSum, Wish, wish_of
from .denoiser import Denoiser, Scales, max_abs, unit_max
from .hold import is_open, without_masks
from .jvp import forward_difference

# Rounding of the network, which the difference divides by delta, against curvature, which grows with it: in half
# precision about 5 sqrt(eps).
DELTA_BY_DTYPE = {torch.float32: 0.005, torch.float16: 0.15, torch.bfloat16: 0.4}


@dataclass(frozen=True)
class NewtonSettings:
    """How the constraint is enforced at each noise level.

    Attributes:
        iterations: K, Newton steps per noise level, >= 0.
        rate_first, rate_last: step length lambda of the first and last iteration, linear between them, in units
            of the noisy input's standard deviation.
        delta: relative size of the perturbation of the forward difference; None chooses by the network's dtype.
        eta: fresh noise of the renoise step, 0 (DDIM) to 1 (ancestral); None is the released schedule.
        order: of the renoise step, 1, or 2 for held masks alone (`midway`); no further call.
        hold: latent masks are held (`Hold`) instead of taking Newton steps: no call beyond the plain one a level.
        resample: what held masks alone leave open is drawn anew at every middle noise level (`Hold.resample`), at one
            call each.
        carry: move x0 together with x in a level's last step, instead of evaluating the denoiser again: 2 K calls a
            level.
        max_calls: most denoiser calls of a run; every level keeps its plain one. 0 is no limit.
        residual_target: samples whose residual is no larger take no further Newton step at that level. 0 is none.
        conditional_only: under classifier-free guidance let J e be that of the conditional branch, whose perturbation
            takes one network evaluation instead of two.
    """

    iterations: int = 1
    rate_first: float = 0.5
    rate_last: float = 0.5
    delta: float | None = None
    eta: float | None = 1.0
    carry: bool = True
    max_calls: int = 0
    residual_target: float = 0.0
    conditional_only: bool = False
    hold: bool = False
    resample: bool = False
    order: int = 1

    def rates(self) -> list[float]:
        """lambda_k, k = 0 ... K - 1."""
        span = max(self.iterations - 1, 1)
        return [self.rate_first + (self.rate_last - self.rate_first) * k / span for k in range(self.iterations)]

    def delta_for(self, dtype: torch.dtype) -> float:
        return DELTA_BY_DTYPE.get(dtype, 0.4) if self.delta is None else self.delta

    def cost(self, steps: int, levels: int) -> int:
        """Denoiser calls of Newton steps that lie evenly over noise levels, beyond the plain one of each level."""
        return 2 * steps - self.carry * min(steps, levels)

    def steps(self, calls: int, levels: int) -> int:
        """Newton steps over noise levels that so many calls pay for."""
        return min(calls, (calls + levels) // 2) if self.carry else calls // 2

    def spare(self, levels: int, other_calls: int = 0) -> int:
        """Calls for Newton steps that a run over `levels` noise levels can afford.

        Args:
            other_calls: what another sampler's own steps cost beyond one call a level.

        Raises:
            ValueError: `max_calls` does not even pay for sampling without a constraint.
        """
        wanted, plain = self.cost(levels * self.iterations, levels), levels + other_calls
        if not self.max_calls:
            return wanted
        if self.max_calls < plain:
            raise ValueError(
                f"max_calls: {self.max_calls} model calls do not suffice for {levels} noise levels, which take {plain} "
                f"even without corrections. Allow at least {plain} in Newton Settings, or sample in fewer steps."
            )
        return min(wanted, self.max_calls - plain)

    def calls(self, levels: int, other_calls: int = 0) -> int:
        """Denoiser calls of a run over `levels` noise levels; fewer where a residual target is reached.

        Without resampling, see `resamplings`.
        """
        return levels + other_calls + self.cost(self.steps(self.spare(levels, other_calls), levels), levels)

    def resamplings(self, scales: list[Scales], other_calls: int = 0) -> int:
        """Resamplings that a run over these noise levels can afford, for masks alone."""
        wanted = self.resample * sum(map(is_open, scales))
        return min(wanted, self.max_calls - self.calls(len(scales), other_calls)) if self.max_calls else wanted


def newton_part(constraint: Constraint, settings: NewtonSettings) -> tuple[Constraint, NewtonSettings]:
    """What takes Newton steps: all but held masks; and the settings, without steps where that is nothing.

    Resampling and second order are for held masks alone: what else is constrained has its own second call, and its
    steps are a part of x0 that must not be extrapolated.
    """
    part = without_masks(constraint) if settings.hold else constraint
    if part != WeightedSum(()):
        return part, replace(settings, resample=False, order=1)
    return part, replace(settings, iterations=0, resample=settings.resample and part != constraint)


class Steps(NamedTuple):
    """What was done at one noise level.

    Attributes:
        residual: of the estimate before the first step (B,); 0 where the constraint is silent.
        length: real length of the longest step, the factor lambda nu / max|J e| on J e (B,); 0 without a step.
        taken: number of Newton steps.
        stop: why not more: "iterations" (all K), "target", "budget", "silent" or "held" (masks alone, and held).
        resampled: whether what held masks leave open was drawn anew.
    """

    residual: Tensor
    length: Tensor
    taken: int
    stop: str
    resampled: bool = False

    def with_held(self, error: Tensor, resampled: bool) -> "Steps":
        """Told of known values, held without a step, that were off by `error` (B,)."""
        stop = "held" if self.stop == "silent" else self.stop
        return self._replace(residual=self.residual.maximum(error), stop=stop, resampled=resampled)


def newton_steps(
    denoise: Denoiser,
    x: Tensor,
    sigma: float,
    constraint: Constraint,
    settings: NewtonSettings,
    delta: float,
    iterations: int,
) -> tuple[Tensor, Tensor, Steps]:
    """Push x at one noise level towards the constraint (section 3.2): steps along J e, per sample.

    Args:
        iterations: most steps here, <= K; the budget's share of this level.

    Returns:
        The moved x, the estimate x0 that belongs to it, and what was done.
    """
    scales = denoise.scales(sigma)
    x0 = denoise(x, sigma)
    wish = wish_of(constraint, x0, sigma)
    length = x.new_zeros(len(x))
    if wish is None:
        return x, x0, Steps(length, length, 0, "silent")
    first = wish.residual
    for k, rate in enumerate(settings.rates()[:iterations]):
        if k:
            x0 = denoise(x, sigma)
            wish = wish_of(constraint, x0, sigma)
        if settings.residual_target:
            above = wish.residual > settings.residual_target
            if not above.any():  # the one place where the host waits for the device
                return x, x0, Steps(first, length, k, "target")
            wish = wish.only(above)
        e = wish.e
        je = forward_difference(denoise, x, sigma, x0, e, delta)  # J e * (delta nu / max|e|)
        length = torch.maximum(length, step_length(rate * scales.nu, je, e, delta * scales.nu))
        d = unit_max(je)  # J e / max|J e|
        x = x + rate * scales.nu * d
    if iterations:
        x0 = x0 + carried(rate * scales.data * d, wish) if settings.carry else denoise(x, sigma)
    return x, x0, Steps(first, length, iterations, "iterations" if iterations == settings.iterations else "budget")


def carried(step: Tensor, wish: Wish) -> Tensor:
    """What x0 takes of a step: the movement that the wish knows in full; what else e asks for, across it."""
    if wish.movement is None:
        return step
    m = wish.movement()
    if not wish.partial:
        return m
    along = (step * m).flatten(1).sum(1) / m.square().flatten(1).sum(1).clamp(min=1e-30)
    return step + (1 - along).reshape(-1, *(1,) * (step.ndim - 1)) * m


def step_length(step: float, je: Tensor, e: Tensor, perturbation: float) -> Tensor:
    """The factor on J e that moves x by `step` at its largest element, (B,); `je` is the forward difference."""
    largest = (max_abs(je) * max_abs(e)).flatten() / perturbation
    return torch.where(largest > 0, step / largest, 0.0)


FAST = NewtonSettings(hold=True, resample=True, order=2)
PRESETS = {
    "fast": FAST,
    "thorough": replace(FAST, iterations=3),
    "paper": NewtonSettings(iterations=5, rate_last=0.1, eta=None, carry=False),
}
