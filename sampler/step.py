"""From x and its estimate x0 at one noise level to x at the next."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .denoiser import Level, Scales
from .noise import noise_like

if TYPE_CHECKING:
    from .replacement import Replacement

# Away from its own 20 levels the authors' schedule is close to this constant.
AUTHORS_ETA = 0.155


class Ancestral:
    """DDIM (eta = 0) to ancestral sampling (eta = 1), of first order, or of second where masks are active.

    Second order extrapolates the conditional estimate alone: guidance is large and unsteady.

    Args:
        generators: of the fresh noise, one per sample.
        eta: share of the ancestral noise; None is the authors' schedule.
        order: 1 or 2.
        levels: all noise levels of the run.
        replacement: of known values, if there is any.

    Attributes:
        previous: conditional estimate and scales of the level before.
    """

    def __init__(
        self,
        generators: list[torch.Generator],
        eta: float | None,
        order: int,
        levels: list[Level],
        replacement: "Replacement | None",
    ):
        self.generators, self.order, self.replacement = generators, order, replacement
        self.eta = AUTHORS_ETA if eta is None else eta
        self.authors = authors_sigma_up([level.sigma for level in levels]) if eta is None else {}
        self.previous: tuple[Tensor, Scales] | None = None

    def __call__(self, x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
        x0_cond = ahead = x0
        if self.replacement is not None and self.replacement.known is not None:
            x0_cond = self.replacement.x0_cond(x0)
            if self.order == 2:
                ahead = x0_midpoint(x0_cond, cur.scales, nxt.scales, self.previous) + (x0 - x0_cond)
        self.previous = x0_cond, cur.scales
        up = sigma_up(cur.scales, nxt.scales, self.eta)
        if cur.sigma > nxt.sigma > 0:
            up = self.authors.get(cur.sigma, up)
        return renoise(x, ahead, cur.scales, nxt.scales, up, noise_like(x, self.generators))


def sigma_up(cur: Scales, nxt: Scales, eta: float) -> float:
    """Standard deviation c of the fresh noise: eta = 1 is the ancestral (posterior) one, eta = 0 none.

    All of it is fresh where a warm restart goes up to a higher noise level.
    """
    if cur.s == 0 or nxt.alpha == 0:
        return eta * nxt.s
    kept = (nxt.s * cur.alpha) / (cur.s * nxt.alpha)
    if kept > 1:
        return nxt.s
    return eta * nxt.s * max(0.0, 1 - kept**2) ** 0.5


def renoise(x: Tensor, x0: Tensor, cur: Scales, nxt: Scales, up: float, noise: Tensor) -> Tensor:
    """x' = alpha' x0 + sqrt(s'^2 - c^2) n_hat + c n, with n_hat = (x - alpha x0) / s, the predicted noise; c = up."""
    predicted = (x - cur.alpha * x0) / cur.s
    return nxt.alpha * x0 + max(0.0, nxt.s**2 - up**2) ** 0.5 * predicted + up * noise


def ddim_step(x: Tensor, x0: Tensor, cur: Level, nxt: Level) -> Tensor:
    """The step without fresh noise. Song, Meng, Ermon, arXiv 2010.02502."""
    return renoise(x, x0, cur.scales, nxt.scales, 0.0, torch.zeros_like(x))


def log_ratio(scales: Scales) -> float:
    """log(alpha / s), half the log signal-to-noise ratio."""
    return math.log(scales.alpha / scales.s) if scales.alpha > 0 else -math.inf


def x0_midpoint(x0: Tensor, cur: Scales, nxt: Scales, previous: tuple[Tensor, Scales] | None) -> Tensor:
    """x0 (B, C, ..., H, W) in the middle of the step, extrapolated from x0 and scales of the level before.

    Linear in log(alpha / s), which makes `renoise` second order: DPM-Solver++(2M), arXiv 2211.01095, algorithm 2, and
    its stochastic form. At most as far as half the last step: where schedules end in one that is several times longer,
    more would overshoot with no level left to repair it.
    """
    if previous is None or nxt.s == 0:
        return x0
    earlier, scales = previous
    last = log_ratio(cur) - log_ratio(scales)
    if not last > 0:  # schedules of very many steps repeat levels
        return x0
    ratio = min((log_ratio(nxt) - log_ratio(cur)) / last, 1.0)
    return x0 + ratio / 2 * (x0 - earlier)


def authors_sigma_up(sigmas: list[float]) -> dict[float, float]:
    """c of the authors' code by noise level, in variance-exploding units; empty off its 20-level grid.

    Their scheduler adds the posterior variance of a single training step although it strides by 50:
    c^2 = beta_t (1 - abar_p) / (1 - abar_t) / abar_p with p = t - 50.
    """
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    t = torch.arange(1000, 0, -50)
    grid = ((1 - abar[t - 1]) / abar[t - 1]).sqrt()
    own = sorted(set(sigmas[:-1]), reverse=True)  # a warm restart comes to levels again
    levels = torch.tensor(own, dtype=torch.float64)
    if levels.shape != grid.shape or not torch.allclose(levels, grid, rtol=1e-3):
        return {}
    abar_p = abar[(t - 51).clamp(min=1)]
    return dict(zip(own, (betas[t - 1] * (1 - abar_p) / (1 - abar[t - 1]) / abar_p).sqrt().tolist(), strict=True))
