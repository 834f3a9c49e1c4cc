"""From the estimate x0 at one noise level to the noisy input of the next."""

import hashlib
import math

import torch
from torch import Tensor

from .denoiser import Scales

# Elsewhere than on its own 20 levels the released schedule is close to this constant.
RELEASED_ETA = 0.155


def mixed_seed(*parts: int) -> int:
    """A seed of 63 bits in which every part counts; torch's CPU generator sees only the lower 32 bits of one."""
    digest = hashlib.blake2b(",".join(map(str, parts)).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def sample_generators(seed: int, batch: int, offset: int = 0) -> list[torch.Generator]:
    """One CPU generator per sample, seeded by (seed, offset, sample index).

    The same noise on every device, and a batch of two equals two batches of one.
    """
    return [torch.Generator().manual_seed(mixed_seed(seed, offset, i)) for i in range(batch)]


def noise_like(x: Tensor, generators: list[torch.Generator]) -> Tensor:
    """Standard normal noise of the shape of `x` (B, ...), one generator per sample."""
    noise = torch.stack([torch.randn(x.shape[1:], generator=g) for g in generators])
    return noise.to(x, non_blocking=x.is_cuda)  # else the host would wait for the device here


def fresh_noise(here: Scales, there: Scales, eta: float) -> float:
    """Standard deviation c of the fresh noise: eta = 1 is the ancestral (posterior) one, eta = 0 none."""
    if here.s == 0 or there.alpha == 0:
        return eta * there.s
    kept = (there.s * here.alpha) / (here.s * there.alpha)
    return eta * there.s * max(0.0, 1 - kept**2) ** 0.5


def renoise(x: Tensor, x0: Tensor, here: Scales, there: Scales, c: float, noise: Tensor) -> Tensor:
    """x' = alpha' x0 + sqrt(s'^2 - c^2) n_hat + c n, where n_hat = (x - alpha x0) / s is the predicted noise."""
    predicted = (x - here.alpha * x0) / here.s
    return there.alpha * x0 + max(0.0, there.s**2 - c**2) ** 0.5 * predicted + c * noise


def log_ratio(scales: Scales) -> float:
    """log(alpha / s), half the log signal-to-noise ratio."""
    return math.log(scales.alpha / scales.s) if scales.alpha > 0 else -math.inf


def midway(x0: Tensor, here: Scales, there: Scales, before: tuple[Tensor, Scales] | None) -> Tensor:
    """x0 (B, C, ..., H, W) in the middle of the step, extrapolated from `before`, x0 and scales of the previous level.

    Linear in log(alpha / s), which makes `renoise` second order: DPM-Solver++(2M), arXiv 2211.01095, algorithm 2, and
    its stochastic form. At most as far as half the last step: where schedules end in one that is several times longer,
    more would overshoot with no level left to repair it.
    """
    if before is None or there.s == 0:
        return x0
    earlier, level = before
    last = log_ratio(here) - log_ratio(level)
    if not last > 0:  # schedules of very many steps repeat levels
        return x0
    ratio = min((log_ratio(there) - log_ratio(here)) / last, 1.0)
    return x0 + ratio / 2 * (x0 - earlier)


def released_noise(sigmas: list[float]) -> list[float] | None:
    """c of each step of the authors' code, in variance-exploding units, or None off its 20-level grid.

    Their scheduler adds the posterior variance of a single training step although it strides by 50:
    c^2 = beta_t (1 - abar_p) / (1 - abar_t) / abar_p with p = t - 50.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    t = torch.arange(1000, 0, -50)
    grid = ((1 - abar[t - 1]) / abar[t - 1]).sqrt()
    levels = torch.tensor(sigmas[:-1], dtype=torch.float64)
    if levels.shape != grid.shape or not torch.allclose(levels, grid, rtol=1e-3):
        return None
    abar_p = abar[(t - 51).clamp(min=1)]
    return (betas[t - 1] * (1 - abar_p) / (1 - abar[t - 1]) / abar_p).sqrt().tolist()
