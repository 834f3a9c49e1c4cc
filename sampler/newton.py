"""The inexact Newton step. Graikos, Jojic, Samaras, arXiv 2410.18804, section 3.2."""

from typing import NamedTuple

import torch
from torch import Tensor

from .constraint import Constraint, Wish, wish_of
from .denoiser import Denoiser, Level, max_abs, unit_max
from .jvp import forward_difference
from .settings import NewtonSettings


class Steps(NamedTuple):
    """What was done at one noise level.

    Attributes:
        residual: of the estimate before the first step (B,); 0 where the constraint is silent.
        length: real length of the longest step, the factor lambda nu / max|J e| on J e (B,); 0 without a step.
        taken: number of Newton steps.
        stop: why not more: "iterations" (all K), "target", "budget", "silent" or "held" (masks alone, replaced).
        resampled: whether what masks leave unknown was drawn anew.
    """

    residual: Tensor
    length: Tensor
    taken: int
    stop: str
    resampled: bool = False

    def with_held(self, error: Tensor, resampled: bool) -> "Steps":
        """Told of known values, replaced without a step, that were off by `error` (B,)."""
        stop = "held" if self.stop == "silent" else self.stop
        return self._replace(residual=self.residual.maximum(error), stop=stop, resampled=resampled)


def newton_steps(
    denoise: Denoiser,
    x: Tensor,
    x0: Tensor,
    cur: Level,
    constraint: Constraint,
    settings: NewtonSettings,
    delta: float,
    iterations: int,
) -> tuple[Tensor, Tensor, Steps]:
    """Push x at one noise level towards the constraint: steps along J e, per sample.

    Args:
        x, x0: noisy input and its estimate x0 = denoise(x, sigma), (B, C, ..., H, W).
        delta: relative perturbation of the forward difference.
        iterations: most steps here, <= K.

    Returns:
        The moved x, the estimate x0 that belongs to it, and what was done.
    """
    nu, sigma_data = cur.scales.nu, cur.scales.data
    wish = wish_of(constraint, x0, cur.sigma)
    length = x.new_zeros(len(x))
    if wish is None:
        return x, x0, Steps(length, length, 0, "silent")
    first = wish.residual
    for k, rate in enumerate(settings.rates()[:iterations]):
        if k:
            x0 = denoise(x, cur.sigma)
            wish = wish_of(constraint, x0, cur.sigma)
        if settings.residual_target:
            above = wish.residual > settings.residual_target
            if not above.any():  # the one place where the host waits for the device
                return x, x0, Steps(first, length, k, "target")
            wish = wish.only(above)
        e = wish.e
        je = forward_difference(denoise, x, cur.sigma, x0, e, delta)  # J e * (delta nu / max|e|)
        length = torch.maximum(length, step_length(rate * nu, je, e, delta * nu))
        d = unit_max(je)  # J e / max|J e|
        x = x + rate * nu * d
    if iterations:
        x0 = x0 + extrapolated(rate * sigma_data * d, wish) if settings.carry else denoise(x, cur.sigma)
    return x, x0, Steps(first, length, iterations, "iterations" if iterations == settings.iterations else "budget")


def extrapolated(step: Tensor, wish: Wish) -> Tensor:
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
