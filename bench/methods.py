"""The rivals, one loop each over the same Denoiser: y is the known picture, mask 1 where known, (B, C, H, W).

Every method gives x0 at the end of `sigmas`, which ends in 0, and draws its noise from one generator per sample.
"""

import itertools
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from entry import Entry
from pack import noise, sampler, step
from torch import Tensor

Denoiser, NewtonSettings, unit_max = sampler.Denoiser, sampler.NewtonSettings, sampler.denoiser.unit_max
Method = Callable[..., Tensor]
PUBLISHED_ETA1 = NewtonSettings(iterations=5, rate_last=0.1, eta=1.0, carry=False)


class Chain:
    """Noise of a run and its ancestral step between levels."""

    def __init__(self, denoise: Denoiser, like: Tensor, seed: int):
        self.denoise, self.like = denoise, like
        self.generators = noise.sample_generators(seed, range(len(like)))

    def noise(self) -> Tensor:
        return noise.noise_like(self.like, self.generators)

    def step(self, x: Tensor, x0: Tensor, sigma: float, sigma_next: float, c: float | None = None) -> Tensor:
        """With fresh noise of deviation c; None: that of ancestral sampling."""
        here, there = self.denoise.scales(sigma), self.denoise.scales(sigma_next)
        c = step.sigma_up(here, there, 1.0) if c is None else c
        return step.renoise(x, x0, here, there, c, self.noise())


@torch.no_grad()
def ours(denoise, x, sigmas, y, mask, seed, settings: NewtonSettings) -> Tensor:
    """The sampler of the pack."""
    constraint = sampler.LatentMask(y, mask)
    return sampler.sample_constrained(denoise, x, sigmas, constraint, settings, settings.delta, seed)


@torch.no_grad()
def replacement(denoise, x, sigmas, y, mask, seed, order: int = 1, released: bool = False) -> Tensor:
    """The stock way: at every call the known cells are y with noise of the level, and x0 has y there."""
    chain, before = Chain(denoise, x, seed), None
    fixed = chain.noise()
    noises = as_published(denoise, sigmas) if released else [None] * (len(sigmas) - 1)
    for (sigma, sigma_next), c in zip(itertools.pairwise(sigmas), noises, strict=True):
        here, there = denoise.scales(sigma), denoise.scales(sigma_next)
        x = torch.lerp(x, here.alpha * y + here.s * fixed, mask)
        x0 = torch.lerp(denoise(x, sigma), y, mask)
        ahead = step.x0_midpoint(x0, here, there, before) if order == 2 else x0
        x, before = chain.step(x, ahead, sigma, sigma_next, c), (x0, here)
    return x


def as_published(denoise: Denoiser, sigmas: list[float]) -> list[float]:
    """Fresh noise c of each step of the released loop; elsewhere than on its own levels its constant eta."""
    scales = [denoise.scales(sigma) for sigma in sigmas]
    c = [step.sigma_up(*pair, step.AUTHORS_ETA) for pair in itertools.pairwise(scales)]
    return [*(list(step.authors_sigma_up(sigmas).values()) or c)[:-1], c[-1]]


@torch.no_grad()
def repaint(denoise, x, sigmas, y, mask, seed, rounds: int = 2) -> Tensor:
    """Resampling in the manner of RePaint: each step is taken, noised back and taken again, `rounds` times in all."""
    chain = Chain(denoise, x, seed)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        here, there = denoise.scales(sigma), denoise.scales(sigma_next)
        for i in range(rounds):
            x = torch.lerp(x, here.alpha * y + here.s * chain.noise(), mask)
            x_next = chain.step(x, denoise(x, sigma), sigma, sigma_next)
            if there.s == 0 or i == rounds - 1:
                break
            kept = here.alpha / there.alpha
            x = kept * x_next + max(0.0, here.s**2 - (kept * there.s) ** 2) ** 0.5 * chain.noise()
        x = x_next
    return torch.lerp(x, y, mask)


DING_DEVIATION = 0.01  # of what is known, in the units of x0, as released


def ding_noise(there: sampler.Scales) -> float:
    """Fresh noise c of a step as released: s' (1 - alpha'), alpha' that of variance-preserving scales or a flow's."""
    return there.s * (1 - (there.alpha if there.alpha < 1 else (1 + there.s**2) ** -0.5))


@torch.no_grad()
def ding(denoise, x, sigmas, y, mask, seed, delayed: bool = False) -> Tensor:
    """DING, arXiv 2512.18365, as released: a Gaussian product of the step and of y with the noise predicted at a draw.

    delayed: the noise is predicted at x itself, which saves the second call of a level. The released loop leaves out
    the last two levels, for they have no noise in its precision; here they have.
    """
    chain, still = Chain(denoise, x, seed), torch.zeros_like(x)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        here, there = denoise.scales(sigma), denoise.scales(sigma_next)
        x0 = denoise(x, sigma)
        if there.s == 0:
            x = x0
            break
        c = ding_noise(there)
        mean = step.renoise(x, x0, here, there, c, still)
        if delayed:
            predicted = (x - here.alpha * x0) / here.s
        else:
            probe = mean + c * chain.noise()
            predicted = (probe - there.alpha * denoise(probe, sigma_next)) / there.s
        known = mask / (DING_DEVIATION * there.alpha) ** 2
        precision = known + c**-2
        x = (known * (there.alpha * y + there.s * predicted) + mean * c**-2) / precision
        x = x + chain.noise() / precision.sqrt()
    return torch.lerp(x, y, mask)


def gradient(denoise, x, sigmas, y, mask, seed, rate: float = 0.5) -> Tensor:
    """The same step along the gradient J^T e, by backpropagation through the denoiser, in place of J e."""
    chain = Chain(denoise, x, seed)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            x0 = denoise(x, sigma)
            e = (mask * (y - x0)).detach()
            d = unit_max(torch.autograd.grad((x0 * e).sum(), x)[0])
        x0 = x0.detach() + rate * d
        x = chain.step(x.detach() + rate * denoise.scales(sigma).nu * d, x0, sigma, sigma_next)
    return x


def in_dtype(settings: NewtonSettings, dtype: torch.dtype) -> NewtonSettings:
    """With the perturbation that a network of this precision needs."""
    return replace(settings, delta=settings.delta_for(dtype))


def trials(dtype: torch.dtype) -> list[Entry]:
    """Presets with a warm restart: they run where they are named."""

    def restarted(method: str, preset: str, settings: NewtonSettings, calls: float) -> Entry:
        again = in_dtype(replace(settings, restarts=1), dtype)
        return Entry(method, f"{preset}_restart", partial(ours, settings=again), 0, 1.5 * calls, trial=True)

    return [
        restarted("ours", "fast", sampler.PRESETS["fast"], 1.2),
        restarted("ours", "newton", NewtonSettings(), 2),
        restarted("published", "paper", sampler.PRESETS["paper"], 11),
    ]


def entries(dtype: torch.dtype = torch.float32) -> list[Entry]:
    """Everything that is compared; `replacement_equal_calls` gets the calls of `fast`, and so does `held`."""

    def newton(
        method: str, preset: str, settings: NewtonSettings, calls: float, levels: int = 0, strength: float = 1.0
    ) -> Entry:
        run = partial(ours, settings=in_dtype(settings, dtype))
        return Entry(method, preset, run, levels, calls, strength=strength)

    fast, newton_steps, paper = sampler.PRESETS["fast"], NewtonSettings(), sampler.PRESETS["paper"]
    reevaluated = NewtonSettings(carry=False)
    return [
        newton("ours", "fast", fast, 1.2),
        newton("ours", "fast_12", fast, 1.2, levels=12),
        newton("ours", "fast_12_from_filled", fast, 1.2, levels=12, strength=0.8),
        newton("ours", "fast_8_from_filled", fast, 1.2, levels=8, strength=0.8),
        newton("ours", "held", replace(fast, resample=False), 1, levels=24),
        newton("ours", "newton", newton_steps, newton_steps.calls_per_level()),
        newton("ours", "K1", reevaluated, reevaluated.calls_per_level()),
        newton("published", "paper", paper, paper.calls_per_level()),
        newton("published_eta1", "", PUBLISHED_ETA1, PUBLISHED_ETA1.calls_per_level()),
        Entry("replacement", "", replacement, 0, 1),
        Entry("replacement_equal_calls", "", replacement, 24, 1),
        Entry("replacement_from_filled", "", replacement, 15, 1, strength=0.8),
        Entry("replacement_order2", "", partial(replacement, order=2), 24, 1),
        Entry("replacement_released", "", partial(replacement, released=True), 0, 1),
        Entry("replacement_220", "", replacement, 220, 1),
        Entry("gradient", "", gradient, 0, 1, backward_per_level=1),
        Entry("ding", "", ding, 0, 2),
        Entry("ding", "delayed", partial(ding, delayed=True), 24, 1),
        Entry("repaint", "", repaint, 0, 2),
        *trials(dtype),
        *([Entry("lanpaint", "", None, 0, 0)] if "LANPAINT_PATH" in os.environ else []),
    ]
