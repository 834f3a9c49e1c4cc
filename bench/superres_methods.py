"""The rivals in super-resolution, each over the same Denoiser (see methods.py) and a constraint on pictures."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from entry import Entry
from methods import Chain, in_dtype
from pack import sampler
from torch import Tensor

NewtonSettings = sampler.NewtonSettings
PUBLISHED = NewtonSettings(iterations=10, rate_first=0.1, rate_last=0.1, eta=None, carry=False)
# The reconstructed variant without gradients takes larger steps; its guidance means nothing without a prompt.
PUBLISHED_VAE = NewtonSettings(iterations=10, eta=None, carry=False)


def newton(denoise, x, sigmas, constraint: sampler.Constraint, seed, settings: NewtonSettings) -> Tensor:
    """The sampler of the pack."""
    return sampler.sample_constrained(denoise, x, sigmas, constraint, settings, settings.delta, seed)


def newton_vae(denoise, x, sigmas, constraint: sampler.PixelConstraint, seed, settings: NewtonSettings) -> Tensor:
    """VAE-Newton: the encoder's difference is the direction too."""
    return newton(denoise, x, sigmas, replace(constraint, to_latent=constraint.to_x0, to_x0=None), seed, settings)


@torch.no_grad()
def free(denoise, x, sigmas, constraint, seed) -> Tensor:
    """Plain sampling, as the stock euler_ancestral does it."""
    chain = Chain(denoise, x, seed)
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x = chain.step(x, denoise(x, sigma), sigma, sigma_next)
    return x


def entries(dtype: torch.dtype = torch.float32) -> list[Entry]:
    """Everything that is compared, on a network of this precision."""
    presets = sampler.PRESETS["fast"], sampler.PRESETS["thorough"], PUBLISHED, PUBLISHED_VAE
    fast, thorough, gradient, vae = (in_dtype(s, dtype) for s in presets)

    def within(calls: int) -> Callable[..., Tensor]:
        return partial(newton, settings=replace(fast, max_calls=calls))

    return [
        Entry("bicubic", "", None, closed=False),
        Entry("backprojection", "", None),
        Entry("img2img", "", free, 40, strength=0.5),
        Entry("published", "gradient", partial(newton, settings=gradient), 20, backward_per_level=10),
        Entry("published", "vae", partial(newton_vae, settings=vae), 20),
        Entry("ours", "gradient", partial(newton, settings=fast), 20, backward_per_level=1),
        Entry("ours", "fast", partial(newton, settings=fast), 20),
        Entry("ours", "fast_10", partial(newton, settings=fast), 10, strength=0.6),
        Entry("ours", "fast_6", partial(newton, settings=fast), 6, strength=0.6),
        Entry("ours", "fast_12_20_calls", within(20), 12, strength=0.6),
        Entry("ours", "fast_20_20_calls", within(20), 20),
        Entry("ours", "thorough", partial(newton, settings=thorough), 6, strength=0.6),
        Entry("ours", "thorough_gradient", partial(newton, settings=thorough), 6, backward_per_level=3, strength=0.6),
        Entry("ours", "fast_8_12_calls", within(12), 8, strength=0.6, trial=True),
        Entry("ours", "fast_restart", partial(newton, settings=replace(fast, restarts=1)), 20, trial=True),
    ]


def enlarge(target: Any, entry: Entry, spec: Any, upscaled: Tensor, seeds: list[int]) -> tuple[Tensor, int]:
    """Pictures (B, 3, H, W) before any closing projection, and the calls.

    Args:
        spec: the pack's PixelSpec.
        upscaled: the given pictures enlarged by bicubic interpolation.
    """
    if entry.run is None:
        return upscaled, 0
    direction = "decoder gradient" if entry.backward_per_level else "forward only"
    spec = replace(spec, direction=direction)
    with torch.no_grad():
        start = target.vae.encode(upscaled.movedim(1, -1))

    def run(denoise, x, sigmas, space) -> Tensor:
        return entry.run(denoise, x, sigmas, spec.bind(space), seeds[0])

    out, calls = target.sample(run, *target.beginning(entry.levels, entry.strength, start), seeds)
    with torch.no_grad():
        return target.vae.decode(out).clamp(0, 1).movedim(-1, 1), calls
