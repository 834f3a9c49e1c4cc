"""The method: sampling under a constraint by inexact Newton steps. Graikos et al., arXiv 2410.18804, Algorithm 1."""

import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from .budget import share
from .constraint import Constraint, residual
from .denoiser import Denoiser
from .hold import Hold, is_open, stepped, unguided
from .newton import NewtonSettings, newton_part, newton_steps
from .renoise import RELEASED_ETA, fresh_noise, midway, noise_like, released_noise, renoise, sample_generators


@torch.no_grad()
def sample_constrained(
    denoise: Denoiser,
    x: Tensor,
    sigmas: list[float],
    constraint: Constraint,
    settings: NewtonSettings,
    delta: float,
    seed: int = 0,
    advance: Callable[[int, Tensor, Tensor], Tensor] | None = None,
    advance_calls: int = 0,
    callback: Callable[[dict[str, Any]], None] = lambda info: None,
) -> Tensor:
    """Sample from noise level sigmas[0] down to sigmas[-1]; calls: levels * (1 + 2 K), with carry levels * 2 K.

    Where the settings hold latent masks, K counts for the other constraints only, and resampling adds its calls.

    No value is read off the device between the levels, unless the settings have a residual target.

    Args:
        x: noisy start (B, C, ..., H, W) at sigmas[0].
        sigmas: L + 1 decreasing noise levels, usually ending in 0.
        delta: relative perturbation of the forward difference.
        seed: of the fresh noise; sample b of a batch depends on (seed, b) only.
        advance: step of another sampler, from (i, x, x0) at sigmas[i] to x at sigmas[i + 1], in place of the
            renoise step.
        advance_calls: model calls that `advance` makes in the whole run.
        callback: called once a level with `i`, `x`, `sigma`, `denoised` (x0 after the steps) and `steps` (what was
            done, a `Steps`).

    Raises:
        ValueError: the settings' `max_calls` is less than the run takes without corrections.
    """
    generators = sample_generators(seed, x.shape[0])
    released = released_noise(sigmas) if settings.eta is None else None
    eta = RELEASED_ETA if settings.eta is None else settings.eta
    scales = [denoise.scales(sigma) for sigma in sigmas]
    others, settings = newton_part(constraint, settings)
    hold = Hold(constraint, settings.rate_first) if settings.hold else None
    left = settings.spare(len(sigmas) - 1, advance_calls)
    resamplings = settings.resamplings(scales[:-1], advance_calls)
    before = None
    for i, (here, there) in enumerate(itertools.pairwise(scales)):
        known = hold and hold.known(sigmas[i])
        again = bool(known) and is_open(here) and share(resamplings, 1, list(filter(is_open, scales[i:-1]))) > 0
        if again:
            resamplings -= 1
            x = hold.resample(denoise, x, sigmas[i], known, noise_like(x, generators))
        remaining, spent = scales[i:-1], denoise.calls + 1
        iterations = share(settings.steps(left, len(remaining)), settings.iterations, remaining)
        x, x0, steps = newton_steps(denoise, x, sigmas[i], others, settings, delta, iterations)
        left -= denoise.calls - spent
        own = x0  # what second order extrapolates: not guidance, which is large and unsteady
        if known:
            x, x0, e = hold.correct(x, x0, denoise.guidance, known, here)
            own = unguided(x0, denoise.guidance, known)
            steps = steps.with_held(residual(e), again)
        callback({"i": i, "x": x, "sigma": sigmas[i], "denoised": x0, "steps": steps})
        if advance is not None:
            x_next = advance(i, x, x0)
        else:
            c = released[i] if released and there.s > 0 else fresh_noise(here, there, eta)
            ahead = midway(own, here, there, before) + (x0 - own) if known and settings.order == 2 else x0
            x_next = renoise(x, ahead, here, there, c, noise_like(x, generators))
        x = torch.lerp(x_next, stepped(x, x0, here, there), known[0].to(x_next)) if known else x_next
        before = own, here
    return x
