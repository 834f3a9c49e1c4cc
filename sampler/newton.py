"""The inexact Newton step. Graikos, Jojic, Samaras, arXiv 2410.18804, section 3.2."""

from typing import NamedTuple

import torch
from torch import Tensor

from .constraint import Update, WeightedSum
from .denoiser import Denoiser, Level, max_abs, per_sample, unit_max
from .jvp import forward_difference
from .settings import NewtonSettings


class LevelInfo(NamedTuple):
    """What was done at one noise level.

    Attributes:
        residual: of the estimate before the first step, of each term in its own unit, (T, B); NaN where inactive.
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


def newton_steps(
    denoise: Denoiser,
    x: Tensor,
    x0: Tensor,
    cur: Level,
    constraint: WeightedSum,
    settings: NewtonSettings,
    delta: float,
    iterations: int,
    last: bool = False,
) -> tuple[Tensor, Tensor, LevelInfo]:
    """Push x at one noise level towards the constraint: steps along J e, per sample.

    Args:
        x, x0: noisy input and its estimate x0 = denoise(x, sigma), (B, C, ..., H, W).
        delta: relative perturbation of the forward difference.
        iterations: most steps here, <= K. Where it is 0 for want of calls, x0 still takes the step that the constraint
            knows, without a call.
        last: the next noise level is 0, so that x0 is the result. It takes such a step once more, from where the first
            has led.

    Returns:
        The moved x, the estimate x0 that belongs to it, and what was done.
    """
    nu, sigma_data = cur.scales.nu, cur.scales.sigma_data
    length = x.new_zeros(len(x))
    if not constraint.active(cur.sigma):
        return x, x0, LevelInfo(constraint.no_residual(x0), length, 0, "silent")
    update = constraint.update(x0, cur.sigma)
    first = update.residual
    for k, rate in enumerate(settings.rates()[:iterations], start=1):
        # The one place where the host waits for the device.
        if settings.residual_target and not constraint.unsatisfied(update.residual):
            return x, x0, LevelInfo(first, length, k - 1, "target")
        je = forward_difference(denoise, x, cur.sigma, x0, update.e, delta)  # J e * (delta nu / max|e|)
        length = torch.maximum(length, step_length(rate * nu, je, update.e, delta * nu))
        d = unit_max(je)  # J e / max|J e|
        x = x + rate * nu * d  # x <- x + lambda nu J e / max|J e|
        if k == iterations and settings.carry:
            x0 = extrapolate_x0(x0, rate * sigma_data * d, update)
        else:
            x0 = denoise(x, cur.sigma)
        if k < iterations:
            update = constraint.update(x0, cur.sigma)
    if settings.carry and settings.iterations and update.x0_step:
        if not iterations:
            x0 = extrapolate_x0(x0, 0.0, update)
        if last:
            x0 = extrapolate_x0(x0, 0.0, constraint.update(x0, cur.sigma))
    stop = "iterations" if iterations == settings.iterations else "budget"
    return x, x0, LevelInfo(first, length, iterations, stop)


def extrapolate_x0(x0: Tensor, step: Tensor | float, update: Update) -> Tensor:
    """x0 after a step, without a call: the step that the update knows in full; what else e asks for, across it."""
    if update.x0_step is None:
        return x0 + step
    known = update.x0_step()
    if not update.incomplete:
        return x0 + known
    along = (step * known).flatten(1).sum(1) / known.square().flatten(1).sum(1).clamp(min=1e-30)
    return x0 + (step + per_sample(1 - along, known) * known)


def step_length(step: float, je: Tensor, e: Tensor, perturbation: float) -> Tensor:
    """The factor on J e that moves x by `step` at its largest element, (B,); `je` is the forward difference."""
    largest = (max_abs(je) * max_abs(e)).flatten() / perturbation
    return torch.where(largest > 0, step / largest, 0.0)
