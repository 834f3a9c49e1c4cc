"""The method: sampling under a constraint by inexact Newton steps. Graikos et al., arXiv 2410.18804, Algorithm 1."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .constraint import Constraint
from .denoiser import Denoiser, unit_max
from .jvp import forward_difference
from .newton import NewtonSettings
from .renoise import RELEASED_ETA, fresh_noise, noise_like, released_noise, renoise, sample_generators


@torch.no_grad()
def sample_constrained(
    denoise: Denoiser,
    x: Tensor,
    sigmas: list[float],
    constraint: Constraint | None,
    settings: NewtonSettings,
    delta: float,
    seed: int = 0,
    callback: Callable[[dict[str, Any]], None] | None = None,
) -> Tensor:
    """Sample from noise level sigmas[0] down to sigmas[-1]; calls: levels * (1 + 2 K), with carry levels * (1 + K).

    Args:
        x: noisy start (B, C, ..., H, W) at sigmas[0].
        sigmas: L + 1 decreasing noise levels, usually ending in 0.
        constraint: None samples freely.
        delta: relative perturbation of the forward difference.
        seed: of the fresh noise; sample b of a batch depends on (seed, b) only.
        callback: called once a level with `i`, `x`, `sigma`, `denoised` (x0 after the steps) and `residual`
            (rms of e before them, a tensor per sample).
    """
    generators = sample_generators(seed, x.shape[0])
    released = released_noise(sigmas) if settings.eta is None else None
    for i, (sigma, sigma_next) in enumerate(zip(sigmas, sigmas[1:], strict=False)):
        scales, scales_next = denoise.scales(sigma), denoise.scales(sigma_next)
        x0 = denoise(x, sigma)
        residual = None
        for rate in settings.rates() if constraint is not None else ():
            e = constraint.error(x0)
            residual = rms(e) if residual is None else residual
            d = unit_max(forward_difference(denoise, x, sigma, x0, e, delta))  # J e / max|J e|
            x = x + rate * scales.nu * d
            x0 = x0 + rate * d if settings.carry else denoise(x, sigma)
        if callback is not None:
            callback({"i": i, "x": x, "sigma": sigma, "denoised": x0, "residual": residual})
        eta = RELEASED_ETA if settings.eta is None else settings.eta
        c = released[i] if released and scales_next.s > 0 else fresh_noise(scales, scales_next, eta)
        x = renoise(x, x0, scales, scales_next, c, noise_like(x, generators))
    return x


def rms(t: Tensor) -> Tensor:
    """Root mean square of each sample, (B,)."""
    return t.square().flatten(1).mean(1).sqrt()
