"""The inexact Newton step and its settings."""

from dataclasses import dataclass

import torch
from torch import Tensor

from .constraint import Constraint
from .denoiser import Denoiser, unit_max
from .jvp import forward_difference

# Smallest relative perturbation that survives rounding of the network's input.
DELTA_BY_DTYPE = {torch.float32: 0.005, torch.float16: 0.02, torch.bfloat16: 0.1}


@dataclass(frozen=True)
class NewtonSettings:
    """How the constraint is enforced at each noise level.

    Attributes:
        iterations: K, Newton steps per noise level, >= 0.
        rate_first, rate_last: step length lambda of the first and last iteration, linear between them, in units
            of the noisy input's standard deviation.
        delta: relative size of the perturbation of the forward difference; None chooses by the network's dtype.
        eta: fresh noise of the renoise step, 0 (DDIM) to 1 (ancestral); None is the released schedule.
        carry: move x0 together with x instead of evaluating the denoiser again: two calls a level for K = 1.
    """

    iterations: int = 1
    rate_first: float = 0.5
    rate_last: float = 0.5
    delta: float | None = None
    eta: float | None = 1.0
    carry: bool = True

    def rates(self) -> list[float]:
        """lambda_k, k = 0 ... K - 1."""
        span = max(self.iterations - 1, 1)
        return [self.rate_first + (self.rate_last - self.rate_first) * k / span for k in range(self.iterations)]

    def delta_for(self, dtype: torch.dtype) -> float:
        return DELTA_BY_DTYPE.get(dtype, 0.1) if self.delta is None else self.delta

    def calls(self, levels: int) -> int:
        """Denoiser calls of a run over `levels` noise levels."""
        return levels * (1 + self.iterations * (1 if self.carry else 2))


def newton_steps(
    denoise: Denoiser, x: Tensor, sigma: float, constraint: Constraint, settings: NewtonSettings, delta: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Push x at one noise level towards the constraint (section 3.2): K steps along J e, per sample.

    Returns:
        The moved x, the estimate x0 that belongs to it, and the rms of e before the first step (B,).
    """
    nu = denoise.scales(sigma).nu
    x0 = denoise(x, sigma)
    e = constraint.error(x0, sigma)
    residual = e.square().flatten(1).mean(1).sqrt()
    for k, rate in enumerate(settings.rates()):
        e = constraint.error(x0, sigma) if k else e
        d = unit_max(forward_difference(denoise, x, sigma, x0, e, delta))  # J e / max|J e|
        x = x + rate * nu * d
        x0 = x0 + rate * d if settings.carry else denoise(x, sigma)
    return x, x0, residual


PRESETS = {
    "fast": NewtonSettings(),
    "paper": NewtonSettings(iterations=5, rate_last=0.1, delta=0.005, eta=None, carry=False),
}
