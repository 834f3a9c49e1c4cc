"""Laws of the second-order renoise step, against a Gaussian's exact flow and variance."""

import math
from dataclasses import replace

import analytic
import numpy as np
import pytest
import torch
from newton_pack.sampler import PRESETS, LatentMask, Scales, sample_constrained
from newton_pack.sampler.step import x0_midpoint
from test_laws import KNOWN, LEVELS, TRUTH
from test_laws import PRIOR as HALF_PRIOR
from test_replacement import HELD, run

PRIOR = analytic.Gaussian(torch.zeros(64), analytic.smooth_covariance())
VALUES, MODES = torch.linalg.eigh(PRIOR.cov)
NOTHING = LatentMask(torch.zeros(1, *analytic.SHAPE), torch.zeros(1, *analytic.SHAPE))  # is known: free sampling


def sampled(order, levels, batch=1, eta=1.0, prior=PRIOR):
    settings = replace(PRESETS["fast"], order=order, eta=eta, resample=False)
    x = analytic.start_noise(batch, 0, levels[0])
    return x, sample_constrained(prior.denoiser(), x, levels, NOTHING, settings, delta=0.005)


def error_of_the_flow(order, count):
    """Of the noise-free chain against x(sigma) = sqrt(v + sigma^2) / sqrt(v + sigma_0^2) x(sigma_0), mode by mode."""
    levels = np.geomspace(10, 0.1, count + 1).tolist()
    x, out = sampled(order, levels, eta=0.0)
    shrink = ((VALUES + levels[-1] ** 2) / (VALUES + levels[0] ** 2)).sqrt()
    exact = x.flatten(1).double() @ MODES * shrink
    return (out.flatten(1).double() @ MODES - exact).norm().item()


@pytest.mark.parametrize(("order", "least", "most"), [(1, 1.8, 2.2), (2, 3.4, 4.6)])
def test_half_the_step_leaves_a_half_of_the_error_or_a_quarter(order, least, most):
    ratio = error_of_the_flow(order, 40) / error_of_the_flow(order, 80)
    print(f"\norder {order}: the error falls by {ratio:.2f}")
    assert least < ratio < most


def test_second_order_keeps_the_variance_of_pictures():
    """Of the modes that are decided above the last noise level, .223."""
    large = VALUES > 0.5
    kept = {}
    for order in (1, 2):
        out = sampled(order, analytic.LEVELS, batch=4000)[1].flatten(1).double() @ MODES
        kept[order] = (out.var(0) / VALUES)[large].mean().item()
    print(f"\nshare of the variance in 20 levels, by order: {kept}")
    assert kept[1] < 0.85
    assert kept[2] == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("scales", [analytic.exploding, analytic.flow])
def test_an_estimate_linear_in_the_log_ratio_is_met_in_the_middle(scales):
    """At uneven levels; a step longer than the last one is not followed to its middle."""
    sigmas = [0.9, 0.7, 0.55, 0.1]
    before, here, near, far = map(scales, sigmas)
    lam = [math.log(a / s) for a, s, _ in (before, here, near, far)]
    slope, start = torch.randn(2, 1, 1, 8, 8, generator=torch.Generator().manual_seed(0)).unbind(0)
    x0, earlier = slope * lam[1] + start, slope * lam[0] + start
    assert lam[2] - lam[1] < lam[1] - lam[0] < lam[3] - lam[1]
    torch.testing.assert_close(x0_midpoint(x0, here, near, (earlier, before)), slope * (lam[1] + lam[2]) / 2 + start)
    torch.testing.assert_close(x0_midpoint(x0, here, far, (earlier, before)), x0 + (x0 - earlier) / 2)


@pytest.mark.parametrize("flow", [False, True])
def test_held_pictures_come_nearer_to_the_exact_posterior(flow):
    levels = [s / (1 + s) for s in LEVELS] if flow else LEVELS
    prior = analytic.Gaussian(HALF_PRIOR.mean, HALF_PRIOR.cov, analytic.flow if flow else analytic.exploding)
    mean, cov = prior.posterior(TRUTH.flatten(), KNOWN)
    noise = torch.randn(600, len(mean), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = mean + noise @ torch.linalg.cholesky(cov).T
    distance = {}
    for order in (1, 2):
        out = run(replace(HELD, order=order), 600, prior, levels=levels)[0]
        distance[order] = analytic.energy_distance(out.flatten(1)[:, ~KNOWN].double(), exact)
    print(f"\nenergy distance to the posterior, by order: {distance}")
    assert distance[2] < distance[1]


def test_where_there_is_no_step_before_or_no_middle_the_estimate_stays():
    x0, earlier = torch.ones(1, 1, 2, 2), torch.zeros(1, 1, 2, 2)
    here, there = Scales(0.5, 0.5), Scales(0.75, 0.25)
    assert torch.equal(x0_midpoint(x0, here, there, None), x0)
    assert torch.equal(x0_midpoint(x0, here, there, (earlier, here)), x0)  # simple repeats levels beyond 1000 steps
    assert torch.equal(x0_midpoint(x0, here, there, (earlier, Scales(0.0, 1.0))), x0)  # pure noise knows no picture
    assert torch.equal(x0_midpoint(x0, here, Scales(1.0, 0.0), (earlier, Scales(0.4, 0.6))), x0)
