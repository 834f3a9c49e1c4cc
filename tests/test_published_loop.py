"""The preset `paper` equals the published loop, written here in one straight line from the paper and its settings; a
level whose last step carries the estimate equals one written out likewise.

Coordinates, normalisation and noise are the paper's (variance preserving, network predicts eps); nothing of
`sampler/` is used but its result.
"""

import analytic
import torch
from newton_pack.sampler import PRESETS, LatentMask, NewtonSettings, sample_constrained
from newton_pack.sampler.noise import noise_like, sample_generators


def published_loop(eps_model, u, y, mask, noises):
    betas = torch.linspace(8.5e-4**0.5, 1.2e-2**0.5, 1000, dtype=torch.float64) ** 2
    abar = torch.cumprod(1 - betas, 0)
    for step, t in enumerate(range(1000, 0, -50)):
        a, a_previous, beta = abar[t - 1], abar[max(t - 51, 1)], betas[t - 1]

        def clean(v, a=a, t=t):
            return (v - (1 - a).sqrt() * eps_model(v, t)) / a.sqrt()

        for k in range(5):
            x0 = clean(u)
            e = mask * (y - x0)
            small = 0.005 / e.abs().max()
            push = (clean(u + small * e) - x0) / small
            lam = 0.5 + (0.1 - 0.5) * k / 4
            u = u + lam * push / push.abs().max()
        eps = eps_model(u, t)
        x0 = (u - (1 - a).sqrt() * eps) / a.sqrt()
        variance = beta * (1 - a_previous) / (1 - a)
        u = a_previous.sqrt() * x0 + (1 - a_previous - variance).sqrt() * eps + variance.sqrt() * noises[step]
    return x0


def test_paper_preset_is_the_published_loop():
    prior = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
    truth = prior.draw(1, seed=7).double()
    weights = analytic.half_mask()[0].double()
    levels = analytic.released_levels()
    abar = 1 / (1 + torch.tensor(levels[:-1], dtype=torch.float64) ** 2)
    x = analytic.start_noise(1, 3, levels[0]).double()

    def eps_model(u, t):
        a = abar[(1000 - t) // 50]
        sigma = ((1 - a) / a).sqrt()
        x = u / a.sqrt()
        return (x - prior.x0(x, sigma.reshape(1))) / sigma

    generators = sample_generators(0, [0])
    noises = [noise_like(x, generators) for _ in levels[:-1]]
    ours = sample_constrained(
        prior.denoiser(), x, levels, LatentMask(truth, weights), PRESETS["paper"], delta=0.005, seed=0
    )
    theirs = published_loop(eps_model, x * abar[0].sqrt(), truth, weights, noises)
    assert (ours - theirs).abs().max() < 1e-5
    # The comparison can fail: a different step schedule is far away.
    other = sample_constrained(prior.denoiser(), x, levels, LatentMask(truth, weights), PRESETS["fast"], 0.005, seed=0)
    assert (other - theirs).abs().max() > 1e-2


def iterated_loop(x0_model, x, levels, y, mask, noises, length):
    """K = 3, variance exploding: x0 is evaluated again between the steps of a level, and carried by the last."""
    for sigma, below, noise in zip(levels, levels[1:], noises, strict=False):
        nu = (1 + sigma**2) ** 0.5
        for _ in range(3):
            x0 = x0_model(x, sigma)
            e = mask * (y - x0)
            small = 0.005 * nu / e.abs().max()
            push = x0_model(x + small * e, sigma) - x0
            push = push / push.abs().max()
            x = x + length * nu * push
        x0 = x0 + length * push
        up = below * (1 - (below / sigma) ** 2) ** 0.5
        x = x0 + (below**2 - up**2) ** 0.5 * (x - x0) / sigma + up * noise
    return x


def test_steps_of_a_level_see_the_estimate_anew_and_the_last_carries_it():
    prior = analytic.Gaussian(torch.full((64,), 0.3), analytic.smooth_covariance())
    truth, weights = prior.draw(1, seed=7).double(), analytic.half_mask()[0].double()
    levels, generators = [*analytic.released_levels()[::3], 0.0], sample_generators(0, [0])
    x = analytic.start_noise(1, 3, levels[0]).double()
    noises = [noise_like(x, generators) for _ in levels[:-1]]
    denoise, mask = prior.denoiser(), LatentMask(truth, weights)
    ours = sample_constrained(denoise, x, levels, mask, NewtonSettings(3, 0.2, 0.2), delta=0.005, seed=0)
    assert denoise.calls == 6 * (len(levels) - 1)

    def x0_model(x, sigma):
        return prior.x0(x, torch.tensor([sigma], dtype=torch.float64))

    theirs = iterated_loop(x0_model, x, levels, truth, weights, noises, 0.2)
    assert (ours - theirs).abs().max() < 1e-5
    once = sample_constrained(prior.denoiser(), x, levels, mask, NewtonSettings(1, 0.2, 0.2), delta=0.005, seed=0)
    assert (once - theirs).abs().max() > 1e-2


def test_the_levels_are_those_of_the_design():
    ours = torch.tensor(analytic.released_levels())
    assert torch.allclose(ours, torch.tensor(analytic.LEVELS), atol=6e-4)
