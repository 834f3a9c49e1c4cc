"""Distilled models (LCM) in few steps: their own sampler, behind the doors, is the one to constrain.

Exact consistency function of a Gaussian: what distillation aims at. `-s` shows the figures.
"""

import itertools
from dataclasses import replace
from functools import cache

import analytic
import numpy as np
import pytest
import torch
from newton_pack.sampler import PRESETS, LatentMask, sample_constrained
from newton_pack.sampler.noise import noise_like, sample_generators
from test_laws import KNOWN, PRIOR, TRUTH, WEIGHTS

DISTILLED = analytic.Consistency(PRIOR.mean, PRIOR.cov)
HELD, COUNT = PRESETS["fast"], 1000


def levels(steps):
    """Evenly spaced over the training schedule, as ComfyUI's sgm_uniform has them for these models."""
    abar = torch.cumprod(1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2, 0)
    picked = abar[np.linspace(999, 0, steps + 1)[:-1].astype(int)]
    return [*((1 - picked) / picked).sqrt().tolist(), 0.0]


def drawn(steps, settings, own, weights=WEIGHTS):
    """Constrained by our renoise step, or along the model's own sampler, which noises x0 wholly anew."""
    sigmas, generators = levels(steps), sample_generators(77, range(COUNT))
    x = analytic.start_noise(COUNT, 5, sigmas[0])

    def lcm(i, x, x0):
        return x0 + sigmas[i + 1] * noise_like(x, generators)

    mask, denoise = LatentMask(TRUTH, weights), DISTILLED.denoiser()
    out = sample_constrained(denoise, x, sigmas, mask, settings, 0.005, step=lcm if own else None)
    return out.flatten(1).double()


def stock(steps):
    """Stock lcm under a noise mask: known values carry the noise that they were drawn with."""
    sigmas, generators = levels(steps), sample_generators(77, range(COUNT))
    x = analytic.start_noise(COUNT, 5, sigmas[0])
    noise = x / sigmas[0]
    for sigma, sigma_next in itertools.pairwise(sigmas):
        x0 = DISTILLED.x0(torch.lerp(x, TRUTH + sigma * noise, WEIGHTS), torch.tensor([sigma]))
        x = torch.lerp(x0, TRUTH, WEIGHTS) + sigma_next * noise_like(x, generators)
    return x.flatten(1).double()


@cache
def exact():
    mean, cov = PRIOR.posterior(TRUTH.flatten(), KNOWN)
    noise = torch.randn(COUNT, len(mean), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return mean + noise @ torch.linalg.cholesky(cov).T


@pytest.mark.parametrize("steps", [4, 8])
def test_only_their_own_noise_gives_pictures_the_right_variance(steps):
    nothing = torch.zeros_like(WEIGHTS)
    variance = {own: drawn(steps, HELD, own, nothing).var(0).mean().item() for own in (True, False)}
    print(f"\n{steps} steps, variance of free draws (1 is right), own noise or eta: {variance}")
    assert variance[True] == pytest.approx(1, abs=0.08)
    assert variance[False] > 1.2


@pytest.mark.parametrize("steps", [4, 8])
def test_held_masks_behind_the_door_come_nearer_to_the_posterior_than_stock(steps):
    found = {
        "held": drawn(steps, HELD, True),
        "without resampling": drawn(steps, replace(HELD, resample=False), True),
        "stock": stock(steps),
    }
    torch.testing.assert_close(found["held"][:, KNOWN], TRUTH.flatten()[KNOWN].double().expand(COUNT, -1))
    distance = {name: analytic.energy_distance(out[:, ~KNOWN], exact()) for name, out in found.items()}
    print(f"\n{steps} steps, energy distance to the posterior: {distance}")
    assert distance["held"] < distance["without resampling"] < distance["stock"]
